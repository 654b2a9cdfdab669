//! What a message holds: pure.
//!
//! A record names itself at its front, `{"id":"<node>-<epoch>-<kind>-<seq>",`, with the same bytes as the header `id`.
//! It is read from there: what counts is what will be in the object, and looking at headers costs librdkafka five
//! allocations a message.

use memchr::memchr;

use crate::Kind;
use crate::object::ids::{split_seq, split_stream};

const FRONT: &[u8] = b"{\"id\":\"";

/// The longest id, in bytes: a node's name has at most 255.
const ID_BYTES_MAX: usize = 512;

/// A record's place among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id<'a> {
    /// All of it.
    pub(super) text: &'a str,
    /// `<node>-<epoch>-<kind>`
    pub(super) stream: &'a str,
    pub(super) seq: u64,
}

/// Why a message is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Foreign {
    /// Not one JSON object on one line that begins with an id.
    NoRecord,
    /// An id that greypit does not give.
    BadId,
    /// A record of another kind than the topic's.
    OtherKind,
}

impl Foreign {
    pub(super) const ALL: [Foreign; 3] = [Foreign::NoRecord, Foreign::BadId, Foreign::OtherKind];

    /// For metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Foreign::NoRecord => "no_record",
            Foreign::BadId => "bad_id",
            Foreign::OtherKind => "other_kind",
        }
    }
}

/// Reads a message's value. Whether the stream is a proper one is asked only when it is new, see [`check_stream`].
pub(super) fn id_of(value: &[u8]) -> Result<Id<'_>, Foreign> {
    let rest = value.strip_prefix(FRONT).ok_or(Foreign::NoRecord)?;
    if value.last() != Some(&b'}') || memchr(b'\n', value).is_some() {
        return Err(Foreign::NoRecord);
    }
    let end = memchr(b'"', &rest[..rest.len().min(ID_BYTES_MAX)]).ok_or(Foreign::BadId)?;
    let text = std::str::from_utf8(&rest[..end]).map_err(|_| Foreign::BadId)?;
    let (stream, seq) = split_seq(text).filter(|(_, seq)| *seq > 0).ok_or(Foreign::BadId)?;
    Ok(Id { text, stream, seq })
}

/// Whether a topic of `kind` may hold this stream.
pub(super) fn check_stream(stream: &str, kind: Kind) -> Result<(), Foreign> {
    let plain = |text: &str| !text.contains(|c: char| c.is_control() || c == '\\');
    match split_stream(stream) {
        Some((node, epoch, of)) if plain(node) && plain(epoch) => {
            if of == kind {
                Ok(())
            } else {
                Err(Foreign::OtherKind)
            }
        }
        _ => Err(Foreign::BadId),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Kind = Kind::new("to");

    #[test]
    fn a_record_names_its_stream_and_number() {
        let id = id_of(br#"{"id":"mx-1-e1-to-42","node":"mx-1","dest":"x"}"#).unwrap();
        assert_eq!((id.text, id.stream, id.seq), ("mx-1-e1-to-42", "mx-1-e1-to", 42));
        check_stream(id.stream, TO).unwrap();
    }

    #[test]
    fn what_no_greypit_wrote_is_told_apart() {
        for (value, foreign) in [
            (&b""[..], Foreign::NoRecord),
            (b"hello", Foreign::NoRecord),
            (br#"{"kind":"to"}"#, Foreign::NoRecord),
            (b"{\"id\":\"mx1-e-to-1\",\"a\":\n1}", Foreign::NoRecord),
            (br#"{"id":"mx1-e-to-1","a":1"#, Foreign::NoRecord),
            (br#"{"id":"mx1-e-to-0"}"#, Foreign::BadId),
            (br#"{"id":"mx1-e-to-01"}"#, Foreign::BadId),
            (br#"{"id":"1}"#, Foreign::BadId),
            (b"{\"id\":\"\xff-e-to-1\"}", Foreign::BadId),
        ] {
            assert_eq!(id_of(value), Err(foreign), "{}", value.escape_ascii());
        }
        let long = format!("{{\"id\":\"{}-e-to-1\"}}", "x".repeat(600));
        assert_eq!(id_of(long.as_bytes()), Err(Foreign::BadId));
        for (stream, foreign) in [
            ("to", Foreign::BadId),
            ("-e-to", Foreign::BadId),
            ("a\\b-e-to", Foreign::BadId),
            ("a-e-from", Foreign::OtherKind),
        ] {
            assert_eq!(check_stream(stream, TO), Err(foreign), "{stream}");
        }
    }
}
