//! What all clients have done lately, in bounded memory.
//!
//! A client is an address with its trailing bits cut off, as the config says; IPv4 written as IPv6 is IPv4. For each,
//! what passed and what was refused is counted in a ring of [`SLOTS`] slots, each an eleventh of the window long, so that
//! the slots together always reach back at least one whole window: **in no window, wherever it begins, do more messages
//! pass than the limit**. The price is that a message may be remembered for one slot longer than the window.
//!
//! A client is remembered from its first message that counts, about 120 bytes each. At `max_clients` the one that has
//! been quiet longest is forgotten for each new one, and [counted](Clients::forgotten): it begins anew. Clients that
//! have been quiet for a whole window say nothing any more and make room first, which is not counted.
//!
//! With `scope = "farm"` the table is one of many, which tell each other what passed: see [`farm`].
//!
//! The table outlives the [policies](super::Policy) of reloads. [`Clients::reconfigure`] gives it a new shape: with
//! another window or prefix the counts would mean something else, so **it begins empty**; with a smaller `max_clients`
//! those quiet longest are forgotten; a new limit holds for the counts that are there.
//!
//! One lock for all: it is held for a fraction of a microsecond, next to system calls a message of the mail server's,
//! and not taken at all where no client limit holds.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use greypit_pipeline::Result;
use greypit_pipeline::units::Span;

use crate::config::{Client, Scope, problem};

pub mod farm;

use farm::{Changes, Farm, Meaning, Origin, Report, Share};

/// Slots of a ring: one that fills and eleven that make up a window.
const SLOTS: usize = 12;

const WINDOW_MIN: Span = Span::seconds(1);
const WINDOW_MAX: Span = Span::seconds(7 * 86_400);

/// Clients remembered, at most: 1.2 GB.
const CLIENTS_MAX: usize = 10_000_000;

/// No entry.
const NONE: u32 = u32::MAX;

/// Checks `[milter.client]`.
pub(super) fn validate(config: &Client) -> Result<()> {
    let within = |key: &str, text: String| Err(problem(&format!("client.{key}"), text));
    let Client { window, ipv4_prefix, ipv6_prefix, max_clients, limit: _, scope: _ } = config;
    match () {
        () if !(WINDOW_MIN..=WINDOW_MAX).contains(window) => {
            within("window", format!("'{window}' must be from \"{WINDOW_MIN}\" to \"{WINDOW_MAX}\""))
        }
        () if !(1..=32).contains(ipv4_prefix) => {
            within("ipv4_prefix", format!("{ipv4_prefix} must be from 1 to 32; 32 makes each address a client"))
        }
        () if !(1..=128).contains(ipv6_prefix) => {
            within("ipv6_prefix", format!("{ipv6_prefix} must be from 1 to 128; 64 makes each network a client"))
        }
        () if !(1..=CLIENTS_MAX).contains(max_clients) => {
            within("max_clients", format!("{max_clients} must be from 1 to {CLIENTS_MAX}; a client takes 120 bytes"))
        }
        () => Ok(()),
    }
}

/// The table, shared by all connections.
#[derive(Debug)]
pub struct Clients(Mutex<Table>);

impl Default for Clients {
    fn default() -> Clients {
        Clients::new(&Client::default())
    }
}

impl Clients {
    /// An empty table.
    #[must_use]
    pub fn new(config: &Client) -> Clients {
        let farm = (config.scope == Scope::Farm).then(Farm::default);
        Clients(Mutex::new(Table::new(Shape::new(config), farm)))
    }

    /// Takes a new config, but for its `scope`; whether the table was cleared for it, because window or prefixes differ.
    pub fn reconfigure(&self, config: &Client) -> bool {
        let mut table = self.lock();
        let new = Shape::new(config);
        let is_same = Shape { clients_max: table.shape.clients_max, ..new } == table.shape;
        if is_same {
            table.resize(new.clients_max);
        } else {
            let farm = table.farm.take().map(Farm::emptied);
            *table = Table { forgotten: table.forgotten, ..Table::new(new, farm) };
        }
        !is_same
    }

