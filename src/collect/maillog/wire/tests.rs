//! One case a rule of the module doc; the shapes of whole lines are golden files.

use super::*;

fn from(rest: &str) -> Result<FromLine<'_>, Broken> {
    from::parse(b"1", rest.as_bytes())
}

fn to(rest: &str) -> Result<ToLine<'_>, Broken> {
    to::parse(b"1", rest.as_bytes())
}

fn dests(rest: &str) -> Vec<String> {
    let line = to(rest).unwrap_or_else(|e| panic!("{e}: {rest}"));
    line.recipients.map(|r| String::from_utf8_lossy(r).into_owned()).collect()
}

#[test]
fn an_address_ends_where_prescan_ends_it() {
    let counts = ", size=1, class=0, nrcpts=1";
    for src in [
        "<a@b>",
        "<>",
        "root",
        "<\", size=2\"@b>",
        "<\"\\\\\", size=2\"@b>",
        "<a, size=2@b>",
        "<@x,@y:a@b>",
        "a(, size=2, class=0, nrcpts=2)@b",
        "a(\", size=2)@b",
        "<a@b>,",
        "[RESPONSE]",
    ] {
        let line = format!("{src}{counts}");
        assert_eq!(from(&line).map(|l| l.size), Ok(&b"1"[..]), "{line}");
    }
}

#[test]
fn an_address_cut_at_200_bytes_ends_there() {
    let long = format!("<\"{}", "\\001".repeat(198));
    let line = format!(
        "{long}, size=1, class=0, nrcpts=1, msgid=\", size=2, class=2, nrcpts=2, proto=SMTP, relay=h [192.0.2.1]"
    );
    let read = from(&line).expect("the true fields");
    assert_eq!((read.size, read.src), (&b"1"[..], &long.as_bytes()[1..]));
}

#[test]
fn tail_fields_only_in_their_order() {
    let line = |tail: &str| format!("<a>, size=1, class=0, nrcpts=1, msgid=<m>{tail}, relay=h [192.0.2.1]");
    let text = line(", proto=X, bodytype=Y, proto=ESMTP");
    let read = from(&text).expect("a from line");
    assert_eq!((read.proto, read.bodytype), (Some(&b"ESMTP"[..]), Some(&b"Y"[..])));
    assert_eq!(read.msgid, b"m>, proto=X");
    let text = line(", proto=a b");
    assert_eq!(from(&text).map(|l| l.proto), Ok(None));
    // Without a message-id there is nothing that could hold an unknown field.
    assert_eq!(from("<a>, size=1, class=0, nrcpts=1, x=y, relay=h"), Err(Broken::Value));
}

#[test]
fn relays() {
    let relay = |text: &'static str| lex::relay(text.as_bytes());
    let is =
        |host: &'static str, ip: Option<&'static str>| Ok(Relay { host: host.as_bytes(), ip: ip.map(str::as_bytes) });
    for (text, host, ip) in [
        ("h.example [192.0.2.1]", "h.example", Some("192.0.2.1")),
        ("h.example [192.0.2.1] (may be forged)", "h.example", Some("192.0.2.1")),
        ("h.example (192.0.2.1)", "h.example", Some("192.0.2.1")),
        ("IDENT:joe@h.example [192.0.2.1]", "h.example", Some("192.0.2.1")),
        ("h. [IPv6:2001:db8::1]", "h.", Some("2001:db8::1")),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]", Some("2001:db8::1")),
        ("[192.0.2.1]", "[192.0.2.1]", Some("192.0.2.1")),
        ("[192.0.2.1] [192.0.2.1]", "[192.0.2.1]", Some("192.0.2.1")),
        ("root@localhost", "root@localhost", None),
        ("local", "local", None),
        ("localhost [[UNIX: /run/a b]]", "localhost", None),
        ("[RESPONSE]", "[RESPONSE]", None),
    ] {
        assert_eq!(relay(text), is(host, ip), "{text}");
    }
    for bad in ["evil [6.6.6.6] [192.0.2.1]", "a b", "a [b]", "a []", " [192.0.2.1] x"] {
        assert_eq!(relay(bad), Err(Broken::Value), "{bad}");
    }
}

#[test]
fn recipients_are_split_at_commas_between_addresses() {
    let tail = ", delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1, stat=queued";
    for (list, expected) in [
        ("<a@x>,<b@x>", &["a@x", "b@x"][..]),
        ("a,b", &["a", "b"]),
        ("<\"a,b\"@x>,<c@x>", &["\"a,b\"@x", "c@x"]),
        ("\"|/bin/x a, b\",c", &["\"|/bin/x a, b\"", "c"]),
        ("<@r,@s:a@x>,<b@x>", &["@r,@s:a@x", "b@x"]),
        ("<a@x>, [more]", &["a@x"]),
        ("\\\\root", &["\\\\root"]),
        ("<>", &[""]),
        ("", &[""]),
    ] {
        assert_eq!(dests(&format!("{list}{tail}")), expected, "{list}");
    }
}

