//! Shapes of single makers that follow neither RFC, and texts that are formats themselves.

use super::tag::{Tag, skip_blanks};
use super::{HostSource, Message};
use crate::collect::syslog::time::Stamp;
use jiff::Timestamp;

/// CEF, LEEF, CEE and JSON: the text is whole and has no program's name before its colon.
pub(super) fn is_payload(text: &[u8]) -> bool {
    let versioned = text.strip_prefix(b"CEF:").or_else(|| text.strip_prefix(b"LEEF:"));
    versioned.is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
        || text.starts_with(b"@cee:")
        || matches!(text, [b'{', .., b'}'])
}

/// What stands behind a host, or alone, and is neither.
pub(super) fn is_notice(text: &[u8]) -> bool {
    match text.first() {
        Some(b'l') => text.starts_with(b"last message repeated "),
        Some(b'm') => text.starts_with(b"message repeated "),
        Some(b'a') => text.starts_with(b"above message repeats "),
        Some(b'-') => text.starts_with(b"--- last message repeated ") || text == b"-- MARK --",
        _ => false,
    }
}

/// `U7LT,f09fc2aabbcc,v4.3.21` or `784558aabbcc,U6-Pro-6.5.28+14491`: UniFi's devices put
/// model, hardware address and version before the program.
pub(super) fn is_unifi(word: &[u8]) -> bool {
    word.split(|c| *c == b',').any(|part| part.len() == 12 && part.iter().all(u8::is_ascii_hexdigit))
}

/// The event log of Windows as Snare sends it: fields apart by tabs, in old ones by blanks.
pub(super) fn snare(rest: &[u8]) -> Option<Tag<'_>> {
    let text = rest.strip_prefix(b"MSWinEventLog")?;
    let text = text.strip_prefix(b"\t").or_else(|| text.strip_prefix(b" "))?;
    Some(Tag { app: &rest[..13], procid: None, text })
}

/// Without date: `host<TAB>MSWinEventLog<TAB>…`.
pub(super) fn snare_with_host<'a>(body: &'a [u8], m: &mut Message<'a>) -> Option<Tag<'a>> {
    let end = memchr::memchr2(b' ', b'\t', &body[..body.len().min(256)])?;
    let found = snare(&body[end + 1..])?;
    m.hostname = Some(&body[..end]);
    Some(found)
}

/// `1563249630.774247467 MX84 flows src=…` behind `<PRI>1 `, as Meraki has it: seconds of
/// the epoch where RFC 5424 has its time, then the device and the kind of event.
pub(super) fn meraki(rest: &[u8]) -> Option<Message<'_>> {
    let (time, after) = word(rest)?;
    let stamp = epoch(time)?;
    let (host, after) = word(after)?;
    let (app, message) = word(after)?;
    Some(Message {
        timestamp: Some(time),
        stamp: Some(stamp),
        hostname: Some(host),
        app: Some(app),
        message,
        ..Message::whole(rest)
    })
}

/// The same behind a relay's header: the device's own word is nearer to the event.
pub(super) fn relayed_meraki<'a>(rest: &'a [u8], m: &mut Message<'a>) -> bool {
    let Some(inner) = meraki(rest) else {
        return false;
    };
    (m.stamp, m.timestamp, m.timestamp_source) = (inner.stamp, inner.timestamp, None);
    (m.hostname, m.app, m.message) = (inner.hostname, inner.app, inner.message);
    m.keep_raw = true;
    true
}

/// Cisco's firewalls, whose zone is never named and whose host stands before a colon.
pub(super) fn is_firewall(text: &[u8]) -> bool {
    [&b"%ASA-"[..], b"%PIX-", b"%FWSM-", b"%FTD-", b"%NGIPS-"].iter().any(|name| text.starts_with(name))
}

/// `Original Address=192.0.2.1 …`, which a relay puts before what it passes on.
pub(super) fn original_address(body: &[u8]) -> Option<(&[u8], &[u8])> {
    word(body.strip_prefix(b"Original Address=")?)
}

/// The host that a relay names, unless the message has one of its own.
pub(super) fn set_relayed<'a>(host: &'a [u8], m: &mut Message<'a>) {
    if m.hostname.is_some() {
        m.keep_raw |= m.hostname != Some(host);
    } else {
        m.hostname = Some(host);
        m.hostname_source = Some(HostSource::Relay);
    }
}

fn word(s: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b' ', s)?;
    (end > 0).then(|| (&s[..end], skip_blanks(&s[end + 1..])))
}

/// `1563249630.774247467`: ten digits and a fraction.
fn epoch(s: &[u8]) -> Option<Stamp> {
    let (seconds, fraction) = s.split_at_checked(10)?;
    let fraction = fraction.strip_prefix(b".")?;
    if !(1..=9).contains(&fraction.len()) || !seconds.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0i64, |n, c| n * 10 + i64::from(c - b'0'));
    let nanos = (fraction.len()..9).fold(number(fraction), |n, _| n * 10);
    Some(Stamp::utc(Timestamp::new(number(seconds), nanos as i32).ok()?))
}
