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
//! Start: what the config alone has wrong is refused before anything runs ([`Boot::new`]). What else is not as it must be,
//! from an interface to a file of a machine, holds up nothing but this collector, and needs no restart: [`keeper`].

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

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use greypit_pipeline::{Addresses, Error, Health, Kind, Result, Submit};
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
use self::life::Kept;
use self::metrics::Metrics;
use self::net::{Look, Networks};
use self::sessions::Sessions;

pub(crate) const KINDS: [Kind; 5] = [audit::DHCP, audit::TFTP, audit::HTTP, audit::DNS, audit::POWER];

/// The collector before it runs.
#[derive(Debug)]
pub struct Boot {
    config: Config,
    data_dir: PathBuf,
    sessions: Arc<Sessions>,
}

impl Boot {
    /// `None` where it is off.
    ///
    /// # Errors
    /// [`Error::Config`] names the key and what to do, for what the config alone has wrong. All else is waited for.
    pub fn new(config: &Config, data_dir: &Path) -> Result<Option<Boot>> {
        config.validate()?;
        if !config.is_on() {
            return Ok(None);
        }
        check_apart(config, data_dir, as_written)?;
        let sessions = Arc::new(Sessions::new(config.session.0));
        Ok(Some(Boot { config: config.clone(), data_dir: data_dir.to_owned(), sessions }))
    }

    /// Whether the interfaces have all the addresses that they are to have.
    pub fn addresses(&self) -> Addresses {
        let is_here = |look: Look| look.absent.is_empty() && Networks::new(&self.config, look.present).is_ok();
        match Look::now(&self.config.interface, &[]).is_ok_and(is_here) {
            true => Addresses::AreHere,
            false => Addresses::MayCome,
        }
    }

    /// For syslog, whose lines belong to sessions too.
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }

    /// Starts the tasks, inside a Tokio runtime; where nothing is to be waited for machines are served when it returns. They
    /// end, and drop their [`Submit`], once `stop` is cancelled.
    ///
    /// # Errors
    /// [`Error::Config`] where `registry` has these metrics already.
    pub async fn start(
        self,
        submit: Submit,
        registry: &Registry,
        health: &Health,
        stop: CancellationToken,
    ) -> Result<Vec<JoinHandle<()>>> {
        let Boot { config, data_dir, sessions } = self;
        let taken = |error: prometheus::Error| Error::Config { key: "boot".to_owned(), problem: error.to_string() };
        let keep = sessions.keep(&data_dir, registry, stop.clone())?;
        let kept = Kept {
            audit: Arc::new(Audit::new(submit, registry).map_err(taken)?),
            metrics: Metrics::new(registry, &config).map_err(taken)?,
            names: dns::Names::default(),
            failures: power::Failures::default(),
            health: health.clone(),
            config,
            data_dir,
            sessions,
        };
        Ok(vec![keep, Keeper::start(kept, stop).await])
    }
}

/// What `greypit check` says of the interfaces that are to be served: `Some` where some of them are not here.
///
/// # Errors
/// [`Error::Config`] for what does not fit those that are here, and for machine files and folders that are not right.
pub(crate) fn check(config: &Config, data_dir: &Path) -> Result<Option<String>> {
    check_apart(config, data_dir, as_written)?;
    check_apart(config, data_dir, real)?;
    Root::open(&config.root)?;
    let look = match Look::now(&config.interface, &[]) {
        Ok(look) => look,
        Err(error) => return overview::known(config).map(|_| Some(error.to_string())),
    };
    let waits_for = look.waits_for();
    Networks::new(config, look.present)?;
    overview::known(config)?;
    Ok(waits_for)
}

/// What is below `boot.root` is given out to the network: leases, sessions and the spool must not be, nor what the files
/// of all machines say. `place`: where a path leads, as far as is to be looked.
fn check_apart(config: &Config, data_dir: &Path, place: impl Fn(&Path) -> PathBuf) -> Result<()> {
    let [root, dir, data_dir] = [config.root.as_path(), &config.dir, data_dir].map(place);
    let refuse = |what: String| {
        let problem = format!("{} would give out {what}; choose another folder", root.display());
        Err(Error::Config { key: "boot.root".into(), problem })
    };
    if dir.starts_with(&root) || root.starts_with(&dir) {
        return refuse(format!("the machine files in {} (boot.dir)", dir.display()));
    }
    if data_dir.starts_with(&root) || root.starts_with(data_dir.join("boot")) {
        return refuse(format!("what greypit keeps in {} (data_dir)", data_dir.display()));
    }
    Ok(())
}

/// The path without a look at it, which may hang.
fn as_written(path: &Path) -> PathBuf {
    let mut written = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            Component::ParentDir => drop(written.pop()),
            part => written.push(part),
        }
    }
    written
}

/// The path without links, also where the last folders of it are not there yet.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
    there.map_or_else(|| path.clone(), |(there, rest)| there.join(rest))
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
        for place in [real, as_written] {
            for root in [".", "data", "data/boot", "data/boot/files", "files/../data", "machines/10.0.0.1"] {
                let error = check_apart(&with(at(root)), &data_dir, place).unwrap_err().to_string();
                assert!(error.contains("boot.root"), "{root}");
            }
            for root in ["files", "data/files", "database", "data/boot2", "machines/../files"] {
                check_apart(&with(at(root)), &data_dir, place).unwrap();
            }
        }
        // Nor what is not there yet.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(check_apart(&with(at("files")), &link.join("files/data"), real).is_err());
        assert!(check_apart(&with(link.join("machines")), &data_dir, real).is_err());
        check_apart(&with(link.join("other")), &data_dir, real).unwrap();
    }
}
