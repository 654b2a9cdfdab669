//! `from` and `to` records: all strings, in the log's own spelling but for hashed local parts.

use super::{Line, json};
use crate::collect::maillog::wire::{FromLine, ToLine};
use crate::collect::syslog::time::month_name;

pub(super) fn from(out: &mut Vec<u8>, line: &Line<'_>, from: &FromLine<'_>) {
    line.begin(out, b"from");
    line.field(out, b",\"sendmailid\":", from.id);
    address(out, line, b",\"src\":", from.src);
    line.field(out, b",\"size\":", from.size);
    line.field(out, b",\"classnumber\":", from.class);
    line.field(out, b",\"nrcpts\":", from.nrcpts);
    line.field(out, b",\"msgid\":", from.msgid);
    relay(out, line, from.relay.host);
    origin(out, line);
    line.optional(out, b",\"relay_ip\":", from.relay.ip);
    line.optional(out, b",\"proto\":", from.proto);
    line.optional(out, b",\"daemon\":", from.daemon);
    line.optional(out, b",\"bodytype\":", from.bodytype);
    line.optional(out, b",\"auth\":", from.auth);
    line.optional(out, b",\"tls_verify\":", from.tls_verify);
    end(out, line);
}

/// One record a recipient: only `dest` differs, so the rest is written once.
pub(super) fn to(
    out: &mut Vec<u8>,
    tail: &mut Vec<u8>,
    line: &Line<'_>,
    to: &ToLine<'_>,
    sink: &mut impl FnMut(&'static str, &[u8]),
) -> u32 {
    line.begin(out, b"to");
    line.field(out, b",\"sendmailid\":", to.id);
    out.extend_from_slice(b",\"dest\":");
    let head = out.len();
    tail.clear();
    after_dest(tail, line, to);
    let mut records = 0;
    for dest in to.recipients {
        out.truncate(head);
        address(out, line, b"", dest);
        out.extend_from_slice(tail);
        sink("to", out);
        records += 1;
    }
    records
}

fn after_dest(out: &mut Vec<u8>, line: &Line<'_>, to: &ToLine<'_>) {
    relay(out, line, to.relay.host);
    quoting(out, line, b",\"stat\":", to.stat, to);
    line.field(out, b",\"delay\":", to.delay);
    line.field(out, b",\"xdelay\":", to.xdelay);
    origin(out, line);
    line.optional(out, b",\"relay_ip\":", to.relay.ip);
    if let Some(ctladdr) = to.ctladdr {
        address(out, line, b",\"ctladdr\":", ctladdr);
    }
    line.optional(out, b",\"mailer\":", to.mailer);
    line.field(out, b",\"pri\":", to.pri);
    line.optional(out, b",\"dsn\":", to.dsn);
    if let Some(reply) = to.reply {
        quoting(out, line, b",\"reply\":", reply, to);
    }
    end(out, line);
}

/// An address, of a `ctladdr` perhaps with ` (uid/gid)` behind it.
pub(super) fn address(out: &mut Vec<u8>, line: &Line<'_>, key: &'static [u8], value: &[u8]) {
    let Some(privacy) = line.privacy else { return line.field(out, key, value) };
    let is_ids = |c: &u8| c.is_ascii_digit() || b" (/)".contains(c);
    let ids = memchr::memmem::rfind(value, b" (").filter(|at| value.ends_with(b")") && value[*at..].iter().all(is_ids));
    let (value, ids) = value.split_at(ids.unwrap_or(value.len()));
    let mut hidden = Vec::new();
    privacy.address(&mut hidden, value);
    hidden.extend_from_slice(ids);
    out.extend_from_slice(key);
    json::string(out, &hidden, false);
}

/// The other host; of a local submission its user too.
fn relay(out: &mut Vec<u8>, line: &Line<'_>, host: &[u8]) {
    let key = b",\"relay\":";
    if host.contains(&b'@') { address(out, line, key, host) } else { line.field(out, key, host) }
}

/// A text of the other side, which may quote the recipients and other addresses.
fn quoting(out: &mut Vec<u8>, line: &Line<'_>, key: &'static [u8], text: &[u8], to: &ToLine<'_>) {
    let Some(privacy) = line.privacy else { return line.field(out, key, text) };
    let mut hidden = Vec::new();
    privacy.text(&mut hidden, text, to.recipients);
    out.extend_from_slice(key);
    json::string(out, &hidden, false);
}

/// The exact bytes would show what is hidden.
pub(super) fn end(out: &mut Vec<u8>, line: &Line<'_>) {
    if line.privacy.is_some() { out.push(b'}') } else { line.end(out) }
}

/// `mailserver pid month day time`
pub(super) fn origin(out: &mut Vec<u8>, line: &Line<'_>) {
    let m = line.message;
    let stamp = &line.stamp;
    line.field(out, b",\"mailserver\":", line.mailserver());
    line.field(out, b",\"pid\":", m.procid.unwrap_or_default());
    out.extend_from_slice(b",\"month\":\"");
    out.extend_from_slice(month_name(stamp.month).as_bytes());
    out.extend_from_slice(b"\",\"day\":\"");
    if stamp.day >= 10 || stamp.day_padded {
        out.push(b'0' + stamp.day / 10 % 10);
    }
    out.push(b'0' + stamp.day % 10);
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(&stamp.clock());
    out.push(b'"');
}
