//! Wake-on-LAN, and machines that are switched on and off by a schedule.
//!
//! A machine's `power` file has lines such as `on 07:30 Mon-Fri`, `off 20:30 Mon-Fri`, `on 09:00` (every day), or all of
//! them in one line with commas: `on 07:30, off 20:30, Mon-Fri`. Times are those of `boot.power.zone`.

use std::sync::Arc;

use greypit_pipeline::units::Span;
use greypit_pipeline::{Error, Health, Result};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::world::World;

/// `[boot.power]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The time zone of schedules.
    pub zone: String,
    /// The command that switches a machine off; empty: none. A template in each word.
    pub off_command: Vec<String>,
    /// The URL that switches a machine off, by POST; empty: none. A template.
    pub off_url: String,
    /// How long such a command or call may take.
    pub timeout: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { zone: "local".into(), off_command: Vec::new(), off_url: String::new(), timeout: Span::seconds(30) }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: &str| {
            Err(Error::Config { key: format!("boot.power.{key}"), problem: problem.to_owned() })
        };
        if !self.off_command.is_empty() && !self.off_url.is_empty() {
            return refuse("off_url", "one of off_command and off_url is enough");
        }
        Ok(())
    }
}

/// When a machine is switched on and off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {}

impl Schedule {
    /// Reads a `power` file.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub(crate) fn parse(text: &str) -> std::result::Result<Schedule, String> {
        let _ = text;
        Ok(Schedule {})
    }
}

/// Carries out the schedules, and what `greypit wake` asks for, until `stop`.
///
/// # Errors
/// Where `registry` has these metrics already, or the control socket cannot be made.
pub(crate) fn spawn(
    world: Arc<World>,
    health: &Health,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let _ = (world, health, registry, stop);
    Ok(Vec::new())
}
