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
//! [`spawn`] recovers the leases and answers. An interface that is not there yet holds up nothing but itself, and one that
//! changes needs no restart: [`keeper`].

mod arp_table;
mod audit;
mod bound;
mod config;
pub mod dhcp;
mod dns;
pub mod files;
mod http;
mod keeper;
mod life;
mod mac;
mod machines;
mod metrics;
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

use self::audit::Audit;
use self::files::Root;
use self::keeper::Keeper;
use self::life::{Kept, Plan};
use self::metrics::Metrics;
use self::net::{Look, Networks};
use self::sessions::Sessions;

pub(crate) const KINDS: [Kind; 5] = [audit::DHCP, audit::TFTP, audit::HTTP, audit::DNS, audit::POWER];

/// Sockets that are bound and files that are read, as far as the interfaces are there.
#[derive(Debug)]
pub struct Bound {
    sessions: Arc<Sessions>,
    look: Look,
    /// None where no interface is there.
    bound: Option<life::Bound>,
}

impl Bound {
    /// What was bound, for people.
    pub fn addresses(&self) -> Vec<String> {
        self.bound.as_ref().map(life::Bound::addresses).unwrap_or_default()
    }

    /// Whether an interface is waited for.
    pub fn waits(&self) -> bool {
        self.bound.is_none() || !self.look.absent.is_empty()
    }

    /// For syslog, whose lines belong to sessions too.
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }
}

/// Looks at the interfaces, reads the machine files and binds every socket; `None` where the collector is off. What only
/// shows with an interface that is not there yet shows on `/readyz` later.
///
/// # Errors
/// [`Error::Config`] names the key, the reason and what to do.
pub fn bind(config: &Config) -> Result<Option<Bound>> {
    config.validate()?;
    if !config.is_on() {
        return Ok(None);
    }
    let mut look = Look::now(&config.interface, &[])?;
    if !look.absent.is_empty() {
        overview::check_files(config)?;
        Root::open(&config.root)?;
        dhcp::try_without(config)?;
    }
    let mut bound = None;
    if !look.present.is_empty() {
        match Plan::new(config, look.present.clone(), None).and_then(|plan| plan.bind(config)) {
            Ok(done) => bound = Some(done),
            Err(error) => {
                // An interface may have changed at this moment: then that is what is waited for.
                let seen = std::mem::take(&mut look.present);
                look = Look::now(&config.interface, &seen)?;
                if !look.lacks(&seen) {
                    return Err(error);
                }
            }
        }
    }
    Ok(Some(Bound { sessions: Arc::new(Sessions::new(config.session.0)), look, bound }))
}

/// What `greypit check` says of the interfaces that are to be served: `Some` where some of them are not here.
///
/// # Errors
/// [`Error::Config`] for what does not fit those that are here, and for machine files that are not right.
pub(crate) fn check(config: &Config) -> Result<Option<String>> {
    let look = match Look::now(&config.interface, &[]) {
        Ok(look) => look,
        Err(error) => return overview::known(config).map(|_| Some(error.to_string())),
    };
    let waits_for = look.waits_for();
    Networks::new(config, look.present)?;
    overview::known(config)?;
    Ok(waits_for)
}

/// Starts the tasks, inside a Tokio runtime. They end, and drop their [`Submit`], once `stop` is cancelled.
///
/// # Errors
/// [`Error::Config`] where `registry` has these metrics already, or there is no thread; [`Error::Io`] where there is no place
/// for what is kept.
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
    let taken = |error: prometheus::Error| Error::Config { key: "boot".to_owned(), problem: error.to_string() };
    let kept = Kept {
        config: config.clone(),
        data_dir: data_dir.to_owned(),
        sessions: bound.sessions,
        names: dns::Names::default(),
        failures: power::Failures::default(),
        audit: Arc::new(Audit::new(submit, registry).map_err(taken)?),
        metrics: Metrics::new(registry, config).map_err(taken)?,
        health: health.clone(),
    };
    let keep = kept.sessions.keep(data_dir, registry, stop.clone())?;
    let mut keeper = Keeper::new(kept, stop);
    keeper.first(bound.bound, &bound.look)?;
    Ok(vec![keep, tokio::spawn(keeper.run())])
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
