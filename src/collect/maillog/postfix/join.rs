//! What is known of messages whose `from` is still to come: Postfix says on one line who
//! sends a message, on another what its Message-ID is, and on a third its sender.
//!
//! One table for all tasks of a listener, since the lines of one server may come over
//! several connections. It is bounded in bytes and in age, so an answer may be missing; it
//! is never another message's: a queue id is asked for beside the server, the address that
//! the line came from and the instance; a line that begins a message forgets what was
//! known under its id, and `removed` does too.
//!
//! The table also knows which messages have had their `from`: Postfix logs `from=` at
//! every try. That is forgotten when nothing is heard of a message for
//! [`JOIN_AGE_SECONDS_MAX`] (tries are 4000 s apart at most by default), when the table is
//! full, and by a restart; the next `from=` then makes another record.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounter, Registry};

use crate::collect::maillog::wire::Relay;

/// What all that is remembered may take.
pub const JOIN_BYTES_MAX: usize = 32 << 20;

/// How long a message is remembered of which nothing is heard; at least half of it.
pub const JOIN_AGE_SECONDS_MAX: i64 = 6 * 3600;

/// Of an entry and its place in the table, without its texts.
const ENTRY_BYTES: usize = 160;

/// Which message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) peer: Option<IpAddr>,
    pub(crate) mailserver: &'a [u8],
    pub(crate) instance: &'a [u8],
    pub(crate) id: &'a [u8],
}

impl Key<'_> {
    fn bytes(&self) -> Box<[u8]> {
        let mut key = Vec::with_capacity(self.mailserver.len() + self.instance.len() + self.id.len() + 20);
        for part in [self.mailserver, self.instance, self.id] {
            key.extend_from_slice(part);
            key.push(0);
        }
        match self.peer {
            Some(IpAddr::V4(ip)) => key.extend_from_slice(&ip.octets()),
            Some(IpAddr::V6(ip)) => key.extend_from_slice(&ip.octets()),
            None => {}
        }
        key.into_boxed_slice()
    }
}

/// What was learnt of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Join {
    pub(crate) relay: Box<[u8]>,
    pub(crate) relay_ip: Option<Box<[u8]>>,
    pub(crate) auth: Option<Box<[u8]>>,
    pub(crate) msgid: Option<Box<[u8]>>,
}

impl Join {
    fn bytes(&self) -> usize {
        let len = |text: &Option<Box<[u8]>>| text.as_ref().map_or(0, |text| text.len());
        self.relay.len() + len(&self.relay_ip) + len(&self.auth) + len(&self.msgid)
    }
}

#[derive(Debug)]
enum Entry {
    Known(Join),
    /// Its `from` was made.
    Done,
}

impl Entry {
    fn bytes(&self, key: &[u8]) -> usize {
        ENTRY_BYTES
            + key.len()
            + match self {
                Entry::Known(join) => join.bytes(),
                Entry::Done => 0,
            }
    }
}

/// Two generations: what is touched moves to the young one, and the old one is dropped whole
/// when the young one is full or has its age.
#[derive(Debug, Default)]
struct Table {
    young: Generation,
    old: Generation,
    young_since: i64,
}

#[derive(Debug, Default)]
struct Generation {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
}

impl Generation {
    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes(key);
        Some(entry)
    }
}

/// What is remembered, shared by all that make records of the same servers' lines.
#[derive(Clone, Debug)]
pub struct Joins {
    table: Arc<Mutex<Table>>,
    bytes_max: usize,
    /// Messages forgotten because the table was full.
    pub evicted: IntCounter,
    /// `from` records of messages that nothing was known of.
    pub unjoined: IntCounter,
    /// `from=` lines of messages that had their record.
    pub repeated: IntCounter,
}

impl Default for Joins {
    fn default() -> Joins {
        Joins::with_limit(JOIN_BYTES_MAX)
    }
}

