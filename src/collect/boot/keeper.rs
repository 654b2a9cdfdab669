//! Looks at the interfaces and keeps them served: an interface that is missing, down or without an address is waited for,
//! and one that is another one than it was is bound anew.
//!
//! Once every [`LOOK`] the kernel is asked. Those interfaces that are there are served, and the others waited for:
//! - one that appears, or has another address, network or kernel number: all parts end in order, as at greypit's end
//!   (transfers have two seconds), and everything is bound anew. Leases, sessions, names and counters stay;
//! - one that goes away or down keeps its sockets, so that when it is back as it was nothing has happened;
//! - another card of the same interface is taken note of.
//!
//! What does not fit the interfaces as they are now (a pool outside of their networks, machine files that are not right, a
//! port that is taken on one that is not served yet, a disk that is full) is said and tried again every [`AGAIN`], or as
//! soon as they are others; what is served meanwhile stays.
//!
//! The part `boot` of `/readyz` is held while anything is waited for, with the reason; `greypit_boot_interfaces_down`
//! counts what is.

use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::{Error, Result};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::life::{Bound, Kept, Life, Plan};
use super::net::{Interface, Look};
use super::world::World;

/// How often the interfaces are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long binding is left alone once it has failed.
const AGAIN: Duration = Duration::from_secs(5);

/// The part on the board.
const PART: &str = "boot";

/// Owns whatever serves.
#[derive(Debug)]
pub(super) struct Keeper {
    kept: Arc<Kept>,
    life: Option<Life>,
    /// The last life's world, also where binding it anew has failed since.
    last: Option<Arc<World>>,
    /// Each interface as it was served last.
    known: Vec<Interface>,
    failed: Option<Failed>,
    stop: CancellationToken,
}

/// Why these interfaces cannot be bound, and when that showed.
#[derive(Debug)]
struct Failed {
    at: Instant,
    interfaces: Vec<Interface>,
    problem: String,
}

impl Keeper {
    pub(super) fn new(kept: Kept, stop: CancellationToken) -> Keeper {
        Keeper { kept: Arc::new(kept), life: None, last: None, known: Vec::new(), failed: None, stop }
    }

    /// Serves what is bound at the start, and says what is waited for, a disk too.
    ///
    /// # Errors
    /// What only a restart mends.
    pub(super) fn first(&mut self, bound: Option<Bound>, look: &Look) -> Result<()> {
        match bound.map(|bound| Life::begin(bound, &self.kept, &self.stop)) {
            None => {}
            Some(Ok(life)) => self.serves(life),
            Some(Err(error @ Error::Io { .. })) => self.fails(&look.present, &error),
            Some(Err(error)) => return Err(error),
        }
        self.say(look);
        Ok(())
    }

    fn serves(&mut self, life: Life) {
        for now in life.interfaces() {
            self.known.retain(|before| before.name != now.name);
            self.known.push(now.clone());
        }
        self.last = Some(life.world.clone());
        (self.life, self.failed) = (Some(life), None);
    }

    fn fails(&mut self, interfaces: &[Interface], error: &Error) {
        let (interfaces, problem) = (interfaces.to_vec(), error.to_string());
        self.failed = Some(Failed { at: Instant::now(), interfaces, problem });
    }

    /// Works until it is told to stop, and ends when all is ended.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.look().await;
        }
        if let Some(life) = self.life.take() {
            life.end().await;
        }
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
        if !look.has_news(self.served()) {
            self.failed = None;
        } else if self.failed.as_ref().is_none_or(|failed| failed.is_over(&look))
            && let Err(error) = self.bind_anew(look.present.clone()).await
        {
            self.fails(&look.present, &error);
        }
        self.say(&look);
    }

    /// On the board, which logs what is new.
    fn say(&self, look: &Look) {
        self.kept.metrics.interfaces_down.set(look.absent.len() as i64);
        let failed = self.failed.as_ref().map(|failed| failed.problem.clone());
        let reasons: Vec<_> = look.waits_for().into_iter().chain(failed).collect();
        match reasons.is_empty() {
            true => self.kept.health.ok(PART),
            false => self.kept.health.held(PART, reasons.join("; ")),
        }
    }

    /// Serves these interfaces in place of those before.
    async fn bind_anew(&mut self, interfaces: Vec<Interface>) -> Result<()> {
        let (kept, before, served) = (self.kept.clone(), self.last.clone(), self.served().to_vec());
        let plan = blocking(move || {
            let plan = Plan::new(&kept.config, interfaces, before.as_deref())?;
            plan.try_others(&kept.config, &served)?;
            Ok(plan)
        });
        let plan = plan.await?;
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

impl Failed {
    /// Whether it is to be tried again: after a while, or where the interfaces are others.
    fn is_over(&self, look: &Look) -> bool {
        self.at.elapsed() >= AGAIN || look.has_news(&self.interfaces) || look.lacks(&self.interfaces)
    }
}

/// What may wait for the kernel or the disk, beside the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Error::Config { key: "boot".into(), problem: error.to_string() }))
}
