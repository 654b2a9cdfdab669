//! The milter as a mail server sees it: scripts of its protocol in `tests/milter/*.case` against the real daemon on a
//! unix socket. `tests/milter/README.md` is about the language; `CASE=name cargo test --test milter` plays some of them.

#[path = "milter/runner/conn.rs"]
mod conn;
#[path = "milter/runner/faults.rs"]
mod faults;
#[path = "milter/runner/matrix.rs"]
mod matrix;
#[path = "milter/runner/packet.rs"]
mod packet;
#[path = "milter/runner/play.rs"]
mod play;
#[path = "milter/runner/script.rs"]
mod script;
#[path = "real/support/mod.rs"]
mod support;
#[path = "milter/runner/words.rs"]
mod words;

use conn::Cut;
use script::Script;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Each case is played once for each of these.
const CUTS: [Cut; 4] = [Cut::AsWritten, Cut::Bytes, Cut::Together, Cut::Anyhow(0x9e37_79b9_7f4a_7c15)];
/// Cases that are played at the same time.
const THREADS: usize = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/milter")
}

/// Name and text of every case, of those whose name holds `$CASE`.
fn cases() -> Vec<(String, String)> {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("tests/milter") {
        let path = entry.expect("tests/milter").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        if name.ends_with(".case") && name.contains(&wanted) {
            cases.push((name, std::fs::read_to_string(&path).expect("a case is text")));
        }
    }
    cases.sort();
    cases
}

#[test]
fn cases_hold_however_their_bytes_are_cut() {
    let cases = cases();
    assert!(!cases.is_empty(), "no case of this name");
    let mut failures = Vec::new();
    let mut scripts = Vec::new();
    for (name, text) in &cases {
        match Script::parse(text) {
            Ok(script) => scripts.push((name, script)),
            Err((line, problem)) => failures.push(format!("tests/milter/{name}:{line}: {problem}")),
        }
    }
    let plays: Vec<_> = scripts.iter().flat_map(|(name, script)| CUTS.map(|cut| (*name, script, cut))).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((name, script, cut)) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err((line, problem)) = play_caught(script, *cut) {
                        let failure = format!("tests/milter/{name}:{line} ({}): {problem}", cut.name());
                        failed.lock().expect("no panic above").push(failure);
                    }
                }
            });
        }
    });
    failures.extend(failed.into_inner().expect("no panic above"));
    failures.sort();
    assert!(failures.is_empty(), "{} of {} plays failed\n{}", failures.len(), plays.len(), failures.join("\n"));
    eprintln!("{} cases, {} plays", scripts.len(), plays.len());
}

/// A part that panics has failed the case, and no other.
fn play_caught(script: &Script, cut: Cut) -> Result<(), play::Failed> {
    std::panic::catch_unwind(|| play::play(script, cut)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err((0, format!("panicked: {}", text.unwrap_or_default())))
    })
}

#[test]
fn every_command_at_every_stage() {
    let text = std::fs::read_to_string(folder().join("matrix.txt")).expect("tests/milter/matrix.txt");
    let failures = matrix::check(&text);
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn without_descriptors_mail_goes_on() {
    faults::out_of_descriptors();
}

#[test]
fn with_a_full_spool_mail_goes_on() {
    faults::full_spool();
}

#[test]
fn a_broken_case_is_an_error_with_its_line() {
    for (text, line) in [
        ("> QUIT\n", 1),
        ("# Nothing\n", 1),
        ("# A\n> QIUT\n", 2),
        ("# A\n> MAIL \"<a@b>\n", 2),
        ("# A\n\nrepeat 3\n> QUIT\n", 3),
        ("# A\n> QUIT\nend\n", 3),
        ("# A\n> QUIT\nconfig limit = 3\n", 3),
        ("# A\n< OPTNEG 6 with NOBODDY\n", 2),
        ("# A\n> OPTNEG 6 steps=NOBODDY\n", 2),
        ("# A\n> QUIT\nrecord {\"kind\"}\n", 3),
        ("# A\n> QUIT\nrecord {}\n> QUIT\n", 4),
        ("# A\n> RAW 0\n", 2),
        ("# A\nmetric x < 3\n", 2),
    ] {
        let found = Script::parse(text).map(|_| ()).map_err(|(line, _)| line);
        assert_eq!(found, Err(line), "{text}");
    }
}
