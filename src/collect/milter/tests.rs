use std::time::{Duration, SystemTime};

use greypit_milter::Transaction;
use greypit_milter::transaction::{Ending, Peer};
use greypit_pipeline::submit::testing::queue;
use proptest::prelude::*;

use super::*;
use crate::collect::privacy;

fn peer() -> Peer {
    Peer {
        connection: 7,
        addr: Some([192, 0, 2, 1].into()),
        name: b"mail.example.com".to_vec(),
        name_verified: true,
        helo: b"mail.example.com".to_vec(),
        mta: b"8.17.1.9".to_vec(),
        server: b"mx1.example.org".to_vec(),
        daemon: b"MTA".to_vec(),
        ..Peer::default()
    }
}

fn rcpts(listed: &[&[u8]]) -> Vec<Vec<u8>> {
    listed.iter().map(|rcpt| rcpt.to_vec()).collect()
}

fn transaction<'a>(peer: &'a Peer, rcpts: &'a [Vec<u8>]) -> Transaction<'a> {
    Transaction {
        peer,
        started: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_179_301_020_304_567),
        took: Duration::from_millis(42),
        number: 3,
        queue_id: b"5AKCt1x2003456",
        mail_from: b"alice@example.com",
        mail_args: &[],
        rcpts,
        nrcpts: rcpts.len() as u32,
        msgid: b"<1@example.com>",
        size: Some(4096),
        headers: b"",
        ending: Ending::Accept,
        rule: "connection",
        strike: 0,
        delay: Duration::ZERO,
        cut: None,
        would: None,
    }
}

fn body(transaction: &Transaction<'_>, headers: &[&str], privacy: Option<Privacy>) -> String {
    let headers: Vec<String> = headers.iter().map(|name| (*name).to_owned()).collect();
    let writer = Writer { headers: Headers::new(&headers), privacy };
    let mut scratch = Scratch::default();
    // What a record before it left behind does not matter.
    writer.write(transaction, &mut scratch);
    String::from_utf8(writer.write(transaction, &mut scratch).to_vec()).expect("records are UTF-8")
}

fn json(transaction: &Transaction<'_>, headers: &[&str]) -> serde_json::Value {
    serde_json::from_str(&body(transaction, headers, None)).expect("valid JSON")
}

fn hashing() -> Option<Privacy> {
    privacy::Config { hash_local_part: true, key: "0123456789abcdef".into() }.privacy()
}

#[test]
fn an_accepted_message() {
    let (peer, rcpts) = (peer(), rcpts(&[b"bob@example.net", b"\"a b\"@example.net"]));
    let expected = concat!(
        r#"{"kind":"mail","ts":"2026-11-20T12:55:01.020304+00:00","sendmailid":"5AKCt1x2003456","#,
        r#""client_addr":"192.0.2.1","client_name":"mail.example.com","client_verified":true,"helo":"mail.example.com","#,
        r#""mail_from":"alice@example.com","rcpts":["bob@example.net","\"a b\"@example.net"],"nrcpts":2,"#,
        r#""msgid":"1@example.com","size":4096,"verdict":"accept","strike":0,"delay_ms":0,"reason":"connection","#,
        r#""mta":"8.17.1.9","server":"mx1.example.org","daemon":"MTA","connection":7,"message":3,"duration_ms":42}"#,
    );
    assert_eq!(body(&transaction(&peer, &rcpts), &[], None), expected);
}

