//! HTTP boot: UEFI firmware, iPXE and boot loaders fetch files over HTTP/1.1 and 1.0 (RFC 9110, 9112).
//!
//! * `GET` and `HEAD` of a file below `boot.root`, or of the machine's script, `/boot.ipxe`; anything else is 405. The
//!   path's escapes are undone, then it is a name as in TFTP (see [`super::files`]): slashes that repeat are one, and there
//!   is never a redirect, which firmware would not follow.
//! * Every answer has a `Content-Length`. One range of bytes may be asked for (206, 416); several are left alone.
//! * What is refused says why on one line: 400 a path that is none, 403 a name or a machine that may not, 404 no such file,
//!   500 a script that cannot be made. `Host` says nothing.
//! * A peer outside of our networks is closed unread.
//!
//! Limits: `boot.http.max_connections` (others wait in the kernel's queue) and `max_connections_per_client` (others are
//! closed); 16 KiB of headers; 30 s for a request; an answer takes as long as it needs while its peer takes 64 KiB a minute;
//! a day for a connection. Two chunks of 128 KiB of each answer are in memory.
//!
//! End: no new connections or requests; answers have two seconds.

mod body;
pub(crate) mod config;
mod metrics;
mod report;
mod request;
mod serve;
mod watch;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use greypit_pipeline::Result;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::config::Config;
pub(crate) use self::metrics::Metrics;
use self::serve::Shared;
use self::watch::Pace;
use super::bound::Bound;
use super::net::Interface;
use super::places::Places;
use super::world::World;
use crate::collect::complaints::Complaints;

/// What the kernel holds of connections that are not accepted yet.
const BACKLOG: i32 = 1024;

/// Where `server` gives out files by HTTP, with no slash at its end; `None` where that is off.
pub(crate) fn base(server: Ipv4Addr, port: u16) -> Option<String> {
    match port {
        0 => None,
        80 => Some(format!("http://{server}")),
        port => Some(format!("http://{server}:{port}")),
    }
}

/// Binds the interfaces' addresses.
///
/// # Errors
/// [`greypit_pipeline::Error::Config`] for `boot.http.port`, with what to do.
pub(crate) fn bind(config: &Config, interfaces: &[Interface]) -> Result<Bound> {
    Bound::open("http", "-tlnp", config.port, interfaces, open)
}

fn open(wanted: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    // Connections of the process before may still be closing.
    socket.set_reuse_address(true)?;
    socket.bind(&wanted.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Answers until `stop`; the last task ends when the last connection has.
///
/// # Errors
/// Where the sockets cannot be read by Tokio.
pub(crate) fn spawn(
    bound: Bound,
    world: Arc<World>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    spawn_with(bound, world, metrics, stop, Pace::LEAST)
}

fn spawn_with(
    bound: Bound,
    world: Arc<World>,
    metrics: Metrics,
    stop: CancellationToken,
    pace: Pace,
) -> Result<Vec<JoinHandle<()>>> {
    let config = &world.config.http;
    let shared = Arc::new(Shared {
        metrics,
        connections: Arc::new(Semaphore::new(config.max_connections)),
        clients: Places::new(config.max_connections, config.max_connections_per_client),
        stop: stop.clone(),
        tasks: TaskTracker::new(),
        pace,
        complaints: Complaints::default(),
        world,
    });
    bound.spawn(&shared.tasks, stop, |socket, _| Ok(serve::run(TcpListener::from_std(socket.into())?, shared.clone())))
}

#[cfg(test)]
mod tests;
