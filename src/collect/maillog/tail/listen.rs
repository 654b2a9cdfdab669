//! The watcher, the clock and the pipeline around [`Tail`].
//!
//! The watcher only says when and where to look; nothing depends on its being right. Every entry is polled besides, and
//! where a folder cannot be watched (a system limit, a network file system) polling is all there is.
//!
//! Files are read on tokio's blocking threads, one group at a time, so a slow disk never stalls the runtime. A group that
//! waits for room in the pipeline stops the reading.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use greypit_pipeline::{Group, Result, Submit};
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::checkpoint::FileId;
use super::file::Now;
use super::follow::{Changes, Filled, Tail};
use super::metrics::Metrics;
use super::records::Records;
use super::{Config, Line, QUIET};
use crate::collect::privacy::Privacy;

/// Most paths the watcher remembers between two looks; beyond it everything is looked at.
const CHANGES_MAX: usize = 1024;
/// How often the lag is brought up to date while a group waits for room.
const MEASURE: Duration = Duration::from_secs(5);
/// Shortest time between two looks that find everything read. It makes one group of what a busy daemon writes meanwhile,
/// rather than one of each line, and adds at most itself to the time a line takes.
const PAUSE: Duration = Duration::from_millis(20);
/// How long to sleep when there is nothing to follow.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// How long a group may wait for room once greypit stops. It is not lost after that: its checkpoint goes with it, so its
/// lines are read again at the next start.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Follows the files of `configs`, inside a Tokio runtime. `node` stands for the host in lines that name none,
/// `recovered` are the spool's checkpoints by source; those of other collectors may be among them.
///
/// When `stop` is cancelled nothing more is read; what has been read is submitted, and the task ends and drops its
/// [`Submit`]. It also ends when the pipeline has.
///
/// # Errors
/// [`greypit_pipeline::Error::Config`] for an entry that cannot be right, a checkpoint that cannot be read, or metrics
/// that are already registered.
pub fn spawn(
    configs: &[Config],
    node: &str,
    privacy: Option<&Privacy>,
    submit: Submit,
    recovered: &HashMap<String, Vec<u8>>,
    registry: &prometheus::Registry,
    stop: CancellationToken,
) -> Result<JoinHandle<()>> {
    let metrics = Metrics::new(registry)?;
    let tail = Tail::new(configs, recovered, &metrics, QUIET)?;
    let mut records = Records::new(configs, node, privacy, &metrics)?;
    let send = move |group| {
        let submit = submit.clone();
        async move { submit.submit(group).await }
    };
    Ok(tokio::spawn(run(tail, move |line: Line<'_>, group: &mut Group| records.add(line, group), send, metrics, stop)))
}

/// Reads and submits until `stop` or until the pipeline has ended.
pub(super) async fn run<R, S, F>(tail: Tail, records: R, mut send: S, metrics: Metrics, stop: CancellationToken)
where
    R: FnMut(Line<'_>, &mut Group) + Send + 'static,
    S: FnMut(Group) -> F + Send,
    F: Future<Output = Result<()>> + Send,
{
    let woken = Arc::new(Woken::default());
    let mut reader = Reader { tail, records, watch: Watch::new(woken.clone()), metrics };
    loop {
        let stepped = Instant::now();
        let changes = woken.take();
        let step = tokio::task::spawn_blocking(move || {
            let filled = reader.step(&changes);
            (reader, filled)
        });
        let filled;
        (reader, filled) = match step.await {
            Ok(done) => done,
            Err(error) => {
                error!(%error, "the log tail has stopped");
                return;
            }
        };
        let Filled { group, more } = filled;
        if !group.is_empty() {
            let submitted;
            (reader, submitted) = submit(reader, send(group), &stop).await;
            match submitted {
                Ok(true) => {}
                Ok(false) => {
                    return info!("stopped before the pipeline had room; reads the last lines again when started");
                }
                Err(error) => return error!(%error, "the log tail has stopped"),
            }
        }
        if stop.is_cancelled() {
            return;
        }
        if more {
            continue;
        }
        let due = reader.tail.next_tick().map_or_else(|| Instant::now() + IDLE_MAX, Instant::from);
        let wake = async {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = woken.notify.notified() => tokio::time::sleep_until(stepped + PAUSE).await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake => {}
        }
    }
}

/// Waits for room. Returns whether the group was submitted, rather than given up because greypit stops.
async fn submit<R: Send + 'static>(
    mut reader: Reader<R>,
    sent: impl Future<Output = Result<()>>,
    stop: &CancellationToken,
) -> (Reader<R>, Result<bool>) {
    let mut sent = std::pin::pin!(sent);
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WAIT).await;
    };
    let mut stopped = std::pin::pin!(stopped);
    loop {
        tokio::select! {
            biased;
            done = &mut sent => return (reader, done.map(|()| true)),
            () = &mut stopped => return (reader, Ok(false)),
            () = tokio::time::sleep(MEASURE) => {}
        }
        let measured = tokio::task::spawn_blocking(move || {
            reader.tail.measure();
            reader
        });
        reader = match measured.await {
            Ok(reader) => reader,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and this task with it.
                Err(_) => std::future::pending().await,
            },
        };
    }
}

