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
//! port that is taken) is said and tried again every [`AGAIN`]; what is served meanwhile stays as long as it can.
//!
//! The part `boot` of `/readyz` is held while anything is waited for, with the reason; `greypit_boot_interfaces_down`
//! counts what is.

use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::{Error, Result};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::life::{Kept, Life, Plan};
use super::net::{Interface, Look};

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
    /// Why the interfaces as they are cannot be bound, and when that showed.
    failed: Option<(Instant, String)>,
    stop: CancellationToken,
}

impl Keeper {
    /// `life`: what is served already.
    pub(super) fn new(kept: Kept, life: Option<Life>, stop: CancellationToken) -> Keeper {
        Keeper { kept: Arc::new(kept), life, failed: None, stop }
    }

    /// Says what is waited for at the start.
    pub(super) fn first(&self, look: &Look) {
        self.say(look);
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
        let (names, served) = (self.kept.config.interface.clone(), self.served().to_vec());
        let look = match blocking(move || Look::now(&names, &served)).await {
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
        } else if self.failed.as_ref().is_none_or(|(at, _)| at.elapsed() >= AGAIN) {
            let bound = self.bind_anew(look.present.clone()).await;
            self.failed = bound.err().map(|error| (Instant::now(), error.to_string()));
        }
        self.say(&look);
    }

    /// On the board, which logs what is new.
    fn say(&self, look: &Look) {
        self.kept.metrics.interfaces_down.set(look.absent.len() as i64);
        let failed = self.failed.as_ref().map(|(_, problem)| problem.clone());
        let reasons: Vec<_> = look.waits_for().into_iter().chain(failed).collect();
        match reasons.is_empty() {
            true => self.kept.health.ok(PART),
            false => self.kept.health.held(PART, reasons.join("; ")),
        }
    }

    /// Serves these interfaces in place of those before.
    async fn bind_anew(&mut self, interfaces: Vec<Interface>) -> Result<()> {
        let (kept, before) = (self.kept.clone(), self.life.as_ref().map(|life| life.world.clone()));
        let plan = blocking(move || Plan::new(&kept.config, interfaces, before.as_deref())).await?;
        if let Some(life) = self.life.take() {
            tracing::info!("the interfaces have changed: boot ends what it does, and binds them anew");
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
        self.life = Some(life);
        Ok(())
    }
}

/// What may wait for the kernel or the disk, beside the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Error::Config { key: "boot".into(), problem: error.to_string() }))
}
