//! Who has which address: offers, leases, addresses that are left alone, and the memory of who had one last.
//!
//! A client is a network card. Option 61 tells clients of one card apart only where it must: firmware, iPXE, the initrd and
//! the operating system of one machine each send another identifier within a minute, and each would take another
//! address of the pool and leave the last one behind. So whoever comes next on a card goes on with the card's address
//! where one of both has no identifier (or one that is the card's address), or where one of both is firmware or iPXE.
//! Two systems with identifiers of their own are two clients (containers that share a card).
//!
//! What ends goes back to its pool, and whoever had it last gets it again as long as nobody else needed it.
//!
//! Pure: the time is an argument, in seconds of lease time ([`super::clock`]). Limits:
//! [`ADDRESSES_PER_CARD_MAX`], [`DECLINES_PER_CARD_MAX`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::leases::{Change, Lease};
use super::outcome::Levels;
use super::pool::Pool;
use crate::collect::boot::mac::Mac;

/// One card has no more addresses at a time.
pub(crate) const ADDRESSES_PER_CARD_MAX: usize = 16;

/// One card's word keeps no more addresses from the others at a time; else a card that declines whatever it gets would
/// leave nothing of a pool.
pub(crate) const DECLINES_PER_CARD_MAX: usize = 4;

/// Who asks for an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    pub(crate) mac: Mac,
    /// Empty where it is the card's address again, or missing.
    pub(crate) id: &'a [u8],
    pub(crate) booting: bool,
    /// The cards of the machine, where files name it: they are one client.
    pub(crate) macs: &'a [Mac],
}

/// Of an address that is left alone on nobody's word that has a limit.
const NOBODY: Mac = Mac([0; 6]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offered,
    Leased,
    /// Somebody else uses it.
    Quarantined,
    /// Over; the address is free, and who had it is remembered.
    Ended,
}

#[derive(Clone, Debug)]
struct Hold {
    state: State,
    mac: Mac,
    id: Box<[u8]>,
    booting: bool,
    until_s: i64,
}

impl Hold {
    fn is_of(&self, client: &Client<'_>) -> bool {
        if client.macs.contains(&self.mac) {
            return true;
        }
        let one_client = *self.id == *client.id || self.id.is_empty() || client.id.is_empty();
        self.mac == client.mac && (one_client || self.booting || client.booting)
    }
}

/// What an address is to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has it, leased or offered.
    Own,
    /// Nobody has it.
    Free,
    /// Another has it, leased or offered.
    Others,
    Quarantined,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Book {
    holds: HashMap<Ipv4Addr, Hold>,
    by_mac: HashMap<Mac, Vec<Ipv4Addr>>,
    /// When what is not [`State::Ended`] ends.
    ends: BTreeSet<(i64, Ipv4Addr)>,
    /// As the networks.
    pools: Vec<Pool>,
    offered: usize,
    leased: usize,
    quarantined: usize,
}

impl Book {
    pub(crate) fn new(pools: Vec<Pool>) -> Book {
        Book {
            holds: HashMap::new(),
            by_mac: HashMap::new(),
            ends: BTreeSet::new(),
            pools,
            offered: 0,
            leased: 0,
            quarantined: 0,
        }
    }

    /// What the log says was so.
    pub(crate) fn restore(&mut self, change: &Change) {
        match change {
            Change::Leased(lease) => self.put(lease.ip, State::Leased, lease.clone()),
            Change::Freed(ip) => self.end(*ip),
            Change::Quarantined(ip, until_s) => self.quarantine(*ip, None, *until_s),
        }
    }

    /// Lets what has ended by then end; gives the addresses whose leases that were.
    pub(crate) fn expire(&mut self, now_s: i64) -> Vec<Ipv4Addr> {
        let mut leased = Vec::new();
        while let Some((_, ip)) = self.ends.first().filter(|(until_s, _)| *until_s <= now_s).copied() {
            if self.holds.get(&ip).is_some_and(|hold| hold.state == State::Leased) {
                leased.push(ip);
            }
            self.end(ip);
        }
        leased
    }

