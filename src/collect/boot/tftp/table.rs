//! Which transfers go on, told apart by the client's address and port.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::collect::boot::places::{Place, Places};

/// What a transfer and the listener know of each other.
#[derive(Debug)]
pub(super) struct Entry {
    request: Vec<u8>,
    /// The client has answered: the same request again would be another transfer.
    pub(super) begun: AtomicBool,
    /// Another transfer has its client's port.
    pub(super) replaced: AtomicBool,
}

impl Entry {
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

    /// A place for a request, if it is a new one and there is one.
    pub(super) fn ask(self: &Arc<Table>, ours: SocketAddrV4, client: SocketAddrV4, request: &[u8]) -> Asked {
        let mut by_peer = self.by_peer();
        let key = (ours, client);
        if let Some(entry) = by_peer.get(&key) {
            if entry.is_repeated_by(request) {
                return Asked::Repeated;
            }
            entry.replaced.store(true, Ordering::Relaxed);
            by_peer.remove(&key);
        }
        let Ok(place) = self.places.take(*client.ip()) else { return Asked::Busy };
        let (begun, replaced) = (AtomicBool::new(false), AtomicBool::new(false));
        let entry = Arc::new(Entry { request: request.to_vec(), begun, replaced });
        by_peer.insert(key, entry.clone());
        Asked::New(Ticket { table: self.clone(), key, entry, _place: place })
    }
}

/// What a transfer has of the table; given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    table: Arc<Table>,
    key: Key,
    pub(super) entry: Arc<Entry>,
    _place: Place,
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
        match table.ask(address("10.0.0.1:69"), address(client), request) {
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
        let all: Vec<_> = (1..=9).map(|port| ask(&table, &format!("10.0.0.9:{port}"), b"a").unwrap()).collect();
        assert!(all.iter().all(Result::is_ok) && ask(&table, "10.0.0.9:10", b"a").is_none());
    }
}
