//! `from=`: addresses from the left, trusted fields from the right.

use super::lex::{self, Walk, escape_bytes, field, integer, is_word_byte, unbracket};
use super::{Broken, FromLine};
use nom::Parser;
use nom::combinator::opt;

/// `%.200s`: where `logsender()` cuts an address, in bytes before escaping.
const ADDRESS_BYTES_MAX: usize = 200;

pub(super) fn parse<'a>(id: &'a [u8], rest: &'a [u8]) -> Result<FromLine<'a>, Broken> {
    let (src, counts) = address(rest)?;
    let mut line = FromLine { id, src: unbracket(src), ..FromLine::default() };
    let (left, (size, class, _, nrcpts)) = counts_fields(counts).map_err(|_| Broken::Truncated)?;
    (line.size, line.class, line.nrcpts) = (size, class, nrcpts);
    tail(left, &mut line)?;
    Ok(line)
}

type Counts<'a> = (&'a [u8], &'a [u8], Option<&'a [u8]>, &'a [u8]);

/// `, size=N, class=N[, pri=N], nrcpts=N`, then another field or the end.
fn counts_fields(s: &[u8]) -> nom::IResult<&[u8], Counts<'_>> {
    let (rest, counts) = (
        field(b", size=", integer),
        field(b", class=", integer),
        opt(field(b", pri=", integer)),
        field(b", nrcpts=", integer),
    )
        .parse(s)?;
    if !(rest.is_empty() || rest.starts_with(b", ")) {
        return Err(nom::Err::Error(nom::error::make_error(rest, nom::error::ErrorKind::Eof)));
    }
    Ok((rest, counts))
}

/// Splits the address from the fields behind it.
fn address(rest: &[u8]) -> Result<(&[u8], &[u8]), Broken> {
    let mut walk = Walk::new(rest);
    while let Some(at) = walk.comma() {
        let behind = &rest[at..];
        if behind.starts_with(b", size=") {
            // A longer one was cut and its quotes do not close: that comma is in the
            // message-id or a second address, not behind this one.
            if at > ADDRESS_BYTES_MAX && cut(rest) < at {
                break;
            }
            return Ok(rest.split_at(at));
        }
        walk.at += 1;
    }
    let at = cut(rest);
    if rest[at..].starts_with(b", size=") {
        return Ok(rest.split_at(at));
    }
    Err(if at == rest.len() { Broken::Truncated } else { Broken::Unbalanced })
}

/// Where an address of the greatest length ends.
fn cut(rest: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..ADDRESS_BYTES_MAX {
        at += escape_bytes(&rest[at..]);
    }
    at
}

/// The fields that sendmail writes between message-id and relay, last first.
const TAIL: [&[u8]; 7] =
    [b" auth=", b" cipher=", b" tls_version=", b" tls_verify=", b" daemon=", b" proto=", b" bodytype="];

/// Everything behind nrcpts, from the right.
fn tail<'a>(rest: &'a [u8], line: &mut FromLine<'a>) -> Result<(), Broken> {
    let mut left = rest;
    let mut next = 0;
    if let Some(at) = last_relay(rest) {
        line.relay = lex::relay(&rest[at + RELAY.len()..])?;
        left = &rest[..at];
        while let Some(comma) = memchr::memrchr(b',', left) {
            let Some((slot, value)) = tail_field(&left[comma + 1..], next) else {
                break;
            };
            match slot {
                0 => line.auth = Some(value),
                3 => line.tls_verify = Some(value),
                4 => line.daemon = Some(value),
                5 => line.proto = Some(value),
                6 => line.bodytype = Some(value),
                _ => {}
            }
            next = slot + 1;
            left = &left[..comma];
        }
    }
    // Without a relay the line was cut, and what follows the message-id cannot be told
    // from it: leave it there.
    match left {
        [] => Ok(()),
        [b',', b' ', b'm', b's', b'g', b'i', b'd', b'=', msgid @ ..] => {
            line.msgid = unbracket(msgid);
            Ok(())
        }
        _ if line.relay.host.is_empty() && b", msgid=".starts_with(left) => Ok(()),
        _ => Err(Broken::Value),
    }
}

const RELAY: &[u8] = b", relay=";

fn last_relay(rest: &[u8]) -> Option<usize> {
    let comma = memchr::memrchr(b',', rest)?;
    if rest[comma..].starts_with(RELAY) {
        return Some(comma);
    }
    memchr::memmem::rfind(rest, RELAY)
}

fn tail_field(s: &[u8], from: usize) -> Option<(usize, &[u8])> {
    let slot = from + TAIL.get(from..)?.iter().position(|key| s.starts_with(key))?;
    let value = &s[TAIL[slot].len()..];
    // `%.20s` of a word; a few more bytes allow for escapes and other releases.
    (value.len() <= 64 && value.iter().all(|c| is_word_byte(*c))).then_some((slot, value))
}
