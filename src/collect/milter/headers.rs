//! The header fields that the config asks for, unfolded and decoded (RFC 5322, RFC 2047).

use std::borrow::Cow;

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;

/// Fields behind this many bytes of a block are left out.
pub(super) const BLOCK_BYTES_MAX: usize = 32 << 10;

/// What is decoded of one field.
const FIELD_BYTES_MAX: usize = 4 << 10;

/// What may begin an encoded word, in all fields together; further fields stay encoded. Each may be looked at to the end
/// of its field, so a sender who closes none would make a message cost a hundred times what it should.
const WORDS_MAX: usize = 200;

/// The fields wanted, by their names in lower case, in the order of the config.
#[derive(Debug, Default)]
pub(super) struct Headers {
    names: Vec<String>,
}

/// The fields found.
#[derive(Debug, Default)]
pub(super) struct Found<'b> {
    /// Place in [`Headers::names`], value.
    pub(super) fields: Vec<(usize, Cow<'b, str>)>,
    /// What was read of the block.
    pub(super) block: &'b [u8],
    /// Something is left out.
    pub(super) cut: bool,
}

impl Headers {
    pub(super) fn new(names: &[String]) -> Headers {
        let mut lower = Vec::new();
        for name in names {
            let name = name.to_ascii_lowercase();
            if !lower.contains(&name) {
                lower.push(name);
            }
        }
        Headers { names: lower }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads a block of `Name: value` lines.
    pub(super) fn find<'b>(&self, block: &'b [u8]) -> Found<'b> {
        let mut found = Found::default();
        let (mut at, mut words) = (0, WORDS_MAX);
        while let Some(length) = field(&block[at..]) {
            if at + length > BLOCK_BYTES_MAX {
                found.cut = true;
                break;
            }
            let field = &block[at..at + length];
            at += length;
            let Some(colon) = memchr::memchr(b':', field) else { continue };
            let name = field[..colon].trim_ascii_end();
            let Some(index) = self.names.iter().position(|wanted| wanted.as_bytes().eq_ignore_ascii_case(name)) else {
                continue;
            };
            let (value, cut) = decoded(&field[colon + 1..], &mut words);
            found.fields.push((index, value));
            found.cut |= cut;
        }
        found.block = &block[..at];
        found
    }
}

/// The length of the field that `block` begins with, its continuation lines included.
fn field(block: &[u8]) -> Option<usize> {
    if matches!(block, [] | [b'\n', ..] | [b'\r', b'\n', ..]) {
        return None;
    }
    let ends = memchr::memchr_iter(b'\n', block).map(|end| end + 1);
    let mut ends = ends.filter(|end| !matches!(block.get(*end), Some(b' ' | b'\t')));
    Some(ends.next().unwrap_or(block.len()))
}

/// What follows the colon, as text, and whether there was too much of it.
fn decoded<'b>(value: &'b [u8], words: &mut usize) -> (Cow<'b, str>, bool) {
    let cut = value.len() > FIELD_BYTES_MAX;
    let read = &value[..value.len().min(FIELD_BYTES_MAX)];
    match words.checked_sub(memchr::memmem::find_iter(read, b"=?").count()) {
        Some(left) => *words = left,
        None => return (unfolded(read).into(), true),
    }
    if !cut && value.ends_with(b"\n") {
        return (text(value), false);
    }
    let mut line = read.to_vec();
    line.push(b'\n');
    (text(&line).into_owned().into(), cut)
}

/// A value as it was sent, on one line.
fn unfolded(value: &[u8]) -> String {
    String::from_utf8_lossy(value.trim_ascii()).replace("\r\n", "")
}

/// Decodes a value that ends in LF.
fn text(value: &[u8]) -> Cow<'_, str> {
    match MessageStream::new(value).parse_unstructured() {
        HeaderValue::Text(text) => text,
        _ => "".into(),
    }
}

/// Whether a field is made of people's names and addresses.
pub(super) fn is_personal(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "from",
        "to",
        "cc",
        "bcc",
        "sender",
        "reply-to",
        "return-path",
        "delivered-to",
        "apparently-to",
        "errors-to",
        "disposition-notification-to",
        "return-receipt-to",
        "received",
    ];
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("x-").unwrap_or(&name);
    let prefixes = ["original-", "resent-", "envelope-", "forwarded-"];
    let name = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    NAMES.contains(&name)
}

/// Whether a field holds message-ids, which look like addresses and are none.
pub(super) fn is_message_id(name: &str) -> bool {
    matches!(name, "message-id" | "in-reply-to" | "references" | "resent-message-id" | "content-id")
}
