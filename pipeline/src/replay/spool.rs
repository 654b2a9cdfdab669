//! From a spool, without changing anything in it, also while its daemon writes and frees segments.
//!
//! A spool holds what waits and what has not been freed since it was shipped. Events count once their bytes are on the
//! disk, as for the daemon itself: what is read is fsynced first. Segments that were set aside because something in them
//! was damaged are read where asked for; numbers met before are taken once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::{Outcome, Range, put};
use crate::batch::{self, Batch, Planner, Position, Run};
use crate::encode::{self, Encoded};
use crate::event::Kind;
use crate::key::{Template, Values};
use crate::spool::frame::{Frame, GroupFrame, Snapshot};
use crate::spool::ledger::{Cut, Ledger};
use crate::spool::reader::{SegmentReader, Step};
use crate::spool::recover::{first_snapshot, is_acknowledged};
use crate::spool::{segment_numbers, segment_path};
use crate::store::Store;
use crate::{Error, Result};

/// What a spool holds of a range.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order in which they were received.
    pub objects: Vec<Planned>,
    /// What was received before may have been shipped and freed; none where the spool has everything since it was made.
    pub freed_before: Option<Timestamp>,
    /// Frames that cannot be read; their events are not in the objects.
    pub damaged_frames: u64,
    /// Events under numbers met before, not in the objects.
    pub repeated: u64,
    /// Events in damaged segments from an earlier life of the spool, whose name is not known: not in the objects.
    pub nameless: u64,
}

/// An object that can be written.
#[derive(Clone, Debug)]
pub struct Planned {
    cut: Cut,
    folder: PathBuf,
    of: Arc<Identity>,
}

/// What [`Planned::write`] did.
#[derive(Debug)]
pub struct Written {
    /// Its key in the store.
    pub key: String,
    /// Records in it; fewer than [`Planned::records`] where segments were freed meanwhile.
    pub records: u64,
    /// None where nothing of it could be read any more.
    pub outcome: Option<Outcome>,
}

#[derive(Debug)]
struct Identity {
    node: String,
    epoch: String,
}

/// Finds what the spool in `data_dir` holds of `range`; `prefix` goes in front of the usual keys. Blocks while it reads.
///
/// # Errors
/// A config that cannot be right; there is no spool, or it cannot be read.
pub fn find(
    data_dir: &Path,
    config: &batch::Config,
    prefix: Option<&str>,
    range: &Range,
    damaged: bool,
) -> Result<Found> {
    config.validate()?;
    prefix.map_or(Ok(()), super::check_prefix)?;
    let template = Template::new(&config.key).map_err(|problem| Error::Config { key: "batch.key".into(), problem })?;
    let folder = data_dir.join("spool");
    let (node, epoch) = Ledger::identity(&folder.join("ledger"))?;
    let segments = segments(&folder, damaged)?;
    let mut finder = Finder::new(config, &node, &epoch);
    finder.found.freed_before = freed_before(&segments)?;
    let mut batches = Vec::new();
    for (i, segment) in segments.iter().enumerate() {
        let acknowledged = segments[i + 1..].iter().find_map(|later| later.snapshot.as_ref());
        finder.read(segment, acknowledged)?;
        // The segments of a batch are all in one folder.
        if segments.get(i + 1).is_none_or(|next| next.folder != segment.folder) {
            finder.planner.close_all();
            let ready = std::iter::from_fn(|| finder.planner.pop_ready());
            batches.extend(ready.map(|batch| (segment.folder.clone(), batch)));
        }
    }
    let key = |batch: &Batch| {
        let values = Values {
            prefix: &config.prefix_of(batch.kind),
            kind: batch.kind.as_str(),
            window: batch.window,
            node: &node,
            part: &format!("{node}-{}", batch.first),
            ext: config.codec.extension(),
        };
        prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default() + &template.render(&values)
    };
    let of = Arc::new(Identity { node: node.clone(), epoch });
    batches.retain(|(_, batch)| range.has(batch.kind, batch.window));
    let planned = batches.into_iter().map(|(folder, batch)| {
        let level = config.level.unwrap_or(config.codec.default_level());
        let cut = Cut { key: key(&batch), codec: config.codec, level, batch };
        Planned { cut, folder, of: of.clone() }
    });
    finder.found.objects = planned.collect();
    Ok(finder.found)
}

impl Planned {
    /// What it will be called.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.cut.key
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.cut.batch.kind
    }

    /// How many records it will have.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.cut.batch.events()
    }

    /// Reads, compresses and writes it, if it is new.
    ///
    /// # Errors
    /// The spool or the store, which has then been asked often enough.
    pub async fn write(self, store: &Store) -> Result<Written> {
        let planned = self.clone();
        let encoded = tokio::task::spawn_blocking(move || {
            encode::encode(&planned.folder, &planned.of.node, &planned.of.epoch, &planned.cut)
        });
        let encoded: Encoded = encoded.await.map_err(|_| Error::Closed)??;
        let Planned { cut, of, .. } = self;
        let records = encoded.records;
        let outcome = if records == 0 {
            None
        } else {
            let is_same = |there: &[u8]| encode::is_batch(there, &cut, &of.node, &of.epoch, records);
            Some(put(store, &cut.key, &encoded.object(cut.codec), is_same).await?)
        };
        Ok(Written { key: cut.key, records, outcome })
    }
}

