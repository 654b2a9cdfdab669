//! A lane: one partition's way from messages to objects. Pure: it is told what happens and says what is to be done.
//!
//! ```text
//! FindStart ─► Seek ─► messages ─► batch ends ─► PutCut ─┬─ ours ──────────► PutObjects ─► Commit
//!                        ▲                               └─ somebody's: back to its start, do that batch
//!                        └──────────────────────────────────┘
//! ```
//!
//! - Nothing is put into the store before the cut is there, and only what the cut says.
//! - Where somebody else's cut was first, everything since its start is dropped and read again.
//! - The next batch is read while one is on its way to the store, but only cut when that one is committed.
//! - What has been seen is taken from the cut, wherever there is one.

use std::time::Instant;

use super::batch::{Base, Batch, Ended, Message, Now, Taken};
use super::cut::{Cut, First, Form, Name, Part, Place};
use super::objects::Growing;
use super::start::Start;
use crate::workers::Workers;

/// How long after a failed seek the next is tried.
const SEEK_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// What a lane wants done. Each is answered once, but for `Commit`.
#[derive(Debug)]
pub(super) enum Effect {
    /// Find out where to begin; lives in `not` are of another log.
    FindStart { not: Vec<u32> },
    /// Go on reading at this offset.
    Seek(i64),
    /// Write the cut if it is new: [`Answer::Cut`].
    PutCut(Box<Cut>),
    /// Put the objects if they are new: [`Answer::Shipped`]. `look_ahead`: the next cut may be there too.
    PutObjects { cut: Box<Cut>, objects: Vec<(Part, Growing)>, look_ahead: bool },
    /// Commit the offset, with the name of the cut before it.
    Commit { offset: i64, cut: Name },
}

/// What became of an effect.
#[derive(Debug)]
pub(super) enum Answer {
    Start(Start),
    /// The cut that was there already.
    Cut(Option<Box<Cut>>),
    /// All objects are in the store; the cut that follows, where it was looked for and is there.
    Shipped(Option<Box<Cut>>),
    /// What was under way cannot be finished: the lane begins anew.
    Failed,
}

/// What has happened since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) records: u64,
    pub(super) repeated: u64,
    pub(super) foreign: [u64; 3],
    /// Events that are lost.
    pub(super) missing: u64,
    /// Messages before the lane's place, which are none of its own.
    pub(super) stale: u64,
    pub(super) cuts: [u64; 3],
}

/// Whose cut a batch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Its own.
    Own,
    /// One that was there when the batch began: it is made as that says.
    Before,
    /// One that was written meanwhile: the batch is read again.
    Rival,
}

impl Whose {
    pub(super) const ALL: [Whose; 3] = [Whose::Own, Whose::Before, Whose::Rival];

    /// For metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Whose::Own => "own",
            Whose::Before => "before",
            Whose::Rival => "rival",
        }
    }
}

/// A partition.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) place: Place,
    form: Form,
    bytes_max: u64,
    workers: Workers,
    state: State,
    effects: Vec<Effect>,
    counts: Counts,
    /// Lives of this topic's name that were found to be of another log.
    not: Vec<u32>,
    /// The end of the log as last heard: the offset of the next message to be written.
    high: i64,
    seek_again: Option<Instant>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a partition")]
enum State {
    Starting,
    Reading { open: Batch, flight: Option<Flight> },
}

/// A batch that has ended and is on its way.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a partition")]
enum Flight {
    Cutting { cut: Cut, objects: Vec<(Part, Growing)>, base: Base },
    Putting { cut: Name, end: i64, memory: usize, oldest_ms: Option<i64> },
}

impl Flight {
    fn putting(cut: &Cut, objects: &[(Part, Growing)]) -> Flight {
        let oldest_ms = oldest_ms(cut);
        Flight::Putting { cut: cut.name(), end: cut.end, memory: held(objects), oldest_ms }
    }
}

impl Lane {
    pub(super) fn new(place: Place, form: Form, bytes_max: u64, workers: Workers) -> Lane {
        Lane {
            place,
            form,
            bytes_max,
            workers,
            state: State::Starting,
            effects: vec![Effect::FindStart { not: Vec::new() }],
            counts: Counts::default(),
            not: Vec::new(),
            high: 0,
            seek_again: None,
        }
    }

