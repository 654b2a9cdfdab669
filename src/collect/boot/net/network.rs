//! A network that is served, and ranges of its addresses.

use std::net::Ipv4Addr;

use greypit_pipeline::{Error, Result};
use ipnet::Ipv4Net;

/// A network and what its machines are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) subnet: Ipv4Net,
    /// Our address for its machines: the interface's, for a network behind a relay that of the first interface.
    pub(crate) server: Ipv4Addr,
    /// Whether it is on one of our interfaces; the others are reached through a relay.
    pub(crate) interface: Option<usize>,
    /// Inclusive ranges for machines that are not known.
    pub(crate) pools: Vec<(Ipv4Addr, Ipv4Addr)>,
    pub(crate) router: Vec<Ipv4Addr>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) domain: String,
}

/// `"10.0.0.100-10.0.0.199"`, or one address.
pub(crate) fn range(key: &str, text: &str) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => {
            let problem = format!("'{text}' is no range; write for example \"10.0.0.100-10.0.0.199\"");
            Err(Error::Config { key: key.into(), problem })
        }
    }
}
