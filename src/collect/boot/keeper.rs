//! Looks at the interfaces and keeps them served: an interface that is missing, down or without an address is waited for,
//! and one that is another one than it was is bound anew. The start is no other case: nothing is served yet.
//!
//! Once every [`LOOK`] the kernel is asked. Those interfaces that are there are served, and the others waited for:
//! - one that appears, or has another address, network or kernel number: all parts end in order, as at greypit's end
//!   (transfers have two seconds), and everything is bound anew. Leases, sessions, names and counters stay;
//! - one that goes away or down keeps its sockets, so that when it is back as it was nothing has happened;
//! - another card of the same interface is taken note of.
//!
//! What does not fit the interfaces as they are now (a pool outside of their networks, machine files that are not right, a
//! folder that is not mounted, a port that is taken on one that is not served yet, a disk that is full) is said and tried
//! again every [`AGAIN`], or as soon as they are others; what is served meanwhile stays. Policy is whole or none: where a
//! machine's files are not right nothing is bound, or it would boot as one that has no files. Interfaces whose address is
//! not known yet may have any server's folder, so while one is waited for the files of all are looked at.
//!
//! The part `boot` of `/readyz` is held while anything is waited for, with the reason; `greypit_boot_interfaces_down`
//! counts what is.

use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::{Error, Result};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::life::{Kept, Life, Plan};
use super::machines::catalog::Catalog;
use super::net::{Interface, Look};

/// How often the interfaces are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long what has failed is left alone, or [`REST`] times as long as reading took, but at most [`AGAIN_MAX`].
const AGAIN: Duration = Duration::from_secs(5);
const REST: u32 = 10;
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// How long reading may take before that is said, and how long the others' start waits for the first look: a file system
/// that hangs is to hold up nobody.
const READING_MAX: Duration = Duration::from_secs(10);

/// How long the end of greypit waits for what is served.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// The part on the board.
const PART: &str = "boot";

/// Owns whatever serves.
#[derive(Debug)]
pub(super) struct Keeper {
    kept: Arc<Kept>,
    life: Option<Life>,
    /// The last life's, also where binding it anew has failed since.
    last: Option<Catalog>,
    /// Each interface as it was served last.
    known: Vec<Interface>,
    tried: Option<Tried>,
    stop: CancellationToken,
}

/// What came of the last try to serve other interfaces than those that are.
#[derive(Debug)]
struct Tried {
    interfaces: Vec<Interface>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    problem: String,
    /// When it is to be tried again.
    again: Instant,
}

impl Keeper {
    /// Starts its task, inside a Tokio runtime, and waits for its first look.
    pub(super) async fn start(kept: Kept, stop: CancellationToken) -> JoinHandle<()> {
        let keeper = Keeper { kept: Arc::new(kept), life: None, last: None, known: Vec::new(), tried: None, stop };
        let (looked, first) = oneshot::channel();
        let task = tokio::spawn(keeper.run(looked));
        let _ = tokio::time::timeout(READING_MAX, first).await;
        task
    }

    fn serves(&mut self, life: Life) {
        for now in life.interfaces() {
            self.known.retain(|before| before.name != now.name);
            self.known.push(now.clone());
        }
        self.last = Some(life.world.machines.clone());
        self.life = Some(life);
    }

