//! sendmail's `from=` and `to=` lines, and why nobody outside can forge a field.
//!
//! Source of the format: sendmail 8.17.1.9, `logsender()` in headers.c,
//! `logdelivery()` in deliver.c, `sm_syslog()` in conf.c, `prescan()` in
//! parseaddr.c, `str2prt()` and `shortenstring()` in libsm. Older releases differ
//! only by fields they lack, and by a `pri=` behind `class=`.
//!
//! # What is printed, in this order, and who chooses the value
//!
//! ```text
//! from=%.200s, size=%ld, class=%d, nrcpts=%d       from: the client
//!   [, msgid=%.100s]                               the client
//!   [, bodytype=][, proto=][, daemon=][, tls_verify=][, tls_version=][, cipher=][, auth=]
//!                                                  words of sendmail or its configuration
//!   , relay=%s                                     names from ident and DNS
//!
//! to=<a>,<b>[ [more]]                              the client; cut to fit 1024 bytes
//!   [, ctladdr=A[ (uid/gid)]]                      the client, in part; 83 bytes
//!   , delay=[D+]HH:MM:SS[, xdelay=…][, mailer=][, tls_verify=…], pri=%ld
//!                                                  sendmail
//!   [, relay=H[ [address]]][, quarantine=]         a name from DNS or an address; 39 bytes
//!   [, dsn=d.d.d][, ntries=][, stage=]             sendmail
//!   [, reply=R]                                    the remote server; only on failure
//!   , stat=S                                       a word of sendmail, then the remote server
//! ```
//!
//! Nothing is quoted: `, stat=Sent` inside an address or a reply looks like a field.
//! `str2prt` only escapes bytes that do not print, and doubles backslashes. So each
//! line is read from the parts that sendmail alone writes:
//!
//! - **from**: an address is balanced (`prescan` refuses others), unless it was cut
//!   at 200 bytes. Walking it as `prescan` does finds its end. From the other end,
//!   the last `, relay=` is the true one, because neither an ident name (letters,
//!   digits and a few signs) nor a host name can contain a blank. The fields before
//!   it are taken off right to left, in their fixed order and only with the values
//!   that sendmail can print; what is left is the message-id. Every SMTP message
//!   has `proto=` and `daemon=` there, so a message-id cannot bring its own. (It can
//!   pass for `bodytype=`, which the client chooses anyway; and a local user, whose
//!   submission lacks all three, can pretend to any of them.)
//! - **to**: the middle `, delay=…, pri=N` (the *anchor*) is looked for on both
//!   sides: by walking the addresses as `prescan` does, and by counting anchors. Only
//!   if they agree is the line read. The walk alone does not do: sendmail splits a long
//!   list at any comma (`[more]`), even one in quotes, so that the next line begins
//!   inside them. A second anchor or `, ctladdr=` is accepted only inside the quotes
//!   of addresses so plain that no such line looks like them, else the line is
//!   [`Broken::Ambiguous`]. (A split address itself stays split: its second half is
//!   then a recipient.)
//!   Behind the anchor, each field is matched in order with the exact shape of its
//!   value. A `reply=` that itself contains `, stat=` leaves several ways to read the
//!   end: those that sendmail cannot have printed (a reply is logged only when the
//!   delivery did not succeed) are dropped, and if more than one is left the line is
//!   [`Broken::Ambiguous`]. No guess is made.
//!
//! One other call, in `usrerr()`, logs a whole line of a client's choice behind the
//! queue id: `RCPT TO:to=>, delay=…, stat=Sent` gives `to=>, delay=…, stat=Sent...
//! Unbalanced '>'`. It ends in one of the few words of `prescan()`, and a line that does
//! is [`Broken::Ambiguous`].
//!
//! A line that a small transport cut off is read as far as its fields are whole.
//!
//! No allocation, no clock, no I/O; linear time; no input can cause a panic.

mod from;
mod lex;
mod recipients;
mod to;

use memchr::memmem::FinderRev;
use std::sync::LazyLock;

pub(super) use lex::{address, unbracket};
pub use recipients::Recipients;

/// What a message is to the mail log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    From(FromLine<'a>),
    To(ToLine<'a>),
    /// Not a `from=` or `to=` line of sendmail.
    Other,
    /// Such a line, but it cannot be read whole.
    Broken(Broken),
}

/// Why a `from=` or `to=` line was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("sendmail: the line ends before its trusted fields")]
    Truncated,
    #[error("sendmail: the end of the addresses is not where the fields begin")]
    Unbalanced,
    #[error("sendmail: a field has a value that sendmail does not print")]
    Value,
    #[error("sendmail: the line can be read in two ways")]
    Ambiguous,
    #[error("sendmail: one part of a line that was split")]
    Split,
}

