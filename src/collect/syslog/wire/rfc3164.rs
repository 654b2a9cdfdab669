//! BSD syslog and log files: `[stamp] [host] [program[pid]:] text`, where each part
//! can be absent. Written from RFC 3164 section 4 and from what senders do:
//!
//! - rsyslog files: ISO stamp with offset; others: ISO with a blank and no offset;
//! - a year before or behind the time; one-digit days with one blank;
//! - no host: the first word then ends in `:` or `]:`;
//! - AIX: `Message forwarded from HOST:`; `last message repeated N times`;
//! - Solaris: `[ID 801593 mail.info]` before the text;
//! - Cisco IOS: sequence number, `*` or `.` before the month, a zone name and `:`
//!   behind the time; there is no host then.

use super::{Message, ParseError, Pri, stamp};
use crate::collect::syslog::time::{Partial, TimeResolver};
use jiff::Timestamp;

/// Longer first words are text, not a program's name.
const TAG_BYTES_MAX: usize = 255;

pub(super) fn parse<'a>(
    body: &'a [u8],
    has_pri: bool,
    received: Timestamp,
    times: &mut TimeResolver,
) -> Result<Message<'a>, ParseError> {
    let Some(found) = find_stamp(body) else {
        return without_stamp(body, has_pri);
    };
    let mut m = Message { timestamp: Some(found.text), ..Message::whole(body) };
    m.stamp = Some(times.resolve(&found.partial, received).ok_or(ParseError::Date)?);
    if found.host_follows {
        let rest = host(found.rest, &mut m);
        tag_and_text(rest, &mut m);
    } else {
        tag_and_text(found.rest, &mut m);
    }
    Ok(m)
}

/// Only a PRI or `app[procid]: ` shows that a line without a date is syslog, and not
/// any text with a colon.
fn without_stamp(body: &[u8], has_pri: bool) -> Result<Message<'_>, ParseError> {
    let mut m = Message::whole(body);
    match tag(body, true) {
        Some(t) if has_pri || t.procid.is_some() => set_tag(&t, &mut m),
        _ if has_pri => {}
        _ => return Err(ParseError::NoHeader),
    }
    Ok(m)
}

struct Found<'a> {
    partial: Partial,
    text: &'a [u8],
    rest: &'a [u8],
    host_follows: bool,
}

fn find_stamp(body: &[u8]) -> Option<Found<'_>> {
    let plain = match body.first()? {
        b'A'..=b'Z' => stamp::bsd(body),
        b'0'..=b'9' => stamp::iso(body, true),
        _ => None,
    };
    if let Some((partial, used)) = plain {
        let (text, rest) = body.split_at(used);
        return match rest {
            [] => Some(Found { partial, text, rest, host_follows: true }),
            [b' ', rest @ ..] => Some(Found { partial, text, rest, host_follows: true }),
            // Cisco without sequence number, and senders that leave the host out.
            [b':', ..] => cisco_end(partial, text, rest),
            _ => None,
        };
    }
    cisco(body)
}

/// `[123: ][RP/0/RP0/CPU0:][*|.]Mar  1 18:46:11.123[ UTC]: …`, with at least one of
/// the first three (the second is IOS-XR's).
fn cisco(body: &[u8]) -> Option<Found<'_>> {
    let digits = body.iter().take_while(|c| c.is_ascii_digit()).count();
    let mut rest = body;
    if digits > 0 {
        rest = body[digits..].strip_prefix(b": ")?;
    }
    if let Some(colon) = memchr::memchr2(b':', b' ', &rest[..rest.len().min(32)])
        && rest[..colon].contains(&b'/')
        && rest[colon] == b':'
    {
        rest = &rest[colon + 1..];
    }
    if let [b'*' | b'.', unmarked @ ..] = rest {
        rest = unmarked;
    }
    if rest.len() == body.len() {
        return None;
    }
    let (mut partial, used) = stamp::bsd(rest)?;
    let (text, mut rest) = rest.split_at(used);
    if let [b' ', word @ ..] = rest {
        let len = word.iter().take_while(|c| c.is_ascii_uppercase()).count();
        if !(1..=5).contains(&len) {
            return None;
        }
        if matches!(&word[..len], b"UTC" | b"GMT" | b"Z") {
            partial.offset_seconds = Some(0);
        }
        rest = &word[len..];
    }
    cisco_end(partial, text, rest)
}

