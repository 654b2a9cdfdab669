//! Boot sessions: what ties the DISCOVER, the files and the kernel's syslog of one start of one machine together, and
//! what `greypit boot` shows.
//!
//! A session is of a MAC and has an id, `<mac>-<time of its beginning>` as in `525400123456-20261121T181502.123Z`. It
//! begins with a packet of a machine's firmware and goes on until the firmware begins again, or for `boot.session`. Its
//! [`Stage`] only goes forward. Every protocol says [`Sessions::step`]; each event carries the id that it gets back.
//!
//! Pure: the time is an argument.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::mac::Mac;

/// How far a start got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// Firmware asked for an address or for its boot file.
    Firmware,
    /// Firmware fetched its boot file.
    Loader,
    /// iPXE asked.
    Ipxe,
    /// The machine's script was fetched.
    Script,
    Kernel,
    Initrd,
    /// An operating system asked for an address.
    System,
    /// Its first syslog line came.
    Syslog,
}

/// Whom a packet is of, as far as its protocol tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) mac: Option<Mac>,
    pub(crate) ip: Option<Ipv4Addr>,
}

/// The id of a session; cheap to clone.
pub(crate) type Id = Arc<str>;

/// All sessions. Shared by the protocols and by syslog.
#[derive(Debug)]
pub struct Sessions {
    lasts: Duration,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_mac: HashMap<Mac, Session>,
    mac_of: HashMap<Ipv4Addr, Mac>,
}

#[derive(Debug)]
struct Session {
    id: Id,
    began: Timestamp,
    stage: Stage,
}

impl Sessions {
    /// `lasts`: `boot.session`.
    pub(crate) fn new(lasts: Duration) -> Sessions {
        Sessions { lasts, table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that an address is a card's from now on: a lease, or what was seen on the wire.
    pub(crate) fn address(&self, mac: Mac, ip: Ipv4Addr) {
        self.table().mac_of.insert(ip, mac);
    }

    /// The card that an address is of, as far as is known.
    pub(crate) fn mac_of(&self, ip: Ipv4Addr) -> Option<Mac> {
        self.table().mac_of.get(&ip).copied()
    }

    /// Says how far a machine got; gives the session that this belongs to.
    pub(crate) fn step(&self, who: Who, stage: Stage, now: Timestamp) -> Option<Id> {
        let mut table = self.table();
        let mac = who.mac.or_else(|| table.mac_of.get(&who.ip?).copied())?;
        let begins = match table.by_mac.get(&mac) {
            None => true,
            Some(session) => {
                now.duration_since(session.began).unsigned_abs() > self.lasts
                    || (stage == Stage::Firmware && session.stage > Stage::Firmware)
            }
        };
        if begins {
            let id = format!("{}-{}", mac.to_string().replace(':', ""), now.strftime("%Y%m%dT%H%M%S%.3fZ"));
            table.by_mac.insert(mac, Session { id: id.into(), began: now, stage });
        }
        let session = table.by_mac.get_mut(&mac)?;
        session.stage = session.stage.max(stage);
        Some(session.id.clone())
    }

    /// The session that something without a stage of its own belongs to.
    pub(crate) fn of(&self, who: Who, now: Timestamp) -> Option<Id> {
        let table = self.table();
        let mac = who.mac.or_else(|| table.mac_of.get(&who.ip?).copied())?;
        let session = table.by_mac.get(&mac)?;
        (now.duration_since(session.began).unsigned_abs() <= self.lasts).then(|| session.id.clone())
    }

    /// Says what went wrong for a machine; the last word of each session is shown.
    pub(crate) fn failed(&self, who: Who, problem: &str, now: Timestamp) {
        let _ = (who, problem, now);
    }
}
