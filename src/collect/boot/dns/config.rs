//! `[boot.dns]`

use std::net::{IpAddr, SocketAddr};

use greypit_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};

/// Servers that are asked in turn.
pub(super) const FORWARD_MAX: usize = 4;

/// Where servers listen, RFC 1035 4.2.
const PORT: u16 = 53;

/// `[boot.dns]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// 0: off.
    pub port: u16,
    /// Servers for names that are not ours, with or without a port, in the order in which they are asked; none: such names
    /// are refused.
    pub forward: Vec<String>,
    /// Queries a second of one client; what is beyond gets no answer and is counted. 0 is no limit.
    pub max_rate_per_client: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config { port: PORT, forward: Vec::new(), max_rate_per_client: 200 }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        self.upstreams().map(drop)
    }

    /// The servers of `forward`.
    pub(super) fn upstreams(&self) -> Result<Vec<SocketAddr>> {
        if self.forward.len() > FORWARD_MAX {
            return Err(refuse(format!("{} servers are too many, {FORWARD_MAX} are enough", self.forward.len())));
        }
        self.forward.iter().map(|text| upstream(text)).collect()
    }
}

pub(super) fn refuse(problem: String) -> Error {
    Error::Config { key: "boot.dns.forward".into(), problem }
}

fn upstream(text: &str) -> Result<SocketAddr> {
    let address = text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT)));
    address
        .filter(|address| address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast())
        .ok_or_else(|| refuse(format!("'{text}' is no server; write for example \"10.0.0.53\" or \"10.0.0.53:5353\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_port_or_get_one() {
        let with = |servers: &[&str]| {
            let forward = servers.iter().map(|server| (*server).to_owned()).collect();
            Config { forward, ..Config::default() }.upstreams().map_err(|error| error.to_string())
        };
        let addresses = with(&["10.0.0.53", "10.0.0.53:5353", "2001:db8::1", "[::1]:54"]).unwrap();
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.53:53", "10.0.0.53:5353", "[2001:db8::1]:53", "[::1]:54"]);
        for text in ["", "dns.example.com", "10.0.0.53:0", "0.0.0.0", "224.0.0.251"] {
            assert!(with(&[text]).unwrap_err().contains("boot.dns.forward"), "{text}");
        }
        assert!(with(&["10.0.0.1"; 5]).is_err());
    }
}
