//! Boot sessions: what ties the DISCOVER, the files and the kernel's syslog of one start of one machine together, and
//! what `greypit boot` shows.
//!
//! A session is of a MAC and has an id, `<mac>-<time of its beginning>` as in `525400123456-20261121T181502.123Z`. Its
//! [`Stage`] only goes forward. Every protocol says [`Sessions::step`]; each event carries the id that it gets back.
//!
//! A session begins with
//! - a packet of firmware, where the one before got beyond firmware;
//! - one of iPXE, where the one before began with iPXE, so that it is the firmware itself, and got as far as a kernel;
//! - any of them, or a file, where the one before is older than `boot.session`;
//! - the first packet of a card that was never seen, whatever it is.
//!
//! What comes within a second of a step forward is a repetition and begins nothing. An operating system that renews its
//! lease, or goes on logging, after `boot.session` is in no session.
//!
//! Limits: 10,000 sessions, one a card; beyond it those are forgotten, a thousand at once, that got no further than
//! firmware, then those that were seen longest ago. 131,072 addresses; beyond it those that were said longest ago. 200
//! bytes of an error. What is forgotten is counted.
//!
//! [`saved`] keeps them over a restart. The rest is pure: the time is an argument.
//!
//! | metric | labels | |
//! |---|---|---|
//! | `greypit_boot_sessions` | | cards whose last session is remembered |
//! | `greypit_boot_sessions_total` | | sessions that began |
//! | `greypit_boot_stages_total` | `stage` | sessions that got there |
//! | `greypit_boot_failures_total` | | what went wrong in a session |
//! | `greypit_boot_forgotten_total` | `what`: sessions, addresses | forgotten at a limit |
//! | `greypit_boot_sessions_unsaved_total` | | times that they could not be written |

mod addresses;
mod live;
mod metrics;
pub(crate) mod saved;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use self::addresses::Addresses;
use self::live::Live;
use self::metrics::Metrics;
use super::mac::Mac;

/// Cards whose last session is remembered.
const SESSIONS_MAX: usize = 10_000;
/// Forgotten at once, so that one look through all of them is for many.
const FORGOTTEN_AT_ONCE: usize = SESSIONS_MAX / 10;
/// Of what is said of a failure.
const PROBLEM_BYTES_MAX: usize = 200;
/// Packets that follow a step forward within this time are repetitions.
const REPETITION: Duration = Duration::from_secs(1);

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

impl Stage {
    pub(crate) const ALL: [Stage; 8] = [
        Stage::Firmware,
        Stage::Loader,
        Stage::Ipxe,
        Stage::Script,
        Stage::Kernel,
        Stage::Initrd,
        Stage::System,
        Stage::Syslog,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Firmware => "firmware",
            Stage::Loader => "loader",
            Stage::Ipxe => "ipxe",
            Stage::Script => "script",
            Stage::Kernel => "kernel",
            Stage::Initrd => "initrd",
            Stage::System => "system",
            Stage::Syslog => "syslog",
        }
    }

    /// The protocol that it is seen by, where there is only one.
    fn protocol(self) -> Option<Protocol> {
        match self {
            Stage::Firmware | Stage::Ipxe | Stage::System => Some(Protocol::Dhcp),
            Stage::Loader | Stage::Script | Stage::Kernel | Stage::Initrd => None,
            Stage::Syslog => Some(Protocol::Syslog),
        }
    }
}

/// By what a stage was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Dhcp,
    Tftp,
    Http,
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
    /// For syslog, which asks for every message. Changed only while `table` is locked.
    live: Live,
    /// Whether something is not saved yet.
    changed: AtomicBool,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Table {
    by_mac: HashMap<Mac, Session>,
    addresses: Addresses,
}

/// The last session of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    id: Id,
    began: Timestamp,
    seen: Timestamp,
    /// When it last got further.
    forward: Timestamp,
    stage: Stage,
    reached: [Option<Reached>; Stage::ALL.len()],
    ip: Option<Ipv4Addr>,
    failure: Option<Failure>,
}

/// When a stage was first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reached {
    at: Timestamp,
    protocol: Option<Protocol>,
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    at: Timestamp,
    problem: Box<str>,
}

/// What is shown, and is in an id.
fn to_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

