//! One table of many: what nodes of a farm tell each other of their clients.
//!
//! Each node publishes its own counts of what passed, client by client, and takes those of the others; a client is over
//! its limit by the sum. No node decides for another, and none waits for one: what has not arrived yet is not counted.
//! So **in no window do more messages pass than the limit, and what the other nodes let pass within the time that their
//! counts take to arrive**.
//!
//! What is told is the whole ring of a client, newest slot first, with how long ago that slot began: no clock is
//! compared. It takes the place of what the same [`Origin`] said of that client before, so it may be said twice. A count
//! is put into the slot in which the youngest message of its own slot may have passed; it may be remembered for two
//! slots longer than the window, and never for less than the window.
//!
//! An origin is one life of a node with one [`Meaning`] of its counts. Of a node that was started again the counts of its
//! former life stay as another origin's, nobody adds to them, and they go with the window.
//!
//! Refusals stay with the node that refused: they only make delays grow, and a sender who waits at one node does not
//! wait at another one the less.
//!
//! Clients that only others have seen count for `max_clients` too. Of one client the table keeps a ring (64 bytes) for
//! each origin that has let it pass, of all clients together at most [`PARTS_PER_CLIENT`] times `max_clients`; beyond it
//! those quiet longest are forgotten.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::{Entry, NONE, Ring, SLOTS, Shape, Table};
use crate::config::Client;

/// Rings of other origins, at most, for each of `max_clients`.
pub const PARTS_PER_CLIENT: usize = 4;

/// Clients that are let go in one [`Clients::take_changes`](super::Clients::take_changes), at most.
const SWEEP_MAX: usize = 1000;

/// Clients that are looked at in one [`Clients::take_changes`](super::Clients::take_changes), at most, to find those
/// that have changed.
const SCAN_MAX: usize = 20_000;

/// One life of one node, as the caller numbers them. Numbers are not used again.
pub type Origin = u32;

/// What passed in the slots of a ring, the one that fills first.
pub type Passed = [u32; SLOTS];

/// What decides what counts mean: nodes in which it differs cannot add them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// The window.
    pub window: Duration,
    /// Leading bits of IPv4 addresses that make a client.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
}

impl Meaning {
    pub(super) fn new(config: &Client) -> Meaning {
        let Client { window, ipv4_prefix, ipv6_prefix, .. } = config;
        Meaning { window: window.0, ipv4_prefix: *ipv4_prefix, ipv6_prefix: *ipv6_prefix }
    }

    /// A client as people write it: `192.0.2.0/24`, `2001:db8::/64`.
    #[must_use]
    pub fn write(&self, client: Ipv6Addr) -> String {
        match client.to_canonical() {
            IpAddr::V4(v4) => format!("{v4}/{}", self.ipv4_prefix),
            IpAddr::V6(v6) => format!("{v6}/{}", self.ipv6_prefix),
        }
    }

    /// The client that is written so, where it is one of this meaning.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<Ipv6Addr> {
        let (addr, prefix) = text.split_once('/')?;
        let (client, bits) = match addr.parse().ok()? {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), self.ipv4_prefix),
            IpAddr::V6(v6) => (v6, self.ipv6_prefix),
        };
        (prefix.parse() == Ok(bits) && self.write(client) == text && self.is_client(client)).then_some(client)
    }

    fn is_client(&self, client: Ipv6Addr) -> bool {
        let cut = |addr: u128, host_bits: u32| u128::MAX.checked_shl(host_bits).unwrap_or(0) & addr;
        match client.to_canonical() {
            IpAddr::V4(v4) => {
                let v4 = u128::from(u32::from(v4));
                cut(v4, 32_u32.saturating_sub(self.ipv4_prefix.into())) == v4
            }
            IpAddr::V6(v6) => {
                let v6 = u128::from(v6);
                cut(v6, 128_u32.saturating_sub(self.ipv6_prefix.into())) == v6
            }
        }
    }
}

/// What others are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// What the counts mean.
    pub meaning: Meaning,
    /// How long ago the slot that fills began.
    pub age: Duration,
    /// The clients whose counts have changed. All 0: it has been quiet for a whole window.
    pub clients: Vec<(Ipv6Addr, Passed)>,
}

