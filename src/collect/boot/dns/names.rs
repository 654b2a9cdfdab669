//! The host names of leases: what clients that no machine file names call themselves (DHCP option 12).
//!
//! A client may call itself anything, so: one label of RFC 1123 (letters, digits, hyphens inside; [`LABEL_BYTES_MAX`]
//! bytes), of a longer name the first one; none of [`NEVER`], which programs look up to be told what to do; and a name
//! belongs to the address that had it first, until DHCP says that the lease has ended: within a second. The
//! names of machine files go before all of these. After a restart a lease has its name again once its client asks to go on
//! with it.
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
    by_ip: HashMap<Ipv4Addr, Arc<str>>,
}

impl Names {
    /// Says that `ip` is leased to a client that calls itself `host`.
    pub(crate) fn lease(&self, ip: Ipv4Addr, host: Option<&[u8]>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let name = host.and_then(label);
        let holder = name.as_ref().and_then(|name| table.by_name.get(name.as_str()).copied());
        if holder == Some(ip) {
            return;
        }
        table.forget(ip);
        if let Some(name) = name.filter(|_| holder.is_none() && table.by_ip.len() < NAMES_MAX) {
            let name: Arc<str> = name.into();
            table.by_name.insert(name.clone(), ip);
            table.by_ip.insert(ip, name);
        }
    }

    /// Says that nobody has `ip` any more: released, declined, or the lease has ended.
    pub(crate) fn released(&self, ip: Ipv4Addr) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).forget(ip);
    }

    /// Forgets all but the names of these addresses.
    pub(crate) fn retain(&self, is_leased: impl Fn(Ipv4Addr) -> bool) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<_> = table.by_ip.keys().filter(|ip| !is_leased(**ip)).copied().collect();
        over.into_iter().for_each(|ip| table.forget(ip));
    }

    /// The address of a label, in lower case.
    pub(crate) fn address(&self, label: &str) -> Option<Ipv4Addr> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).by_name.get(label).copied()
    }

    /// The label of an address.
    pub(super) fn name(&self, ip: Ipv4Addr) -> Option<Arc<str>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).by_ip.get(&ip).cloned()
    }
}

impl Table {
    fn forget(&mut self, ip: Ipv4Addr) {
        if let Some(name) = self.by_ip.remove(&ip) {
            self.by_name.remove(&name);
        }
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
        names.lease(A, Some(b"Laptop.example.com"));
        names.lease(B, Some(b"laptop"));
        assert_eq!((names.address("laptop"), names.name(B)), (Some(A), None));
        assert_eq!(names.name(A).as_deref(), Some("laptop"));
        names.lease(A, Some(b"laptop"));
        assert_eq!(names.address("laptop"), Some(A));
        names.released(A);
        assert_eq!((names.address("laptop"), names.name(A)), (None, None));
        names.lease(B, Some(b"laptop"));
        assert_eq!(names.address("laptop"), Some(B));
        names.retain(|ip| ip == B);
        assert_eq!(names.address("laptop"), Some(B));
        names.retain(|_| false);
        assert_eq!((names.address("laptop"), names.name(B)), (None, None));
        names.lease(B, Some(b"laptop"));
        names.lease(A, Some(b"other"));
        // Another's name, so it has none.
        names.lease(A, Some(b"laptop"));
        assert_eq!((names.address("other"), names.name(A)), (None, None));
        names.lease(B, None);
        assert_eq!(names.address("laptop"), None);
        let table = names.table.read().unwrap();
        assert!(table.by_ip.is_empty() && table.by_name.is_empty());
    }

    #[test]
    fn there_are_no_more_names_than_the_limit() {
        let names = Names::default();
        let lease = |i: u32| names.lease(Ipv4Addr::from(i), Some(format!("n{i}").as_bytes()));
        (0..=NAMES_MAX as u32).for_each(lease);
        assert_eq!(names.address(&format!("n{NAMES_MAX}")), None);
        // Who has one may change it.
        names.lease(Ipv4Addr::from(1), Some(b"other"));
        assert!(names.address("other").is_some());
        names.released(Ipv4Addr::from(0));
        lease(NAMES_MAX as u32);
        assert!(names.address(&format!("n{NAMES_MAX}")).is_some());
        let table = names.table.read().unwrap();
        assert_eq!((table.by_ip.len(), table.by_name.len()), (NAMES_MAX, NAMES_MAX));
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
