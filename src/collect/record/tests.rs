use super::*;
use crate::collect::privacy;
use crate::collect::syslog::time::parse_zone;

fn records(raw: &[u8], peer: Peer<'_>) -> (Outcome, Vec<serde_json::Value>) {
    let zone = parse_zone("UTC").expect("UTC is known");
    let mut recorder = Recorder::new(zone, "default.test");
    let received = "2026-11-20T13:00:00Z".parse().expect("a time");
    let mut seen = Vec::new();
    let outcome = recorder.to_records(raw, received, peer, &mut |_, body| {
        seen.push(serde_json::from_slice(body).expect("valid JSON"));
    });
    (outcome, seen)
}

#[test]
fn one_record_a_recipient() {
    let line = b"Nov 20 12:55:01 mx1 s[1]: a1: to=<a>,<b>, delay=00:00:01, pri=1, stat=queued";
    let (outcome, seen) = records(line, Peer::None);
    assert_eq!(outcome, Outcome { kind: "to", records: 2, error: None });
    assert_eq!((&seen[0]["dest"], &seen[1]["dest"]), (&"a".into(), &"b".into()));
    assert_eq!((&seen[0]["stat"], &seen[1]["stat"]), (&"queued".into(), &"queued".into()));
}

#[test]
fn blanks_behind_the_program_do_not_matter() {
    for blanks in ["", " ", "  ", "   "] {
        let line = format!("Nov 20 12:55:01 mx1 s[1]:{blanks}a1: to=<a>, delay=00:00:01, pri=1, stat=queued");
        let (outcome, _) = records(line.as_bytes(), Peer::None);
        assert_eq!(outcome.kind, "to", "{blanks:?}");
    }
}

#[test]
fn a_broken_mail_line_is_kept_whole() {
    let line = b"Nov 20 12:55:01 mx1 s[1]: a1: to=<a>, delay=00:";
    let (outcome, seen) = records(line, Peer::Ip([192, 0, 2, 1].into()));
    assert_eq!(outcome.kind, "syslog");
    assert_eq!(outcome.error.map(Reason::name), Some("sendmail_truncated"));
    assert_eq!(seen[0]["raw"], String::from_utf8_lossy(line).as_ref());
    assert_eq!(seen[0]["peer"], "192.0.2.1");
    assert_eq!(seen[0]["hostname"], "mx1");
}

#[test]
fn bytes_that_are_not_utf8_are_kept_exactly() {
    let line = b"Nov 20 12:55:01 mx1 s: \xFF\"\xC3\xBC";
    let (_, seen) = records(line, Peer::Text("a\"b"));
    assert_eq!(seen[0]["message"], "\u{FFFD}\"ü");
    let exact = STANDARD.decode(seen[0]["raw_base64"].as_str().unwrap_or_default());
    assert_eq!(exact.ok().as_deref(), Some(&line[..]));
    assert_eq!(seen[0]["peer"], "a\"b");
}

#[test]
fn a_machine_that_has_booted_from_here_says_in_which_session() {
    let peer = Peer::Booted([192, 0, 2, 1].into(), "525400123456-20261121T120000.000Z");
    let (_, seen) = records(b"<13>Nov 20 12:55:01 app[1]: text", peer);
    assert_eq!((&seen[0]["peer"], &seen[0]["hostname"]), (&"192.0.2.1".into(), &"192.0.2.1".into()));
    assert_eq!(seen[0]["session"], "525400123456-20261121T120000.000Z");
    let (_, seen) = records(b"<13>Nov 20 12:55:01 app[1]: text", Peer::of(peer.ip(), None));
    assert_eq!((&seen[0]["peer"], seen[0].get("session")), (&"192.0.2.1".into(), None));
    let mail = b"Nov 20 12:55:01 mx1 s[1]: a1: to=<a>, delay=00:00:01, pri=1, stat=queued";
    assert_eq!(records(mail, peer).1[0].get("session"), None, "mail is of no boot");
}

