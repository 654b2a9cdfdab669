//! Which events go into which object: pure, takes `now`.
//!
//! A batch is a run of consecutive events of one kind that were received in the same window. It ends when an event
//! of another window follows, when it would exceed `batch.max_bytes`, or when its window is over: by the wall clock or,
//! so that a clock set back cannot hold events for hours, after one window's length of monotonic time.
//!
//! Where events go to Kafka there are no windows: a batch is only a run of events that waited together, as large as
//! `max_bytes` at most, and an open one can be taken at once.
//!
//! The planner remembers a few dozen bytes a batch, never anything an event, so ten million waiting events cost
//! it nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::event::Kind;
use crate::units::{Size, Span};
use crate::{Error, Result};

/// `[batch]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long events are collected into one object; windows are aligned to midnight UTC where they divide a day.
    pub window: Span,
    /// The size, before compression, at which an object ends before its window does.
    pub max_bytes: Size,
    /// How objects are compressed.
    pub codec: Codec,
    /// The codec's level; without it the codec's own default (bzip2 9, zstd 3, gzip 6).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
    /// The template of object keys, see [`crate::key`].
    pub key: String,
    /// What `{prefix}` is for each kind; a kind that is not named here has `<kind>_logs`.
    pub prefix: BTreeMap<Kind, String>,
    /// Compressing threads; 0 = one a core.
    pub workers: usize,
    /// Whether shutting down ships open windows too. What is not shipped then stays in the spool for the next start.
    pub flush_on_exit: bool,
    /// How long shutting down waits for uploads.
    pub drain_timeout: Span,
}

impl Default for Config {
    fn default() -> Config {
        let prefix = |(kind, prefix): (&str, &str)| (Kind::new(kind), prefix.to_owned());
        let boot = ["dhcp", "tftp", "http", "dns", "power"].map(|kind| (kind, "boot_logs"));
        let mail = ["from", "to", "mail"].map(|kind| (kind, "mail_logs"));
        Config {
            window: Span::seconds(300),
            max_bytes: Size(64 << 20),
            codec: Codec::Bzip2,
            level: None,
            key: crate::key::DEFAULT_TEMPLATE.to_owned(),
            prefix: mail.into_iter().chain([("syslog", "syslog_logs")]).chain(boot).map(prefix).collect(),
            workers: 0,
            flush_on_exit: true,
            drain_timeout: Span::seconds(10),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::Config { key: format!("batch.{key}"), problem });
        if self.window < Span::seconds(1) || self.window > Span::seconds(86_400) {
            return refuse("window", "must be from 1s to 1d".into());
        }
        if self.max_bytes.0 < 64 << 10 || self.max_bytes.0 > 1 << 30 {
            return refuse("max_bytes", "must be from 64KiB to 1GiB: an object is compressed in memory".into());
        }
        if let Some(level) = self.level
            && !self.codec.levels().contains(&level)
        {
            let levels = self.codec.levels();
            return refuse("level", format!("must be from {} to {} for this codec", levels.start(), levels.end()));
        }
        if self.workers > 256 {
            return refuse("workers", "must be at most 256; 0 means one a core".into());
        }
        for (kind, prefix) in &self.prefix {
            if !crate::key::is_plain_path(prefix) {
                return refuse(
                    &format!("prefix.{kind}"),
                    format!("'{prefix}' must be a relative path without empty, '.' or '..' parts"),
                );
            }
        }
        crate::key::Template::new(&self.key).map(drop).or_else(|problem| refuse("key", problem))
    }

    /// What `{prefix}` is for `kind`.
    pub fn prefix_of(&self, kind: Kind) -> String {
        self.prefix.get(&kind).cloned().unwrap_or_else(|| format!("{kind}_logs"))
    }
}

/// A place in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// The events of one kind in one frame of the spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) kind: Kind,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) bytes: u64,
    pub(crate) received_us: i64,
    /// The frame's place.
    pub(crate) at: Position,
}

impl Run {
    fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }
}

/// What will be one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) kind: Kind,
    /// The start of its window, in seconds since 1970.
    pub(crate) window: i64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Size of the records before compression.
    pub(crate) bytes: u64,
    /// The frames of its first and its last event.
    pub(crate) from: Position,
    pub(crate) to: Position,
    /// When its first event was received, in microseconds since 1970.
    pub(crate) oldest_us: i64,
}

