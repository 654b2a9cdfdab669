//! Time stamps at the start of a header: BSD (`Nov 20 12:55:01`, with a weekday or a
//! year in front, a year before or behind the time, a fraction, `AM`, an offset) and
//! ISO 8601 / RFC 3339 with what resembles it (`2026/11/20 12:55:01`, and Astaro's
//! `2026:11:20-12:55:01`).
//!
//! Each reader takes the rest of a message and gives the stamp and how many bytes
//! it took. Fields are in range; whether the day exists in its month is checked
//! here for ISO stamps and by the resolver for those without a year.

use crate::collect::syslog::time::Partial;

/// Whether what is no time has the look of one: `Nov 32 12:55:01`, `2026-02-29T12:55:01Z`.
pub(super) fn looks_like_one(s: &[u8]) -> bool {
    let is_clock = |s: &[u8]| matches!(s, [_, _, b':', _, _, b':', d, ..] if d.is_ascii_digit());
    match s {
        [b'A'..=b'Z', ..] => s.get(..4).and_then(month).is_some() && s.get(7..).is_some_and(is_clock),
        [b'0'..=b'9', _, _, _, b'-', _, _, b'-', _, _, b' ' | b'T', clock @ ..] => is_clock(clock),
        _ => false,
    }
}

/// ` 1987` at the start of `s`: the year behind a zone.
pub(super) fn year_behind(s: &[u8]) -> Option<i16> {
    let year = year4(s.strip_prefix(b" ")?)?;
    matches!(s.get(5), None | Some(b' ' | b'\t')).then_some(year)
}

/// Either, by its first byte.
pub(super) fn any(s: &[u8]) -> Option<(Partial, usize)> {
    match s.first()? {
        b'A'..=b'Z' => bsd(s).or_else(|| weekday_first(s)),
        b'0'..=b'9' => iso(s, true).or_else(|| year_first(s)),
        _ => None,
    }
}

/// `Fri Nov 20 12:55:01 2026`, as asctime has it.
fn weekday_first(s: &[u8]) -> Option<(Partial, usize)> {
    if !matches!(s.get(..4)?, b"Mon " | b"Tue " | b"Wed " | b"Thu " | b"Fri " | b"Sat " | b"Sun ") {
        return None;
    }
    bsd(&s[4..]).map(|(p, used)| (p, used + 4))
}

/// `2026 Nov 20 12:55:01`, as Cisco NX-OS has it.
fn year_first(s: &[u8]) -> Option<(Partial, usize)> {
    let year = year4(s)?;
    let (p, used) = bsd(s.get(4..)?.strip_prefix(b" ")?)?;
    p.year.is_none().then_some((Partial { year: Some(year), ..p }, used + 5))
}

/// `Mmm dd hh:mm:ss`, `Mmm dd yyyy hh:mm:ss` or `Mmm dd hh:mm:ss yyyy`, each with
/// an optional fraction and offset.
pub(crate) fn bsd(s: &[u8]) -> Option<(Partial, usize)> {
    let month = month(s.get(..4)?)?;
    let (day, day_padded, mut at) = match *s.get(4..7)? {
        [b' ', d, b' '] if d.is_ascii_digit() => (d - b'0', false, 7),
        [t, d, b' '] if t.is_ascii_digit() && d.is_ascii_digit() => ((t - b'0') * 10 + (d - b'0'), t == b'0', 7),
        [d, b' ', _] if d.is_ascii_digit() => (d - b'0', false, 6),
        _ => return None,
    };
    if !(1..=31).contains(&day) {
        return None;
    }
    let mut year = None;
    if let Some(y) = year4(&s[at..])
        && s.get(at + 4) == Some(&b' ')
    {
        year = Some(y);
        at += 5;
    }
    let (mut hour, minute, second) = clock(s.get(at..at + 8)?)?;
    at += 8;
    if let Some(half) = half_day(&s[at..], hour) {
        hour = half;
        at += 3;
    }
    let (nanos, used) = fraction(&s[at..]);
    at += used;
    let mut offset_seconds = None;
    if matches!(s.get(at), Some(b'+' | b'-'))
        && let Some((seconds, used)) = offset(&s[at..])
    {
        offset_seconds = Some(seconds);
        at += used;
    }
    if year.is_none()
        && s.get(at) == Some(&b' ')
        && let Some(y) = year4(&s[at + 1..])
        && matches!(s[at + 5..], [] | [b' ' | b'\t', ..] | [b':', b' ', ..])
    {
        year = Some(y);
        at += 5;
    }
    let p = Partial { year, month, day, day_padded, hour, minute, second, nanos, offset_seconds };
    Some((p, at))
}

