//! Which objects are meant, as far as their keys tell.

use greypit_pipeline::Kind;
use greypit_pipeline::store::ObjectInfo;
use greypit_pipeline::units::Span;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Empty: all.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

/// An object that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    pub(crate) key: String,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) kind: Option<Kind>,
    pub(crate) window: Option<Window>,
    pub(crate) take: Take,
}

/// Which records of an object are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    All,
    /// The key does not tell: each record's `ts` and `kind` do.
    ByRecord,
}

/// When an object's window began, as exactly as its key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    Minute(Timestamp),
    Day(Timestamp),
}

impl Selection {
    /// The object, unless its key says that it was not asked for.
    pub(crate) fn select(&self, object: ObjectInfo) -> Option<Selected> {
        let (kind, window) = (kind_of_key(&object.key), window_of_key(&object.key));
        let by_kind = match kind {
            _ if self.kinds.is_empty() => Take::All,
            Some(kind) if self.kinds.contains(&kind) => Take::All,
            Some(_) => return None,
            None => Take::ByRecord,
        };
        let by_time = match window {
            _ if self.since.is_none() && self.until.is_none() => Take::All,
            None => Take::ByRecord,
            Some(Window::Minute(start)) if self.covers(start) => Take::All,
            Some(Window::Minute(_)) => return None,
            Some(Window::Day(start)) => {
                let end = start.saturating_add(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MAX);
                if self.until.is_some_and(|until| start >= until) || self.since.is_some_and(|since| end <= since) {
                    return None;
                }
                let whole =
                    self.since.is_none_or(|since| since <= start) && self.until.is_none_or(|until| end <= until);
                if whole { Take::All } else { Take::ByRecord }
            }
        };
        let take = if by_kind == Take::All { by_time } else { Take::ByRecord };
        Some(Selected { key: object.key, size: object.size, kind, window, take })
    }

    /// Whether a record of an object whose key does not tell was asked for. One without a readable `ts` is in no range.
    pub(crate) fn wants(&self, kind: Option<&str>, ts: Option<&str>) -> bool {
        let kind_fits =
            self.kinds.is_empty() || kind.and_then(Kind::parse).is_some_and(|kind| self.kinds.contains(&kind));
        let in_range = || ts.and_then(|ts| ts.parse().ok()).is_some_and(|ts: Timestamp| self.covers(ts));
        kind_fits && ((self.since.is_none() && self.until.is_none()) || in_range())
    }

    fn covers(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }
}

/// `to-2026-11-20-…` or `…/kind=to/…`.
fn kind_of_key(key: &str) -> Option<Kind> {
    if let Some(value) = hive(key, &["kind"]) {
        return Kind::parse(value);
    }
    let (kind, rest) = key.rsplit('/').next()?.split_once('-')?;
    date_at(rest)?;
    Kind::parse(kind)
}

/// The last date in the key, with the `-HH-MM` behind it, or with Hive's `hour=` and `minute=`.
fn window_of_key(key: &str) -> Option<Window> {
    let (at, date) = (0..key.len()).rev().find_map(|at| {
        let starts = at == 0 || !key.as_bytes()[at - 1].is_ascii_digit();
        let date = starts.then(|| key.get(at..).and_then(date_at)).flatten()?;
        Some((at, date))
    })?;
    let behind = &key.as_bytes()[at + DATE_BYTES..];
    let two = |bytes: &[u8]| {
        Some((char::from(*bytes.first()?).to_digit(10)? * 10 + char::from(*bytes.get(1)?).to_digit(10)?) as i8)
    };
    let named = match behind {
        [b'-' | b'T' | b'_', h1, h2, b'-' | b':', m1, m2, b'-' | b'.' | b'/' | b'_' | b':', ..] => {
            two(&[*h1, *h2]).zip(two(&[*m1, *m2]))
        }
        _ => hive(key, &["hour", "HH", "h"])
            .filter(|value| value.len() == 2)
            .and_then(|hour| two(hour.as_bytes()))
            .map(|hour| {
                let minute = hive(key, &["minute", "MM", "m"]).filter(|value| value.len() == 2);
                (hour, minute.and_then(|minute| two(minute.as_bytes())).unwrap_or(0))
            }),
    };
    let time = named.and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok());
    let start = utc(date.to_datetime(time.unwrap_or(Time::midnight())))?;
    Some(if time.is_some() { Window::Minute(start) } else { Window::Day(start) })
}

const DATE_BYTES: usize = "2026-11-20".len();

/// A date at the start of a text.
fn date_at(text: &str) -> Option<Date> {
    let text = text.get(..DATE_BYTES)?;
    let shape = text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
    shape.then(|| text.parse().ok()).flatten()
}

fn hive<'a>(key: &'a str, names: &[&str]) -> Option<&'a str> {
    key.split('/')
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| names.contains(name))
        .map(|(_, value)| value)
}

