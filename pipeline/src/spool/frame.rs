//! The spool's format: pure encoding and checked decoding, bytes in, typed value or named error out.
//!
//! ```text
//! segment  = "GREYSEG1" | number u64 | crc32 u32 of those 16 bytes | snapshot frame | group frame*
//! frame    = length u32 | crc32 u32 of length and payload | payload
//! payload  = type u8 | …
//!   1 group     received_us i64 | shares | checkpoints | records
//!   2 snapshot  n u8 × { kind, next_seq u64 } | checkpoints
//! shares      = n u8 × { kind, first_seq u64, count u32, bytes u64 }
//! checkpoints = n u16 × { length u16, source, length u32, state }
//! kind        = length u8, name
//! records     = { share index u8, length u32, body }*        the k-th record of a share has seq first_seq + k
//! ```
//! All integers are little-endian. A frame is at most [`FRAME_BYTES_MAX`]. Decoding never panics, whatever the bytes.

use crate::event::{Checkpoint, GROUP_KINDS_MAX, Group, Kind, Records};

/// The first bytes of a segment: magic, number, CRC.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 20;
const MAGIC: &[u8; 8] = b"GREYSEG1";

/// Length and CRC in front of a payload.
pub(crate) const FRAME_HEADER_BYTES: usize = 8;

/// A frame beyond this is damage: groups stay below [`crate::event::GROUP_BYTES_TARGET`] plus one body.
pub(crate) const FRAME_BYTES_MAX: usize = 32 << 20;

const GROUP: u8 = 1;
const SNAPSHOT: u8 = 2;

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end before the frame does: a write that a crash cut short.
    #[error("the frame is cut short")]
    Torn,
    /// The length cannot be one.
    #[error("the frame's length is impossible")]
    Length,
    /// The bytes are not those that were written.
    #[error("the frame's checksum is wrong")]
    Checksum,
    /// The checksum is right but the content cannot be read: written by another version.
    #[error("the frame's content is unknown")]
    Content,
}

/// The events of one kind in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameShare {
    /// Their kind.
    pub kind: Kind,
    /// The number of the first.
    pub first_seq: u64,
    /// How many.
    pub count: u32,
    /// The size of their bodies.
    pub bytes: u64,
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Events that became durable together.
    Group(GroupFrame<'a>),
    /// The state at the start of a segment, so that older segments can be deleted.
    Snapshot(Snapshot),
}

/// A group as it stands in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFrame<'a> {
    /// When it was appended, in microseconds since 1970.
    pub received_us: i64,
    /// Its kinds.
    pub shares: Vec<FrameShare>,
    /// How far its sources have been read.
    pub checkpoints: Vec<Checkpoint>,
    records: &'a [u8],
}

impl<'a> GroupFrame<'a> {
    /// The records of one kind with their numbers, in order.
    pub fn records_of(&self, kind: Kind) -> impl Iterator<Item = (u64, &'a [u8])> + use<'a> {
        let index = self.shares.iter().position(|share| share.kind == kind);
        let first = index.map_or(0, |index| self.shares[index].first_seq);
        let records = Records { rest: self.records };
        records
            .filter(move |(of, _)| index == Some(*of as usize))
            .enumerate()
            .map(move |(k, (_, body))| (first.saturating_add(k as u64), body))
    }
}

/// What a new segment begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The next number of each kind seen so far.
    pub next_seqs: Vec<(Kind, u64)>,
    /// How far every source has been read.
    pub checkpoints: Vec<Checkpoint>,
}

pub(crate) fn segment_header(number: u64) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

pub(crate) fn segment_header_is(header: &[u8], number: u64) -> bool {
    header == segment_header(number)
}

/// Appends a group frame to `out`. `first_seqs` gives the number of the first event of each of the group's shares.
pub(crate) fn encode_group(group: &Group, received_us: i64, first_seqs: &[u64], out: &mut Vec<u8>) {
    let start = begin(out, GROUP);
    out.extend_from_slice(&received_us.to_le_bytes());
    out.push(group.shares.len() as u8);
    for (share, first_seq) in group.shares.iter().zip(first_seqs) {
        put_kind(out, share.kind);
        out.extend_from_slice(&first_seq.to_le_bytes());
        out.extend_from_slice(&share.count.to_le_bytes());
        out.extend_from_slice(&share.bytes.to_le_bytes());
    }
    put_checkpoints(out, &group.checkpoints);
    out.extend_from_slice(&group.records);
    end(out, start);
}

