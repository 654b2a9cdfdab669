//! Time stamps at the start of a header: BSD (`Nov 20 12:55:01`, with a year
//! before or behind the time, with a fraction) and ISO 8601 / RFC 3339.
//!
//! Each reader takes the rest of a message and gives the stamp and how many bytes
//! it took. Fields are in range; whether the day exists in its month is checked
//! here for ISO stamps and by the resolver for those without a year.

use crate::collect::syslog::time::Partial;

/// `Mmm dd hh:mm:ss`, `Mmm dd yyyy hh:mm:ss` or `Mmm dd hh:mm:ss yyyy`, each with
/// an optional fraction.
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
    let (hour, minute, second) = clock(s.get(at..at + 8)?)?;
    at += 8;
    let (nanos, used) = fraction(&s[at..]);
    at += used;
    if year.is_none()
        && s.get(at) == Some(&b' ')
        && let Some(y) = year4(&s[at + 1..])
        && s.get(at + 5) == Some(&b' ')
    {
        year = Some(y);
        at += 5;
    }
    let p = Partial { year, month, day, day_padded, hour, minute, second, nanos, offset_seconds: None };
    Some((p, at))
}

/// `yyyy-mm-ddThh:mm:ss[.f…][Z|±hh:mm]`; `spaced` also takes a blank for the `T`
/// and a missing offset, as files do and RFC 5424 does not.
pub(crate) fn iso(s: &[u8], spaced: bool) -> Option<(Partial, usize)> {
    let head: &[u8; 11] = s.first_chunk()?;
    if head[4] != b'-' || head[7] != b'-' {
        return None;
    }
    if !(head[10] == b'T' || spaced && head[10] == b' ') {
        return None;
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

/// `.123` or `,123`: nanoseconds and length. Digits past the ninth are dropped.
fn fraction(s: &[u8]) -> (u32, usize) {
    if !matches!(s, [b'.' | b',', d, ..] if d.is_ascii_digit()) {
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