/// The hour of a 12-hour clock with ` AM.` or ` PM.` behind it (Cisco's call managers).
fn half_day(s: &[u8], hour: u8) -> Option<u8> {
    match s {
        [b' ', b'A', b'M', b'.', ..] if (1..=12).contains(&hour) => Some(hour % 12),
        [b' ', b'P', b'M', b'.', ..] if (1..=12).contains(&hour) => Some(hour % 12 + 12),
        _ => None,
    }
}

/// `yyyy-mm-ddThh:mm:ss[.f…][Z|±hh:mm]`; `spaced` also takes a blank for the `T`
/// and a missing offset, as files do and RFC 5424 does not.
pub(crate) fn iso(s: &[u8], spaced: bool) -> Option<(Partial, usize)> {
    let head: &[u8; 11] = s.first_chunk()?;
    match (head[4], head[7], head[10]) {
        (b'-', b'-', b'T') => {}
        (b'-', b'-', b' ') | (b'/', b'/', b' ') | (b':', b':', b'-') if spaced => {}
        _ => return None,
    }
    let year = i16::from(two(head[0], head[1])?) * 100 + i16::from(two(head[2], head[3])?);
    let (month, day) = (two(head[5], head[6])?, two(head[8], head[9])?);
    let (hour, minute, second) = clock(s.get(11..19)?)?;
    if !(1..=12).contains(&month) || day == 0 || day > days_in(year, month) {
        return None;
    }
    let mut at = 19;
    let (nanos, used) = fraction(&s[at..]);
    at += used;
    let offset_seconds = match offset(&s[at..]) {
        Some((seconds, used)) => {
            at += used;
            Some(seconds)
        }
        None if spaced => None,
        None => return None,
    };
    let year = Some(year);
    let p = Partial { year, month, day, day_padded: false, hour, minute, second, nanos, offset_seconds };
    Some((p, at))
}

/// `Z`, `±hh:mm` or `±hhmm` in seconds, and its length.
pub(crate) fn offset(s: &[u8]) -> Option<(i32, usize)> {
    let (sign, hours, minutes, used) = match *s {
        [b'Z', ..] => return Some((0, 1)),
        [c @ (b'+' | b'-'), a, b, b':', d, e, ..] => (c, two(a, b)?, two(d, e)?, 6),
        [c @ (b'+' | b'-'), a, b, d, e, ..] => (c, two(a, b)?, two(d, e)?, 5),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = i32::from(hours) * 3600 + i32::from(minutes) * 60;
    Some((if sign == b'-' { -seconds } else { seconds }, used))
}

fn month(s: &[u8]) -> Option<u8> {
    Some(match s {
        b"Jan " => 1,
        b"Feb " => 2,
        b"Mar " => 3,
        b"Apr " => 4,
        b"May " => 5,
        b"Jun " => 6,
        b"Jul " => 7,
        b"Aug " => 8,
        b"Sep " => 9,
        b"Oct " => 10,
        b"Nov " => 11,
        b"Dec " => 12,
        _ => return None,
    })
}

fn clock(s: &[u8]) -> Option<(u8, u8, u8)> {
    let &[a, b, b':', c, d, b':', e, f] = s else {
        return None;
    };
    let (hour, minute, second) = (two(a, b)?, two(c, d)?, two(e, f)?);
    // A leap second is 60.
    (hour < 24 && minute < 60 && second <= 60).then_some((hour, minute, second))
}

/// A year that a log can mean; keeps a host called `2` or a count from being one.
fn year4(s: &[u8]) -> Option<i16> {
    let &[a, b, c, d] = s.first_chunk()?;
    let year = i16::from(two(a, b)?) * 100 + i16::from(two(c, d)?);
    (1970..=2199).contains(&year).then_some(year)
}

fn two(tens: u8, ones: u8) -> Option<u8> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
}

/// `.123` or `,123`, of Comware `:123`: nanoseconds and length. Digits past the ninth are
/// dropped.
fn fraction(s: &[u8]) -> (u32, usize) {
    if !matches!(s, [b'.' | b',' | b':', d, ..] if d.is_ascii_digit()) {
        return (0, 0);
    }
    let digits = s[1..].iter().take_while(|c| c.is_ascii_digit()).count();
    let mut nanos = 0;
    for i in 0..9 {
        nanos = nanos * 10 + if i < digits { u32::from(s[1 + i] - b'0') } else { 0 };
    }
    (nanos, 1 + digits)
}

fn days_in(year: i16, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}