#[test]
fn a_host_that_the_message_does_not_name_says_so() {
    let raw = b"<13>Nov 20 12:55:01 app[1]: text";
    for (peer, host, source) in [
        (Peer::Ip([192, 0, 2, 1].into()), "192.0.2.1", "peer"),
        (Peer::Ip(std::net::Ipv6Addr::LOCALHOST.into()), "::1", "peer"),
        (Peer::Text("uid 0"), "default.test", "default"),
        (Peer::None, "default.test", "default"),
    ] {
        let (_, seen) = records(raw, peer);
        assert_eq!((&seen[0]["hostname"], &seen[0]["hostname_source"]), (&host.into(), &source.into()));
    }
    let (_, seen) = records(b"<13>Nov 20 12:55:01 mx1 app[1]: text", Peer::Ip([192, 0, 2, 1].into()));
    assert_eq!((&seen[0]["hostname"], seen[0].get("hostname_source")), (&"mx1".into(), None));
}

#[test]
fn a_year_is_certain_for_a_week() {
    for (stamp, source) in [("Nov 13 13:00:01", None), ("Nov 12 13:00:00", Some("year_guessed"))] {
        let (_, seen) = records(format!("<13>{stamp} mx1 app: text").as_bytes(), Peer::None);
        assert_eq!(seen[0].get("timestamp_source").and_then(|v| v.as_str()), source, "{stamp}");
    }
}

#[test]
fn an_empty_line_makes_no_record() {
    assert_eq!(records(b"\r\n", Peer::None).0, Outcome { kind: "syslog", records: 0, error: None });
}

#[test]
fn the_day_is_spelt_as_logs_spell_it() {
    let tail = "mx1 s[1]: a1: to=<a>, delay=00:00:01, pri=1, stat=queued";
    for (stamp, day) in [
        ("Nov  3 02:05:01", "3"),
        ("Nov 3 02:05:01", "3"),
        ("Nov 03 02:05:01", "03"),
        ("2026-11-03T02:05:01Z", "3"),
        ("Nov 13 02:05:01", "13"),
    ] {
        let (_, seen) = records(format!("{stamp} {tail}").as_bytes(), Peer::None);
        assert_eq!((&seen[0]["month"], &seen[0]["day"]), (&"Nov".into(), &day.into()), "{stamp}");
        assert_eq!(seen[0]["time"], "02:05:01");
    }
}

fn hashed(raw: &[u8]) -> Vec<serde_json::Value> {
    let config = privacy::Config { hash_local_part: true, key: "0123456789abcdef".into() };
    let zone = parse_zone("UTC").expect("UTC is known");
    let mut recorder = Recorder::new(zone, "default.test").with_privacy(config.privacy());
    let mut seen = Vec::new();
    recorder.to_records(raw, "2026-11-20T13:00:00Z".parse().expect("a time"), Peer::None, &mut |_, body| {
        seen.push(serde_json::from_slice(body).expect("valid JSON"));
    });
    seen
}

#[test]
fn hashed_local_parts_still_join() {
    let from = hashed(
        b"Nov 20 12:55:01 mx1 s[1]: a1: from=<Alice@example.com>, size=1, class=0, nrcpts=2, \
          msgid=<alice@example.com>, proto=ESMTP, daemon=MTA, relay=alice@localhost",
    );
    let to = hashed(
        b"Nov 20 12:55:02 mx1 s[1]: a1: to=<bob@example.net>,carol, ctladdr=<alice@example.com> (1000/1000), \
          delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1, relay=mx.example.net. [192.0.2.1], dsn=5.1.1, \
          reply=550 5.1.1 <bob@example.net>... or carol; not \xFF, stat=User unknown",
    );
    let alice = from[0]["src"].as_str().unwrap_or_default();
    let local = alice.strip_suffix("@example.com").expect("the domain is kept");
    assert_eq!(local.len(), 16);
    assert_eq!(from[0]["relay"], format!("{local}@localhost"));
    assert_eq!(from[0]["msgid"], "alice@example.com");
    assert_eq!(to[0]["ctladdr"], format!("<{alice}> (1000/1000)"));
    let (bob, carol) = (&to[0]["dest"], &to[1]["dest"]);
    assert_eq!(to[0]["relay"], "mx.example.net.");
    assert_eq!(to[0]["stat"], "User unknown");
    for record in &to {
        let reply = format!("550 5.1.1 <{}>... or {}; not \u{FFFD}", bob.as_str().unwrap(), carol.as_str().unwrap());
        assert_eq!(record["reply"], reply);
        assert!(record.get("raw_base64").is_none());
    }
    assert!(carol.as_str().is_some_and(|carol| carol.len() == 16));
}