#[test]
fn a_second_anchor_is_refused_unless_it_is_surely_quoted() {
    let anchor = ", delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1";
    let quoted = format!("<\"x{anchor}\"@y>{anchor}, stat=queued");
    assert!(to(&quoted).is_ok());
    for line in [
        format!("<x>{anchor}, stat=queued\"@y>{anchor}, stat=queued"),
        format!("<\"x>{anchor}\"@y>{anchor}, stat=queued"),
        format!("x\"@y>{anchor}\"@z>{anchor}, stat=queued"),
        format!("<\"x{anchor}\"@y>, ctladdr=<\"z\"@y>{anchor}, stat=queued"),
    ] {
        assert_eq!(to(&line).map(|_| ()), Err(Broken::Ambiguous), "{line}");
    }
}

#[test]
fn the_rest_of_a_split_address_brings_no_ctladdr() {
    let anchor = ", delay=00:00:01, pri=1, stat=queued";
    // The address `<"pad,<x@y>, ctladdr=<root> (0/0)"("c)@z>`, cut at its comma.
    let line = format!("<x@y>, ctladdr=<root> (0/0)\"(\"c)@z>{anchor}");
    assert_eq!(to(&line).map(|_| ()), Err(Broken::Unbalanced));
    for whole in ["<a@b> (8/0)", "root (0/0)", "<a@b>", "<\"a b\"@c> (8/0)", "<aaa...zzz> (8/0)"] {
        let line = format!("<x@y>, ctladdr={whole}{anchor}");
        assert_eq!(to(&line).map(|l| l.ctladdr), Ok(Some(whole.as_bytes())), "{whole}");
    }
}

#[test]
fn an_address_cut_in_its_quotes_does_not_swallow_the_anchor() {
    let anchor = ", delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1";
    let cut = format!("<\"{}", "a".repeat(242));
    let line = format!("{cut}{anchor}, dsn=5.0.0, reply=550 \"@z>{anchor}, dsn=2.0.0, stat=Sent");
    assert_eq!(to(&line).map(|_| ()), Err(Broken::Ambiguous));
}

#[test]
fn a_reply_cannot_bring_its_own_stat() {
    let head = "<a>, delay=00:00:01, pri=1, relay=h. [192.0.2.1], dsn=5.1.1, reply=550 x";
    let stat = |tail: &str| {
        let line = format!("{head}{tail}");
        to(&line).map(|l| String::from_utf8_lossy(l.stat).into_owned())
    };
    assert_eq!(stat(", stat=User unknown"), Ok("User unknown".to_owned()));
    assert_eq!(stat(", stat=Sent, stat=User unknown"), Ok("User unknown".to_owned()));
    assert_eq!(stat(", stat=User unknown, stat=Sent"), Ok("User unknown, stat=Sent".to_owned()));
    assert_eq!(stat(", stat=Deferred, stat=User unknown"), Err(Broken::Ambiguous));
    assert_eq!(stat(", stat=Sent, stat=Sent"), Err(Broken::Ambiguous));
}

#[test]
fn a_refused_command_is_not_a_line() {
    for (line, expected) in [
        ("to=>, delay=00:00:01, pri=1, relay=h. [6.6.6.6], dsn=2.0.0, stat=Sent", "Unbalanced '>'"),
        ("to=a...b, delay=00:00:01, pri=1, stat=Sent", "Address too long"),
        ("to=), delay=00:00:01, pri=1, stat=Sent", "Unbalanced ')'"),
        ("from=>, size=1, class=0, nrcpts=1, msgid=<x", "Unbalanced '>'"),
        ("from=a, size=1, class=0, nrcpts=1", "Illegal character 0x01"),
    ] {
        let logged = format!("5AKCt1Aa002201: {line}... {expected}");
        assert!(matches!(parse(logged.as_bytes()), Parsed::Broken(_)), "{logged}");
    }
    let real = b"a1: to=<x>, delay=00:00:01, pri=1, dsn=5.1.1, reply=550 5.1.1 <x>... User unknown, stat=User unknown";
    assert!(matches!(parse(real), Parsed::To(_)));
}

#[test]
fn queue_ids() {
    let of = |text: &'static str| queue_id(text.as_bytes()).map(|(id, part, _)| (id, part));
    assert_eq!(of("5AKCt1Aa002201: x"), Some((&b"5AKCt1Aa002201"[..], false)));
    assert_eq!(of("VAA01234: x"), Some((&b"VAA01234"[..], false)));
    assert_eq!(of("NOQUEUE: x"), Some((&b"NOQUEUE"[..], false)));
    assert_eq!(of("5AKCt1Aa002201[12]: x"), Some((&b"5AKCt1Aa002201"[..], true)));
    for no in ["Milter: from=<a>", "5AKC", "5AKC:", "5AKC[]: x", "5AKC[1234]: x", ": x", ""] {
        assert_eq!(of(no), None, "{no}");
    }
}
