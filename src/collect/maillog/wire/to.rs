//! `to=`: the trusted middle first, then each field behind it by its exact shape.

use super::lex::{self, Lex, Walk, at_field_or_end, dsn, field, integer, interval, unbracket, word};
use super::{Broken, Recipients, Relay, ToLine};
use memchr::memmem::{self, Finder};
use nom::Parser;
use nom::combinator::opt;
use std::sync::LazyLock;

const DELAY: &[u8] = b", delay=";
const CTLADDR: &[u8] = b", ctladdr=";
const STAT: &[u8] = b", stat=";

// Building a searcher costs more than one search of a line.
static DELAYS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(DELAY));
static CTLADDRS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(CTLADDR));
static STATS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(STAT));

pub(super) fn parse<'a>(id: &'a [u8], rest: &'a [u8]) -> Result<ToLine<'a>, Broken> {
    let mut line = ToLine { id, ..ToLine::default() };
    let (list, ctladdr, at) = addresses(rest)?;
    if ctladdr.is_some_and(|a| !is_certain_ctladdr(a)) {
        return Err(Broken::Unbalanced);
    }
    line.ctladdr = ctladdr;
    let list = list.strip_suffix(b" [more]").unwrap_or(list);
    line.recipients = Recipients::new(list.strip_suffix(b",").unwrap_or(list));
    let (behind, middle) = anchor(&rest[at..]).map_err(|_| Broken::Truncated)?;
    line.delay = middle.delay;
    line.xdelay = middle.xdelay.unwrap_or_default();
    line.mailer = middle.mailer;
    line.pri = middle.pri;
    only_anchor(rest, list, ctladdr, at)?;
    behind_anchor(behind, &mut line)?;
    Ok(line)
}

struct Middle<'a> {
    delay: &'a [u8],
    xdelay: Option<&'a [u8]>,
    mailer: Option<&'a [u8]>,
    pri: &'a [u8],
}

/// `, delay=…[, xdelay=…][, mailer=…][, tls…], pri=N`: what sendmail alone writes.
fn anchor(s: &[u8]) -> nom::IResult<&[u8], Middle<'_>> {
    let (s, delay) = field(DELAY, interval)(s)?;
    let (s, xdelay) = opt(field(b", xdelay=", interval)).parse(s)?;
    let (s, mailer) = opt(field(b", mailer=", word)).parse(s)?;
    let (s, _) = opt(field(b", tls_verify=", word)).parse(s)?;
    let (s, _) = opt(field(b", tls_version=", word)).parse(s)?;
    let (s, _) = opt(field(b", cipher=", word)).parse(s)?;
    let (s, pri) = field(b", pri=", integer)(s)?;
    Ok((s, Middle { delay, xdelay, mailer, pri }))
}

type Addresses<'a> = (&'a [u8], Option<&'a [u8]>, usize);

/// The recipients, the controlling address, and where `, delay=` is.
fn addresses(rest: &[u8]) -> Result<Addresses<'_>, Broken> {
    let mut walk = Walk::new(rest);
    let mut ctladdr: Option<usize> = None;
    while let Some(at) = walk.comma() {
        let behind = &rest[at..];
        if behind.starts_with(DELAY) {
            return Ok(match ctladdr {
                Some(start) => (&rest[..start], Some(&rest[start + CTLADDR.len()..at]), at),
                None => (&rest[..at], None, at),
            });
        }
        if ctladdr.is_none() && behind.starts_with(CTLADDR) {
            ctladdr = Some(at);
        }
        walk.at += 1;
    }
    Err(if DELAYS.find(rest).is_some() { Broken::Unbalanced } else { Broken::Truncated })
}

/// Holds that the anchor at `at` and the ctladdr are the only ones, or that the others
/// are certainly in the quotes of an address.
fn only_anchor(rest: &[u8], list: &[u8], ctladdr: Option<&[u8]>, at: usize) -> Result<(), Broken> {
    let real = |i: &usize| anchor(&rest[*i..]).is_ok();
    let behind = at + DELAY.len();
    if DELAYS.find_iter(&rest[behind..]).map(|i| i + behind).any(|i| real(&i)) {
        return Err(Broken::Ambiguous);
    }
    let earlier = DELAYS.find(rest) != Some(at) && DELAYS.find_iter(&rest[..at]).any(|i| real(&i));
    if !earlier && CTLADDRS.find(list).is_none() {
        return Ok(());
    }
    let plain = ctladdr.is_none() && Recipients::new(list).all(is_plain);
    if plain && list.starts_with(b"<") { Ok(()) } else { Err(Broken::Ambiguous) }
}

/// Whether this is not the end of a quoted address that `[more]` cut in two: that has a
/// quote, and then a comment to hide one more.
fn is_certain_ctladdr(value: &[u8]) -> bool {
    let user = value.strip_suffix(b")").and_then(|v| memmem::rfind(v, b" (").map(|i| &v[..i]));
    !value.contains(&b'"') || is_plain(unbracket(user.unwrap_or(value)))
}

/// `MAXNAME`: sendmail takes no longer address.
const ADDRESS_BYTES_MAX: usize = 256;

