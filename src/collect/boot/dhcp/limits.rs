//! How many messages one card may send: what is beyond is dropped, neither answered nor recorded, and counted.
//!
//! Counted by the second. Limit: at most [`CARDS_MAX`] cards a second; those beyond it are dropped too.

use std::collections::HashMap;

use crate::collect::boot::mac::Mac;

/// Whose messages are counted at a time.
pub(crate) const CARDS_MAX: usize = 65_536;

/// The counters of this second.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Messages a second; 0 is no limit.
    rate: u32,
    second: i64,
    cards: HashMap<Mac, u32>,
}

impl Limits {
    /// `rate`: `boot.dhcp.max_rate_per_client`.
    pub(crate) fn new(rate: u32) -> Limits {
        Limits { rate, second: 0, cards: HashMap::new() }
    }

    /// Whether this message of a card is within its limit.
    pub(crate) fn allow(&mut self, mac: Mac, now_s: i64) -> bool {
        if self.rate == 0 {
            return true;
        }
        if self.second != now_s {
            self.second = now_s;
            self.cards.clear();
        }
        if self.cards.len() >= CARDS_MAX && !self.cards.contains_key(&mac) {
            return false;
        }
        let count = self.cards.entry(mac).or_default();
        *count = count.saturating_add(1);
        *count <= self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[test]
    fn each_card_has_its_own_limit_and_all_have_one() {
        let mut limits = Limits::new(2);
        assert_eq!([1, 1, 1, 2].map(|n| limits.allow(mac(n), 7)), [true, true, false, true]);
        assert!(limits.allow(mac(1), 8), "another second");
        let within = (0..CARDS_MAX as u32 + 10).filter(|n| limits.allow(mac(*n), 9)).count();
        assert_eq!(within, CARDS_MAX);
        assert!(limits.allow(mac(0), 9) && !limits.allow(mac(0), 9), "who is counted goes on to be");
        let mut none = Limits::new(0);
        assert!((0..100).all(|_| none.allow(mac(1), 1)));
    }
}
