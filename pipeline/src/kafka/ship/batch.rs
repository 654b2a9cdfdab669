//! A batch: which messages go into which object, and when it ends. Pure: takes `now`.
//!
//! A batch is a range of offsets of one partition. Its events are split by the window of their timestamp, one object a
//! window. It ends
//! - by size: all raw bytes reach `batch.max_bytes`, or [`WINDOWS_MAX`] windows are open;
//! - by time, once the partition has been read to its end: the wall clock is past the end of its newest window and
//!   [`GRACE_MS`], or one window's length has passed since its first message was fetched (so that a clock that is wrong
//!   holds nothing for ever);
//! - by time in any case, where twice a window's length has passed;
//! - or where it is told to: for want of memory, and at the stop.
//!
//! Where a cut is there already, none of that counts: the batch ends where the cut says, and is made as it says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::cut::{Cut, First, Form, Name, Part};
use super::objects::Growing;
use super::record::{self, Foreign};
use super::seen::{Seen, Verdict};
use crate::Kind;
use crate::workers::Workers;

/// The most objects of a batch.
const WINDOWS_MAX: usize = 64;

/// How long after a window's end messages of it are waited for, in milliseconds.
const GRACE_MS: i64 = 2_000;

/// A message as it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) value: &'a [u8],
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall_ms: i64,
    pub(super) instant: Instant,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Record,
    Repeated,
    Foreign(Foreign),
}

/// Where a batch begins, and with what.
#[derive(Clone, Debug)]
pub(super) struct Base {
    /// The first offset that may be in it.
    pub(super) name: Name,
    /// The cut that `seen` is from.
    pub(super) before: Option<Name>,
    pub(super) seen: Seen,
}

/// A batch that is being read.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) base: Base,
    pub(super) obeys: Option<Box<Cut>>,
    form: Form,
    seen: Seen,
    first: Option<First>,
    /// The last offset in it; before `base.name.start` while it is empty.
    end: i64,
    newest_ms: i64,
    objects: BTreeMap<i64, Object>,
    /// The window of the message before.
    raw_bytes: u64,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Object {
    first: i64,
    growing: Growing,
}

/// A batch that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) cut: Cut,
    /// One for each object of the cut, in its order, where there is anything to put.
    pub(super) objects: Vec<(Part, Growing)>,
    pub(super) base: Base,
}

impl Batch {
    /// A batch whose end is still open.
    pub(super) fn open(base: Base, form: Form) -> Batch {
        Batch::new(base, form, None)
    }

    /// The batch that a cut describes.
    pub(super) fn obeying(base: Base, cut: Box<Cut>) -> Batch {
        let form = cut.form.clone();
        Batch::new(base, form, Some(cut))
    }

    fn new(base: Base, form: Form, obeys: Option<Box<Cut>>) -> Batch {
        Batch {
            seen: base.seen.clone(),
            end: base.name.start - 1,
            base,
            obeys,
            form,
            first: None,
            newest_ms: i64::MIN,
            objects: BTreeMap::new(),
            raw_bytes: 0,
            since: None,
        }
    }

    /// Takes the next message.
    pub(super) fn take(&mut self, message: &Message<'_>, kind: Kind, now: &Now, workers: &Workers) -> Taken {
        self.end = message.offset;
        self.since.get_or_insert(now.instant);
        let id = match record::id_of(message.value) {
            Ok(id) => id,
            Err(foreign) => return Taken::Foreign(foreign),
        };
        match self.seen.take(&id, message.timestamp_ms, kind) {
            Verdict::Foreign(foreign) => return Taken::Foreign(foreign),
            verdict => {
                if self.first.is_none() {
                    self.first = Some(First { offset: message.offset, id: id.text.to_owned() });
                }
                self.newest_ms = self.newest_ms.max(message.timestamp_ms);
                if verdict == Verdict::Repeated {
                    return Taken::Repeated;
                }
            }
        }
        let window = self.form.window(message.timestamp_ms);
        let form = &self.form;
        let object =
            self.objects.entry(window).or_insert_with(|| Object { first: message.offset, growing: Growing::new(form) });
        object.growing.push(message.value, workers);
        self.raw_bytes += message.value.len() as u64 + 1;
        Taken::Record
    }

    pub(super) fn first(&self) -> Option<&First> {
        self.first.as_ref()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end < self.base.name.start
    }

    /// The offset that follows.
    pub(super) fn next(&self) -> i64 {
        self.end + 1
    }

    /// Whether it has reached what it may hold, or what its cut says.
    pub(super) fn is_full(&self, bytes_max: u64) -> bool {
        match &self.obeys {
            Some(cut) => self.end >= cut.end,
            None => self.raw_bytes >= bytes_max || self.objects.len() >= WINDOWS_MAX,
        }
    }

    /// Whether its time is over; `read_to_end`: whether the partition holds nothing more.
    pub(super) fn is_due(&self, now: &Now, read_to_end: bool) -> bool {
        let Some(since) = self.since.filter(|_| self.obeys.is_none()) else { return false };
        let window_s = self.form.window_s;
        let window = Duration::from_secs(window_s.unsigned_abs());
        let age = now.instant.saturating_duration_since(since);
        let over = |(newest, _): (&i64, &Object)| {
            now.wall_ms >= newest.saturating_add(window_s).saturating_mul(1_000).saturating_add(GRACE_MS)
        };
        let is_over = age >= window || self.objects.last_key_value().is_some_and(over);
        (read_to_end && is_over) || age >= window * 2
    }

    /// What it takes of memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.objects.values().map(|object| object.growing.memory()).sum()
    }

    /// Bytes that are not compressed yet.
    pub(super) fn uncompressed(&self) -> usize {
        self.objects.values().map(|object| object.growing.uncompressed()).sum()
    }

    /// When its oldest message was received, in milliseconds since 1970, to within a window.
    pub(super) fn oldest_ms(&self) -> Option<i64> {
        self.objects.keys().next().map(|window| window.saturating_mul(1_000))
    }

    /// Numbers that were given up since this was last asked.
    pub(super) fn take_missing(&mut self) -> u64 {
        self.seen.take_missing()
    }

    /// Decides: the end is the last message taken, or what the cut says. Gives the batch, and where the next begins.
    pub(super) fn end(mut self, now: &Now) -> (Ended, Base) {
        let (cut, seen) = match self.obeys.take() {
            // Not what was seen here: messages may be missing by now that the cut's maker has seen.
            Some(cut) => {
                let seen = Seen::of(&cut.streams);
                (*cut, seen)
            }
            None => {
                // A node whose clock is ahead must not make the others forgotten, nor must reading an old backlog.
                self.seen.forget(self.newest_ms.min(now.wall_ms));
                let part = |(window, object): (&i64, &Object)| Part {
                    window: *window,
                    first: object.first,
                    records: object.growing.records(),
                };
                let objects = self.objects.iter().map(part).collect();
                let Base { name, before, .. } = self.base;
                let cut = Cut::new(name, self.end, before, self.first.take(), self.form.clone(), objects, &self.seen);
                (cut, self.seen)
            }
        };
        let next = Base { name: Name { life: cut.life, start: cut.end + 1 }, before: Some(cut.name()), seen };
        let mut objects = Vec::new();
        for part in &cut.objects {
            objects.extend(self.objects.remove(&part.window).map(|object| (part.clone(), object.growing)));
        }
        (Ended { cut, objects, base: self.base }, next)
    }
}
