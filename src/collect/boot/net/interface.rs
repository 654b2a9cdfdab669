//! This machine's network interfaces: which of those in the config can be served now, and what the others lack.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use greypit_pipeline::{Error, Result};
use ipnet::Ipv4Net;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::collect::boot::mac::Mac;

/// One that can be served: it is there, is up and has an IPv4 address.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// The kernel's number for it.
    pub(crate) index: u32,
    pub(crate) card: Card,
    /// What clients know as the server.
    pub(crate) addr: Ipv4Addr,
    /// The address that it was served with first: where it is back it is the one again, whatever came meanwhile.
    pub(crate) home: Ipv4Addr,
    pub(crate) subnet: Ipv4Net,
}

impl Interface {
    /// `net`: its address, with its network.
    pub(crate) fn new(name: &str, index: u32, mac: Mac, net: Ipv4Net) -> Interface {
        let addr = net.addr();
        Interface { name: name.to_owned(), index, card: Card::new(mac), addr, home: addr, subnet: net.trunc() }
    }

    /// Where everybody on it hears.
    pub(crate) fn broadcast(&self) -> Ipv4Addr {
        self.subnet.broadcast()
    }

    /// Whether sockets of the one are good for the other.
    pub(crate) fn is(&self, other: &Interface) -> bool {
        let key = |one: &Interface| (one.index, one.addr, one.subnet);
        self.name == other.name && key(self) == key(other)
    }
}

/// The address of an interface's card. It may change while the interface stays the same, as a bridge has that of one of
/// its ports: clones see the change.
#[derive(Clone, Debug)]
pub(crate) struct Card(Arc<AtomicU64>);

impl Card {
    pub(crate) fn new(mac: Mac) -> Card {
        Card(Arc::new(AtomicU64::new(number(mac))))
    }

    pub(crate) fn mac(&self) -> Mac {
        let [_, _, mac @ ..] = self.0.load(Ordering::Relaxed).to_be_bytes();
        Mac(mac)
    }

    pub(crate) fn set(&self, mac: Mac) {
        self.0.store(number(mac), Ordering::Relaxed);
    }
}

fn number(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// The interfaces of the config at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    /// Those that can be served, in the config's order.
    pub(crate) present: Vec<Interface>,
    /// What the others lack, in words.
    pub(crate) absent: Vec<String>,
}

impl Look {
    /// Asks the kernel. `served`: how they were found before; of several addresses the one that was served first is the one,
    /// then the one that is served, then the kernel's first.
    ///
    /// # Errors
    /// [`Error::Config`] for `boot.interface`: the kernel does not tell.
    pub(crate) fn now(names: &[String], served: &[Interface]) -> Result<Look> {
        let listed = getifaddrs().map_err(|error| refuse(format!("the interfaces cannot be listed: {error}")))?;
        Ok(Look::at(names, served, &listed.map(Entry::of).collect::<Vec<_>>()))
    }

    fn at(names: &[String], served: &[Interface], entries: &[Entry]) -> Look {
        let mut look = Look::default();
        for name in names {
            match find(name, served.iter().find(|before| before.name == *name), entries) {
                Ok(interface) => look.present.push(interface),
                Err(lack) => look.absent.push(format!("{name}: {lack}")),
            }
        }
        look
    }

    /// Whether one of them is not among those that are served, or is another one than it was.
    pub(crate) fn has_news(&self, served: &[Interface]) -> bool {
        self.present.iter().any(|now| !served.iter().any(|before| before.is(now)))
    }

    /// Whether one of those that are served is not there as it was.
    pub(crate) fn lacks(&self, served: &[Interface]) -> bool {
        served.iter().any(|before| !self.present.iter().any(|now| before.is(now)))
    }

    /// What is waited for, if anything is.
    pub(crate) fn waits_for(&self) -> Option<String> {
        (!self.absent.is_empty()).then(|| format!("waits for {}", self.absent.join("; ")))
    }

    /// Those that are there, for what cannot do without any.
    ///
    /// # Errors
    /// [`Error::Config`] for `boot.interface` where there is none.
    pub(crate) fn some(self) -> Result<Vec<Interface>> {
        if self.present.is_empty() { Err(refuse(self.absent.join("; "))) } else { Ok(self.present) }
    }
}

fn refuse(problem: String) -> Error {
    Error::Config { key: "boot.interface".into(), problem }
}

/// One line of what the kernel tells.
#[derive(Clone, Debug, Default)]
struct Entry {
    name: String,
    is_up: bool,
    link: Option<(u32, Mac)>,
    /// With its network.
    addr: Option<Ipv4Net>,
}

impl Entry {
    fn of(entry: InterfaceAddress) -> Entry {
        let ip = |address: Option<&nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
        let link = entry.address.as_ref().and_then(|address| address.as_link_addr());
        let addr = ip(entry.address.as_ref()).and_then(|addr| {
            let mask = ip(entry.netmask.as_ref()).unwrap_or(Ipv4Addr::BROADCAST);
            Ipv4Net::with_netmask(addr, mask).ok()
        });
        Entry {
            is_up: entry.flags.contains(InterfaceFlags::IFF_UP),
            link: link.map(|link| (link.ifindex() as u32, Mac(link.addr().unwrap_or_default()))),
            addr,
            name: entry.interface_name,
        }
    }
}