/// What moves to the blocking thread and back.
struct Reader<R> {
    tail: Tail,
    records: R,
    watch: Watch,
    metrics: Metrics,
}

impl<R: FnMut(Line<'_>, &mut Group) + Send> Reader<R> {
    fn step(&mut self, changes: &Changes) -> Filled {
        let now = Now::read();
        let due = self.tail.next_tick().is_none_or(|due| due <= now.steady);
        self.tail.wake(changes);
        if due {
            self.tail.tick(now, !self.watch.complete);
        }
        if let Some(folders) = self.tail.folders() {
            if self.watch.cover(&folders) {
                // What changed before the watch began is not reported.
                self.tail.wake(&Changes { all: true, ..Changes::default() });
            }
            self.metrics.watching.set(i64::from(self.watch.complete));
        }
        self.tail.fill(now, &mut self.records)
    }
}

/// Where the watcher's thread leaves word.
#[derive(Default)]
struct Woken {
    changes: Mutex<Changes>,
    notify: Notify,
}

impl Woken {
    fn take(&self) -> Changes {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, event: notify::Result<notify::Event>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if event.need_rescan() => changes.all = true,
            Ok(event) => match event.kind {
                EventKind::Access(_) => return,
                EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => changes.written.extend(event.paths),
                _ => changes.renamed.extend(event.paths),
            },
            Err(_) => changes.all = true,
        }
        if changes.written.len() + changes.renamed.len() > CHANGES_MAX {
            *changes = Changes { all: true, ..Changes::default() };
        }
        drop(changes);
        self.notify.notify_one();
    }
}

/// The folders that are watched.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: HashMap<PathBuf, FileId>,
    /// Whether every folder that exists is watched.
    complete: bool,
    complained: bool,
}

impl Watch {
    fn new(woken: Arc<Woken>) -> Watch {
        let watcher = notify::recommended_watcher(move |event| woken.put(event));
        let watcher = watcher.map_err(|error| warn!(%error, "log files cannot be watched, only polled")).ok();
        let complained = watcher.is_none();
        Watch { watcher, watched: HashMap::new(), complete: false, complained }
    }

    /// Watches these folders and no others. Returns whether a watch was added.
    fn cover(&mut self, folders: &BTreeSet<PathBuf>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let now: HashMap<&PathBuf, FileId> =
            folders.iter().filter_map(|folder| Some((folder, FileId::of(&std::fs::metadata(folder).ok()?)))).collect();
        self.watched.retain(|folder, id| {
            let same = now.get(folder) == Some(id);
            if !same {
                // Fails where the folder is gone, and the watch with it.
                let _ = watcher.unwatch(folder);
            }
            same
        });
        self.complete = true;
        let mut added = false;
        for (folder, id) in now {
            if self.watched.contains_key(folder) {
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.clone(), id);
                    added = true;
                }
                Err(error) => {
                    self.complete = false;
                    if !std::mem::replace(&mut self.complained, true) {
                        warn!(folder = %folder.display(), %error, "cannot be watched, only polled");
                    }
                }
            }
        }
        added
    }
}
