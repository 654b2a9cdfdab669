//! Records: one log line or syslog message in, JSON bodies out.
//!
//! [`Recorder::to_records`] is the one way in for listeners, file tails, the `parse`
//! command and the benchmarks. A body is a whole JSON object on one line, without the
//! `id` and `node` that the pipeline adds, and begins `{"kind":"…","ts":"…"`. Any
//! input bytes give valid JSON: what is not UTF-8 is U+FFFD in the value and exact
//! in `raw_base64`.
//!
//! With a [`Privacy`], the addresses of `from` and `to` have hashed local parts: in
//! `src`, `dest`, `ctladdr`, in a `relay` that names a user, and where `stat` and
//! `reply` quote them; there is no `raw_base64` then. `msgid` is as it is. `syslog`
//! records are not touched: they keep what was logged, addresses too.
//!
//! Of Postfix's lines, those of qmgr make `from` and those of delivery agents `to`; what
//! other lines say of the same message is joined to its `from` by way of [`Joins`], and
//! they are `syslog` records too, as is a `from=` of a message that has had its record.
//!
//! Pure but for that table: the receive time is an argument. Buffers are reused, so a plain
//! line of sendmail allocates nothing unless it has addresses to hash.

pub(in crate::collect) mod json;
mod mail;
mod postfix;
mod syslog;

use super::maillog::postfix::{self as postfix_wire, Joins, Key, Parsed as Postfix, Program};
use super::maillog::wire::{self as maillog, Broken, Parsed};
use super::privacy::Privacy;
use super::syslog::fold::{Fate, Folds};
use super::syslog::rules::{Rules, Verdict};
use super::syslog::time::{Stamp, TimeResolver};
use super::syslog::wire::{self, Message, ParseError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::Write;
use std::net::IpAddr;

/// Whom a message came from, as far as the receiver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    None,
    Ip(IpAddr),
    /// A machine that has booted from here, and the id of its boot session.
    Booted(IpAddr, &'a str),
    /// A file, or the credentials of a local socket.
    Text(&'a str),
}

impl<'a> Peer<'a> {
    /// One on the network, and the boot session that it is in.
    pub fn of(ip: Option<IpAddr>, session: Option<&'a str>) -> Peer<'a> {
        match (ip, session) {
            (Some(ip), Some(session)) => Peer::Booted(ip, session),
            (Some(ip), None) => Peer::Ip(ip),
            (None, _) => Peer::None,
        }
    }

    /// Its address, where it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Peer::Ip(ip) | Peer::Booted(ip, _) => Some(ip),
            Peer::None | Peer::Text(_) => None,
        }
    }
}

/// Why a line became a `syslog` record with `parse_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error(transparent)]
    Syslog(#[from] ParseError),
    #[error(transparent)]
    Mail(#[from] Broken),
    #[error(transparent)]
    Postfix(#[from] postfix_wire::Broken),
}

impl Reason {
    /// A bounded label for metrics and the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Syslog(e) => e.name(),
            Reason::Mail(e) => e.name(),
            Reason::Postfix(e) => e.name(),
        }
    }
}

/// What a line became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `from`, `to`, `syslog` or what a rule makes of that.
    pub kind: &'static str,
    /// Records given to the sink: one a recipient, none for an empty line, by a rule, or if folded.
    pub records: u32,
    pub error: Option<Reason>,
}

/// Turns lines into records. One a task: it owns the time cache and the buffers.
#[derive(Debug)]
pub struct Recorder {
    /// Whether mail log lines become `from` and `to`.
    mail: bool,
    times: TimeResolver,
    default_host: String,
    privacy: Option<Privacy>,
    joins: Joins,
    rules: Option<Rules>,
    folds: Option<Folds>,
    body: Vec<u8>,
    /// What follows the recipient in the records of one `to=` line.
    tail: Vec<u8>,
}

