//! Puts the stages together: recovery, the spool's writer, the shipper; and takes them down in order.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::batch::{self, Planner};
use crate::encode;
use crate::health::Health;
use crate::kafka;
use crate::key::Template;
use crate::metrics::Metrics;
use crate::ship::Shipper;
use crate::spool::ledger::{Ledger, Target};
use crate::spool::recover::{Recovered, recover};
use crate::spool::segments::Segments;
use crate::spool::shared::Shared;
use crate::spool::writer::Writer;
use crate::spool::{self};
use crate::store::Store;
use crate::submit::Submit;
use crate::upload::Uploader;
use crate::workers::Workers;
use crate::{Error, Result};

/// What a pipeline is made of.
#[derive(Debug)]
pub struct Parts {
    /// The name that this node's events carry: letters, digits, `.`, `_` and `-`.
    pub node: String,
    /// The spool goes to the folder `spool` in it.
    pub data_dir: PathBuf,
    /// `[spool]`
    pub spool: spool::Config,
    /// `[batch]`
    pub batch: batch::Config,
    /// Where objects go.
    pub store: Store,
    /// Where events go instead of the store.
    pub kafka: Option<kafka::produce::Output>,
    /// Where figures go.
    pub metrics: Metrics,
    /// Where every part says how it is.
    pub health: Health,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    submit: Submit,
    checkpoints: HashMap<String, Vec<u8>>,
    writer: JoinHandle<()>,
    output: Output,
    drain_timeout: Duration,
    metrics: Metrics,
    shared: Arc<Shared>,
    /// Held as long as the pipeline runs: one process a spool.
    _lock: Arc<Lock>,
}

/// The lock of a spool's folder.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Closing is not enough: a program that is started at this moment has the file open for a moment more.
    fn drop(&mut self) {
        let _closed_in_any_case = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// What takes events out of the spool.
#[derive(Debug)]
enum Output {
    Store(tokio::task::JoinHandle<()>),
    Kafka {
        forwarder: kafka::produce::Running,
        /// Finishes what was cut for the store before events went to Kafka.
        cuts: Option<tokio::task::JoinHandle<()>>,
    },
}

/// How [`Pipeline::drain`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything complete is in the store, or in Kafka.
    Shipped,
    /// Not everything was taken in time; these events wait in the spool for the next start.
    Waiting(u64),
    /// Not everything that was read from Kafka reached the store in time; it is read again by the next shipper.
    InKafka,
}

impl Pipeline {
    /// Recovers the spool and starts writing and shipping. Blocks while it reads what is waiting on disk.
    ///
    /// # Errors
    /// The data folder cannot be used, belongs to another running process or another node, or is damaged.
    pub fn start(parts: Parts) -> Result<Pipeline> {
        let Parts { node, data_dir, spool, batch, store, kafka, metrics, health } = parts;
        check_node(&node)?;
        spool.validate()?;
        batch.validate()?;
        let template =
            Template::new(&batch.key).map_err(|problem| Error::Config { key: "batch.key".into(), problem })?;
        let folder = data_dir.join("spool");
        std::fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let lock = lock(&folder)?;
        let mut ledger = Ledger::open(&folder.join("ledger"), &node, new_epoch)?;
        let mut planner = match kafka {
            Some(_) => Planner::of_runs(kafka::produce::BATCH_BYTES_MAX),
            None => Planner::new(batch.window.0, batch.max_bytes.0, encode::record_overhead(&node)),
        };
        let mut recovered = recover(&folder, &ledger, &mut planner)?;
        report(&recovered, &metrics, &ledger);
        check_target(&ledger, kafka.is_some(), recovered.waiting_events)?;
        let renamed = ledger.node() != node;
        if renamed {
            forget_numbers(&mut recovered, &ledger, &node)?;
        }
        let segments = Segments::new(&folder, std::mem::take(&mut recovered.segments));
        let shared = Arc::new(Shared::new(segments, planner));
        ledger.open_cuts().iter().for_each(|cut| shared.began(&cut.batch));
        let next_seqs = recovered.next_seqs.clone();
        let (submit, queue) = Submit::new(u32::try_from(spool.queue_bytes.0).unwrap_or(u32::MAX));
        metrics.spool_max_bytes.set(spool.max_bytes.0 as i64);
        metrics.spool_queue_max_bytes.set(spool.queue_bytes.0 as i64);
        let checkpoints = recovered.checkpoints.clone().into_iter().collect();
        let writer = Writer::new(
            &folder,
            spool,
            batch.flush_on_exit,
            queue,
            recovered,
            shared.clone(),
            health.clone(),
            metrics.clone(),
        );
        if renamed {
            // The new segment's snapshot, which counts from 1, must be there before the ledger forgets.
            writer.is_able()?;
            ledger.begin_epoch(&node, new_epoch())?;
        }
        ledger.set_target(if kafka.is_some() { Target::Kafka } else { Target::Store })?;
        let lock = Arc::new(lock);
        let drain_timeout = batch.drain_timeout.0;
        let has_cuts = !ledger.open_cuts().is_empty();
        let (epoch, ledger) = (ledger.epoch().to_owned(), Arc::new(std::sync::Mutex::new(ledger)));
        let forwarder = kafka.map(|output| kafka::produce::Forwarder {
            folder: folder.clone(),
            aside: data_dir.join("set-aside"),
            node: node.clone(),
            epoch: epoch.clone(),
            output,
            shared: shared.clone(),
            ledger: ledger.clone(),
            next_seqs,
            health: health.clone(),
            metrics: metrics.clone(),
            _lock: lock.clone(),
        });
        let shipper = match forwarder.is_none() || has_cuts {
            true => Some(Arc::new(Shipper {
                node,
                epoch,
                template,
                shared: shared.clone(),
                ledger,
                uploader: Uploader { store, health, metrics: metrics.clone() },
                workers: Workers::start(batch.workers)?,
                folder,
                config: batch,
            })),
            false => None,
        };
        let writer = std::thread::Builder::new().name("spool".into()).spawn(move || writer.run());
        let writer = writer.map_err(Error::io("start a thread for", "spool"))?;
        let output = match (forwarder, shipper) {
            (Some(forwarder), shipper) => Output::Kafka {
                forwarder: forwarder.start()?,
                cuts: shipper.map(|shipper| tokio::spawn(shipper.finish_cuts())),
            },
            (None, shipper) => Output::Store(tokio::spawn(async {
                if let Some(shipper) = shipper {
                    shipper.run().await;
                }
            })),
        };
        Ok(Pipeline { submit, checkpoints, writer, output, drain_timeout, metrics, shared, _lock: lock })
    }

