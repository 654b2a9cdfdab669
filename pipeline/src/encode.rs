//! From a cut to the bytes of its object: the same bytes every time, from the spool alone.

use std::io::{BufRead, BufReader, Write};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use bytes::Bytes;

use sha2::{Digest, Sha256};

use crate::batch::Batch;
use crate::codec::Codec;
use crate::event::Kind;
use crate::spool::frame::Frame;
use crate::spool::ledger::Cut;
use crate::spool::reader::{SegmentReader, Step};
use crate::spool::segment_path;
use crate::store::Object;
use crate::{Error, Result};

/// Handed to the compressor at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Where in a record its id begins.
const ID_AT: usize = "{\"id\":\"".len();

/// An object ready for the store.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) bytes: Bytes,
    pub(crate) sha256: String,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
}

impl Encoded {
    /// As the store takes it.
    pub(crate) fn object(&self, codec: Codec) -> Object {
        Object {
            bytes: self.bytes.clone(),
            content_type: codec.content_type(),
            metadata: vec![("greypit-records", self.records.to_string()), ("greypit-sha256", self.sha256.clone())],
        }
    }
}

/// What is put in front of each record, roughly, in bytes.
pub(crate) fn record_overhead(node: &str) -> u64 {
    (node.len() * 2 + 48) as u64
}

/// Reads the cut's events from the spool in `folder` and compresses them as NDJSON, `id` and `node` in front of each.
pub(crate) fn encode(folder: &Path, node: &str, epoch: &str, cut: &Cut) -> Result<Encoded> {
    let mut encoder = cut.codec.encoder(Some(cut.level));
    let front = Front::new(node, epoch, cut.batch.kind);
    let mut chunk = Vec::with_capacity(2 * CHUNK_BYTES);
    let (mut records, mut raw_bytes) = (0, 0);
    let mut failed = None;
    read_batch(folder, &cut.batch, |Read { seq, body, .. }| {
        front.push_record(&mut chunk, seq, body);
        chunk.push(b'\n');
        records += 1;
        if chunk.len() >= CHUNK_BYTES {
            raw_bytes += chunk.len() as u64;
            failed = failed.take().or(encoder.write_all(&chunk).err());
            chunk.clear();
        }
        ControlFlow::Continue(())
    })?;
    raw_bytes += chunk.len() as u64;
    let finished = match failed.or(encoder.write_all(&chunk).err()) {
        Some(error) => Err(error),
        None => encoder.finish(),
    };
    let bytes = finished.map_err(Error::io("compress", cut.key.as_str()))?;
    let sha256 = sha256_hex(&bytes);
    Ok(Encoded { bytes: bytes.into(), sha256, records, raw_bytes })
}

/// The checksum of an object, as its metadata has it.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `object` holds just the cut's records, by their ids and their number. The bytes may differ all the same: another
/// version of the compressing library may have written them before an upgrade.
pub(crate) fn is_batch(object: &[u8], cut: &Cut, node: &str, epoch: &str, records: u64) -> bool {
    let id = |seq: u64| format!("{{\"id\":\"{node}-{epoch}-{}-{seq}\"", cut.batch.kind);
    let mut lines = BufReader::new(cut.codec.decoder(object)).split(b'\n');
    let (mut count, mut last) = (0, Vec::new());
    for line in &mut lines {
        let Ok(line) = line else { return false };
        if count == 0 && !line.starts_with(id(cut.batch.first).as_bytes()) {
            return false;
        }
        count += 1;
        last = line;
    }
    count == records && last.starts_with(id(cut.batch.last).as_bytes())
}

/// What stands in front of the records of a stream: node, epoch and kind.
#[derive(Debug)]
pub(crate) struct Front {
    id_start: String,
    id_end: String,
}

impl Front {
    pub(crate) fn new(node: &str, epoch: &str, kind: Kind) -> Front {
        Front { id_start: format!("{{\"id\":\"{node}-{epoch}-{kind}-"), id_end: format!("\",\"node\":\"{node}\"") }
    }

    /// Appends the whole record to `out` and says where in what was appended its id is.
    pub(crate) fn push_record(&self, out: &mut Vec<u8>, seq: u64, body: &[u8]) -> Range<usize> {
        let start = out.len();
        out.extend_from_slice(self.id_start.as_bytes());
        push_decimal(out, seq);
        let id = ID_AT..out.len() - start;
        out.extend_from_slice(self.id_end.as_bytes());
        if body.len() > 2 {
            out.push(b',');
        }
        out.extend_from_slice(&body[1..]);
        id
    }
}

/// An event read back from the spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read<'a> {
    pub(crate) seq: u64,
    pub(crate) received_us: i64,
    pub(crate) body: &'a [u8],
}

/// Gives the batch's events in order, each once, until `sink` breaks off.
pub(crate) fn read_batch(
    folder: &Path,
    batch: &Batch,
    mut sink: impl FnMut(Read<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let mut next = batch.first;
    for number in batch.from.segment..=batch.to.segment {
        let path = segment_path(folder, number);
        let mut reader = match SegmentReader::open(&path, number) {
            Ok(reader) => reader,
            // Numbers of abandoned segments may be missing in between.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if number == batch.from.segment {
            reader.seek(batch.from.offset)?;
        }
        loop {
            match reader.next()? {
                Step::End => break,
                Step::Frame { frame: Frame::Group(group), at, .. } => {
                    for (seq, body) in group.records_of(batch.kind) {
                        if seq >= next && seq <= batch.last && body.len() >= 2 {
                            next = seq + 1;
                            if sink(Read { seq, received_us: group.received_us, body }).is_break() {
                                return Ok(());
                            }
                        }
                    }
                    if number == batch.to.segment && at >= batch.to.offset {
                        return Ok(());
                    }
                }
                Step::Frame { .. } => {}
                Step::Damage { at, error, .. } => {
                    tracing::error!(segment = number, at, %error, "spool: damaged frame while shipping, its events are lost");
                }
            }
        }
    }
    Ok(())
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