impl Batch {
    pub(crate) fn events(&self) -> u64 {
        self.last - self.first + 1
    }
}

#[derive(Debug)]
struct Open {
    batch: Batch,
    since: Instant,
}

/// Collects runs into batches.
#[derive(Debug)]
pub(crate) struct Planner {
    window_s: i64,
    max_bytes: u64,
    /// What the shipper puts in front of each record, roughly.
    record_overhead: u64,
    /// Whether batches that are still open may be taken.
    takes_open: bool,
    open: BTreeMap<Kind, Open>,
    ready: VecDeque<Batch>,
}

impl Planner {
    pub(crate) fn new(window: Duration, max_bytes: u64, record_overhead: u64) -> Planner {
        let window_s = i64::try_from(window.as_secs()).unwrap_or(i64::MAX).max(1);
        let (open, ready) = (BTreeMap::new(), VecDeque::new());
        Planner { window_s, max_bytes, record_overhead, takes_open: false, open, ready }
    }

    /// One without windows, whose batches can be taken as soon as there is something in them.
    pub(crate) fn of_runs(max_bytes: u64) -> Planner {
        Planner { takes_open: true, ..Planner::new(Duration::MAX, max_bytes, 0) }
    }

    /// Takes the next run of a kind. A run is never split, so a batch may exceed `max_bytes` only when one run does.
    pub(crate) fn add(&mut self, run: Run, now: Instant) {
        let window = run.received_us.div_euclid(1_000_000).div_euclid(self.window_s) * self.window_s;
        let bytes = run.bytes + u64::from(run.count) * self.record_overhead;
        if let Some(open) = self.open.get_mut(&run.kind) {
            if open.batch.window == window && open.batch.bytes + bytes <= self.max_bytes {
                open.batch.last = run.last();
                open.batch.bytes += bytes;
                open.batch.to = run.at;
                return;
            }
            self.close(run.kind);
        }
        let batch = Batch {
            kind: run.kind,
            window,
            first: run.first,
            last: run.last(),
            bytes,
            from: run.at,
            to: run.at,
            oldest_us: run.received_us,
        };
        self.open.insert(run.kind, Open { batch, since: now });
    }

    /// Ends the batches whose window is over.
    pub(crate) fn close_due(&mut self, wall_us: i64, now: Instant) {
        let wall_s = wall_us.div_euclid(1_000_000);
        let window = Duration::from_secs(self.window_s.unsigned_abs());
        let due: Vec<Kind> = self
            .open
            .values()
            .filter(|open| wall_s >= open.batch.window + self.window_s || now.duration_since(open.since) >= window)
            .map(|open| open.batch.kind)
            .collect();
        due.into_iter().for_each(|kind| self.close(kind));
    }

    /// Ends every batch: at shutdown, and when the spool needs room.
    pub(crate) fn close_all(&mut self) {
        while let Some((_, open)) = self.open.pop_first() {
            self.ready.push_back(open.batch);
        }
    }

    /// The next batch that can be shipped.
    pub(crate) fn pop_ready(&mut self) -> Option<Batch> {
        if self.takes_open && self.ready.is_empty() {
            let oldest = self.open.values().min_by_key(|open| open.batch.from).map(|open| open.batch.kind);
            oldest.into_iter().for_each(|kind| self.close(kind));
        }
        self.ready.pop_front()
    }

