//! One case a rule of the module doc; the shapes of whole lines are golden files.

use super::*;

const ANCHOR: &str = "delay=0.06, delays=0.05/0.01/0/0, dsn=2.0.0, status=sent";

fn to_line(rest: &str) -> Result<ToLine<'_>, Broken> {
    to(b"6F5802325F1", rest.strip_prefix("to=<").expect("a to line").as_bytes())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn programs_are_known_by_their_last_name() {
    for (app, instance, daemon) in [
        ("postfix/smtp", "postfix", "smtp"),
        ("postfix-out/smtp", "postfix-out", "smtp"),
        ("postfix/relay/smtp", "postfix", "smtp"),
        ("mta/submission/smtpd", "mta", "smtpd"),
    ] {
        assert_eq!(program(app.as_bytes()).map(|p| (text(p.instance), text(p.daemon))), Some((instance, daemon)));
    }
    for other in ["postfix", "smtp", "/smtp", "postfix/", "postfix/anvil", "dovecot/lda", "postfix/smtpx"] {
        assert_eq!(program(other.as_bytes()), None, "{other}");
    }
}

#[test]
fn queue_ids() {
    let id = |line: &'static str| queue_id(line.as_bytes()).map(|(id, rest)| (text(id), text(rest)));
    assert_eq!(id("6F5802325F1: x"), Some(("6F5802325F1", "x")));
    assert_eq!(id("ABCDEF: x"), Some(("ABCDEF", "x")));
    assert_eq!(id("4b7QxL2vTgz9rWX: x"), Some(("4b7QxL2vTgz9rWX", "x")));
    for other in ["warning: x", "NOQUEUE: x", "1A2: x", "6F5802325F1:x", "statistics: x", "fatal: x", ""] {
        assert_eq!(id(other), None, "{other}");
    }
}

#[test]
fn only_the_right_program_says_it() {
    let of = |daemon: &str, line: &'static str| parse(daemon.as_bytes(), line.as_bytes());
    let from = "6F5802325F1: from=<a@b>, size=1, nrcpt=1 (queue active)";
    assert!(matches!(of("qmgr", from), Parsed::From(_)));
    assert_eq!(of("smtpd", from), Parsed::Other);
    let client = "6F5802325F1: client=h.example[192.0.2.1]:4711, sasl_method=PLAIN, sasl_username=joe";
    let Parsed::Client { relay, auth, .. } = of("smtpd", client) else { panic!("a client") };
    assert_eq!((relay.host, relay.ip, auth), (&b"h.example"[..], Some(&b"192.0.2.1"[..]), Some(&b"PLAIN"[..])));
    assert_eq!(of("cleanup", client), Parsed::Other);
    assert_eq!(of("smtp", "6F5802325F1: message-id=<x>"), Parsed::Other);
    let msgid = of("cleanup", "6F5802325F1: message-id=<a>, from=<b>, size=1");
    assert_eq!(msgid, Parsed::MessageId { id: b"6F5802325F1", msgid: b"a>, from=<b>, size=1" });
    assert_eq!(of("qmgr", "6F5802325F1: removed"), Parsed::Removed { id: b"6F5802325F1" });
    assert_eq!(of("qmgr", "6F5802325F1: from=<a@b>, status=expired, returned to sender"), Parsed::Other);
}

#[test]
fn relays() {
    for (name, host, ip) in [
        ("mx.example[192.0.2.1]:25", "mx.example", Some("192.0.2.1")),
        ("mx.example[2001:db8::1]:25", "mx.example", Some("2001:db8::1")),
        ("mx.example[192.0.2.1]", "mx.example", Some("192.0.2.1")),
        ("mx.example[private/dovecot-lmtp]", "mx.example", None),
        ("unknown[unknown]", "unknown", None),
        ("none", "none", None),
        ("local", "local", None),
    ] {
        let line = format!("to=<a@b>, relay={name}, {ANCHOR} (ok)");
        let relay = to_line(&line).expect("a to line").relay;
        assert_eq!((text(relay.host), relay.ip.map(text)), (host, ip));
    }
    for name in ["", "a b", "a[192.0.2.1]x", "a[192.0.2.1"] {
        let line = format!("to=<a@b>, relay={name}, {ANCHOR} (ok)");
        assert_eq!(to_line(&line), Err(Broken::Value), "{name}");
    }
}

