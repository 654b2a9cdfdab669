//! Postfix's lines about a message and its recipients, and why nobody outside can forge
//! a field.
//!
//! Source of the format: Postfix, `log_adhoc()` in src/global/log_adhoc.c,
//! `qmgr_active_feed()` and `qmgr_message.c` in src/qmgr, `mail_open_stream()` and
//! `smtpd_sasl_mail_log()` in src/smtpd, `cleanup_message.c`, `pickup.c`,
//! `msg_syslog.c` and `printable()` in src/util. Older releases lack `delays=` and
//! `dsn=`, newer ones have `tls=`.
//!
//! # What is printed, and who chooses the value
//!
//! ```text
//! smtpd    ID: client=NAME[ADDRESS][:PORT][, sasl_method=M, …]  DNS and the kernel
//! pickup   ID: uid=N from=<…>                                   a local user
//! cleanup  ID: message-id=…                                     the client, to the end
//! qmgr     ID: from=<A>, size=N, nrcpt=N (queue Q)              A: the client
//! any      ID: to=<A>[, orig_to=<A>]                            the client
//!              , relay=R[, conn_use=N]                          a name from DNS, an address
//!              , delay=N[, delays=N/N/N/N][, tls=…][, dsn=d.d.d], status=WORD   Postfix
//!               (TEXT)                                          the remote server, in part
//! qmgr     ID: removed
//! ```
//!
//! The program's name, which no outsider chooses, says which of these a line can be.
//! An address is logged in its quoted form (`info_log_address_format = external`, the
//! default since Postfix 3.5), so that its end is the first `>` outside quotes. That is
//! not trusted alone, since older releases quote nothing:
//!
//! - **from**: the fields behind the address end the line, so they are read from the
//!   right; the walk over the address must end at the same place.
//! - **to**: `, delay=…, status=WORD (` (the *anchor*) is what Postfix alone writes.
//!   There must be exactly one in the line, and the fields from the left, each with the
//!   exact shape of its value, must lead to it. A line with two, one of them in an
//!   address or in the words of a remote server, is [`Broken::Ambiguous`]. No guess is
//!   made.
//! - Postfix cuts a line at 2000 bytes: one that long may lack its true fields, and is
//!   [`Broken::Truncated`].
//!
//! What remains: where addresses are logged without quotes (before 3.5, or `internal`), a
//! recipient that contains `>, orig_to=<` is taken for two addresses, both of which its
//! sender chose.
//!
//! No allocation, no clock, no I/O; linear time; no input can cause a panic.

mod join;
mod lex;

use super::wire::{Relay, unbracket};
use lex::{Anchor, anchor, conn_use, relay_name, walk};
use memchr::memmem::Finder;
use std::sync::LazyLock;

pub use join::{JOIN_AGE_SECONDS_MAX, JOIN_BYTES_MAX, Joins};
pub(crate) use join::{Join, Key};

/// Where `msg_syslog.c` cuts a text.
const TEXT_BYTES_MAX: usize = 2000;

/// Which of Postfix's programs wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program<'a> {
    /// What stands in front of the first `/`: each instance has a queue of its own.
    pub instance: &'a [u8],
    /// What stands behind the last one.
    pub daemon: &'a [u8],
}

/// `postfix/smtp`, `postfix-out/relay/smtp`: whatever `syslog_name` is, with the name of
/// a program of Postfix that logs messages or recipients.
#[must_use]
pub fn program(app: &[u8]) -> Option<Program<'_>> {
    let first = memchr::memchr(b'/', app).filter(|at| *at > 0)?;
    let last = memchr::memrchr(b'/', app)?;
    let daemon = &app[last + 1..];
    DAEMONS.contains(&daemon).then_some(Program { instance: &app[..first], daemon })
}

const DAEMONS: [&[u8]; 17] = [
    b"smtp", b"qmgr", b"cleanup", b"smtpd", b"lmtp", b"local", b"virtual", b"pipe", b"error", b"pickup", b"bounce",
    b"discard", b"retry", b"oqmgr", b"nqmgr", b"qmqpd", b"verify",
];

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A message begins: who sends it.
    Client {
        id: &'a [u8],
        relay: Relay<'a>,
        auth: Option<&'a [u8]>,
    },
    /// A message begins: from this machine.
    Pickup {
        id: &'a [u8],
    },
    /// Without its angle brackets.
    MessageId {
        id: &'a [u8],
        msgid: &'a [u8],
    },
    /// A message enters the active queue, for the first time or again.
    From(FromLine<'a>),
    To(ToLine<'a>),
    /// A message is done with.
    Removed {
        id: &'a [u8],
    },
    /// Something else.
    Other,
    /// A `from=` or `to=` line that cannot be read whole.
    Broken(Broken),
}

/// Why a `from=` or `to=` line was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("postfix: the line is cut off")]
    Truncated,
    #[error("postfix: the end of the address is not where the fields begin")]
    Unbalanced,
    #[error("postfix: a field has a value that Postfix does not print")]
    Value,
    #[error("postfix: the line can be read in two ways")]
    Ambiguous,
}

