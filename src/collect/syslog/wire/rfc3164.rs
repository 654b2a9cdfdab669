//! BSD syslog and log files: `[stamp] [host] [program[pid]:] text`, where each part
//! can be absent. Written from RFC 3164 section 4 and from what senders do:
//!
//! - rsyslog files: ISO stamp with offset; others: ISO with a blank and no offset;
//! - a year in front, before or behind the time; one-digit days with one blank; a zone
//!   behind the time; tabs for blanks;
//! - no host: the first word then ends in `:` or `]:`;
//! - AIX: `Message forwarded from HOST:`; `last message repeated N times`;
//! - FreeBSD files: `<auth.info>` behind the time; F5 and AIX: the severity behind the
//!   host; Solaris: `[ID 801593 mail.info]` before the text (module `tag`);
//! - Cisco: module `cisco`; single makers: module `known`.

use super::cisco::{self, Clock, Time};
use super::tag::{self, skip_blanks, tag, tag_and_text};
use super::zone::{Zone, known_zone};
use super::{HostSource, Message, ParseError, Pri, TimeSource, known, stamp};
use crate::collect::syslog::time::{Partial, TimeResolver};
use jiff::Timestamp;

pub(super) fn parse<'a>(
    body: &'a [u8],
    m: &mut Message<'a>,
    received: Timestamp,
    times: &mut TimeResolver,
) -> Result<(), ParseError> {
    m.message = body;
    let mut set_time = |m: &mut Message<'a>, p: &Partial, clock: Clock, zone_guessed: bool| -> Result<(), ParseError> {
        let stamp = times.resolve(p, received).ok_or(ParseError::Date)?;
        m.stamp = Some(stamp);
        m.timestamp_source = match clock {
            Clock::Unset => Some(TimeSource::ClockUnset),
            _ if p.year.is_none() && !stamp.is_near(received) => Some(TimeSource::YearGuessed),
            _ if zone_guessed => Some(TimeSource::ZoneGuessed),
            Clock::Unsynced => Some(TimeSource::ClockUnsynced),
            Clock::Set => None,
        };
        Ok(())
    };
    if let Some(found) = find_stamp(body) {
        m.timestamp = Some(found.text);
        set_time(m, &found.partial, Clock::Set, found.zone_guessed)?;
        host_and_text(found.rest, m);
        return Ok(());
    }
    let Some(h) = cisco::header(body) else {
        return without_stamp(m);
    };
    if let Time::At(partial) = &h.time {
        set_time(m, partial, h.clock, h.zone_guessed)?;
    } else if let Time::Uptime = h.time {
        m.timestamp_source = Some(TimeSource::Uptime);
    }
    (m.timestamp, m.sequence, m.hostname, m.keep_raw) = (h.text, h.sequence, h.hostname, h.keep_raw);
    tag_and_text(h.rest, m);
    Ok(())
}

/// Only a PRI, `app[procid]: ` or a format of its own shows that a line without a date is
/// for a log, and not any text with a colon.
fn without_stamp(m: &mut Message<'_>) -> Result<(), ParseError> {
    let body = m.message;
    if known::is_payload(body) {
        return Ok(());
    }
    if stamp::looks_like_one(body) {
        return Err(ParseError::Date);
    }
    match tag(body, true) {
        // ScreenOS: its name, where others have the program's.
        Some(t) if m.pri.is_some() && t.text.starts_with(b"NetScreen device_id=") => {
            m.hostname = Some(t.app);
            m.message = t.text;
        }
        Some(t) if m.pri.is_some() && t.procid.is_none() && is_ip(t.app) => {
            m.hostname = Some(t.app);
            tag_and_text(t.text, m);
        }
        Some(t) if m.pri.is_some() || t.procid.is_some() => tag::set(&t, m),
        _ if m.pri.is_some() => {
            if let Some(t) = known::snare(body).or_else(|| known::snare_with_host(body, m)) {
                tag::set(&t, m);
            }
        }
        _ => return Err(ParseError::NoHeader),
    }
    Ok(())
}

struct Found<'a> {
    partial: Partial,
    zone_guessed: bool,
    /// The time's own spelling, with its zone.
    text: &'a [u8],
    rest: &'a [u8],
}

/// A time that blanks follow; with a colon behind it, it is Cisco's way.
fn find_stamp(body: &[u8]) -> Option<Found<'_>> {
    let (partial, used) = stamp::any(body)?;
    let (text, rest) = body.split_at(used);
    match rest {
        [] => Some(Found { partial, zone_guessed: false, text, rest }),
        [b' ' | b'\t', word @ ..] => match word {
            // No host name begins with a sign, hardly any with a capital.
            [b'A'..=b'Z' | b'+' | b'-', ..] => zoned(body, partial, used, word),
            _ => Some(Found { partial, zone_guessed: false, text, rest: word }),
        },
        _ => None,
    }
}

