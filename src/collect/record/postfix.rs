//! `from` and `to` records of Postfix's lines, in sendmail's fields.

use super::mail::{address, end, origin};
use super::{Line, json};
use crate::collect::maillog::postfix::{FromLine, Join, ToLine};

/// What was joined to it is from other lines, so it is UTF-8 or not for itself.
pub(super) fn from(out: &mut Vec<u8>, line: &Line<'_>, from: &FromLine<'_>, join: &Join) {
    let joined = |out: &mut Vec<u8>, key: &'static [u8], value: Option<&[u8]>| {
        if let Some(value) = value {
            out.extend_from_slice(key);
            json::string(out, value, std::str::from_utf8(value).is_ok());
        }
    };
    line.begin(out, b"from");
    line.field(out, b",\"sendmailid\":", from.id);
    address(out, line, b",\"src\":", from.src);
    line.field(out, b",\"size\":", from.size);
    line.field(out, b",\"classnumber\":", b"");
    line.field(out, b",\"nrcpts\":", from.nrcpts);
    joined(out, b",\"msgid\":", Some(join.msgid.as_deref().unwrap_or_default()));
    joined(out, b",\"relay\":", Some(&join.relay));
    origin(out, line);
    joined(out, b",\"relay_ip\":", join.relay_ip.as_deref());
    joined(out, b",\"auth\":", join.auth.as_deref());
    end(out, line);
}

pub(super) fn to(out: &mut Vec<u8>, line: &Line<'_>, to: &ToLine<'_>, mailer: &[u8]) {
    line.begin(out, b"to");
    line.field(out, b",\"sendmailid\":", to.id);
    address(out, line, b",\"dest\":", to.dest);
    line.field(out, b",\"relay\":", to.relay.host);
    quoting(out, line, b",\"stat\":", to.stat, to);
    line.field(out, b",\"delay\":", to.delay);
    line.field(out, b",\"xdelay\":", b"");
    origin(out, line);
    line.optional(out, b",\"relay_ip\":", to.relay.ip);
    line.field(out, b",\"mailer\":", mailer);
    line.optional(out, b",\"dsn\":", to.dsn);
    if let Some(reply) = to.reply {
        quoting(out, line, b",\"reply\":", reply, to);
    }
    if let Some(orig_to) = to.orig_to {
        address(out, line, b",\"orig_to\":", orig_to);
    }
    line.optional(out, b",\"delays\":", to.delays);
    end(out, line);
}

/// A text of the other side, which may quote the recipient and other addresses.
fn quoting(out: &mut Vec<u8>, line: &Line<'_>, key: &'static [u8], text: &[u8], to: &ToLine<'_>) {
    let Some(privacy) = line.privacy else { return line.field(out, key, text) };
    let mut hidden = Vec::new();
    privacy.text(&mut hidden, text, [Some(to.dest), to.orig_to].into_iter().flatten());
    out.extend_from_slice(key);
    json::string(out, &hidden, false);
}
