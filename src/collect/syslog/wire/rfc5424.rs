//! RFC 5424 behind `<PRI>1 `: six header fields, structured data, text.
//!
//! Beyond the RFC, since senders do it and nothing is lost: no structured data at all
//! (Heroku), Check Point's `[key:"value"; …]` in its place, a time without offset (the
//! configured zone then, said to be guessed), names that are not ASCII. Malformed
//! structured data is an error, but the fields before it are kept.
//!
//! Limits: the RFC's field lengths are not enforced (senders exceed them, and the
//! caller limits the whole message); [`PARAMS_MAX`] bounds structured data, whose
//! names are compared with each other.

use super::{BOM, Message, ParseError, TimeSource, stamp};
use crate::collect::syslog::time::{Stamp, TimeResolver};
use jiff::Timestamp;

/// Elements and parameters of one message, together.
pub const PARAMS_MAX: usize = 256;

pub(super) fn parse<'a>(
    rest: &'a [u8],
    received: Timestamp,
    times: &mut TimeResolver,
) -> Result<Message<'a>, ParseError> {
    let (timestamp, rest) = field(rest)?;
    let (hostname, rest) = field(rest)?;
    let (app, rest) = field(rest)?;
    let (procid, rest) = field(rest)?;
    let (msgid, rest) = field(rest)?;
    let (stamp, timestamp_source) = match timestamp {
        Some(text) => full_stamp(text, received, times).map(|(stamp, source)| (Some(stamp), source))?,
        None => (None, None),
    };
    let m = Message { stamp, timestamp, timestamp_source, hostname, app, procid, msgid, ..Message::whole(rest) };
    match structured_data(rest) {
        Ok((structured_data, rest)) => Ok(Message { structured_data, message: text(rest), ..m }),
        Err(ParseError::HeaderCutOff) => Err(ParseError::HeaderCutOff),
        Err(error) => Ok(Message { parse_error: Some(error), ..m }),
    }
}

fn text(rest: &[u8]) -> &[u8] {
    let text = rest.strip_prefix(b" ").unwrap_or(rest);
    let text = text.strip_prefix(BOM).unwrap_or(text);
    // rsyslog's text begins with the blank that a tag has behind it, and its
    // RSYSLOG_SyslogProtocol23Format puts one of its own in front.
    text.strip_prefix(b" ").unwrap_or(text)
}

/// One field and the blank behind it; `-` is nil.
fn field(rest: &[u8]) -> Result<(Option<&[u8]>, &[u8]), ParseError> {
    let end = memchr::memchr(b' ', rest).ok_or(ParseError::HeaderCutOff)?;
    let (value, rest) = (&rest[..end], &rest[end + 1..]);
    if value.is_empty() || value.iter().any(|c| *c <= b' ' || *c == 0x7F) {
        return Err(ParseError::HeaderField);
    }
    Ok(((value != b"-").then_some(value), rest))
}

fn full_stamp(
    text: &[u8],
    received: Timestamp,
    times: &mut TimeResolver,
) -> Result<(Stamp, Option<TimeSource>), ParseError> {
    let (p, used) = stamp::iso(text, true).ok_or(ParseError::Timestamp)?;
    if used != text.len() {
        return Err(ParseError::Timestamp);
    }
    let source = p.offset_seconds.is_none().then_some(TimeSource::ZoneGuessed);
    Ok((times.resolve(&p, received).ok_or(ParseError::Timestamp)?, source))
}

fn structured_data(rest: &[u8]) -> Result<(Option<&[u8]>, &[u8]), ParseError> {
    match rest {
        [] => return Err(ParseError::HeaderCutOff),
        [b'-'] | [b'-', b' ', ..] => return Ok((None, &rest[1..])),
        [b'[', ..] if !is_check_point(rest) => {}
        _ => return Ok((None, rest)),
    }
    let mut left = rest;
    let mut seen = 0;
    while let [b'[', ..] = left {
        let (name, mut params) = element(left).ok_or(ParseError::StructuredData)?;
        if Elements(&rest[..rest.len() - left.len()]).any(|(earlier, _)| earlier == name) {
            return Err(ParseError::StructuredData);
        }
        seen += 1 + params.by_ref().take(PARAMS_MAX).count();
        if seen > PARAMS_MAX {
            return Err(ParseError::StructuredDataTooBig);
        }
        left = params.rest.strip_prefix(b"]").ok_or(ParseError::StructuredData)?;
    }
    if !matches!(left, [] | [b' ', ..]) {
        return Err(ParseError::StructuredData);
    }
    let used = rest.len() - left.len();
    Ok((Some(&rest[..used]), left))
}

/// `[action:"Accept"; flags:"411908"; …]`
fn is_check_point(s: &[u8]) -> bool {
    let name = s[1..].iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-')).count();
    name > 0 && s[1 + name..].starts_with(b":\"")
}

/// The elements of structured data: id and parameters. Ends at what is malformed,
/// which [`Message::structured_data`] never is.
#[derive(Clone, Debug)]
pub struct Elements<'a>(pub &'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a [u8], Params<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, params) = element(self.0)?;
        let mut end = params.clone();
        end.by_ref().for_each(drop);
        self.0 = end.rest.strip_prefix(b"]")?;
        Some((name, params))
    }
}

fn element(s: &[u8]) -> Option<(&[u8], Params<'_>)> {
    let (name, rest) = sd_name(s.strip_prefix(b"[")?)?;
    Some((name, Params { rest }))
}

/// A parameter's name and value; the value still has its backslashes.
pub type Param<'a> = (&'a [u8], &'a [u8]);

/// The parameters of one element, up to its closing bracket.
#[derive(Clone, Debug)]
pub struct Params<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Params<'a> {
    type Item = Param<'a>;

    fn next(&mut self) -> Option<Param<'a>> {
        let (name, rest) = sd_name(self.rest.strip_prefix(b" ")?)?;
        let value = rest.strip_prefix(b"=\"")?;
        let mut at = 0;
        loop {
            at += memchr::memchr2(b'"', b'\\', &value[at..])?;
            if value[at] == b'"' {
                break;
            }
            // A backslash hides a quote, a bracket or a backslash, else it is itself.
            at += if matches!(value.get(at + 1), Some(b'"' | b']' | b'\\')) { 2 } else { 1 };
        }
        self.rest = &value[at + 1..];
        Some((name, &value[..at]))
    }
}

fn sd_name(s: &[u8]) -> Option<(&[u8], &[u8])> {
    let end =
        s.iter().position(|c| matches!(c, b' ' | b'=' | b']' | b'"') || !(33..=126).contains(c)).unwrap_or(s.len());
    (end > 0).then(|| s.split_at(end))
}
