//! Which transfers go on, told apart by the client's address and port.
//!
//! Anybody in our networks can ask in somebody else's name. Such a transfer is never acknowledged, so where places are
//! taken the oldest of those whose clients have not answered gives its own up for a newcomer: of the same client where
//! that one's are taken, of any where all are. An answer takes a client milliseconds; for [`GRACE`] each is let be, so
//! that many that start at once do not drive each other out.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::collect::boot::places::{Full, Place, Places};

/// How long from our first packet on a transfer keeps its place though its client has not answered and others want it.
const GRACE: Duration = Duration::from_millis(250);

/// What a transfer and the listener know of each other.
#[derive(Debug)]
pub(super) struct Entry {
    request: Vec<u8>,
    /// When the first packet went out; opening the file may take its time.
    pub(super) answered: OnceLock<Instant>,
    /// The client has answered: the same request again would be another transfer.
    pub(super) begun: AtomicBool,
    /// Another transfer has its client's port.
    pub(super) replaced: AtomicBool,
    /// Until the end, or until another transfer has it.
    place: Mutex<Option<Place>>,
}

impl Entry {
    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another transfer has its place.
    pub(super) fn is_displaced(&self) -> bool {
        self.place().is_none()
    }

    fn gives_way(&self, now: Instant) -> bool {
        let had_time = self.answered.get().is_some_and(|at| now.duration_since(*at) >= GRACE);
        had_time && !self.begun.load(Ordering::Relaxed) && !self.is_displaced()
    }

    /// Whether a request is this transfer's, sent again because our answer is not there yet.
    pub(super) fn is_repeated_by(&self, request: &[u8]) -> bool {
        self.request == request && !self.begun.load(Ordering::Relaxed)
    }
}

/// All transfers of all sockets.
#[derive(Debug)]
pub(super) struct Table {
    places: Arc<Places>,
    /// By our address and the client's.
    by_peer: Mutex<HashMap<Key, Arc<Entry>>>,
}

type Key = (SocketAddrV4, SocketAddrV4);

/// What the table says of a request.
#[derive(Debug)]
pub(super) enum Asked {
    New(Ticket),
    Repeated,
    Busy,
}

impl Table {
    pub(super) fn new(transfers_max: usize, per_client_max: usize) -> Arc<Table> {
        Arc::new(Table { places: Places::new(transfers_max, per_client_max), by_peer: Mutex::default() })
    }

    fn by_peer(&self) -> MutexGuard<'_, HashMap<Key, Arc<Entry>>> {
        self.by_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a request, if it is a new one and there is one, or one that another gives up.
    pub(super) fn ask(
        self: &Arc<Table>,
        ours: SocketAddrV4,
        client: SocketAddrV4,
        request: &[u8],
        now: Instant,
    ) -> Asked {
        let mut by_peer = self.by_peer();
        let key = (ours, client);
        if let Some(entry) = by_peer.get(&key) {
            if entry.is_repeated_by(request) {
                return Asked::Repeated;
            }
            entry.replaced.store(true, Ordering::Relaxed);
            by_peer.remove(&key);
        }
        let Some(place) = self.place(&by_peer, client, now) else { return Asked::Busy };
        let (begun, replaced) = (AtomicBool::new(false), AtomicBool::new(false));
        let (request, answered, place) = (request.to_vec(), OnceLock::new(), Mutex::new(Some(place)));
        let entry = Arc::new(Entry { request, answered, begun, replaced, place });
        by_peer.insert(key, entry.clone());
        Asked::New(Ticket { table: self.clone(), key, entry })
    }

    /// A free place, or that of a transfer whose client does not answer.
    fn place(&self, by_peer: &HashMap<Key, Arc<Entry>>, client: SocketAddrV4, now: Instant) -> Option<Place> {
        let full = match self.places.take(*client.ip()) {
            Ok(place) => return Some(place),
            Err(full) => full,
        };
        let is_asked = |key: &Key| full == Full::All || key.1.ip() == client.ip();
        let quiet = by_peer.iter().filter(|(key, entry)| is_asked(key) && entry.gives_way(now));
        let (_, oldest) = quiet.min_by_key(|(_, entry)| entry.answered.get())?;
        drop(oldest.place().take());
        self.places.take(*client.ip()).ok()
    }
}

