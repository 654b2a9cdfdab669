//! Who may boot: one answer for all protocols.
//!
//! A machine is known by its MAC where the protocol has one (DHCP), else by its address (TFTP, HTTP, DNS), which leads
//! to a MAC by what DHCP has seen. A machine that no file names is `default/`'s, if there is one. Whoever is refused here
//! gets nothing from any protocol. A card that is off under one of our addresses is off under all of them, so that nobody
//! boots from `default/` by being plugged in elsewhere.

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
    if mac.is_some_and(|mac| machines.is_off(mac)) {
        return Verdict::Refused(Why::Off);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    const WEB: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const DARK: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    /// web at .11, dark (off) at .12, and for the others what is asked for.
    fn machines(default: Option<Boot>) -> Machines {
        let mut machines = Machines::default();
        for (name, mac, last, boot) in [("web", WEB, 11, Boot::Local), ("dark", DARK, 12, Boot::Off)] {
            let (hostname, macs) = (name.to_owned(), vec![mac]);
            machines.add(SERVER, Machine { hostname, macs, ip: Some(ip(last)), boot, ..Machine::default() });
        }
        if let Some(boot) = default {
            machines.add(SERVER, Machine { boot, ..Machine::default() });
        }
        machines
    }

    /// `web`, `default`, or why not.
    fn say(verdict: &Verdict) -> &str {
        match verdict {
            Verdict::Known(machine) => &machine.hostname,
            Verdict::Default(_) => "default",
            Verdict::Refused(why) => why.name(),
        }
    }

    #[test]
    fn one_answer_for_whoever_asks() {
        let (unknown, off) = (Why::Unknown.name(), Why::Off.name());
        // By card and address: without default/, with one, with one that is off.
        let table = [
            (Some(WEB), None, ["web"; 3]),
            (Some(WEB), Some(ip(11)), ["web"; 3]),
            // With an address of the pool, of another machine, of nobody's network: it is known by its card.
            (Some(WEB), Some(ip(99)), ["web"; 3]),
            (Some(WEB), Some(ip(12)), ["web"; 3]),
            (None, Some(ip(11)), ["web"; 3]),
            (Some(DARK), None, [off; 3]),
            (Some(DARK), Some(ip(11)), [off; 3]),
            (None, Some(ip(12)), [off; 3]),
            (Some(STRANGER), None, [unknown, "default", off]),
            // A stranger that has taken a machine's address is a stranger.
            (Some(STRANGER), Some(ip(11)), [unknown, "default", off]),
            (None, Some(ip(99)), [unknown, "default", off]),
            (None, None, [unknown, "default", off]),
        ];
        let settings = [None, Some(Boot::Local), Some(Boot::Off)].map(machines);
        for (mac, ip, wanted) in table {
            for (machines, wanted) in settings.iter().zip(wanted) {
                assert_eq!(say(&judge(machines, SERVER, mac, ip)), wanted, "{mac:?} {ip:?}");
            }
        }
    }

    #[test]
    fn what_one_server_knows_another_does_not() {
        let machines = machines(Some(Boot::Local));
        assert_eq!(judge(&machines, OTHER, Some(WEB), Some(ip(11))), Verdict::Refused(Why::Unknown));
        assert_eq!(judge(&machines, OTHER, None, Some(ip(11))), Verdict::Refused(Why::Unknown));
    }

    #[test]
    fn who_is_off_is_off_on_all_our_networks() {
        let mut machines = machines(None);
        machines.add(OTHER, Machine::default());
        assert_eq!(say(&judge(&machines, OTHER, Some(WEB), None)), "default");
        assert_eq!(judge(&machines, OTHER, Some(DARK), None), Verdict::Refused(Why::Off));
        let macs = vec![DARK];
        machines.add(OTHER, Machine { macs, ip: Some(Ipv4Addr::new(10, 1, 0, 12)), ..Machine::default() });
        assert_eq!(judge(&machines, OTHER, Some(DARK), None), Verdict::Refused(Why::Off));
    }

    #[test]
    fn the_files_come_with_the_verdict() {
        let machines = machines(None);
        assert_eq!(judge(&machines, SERVER, Some(WEB), None).machine().map(|m| m.ip), Some(Some(ip(11))));
        assert_eq!(judge(&machines, SERVER, Some(DARK), None).machine(), None);
    }
}