#[test]
fn hashing_leaves_null_senders_and_syslog_alone() {
    let null = hashed(b"Nov 20 12:55:01 mx1 s[1]: a1: from=<>, size=1, class=0, nrcpts=0, relay=[192.0.2.1]");
    assert_eq!((&null[0]["src"], &null[0]["relay"]), (&"".into(), &"[192.0.2.1]".into()));
    let other = hashed(b"Nov 20 12:55:01 mx1 s[1]: a1: ruleset=check_rcpt, arg1=<bob@example.net>\xFF");
    assert!(other[0]["message"].as_str().is_some_and(|text| text.contains("bob@example.net")));
    assert!(other[0].get("raw_base64").is_some());
}

#[test]
fn hashed_records_of_postfix_name_nobody() {
    let to = hashed(
        b"Nov 20 12:55:02 mx1 postfix/smtp[1]: 6F5802325F1: to=<bob@example.net>, orig_to=<alice@example.net>, \
          relay=mx.example.net[192.0.2.1]:25, delay=2, delays=0/0/1/1, dsn=5.1.1, status=bounced (host \
          mx.example.net[192.0.2.1] said: 550 5.1.1 <bob@example.net>: unknown (in reply to RCPT TO command))",
    );
    let bob = to[0]["dest"].as_str().unwrap_or_default();
    assert_eq!(to[0]["reply"], format!("550 5.1.1 <{bob}>: unknown"));
    let text = to[0].to_string();
    assert!(
        !text.contains("bob") && !text.contains("alice") && text.contains("\"relay\":\"mx.example.net\""),
        "{text}"
    );
    let from = hashed(
        b"Nov 20 12:55:02 mx1 postfix/qmgr[1]: 6F5802325F1: from=<bob@example.net>, size=1, nrcpt=1 (queue active)",
    );
    assert_eq!(from[0]["src"], bob);
}

#[test]
fn rules_decide_on_what_is_not_mail() {
    let rules = "[[rule]]\nname = \"all\"\nhost = [\"*\"]\nkind = \"other\"\nsample = 2\n\
                 [[rule]]\nname = \"mx9\"\nhost = [\"mx9\"]\ndrop = true\nmail = true\n";
    let table: toml::Table = toml::from_str(rules).expect("valid TOML");
    let rules: Vec<crate::collect::syslog::rules::Rule> = table["rule"].clone().try_into().expect("rules");
    let registry = prometheus::Registry::new();
    let rules = Rules::new(&rules, &registry).expect("valid rules");
    let zone = parse_zone("UTC").expect("UTC is known");
    let mut recorder = Recorder::new(zone, "default.test").with_rules(Some(rules));
    let mut made = |host: &str, text: &str| {
        let line = format!("Nov 20 12:55:01 {host} sm-mta[1]: {text}");
        let mut seen = Vec::new();
        let received = "2026-11-20T13:00:00Z".parse().expect("a time");
        let outcome = recorder.to_records(line.as_bytes(), received, Peer::None, &mut |kind, body| {
            let body: serde_json::Value = serde_json::from_slice(body).expect("valid JSON");
            assert_eq!(body["kind"], kind);
            seen.push(body);
        });
        assert_eq!(outcome.records as usize, seen.len());
        seen.pop()
    };
    let to = "5AKCt1Aa002201: to=<a>, delay=00:00:01, pri=1, stat=queued";
    assert_eq!(made("mx1", to).expect("a record")["kind"], "to");
    assert_eq!(made("mx9", to), None);
    let first = made("mx1", "hello").expect("the first of two");
    assert_eq!((&first["kind"], &first["sampled"], &first["message"]), (&"other".into(), &2.into(), &"hello".into()));
    assert_eq!(made("mx1", "hello"), None);
    assert!(made("mx1", "hello").is_some());
    let counted = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
    for line in [
        "greypit_syslog_rule_messages_total{action=\"drop\",rule=\"mx9\"} 1",
        "greypit_syslog_rule_messages_total{action=\"sample\",rule=\"all\"} 2",
        "greypit_syslog_rule_messages_total{action=\"skip\",rule=\"all\"} 1",
    ] {
        assert!(counted.contains(line), "{counted}");
    }
}
