//! What enters the pipeline: an [`Event`] is a kind and an already encoded JSON body; a [`Group`] is a run of
//! events that becomes durable whole or not at all, together with the [`Checkpoint`]s of where they came from.
//!
//! The pipeline never looks inside a body beyond its first byte. It must be one JSON object on one line, without
//! the fields `id` and `node`: those are put in front when the event is shipped, because only the spool knows them.
//!
//! A group is kept as the bytes that the spool writes, so that an event is copied once between the parser and
//! the disk and a full queue can be counted in bytes.

use crate::{Error, Result};

/// The largest body of one event. Collectors limit their input to 1 MiB, which JSON escaping can make six
/// times as large, plus the same bytes in base64.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// Where a collector should stop adding to a group and submit it; a group may exceed it by one body.
pub const GROUP_BYTES_TARGET: usize = 256 << 10;

/// The largest group; collectors that mind [`GROUP_BYTES_TARGET`] never meet it.
pub const GROUP_BYTES_MAX: usize = 16 << 20;

/// How many different kinds one group may hold.
pub const GROUP_KINDS_MAX: usize = 32;

/// The kind of an event: a short name such as `from` or `syslog`, which appears in the record's id, in the object key
/// and in metrics. 1 to 15 characters of `a-z`, `0-9` and `_`, so it can stand in all of them as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    name: [u8; 15],
    len: u8,
}

impl Kind {
    /// A kind whose name is known when compiling: `const TO: Kind = Kind::new("to");`
    ///
    /// # Panics
    /// At compile time when used in a `const`, where the name is not a valid one.
    pub const fn new(name: &str) -> Kind {
        match Kind::from_bytes(name.as_bytes()) {
            Some(kind) => kind,
            None => panic!("a kind is 1 to 15 characters of a-z, 0-9 and _"),
        }
    }

    /// A kind read from disk, from the config or from a command line.
    pub fn parse(name: &str) -> Option<Kind> {
        Kind::from_bytes(name.as_bytes())
    }

    pub(crate) const fn from_bytes(bytes: &[u8]) -> Option<Kind> {
        if bytes.is_empty() || bytes.len() > 15 {
            return None;
        }
        let mut name = [0; 15];
        let mut i = 0;
        while i < bytes.len() {
            if !matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'_') {
                return None;
            }
            name[i] = bytes[i];
            i += 1;
        }
        Some(Kind { name, len: bytes.len() as u8 })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.name[..self.len as usize]).unwrap_or_default()
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({self})")
    }
}

impl serde::Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Kind, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Kind::parse(&name).ok_or_else(|| {
            serde::de::Error::custom(format!("'{name}' is no kind: 1 to 15 characters of a-z, 0-9 and _"))
        })
    }
}

/// One event: what a collector that sees them one at a time (the milter) submits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which stream it belongs to.
    pub kind: Kind,
    /// One JSON object on one line, without `id` and `node`.
    pub body: Vec<u8>,
}

/// How far a source has been read, in the source's own words. An empty state forgets the source. The name is at most
/// 64 KiB; what is longer is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Names the source, for example `maillog:/var/log/maillog`.
    pub source: String,
    /// Opaque to the pipeline.
    pub state: Vec<u8>,
}

/// The share of one kind in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) kind: Kind,
    pub(crate) count: u32,
    pub(crate) bytes: u64,
}

/// Events that become durable together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub(crate) shares: Vec<Share>,
    /// `kind index u8 | body length u32 LE | body`, one after the other.
    pub(crate) records: Vec<u8>,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

impl Group {
    /// An empty group.
    pub fn new() -> Group {
        Group::default()
    }

    /// Adds an event.
    ///
    /// # Errors
    /// [`Error::BodyTooLarge`] beyond [`BODY_BYTES_MAX`], [`Error::BodyNotAnObject`] where the body does not begin with
    /// `{` and end with `}`, [`Error::TooManyKinds`] beyond [`GROUP_KINDS_MAX`], [`Error::GroupTooLarge`] beyond
    /// [`GROUP_BYTES_MAX`]: the group is as before.
    pub fn push(&mut self, kind: Kind, body: &[u8]) -> Result<()> {
        if self.records.len() + body.len() > GROUP_BYTES_MAX {
            return Err(Error::GroupTooLarge);
        }
        if body.len() > BODY_BYTES_MAX {
            return Err(Error::BodyTooLarge { bytes: body.len() });
        }
        if body.len() < 2 || body[0] != b'{' || body[body.len() - 1] != b'}' {
            return Err(Error::BodyNotAnObject);
        }
        debug_assert!(!body.contains(&b'\n'), "a body is one line");
        let index = match self.shares.iter().position(|share| share.kind == kind) {
            Some(index) => index,
            None if self.shares.len() == GROUP_KINDS_MAX => return Err(Error::TooManyKinds),
            None => {
                self.shares.push(Share { kind, count: 0, bytes: 0 });
                self.shares.len() - 1
            }
        };
        self.shares[index].count += 1;
        self.shares[index].bytes += body.len() as u64;
        self.records.push(index as u8);
        self.records.extend_from_slice(&(body.len() as u32).to_le_bytes());
        self.records.extend_from_slice(body);
        Ok(())
    }

