//! The networks that the boot collector serves: those of its interfaces, and those behind relays (`[[boot.network]]`).
//!
//! Everything that answers asks here first: an address that is in none of them gets no answer from any protocol, so
//! greypit is of no use as an amplifier or as an open resolver.

pub(crate) mod network;

use std::net::Ipv4Addr;

use greypit_pipeline::{Error, Result};
use ipnet::Ipv4Net;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::config::Config;
use super::mac::Mac;

pub(crate) use self::network::Network;

/// One of this machine's network interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// The kernel's number for it.
    pub(crate) index: u32,
    pub(crate) mac: Mac,
    /// Its first IPv4 address: what clients know as the server.
    pub(crate) addr: Ipv4Addr,
    pub(crate) subnet: Ipv4Net,
}

impl Interface {
    /// Asks the kernel.
    ///
    /// # Errors
    /// [`Error::Config`] for `boot.interface`: it is not there, or has no IPv4 address.
    pub(crate) fn find(name: &str) -> Result<Interface> {
        let refuse = |problem: String| Error::Config { key: "boot.interface".into(), problem };
        let look = Look::at(name).map_err(|error| refuse(format!("the interfaces cannot be listed: {error}")))?;
        let Some((index, mac)) = look.link else {
            return Err(refuse(format!("there is no interface '{name}' here; there is {}", look.others.join(", "))));
        };
        let Some((addr, mask)) = look.addrs.first() else {
            return Err(refuse(format!("'{name}' has no IPv4 address; give it one, for example `ip addr add …`")));
        };
        let subnet = Ipv4Net::with_netmask(*addr, *mask).map_err(|error| refuse(format!("'{name}': {error}")))?;
        Ok(Interface { name: name.to_owned(), index, mac, addr: *addr, subnet: subnet.trunc() })
    }

    /// How it is now, compared with how it was found.
    pub(crate) fn presence(&self) -> Presence {
        let Ok(look) = Look::at(&self.name) else { return Presence::Gone };
        match look.link {
            None => Presence::Gone,
            _ if !look.is_up => Presence::Down,
            _ if look.addrs.iter().all(|(addr, _)| *addr != self.addr) => Presence::Renumbered,
            Some((index, mac)) if (index, mac) != (self.index, self.mac) => {
                Presence::Another(Interface { index, mac, ..self.clone() })
            }
            Some(_) => Presence::Same,
        }
    }

    /// Where everybody on it hears.
    pub(crate) fn broadcast(&self) -> Ipv4Addr {
        self.subnet.broadcast()
    }
}

/// What has become of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Same,
    /// It was made anew, with the same name and address, or has another card.
    Another(Interface),
    /// It has lost the address that clients know.
    Renumbered,
    Down,
    Gone,
}

/// What the kernel says of an interface.
#[derive(Debug, Default)]
struct Look {
    link: Option<(u32, Mac)>,
    is_up: bool,
    /// With their masks, in the kernel's order.
    addrs: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The names of all others, each once.
    others: Vec<String>,
}

impl Look {
    fn at(name: &str) -> nix::Result<Look> {
        let mut look = Look::default();
        for entry in getifaddrs()? {
            if entry.interface_name != name {
                look.others.push(entry.interface_name);
                continue;
            }
            look.is_up = entry.flags.contains(InterfaceFlags::IFF_UP);
            let Some(address) = entry.address else { continue };
            if let Some(link) = address.as_link_addr() {
                look.link = Some((link.ifindex() as u32, Mac(link.addr().unwrap_or_default())));
            }
            if let Some(addr) = address.as_sockaddr_in() {
                let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in().map(|mask| mask.ip()));
                look.addrs.push((addr.ip(), mask.unwrap_or(Ipv4Addr::BROADCAST)));
            }
        }
        look.others.sort();
        look.others.dedup();
        Ok(look)
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) networks: Vec<Network>,
}

impl Networks {
    /// Puts together what the config says and what the kernel says.
    ///
    /// # Errors
    /// [`Error::Config`] where a pool or a network does not fit.
    pub(crate) fn new(config: &Config, interfaces: Vec<Interface>) -> Result<Networks> {
        let mut networks = Vec::new();
        for (index, interface) in interfaces.iter().enumerate() {
            let pools = config.dhcp.pools()?.into_iter();
            networks.push(Network {
                subnet: interface.subnet,
                server: interface.addr,
                interface: Some(index),
                pools: pools.filter(|(first, _)| interface.subnet.contains(first)).collect(),
                router: config.dhcp.router.iter().filter(|ip| interface.subnet.contains(*ip)).copied().collect(),
                dns: config.dhcp.dns.clone(),
                domain: config.dhcp.domain.clone(),
            });
        }
        let Some(first) = interfaces.first() else { return Ok(Networks::default()) };
        for network in &config.network {
            networks.push(network.network(first.addr)?);
        }
        let networks = Networks { interfaces, networks };
        networks.check(config)?;
        Ok(networks)
    }

