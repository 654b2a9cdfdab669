//! What the spool's writer and the shipper share: the segments, the batches, and who has to be told what.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::segments::Segments;
use crate::Result;
use crate::batch::{Batch, Planner};
use crate::event::Kind;

/// What the writer shares with the shipper.
#[derive(Debug)]
pub(crate) struct Shared {
    segments: Mutex<Segments>,
    planner: Mutex<Planner>,
    /// Rung when a batch is ready or the writer has ended.
    pub(crate) ready: Notify,
    /// Rung with it, for a thread.
    pub(crate) bell: Bell,
    /// The pipeline is being drained: what is queued is all that comes, and is written even beyond `spool.max_bytes`.
    pub(crate) draining: AtomicBool,
    /// The writer has ended: nothing will be added.
    pub(crate) ended: AtomicBool,
    /// Everything in the newest segment is in the store: it may be ended so that it can be deleted.
    pub(crate) newest_is_done: AtomicBool,
    /// Batches being shipped: how many events each has, and when its oldest was received.
    in_flight: Mutex<BTreeMap<(Kind, u64), (u64, i64)>>,
}

impl Shared {
    pub(crate) fn new(segments: Segments, planner: Planner) -> Shared {
        Shared {
            segments: Mutex::new(segments),
            planner: Mutex::new(planner),
            ready: Notify::new(),
            bell: Bell::default(),
            draining: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            newest_is_done: AtomicBool::new(false),
            in_flight: Mutex::default(),
        }
    }

    /// Tells whoever takes batches that there is one, or that the writer has ended.
    pub(crate) fn ring(&self) {
        self.ready.notify_one();
        self.bell.ring();
    }

    /// Deletes the segments that are done, and has the newest ended if it is. Gives the bytes freed.
    pub(crate) fn free(&self, lowest_undone: &BTreeMap<Kind, u64>) -> Result<u64> {
        let mut segments = self.segments();
        let freed = segments.delete_done(lowest_undone)?;
        if segments.newest_is_done(lowest_undone) {
            self.newest_is_done.store(true, Ordering::Relaxed);
        }
        Ok(freed)
    }

    /// Notes that a batch is being shipped.
    pub(crate) fn began(&self, batch: &Batch) {
        self.in_flight().insert((batch.kind, batch.first), (batch.events(), batch.oldest_us));
    }

    /// Notes that a batch is in the store.
    pub(crate) fn finished(&self, batch: &Batch) {
        self.in_flight().remove(&(batch.kind, batch.first));
    }

    /// Durable events that are not in the store.
    pub(crate) fn unshipped_events(&self) -> u64 {
        self.unshipped(&self.planner())
    }

    /// The same for whoever has the planner.
    pub(super) fn unshipped(&self, planner: &Planner) -> u64 {
        planner.waiting_events() + self.in_flight().values().map(|(events, _)| events).sum::<u64>()
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, BTreeMap<(Kind, u64), (u64, i64)>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn planner(&self) -> MutexGuard<'_, Planner> {
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch, noted as being shipped.
    pub(crate) fn pop_ready(&self) -> Option<Batch> {
        // Under one lock, so that no event is for a moment neither waiting nor being shipped.
        let mut planner = self.planner();
        let batch = planner.pop_ready()?;
        self.began(&batch);
        Some(batch)
    }
}

/// Wakes a thread that waits for something to do. A ring before the wait is not lost; many are one.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    waiter: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *rung, true) {
            self.waiter.notify_one();
        }
    }

    /// Returns when it has rung since the last wait, or after `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.waiter.wait_timeout_while(rung, limit, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}