    /// What `ip` is to `client`.
    pub(crate) fn standing(&self, ip: Ipv4Addr, client: &Client<'_>) -> Standing {
        match self.holds.get(&ip) {
            None | Some(Hold { state: State::Ended, .. }) => Standing::Free,
            Some(Hold { state: State::Quarantined, .. }) => Standing::Quarantined,
            Some(hold) if hold.is_of(client) => Standing::Own,
            Some(_) => Standing::Others,
        }
    }

    /// Whether the client has it leased already, and not only offered.
    pub(crate) fn has_leased(&self, ip: Ipv4Addr, client: &Client<'_>) -> bool {
        self.holds.get(&ip).is_some_and(|hold| hold.state == State::Leased && hold.is_of(client))
    }

    pub(crate) fn is_offered(&self, ip: Ipv4Addr) -> bool {
        self.holds.get(&ip).is_some_and(|hold| hold.state == State::Offered)
    }

    /// The card that has it, leased or offered.
    pub(crate) fn holder(&self, ip: Ipv4Addr) -> Option<Mac> {
        let hold = self.holds.get(&ip)?;
        matches!(hold.state, State::Offered | State::Leased).then_some(hold.mac)
    }

    /// The address in a network that a client of no file has or had last.
    pub(crate) fn address_of(&self, client: &Client<'_>, subnet: Ipv4Net, network: usize) -> Option<Ipv4Addr> {
        let all = self.by_mac.get(&client.mac)?.iter().filter(|ip| subnet.contains(*ip));
        let own = all.filter_map(|ip| self.holds.get(ip).map(|hold| (ip, hold)));
        let own = own.filter(|(ip, hold)| hold.is_of(client) && self.pools[network].may_give(**ip));
        // A lease before an offer before a memory; then the one whose identifier is the same.
        let rank = |hold: &Hold| {
            let state = match hold.state {
                State::Leased => 0,
                State::Offered => 1,
                State::Ended => 2,
                State::Quarantined => 3,
            };
            (*hold.id != *client.id, state)
        };
        let own = own.filter(|(_, hold)| hold.state != State::Quarantined);
        own.min_by_key(|(_, hold)| rank(hold)).map(|(ip, _)| *ip)
    }

    /// Whether the card has as many addresses as it may.
    pub(crate) fn is_greedy(&self, mac: Mac) -> bool {
        let list = self.by_mac.get(&mac).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter(|ip| self.holder(**ip).is_some()).count() >= ADDRESSES_PER_CARD_MAX
    }

    /// Whether an address of the pool may be given to whoever no file names.
    pub(crate) fn may_give(&self, network: usize, ip: Ipv4Addr) -> bool {
        self.pools[network].may_give(ip)
    }

    /// The address of the pool whose turn it is; it is not free any more.
    pub(crate) fn take(&mut self, network: usize) -> Option<Ipv4Addr> {
        self.pools[network].take()
    }

    pub(crate) fn has_pool(&self, network: usize) -> bool {
        self.pools[network].len() > 0
    }

    /// Keeps an address for a client until it asks for it; a lease stays a lease.
    pub(crate) fn offer(&mut self, ip: Ipv4Addr, client: &Client<'_>, until_s: i64) {
        if !self.has_leased(ip, client) {
            self.put(ip, State::Offered, lease(ip, client, until_s));
        }
    }

    /// Gives an address to a client.
    pub(crate) fn lease(&mut self, ip: Ipv4Addr, client: &Client<'_>, until_s: i64) -> Change {
        let lease = lease(ip, client, until_s);
        self.put(ip, State::Leased, lease.clone());
        Change::Leased(lease)
    }

    /// The client has taken another server's offer.
    pub(crate) fn withdraw(&mut self, client: &Client<'_>) {
        let list = self.by_mac.get(&client.mac).map(Vec::as_slice).unwrap_or_default();
        let is_offer = |ip: &&Ipv4Addr| self.holds.get(ip).is_some_and(|hold| hold.state == State::Offered);
        let offers: Vec<_> = list.iter().filter(is_offer).copied().collect();
        offers.into_iter().for_each(|ip| self.end(ip));
    }

    /// Ends what is there; the address goes back to its pool.
    pub(crate) fn end(&mut self, ip: Ipv4Addr) {
        let Some(hold) = self.holds.get_mut(&ip).filter(|hold| hold.state != State::Ended) else { return };
        self.ends.remove(&(hold.until_s, ip));
        let was = std::mem::replace(&mut hold.state, State::Ended);
        *self.level(was) -= 1;
        let pool = self.pools.iter_mut().find(|pool| pool.contains(ip));
        let remembered = pool.is_some() && was != State::Quarantined;
        if let Some(pool) = pool {
            pool.give_back(ip);
        }
        if !remembered {
            self.forget(ip);
        }
    }

