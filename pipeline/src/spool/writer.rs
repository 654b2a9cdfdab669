//! The spool's one writing thread: takes groups from the queue, numbers them, appends, fsyncs, tells the planner.
//!
//! Groups stay in memory until they are fsynced. When a write or an fsync fails, the segment is cut off behind its last
//! durable byte and everything after it is written again, with the same numbers: to the same segment after a failed
//! write, to a new one after a failed fsync, which says nothing about which pages reached the disk, so they are not
//! trusted again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::frame::{self, Snapshot};
use super::recover::Recovered;
use super::shared::Shared;
use super::{Config, Sync, segment_path, sync_folder};
use crate::batch::{Position, Run};
use crate::event::{Checkpoint, Group, Kind};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::submit::{Message, Room};
use crate::{Error, Result};

/// How long to wait before trying a failed disk again, and how often windows are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Written at a time: bounds the memory of one wake-up.
const WRITE_BYTES: usize = 1 << 20;

/// A source of many small groups (the milter: one a message) would wake this thread, and have it write, for each of
/// them. After a small group it waits so long for more; the fsync is not due for longer than that.
const GATHER: Duration = Duration::from_millis(2);

/// A larger group is worth a write of its own.
const SMALL_BYTES: usize = 32 << 10;

/// Enough for a new segment's header and snapshot on a full disk.
const RESERVE_BYTES: usize = 1 << 20;

/// The segment being written.
#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    path: PathBuf,
    /// Written and fsynced.
    durable: u64,
    /// Written.
    len: u64,
}

/// A group that is written but not fsynced, or waits to be written again.
#[derive(Debug)]
struct Pending {
    group: Group,
    received_us: i64,
    _room: Room,
}

#[derive(Debug)]
pub(crate) struct Writer {
    folder: PathBuf,
    config: Config,
    flush_on_exit: bool,
    queue: Receiver<Message>,
    shared: Arc<Shared>,
    health: Health,
    metrics: Metrics,
    segment: Option<Segment>,
    next_segment: u64,
    /// Numbers up to the last durable group, and up to the last written one.
    durable_seqs: BTreeMap<Kind, u64>,
    next_seqs: BTreeMap<Kind, u64>,
    checkpoints: BTreeMap<String, Vec<u8>>,
    /// In order; the first `written` of them are in the segment.
    pending: Vec<Pending>,
    written: usize,
    runs: Vec<Run>,
    barriers: Vec<oneshot::Sender<()>>,
    oldest_unsynced: Option<Instant>,
    buffer: Vec<u8>,
}

/// What to do next.
enum Turn {
    Go,
    Ended,
}