fn utc(time: DateTime) -> Option<Timestamp> {
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Reads `--since` and `--until`.
pub(crate) fn parse_when(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Some(date) = date_at(text) {
        let civil = if text.len() == DATE_BYTES { Some(date.to_datetime(Time::midnight())) } else { text.parse().ok() };
        if let Some(time) = civil.and_then(utc) {
            return Ok(time);
        }
    }
    let back = Span::parse(text).and_then(|span| SignedDuration::try_from(span.0).ok());
    back.and_then(|back| now.checked_sub(back).ok()).ok_or_else(|| {
        "write 2026-11-20, 2026-11-20T12:55, 2026-11-20T13:55:00+01:00, or back from now: 90m, 2d".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn keys_tell_kind_and_window() {
        let minute = |text| Some(Window::Minute(time(text)));
        let day = |text| Some(Window::Day(time(text)));
        for (key, kind, window) in [
            ("mail_logs/2026-11-20/to-2026-11-20-12-55-mx1-42.json.bz2", Some("to"), minute("2026-11-20T12:55:00Z")),
            ("mail_logs/2026-11-20/to-2026-11-20-12-55-p3-1200.json", Some("to"), minute("2026-11-20T12:55:00Z")),
            ("logs/kind=to/dt=2026-11-20/mx1-42.json.bz2", Some("to"), day("2026-11-20T00:00:00Z")),
            ("logs/kind=to/dt=2026-11-20/hour=07/mx1-42.json.bz2", Some("to"), minute("2026-11-20T07:00:00Z")),
            ("a/2026-11-20/mx1-42.json", None, day("2026-11-20T00:00:00Z")),
            ("a/2026-11-20/mx-2026-42.json", None, day("2026-11-20T00:00:00Z")),
            ("to-2026-13-20-12-55-x.json", None, None),
            ("to-2026-11-20-25-55-x.json", Some("to"), day("2026-11-20T00:00:00Z")),
            ("12026-11-20.json", None, None),
            ("mx1.json", None, None),
            ("ä2026-11-2", None, None),
        ] {
            let found = kind_of_key(key);
            assert_eq!((found.map(|kind| kind.to_string()).as_deref(), window_of_key(key)), (kind, window), "{key}");
        }
    }

    #[test]
    fn objects_outside_are_left_out() {
        let of = |selection: &Selection, key: &str| {
            selection.select(ObjectInfo { key: key.into(), size: 1 }).map(|selected| selected.take)
        };
        let (five, nine) = ("m/2026-11-20/to-2026-11-20-05-00-x.json", "m/2026-11-20/to-2026-11-20-09-00-x.json");
        let (hive, bare) = ("kind=to/dt=2026-11-20/x.json", "x.json");
        let range = |since: Option<&str>, until: Option<&str>| Selection {
            since: since.map(time),
            until: until.map(time),
            ..Selection::default()
        };
        let morning = range(Some("2026-11-20T05:00:00Z"), Some("2026-11-20T09:00:00Z"));
        assert_eq!(of(&morning, five), Some(Take::All));
        assert_eq!(of(&morning, nine), None);
        assert_eq!(of(&morning, hive), Some(Take::ByRecord));
        assert_eq!(of(&morning, bare), Some(Take::ByRecord));
        assert_eq!(of(&range(Some("2026-11-20T00:00:00Z"), Some("2026-11-21T00:00:00Z")), hive), Some(Take::All));
        assert_eq!(of(&range(Some("2026-11-21T00:00:00Z"), None), hive), None);
        assert_eq!(of(&range(None, Some("2026-11-20T00:00:00Z")), hive), None);

        let from = Selection { kinds: vec![Kind::new("from")], ..Selection::default() };
        assert_eq!(of(&from, five), None);
        assert_eq!(of(&from, bare), Some(Take::ByRecord));
        assert!(from.wants(Some("from"), None));
        assert!(!from.wants(Some("to"), None));
        assert!(morning.wants(None, Some("2026-11-20T06:00:00.5+01:00")));
        assert!(!morning.wants(None, Some("2026-11-20T06:00:00+03:00")));
        assert!(!morning.wants(None, Some("yesterday")));
    }

    #[test]
    fn times_as_people_write_them() {
        let now = time("2026-11-20T12:00:00Z");
        for (text, expected) in [
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            ("2026-11-20T12:55", "2026-11-20T12:55:00Z"),
            ("2026-11-20T12:55:07", "2026-11-20T12:55:07Z"),
            ("2026-11-20T12:55:00+01:00", "2026-11-20T11:55:00Z"),
            ("1h", "2026-11-20T11:00:00Z"),
            ("2d", "2026-11-18T12:00:00Z"),
            ("1h30m", "2026-11-20T10:30:00Z"),
        ] {
            assert_eq!(parse_when(text, now), Ok(time(expected)), "{text}");
        }
        for bad in ["", "yesterday", "2026-13-01", "2026-11-20T", "5", "-1h", "99999999999d"] {
            assert!(parse_when(bad, now).is_err(), "{bad}");
        }
    }
}
