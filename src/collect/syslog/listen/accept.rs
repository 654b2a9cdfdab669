//! Connections as they come: TCP (RFC 6587), TLS (RFC 5425) and unix streams, each a task of its own within the limits.
//!
//! At a limit of connections a new one is accepted, closed and counted: left in the backlog it would look alive to its
//! sender, who could not know that nobody reads.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::metrics::Transport;
use super::peers::Place;
use super::stream::{Direct, From, serve};
use super::tls::{self, Tls};
use super::{DRAIN_MAX, Shared, unix};

/// Pause after a failed accept, as EMFILE would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections come to.
#[derive(Debug)]
pub(super) enum Door {
    Tcp(TcpListener),
    Tls(TcpListener, Tls),
    Unix(UnixListener),
}

enum Guest {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl Guest {
    fn tcp(stream: TcpStream, peer: SocketAddr) -> Guest {
        Guest::Tcp(stream, peer.ip().to_canonical())
    }
}

impl Door {
    async fn accept(&self) -> io::Result<Guest> {
        match self {
            Door::Tcp(listener) | Door::Tls(listener, _) => {
                listener.accept().await.map(|(stream, peer)| Guest::tcp(stream, peer))
            }
            Door::Unix(listener) => listener.accept().await.map(|(stream, _)| Guest::Unix(stream)),
        }
    }

    /// One that the kernel has already, past the runtime.
    fn accept_now(&self) -> io::Result<Guest> {
        let fd = match self {
            Door::Tcp(listener) | Door::Tls(listener, _) => listener.as_fd(),
            Door::Unix(listener) => listener.as_fd(),
        };
        let accepted = rustix::net::accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        match self {
            Door::Unix(_) => UnixStream::from_std(accepted.into()).map(Guest::Unix),
            _ => {
                let stream = TcpStream::from_std(accepted.into())?;
                let peer = stream.peer_addr()?;
                Ok(Guest::tcp(stream, peer))
            }
        }
    }
}

/// Serves `door` until the token is cancelled, and those who came through it until what they sent by then is read.
pub(super) async fn run(door: Door, shared: Arc<Shared>) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok(guest) => begin(guest, &door, &shared, &connections),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(unlogged) = shared.complaints.allow() {
                    tracing::warn!(%error, unlogged, "cannot accept syslog connections: raise LimitNOFILE?");
                }
                tokio::select! {
                    () = shared.stop.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    // Those who connected before the stop may have written already.
    let deadline = Instant::now() + DRAIN_MAX;
    while let Ok(guest) = door.accept_now() {
        begin(guest, &door, &shared, &connections);
        if Instant::now() >= deadline {
            break;
        }
    }
    drop(door);
    connections.close();
    connections.wait().await;
}

fn begin(guest: Guest, door: &Door, shared: &Arc<Shared>, connections: &TaskTracker) {
    let peer = match &guest {
        Guest::Tcp(_, peer) => Some(*peer),
        Guest::Unix(_) => None,
    };
    let refuse = |key: &str| {
        if let Some(unlogged) = shared.complaints.allow() {
            let peer = peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string());
            tracing::warn!(peer, unlogged, "connection refused: syslog.{key} reached");
        }
    };
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        shared.metrics.refused_total.inc();
        return refuse("max_connections");
    };
    let place = match peer.map(|peer| shared.peers.connect(peer)) {
        Some(None) => {
            shared.metrics.refused_peer.inc();
            return refuse("max_connections_per_peer");
        }
        place => place.flatten(),
    };
    shared.metrics.connections.inc();
    let open = Open { shared: shared.clone(), place: Some((permit, place)) };
    match (guest, door) {
        (Guest::Tcp(stream, peer), Door::Tls(_, tls)) => {
            keep_alive(&stream);
            let acceptor = TlsAcceptor::from(tls.current());
            connections.spawn(async move { over_tls(stream, peer, acceptor, &open.shared).await });
        }
        (Guest::Tcp(stream, peer), _) => {
            keep_alive(&stream);
            connections.spawn(async move {
                serve(Direct::new(stream), From::Ip(peer), Transport::Tcp, &open.shared).await;
            });
        }
        (Guest::Unix(stream), _) => {
            let from = stream.peer_cred().map(|peer| unix::peer_text(peer.pid().unwrap_or(0), peer.uid()));
            let from = From::Text(from.unwrap_or_default());
            connections.spawn(async move {
                serve(Direct::new(stream), from, Transport::UnixStream, &open.shared).await;
            });
        }
    }
}

/// Without it a dead peer holds its place for ever; nothing else depends on it.
fn keep_alive(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

async fn over_tls(stream: TcpStream, peer: IpAddr, acceptor: TlsAcceptor, shared: &Shared) {
    let handshake = tokio::select! {
        biased;
        // Nothing was said yet that could be lost.
        () = shared.stop.cancelled() => return,
        handshake = tokio::time::timeout(shared.handshake, acceptor.accept(Direct::new(stream))) => handshake,
    };
    let failed = match handshake {
        Ok(Ok(stream)) => {
            // A handshake needs more than what comes after it.
            return Box::pin(serve(stream, From::Ip(peer), Transport::Tls, shared)).await;
        }
        Ok(Err(error)) => error,
        Err(_) => ErrorKind::TimedOut.into(),
    };
    let reason = tls::reason(&failed);
    shared.metrics.tls_error(reason);
    if let Some(unlogged) = shared.complaints.allow() {
        tracing::warn!(%peer, error = %failed, reason, unlogged, "TLS handshake of a syslog sender failed");
    }
}

/// The place of one connection, given back when dropped.
struct Open {
    shared: Arc<Shared>,
    place: Option<(OwnedSemaphorePermit, Option<Place>)>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Whoever sees that the connection is gone can have its place.
        self.place = None;
        self.shared.metrics.connections.dec();
    }
}
