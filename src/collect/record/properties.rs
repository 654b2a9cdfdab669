//! Whatever the bytes, records are JSON on one line; what is put together as the RFCs have
//! it comes back field by field.

use super::*;
use crate::collect::syslog::time::parse_zone;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

const PIECES: [&[u8]; 28] = [
    b"<13>",
    b"<165>1 ",
    b"Nov 20 12:55:01 ",
    b"Nov 20 2026 12:55:01.123",
    b"2026-11-20T12:55:01Z ",
    b"*Mar  1 18:46:11 UTC: ",
    b"1w2d: ",
    b"00:01:01: ",
    b"29: ",
    b"RP/0/RP0/CPU0:",
    b"%SYS-5-CONFIG_I: ",
    b"host ",
    b"app[12]: ",
    b"- ",
    b"[a x=\"\\\"\" x=\"]",
    b"Message forwarded from ",
    b"last message repeated 2 times",
    b"[ID 1 mail.info] ",
    b"auth|security:info ",
    b"<auth.info> ",
    b"MSWinEventLog\t",
    b"Original Address=192.0.2.1 ",
    b"1563249630.774247467 ",
    b"CEF:0|",
    b"{\"a\":1}",
    b"\xEF\xBB\xBF",
    b"CET ",
    b"UAP,44d9e7aabbcc,v4: ",
];

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => proptest::sample::select(&PIECES[..]).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..12),
        1 => "[ -~]{0,8}".prop_map(String::into_bytes),
    ];
    vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

fn record(raw: &[u8]) -> Option<Value> {
    let mut recorder = Recorder::without_mail(parse_zone("UTC").expect("UTC is known"), "default.test");
    let received = "2026-11-20T13:00:00Z".parse().expect("a time");
    let mut seen = None;
    recorder.to_records(raw, received, Peer::None, &mut |_, body| {
        assert!(!body.contains(&b'\n'));
        seen = Some(serde_json::from_slice(body).expect("valid JSON"));
    });
    seen
}

fn field() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[!-~]{1,24}".prop_filter("nil", |s| s != "-"))
}

/// Names are unlike each other: of one that repeats the values are a list.
fn structured_data() -> impl Strategy<Value = Vec<(String, Vec<(String, String)>)>> {
    let name = "[a-z][a-z0-9@.]{0,12}";
    let params = proptest::collection::btree_map(name, any::<String>(), 0..4);
    proptest::collection::btree_map(name, params, 0..3)
        .prop_map(|elements| elements.into_iter().map(|(id, params)| (id, params.into_iter().collect())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_make_json_on_one_line(raw in any_message()) {
        let Some(record) = record(&raw) else { return Ok(()) };
        prop_assert!(record["ts"].as_str().is_some_and(|ts| ts.parse::<Timestamp>().is_ok()), "{record}");
        prop_assert!(record["message"].is_string() && record["hostname"].is_string(), "{record}");
        prop_assert_eq!(record.get("parse_error").is_some() && record.get("raw").is_none(), false);
        if std::str::from_utf8(&raw).is_err() {
            let exact = STANDARD.decode(record["raw_base64"].as_str().unwrap_or_default());
            prop_assert!(exact.is_ok_and(|exact| raw.starts_with(&exact)));
        }
    }

    #[test]
    fn rfc5424_comes_back(
        pri in 0u8..=191,
        nanos in 0u32..1_000_000,
        fields in [field(), field(), field(), field()],
        data in structured_data(),
        text in proptest::option::of("[!-~ü][ -~ü\n\t]{0,40}"),
        bom: bool,
    ) {
        let [host, app, procid, msgid] = &fields;
        let mut raw = format!("<{pri}>1 2026-11-20T12:55:01.{nanos:06}+01:00");
        for value in &fields {
            raw.push(' ');
            raw.push_str(value.as_deref().unwrap_or("-"));
        }
        raw.push(' ');
        let mut expected_data = json!({});
        for (id, params) in &data {
            raw.push_str(&format!("[{id}"));
            expected_data[id] = json!({});
            for (name, value) in params {
                let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
                raw.push_str(&format!(" {name}=\"{escaped}\""));
                expected_data[id][name] = json!(value);
            }
            raw.push(']');
        }
        if data.is_empty() {
            raw.push('-');
        }
        if let Some(text) = &text {
            raw.push_str(if bom { " \u{FEFF}" } else { " " });
            raw.push_str(text);
        }
        let record = record(raw.as_bytes()).expect("a record");
        let message = text.unwrap_or_default();
        let host = host.as_deref().unwrap_or("default.test");
        prop_assert_eq!(&record["hostname"], host, "{}", raw);
        for (key, value) in [("app", app), ("procid", procid), ("msgid", msgid)] {
            prop_assert_eq!(record.get(key).and_then(Value::as_str), value.as_deref(), "{}: {}", key, raw);
        }
        if data.is_empty() {
            prop_assert!(record.get("structured_data").is_none());
        } else {
            prop_assert_eq!(&record["structured_data"], &expected_data, "{}", raw);
        }
        prop_assert_eq!(&record["message"], message.trim_end_matches(['\n', '\r', '\0']), "{}", raw);
        let facility_and_severity = Value::from(format!(
            "{}.{}",
            record["facility"].as_str().unwrap_or_default(),
            record["severity"].as_str().unwrap_or_default()
        ));
        let named = wire::Pri::new(pri).map(|p| format!("{}.{}", p.facility(), p.severity()));
        prop_assert_eq!(facility_and_severity, named.unwrap_or_default());
        prop_assert!(record.get("parse_error").is_none() && record.get("raw").is_none(), "{}", record);
    }

    #[test]
    fn rfc3164_comes_back(
        day in 14u8..=20,
        host in "[a-z][a-z0-9.-]{0,20}",
        app in "[a-z][a-z0-9/._-]{0,20}",
        pid in proptest::option::of(1u32..100_000),
        text in "[a-zA-Z(][ -~ü]{0,40}",
    ) {
        let tag = pid.map_or_else(|| app.clone(), |pid| format!("{app}[{pid}]"));
        let record = record(format!("<22>Nov {day:>2} 12:55:01 {host} {tag}: {text}").as_bytes()).expect("a record");
        prop_assert_eq!(&record["hostname"], &host);
        prop_assert_eq!(&record["app"], &app);
        let pid = pid.map(|pid| pid.to_string());
        prop_assert_eq!(record.get("procid").and_then(Value::as_str), pid.as_deref());
        prop_assert_eq!(&record["message"], &text);
        prop_assert_eq!(&record["ts"], &format!("2026-11-{day}T12:55:01.000+00:00"));
        for absent in ["hostname_source", "timestamp_source", "parse_error", "raw"] {
            prop_assert!(record.get(absent).is_none(), "{}", record);
        }
    }
}