    /// What is to be done now.
    pub(super) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn take_counts(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.counts);
        if let State::Reading { open, .. } = &mut self.state {
            counts.missing += open.take_missing();
        }
        counts
    }

    /// The offset of the next message that it takes; `None` where that is not known yet.
    pub(super) fn next(&self) -> Option<i64> {
        match &self.state {
            State::Starting => None,
            State::Reading { open, .. } => Some(open.next()),
        }
    }

    /// Takes a message.
    pub(super) fn message(&mut self, message: &Message<'_>, now: &Now) {
        let State::Reading { open, flight } = &mut self.state else {
            self.counts.stale += 1;
            return;
        };
        if self.seek_again.is_some() {
            // From before a seek that has not worked yet.
            self.counts.stale += 1;
            return;
        }
        if message.offset < open.next() {
            // librdkafka drops what it has fetched before a seek: the log itself begins anew.
            self.counts.stale += 1;
            if flight.is_none() {
                self.restart();
            }
            return;
        }
        if let Some(cut) = &open.obeys
            && message.offset > cut.end
        {
            // Retention has taken the cut's last message: the batch holds what is left of it.
            self.end_batch(now);
            return self.message(message, now);
        }
        if open.obeys.is_none() && (open.base.before.is_some() || !open.is_empty()) {
            self.counts.missing += (message.offset - open.next()).unsigned_abs();
        }
        let was_unknown = open.first().is_none();
        match open.take(message, self.place.kind, now, &self.workers) {
            Taken::Record => self.counts.records += 1,
            Taken::Repeated => self.counts.repeated += 1,
            Taken::Foreign(foreign) => self.counts.foreign[foreign as usize] += 1,
        }
        if was_unknown
            && let (Some(cut), Some(first)) = (&open.obeys, open.first())
            && !cut.is_of_log(first)
        {
            let life = cut.life;
            return self.another_log(life);
        }
        if flight.is_none() && open.is_full(self.bytes_max) {
            self.end_batch(now);
        }
    }

    /// Looks whether anything is due; `low` and `high` are the log's first offset and the one after its last, as far as
    /// they are known.
    pub(super) fn tick(&mut self, now: &Now, low: Option<i64>, high: Option<i64>) {
        self.high = self.high.max(high.unwrap_or(0));
        if self.seek_again.is_some_and(|at| now.instant >= at)
            && let Some(next) = self.next()
        {
            self.seek_again = None;
            self.effects.push(Effect::Seek(next));
        }
        let State::Reading { open, flight: None } = &self.state else { return };
        let read_to_end = open.next() >= self.high;
        let is_gone = open.obeys.as_ref().is_some_and(|cut| low.is_some_and(|low| low > cut.end));
        if is_gone || (!open.is_empty() && (open.is_full(self.bytes_max) || open.is_due(now, read_to_end))) {
            self.end_batch(now);
        }
    }

    /// Ends the open batch now where it can be: for want of memory, and at the stop.
    pub(super) fn end_now(&mut self, now: &Now) {
        if let State::Reading { open, flight: None } = &self.state
            && !open.is_empty()
            && open.obeys.is_none()
        {
            self.end_batch(now);
        }
    }

    /// A seek did not work: it is tried again.
    pub(super) fn seek_failed(&mut self, now: &Now) {
        self.seek_again = Some(now.instant + SEEK_AGAIN);
    }

    /// Something was done.
    pub(super) fn answer(&mut self, answer: Answer, now: &Now) {
        match (answer, std::mem::replace(&mut self.state, State::Starting)) {
            (Answer::Start(start), State::Starting) => self.begin(start, now),
            (Answer::Cut(theirs), State::Reading { open, flight: Some(Flight::Cutting { cut, objects, base }) }) => {
                match theirs {
                    None => {
                        self.counts.cuts[Whose::Own as usize] += 1;
                        let flight = Flight::putting(&cut, &objects);
                        self.effects.push(Effect::PutObjects { cut: Box::new(cut), objects, look_ahead: false });
                        self.state = State::Reading { open, flight: Some(flight) };
                    }
                    Some(theirs) => self.obey(base, theirs, cut.first.as_ref(), Whose::Rival),
                }
            }
            (Answer::Shipped(next), State::Reading { open, flight: Some(Flight::Putting { cut, end, .. }) }) => {
                self.effects.push(Effect::Commit { offset: end + 1, cut });
                match next.filter(|_| open.obeys.is_none()) {
                    Some(next) => {
                        let first = open.first().cloned();
                        self.obey(open.base, next, first.as_ref(), Whose::Before);
                    }
                    None => {
                        self.state = State::Reading { open, flight: None };
                        self.tick(now, None, None);
                    }
                }
            }
            (Answer::Failed, _) => self.restart(),
            // Nothing of this state was asked for.
            (_, state) => self.state = state,
        }
    }

    fn begin(&mut self, start: Start, now: &Now) {
        self.high = start.high;
        let low = start.low;
        match start.obeys {
            Some(cut) => self.obey(start.base, cut, None, Whose::Before),
            None => {
                let open = Batch::open(start.base, self.form.clone());
                self.effects.push(Effect::Seek(open.next()));
                self.state = State::Reading { open, flight: None };
            }
        }
        self.tick(now, Some(low), None);
    }

    /// Does the batch that a cut describes, from its start; `first` is what was read there.
    fn obey(&mut self, base: Base, cut: Box<Cut>, first: Option<&First>, whose: Whose) {
        if !cut.can_be_of_log(first) {
            return self.another_log(cut.life);
        }
        self.counts.cuts[whose as usize] += 1;
        let open = Batch::obeying(base, cut);
        self.effects.push(Effect::Seek(open.next()));
        self.state = State::Reading { open, flight: None };
    }

    fn end_batch(&mut self, now: &Now) {
        let State::Reading { open, .. } = &mut self.state else { return };
        self.counts.missing += open.take_missing();
        let State::Reading { open, .. } = std::mem::replace(&mut self.state, State::Starting) else { return };
        let obeys = open.obeys.is_some();
        let (Ended { cut, objects, base }, next) = open.end(now);
        let flight = if obeys {
            let made: u64 = objects.iter().map(|(_, growing)| growing.records()).sum();
            let cut_to: u64 = cut.objects.iter().map(|part| part.records).sum();
            self.counts.missing += cut_to.saturating_sub(made);
            let flight = Flight::putting(&cut, &objects);
            self.effects.push(Effect::PutObjects { cut: Box::new(cut), objects, look_ahead: true });
            flight
        } else {
            self.effects.push(Effect::PutCut(Box::new(cut.clone())));
            Flight::Cutting { cut, objects, base }
        };
        self.state = State::Reading { open: Batch::open(next, self.form.clone()), flight: Some(flight) };
    }

    /// The cuts of a life are of another log under this topic's name.
    fn another_log(&mut self, life: u32) {
        self.not.push(life);
        self.restart();
    }

    /// Begins anew.
    fn restart(&mut self) {
        self.state = State::Starting;
        self.seek_again = None;
        self.effects.push(Effect::FindStart { not: self.not.clone() });
    }

    /// Whether it takes messages now; where not, the partition is paused.
    pub(super) fn wants_messages(&self, uncompressed_max: usize) -> bool {
        match &self.state {
            State::Starting => false,
            State::Reading { open, flight } => {
                let is_full = flight.is_some() && open.is_full(self.bytes_max);
                !is_full && open.uncompressed() < uncompressed_max
            }
        }
    }

    /// Whether a batch is on its way to the store.
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(&self.state, State::Reading { flight: Some(_), .. })
    }

    /// Whether there is nothing that could still be shipped.
    pub(super) fn is_idle(&self) -> bool {
        match &self.state {
            State::Starting => true,
            State::Reading { open, flight } => flight.is_none() && (open.is_empty() || open.obeys.is_some()),
        }
    }

    /// Bytes held of the open batch, and of the one on its way.
    pub(super) fn memory(&self) -> usize {
        match &self.state {
            State::Starting => 0,
            State::Reading { open, flight } => {
                let of_flight = match flight {
                    Some(Flight::Cutting { objects, .. }) => held(objects),
                    Some(Flight::Putting { memory, .. }) => *memory,
                    None => 0,
                };
                open.memory() + of_flight
            }
        }
    }

    /// When the oldest message that is read and not in the store was received, in milliseconds since 1970, to within a
    /// window.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        match &self.state {
            State::Starting => None,
            State::Reading { open, flight } => {
                let of_flight = match flight {
                    Some(Flight::Cutting { cut, .. }) => oldest_ms(cut),
                    Some(Flight::Putting { oldest_ms, .. }) => *oldest_ms,
                    None => None,
                };
                of_flight.into_iter().chain(open.oldest_ms()).min()
            }
        }
    }

    /// The end of the log as last heard.
    pub(super) fn high(&self) -> i64 {
        self.high
    }
}

/// The start of a cut's oldest window, in milliseconds since 1970.
fn oldest_ms(cut: &Cut) -> Option<i64> {
    cut.objects.iter().map(|part| part.window.saturating_mul(1_000)).min()
}

/// What objects on their way take of memory, in bytes.
fn held(objects: &[(Part, Growing)]) -> usize {
    objects.iter().map(|(_, growing)| growing.memory()).sum()
}
