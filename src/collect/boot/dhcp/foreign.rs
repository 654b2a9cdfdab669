//! Other DHCP servers on a network that this one serves: who they are, each said once while it is there.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::super::mac::Mac;

/// How long one that says nothing more is still spoken of.
const LASTS: Duration = Duration::from_secs(600);

/// Those that are kept in mind; more than that is an attack, and those that are known say enough.
const SERVERS_MAX: usize = 32;

/// Those seen lately.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    seen: HashMap<Ipv4Addr, (Option<Mac>, Instant)>,
}

impl Foreign {
    /// Notes one; true where it is new. `mac`: the card it was heard from, where it was heard itself.
    pub(super) fn note(&mut self, server: Ipv4Addr, mac: Option<Mac>, now: Instant) -> bool {
        if let Some((known, last)) = self.seen.get_mut(&server) {
            *last = now;
            *known = mac.or(*known);
            return false;
        }
        let fits = self.seen.len() < SERVERS_MAX;
        if fits {
            self.seen.insert(server, (mac, now));
        }
        fits
    }

    /// Lets go of those that were not heard for long.
    pub(super) fn forget(&mut self, now: Instant) {
        self.seen.retain(|_, (_, last)| now.duration_since(*last) < LASTS);
    }

    /// Who is there, for a person; `None` where nobody is.
    pub(super) fn said(&self) -> Option<String> {
        let mut servers: Vec<_> = self.seen.iter().map(|(ip, (mac, _))| (*ip, *mac)).collect();
        servers.sort();
        let named = servers.into_iter().map(|(ip, mac)| match mac {
            Some(mac) => format!("{ip} ({mac})"),
            None => ip.to_string(),
        });
        let named = named.collect::<Vec<_>>().join(", ");
        (!named.is_empty()).then(|| format!("another DHCP server answers here: {named}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_new_once_and_named_until_it_is_silent_for_long() {
        let (mut foreign, now) = (Foreign::default(), Instant::now());
        let (one, other) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 8));
        assert_eq!(foreign.said(), None);
        assert!(foreign.note(one, None, now));
        assert!(!foreign.note(one, Some(Mac([2, 0, 0, 0, 0, 9])), now));
        assert!(!foreign.note(one, None, now + LASTS / 2));
        assert!(foreign.note(other, None, now));
        assert_eq!(
            foreign.said().as_deref(),
            Some("another DHCP server answers here: 10.0.0.8, 10.0.0.9 (02:00:00:00:00:09)")
        );
        foreign.forget(now + LASTS);
        assert_eq!(foreign.said().as_deref(), Some("another DHCP server answers here: 10.0.0.9 (02:00:00:00:00:09)"));
    }

    #[test]
    fn a_flood_of_names_is_cut() {
        let (mut foreign, now) = (Foreign::default(), Instant::now());
        let noted = (0..1000).filter(|n| foreign.note(Ipv4Addr::from_bits(*n), None, now)).count();
        assert_eq!(noted, SERVERS_MAX);
    }
}
