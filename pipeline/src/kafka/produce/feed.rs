//! The thread that feeds the producer, from one producer to the next.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::acks::{Acks, KINDS_MAX, pack};
use super::aside::Refused;
use super::client::{self, BATCH_BYTES_MAX, Client, Sent};
use super::failure::{Code, Failure};
use super::forward::Forwarder;
use super::lane::Lane;
use super::upkeep::BATCH_BYTES_MIN;
use crate::batch::Batch;
use crate::encode::{Read, read_batch};
use crate::event::Kind;
use crate::kafka::errors::Class;
use crate::upload::{RETRY_FIRST, RETRY_LAST, jittered};

/// How often it looks around when nothing rings, and while the last events are on their way.
const TICK: Duration = Duration::from_millis(250);
const TICK_AT_END: Duration = Duration::from_millis(10);

/// How long the brokers may take to say what a topic is like, before it begins with another producer.
const ASK: Duration = Duration::from_secs(30);

/// How long to wait where the client takes no more.
const FULL: Duration = Duration::from_millis(5);

/// Between two looks at the reports while a batch is fed.
const EVENTS_BETWEEN: u64 = 1024;

/// Why feeding ends.
enum Exit {
    Stopped,
    Failed(Failure),
}

impl From<crate::Error> for Exit {
    fn from(error: crate::Error) -> Exit {
        Exit::Failed(error.into())
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        Exit::Failed(failure)
    }
}

/// One producer and its reports.
struct Session {
    client: Client,
    acks: Arc<Acks>,
}

/// What the thread knows.
pub(super) struct Feeder {
    pub(super) parts: Forwarder,
    stop: Arc<AtomicBool>,
    /// By the index that messages carry.
    pub(super) lanes: Vec<Lane>,
    /// Taken from the planner, and to be fed again.
    pub(super) todo: VecDeque<Batch>,
    /// Events on their way that no broker takes, by the lane's index and number.
    pub(super) refused: BTreeMap<(usize, u64), Refused>,
    pub(super) batch_bytes: usize,
    pub(super) saved_at: Instant,
    /// When something was acknowledged last, or nothing was on its way.
    pub(super) moved_at: Instant,
    /// Whether this producer has had something acknowledged.
    pub(super) works: bool,
    /// What the board says is wrong.
    pub(super) said: Option<Code>,
}

impl Feeder {
    pub(super) fn new(parts: Forwarder, stop: Arc<AtomicBool>) -> Feeder {
        let now = Instant::now();
        Feeder {
            parts,
            stop,
            lanes: Vec::new(),
            todo: VecDeque::new(),
            refused: BTreeMap::new(),
            batch_bytes: BATCH_BYTES_MAX,
            saved_at: now,
            moved_at: now,
            works: false,
            said: None,
        }
    }

    /// Feeds one producer after the other until everything is acknowledged.
    pub(super) fn run(mut self) {
        let mut pause = RETRY_FIRST;
        while !self.is_stopped() {
            self.works = false;
            let acks = Arc::new(Acks::new(self.parts.shared.clone()));
            let exit = self.session(&acks);
            // The producer is gone, and with it its last reports have come.
            self.settle(&acks);
            match exit {
                Ok(()) | Err(Exit::Stopped) => break,
                Err(Exit::Failed(failure)) => self.give_up(&acks, failure),
            }
            pause = if self.works { RETRY_FIRST } else { (pause * 2).min(RETRY_LAST) };
            self.pause(jittered(pause));
        }
        self.save();
    }