impl Recorder {
    /// `zone` is for stamps without offset, `default_host` for mail log lines
    /// without host.
    #[must_use]
    pub fn new(zone: TimeZone, default_host: &str) -> Self {
        Recorder {
            mail: true,
            times: TimeResolver::new(zone),
            default_host: default_host.to_owned(),
            privacy: None,
            joins: Joins::default(),
            rules: None,
            folds: None,
            body: Vec::with_capacity(1024),
            tail: Vec::with_capacity(1024),
        }
    }

    /// One that makes `syslog` records of mail log lines too.
    #[must_use]
    pub fn without_mail(zone: TimeZone, default_host: &str) -> Self {
        Recorder { mail: false, ..Recorder::new(zone, default_host) }
    }

    /// Hides local parts in `from` and `to`, if it is given something to hide them with.
    #[must_use]
    pub fn with_privacy(self, privacy: Option<Privacy>) -> Self {
        Recorder { privacy, ..self }
    }

    /// Shares what it knows of Postfix's messages with others.
    #[must_use]
    pub fn with_joins(self, joins: Joins) -> Self {
        Recorder { joins, ..self }
    }

    /// Lets rules decide on what is not mail's.
    #[must_use]
    pub fn with_rules(self, rules: Option<Rules>) -> Self {
        Recorder { rules, ..self }
    }

    /// Folds identical messages that are not mail's.
    #[must_use]
    pub fn with_folds(self, folds: Option<Folds>) -> Self {
        Recorder { folds, ..self }
    }

    /// Another default host, as a file of another server needs.
    pub fn reset_host(&mut self, default_host: &str) {
        self.default_host.clear();
        self.default_host.push_str(default_host);
    }

