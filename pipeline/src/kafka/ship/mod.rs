//! From the topics to the store.
//!
//! ```text
//! group: one thread ─► lane a partition ─► batch ─► cut ─► PUT ─► commit
//!        poll, commit   decides, no I/O     objects grow, compressed by workers
//! ```
//!
//! Promise: every event of a partition is in exactly one object, whoever is killed, hangs or wakes up late, wherever the
//! group's offsets are set. The cuts (see [`super`]) stand for it; the group only says where to look first.
//!
//! Limits: what retention deletes before it is in the store is lost, and counted. Where it deletes a part of the very
//! batch that an owner died over, and a repeat of what it deleted is further on in that batch, that event may be in two
//! objects of the batch.

mod batch;
mod cut;
mod group;
mod lane;
mod metrics;
#[cfg(test)]
mod model;
mod objects;
mod record;
pub(crate) mod replay;
mod seen;
mod start;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Config;
use crate::store::Store;
use crate::upload::Uploader;
use crate::workers::Workers;
use crate::{Drained, Error, Health, Metrics, Result};

/// How long leaving the group may take, and asking for the logs' ends before.
const LEAVE: Duration = Duration::from_secs(5);

/// What a shipper is made of.
#[derive(Debug)]
pub struct Parts {
    /// `[kafka]`
    pub kafka: Config,
    /// `[batch]`
    pub batch: crate::batch::Config,
    /// Where objects and cuts go.
    pub store: Store,
    /// The pipeline's figures, of which those of shipping are shared.
    pub metrics: Metrics,
    /// Where it says how it is.
    pub health: Health,
    /// Where its own figures go.
    pub registry: Registry,
}

/// A running member of the consumer group.
#[derive(Debug)]
pub struct Shipper {
    stop: Arc<Stop>,
    ended: oneshot::Receiver<()>,
    drain_timeout: Duration,
}

/// What the thread is told, and tells.
#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    /// Batches that were on their way when time was up; some, as long as the thread has not said.
    left_behind: AtomicU64,
}

impl Stop {
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Shipper {
    /// Joins the group and ships until it is stopped.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub fn start(parts: Parts) -> Result<Shipper> {
        let Parts { kafka, batch, store, metrics, health, registry } = parts;
        if batch.key.contains("{node}") {
            let problem = "{node} makes no sense with [kafka], where an object holds the events of many nodes";
            return Err(Error::Config { key: "batch.key".into(), problem: problem.into() });
        }
        let drain_timeout = batch.drain_timeout.0;
        let own = metrics::Metrics::new(&registry).map_err(|error| Error::Config {
            key: "http".into(),
            problem: format!("metrics cannot be registered: {error}"),
        })?;
        let workers = Workers::start(batch.workers)?;
        let uploader = Uploader { store, health, metrics };
        let parts =
            group::MemberParts { config: kafka, batch, uploader, workers, metrics: own, runtime: Handle::current() };
        let member = group::Member::join(parts)?;
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), left_behind: AtomicU64::new(1) });
        let (ending, ended) = oneshot::channel();
        let asked = stop.clone();
        let thread = std::thread::Builder::new().name("kafka-ship".into());
        let run = move || {
            member.run(&asked);
            // Whoever waits may have gone.
            let _ = ending.send(());
        };
        thread.spawn(run).map_err(Error::io("start a thread for", "kafka"))?;
        Ok(Shipper { stop, ended, drain_timeout })
    }

    /// Ends: what has arrived is shipped where `batch.flush_on_exit` says so, uploads end within `batch.drain_timeout`,
    /// the group is left.
    pub async fn stop(self) -> Drained {
        self.stop.asked.store(true, Ordering::Relaxed);
        // Beyond that nothing is waited for: librdkafka does not leave a group whose coordinator is out of reach. The
        // group finds out by itself, and the thread goes with the process.
        let _ = tokio::time::timeout(self.drain_timeout + LEAVE, self.ended).await;
        match self.stop.left_behind.load(Ordering::Relaxed) {
            0 => Drained::Shipped,
            _ => Drained::InKafka,
        }
    }
}
