//! Who may boot: one answer for all protocols.
//!
//! A machine is known by its MAC where the protocol has one (DHCP), else by its address (TFTP, HTTP, DNS), which leads
//! to a MAC by what DHCP has seen. A machine that no file names is `default/`'s, if there is one. Whoever is refused here
//! gets nothing from any protocol.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::mac::Mac;
use super::machines::{Boot, Machine, Machines};

/// What may be done for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has files of its own.
    Known(Arc<Machine>),
    /// It has those of `default/`.
    Default(Arc<Machine>),
    Refused(Why),
}

/// Why nothing is done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    /// No file names it, and there is no `default/`.
    Unknown,
    /// Its `boot` is "off".
    Off,
}

impl Why {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Why::Unknown => "unknown machine",
            Why::Off => "boot is off",
        }
    }
}

impl Verdict {
    /// The files that hold for it.
    pub(crate) fn machine(&self) -> Option<&Arc<Machine>> {
        match self {
            Verdict::Known(machine) | Verdict::Default(machine) => Some(machine),
            Verdict::Refused(_) => None,
        }
    }
}

/// The one policy. `server` is our address in the machine's network.
pub(crate) fn judge(machines: &Machines, server: Ipv4Addr, mac: Option<Mac>, ip: Option<Ipv4Addr>) -> Verdict {
    let by_mac = mac.and_then(|mac| machines.by_mac(server, mac));
    // Whoever has an address of a known machine but another card is not that machine.
    let by_ip = ip.filter(|_| mac.is_none()).and_then(|ip| machines.by_ip(server, ip));
    let (machine, known) = match by_mac.or(by_ip) {
        Some(machine) => (machine, true),
        None => match machines.default_of(server) {
            Some(machine) => (machine, false),
            None => return Verdict::Refused(Why::Unknown),
        },
    };
    match (machine.boot == Boot::Off, known) {
        (true, _) => Verdict::Refused(Why::Off),
        (false, true) => Verdict::Known(machine.clone()),
        (false, false) => Verdict::Default(machine.clone()),
    }
}