/// What another node has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the counts mean there.
    pub meaning: Meaning,
    /// How long ago the slot that filled there had begun when this was said.
    pub age: Duration,
    /// How long ago this was said.
    pub elapsed: Duration,
    /// What passed there.
    pub passed: Passed,
}

/// What the table keeps where it is one of many.
#[derive(Debug, Default)]
pub(super) struct Farm {
    /// Whether the others can be heard.
    pub(super) is_reached: bool,
    /// Decisions made while they could not.
    pub(super) alone: u64,
    /// Places of clients that have changed, each once; others may be among them, of clients forgotten since.
    changed: Vec<u32>,
    /// There may be more from this place on, which only their own flag says.
    unlisted: Option<usize>,
    /// Rings of other origins, over all clients.
    parts: usize,
}

impl Farm {
    /// For a table that begins empty.
    pub(super) fn emptied(self) -> Farm {
        Farm { changed: Vec::new(), unlisted: None, parts: 0, ..self }
    }
}

/// What an entry keeps where its table is one of many.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    /// What passed at the others: the sum of `parts`, in slots as those of the own ring.
    passed: [u32; SLOTS],
    parts: Vec<Part>,
    /// The own counts have changed since they were taken.
    is_changed: bool,
    /// The others were told of it.
    is_published: bool,
}

/// What passed at one other origin.
#[derive(Clone, Debug)]
struct Part {
    origin: Origin,
    /// The newest slot that may hold anything.
    slot: u64,
    passed: [u32; SLOTS],
}

impl Part {
    /// By the slots of this table. None where all of it is too old.
    fn new(origin: Origin, report: &Report, shape: &Shape, now: Duration, oldest: u64) -> Option<Part> {
        let newest = shape.slot_before(now, report.elapsed)?;
        let mut part = Part { origin, slot: newest, passed: [0; SLOTS] };
        // All slots before the one that filled end where that one began, or whole slots earlier.
        let before = shape.slot_before(now, report.elapsed.saturating_add(report.age));
        for (back, passed) in report.passed.iter().enumerate().filter(|(_, passed)| **passed > 0) {
            let slot = match back {
                0 => Some(newest),
                back => before.and_then(|before| before.checked_sub(back as u64 - 1)),
            };
            if let Some(slot) = slot.filter(|slot| *slot >= oldest) {
                let at = Ring::at(slot);
                part.passed[at] = part.passed[at].saturating_add(*passed);
            }
        }
        part.passed.iter().any(|passed| *passed > 0).then_some(part)
    }
}

/// The oldest slot that counts while `slot` fills.
fn oldest(slot: u64) -> u64 {
    (slot + 1).saturating_sub(SLOTS as u64)
}

impl Share {
    /// What the others have let pass.
    pub(super) fn passed(&self) -> u64 {
        self.passed.iter().map(|passed| u64::from(*passed)).sum()
    }

    pub(super) fn clear(&mut self, at: usize) {
        self.passed[at] = 0;
    }

    /// Takes what an origin says in place of what it said before. Gives by how many rings there are more.
    fn set(&mut self, origin: Origin, part: Option<Part>, slot: u64) -> isize {
        let before = self.parts.len();
        self.parts.retain(|part| part.origin != origin && part.slot >= oldest(slot));
        if let Some(part) = part {
            self.parts.reserve_exact(1);
            self.parts.push(part);
        }
        self.passed = [0; SLOTS];
        for part in &self.parts {
            let kept = oldest(slot).max(oldest(part.slot))..=part.slot;
            for at in kept.map(Ring::at) {
                self.passed[at] = self.passed[at].saturating_add(part.passed[at]);
            }
        }
        self.parts.len() as isize - before as isize
    }
}

impl Shape {
    /// The slot of a moment before now; none where that is more than a ring before the first moment.
    fn slot_before(&self, now: Duration, before: Duration) -> Option<u64> {
        let moment = now.as_nanos().checked_add(self.slot.as_nanos() * SLOTS as u128)?;
        Some((moment.checked_sub(before.as_nanos())? / self.slot.as_nanos()) as u64)
    }
}

impl Entry {
    fn share(&mut self) -> &mut Share {
        self.share.get_or_insert_default()
    }
}

