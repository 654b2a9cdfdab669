//! What the thread does beside feeding: it notes what is acknowledged, says how it is, and begins again.

use std::time::{Duration, Instant};

use super::acks::Acks;
use super::aside::Refused;
use super::failure::{Code, Failure};
use super::feed::Feeder;
use crate::batch::Batch;
use crate::kafka::errors::Class;

/// How often what is acknowledged goes to the ledger.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// Without any acknowledgement for so long, something is wrong.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// No batch is made smaller than this, whatever the brokers refuse.
pub(super) const BATCH_BYTES_MIN: usize = 16 << 10;

impl Feeder {
    /// Takes note of what has become acknowledged.
    pub(super) fn settle(&mut self, acks: &Acks) {
        let now = Instant::now();
        let (mut events, mut bytes) = (0, 0);
        let metrics = &self.parts.output.metrics;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let settled = lane.stream.settle(acks.count(index), now);
            if settled.events > 0 {
                (self.works, self.moved_at) = (true, now);
                lane.events.inc_by(settled.events);
                lane.bytes.inc_by(settled.bytes);
                settled.seconds.iter().for_each(|seconds| metrics.delivery_seconds.observe(*seconds));
            }
            while let Some(batch) = lane.stream.pop_finished() {
                self.parts.shared.finished(&batch);
            }
            events += lane.stream.in_flight();
            bytes += lane.stream.in_flight_bytes();
        }
        if events == 0 {
            self.moved_at = now;
        }
        metrics.in_flight_events.set(events as i64);
        metrics.in_flight_bytes.set(bytes as i64);
        if now.duration_since(self.saved_at) >= SAVE_AFTER {
            self.save();
        }
    }

    /// Notes in the ledger what is acknowledged, and deletes the segments that are done.
    pub(super) fn save(&mut self) {
        self.saved_at = Instant::now();
        let new = |lane: &&mut super::lane::Lane| lane.stream.acknowledged() > lane.saved;
        let lanes: Vec<_> = self.lanes.iter_mut().filter(new).collect();
        if lanes.is_empty() {
            return;
        }
        let below: Vec<_> = lanes.iter().map(|lane| (lane.kind, lane.stream.acknowledged())).collect();
        let mut ledger = self.parts.ledger();
        // What fails here is tried again a second later; until then it would only be sent again.
        match ledger.acknowledge(&below) {
            Ok(()) => self.parts.health.ok("ledger"),
            Err(error) => return self.parts.health.held("ledger", error.to_string()),
        }
        lanes.into_iter().zip(&below).for_each(|(lane, (_, below))| lane.saved = *below);
        let undone = ledger.lowest_undone();
        drop(ledger);
        let lanes = &self.lanes;
        self.refused.retain(|(index, seq), _| *seq >= lanes[*index].saved);
        if let Err(error) = self.parts.shared.free(&undone) {
            self.parts.metrics.spool_error("delete", 1);
            tracing::warn!(%error, "spool: cannot delete segments that are in Kafka");
        }
    }

    /// Says on the board how it is.
    pub(super) fn report(&mut self, acks: &Acks) {
        let stalled = || {
            let seconds = self.moved_at.elapsed().as_secs();
            let text = "the brokers acknowledge nothing; events wait in the spool";
            (seconds >= STALLED_AFTER.as_secs()).then(|| Failure::new(Code::Stalled, text))
        };
        match acks.trouble().or_else(stalled) {
            Some(failure) => self.complain(&failure),
            None if self.works || self.parts.output.metrics.brokers_up.get() > 0 => {
                self.said = None;
                self.parts.health.ok("kafka");
            }
            None => {}
        }
    }

    fn complain(&mut self, failure: &Failure) {
        if self.said != Some(failure.code) {
            self.parts.output.metrics.errors.with_label_values(&[failure.code.name()]).inc();
        }
        self.said = Some(failure.code);
        self.parts.health.held("kafka", failure.text.clone());
    }

    /// Takes leave of a producer that has failed: finds out why, and has everything unacknowledged fed again.
    pub(super) fn give_up(&mut self, acks: &Acks, failure: Failure) {
        let metrics = &self.parts.output.metrics;
        metrics.restarts.inc();
        metrics.brokers_up.set(0);
        // The reports that came at the end may know better.
        let failure = acks.failure().filter(|better| better.code != Code::Purged).unwrap_or(failure);
        if failure.code.is_of_the_event() {
            metrics.errors.with_label_values(&[failure.code.name()]).inc();
            self.find_culprit(acks, &failure);
        } else if failure.code == Code::Purged {
            tracing::info!(reason = failure.text, "kafka: producer made again");
        } else {
            self.said = None;
            self.complain(&failure);
        }
        self.rewind();
    }

    /// A request was refused for one of its events: the only one in it, or one that must be found; or for its size.
    fn find_culprit(&mut self, acks: &Acks, failure: &Failure) {
        let Some(refusal) = acks.refusal() else { return };
        let Some(lane) = self.lanes.get_mut(refusal.index) else { return };
        if let Some(seq) = lane.stream.single() {
            self.refused.insert((refusal.index, seq), Refused::new(failure.clone()));
            return;
        }
        let events = lane.stream.in_flight();
        tracing::warn!(
            reason = failure.text,
            events,
            "kafka: a request was refused; its events are sent one at a time"
        );
        lane.stream.be_careful();
        // The topic's limit may have changed. Where the brokers do not tell it, smaller batches find out.
        lane.limit = None;
        if failure.code == Code::Brokers(Class::TooLarge) {
            self.batch_bytes = (self.batch_bytes / 2).max(BATCH_BYTES_MIN);
        }
    }

    /// Has everything that is not acknowledged fed again, in the order of the spool.
    fn rewind(&mut self) {
        let mut again: Vec<Batch> = Vec::new();
        for lane in &mut self.lanes {
            lane.close();
            again.extend(lane.stream.rewind());
        }
        again.sort_by_key(|batch| batch.from);
        again.into_iter().rev().for_each(|batch| self.todo.push_front(batch));
    }
}
