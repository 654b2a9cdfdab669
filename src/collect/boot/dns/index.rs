//! What names there are: those of the machine files, indexed anew when they change, and those of leases.
//!
//! A machine is found by its host name as its file has it, and with and without the domain of its network. Names are
//! compared without case, as text in ASCII without the dot at the end.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::{IpNet, Ipv4Net};

use super::names::Names;
use crate::collect::boot::machines::Machines;
use crate::collect::boot::net::{Network, Networks};

/// The machines' names, of one state of the files.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// What this is made from.
    of: Arc<Machines>,
    /// The machine's address and that of its server.
    by_name: HashMap<String, Vec<(Ipv4Addr, Ipv4Addr)>>,
    by_ip: HashMap<Ipv4Addr, String>,
    /// Names that have names below them and are none themselves.
    above: HashSet<String>,
}

impl Index {
    pub(super) fn new(machines: Arc<Machines>, networks: &Networks) -> Index {
        let mut index = Index::default();
        for (server, machine) in machines.iter() {
            let Some(ip) = machine.ip else { continue };
            let domain = networks.of(ip).map_or("", |network| network.domain.as_str());
            let (bare, full) = both(&machine.hostname, domain);
            for name in [Some(&bare), full.as_ref()].into_iter().flatten() {
                let addresses = index.by_name.entry(name.clone()).or_default();
                addresses.push((ip, server));
                // The files come in no order.
                addresses.sort_unstable();
                index.above.extend(parents(name));
            }
            index.by_ip.insert(ip, full.unwrap_or(bare));
        }
        Index { of: machines, ..index }
    }

    pub(super) fn is_of(&self, machines: &Arc<Machines>) -> bool {
        Arc::ptr_eq(&self.of, machines)
    }
}

/// A host name without and, where there is one, with the domain.
fn both(hostname: &str, domain: &str) -> (String, Option<String>) {
    let (hostname, domain) = (text(hostname), text(domain));
    if domain.is_empty() {
        return (hostname, None);
    }
    match hostname.strip_suffix(&domain).and_then(|rest| rest.strip_suffix('.')) {
        Some(bare) => (bare.to_owned(), Some(hostname)),
        // Of another domain: that is its whole name.
        None if hostname.contains('.') => (hostname, None),
        None => {
            let full = format!("{hostname}.{domain}");
            (hostname, Some(full))
        }
    }
}

fn text(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// `b.c` and `c` of `a.b.c`.
fn parents(name: &str) -> impl Iterator<Item = String> {
    name.match_indices('.').map(|(at, _)| name[at + 1..].to_owned())
}

/// A name as this module compares them.
pub(super) fn key(name: &Name) -> String {
    text(&name.to_ascii())
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Addresses(Vec<Ipv4Addr>),
    /// The name of an address.
    Pointer(String),
    /// There are names below it.
    Above,
    /// The top of one of our zones.
    Apex,
    /// The name of this server in one of our zones.
    Ourselves(Ipv4Addr),
    /// Nobody has it.
    Nobody,
}

/// All that is known at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zones<'a> {
    pub(super) index: &'a Index,
    pub(super) names: &'a Names,
    pub(super) networks: &'a Networks,
    /// The number of a zone, in its SOA.
    pub(super) now_s: i64,
}

impl Zones<'_> {
    /// What `name` stands for, for somebody in the network of `server`.
    pub(super) fn find(&self, name: &Name, server: Option<Ipv4Addr>) -> Found {
        let key = key(name);
        if let Some(found) = self.index.by_name.get(&key) {
            // The nearest first: a machine may have addresses in several of our networks.
            let near = found.iter().filter(|(_, of)| Some(*of) == server);
            let far = found.iter().filter(|(_, of)| Some(*of) != server);
            let mut addresses: Vec<_> = near.chain(far).map(|(ip, _)| *ip).collect();
            addresses.dedup();
            return Found::Addresses(addresses);
        }
        if let Some(ip) = self.leased(&key) {
            return Found::Addresses(vec![ip]);
        }
        match self.reverse(name) {
            Some((range, _)) if range.prefix_len() == 32 => {
                return self.name_of(range.addr()).map_or(Found::Nobody, Found::Pointer);
            }
            Some((range, apex)) => return if range == apex { Found::Apex } else { Found::Above },
            None => {}
        }
        if self.domains().any(|network| text(&network.domain) == key) {
            return Found::Apex;
        }
        let below = key.split_once('.').filter(|(label, _)| *label == super::answer::OWN_LABEL).map(|(_, rest)| rest);
        let ours = |network: &&Network| below.is_some_and(|domain| text(&network.domain) == domain);
        match self.domains().filter(ours).max_by_key(|network| Some(network.server) == server) {
            Some(network) => Found::Ourselves(network.server),
            None if self.index.above.contains(&key) => Found::Above,
            None => Found::Nobody,
        }
    }

    /// The top of the zone of ours that `name` is in.
    pub(super) fn zone(&self, name: &Name) -> Option<String> {
        if let Some((_, apex)) = self.reverse(name) {
            return Some(reverse_name(apex));
        }
        let key = key(name);
        let domains = self.domains().map(|network| text(&network.domain));
        let within = domains.filter(|domain| {
            key.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        within.max_by_key(String::len)
    }

    /// A domain of ours, for the server's own name in zones of addresses.
    pub(super) fn domain(&self) -> Option<String> {
        self.domains().next().map(|network| text(&network.domain))
    }

    fn domains(&self) -> impl Iterator<Item = &Network> {
        self.networks.networks.iter().filter(|network| !network.domain.is_empty())
    }

    fn leased(&self, key: &str) -> Option<Ipv4Addr> {
        let (label, rest) = key.split_once('.').unwrap_or((key, ""));
        let ip = self.names.address(label)?;
        (rest.is_empty() || self.networks.of(ip).is_some_and(|network| text(&network.domain) == rest)).then_some(ip)
    }

    fn name_of(&self, ip: Ipv4Addr) -> Option<String> {
        if let Some(name) = self.index.by_ip.get(&ip) {
            return Some(name.clone());
        }
        let label = self.names.name(ip)?;
        let domain = self.networks.of(ip).map_or("", |network| network.domain.as_str());
        let (bare, full) = both(&label, domain);
        Some(full.unwrap_or(bare))
    }

    /// The addresses that a name below in-addr.arpa is of, if all of them are in one network of ours, and its zone's.
    fn reverse(&self, name: &Name) -> Option<(Ipv4Net, Ipv4Net)> {
        let mut name = name.clone();
        name.set_fqdn(true);
        let Ok(IpNet::V4(range)) = name.parse_arpa_name() else { return None };
        let around = |network: &&Network| range.prefix_len() == 24 && range.contains(&network.subnet);
        let network = self.networks.of(range.addr()).or_else(|| self.networks.networks.iter().find(around))?;
        // Zones end at whole bytes: a /22 is four of them, and a /25 a part of one.
        let bits = network.subnet.prefix_len().next_multiple_of(8).clamp(8, 24);
        if !network.subnet.contains(&range) && !around(&network) {
            return None;
        }
        Some((range, Ipv4Net::new(range.addr(), bits).ok()?.trunc()))
    }
}

/// `77.10.in-addr.arpa` of 10.77.0.0/16.
fn reverse_name(net: Ipv4Net) -> String {
    let bytes = net.addr().octets();
    let labels = bytes[..usize::from(net.prefix_len() / 8)].iter().rev().map(u8::to_string);
    labels.chain(["in-addr.arpa".to_owned()]).collect::<Vec<_>>().join(".")
}
