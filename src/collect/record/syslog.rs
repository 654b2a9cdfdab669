//! `syslog` records.

use super::{Line, Peer, Reason, json};
use crate::collect::syslog::wire::{Elements, HostSource, Params, TimeSource};
use std::io::Write;

pub(super) fn write(out: &mut Vec<u8>, line: &Line<'_>, kind: &str, peer: Peer<'_>, error: Option<Reason>) {
    let m = line.message;
    line.begin(out, kind.as_bytes());
    if let Some(pri) = m.pri {
        // Keywords of ours: nothing to escape.
        out.extend_from_slice(b",\"facility\":\"");
        out.extend_from_slice(pri.facility().as_bytes());
        out.extend_from_slice(b"\",\"severity\":\"");
        out.extend_from_slice(pri.severity().as_bytes());
        out.push(b'"');
    }
    line.optional(out, b",\"timestamp\":", m.timestamp);
    let unknown = m.stamp.is_none().then_some(TimeSource::Received);
    word(out, b",\"timestamp_source\":\"", m.timestamp_source.or(unknown).map(TimeSource::name));
    host(out, line, peer);
    line.optional(out, b",\"app\":", m.app);
    line.optional(out, b",\"procid\":", m.procid);
    line.optional(out, b",\"msgid\":", m.msgid);
    line.optional(out, b",\"sequence\":", m.sequence);
    if let Some(data) = m.structured_data {
        out.extend_from_slice(b",\"structured_data\":");
        structured_data(out, line, data);
    }
    line.field(out, b",\"message\":", m.message);
    match peer {
        Peer::None => {}
        Peer::Ip(ip) => {
            // Writing to a Vec cannot fail, and an address needs no escape.
            let _ = write!(out, ",\"peer\":\"{ip}\"");
        }
        Peer::Booted(ip, session) => {
            // Nor does an id of ours.
            let _ = write!(out, ",\"peer\":\"{ip}\",\"session\":\"{session}\"");
        }
        Peer::Text(text) => {
            out.extend_from_slice(b",\"peer\":");
            json::string(out, text.as_bytes(), true);
        }
    }
    word(out, b",\"parse_error\":\"", error.map(Reason::name));
    if error.is_some() || m.keep_raw {
        line.field(out, b",\"raw\":", m.raw);
    }
    line.end(out);
}

/// A name of ours: nothing to escape. `key` ends in the opening quote.
fn word(out: &mut Vec<u8>, key: &'static [u8], name: Option<&'static str>) {
    if let Some(name) = name {
        out.extend_from_slice(key);
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
}

/// The host that the message names, else whom it came from, else the configured name.
fn host(out: &mut Vec<u8>, line: &Line<'_>, peer: Peer<'_>) {
    let source = match (line.message.hostname, peer.ip()) {
        (Some(name), _) => {
            line.field(out, b",\"hostname\":", name);
            line.message.hostname_source
        }
        (None, Some(ip)) => {
            // Writing to a Vec cannot fail, and an address needs no escape.
            let _ = write!(out, ",\"hostname\":\"{ip}\"");
            Some(HostSource::Peer)
        }
        (None, _) if line.default_host.is_empty() => None,
        (None, _) => {
            line.field(out, b",\"hostname\":", line.default_host);
            Some(HostSource::Default)
        }
    };
    word(out, b",\"hostname_source\":\"", source.map(HostSource::name));
}

/// `{"id":{"name":"value"}}`; a name that an element repeats, which RFC 5424 allows,
/// has an array of its values.
fn structured_data(out: &mut Vec<u8>, line: &Line<'_>, data: &[u8]) {
    let mut separator = b'{';
    for (id, params) in Elements(data) {
        out.push(separator);
        separator = b',';
        json::string(out, id, line.is_utf8);
        out.push(b':');
        element(out, line, &params);
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

fn element(out: &mut Vec<u8>, line: &Line<'_>, params: &Params<'_>) {
    out.push(b'{');
    let mut first = true;
    for (at, (name, value)) in params.clone().enumerate() {
        if params.clone().take(at).any(|(earlier, _)| earlier == name) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        json::string(out, name, line.is_utf8);
        out.push(b':');
        let again = || params.clone().skip(at + 1).filter(|(n, _)| *n == name);
        if again().next().is_none() {
            param_value(out, line, value);
            continue;
        }
        out.push(b'[');
        param_value(out, line, value);
        for (_, value) in again() {
            out.push(b',');
            param_value(out, line, value);
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// Without the backslashes that hide `"`, `\` and `]`.
fn param_value(out: &mut Vec<u8>, line: &Line<'_>, value: &[u8]) {
    out.push(b'"');
    let mut left = value;
    while let Some(at) = memchr::memchr(b'\\', left) {
        let hides = matches!(left.get(at + 1), Some(b'"' | b'\\' | b']'));
        let (head, rest) = left.split_at(if hides { at } else { at + 1 });
        json::text(out, head, line.is_utf8);
        left = if hides {
            json::text(out, &rest[1..2], true);
            &rest[2..]
        } else {
            rest
        };
    }
    json::text(out, left, line.is_utf8);
    out.push(b'"');
}
