//! What serves the interfaces as they are: from binding their sockets until one of them is another one.
//!
//! [`Plan`] reads and checks, [`Bound`] has the sockets, [`Life`] answers. What outlives it is [`Kept`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use greypit_pipeline::{Health, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::arp_table::ArpTable;
use super::audit::Audit;
use super::config::{Config, Mode};
use super::files::Root;
use super::machines::catalog::Catalog;
use super::metrics::Metrics;
use super::net::{Interface, Networks};
use super::sessions::Sessions;
use super::world::World;
use super::{bound, check_apart, dhcp, dns, http, power, real, tftp};

/// What stays the same however often interfaces are bound.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) config: Config,
    pub(super) data_dir: PathBuf,
    pub(super) sessions: Arc<Sessions>,
    pub(super) names: dns::Names,
    pub(super) failures: power::Failures,
    pub(super) audit: Arc<Audit>,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
}

/// All that is known before a socket is bound.
#[derive(Debug)]
pub(super) struct Plan {
    networks: Networks,
    machines: Catalog,
    root: Root,
}

impl Plan {
    /// For those of the interfaces that are here. `before`: where the networks are the same these machine files are too, also
    /// while there is a mistake in them.
    ///
    /// # Errors
    /// [`greypit_pipeline::Error::Config`] for what does not fit `interfaces`, the machine files, or `boot.root`; where there
    /// is no interface yet, also for packet sockets that this process may not have.
    pub(super) fn new(
        config: &Config,
        data_dir: &Path,
        interfaces: Vec<Interface>,
        before: Option<Catalog>,
    ) -> Result<Plan> {
        check_apart(config, data_dir, real)?;
        let root = Root::open(&config.root)?;
        if interfaces.is_empty() {
            dhcp::try_without(config)?;
        }
        let networks = Networks::new(config, interfaces)?;
        let machines = match before.filter(|before| before.is_of(&networks)) {
            Some(before) => before,
            None => Catalog::open(&config.dir, &networks)?,
        };
        Ok(Plan { networks, machines, root })
    }

    /// Whether there is nothing to bind.
    pub(super) fn is_empty(&self) -> bool {
        self.networks.interfaces.is_empty()
    }

    /// Where something is served already, tries the sockets of those interfaces that are not yet, by name: what keeps these
    /// from being bound is to cost the others nothing.
    ///
    /// # Errors
    /// As [`Plan::bind`].
    pub(super) fn try_others(&self, config: &Config, served: &[Interface]) -> Result<()> {
        if served.is_empty() {
            return Ok(());
        }
        let is_served = |one: &&Interface| served.iter().any(|before| before.name == one.name);
        let others: Vec<_> = self.networks.interfaces.iter().filter(|one| !is_served(one)).cloned().collect();
        Sockets::bind(config, &others).map(drop)
    }

    /// Takes every socket.
    ///
    /// # Errors
    /// [`greypit_pipeline::Error::Config`] names the key, the reason and what to do.
    pub(super) fn bind(self, config: &Config) -> Result<Bound> {
        Ok(Bound { sockets: Sockets::bind(config, &self.networks.interfaces)?, plan: self })
    }
}

#[derive(Debug)]
struct Sockets {
    dhcp: dhcp::Bound,
    tftp: bound::Bound,
    http: bound::Bound,
    dns: dns::Bound,
}

impl Sockets {
    fn bind(config: &Config, interfaces: &[Interface]) -> Result<Sockets> {
        let answers = config.mode != Mode::Listen;
        Ok(Sockets {
            dhcp: dhcp::bind(config, interfaces)?,
            tftp: if answers { tftp::bind(&config.tftp, interfaces)? } else { bound::Bound::default() },
            http: if answers { http::bind(&config.http, interfaces)? } else { bound::Bound::default() },
            dns: if config.mode == Mode::Serve { dns::bind(&config.dns, interfaces)? } else { dns::Bound::default() },
        })
    }
}

/// Sockets that are bound and not yet read.
#[derive(Debug)]
pub(super) struct Bound {
    plan: Plan,
    sockets: Sockets,
}

impl Bound {
    /// What was bound, for people.
    pub(super) fn addresses(&self) -> Vec<String> {
        let Sockets { dhcp, tftp, http, dns } = &self.sockets;
        [dhcp.addresses(), tftp.addresses(), http.addresses(), dns.addresses()].concat()
    }
}

/// The tasks that answer.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) world: Arc<World>,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Life {
    /// Recovers the leases and answers, inside a Tokio runtime, until it is ended or `stop` is cancelled.
    ///
    /// # Errors
    /// The disk's; where there is no thread, or the control socket cannot be made. Then it ends by itself, and nothing has
    /// been written to the leases.
    pub(super) fn begin(bound: Bound, kept: &Kept, stop: &CancellationToken) -> Result<Life> {
        let Bound { plan: Plan { networks, machines, root }, sockets } = bound;
        let world = Arc::new(World {
            config: kept.config.clone(),
            networks,
            machines,
            sessions: kept.sessions.clone(),
            root,
            arp: ArpTable::default(),
            names: kept.names.clone(),
            audit: kept.audit.clone(),
        });
        let Kept { metrics, health, data_dir, failures, .. } = kept;
        let stop = stop.child_token();
        // Where something fails what has begun is not to go on.
        let unfinished = stop.clone().drop_guard();
        let mut tasks = vec![world.machines.watch(health, metrics.machines.clone(), stop.clone())];
        let tftp = tftp::spawn(sockets.tftp, world.clone(), metrics.tftp.clone(), stop.clone())?;
        let http = http::spawn(sockets.http, world.clone(), metrics.http.clone(), stop.clone())?;
        let dns = dns::spawn(sockets.dns, world.clone(), metrics.dns.clone(), health, stop.clone())?;
        for (part, answering) in [("tftp", tftp), ("boot_http", http), ("dns", dns)] {
            let watch = |task| tokio::spawn(watched(part, task, health.clone(), stop.clone()));
            tasks.extend(answering.into_iter().map(watch));
        }
        let power = (metrics.power.clone(), failures.clone());
        tasks.extend(power::spawn(world.clone(), data_dir, health, power.0, power.1, stop.clone())?);
        // Last: nobody waits for the end of what does not begin whole, and the leases have one writer at a time.
        tasks.extend(dhcp::spawn(sockets.dhcp, world.clone(), data_dir, health, metrics.dhcp.clone(), stop.clone())?);
        unfinished.disarm();
        Ok(Life { world, tasks, stop })
    }

    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.world.networks.interfaces
    }

    /// Ends in order, and gives back every socket.
    pub(super) async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of boot ended badly");
            }
        }
    }
}

/// Says it where a task that answers has ended although nobody told it to, which only a fault of ours can do.
async fn watched(part: &'static str, task: JoinHandle<()>, health: Health, stop: CancellationToken) {
    health.ok(part);
    let ended = task.await;
    if !stop.is_cancelled() || ended.is_err() {
        health.held(part, "it has ended and answers nobody; restart greypit");
    }
}
