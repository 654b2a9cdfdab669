//! What the collector counts, each part in its own file. Made once: counters go on when interfaces are bound anew.

use greypit_pipeline::Register;
use prometheus::{IntGauge, Registry};

use super::config::Config;
use super::{dhcp, dns, http, machines, power, tftp};

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// `greypit_boot_interfaces_down`
    pub(super) interfaces_down: IntGauge,
    pub(super) machines: machines::catalog::Metrics,
    pub(super) dhcp: dhcp::Metrics,
    pub(super) tftp: tftp::Metrics,
    pub(super) http: http::Metrics,
    pub(super) dns: dns::Metrics,
    pub(super) power: power::Metrics,
}

impl Metrics {
    /// # Errors
    /// Where `registry` has these metrics already.
    pub(super) fn new(registry: &Registry, config: &Config) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_boot_");
        Ok(Metrics {
            interfaces_down: register
                .gauge("interfaces_down", "Interfaces that are missing, down or without an IPv4 address.")?,
            machines: machines::catalog::Metrics::new(registry)?,
            dhcp: dhcp::Metrics::new(registry)?,
            tftp: tftp::Metrics::new(registry, config.tftp.max_transfers)?,
            http: http::Metrics::new(registry, config.http.max_connections)?,
            dns: dns::metrics(registry, &config.dns)?,
            power: power::Metrics::new(registry)?,
        })
    }
}
