//! What Cisco's systems put before the time:
//! `[123: ][host: ][000123: ][host RP/0/RP0/CPU0:][*|.]Mar  1 18:46:11.123[ UTC]: %…`
//!
//! - IOS: the collector's count, the name (`logging origin-id`), its own count, a mark
//!   for a clock that is not set (`*`) or has lost its source (`.`), time or uptime;
//! - IOS-XR: the place in the chassis; NX-OS and UCS: `: ` and the year first;
//! - wireless controllers: the task, `*spamApTask1: `.
//!
//! Only a time or uptime with a colon behind it, or a count before a mnemonic, makes a
//! line one of Cisco's.

use super::stamp;
use super::tag::{is_mnemonic, skip_blanks};
use super::zone::zone;
use crate::collect::syslog::time::Partial;

/// Counts, names and places before the time.
const PARTS_MAX: usize = 6;

/// How sure the device is of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Set,
    Unset,
    Unsynced,
}

pub(super) enum Time {
    At(Partial),
    Uptime,
    None,
}

pub(super) struct Header<'a> {
    pub(super) time: Time,
    pub(super) clock: Clock,
    pub(super) zone_guessed: bool,
    /// The time's own spelling, with mark and zone.
    pub(super) text: Option<&'a [u8]>,
    pub(super) sequence: Option<&'a [u8]>,
    pub(super) hostname: Option<&'a [u8]>,
    /// Something was read over that no field holds.
    pub(super) keep_raw: bool,
    pub(super) rest: &'a [u8],
}

pub(super) fn header(body: &[u8]) -> Option<Header<'_>> {
    let mut h = Header {
        time: Time::None,
        clock: Clock::Set,
        zone_guessed: false,
        text: None,
        sequence: None,
        hostname: None,
        keep_raw: false,
        rest: body,
    };
    if let [b':', rest @ ..] = body {
        h.rest = skip_blanks(rest);
    }
    for _ in 0..PARTS_MAX {
        if time(&mut h) || uptime(&mut h) {
            let certain = h.hostname.is_none() || h.keep_raw || is_mnemonic(h.rest);
            return certain.then_some(h);
        }
        if is_mnemonic(h.rest) {
            return (h.sequence.is_some() || h.hostname.is_some() && h.keep_raw).then_some(h);
        }
        part(&mut h)?;
    }
    None
}

/// Takes one part off that is not the time.
fn part(h: &mut Header<'_>) -> Option<()> {
    let s = h.rest;
    if s.starts_with(b"[syslog@9 ") {
        let end = memchr::memmem::find(s, b"]: ")?;
        h.keep_raw = true;
        h.rest = &s[end + 3..];
        return Some(());
    }
    let end = s.iter().take(255).position(|c| matches!(c, b':' | b' '))?;
    let (word, after) = (&s[..end], &s[end + 1..]);
    if word.is_empty() {
        return None;
    }
    if s[end] == b' ' {
        // The name, if the place in the chassis follows: `router1 RP/0/RP0/CPU0:`.
        let next = after.iter().take(64).position(|c| matches!(c, b':' | b' '))?;
        if after[next] != b':' || !after[..next].contains(&b'/') || h.hostname.is_some() {
            return None;
        }
        h.hostname = Some(word);
        h.rest = after;
        return Some(());
    }
    if word.iter().all(u8::is_ascii_digit) {
        h.keep_raw |= h.sequence.is_some();
        h.sequence = Some(word);
    } else if word.contains(&b'/') || word.starts_with(b"*") {
        h.keep_raw = true;
    } else if h.hostname.is_none() && after.first() == Some(&b' ') && super::rfc3164::is_host_like(word) {
        h.hostname = Some(word);
    } else {
        return None;
    }
    h.rest = skip_blanks(after);
    Some(())
}

/// Takes mark, time, zone and colon off.
fn time(h: &mut Header<'_>) -> bool {
    let (clock, unmarked) = match h.rest {
        [b'*', rest @ ..] => (Clock::Unset, rest),
        [b'.', rest @ ..] => (Clock::Unsynced, rest),
        rest => (Clock::Set, rest),
    };
    let Some((mut partial, used)) = stamp::any(unmarked) else {
        return false;
    };
    let mut rest = &unmarked[used..];
    let mut guessed = false;
    if let [b' ', word @ ..] = rest
        && let Some(z) = zone(word)
    {
        partial.offset_seconds = z.offset_seconds;
        guessed = z.guessed;
        rest = &word[z.len..];
    }
    let len = h.rest.len() - rest.len();
    let Some(rest) = skip_blanks(rest).strip_prefix(b":") else {
        return false;
    };
    h.text = Some(&h.rest[..len]);
    (h.clock, h.time, h.zone_guessed) = (clock, Time::At(partial), guessed);
    h.rest = skip_blanks(rest);
    true
}

/// `00:01:01: %`, `3d04h: %`, `1y2w: %` or `101 21: %` (days and hours).
fn uptime(h: &mut Header<'_>) -> bool {
    let s = h.rest;
    let Some(end) = memchr::memmem::find(&s[..s.len().min(24)], b": %") else {
        return false;
    };
    let text = &s[..end];
    let digits_first = text.first().is_some_and(u8::is_ascii_digit);
    let marked = text.iter().any(|c| !c.is_ascii_digit());
    let all = text.iter().all(|c| c.is_ascii_digit() || b"ywdhms:. ".contains(c));
    if !(digits_first && marked && all && is_mnemonic(&s[end + 2..])) {
        return false;
    }
    // A count before an uptime in clock form is a part of its own.
    if memchr::memmem::find(text, b": ").is_some() {
        return false;
    }
    h.text = Some(text);
    h.time = Time::Uptime;
    h.rest = &s[end + 2..];
    true
}
