//! `[syslog] fold`: identical messages within a window become the first and one record that
//! says how often it was `repeated`.
//!
//! Identical are two messages of the same peer, host, program and priority with the same
//! text, however they came. The first passes at once. Those that follow within the window,
//! which begins with it, are counted; the first of them is kept, and given out with
//! `"repeated":N` when the window ends: N messages are folded into it. So every message is
//! either in a record of its own or in one `repeated`.
//!
//! One table for all tasks of a section, bounded in bytes: what does not fit passes. Pure
//! but for that: the receive time is an argument. [`Folds::due`] must be asked now and then.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use greypit_pipeline::Register;
use jiff::Timestamp;
use prometheus::{IntCounter, Registry};

use super::wire::Message;

/// What all that is remembered may take.
pub const FOLD_BYTES_MAX: usize = 8 << 20;

/// Longer messages are not folded.
pub const FOLD_MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Of an entry and its two places, without its texts.
const ENTRY_BYTES: usize = 200;

/// A record that stands for `repeated` messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) kind: &'static str,
    pub(crate) repeated: u64,
    pub(crate) body: Vec<u8>,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has its own record; the one of a window that has just ended comes first.
    Passes(Option<Folded>),
    IsFolded,
}

#[derive(Debug)]
struct Entry {
    ends: i64,
    kind: &'static str,
    repeated: u64,
    body: Vec<u8>,
}

impl Entry {
    fn folded(self) -> Option<Folded> {
        let Entry { kind, repeated, mut body, .. } = self;
        (repeated > 0).then(|| {
            body.pop();
            // Writing to a Vec cannot fail.
            let _ = write!(body, ",\"repeated\":{repeated}}}");
            Folded { kind, repeated, body }
        })
    }
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// When windows end, about in order.
    ends: VecDeque<(i64, Arc<[u8]>)>,
    bytes: usize,
}

impl Table {
    fn remove(&mut self, key: &[u8]) -> Option<Folded> {
        let entry = self.entries.remove(key)?;
        self.bytes -= ENTRY_BYTES + key.len() + entry.body.len();
        entry.folded()
    }
}

/// The messages of open windows, shared by all tasks.
#[derive(Clone, Debug)]
pub struct Folds {
    window_ms: i64,
    bytes_max: usize,
    table: Arc<Mutex<Table>>,
    folded: IntCounter,
    records: IntCounter,
    /// Messages whose record could not be given to the pipeline.
    pub(crate) lost: IntCounter,
}

impl Folds {
    /// # Errors
    /// Where `registry` has these metrics already.
    pub fn new(window: Duration, registry: &Registry) -> prometheus::Result<Folds> {
        let register = Register::new(registry, "greypit_syslog_");
        Ok(Folds {
            window_ms: i64::try_from(window.as_millis()).unwrap_or(i64::MAX).max(1),
            bytes_max: FOLD_BYTES_MAX,
            table: Arc::default(),
            folded: register.counter("folded_total", "Messages folded into a record that says repeated.")?,
            records: register.counter("fold_records_total", "Records that say repeated.")?,
            lost: register.counter("folded_lost_total", "Folded messages whose record was lost at shutdown.")?,
        })
    }

    /// How often to ask for what is due.
    pub(crate) fn tick(&self) -> Duration {
        Duration::from_millis(self.window_ms.unsigned_abs().div_ceil(4).clamp(50, 1000))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here stops half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message with the body of its record.
    pub(crate) fn add(
        &self,
        message: &Message<'_>,
        peer: Option<IpAddr>,
        kind: &'static str,
        body: &[u8],
        received: Timestamp,
    ) -> Fate {
        if message.raw.len() > FOLD_MESSAGE_BYTES_MAX {
            return Fate::Passes(None);
        }
        let (key, now) = (key(message, peer, kind), received.as_millisecond());
        let mut table = self.table();
        let table = &mut *table;
        let mut ended = None;
        match table.entries.get_mut(&key[..]) {
            Some(entry) if now < entry.ends => {
                if entry.repeated == 0 {
                    entry.body.extend_from_slice(body);
                    table.bytes += body.len();
                }
                entry.repeated += 1;
                self.folded.inc();
                return Fate::IsFolded;
            }
            Some(_) => ended = table.remove(&key),
            None => {}
        }
        // With room for the body of the second, which may come.
        if table.bytes + ENTRY_BYTES + key.len() + body.len() <= self.bytes_max {
            let (key, ends): (Arc<[u8]>, i64) = (key.into(), now.saturating_add(self.window_ms));
            table.bytes += ENTRY_BYTES + key.len();
            table.ends.push_back((ends, key.clone()));
            table.entries.insert(key, Entry { ends, kind, repeated: 0, body: Vec::new() });
        }
        self.records.inc_by(u64::from(ended.is_some()));
        Fate::Passes(ended)
    }

    /// The records of windows that have ended.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<Folded> {
        self.until(now.as_millisecond())
    }

    /// All records, for the end.
    pub(crate) fn rest(&self) -> Vec<Folded> {
        self.until(i64::MAX)
    }

