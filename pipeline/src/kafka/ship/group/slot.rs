//! A lane and what is outside of it: whether it is paused, what is committed, what is being done for it.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::AbortHandle;

use super::super::cut::Name;
use super::super::lane::Lane;
use super::context::Context;
use super::work::commit;

/// How long after a failed commit the next is tried.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// What the group is to have noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) offset: i64,
    pub(super) cut: Name,
    /// It may have failed, and is tried again then.
    pub(super) again: Option<Instant>,
}

/// A lane and what is outside of it.
pub(super) struct Slot {
    pub(super) lane: Lane,
    /// Tells the answers of this lane from those of one before it.
    pub(super) number: u64,
    pub(super) paused: bool,
    /// At the stop: it reads no further than this offset.
    pub(super) goal: Option<i64>,
    pub(super) committed: Option<i64>,
    /// A member that keeps its partition in a rebalance may have its commit refused.
    pub(super) wanted: Option<Wanted>,
    /// What is being done for it: at most one thing.
    pub(super) task: Option<Task>,
}

impl Slot {
    /// Whether it takes messages now, where all lanes together hold too much (`is_tight`) or not.
    pub(super) fn wants_messages(&self, uncompressed_max: usize, is_tight: bool) -> bool {
        // What is on its way cannot be ended early, and what is read meanwhile only adds to it.
        let waits = is_tight && self.lane.is_in_flight();
        !waits && !self.is_at_goal() && self.lane.wants_messages(uncompressed_max)
    }

    pub(super) fn is_at_goal(&self) -> bool {
        self.goal.is_some_and(|goal| self.lane.next().is_some_and(|next| next >= goal))
    }

    /// Has the group note the wanted offset.
    pub(super) fn commit(&mut self, consumer: &BaseConsumer<Context>) {
        let Some(wanted) = &mut self.wanted else { return };
        wanted.again = None;
        if let Err(error) = commit(consumer, &self.lane.place, wanted.offset, wanted.cut) {
            consumer.context().commit_failed(&error);
            wanted.again = Some(Instant::now() + COMMIT_AGAIN);
        }
        self.committed = Some(wanted.offset);
    }

    pub(super) fn commit_later(&mut self, now: Instant) {
        if let Some(wanted) = &mut self.wanted {
            wanted.again = Some(now + COMMIT_AGAIN);
        }
    }
}

/// Ends with the lane that it works for.
pub(super) struct Task(pub(super) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