impl Joins {
    fn with_limit(bytes_max: usize) -> Joins {
        let counter = |name, help| IntCounter::new(name, help).expect("a valid name");
        Joins {
            table: Arc::default(),
            bytes_max,
            evicted: counter(
                "greypit_syslog_postfix_evicted_total",
                "Messages of Postfix forgotten before their end because too many were remembered.",
            ),
            unjoined: counter(
                "greypit_syslog_postfix_unjoined_total",
                "Records of kind from without relay and msgid because the lines that name them were not seen.",
            ),
            repeated: counter(
                "greypit_syslog_postfix_requeued_total",
                "from= lines of messages that Postfix tries again: no second record of kind from.",
            ),
        }
    }

    /// Shows what it counts.
    ///
    /// # Errors
    /// Where `registry` has these metrics already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        for counter in [&self.evicted, &self.unjoined, &self.repeated] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }

    fn table(&self, now: i64) -> MutexGuard<'_, Table> {
        // Nothing in here stops half-way.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now - table.young_since;
        if age >= JOIN_AGE_SECONDS_MAX / 2 {
            table.old = std::mem::take(&mut table.young);
            if age >= JOIN_AGE_SECONDS_MAX {
                table.old = Generation::default();
            }
            table.young_since = now;
        }
        table
    }

    fn take(table: &mut Table, key: &[u8]) -> Option<Entry> {
        table.young.remove(key).or_else(|| table.old.remove(key))
    }

    fn put(&self, table: &mut Table, key: Box<[u8]>, entry: Entry, now: i64) {
        table.young.bytes += entry.bytes(&key);
        table.young.entries.insert(key, entry);
        if table.young.bytes > self.bytes_max / 2 {
            self.evicted.inc_by(table.old.entries.len() as u64);
            table.old = std::mem::take(&mut table.young);
            table.young_since = now;
        }
    }

    /// A message begins.
    pub(crate) fn begin(&self, key: Key<'_>, relay: &Relay<'_>, auth: Option<&[u8]>, now: i64) {
        let key = key.bytes();
        let join = Join {
            relay: relay.host.into(),
            relay_ip: relay.ip.map(Into::into),
            auth: auth.map(Into::into),
            msgid: None,
        };
        let mut table = self.table(now);
        Self::take(&mut table, &key);
        self.put(&mut table, key, Entry::Known(join), now);
    }

    /// Its Message-ID. The first line counts: a message can have several.
    pub(crate) fn msgid(&self, key: Key<'_>, msgid: &[u8], now: i64) {
        let key = key.bytes();
        let mut table = self.table(now);
        let mut join = match Self::take(&mut table, &key) {
            Some(Entry::Known(join)) => join,
            // Postfix's own message, or the id of one that is gone.
            Some(Entry::Done) | None => Join::default(),
        };
        join.msgid.get_or_insert_with(|| msgid.into());
        self.put(&mut table, key, Entry::Known(join), now);
    }

    /// It is in the active queue: what is known of it, the first time.
    pub(crate) fn from(&self, key: Key<'_>, now: i64) -> Option<Join> {
        let key = key.bytes();
        let mut table = self.table(now);
        let known = match Self::take(&mut table, &key) {
            Some(Entry::Known(join)) => Some(join),
            Some(Entry::Done) => {
                self.repeated.inc();
                None
            }
            None => {
                self.unjoined.inc();
                Some(Join::default())
            }
        };
        self.put(&mut table, key, Entry::Done, now);
        known
    }

    /// It is done with.
    pub(crate) fn end(&self, key: Key<'_>, now: i64) {
        Self::take(&mut self.table(now), &key.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: Relay<'static> = Relay { host: b"h.example", ip: Some(b"192.0.2.1") };

    fn key(id: &str) -> Key<'_> {
        Key { peer: None, mailserver: b"mx1", instance: b"postfix", id: id.as_bytes() }
    }

    fn relay(join: Option<Join>) -> Option<String> {
        join.map(|join| String::from_utf8_lossy(&join.relay).into_owned())
    }

    fn none(join: &Option<Join>) -> bool {
        *join == Some(Join::default())
    }

    #[test]
    fn a_message_has_one_from_until_it_is_removed() {
        let joins = Joins::default();
        joins.begin(key("A1"), &RELAY, None, 0);
        joins.msgid(key("A1"), b"m", 0);
        joins.msgid(key("A1"), b"second", 0);
        let join = joins.from(key("A1"), 1).expect("the first");
        assert_eq!((&*join.relay, join.msgid.as_deref()), (&b"h.example"[..], Some(&b"m"[..])));
        assert_eq!(joins.from(key("A1"), 4000), None);
        assert_eq!(joins.from(key("A1"), 8000), None);
        joins.end(key("A1"), 8000);
        assert!(none(&joins.from(key("A1"), 8001)));
        assert_eq!((joins.repeated.get(), joins.unjoined.get()), (2, 1));
    }

    #[test]
    fn an_id_used_again_begins_anew() {
        let joins = Joins::default();
        joins.begin(key("A1"), &RELAY, None, 0);
        joins.from(key("A1"), 1);
        joins.begin(key("A1"), &Relay { host: b"other", ip: None }, None, 2);
        assert_eq!(relay(joins.from(key("A1"), 3)).as_deref(), Some("other"));
        // A notice of Postfix's own, after the line that removes its forerunner was lost.
        joins.msgid(key("A1"), b"notice", 4);
        let join = joins.from(key("A1"), 5).expect("another message");
        assert_eq!((&*join.relay, join.msgid.as_deref()), (&b""[..], Some(&b"notice"[..])));
    }

    #[test]
    fn servers_instances_and_peers_are_apart() {
        let joins = Joins::default();
        joins.begin(key("A1"), &RELAY, None, 0);
        for other in [
            Key { mailserver: b"mx2", ..key("A1") },
            Key { instance: b"postfix-out", ..key("A1") },
            Key { peer: Some([192, 0, 2, 9].into()), ..key("A1") },
            key("A2"),
        ] {
            assert!(none(&joins.from(other, 1)), "{other:?}");
        }
        assert_eq!(relay(joins.from(key("A1"), 1)).as_deref(), Some("h.example"));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let joins = Joins::default();
        joins.begin(key("A1"), &RELAY, None, 0);
        joins.begin(key("A2"), &RELAY, None, 0);
        let half = JOIN_AGE_SECONDS_MAX / 2;
        assert!(!none(&joins.from(key("A1"), half)));
        assert!(none(&joins.from(key("A2"), 2 * half)));
        // Touched meanwhile.
        assert_eq!(joins.from(key("A1"), 2 * half), None);
        assert!(none(&joins.from(key("A1"), 9 * half)));
        assert_eq!(joins.evicted.get(), 0);
    }

    #[test]
    fn the_table_is_bounded_and_says_what_it_forgot() {
        let joins = Joins::with_limit(100_000);
        for n in 0..10_000 {
            joins.begin(key(&format!("A{n}")), &RELAY, None, 0);
            let table = joins.table(0);
            assert!(table.young.bytes + table.old.bytes <= 100_000 + 1000);
            let sum = |g: &Generation| g.entries.iter().map(|(key, entry)| entry.bytes(key)).sum::<usize>();
            assert!(n % 1000 != 0 || sum(&table.young) == table.young.bytes && sum(&table.old) == table.old.bytes);
        }
        let count = |table: &Table| table.young.entries.len() + table.old.entries.len();
        let kept = count(&joins.table(0));
        assert_eq!(joins.evicted.get() as usize + kept, 10_000);
        assert!(!none(&joins.from(key("A9999"), 0)));
        assert!(none(&joins.from(key("A0"), 0)));
    }
}
