//! Every machine that has files or was seen, with its last session: what `greypit boot` shows.
//!
//! Reads what is on disk, so that it needs no daemon.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use greypit_pipeline::{Error, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::config::Config;
use super::mac::Mac;
use super::machines::Machines;
use super::machines::load::{Mistake, load};
use super::net::{Look, Networks};
use super::sessions::saved::{self, SavedError, SavedSession};
use super::sessions::{Protocol, Stage};

/// One machine; what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Its host name, where it has files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) machine: Option<String>,
    /// The card that it started with last, else its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<Mac>,
    /// All that its files name.
    #[serde(skip)]
    cards: Vec<Mac>,
    /// The address that it has, else the one of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addr: Option<Ipv4Addr>,
    /// `null` where it was never seen.
    pub(crate) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seen: Option<Timestamp>,
    /// How far it got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stage: Option<Stage>,
    /// From the session's beginning to its last stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_s: Option<f64>,
    /// As they were reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stages: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<SavedError>,
}

/// A stage that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    pub(crate) stage: Stage,
    pub(crate) at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Protocol>,
    /// Until the next; of the last there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) took_s: Option<f64>,
}

/// What is known of machines by their files.
#[derive(Debug, Default)]
pub(crate) struct Known(Machines);

/// Reads the machine files. Where this machine has the interfaces of the config those of its servers, else all.
///
/// # Errors
/// [`Error::Config`] for `boot.dir`, with the first file that is not right.
pub(crate) fn known(config: &Config) -> Result<Known> {
    let look = Look::now(&config.interface, &[]).ok().filter(|look| look.absent.is_empty());
    let networks = look.and_then(|look| Networks::new(config, look.present).ok());
    let networks = networks.filter(|networks| !networks.interfaces.is_empty());
    read(config, networks.as_ref()).map(Known)
}

/// Reads the machine files of the servers in `networks`, or of all.
fn read(config: &Config, networks: Option<&Networks>) -> Result<Machines> {
    let refuse = |mistake: Mistake| Error::Config { key: "boot.dir".into(), problem: mistake.to_string() };
    load(&config.dir, networks, &mut |_| {}).map_err(refuse)
}

/// Where the daemon writes what it has seen.
pub(crate) fn sessions_path(data_dir: &Path) -> PathBuf {
    saved::path(data_dir)
}

/// One row a machine, and one a card that no file names: the newest start first, then those that were never seen, by name.
///
/// # Errors
/// [`Error::Io`] where the sessions cannot be read.
pub(crate) fn rows(known: &Known, data_dir: &Path) -> Result<Vec<Row>> {
    let path = saved::path(data_dir);
    let saved = saved::read(&path).map_err(|source| Error::Io { operation: "read", path, source })?.unwrap_or_default();
    let mut sessions: HashMap<Mac, SavedSession> =
        saved.sessions.into_iter().map(|session| (session.mac, session)).collect();
    let mut rows = Vec::new();
    for (_, machine) in known.0.iter() {
        // The same card may be known to several servers.
        let of_machine = machine.macs.iter().filter_map(|mac| sessions.get(mac));
        let last = of_machine.max_by_key(|session| session.began).cloned();
        let mut row = last.map(Row::of).unwrap_or_default();
        row.machine = Some(machine.hostname.clone());
        row.cards.clone_from(&machine.macs);
        row.mac = row.mac.or(machine.macs.first().copied());
        row.addr = row.addr.or(machine.ip);
        rows.push(row);
    }
    for mac in known.0.iter().flat_map(|(_, machine)| &machine.macs) {
        sessions.remove(mac);
    }
    rows.extend(sessions.into_values().map(Row::of));
    rows.sort_by(|a, b| {
        b.began.cmp(&a.began).then_with(|| (&a.machine, a.mac, a.addr).cmp(&(&b.machine, b.mac, b.addr)))
    });
    Ok(rows)
}

impl Row {
    fn of(session: SavedSession) -> Row {
        let next = session.stages.iter().skip(1).map(|next| Some(next.at)).chain([None]);
        let stages = session.stages.iter().zip(next).map(|(step, next)| Step {
            stage: step.stage,
            at: step.at,
            protocol: step.protocol,
            took_s: next.map(|next| seconds(step.at, next)),
        });
        Row {
            machine: None,
            mac: Some(session.mac),
            cards: Vec::new(),
            addr: session.addr,
            began: Some(session.began),
            seen: Some(session.seen),
            stage: Some(session.stage()),
            total_s: session.stages.last().map(|last| seconds(session.began, last.at)),
            stages: stages.collect(),
            session: Some(session.session),
            error: session.error,
        }
    }

    /// Whether this is what somebody calls it: its name with or without domain, its card or its address.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let is_name = self.machine.as_ref().is_some_and(|machine| {
            machine.eq_ignore_ascii_case(name)
                || machine.split('.').next().is_some_and(|label| label.eq_ignore_ascii_case(name))
        });
        is_name
            || name.parse().is_ok_and(|mac: Mac| self.mac == Some(mac) || self.cards.contains(&mac))
            || name.parse().is_ok_and(|addr: Ipv4Addr| self.addr == Some(addr))
    }
}

/// To the millisecond.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    (to.as_millisecond() - from.as_millisecond()) as f64 / 1000.0
}
