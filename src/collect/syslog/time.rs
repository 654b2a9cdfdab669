//! Points in time as logs spell them, and what they leave out.
//!
//! A BSD stamp (`Nov 20 12:55:01`) has neither year nor offset; an ISO stamp may
//! lack the offset. [`TimeResolver`] fills both in from the receive time and one
//! configured zone. It is pure (the receive time is an argument) and cannot
//! panic: every field of a [`Partial`] is range-checked when it is read.
//!
//! Rules, so that the same line always gives the same answer:
//! - The year is the latest one that puts the line no more than
//!   [`FUTURE_HOURS_MAX`] after its receipt, decided by whole hours: a
//!   "Dec 31" line received on January 1 is last year's, while a clock that is a
//!   little ahead keeps this year.
//! - A local time that occurs twice (end of summer time) is the first of the two;
//!   one that never occurs (start of summer time) takes the offset from before
//!   the gap, as RFC 5545 has it.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};

/// How far ahead of its receipt a line without a year may be.
pub const FUTURE_HOURS_MAX: i64 = 72;

/// Within so many days of its receipt the year of a line without one is certain.
pub const NEAR_DAYS_MAX: i64 = 7;

/// How many years back a date is looked for (February 29 can be eight years away).
const YEARS_BACK_MAX: i16 = 8;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The English abbreviation that logs use; `month` counts from 1.
#[must_use]
pub fn month_name(month: u8) -> &'static str {
    MONTHS.get(usize::from(month).wrapping_sub(1)).copied().unwrap_or("")
}

/// A stamp as read: in range, but perhaps without year or offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    pub year: Option<i16>,
    pub month: u8,
    pub day: u8,
    /// The day was spelt with a leading zero, which is not the BSD way.
    pub day_padded: bool,
    pub hour: u8,
    pub minute: u8,
    /// 60 in a leap second.
    pub second: u8,
    pub nanos: u32,
    pub offset_seconds: Option<i32>,
}

impl Partial {
    /// With what it may lack.
    pub(super) fn at(&self, year: i16, offset_seconds: i32) -> Stamp {
        Stamp {
            year,
            month: self.month,
            day: self.day,
            day_padded: self.day_padded,
            hour: self.hour,
            minute: self.minute,
            second: self.second,
            nanos: self.nanos,
            offset_seconds,
        }
    }
}

/// A whole point in time, in the offset that the log means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub year: i16,
    pub month: u8,
    pub day: u8,
    pub day_padded: bool,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub nanos: u32,
    pub offset_seconds: i32,
}

impl Stamp {
    /// `received`, in UTC.
    #[must_use]
    pub fn utc(received: Timestamp) -> Self {
        let t = Offset::UTC.to_datetime(received);
        Stamp {
            year: t.year(),
            month: t.month().unsigned_abs(),
            day: t.day().unsigned_abs(),
            day_padded: false,
            hour: t.hour().unsigned_abs(),
            minute: t.minute().unsigned_abs(),
            second: t.second().unsigned_abs(),
            nanos: t.subsec_nanosecond().unsigned_abs(),
            offset_seconds: 0,
        }
    }

    /// Whether it is within [`NEAR_DAYS_MAX`] of `received`, offsets aside.
    pub(super) fn is_near(&self, received: Timestamp) -> bool {
        let days = days_from_civil(self.year, self.month, self.day);
        (days - received.as_second().div_euclid(86_400)).abs() <= NEAR_DAYS_MAX
    }

    /// Appends RFC 3339 with offset: milliseconds, or as many digits as it takes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let year = self.year.unsigned_abs();
        let mut buf = *b"0000-00-00T00:00:00";
        put2(&mut buf, 0, (year / 100) as u8);
        put2(&mut buf, 2, (year % 100) as u8);
        put2(&mut buf, 5, self.month);
        put2(&mut buf, 8, self.day);
        put2(&mut buf, 11, self.hour);
        put2(&mut buf, 14, self.minute);
        // Most readers of RFC 3339 refuse the 60 of a leap second.
        put2(&mut buf, 17, self.second.min(59));
        out.extend_from_slice(&buf);
        write_fraction(out, self.nanos);
        let minutes = self.offset_seconds.unsigned_abs() / 60;
        let mut zone = *b"+00:00";
        if self.offset_seconds < 0 {
            zone[0] = b'-';
        }
        put2(&mut zone, 1, (minutes / 60) as u8);
        put2(&mut zone, 4, (minutes % 60) as u8);
        out.extend_from_slice(&zone);
    }

    /// `12:55:01`, as a mail log spells it.
    #[must_use]
    pub fn clock(&self) -> [u8; 8] {
        let mut buf = *b"00:00:00";
        put2(&mut buf, 0, self.hour);
        put2(&mut buf, 3, self.minute);
        put2(&mut buf, 6, self.second);
        buf
    }
}

/// Days since 1970-01-01 in the Gregorian calendar (H. Hinnant's way: the year begins in March).
fn days_from_civil(year: i16, month: u8, day: u8) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

fn put2(buf: &mut [u8], at: usize, value: u8) {
    if let Some([tens, ones]) = buf.get_mut(at..at + 2) {
        *tens = b'0' + value / 10 % 10;
        *ones = b'0' + value % 10;
    }
}

fn write_fraction(out: &mut Vec<u8>, nanos: u32) {
    if nanos == 0 {
        out.extend_from_slice(b".000");
        return;
    }
    let (mut rest, digits) = match nanos {
        n if n % 1_000_000 == 0 => (n / 1_000_000, 3),
        n if n % 1_000 == 0 => (n / 1_000, 6),
        n => (n, 9),
    };
    let mut buf = *b".000000000";
    for slot in buf[1..=digits].iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&buf[..=digits]);
}