    /// Gives `sink` the kind and the body of each record that `raw` makes.
    pub fn to_records(
        &mut self,
        raw: &[u8],
        received: Timestamp,
        peer: Peer<'_>,
        sink: &mut impl FnMut(&'static str, &[u8]),
    ) -> Outcome {
        let message = wire::parse(raw, received, &mut self.times);
        if message.raw.is_empty() {
            return Outcome { kind: "syslog", records: 0, error: None };
        }
        let line = Line {
            message: &message,
            stamp: message.stamp.unwrap_or_else(|| Stamp::utc(received)),
            is_utf8: std::str::from_utf8(message.raw).is_ok(),
            default_host: self.default_host.as_bytes(),
            privacy: self.privacy.as_ref(),
        };
        self.body.clear();
        let mut error = message.parse_error.map(Reason::Syslog);
        let from = peer.ip();
        let ask = |before_mail| self.rules.as_ref().and_then(|rules| rules.verdict(&message, from, before_mail));
        let mut verdict = ask(true);
        match (error, message.app) {
            (None, Some(app)) if self.mail && verdict.is_none() => {
                // Templates of forwarders often put a blank too many behind the program.
                let text = message.message.trim_ascii_start();
                let made = if let Some(program) = postfix_wire::program(app) {
                    let of = Origin { peer, now: received.as_second(), joins: &self.joins };
                    postfix_records(&mut self.body, &line, &program, text, &of, sink)
                } else if app.starts_with(b"postfix") {
                    Made::Nothing
                } else {
                    sendmail_records(&mut self.body, &mut self.tail, &line, text, sink)
                };
                match made {
                    Made::Records(kind, records) => return Outcome { kind, records, error },
                    Made::Broken(broken) => error = Some(broken),
                    Made::Nothing => {}
                }
            }
            _ => {}
        }
        verdict = verdict.or_else(|| ask(false));
        let (kind, sampled) = match verdict {
            None => ("syslog", None),
            Some(Verdict::Keep { kind, sampled }) => (kind, sampled),
            Some(Verdict::Skip) => return Outcome { kind: "syslog", records: 0, error },
        };
        syslog::write(&mut self.body, &line, kind, peer, error);
        if let Some(sampled) = sampled {
            self.body.pop();
            // Writing to a Vec cannot fail.
            let _ = write!(self.body, ",\"sampled\":{sampled}}}");
        }
        let mut records = 1;
        if let Some(folds) = &self.folds {
            match folds.add(&message, from, kind, &self.body, received) {
                Fate::IsFolded => return Outcome { kind, records: 0, error },
                Fate::Passes(Some(ended)) => {
                    sink(ended.kind, &ended.body);
                    records = 2;
                }
                Fate::Passes(None) => {}
            }
        }
        sink(kind, &self.body);
        Outcome { kind, records, error }
    }
}

/// What a parser of mail logs made of a line.
enum Made {
    Records(&'static str, u32),
    Broken(Reason),
    /// It is for the others.
    Nothing,
}

fn sendmail_records(
    body: &mut Vec<u8>,
    tail: &mut Vec<u8>,
    line: &Line<'_>,
    text: &[u8],
    sink: &mut impl FnMut(&'static str, &[u8]),
) -> Made {
    match maillog::parse(text) {
        Parsed::From(from) => {
            mail::from(body, line, &from);
            sink("from", body);
            Made::Records("from", 1)
        }
        Parsed::To(to) => Made::Records("to", mail::to(body, tail, line, &to, sink)),
        Parsed::Broken(broken) => Made::Broken(Reason::Mail(broken)),
        Parsed::Other => Made::Nothing,
    }
}

/// What joining needs beside the line.
struct Origin<'a> {
    peer: Peer<'a>,
    now: i64,
    joins: &'a Joins,
}

fn postfix_records(
    body: &mut Vec<u8>,
    line: &Line<'_>,
    program: &Program<'_>,
    text: &[u8],
    of: &Origin<'_>,
    sink: &mut impl FnMut(&'static str, &[u8]),
) -> Made {
    let key = |id| Key {
        // Who writes to a local socket is another process for each program.
        peer: of.peer.ip(),
        mailserver: line.mailserver(),
        instance: program.instance,
        id,
    };
    match postfix_wire::parse(program.daemon, text) {
        Postfix::Client { id, relay, auth } => of.joins.begin(key(id), &relay, auth, of.now),
        Postfix::Pickup { id } => {
            of.joins.begin(key(id), &maillog::Relay { host: b"local", ip: None }, None, of.now);
        }
        Postfix::MessageId { id, msgid } => of.joins.msgid(key(id), msgid, of.now),
        Postfix::Removed { id } => of.joins.end(key(id), of.now),
        Postfix::From(from) => {
            if let Some(join) = of.joins.from(key(from.id), of.now) {
                postfix::from(body, line, &from, &join);
                sink("from", body);
                return Made::Records("from", 1);
            }
        }
        Postfix::To(to) => {
            postfix::to(body, line, &to, program.daemon);
            sink("to", body);
            return Made::Records("to", 1);
        }
        Postfix::Broken(broken) => return Made::Broken(Reason::Postfix(broken)),
        Postfix::Other => {}
    }
    Made::Nothing
}

/// A parsed message and what every record of it needs.
struct Line<'a> {
    message: &'a Message<'a>,
    stamp: Stamp,
    is_utf8: bool,
    default_host: &'a [u8],
    privacy: Option<&'a Privacy>,
}

impl Line<'_> {
    fn mailserver(&self) -> &[u8] {
        self.message.hostname.unwrap_or(self.default_host)
    }

    fn begin(&self, out: &mut Vec<u8>, kind: &[u8]) {
        out.extend_from_slice(b"{\"kind\":\"");
        out.extend_from_slice(kind);
        out.extend_from_slice(b"\",\"ts\":\"");
        self.stamp.write(out);
        out.push(b'"');
    }

    /// `key` is `,"name":`, so that it is one copy.
    fn field(&self, out: &mut Vec<u8>, key: &'static [u8], value: &[u8]) {
        out.extend_from_slice(key);
        json::string(out, value, self.is_utf8);
    }

    fn optional(&self, out: &mut Vec<u8>, key: &'static [u8], value: Option<&[u8]>) {
        if let Some(value) = value {
            self.field(out, key, value);
        }
    }

    /// Closes the object, with the exact bytes where a value could not carry them.
    fn end(&self, out: &mut Vec<u8>) {
        if !self.is_utf8 {
            out.extend_from_slice(b",\"raw_base64\":\"");
            out.extend_from_slice(STANDARD.encode(self.message.raw).as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