#[test]
fn fields_come_and_go_with_the_release() {
    for (fields, delays, dsn) in [
        ("delay=2, status=sent (x)", None, None),
        ("conn_use=3, delay=2, delays=1/2/3/4, dsn=2.0.0, status=sent (x)", Some("1/2/3/4"), Some("2.0.0")),
        ("delay=2, delays=1/2/3/4, tls=!sts/(dane), dsn=2.0.0, status=sent (x)", Some("1/2/3/4"), Some("2.0.0")),
    ] {
        let line = format!("to=<a@b>, relay=none, {fields}");
        let read = to_line(&line).expect("a to line");
        assert_eq!((read.delays.map(text), read.dsn.map(text), text(read.stat)), (delays, dsn, "sent (x)"));
    }
    for fields in ["delay=x, status=sent (x)", "delay=2, status=sent", "delay=2, delays=1, status=sent (x)", "x"] {
        let line = format!("to=<a@b>, relay=none, {fields}");
        assert_eq!(to_line(&line), Err(Broken::Truncated), "{fields}");
    }
    let line = format!("to=<a@b>, relay=none, x=y, {ANCHOR} (x)");
    assert_eq!(to_line(&line), Err(Broken::Value));
}

#[test]
fn an_address_ends_at_its_bracket() {
    for (address, orig_to) in [
        ("a@b", None),
        ("", None),
        ("\"a>, relay=x\"@b", None),
        ("\"a\\\">, relay=x\"@b", None),
        ("\"x>, orig_to=<y\"@b", None),
        ("a@b", Some("\"c, d\"@e")),
        ("jörg@b", Some("root")),
    ] {
        let orig = orig_to.map(|o| format!(", orig_to=<{o}>")).unwrap_or_default();
        let line = format!("to=<{address}>{orig}, relay=none, {ANCHOR} (ok)");
        let read = to_line(&line).expect("a to line");
        assert_eq!((text(read.dest), read.orig_to.map(text)), (address, orig_to));
    }
    for bad in ["\"a@b>", "a>b@c>", "a@b> x"] {
        let line = format!("to=<{bad}, relay=none, {ANCHOR} (ok)");
        assert_eq!(to_line(&line), Err(Broken::Unbalanced), "{bad}");
    }
}

#[test]
fn two_anchors_are_refused() {
    let fields = format!("relay=none, {ANCHOR} (ok)");
    for line in [
        format!("to=<\"a>, {fields}\"@b>, {fields}"),
        format!("to=<a>, {fields}@b>, {fields}"),
        format!("to=<a@b>, relay=none, {ANCHOR} (host x said: {fields})"),
    ] {
        assert_eq!(to_line(&line), Err(Broken::Ambiguous), "{line}");
    }
}

#[test]
fn a_line_that_may_be_cut_is_refused() {
    for (address, expected) in [(1800, true), (1950, false)] {
        let fill = "x".repeat(address);
        let to = format!("6F5802325F1: to=<a>, relay=evil[192.0.2.6]:25, {ANCHOR} ({fill})");
        assert_eq!(matches!(parse(b"smtp", to.as_bytes()), Parsed::To(_)), expected);
        let from = format!("6F5802325F1: from=<{fill}>, size=1, nrcpt=1 (queue active)");
        assert_eq!(matches!(parse(b"qmgr", from.as_bytes()), Parsed::From(_)), expected);
        let msgid = format!("6F5802325F1: message-id={fill}{fill}");
        assert_eq!(parse(b"cleanup", msgid.as_bytes()), Parsed::Other);
    }
    let cut = parse(b"qmgr", b"6F5802325F1: from=<a@b>, size=12, nr");
    assert_eq!(cut, Parsed::Broken(Broken::Truncated));
}

#[test]
fn a_sender_brings_no_fields_of_its_own() {
    for src in ["a@b", "", "\"a>, size=9, nrcpt=9 (queue active)\"@b", "\"a,b c\"@d", "é@b"] {
        let line = format!("{src}>, size=1, nrcpt=2 (queue active)");
        let read = from(b"1", line.as_bytes()).expect("a from line");
        assert_eq!((text(read.src), text(read.size), text(read.nrcpts)), (src, "1", "2"));
    }
    // As releases before 3.5 log it.
    let line = b"a>, size=9, nrcpt=9 (queue active)@b>, size=1, nrcpt=2 (queue active)";
    assert_eq!(from(b"1", line), Err(Broken::Unbalanced));
}

#[test]
fn replies() {
    let of = |stat: &'static str| reply(stat.as_bytes()).map(text);
    assert_eq!(
        of("bounced (host mx[192.0.2.1] said: 550 5.1.1 <a>: (no) (in reply to RCPT TO command))"),
        Some("550 5.1.1 <a>: (no)")
    );
    assert_eq!(of("deferred (host mx[192.0.2.1] refused to talk to me: 421 busy)"), Some("421 busy"));
    for other in ["sent (250 host x said: y)", "bounced (unknown user: \"x\")", "sent (", "sent"] {
        assert_eq!(of(other), None, "{other}");
    }
}
