//! Golden files: each `tests/golden/*/NAME.log` holds lines as servers write them, and
//! `NAME.ndjson` the records that they make. `UPDATE_GOLDEN=1` rewrites the latter; read
//! the difference before it is committed. (`simulate/` is for that command's own tests.)

use greypit::collect::record::{Peer, Recorder};
use greypit::collect::syslog::time::parse_zone;
use std::fs;
use std::path::{Path, PathBuf};

/// The records of a log received at one fixed moment, in UTC.
fn records(log: &[u8]) -> Vec<u8> {
    let received = "2026-11-20T13:00:00.5Z".parse().expect("a valid time");
    let mut recorder = Recorder::new(parse_zone("UTC").expect("UTC is known"), "default.test");
    let mut out = Vec::new();
    for line in log.split_inclusive(|c| *c == b'\n') {
        recorder.to_records(line, received, Peer::None, &mut |_, body| {
            out.extend_from_slice(body);
            out.push(b'\n');
        });
    }
    out
}

fn logs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found = Vec::new();
    for folder in ["sendmail", "postfix", "syslog"] {
        for entry in fs::read_dir(root.join(folder)).expect("the folder of golden files") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|e| e == "log") {
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
        let got = records(&fs::read(&log).expect("a readable log"));
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
        let out = records(&fs::read(&log).expect("a readable log"));
        for line in out.split(|c| *c == b'\n').filter(|l| !l.is_empty()) {
            let v: serde_json::Value = serde_json::from_slice(line)
                .unwrap_or_else(|e| panic!("{}: {e}: {}", log.display(), String::from_utf8_lossy(line)));
            assert!(v["kind"].is_string() && v["ts"].is_string());
        }
    }
}
