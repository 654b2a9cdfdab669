//! The body of a `mail` record: one mail transaction.
//!
//! ```text
//! always        kind ts sendmailid client_addr client_name client_verified helo mail_from rcpts nrcpts msgid
//!               verdict strike delay_ms reason connection message duration_ms
//! where known   size mta server daemon tls auth args headers
//! as it happens cut; mode would would_delay_ms; truncated; raw_base64
//! ```
//! Always means that the field is there; a text that is not known is `""`. Fields of the second and third line are
//! left out where there is nothing to say. `ts` is when MAIL came, in UTC, to the microsecond.
//!
//! Everything has a limit, so that a record always fits ([`VALUE_BYTES_MAX`], [`LIST_BYTES_MAX`] and those of
//! `headers`): what is longer is cut there, and `truncated` names its field. What is not UTF-8 is U+FFFD in the value
//! and exact in `raw_base64`, by field: a text, or for a list a list with `null` for what needs none; of the headers the
//! whole block. Where local parts are hashed there is no `raw_base64`.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use greypit_milter::Transaction;
use jiff::Timestamp;

use super::headers::{self, Found, Headers};
use crate::collect::privacy::Privacy;
use crate::collect::record::json;
use crate::collect::syslog::time::Stamp;

/// Of one text, before escaping.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// Of all texts of one list.
const LIST_BYTES_MAX: usize = 64 << 10;

/// What a thread keeps of a buffer that one record has made larger.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Writes records.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) headers: Headers,
    pub(super) privacy: Option<Privacy>,
}

/// Buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    body: Vec<u8>,
    /// The inside of `truncated`.
    truncated: Vec<u8>,
    /// The inside of `raw_base64`.
    exact: Vec<u8>,
    /// A value with its local part hidden.
    hidden: Vec<u8>,
}

/// What hashing local parts does to a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nature {
    /// Nothing.
    Plain,
    /// It is an address.
    Address,
    /// It may have addresses in it.
    Text,
    /// An ESMTP parameter of MAIL.
    Parameter,
}

use Nature::{Address, Parameter, Plain, Text};

impl Writer {
    /// The body for a transaction.
    pub(super) fn write<'s>(&self, t: &Transaction<'_>, scratch: &'s mut Scratch) -> &'s [u8] {
        scratch.reset();
        let found = self.headers.find(t.headers);
        let mut body = Body { scratch, privacy: self.privacy.as_ref() };
        body.begin(t.started);
        body.string("sendmailid", t.queue_id, Plain);
        body.client(t);
        body.string("mail_from", t.mail_from, Address);
        body.list("rcpts", t.rcpts, Address);
        body.number("nrcpts", u64::from(t.nrcpts));
        body.string("msgid", self.message_id(t, &found), Plain);
        if let Some(size) = t.size {
            body.number("size", size);
        }
        body.word("verdict", t.ending.name());
        body.number("strike", u64::from(t.strike));
        body.number("delay_ms", millis(t.delay));
        body.word("reason", t.rule);
        body.known("mta", &t.peer.mta, Plain);
        body.known("server", &t.peer.server, Plain);
        body.known("daemon", &t.peer.daemon, Plain);
        body.tls(t);
        body.known("auth", &t.peer.auth, Address);
        if !t.mail_args.is_empty() {
            body.list("args", t.mail_args, Parameter);
        }
        body.number("connection", t.peer.connection);
        body.number("message", u64::from(t.number));
        body.number("duration_ms", millis(t.took));
        if let Some(cut) = t.cut {
            body.word("cut", cut);
        }
        if let Some((would, delay)) = t.would {
            body.word("mode", "observe");
            body.word("would", would.name());
            body.number("would_delay_ms", millis(delay));
        }
        if !found.fields.is_empty() || found.cut {
            body.headers(self.headers.names(), &found);
        }
        body.end();
        &scratch.body
    }