    /// Works until it is told to stop, and ends when all is ended.
    async fn run(mut self, looked: oneshot::Sender<()>) {
        self.look().await;
        let _ = looked.send(());
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(LOOK) => self.look().await,
            }
        }
        if let Some(life) = self.life.take()
            && tokio::time::timeout(ENDING_MAX, life.end()).await.is_err()
        {
            tracing::warn!(
                "boot has not ended within {ENDING_MAX:?}: what it reads from does not answer; it is left behind"
            );
        }
        self.kept.audit.close();
    }

    fn served(&self) -> &[Interface] {
        self.life.as_ref().map_or(&[], Life::interfaces)
    }

    async fn look(&mut self) {
        let (names, known) = (self.kept.config.interface.clone(), self.known.clone());
        let look = match blocking(move || Look::now(&names, &known)).await {
            Ok(look) => look,
            Err(error) => return self.kept.health.held(PART, error.to_string()),
        };
        for before in self.served() {
            if let Some(now) = look.present.iter().find(|now| now.is(before)) {
                before.card.set(now.card.mac());
            }
        }
        if self.life.is_some() && !look.has_news(self.served()) {
            self.tried = None;
        } else if self.tried.as_ref().is_none_or(|tried| tried.is_over(&look)) {
            let Some(tried) = self.attempt(look.present.clone()).await else { return };
            self.tried = Some(tried);
        }
        self.say(&look);
    }

    /// Tries to serve these interfaces in place of those before; `None` where greypit is to end meanwhile.
    async fn attempt(&mut self, interfaces: Vec<Interface>) -> Option<Tried> {
        let began = Instant::now();
        let plan = self.plan(interfaces.clone());
        tokio::pin!(plan);
        let plan = loop {
            tokio::select! {
                biased;
                // A file system that hangs does not hold up the end.
                () = self.stop.cancelled() => return None,
                plan = &mut plan => break plan,
                () = tokio::time::sleep_until(began + READING_MAX), if began.elapsed() < READING_MAX => {
                    self.kept.health.held(PART, "boot.dir or boot.root is still being read: what it is on does not answer");
                }
            }
        };
        let pause = began.elapsed().saturating_mul(REST).clamp(AGAIN, AGAIN_MAX);
        let served = match plan {
            Ok(plan) if plan.is_empty() => Ok(()),
            Ok(plan) => self.serve(plan).await,
            Err(error) => Err(error),
        };
        let failed = served.err().map(|error| Failed { problem: error.to_string(), again: Instant::now() + pause });
        Some(Tried { interfaces, failed })
    }

    /// On the board, which logs what is new.
    fn say(&self, look: &Look) {
        self.kept.metrics.interfaces_down.set(look.absent.len() as i64);
        let failed = self.tried.as_ref().and_then(|tried| tried.failed.as_ref());
        let reasons: Vec<_> = look.waits_for().into_iter().chain(failed.map(|failed| failed.problem.clone())).collect();
        match reasons.is_empty() {
            true => self.kept.health.ok(PART),
            false => self.kept.health.held(PART, reasons.join("; ")),
        }
    }

    /// Reads what it takes to serve these interfaces in place of those before.
    fn plan(&self, interfaces: Vec<Interface>) -> impl Future<Output = Result<Plan>> + use<> {
        // Nothing that the end waits for, as the pipeline does for whoever may submit.
        let (config, data_dir) = (self.kept.config.clone(), self.kept.data_dir.clone());
        let (before, served) = (self.last.clone(), self.served().to_vec());
        blocking(move || {
            let plan = Plan::new(&config, &data_dir, interfaces, before)?;
            plan.try_others(&config, &served)?;
            Ok(plan)
        })
    }

    /// Serves what is planned in place of what was before.
    async fn serve(&mut self, plan: Plan) -> Result<()> {
        if let Some(life) = self.life.take() {
            self.kept.health.held(PART, "the interfaces have changed: boot ends what it does, and binds them anew");
            life.end().await;
        }
        // Reading the leases may take its time.
        let (kept, stop) = (self.kept.clone(), self.stop.clone());
        let life = blocking(move || {
            let bound = plan.bind(&kept.config)?;
            let addresses = bound.addresses();
            Life::begin(bound, &kept, &stop).map(|life| (life, addresses))
        });
        let (life, addresses) = life.await?;
        tracing::info!(addresses = addresses.join(", "), "boot listens");
        self.serves(life);
        Ok(())
    }
}

impl Tried {
    /// Whether it is to be tried again: after a while where it failed, or where the interfaces are others.
    fn is_over(&self, look: &Look) -> bool {
        let is_due = self.failed.as_ref().is_some_and(|failed| failed.again <= Instant::now());
        is_due || look.has_news(&self.interfaces) || look.lacks(&self.interfaces)
    }
}

/// What may wait for the kernel or the disk, beside the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Error::Config { key: "boot".into(), problem: error.to_string() }))
}