impl Session {
    fn new(mac: Mac, stage: Stage, now: Timestamp) -> Session {
        let [a, b, c, d, e, f] = mac.0;
        let time = now.strftime("%Y%m%dT%H%M%S%.3fZ");
        Session {
            id: format!("{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}-{time}").into(),
            began: now,
            seen: now,
            forward: now,
            stage,
            reached: [None; Stage::ALL.len()],
            ip: None,
            failure: None,
        }
    }

    fn is_over(&self, lasts: Duration, now: Timestamp) -> bool {
        now.duration_since(self.began).unsigned_abs() > lasts
    }

    /// Whether a packet of this stage is the beginning of another start.
    fn is_ended_by(&self, stage: Stage, lasts: Duration, now: Timestamp) -> bool {
        let of_system = matches!(stage, Stage::System | Stage::Syslog);
        if self.is_over(lasts, now) {
            return !of_system;
        }
        let firmware_is_ipxe = self.reached[Stage::Firmware as usize].is_none();
        let again = match stage {
            Stage::Firmware => self.stage > Stage::Firmware,
            Stage::Ipxe => firmware_is_ipxe && self.stage >= Stage::Kernel,
            _ => false,
        };
        again && now.duration_since(self.forward).unsigned_abs() > REPETITION
    }
}

