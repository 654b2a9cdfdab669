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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Position;
    use crate::event::Kind;

    fn batch(first: u64, last: u64) -> Batch {
        let at = Position { segment: 1, offset: first };
        Batch { kind: Kind::new("to"), window: 0, first, last, bytes: 0, from: at, to: at, oldest_us: 0 }
    }

    /// A stream of which `seqs`, of a batch of `first` to `last`, have been sent.
    fn sent(first: u64, last: u64, seqs: impl IntoIterator<Item = u64>, now: Instant) -> Stream {
        let mut stream = Stream::new(first);
        stream.take(batch(first, last));
        for (number, seq) in (1..).zip(seqs) {
            assert_eq!(stream.send(seq, 10, now), number);
        }
        stream.fed(&batch(first, last));
        stream
    }

    #[test]
    fn acknowledged_is_what_has_no_gap_before_it_also_over_holes() {
        let now = Instant::now();
        // 13 to 15 and 20 could not be read.
        let mut stream = sent(11, 20, [11, 12, 16, 17, 18, 19], now);
        for (delivered, acknowledged) in [(0, 11), (1, 12), (2, 16), (3, 17), (5, 19), (6, 21)] {
            stream.settle(delivered, now);
            assert_eq!(stream.acknowledged(), acknowledged, "{delivered} delivered");
            assert_eq!(stream.in_flight(), 6 - delivered);
            assert_eq!(stream.in_flight_bytes(), (6 - delivered) * 10);
        }
        assert_eq!(stream.pop_finished(), Some(batch(11, 20)));
        assert!(stream.is_done());
    }

    #[test]
    fn what_is_settled_is_counted_once_and_its_time_measured_by_the_run() {
        let now = Instant::now();
        let mut stream = sent(1, 600, 1..=600, now);
        let later = now + Duration::from_secs(2);
        assert_eq!(stream.settle(100, later), Settled { events: 100, bytes: 1000, seconds: vec![] });
        assert_eq!(stream.settle(100, later), Settled::default());
        assert_eq!(stream.settle(512, later), Settled { events: 412, bytes: 4120, seconds: vec![2.0, 2.0] });
        assert_eq!(stream.pop_finished(), None);
        assert_eq!(stream.settle(600, later), Settled { events: 88, bytes: 880, seconds: vec![2.0] });
        assert_eq!(stream.pop_finished(), Some(batch(1, 600)));
    }

    #[test]
    fn a_rewound_stream_begins_at_the_first_unacknowledged_event() {
        let now = Instant::now();
        let mut stream = sent(1, 10, 1..=10, now);
        stream.take(batch(11, 30));
        stream.send(11, 10, now);
        stream.settle(4, now);
        assert_eq!(stream.rewind(), [batch(1, 10), batch(11, 30)]);
        assert_eq!((stream.acknowledged(), stream.in_flight(), stream.in_flight_bytes()), (5, 0, 0));
        assert_eq!(stream.send(5, 10, now), 1, "a new producer counts anew");
        stream.settle(1, now);
        assert_eq!(stream.acknowledged(), 6);
    }

    #[test]
    fn a_producers_first_message_goes_alone_and_so_does_one_after_a_pause() {
        let now = Instant::now();
        let mut stream = sent(1, 1, [1], now);
        assert!(stream.must_wait());
        stream.settle(1, now);
        assert!(!stream.must_wait());
        stream.send(2, 10, now);
        stream.send(3, 10, now);
        assert!(!stream.must_wait());
        stream.settle(3, now);
        stream.send(4, 10, now + IDLE);
        assert!(stream.must_wait());
        stream.settle(4, now + IDLE);
        stream.turn();
        stream.send(5, 10, now + IDLE);
        assert!(stream.must_wait(), "another partition has not heard of the producer");
        assert_eq!(stream.single(), Some(5));
    }

    #[test]
    fn where_one_was_refused_each_goes_alone_until_all_that_were_with_it_are_through() {
        let now = Instant::now();
        let mut stream = sent(1, 4, 1..=4, now);
        stream.settle(2, now);
        stream.be_careful();
        stream.rewind();
        for (number, seq, alone) in [(1, 3, true), (2, 4, true), (3, 5, false)] {
            stream.send(seq, 10, now);
            assert_eq!(stream.must_wait(), alone, "{seq}");
            assert_eq!(stream.single(), alone.then_some(seq));
            stream.settle(number, now);
        }
    }

    #[test]
    fn a_message_that_was_not_taken_was_never_sent() {
        let now = Instant::now();
        let mut stream = sent(1, 0, [1, 2], now);
        stream.send(3, 10, now);
        stream.unsend(10);
        assert_eq!((stream.in_flight(), stream.in_flight_bytes(), stream.fed_below()), (2, 20, 3));
        assert_eq!(stream.send(3, 10, now), 3);
        stream.settle(3, now);
        assert_eq!(stream.acknowledged(), 4);
    }
}
