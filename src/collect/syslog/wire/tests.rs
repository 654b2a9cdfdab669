use super::*;
use jiff::tz::TimeZone;

fn with<T>(raw: &str, f: impl FnOnce(Message<'_>) -> T) -> T {
    let mut times = TimeResolver::new(TimeZone::UTC);
    let received = "2026-11-20T13:00:00Z".parse().expect("a time");
    f(parse(raw.as_bytes(), received, &mut times))
}

/// host, app, procid, text; `-` where absent.
fn parts(raw: &str) -> [String; 4] {
    with(raw, |m| {
        assert_eq!(m.parse_error, None, "{raw}");
        [m.hostname, m.app, m.procid, Some(m.message)]
            .map(|v| v.map_or_else(|| "-".to_owned(), |v| String::from_utf8_lossy(v).into_owned()))
    })
}

#[test]
fn host_and_program_in_their_many_shapes() {
    for (line, expected) in [
        ("mx1 sendmail[12]: text", ["mx1", "sendmail", "12", "text"]),
        ("sendmail[12]: text", ["-", "sendmail", "12", "text"]),
        ("kernel: text", ["-", "kernel", "-", "text"]),
        ("kernel: [  12.3] text", ["-", "kernel", "-", "[  12.3] text"]),
        ("mx1 /usr/sbin/cron[12]: text", ["mx1", "/usr/sbin/cron", "12", "text"]),
        ("mx1 postfix/smtpd[12]: text", ["mx1", "postfix/smtpd", "12", "text"]),
        ("mx1 sm-msp-queue[12]: text", ["mx1", "sm-msp-queue", "12", "text"]),
        ("mx1 prog[12] text", ["mx1", "prog", "12", "text"]),
        ("mx1 prog:text", ["mx1", "prog", "-", "text"]),
        ("mx1 prog:", ["mx1", "prog", "-", ""]),
        ("mx1 text only", ["mx1", "-", "-", "text only"]),
        ("fe80::1 prog: text", ["fe80::1", "prog", "-", "text"]),
        ("fe80:: prog: text", ["fe80::", "prog", "-", "text"]),
        ("192.0.2.1 prog: text", ["192.0.2.1", "prog", "-", "text"]),
        ("mx1 last message repeated 2 times", ["mx1", "-", "-", "last message repeated 2 times"]),
        ("last message repeated 2 times", ["-", "-", "-", "last message repeated 2 times"]),
        ("Message forwarded from aix: prog[1]: text", ["aix", "prog", "1", "text"]),
        ("mx1 prog[a b]: text", ["mx1", "-", "-", "prog[a b]: text"]),
        ("mx1 prog[]: text", ["mx1", "-", "-", "prog[]: text"]),
        ("mx1 : text", ["mx1", "-", "-", "text"]),
    ] {
        assert_eq!(parts(&format!("Nov 20 12:55:01 {line}")), expected, "{line}");
        assert_eq!(parts(&format!("<13>Nov 20 12:55:01 {line}")), expected, "{line}");
        assert_eq!(parts(&format!("2026-11-20T12:55:01.123+01:00 {line}")), expected, "{line}");
        assert_eq!(parts(&format!("Nov 20 12:55:01 2026 {line}")), expected, "{line}");
        assert_eq!(parts(&format!("Nov 20 2026 12:55:01 {line}")), expected, "{line}");
    }
}

#[test]
fn solaris_ids_give_priority_and_message_id() {
    with("Nov 20 12:55:01 mx1 sendmail[1]: [ID 801593 mail.error] text", |m| {
        assert_eq!(m.message, b"text");
        assert_eq!(m.msgid, Some(&b"801593"[..]));
        let pri = m.pri.expect("from the id");
        assert_eq!((pri.facility(), pri.severity()), ("mail", "err"));
    });
    for kept in ["[ID x mail.info] text", "[ID 1 mail.nosuch] text", "[ID 1 mail.info]"] {
        with(&format!("Nov 20 12:55:01 mx1 sendmail[1]: {kept}"), |m| {
            assert_eq!(m.message, kept.as_bytes());
        });
    }
}

#[test]
fn ios_xr_gives_its_time_and_no_host() {
    with("<187>RP/0/RP0/CPU0:Nov 20 12:55:01.123 UTC: config[65]: %MGBL: text", |m| {
        assert_eq!(m.timestamp, Some(&b"Nov 20 12:55:01.123 UTC"[..]));
        assert_eq!((m.hostname, m.app, m.procid), (None, Some(&b"config"[..]), Some(&b"65"[..])));
    });
}

#[test]
fn a_capital_word_behind_the_time_is_a_zone_or_a_host() {
    for (rest, offset_hours, host) in [
        ("UTC mx1 app: text", 0, Some("mx1")),
        ("CEST mx1 app: text", 2, Some("mx1")),
        ("EST 2026 mx1 app: text", -5, Some("mx1")),
        ("CEST app: text", 0, Some("CEST")),
        ("MAIL app: text", 0, Some("MAIL")),
        ("MAIL mx1 app: text", 0, Some("MAIL")),
        ("CEST: %SYS-5-CONFIG_I: text", 2, None),
        ("CEST : %UCSM-6-AUDIT: text", 2, None),
        ("FW: %ASA-6-302013: text", 0, Some("FW")),
        ("FW : %ASA-6-302013: text", 0, Some("FW")),
        ("SW: %SYS-5-CONFIG_I: text", 0, None),
    ] {
        with(&format!("<13>Nov 20 12:55:01 {rest}"), |m| {
            assert_eq!(m.stamp.map(|s| s.offset_seconds), Some(offset_hours * 3600), "{rest}");
            assert_eq!(m.hostname, host.map(str::as_bytes), "{rest}");
        });
    }
}

#[test]
fn of_several_reasons_to_doubt_a_time_the_gravest_is_said() {
    for (line, source) in [
        ("*Mar  1 18:46:11 CET: %A-1-B: text", Some(TimeSource::ClockUnset)),
        (".Mar  1 18:46:11 CET: %A-1-B: text", Some(TimeSource::YearGuessed)),
        (".Nov 20 12:55:01 CET: %A-1-B: text", Some(TimeSource::ZoneGuessed)),
        (".Nov 20 12:55:01 UTC: %A-1-B: text", Some(TimeSource::ClockUnsynced)),
        ("Nov 20 12:55:01 UTC: %A-1-B: text", None),
        ("Nov 20 12:55:01 mx1 app: text", None),
    ] {
        with(&format!("<13>{line}"), |m| assert_eq!(m.timestamp_source, source, "{line}"));
    }
}

#[test]
fn priorities() {
    with("<0>Nov 20 12:55:01 h a: b", |m| assert_eq!(m.pri.map(Pri::facility), Some("kern")));
    with("<191>Nov 20 12:55:01 h a: b", |m| assert_eq!(m.pri.map(Pri::severity), Some("debug")));
    for bad in ["<>x", "<192>x", "<1234>x", "<-1>x", "<1", "<", "<a>x"] {
        with(bad, |m| {
            assert_eq!((m.pri, m.parse_error), (None, Some(ParseError::Pri)), "{bad}");
            assert_eq!(m.message, bad.as_bytes());
        });
    }
}

#[test]
fn rfc5424_in_full() {
    with("<165>1 2003-10-11T22:14:15.003Z host app 12 ID47 [a b=\"c\\\"]\"][d] \u{FEFF}text ü", |m| {
        assert_eq!(m.parse_error, None);
        assert_eq!(m.message, "text ü".as_bytes());
        let data = m.structured_data.expect("structured data");
        let elements: Vec<_> = Elements(data).map(|(id, params)| (id, params.count())).collect();
        assert_eq!(elements, [(&b"a"[..], 1), (&b"d"[..], 0)]);
    });
    with("<165>1 - - - - - -", |m| {
        assert_eq!((m.parse_error, m.stamp, m.hostname, m.structured_data), (None, None, None, None));
        assert_eq!(m.message, b"");
    });
    // As rsyslog sends "a: text", and text that is indented.
    with("<165>1 - h a - - -  text", |m| assert_eq!(m.message, b"text"));
    with("<165>1 - h a - - -   text", |m| assert_eq!(m.message, b" text"));
    with("\u{FEFF}<165>1 - h a - - - text", |m| assert_eq!(m.hostname, Some(&b"h"[..])));
}

#[test]
fn rfc5424_says_what_is_wrong() {
    for (rest, error) in [
        ("2003-10-11T22:14:15.003Z h", ParseError::HeaderCutOff),
        ("2003-10-11T22:14:15.003Z h a p m", ParseError::HeaderCutOff),
        ("2003-10-11T22:14:15.003Z h a p m ", ParseError::HeaderCutOff),
        ("2003-02-29T22:14:15.003Z h a p m -", ParseError::Timestamp),
        ("2003-10-11T22:14:15.003+1 h a p m -", ParseError::Timestamp),
        ("2003-10-11T22:14:15.003Zx h a p m -", ParseError::Timestamp),
        ("-  a p m -", ParseError::HeaderField),
        ("- h\u{7f} a p m -", ParseError::HeaderField),
    ] {
        with(&format!("<165>1 {rest}"), |m| {
            assert_eq!(m.parse_error, Some(error), "{rest}");
            assert!(m.message.starts_with(b"<165>1 "), "{rest}");
            assert!(m.pri.is_some());
        });
    }
}

#[test]
fn malformed_structured_data_costs_no_other_field() {
    for data in ["[a", "[a b=\"c]", "[a b]", "[a][a]", "[]", "[a]text"] {
        with(&format!("<165>1 - h a p m {data}"), |m| {
            assert_eq!(m.parse_error, Some(ParseError::StructuredData), "{data}");
            assert_eq!((m.hostname, m.msgid, m.message), (Some(&b"h"[..]), Some(&b"m"[..]), data.as_bytes()));
        });
    }
    // None at all, and Check Point's own.
    for text in ["-text", "text", "[action:\"Accept\"; flags:\"411908\"]"] {
        with(&format!("<165>1 - h a p m {text}"), |m| {
            assert_eq!((m.parse_error, m.structured_data, m.message), (None, None, text.as_bytes()));
        });
    }
}

#[test]
fn structured_data_has_a_limit() {
    let params = |n: usize| " a=\"b\"".repeat(n);
    with(&format!("<165>1 - h a p m [x{}]", params(PARAMS_MAX - 1)), |m| assert_eq!(m.parse_error, None));
    with(&format!("<165>1 - h a p m [x{}]", params(PARAMS_MAX)), |m| {
        assert_eq!(m.parse_error, Some(ParseError::StructuredDataTooBig));
    });
}

#[test]
fn text_without_header_is_no_guess() {
    for text in ["just text", "Note: this is text", "12:30 lunch", "http://x/ y"] {
        with(text, |m| assert_eq!(m.parse_error, Some(ParseError::NoHeader), "{text}"));
    }
    assert_eq!(parts("<13>just text"), ["-", "-", "-", "just text"]);
    assert_eq!(parts("<13>app: text"), ["-", "app", "-", "text"]);
    assert_eq!(parts("app[1]: text"), ["-", "app", "1", "text"]);
    with("\r\n\0", |m| assert_eq!(m.parse_error, Some(ParseError::Empty)));
}