    /// Clients remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().index.len()
    }

    /// The limit of those.
    #[must_use]
    pub fn clients_max(&self) -> usize {
        self.lock().shape.clients_max
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Clients that were forgotten within their window to make room, since the start.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.lock().forgotten
    }

    /// What the counts mean now.
    #[must_use]
    pub fn meaning(&self) -> Meaning {
        self.lock().shape.meaning
    }

    /// The clients, at most `max`, whose counts others are to be told since this was last asked. Those that stay behind
    /// are given the next time. `now` as in [`Policy::decide`](super::Policy::decide).
    #[must_use]
    pub fn take_changes(&self, max: usize, now: Duration) -> Changes {
        self.lock().take_changes(max, now)
    }

    /// Others were not told of this client after all.
    pub fn changed_again(&self, client: Ipv6Addr) {
        self.lock().changed_again(client);
    }

    /// Takes what another origin says of a client, in place of what it said before. False where its counts mean something
    /// else.
    pub fn fold(&self, origin: Origin, client: Ipv6Addr, report: &Report, now: Duration) -> bool {
        self.lock().fold(origin, client, report, now)
    }

    /// What others have let a client pass, as far as it is known here.
    #[must_use]
    pub fn passed_elsewhere(&self, client: Ipv6Addr) -> u64 {
        let table = self.lock();
        let entry = table.index.get(&client).map(|place| &table.entries[*place as usize]);
        entry.and_then(|entry| entry.share.as_ref()).map_or(0, |share| share.passed())
    }

    /// Says whether the others can be heard.
    pub fn set_reached(&self, is_reached: bool) {
        if let Some(farm) = &mut self.lock().farm {
            farm.is_reached = is_reached;
        }
    }

    /// Decisions made while the others could not be heard, since the start.
    #[must_use]
    pub fn decided_alone(&self) -> u64 {
        self.lock().farm.as_ref().map_or(0, |farm| farm.alone)
    }

    /// One more message of a client. Within its limit: 0, and counted as passed if it `may_pass`. Over it: the how-many-th
    /// refusal in the window this is.
    pub(super) fn offer(&self, addr: IpAddr, limit: u32, may_pass: bool, now: Duration) -> u32 {
        self.lock().offer(addr, limit, may_pass, now)
    }

    /// Uncounts the latest refusal, of a message that is decided on anew.
    pub(super) fn take_back(&self, addr: IpAddr) {
        self.lock().take_back(addr);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic cannot leave a count half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the counts mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    meaning: Meaning,
    slot: Duration,
    ipv4_mask: u32,
    ipv6_mask: u128,
    clients_max: usize,
}

impl Shape {
    fn new(config: &Client) -> Shape {
        let slots = SLOTS as u32 - 1;
        // Rounded up, so that eleven are never shorter than the window.
        let slot = config.window.0.saturating_add(Duration::from_nanos(u64::from(slots) - 1)) / slots;
        Shape {
            meaning: Meaning::new(config),
            slot: slot.max(Duration::from_nanos(1)),
            ipv4_mask: u32::MAX.checked_shl(32_u32.saturating_sub(config.ipv4_prefix.into())).unwrap_or(0),
            ipv6_mask: u128::MAX.checked_shl(128_u32.saturating_sub(config.ipv6_prefix.into())).unwrap_or(0),
            clients_max: config.max_clients.clamp(1, CLIENTS_MAX),
        }
    }

    /// The client that an address belongs to. IPv4 keeps its mapped prefix, so that it is no IPv6 network's neighbour.
    fn client(&self, addr: IpAddr) -> Ipv6Addr {
        match addr.to_canonical() {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & self.ipv4_mask).to_ipv6_mapped(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & self.ipv6_mask),
        }
    }

    /// The first is [`SLOTS`], so that there are some before it.
    fn slot(&self, now: Duration) -> u64 {
        (now.as_nanos() / self.slot.as_nanos()) as u64 + SLOTS as u64
    }
}

/// One client, and its neighbours in the order of when they were last heard of.
#[derive(Clone, Debug)]
struct Entry {
    client: Ipv6Addr,
    newer: u32,
    older: u32,
    ring: Ring,
    /// Only in a farm.
    share: Option<Box<Share>>,
}

impl Entry {
    fn advance(&mut self, slot: u64) {
        if let Some(share) = &mut self.share {
            self.ring.too_old(slot).for_each(|at| share.clear(at));
        }
        self.ring.advance(slot);
    }

    fn offer(&mut self, limit: u32, may_pass: bool) -> u32 {
        let elsewhere = self.share.as_ref().map_or(0, |share| share.passed());
        self.ring.offer(limit, may_pass, elsewhere)
    }
}

#[derive(Clone, Debug, Default)]
struct Ring {
    /// The slot that fills: `slot % SLOTS` in the arrays.
    slot: u64,
    passed: [u32; SLOTS],
    refused: [u16; SLOTS],
}

impl Ring {
    /// Clears the slots that are too old. A clock that goes back is taken to stand still.
    fn advance(&mut self, slot: u64) {
        for at in self.too_old(slot) {
            (self.passed[at], self.refused[at]) = (0, 0);
        }
        self.slot = self.slot.max(slot);
    }

    /// Where the slots are that make room when `slot` begins to fill.
    fn too_old(&self, slot: u64) -> impl Iterator<Item = usize> + use<> {
        let steps = slot.saturating_sub(self.slot).min(SLOTS as u64);
        (0..steps).map(move |step| Ring::at(slot - step))
    }

