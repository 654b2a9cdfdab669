//! The networks that the boot collector serves: those of its interfaces, and those behind relays (`[[boot.network]]`).
//!
//! Everything that answers asks here first: an address that is in none of them gets no answer from any protocol, so
//! greypit is of no use as an amplifier or as an open resolver.

mod interface;
pub(crate) mod network;

use std::net::Ipv4Addr;

use greypit_pipeline::{Error, Result};
use ipnet::Ipv4Net;

use super::config::Config;

pub(crate) use self::interface::{Interface, Look};
pub(crate) use self::network::Network;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) networks: Vec<Network>,
    /// An interface of the config is not there: nobody knows its networks yet.
    pub(crate) lacks: bool,
}

impl Networks {
    /// Puts together what the config says and what the kernel says. `interfaces`: those of the config that are there. What
    /// belongs to the others is left out: their pools, and networks behind relays, which are the first one's.
    ///
    /// # Errors
    /// [`Error::Config`] where a pool or a network does not fit.
    pub(crate) fn new(config: &Config, interfaces: Vec<Interface>) -> Result<Networks> {
        let lacks = interfaces.len() < config.interface.len();
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
        let Some(first) = interfaces.first() else { return Ok(Networks { lacks, ..Networks::default() }) };
        if config.interface.first().is_none_or(|name| *name == first.name) {
            for network in &config.network {
                networks.push(network.network(first.addr)?);
            }
        }
        let networks = Networks { interfaces, networks, lacks };
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
        if self.lacks {
            // A pool of none of these may be in the network of one that is not there yet.
            return Ok(());
        }
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
    use crate::collect::boot::mac::Mac;

    /// An interface `eth1` with 10.77.0.1/24.
    pub(crate) fn interface() -> Interface {
        Interface::new("eth1", 2, Mac([0x52, 0x54, 0, 0, 0, 1]), "10.77.0.1/24".parse().unwrap())
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
    fn what_belongs_to_an_interface_that_is_not_there_is_left_out() {
        let text = "interface = [\"eth1\", \"eth2\"]\n\
                    dhcp.pool = [\"10.77.0.100-10.77.0.109\", \"10.78.0.100-10.78.0.109\"]\n\
                    [[network]]\nsubnet = \"10.9.0.0/16\"";
        let config: Config = toml::from_str(text).unwrap();
        let subnets = |names: &[(&str, &str)]| {
            let interface = |(name, net): &(&str, &str)| {
                let net: Ipv4Net = net.parse().unwrap();
                Interface::new(name, 2, testing::interface().card.mac(), net)
            };
            let networks = Networks::new(&config, names.iter().map(interface).collect())?;
            Ok(networks.networks.iter().map(|of| format!("{} {}", of.subnet, of.pools.len())).collect::<Vec<_>>())
        };
        let (eth1, eth2) = (("eth1", "10.77.0.1/24"), ("eth2", "10.78.0.1/24"));
        let said = |subnets: Result<Vec<String>>| subnets.unwrap().join(", ");
        assert_eq!(said(subnets(&[eth1, eth2])), "10.77.0.0/24 1, 10.78.0.0/24 1, 10.9.0.0/16 0");
        assert_eq!(said(subnets(&[eth1])), "10.77.0.0/24 1, 10.9.0.0/16 0");
        assert_eq!(said(subnets(&[eth2])), "10.78.0.0/24 1");
        let error = subnets(&[eth1, ("eth2", "10.79.0.1/24")]).unwrap_err().to_string();
        assert!(error.contains("10.78.0.100-10.78.0.109 is not in"), "{error}");
    }
}
