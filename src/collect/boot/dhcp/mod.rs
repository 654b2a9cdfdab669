//! DHCPv4 and BOOTP.
//!
//! | | |
//! |---|---|
//! | [`server`] and what it uses | what is answered, and why: pure |
//! | [`packet`], [`arp`], [`capture`] | other formats on the wire: pure |
//! | [`sockets`], [`read`], [`deliver`] | the sockets |
//! | [`listen`] | the thread that owns the server |
//! | [`writer`], [`leases`] | the thread that makes leases durable |
//! | [`clock`] | the time by which leases end |

mod answer;
mod arp;
mod board;
mod book;
mod bootfile;
mod capture;
mod class;
mod clock;
pub(crate) mod config;
mod deliver;
mod event;
mod foreign;
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod leases;
mod limits;
mod listen;
mod metrics;
#[cfg(test)]
mod model;
mod outcome;
pub mod packet;
mod pool;
mod read;
mod serve;
pub(crate) mod server;
mod sockets;
#[cfg(test)]
mod states;
#[cfg(test)]
mod testing;
mod why;
mod wire;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use greypit_pipeline::{Error, Health, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::board::{Board, Trouble};
use self::clock::{Clock, Reading};
use self::deliver::Delivery;
use self::listen::{Listener, Stop};
pub(crate) use self::metrics::Metrics;
use self::server::Server;
use self::sockets::Sockets;
use self::writer::Reply;
use super::config::Mode;
use super::net::Interface;
use super::world::World;

/// The ports of DHCP (RFC 2131 §4.1), and that of boot servers (PXE 2.1).
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const BOOT_PORT: u16 = 4011;

/// Sockets that are bound and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    sockets: Vec<Sockets>,
}

impl Bound {
    /// For people: `dhcp eth1 10.0.0.1:67`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.sockets.iter().flat_map(Sockets::addresses).collect()
    }
}

/// Binds the interfaces.
///
/// # Errors
/// [`Error::Config`] for `boot.interface`, with what to do.
pub(crate) fn bind(config: &super::Config, interfaces: &[Interface]) -> Result<Bound> {
    let sockets = interfaces.iter().map(|interface| Sockets::open(config, interface)).collect::<Result<_>>()?;
    Ok(Bound { sockets })
}

/// Whether it could bind an interface that is not there yet, as far as that shows.
///
/// # Errors
/// As [`bind`].
pub(crate) fn try_without(config: &super::Config) -> Result<()> {
    config.interface.first().map_or(Ok(()), |name| sockets::try_packets(name))
}

/// Recovers the leases and answers until `stop`. Leases that are damaged keep DHCP alone from answering, which `/readyz`
/// says: mail and the other protocols do not wait for a person.
///
/// # Errors
/// The disk's, and where there is no thread.
pub(crate) fn spawn(
    bound: Bound,
    world: Arc<World>,
    data_dir: &Path,
    health: &Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let refused = |problem: String| Error::Config { key: "boot.dhcp".to_owned(), problem };
    let no_thread = |error: io::Error| refused(format!("its thread cannot be started: {error}"));
    let board = Arc::new(Board::new(health));
    let (log, leases, clock) = match world.config.mode {
        Mode::Serve => match leases::Log::open(&data_dir.join("boot"), Reading::now()) {
            Ok((log, leases, clock)) => (Some(log), leases, clock),
            // A person decides what becomes of them.
            Err(error @ Error::Damaged { .. }) => {
                tracing::error!(%error, "DHCP does not answer");
                board
                    .set(Trouble::Leases, Some(format!("DHCP does not answer until greypit is started anew: {error}")));
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        },
        // Neither gives addresses.
        Mode::Proxy | Mode::Listen => (None, Vec::new(), Clock::resume(None, Reading::now())),
    };
    let (networks, machines, sessions) = (world.networks.clone(), world.machines.clone(), world.sessions.clone());
    let server = Server::new(&world.config, networks, machines, sessions, leases, clock.now());
    let server = server.with_names(world.names.clone());
    let delivery = Arc::new(Delivery::new(world, metrics.clone(), bound.sockets));

    let (queue, writer) = match log {
        None => (None, None),
        Some(log) => {
            let (queue, writer) =
                write_leases(log, clock, &metrics, delivery.clone(), board.clone()).map_err(no_thread)?;
            (Some(queue), Some(writer))
        }
    };
    let listener = Listener::new(server, clock, delivery, queue, board.clone());
    let wakes = Arc::new(Stop::new().map_err(no_thread)?);
    let (ended, end) = oneshot::channel::<()>();
    let thread = {
        let wakes = wakes.clone();
        let run = move || {
            // Dropped when the thread ends, however that is.
            let _ended = ended;
            // Which drops the queue, and so ends the lease thread when all is written.
            listener.run(&wakes);
            writer.map_or(Ok(()), thread::JoinHandle::join)
        };
        thread::Builder::new().name("dhcp".to_owned()).spawn(run).map_err(no_thread)?
    };
    let watching = async move {
        tokio::select! {
            () = stop.cancelled() => wakes.tell(),
            // It never ends by itself but by a panic, which has said what it is.
            _ = end => board.set(Trouble::Leases, Some("DHCP has ended; restart greypit".to_owned())),
        }
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(Ok(())))) {
            tracing::error!("DHCP ended badly");
        }
    };
    Ok(vec![tokio::spawn(watching)])
}

/// Starts the thread that writes leases; it ends when the queue is dropped.
fn write_leases(
    mut log: leases::Log,
    clock: Clock,
    metrics: &Metrics,
    delivery: Arc<Delivery>,
    board: Arc<Board>,
) -> io::Result<(writer::Queue, thread::JoinHandle<()>)> {
    let seconds = metrics.commit_seconds.clone();
    let finish = move |reply: Reply, unsent| {
        let received = reply.received;
        delivery.finish(reply, unsent);
        seconds.observe(received.elapsed().as_secs_f64());
    };
    let says = board.clone();
    let trouble = move |error: Option<&io::Error>| {
        let reason = error.map(|error| format!("leases cannot be written, so none are given: {error}"));
        says.set(Trouble::Leases, reason);
    };
    let append = move |changes: &[leases::Change]| log.append(changes, clock.now());
    let ended = Ended(board);
    let (queue, writer) = writer::new(metrics, append, finish, trouble);
    let thread = thread::Builder::new().name("dhcp-leases".to_owned()).spawn(move || {
        let _ended = ended;
        writer.run();
    })?;
    Ok((queue, thread))
}

/// Says that the lease thread has ended by a fault of ours; without it no address is given.
struct Ended(Arc<Board>);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.set(Trouble::Leases, Some("the thread that writes leases has ended; restart greypit".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
