//! The addresses of one network that nobody has, in the order in which they are given out: those that were never given
//! first, then those that ended first. Taking one, a certain one, and giving one back each cost the same whatever the
//! pool's size.
//!
//! Limit: all pools together have at most [`ADDRESSES_MAX`] addresses.

use std::net::Ipv4Addr;

/// Of all pools together.
pub(crate) const ADDRESSES_MAX: usize = 65_536;

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Range {
    first: u32,
    last: u32,
    /// The slot of the first.
    base: u32,
}

/// A free slot's neighbours; a ring would need no ends, but this is easier to read.
#[derive(Clone, Copy, Debug)]
struct Slot {
    before: u32,
    after: u32,
    taken: bool,
    /// Never given out: somebody's by the files, or ours.
    barred: bool,
}

/// One network's.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    ranges: Vec<Range>,
    slots: Vec<Slot>,
    head: u32,
    tail: u32,
    free: usize,
}

impl Pool {
    /// Of inclusive ranges; what is in two of them counts once.
    pub(crate) fn new(ranges: &[(Ipv4Addr, Ipv4Addr)]) -> Pool {
        let mut sorted: Vec<(u32, u32)> = ranges.iter().map(|(a, b)| (u32::from(*a), u32::from(*b))).collect();
        sorted.sort_unstable();
        let mut pool = Pool { ranges: Vec::new(), slots: Vec::new(), head: NONE, tail: NONE, free: 0 };
        let mut next = 0_u64;
        for (first, last) in sorted {
            let from = u64::from(first).max(next);
            let room = (ADDRESSES_MAX - pool.slots.len()) as u64;
            let count = (u64::from(last) + 1).saturating_sub(from).min(room);
            if count == 0 {
                continue;
            }
            pool.ranges.push(Range {
                first: from as u32,
                last: (from + count - 1) as u32,
                base: pool.slots.len() as u32,
            });
            let slot = Slot { before: NONE, after: NONE, taken: false, barred: false };
            pool.slots.resize(pool.slots.len() + count as usize, slot);
            next = from + count;
        }
        (0..pool.slots.len() as u32).for_each(|slot| pool.push(slot));
        pool
    }

    fn slot(&self, ip: Ipv4Addr) -> Option<u32> {
        let ip = u32::from(ip);
        let range = self.ranges.iter().find(|range| (range.first..=range.last).contains(&ip))?;
        Some(range.base + (ip - range.first))
    }

    fn address(&self, slot: u32) -> Ipv4Addr {
        let at = self.ranges.partition_point(|range| range.base <= slot) - 1;
        (self.ranges[at].first + (slot - self.ranges[at].base)).into()
    }

    pub(crate) fn contains(&self, ip: Ipv4Addr) -> bool {
        self.slot(ip).is_some()
    }

    /// Whether it may be given to whoever no file names.
    pub(crate) fn may_give(&self, ip: Ipv4Addr) -> bool {
        self.slot(ip).is_some_and(|slot| !self.slots[slot as usize].barred)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn free(&self) -> usize {
        self.free
    }

    /// Takes the one whose turn it is.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let slot = self.head;
        if slot == NONE {
            return None;
        }
        self.unlink(slot);
        self.slots[slot as usize].taken = true;
        Some(self.address(slot))
    }

    /// Takes this one, if it is of this pool; who may have it is decided elsewhere.
    pub(crate) fn take_this(&mut self, ip: Ipv4Addr) {
        let Some(slot) = self.slot(ip) else { return };
        if self.is_linked(slot) {
            self.unlink(slot);
        }
        self.slots[slot as usize].taken = true;
    }

    /// Nobody has it any more: its turn comes after all that are free now.
    pub(crate) fn give_back(&mut self, ip: Ipv4Addr) {
        let Some(slot) = self.slot(ip) else { return };
        let was_linked = self.is_linked(slot);
        self.slots[slot as usize].taken = false;
        if !was_linked && self.is_linked(slot) {
            self.push(slot);
        }
    }

