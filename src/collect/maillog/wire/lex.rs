//! The pieces that both lines share: values with an exact shape (with nom), the
//! walk over an address, and the other side's name.

use super::{Broken, Relay};
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while_m_n};
use nom::character::complete::{char, digit1};
use nom::combinator::{opt, recognize};
use nom::{IResult, Parser};

pub(super) type Lex<'a> = IResult<&'a [u8], &'a [u8]>;

/// `%ld`: at most 20 characters.
pub(super) fn integer(s: &[u8]) -> Lex<'_> {
    recognize((opt(char('-')), digit1)).parse(s)
}

/// `[D+]HH:MM:SS`, as `pintvl()` prints an interval.
pub(super) fn interval(s: &[u8]) -> Lex<'_> {
    // The plain case first: it is in every line.
    if let [a, b, b':', c, d, b':', e, f, ..] = *s
        && [a, b, c, d, e, f].iter().all(u8::is_ascii_digit)
    {
        let (value, rest) = s.split_at(8);
        return Ok((rest, value));
    }
    let sign = || opt(char('-'));
    recognize((opt((digit1, char('+'))), (sign(), digit1, char(':')), (sign(), digit1, char(':')), (sign(), digit1)))
        .parse(s)
}

/// `, key=` in front of `value`.
pub(super) fn field<'a>(
    key: &'static [u8],
    mut value: impl FnMut(&'a [u8]) -> Lex<'a>,
) -> impl FnMut(&'a [u8]) -> Lex<'a> {
    move |s| {
        let (s, _) = tag(key).parse(s)?;
        value(s)
    }
}

/// A word of sendmail or of its configuration: printable, no blank, comma, quote or
/// bracket.
pub(super) fn word(s: &[u8]) -> Lex<'_> {
    take_while_m_n(1, 64, is_word_byte).parse(s)
}

pub(super) fn is_word_byte(c: u8) -> bool {
    (b'!'..=b'~').contains(&c) && !matches!(c, b',' | b'"' | b'<' | b'>')
}

/// `d.d.d`
pub(super) fn dsn(s: &[u8]) -> Lex<'_> {
    recognize((
        take_while_m_n(1, 1, |c: u8| c.is_ascii_digit()),
        char('.'),
        take_while_m_n(1, 3, |c: u8| c.is_ascii_digit()),
        char('.'),
        take_while_m_n(1, 3, |c: u8| c.is_ascii_digit()),
    ))
    .parse(s)
}

/// How one byte of the log counts in `prescan`.
const PLAIN: u8 = 0;

static CLASS: [u8; 256] = {
    let mut t = [PLAIN; 256];
    let special = b"\\\"()<>,";
    let mut i = 0;
    while i < special.len() {
        t[special[i] as usize] = 1;
        i += 1;
    }
    t
};

/// Walks addresses as `prescan()` does: quotes, comments, angle brackets.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    text: &'a [u8],
    pub(super) at: usize,
    quoted: bool,
    comment: u32,
    angle: u32,
}

impl<'a> Walk<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Walk { text, at: 0, quoted: false, comment: 0, angle: 0 }
    }

    /// Goes to the next comma outside quotes, comments and brackets, and stays on it.
    pub(super) fn comma(&mut self) -> Option<usize> {
        while let Some(&c) = self.text.get(self.at) {
            if CLASS[usize::from(c)] == PLAIN {
                self.at += 1;
                continue;
            }
            match c {
                b'\\' => {
                    self.backslash();
                    continue;
                }
                _ if self.quoted => self.quoted = c != b'"',
                b'(' => self.comment += 1,
                b')' => self.comment = self.comment.saturating_sub(1),
                _ if self.comment > 0 => {}
                b'"' => self.quoted = true,
                b'<' => self.angle += 1,
                b'>' => self.angle = self.angle.saturating_sub(1),
                b',' if self.angle == 0 => return Some(self.at),
                _ => {}
            }
            self.at += 1;
        }
        None
    }

    /// `\\` is one backslash of the address, and it hides the byte that follows it;
    /// any other escape is one byte that means nothing here.
    fn backslash(&mut self) {
        let hides = self.text.get(self.at + 1) == Some(&b'\\');
        self.at += escape_bytes(&self.text[self.at..]);
        if hides && self.at < self.text.len() {
            self.at += escape_bytes(&self.text[self.at..]);
        }
    }
}