    fn check(&self, config: &Config) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::Config { key: key.into(), problem });
        for (i, one) in self.networks.iter().enumerate() {
            let other = self.networks[..i].iter().find(|other| overlap(one.subnet, other.subnet));
            if let Some(other) = other {
                return refuse("boot.network", format!("{} and {} overlap", other.subnet, one.subnet));
            }
        }
        super::dhcp::config::check_pools(&self.networks)?;
        for (first, last) in config.dhcp.pools()? {
            let whole =
                self.of(first).is_some_and(|network| network.interface.is_some() && network.subnet.contains(&last));
            if !whole {
                let subnets: Vec<_> = self.interfaces.iter().map(|interface| interface.subnet.to_string()).collect();
                let problem = format!(
                    "{first}-{last} is not in {}; networks behind a relay have a pool of their own in \
                             [[boot.network]]",
                    subnets.join(" or ")
                );
                return refuse("boot.dhcp.pool", problem);
            }
        }
        Ok(())
    }

    /// The network that an address is of.
    pub(crate) fn of(&self, ip: Ipv4Addr) -> Option<&Network> {
        self.networks.iter().find(|network| network.subnet.contains(&ip))
    }

    /// Whether an address is one of ours.
    pub(crate) fn is_server(&self, ip: Ipv4Addr) -> bool {
        self.interfaces.iter().any(|interface| interface.addr == ip)
    }
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An interface `eth1` with 10.77.0.1/24.
    pub(crate) fn interface() -> Interface {
        Interface {
            name: "eth1".to_owned(),
            index: 2,
            mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
            addr: Ipv4Addr::new(10, 77, 0, 1),
            subnet: "10.77.0.0/24".parse().unwrap(),
        }
    }

    /// The networks of `text`, a `[boot]` section, on that interface.
    pub(crate) fn networks(text: &str) -> Networks {
        Networks::new(&toml::from_str(text).unwrap(), vec![interface()]).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_one_network_or_of_none() {
        let networks = testing::networks(
            "dhcp.pool = [\"10.77.0.100-10.77.0.109\"]\n[[network]]\nsubnet = \"10.9.0.0/16\"\npool = [\"10.9.1.0-10.9.1.9\"]",
        );
        let of = |ip: [u8; 4]| networks.of(ip.into()).map(|network| network.subnet.to_string());
        assert_eq!(of([10, 77, 0, 9]).as_deref(), Some("10.77.0.0/24"));
        assert_eq!(of([10, 9, 200, 9]).as_deref(), Some("10.9.0.0/16"));
        assert_eq!(of([10, 78, 0, 9]), None);
        assert_eq!(networks.networks[0].pools.len(), 1);
        assert_eq!(networks.networks[1].pools.len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        for (text, wanted) in [
            ("dhcp.pool = [\"10.78.0.100-10.78.0.109\"]", "not in 10.77.0.0/24"),
            ("[[network]]\nsubnet = \"10.77.0.128/25\"", "overlap"),
            ("[[network]]\nsubnet = \"10.9.0.0/24\"\npool = [\"10.8.0.1-10.8.0.2\"]", "not in 10.9.0.0/24"),
        ] {
            let config = toml::from_str(text).unwrap();
            let error = Networks::new(&config, vec![testing::interface()]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn the_loopback_interface_is_found_and_others_are_named() {
        let error = Interface::find("nowhere0").unwrap_err().to_string();
        assert!(error.contains("no interface 'nowhere0'") && error.contains("lo"), "{error}");
    }

    #[test]
    fn an_interface_is_the_same_or_it_is_said_what_has_become_of_it() {
        let found = Interface::find("lo").unwrap();
        let now = |change: fn(&mut Interface)| {
            let mut before = found.clone();
            change(&mut before);
            before.presence()
        };
        assert_eq!(now(|_| {}), Presence::Same);
        assert_eq!(now(|before| before.name = "nowhere0".to_owned()), Presence::Gone);
        assert_eq!(now(|before| before.addr = Ipv4Addr::new(192, 0, 2, 1)), Presence::Renumbered);
        assert_eq!(now(|before| before.index = 4711), Presence::Another(found.clone()));
    }
}