impl Broken {
    /// A bounded label for metrics and the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Broken::Truncated => "postfix_truncated",
            Broken::Unbalanced => "postfix_unbalanced",
            Broken::Value => "postfix_value",
            Broken::Ambiguous => "postfix_ambiguous",
        }
    }
}

/// A message in the active queue. Values as logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromLine<'a> {
    pub id: &'a [u8],
    /// Empty for the null sender.
    pub src: &'a [u8],
    pub size: &'a [u8],
    pub nrcpts: &'a [u8],
}

/// One attempt to deliver to one recipient. Values as logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToLine<'a> {
    pub id: &'a [u8],
    pub dest: &'a [u8],
    /// What the recipient was before aliases.
    pub orig_to: Option<&'a [u8]>,
    pub relay: Relay<'a>,
    pub delay: &'a [u8],
    pub delays: Option<&'a [u8]>,
    pub dsn: Option<&'a [u8]>,
    /// What the remote server said, where the delivery failed.
    pub reply: Option<&'a [u8]>,
    /// `sent (250 …)`: the word and the text behind it.
    pub stat: &'a [u8],
}

/// Reads the text behind `program[pid]: ` of a line that [`program`] knows.
#[must_use]
pub fn parse<'a>(daemon: &[u8], message: &'a [u8]) -> Parsed<'a> {
    let Some((id, rest)) = queue_id(message) else {
        return Parsed::Other;
    };
    let whole = message.len() < TEXT_BYTES_MAX;
    let to = |rest| if whole { to(id, rest) } else { Err(Broken::Truncated) };
    let result = match (daemon, rest) {
        (b"qmgr" | b"oqmgr" | b"nqmgr", b"removed") => return Parsed::Removed { id },
        (b"qmgr" | b"oqmgr" | b"nqmgr", [b'f', b'r', b'o', b'm', b'=', b'<', rest @ ..]) => match from(id, rest) {
            _ if is_expired(rest) => return Parsed::Other,
            Ok(_) if !whole => Err(Broken::Truncated),
            result => result.map(Parsed::From),
        },
        (b"smtpd" | b"qmqpd", [b'c', b'l', b'i', b'e', b'n', b't', b'=', rest @ ..]) => {
            return client(id, rest).unwrap_or(Parsed::Other);
        }
        (b"cleanup", [b'm', b'e', b's', b's', b'a', b'g', b'e', b'-', b'i', b'd', b'=', msgid @ ..]) if whole => {
            return Parsed::MessageId { id, msgid: unbracket(msgid) };
        }
        (b"pickup", [b'u', b'i', b'd', b'=', ..]) => return Parsed::Pickup { id },
        (b"smtpd" | b"qmqpd" | b"pickup", _) => return Parsed::Other,
        (_, [b't', b'o', b'=', b'<', rest @ ..]) => to(rest).map(Parsed::To),
        _ => return Parsed::Other,
    };
    result.unwrap_or_else(Parsed::Broken)
}

/// `<queue id>: `. A short one is 5 hexadecimal digits of a microsecond and those of an
/// inode number; a long one begins with its time in base 52, a digit until 2030 at least.
fn queue_id(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = message.iter().take(33).position(|c| !c.is_ascii_alphanumeric())?;
    let (id, after) = message.split_at(end);
    let rest = after.strip_prefix(b": ")?;
    let short = id.iter().all(|c| c.is_ascii_digit() || (b'A'..=b'F').contains(c));
    (id.len() > 5 && (short || id.iter().any(u8::is_ascii_digit))).then_some((id, rest))
}

/// `from=<…>, status=expired, returned to sender`: no message enters the queue.
fn is_expired(rest: &[u8]) -> bool {
    rest.ends_with(b">, status=expired, returned to sender")
        || rest.ends_with(b">, status=force-expired, returned to sender")
}