    fn until(&self, now: i64) -> Vec<Folded> {
        let mut table = self.table();
        let mut due = Vec::new();
        while let Some((ends, key)) = table.ends.pop_front_if(|(ends, _)| *ends <= now) {
            // Otherwise it is of a window that began later.
            if table.entries.get(&key).is_some_and(|entry| entry.ends == ends) {
                due.extend(table.remove(&key));
            }
        }
        self.records.inc_by(due.len() as u64);
        due
    }
}

fn key(message: &Message<'_>, peer: Option<IpAddr>, kind: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(message.message.len() + 96);
    if let Some(peer) = peer {
        // Writing to a Vec cannot fail.
        let _ = write!(key, "{peer}");
    }
    let pri = message.pri.map_or(["", ""], |pri| [pri.facility(), pri.severity()]);
    let texts = [kind.as_bytes(), pri[0].as_bytes(), pri[1].as_bytes()];
    // Lengths, so that no text can pass for two.
    for text in texts.into_iter().chain([message.hostname.unwrap_or_default(), message.app.unwrap_or_default()]) {
        key.push(0);
        key.extend_from_slice(&(text.len() as u32).to_le_bytes());
        key.extend_from_slice(text);
    }
    key.extend_from_slice(message.message);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::syslog::time::{TimeResolver, parse_zone};
    use crate::collect::syslog::wire;

    fn folds() -> Folds {
        Folds::new(Duration::from_secs(10), &Registry::new()).expect("new metrics")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn add(folds: &Folds, peer: u8, text: &str, second: i64) -> Fate {
        let mut times = TimeResolver::new(parse_zone("UTC").expect("UTC is known"));
        let message = wire::parse(text.as_bytes(), at(second), &mut times);
        folds.add(&message, Some([192, 0, 2, peer].into()), "syslog", b"{\"a\":1}", at(second))
    }

    const PASSES: Fate = Fate::Passes(None);

    fn repeated(n: u64) -> Folded {
        Folded { kind: "syslog", repeated: n, body: format!("{{\"a\":1,\"repeated\":{n}}}").into_bytes() }
    }

    #[test]
    fn identical_messages_are_folded_until_the_window_ends() {
        let folds = folds();
        // The time that a message names is no part of it.
        assert_eq!(add(&folds, 1, "<13>Nov 20 12:55:01 h a[1]: x", 0), PASSES);
        assert_eq!(add(&folds, 1, "<13>Nov 20 12:55:02 h a[1]: x", 1), Fate::IsFolded);
        assert_eq!(add(&folds, 1, "<13>Nov 20 12:55:03 h a[2]: x", 9), Fate::IsFolded);
        for other in ["<13>Nov 20 12:55:03 h a: y", "<13>Nov 20 12:55:03 h b: x", "<13>Nov 20 12:55:03 g a: x"] {
            assert_eq!(add(&folds, 1, other, 9), PASSES, "{other}");
        }
        assert_eq!(add(&folds, 1, "<14>Nov 20 12:55:03 h a: x", 9), PASSES);
        assert_eq!(add(&folds, 2, "<13>Nov 20 12:55:03 h a: x", 9), PASSES);
        assert_eq!(folds.due(at(9)), []);
        assert_eq!(folds.due(at(10)), [repeated(2)]);
        assert_eq!(add(&folds, 1, "<13>Nov 20 12:55:11 h a[1]: x", 10), PASSES);
        assert_eq!((folds.folded.get(), folds.records.get()), (2, 1));
    }

    #[test]
    fn a_window_that_nobody_asked_for_ends_with_the_next_message() {
        let folds = folds();
        assert_eq!(add(&folds, 1, "x", 0), PASSES);
        assert_eq!(add(&folds, 1, "x", 1), Fate::IsFolded);
        assert_eq!(add(&folds, 1, "x", 20), Fate::Passes(Some(repeated(1))));
        assert_eq!(add(&folds, 1, "x", 21), Fate::IsFolded);
        assert_eq!(folds.due(at(21)), []);
        assert_eq!(folds.rest(), [repeated(1)]);
        assert_eq!(folds.table().bytes, 0);
        assert_eq!((folds.folded.get(), folds.records.get()), (2, 2));
    }

    #[test]
    fn every_message_is_in_a_record_or_counted_whatever_the_room() {
        let folds = Folds { bytes_max: 4000, ..folds() };
        let (mut own, mut stands) = (0, 0);
        for n in 0..5000 {
            match add(&folds, 1, &format!("m{}", n * 7 % 40), n / 100) {
                Fate::Passes(ended) => {
                    own += 1;
                    stands += ended.map_or(0, |folded| folded.repeated);
                }
                Fate::IsFolded => {}
            }
            assert!(folds.table().bytes <= 4000 + 40 * 7);
            if n % 700 == 0 {
                stands += folds.due(at(n / 100)).iter().map(|folded| folded.repeated).sum::<u64>();
            }
        }
        stands += folds.rest().iter().map(|folded| folded.repeated).sum::<u64>();
        assert_eq!((own + stands, stands), (5000, folds.folded.get()));
        assert!(stands > 1000 && folds.table().bytes == 0 && folds.table().ends.is_empty());
    }
}