/// With a zone between time and host, unless that is the host's name.
fn zoned<'a>(body: &'a [u8], partial: Partial, used: usize, word: &'a [u8]) -> Option<Found<'a>> {
    let plain = Found { partial, zone_guessed: false, text: &body[..used], rest: word };
    let Some(Zone { len, offset_seconds, guessed }) = super::zone::zone(word) else {
        return Some(plain);
    };
    let after = &word[len..];
    if let Some(text) = skip_blanks(after).strip_prefix(b":").map(skip_blanks)
        && tag::is_mnemonic(text)
    {
        // `CET: %SYS-5-…` is a zone, `FW : %ASA-6-…` a host.
        let is_host = offset_seconds.is_none() && (after.starts_with(b" ") || known::is_firewall(text));
        return is_host.then_some(plain);
    }
    if let Some(year) = stamp::year_behind(after)
        && partial.year.is_none()
        && (offset_seconds.is_some() || word[..len].ends_with(b"T"))
    {
        let text = &body[..used + 1 + len + 5];
        let partial =
            Partial { year: Some(year), offset_seconds: offset_seconds.or(partial.offset_seconds), ..partial };
        return Some(Found { partial, zone_guessed: guessed, text, rest: &body[text.len()..] });
    }
    let rest = skip_blanks(after);
    let is_zone = known_zone(word).is_some() && (!guessed || tag(rest, true).is_none() && has_host_and_tag(rest));
    if partial.offset_seconds.is_some() || !is_zone {
        return Some(plain);
    }
    let text = &body[..used + 1 + len];
    Some(Found { partial: Partial { offset_seconds, ..partial }, zone_guessed: guessed, text, rest })
}

fn has_host_and_tag(rest: &[u8]) -> bool {
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    tag(skip_blanks(&rest[end..]), true).is_some()
}

fn host_and_text<'a>(rest: &'a [u8], m: &mut Message<'a>) {
    let start = keywords(skip_blanks(rest), m);
    let rest = host(start, m);
    if let [b'1', b' ', inner @ ..] = rest
        && known::relayed_meraki(inner, m)
    {
        return;
    }
    tag_and_text(rest, m);
    let Some(word) = m.hostname else { return };
    if m.hostname_source.is_some() || m.app.is_some() && is_host_like(word) {
        return;
    }
    // Nothing behind the first word shows that it is the host.
    if m.app.is_some() || is_host_like(word) {
        let sure = is_ip(word) || known::is_payload(m.message) || known::is_notice(m.message);
        m.hostname_source = (!sure).then_some(HostSource::Guessed);
    } else {
        m.hostname = None;
        m.message = start;
    }
}

/// Takes FreeBSD's `<auth.info> ` off.
fn keywords<'a>(rest: &'a [u8], m: &mut Message<'a>) -> &'a [u8] {
    if let Some(inside) = rest.strip_prefix(b"<")
        && let Some(end) = memchr::memmem::find(&inside[..inside.len().min(24)], b"> ")
        && let Some(pri) = Pri::from_keywords(&inside[..end])
    {
        m.keep_raw |= m.pri.is_some_and(|header| header != pri);
        m.pri = m.pri.or(Some(pri));
        return skip_blanks(&inside[end + 2..]);
    }
    rest
}

/// Takes the host off, unless the line has none.
fn host<'a>(rest: &'a [u8], m: &mut Message<'a>) -> &'a [u8] {
    if let [b'M', ..] = rest
        && let Some(after) = rest.strip_prefix(b"Message forwarded from ")
        && let Some(colon) = memchr::memmem::find(after, b": ")
        && colon > 0
        && !after[..colon].contains(&b' ')
    {
        m.hostname = Some(&after[..colon]);
        m.hostname_source = Some(HostSource::Relay);
        return &after[colon + 2..];
    }
    if rest.starts_with(b": ") || known::is_payload(rest) || known::is_notice(rest) {
        return rest;
    }
    if let Some(t) = tag(rest, true) {
        // `asa1: %ASA-6-302013: …`
        if t.procid.is_none() && tag::is_mnemonic(t.text) && is_host_like(t.app) {
            m.hostname = Some(t.app);
            return t.text;
        }
        return rest;
    }
    let end = memchr::memchr2(b' ', b'\t', rest).unwrap_or(rest.len());
    if end == 0 {
        return rest;
    }
    m.hostname = Some(&rest[..end]);
    rest.get(end + 1..).unwrap_or_default()
}

/// What host names are made of, and the slashes and signs that relays and devices add.
const HOST_BYTES: [bool; 256] = {
    let mut table = [true; 256];
    let mut c = 0;
    while c <= 0x7F {
        let byte = c as u8;
        table[c] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'/' | b'@' | b'%');
        c += 1;
    }
    table
};

pub(super) fn is_host_like(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|c| HOST_BYTES[usize::from(*c)]) && word[0] != b'%' || is_ip(word)
}

/// An address, perhaps in brackets or with a zone.
fn is_ip(word: &[u8]) -> bool {
    let word = word.strip_prefix(b"[").and_then(|w| w.strip_suffix(b"]")).unwrap_or(word);
    let word = word.split(|c| *c == b'%').next().unwrap_or_default();
    std::str::from_utf8(word).is_ok_and(|w| w.parse::<std::net::IpAddr>().is_ok())
}
