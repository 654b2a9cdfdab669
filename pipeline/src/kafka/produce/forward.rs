//! The thread from the spool to the topics, as the pipeline sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Output;
use super::feed::Feeder;
use crate::event::Kind;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::pipeline::Lock;
use crate::spool::ledger::Ledger;
use crate::spool::shared::Shared;
use crate::{Error, Result};

/// Everything that producing needs.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// The spool.
    pub(crate) folder: PathBuf,
    /// Where events go that no broker takes.
    pub(crate) aside: PathBuf,
    pub(crate) node: String,
    pub(crate) epoch: String,
    pub(crate) output: Output,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    /// The next number of each kind at the start: those before may have been sent.
    pub(crate) next_seqs: BTreeMap<Kind, u64>,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Nobody else may have the spool before this thread has ended.
    pub(crate) _lock: Arc<Lock>,
}

/// The running thread. Dropping this ends it, whatever is on its way.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    done: oneshot::Receiver<()>,
}

impl Running {
    /// Has the thread end, whatever is on its way.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
    }

    /// Returns when the thread has ended: everything is acknowledged, or it was stopped.
    pub(crate) async fn done(&mut self) {
        // An error says that the sender is gone, and the thread with it.
        let _ = (&mut self.done).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Forwarder {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread.
    pub(crate) fn start(self) -> Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, done) = oneshot::channel();
        let (shared, feeder) = (self.shared.clone(), Feeder::new(self, stop.clone()));
        let thread = std::thread::Builder::new().name("kafka-produce".into());
        let run = move || {
            feeder.run();
            drop(ended);
        };
        thread.spawn(run).map_err(Error::io("start a thread for", "kafka"))?;
        Ok(Running { stop, shared, done })
    }
}
