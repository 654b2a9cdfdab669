//! Reads objects several at a time and hands over what came of each in the order of their keys.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use greypit_pipeline::store::{Store, StoreError};

use super::super::Stop;
use super::super::progress::Progress;
use super::Selected;

/// How often a read is tried when the store is busy or the line is bad.
const ATTEMPTS_MAX: u32 = 4;

/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

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
    let (mut progress, mut done, total) = (Progress::new(progress), 0, objects.len());
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
        done += 1;
        progress.say(|| format!("{done} of {total} objects"));
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