    /// The door for collectors.
    pub fn submit(&self) -> &Submit {
        &self.submit
    }

    /// How far each source had been read, by its name, when the pipeline was started.
    pub fn checkpoints(&self) -> &HashMap<String, Vec<u8>> {
        &self.checkpoints
    }

    /// What to call before metrics are read: updates the figures that nobody else keeps up to date.
    pub fn observer(&self) -> impl Fn() + Send + Sync + use<> {
        let (queued, metrics) = (self.submit.observer(), self.metrics.clone());
        move || metrics.spool_queue_bytes.set(queued() as i64)
    }

    /// Ends: everything submitted becomes durable and, within `batch.drain_timeout`, is shipped. All other clones of
    /// [`Submit`] must have been dropped, or this waits for them.
    pub async fn drain(self) -> Drained {
        let Pipeline { submit, writer, mut output, drain_timeout, shared, _lock, .. } = self;
        shared.draining.store(true, std::sync::atomic::Ordering::Release);
        drop(submit);
        // The thread ends with its last sender.
        let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        if tokio::time::timeout(drain_timeout, output.end()).await.is_ok() {
            return Drained::Shipped;
        }
        output.stop().await;
        Drained::Waiting(shared.unshipped_events())
    }
}

impl Output {
    /// Returns once everything has been taken.
    async fn end(&mut self) {
        match self {
            Output::Store(shipper) => drop(shipper.await),
            Output::Kafka { forwarder, cuts } => {
                forwarder.done().await;
                if let Some(cuts) = cuts {
                    drop(cuts.await);
                }
            }
        }
    }

    /// Leaves the rest in the spool.
    async fn stop(&mut self) {
        match self {
            Output::Store(shipper) => shipper.abort(),
            Output::Kafka { forwarder, cuts } => {
                cuts.iter().for_each(tokio::task::JoinHandle::abort);
                forwarder.stop();
                forwarder.done().await;
            }
        }
    }
}

/// Events that may be in Kafka must not go to the store by another way, where they would be there twice.
fn check_target(ledger: &Ledger, to_kafka: bool, waiting: u64) -> Result<()> {
    if to_kafka || waiting == 0 || ledger.target() == Target::Store {
        return Ok(());
    }
    let problem = format!(
        "{waiting} events wait in the spool that may be in Kafka already: start once with [kafka] until greypit_waiting_events is 0"
    );
    Err(Error::Config { key: "kafka.brokers".into(), problem })
}

/// Checks a node name.
///
/// # Errors
/// [`Error::Config`] for the key `node`.
pub fn check_node(node: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !node.is_empty() && node.len() <= 128 && node.chars().all(plain) {
        return Ok(());
    }
    let problem =
        format!("'{node}' must be 1 to 128 letters, digits, '.', '_' or '-': it is part of every record's id");
    Err(Error::Config { key: "node".into(), problem })
}

fn lock(folder: &Path) -> Result<Lock> {
    let path = folder.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(_) => Err(Error::Config {
            key: "data_dir".into(),
            problem: format!(
                "{} is in use by another greypit; stop that one or give this one its own",
                folder.display()
            ),
        }),
    }
}

fn report(recovered: &Recovered, metrics: &Metrics, ledger: &Ledger) {
    metrics.spool_damaged_frames.inc_by(recovered.damaged_frames);
    metrics.spool_torn_bytes.inc_by(recovered.torn_bytes);
    let open_cuts = ledger.open_cuts().len();
    if recovered.waiting_events > 0 || open_cuts > 0 || recovered.damaged_frames > 0 {
        let Recovered { waiting_events, damaged_frames, torn_bytes, .. } = recovered;
        tracing::info!(waiting_events, open_cuts, damaged_frames, torn_bytes, "spool: recovered");
    }
}

/// A new node name begins a new epoch, which is only possible once everything of the old one is in the store.
fn forget_numbers(recovered: &mut Recovered, ledger: &Ledger, node: &str) -> Result<()> {
    let waiting = recovered.waiting_events + ledger.open_cuts().iter().map(|cut| cut.batch.events()).sum::<u64>();
    if waiting > 0 {
        let old = ledger.node();
        let problem = format!(
            "is '{node}', but {waiting} events of node '{old}' wait in the spool: start once with node = \"{old}\" until they are shipped"
        );
        return Err(Error::Config { key: "node".into(), problem });
    }
    recovered.next_seqs = BTreeMap::new();
    recovered.segments.values_mut().for_each(|segment| segment.last.clear());
    Ok(())
}

/// Names one life of a spool: the time in milliseconds, for people, and 16 random bits, for clocks that were set back.
fn new_epoch() -> String {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish() as u16;
    format!("{:x}{random:04x}", jiff::Timestamp::now().as_millisecond())
}