/// Appends a snapshot frame to `out`.
pub(crate) fn encode_snapshot(snapshot: &Snapshot, out: &mut Vec<u8>) {
    let start = begin(out, SNAPSHOT);
    out.push(snapshot.next_seqs.len() as u8);
    for (kind, next_seq) in &snapshot.next_seqs {
        put_kind(out, *kind);
        out.extend_from_slice(&next_seq.to_le_bytes());
    }
    put_checkpoints(out, &snapshot.checkpoints);
    end(out, start);
}

/// The payload's length and checksum, from a frame's first bytes.
pub(crate) fn decode_header(header: [u8; FRAME_HEADER_BYTES]) -> Result<(usize, u32), FrameError> {
    let [a, b, c, d, e, f, g, h] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    match len {
        0 => Err(FrameError::Torn),
        1..=FRAME_BYTES_MAX => Ok((len, u32::from_le_bytes([e, f, g, h]))),
        _ => Err(FrameError::Length),
    }
}

/// Checks and decodes a payload.
pub(crate) fn decode_payload(payload: &[u8], crc: u32) -> Result<Frame<'_>, FrameError> {
    check(payload, crc)?;
    decode_checked(payload).ok_or(FrameError::Content)
}

/// Checks a payload against its checksum.
pub(crate) fn check(payload: &[u8], crc: u32) -> Result<(), FrameError> {
    if checksum(payload) == crc { Ok(()) } else { Err(FrameError::Checksum) }
}

/// Decodes a payload whose checksum is right.
pub(crate) fn decode_checked(payload: &[u8]) -> Option<Frame<'_>> {
    let mut input = Input(payload);
    match input.u8()? {
        GROUP => decode_group(input).map(Frame::Group),
        SNAPSHOT => decode_snapshot(input).map(Frame::Snapshot),
        _ => None,
    }
}

/// Decodes the frame at the start of `bytes` and says how long it is.
///
/// # Errors
/// [`FrameError`], by what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<(Frame<'_>, usize), FrameError> {
    let (header, rest) = bytes.split_first_chunk().ok_or(FrameError::Torn)?;
    let (len, crc) = decode_header(*header)?;
    let payload = rest.get(..len).ok_or(FrameError::Torn)?;
    Ok((decode_payload(payload, crc)?, FRAME_HEADER_BYTES + len))
}

fn decode_group(mut input: Input<'_>) -> Option<GroupFrame<'_>> {
    let received_us = i64::from_le_bytes(input.array()?);
    let n = input.u8()? as usize;
    if n > GROUP_KINDS_MAX {
        return None;
    }
    let mut shares = Vec::with_capacity(n);
    for _ in 0..n {
        let share = FrameShare {
            kind: input.kind()?,
            first_seq: u64::from_le_bytes(input.array()?),
            count: u32::from_le_bytes(input.array()?),
            bytes: u64::from_le_bytes(input.array()?),
        };
        let numbered = share.first_seq > 0 && share.count > 0 && share.first_seq < 1 << 62 && share.bytes < 1 << 32;
        shares.push(numbered.then_some(share)?);
    }
    let checkpoints = input.checkpoints()?;
    Some(GroupFrame { received_us, shares, checkpoints, records: input.0 })
}

fn decode_snapshot(mut input: Input<'_>) -> Option<Snapshot> {
    let n = input.u8()? as usize;
    let mut next_seqs = Vec::with_capacity(n);
    for _ in 0..n {
        next_seqs.push((input.kind()?, u64::from_le_bytes(input.array()?)));
    }
    let checkpoints = input.checkpoints()?;
    input.0.is_empty().then_some(Snapshot { next_seqs, checkpoints })
}

fn begin(out: &mut Vec<u8>, frame_type: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    out.push(frame_type);
    start
}

fn end(out: &mut [u8], start: usize) {
    let (header, payload) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&checksum(payload).to_le_bytes());
}

