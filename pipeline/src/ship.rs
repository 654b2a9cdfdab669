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

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::batch::{self, Batch};
use crate::encode::{self, Encoded};
use crate::health::Health;
use crate::key::{Template, Values};
use crate::metrics::Metrics;
use crate::spool::ledger::{Cut, Ledger};
use crate::spool::shared::Shared;
use crate::store::{Put, Store};
use crate::{Error, Result};

/// Pauses between attempts: from the first to the last.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(200);
pub(crate) const RETRY_LAST: Duration = Duration::from_secs(15);

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
    pub(crate) store: Store,
    pub(crate) encoders: Encoders,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
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
        let slots = Arc::new(Semaphore::new(self.encoders.threads + 1));
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
                shipper.metrics.ship_in_flight.inc();
                shipper.ship(cut).await;
                shipper.metrics.ship_in_flight.dec();
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
        self.shared.began(&batch);
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
                self.metrics.ship_missing_events.inc_by(missing);
                tracing::error!(key = cut.key, missing, "events of this object could not be read back from the spool");
            }
            if encoded.records == 0 || self.put(&cut, &encoded).await {
                self.count(&cut, &encoded);
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
        let timer = self.metrics.encode_seconds.with_label_values(&[cut.codec.name()]).start_timer();
        let encoded = self
            .until_done("encode", || async {
                let (answer, encoded) = oneshot::channel();
                let job = Job {
                    folder: self.folder.clone(),
                    node: self.node.clone(),
                    epoch: self.epoch.clone(),
                    cut: cut.clone(),
                    answer,
                };
                self.encoders.jobs.send(job).map_err(|_| Error::Closed)?;
                encoded.await.map_err(|_| Error::Closed)?
            })
            .await;
        timer.observe_duration();
        encoded
    }

    /// Puts the object; false where the key holds another one.
    async fn put(&self, cut: &Cut, encoded: &Encoded) -> bool {
        let object = encoded.object(cut.codec);
        self.until_done("store", || async {
            let started = Instant::now();
            let put = self.store.put_new(&cut.key, &object).await;
            self.metrics.store_put_seconds.observe(started.elapsed().as_secs_f64());
            let ours = match put {
                Ok(Put::Created) => Ok(true),
                Ok(Put::Exists) => self.is_ours(cut, encoded).await,
                Err(error) => Err(error),
            };
            ours.map_err(|error| {
                self.metrics.store_errors.with_label_values(&[error.class]).inc();
                Error::Store(error)
            })
        })
        .await
    }

    /// Whether the object under the cut's key is this very batch, put there before a crash or a lost answer.
    async fn is_ours(&self, cut: &Cut, encoded: &Encoded) -> std::result::Result<bool, crate::store::StoreError> {
        let theirs = self.store.get(&cut.key).await?;
        let same = theirs == encoded.bytes || encode::is_batch(&theirs, cut, &self.node, &self.epoch, encoded.records);
        self.metrics.store_existing.with_label_values(&[if same { "same" } else { "other" }]).inc();
        Ok(same)
    }

    fn count(&self, cut: &Cut, encoded: &Encoded) {
        let kind = cut.batch.kind.as_str();
        self.metrics.ship_events.with_label_values(&[kind]).inc_by(encoded.records);
        self.metrics.ship_objects.with_label_values(&[kind]).inc();
        self.metrics.ship_bytes.with_label_values(&["raw"]).inc_by(encoded.raw_bytes);
        self.metrics.ship_bytes.with_label_values(&["compressed"]).inc_by(encoded.bytes.len() as u64);
        tracing::info!(key = cut.key, records = encoded.records, bytes = encoded.bytes.len(), "shipped");
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
                self.metrics.spool_error("delete", 1);
                tracing::warn!(%error, "spool: cannot delete segments that are in the store");
            }
            Err(error) => tracing::error!(%error, "spool: deleting segments failed"),
        }
    }

    /// Changes the ledger, again and again until the disk takes it.
    async fn persist(self: &Arc<Shipper>, change: fn(&mut Ledger, &Cut) -> Result<()>, cut: Cut) -> Cut {
        let cut = Arc::new(cut);
        self.until_done("ledger", || {
            let (shipper, cut) = (self.clone(), cut.clone());
            async move {
                let changed = tokio::task::spawn_blocking(move || change(&mut shipper.ledger(), &cut));
                changed.await.unwrap_or(Err(Error::Closed))
            }
        })
        .await;
        Arc::unwrap_or_clone(cut)
    }

    /// Tries until it works, with growing pauses and jitter; the board says what is held back and why.
    async fn until_done<T, F: Future<Output = Result<T>>>(
        &self,
        part: &'static str,
        mut attempt: impl FnMut() -> F,
    ) -> T {
        let mut pause = RETRY_FIRST;
        loop {
            match attempt().await {
                Ok(value) => {
                    self.health.ok(part);
                    return value;
                }
                Err(error) => self.health.held(part, error.to_string()),
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
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

/// Between half of `pause` and all of it, so that many nodes do not come back at the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

#[derive(Debug)]
struct Job {
    folder: PathBuf,
    node: String,
    epoch: String,
    cut: Cut,
    answer: oneshot::Sender<Result<Encoded>>,
}

/// Threads that compress, at a lower priority than the rest, so that intake never waits for them.
#[derive(Debug)]
pub(crate) struct Encoders {
    jobs: mpsc::Sender<Job>,
    threads: usize,
}

impl Encoders {
    /// Starts `threads` of them, 0 = one a core. They end with the last handle.
    pub(crate) fn start(threads: usize) -> Result<Encoders> {
        let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let threads = if threads == 0 { cores() } else { threads };
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..threads {
            let receiver = receiver.clone();
            let thread = std::thread::Builder::new().name(format!("encode-{n}"));
            thread.spawn(move || encode_jobs(&receiver)).map_err(Error::io("start a thread for", "encode"))?;
        }
        Ok(Encoders { jobs, threads })
    }
}

fn encode_jobs(jobs: &Mutex<mpsc::Receiver<Job>>) {
    // Linux has a nice value per thread. Without the right to change it compression just competes.
    let _ = rustix::process::setpriority_process(None, 5);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { folder, node, epoch, cut, answer }) = next else { return };
        // The one who asked may have gone, at shutdown.
        let _ = answer.send(encode::encode(&folder, &node, &epoch, &cut));
    }
}
