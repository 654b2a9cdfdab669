//! `[boot.dhcp]` and `[[boot.network]]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use greypit_pipeline::units::Span;
use greypit_pipeline::{Error, Result};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::class;
use super::pool::ADDRESSES_MAX;
use crate::collect::boot::net::network::{Network, range};

/// `[boot.dhcp]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Ranges on the interfaces' networks for machines that no file names; none: only those that are known get an address.
    pub pool: Vec<String>,
    /// Option 3.
    pub router: Vec<Ipv4Addr>,
    /// Option 6; empty: this server where it answers DNS.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15, and the domain of the machines' names.
    pub domain: String,
    /// How long a lease is where the client asks for nothing else, and at most.
    pub lease: Span,
    /// How long an address is left alone that is in use by somebody else.
    pub decline: Span,
    /// Messages a second that one card may send; what is beyond is dropped and counted. 0 is no limit.
    pub max_rate_per_client: u32,
    /// Whether to look at packets too that a switch or bridge passes on to others.
    pub promiscuous: bool,
    /// The boot file below boot.root for each architecture (option 93).
    pub loader: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Config {
        let loader = [("bios", "undionly.kpxe"), ("uefi_x64", "snponly.efi"), ("uefi_arm64", "snponly-arm64.efi")];
        Config {
            pool: Vec::new(),
            router: Vec::new(),
            dns: Vec::new(),
            domain: String::new(),
            lease: Span::seconds(3600),
            decline: Span::seconds(600),
            max_rate_per_client: 20,
            promiscuous: false,
            loader: loader.into_iter().map(|(arch, file)| (arch.to_owned(), file.to_owned())).collect(),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::Config { key: format!("boot.dhcp.{key}"), problem });
        self.pools()?;
        if self.lease.0 < Duration::from_secs(60) || self.lease.0 > Duration::from_secs(30 * 86_400) {
            return refuse("lease", format!("{} must be from 1m to 30d", self.lease));
        }
        if self.decline.0 > Duration::from_secs(86_400) {
            return refuse("decline", format!("{} must be at most 1d", self.decline));
        }
        if let Some(arch) = self.loader.keys().find(|arch| !class::arch_names().any(|name| name == *arch)) {
            let names: Vec<_> = class::arch_names().collect();
            return refuse("loader", format!("there is no architecture '{arch}'; there is {}", names.join(", ")));
        }
        Ok(())
    }

    /// The ranges of `pool`.
    pub(crate) fn pools(&self) -> Result<Vec<(Ipv4Addr, Ipv4Addr)>> {
        self.pool.iter().map(|text| range("boot.dhcp.pool", text)).collect()
    }
}

/// `[[boot.network]]`: one behind a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relayed {
    /// Its addresses; a relay's own address (giaddr) is one of them.
    pub subnet: Ipv4Net,
    /// As `boot.dhcp.pool`.
    #[serde(default)]
    pub pool: Vec<String>,
    /// Option 3.
    #[serde(default)]
    pub router: Vec<Ipv4Addr>,
    /// Option 6.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// Option 15.
    #[serde(default)]
    pub domain: String,
}

impl Relayed {
    pub(crate) fn validate(&self) -> Result<()> {
        self.network(Ipv4Addr::UNSPECIFIED).map(drop)
    }

    /// What the config says, for a server with this address.
    pub(crate) fn network(&self, server: Ipv4Addr) -> Result<Network> {
        let key = "boot.network";
        let pools = self.pool.iter().map(|text| range(key, text)).collect::<Result<Vec<_>>>()?;
        let outside = pools.iter().find(|(first, last)| !self.subnet.contains(first) || !self.subnet.contains(last));
        if let Some((first, last)) = outside {
            let problem = format!("{first}-{last} is not in {}", self.subnet);
            return Err(Error::Config { key: key.into(), problem });
        }
        Ok(Network {
            subnet: self.subnet.trunc(),
            server,
            interface: None,
            pools,
            router: self.router.clone(),
            dns: self.dns.clone(),
            domain: self.domain.clone(),
        })
    }
}

/// Refuses pools that have too many addresses together.
///
/// # Errors
/// [`Error::Config`] for `boot.dhcp.pool`.
pub(crate) fn check_pools(networks: &[Network]) -> Result<()> {
    let size = |(first, last): &(Ipv4Addr, Ipv4Addr)| u64::from(u32::from(*last).saturating_sub(u32::from(*first))) + 1;
    let all: u64 = networks.iter().flat_map(|network| &network.pools).map(size).sum();
    if all > ADDRESSES_MAX as u64 {
        let problem = format!("the pools have {all} addresses; {ADDRESSES_MAX} is the most");
        return Err(Error::Config { key: "boot.dhcp.pool".into(), problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_refused_by_their_key() {
        let parse = |text: &str| toml::from_str::<Config>(text).unwrap().validate().unwrap_err().to_string();
        let error = parse("loader = { uefi = \"a.efi\" }");
        assert!(error.contains("boot.dhcp.loader") && error.contains("uefi_x64"), "{error}");
        assert!(parse("decline = \"2d\"").contains("boot.dhcp.decline"));
        assert!(Config::default().validate().is_ok());
    }

    #[test]
    fn all_pools_together_have_a_limit() {
        let check = |last: &str| {
            let network = format!("subnet = \"10.8.0.0/15\"\npool = [\"10.8.0.0-{last}\"]");
            let network: Relayed = toml::from_str(&network).unwrap();
            check_pools(&[network.network(Ipv4Addr::LOCALHOST).unwrap()])
        };
        assert!(check("10.8.255.255").is_ok());
        let error = check("10.9.0.0").unwrap_err().to_string();
        assert!(error.contains("65536 is the most"), "{error}");
    }
}
