//! Any message: its records are valid JSON on one line, with a time that can be read; what
//! did not parse is there whole, and a guess is one of those that are documented.
#![no_main]

use greypit::collect::record::{Peer, Recorder};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let mut recorder = Recorder::new(TimeZone::UTC, "default.test");
    let received = Timestamp::from_second(1_795_000_000).expect("a time in range");
    let mut seen = 0;
    let outcome = recorder.to_records(message, received, Peer::None, &mut |kind, body| {
        seen += 1;
        assert!(!body.contains(&b'\n'));
        let v: serde_json::Value = serde_json::from_slice(body).expect("valid JSON");
        assert_eq!(v["kind"], kind);
        let ts = v["ts"].as_str().expect("a time");
        assert!(ts.parse::<Timestamp>().is_ok(), "{ts}");
        if kind != "syslog" {
            return;
        }
        assert!(v["hostname"].is_string() && v["message"].is_string(), "{v}");
        assert!(v.get("parse_error").is_none() || v["raw"].is_string(), "{v}");
        if let Some(source) = v.get("hostname_source") {
            assert!(["default", "relay", "guessed"].iter().any(|s| source == s), "{v}");
        }
    });
    assert_eq!(outcome.records, seen);
});