/// An address with at most one quoted part, which begins it and has no bracket in it.
/// One that was cut inside its quotes is not plain: with the fields that then seem to be
/// in the quotes it is too long, as only an address of some 240 bytes is ever cut.
fn is_plain(address: &[u8]) -> bool {
    let quotes = address.iter().filter(|c| **c == b'"').count();
    let brackets = address.iter().any(|c| matches!(c, b'<' | b'>' | b'\\' | b'('));
    let quoted_first = quotes == 0 || quotes == 2 && address.starts_with(b"\"");
    !brackets && quoted_first && address.len() <= ADDRESS_BYTES_MAX
}

fn behind_anchor<'a>(s: &'a [u8], line: &mut ToLine<'a>) -> Result<(), Broken> {
    let s = relay(s, line)?;
    let s = match s.strip_prefix(b", quarantine=") {
        // The reason is free text; a quarantined message says nothing else behind it.
        Some(reason) => {
            let at = memmem::rfind(reason, STAT).ok_or(Broken::Truncated)?;
            let dsn_at = memmem::rfind(&reason[..at], b", dsn=").unwrap_or(at);
            if &reason[at..] != b", stat=quarantined" {
                return Err(Broken::Value);
            }
            &reason[dsn_at..]
        }
        None => s,
    };
    let (s, dsn) = optional(s, b", dsn=", dsn);
    line.dsn = dsn;
    let (s, _) = optional(s, b", ntries=", integer);
    let (s, _) = optional(s, b", stage=", word);
    let (s, _) = optional(s, b", status=", word);
    if let Some(reply) = s.strip_prefix(b", reply=") {
        return reply_and_stat(reply, line);
    }
    if let Some(stat) = s.strip_prefix(STAT) {
        line.stat = stat;
        return Ok(());
    }
    // The line was cut in the middle of a key, behind a whole value.
    let cut = s.is_empty() && line.dsn.is_none()
        || !s.is_empty() && [STAT, b", dsn=", b", reply="].iter().any(|key| key.starts_with(s));
    if cut {
        Ok(())
    } else if s.is_empty() {
        Err(Broken::Truncated)
    } else {
        Err(Broken::Value)
    }
}

fn optional<'a>(
    s: &'a [u8],
    key: &'static [u8],
    value: impl FnMut(&'a [u8]) -> Lex<'a>,
) -> (&'a [u8], Option<&'a [u8]>) {
    match field(key, value)(s) {
        Ok((rest, v)) if at_field_or_end(rest) || rest.starts_with(b", ") => (rest, Some(v)),
        _ => (s, None),
    }
}

/// `, relay=H`: `shortenstring(H, 40)`, so never more than 39 bytes before escaping.
fn relay<'a>(s: &'a [u8], line: &mut ToLine<'a>) -> Result<&'a [u8], Broken> {
    let Some(value) = s.strip_prefix(b", relay=") else {
        return Ok(s);
    };
    let end = memchr::memchr_iter(b',', value).find(|i| value.get(i + 1) == Some(&b' ')).unwrap_or(value.len());
    let (name, rest) = value.split_at(end);
    let strange = name.contains(&b'"') || name.starts_with(b"[") && !name.ends_with(b"]") || !at_field_or_end(rest);
    if strange {
        return literal(value, line);
    }
    if rest.is_empty() && !name.ends_with(b"]") {
        return Err(Broken::Truncated);
    }
    line.relay = lex::relay(name)?;
    Ok(rest)
}

/// A host that is what a recipient wrote behind the `@`: a literal with anything in its
/// brackets or quotes. Its end is certain only if there is but one.
fn literal<'a>(value: &'a [u8], line: &mut ToLine<'a>) -> Result<&'a [u8], Broken> {
    let close = match value.first() {
        Some(b'[') => b']',
        Some(b'"') => b'"',
        _ => return Err(Broken::Value),
    };
    let window = &value[1..value.len().min(40 * 4)];
    let mut ends = memchr::memchr_iter(close, window).map(|i| i + 2).filter(|end| at_field_or_end(&value[*end..]));
    let end = ends.next().ok_or(Broken::Truncated)?;
    if ends.next().is_some() {
        return Err(Broken::Ambiguous);
    }
    let (host, rest) = value.split_at(end);
    line.relay = Relay { host, ip: None };
    Ok(rest)
}

/// `reply=R, stat=S`, both with text from the remote server.
fn reply_and_stat<'a>(s: &'a [u8], line: &mut ToLine<'a>) -> Result<(), Broken> {
    let mut ends = STATS.find_iter(s);
    let Some(first) = ends.next() else {
        // Cut inside the reply.
        line.reply = Some(s);
        return Ok(());
    };
    let mut at = first;
    if STATS.find(&s[first + STAT.len()..]).is_some() {
        let mut possible = STATS.find_iter(s).filter(|i| is_failure(&s[i + STAT.len()..]));
        at = possible.next().ok_or(Broken::Ambiguous)?;
        if possible.next().is_some() {
            return Err(Broken::Ambiguous);
        }
    }
    line.reply = Some(&s[..at]);
    line.stat = &s[at + STAT.len()..];
    Ok(())
}

/// Whether sendmail can print `stat` beside a reply, which it logs only when the
/// delivery did not succeed. Excludes nothing that is merely unlikely.
fn is_failure(stat: &[u8]) -> bool {
    !stat.starts_with(b"Sent")
}