#[test]
fn a_refused_message_of_which_everything_is_known() {
    let peer = Peer {
        tls_version: b"TLSv1.3".to_vec(),
        tls_cipher: b"TLS_AES_256_GCM_SHA384".to_vec(),
        auth: b"alice".to_vec(),
        ..peer()
    };
    let args = rcpts(&[b"SIZE=4096", b"BODY=8BITMIME"]);
    let t = Transaction {
        queue_id: b"",
        mail_from: b"",
        mail_args: &args,
        msgid: b"",
        size: None,
        ending: Ending::Refuse,
        rule: "client",
        strike: 5,
        delay: Duration::from_millis(4000),
        cut: Some("reload"),
        would: Some((Ending::Close, Duration::from_secs(8))),
        ..transaction(&peer, &[])
    };
    let expected = concat!(
        r#"{"kind":"mail","ts":"2026-11-20T12:55:01.020304+00:00","sendmailid":"","#,
        r#""client_addr":"192.0.2.1","client_name":"mail.example.com","client_verified":true,"helo":"mail.example.com","#,
        r#""mail_from":"","rcpts":[],"nrcpts":0,"msgid":"","verdict":"refuse","strike":5,"delay_ms":4000,"#,
        r#""reason":"client","mta":"8.17.1.9","server":"mx1.example.org","daemon":"MTA","#,
        r#""tls":"TLSv1.3 TLS_AES_256_GCM_SHA384","auth":"alice","args":["SIZE=4096","BODY=8BITMIME"],"#,
        r#""connection":7,"message":3,"duration_ms":42,"cut":"reload","#,
        r#""mode":"observe","would":"close","would_delay_ms":8000}"#,
    );
    assert_eq!(body(&t, &[], None), expected);
}

#[test]
fn a_client_of_which_nothing_is_known() {
    let peer = Peer::default();
    let seen = json(&Transaction { started: SystemTime::UNIX_EPOCH, ..transaction(&peer, &[]) }, &[]);
    assert_eq!(seen["client_addr"], "");
    assert_eq!(seen["client_name"], "");
    assert_eq!(seen["client_verified"], false);
    assert_eq!(seen["ts"], "1970-01-01T00:00:00.000+00:00");
    for absent in
        ["mta", "server", "daemon", "tls", "auth", "args", "headers", "cut", "mode", "truncated", "raw_base64"]
    {
        assert!(seen.get(absent).is_none(), "{absent}");
    }
    let tls = Peer { tls_cipher: b"\"x".to_vec(), ..Peer::default() };
    assert_eq!(json(&transaction(&tls, &[]), &[])["tls"], "\"x");
}

#[test]
fn what_is_not_utf8_is_replaced_and_kept() {
    let peer = Peer { helo: b"h\xFF".to_vec(), ..peer() };
    let rcpts = rcpts(&[b"a@b", b"\xE4@b", b"\"\n\"@b"]);
    let t = Transaction { mail_from: b"\xF6@example.com", ..transaction(&peer, &rcpts) };
    let seen = json(&t, &[]);
    assert_eq!(seen["mail_from"], "\u{FFFD}@example.com");
    assert_eq!(seen["helo"], "h\u{FFFD}");
    assert_eq!(seen["rcpts"], serde_json::json!(["a@b", "\u{FFFD}@b", "\"\n\"@b"]));
    let expected =
        serde_json::json!({"helo": "aP8=", "mail_from": "9kBleGFtcGxlLmNvbQ==", "rcpts": [null, "5EBi", null]});
    assert_eq!(seen["raw_base64"], expected);
}

#[test]
fn everything_has_a_limit_and_says_so() {
    let peer = Peer { helo: "ü".repeat(5000).into_bytes(), ..peer() };
    let long: Vec<Vec<u8>> = (0..100).map(|n| format!("{n}{}@example.net", "\0".repeat(5000)).into_bytes()).collect();
    let subject = format!("Subject: {}\r\n", "\u{1}\u{FFFD}".repeat(4000));
    let headers = format!("{}\r\n", subject.repeat(10)).into_bytes();
    let t = Transaction { mail_args: &long, headers: &headers, nrcpts: 100, ..transaction(&peer, &long) };
    let text = body(&t, &["subject"], None);
    let seen: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    assert_eq!(seen["truncated"], serde_json::json!(["helo", "rcpts", "args", "headers"]));
    assert_eq!(seen["helo"], "ü".repeat(2048));
    assert_eq!(seen["nrcpts"], 100);
    assert_eq!(seen["rcpts"].as_array().map(Vec::len), Some(16));
    assert!(text.len() < greypit_pipeline::event::BODY_BYTES_MAX / 4, "{}", text.len());
}