    fn session(&mut self, acks: &Arc<Acks>) -> Result<(), Exit> {
        let settings = client::settings(&self.parts.output.config, self.batch_bytes);
        let client = Client::start(&settings, acks.clone(), self.parts.output.metrics.clone())?;
        let session = Session { client, acks: acks.clone() };
        self.moved_at = Instant::now();
        loop {
            self.check(&session)?;
            self.check_limits()?;
            self.settle(acks);
            self.report(acks);
            // In this order: what was added before the end is seen after it.
            let ended = self.parts.shared.ended.load(Ordering::Acquire);
            let next = self.todo.pop_front().or_else(|| self.parts.shared.pop_ready());
            match next {
                Some(batch) => self.feed(&session, batch)?,
                None if !ended => self.parts.shared.bell.wait(TICK),
                None if self.lanes.iter().all(|lane| lane.stream.is_done()) => return Ok(()),
                None => self.parts.shared.bell.wait(TICK_AT_END),
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.is_stopped()
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            self.parts.shared.bell.wait(left);
        }
    }

    /// The index of a kind's lane, which is made where there is none.
    fn lane(&mut self, kind: Kind) -> usize {
        if let Some(index) = self.lanes.iter().position(|lane| lane.kind == kind) {
            return index;
        }
        if self.lanes.len() < KINDS_MAX {
            let acknowledged = self.parts.ledger().next(kind);
            self.lanes.push(Lane::new(&self.parts, kind, acknowledged));
            return self.lanes.len() - 1;
        }
        KINDS_MAX
    }

    /// Hands over the events of a batch.
    fn feed(&mut self, session: &Session, batch: Batch) -> Result<(), Exit> {
        let index = self.lane(batch.kind);
        let Some(lane) = self.lanes.get_mut(index) else {
            self.todo.push_front(batch);
            return Err(Failure::new(Code::Brokers(Class::Other), format!("more than {KINDS_MAX} kinds")).into());
        };
        lane.stream.take(batch.clone());
        self.open(session, index)?;
        let reading = Batch { first: batch.first.max(self.lanes[index].stream.acknowledged()), ..batch.clone() };
        let (mut next, mut found, mut exit) = (reading.first, 0, Ok(()));
        let folder = self.parts.folder.clone();
        let read = read_batch(&folder, &reading, |event| {
            exit = self.event(session, index, event);
            if exit.is_err() {
                return ControlFlow::Break(());
            }
            (next, found) = (event.seq + 1, found + 1);
            if found % EVENTS_BETWEEN == 0 {
                self.settle(&session.acks);
            }
            ControlFlow::Continue(())
        });
        exit?;
        read?;
        let missing = batch.last + 1 - reading.first - found;
        if missing > 0 {
            self.parts.metrics.ship_missing_events.inc_by(missing);
            tracing::error!(kind = %batch.kind, next, missing, "events could not be read back from the spool");
        }
        self.lanes[index].stream.fed(&batch);
        Ok(())
    }

    /// Hands over one event, when there is room.
    fn event(&mut self, session: &Session, index: usize, event: Read<'_>) -> Result<(), Exit> {
        self.check(session)?;
        self.wait_while(session, index, |lane| lane.stream.must_wait())?;
        if self.lanes[index].fence.is_some_and(|fence| event.seq >= fence.below) {
            self.wait_while(session, index, |lane| lane.stream.in_flight() > 0)?;
            self.pass_fence(index)?;
        }
        loop {
            let refused = self.refused(index, event)?;
            let lane = &mut self.lanes[index];
            let record = match refused {
                Some(code) => lane.records.marker(event, code.name()),
                None => lane.records.of(event),
            };
            let bytes = record.value.len() as u64;
            let number = lane.stream.send(event.seq, bytes, Instant::now());
            let sent = session.client.send(&lane.topic, lane.partition, &self.parts.node, &record, pack(index, number));
            match sent {
                Ok(Sent::Queued) => return Ok(()),
                Ok(Sent::Full) => {
                    lane.stream.unsend(bytes);
                    self.parts.shared.bell.wait(FULL);
                    self.check(session)?;
                    self.settle(&session.acks);
                    self.report(&session.acks);
                }
                Err(failure) if failure.code.is_of_the_event() && refused.is_none() => {
                    lane.stream.unsend(bytes);
                    self.refused.insert((index, event.seq), Refused::new(failure));
                }
                Err(failure) => {
                    lane.stream.unsend(bytes);
                    return Err(failure.into());
                }
            }
        }
    }

    /// Finds out where the lane's events go, and how large they may be.
    fn open(&mut self, session: &Session, index: usize) -> Result<(), Exit> {
        if self.lanes[index].is_open {
            return Ok(());
        }
        let partitions = self.partitions(session, index)?;
        let lane = &mut self.lanes[index];
        lane.limit.get_or_insert_with(|| client::ask_limit(&self.parts.output.config, &lane.topic));
        lane.open(&self.parts.node, partitions, &mut self.parts.ledger())?;
        Ok(())
    }

    /// How many partitions a topic has; asks for a while where nobody answers.
    fn partitions(&mut self, session: &Session, index: usize) -> Result<i32, Exit> {
        let until = Instant::now() + ASK;
        loop {
            match session.client.partitions(&self.lanes[index].topic) {
                Err(Failure { code: Code::Brokers(Class::Away), .. }) if Instant::now() < until => {
                    self.check(session)?;
                    self.report(&session.acks);
                }
                found => return Ok(found?),
            }
        }
    }

    /// A request as large as a topic's limit must be taken; the client has its limit from the beginning.
    fn check_limits(&mut self) -> Result<(), Exit> {
        let Some(max) = self.lanes.iter().filter_map(Lane::max_bytes).min() else { return Ok(()) };
        if max >= self.batch_bytes || self.batch_bytes == BATCH_BYTES_MIN {
            return Ok(());
        }
        self.batch_bytes = max.max(BATCH_BYTES_MIN);
        Err(Failure::new(Code::Purged, format!("a topic takes only {max} bytes at once")).into())
    }

    fn pass_fence(&mut self, index: usize) -> Result<(), Exit> {
        let passed = self.lanes[index].pass_fence(&mut self.parts.ledger());
        passed.map_err(Exit::from)
    }

    fn wait_while(&mut self, session: &Session, index: usize, condition: impl Fn(&Lane) -> bool) -> Result<(), Exit> {
        if !condition(&self.lanes[index]) {
            return Ok(());
        }
        session.acks.set_eager(true);
        loop {
            self.check(session)?;
            self.settle(&session.acks);
            self.report(&session.acks);
            if !condition(&self.lanes[index]) {
                session.acks.set_eager(false);
                return Ok(());
            }
            self.parts.shared.bell.wait(TICK);
        }
    }

    fn check(&self, session: &Session) -> Result<(), Exit> {
        if self.is_stopped() {
            return Err(Exit::Stopped);
        }
        if session.acks.has_failed() {
            let unknown = || Failure::new(Code::Brokers(Class::Other), "the producer has failed");
            return Err(Exit::Failed(session.acks.failure().unwrap_or_else(unknown)));
        }
        Ok(())
    }
}