impl Sessions {
    /// `lasts`: `boot.session`.
    pub(crate) fn new(lasts: Duration) -> Sessions {
        Sessions {
            lasts,
            table: Mutex::default(),
            live: Live::default(),
            changed: AtomicBool::new(false),
            metrics: Metrics::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that an address is a card's from now on: a lease, or what was seen on the wire.
    pub(crate) fn address(&self, mac: Mac, ip: Ipv4Addr) {
        let mut table = self.table();
        let Table { by_mac, addresses } = &mut *table;
        let (before, forgotten) = addresses.set(ip, mac);
        self.metrics.addresses_forgotten.inc_by(forgotten);
        if let Some(other) = before.filter(|before| *before != mac).and_then(|before| by_mac.get_mut(&before)) {
            other.ip = None;
            self.live.remove(ip);
        }
        let Some(session) = by_mac.get_mut(&mac).filter(|session| session.ip != Some(ip)) else { return };
        if let Some(old) = session.ip.replace(ip) {
            self.live.remove(old);
        }
        self.live.set(ip, session, self.lasts);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Says that nobody has an address any more.
    pub(crate) fn forget(&self, ip: Ipv4Addr) {
        let mut table = self.table();
        let Table { by_mac, addresses } = &mut *table;
        let session = addresses.remove(ip).and_then(|mac| by_mac.get_mut(&mac));
        if let Some(session) = session.filter(|session| session.ip == Some(ip)) {
            session.ip = None;
            self.live.remove(ip);
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// The card that an address is of, as far as is known.
    pub(crate) fn mac_of(&self, ip: Ipv4Addr) -> Option<Mac> {
        self.table().addresses.get(ip)
    }

    /// Says how far a machine got; gives the session that this belongs to. For files [`Sessions::step_by`] knows more.
    pub(crate) fn step(&self, who: Who, stage: Stage, now: Timestamp) -> Option<Id> {
        self.step_with(who, stage, stage.protocol(), now)
    }

    /// Says how far a machine got, and by which protocol.
    pub(crate) fn step_by(&self, who: Who, stage: Stage, protocol: Protocol, now: Timestamp) -> Option<Id> {
        self.step_with(who, stage, Some(protocol), now)
    }

    fn step_with(&self, who: Who, stage: Stage, protocol: Option<Protocol>, now: Timestamp) -> Option<Id> {
        let now = to_milliseconds(now);
        let mut table = self.table();
        let mac = who.mac.or_else(|| table.addresses.get(who.ip?))?;
        let last = table.by_mac.get(&mac);
        if last.is_none_or(|last| last.is_ended_by(stage, self.lasts, now)) {
            self.begin(&mut table, mac, stage, now);
        }
        let Table { by_mac, addresses } = &mut *table;
        let session = by_mac.get_mut(&mac)?;
        session.seen = now;
        if session.ip.is_none()
            && let Some(ip) = who.ip.filter(|ip| addresses.get(*ip) == Some(mac))
        {
            session.ip = Some(ip);
            self.live.set(ip, session, self.lasts);
        }
        self.changed.store(true, Ordering::Relaxed);
        if session.is_over(self.lasts, now) {
            return None;
        }
        if session.reached[stage as usize].is_none() {
            session.reached[stage as usize] = Some(Reached { at: now, protocol });
            self.metrics.stages[stage as usize].inc();
            if session.stage < stage {
                session.stage = stage;
                session.forward = now;
            }
        }
        Some(session.id.clone())
    }

    fn begin(&self, table: &mut Table, mac: Mac, stage: Stage, now: Timestamp) {
        if table.by_mac.len() >= SESSIONS_MAX && !table.by_mac.contains_key(&mac) {
            self.make_room(table);
        }
        let mut session = Session::new(mac, stage, now);
        // It may go on with the address that it has; if not, DHCP will say.
        session.ip = table.by_mac.get(&mac).and_then(|last| last.ip);
        if let Some(ip) = session.ip {
            self.live.set(ip, &session, self.lasts);
        }
        table.by_mac.insert(mac, session);
        self.metrics.begun.inc();
        self.metrics.sessions.set(table.by_mac.len() as i64);
    }

    /// Whoever invents cards makes those forgotten that he invented.
    fn make_room(&self, table: &mut Table) {
        let of_use = |session: &Session| (session.stage > Stage::Firmware, session.seen);
        let mut all: Vec<_> = table.by_mac.iter().map(|(mac, session)| (of_use(session), *mac)).collect();
        let (oldest, ..) = all.select_nth_unstable(FORGOTTEN_AT_ONCE);
        for (_, mac) in oldest {
            if let Some(ip) = table.by_mac.remove(mac).and_then(|session| session.ip) {
                self.live.remove(ip);
            }
        }
        self.metrics.sessions_forgotten.inc_by(FORGOTTEN_AT_ONCE as u64);
    }

    /// The session that something without a stage of its own belongs to.
    pub(crate) fn of(&self, who: Who, now: Timestamp) -> Option<Id> {
        let table = self.table();
        let mac = who.mac.or_else(|| table.addresses.get(who.ip?))?;
        let session = table.by_mac.get(&mac)?;
        (!session.is_over(self.lasts, now)).then(|| session.id.clone())
    }

    /// The session that a syslog message of this peer belongs to; its first is [`Stage::Syslog`].
    pub(crate) fn of_syslog(&self, peer: IpAddr, now: Timestamp) -> Option<Id> {
        let IpAddr::V4(ip) = peer else { return None };
        let (id, first) = self.live.get(ip, now)?;
        if first {
            self.step(Who { mac: None, ip: Some(ip) }, Stage::Syslog, now);
        }
        Some(id)
    }

    /// Says what went wrong for a machine; the last word of each session is shown.
    pub(crate) fn failed(&self, who: Who, problem: &str, now: Timestamp) {
        let mut table = self.table();
        let Some(mac) = who.mac.or_else(|| table.addresses.get(who.ip?)) else { return };
        let Some(session) = table.by_mac.get_mut(&mac).filter(|session| !session.is_over(self.lasts, now)) else {
            return;
        };
        let problem = &problem[..problem.floor_char_boundary(PROBLEM_BYTES_MAX)];
        session.failure = Some(Failure { at: to_milliseconds(now), problem: problem.into() });
        self.metrics.failures.inc();
        self.changed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Sessions with one, of a machine with this address that has just begun.
    pub(crate) fn of_one(ip: Ipv4Addr) -> (Arc<Sessions>, Id) {
        let (sessions, mac) = (Sessions::new(Duration::from_secs(1800)), Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        let who = Who { mac: Some(mac), ip: None };
        let id = sessions.step(who, Stage::Firmware, Timestamp::now()).expect("a session");
        sessions.address(mac, ip);
        (Arc::new(sessions), id)
    }

    /// What went wrong last for the only machine.
    pub(crate) fn problem_of_one(sessions: &Sessions) -> Option<String> {
        let table = sessions.table();
        let session = table.by_mac.values().next().expect("a session");
        session.failure.as_ref().map(|failure| failure.problem.to_string())
    }

    /// How far the only machine got.
    pub(crate) fn stage_of_one(sessions: &Sessions) -> Stage {
        sessions.table().by_mac.values().next().expect("a session").stage
    }
}

#[cfg(test)]
mod tests;