/// How many bytes `str2prt` made of the byte that `s` begins with.
pub(super) fn escape_bytes(s: &[u8]) -> usize {
    let is_octal = |c: &u8| (b'0'..=b'7').contains(c);
    match s {
        [b'\\', a, b, c, ..] if is_octal(a) && is_octal(b) && is_octal(c) => 4,
        [b'\\', _, ..] => 2,
        [] => 0,
        _ => 1,
    }
}

/// Takes off one pair of angle brackets. A cut value may have lost the second.
pub(in crate::collect::maillog) fn unbracket(s: &[u8]) -> &[u8] {
    match s {
        [b'<', inner @ .., b'>'] => inner,
        [b'<', inner @ ..] => inner,
        _ => s,
    }
}

/// Reads `name [ip]`, `name (ip)`, `[ip]`, `[ip] [ip]`, `user@localhost`, `local`,
/// each perhaps with `(may be forged)` behind it. Read from the end: the address is
/// the kernel's word, the name is what ident and DNS say.
pub(super) fn relay(text: &[u8]) -> Result<Relay<'_>, Broken> {
    let text = text.strip_suffix(b" (may be forged)").unwrap_or(text);
    if text.ends_with(b"]]")
        && let Some(at) = memchr::memmem::find(text, b" [[UNIX: ")
    {
        let host = &text[..at];
        return if host.contains(&b' ') { Err(Broken::Value) } else { Ok(Relay { host, ip: None }) };
    }
    let Some(blank) = memchr::memrchr(b' ', text) else {
        let ip = text.strip_prefix(b"[").and_then(|t| t.strip_suffix(b"]")).and_then(address);
        return Ok(Relay { host: text, ip });
    };
    let (name, last) = (&text[..blank], &text[blank + 1..]);
    let inside = match last {
        [b'[', inside @ .., b']'] | [b'(', inside @ .., b')'] => inside,
        _ => return Err(Broken::Value),
    };
    if name.contains(&b' ') {
        return Err(Broken::Value);
    }
    let ip = address(inside).ok_or(Broken::Value)?;
    // `user@host [ip]`: the user is what the client's ident server said.
    let host = match memchr::memrchr(b'@', name) {
        Some(i) => &name[i + 1..],
        None => name,
    };
    Ok(Relay { host, ip: Some(ip) })
}

/// An address of the kernel, without the tag that SMTP puts before IPv6.
pub(in crate::collect::maillog) fn address(s: &[u8]) -> Option<&[u8]> {
    let s = s.strip_prefix(b"IPv6:").unwrap_or(s);
    let shape = |c: &u8| c.is_ascii_hexdigit() || matches!(c, b'.' | b':' | b'%');
    let known = s.contains(&b'.') || s.contains(&b':') || s == b"0";
    (known && s.len() <= 64 && s.iter().all(shape)).then_some(s)
}

/// The first of `, a=`-like keys at the start of `s`, or the end of the line.
pub(super) fn at_field_or_end(s: &[u8]) -> bool {
    s.is_empty()
        || (
            tag::<_, _, nom::error::Error<&[u8]>>(&b", "[..]),
            alt((
                tag(&b"relay="[..]),
                tag(&b"dsn="[..]),
                tag(&b"reply="[..]),
                tag(&b"stat="[..]),
                tag(&b"ntries="[..]),
                tag(&b"stage="[..]),
                tag(&b"status="[..]),
                tag(&b"quarantine="[..]),
            )),
        )
            .parse(s)
            .is_ok()
}
