//! The values of Postfix's lines by their exact shape.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while_m_n, take_while1};
use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, opt, recognize};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

type Lex<'a> = IResult<&'a [u8], &'a [u8]>;

/// Where an address ends: at the first `>` outside quotes.
pub(super) fn walk(s: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut at = 0;
    loop {
        at += memchr::memchr3(b'>', b'"', b'\\', s.get(at..)?)?;
        match s[at] {
            b'>' if !quoted => return Some(at),
            b'"' => quoted = !quoted,
            // It hides what follows it, in quotes and outside.
            b'\\' => at += 1,
            _ => {}
        }
        at += 1;
    }
}

/// `, size=N, nrcpt=N (queue WORD)` and nothing more.
pub(super) fn counts(s: &[u8]) -> IResult<&[u8], (&[u8], &[u8])> {
    all_consuming((
        preceded(tag(&b", size="[..]), digit1),
        terminated(preceded(tag(&b", nrcpt="[..]), digit1), (tag(&b" (queue "[..]), word, char(')'))),
    ))
    .parse(s)
}

/// What follows `relay=` or `client=`, up to the next field: no blank and no comma.
pub(super) fn relay_name(s: &[u8]) -> Lex<'_> {
    take_while1(|c: u8| c > b' ' && !matches!(c, b',' | b'<' | b'>' | b'"' | 0x7f)).parse(s)
}

/// `, conn_use=N` or nothing.
pub(super) fn conn_use(s: &[u8]) -> IResult<&[u8], Option<&[u8]>> {
    all_consuming(opt(preceded(tag(&b", conn_use="[..]), digit1))).parse(s)
}

/// What Postfix alone writes of a delivery.
pub(super) struct Anchor<'a> {
    pub(super) delay: &'a [u8],
    pub(super) delays: Option<&'a [u8]>,
    pub(super) dsn: Option<&'a [u8]>,
    /// From the word of `status=` to the end of the line.
    pub(super) status: &'a [u8],
}

/// `, delay=N[, delays=N/N/N/N][, tls=…][, dsn=d.d.d], status=WORD (`
pub(super) fn anchor(s: &[u8]) -> IResult<&[u8], Anchor<'_>> {
    let (s, delay) = preceded(tag(&b", delay="[..]), seconds).parse(s)?;
    let (s, delays) = opt(preceded(tag(&b", delays="[..]), delays)).parse(s)?;
    let (s, _) = opt(preceded(tag(&b", tls="[..]), take_while1(is_tls))).parse(s)?;
    let (s, dsn) = opt(preceded(tag(&b", dsn="[..]), dsn)).parse(s)?;
    let (status, _) = tag(&b", status="[..]).parse(s)?;
    let (s, _) = terminated(word, tag(&b" ("[..])).parse(status)?;
    Ok((s, Anchor { delay, delays, dsn, status }))
}

fn seconds(s: &[u8]) -> Lex<'_> {
    recognize((digit1, opt((char('.'), digit1)))).parse(s)
}

fn delays(s: &[u8]) -> Lex<'_> {
    recognize((seconds, char('/'), seconds, char('/'), seconds, char('/'), seconds)).parse(s)
}

fn dsn(s: &[u8]) -> Lex<'_> {
    recognize((digit1, char('.'), digit1, char('.'), digit1)).parse(s)
}

/// A summary of features: `!sts/(dane)/disabled:requiretls?`.
fn is_tls(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!/():-_?".contains(&c)
}

fn word(s: &[u8]) -> Lex<'_> {
    recognize((
        alt((take_while_m_n(1, 1, |c: u8| c.is_ascii_alphabetic()), tag(&b"_"[..]))),
        take_while_m_n(0, 31, |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')),
    ))
    .parse(s)
}
