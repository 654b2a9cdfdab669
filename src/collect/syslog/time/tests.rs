use super::*;

fn at(zone: &str, stamp: &str, received: &str) -> String {
    let (partial, used) = crate::collect::syslog::wire::stamp::bsd(stamp.as_bytes()).expect("a BSD stamp");
    assert_eq!(used, stamp.len());
    let mut times = TimeResolver::new(parse_zone(zone).expect("a known zone"));
    let received = received.parse().expect("a time");
    let show = |s: Option<Stamp>| {
        let mut out = Vec::new();
        s.expect("a real day").write(&mut out);
        String::from_utf8(out).expect("ASCII")
    };
    let first = show(times.resolve(&partial, received));
    // The second answer may come from the cache: it must be the same.
    assert_eq!(show(times.resolve(&partial, received)), first);
    first
}

#[test]
fn the_year_comes_from_the_receive_time() {
    for (stamp, received, year) in [
        ("Nov 20 12:00:00", "2026-11-20T12:00:01Z", "2026"),
        ("Dec 31 23:59:59", "2027-01-01T00:00:01Z", "2026"),
        ("Jan  1 00:00:01", "2026-12-31T23:59:59Z", "2027"),
        ("Jan  3 20:00:00", "2026-12-31T23:00:00Z", "2027"),
        ("Jan  4 00:00:00", "2026-12-31T23:00:00Z", "2026"),
        ("Nov 24 12:00:00", "2026-11-20T12:00:00Z", "2025"),
        ("Feb 29 12:00:00", "2026-11-20T12:00:00Z", "2024"),
        ("Feb 29 12:00:00", "2103-11-20T12:00:00Z", "2096"),
    ] {
        assert_eq!(&at("UTC", stamp, received)[..4], year, "{stamp} received {received}");
    }
}

#[test]
fn a_kept_hour_does_not_outlive_its_year() {
    let mut times = TimeResolver::new(TimeZone::UTC);
    let (p, _) = crate::collect::syslog::wire::stamp::bsd(b"Nov 24 12:00:00").expect("a BSD stamp");
    let mut year = |received: &str| times.resolve(&p, received.parse().expect("a time")).map(|s| s.year);
    assert_eq!(year("2026-11-20T12:00:00Z"), Some(2025));
    assert_eq!(year("2026-11-21T11:59:59Z"), Some(2025));
    assert_eq!(year("2026-11-21T12:00:00Z"), Some(2026));
    assert_eq!(year("2026-11-24T12:00:00Z"), Some(2026));
    assert_eq!(year("2028-11-20T12:00:00Z"), Some(2027));
}

#[test]
fn summer_time_begins_and_ends_deterministically() {
    let zone = "Europe/Berlin";
    for (stamp, expected) in [
        ("Mar 29 01:59:59", "2026-03-29T01:59:59.000+01:00"),
        // Does not occur: the offset from before the gap.
        ("Mar 29 02:30:00", "2026-03-29T02:30:00.000+01:00"),
        ("Mar 29 03:00:00", "2026-03-29T03:00:00.000+02:00"),
        // Occurs twice: the first.
        ("Oct 25 02:30:00", "2026-10-25T02:30:00.000+02:00"),
        ("Oct 25 03:00:00", "2026-10-25T03:00:00.000+01:00"),
    ] {
        assert_eq!(at(zone, stamp, "2026-11-20T12:00:00Z"), expected);
    }
}

#[test]
fn a_change_within_an_hour_is_seen() {
    // Lord Howe Island moves by 30 minutes: 01:30 to 02:00 occurs twice.
    let zone = "Australia/Lord_Howe";
    let received = "2026-11-20T12:00:00Z";
    assert_eq!(at(zone, "Apr  5 01:15:00", received), "2026-04-05T01:15:00.000+11:00");
    assert_eq!(at(zone, "Apr  5 02:00:00", received), "2026-04-05T02:00:00.000+10:30");
}

#[test]
fn zones_by_name_and_by_offset() {
    let received = "2026-11-20T12:00:00Z";
    assert_eq!(at("+05:30", "Nov 20 12:00:00", received), "2026-11-20T12:00:00.000+05:30");
    assert_eq!(at("-0330", "Nov 20 12:00:00.25", received), "2026-11-20T12:00:00.250-03:30");
    assert_eq!(at("America/New_York", "Nov 20 12:00:00", received), "2026-11-20T12:00:00.000-05:00");
    for wrong in ["", "+25:00", "+1", "Nowhere/Land", "+01:00x"] {
        assert!(parse_zone(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn fractions_keep_their_digits() {
    let received = "2026-11-20T12:00:00Z";
    for (fraction, expected) in
        [(".1", ".100"), (".123456", ".123456"), (".123456789", ".123456789"), (".1234567891", ".123456789")]
    {
        let got = at("UTC", &format!("Nov 20 12:00:00{fraction}"), received);
        assert_eq!(got, format!("2026-11-20T12:00:00{expected}+00:00"));
    }
}