    /// The MTA's word, else the header field where the config asks for it.
    fn message_id<'a>(&self, t: &'a Transaction<'_>, found: &'a Found<'_>) -> &'a [u8] {
        let in_header = || {
            let index = self.headers.names().iter().position(|name| name == "message-id")?;
            found.fields.iter().find(|(field, _)| *field == index).map(|(_, value)| value.as_bytes())
        };
        let id = if t.msgid.is_empty() { in_header().unwrap_or_default() } else { t.msgid }.trim_ascii();
        id.strip_prefix(b"<").and_then(|id| id.strip_suffix(b">")).unwrap_or(id)
    }
}

impl Scratch {
    fn reset(&mut self) {
        for buffer in [&mut self.body, &mut self.truncated, &mut self.exact, &mut self.hidden] {
            buffer.clear();
            if buffer.capacity() > KEPT_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        self.body.reserve(1024);
    }
}

/// A record that is being written.
struct Body<'s, 'p> {
    scratch: &'s mut Scratch,
    privacy: Option<&'p Privacy>,
}

impl Body<'_, '_> {
    fn begin(&mut self, started: SystemTime) {
        let started = Timestamp::try_from(started).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut stamp = Stamp::utc(started);
        stamp.nanos -= stamp.nanos % 1_000;
        let out = &mut self.scratch.body;
        out.extend_from_slice(b"{\"kind\":\"mail\",\"ts\":\"");
        stamp.write(out);
        out.push(b'"');
    }

    /// `name` is one of ours: nothing to escape.
    fn key(&mut self, name: &'static str) {
        let out = &mut self.scratch.body;
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.key(name);
        // Writing to a Vec cannot fail.
        let _ = write!(self.scratch.body, "{number}");
    }

    fn word(&mut self, name: &'static str, word: &str) {
        self.key(name);
        json::string(&mut self.scratch.body, word.as_bytes(), true);
    }

    fn string(&mut self, name: &'static str, value: &[u8], nature: Nature) {
        self.key(name);
        if self.value(value, nature) {
            self.truncated(name);
        }
        if !self.is_whole(value) {
            self.exact_key(name);
            encode(&mut self.scratch.exact, &value[..cut_at(value)]);
        }
    }

    fn known(&mut self, name: &'static str, value: &[u8], nature: Nature) {
        if !value.is_empty() {
            self.string(name, value, nature);
        }
    }

    fn list(&mut self, name: &'static str, values: &[Vec<u8>], nature: Nature) {
        self.key(name);
        let (mut bytes, mut cut, mut whole) = (0, false, true);
        let mut listed = 0;
        self.scratch.body.push(b'[');
        for value in values {
            bytes += value.len().min(VALUE_BYTES_MAX);
            if bytes > LIST_BYTES_MAX {
                cut = true;
                break;
            }
            if listed > 0 {
                self.scratch.body.push(b',');
            }
            listed += 1;
            cut |= self.value(value, nature);
            whole = whole && self.is_whole(value);
        }
        self.scratch.body.push(b']');
        if cut {
            self.truncated(name);
        }
        if !whole {
            self.exact_list(name, &values[..listed]);
        }
    }

    fn exact_list(&mut self, name: &'static str, values: &[Vec<u8>]) {
        self.exact_key(name);
        for (i, value) in values.iter().enumerate() {
            let out = &mut self.scratch.exact;
            out.push(if i == 0 { b'[' } else { b',' });
            if std::str::from_utf8(value).is_ok() {
                out.extend_from_slice(b"null");
            } else {
                encode(out, &value[..cut_at(value)]);
            }
        }
        self.scratch.exact.push(b']');
    }

    /// Writes a value; says whether it was cut.
    fn value(&mut self, value: &[u8], nature: Nature) -> bool {
        let Scratch { body, hidden, .. } = &mut *self.scratch;
        let value = match self.privacy {
            Some(privacy) if nature != Plain => {
                hidden.clear();
                hide(privacy, hidden, value, nature);
                hidden
            }
            _ => value,
        };
        let end = cut_at(value);
        let shown = &value[..end];
        json::string(body, shown, std::str::from_utf8(shown).is_ok());
        end < value.len()
    }

    /// Whether the record needs no exact bytes beside the value.
    fn is_whole(&self, value: &[u8]) -> bool {
        self.privacy.is_some() || std::str::from_utf8(value).is_ok()
    }