impl Table {
    /// A message has passed.
    pub(super) fn changed(&mut self, place: u32) {
        let Some(farm) = &mut self.farm else { return };
        let share = self.entries[place as usize].share();
        if std::mem::replace(&mut share.is_changed, true) {
            return;
        }
        // Where nobody takes them, forgotten clients make this longer and longer.
        if farm.changed.len() < self.entries.len() {
            farm.changed.push(place);
        } else {
            farm.unlisted = Some(0);
        }
    }

    /// Marks a client's counts to be taken again.
    pub(super) fn changed_again(&mut self, client: Ipv6Addr) {
        if let Some(place) = self.index.get(&client).copied() {
            self.changed(place);
        }
    }

    /// An entry goes.
    pub(super) fn unshare(&mut self, place: u32) {
        let share = self.entries[place as usize].share.take();
        if let (Some(share), Some(farm)) = (share, &mut self.farm) {
            farm.parts = farm.parts.saturating_sub(share.parts.len());
        }
    }

    pub(super) fn take_changes(&mut self, max: usize, now: Duration) -> Changes {
        let slot = self.shape.slot(now);
        let begun = self.shape.slot.as_nanos() * u128::from(slot - SLOTS as u64);
        let age = now.saturating_sub(Duration::from_nanos_u128(begun));
        self.list_changed();
        let mut clients = self.take_quiet(max, slot);
        while clients.len() < max
            && let Some(place) = self.farm.as_mut().and_then(|farm| farm.changed.pop())
        {
            let entry = &mut self.entries[place as usize];
            let share = entry.share();
            if !std::mem::take(&mut share.is_changed) {
                continue;
            }
            share.is_published = true;
            entry.advance(slot);
            clients.push((entry.client, entry.ring.newest_first(slot)));
        }
        Changes { meaning: self.shape.meaning, age, clients }
    }

    /// Finds clients that have changed and had no room in the list, some at a time.
    fn list_changed(&mut self) {
        let Some(farm) = &mut self.farm else { return };
        let Some(from) = farm.unlisted.filter(|_| farm.changed.is_empty()) else { return };
        let is_changed = |entry: &Entry| entry.share.as_ref().is_some_and(|share| share.is_changed);
        let end = self.entries.len().min(from + SCAN_MAX);
        // A place is less than CLIENTS_MAX.
        farm.changed.extend((from..end).filter(|place| is_changed(&self.entries[*place])).map(|place| place as u32));
        farm.unlisted = (end < self.entries.len()).then_some(end);
    }

    /// Lets clients go that have been quiet for a whole window, and gives those that others were told of.
    fn take_quiet(&mut self, max: usize, slot: u64) -> Vec<(Ipv6Addr, Passed)> {
        let mut told = Vec::new();
        for _ in 0..SWEEP_MAX {
            let is_quiet = self.oldest != NONE && self.entries[self.oldest as usize].ring.is_quiet(slot);
            if !is_quiet || told.len() >= max {
                break;
            }
            let oldest = &self.entries[self.oldest as usize];
            if oldest.share.as_ref().is_some_and(|share| share.is_published) {
                told.push((oldest.client, [0; SLOTS]));
            }
            self.forget_oldest();
        }
        told
    }

    /// Takes what an origin says of a client; whether it could.
    pub(super) fn fold(&mut self, origin: Origin, client: Ipv6Addr, report: &Report, now: Duration) -> bool {
        if self.farm.is_none() || self.shape.meaning != report.meaning {
            return false;
        }
        let slot = self.shape.slot(now);
        let part = Part::new(origin, report, &self.shape, now, oldest(slot));
        let place = match (self.index.get(&client).copied(), &part) {
            (Some(place), _) => {
                self.unlink(place);
                place
            }
            (None, Some(_)) => self.add(client, slot),
            (None, None) => return true,
        };
        self.link_newest(place);
        let entry = &mut self.entries[place as usize];
        entry.advance(slot);
        let slot = entry.ring.slot;
        let more = entry.share().set(origin, part, slot);
        if let Some(farm) = &mut self.farm {
            farm.parts = farm.parts.saturating_add_signed(more);
        }
        self.make_room_for_parts(place);
        true
    }

    fn make_room_for_parts(&mut self, but: u32) {
        let parts_max = self.shape.clients_max.saturating_mul(PARTS_PER_CLIENT);
        while self.farm.as_ref().is_some_and(|farm| farm.parts > parts_max) && self.oldest != but {
            self.forget_oldest();
            self.forgotten += 1;
        }
    }
}

#[cfg(test)]
mod tests;
