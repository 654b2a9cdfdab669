//! Reads the whole spool once at start and says where to go on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use super::frame::{Frame, FrameError, FrameShare, GroupFrame, SEGMENT_HEADER_BYTES, Snapshot};
use super::ledger::Ledger;
use super::reader::{SegmentReader, Step};
use super::segments::Segment;
use super::{segment_numbers, segment_path};
use crate::batch::{Planner, Position, Run};
use crate::event::{Checkpoint, Kind};
use crate::{Error, Result};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) next_seqs: BTreeMap<Kind, u64>,
    pub(crate) checkpoints: BTreeMap<String, Vec<u8>>,
    pub(crate) next_segment: u64,
    /// Events that are not in the store yet.
    pub(crate) waiting_events: u64,
    /// Bytes of writes that a crash cut short.
    pub(crate) torn_bytes: u64,
    pub(crate) damaged_frames: u64,
}

/// Reads all segments in `folder`; what has not been cut goes to `planner`.
pub(crate) fn recover(folder: &Path, ledger: &Ledger, planner: &mut Planner) -> Result<Recovered> {
    let mut found = Recovered { next_segment: 1, ..Recovered::default() };
    let mut numbers = segment_numbers(folder)?;
    // A crash while they were being made. They go first, so that the one before them is read as the last that it is.
    while let Some(number) = numbers.last()
        && let Some(len) = never_begun(folder, *number)?
    {
        let path = segment_path(folder, *number);
        std::fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        tracing::warn!(segment = number, bytes = len, "spool: deleting a segment that was never begun");
        found.torn_bytes += len;
        numbers.pop();
    }
    let mut snapshots = Vec::with_capacity(numbers.len());
    for number in &numbers {
        snapshots.push(first_snapshot(folder, *number)?);
    }
    for (i, number) in numbers.iter().enumerate() {
        let acknowledged = snapshots[i + 1..].iter().flatten().next();
        let last = i + 1 == numbers.len();
        found.read_segment(folder, *number, last, acknowledged, ledger, planner)?;
        found.next_segment = number + 1;
    }
    for (kind, next) in ledger.lowest_undone().keys().map(|kind| (*kind, ledger.next(*kind))) {
        let known = found.next_seqs.entry(kind).or_insert(1);
        *known = next.max(*known);
    }
    Ok(found)
}

impl Recovered {
    fn read_segment(
        &mut self,
        folder: &Path,
        number: u64,
        last: bool,
        acknowledged: Option<&Snapshot>,
        ledger: &Ledger,
        planner: &mut Planner,
    ) -> Result<()> {
        let path = segment_path(folder, number);
        let mut reader = SegmentReader::open(&path, number)?;
        let mut segment = Segment::default();
        if !reader.header_ok {
            segment.damaged = true;
            self.damaged_frames += 1;
            tracing::error!(
                segment = number,
                "spool: the segment's header is damaged; reading its frames all the same"
            );
        }
        let mut cut_at = None;
        loop {
            match reader.next()? {
                Step::End => break,
                Step::Frame { frame: Frame::Snapshot(snapshot), end, .. } => {
                    segment.bytes = end;
                    self.next_seqs = snapshot.next_seqs.into_iter().collect();
                    self.checkpoints.clear();
                    self.take_checkpoints(snapshot.checkpoints);
                }
                Step::Frame { frame: Frame::Group(group), at, end } => {
                    if group.shares.iter().any(|share| !is_acknowledged(share, acknowledged)) {
                        cut_at = Some(at);
                        break;
                    }
                    segment.bytes = end;
                    self.take_group(group, Position { segment: number, offset: at }, &mut segment, ledger, planner);
                }
                Step::Damage { at, error: FrameError::Torn, .. } if last => {
                    cut_at = Some(at);
                    break;
                }
                Step::Damage { at, error, skipped_to } => {
                    segment.damaged = true;
                    self.damaged_frames += 1;
                    tracing::error!(segment = number, at, skipped_to, %error, "spool: damaged frame, its events are lost");
                }
            }
        }
        let len = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        if let Some(at) = cut_at {
            self.torn_bytes += len - at;
            tracing::warn!(
                segment = number,
                at,
                bytes = len - at,
                "spool: cutting off a write that was never acknowledged"
            );
            let file = File::options().write(true).open(&path).map_err(Error::io("open", &path))?;
            file.set_len(at).map_err(Error::io("truncate", &path))?;
        }
        // What a crash left in the page cache counts as durable from here on, so make it so.
        File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", &path))?;
        segment.bytes = cut_at.unwrap_or(len).max(SEGMENT_HEADER_BYTES);
        self.segments.insert(number, segment);
        Ok(())
    }

    fn take_group(
        &mut self,
        group: GroupFrame<'_>,
        at: Position,
        segment: &mut Segment,
        ledger: &Ledger,
        planner: &mut Planner,
    ) {
        for share in &group.shares {
            if self.next_seqs.get(&share.kind).is_some_and(|next| share.first_seq < *next) {
                // Written again after a failed fsync, where the snapshot that voids the first writing is damaged.
                segment.damaged = true;
                let Position { segment, offset } = at;
                tracing::warn!(segment, offset, kind = %share.kind, "spool: events under numbers seen before, not taken");
                continue;
            }
            let end = share.first_seq + u64::from(share.count);
            self.next_seqs.insert(share.kind, end);
            segment.last.insert(share.kind, end - 1);
            // Batches end with a share; what Kafka has acknowledged may end within one.
            let first = ledger.next(share.kind).max(share.first_seq);
            if first < end {
                let count = (end - first) as u32;
                self.waiting_events += u64::from(count);
                let bytes = share.bytes / u64::from(share.count) * u64::from(count);
                let received_us = group.received_us;
                planner.add(Run { kind: share.kind, first, count, bytes, received_us, at }, Instant::now());
            }
        }
        self.take_checkpoints(group.checkpoints);
    }

    fn take_checkpoints(&mut self, checkpoints: Vec<Checkpoint>) {
        for Checkpoint { source, state } in checkpoints {
            if state.is_empty() {
                self.checkpoints.remove(&source);
            } else {
                self.checkpoints.insert(source, state);
            }
        }
    }
}

/// Whether a share counts, going by the snapshot of the segment behind its own.
pub(crate) fn is_acknowledged(share: &FrameShare, next_segment: Option<&Snapshot>) -> bool {
    let Some(snapshot) = next_segment else { return true };
    let next = snapshot.next_seqs.iter().find(|(kind, _)| *kind == share.kind).map_or(1, |(_, next)| *next);
    share.first_seq < next
}

/// The size of a segment whose snapshot, durable before anything that follows, is not there whole: nothing is in it.
fn never_begun(folder: &Path, number: u64) -> Result<Option<u64>> {
    let path = segment_path(folder, number);
    let len = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
    let nothing = match SegmentReader::open(&path, number)?.next()? {
        Step::Frame { .. } => false,
        Step::End | Step::Damage { error: FrameError::Torn, .. } => true,
        Step::Damage { .. } => len < 64,
    };
    Ok(nothing.then_some(len))
}

/// What a segment begins with; none where that cannot be read.
pub(crate) fn first_snapshot(folder: &Path, number: u64) -> Result<Option<Snapshot>> {
    let mut reader = SegmentReader::open(&segment_path(folder, number), number)?;
    match reader.next()? {
        Step::Frame { frame: Frame::Snapshot(snapshot), .. } => Ok(Some(snapshot)),
        _ => Ok(None),
    }
}
