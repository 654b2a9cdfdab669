//! What the brokers say of messages, from librdkafka's thread to ours.
//!
//! A message carries, packed into one number, its kind and the how-manieth of its kind it is for this producer. All of
//! a kind go to one partition, so they are reported in that order; a report that is not the next one is a failure, as is
//! every error. After the first failure nothing counts any more: what is acknowledged never has a gap.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::{Code, Failure};
use crate::kafka::errors::Class;
use crate::spool::shared::Shared;

/// Kinds that one pipeline can have: a spool's snapshot counts them in a byte.
pub(super) const KINDS_MAX: usize = 256;
const NUMBER_BITS: u32 = usize::BITS - 8;

/// Names a message: the `number`-th of the kind with `index`, counted from 1.
pub(super) fn pack(index: usize, number: u64) -> usize {
    debug_assert!(index < KINDS_MAX && number < 1 << NUMBER_BITS);
    (index << NUMBER_BITS) | number as usize
}

pub(super) fn unpack(tag: usize) -> (usize, u64) {
    (tag >> NUMBER_BITS, tag as u64 & ((1 << NUMBER_BITS) - 1))
}

/// The message that was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) index: usize,
    pub(super) number: u64,
}

/// The reports of one producer.
#[derive(Debug)]
pub(super) struct Acks {
    /// How many of each kind are acknowledged.
    delivered: Vec<AtomicU64>,
    failed: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    /// Why the producer as a whole has failed.
    fatal: Mutex<Option<Failure>>,
    /// What is wrong with the connection to the cluster, as long as it is.
    trouble: Mutex<Option<Failure>>,
    /// Somebody waits for the next report.
    eager: AtomicBool,
    shared: Arc<Shared>,
}

impl Acks {
    pub(super) fn new(shared: Arc<Shared>) -> Acks {
        Acks {
            delivered: (0..KINDS_MAX).map(|_| AtomicU64::new(0)).collect(),
            failed: AtomicBool::new(false),
            refusal: Mutex::default(),
            fatal: Mutex::default(),
            trouble: Mutex::default(),
            eager: AtomicBool::new(false),
            shared,
        }
    }

    /// A message is in the topic.
    pub(super) fn delivered(&self, tag: usize) {
        if self.failed.load(Ordering::Acquire) {
            return;
        }
        let (index, number) = unpack(tag);
        // Only librdkafka's polling thread writes, so there is nothing between the two.
        if self.delivered[index].load(Ordering::Relaxed) + 1 != number {
            return self
                .refused(tag, Failure::new(Code::Brokers(Class::Other), "a delivery was reported out of order"));
        }
        self.delivered[index].store(number, Ordering::Release);
        if self.eager.load(Ordering::Acquire) {
            self.shared.bell.ring();
        }
    }

    /// A message is not in the topic, or nobody knows.
    pub(super) fn refused(&self, tag: usize, failure: Failure) {
        let (index, number) = unpack(tag);
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        if refusal.as_ref().is_none_or(|known| known.failure.code == Code::Purged && failure.code != Code::Purged) {
            *refusal = Some(Refusal { failure, index, number });
        }
        self.failed.store(true, Ordering::Release);
        self.shared.bell.ring();
    }

    /// The producer itself has failed.
    pub(super) fn fail(&self, failure: Failure) {
        *self.fatal.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        self.failed.store(true, Ordering::Release);
        self.shared.bell.ring();
    }

    /// How many of the kind with `index` are acknowledged.
    pub(super) fn count(&self, index: usize) -> u64 {
        self.delivered[index].load(Ordering::Acquire)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The first message that was refused for a reason of its own.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is to be said of the failure.
    pub(super) fn failure(&self) -> Option<Failure> {
        let refusal = self.refusal().map(|refusal| refusal.failure);
        let fatal = || self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refusal.clone().filter(|failure| failure.code != Code::Purged).or_else(fatal).or(refusal)
    }

    /// Whether every report rings the bell.
    pub(super) fn set_eager(&self, eager: bool) {
        self.eager.store(eager, Ordering::Release);
    }

    pub(super) fn set_trouble(&self, trouble: Option<Failure>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn trouble(&self) -> Option<Failure> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::batch::Planner;
    use crate::spool::segments::Segments;

    const AWAY: Code = Code::Brokers(Class::Away);
    const TOO_LARGE: Code = Code::Brokers(Class::TooLarge);

    fn acks() -> Acks {
        let segments = Segments::new(Path::new("."), BTreeMap::new());
        Acks::new(Arc::new(Shared::new(segments, Planner::of_runs(1 << 20))))
    }

    #[test]
    fn a_tag_gives_back_kind_and_number() {
        for (index, number) in [(0, 1), (255, 1), (3, (1 << NUMBER_BITS) - 1)] {
            assert_eq!(unpack(pack(index, number)), (index, number));
        }
    }

    #[test]
    fn kinds_are_counted_apart_and_in_order() {
        let acks = acks();
        [pack(0, 1), pack(7, 1), pack(0, 2)].into_iter().for_each(|tag| acks.delivered(tag));
        assert_eq!((acks.count(0), acks.count(7), acks.count(1)), (2, 1, 0));
        assert!(!acks.has_failed());
    }

    #[test]
    fn after_a_failure_nothing_counts() {
        let acks = acks();
        acks.delivered(pack(0, 1));
        acks.refused(pack(0, 2), Failure::new(AWAY, "away"));
        acks.delivered(pack(0, 3));
        acks.delivered(pack(1, 1));
        assert_eq!((acks.count(0), acks.count(1)), (1, 0));
        assert!(acks.has_failed());
    }

    #[test]
    fn a_report_that_is_not_the_next_one_is_a_failure() {
        let acks = acks();
        acks.delivered(pack(0, 2));
        assert_eq!(acks.count(0), 0);
        assert!(acks.has_failed());
    }

    #[test]
    fn the_culprit_is_told_from_those_given_up_with_it() {
        let acks = acks();
        acks.refused(pack(0, 5), Failure::new(Code::Purged, "purged"));
        acks.refused(pack(0, 2), Failure::new(TOO_LARGE, "too large"));
        acks.refused(pack(0, 3), Failure::new(AWAY, "later"));
        let refusal = acks.refusal().unwrap();
        assert_eq!((refusal.failure.code, refusal.number), (TOO_LARGE, 2));
    }
}