impl Writer {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        folder: &Path,
        config: Config,
        flush_on_exit: bool,
        queue: Receiver<Message>,
        recovered: Recovered,
        shared: Arc<Shared>,
        health: Health,
        metrics: Metrics,
    ) -> Writer {
        let mut writer = Writer {
            folder: folder.into(),
            config,
            flush_on_exit,
            queue,
            shared,
            health,
            metrics,
            segment: None,
            next_segment: recovered.next_segment,
            durable_seqs: recovered.next_seqs.clone(),
            next_seqs: recovered.next_seqs,
            checkpoints: recovered.checkpoints,
            pending: Vec::new(),
            written: 0,
            runs: Vec::new(),
            barriers: Vec::new(),
            oldest_unsynced: None,
            buffer: Vec::new(),
        };
        match writer.begin_segment() {
            Ok(()) => writer.health.ok("spool"),
            Err(error) => writer.fail(&error),
        }
        writer
    }

    /// Whether the first segment could be begun.
    ///
    /// # Errors
    /// [`Error::Config`] where it could not; the log says why.
    pub(crate) fn is_able(&self) -> Result<()> {
        let problem = || format!("cannot begin a segment in {}, see the log", self.folder.display());
        self.segment.as_ref().map(|_| ()).ok_or_else(|| Error::Config { key: "data_dir".into(), problem: problem() })
    }

    /// Runs until every `Submit` has been dropped.
    pub(crate) fn run(mut self) {
        loop {
            let turn = self.turn();
            self.publish();
            if matches!(turn, Turn::Ended) {
                break;
            }
        }
        if !self.pending.is_empty() {
            let lost: usize = self.pending.iter().map(|pending| pending.group.len()).sum();
            self.metrics.spool_error("lost_at_exit", lost as u64);
            tracing::error!(events = lost, "spool: ended with events that could not be written");
        }
        if self.flush_on_exit {
            self.shared.planner().close_all();
        }
        self.shared.ended.store(true, Ordering::Release);
        self.shared.ring();
    }

    fn turn(&mut self) -> Turn {
        let full = self.is_full() && !self.shared.draining.load(Ordering::Acquire);
        let work = if full {
            self.hold_back();
            self.make_room();
            std::thread::sleep(TICK);
            Ok(Turn::Go)
        } else {
            self.take_and_write()
        };
        let result = work.and_then(|turn| {
            let each = self.config.sync == Sync::Each;
            if each
                || matches!(turn, Turn::Ended)
                || self.oldest_unsynced.is_some_and(|since| since.elapsed() >= self.interval())
            {
                self.sync()?;
            }
            self.end_segment_if_due()?;
            Ok(turn)
        });
        match result {
            Ok(turn) => {
                if !full {
                    self.health.ok("spool");
                }
                turn
            }
            Err(error) => {
                self.fail(&error);
                self.make_room();
                std::thread::sleep(TICK);
                self.wait_for_the_disk()
            }
        }
    }

    /// After a failure: takes what has queued up (its size is bounded by the queue's), and at shutdown tries once more.
    fn wait_for_the_disk(&mut self) -> Turn {
        loop {
            match self.queue.try_recv() {
                Ok(message) => self.accept(message),
                Err(TryRecvError::Empty) => return Turn::Go,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        if let Err(error) = self.write_pending().and_then(|()| self.sync()) {
            self.fail(&error);
        }
        Turn::Ended
    }

    fn interval(&self) -> Duration {
        match self.config.sync {
            Sync::Every(interval) => interval,
            Sync::Each => Duration::ZERO,
        }
    }

    /// Waits for groups and writes what there is.
    fn take_and_write(&mut self) -> Result<Turn> {
        // Also where nothing is pending: a disk that has room again is noticed without an event.
        self.write_pending()?;
        let due = self.oldest_unsynced.map_or(TICK, |since| self.interval().saturating_sub(since.elapsed()));
        let first = match self.queue.recv_timeout(due) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => return Ok(Turn::Go),
            Err(RecvTimeoutError::Disconnected) => return Ok(Turn::Ended),
        };
        let is_small = matches!(&first, Message::Group(group, _) if group.bytes() < SMALL_BYTES);
        self.accept(first);
        if self.config.sync != Sync::Each {
            if is_small && self.interval() > GATHER {
                std::thread::sleep(GATHER);
            }
            let mut bytes = 0;
            while bytes < WRITE_BYTES {
                let Ok(message) = self.queue.try_recv() else { break };
                if let Message::Group(group, _) = &message {
                    bytes += group.bytes();
                }
                self.accept(message);
            }
        }
        self.write_pending()?;
        Ok(Turn::Go)
    }

    fn accept(&mut self, message: Message) {
        match message {
            Message::Group(group, room) => {
                self.pending.push(Pending { group, received_us: now_us(), _room: room });
                self.oldest_unsynced.get_or_insert_with(Instant::now);
            }
            Message::Barrier(answer) => self.barriers.push(answer),
        }
    }

    /// Appends what is pending and not yet written.
    fn write_pending(&mut self) -> Result<()> {
        if self.segment.is_none() {
            self.begin_segment()?;
        }
        let Some(segment) = self.segment.as_mut() else { return Ok(()) };
        if self.written == self.pending.len() {
            return Ok(());
        }
        self.buffer.clear();
        let mut first_seqs = Vec::new();
        for pending in &self.pending[self.written..] {
            let at = Position { segment: segment.number, offset: segment.len + self.buffer.len() as u64 };
            first_seqs.clear();
            for share in &pending.group.shares {
                let next = self.next_seqs.entry(share.kind).or_insert(1);
                let run = Run {
                    kind: share.kind,
                    first: *next,
                    count: share.count,
                    bytes: share.bytes,
                    received_us: pending.received_us,
                    at,
                };
                first_seqs.push(*next);
                *next += u64::from(share.count);
                self.runs.push(run);
            }
            frame::encode_group(&pending.group, pending.received_us, &first_seqs, &mut self.buffer);
        }
        segment.file.write_all(&self.buffer).map_err(Error::io("write", &segment.path))?;
        segment.len += self.buffer.len() as u64;
        self.written = self.pending.len();
        if self.buffer.capacity() > 4 * WRITE_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Makes everything written durable and tells everybody who waits for that.
    fn sync(&mut self) -> Result<()> {
        if let Some(segment) = self.segment.as_mut()
            && segment.len > segment.durable
        {
            let started = Instant::now();
            segment.file.sync_data().map_err(Error::io("sync", &segment.path))?;
            self.metrics.spool_fsync_seconds.observe(started.elapsed().as_secs_f64());
            segment.durable = segment.len;
            let last = self.runs.iter().map(|run| (run.kind, run.first + u64::from(run.count) - 1));
            self.shared.segments().update(segment.number, segment.len, last);
            self.shared.newest_is_done.store(false, Ordering::Relaxed);
        }
        let now = Instant::now();
        let mut planner = self.shared.planner();
        self.runs.iter().for_each(|run| planner.add(*run, now));
        // Who sees an event counted as durable, or no longer in the queue, sees as well that it waits.
        self.metrics.waiting_events.set(self.shared.unshipped(&planner) as i64);
        for run in self.runs.drain(..) {
            self.metrics.spooled(run.kind, u64::from(run.count), run.bytes);
        }
        drop(planner);
        self.durable_seqs.clone_from(&self.next_seqs);
        // While the spool is full there may be some that a failed write left unwritten.
        for pending in self.pending.drain(..self.written) {
            for Checkpoint { source, state } in pending.group.checkpoints {
                if state.is_empty() {
                    self.checkpoints.remove(&source);
                } else {
                    self.checkpoints.insert(source, state);
                }
            }
        }
        self.written = 0;
        if self.pending.is_empty() {
            self.oldest_unsynced = None;
            for barrier in self.barriers.drain(..) {
                // The one who asked may have gone.
                let _ = barrier.send(());
            }
        }
        Ok(())
    }

    fn end_segment_if_due(&mut self) -> Result<()> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let all_done = self.shared.newest_is_done.load(Ordering::Relaxed);
        let full = segment.len >= self.config.segment_bytes.0 || (all_done && segment.len > RESERVE_BYTES as u64);
        if full && segment.len == segment.durable {
            self.begin_segment()?;
        } else if segment.len >= self.config.segment_bytes.0 {
            self.sync()?;
            self.begin_segment()?;
        }
        Ok(())
    }

    /// Begins a segment with a durable snapshot. Where the disk is full, the reserve gives the room.
    fn begin_segment(&mut self) -> Result<()> {
        let mut head = frame::segment_header(self.next_segment).to_vec();
        let snapshot = Snapshot {
            next_seqs: self.durable_seqs.iter().map(|(kind, next)| (*kind, *next)).collect(),
            checkpoints: self
                .checkpoints
                .iter()
                .map(|(source, state)| Checkpoint { source: source.clone(), state: state.clone() })
                .collect(),
        };
        frame::encode_snapshot(&snapshot, &mut head);
        let number = self.next_segment;
        let reserve = self.folder.join("reserve");
        let file = match self.create_segment(number, &head) {
            Ok(file) => file,
            Err(_) if std::fs::remove_file(&reserve).is_ok() => self.create_segment(number, &head)?,
            Err(error) => return Err(error),
        };
        self.next_segment += 1;
        let len = head.len() as u64;
        self.shared.segments().add(number, len);
        let path = segment_path(&self.folder, number);
        self.segment = Some(Segment { number, file, path, durable: len, len });
        self.shared.newest_is_done.store(false, Ordering::Relaxed);
        if !reserve.exists() {
            let filled = File::create(&reserve).and_then(|mut file| {
                file.write_all(&vec![0; RESERVE_BYTES])?;
                file.sync_all()
            });
            if filled.is_err() {
                // No room for a reserve now; the next segment tries again.
                let _ = std::fs::remove_file(&reserve);
            }
        }
        Ok(())
    }

    fn create_segment(&self, number: u64, head: &[u8]) -> Result<File> {
        let path = segment_path(&self.folder, number);
        let made = File::create(&path).and_then(|mut file| {
            file.write_all(head)?;
            file.sync_all()?;
            Ok(file)
        });
        let made = made.map_err(Error::io("write", &path)).and_then(|file| sync_folder(&self.folder).map(|()| file));
        if made.is_err() {
            // Half a segment would take room on a full disk and is of no use.
            let _ = std::fs::remove_file(&path);
        }
        made
    }

    /// Cuts the current segment off behind its last durable byte; what was not durable is written again later.
    fn fail(&mut self, error: &Error) {
        self.metrics.spool_error(reason(error), 1);
        self.health.held("spool", error.to_string());
        if let Some(mut segment) = self.segment.take() {
            let cut = segment.file.set_len(segment.durable);
            let cut = cut.and_then(|()| segment.file.seek(SeekFrom::Start(segment.durable)));
            // If this fails too, the next segment's snapshot says that the bytes do not count. After a mere write it
            // goes on here: a disk that is full for a night must not be given a new segment four times a second.
            if cut.is_ok() && matches!(error, Error::Io { operation: "write", .. }) {
                segment.len = segment.durable;
                self.segment = Some(segment);
            }
        }
        self.next_seqs.clone_from(&self.durable_seqs);
        self.runs.clear();
        self.written = 0;
    }

    /// Whether `spool.max_bytes` is reached.
    fn is_full(&self) -> bool {
        let disk = self.shared.segments().disk_bytes();
        let unsynced = self.segment.as_ref().map_or(0, |segment| segment.len - segment.durable);
        disk + unsynced + WRITE_BYTES as u64 >= self.config.max_bytes.0
    }

    fn hold_back(&self) {
        let limit = self.config.max_bytes;
        self.health.held("spool", format!("spool.max_bytes = \"{limit}\" is reached; waiting for the store"));
    }

    /// Lets the shipper have everything, and ends the segment, so that room can be made.
    fn make_room(&mut self) {
        if self.segment.is_some() && self.sync().is_ok() {
            let content = self.segment.as_ref().is_some_and(|segment| segment.len > RESERVE_BYTES as u64);
            if content && let Err(error) = self.begin_segment() {
                tracing::debug!(%error, "spool: no new segment while the disk is full");
            }
        }
        self.shared.planner().close_all();
    }

    /// After each turn: windows that are over, and figures.
    fn publish(&mut self) {
        let now_us = now_us();
        let mut planner = self.shared.planner();
        planner.close_due(now_us, Instant::now());
        if planner.has_ready() {
            self.shared.ring();
        }
        self.metrics.waiting_batches.set(planner.ready_batches() as i64);
        self.metrics.waiting_events.set(self.shared.unshipped(&planner) as i64);
        let in_flight = self.shared.in_flight();
        let oldest_us = in_flight.values().map(|(_, oldest_us)| *oldest_us).chain(planner.oldest_us()).min();
        drop((in_flight, planner));
        let age_us = oldest_us.map_or(0, |oldest_us| (now_us - oldest_us).max(0));
        self.metrics.oldest_event_age_seconds.set(age_us / 1_000_000);
        let segments = self.shared.segments();
        self.metrics.spool_disk_bytes.set(segments.disk_bytes() as i64);
        self.metrics.spool_segments.set(segments.len() as i64);
    }
}

