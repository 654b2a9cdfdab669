//! The boot collector: machines start from it, and every packet is an event.
//!
//! One set of files (see [`machines`]), one policy ([`policy`]), five protocols:
//!
//! | folder | protocol | kind of its events |
//! |---|---|---|
//! | [`dhcp`] | DHCPv4, BOOTP, proxyDHCP | `dhcp`, one a packet |
//! | [`tftp`] | TFTP | `tftp`, one a transfer |
//! | [`http`] | HTTP boot | `http`, one a request |
//! | [`dns`] | DNS for the machines | `dns`, one a query |
//! | [`power`] | Wake-on-LAN and schedules | `power`, one an action |
//!
//! In each, the packets' format and what is answered are pure functions; only `listen` and its like touch sockets.
//! Answering never waits for recording ([`audit`]). [`sessions`] ties the packets of one start of a machine together.
//!
//! Start: [`bind`] reads the machine files and takes every socket, so that a mistake shows before anything runs;
//! [`spawn`] recovers the leases and answers.

mod arp_table;
mod audit;
mod bound;
mod config;
pub mod dhcp;
mod dns;
pub mod files;
mod http;
mod mac;
mod machines;
mod net;
pub(crate) mod overview;
mod places;
mod policy;
mod power;
mod script;
pub mod sessions;
pub mod tftp;
mod world;

use std::path::Path;
use std::sync::Arc;

use greypit_pipeline::{Error, Health, Kind, Result, Submit};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use config::{Config, Mode};
#[doc(hidden)]
pub use dhcp::fuzz as fuzz_dhcp;
#[doc(hidden)]
pub use dns::fuzz as fuzz_dns;
pub(crate) use power::{Waker, control_path};

use self::arp_table::ArpTable;
use self::audit::Audit;
use self::files::Root;
use self::machines::catalog::Catalog;
use self::net::{Interface, Networks};
use self::sessions::Sessions;
use self::world::World;

pub(crate) const KINDS: [Kind; 5] = [audit::DHCP, audit::TFTP, audit::HTTP, audit::DNS, audit::POWER];

/// Sockets that are bound and files that are read.
#[derive(Debug)]
pub struct Bound {
    networks: Networks,
    machines: Catalog,
    root: Root,
    sessions: Arc<Sessions>,
    dhcp: dhcp::Bound,
    tftp: bound::Bound,
    http: bound::Bound,
    dns: dns::Bound,
}

impl Bound {
    /// What was bound, for people.
    pub fn addresses(&self) -> Vec<String> {
        [self.dhcp.addresses(), self.tftp.addresses(), self.http.addresses(), self.dns.addresses()].concat()
    }

    /// For syslog, whose lines belong to sessions too.
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }
}

/// Looks at the interfaces, reads the machine files and binds every socket; `None` where the collector is off.
///
/// # Errors
/// [`Error::Config`] names the key, the reason and what to do.
pub fn bind(config: &Config) -> Result<Option<Bound>> {
    config.validate()?;
    if !config.is_on() {
        return Ok(None);
    }
    let interfaces: Vec<_> = config.interface.iter().map(|name| Interface::find(name)).collect::<Result<_>>()?;
    let networks = Networks::new(config, interfaces.clone())?;
    let answers = config.mode != Mode::Listen;
    Ok(Some(Bound {
        machines: Catalog::open(&config.dir, &networks)?,
        root: Root::open(&config.root)?,
        sessions: Arc::new(Sessions::new(config.session.0)),
        dhcp: dhcp::bind(config, &interfaces)?,
        tftp: if answers { tftp::bind(&config.tftp, &interfaces)? } else { bound::Bound::default() },
        http: if answers { http::bind(&config.http, &interfaces)? } else { bound::Bound::default() },
        dns: if config.mode == Mode::Serve { dns::bind(&config.dns, &interfaces)? } else { dns::Bound::default() },
        networks,
    }))
}

/// Starts the tasks, inside a Tokio runtime. They end, and drop their [`Submit`], once `stop` is cancelled.
///
/// # Errors
/// [`Error::Config`] where `registry` has these metrics already; [`Error::Io`] where the leases cannot be read.
pub fn spawn(
    bound: Bound,
    config: &Config,
    data_dir: &Path,
    submit: Submit,
    registry: &Registry,
    health: &Health,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    check_apart(config, data_dir)?;
    let audit = Audit::new(submit, registry)
        .map_err(|error| Error::Config { key: "boot".to_owned(), problem: error.to_string() })?;
    let world = Arc::new(World {
        config: config.clone(),
        networks: bound.networks,
        machines: bound.machines,
        sessions: bound.sessions,
        root: bound.root,
        arp: ArpTable::default(),
        names: dns::Names::default(),
        audit,
    });
    let mut tasks = vec![
        world.machines.watch(health, registry, stop.clone())?,
        world.sessions.keep(data_dir, registry, stop.clone())?,
    ];
    tasks.extend(dhcp::spawn(bound.dhcp, world.clone(), data_dir, health, registry, stop.clone())?);
    let tftp = tftp::spawn(bound.tftp, world.clone(), registry, stop.clone())?;
    let http = http::spawn(bound.http, world.clone(), registry, stop.clone())?;
    let dns = dns::spawn(bound.dns, world.clone(), registry, stop.clone())?;
    for (part, answering) in [("tftp", tftp), ("boot_http", http), ("dns", dns)] {
        tasks.extend(answering.into_iter().map(|task| tokio::spawn(watched(part, task, health.clone(), stop.clone()))));
    }
    tasks.extend(power::spawn(world, data_dir, health, registry, stop)?);
    health.ok("boot");
    Ok(tasks)
}

/// Says it where a task that answers has ended although nobody told it to, which only a fault of ours can do.
async fn watched(part: &'static str, task: JoinHandle<()>, health: Health, stop: CancellationToken) {
    health.ok(part);
    let ended = task.await;
    if !stop.is_cancelled() || ended.is_err() {
        health.held(part, "it has ended and answers nobody; restart greypit");
    }
}

/// What is below `boot.root` is given out to the network: leases, sessions and the spool must not be, nor what the files
/// of all machines say.
fn check_apart(config: &Config, data_dir: &Path) -> Result<()> {
    let root = &config.root;
    if let (Ok(root), Ok(dir)) = (root.canonicalize(), config.dir.canonicalize())
        && dir.starts_with(&root)
    {
        let problem = format!("{} would give out the machine files in {} (boot.dir)", root.display(), dir.display());
        return Err(Error::Config { key: "boot.root".into(), problem: problem + "; choose another folder" });
    }
    // The folder that is not there yet has nothing in it.
    let (Ok(root), Ok(data_dir)) = (root.canonicalize(), data_dir.canonicalize()) else { return Ok(()) };
    if data_dir.starts_with(&root) || root.starts_with(data_dir.join("boot")) {
        let problem = format!(
            "{} would give out what greypit keeps in {} (data_dir); choose another folder",
            root.display(),
            data_dir.display()
        );
        return Err(Error::Config { key: "boot.root".into(), problem });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_out_is_not_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let data_dir = at("data");
        let with = |root: std::path::PathBuf| Config { root, dir: at("machines"), ..Config::default() };
        for root in [at("."), at("data"), at("data/boot"), at("data/boot/files"), at("files/../data")] {
            let error = check_apart(&with(root.clone()), &data_dir).unwrap_err().to_string();
            assert!(error.contains("boot.root"), "{}", root.display());
        }
        for root in [at("files"), at("data/files"), at("database"), at("data/boot2")] {
            check_apart(&with(root), &data_dir).unwrap();
        }
    }
}
