//! From complete batches to objects in the store, each exactly once.
//!
//! For each batch, in this order, each step durable before the next:
//! 1. CUT: kind, window, first, last, key, codec go to the ledger. From here on the object is fixed.
//! 2. Encode on a thread of its own: the same bytes every time.
//! 3. PUT, only if the key is free. If it is taken, compare: the same batch from before a crash is success; somebody
//!    else's object (an earlier epoch of this node in the same window) gives ours another key, durably, and step 2 again.
//!    Whatever else goes wrong is tried again, with growing pauses, for as long as it takes.
//! 4. DONE goes to the ledger; then segments that are wholly done are deleted.
//!
//! A crash anywhere begins again at the last durable step: open cuts first, then new batches.
//!
//! Limits: one object more than there are workers is held in memory, compressed; beyond that batches wait on disk.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::batch::{self, Batch};
use crate::encode::{self, Encoded};
use crate::key::{Template, Values};
use crate::spool::ledger::{Cut, Ledger};
use crate::spool::shared::Shared;
use crate::upload::{Uploader, until_done};
use crate::workers::Workers;
use crate::{Error, Result};

/// How often batches are looked for when nothing rings.
const TICK: Duration = Duration::from_secs(1);

/// Everything that shipping needs.
#[derive(Debug)]
pub(crate) struct Shipper {
    pub(crate) folder: PathBuf,
    pub(crate) node: String,
    pub(crate) epoch: String,
    pub(crate) config: batch::Config,
    pub(crate) template: Template,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) uploader: Uploader,
    pub(crate) workers: Workers,
}

impl Shipper {
    /// Ships the batches that have been cut, and nothing else.
    pub(crate) async fn finish_cuts(self: Arc<Shipper>) {
        let cuts = self.ledger().open_cuts();
        for cut in cuts {
            self.ship(cut).await;
        }
    }

    /// Ships until the spool has ended and everything complete is in the store.
    pub(crate) async fn run(self: Arc<Shipper>) {
        let slots = Arc::new(Semaphore::new(self.workers.threads() + 1));
        let mut tasks = JoinSet::new();
        let mut unfinished = self.ledger().open_cuts().into_iter();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let cut = match unfinished.next() {
                Some(cut) => cut,
                None => match self.next_batch().await {
                    Some(batch) => self.cut(batch).await,
                    None => break,
                },
            };
            let shipper = self.clone();
            tasks.spawn(async move {
                shipper.uploader.metrics.ship_in_flight.inc();
                shipper.ship(cut).await;
                shipper.uploader.metrics.ship_in_flight.dec();
                drop(slot);
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn next_batch(&self) -> Option<Batch> {
        loop {
            // In this order: what was added before the end is seen after it.
            let ended = self.shared.ended.load(Ordering::Acquire);
            if let Some(batch) = self.shared.pop_ready() {
                return Some(batch);
            }
            if ended {
                return None;
            }
            // The tick is only a safety net; whoever completes a batch rings.
            let _ = tokio::time::timeout(TICK, self.shared.ready.notified()).await;
        }
    }

    async fn cut(self: &Arc<Shipper>, batch: Batch) -> Cut {
        let part = format!("{}-{}", self.node, batch.first);
        let key = self.key(&batch, &part);
        let codec = self.config.codec;
        let cut = Cut { key, codec, level: self.config.level.unwrap_or(codec.default_level()), batch };
        self.persist(move |ledger, cut| ledger.cut(cut), cut).await
    }

    async fn ship(self: &Arc<Shipper>, mut cut: Cut) {
        loop {
            let encoded = self.encode(&cut).await;
            if encoded.records != cut.batch.events() {
                let missing = cut.batch.events() - encoded.records.min(cut.batch.events());
                self.uploader.metrics.ship_missing_events.inc_by(missing);
                tracing::error!(key = cut.key, missing, "events of this object could not be read back from the spool");
            }
            if encoded.records == 0 || self.put(&cut, &encoded).await {
                self.uploader.count(cut.batch.kind, &cut.key, &encoded);
                break;
            }
            let part = format!("{}-{}-{}", self.node, self.epoch, cut.batch.first);
            let key = self.key(&cut.batch, &part);
            tracing::warn!(key = cut.key, instead = key, "the key holds another object, ours gets another key");
            cut.key = if key == cut.key { format!("{}-{}", self.epoch, key) } else { key };
            cut = self.persist(|ledger, cut| ledger.rekey(cut), cut).await;
        }
        let cut = self.persist(|ledger, cut| ledger.done(cut), cut).await;
        self.shared.finished(&cut.batch);
        self.free().await;
    }

    /// Reads and compresses, again and again while the spool's disk does not let it.
    async fn encode(self: &Arc<Shipper>, cut: &Cut) -> Encoded {
        let timer = self.uploader.metrics.encode_seconds.with_label_values(&[cut.codec.name()]).start_timer();
        let encoded = until_done(&self.uploader.health, "encode", || async {
            let (answer, encoded) = oneshot::channel();
            let (shipper, cut) = (self.clone(), cut.clone());
            self.workers.run(move || {
                // The one who asked may have gone, at shutdown.
                let _ = answer.send(encode::encode(&shipper.folder, &shipper.node, &shipper.epoch, &cut));
            })?;
            encoded.await.map_err(|_| Error::Closed)?
        })
        .await;
        timer.observe_duration();
        encoded
    }

    /// Puts the object; false where the key holds another one.
    async fn put(&self, cut: &Cut, encoded: &Encoded) -> bool {
        let is_batch = |theirs: &[u8]| encode::is_batch(theirs, cut, &self.node, &self.epoch, encoded.records);
        self.uploader.put(&cut.key, cut.codec, encoded, is_batch).await
    }

    /// Deletes the segments that are done.
    async fn free(self: &Arc<Shipper>) {
        let shipper = self.clone();
        let freed = tokio::task::spawn_blocking(move || {
            let undone = shipper.ledger().lowest_undone();
            shipper.shared.free(&undone)
        });
        match freed.await {
            Ok(Ok(freed)) => tracing::debug!(freed, "spool: segments deleted"),
            // Not fatal: the next object tries again, and so does the next start.
            Ok(Err(error)) => {
                self.uploader.metrics.spool_error("delete", 1);
                tracing::warn!(%error, "spool: cannot delete segments that are in the store");
            }
            Err(error) => tracing::error!(%error, "spool: deleting segments failed"),
        }
    }

    /// Changes the ledger, again and again until the disk takes it.
    async fn persist(self: &Arc<Shipper>, change: fn(&mut Ledger, &Cut) -> Result<()>, cut: Cut) -> Cut {
        let cut = Arc::new(cut);
        until_done(&self.uploader.health, "ledger", || {
            let (shipper, cut) = (self.clone(), cut.clone());
            async move {
                let changed = tokio::task::spawn_blocking(move || change(&mut shipper.ledger(), &cut));
                changed.await.unwrap_or(Err(Error::Closed))
            }
        })
        .await;
        Arc::unwrap_or_clone(cut)
    }

    fn key(&self, batch: &Batch, part: &str) -> String {
        self.template.render(&Values {
            prefix: &self.config.prefix_of(batch.kind),
            kind: batch.kind.as_str(),
            window: batch.window,
            node: &self.node,
            part,
            ext: self.config.codec.extension(),
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