    /// Whether [`Planner::pop_ready`] has something.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || (self.takes_open && !self.open.is_empty())
    }

    /// Batches that wait to be shipped.
    pub(crate) fn ready_batches(&self) -> usize {
        self.ready.len()
    }

    /// When the oldest event that is not being shipped yet was received.
    pub(crate) fn oldest_us(&self) -> Option<i64> {
        self.batches().map(|batch| batch.oldest_us).min()
    }

    /// How many events are not being shipped yet.
    pub(crate) fn waiting_events(&self) -> u64 {
        self.batches().map(Batch::events).sum()
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.open.values().map(|open| &open.batch).chain(&self.ready)
    }

    /// Ends the batch of a kind.
    pub(crate) fn close(&mut self, kind: Kind) {
        self.ready.extend(self.open.remove(&kind).map(|open| open.batch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Kind = Kind::new("to");
    const NOON_S: i64 = 1_763_640_000;

    fn run(first: u64, count: u32, second: i64) -> Run {
        let at = Position { segment: 1, offset: first };
        Run { kind: TO, first, count, bytes: u64::from(count) * 100, received_us: (NOON_S + second) * 1_000_000, at }
    }

    fn planner() -> Planner {
        Planner::new(Duration::from_secs(300), 10_000, 0)
    }

    fn ready(planner: &mut Planner) -> Vec<(i64, u64, u64)> {
        std::iter::from_fn(|| planner.pop_ready())
            .map(|batch| (batch.window - NOON_S, batch.first, batch.last))
            .collect()
    }

    #[test]
    fn a_window_ends_by_the_clock_or_by_the_next_windows_event() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.add(run(1, 2, 10), now);
        planner.add(run(3, 1, 299), now);
        planner.close_due((NOON_S + 299) * 1_000_000, now);
        assert_eq!(ready(&mut planner), []);
        planner.add(run(4, 1, 300), now);
        assert_eq!(ready(&mut planner), [(0, 1, 3)]);
        planner.close_due((NOON_S + 600) * 1_000_000, now);
        assert_eq!(ready(&mut planner), [(300, 4, 4)]);
        planner.close_due((NOON_S + 6000) * 1_000_000, now);
        assert_eq!(ready(&mut planner), [], "an empty window writes nothing");
    }

    #[test]
    fn size_ends_a_batch_before_it_is_exceeded_and_a_huge_run_stands_alone() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.add(run(1, 60, 1), now);
        planner.add(run(61, 60, 1), now);
        planner.add(run(121, 500, 1), now);
        planner.add(run(621, 1, 1), now);
        planner.close_all();
        assert_eq!(ready(&mut planner), [(0, 1, 60), (0, 61, 120), (0, 121, 620), (0, 621, 621)]);
    }

    #[test]
    fn a_clock_set_back_an_hour_holds_nothing_longer_than_a_window() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.add(run(1, 1, 10), now);
        planner.close_due((NOON_S - 3600) * 1_000_000, now + Duration::from_secs(299));
        assert_eq!(ready(&mut planner), []);
        planner.close_due((NOON_S - 3300) * 1_000_000, now + Duration::from_secs(300));
        assert_eq!(ready(&mut planner), [(0, 1, 1)]);
        planner.add(run(2, 1, -3000), now);
        planner.close_all();
        assert_eq!(ready(&mut planner), [(-3000, 2, 2)], "events keep the window of the clock at their receipt");
    }

    #[test]
    fn without_windows_a_run_can_be_taken_at_once_and_those_that_wait_are_one() {
        let (mut planner, now) = (Planner::of_runs(10_000), Instant::now());
        planner.add(run(1, 2, 10), now);
        assert!(planner.has_ready());
        assert_eq!(planner.pop_ready().map(|batch| (batch.first, batch.last)), Some((1, 2)));
        assert!(!planner.has_ready());
        for (first, second) in [(3, 10), (43, 900), (83, 4000)] {
            planner.add(run(first, 40, second), now);
        }
        planner.add(Run { kind: Kind::new("from"), at: Position { segment: 1, offset: 4 }, ..run(1, 1, 2) }, now);
        planner.close_due(i64::MAX, now + Duration::from_secs(86_400));
        let mut taken = Vec::new();
        while let Some(batch) = planner.pop_ready() {
            taken.push((batch.kind.to_string(), batch.first, batch.last));
        }
        assert_eq!(taken, [("to".into(), 3, 82), ("from".into(), 1, 1), ("to".into(), 83, 122)]);
    }

    #[test]
    fn kinds_are_batched_apart() {
        let (mut planner, now) = (planner(), Instant::now());
        planner.add(run(1, 1, 1), now);
        planner.add(Run { kind: Kind::new("from"), ..run(1, 5, 2) }, now);
        planner.add(run(2, 1, 3), now);
        assert_eq!(planner.waiting_events(), 7);
        assert_eq!(planner.oldest_us(), Some((NOON_S + 1) * 1_000_000));
        planner.close_all();
        let ready: Vec<_> =
            std::iter::from_fn(|| planner.pop_ready()).map(|batch| (batch.kind.to_string(), batch.last)).collect();
        assert_eq!(ready, [("from".to_owned(), 5), ("to".to_owned(), 2)]);
    }
}
