//! Which numbers of every stream of a partition have been seen: pure.
//!
//! A stream is a node's events of one kind in one life of its spool. Its numbers are kept as runs without gaps, so a
//! healthy stream of any length is one run. Limits: [`RUNS_MAX`] runs a stream, beyond which the lowest gap is given up:
//! what is missing there counts as lost, and would be dropped if it came; [`STREAMS_MAX`] streams a partition and
//! [`QUIET_MS_MAX`] without a message, beyond which the one that has been quiet longest is forgotten.
//!
//! Streams are forgotten only where a cut is made, and the cut holds what is left, so every owner of the partition
//! knows the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::record::{Foreign, Id, check_stream};
use crate::Kind;
use crate::object::Gap;
use crate::object::runs::Runs;

/// The most runs of a stream.
pub(super) const RUNS_MAX: usize = 64;

/// The most streams of a partition that are remembered.
pub(super) const STREAMS_MAX: usize = 50_000;

/// How long a stream without messages is remembered, in milliseconds of the messages' own time: 30 days.
pub(super) const QUIET_MS_MAX: i64 = 30 * 86_400_000;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    New,
    Repeated,
    Foreign(Foreign),
}

#[derive(Clone, Debug, Default)]
struct Stream {
    runs: Runs,
    /// The timestamp of its newest message.
    newest_ms: i64,
}

/// The streams of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    streams: Vec<(Arc<str>, Stream)>,
    by_name: HashMap<Arc<str>, usize>,
    /// The stream of the message before: the next is most likely of the same.
    recent: usize,
    /// Numbers that were given up since the last [`Seen::take_missing`].
    missing: u64,
}

/// A stream as a cut holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    /// The timestamp of its newest message, in milliseconds since 1970.
    pub(super) newest_ms: i64,
    /// First and last of each run.
    pub(super) runs: Vec<(u64, u64)>,
}

impl Seen {
    /// Judges the next message of the partition.
    pub(super) fn take(&mut self, id: &Id<'_>, timestamp_ms: i64, kind: Kind) -> Verdict {
        let stream = match self.stream(id.stream, kind) {
            Ok(stream) => stream,
            Err(foreign) => return Verdict::Foreign(foreign),
        };
        stream.newest_ms = stream.newest_ms.max(timestamp_ms);
        if !stream.runs.insert(id.seq) {
            return Verdict::Repeated;
        }
        if stream.runs.len() > RUNS_MAX {
            let given_up = stream.runs.fill_lowest_gap();
            self.missing = self.missing.saturating_add(given_up.map_or(0, Gap::count));
        }
        Verdict::New
    }

    /// Numbers that were given up since this was last asked.
    pub(super) fn take_missing(&mut self) -> u64 {
        std::mem::take(&mut self.missing)
    }

    fn stream(&mut self, name: &str, kind: Kind) -> Result<&mut Stream, Foreign> {
        if self.streams.get(self.recent).is_none_or(|(recent, _)| **recent != *name) {
            self.recent = match self.by_name.get(name) {
                Some(index) => *index,
                None => {
                    check_stream(name, kind)?;
                    self.push(name, Stream::default())
                }
            };
        }
        // The index is in range: it was found or has just been pushed.
        self.streams.get_mut(self.recent).map(|(_, stream)| stream).ok_or(Foreign::BadId)
    }

    fn push(&mut self, name: &str, stream: Stream) -> usize {
        let name: Arc<str> = name.into();
        self.streams.push((name.clone(), stream));
        self.by_name.insert(name, self.streams.len() - 1);
        self.streams.len() - 1
    }

    /// Forgets what has been quiet for too long before `now_ms`, and what is too much.
    pub(super) fn forget(&mut self, now_ms: i64) {
        let oldest_ms = now_ms.saturating_sub(QUIET_MS_MAX);
        if self.streams.len() <= STREAMS_MAX && self.streams.iter().all(|(_, stream)| stream.newest_ms >= oldest_ms) {
            return;
        }
        let mut streams = std::mem::take(&mut self.streams);
        streams.retain(|(_, stream)| stream.newest_ms >= oldest_ms);
        if streams.len() > STREAMS_MAX {
            streams.sort_by(|(a, one), (b, other)| other.newest_ms.cmp(&one.newest_ms).then_with(|| a.cmp(b)));
            streams.truncate(STREAMS_MAX);
        }
        let missing = self.missing;
        *self = Seen { missing, ..Seen::default() };
        for (name, stream) in streams {
            self.push(&name, stream);
        }
    }