    /// Says which addresses are never given out, instead of those that were said before.
    pub(crate) fn bar(&mut self, barred: impl Iterator<Item = Ipv4Addr>) {
        let mut now = vec![false; self.slots.len()];
        for slot in barred.filter_map(|ip| self.slot(ip)) {
            now[slot as usize] = true;
        }
        for (slot, barred) in (0..).zip(now) {
            let was_linked = self.is_linked(slot);
            self.slots[slot as usize].barred = barred;
            match (was_linked, self.is_linked(slot)) {
                (true, false) => self.unlink(slot),
                (false, true) => self.push(slot),
                _ => {}
            }
        }
    }

    /// Whether it is in the list of those that are free.
    fn is_linked(&self, slot: u32) -> bool {
        let slot = self.slots[slot as usize];
        !slot.taken && !slot.barred
    }

    fn push(&mut self, slot: u32) {
        let before = self.tail;
        self.slots[slot as usize].before = before;
        self.slots[slot as usize].after = NONE;
        match before {
            NONE => self.head = slot,
            before => self.slots[before as usize].after = slot,
        }
        self.tail = slot;
        self.free += 1;
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { before, after, .. } = self.slots[slot as usize];
        match before {
            NONE => self.head = after,
            before => self.slots[before as usize].after = after,
        }
        match after {
            NONE => self.tail = before,
            after => self.slots[after as usize].before = before,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn new_ones_first_and_then_those_that_ended_first() {
        let mut pool = Pool::new(&[(ip(10), ip(11)), (ip(1), ip(2)), (ip(2), ip(3))]);
        assert_eq!((pool.len(), pool.free()), (5, 5));
        let all: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(all, [ip(1), ip(2), ip(3), ip(10), ip(11)]);
        pool.give_back(ip(3));
        pool.give_back(ip(1));
        pool.give_back(ip(3));
        pool.give_back(ip(200));
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some(ip(3)), Some(ip(1)), None));
    }

    #[test]
    fn more_than_the_limit_is_cut() {
        let pool = Pool::new(&[(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)]);
        assert_eq!(pool.len(), ADDRESSES_MAX);
        assert!(pool.contains(Ipv4Addr::new(0, 0, 255, 255)) && !pool.contains(Ipv4Addr::new(0, 1, 0, 0)));
    }

    proptest! {
        /// Beside a list that searches.
        #[test]
        fn it_does_what_a_simple_list_does(steps in proptest::collection::vec((0..4_u8, 1..9_u8), 0..200)) {
            let mut pool = Pool::new(&[(ip(1), ip(3)), (ip(5), ip(7))]);
            let mut free: VecDeque<_> = [1, 2, 3, 5, 6, 7].map(ip).into();
            let (mut taken, mut barred) = (BTreeSet::new(), BTreeSet::new());
            for (step, n) in steps {
                let known = pool.contains(ip(n));
                match step {
                    0 => {
                        let one = free.pop_front();
                        taken.extend(one);
                        prop_assert_eq!(pool.take(), one);
                    }
                    1 => {
                        pool.take_this(ip(n));
                        free.retain(|other| *other != ip(n));
                        taken.extend(known.then_some(ip(n)));
                    }
                    2 => {
                        pool.give_back(ip(n));
                        if taken.remove(&ip(n)) && !barred.contains(&ip(n)) {
                            free.push_back(ip(n));
                        }
                    }
                    _ => {
                        let now: BTreeSet<_> = [ip(n)].into();
                        pool.bar(now.iter().copied());
                        for last in 1..9 {
                            let one = ip(last);
                            let was = barred.contains(&one);
                            if !was && now.contains(&one) {
                                free.retain(|other| *other != one);
                            } else if was && !now.contains(&one) && !taken.contains(&one) && pool.contains(one) {
                                free.push_back(one);
                            }
                        }
                        barred = now;
                    }
                }
                prop_assert_eq!(pool.free(), free.len());
            }
            let rest: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
            prop_assert_eq!(rest, Vec::from(free));
        }
    }
}
