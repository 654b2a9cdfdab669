//! One syslog message or one line of a log file, taken apart.
//!
//! Sources: RFC 5424, RFC 3164 (which describes what was seen, not what is), and
//! what senders do: rsyslog's file formats, Solaris message ids, Cisco's clocks and
//! counts, lines without host, date or PRI. [`parse`] never fails: what has no known
//! shape comes back whole as `message`, with a [`ParseError`] that says why.
//!
//! A guess is never silent: `hostname` is `None` when the line names no host and `stamp`
//! when it has no time; [`HostSource`] and [`TimeSource`] say how else they were found.
//! `keep_raw` says that something was read over that no field holds.
//!
//! No allocation, no clock, no I/O. Nothing here indexes outside a checked length,
//! so no input can cause a panic. Work is linear in the length of the message.

mod cisco;
mod known;
mod rfc3164;
mod rfc5424;
pub(crate) mod stamp;
mod tag;
mod zone;

use super::time::{Stamp, TimeResolver};
use jiff::Timestamp;

pub use rfc5424::{Elements, PARAMS_MAX, Param, Params};

/// A UTF-8 byte order mark: senders of RFC 5424 put it before the text.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Facility and severity, as one number up to 191.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pri(u8);

pub(super) const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
pub(super) const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

impl Pri {
    #[must_use]
    pub fn new(value: u8) -> Option<Self> {
        (value <= 191).then_some(Pri(value))
    }

    #[must_use]
    pub fn facility(self) -> &'static str {
        FACILITIES[usize::from(self.0 >> 3)]
    }

    #[must_use]
    pub fn severity(self) -> &'static str {
        SEVERITIES[usize::from(self.0 & 7)]
    }

    /// From `mail.info`, as Solaris and FreeBSD spell it in a line.
    fn from_keywords(s: &[u8]) -> Option<Self> {
        let dot = memchr::memchr(b'.', s)?;
        Pri::of(Pri::facility_of(&s[..dot])?, Pri::severity_of(&s[dot + 1..])?)
    }

    fn of(facility: u8, severity: u8) -> Option<Self> {
        Pri::new(facility << 3 | severity)
    }

    fn facility_of(name: &[u8]) -> Option<u8> {
        FACILITIES.iter().position(|f| f.as_bytes() == name).map(|n| n as u8)
    }

    fn severity_of(name: &[u8]) -> Option<u8> {
        Some(match name {
            b"panic" => 0,
            b"error" => 3,
            b"warn" => 4,
            _ => SEVERITIES.iter().position(|f| f.as_bytes() == name)? as u8,
        })
    }
}

/// Where a host name is from that the message does not name in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostSource {
    /// The message names none: the address that it came from.
    Peer,
    /// The message names none and came from no address: the configured name.
    Default,
    /// The word of a relay: `Message forwarded from HOST:`.
    Relay,
    /// The first word behind the time, with nothing that shows it to be a name.
    Guessed,
}

impl HostSource {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            HostSource::Peer => "peer",
            HostSource::Default => "default",
            HostSource::Relay => "relay",
            HostSource::Guessed => "guessed",
        }
    }
}

/// Why a time is not simply what the message says. Of several the gravest is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// The message has none: when it was received.
    Received,
    /// The message says how long the device is up: when it was received.
    Uptime,
    /// The device says that its clock was never set (`*` in Cisco's logs).
    ClockUnset,
    /// No year, and too long ago for it to be certain.
    YearGuessed,
    /// A zone by a name that can mean another, or none where there should be one.
    ZoneGuessed,
    /// The device says that its clock has lost its source (`.` in Cisco's logs).
    ClockUnsynced,
}

impl TimeSource {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TimeSource::Received => "received",
            TimeSource::Uptime => "uptime",
            TimeSource::ClockUnset => "clock_unset",
            TimeSource::YearGuessed => "year_guessed",
            TimeSource::ZoneGuessed => "zone_guessed",
            TimeSource::ClockUnsynced => "clock_unsynced",
        }
    }
}

/// Why a message is whole in `message` instead of taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the message is empty")]
    Empty,
    #[error("neither PRI, date nor program name at the start")]
    NoHeader,
    #[error("a PRI that is not <0> to <191>")]
    Pri,
    #[error("RFC 5424: the header is cut off")]
    HeaderCutOff,
    #[error("RFC 5424: a timestamp that is none")]
    Timestamp,
    #[error("RFC 5424: a header field with unprintable bytes")]
    HeaderField,
    #[error("RFC 5424: malformed structured data")]
    StructuredData,
    #[error("RFC 5424: more structured data than the limit")]
    StructuredDataTooBig,
    #[error("a date that does not exist")]
    Date,
}

