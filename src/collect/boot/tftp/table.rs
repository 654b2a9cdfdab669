//! Which transfers go on, told apart by the client's address and port, and how many places are left.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    transfers_max: usize,
    per_client_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By our address and the client's.
    by_peer: HashMap<(SocketAddrV4, SocketAddrV4), Arc<Entry>>,
    by_client: HashMap<Ipv4Addr, usize>,
    transfers: usize,
}

/// What the table says of a request.
#[derive(Debug)]
pub(super) enum Asked {
    New(Place),
    Repeated,
    Busy,
}

impl Table {
    pub(super) fn new(transfers_max: usize, per_client_max: usize) -> Arc<Table> {
        Arc::new(Table { transfers_max, per_client_max, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a request, if it is a new one and there is one.
    pub(super) fn ask(self: &Arc<Table>, ours: SocketAddrV4, client: SocketAddrV4, request: &[u8]) -> Asked {
        let mut state = self.state();
        let key = (ours, client);
        if let Some(entry) = state.by_peer.get(&key) {
            if entry.is_repeated_by(request) {
                return Asked::Repeated;
            }
            entry.replaced.store(true, Ordering::Relaxed);
            state.by_peer.remove(&key);
        }
        let of_client = state.by_client.get(client.ip()).copied().unwrap_or_default();
        if state.transfers >= self.transfers_max || of_client >= self.per_client_max {
            return Asked::Busy;
        }
        let entry = Arc::new(Entry {
            request: request.to_vec(),
            begun: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
        });
        state.by_peer.insert(key, entry.clone());
        state.by_client.insert(*client.ip(), of_client + 1);
        state.transfers += 1;
        Asked::New(Place { table: self.clone(), key, entry })
    }

    pub(super) fn transfers(&self) -> usize {
        self.state().transfers
    }
}

/// The place of one transfer, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Table>,
    key: (SocketAddrV4, SocketAddrV4),
    pub(super) entry: Arc<Entry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.table.state();
        if state.by_peer.get(&self.key).is_some_and(|entry| Arc::ptr_eq(entry, &self.entry)) {
            state.by_peer.remove(&self.key);
        }
        state.transfers -= 1;
        let client = *self.key.1.ip();
        if let Some(count) = state.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                state.by_client.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn ask(table: &Arc<Table>, client: &str, request: &[u8]) -> Option<Result<Place, ()>> {
        match table.ask(address("10.0.0.1:69"), address(client), request) {
            Asked::New(place) => Some(Ok(place)),
            Asked::Repeated => Some(Err(())),
            Asked::Busy => None,
        }
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let table = Table::new(3, 2);
        let first = ask(&table, "10.0.0.9:1", b"a").unwrap().unwrap();
        let _second = ask(&table, "10.0.0.9:2", b"a").unwrap().unwrap();
        assert!(ask(&table, "10.0.0.9:3", b"a").is_none());
        let _third = ask(&table, "10.0.0.8:1", b"a").unwrap().unwrap();
        assert!(ask(&table, "10.0.0.7:1", b"a").is_none());
        drop(first);
        assert!(ask(&table, "10.0.0.7:1", b"a").unwrap().is_ok());
        assert_eq!(table.transfers(), 2);
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
        assert_eq!((table.transfers(), table.state().by_client.len()), (0, 0));
    }
}