    /// As a cut holds it.
    pub(super) fn known(&self) -> BTreeMap<String, Known> {
        let known = |stream: &Stream| Known {
            newest_ms: stream.newest_ms,
            runs: stream.runs.iter().map(|Gap { first, last }| (first, last)).collect(),
        };
        self.streams.iter().map(|(name, stream)| (name.to_string(), known(stream))).collect()
    }

    /// What a cut holds.
    pub(super) fn of(known: &BTreeMap<String, Known>) -> Seen {
        let mut seen = Seen::default();
        for (name, stream) in known {
            let mut runs = Runs::default();
            for &(first, last) in stream.runs.iter().filter(|(first, last)| first <= last) {
                runs.insert_range(Gap { first, last }, |_| {});
            }
            seen.push(name, Stream { runs, newest_ms: stream.newest_ms });
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Kind = Kind::new("to");

    fn take(seen: &mut Seen, node: &str, seq: u64, ms: i64) -> Verdict {
        let stream = format!("{node}-e-to");
        seen.take(&Id { text: "", stream: &stream, seq }, ms, TO)
    }

    #[test]
    fn a_number_is_new_once_in_its_stream_in_any_order() {
        let mut seen = Seen::default();
        for (node, seq, verdict) in [
            ("mx1", 5, Verdict::New),
            ("mx2", 5, Verdict::New),
            ("mx1", 6, Verdict::New),
            ("mx1", 5, Verdict::Repeated),
            ("mx1", 3, Verdict::New),
            ("mx1", 4, Verdict::New),
            ("mx1", 3, Verdict::Repeated),
            ("mx2", 6, Verdict::New),
        ] {
            assert_eq!(take(&mut seen, node, seq, 0), verdict, "{node} {seq}");
        }
        let mut again = Seen::of(&seen.known());
        assert_eq!(again.known(), seen.known());
        assert_eq!(again.known()["mx1-e-to"].runs, [(3, 6)]);
        assert_eq!(take(&mut again, "mx2", 6, 0), Verdict::Repeated);
        assert_eq!(take(&mut again, "mx2", 7, 0), Verdict::New);
    }

    #[test]
    fn beyond_the_runs_allowed_the_lowest_gap_counts_as_missing() {
        let mut seen = Seen::default();
        for i in 0..=RUNS_MAX as u64 {
            assert_eq!(take(&mut seen, "mx1", 1 + 10 * i, 0), Verdict::New);
        }
        assert_eq!((seen.take_missing(), seen.take_missing()), (9, 0));
        assert_eq!(take(&mut seen, "mx1", 5, 0), Verdict::Repeated);
        assert_eq!(seen.known()["mx1-e-to"].runs.len(), RUNS_MAX);
    }

    #[test]
    fn a_stream_that_is_quiet_for_thirty_days_is_forgotten() {
        let mut seen = Seen::default();
        take(&mut seen, "old", 1, 1_000);
        take(&mut seen, "new", 1, 2_000);
        seen.forget(1_000 + QUIET_MS_MAX);
        assert_eq!(seen.known().len(), 2);
        seen.forget(1_001 + QUIET_MS_MAX);
        assert_eq!(seen.known().into_keys().collect::<Vec<_>>(), ["new-e-to"]);
        assert_eq!(take(&mut seen, "new", 1, 0), Verdict::Repeated);
        assert_eq!(take(&mut seen, "old", 1, 0), Verdict::New);
    }

    #[test]
    fn a_foreign_stream_leaves_no_trace() {
        let mut seen = Seen::default();
        let id = Id { text: "", stream: "mx1-e-from", seq: 1 };
        assert_eq!(seen.take(&id, 0, TO), Verdict::Foreign(Foreign::OtherKind));
        assert!(seen.known().is_empty());
    }
}