/// An interface, or what it lacks.
fn find(name: &str, before: Option<&Interface>, entries: &[Entry]) -> std::result::Result<Interface, String> {
    let own = || entries.iter().filter(|entry| entry.name == name);
    let Some((index, mac)) = own().find_map(|entry| entry.link) else {
        // Without the others' names: these may come and go, and it would be another reason each time.
        return Err("no such interface here; `ip link` lists those that are".to_owned());
    };
    if !own().all(|entry| entry.is_up) {
        return Err(format!("it is down; `ip link set {name} up`"));
    }
    let mut addrs: Vec<_> = own().filter_map(|entry| entry.addr).collect();
    // Stable: in the kernel's order but for those that clients know.
    addrs.sort_by_key(|net| before.map(|before| (net.addr() != before.home, net.addr() != before.addr)));
    let Some(&net) = addrs.first() else {
        return Err(format!("it has no IPv4 address; `ip address add ADDRESS/BITS dev {name}`"));
    };
    let found = Interface::new(name, index, mac, net);
    Ok(Interface { home: before.map_or(found.home, |before| before.home), ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn link(name: &str, index: u32, is_up: bool) -> Entry {
        Entry { name: name.to_owned(), is_up, link: Some((index, MAC)), addr: None }
    }

    fn with(name: &str, net: &str) -> Entry {
        let net: Ipv4Net = net.parse().unwrap();
        Entry { name: name.to_owned(), is_up: true, link: None, addr: Some(net) }
    }

    fn look(served: &[Interface], entries: &[Entry]) -> Look {
        Look::at(&["eth1".to_owned(), "eth2".to_owned()], served, entries)
    }

    fn addrs(look: &Look) -> Vec<String> {
        look.present.iter().map(|interface| format!("{} {}", interface.name, interface.addr)).collect()
    }

    #[test]
    fn those_that_are_there_and_what_the_others_lack() {
        let whole =
            [link("eth1", 2, true), link("eth2", 3, true), with("eth1", "10.1.0.1/24"), with("eth2", "10.2.0.1/16")];
        let all = look(&[], &whole);
        assert_eq!(addrs(&all), ["eth1 10.1.0.1", "eth2 10.2.0.1"]);
        assert_eq!(all.waits_for(), None);
        assert_eq!((all.present[1].index, all.present[1].broadcast()), (3, Ipv4Addr::new(10, 2, 255, 255)));
        assert_eq!(all.present[0].card.mac(), MAC);

        for (entries, lack) in [
            (vec![link("lo", 1, true)], "no such interface here"),
            (vec![link("eth2", 3, false), with("eth1:1", "10.2.0.1/16")], "it is down"),
            (vec![link("eth2", 3, true)], "it has no IPv4 address"),
        ] {
            let one = look(&[], &[&[whole[0].clone(), whole[2].clone()], &entries[..]].concat());
            assert_eq!(addrs(&one), ["eth1 10.1.0.1"]);
            let waits = one.waits_for().unwrap();
            assert!(waits.starts_with("waits for eth2: ") && waits.contains(lack), "{waits}");
            assert!(one.some().is_ok());
        }
        let error = look(&[], &[link("lo", 1, true)]).some().unwrap_err().to_string();
        assert!(
            error.contains("boot.interface") && error.contains("eth1: no such") && error.contains("eth2"),
            "{error}"
        );
    }

    #[test]
    fn what_is_another_one_is_news_and_what_is_gone_is_not() {
        let eth1 = [link("eth1", 2, true), with("eth1", "10.1.0.1/24")];
        let served = look(&[], &eth1).present;
        let news = |entries: &[Entry]| {
            let look = look(&served, entries);
            (look.has_news(&served), look.lacks(&served))
        };
        assert_eq!(news(&eth1), (false, false));
        assert_eq!(news(&[]), (false, true), "gone");
        assert_eq!(news(&[link("eth1", 2, false), eth1[1].clone()]), (false, true), "down");
        assert_eq!(news(&[link("eth1", 7, true), eth1[1].clone()]), (true, true), "made anew");
        assert_eq!(news(&[link("eth1", 2, true), with("eth1", "10.1.0.1/25")]), (true, true), "another network");
        assert_eq!(news(&[link("eth1", 2, true), with("eth1", "10.3.0.1/24")]), (true, true), "another address");
        let both = [&eth1[..], &[link("eth2", 3, true), with("eth2", "10.2.0.1/24")]].concat();
        assert_eq!(news(&both), (true, false), "one more");
    }

    #[test]
    fn of_several_addresses_the_one_that_clients_know_stays() {
        let mut served = Vec::new();
        let mut addr = |nets: &[&str]| {
            let addrs = nets.iter().map(|net| with("eth1", net));
            served = look(&served, &[link("eth1", 2, true)].into_iter().chain(addrs).collect::<Vec<_>>()).present;
            served[0].addr.to_string()
        };
        assert_eq!(addr(&["10.1.0.1/24", "10.2.0.1/24"]), "10.1.0.1");
        assert_eq!(addr(&["10.2.0.1/24", "10.1.0.1/24"]), "10.1.0.1");
        assert_eq!(addr(&["10.2.0.1/24"]), "10.2.0.1");
        assert_eq!(addr(&["10.3.0.1/24", "10.2.0.1/24"]), "10.2.0.1");
        assert_eq!(addr(&["10.3.0.1/24", "10.2.0.1/24", "10.1.0.1/24"]), "10.1.0.1", "it is back");
    }

    #[test]
    fn clones_see_another_card() {
        let other = Mac([2, 0, 0, 0, 0, 9]);
        let card = Card::new(MAC);
        let clone = card.clone();
        card.set(other);
        assert_eq!(clone.mac(), other);
    }

    #[test]
    fn the_kernel_knows_loopback() {
        let names = ["lo".to_owned(), "nowhere0".to_owned()];
        let look = Look::now(&names, &[]).unwrap();
        assert_eq!(addrs(&look), ["lo 127.0.0.1"]);
        assert!(look.absent[0].starts_with("nowhere0: no such interface here"), "{look:?}");
    }
}