    /// Says how far `source` has been read once this group is durable; replaces an earlier word on the same source.
    pub fn set_checkpoint(&mut self, source: &str, state: Vec<u8>) {
        self.checkpoints.retain(|checkpoint| checkpoint.source != source);
        self.checkpoints.push(Checkpoint { source: source.to_owned(), state });
    }

    /// What it says of sources.
    pub fn checkpoints(&self) -> &[Checkpoint] {
        &self.checkpoints
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.shares.iter().map(|share| share.count as usize).sum()
    }

    /// Whether there is nothing to write, neither events nor checkpoints.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.checkpoints.is_empty()
    }

    /// The bytes it takes in memory and, but for a small header, in the spool.
    pub fn bytes(&self) -> usize {
        self.records.len()
            + self
                .checkpoints
                .iter()
                .map(|checkpoint| checkpoint.source.len() + checkpoint.state.len() + 64)
                .sum::<usize>()
    }

    /// Whether it is time to submit it.
    pub fn is_full(&self) -> bool {
        self.records.len() >= GROUP_BYTES_TARGET
    }

    /// The events in order.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        Records { rest: &self.records }.map(|(index, body)| (self.shares[index as usize].kind, body))
    }
}

impl From<Event> for Group {
    /// A group of one event. A body that [`Group::push`] would refuse gives an empty group; collectors that cannot be
    /// sure of their bodies use `push` and count the refusal.
    fn from(event: Event) -> Group {
        let mut group = Group::new();
        let pushed = group.push(event.kind, &event.body);
        debug_assert!(pushed.is_ok(), "{pushed:?}");
        group
    }
}

/// Walks the `records` part of a group or of a spool frame. Stops at the first byte that cannot be one.
pub(crate) struct Records<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (head, rest) = self.rest.split_at_checked(5)?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (body, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some((head[0], body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_gives_back_what_was_put_in() {
        let mut group = Group::new();
        group.push(Kind::new("to"), b"{\"a\":1}").unwrap();
        group.push(Kind::new("from"), b"{}").unwrap();
        group.push(Kind::new("to"), b"{\"a\":2}").unwrap();
        let events: Vec<_> = group.iter().map(|(kind, body)| (kind.to_string(), body.to_vec())).collect();
        assert_eq!(
            events,
            [
                ("to".into(), b"{\"a\":1}".to_vec()),
                ("from".into(), b"{}".to_vec()),
                ("to".into(), b"{\"a\":2}".to_vec())
            ]
        );
        assert_eq!(group.len(), 3);
        assert_eq!(group.shares[0], Share { kind: Kind::new("to"), count: 2, bytes: 14 });
    }

    #[test]
    fn a_refused_body_leaves_the_group_as_it_was() {
        let mut group = Group::new();
        assert!(group.push(Kind::new("to"), b"[]").is_err());
        assert!(group.push(Kind::new("to"), b"").is_err());
        assert!(group.push(Kind::new("to"), &vec![b'{'; BODY_BYTES_MAX + 1]).is_err());
        assert!(group.is_empty());
    }

    #[test]
    fn kinds_are_short_plain_names() {
        assert_eq!(Kind::parse("mail").map(|kind| kind.to_string()).as_deref(), Some("mail"));
        for bad in ["", "To", "a-b", "sixteen_letters_", "ä"] {
            assert_eq!(Kind::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_later_checkpoint_replaces_an_earlier_one() {
        let mut group = Group::new();
        group.set_checkpoint("a", b"1".to_vec());
        group.set_checkpoint("a", b"2".to_vec());
        assert_eq!(group.checkpoints, [Checkpoint { source: "a".into(), state: b"2".to_vec() }]);
        assert!(!group.is_empty());
    }
}