fn cisco_end<'a>(partial: Partial, text: &'a [u8], rest: &'a [u8]) -> Option<Found<'a>> {
    let rest = rest.strip_prefix(b":")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    Some(Found { partial, text, rest, host_follows: false })
}

/// Takes the host off, unless the line has none.
fn host<'a>(rest: &'a [u8], m: &mut Message<'a>) -> &'a [u8] {
    let rest = skip_blanks(rest);
    if let Some(after) = rest.strip_prefix(b"Message forwarded from ")
        && let Some(colon) = memchr::memmem::find(after, b": ")
        && colon > 0
        && !after[..colon].contains(&b' ')
    {
        m.hostname = Some(&after[..colon]);
        return &after[colon + 2..];
    }
    if rest.starts_with(b"last message repeated ") || tag(rest, true).is_some() {
        return rest;
    }
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    if end == 0 {
        return rest;
    }
    m.hostname = Some(&rest[..end]);
    rest.get(end + 1..).unwrap_or_default()
}

fn tag_and_text<'a>(rest: &'a [u8], m: &mut Message<'a>) {
    let rest = skip_blanks(rest);
    // Cisco ASA sets its host off with ` : `.
    let rest = rest.strip_prefix(b": ").unwrap_or(rest);
    match tag(rest, false) {
        Some(t) => set_tag(&t, m),
        None => m.message = rest,
    }
}

fn set_tag<'a>(t: &Tag<'a>, m: &mut Message<'a>) {
    m.app = Some(t.app);
    m.procid = t.procid;
    m.message = t.text;
    solaris_id(m);
}

/// Takes `[ID 801593 mail.info] ` off the text.
fn solaris_id(m: &mut Message<'_>) {
    let Some(after) = m.message.strip_prefix(b"[ID ") else {
        return;
    };
    let digits = after.iter().take_while(|c| c.is_ascii_digit()).count();
    let Some(rest) = after[digits..].strip_prefix(b" ") else {
        return;
    };
    let Some(end) = memchr::memmem::find(rest, b"] ").filter(|n| *n <= 20) else {
        return;
    };
    let Some(pri) = Pri::from_keywords(&rest[..end]) else {
        return;
    };
    if digits == 0 {
        return;
    }
    m.msgid = Some(&after[..digits]);
    m.pri = Some(pri);
    m.message = &rest[end + 2..];
}

struct Tag<'a> {
    app: &'a [u8],
    procid: Option<&'a [u8]>,
    text: &'a [u8],
}

/// `app[procid]: ` or `app: `. Where a host may stand (`strict`), `a:b` is not a tag.
fn tag(rest: &[u8], strict: bool) -> Option<Tag<'_>> {
    let window = &rest[..rest.len().min(TAG_BYTES_MAX)];
    let end = memchr::memchr3(b' ', b':', b'[', window)?;
    let (app, after) = (&rest[..end], &rest[end..]);
    if app.is_empty() {
        return None;
    }
    match after {
        [b'[', inside @ ..] => {
            let close = memchr::memchr2(b']', b' ', &inside[..inside.len().min(64)])?;
            let procid = &inside[..close];
            if procid.is_empty() || inside[close] != b']' {
                return None;
            }
            let text = match &inside[close + 1..] {
                [b':', b' ', text @ ..] | [b':' | b' ', text @ ..] => text,
                [] => &[],
                _ => return None,
            };
            Some(Tag { app, procid: Some(procid), text })
        }
        [b':', b' ', text @ ..] => Some(Tag { app, procid: None, text }),
        [b':'] => Some(Tag { app, procid: None, text: &[] }),
        // "fe80::1", "http://": the colon belongs to the word.
        [b':', b':' | b'/', ..] => None,
        [b':', text @ ..] if !strict && !is_ipv6(rest) => Some(Tag { app, procid: None, text }),
        _ => None,
    }
}

fn is_ipv6(rest: &[u8]) -> bool {
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let word = &rest[..end];
    word.iter().filter(|c| **c == b':').count() > 1
        && word.iter().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'.' | b'%'))
}

fn skip_blanks(mut s: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = s {
        s = rest;
    }
    s
}
