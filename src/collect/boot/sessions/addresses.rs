//! Which card has which address. Two halves: when the young one is full, the old one is forgotten.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::collect::boot::mac::Mac;

/// In both halves.
pub(super) const ADDRESSES_MAX: usize = 131_072;

#[derive(Debug, Default)]
pub(super) struct Addresses {
    young: HashMap<Ipv4Addr, Mac>,
    old: HashMap<Ipv4Addr, Mac>,
}

impl Addresses {
    pub(super) fn get(&self, ip: Ipv4Addr) -> Option<Mac> {
        self.young.get(&ip).or_else(|| self.old.get(&ip)).copied()
    }

    /// Gives the card that it was of before, and how many others were forgotten.
    pub(super) fn set(&mut self, ip: Ipv4Addr, mac: Mac) -> (Option<Mac>, u64) {
        if let Some(known) = self.young.get_mut(&ip) {
            return (Some(std::mem::replace(known, mac)), 0);
        }
        let before = self.old.remove(&ip);
        let mut forgotten = 0;
        if self.young.len() >= ADDRESSES_MAX / 2 {
            forgotten = self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(ip, mac);
        (before, forgotten)
    }

    /// Nobody has it any more; gives the card that it was of.
    pub(super) fn remove(&mut self, ip: Ipv4Addr) -> Option<Mac> {
        let old = self.old.remove(&ip);
        self.young.remove(&ip).or(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_those_said_last_are_known() {
        let mut addresses = Addresses::default();
        let mac = |i: u32| Mac([2, 0, (i >> 24) as u8, (i >> 16) as u8, (i >> 8) as u8, i as u8]);
        let mut forgotten = 0;
        let all = 3 * ADDRESSES_MAX as u32;
        for i in 0..all {
            forgotten += addresses.set(Ipv4Addr::from(i), mac(i)).1;
            // One that is said again and again stays.
            addresses.set(Ipv4Addr::from(0), mac(0));
        }
        let known = addresses.young.len() + addresses.old.len();
        assert!(known <= ADDRESSES_MAX, "{known}");
        assert_eq!(known as u64 + forgotten, u64::from(all), "what is forgotten is counted");
        assert_eq!(addresses.get(Ipv4Addr::from(0)), Some(mac(0)));
        assert_eq!(addresses.get(Ipv4Addr::from(all - 1)), Some(mac(all - 1)));
        assert_eq!(addresses.get(Ipv4Addr::from(1)), None);
        assert_eq!(addresses.set(Ipv4Addr::from(all - 1), mac(7)), (Some(mac(all - 1)), 0));
        let one_of_old = *addresses.old.keys().next().unwrap();
        assert!(addresses.remove(one_of_old).is_some() && addresses.get(one_of_old).is_none());
        assert_eq!((addresses.remove(Ipv4Addr::from(0)), addresses.get(Ipv4Addr::from(0))), (Some(mac(0)), None));
    }
}
