//! `from` and `to` records: all strings, in the log's own spelling.

use super::{Line, json};
use crate::collect::maillog::wire::{FromLine, ToLine};
use crate::collect::syslog::time::month_name;

pub(super) fn from(out: &mut Vec<u8>, line: &Line<'_>, from: &FromLine<'_>) {
    line.begin(out, b"from");
    line.field(out, b",\"sendmailid\":", from.id);
    line.field(out, b",\"src\":", from.src);
    line.field(out, b",\"size\":", from.size);
    line.field(out, b",\"classnumber\":", from.class);
    line.field(out, b",\"nrcpts\":", from.nrcpts);
    line.field(out, b",\"msgid\":", from.msgid);
    line.field(out, b",\"relay\":", from.relay.host);
    origin(out, line);
    line.optional(out, b",\"relay_ip\":", from.relay.ip);
    line.optional(out, b",\"proto\":", from.proto);
    line.optional(out, b",\"daemon\":", from.daemon);
    line.optional(out, b",\"bodytype\":", from.bodytype);
    line.optional(out, b",\"auth\":", from.auth);
    line.optional(out, b",\"tls_verify\":", from.tls_verify);
    line.end(out);
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
        json::string(out, dest, line.is_utf8);
        out.extend_from_slice(tail);
        sink("to", out);
        records += 1;
    }
    records
}

fn after_dest(out: &mut Vec<u8>, line: &Line<'_>, to: &ToLine<'_>) {
    line.field(out, b",\"relay\":", to.relay.host);
    line.field(out, b",\"stat\":", to.stat);
    line.field(out, b",\"delay\":", to.delay);
    line.field(out, b",\"xdelay\":", to.xdelay);
    origin(out, line);
    line.optional(out, b",\"relay_ip\":", to.relay.ip);
    line.optional(out, b",\"ctladdr\":", to.ctladdr);
    line.optional(out, b",\"mailer\":", to.mailer);
    line.field(out, b",\"pri\":", to.pri);
    line.optional(out, b",\"dsn\":", to.dsn);
    line.optional(out, b",\"reply\":", to.reply);
    line.end(out);
}

/// `mailserver pid month day time`
fn origin(out: &mut Vec<u8>, line: &Line<'_>) {
    let m = line.message;
    let stamp = &line.stamp;
    line.field(out, b",\"mailserver\":", m.hostname.unwrap_or(line.default_host));
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
