//! Reads objects several at a time and hands over what came of each in the order of their keys.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use greypit_pipeline::store::{Store, StoreError};

use super::super::Stop;
use super::Selected;

/// How often a read is tried when the store is busy or the line is bad.
const ATTEMPTS_MAX: u32 = 4;

/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(200);

/// An object and its bytes, as stored.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) object: Selected,
    pub(crate) bytes: Bytes,
}

/// How many objects are read at a time: one a core, and one on its way.
fn parallel() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// Fetches every object, does `work` with it on a thread of its own, and gives `take` the results by key. Memory is bounded
/// by [`parallel`] objects. An object that vanished since it was listed is told on stderr and passed over.
pub(crate) async fn for_each<T: Send + 'static>(
    store: &Store,
    objects: Vec<Selected>,
    progress: bool,
    work: impl Fn(Fetched) -> T + Send + Sync + 'static,
    mut take: impl FnMut(T) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let work = Arc::new(work);
    let mut progress = Progress::new(progress, objects.len());
    let mut waiting = objects.into_iter();
    let mut running = VecDeque::new();
    loop {
        while running.len() < parallel()
            && let Some(object) = waiting.next()
        {
            let (store, work) = (store.clone(), work.clone());
            running.push_back(tokio::spawn(async move {
                let bytes = fetch(&store, &object.key).await?;
                let worked = tokio::task::spawn_blocking(move || work(Fetched { object, bytes })).await;
                worked.map_err(|error| Problem::Worker(error.to_string()))
            }));
        }
        let Some(next) = running.pop_front() else { break };
        match next.await.unwrap_or_else(|error| Err(Problem::Worker(error.to_string()))) {
            Ok(done) => take(done)?,
            Err(Problem::Store(error)) if error.class == "not_found" => {
                progress.clear();
                eprintln!("greypit: {error}: passed over");
            }
            Err(Problem::Store(error)) => {
                progress.clear();
                return Err(Stop::Say(error.to_string()));
            }
            Err(Problem::Worker(why)) => return Err(Stop::Say(why)),
        }
        progress.step();
    }
    progress.clear();
    Ok(())
}

enum Problem {
    Store(StoreError),
    Worker(String),
}

async fn fetch(store: &Store, key: &str) -> Result<Bytes, Problem> {
    let mut attempt = 1;
    let mut pause = PAUSE;
    loop {
        match store.get(key).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if attempt < ATTEMPTS_MAX && may_pass(&error) => {
                tokio::time::sleep(pause).await;
                attempt += 1;
                pause *= 2;
            }
            Err(error) => return Err(Problem::Store(error)),
        }
    }
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error.class, "throttled" | "server" | "network" | "timeout")
}

/// `12 of 340 objects` on a terminal.
#[derive(Debug)]
struct Progress {
    shown: bool,
    done: usize,
    total: usize,
    last: Instant,
    drawn: bool,
}

impl Progress {
    fn new(wanted: bool, total: usize) -> Progress {
        Progress {
            shown: wanted && std::io::stderr().is_terminal(),
            done: 0,
            total,
            last: Instant::now(),
            drawn: false,
        }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.shown && self.last.elapsed() >= PROGRESS {
            eprint!("\r{} of {} objects", self.done, self.total);
            self.last = Instant::now();
            self.drawn = true;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
        }
    }
}
