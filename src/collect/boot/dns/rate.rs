//! Queries a second of one client: a second's worth at once, then the rate. Pure: the time is an argument.
//!
//! Only clients of our own networks come here. Limit: [`CLIENTS_MAX`] of them are remembered; where there are more, those
//! that have been quiet for a second are forgotten, which costs nobody anything, else all.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const CLIENTS_MAX: usize = 16_384;

const SECOND: Duration = Duration::from_secs(1);

/// When each client will have paid for what it asked.
#[derive(Debug)]
pub(super) struct Rate {
    /// What a query costs; `None`: nothing.
    cost: Option<Duration>,
    due: HashMap<Ipv4Addr, Instant>,
}

impl Rate {
    /// 0 is no limit.
    pub(super) fn new(queries_per_second: u32) -> Rate {
        Rate { cost: (queries_per_second > 0).then(|| SECOND / queries_per_second), due: HashMap::new() }
    }

    /// Whether one more query is within the rate; if so it is counted against it.
    pub(super) fn allow(&mut self, client: Ipv4Addr, now: Instant) -> bool {
        let Some(cost) = self.cost else { return true };
        if self.due.len() >= CLIENTS_MAX && !self.due.contains_key(&client) {
            self.due.retain(|_, due| *due > now);
            if self.due.len() >= CLIENTS_MAX {
                self.due.clear();
            }
        }
        let due = self.due.entry(client).or_insert(now);
        let paid = (*due).max(now) + cost;
        let allowed = paid <= now + SECOND;
        if allowed {
            *due = paid;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_at_once_then_the_rate_and_each_client_its_own() {
        let (mut rate, began) = (Rate::new(10), Instant::now());
        let [a, b] = [1, 2].map(|last| Ipv4Addr::new(10, 77, 0, last));
        let passed = |rate: &mut Rate, client, at| (0..100).filter(|_| rate.allow(client, at)).count();
        assert_eq!(passed(&mut rate, a, began), 10);
        assert_eq!(passed(&mut rate, b, began), 10);
        assert_eq!(passed(&mut rate, a, began + SECOND / 2), 5);
        assert_eq!(passed(&mut rate, a, began + 10 * SECOND), 10);
        assert_eq!(passed(&mut Rate::new(0), a, began), 100);
    }

    #[test]
    fn it_remembers_no_more_clients_than_its_limit() {
        let (mut rate, now) = (Rate::new(1), Instant::now());
        for i in 0..2 * CLIENTS_MAX as u32 + 1 {
            assert!(rate.allow(Ipv4Addr::from(i), now));
        }
        assert!(rate.due.len() <= CLIENTS_MAX);
    }
}