/// What a transfer has of the table; given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    table: Arc<Table>,
    key: Key,
    pub(super) entry: Arc<Entry>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut by_peer = self.table.by_peer();
        if by_peer.get(&self.key).is_some_and(|entry| Arc::ptr_eq(entry, &self.entry)) {
            by_peer.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn ask(table: &Arc<Table>, client: &str, request: &[u8]) -> Option<Result<Ticket, ()>> {
        ask_at(table, client, request, Instant::now())
    }

    fn ask_at(table: &Arc<Table>, client: &str, request: &[u8], now: Instant) -> Option<Result<Ticket, ()>> {
        match table.ask(address("10.0.0.1:69"), address(client), request, now) {
            Asked::New(ticket) => Some(Ok(ticket)),
            Asked::Repeated => Some(Err(())),
            Asked::Busy => None,
        }
    }

    #[test]
    fn a_request_again_is_the_same_transfer_until_it_has_begun() {
        let table = Table::new(9, 9);
        let first = ask(&table, "10.0.0.9:1", b"a").unwrap().unwrap();
        assert!(ask(&table, "10.0.0.9:1", b"a").unwrap().is_err());
        first.entry.begun.store(true, Ordering::Relaxed);
        let second = ask(&table, "10.0.0.9:1", b"a").unwrap().unwrap();
        assert!(first.entry.replaced.load(Ordering::Relaxed));
        // The end of the first one does not take the second one's entry away.
        drop(first);
        assert!(ask(&table, "10.0.0.9:1", b"a").unwrap().is_err());
        assert!(ask(&table, "10.0.0.9:1", b"b").unwrap().is_ok());
        assert!(second.entry.replaced.load(Ordering::Relaxed));
        drop(second);
        assert!(table.by_peer().is_empty());
        let now = Instant::now();
        let all: Vec<_> = (1..=9).map(|port| ask_at(&table, &format!("10.0.0.9:{port}"), b"a", now).unwrap()).collect();
        assert!(all.iter().all(Result::is_ok) && ask_at(&table, "10.0.0.9:10", b"a", now).is_none());
    }

    #[test]
    fn whose_client_does_not_answer_gives_way_the_oldest_first() {
        let (table, begun) = (Table::new(3, 2), Instant::now());
        let at = |ms| begun + Duration::from_millis(ms);
        let asks = |client: &str, ms| {
            let ticket = ask_at(&table, client, b"a", at(ms)).map(Result::unwrap)?;
            ticket.entry.answered.set(at(ms)).unwrap();
            Some(ticket)
        };
        let proven = asks("10.0.0.9:1", 0).unwrap();
        proven.entry.begun.store(true, Ordering::Relaxed);
        let second = asks("10.0.0.9:2", 10).unwrap();
        let third = asks("10.0.0.8:1", 5).unwrap();
        let grace = GRACE.as_millis() as u64;
        assert!(asks("10.0.0.7:1", grace + 4).is_none(), "all are let be for a while");
        // The client's own, though another is older.
        let fourth = asks("10.0.0.9:3", grace + 10).unwrap();
        assert!(second.entry.is_displaced() && !third.entry.is_displaced());
        let fifth = asks("10.0.0.7:1", grace + 11).unwrap();
        assert!(third.entry.is_displaced() && !fourth.entry.is_displaced());
        // Those that were displaced have nothing more to give, and nothing to give back.
        drop((second, third));
        assert!(asks("10.0.0.6:1", grace + 12).is_none());
        for ticket in [&fourth, &fifth] {
            ticket.entry.begun.store(true, Ordering::Relaxed);
        }
        assert!(asks("10.0.0.6:1", 10 * grace).is_none(), "who has answered keeps its place");
        drop(proven);
        let sixth = asks("10.0.0.6:1", 10 * grace).unwrap();
        assert!(asks("10.0.0.5:1", 10 * grace).is_none());
        drop((fourth, fifth, sixth));
        assert!(table.by_peer().is_empty());
    }
}
