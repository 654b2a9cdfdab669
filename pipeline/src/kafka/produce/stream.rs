//! What is known of one kind's events on their way: taken from the planner, sent, acknowledged. Pure.
//!
//! Numbers in the spool may have holes, where a disk has lost some; what is sent is counted without. A run remembers
//! which numbers stand behind consecutive messages, so that memory is a few dozen bytes for hundreds of events.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::batch::Batch;

/// A run ends after so many messages, so that the time of delivery is measured now and then.
const RUN_EVENTS_MAX: u64 = 256;

/// A broker forgets a producer that it has not heard of for long, and takes any message of one that it does not know.
/// After this pause the first message is sent alone again. The brokers' own limit (`producer.id.expiration.ms`) is a day.
const IDLE: Duration = Duration::from_secs(60);

/// Consecutive events, sent and not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Run {
    seq: u64,
    count: u64,
    bytes: u64,
    at: Instant,
}

/// What has become acknowledged.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settled {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) seconds: Vec<f64>,
}

/// One kind's events on their way.
#[derive(Debug)]
pub(super) struct Stream {
    /// Taken and not wholly acknowledged, in order.
    taken: VecDeque<Batch>,
    runs: VecDeque<Run>,
    /// Messages given to this producer, and those of them that are settled.
    sent: u64,
    settled: u64,
    in_flight_bytes: u64,
    /// Every event below is acknowledged.
    acknowledged: u64,
    /// Every event below has been sent, or cannot be read.
    fed: u64,
    /// Events below are sent one at a time: one of them was refused.
    careful_below: u64,
    /// The last message must be acknowledged before the next is sent.
    alone: bool,
    heard: Option<Instant>,
}

impl Stream {
    /// All events below `acknowledged` are in the topic.
    pub(super) fn new(acknowledged: u64) -> Stream {
        Stream {
            taken: VecDeque::new(),
            runs: VecDeque::new(),
            sent: 0,
            settled: 0,
            in_flight_bytes: 0,
            acknowledged,
            fed: acknowledged,
            careful_below: 0,
            alone: false,
            heard: None,
        }
    }

    pub(super) fn take(&mut self, batch: Batch) {
        self.taken.push_back(batch);
    }

    /// Notes that `seq` is handed over now, and gives its number among this producer's messages.
    pub(super) fn send(&mut self, seq: u64, bytes: u64, now: Instant) -> u64 {
        let known = self.heard.is_some_and(|heard| now.duration_since(heard) < IDLE) || self.in_flight() > 0;
        self.alone = self.settled == 0 || !known || seq < self.careful_below;
        match self.runs.back_mut() {
            Some(run) if run.seq + run.count == seq && run.count < RUN_EVENTS_MAX => {
                run.count += 1;
                run.bytes += bytes;
            }
            _ => self.runs.push_back(Run { seq, count: 1, bytes, at: now }),
        }
        self.sent += 1;
        self.in_flight_bytes += bytes;
        self.fed = seq + 1;
        self.sent
    }

    /// Notes that the message that was just sent was not taken after all.
    pub(super) fn unsend(&mut self, bytes: u64) {
        if let Some(run) = self.runs.back_mut() {
            run.count -= 1;
            run.bytes -= bytes;
            self.fed = run.seq + run.count;
            if run.count == 0 {
                self.runs.pop_back();
            }
            self.sent -= 1;
            self.in_flight_bytes -= bytes;
        }
    }

    /// Whether the next message must wait for the last one.
    pub(super) fn must_wait(&self) -> bool {
        self.alone && self.in_flight() > 0
    }

    /// Notes that everything of `batch` that can be read has been sent.
    pub(super) fn fed(&mut self, batch: &Batch) {
        self.fed = batch.last + 1;
    }

    /// Notes that `delivered` of this producer's messages are acknowledged.
    pub(super) fn settle(&mut self, delivered: u64, now: Instant) -> Settled {
        let mut settled = Settled { events: delivered - self.settled, ..Settled::default() };
        if settled.events > 0 {
            self.heard = Some(now);
        }
        self.settled = delivered;
        let mut left = settled.events;
        while let Some(run) = self.runs.front_mut()
            && left > 0
        {
            if run.count > left {
                let bytes = run.bytes / run.count * left;
                *run = Run { seq: run.seq + left, count: run.count - left, bytes: run.bytes - bytes, ..*run };
                settled.bytes += bytes;
                break;
            }
            left -= run.count;
            settled.bytes += run.bytes;
            settled.seconds.push(now.duration_since(run.at).as_secs_f64());
            self.runs.pop_front();
        }
        self.in_flight_bytes -= settled.bytes;
        self.acknowledged = self.runs.front().map_or(self.fed, |run| run.seq);
        settled
    }

    /// The next batch that is wholly acknowledged.
    pub(super) fn pop_finished(&mut self) -> Option<Batch> {
        self.taken.pop_front_if(|batch| batch.last < self.acknowledged)
    }

    /// Forgets what a producer that is gone has not delivered, and gives back what is to be sent again.
    pub(super) fn rewind(&mut self) -> Vec<Batch> {
        self.runs.clear();
        (self.sent, self.settled, self.in_flight_bytes) = (0, 0, 0);
        (self.fed, self.alone) = (self.acknowledged, false);
        self.heard = None;
        self.taken.drain(..).collect()
    }

    /// Notes that the next message goes to another partition.
    pub(super) fn turn(&mut self) {
        self.heard = None;
    }

    /// Has what was sent and not acknowledged sent one at a time when it is sent again.
    pub(super) fn be_careful(&mut self) {
        self.careful_below = self.fed;
    }

    /// The event that was sent alone and is not acknowledged.
    pub(super) fn single(&self) -> Option<u64> {
        (self.alone && self.in_flight() == 1).then(|| self.runs.front().map(|run| run.seq)).flatten()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.sent - self.settled
    }

    pub(super) fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Every event below is in the topic.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Events from here on have not been sent.
    pub(super) fn fed_below(&self) -> u64 {
        self.fed
    }

    pub(super) fn is_done(&self) -> bool {
        self.taken.is_empty()
    }
}
