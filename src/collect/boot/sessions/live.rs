//! Addresses of machines whose session goes on: a table that is asked for every syslog message and changes seldom.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use super::{Id, Session, Stage};

#[derive(Debug, Default)]
pub(super) struct Live {
    /// How many there are, so that without any nobody takes the lock.
    many: AtomicUsize,
    table: RwLock<HashMap<Ipv4Addr, Entry>>,
}

#[derive(Debug)]
struct Entry {
    id: Id,
    ends: Timestamp,
    /// Whether there was a syslog message already.
    has_logged: AtomicBool,
}

impl Live {
    /// The session of this address, and whether this is the first time that it is asked for.
    pub(super) fn get(&self, ip: Ipv4Addr, now: Timestamp) -> Option<(Id, bool)> {
        if self.many.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let entry = table.get(&ip).filter(|entry| now <= entry.ends)?;
        let first = !entry.has_logged.load(Ordering::Relaxed) && !entry.has_logged.swap(true, Ordering::Relaxed);
        Some((entry.id.clone(), first))
    }

    pub(super) fn set(&self, ip: Ipv4Addr, session: &Session, lasts: Duration) {
        let entry = Entry {
            id: session.id.clone(),
            ends: session.began.saturating_add(lasts).unwrap_or(Timestamp::MAX),
            has_logged: AtomicBool::new(session.reached[Stage::Syslog as usize].is_some()),
        };
        self.change(|table| drop(table.insert(ip, entry)));
    }

    pub(super) fn remove(&self, ip: Ipv4Addr) {
        self.change(|table| drop(table.remove(&ip)));
    }

    /// Lets those go whose session is over.
    pub(super) fn prune(&self, now: Timestamp) {
        if self.many.load(Ordering::Relaxed) > 0 {
            self.change(|table| table.retain(|_, entry| now <= entry.ends));
        }
    }

    fn change(&self, work: impl FnOnce(&mut HashMap<Ipv4Addr, Entry>)) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        work(&mut table);
        self.many.store(table.len(), Ordering::Relaxed);
    }
}