#[test]
fn headers_are_unfolded_and_decoded() {
    let block: &[u8] = b"Subject: =?utf-8?B?R3LDvMOfZQ==?= =?iso-8859-1?Q?_aus_K=F6ln?=\r\n\
        List-ID: a\r\n\tfolded\r\n  value\r\nX-Secret: not asked for\r\nlist-id: another\r\n\
        X-Empty:\r\nX-8bit: \xE4\r\nX-Jp: =?ISO-2022-JP?B?GyRCRnxLXBsoQg==?=\r\nMessage-ID: <2@example.com>\r\n\r\nbody: no\r\n";
    let peer = peer();
    let t = Transaction { headers: block, msgid: b"", ..transaction(&peer, &[]) };
    let seen = json(&t, &["subject", "List-Id", "X-Empty", "X-8BIT", "x-jp", "Message-ID", "body", "LIST-ID"]);
    let expected = serde_json::json!({
        "subject": "Grüße aus Köln", "list-id": ["a folded value", "another"], "x-empty": "", "x-8bit": "\u{FFFD}",
        "x-jp": "日本", "message-id": "<2@example.com>",
    });
    assert_eq!(seen["headers"], expected);
    assert_eq!(seen["msgid"], "2@example.com");
    let whole = seen["raw_base64"]["headers"].as_str().unwrap_or_default();
    assert!(!whole.is_empty() && seen.get("truncated").is_none());
    assert_eq!(json(&t, &[]).get("headers"), None);
    assert_eq!(json(&t, &[])["msgid"], "");
}

#[test]
fn a_flood_of_encoded_words_stays_encoded() {
    let subject = |words: usize| format!("Subject: {}\r\n", "=?utf-8?q?a?= ".repeat(words));
    let block = format!("{}{}Subject: =?utf-8?q?b?=\r\n\r\n", subject(150), subject(150));
    let peer = peer();
    let seen = json(&Transaction { headers: block.as_bytes(), ..transaction(&peer, &[]) }, &["subject"]);
    let values = seen["headers"]["subject"].as_array().expect("three of them");
    assert_eq!(values[0], "a".repeat(150));
    assert_eq!(values[1], "=?utf-8?q?a?= ".repeat(150).trim_end());
    assert_eq!(values[2], "b");
    assert_eq!(seen["truncated"], serde_json::json!(["headers"]));
}

#[test]
fn a_block_that_ends_anywhere_is_read_as_far_as_it_goes() {
    let headers = Headers::new(&["a".to_owned()]);
    for (block, values) in [
        (&b"A: 1"[..], vec!["1"]),
        (b"A: 1\r\nno colon\r\nA : 2\nA: 3\r\n 4", vec!["1", "2", "3 4"]),
        (b"\r\nA: 1\r\n", vec![]),
        (b"", vec![]),
        (b" A: 1\r\n", vec![]),
    ] {
        let found: Vec<String> = headers.find(block).fields.iter().map(|(_, value)| value.to_string()).collect();
        assert_eq!(found, values, "{}", block.escape_ascii());
    }
}

#[test]
fn hashing_hides_local_parts_and_leaves_no_exact_bytes() {
    let peer = Peer { auth: b"alice".to_vec(), helo: b"alice@pc".to_vec(), ..peer() };
    let rcpts = rcpts(&[b"Bob@example.net", b"\xFFbob@example.net", b"|/bin/prog bob"]);
    let args = [b"AUTH=bob+40x@example.com".to_vec(), b"SIZE=1".to_vec()];
    let headers = b"Subject: for alice@example.com, by bob\r\nMessage-ID: <alice@example.com>\r\n\r\n";
    let t = Transaction { mail_args: &args, headers, ..transaction(&peer, &rcpts) };
    let text = body(&t, &["subject", "message-id"], hashing());
    let seen: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let hidden = |address: &[u8]| {
        let mut out = Vec::new();
        hashing().expect("it is on").address(&mut out, address);
        String::from_utf8(out).expect("ASCII")
    };
    assert_eq!(seen["mail_from"], hidden(b"alice@example.com"));
    assert_eq!(seen["rcpts"][0], hidden(b"bob@example.net"));
    assert_eq!(seen["auth"], hidden(b"alice"));
    assert_eq!(seen["helo"], hidden(b"alice@pc"));
    assert_eq!(seen["args"], serde_json::json!([format!("AUTH={}", hidden(b"bob+40x@example.com")), "SIZE=1"]));
    assert_eq!(seen["headers"]["subject"], format!("for {}, by bob", hidden(b"alice@example.com")));
    assert_eq!(seen["headers"]["message-id"], "<alice@example.com>");
    assert_eq!(seen["msgid"], "1@example.com");
    assert!(seen.get("raw_base64").is_none());
}

