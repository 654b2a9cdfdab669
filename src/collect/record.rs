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
//! Pure: the receive time is an argument. Buffers are reused, so a plain line
//! allocates nothing unless it has addresses to hash.

pub(in crate::collect) mod json;
mod mail;
mod syslog;

use super::maillog::wire::{self as maillog, Broken, Parsed};
use super::privacy::Privacy;
use super::syslog::time::{Stamp, TimeResolver};
use super::syslog::wire::{self, Message, ParseError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::net::IpAddr;

/// Whom a message came from, as far as the receiver knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer<'a> {
    None,
    Ip(IpAddr),
    /// A file, or the credentials of a local socket.
    Text(&'a str),
}

/// Why a line became a `syslog` record with `parse_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error(transparent)]
    Syslog(#[from] ParseError),
    #[error(transparent)]
    Mail(#[from] Broken),
}

impl Reason {
    /// A bounded label for metrics and the record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Syslog(e) => e.name(),
            Reason::Mail(e) => e.name(),
        }
    }
}

/// What a line became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `from`, `to` or `syslog`.
    pub kind: &'static str,
    /// Records given to the sink: one a recipient, none for an empty line.
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
        let parsed = match (error, message.app) {
            (None, Some(app)) if self.mail && !app.starts_with(b"postfix") => {
                // Templates of forwarders often put a blank too many behind the program.
                maillog::parse(message.message.trim_ascii_start())
            }
            _ => Parsed::Other,
        };
        match parsed {
            Parsed::From(from) => {
                mail::from(&mut self.body, &line, &from);
                sink("from", &self.body);
                return Outcome { kind: "from", records: 1, error };
            }
            Parsed::To(to) => {
                let records = mail::to(&mut self.body, &mut self.tail, &line, &to, sink);
                return Outcome { kind: "to", records, error };
            }
            Parsed::Broken(broken) => error = Some(Reason::Mail(broken)),
            Parsed::Other => {}
        }
        syslog::write(&mut self.body, &line, peer, error);
        sink("syslog", &self.body);
        Outcome { kind: "syslog", records: 1, error }
    }
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
    fn begin(&self, out: &mut Vec<u8>, kind: &'static [u8]) {
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
