//! Golden files: each `tests/golden/*/NAME.log` holds lines as servers write them, and
//! `NAME.ndjson` the records that they make. `UPDATE_GOLDEN=1` rewrites the latter; read
//! the difference before it is committed. `NAME.tcp` is a stream of frames instead, as it
//! comes over TCP. (`simulate/` is for that command's own tests.)

use greypit::collect::record::{Peer, Recorder};
use greypit::collect::syslog::frame::{Splitter, Step};
use greypit::collect::syslog::time::parse_zone;
use std::fs;
use std::path::{Path, PathBuf};

/// The records of a log received at one fixed moment, in UTC.
fn records(path: &Path) -> Vec<u8> {
    let log = fs::read(path).expect("a readable log");
    let framed = path.extension().is_some_and(|e| e == "tcp");
    let messages = if framed { frames(&log) } else { log.split_inclusive(|c| *c == b'\n').collect() };
    let received = "2026-11-20T13:00:00.5Z".parse().expect("a valid time");
    let mut recorder = Recorder::new(parse_zone("UTC").expect("UTC is known"), "default.test");
    let mut out = Vec::new();
    for message in messages {
        recorder.to_records(message, received, Peer::None, &mut |_, body| {
            out.extend_from_slice(body);
            out.push(b'\n');
        });
    }
    out
}

fn frames(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut splitter = Splitter::new(4096);
    let mut frames = Vec::new();
    loop {
        match splitter.next(stream, true) {
            Step::Message { consumed, frame, .. } => {
                frames.push(&stream[frame]);
                stream = &stream[consumed..];
            }
            Step::Skipped { consumed } => stream = &stream[consumed..],
            Step::Need => return frames,
            Step::Broken { error, .. } => panic!("{error}"),
        }
    }
}

fn logs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found = Vec::new();
    for folder in ["sendmail", "postfix", "syslog"] {
        for entry in fs::read_dir(root.join(folder)).expect("the folder of golden files") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|e| e == "log" || e == "tcp") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn logs_make_the_expected_records() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for log in logs() {
        let expected = log.with_extension("ndjson");
        let got = records(&log);
        if update {
            fs::write(&expected, &got).expect("a writable golden file");
            continue;
        }
        let want = fs::read(&expected).unwrap_or_default();
        if want == got {
            continue;
        }
        let (want, got) = (String::from_utf8_lossy(&want), String::from_utf8_lossy(&got));
        let line = want.lines().zip(got.lines()).take_while(|(a, b)| a == b).count();
        wrong.push(format!(
            "{}:{}\n  want {}\n  got  {}",
            expected.display(),
            line + 1,
            want.lines().nth(line).unwrap_or("nothing"),
            got.lines().nth(line).unwrap_or("nothing"),
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_record_is_one_line_of_json() {
    for log in logs() {
        let out = records(&log);
        for line in out.split(|c| *c == b'\n').filter(|l| !l.is_empty()) {
            let v: serde_json::Value = serde_json::from_slice(line)
                .unwrap_or_else(|e| panic!("{}: {e}: {}", log.display(), String::from_utf8_lossy(line)));
            assert!(v["kind"].is_string() && v["ts"].is_string());
        }
    }
}

/// Each word of a line is in some field of its record, or the raw message is.
#[test]
fn nothing_is_lost_without_the_raw_message() {
    // What names a field, or says what its name does.
    const SAID: [&str; 8] = ["Message", "forwarded", "from", "Original", "Address", "ID", "security", "error"];
    let is_word = |c: char| c.is_alphanumeric();
    let mut lost = Vec::new();
    for log in logs().iter().filter(|p| p.parent().is_some_and(|p| p.ends_with("syslog"))) {
        if log.extension().is_some_and(|e| e == "tcp") {
            continue;
        }
        let lines = fs::read(log).expect("a readable log");
        let records = records(log);
        for (line, record) in lines.split(|c| *c == b'\n').zip(records.split(|c| *c == b'\n')) {
            let record: serde_json::Value = match serde_json::from_slice(record) {
                Ok(record) => record,
                Err(_) => continue,
            };
            if record.get("raw").is_some() || record["kind"] != "syslog" {
                continue;
            }
            let line = String::from_utf8_lossy(line);
            let body = line.trim_start_matches('\u{FEFF}').split_once('>').filter(|_| line.starts_with('<'));
            let body = body.map_or(&*line, |(_, body)| body.strip_prefix("1 ").unwrap_or(body));
            let kept = record.to_string();
            let kept: Vec<&str> = kept.split(|c| !is_word(c)).collect();
            let gone = |w: &&str| !w.is_empty() && !SAID.contains(w) && !kept.iter().any(|k| k.ends_with(*w));
            let gone: Vec<&str> = body.split(|c| !is_word(c)).filter(gone).collect();
            if !gone.is_empty() {
                lost.push(format!("{gone:?} of {line}\n  {record}"));
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}