impl Broken {
    /// A bounded label for metrics and the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Broken::Truncated => "sendmail_truncated",
            Broken::Unbalanced => "sendmail_unbalanced",
            Broken::Value => "sendmail_value",
            Broken::Ambiguous => "sendmail_ambiguous",
            Broken::Split => "sendmail_split",
        }
    }
}

/// A `from=` line: one message accepted or refused. Values as logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromLine<'a> {
    pub id: &'a [u8],
    /// Without its angle brackets; empty for the null sender.
    pub src: &'a [u8],
    pub size: &'a [u8],
    pub class: &'a [u8],
    pub nrcpts: &'a [u8],
    /// Without its angle brackets; empty when the line has none.
    pub msgid: &'a [u8],
    pub relay: Relay<'a>,
    pub bodytype: Option<&'a [u8]>,
    pub proto: Option<&'a [u8]>,
    pub daemon: Option<&'a [u8]>,
    pub tls_verify: Option<&'a [u8]>,
    pub auth: Option<&'a [u8]>,
}

/// A `to=` line: one attempt to deliver to one or more recipients. Values as logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToLine<'a> {
    pub id: &'a [u8],
    pub recipients: Recipients<'a>,
    pub ctladdr: Option<&'a [u8]>,
    pub delay: &'a [u8],
    pub xdelay: &'a [u8],
    pub mailer: Option<&'a [u8]>,
    pub pri: &'a [u8],
    pub relay: Relay<'a>,
    pub dsn: Option<&'a [u8]>,
    pub reply: Option<&'a [u8]>,
    pub stat: &'a [u8],
}

/// The other side: `name [1.2.3.4] (may be forged)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relay<'a> {
    /// The host name alone; `user@localhost` for a local submission; empty if unknown.
    pub host: &'a [u8],
    /// Without brackets and without `IPv6:`.
    pub ip: Option<&'a [u8]>,
}

/// Reads the text behind `program[pid]: `.
#[must_use]
pub fn parse(message: &[u8]) -> Parsed<'_> {
    let Some((id, part, rest)) = queue_id(message) else {
        return Parsed::Other;
    };
    let (result, rest) = match rest {
        [b'f', b'r', b'o', b'm', b'=', rest @ ..] => (from::parse(id, rest).map(Parsed::From), rest),
        [b't', b'o', b'=', rest @ ..] => (to::parse(id, rest).map(Parsed::To), rest),
        _ => return Parsed::Other,
    };
    match result {
        // A part of a split line may end anywhere, so even a clean reading proves nothing.
        _ if part => Parsed::Broken(Broken::Split),
        Ok(_) if is_complaint(rest) => Parsed::Broken(Broken::Ambiguous),
        Ok(line) => line,
        Err(_) if is_postfix(rest) => Parsed::Other,
        Err(broken) => Parsed::Broken(broken),
    }
}

/// `<queue id>: `, or `<queue id>[N]: ` in a part of a split line.
fn queue_id(message: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let end = message.iter().take(64).position(|c| !c.is_ascii_alphanumeric())?;
    let (id, after) = message.split_at(end);
    // "Milter: from=" is not a queue id; every id has its digits at the end.
    if !(id.last()?.is_ascii_digit() || id.iter().any(u8::is_ascii_digit) || id == b"NOQUEUE") {
        return None;
    }
    match after {
        [b':', b' ', rest @ ..] => Some((id, false, rest)),
        [b'[', inside @ ..] => {
            let digits = inside.iter().take(3).take_while(|c| c.is_ascii_digit()).count();
            let rest = inside[digits..].strip_prefix(b"]: ")?;
            (digits > 0).then_some((id, true, rest))
        }
        _ => None,
    }
}

/// What `prescan()` says of an address; sendmail logs it behind the address itself.
const COMPLAINTS: [&[u8]; 6] =
    [b"Unbalanced '", b"Illegal character ", b"Address too long", b"Address \"", b"prescan: to", b"remotename: to"];

fn is_complaint(rest: &[u8]) -> bool {
    static DOTS: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"... "));
    DOTS.rfind(rest).is_some_and(|at| COMPLAINTS.iter().any(|c| rest[at + 4..].starts_with(c)))
}

/// Postfix has the same beginnings and other fields; asked only of what sendmail
/// cannot have written.
fn is_postfix(rest: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(rest, needle).is_some();
    has(b", nrcpt=") && rest.ends_with(b"(queue active)")
        || has(b", status=") && has(b", delays=")
        || has(b", status=") && rest.ends_with(b")")
        || has(b", status=expired, returned to sender")
        || has(b" proto=") && has(b" helo=<")
}

#[cfg(test)]
mod tests;