    fn client(&mut self, t: &Transaction<'_>) {
        let peer = t.peer;
        self.key("client_addr");
        // Writing to a Vec cannot fail, and an address needs no escape.
        let _ = match peer.addr {
            Some(addr) => write!(self.scratch.body, "\"{addr}\""),
            None => write!(self.scratch.body, "\"\""),
        };
        self.string("client_name", &peer.name, Text);
        self.key("client_verified");
        self.scratch.body.extend_from_slice(if peer.name_verified { b"true" } else { b"false" });
        self.string("helo", &peer.helo, Text);
    }

    /// `TLSv1.3 TLS_AES_256_GCM_SHA384`: what an MTA says of its own library.
    fn tls(&mut self, t: &Transaction<'_>) {
        let (version, cipher) = (t.peer.tls_version.as_slice(), t.peer.tls_cipher.as_slice());
        if version.is_empty() && cipher.is_empty() {
            return;
        }
        self.key("tls");
        let out = &mut self.scratch.body;
        out.push(b'"');
        json::text(out, &version[..cut_at(version)], false);
        if !version.is_empty() && !cipher.is_empty() {
            out.push(b' ');
        }
        json::text(out, &cipher[..cut_at(cipher)], false);
        out.push(b'"');
    }

    /// A field that comes several times is an array.
    fn headers(&mut self, names: &[String], found: &Found<'_>) {
        self.key("headers");
        let mut cut = found.cut;
        let mut before = b'{';
        for (index, name) in names.iter().enumerate() {
            let mut values = found.fields.iter().filter(|(field, _)| *field == index).map(|(_, value)| value);
            let Some(first) = values.next() else { continue };
            let nature = if headers::is_message_id(name) { Plain } else { Text };
            self.scratch.body.push(std::mem::replace(&mut before, b','));
            json::string(&mut self.scratch.body, name.as_bytes(), true);
            self.scratch.body.push(b':');
            let more = values.clone().next().is_some();
            if more {
                self.scratch.body.push(b'[');
            }
            cut |= self.value(first.as_bytes(), nature);
            for value in values {
                self.scratch.body.push(b',');
                cut |= self.value(value.as_bytes(), nature);
            }
            if more {
                self.scratch.body.push(b']');
            }
        }
        if before == b'{' {
            self.scratch.body.push(b'{');
        }
        self.scratch.body.push(b'}');
        if cut {
            self.truncated("headers");
        }
        if !self.is_whole(found.block) {
            self.exact_key("headers");
            encode(&mut self.scratch.exact, found.block);
        }
    }

    fn truncated(&mut self, name: &'static str) {
        let out = &mut self.scratch.truncated;
        out.extend_from_slice(if out.is_empty() { b"\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }

    fn exact_key(&mut self, name: &'static str) {
        let out = &mut self.scratch.exact;
        out.extend_from_slice(if out.is_empty() { b"\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
    }

    fn end(self) {
        let Scratch { body, truncated, exact, .. } = self.scratch;
        if !truncated.is_empty() {
            body.extend_from_slice(b",\"truncated\":[");
            body.extend_from_slice(truncated);
            body.push(b']');
        }
        if !exact.is_empty() {
            body.extend_from_slice(b",\"raw_base64\":{");
            body.extend_from_slice(exact);
            body.push(b'}');
        }
        body.push(b'}');
    }
}

fn hide(privacy: &Privacy, out: &mut Vec<u8>, value: &[u8], nature: Nature) {
    match nature {
        Plain => out.extend_from_slice(value),
        Address => privacy.address(out, value),
        Parameter if value.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"AUTH=")) => {
            out.extend_from_slice(&value[..5]);
            privacy.address(out, &value[5..]);
        }
        Text | Parameter => privacy.text(out, value, std::iter::empty()),
    }
}

/// The greatest length at which a value is shown, not inside a character.
fn cut_at(value: &[u8]) -> usize {
    if value.len() <= VALUE_BYTES_MAX {
        return value.len();
    }
    let continues = |at: &usize| value[*at] & 0xC0 == 0x80;
    (VALUE_BYTES_MAX - 3..=VALUE_BYTES_MAX).rev().find(|at| !continues(at)).unwrap_or(VALUE_BYTES_MAX)
}

fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