/// A segment and what it begins with.
#[derive(Debug)]
struct SegmentFile {
    number: u64,
    folder: PathBuf,
    damaged: bool,
    snapshot: Option<Snapshot>,
}

/// All segments, oldest first. One that is gone again has been freed by the daemon.
fn segments(folder: &Path, damaged: bool) -> Result<Vec<SegmentFile>> {
    let aside = folder.join("damaged");
    let mut segments = Vec::new();
    for (folder, damaged) in [(folder, false), (&aside, true)].into_iter().take(1 + usize::from(damaged)) {
        if damaged && !folder.exists() {
            continue;
        }
        for number in segment_numbers(folder)? {
            let snapshot = unless_gone(first_snapshot(folder, number))?.flatten();
            segments.push(SegmentFile { number, folder: folder.into(), damaged, snapshot });
        }
    }
    segments.sort_by_key(|segment| segment.number);
    Ok(segments)
}

fn unless_gone<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// When the spool begins, if there was something before that.
fn freed_before(segments: &[SegmentFile]) -> Result<Option<Timestamp>> {
    let mut whole = segments.iter().filter(|segment| !segment.damaged).peekable();
    let first = whole.peek().and_then(|segment| segment.snapshot.as_ref());
    if first.is_some_and(|first| first.next_seqs.iter().all(|(_, next)| *next <= 1)) {
        return Ok(None);
    }
    for segment in whole {
        let path = segment_path(&segment.folder, segment.number);
        let Some(mut reader) = unless_gone(SegmentReader::open(&path, segment.number))? else { continue };
        loop {
            match reader.next()? {
                Step::Frame { frame: Frame::Group(group), .. } if !group.shares.is_empty() => {
                    return Ok(Timestamp::from_microsecond(group.received_us).ok());
                }
                Step::Damage { skipped_to: None, .. } | Step::End => break,
                _ => {}
            }
        }
    }
    Ok(Some(Timestamp::MAX))
}

#[derive(Debug)]
struct Finder {
    planner: Planner,
    found: Found,
    /// Of each kind, the number behind the last one met.
    next: BTreeMap<Kind, u64>,
    /// When the spool's present life began, in microseconds since 1970.
    began_us: i64,
}

impl Finder {
    fn new(config: &batch::Config, node: &str, epoch: &str) -> Finder {
        let planner = Planner::new(config.window.0, config.max_bytes.0, encode::record_overhead(node));
        Finder { planner, found: Found::default(), next: BTreeMap::new(), began_us: began_us(epoch) }
    }

    fn read(&mut self, segment: &SegmentFile, acknowledged: Option<&Snapshot>) -> Result<()> {
        let path = segment_path(&segment.folder, segment.number);
        let Some(mut reader) = unless_gone(SegmentReader::open(&path, segment.number))? else { return Ok(()) };
        // Up to the end that the reader has seen, what is read is durable.
        let synced = File::open(&path).and_then(|file| file.sync_data()).map_err(Error::io("sync", &path));
        if unless_gone(synced)?.is_none() {
            return Ok(());
        }
        loop {
            match reader.next()? {
                Step::End => return Ok(()),
                Step::Frame { frame: Frame::Snapshot(_), .. } => {}
                Step::Frame { frame: Frame::Group(group), at, .. } => {
                    if group.shares.iter().any(|share| !is_acknowledged(share, acknowledged)) {
                        return Ok(());
                    }
                    if segment.damaged && group.received_us < self.began_us {
                        self.found.nameless += group.shares.iter().map(|share| u64::from(share.count)).sum::<u64>();
                        continue;
                    }
                    self.take(&group, Position { segment: segment.number, offset: at });
                }
                // Cut short by a crash, or being written now.
                Step::Damage { error: crate::spool::frame::FrameError::Torn, .. } if acknowledged.is_none() => {
                    return Ok(());
                }
                Step::Damage { .. } => self.found.damaged_frames += 1,
            }
        }
    }

    fn take(&mut self, group: &GroupFrame<'_>, at: Position) {
        for share in &group.shares {
            let (kind, first) = (share.kind, share.first_seq);
            let next = self.next.get(&kind).copied().unwrap_or(first);
            if first < next {
                self.found.repeated += u64::from(share.count);
                continue;
            }
            if first > next {
                // An object's numbers are without a gap, so that its records can be counted.
                self.planner.close(kind);
            }
            self.next.insert(kind, first + u64::from(share.count));
            let (count, bytes, received_us) = (share.count, share.bytes, group.received_us);
            self.planner.add(Run { kind, first, count, bytes, received_us, at }, Instant::now());
        }
    }
}

/// An epoch's name begins with its time.
fn began_us(epoch: &str) -> i64 {
    let time = epoch.len().checked_sub(4).and_then(|end| i64::from_str_radix(epoch.get(..end)?, 16).ok());
    time.map_or(i64::MIN, |ms| ms.saturating_mul(1000))
}