fn client<'a>(id: &'a [u8], rest: &'a [u8]) -> Option<Parsed<'a>> {
    let (rest, name) = relay_name(rest).ok()?;
    let relay = relay(name)?;
    let auth = match rest.strip_prefix(b", sasl_method=") {
        Some(rest) => {
            let method = &rest[..memchr::memchr(b',', rest).unwrap_or(rest.len())];
            (!method.is_empty() && method.len() <= 64 && !method.contains(&b' ')).then_some(method)
        }
        None if rest.is_empty() || rest.starts_with(b", ") => None,
        None => return None,
    };
    Some(Parsed::Client { id, relay, auth })
}

fn from<'a>(id: &'a [u8], rest: &'a [u8]) -> Result<FromLine<'a>, Broken> {
    let end = walk(rest).ok_or(Broken::Unbalanced)?;
    let (src, fields) = rest.split_at(end);
    // The true fields end the line; so if the walk is right, they are all that is left.
    let fields = &fields[1..];
    let (_, (size, nrcpts)) = lex::counts(fields).map_err(|_| {
        let cut = b", size=".starts_with(&fields[..fields.len().min(7)]) && !fields.ends_with(b")");
        if cut { Broken::Truncated } else { Broken::Unbalanced }
    })?;
    Ok(FromLine { id, src, size, nrcpts })
}

static DELAYS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b", delay="));

fn to<'a>(id: &'a [u8], rest: &'a [u8]) -> Result<ToLine<'a>, Broken> {
    let mut anchors = DELAYS.find_iter(rest).filter(|at| anchor(&rest[*at..]).is_ok());
    let at = anchors.next().ok_or(Broken::Truncated)?;
    if anchors.next().is_some() {
        return Err(Broken::Ambiguous);
    }
    let mut line = ToLine { id, ..ToLine::default() };
    let mut left = &rest[..at];
    left = address(left, &mut line.dest)?;
    if let Some(behind) = left.strip_prefix(b", orig_to=<") {
        let mut orig_to = &b""[..];
        left = address(behind, &mut orig_to)?;
        line.orig_to = Some(orig_to);
    }
    let name = left.strip_prefix(b", relay=").ok_or(Broken::Unbalanced)?;
    let (left, name) = relay_name(name).map_err(|_| Broken::Value)?;
    line.relay = relay(name).ok_or(Broken::Value)?;
    conn_use(left).map_err(|_| Broken::Value)?;
    let (_, Anchor { delay, delays, dsn, status }) = anchor(&rest[at..]).map_err(|_| Broken::Value)?;
    (line.delay, line.delays, line.dsn) = (delay, delays, dsn);
    let end = rest.len() - status.len();
    line.stat = &rest[end..];
    line.reply = reply(line.stat);
    Ok(line)
}

/// Takes off an address and its `>`.
fn address<'a>(s: &'a [u8], address: &mut &'a [u8]) -> Result<&'a [u8], Broken> {
    let end = walk(s).ok_or(Broken::Unbalanced)?;
    *address = &s[..end];
    Ok(&s[end + 1..])
}

/// `name[address]:port`, `name[path of a socket]`, `none`, `local`, the name of a service.
fn relay(text: &[u8]) -> Option<Relay<'_>> {
    let Some(open) = memchr::memchr(b'[', text) else {
        return Some(Relay { host: text, ip: None });
    };
    let (host, inside) = (&text[..open], &text[open + 1..]);
    let close = memchr::memrchr(b']', inside)?;
    let port = &inside[close + 1..];
    if !(port.is_empty() || port.starts_with(b":")) {
        return None;
    }
    Some(Relay { host, ip: super::wire::address(&inside[..close]) })
}

/// The other side's words in `bounced (host NAME said: WORDS (in reply to COMMAND))`.
/// Postfix's own come first, and a relay has no blank.
fn reply(stat: &[u8]) -> Option<&[u8]> {
    let open = memchr::memchr(b'(', stat)?;
    let text = stat[open + 1..].strip_prefix(b"host ")?;
    let text = &text[memchr::memchr(b' ', text)?..];
    let text = text.strip_prefix(b" said: ").or_else(|| text.strip_prefix(b" refused to talk to me: "))?;
    let text = text.strip_suffix(b")").unwrap_or(text);
    let end = memchr::memmem::rfind(text, b" (in reply to ").unwrap_or(text.len());
    Some(&text[..end])
}

#[cfg(test)]
mod tests;
