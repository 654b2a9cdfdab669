//! Wake-on-LAN, and machines that are switched on and off by a schedule.
//!
//! A machine's `power` file has lines such as `on 07:30 Mon-Fri`, `off 20:30 Mon-Fri`, `on 09:00` (every day), or all of
//! them in one line with commas: `on 07:30, off 20:30, Mon-Fri`; see [`schedule`]. Times are those of `boot.power.zone`.
//!
//! | file | what |
//! |---|---|
//! | [`schedule`] | the `power` file and when its actions are due, pure |
//! | [`target`] | whom a name, address or MAC means, pure |
//! | [`wol`] | on: the packet |
//! | [`off`] | off: a command or a POST |
//! | [`task`] | carries out, records; what is late |
//! | [`control`] | the socket of `greypit wake` |
//! | [`waker`] | `greypit wake` where no daemon runs |
//!
//! Promises: every action is one `power` event with its outcome (`done`, `failed`, `refused`, `missed`), by whom (`schedule`,
//! or the command and its user) and why not. A machine whose `boot` is `off` is not woken. Changed files hold from the next
//! minute on. An action that fails is said on the board of health (`power`, limited) until one of that machine works. In
//! `mode = "listen"` schedules rest; `greypit wake` works.

pub(crate) mod config;
mod control;
mod metrics;
mod off;
pub(crate) mod schedule;
mod target;
mod task;
mod waker;
mod wol;

use std::path::Path;
use std::sync::Arc;

use greypit_pipeline::{Error, Health, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Mode;
use super::world::World;
pub(crate) use control::path as control_path;
pub(crate) use metrics::Metrics;
pub(crate) use task::Failures;
pub(crate) use waker::Waker;

/// Carries out the schedules, and what `greypit wake` asks for, until `stop`.
///
/// # Errors
/// Where the control socket cannot be made.
pub(crate) fn spawn(
    world: Arc<World>,
    data_dir: &Path,
    health: &Health,
    metrics: Metrics,
    failures: Failures,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let folder = data_dir.join("boot");
    std::fs::create_dir_all(&folder)
        .map_err(|error| Error::Config { key: "data_dir".into(), problem: format!("{}: {error}", folder.display()) })?;
    let mode = world.config.mode;
    let listener = control::bind(data_dir)?;
    let power = Arc::new(task::Power::new(world, metrics, failures, health.clone(), stop)?);
    let mut tasks = vec![tokio::spawn(control::serve(listener, power.clone()))];
    if mode != Mode::Listen {
        tasks.push(tokio::spawn(power.run(folder.join("power"))));
    }
    Ok(tasks)
}
