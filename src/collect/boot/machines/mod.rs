//! Machines are files, a file a fact, easy to keep in git:
//!
//! ```text
//! <boot.dir>/<server ip>/<machine ip>/   one machine; its address is the folder's name
//!     hostname      its name, one label or with domain            required
//!     mac           its network cards, one a line                 required
//!     boot          how it boots; see below                       missing or empty: by script.ipxe or kernel, else "local"
//!     kernel        a file below boot.root, or an http:// URL
//!     initrd        the same, one a line, loaded in this order
//!     cmdline       the kernel's command line, one line; a template
//!     script.ipxe   an iPXE script of its own instead of one made from kernel, initrd and cmdline; a template
//!     power         when it is switched on and off; see [`super::power`]
//! <boot.dir>/<server ip>/default/        the same without hostname, mac and power, for machines that no folder names
//! ```
//!
//! `boot`: `local` = an address, and its own disk; `off` = nothing from any protocol, on any of our networks; anything else is
//! the file below boot.root that its firmware loads (`grubx64.efi`). Lines that begin with `#` and empty lines say nothing;
//! other files and names that begin with a dot are left alone, as are folders of other servers. Links are followed.
//!
//! Within a server's folder a card, a name and an address belong to one machine, and the address is in a network of that
//! server. Limits: 64 KiB a file, 10,000 machines, 32 cards a machine, 64 initrds, 512 bytes a name of a file below
//! boot.root, 2,000 a URL. A file that is not right is an error that names it; the last good state stays.
//!
//! [`load`] reads and checks · [`catalog`] keeps the last good state and reads again what changes.

pub(crate) mod catalog;
pub(super) mod load;
mod watch;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::mac::Mac;

/// How a machine boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Boot {
    /// By the script that is its own or made from its files; without either as `Local`.
    #[default]
    Script,
    /// From its own disk.
    Local,
    /// Not at all.
    Off,
    /// Its firmware loads this file below boot.root.
    File(String),
}

/// What the files of one folder say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Empty in `default/`.
    pub(crate) hostname: String,
    /// None in `default/`.
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) macs: Vec<Mac>,
    /// [`Boot::Script`] only where there is a script or a kernel, once the files are read.
    pub(crate) boot: Boot,
    /// Below boot.root without a slash at its beginning, or a URL; the same of each `initrd`.
    pub(crate) kernel: Option<String>,
    pub(crate) initrd: Vec<String>,
    pub(crate) cmdline: String,
    /// The text of `script.ipxe`.
    pub(crate) script: Option<String>,
    /// The lines of `power`, checked.
    pub(crate) power: Option<super::power::schedule::Schedule>,
}

/// One state of all files, whole and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machines {
    by_mac: HashMap<(Ipv4Addr, Mac), Arc<Machine>>,
    by_ip: HashMap<(Ipv4Addr, Ipv4Addr), Arc<Machine>>,
    defaults: HashMap<Ipv4Addr, Arc<Machine>>,
    /// Cards that are off, whichever server's folder says so.
    off: HashSet<Mac>,
}

impl Machines {
    pub(crate) fn by_mac(&self, server: Ipv4Addr, mac: Mac) -> Option<&Arc<Machine>> {
        self.by_mac.get(&(server, mac))
    }

    pub(crate) fn by_ip(&self, server: Ipv4Addr, ip: Ipv4Addr) -> Option<&Arc<Machine>> {
        self.by_ip.get(&(server, ip))
    }

    /// Whether a folder of any of our servers says that this card boots not at all.
    pub(crate) fn is_off(&self, mac: Mac) -> bool {
        self.off.contains(&mac)
    }

    /// `default/`, where there is one.
    pub(crate) fn default_of(&self, server: Ipv4Addr) -> Option<&Arc<Machine>> {
        self.defaults.get(&server)
    }

    /// Every machine with its server's address, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &Arc<Machine>)> {
        self.by_ip.iter().map(|((server, _), machine)| (*server, machine))
    }

    /// How many machines have files of their own.
    pub(crate) fn len(&self) -> usize {
        self.by_ip.len()
    }

    /// Takes note of whether it is off, and of nothing else.
    pub(crate) fn heed(&mut self, machine: &Machine) {
        if machine.boot == Boot::Off {
            self.off.extend(&machine.macs);
        }
    }

    pub(crate) fn add(&mut self, server: Ipv4Addr, machine: Machine) {
        self.heed(&machine);
        let machine = Arc::new(machine);
        for mac in &machine.macs {
            self.by_mac.insert((server, *mac), machine.clone());
        }
        match machine.ip {
            Some(ip) => drop(self.by_ip.insert((server, ip), machine)),
            None => drop(self.defaults.insert(server, machine)),
        }
    }
}