fn reason(error: &Error) -> &'static str {
    match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => "disk_full",
        Error::Io { operation: "sync", .. } => "sync",
        _ => "write",
    }
}

/// The wall clock, in microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

#[cfg(test)]
mod tests {
    use super::super::segments::Segments;
    use super::*;
    use crate::submit::Submit;
    use crate::units::Size;

    #[test]
    fn what_a_failed_write_left_unwritten_is_kept_while_the_spool_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let (planner, health) = (crate::batch::Planner::new(Duration::from_secs(300), 1 << 30, 0), Health::new());
        let shared = Arc::new(Shared::new(Segments::new(folder.path(), BTreeMap::new()), planner));
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let (door, queue) = Submit::new(1 << 20);
        let found = Recovered { next_segment: 1, ..Recovered::default() };
        // Below what validate() allows: full from the first byte.
        let config = Config { max_bytes: Size(1), sync: Sync::Each, ..Config::default() };
        let mut writer = Writer::new(folder.path(), config, true, queue, found, shared, health.clone(), metrics);
        let mut group = Group::new();
        group.push(Kind::new("to"), b"{}").unwrap();
        group.set_checkpoint("file", b"1".to_vec());
        door.try_submit(group).unwrap();
        writer.fail(&Error::io("write", folder.path())(std::io::ErrorKind::StorageFull.into()));
        assert!(matches!(writer.wait_for_the_disk(), Turn::Go));
        assert!(matches!(writer.turn(), Turn::Go));
        assert_eq!((writer.pending.len(), writer.checkpoints.len()), (1, 0));
        assert!(!health.is_ready());

        writer.config.max_bytes = Config::default().max_bytes;
        drop(door);
        writer.run();
        assert!(health.is_ready());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "one segment and the reserve");
    }
}
