//! `[boot.dhcp]` and `[[boot.network]]`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use greypit_pipeline::units::Span;
use greypit_pipeline::{Error, Result};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::super::config::range;
use super::super::net::Network;

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
