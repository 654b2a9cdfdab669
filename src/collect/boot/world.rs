//! What all protocols share.

use std::sync::Arc;

use super::audit::Audit;
use super::config::Config;
use super::dns::Names;
use super::files::Root;
use super::machines::Machines;
use super::machines::catalog::Catalog;
use super::net::Networks;
use super::policy::{self, Verdict};
use super::sessions::{Sessions, Who};

/// One for the collector, shared by its tasks.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) networks: Networks,
    pub(crate) machines: Catalog,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) root: Root,
    /// What leases' clients call themselves: DHCP says it, DNS tells it.
    pub(crate) names: Names,
    pub(crate) audit: Audit,
}

impl World {
    /// The files as they are now.
    pub(crate) fn machines(&self) -> Arc<Machines> {
        self.machines.current()
    }

    /// The one policy for whoever has an address in one of our networks; `None` for others.
    pub(crate) fn judge_ip(&self, ip: std::net::Ipv4Addr) -> Option<(Who, Verdict)> {
        let network = self.networks.of(ip)?;
        let mac = self.sessions.mac_of(ip);
        let verdict = policy::judge(&self.machines(), network.server, mac, Some(ip));
        Some((Who { mac, ip: Some(ip) }, verdict))
    }
}