    /// What passed, that of `slot` and what is newer first.
    fn newest_first(&self, slot: u64) -> [u32; SLOTS] {
        let mut passed = [0_u32; SLOTS];
        for at in (0..SLOTS as u64).map(|back| self.slot.saturating_sub(back)) {
            if let Some(passed) = passed.get_mut(slot.saturating_sub(at) as usize) {
                *passed = passed.saturating_add(self.passed[Ring::at(at)]);
            }
        }
        passed
    }

    fn at(slot: u64) -> usize {
        (slot % SLOTS as u64) as usize
    }

    fn is_quiet(&self, slot: u64) -> bool {
        slot.saturating_sub(self.slot) >= SLOTS as u64
    }

    fn offer(&mut self, limit: u32, may_pass: bool, elsewhere: u64) -> u32 {
        let at = Ring::at(self.slot);
        let passed: u64 = self.passed.iter().map(|count| u64::from(*count)).sum();
        if passed + elsewhere < u64::from(limit) {
            self.passed[at] += u32::from(may_pass);
            return 0;
        }
        self.refused[at] = self.refused[at].saturating_add(1);
        self.refused.iter().map(|count| u32::from(*count)).sum()
    }

    fn take_back(&mut self) {
        let at = Ring::at(self.slot);
        let latest = (0..SLOTS).map(|back| (at + SLOTS - back) % SLOTS).find(|at| self.refused[*at] > 0);
        if let Some(latest) = latest {
            self.refused[latest] -= 1;
        }
    }
}

/// An index, the entries, and a list through them. No entry is ever freed before the table is: its place is used again.
#[derive(Debug)]
struct Table {
    shape: Shape,
    index: HashMap<Ipv6Addr, u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    forgotten: u64,
    farm: Option<Farm>,
}

impl Table {
    fn new(shape: Shape, farm: Option<Farm>) -> Table {
        let (index, entries, free) = (HashMap::new(), Vec::new(), Vec::new());
        Table { shape, index, entries, free, newest: NONE, oldest: NONE, forgotten: 0, farm }
    }

    fn offer(&mut self, addr: IpAddr, limit: u32, may_pass: bool, now: Duration) -> u32 {
        let (client, slot) = (self.shape.client(addr), self.shape.slot(now));
        if let Some(farm) = self.farm.as_mut().filter(|farm| !farm.is_reached) {
            farm.alone += 1;
        }
        let place = match self.index.get(&client).copied() {
            Some(place) => {
                self.unlink(place);
                place
            }
            // Within every limit, and nothing to remember.
            None if !may_pass => return 0,
            None => self.add(client, slot),
        };
        self.link_newest(place);
        let entry = &mut self.entries[place as usize];
        entry.advance(slot);
        let strike = entry.offer(limit, may_pass);
        if strike == 0 && may_pass {
            self.changed(place);
        }
        strike
    }

    fn take_back(&mut self, addr: IpAddr) {
        if let Some(place) = self.index.get(&self.shape.client(addr)) {
            self.entries[*place as usize].ring.take_back();
        }
    }

    /// A place for a new client, not yet in the list.
    fn add(&mut self, client: Ipv6Addr, slot: u64) -> u32 {
        // Two for one, so that after a busy hour the table shrinks again.
        for _ in 0..2 {
            if self.oldest != NONE && self.entries[self.oldest as usize].ring.is_quiet(slot) {
                self.forget_oldest();
            }
        }
        if self.index.len() >= self.shape.clients_max {
            self.forget_oldest();
            self.forgotten += 1;
        }
        let ring = Ring { slot, ..Ring::default() };
        let entry = Entry { client, newer: NONE, older: NONE, ring, share: None };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                // At most CLIENTS_MAX.
                (self.entries.len() - 1) as u32
            }
        };
        self.index.insert(client, place);
        place
    }

    fn resize(&mut self, clients_max: usize) {
        self.shape.clients_max = clients_max;
        while self.index.len() > clients_max {
            self.forget_oldest();
            self.forgotten += 1;
        }
    }

    fn forget_oldest(&mut self) {
        let place = self.oldest;
        self.unlink(place);
        self.unshare(place);
        self.index.remove(&self.entries[place as usize].client);
        self.free.push(place);
    }

    fn unlink(&mut self, place: u32) {
        let (newer, older) = {
            let entry = &self.entries[place as usize];
            (entry.newer, entry.older)
        };
        match newer {
            NONE => self.newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let older = std::mem::replace(&mut self.newest, place);
        let entry = &mut self.entries[place as usize];
        (entry.newer, entry.older) = (NONE, older);
        match older {
            NONE => self.oldest = place,
            older => self.entries[older as usize].newer = place,
        }
    }
}

#[cfg(test)]
mod tests;
