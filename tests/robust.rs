//! Two properties of the parsers, over seeded random inputs (the same in every run):
//! whatever the bytes, records are valid one-line JSON; and whatever an outsider puts
//! into an address, a message-id or a reply, the fields that sendmail alone writes are
//! read as it wrote them, or the line is refused. Never are they read otherwise.

use greypit::collect::maillog::postfix;
use greypit::collect::maillog::wire::{self as maillog, Parsed};
use greypit::collect::record::{Peer, Recorder};
use greypit::collect::syslog::frame::{Splitter, Step};
use greypit::collect::syslog::time::parse_zone;
use std::fs;
use std::path::Path;

/// xorshift64*: enough for tests, and no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

fn golden_lines() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut lines = Vec::new();
    for folder in ["sendmail", "postfix", "syslog"] {
        for entry in fs::read_dir(root.join(folder)).expect("the folder of golden files") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|e| e == "log") {
                let log = fs::read(path).expect("a readable log");
                lines.extend(log.split(|c| *c == b'\n').map(<[u8]>::to_vec));
            }
        }
    }
    lines.sort();
    lines
}

fn mutate(line: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const PIECES: [&[u8]; 12] = [
        b", stat=",
        b", delay=00:00:00, pri=1",
        b"<",
        b">",
        b"\"",
        b"\\",
        b"[",
        b"\xff",
        b"\0",
        b", relay=",
        b" ",
        b":",
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(line.len() + 1);
        match random.below(6) {
            0 => line.truncate(at),
            1 if at < line.len() => line[at] = random.next() as u8,
            2 => drop(line.splice(at..at, random.pick(&PIECES).iter().copied())),
            3 => {
                let end = at + random.below(line.len() + 1 - at);
                line.drain(at..end);
            }
            4 => {
                let from = random.below(other.len() + 1);
                line.splice(at..at, other[from..].iter().copied());
            }
            _ if at < line.len() => line[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

#[test]
fn any_bytes_make_valid_records() {
    let lines = golden_lines();
    let received = "2026-11-20T13:00:00Z".parse().expect("a valid time");
    let zone = parse_zone("Europe/Berlin").expect("a known zone");
    let mut recorder = Recorder::new(zone, "default.test");
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..60_000 {
        let mut line = lines[random.below(lines.len())].clone();
        let other = &lines[random.below(lines.len())];
        mutate(&mut line, other, &mut random);
        let mut seen = 0;
        let outcome = recorder.to_records(&line, received, Peer::Text("a \"peer\""), &mut |kind, body| {
            seen += 1;
            let text = String::from_utf8_lossy(&line);
            let v: serde_json::Value = serde_json::from_slice(body).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(!body.contains(&b'\n'), "{text}");
            assert_eq!(v["kind"], kind, "{text}");
            let ts = v["ts"].as_str().unwrap_or_default();
            assert!(ts.parse::<jiff::Timestamp>().is_ok(), "{ts}: {text}");
            if std::str::from_utf8(&line).is_err() && v.get("raw_base64").is_none() {
                // Only what the transport left behind may go.
                let end = line.iter().rposition(|c| !matches!(c, b'\n' | b'\r' | 0)).map_or(0, |i| i + 1);
                assert!(std::str::from_utf8(&line[..end]).is_ok(), "{text}");
            }
        });
        assert_eq!(outcome.records, seen);
    }
}

#[test]
fn any_stream_is_split_in_full_and_alike() {
    let mut random = Random(7);
    for _ in 0..20_000 {
        let mut stream = Vec::new();
        for _ in 0..random.below(6) {
            match random.below(4) {
                0 => stream.extend_from_slice(b"<13>line\n"),
                1 => stream.extend_from_slice(b"9 <13>count"),
                2 => stream.extend((0..random.below(50)).map(|_| b'x')),
                _ => stream.push(random.next() as u8),
            }
        }
        let whole = split(&stream, usize::MAX);
        let pieces = split(&stream, 1 + random.below(7));
        assert_eq!(whole, pieces, "{}", stream.escape_ascii());
    }
}

/// The frames of a stream that arrives in reads of `read` bytes.
fn split(stream: &[u8], read: usize) -> Vec<(Vec<u8>, bool)> {
    let mut splitter = Splitter::new(32);
    let mut frames = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let eof = end == stream.len();
        let buf = &stream[start..end];
        assert!(
            eof || buf.len() <= splitter.buffer_bytes().saturating_add(read),
            "more is wanted than the buffer holds"
        );
        match splitter.next(buf, eof) {
            Step::Message { consumed, frame, truncated } => {
                frames.push((buf[frame].to_vec(), truncated));
                start += consumed;
            }
            Step::Skipped { consumed } => {
                assert!(consumed > 0);
                start += consumed;
            }
            Step::Need if eof => return frames,
            Step::Need => end = end.saturating_add(read).min(stream.len()),
            Step::Broken { .. } => return frames,
        }
    }
}

/// What outsiders would write.
const HOSTILE: [&str; 22] = [
    "a",
    "bob",
    "@",
    "example.com",
    ", stat=Sent",
    ", relay=evil [6.6.6.6]",
    ", size=9, class=9, nrcpts=9",
    ", msgid=<evil>",
    ", proto=EVIL",
    ", daemon=EVIL",
    ", tls_verify=OK",
    ", auth=PLAIN",
    ", delay=09:09:09, xdelay=09:09:09, mailer=evil, pri=9",
    ", delay=09:09:09",
    ", pri=9",
    ", dsn=9.9.9",
    ", reply=evil",
    ", ctladdr=<evil> (0/0)",
    ",",
    " ",
    "\\",
    "\u{1}",
];

/// Text that keeps addresses balanced in no way.
fn text(random: &mut Random, bytes_max: usize) -> String {
    let mut s = String::new();
    while random.below(8) != 0 {
        let more = random.pick(&HOSTILE);
        if s.len() + more.len() > bytes_max {
            break;
        }
        s.push_str(more);
        if random.below(6) == 0 {
            s.push_str(random.pick(&["<", ">", "\"", "(", ")", "]", "["]));
        }
    }
    s
}

/// An address that `prescan` accepts: the local part quoted, with anything in it.
fn address(random: &mut Random) -> String {
    if random.below(3) == 0 {
        return random.pick(&["<a@example.com>", "<>", "root", "<b+c@example.com>"]).to_owned();
    }
    let mut quoted = text(random, 220).replace('"', "\\\"");
    if quoted.bytes().rev().take_while(|c| *c == b'\\').count() % 2 == 1 {
        quoted.push('\\');
    }
    // A backslash in front of our escaped quote would free it.
    let quoted = quoted.replace("\\\\\"", "\\\"");
    let comment = match random.below(3) {
        0 => format!("({})", text(random, 40).replace(['(', ')', '\\'], "\"")),
        _ => String::new(),
    };
    format!("<\"{quoted}\"{comment}@example.com>")
}

/// `str2prt()`
fn printable(s: &str) -> String {
    let mut out = String::new();
    for b in s.bytes() {
        match b {
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(b as char),
            _ => out.push_str(&format!("\\{b:03o}")),
        }
    }
    out
}

fn cut(s: &str, bytes_max: usize) -> &str {
    &s[..s.len().min(bytes_max)]
}

/// `shortenstring()`
fn shorten(s: &str, m: usize) -> String {
    if s.len() < m {
        return s.to_owned();
    }
    let half = (m.min(203) - 3) / 2;
    format!("{}...{}", &s[..half], &s[s.len() - half..])
}

#[test]
fn from_lines_cannot_be_forged() {
    let mut random = Random(42);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..50_000 {
        let src = address(&mut random);
        let msgid = text(&mut random, 300);
        let mut line = format!("from={}, size=11, class=0, nrcpts=22", cut(&src, 200));
        if random.below(4) != 0 {
            line.push_str(&format!(", msgid={}", cut(&msgid, 100)));
        }
        let more = random.below(2) == 0;
        line.push_str(", proto=ESMTP, daemon=MTA");
        if more {
            line.push_str(", tls_verify=NO, auth=NONE");
        }
        let line = format!("5AKCt1Aa000001: {}, relay=real.example [192.0.2.1]", printable(&line));
        match maillog::parse(line.as_bytes()) {
            Parsed::From(from) => {
                read += 1;
                assert_eq!(from.size, b"11", "{line}");
                assert_eq!((from.class, from.nrcpts), (&b"0"[..], &b"22"[..]), "{line}");
                assert_eq!(from.relay.host, b"real.example", "{line}");
                assert_eq!(from.relay.ip, Some(&b"192.0.2.1"[..]), "{line}");
                assert_eq!((from.proto, from.daemon), (Some(&b"ESMTP"[..]), Some(&b"MTA"[..])), "{line}");
                assert_eq!(from.auth, more.then_some(&b"NONE"[..]), "{line}");
                assert_eq!(from.tls_verify, more.then_some(&b"NO"[..]), "{line}");
            }
            Parsed::Broken(_) => refused += 1,
            Parsed::To(_) | Parsed::Other => panic!("not a from line: {line}"),
        }
    }
    assert!(read > 100 * refused, "{refused} of {read} refused");
}

/// What outsiders would write to a server that runs Postfix.
const HOSTILE_POSTFIX: [&str; 16] = [
    "a",
    "bob@example.com",
    "@",
    ">, size=9, nrcpt=9 (queue active)",
    ", size=9, nrcpt=9 (queue active)",
    ">, orig_to=<evil@x",
    ">, relay=evil[6.6.6.6]:25",
    ", conn_use=9",
    ", delay=9, delays=9/9/9/9, dsn=9.9.9, status=sent (250 evil)",
    ">, relay=evil[6.6.6.6]:25, delay=9, status=sent (",
    ", delay=9",
    ", dsn=9.9.9, status=sent (",
    "host evil said: 250 evil (in reply to X)",
    ")",
    " ",
    "\\",
];

/// Anything, in the quoted form in which Postfix logs it or in none.
fn postfix_address(random: &mut Random, quoted: bool) -> String {
    let mut s = String::new();
    while random.below(6) != 0 && s.len() < 400 {
        s.push_str(random.pick(&HOSTILE_POSTFIX));
        if random.below(8) == 0 {
            s.push_str(random.pick(&["<", ">", "\"", "(", ",", "ü"]));
        }
    }
    if !quoted {
        return s;
    }
    format!("\"{}\"@example.com", s.replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn postfix_lines_cannot_be_forged() {
    let mut random = Random(44);
    let (mut read, mut refused) = (0, 0);
    for round in 0..100_000 {
        // Releases before 3.5 quote nothing: there, only what is in the addresses may be wrong.
        let quoted = round % 2 == 0;
        let src = postfix_address(&mut random, quoted);
        let line = format!("6F5802325F1: from=<{src}>, size=11, nrcpt=22 (queue active)");
        match postfix::parse(b"qmgr", line.as_bytes()) {
            postfix::Parsed::From(from) => {
                read += 1;
                assert_eq!((from.src, from.size, from.nrcpts), (src.as_bytes(), &b"11"[..], &b"22"[..]), "{line}");
            }
            postfix::Parsed::Broken(_) => refused += u32::from(quoted),
            other => panic!("{other:?}: {line}"),
        }
        let dest = postfix_address(&mut random, quoted);
        let orig_to = (random.below(3) == 0).then(|| postfix_address(&mut random, quoted));
        let orig = orig_to.as_ref().map(|o| format!(", orig_to=<{o}>")).unwrap_or_default();
        let said = postfix_address(&mut random, false);
        let stat = format!("bounced (host real.example[192.0.2.1] said: 550 {said} (in reply to RCPT TO command))");
        let whole = format!(
            "6F5802325F1: to=<{dest}>{orig}, relay=real.example[192.0.2.1]:25, delay=11, delays=1/2/3/4, dsn=5.1.1, status={stat}"
        );
        // Any transport may cut a line.
        let end = if random.below(4) == 0 { random.below(whole.len()) } else { whole.len() };
        let line = &whole.as_bytes()[..end];
        match postfix::parse(b"smtp", line) {
            postfix::Parsed::To(to) if quoted || end == whole.len() => {
                read += 1;
                assert_eq!((to.relay.host, to.relay.ip), (&b"real.example"[..], Some(&b"192.0.2.1"[..])), "{whole}");
                assert_eq!((to.delay, to.dsn), (&b"11"[..], Some(&b"5.1.1"[..])), "{whole}");
                assert!(stat.as_bytes().starts_with(to.stat), "{whole}");
                if quoted {
                    assert_eq!(
                        (to.dest, to.orig_to),
                        (dest.as_bytes(), orig_to.as_ref().map(String::as_bytes)),
                        "{whole}"
                    );
                }
            }
            postfix::Parsed::To(_) | postfix::Parsed::Broken(_) | postfix::Parsed::Other => {}
            other => panic!("{other:?}: {whole}"),
        }
    }
    assert_eq!(refused, 0, "quoted senders are always read");
    assert!(read > 60_000, "{read}");
}

#[test]
fn to_lines_cannot_be_forged() {
    let mut random = Random(43);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..50_000 {
        let list: Vec<String> = (0..=random.below(4)).map(|_| address(&mut random)).collect();
        let ctladdr = (random.below(4) == 0).then(|| format!("{} (8/8)", shorten(&address(&mut random), 83)));
        let (dsn, stat, reply) = match random.below(3) {
            0 => ("2.0.0", format!("Sent ({})", text(&mut random, 300)), String::new()),
            1 => {
                let text = text(&mut random, 300);
                let reply = format!(", reply=450 4.2.0 {}", shorten(&text, 203));
                ("4.2.0", format!("Deferred: 450 4.2.0 {text}"), reply)
            }
            _ => {
                let reply = format!(", reply=550 5.1.1 {}", shorten(&text(&mut random, 300), 203));
                ("5.1.1", "User unknown".to_owned(), reply)
            }
        };
        let behind = format!(
            "{}{}, delay=00:00:11, xdelay=00:00:22, mailer=esmtp, pri=33, \
             relay=real.example. [192.0.2.1], dsn={dsn}{reply}, stat={}",
            if ctladdr.is_some() { ", ctladdr=" } else { "" },
            ctladdr.as_deref().unwrap_or_default(),
            shorten(&stat, 203)
        );
        let ctladdr = ctladdr.map(|c| printable(&c));
        for part in parts(&list.join(","), &behind) {
            let line = format!("5AKCt1Aa000001: {}", printable(&part));
            match maillog::parse(line.as_bytes()) {
                Parsed::To(to) => {
                    read += 1;
                    assert_eq!((to.delay, to.xdelay), (&b"00:00:11"[..], &b"00:00:22"[..]), "{line}");
                    assert_eq!((to.mailer, to.pri), (Some(&b"esmtp"[..]), &b"33"[..]), "{line}");
                    assert_eq!(to.relay.host, b"real.example.", "{line}");
                    assert_eq!(to.relay.ip, Some(&b"192.0.2.1"[..]), "{line}");
                    assert_eq!(to.dsn, Some(dsn.as_bytes()), "{line}");
                    assert_eq!(to.stat, printable(&shorten(&stat, 203)).as_bytes(), "{line}");
                    assert_eq!(to.reply.is_some(), !reply.is_empty(), "{line}");
                    assert_eq!(to.ctladdr, ctladdr.as_deref().map(str::as_bytes), "{line}");
                }
                Parsed::Broken(_) => refused += 1,
                Parsed::From(_) | Parsed::Other => panic!("not a to line: {line}"),
            }
        }
    }
    // Hostile lines are refused more often than any log's, but not as a rule.
    assert!(read * 4 > refused, "{refused} of {read} refused");
}

/// How `logdelivery()` splits a list that is too long, even inside an address.
fn parts(list: &str, behind: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let room = (1024_usize - 100).saturating_sub(behind.len());
    let mut left = list;
    while left.len() >= room {
        match left.as_bytes()[1..=room.min(left.len() - 1)].iter().rposition(|c| *c == b',') {
            Some(i) => {
                parts.push(format!("to={} [more]{behind}", &left[..i + 2]));
                left = &left[i + 2..];
            }
            None => break,
        }
    }
    parts.push(format!("to={}{behind}", cut(left, room)));
    parts
}