impl ParseError {
    /// A bounded label for metrics and the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ParseError::Empty => "empty",
            ParseError::NoHeader => "no_header",
            ParseError::Pri => "bad_pri",
            ParseError::HeaderCutOff => "rfc5424_cut_off",
            ParseError::Timestamp => "rfc5424_timestamp",
            ParseError::HeaderField => "rfc5424_header_field",
            ParseError::StructuredData => "rfc5424_structured_data",
            ParseError::StructuredDataTooBig => "rfc5424_structured_data_too_big",
            ParseError::Date => "bad_date",
        }
    }
}

/// A message taken apart; every slice is the sender's own spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The message without line end.
    pub raw: &'a [u8],
    pub pri: Option<Pri>,
    /// The event's own time; `None` when the message has none.
    pub stamp: Option<Stamp>,
    /// The time's own spelling, with its zone and a clock's mark.
    pub timestamp: Option<&'a [u8]>,
    pub timestamp_source: Option<TimeSource>,
    pub hostname: Option<&'a [u8]>,
    pub hostname_source: Option<HostSource>,
    pub app: Option<&'a [u8]>,
    pub procid: Option<&'a [u8]>,
    pub msgid: Option<&'a [u8]>,
    /// Checked `[…][…]`; take it apart with [`Elements`].
    pub structured_data: Option<&'a [u8]>,
    /// The device's count of its messages.
    pub sequence: Option<&'a [u8]>,
    pub message: &'a [u8],
    pub parse_error: Option<ParseError>,
    /// The fields do not hold all that the message says.
    pub keep_raw: bool,
}

impl<'a> Message<'a> {
    fn whole(raw: &'a [u8]) -> Self {
        Message {
            raw,
            pri: None,
            stamp: None,
            timestamp: None,
            timestamp_source: None,
            hostname: None,
            hostname_source: None,
            app: None,
            procid: None,
            msgid: None,
            structured_data: None,
            sequence: None,
            message: raw,
            parse_error: None,
            keep_raw: false,
        }
    }

    fn failed(raw: &'a [u8], pri: Option<Pri>, error: ParseError) -> Self {
        Message { pri, parse_error: Some(error), ..Message::whole(raw) }
    }
}

/// Takes one message apart. `received` and `times` fill in what a stamp leaves out.
#[must_use]
pub fn parse<'a>(raw: &'a [u8], received: Timestamp, times: &mut TimeResolver) -> Message<'a> {
    let raw = trim_end(raw);
    let text = raw.strip_prefix(BOM).unwrap_or(raw);
    if text.is_empty() {
        return Message::failed(raw, None, ParseError::Empty);
    }
    let (pri, body) = match text[0] {
        b'<' => match pri(text) {
            Some((pri, used)) => (Some(pri), &text[used..]),
            None => return Message::failed(raw, None, ParseError::Pri),
        },
        _ => (None, text),
    };
    let body = tag::skip_blanks(body);
    let (relayed, body) = known::original_address(body).map_or((None, body), |(host, rest)| (Some(host), rest));
    // Filled in place: it is too big to be handed on for nothing.
    let mut m = Message::whole(raw);
    m.pri = pri;
    let parsed = match body {
        // "1 " behind a PRI is the version of RFC 5424; no BSD stamp starts with a digit.
        [b'1', b' ', rest @ ..] if pri.is_some() => versioned(rest, &mut m, received, times),
        [b'2'..=b'9', b' ', rest @ ..] if pri.is_some() && stamp::iso(rest, false).is_some() => {
            let parsed = versioned(rest, &mut m, received, times);
            m.keep_raw = true;
            parsed
        }
        _ => rfc3164::parse(body, &mut m, received, times),
    };
    if let Err(error) = parsed {
        return Message::failed(raw, pri, error);
    }
    if let Some(host) = relayed {
        known::set_relayed(host, &mut m);
    }
    m
}

fn versioned<'a>(
    rest: &'a [u8],
    m: &mut Message<'a>,
    received: Timestamp,
    times: &mut TimeResolver,
) -> Result<(), ParseError> {
    // Relays put the version before what they do not understand.
    if let [b'A'..=b'Z', ..] = rest {
        return rfc3164::parse(rest, m, received, times);
    }
    let parsed = match known::meraki(rest) {
        Some(parsed) => parsed,
        None => rfc5424::parse(rest, received, times)?,
    };
    *m = Message { raw: m.raw, pri: m.pri, ..parsed };
    Ok(())
}

/// What transports leave behind a message.
fn trim_end(mut raw: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r' | 0] = raw {
        raw = rest;
    }
    raw
}

fn pri(text: &[u8]) -> Option<(Pri, usize)> {
    let digit = |c: u8| c.is_ascii_digit().then(|| u16::from(c - b'0'));
    let (value, used) = match *text {
        [_, a, b'>', ..] => (digit(a)?, 3),
        [_, a, b, b'>', ..] => (digit(a)? * 10 + digit(b)?, 4),
        [_, a, b, c, b'>', ..] => (digit(a)? * 100 + digit(b)? * 10 + digit(c)?, 5),
        _ => return None,
    };
    Some((Pri::new(u8::try_from(value).ok()?)?, used))
}

#[cfg(test)]
mod tests;
