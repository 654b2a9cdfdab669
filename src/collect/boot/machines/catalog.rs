//! The machine files as they are now: read at the start, and again as soon as one changes.
//!
//! A look reads the whole folder: what was made of it is the new state, or one mistake leaves the last good one. Looks
//! come when the watcher says so, once nothing more changes for [`QUIET`] (a `git checkout` of many files is one look), and
//! at least every [`POLL`], for file systems that tell nothing, such as NFS. Looking takes at most 1 % of a CPU's time
//! while nothing changes, and 10 % while something does.
//!
//! | metric | labels | |
//! |---|---|---|
//! | `greypit_boot_machines` | | machines that have files, in the last good state |
//! | `greypit_boot_machines_stale` | | 1 while the files have a mistake and an older state holds |
//! | `greypit_boot_machine_reloads_total` | `result`: changed, same, failed | looks at the files |
//!
//! The part `boot_machines` of `/readyz` is limited while there is a mistake, and names the file.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use greypit_pipeline::{Error, Health, Register, Result};
use prometheus::{IntCounter, IntGauge, Registry};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::load::{Mistake, load, mistake, servers};
use super::watch::Watch;
use super::{Machine, Machines};
use crate::collect::boot::net::Networks;

/// How long nothing may change before it is read.
const QUIET: Duration = Duration::from_millis(100);
/// How long something may go on changing before it is read all the same.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often it is looked at without being told.
const POLL: Duration = Duration::from_secs(10);
/// The part on the board.
const PART: &str = "boot_machines";

/// A handle on the last good state. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    current: Arc<RwLock<Arc<Machines>>>,
    dir: PathBuf,
    networks: Networks,
}

impl Catalog {
    /// Reads `dir`. Folders of other servers than those of `networks` are left alone.
    ///
    /// # Errors
    /// [`Error::Config`] for `boot.dir`, with the first file that is not right.
    pub(crate) fn open(dir: &Path, networks: &Networks) -> Result<Catalog> {
        let refuse = |problem: String| Error::Config { key: "boot.dir".into(), problem };
        let dir = std::path::absolute(dir).map_err(|error| refuse(format!("{}: {error}", dir.display())))?;
        let machines = load(&dir, Some(networks), &mut |_| {}).map_err(|mistake| refuse(mistake.to_string()))?;
        Ok(Catalog { current: Arc::new(RwLock::new(Arc::new(machines))), dir, networks: networks.clone() })
    }

    /// Whether it is of these networks.
    pub(crate) fn is_of(&self, networks: &Networks) -> bool {
        (&self.networks.networks, self.networks.lacks) == (&networks.networks, networks.lacks)
    }

    /// The last good state.
    pub(crate) fn current(&self) -> Arc<Machines> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, machines: Machines) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(machines);
    }

    /// One that never changes: for tests.
    pub(crate) fn of(machines: Machines) -> Catalog {
        Catalog { current: Arc::new(RwLock::new(Arc::new(machines))), ..Catalog::default() }
    }

    /// Reads the files again as they change, until `stop`. A bad file is said on `health` and counted; the last good
    /// state stays.
    pub(crate) fn watch(&self, health: &Health, metrics: Metrics, stop: CancellationToken) -> JoinHandle<()> {
        self.watch_every(POLL, health, metrics, stop)
    }

    /// A folder called by a wrong address looks like one of another server.
    fn tell_of_nothing(&self) {
        let of_others = servers(&self.dir);
        if !of_others.is_empty() {
            let ours: Vec<_> = self.networks.interfaces.iter().map(|interface| interface.addr).collect();
            tracing::warn!(dir = %self.dir.display(), ?of_others, ?ours, "no machine files of this server");
        }
    }

    fn watch_every(
        &self,
        poll: Duration,
        health: &Health,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> JoinHandle<()> {
        let machines = self.current().len();
        metrics.machines.set(machines as i64);
        health.ok(PART);
        tracing::info!(dir = %self.dir.display(), machines, "machine files read");
        if *self.current() == Machines::default() {
            self.tell_of_nothing();
        }
        let looker = Looker {
            catalog: self.clone(),
            watch: None,
            changed: Arc::default(),
            mistake: None,
            metrics,
            health: health.clone(),
        };
        tokio::spawn(run(looker, poll, stop))
    }
}

/// Looks, and waits until there is a reason to look again.
async fn run(mut looker: Looker, poll: Duration, stop: CancellationToken) {
    let (changed, health) = (looker.changed.clone(), looker.health.clone());
    // What changed between the start and the watcher's beginning is found by the first look.
    let mut told = true;
    loop {
        let began = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            looker.look(told);
            looker
        });
        let looked = tokio::select! {
            // A file system that hangs holds up nobody.
            () = stop.cancelled() => return,
            looked = looked => looked,
        };
        looker = match looked {
            Ok(looker) => looker,
            Err(error) => {
                tracing::error!(%error, "machine files are no longer read");
                return health.limited(PART, "the machine files are no longer read; restart greypit");
            }
        };
        let took = began.elapsed();
        let next = async {
            tokio::select! {
                () = tokio::time::sleep(poll.max(100 * took)) => false,
                () = changed.notified() => {
                    tokio::time::sleep(9 * took).await;
                    until_quiet(&changed).await;
                    true
                }
            }
        };
        told = tokio::select! {
            () = stop.cancelled() => return,
            told = next => told,
        };
    }
}