/// A zone that the configuration names and nobody knows.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown time zone {name:?}: use \"local\", \"UTC\", a name such as \"Europe/Berlin\", or an offset such as \"+02:00\""
)]
pub struct ZoneError {
    name: String,
}

/// Reads a zone from the configuration: `local`, an IANA name, or a fixed offset.
pub fn parse_zone(name: &str) -> Result<TimeZone, ZoneError> {
    let unknown = || ZoneError { name: name.to_owned() };
    match name {
        "local" => Ok(TimeZone::system()),
        "UTC" | "Z" => Ok(TimeZone::UTC),
        _ if name.starts_with(['+', '-']) => fixed_offset(name).ok_or_else(unknown),
        _ => TimeZone::get(name).map_err(|_| unknown()),
    }
}

fn fixed_offset(name: &str) -> Option<TimeZone> {
    let seconds = super::wire::stamp::offset(name.as_bytes()).filter(|(_, n)| *n == name.len())?.0;
    Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?))
}

/// Fills in year and offset. Logs come in order, so the answer for the last hour
/// seen is kept: no look-up in the zone database a line.
#[derive(Debug)]
pub struct TimeResolver {
    zone: TimeZone,
    last: Option<Hour>,
}

/// One local hour with a single offset, and the receive times for which its year holds.
#[derive(Debug)]
struct Hour {
    year_spelt: Option<i16>,
    month: u8,
    day: u8,
    hour: u8,
    year: i16,
    offset_seconds: i32,
    received_from: i64,
    received_until: i64,
}

impl TimeResolver {
    #[must_use]
    pub fn new(zone: TimeZone) -> Self {
        TimeResolver { zone, last: None }
    }

    /// `None` when there is no such day in any year in reach.
    pub fn resolve(&mut self, p: &Partial, received: Timestamp) -> Option<Stamp> {
        if let (Some(year), Some(offset)) = (p.year, p.offset_seconds) {
            return Some(p.at(year, offset));
        }
        let now = received.as_second();
        if let Some(h) = &self.last
            && (h.month, h.day, h.hour) == (p.month, p.day, p.hour)
            && h.year_spelt == p.year
            && (h.received_from..h.received_until).contains(&now)
        {
            return Some(p.at(h.year, p.offset_seconds.unwrap_or(h.offset_seconds)));
        }
        self.look_up(p, received)
    }

    fn look_up(&mut self, p: &Partial, received: Timestamp) -> Option<Stamp> {
        let (year, received_from, received_until) = match p.year {
            Some(year) => (year, i64::MIN, i64::MAX),
            None => self.guess_year(p, received)?,
        };
        let date = date(year, p)?;
        let first = self.offset_at(date.at(hour(p), 0, 0, 0));
        let last = self.offset_at(date.at(hour(p), 59, 59, 0));
        let exact = self.offset_at(date.at(hour(p), minute(p), 0, 0));
        // In the hour of a change the offset depends on the minute: do not keep it.
        let (Some(offset_seconds), _) = exact else {
            return None;
        };
        if first == last && first.1 && p.offset_seconds.is_none() {
            self.last = Some(Hour {
                year_spelt: p.year,
                month: p.month,
                day: p.day,
                hour: p.hour,
                year,
                offset_seconds,
                received_from,
                received_until,
            });
        }
        Some(p.at(year, p.offset_seconds.unwrap_or(offset_seconds)))
    }

    /// The year, and from when until when a receipt gives the same year.
    fn guess_year(&self, p: &Partial, received: Timestamp) -> Option<(i16, i64, i64)> {
        let newest = Offset::UTC.to_datetime(received).year().checked_add(1)?;
        let limit = received.as_second() + FUTURE_HOURS_MAX * 3600;
        let mut next_starts = i64::MAX;
        for year in (newest - YEARS_BACK_MAX..=newest).rev() {
            let Some(start) = date(year, p).and_then(|d| self.second_of(d.at(hour(p), 0, 0, 0))) else {
                continue;
            };
            if start <= limit {
                let ahead = FUTURE_HOURS_MAX * 3600;
                // Without a later candidate, the next year's turn decides anew.
                let until = if next_starts == i64::MAX { received.as_second() + 1 } else { next_starts - ahead };
                return Some((year, start - ahead, until));
            }
            next_starts = start;
        }
        None
    }

    fn second_of(&self, t: DateTime) -> Option<i64> {
        self.zone.to_ambiguous_timestamp(t).compatible().ok().map(Timestamp::as_second)
    }

    /// The offset in force at a local time, and whether it is the only possible one.
    fn offset_at(&self, t: DateTime) -> (Option<i32>, bool) {
        let ambiguous = self.zone.to_ambiguous_timestamp(t);
        let plain = !ambiguous.is_ambiguous();
        let offset = match ambiguous.offset() {
            jiff::tz::AmbiguousOffset::Unambiguous { offset } => offset,
            jiff::tz::AmbiguousOffset::Gap { before, .. } | jiff::tz::AmbiguousOffset::Fold { before, .. } => before,
        };
        (Some(offset.seconds()), plain)
    }
}

fn date(year: i16, p: &Partial) -> Option<Date> {
    Date::new(year, p.month as i8, p.day as i8).ok()
}

fn hour(p: &Partial) -> i8 {
    p.hour.min(23) as i8
}

fn minute(p: &Partial) -> i8 {
    p.minute.min(59) as i8
}

#[cfg(test)]
mod tests;
