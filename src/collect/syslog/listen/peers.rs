//! What one address may take: connections at once, and messages a second.
//!
//! Connections are counted a peer in a table that is no larger than the connections there are. Rates need memory of who
//! was here: a number a peer, at most [`PEERS_MAX`] of them. Whoever invents more addresses than that makes the oldest be
//! forgotten, which is counted; being forgotten means another second's worth of messages, nothing worse.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Addresses whose rate is remembered.
pub(super) const PEERS_MAX: usize = 65_536;

/// A second in the unit of the rate table.
const SECOND: u64 = 1_000_000_000;

/// All peers of the section.
#[derive(Debug)]
pub(super) struct Peers {
    connections_max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
    rate: Option<Rate>,
}

impl Peers {
    /// 0 is no limit, for both.
    pub(super) fn new(connections_max: usize, rate: u64) -> Arc<Peers> {
        Arc::new(Peers {
            connections_max,
            open: Mutex::default(),
            rate: (rate > 0).then(|| Rate {
                message: (SECOND / rate).max(1),
                began: Instant::now(),
                table: Mutex::default(),
            }),
        })
    }

    /// A place for one more connection of `peer`, if it may have one.
    pub(super) fn connect(self: &Arc<Peers>, peer: IpAddr) -> Option<Place> {
        let mut open = lock(&self.open);
        let count = open.entry(peer).or_default();
        if self.connections_max > 0 && *count >= self.connections_max {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), peer })
    }

    /// Whether one more message of `peer` is within its rate; if so it is counted against it.
    pub(super) fn allow(&self, peer: IpAddr, forgotten: &prometheus::IntCounter) -> bool {
        let Some(rate) = &self.rate else { return true };
        let now = rate.now();
        lock(&rate.table).with(peer, now, forgotten, |due| {
            let allowed = *due < now + SECOND;
            if allowed {
                *due = (*due).max(now) + rate.message;
            }
            allowed
        })
    }

    /// Counts `messages` of `peer`, which came already, and says how long to read no more of it.
    pub(super) fn charge(&self, peer: IpAddr, messages: u64, forgotten: &prometheus::IntCounter) -> Option<Duration> {
        let rate = self.rate.as_ref()?;
        let now = rate.now();
        let over = lock(&rate.table).with(peer, now, forgotten, |due| {
            *due = (*due).max(now).saturating_add(messages.saturating_mul(rate.message));
            due.saturating_sub(now + SECOND)
        });
        (over > 0).then(|| Duration::from_nanos(over))
    }
}

/// The place of one connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.peers.open);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
        if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
    }
}

#[derive(Debug)]
struct Rate {
    /// What a message takes of a second.
    message: u64,
    began: Instant,
    table: Mutex<Table>,
}

impl Rate {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

/// When each peer will have paid for what it sent. Two halves: when the young one is full, the old one is forgotten.
#[derive(Debug, Default)]
struct Table {
    young: HashMap<IpAddr, u64>,
    old: HashMap<IpAddr, u64>,
}

impl Table {
    fn with<T>(
        &mut self,
        peer: IpAddr,
        now: u64,
        forgotten: &prometheus::IntCounter,
        work: impl FnOnce(&mut u64) -> T,
    ) -> T {
        if let Some(due) = self.young.get_mut(&peer) {
            return work(due);
        }
        if self.young.len() >= PEERS_MAX / 2 {
            // Those who have paid lose nothing.
            forgotten.inc_by(self.old.values().filter(|due| **due > now).count() as u64);
            self.old = std::mem::take(&mut self.young);
        }
        let due = self.old.remove(&peer).unwrap_or(now);
        work(self.young.entry(peer).or_insert(due))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn counter() -> prometheus::IntCounter {
        prometheus::IntCounter::new("forgotten", "of a test").unwrap()
    }

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn a_peer_has_its_places_and_its_neighbour_others() {
        let peers = Peers::new(2, 0);
        let (first, _second) = (peers.connect(A).unwrap(), peers.connect(A).unwrap());
        assert!(peers.connect(A).is_none());
        assert!(peers.connect(B).is_some());
        drop(first);
        assert!(peers.connect(A).is_some());
        assert_eq!(lock(&peers.open).len(), 1, "nobody is remembered who is gone");
    }

    #[test]
    fn a_second_of_messages_passes_at_once_and_then_no_more_than_the_rate() {
        let (peers, forgotten) = (Peers::new(0, 100), counter());
        let began = Instant::now();
        let passed = (0..10_000).filter(|_| peers.allow(A, &forgotten)).count() as u128;
        let most = 101 + began.elapsed().as_millis() / 10;
        assert!((100..=most).contains(&passed), "{passed} of at most {most}");
        assert!(peers.allow(B, &forgotten));
        assert!(Peers::new(0, 0).allow(A, &forgotten));
    }

    #[test]
    fn what_came_already_is_waited_for() {
        let (peers, forgotten) = (Peers::new(0, 10), counter());
        let began = Instant::now();
        assert_eq!(peers.charge(A, 10, &forgotten), None);
        let wait = peers.charge(A, 20, &forgotten).unwrap();
        // Less what has passed meanwhile, which may be long on a busy machine.
        let passed = began.elapsed() + Duration::from_millis(1);
        let most = Duration::from_secs(2);
        assert!((most.saturating_sub(passed)..=most).contains(&wait), "{wait:?}");
    }

    #[test]
    fn the_table_is_bounded_and_says_what_it_forgot() {
        let (peers, forgotten) = (Peers::new(0, 1), counter());
        for i in 0..3 * PEERS_MAX as u32 {
            let peer = IpAddr::V4(Ipv4Addr::from(i));
            while peers.allow(peer, &forgotten) {}
        }
        let table = lock(&peers.rate.as_ref().unwrap().table);
        assert!(table.young.len() + table.old.len() <= PEERS_MAX);
        assert!(forgotten.get() > 0);
    }
}