/// Covers the length too, so that a damaged length does not pass as another frame.
fn checksum(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn put_kind(out: &mut Vec<u8>, kind: Kind) {
    out.push(kind.as_str().len() as u8);
    out.extend_from_slice(kind.as_str().as_bytes());
}

fn put_checkpoints(out: &mut Vec<u8>, checkpoints: &[Checkpoint]) {
    out.extend_from_slice(&(checkpoints.len() as u16).to_le_bytes());
    for checkpoint in checkpoints {
        out.extend_from_slice(&(checkpoint.source.len() as u16).to_le_bytes());
        out.extend_from_slice(checkpoint.source.as_bytes());
        out.extend_from_slice(&(checkpoint.state.len() as u32).to_le_bytes());
        out.extend_from_slice(&checkpoint.state);
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn kind(&mut self) -> Option<Kind> {
        let len = self.u8()?;
        Kind::from_bytes(self.take(len as usize)?)
    }

    fn checkpoints(&mut self) -> Option<Vec<Checkpoint>> {
        let n = u16::from_le_bytes(self.array()?);
        let mut checkpoints = Vec::new();
        for _ in 0..n {
            let len = u16::from_le_bytes(self.array()?);
            let source = std::str::from_utf8(self.take(len as usize)?).ok()?.to_owned();
            let len = u32::from_le_bytes(self.array()?);
            checkpoints.push(Checkpoint { source, state: self.take(len as usize)?.to_owned() });
        }
        Some(checkpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TO: Kind = Kind::new("to");
    const FROM: Kind = Kind::new("from");

    fn sample() -> Vec<u8> {
        let mut group = Group::new();
        group.push(TO, b"{\"n\":1}").unwrap();
        group.push(FROM, b"{\"n\":2}").unwrap();
        group.push(TO, b"{\"n\":3}").unwrap();
        group.set_checkpoint("maillog:/var/log/maillog", b"{\"offset\":10}".to_vec());
        let mut out = Vec::new();
        encode_group(&group, 1_700_000_000_000_000, &[41, 7], &mut out);
        out
    }

    #[test]
    fn a_group_comes_back_with_its_numbers() {
        let bytes = sample();
        let (frame, len) = decode(&bytes).unwrap();
        assert_eq!(len, bytes.len());
        let Frame::Group(group) = frame else { panic!("a group was written") };
        assert_eq!(group.received_us, 1_700_000_000_000_000);
        let to: Vec<_> = group.records_of(TO).collect();
        assert_eq!(to, [(41, b"{\"n\":1}".as_slice()), (42, b"{\"n\":3}".as_slice())]);
        assert_eq!(group.records_of(FROM).collect::<Vec<_>>(), [(7, b"{\"n\":2}".as_slice())]);
        assert_eq!(group.records_of(Kind::new("mail")).count(), 0);
        assert_eq!(group.checkpoints[0].state, b"{\"offset\":10}");
    }

    #[test]
    fn a_snapshot_comes_back() {
        let snapshot = Snapshot {
            next_seqs: vec![(TO, 43), (FROM, 8)],
            checkpoints: vec![Checkpoint { source: "a".into(), state: vec![0, 255] }],
        };
        let mut bytes = Vec::new();
        encode_snapshot(&snapshot, &mut bytes);
        assert_eq!(decode(&bytes), Ok((Frame::Snapshot(snapshot), bytes.len())));
    }

    #[test]
    fn a_cut_is_torn_and_a_flipped_bit_is_never_taken() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), Err(FrameError::Torn), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit}");
        }
        assert_eq!(decode(&[0; 64]), Err(FrameError::Torn), "zeros, as some file systems leave behind");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            // The content decoder behind a right checksum too.
            let mut frame = Vec::new();
            frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            frame.extend_from_slice(&checksum(&bytes).to_le_bytes());
            frame.extend_from_slice(&bytes);
            if let Ok((Frame::Group(group), _)) = decode(&frame) {
                for share in &group.shares {
                    group.records_of(share.kind).for_each(drop);
                }
            }
        }
    }
}