#[test]
fn personal_headers_are_refused_where_local_parts_are_hashed() {
    let error = |name: &str, hashed| check_headers(&[name.to_owned()], hashed).map_err(|error| error.to_string());
    for name in ["From", "X-Original-To", "Resent-Cc", "Envelope-To"] {
        error(name, false).unwrap();
        assert!(error(name, true).unwrap_err().contains("privacy.hash_local_part"), "{name}");
    }
    error("Subject", true).unwrap();
}

#[test]
fn a_full_or_closed_queue_drops_and_counts() {
    let (submit, queue) = queue(700);
    let registry = Registry::new();
    let sink = sink(submit, &[], None, &registry).unwrap();
    let (peer, rcpts) = (peer(), rcpts(&[b"bob@example.net"]));
    let t = transaction(&peer, &rcpts);
    let figure = |label: &str| {
        let families = registry.gather();
        let figures = families.iter().flat_map(|family| family.get_metric());
        let mut of = figures.filter(|metric| match metric.get_label() {
            [] => label.is_empty(),
            labels => labels.iter().any(|pair| pair.value() == label),
        });
        of.next().map_or(f64::NAN, |metric| metric.get_counter().get_value())
    };
    // The body is more than half of what the queue holds.
    sink(&t);
    sink(&t);
    assert_eq!((figure(""), figure("queue_full"), figure("closed"), figure("unfit")), (1.0, 1.0, 0.0, 0.0));
    let group = queue.next(Duration::from_secs(120)).expect("the first");
    let events: Vec<_> = group.iter().collect();
    assert!(
        matches!(&events[..], [(kind, body)] if *kind == MAIL && body.starts_with(b"{\"kind\":\"mail\",\"ts\":\""))
    );
    sink(&t);
    assert_eq!((figure(""), figure("queue_full")), (2.0, 1.0));
    drop(queue);
    sink(&t);
    assert_eq!((figure(""), figure("queue_full"), figure("closed")), (2.0, 1.0, 1.0));
    assert!(super::sink(greypit_pipeline::submit::testing::queue(10).0, &[], None, &registry).is_err());
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        Just(b"\"\\\r\n\0".to_vec()),
        Just(b"=?utf-8?q?=0A?=".to_vec()),
        Just(b"a@example.com".to_vec()),
        Just("ä\u{2028}".as_bytes().to_vec()),
        Just(b"<@".to_vec()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_make_one_line_of_json(
        [name, helo, mta, auth, from, id] in [bytes(), bytes(), bytes(), bytes(), bytes(), bytes()],
        rcpts in proptest::collection::vec(bytes(), 0..4),
        headers in proptest::collection::vec(bytes(), 0..4),
        hashed: bool,
        nanos: u64,
    ) {
        let peer = Peer { name, helo, tls_version: mta.clone(), mta, auth, ..Peer::default() };
        let block: Vec<u8> = headers.iter().flat_map(|value| [b"X-Y: ", &value[..], b"\r\n"].concat()).collect();
        let t = Transaction {
            started: SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
            mail_from: &from,
            mail_args: &rcpts,
            msgid: &id,
            queue_id: &id,
            headers: &block,
            ..transaction(&peer, &rcpts)
        };
        let text = body(&t, &["x-y", "message-id"], hashing().filter(|_| hashed));
        prop_assert!(!text.contains('\n'));
        let seen: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        prop_assert!(seen["ts"].as_str().is_some_and(|ts| ts.parse::<jiff::Timestamp>().is_ok()));
        if !hashed {
            prop_assert_eq!(&seen["mail_from"], &String::from_utf8_lossy(&from).into_owned());
        }
        prop_assert_eq!(seen.get("raw_base64").is_some(), !hashed && {
            let texts = [&peer.name, &peer.helo, &peer.mta, &peer.auth, &from, &id, &block];
            texts.into_iter().chain(&rcpts).any(|text| std::str::from_utf8(text).is_err())
        });
    }
}