/// Waits until nothing more changes.
async fn until_quiet(changed: &Notify) {
    let deadline = Instant::now() + QUIET_WAIT_MAX;
    while Instant::now() < deadline && tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {}
}

/// What moves to the blocking thread and back.
struct Looker {
    catalog: Catalog,
    watch: Option<Watch>,
    changed: Arc<Notify>,
    /// What was wrong at the last look.
    mistake: Option<Mistake>,
    metrics: Metrics,
    health: Health,
}

impl Looker {
    /// Reads everything. `told`: the folders may be others, and are watched anew.
    fn look(&mut self, told: bool) {
        let Catalog { dir, networks, .. } = &self.catalog;
        let read = if told {
            // Each folder is watched before it is read, so nothing can change unnoticed in between.
            let mut watch = Watch::new(dir, self.changed.clone());
            let read = load(dir, Some(networks), &mut |folder| watch.add(folder));
            if !watch.is_complete() && self.watch.as_ref().is_none_or(Watch::is_complete) {
                tracing::warn!(dir = %dir.display(), "machine files cannot all be watched, only polled");
            }
            self.watch = Some(watch);
            read
        } else {
            load(dir, Some(networks), &mut |_| {})
        };
        let read = read.and_then(|machines| match self.has_vanished(&machines) {
            true => mistake(
                dir,
                "has nothing in it any more, as when it is no longer mounted; if that is meant, restart greypit",
            ),
            false => Ok(machines),
        });
        match read {
            Ok(machines) => self.good(machines, told),
            Err(mistake) => self.bad(mistake),
        }
    }

    /// Where there were machines no folder of any server is left.
    fn has_vanished(&self, now: &Machines) -> bool {
        let none = Machines::default();
        *now == none && *self.catalog.current() != none && servers(&self.catalog.dir).is_empty()
    }

    fn good(&mut self, machines: Machines, told: bool) {
        self.mistake = None;
        self.metrics.stale.set(0);
        self.health.ok(PART);
        let before = self.catalog.current();
        if *before == machines {
            return self.metrics.same.inc();
        }
        tell(&before, &machines);
        self.metrics.machines.set(machines.len() as i64);
        self.metrics.changed.inc();
        self.catalog.set(machines);
        if !told {
            // The watcher missed it, so it may watch folders that are no longer there.
            self.changed.notify_one();
        }
    }

    fn bad(&mut self, mistake: Mistake) {
        self.metrics.stale.set(1);
        self.metrics.failed.inc();
        if self.mistake.as_ref() == Some(&mistake) {
            return;
        }
        let machines = self.catalog.current().len();
        tracing::error!(%mistake, machines, "machine files are not right; the last good ones hold");
        self.health.limited(PART, format!("{mistake}; the machine files as they were before hold"));
        self.mistake = Some(mistake);
    }
}

/// Says what is new, in numbers; in names to whoever wants to know all.
fn tell(before: &Machines, now: &Machines) {
    type Names = BTreeSet<(Ipv4Addr, Ipv4Addr)>;
    let names = |machines: &Machines| -> Names {
        machines.iter().filter_map(|(server, machine)| Some((server, machine.ip?))).collect()
    };
    let differ = |(server, ip): &&(Ipv4Addr, Ipv4Addr)| before.by_ip(*server, *ip) != now.by_ip(*server, *ip);
    let name = |machine: Option<&Arc<Machine>>| machine.map(|machine| machine.hostname.clone()).unwrap_or_default();
    let (old, new) = (names(before), names(now));
    let added: Vec<_> = new.difference(&old).collect();
    let removed: Vec<_> = old.difference(&new).collect();
    let changed: Vec<_> = old.intersection(&new).filter(differ).collect();
    let (machines, default) = (new.len(), before.defaults != now.defaults);
    tracing::info!(
        machines,
        added = added.len(),
        removed = removed.len(),
        changed = changed.len(),
        default_changed = default,
        "machine files read again"
    );
    for (what, list) in [("added", added), ("removed", removed), ("changed", changed)] {
        for (server, ip) in list {
            let hostname = name(now.by_ip(*server, *ip).or(before.by_ip(*server, *ip)));
            tracing::debug!(%server, %ip, hostname, what, "machine");
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    machines: IntGauge,
    stale: IntGauge,
    changed: IntCounter,
    same: IntCounter,
    failed: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_boot_");
        let reloads = register.counters(
            "machine_reloads_total",
            "Looks at the machine files: they had changed, were the same, or had a mistake.",
            &["result"],
        )?;
        Ok(Metrics {
            machines: register.gauge("machines", "Machines that have files, in the last good state.")?,
            stale: register.gauge("machines_stale", "1 while the machine files have a mistake and older ones hold.")?,
            changed: reloads.with_label_values(&["changed"]),
            same: reloads.with_label_values(&["same"]),
            failed: reloads.with_label_values(&["failed"]),
        })
    }
}

#[cfg(test)]
mod tests;
