//! HTTP.

use std::sync::Arc;

use greypit_pipeline::{Error, Health, Result};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::net::Interface;
use super::world::World;

/// `[boot.http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// 0: off.
    pub port: u16,
}

impl Default for Config {
    fn default() -> Config {
        Config { port: 80 }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        Ok(())
    }
}

/// Sockets that are bound and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Bound {}

impl Bound {
    /// For people: `http 10.0.0.1:80`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Binds the interfaces' addresses.
///
/// # Errors
/// [`Error::Config`] for `boot.http.port`, with what to do.
pub(crate) fn bind(config: &Config, interfaces: &[Interface]) -> Result<Bound> {
    let _ = (config, interfaces);
    Ok::<_, Error>(Bound {})
}

/// Answers until `stop`.
///
/// # Errors
/// Where `registry` has these metrics already.
pub(crate) fn spawn(
    bound: Bound,
    world: Arc<World>,
    health: &Health,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let _ = (bound, world, health, registry, stop);
    Ok(Vec::new())
}
