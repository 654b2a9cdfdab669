//! Sockets: listening, the life of a connection, delays, reload and the end.
//!
//! One task a connection. An idle or held connection owns no buffer: packets are read into a buffer that its thread
//! shares, and are handled there and then.

mod accept;
pub mod address;
mod connection;
pub mod socket_file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use greypit_pipeline::{Error, Result};
use prometheus::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::metrics::{Metrics, register_clients};
use crate::policy::Clients;
use crate::session::{Now, Rules, Shared};
use crate::transaction::Sink;

pub use accept::{Bound, bind};

/// How long the end of greypit waits for messages that have begun, and for answers to be sent. In unit tests nothing
/// ends by it.
pub const GRACE: Duration = if cfg!(test) { Duration::from_secs(100) } else { Duration::from_millis(500) };

/// A milter that mail servers are attached to.
#[derive(Debug)]
pub struct Milter {
    state: watch::Sender<State>,
    node: String,
    clients: Arc<Clients>,
    epoch: Instant,
    metrics: Metrics,
}

/// What connections watch.
#[derive(Clone, Debug)]
struct State {
    rules: Arc<Rules>,
    stopping: bool,
}

/// What all connections share.
struct Server {
    shared: Shared,
    epoch: Instant,
    packet_bytes_max: usize,
    connections_max: usize,
    idle: Duration,
    connections: AtomicUsize,
    connection_ids: AtomicU64,
    tarpitted: AtomicUsize,
    tasks: TaskTracker,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("connections", &self.connections).finish_non_exhaustive()
    }
}

impl Server {
    fn now(&self) -> Now {
        Now { steady: self.epoch.elapsed(), wall: SystemTime::now() }
    }

    /// A place among the held connections, if there is one left.
    fn enter_tarpit(self: &Arc<Self>, places: usize) -> Option<Place> {
        let enter = |held: usize| (held < places).then_some(held + 1);
        self.tarpitted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).ok()?;
        self.shared.metrics.tarpitted.inc();
        Some(Place(self.clone()))
    }
}

/// Gives its place back when dropped.
struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.tarpitted.fetch_sub(1, Ordering::Relaxed);
        self.0.shared.metrics.tarpitted.dec();
    }
}

impl Milter {
    /// Starts to serve what was bound, inside a Tokio runtime. The returned task ends, and lets go of `sink`, once
    /// `stop` is cancelled: held answers are given at once, messages that have begun have [`GRACE`] to end.
    ///
    /// # Errors
    /// Where the config or the registry does not allow it.
    pub fn spawn(
        bound: Bound,
        config: &Config,
        node: &str,
        sink: Sink,
        registry: &Registry,
        stop: CancellationToken,
    ) -> Result<(Milter, JoinHandle<()>)> {
        let taken = |error: prometheus::Error| Error::Config { key: "milter".to_owned(), problem: error.to_string() };
        let metrics = Metrics::new(registry).map_err(taken)?;
        let clients = Arc::new(Clients::new(&config.client));
        register_clients(clients.clone(), registry).map_err(taken)?;
        let rules = Arc::new(Rules::new(config, node)?);
        metrics.connections_max.set(config.max_connections as i64);
        let epoch = Instant::now();
        let server = Arc::new(Server {
            shared: Shared { clients: clients.clone(), sink, metrics: metrics.clone() },
            epoch,
            packet_bytes_max: config.max_packet.0 as usize,
            connections_max: config.max_connections,
            idle: config.idle_timeout.0,
            connections: AtomicUsize::new(0),
            connection_ids: AtomicU64::new(1),
            tarpitted: AtomicUsize::new(0),
            tasks: TaskTracker::new(),
        });
        let state = watch::Sender::new(State { rules, stopping: false });
        let milter = Milter { state, node: node.to_owned(), clients, epoch, metrics };
        milter.publish_limits();
        let state = milter.state.clone();
        for listener in bound.into_listeners()? {
            server.tasks.spawn(accept::run(listener, server.clone(), state.subscribe()));
        }
        let task = tokio::spawn(async move {
            stop.cancelled().await;
            state.send_modify(|state| state.stopping = true);
            server.tasks.close();
            if tokio::time::timeout(2 * GRACE, server.tasks.wait()).await.is_err() {
                tracing::warn!(left = server.tasks.len(), "milter: connections did not end in time");
            }
        });
        Ok((milter, task))
    }

    /// What it counts by client, and the moment since which it takes the time for that.
    #[must_use]
    pub fn clients(&self) -> (Arc<Clients>, Instant) {
        (self.clients.clone(), self.epoch)
    }

    /// Takes another policy. Connections and what was counted stay; an answer that waits longer than the new policy
    /// would have it is given at once. What [`Config::takes_while_running`] does not name stays as it was.
    ///
    /// # Errors
    /// Names the key that cannot be right; then everything stays as it was.
    pub fn reload(&self, config: &Config) -> Result<()> {
        let rules = Arc::new(Rules::new(config, &self.node)?);
        if self.clients.reconfigure(&config.client) {
            tracing::info!("milter.client counts anew: its window or a prefix has changed");
        }
        self.state.send_modify(|state| state.rules = rules);
        self.publish_limits();
        Ok(())
    }

    fn publish_limits(&self) {
        self.metrics.tarpitted_max.set(self.state.borrow().rules.tarpitted_max as i64);
    }
}
