//! TFTP, read only: RFC 1350, 2347, 2348, 2349, 7440.
//!
//! | file | what it knows |
//! |---|---|
//! | `wire` | packets, pure |
//! | `negotiate` | options, pure |
//! | `transfer` | one transfer: windows, timeouts; pure |
//! | `netascii` | lines |
//! | `table` | which transfers go on |
//! | `listen` | port 69 |
//! | `serve`, `socket` | a thread a transfer, with a socket connected to the client |
//!
//! A blocking thread a transfer, since lock-step TFTP is one wake-up a block, and that is where its time goes. In
//! single-port mode (clients behind NAT, a server in a container) the transfer's socket has port 69 too: the kernel gives
//! packets of a client to the socket that is connected to it.
//!
//! Limits: `boot.tftp.max_transfers` threads of 256 KiB stack, 256 KiB of file read ahead and a window of at most 1 MiB;
//! `max_transfers_per_client`; `max_file`; `max_duration`; a request of 1024 bytes; 5 retransmissions of the same in a
//! row. A peer outside of our networks gets no answer, nor does a request above the limits (it comes again by itself).
//! Whose client has not answered within 15 seconds is gone, and gives its place up sooner where others need it, see
//! `table`; it looks every 50 milliseconds, and so long there may be a thread more.
//!
//! What that does not help against: in single-port mode, where the port is known, whoever can send in another's name can
//! acknowledge in its name too.
//!
//! End: no new transfers; those that go on have two seconds, then the client is told.

pub(crate) mod config;
mod listen;
mod metrics;
mod negotiate;
mod netascii;
mod serve;
mod socket;
mod table;
mod transfer;
pub mod wire;

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::Result;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::config::Config;
use self::listen::{Door, Shared};
pub(crate) use self::metrics::Metrics;
use super::bound::Bound;
use super::net::Interface;
use super::world::World;

/// How long transfers may go on once greypit ends.
const STOPPING_MAX: Duration = Duration::from_secs(2);

/// Binds the interfaces' addresses.
///
/// # Errors
/// [`greypit_pipeline::Error::Config`] for `boot.tftp.port`, with what to do.
pub(crate) fn bind(config: &Config, interfaces: &[Interface]) -> Result<Bound> {
    Bound::open("tftp", "-ulnp", config.port, interfaces, |wanted| open(wanted, config.single_port))
}

fn open(wanted: SocketAddrV4, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.bind(&wanted.into())?;
    if shared {
        // Only now: so it fails where another process has the address, even one that would share it.
        socket.set_reuse_address(true)?;
    }
    Ok(socket)
}

/// Answers until `stop`; the last task ends when the last transfer has.
///
/// # Errors
/// Where the sockets cannot be read by Tokio.
pub(crate) fn spawn(
    bound: Bound,
    world: Arc<World>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    spawn_with(bound, world, metrics, stop, STOPPING_MAX)
}

fn spawn_with(
    bound: Bound,
    world: Arc<World>,
    metrics: Metrics,
    stop: CancellationToken,
    stopping_max: Duration,
) -> Result<Vec<JoinHandle<()>>> {
    let shared = Arc::new(Shared::new(world, metrics, stop.clone(), stopping_max));
    bound.spawn(&shared.transfers, stop, |socket, address| {
        let door = Arc::new(Door { socket: UdpSocket::from_std(socket.into())?, address });
        Ok(listen::run(door, shared.clone()))
    })
}

#[cfg(test)]
mod tests;
