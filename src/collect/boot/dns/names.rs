//! The host names of leases: what clients that no machine file names call themselves (DHCP option 12).
//!
//! A client may call itself anything, so: one label of RFC 1123 (letters, digits, hyphens inside; [`LABEL_BYTES_MAX`]
//! bytes), of a longer name the first one; none of [`NEVER`], which programs look up to be told what to do; and a name
//! belongs to the address that had it first, until that lease ends. The names of machine files go before all of these.
//! After a restart a lease has its name again once its client asks to go on with it.
//!
//! Limit: [`NAMES_MAX`] names; beyond it a lease has no name.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

/// Of one label, RFC 1035 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// As many as pools may have addresses.
const NAMES_MAX: usize = 65_536;

/// Whoever has one of these speaks for the network: proxy settings, tunnels, this machine itself, the zones' own server.
const NEVER: [&str; 4] = ["wpad", "isatap", "localhost", super::answer::OWN_LABEL];

/// A handle on all of them. Cheap to clone; DHCP writes, DNS reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    table: Arc<RwLock<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Arc<str>, Ipv4Addr>,
    /// With the end of the lease, in seconds of the epoch.
    by_ip: HashMap<Ipv4Addr, (Arc<str>, i64)>,
}

impl Names {
    /// Says that `ip` is leased until `until`, to a client that calls itself `host`.
    pub(crate) fn lease(&self, ip: Ipv4Addr, host: Option<&[u8]>, until_s: i64, now_s: i64) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = host.and_then(label) else { return table.forget(ip) };
        match table.by_name.get(name.as_str()).copied() {
            Some(holder) if holder == ip => {}
            Some(holder) if table.is_on(holder, now_s) => return table.forget(ip),
            holder => {
                table.forget(ip);
                holder.into_iter().for_each(|holder| table.forget(holder));
            }
        }
        if table.by_ip.len() >= NAMES_MAX && !table.by_ip.contains_key(&ip) {
            table.forget_ended(now_s);
        }
        if table.by_ip.len() < NAMES_MAX || table.by_ip.contains_key(&ip) {
            let name: Arc<str> = name.into();
            table.by_name.insert(name.clone(), ip);
            table.by_ip.insert(ip, (name, until_s));
        }
    }

    /// Says that nobody has `ip` any more: released or declined.
    pub(crate) fn released(&self, ip: Ipv4Addr) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).forget(ip);
    }

    /// The address of a label, in lower case.
    pub(crate) fn address(&self, label: &str, now_s: i64) -> Option<Ipv4Addr> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_name.get(label).copied().filter(|ip| table.is_on(*ip, now_s))
    }

    /// The label of an address.
    pub(super) fn name(&self, ip: Ipv4Addr, now_s: i64) -> Option<Arc<str>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_ip.get(&ip).filter(|(_, until_s)| now_s < *until_s).map(|(name, _)| name.clone())
    }
}

impl Table {
    fn is_on(&self, ip: Ipv4Addr, now_s: i64) -> bool {
        self.by_ip.get(&ip).is_some_and(|(_, until_s)| now_s < *until_s)
    }

    fn forget(&mut self, ip: Ipv4Addr) {
        if let Some((name, _)) = self.by_ip.remove(&ip) {
            self.by_name.remove(&name);
        }
    }

    fn forget_ended(&mut self, now_s: i64) {
        self.by_ip.retain(|_, (_, until_s)| now_s < *until_s);
        let by_ip = &self.by_ip;
        self.by_name.retain(|_, ip| by_ip.contains_key(ip));
    }
}

/// The first label of a host name, in lower case, if it is one.
fn label(host: &[u8]) -> Option<String> {
    // Some clients send the NUL too that ends it in their memory.
    let host = host.strip_suffix(&[0]).unwrap_or(host);
    let first = host.split(|byte| *byte == b'.').next()?;
    let fits = (1..=LABEL_BYTES_MAX).contains(&first.len())
        && first.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        && !first.starts_with(b"-")
        && !first.ends_with(b"-");
    let name = std::str::from_utf8(first).ok().filter(|_| fits)?.to_ascii_lowercase();
    (!NEVER.contains(&name.as_str())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
    const B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 101);

    #[test]
    fn a_name_is_of_who_had_it_first_until_its_lease_ends() {
        let names = Names::default();
        names.lease(A, Some(b"Laptop.example.com"), 100, 0);
        names.lease(B, Some(b"laptop"), 100, 0);
        assert_eq!((names.address("laptop", 0), names.name(B, 0)), (Some(A), None));
        assert_eq!(names.name(A, 99).as_deref(), Some("laptop"));
        names.lease(A, Some(b"laptop"), 200, 50);
        assert_eq!(names.address("laptop", 150), Some(A));
        names.released(A);
        assert_eq!((names.address("laptop", 60), names.name(A, 60)), (None, None));
        names.lease(B, Some(b"laptop"), 100, 60);
        assert_eq!(names.address("laptop", 60), Some(B));
        // Its lease has ended by itself.
        assert_eq!((names.address("laptop", 100), names.name(B, 100)), (None, None));
        names.lease(A, Some(b"laptop"), 200, 100);
        assert_eq!((names.address("laptop", 100), names.name(B, 100)), (Some(A), None));
        names.lease(A, Some(b"other"), 200, 100);
        assert_eq!((names.address("laptop", 100), names.address("other", 100)), (None, Some(A)));
        names.lease(A, None, 200, 100);
        assert_eq!(names.address("other", 100), None);
    }

    #[test]
    fn there_are_no_more_names_than_the_limit() {
        let names = Names::default();
        let lease = |i: u32, until_s, now_s| {
            names.lease(Ipv4Addr::from(i), Some(format!("n{i}").as_bytes()), until_s, now_s);
        };
        (0..=NAMES_MAX as u32).for_each(|i| lease(i, 100 + i64::from(i % 2), 0));
        assert_eq!(names.address(&format!("n{NAMES_MAX}"), 0), None);
        // Half of them have ended by now.
        lease(NAMES_MAX as u32, 200, 100);
        assert!(names.address(&format!("n{NAMES_MAX}"), 100).is_some());
        let table = names.table.read().unwrap();
        assert_eq!((table.by_ip.len(), table.by_name.len()), (NAMES_MAX / 2 + 1, NAMES_MAX / 2 + 1));
    }

    #[test]
    fn what_is_no_host_name_is_none() {
        let long = [b'a'; 64];
        for host in [&b""[..], b".", b"-a", b"a-", b"a_b", b"a b", b"\xff", b"WPAD", b"localhost.", b"ns", &long] {
            assert_eq!(label(host), None, "{host:?}");
        }
        for (host, name) in
            [(&b"a\0"[..], "a"), (b"PC-1.corp.test", "pc-1"), (b"7", "7"), (&long[..63], &"a".repeat(63))]
        {
            assert_eq!(label(host).as_deref(), Some(name));
        }
    }
}