    /// Nobody gets it until then. `by`: the card that has declined it.
    pub(crate) fn quarantine(&mut self, ip: Ipv4Addr, by: Option<Mac>, until_s: i64) {
        let mac = by.unwrap_or(NOBODY);
        self.put(ip, State::Quarantined, Lease { ip, mac, id: Box::default(), booting: false, until_s });
    }

    /// Whether as many addresses are left alone as may be on this card's word.
    pub(crate) fn declines_too_many(&self, mac: Mac) -> bool {
        let list = self.by_mac.get(&mac).map(Vec::as_slice).unwrap_or_default();
        let is_declined = |ip: &&Ipv4Addr| self.holds.get(ip).is_some_and(|hold| hold.state == State::Quarantined);
        list.iter().filter(is_declined).count() >= DECLINES_PER_CARD_MAX
    }

    /// Ends what is there, and who had it does not get it again before its turn.
    pub(crate) fn give_up(&mut self, ip: Ipv4Addr) {
        self.end(ip);
        self.forget(ip);
    }

    /// Says which addresses of the pools are never given out.
    pub(crate) fn bar(&mut self, barred: &[Ipv4Addr]) {
        for pool in &mut self.pools {
            pool.bar(barred.iter().copied());
        }
    }

    pub(crate) fn levels(&self) -> Levels {
        Levels {
            pools: self.pools.iter().map(Pool::len).sum(),
            free: self.pools.iter().map(Pool::free).sum(),
            offered: self.offered,
            leased: self.leased,
            quarantined: self.quarantined,
        }
    }

    /// Puts an address in a state; whatever was with it is over.
    fn put(&mut self, ip: Ipv4Addr, state: State, lease: Lease) {
        let same = self.holds.get(&ip).is_some_and(|hold| hold.mac == lease.mac);
        if !same {
            self.forget(ip);
            if lease.mac != NOBODY {
                self.remember(lease.mac, ip);
            }
        }
        let hold = Hold { state, mac: lease.mac, id: lease.id, booting: lease.booting, until_s: lease.until_s };
        if let Some(was) = self.holds.insert(ip, hold).filter(|was| was.state != State::Ended) {
            self.ends.remove(&(was.until_s, ip));
            *self.level(was.state) -= 1;
        }
        self.ends.insert((lease.until_s, ip));
        *self.level(state) += 1;
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.contains(ip)) {
            pool.take_this(ip);
        }
    }

    /// Adds an address to a card's; what it had once is forgotten first where there are too many.
    fn remember(&mut self, mac: Mac, ip: Ipv4Addr) {
        let list = self.by_mac.entry(mac).or_default();
        if list.len() >= ADDRESSES_PER_CARD_MAX {
            let is_over = |ip: &Ipv4Addr| self.holds.get(ip).is_none_or(|hold| hold.state == State::Ended);
            if let Some(over) = list.iter().position(is_over) {
                self.holds.remove(&list.swap_remove(over));
            }
        }
        list.push(ip);
    }

    /// Forgets who has or had it.
    fn forget(&mut self, ip: Ipv4Addr) {
        let Some(hold) = self.holds.remove(&ip) else { return };
        if hold.state != State::Ended {
            self.ends.remove(&(hold.until_s, ip));
            *self.level(hold.state) -= 1;
        }
        if let Entry::Occupied(mut list) = self.by_mac.entry(hold.mac) {
            list.get_mut().retain(|other| *other != ip);
            if list.get().is_empty() {
                list.remove();
            }
        }
    }

    fn level(&mut self, state: State) -> &mut usize {
        match state {
            State::Offered => &mut self.offered,
            State::Leased => &mut self.leased,
            State::Quarantined | State::Ended => &mut self.quarantined,
        }
    }
}

fn lease(ip: Ipv4Addr, client: &Client<'_>, until_s: i64) -> Lease {
    Lease { ip, mac: client.mac, id: client.id.into(), booting: client.booting, until_s }
}
