//! Syslog over TCP, RFC 6587: octet counting or lines, as the first byte of each frame says.
//!
//! One task a connection, with one buffer that starts at 16 KiB, grows to 256 KiB
//! while reads fill it and shrinks again when the connection is quiet, so that a
//! thousand idle senders cost 16 MiB. Messages are ranges of that buffer. A broken
//! frame closes its connection only; a longer line than `max_message` is cut and the
//! lines beside it are unharmed.
//!
//! At the limit of connections a new one is accepted, closed and counted: left in the
//! backlog it would look alive to its sender, who could not know that nobody reads.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use greypit_pipeline::Result;
use jiff::Timestamp;
use rustix::net::{RecvFlags, SocketFlags, recv};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::config::{address, problem};
use super::intake::{Intake, Split};
use super::metrics::Transport;
use super::{Batch, DRAIN_MAX, Pipeline, Shared};
use crate::collect::record::Peer;

/// Quiet for so long, a connection gives its large buffer back.
const QUIET: Duration = Duration::from_secs(10);
/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept, as EMFILE would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Reads of one batch on a connection that always has a little more.
const SHORT_READS_MAX: u32 = 64;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    pub(super) address: SocketAddr,
}

pub(super) fn bind(text: &str) -> Result<Listener> {
    let wanted = address("tcp", text)?;
    let open = || {
        let socket =
            Socket::new(Domain::for_address(wanted), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        if wanted.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&wanted.into())?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
        Ok(Listener { socket, address })
    };
    open().map_err(|error| problem("tcp", advice(text, &error, "-t")))
}

/// One line for a person: what failed, and what to do.
pub(super) fn advice(text: &str, error: &io::Error, ss: &str) -> String {
    let port = text.rsplit(':').next().unwrap_or_default();
    let todo = match error.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "another process has it (`ss {ss} -lnp 'sport = :{port}'` names it): stop that one or choose another port"
            )
        }
        ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE: grant it (AmbientCapabilities= in \
             the systemd unit) or choose a higher port"
            .to_owned(),
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; write one of its own, or 0.0.0.0 for all".to_owned()
        }
        _ => "choose another address or port".to_owned(),
    };
    format!("cannot listen on {text}: {error}; {todo}")
}

impl Listener {
    pub(super) fn spawn(self, shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
        let listener = TcpListener::from_std(self.socket.into()).map_err(|error| problem("tcp", error.to_string()))?;
        Ok(tokio::spawn(accept(listener, shared.clone())))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => begin(stream, peer, &shared, &connections),
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
    while let Ok((stream, peer)) = rustix::net::acceptfrom_with(&listener, SocketFlags::CLOEXEC) {
        let peer = peer.map(SocketAddr::try_from);
        let stream = std::net::TcpStream::from(stream);
        if let (Some(Ok(peer)), Ok(())) = (peer, stream.set_nonblocking(true))
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            begin(stream, peer, &shared, &connections);
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn begin(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>, connections: &TaskTracker) {
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        shared.metrics.connections_refused.inc();
        if let Some(unlogged) = shared.complaints.allow() {
            tracing::warn!(peer = %peer.ip(), unlogged, "connection refused: syslog.max_connections reached");
        }
        return;
    };
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);
    // Without it a dead peer holds its place for ever; nothing else depends on it.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let open = Open { shared: shared.clone(), _permit: permit };
    shared.metrics.connections.inc();
    connections.spawn(async move { connection(stream, peer.ip(), &open.shared).await });
}

/// The place of one connection, given back when dropped.
struct Open {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.metrics.connections.dec();
    }
}

/// Why a connection's loop ended.
enum End {
    /// By the peer, or on our stop: what is left in the buffer is a last line.
    Stream,
    /// Nothing more can be told apart or handed over.
    Broken,
}

enum Wake {
    Ready,
    Quiet,
    Stop,
}

async fn connection(stream: TcpStream, peer: IpAddr, shared: &Shared) {
    let mut intake = Intake::new(shared.message_bytes_max);
    let mut batch = shared.batch();
    let stopped = shared.stop.cancelled();
    tokio::pin!(stopped);
    let mut deadline: Option<Instant> = None;
    let mut last_byte = shared.idle.map(|_| Instant::now());
    let mut short_reads = 0;
    let end = loop {
        let read = match deadline {
            None => stream.try_read(intake.space()),
            // Tokio would answer from what it last heard of the socket; now only the kernel knows.
            Some(deadline) if Instant::now() < deadline => {
                recv(&stream, intake.space(), RecvFlags::DONTWAIT).map(|(_, n)| n).map_err(io::Error::from)
            }
            Some(_) => break End::Stream,
        };
        match read {
            Ok(0) => break End::Stream,
            Ok(n) => {
                let whole = intake.filled(n);
                last_byte = last_byte.map(|_| Instant::now());
                let closed = split(&mut intake, &mut batch, peer, shared, false).await;
                if closed.is_err() {
                    break End::Broken;
                }
                if deadline.is_none() && shared.stop.is_cancelled() {
                    deadline = Some(Instant::now() + DRAIN_MAX);
                }
                if !whole {
                    short_reads += 1;
                    if short_reads >= SHORT_READS_MAX {
                        short_reads = 0;
                        if give(&mut batch, shared).await.is_err() {
                            break End::Broken;
                        }
                    }
                    // Others run, more arrives, and the next read is larger.
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                short_reads = 0;
                if give(&mut batch, shared).await.is_err() {
                    break End::Broken;
                }
                if deadline.is_some() {
                    break End::Stream;
                }
                let large = intake.is_large().then_some(QUIET);
                let quiet = large.into_iter().chain(shared.idle).min();
                match wait(&stream, stopped.as_mut(), quiet).await {
                    Wake::Ready => {}
                    Wake::Stop => deadline = Some(Instant::now() + DRAIN_MAX),
                    Wake::Quiet => {
                        intake.shrink();
                        let idle = last_byte.map(|last| last.elapsed());
                        if idle.zip(shared.idle).is_some_and(|(idle, max)| idle >= max) {
                            break End::Stream;
                        }
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset: what came before it is good.
            Err(_) => break End::Stream,
        }
    };
    if matches!(end, End::Stream) {
        let _ = split(&mut intake, &mut batch, peer, shared, true).await;
    }
    let _ = give(&mut batch, shared).await;
}

async fn wait(stream: &TcpStream, stopped: Pin<&mut impl Future<Output = ()>>, quiet: Option<Duration>) -> Wake {
    let timer = async {
        match quiet {
            Some(quiet) => tokio::time::sleep(quiet).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = stopped => Wake::Stop,
        // An error of the socket is met by the next read.
        _ = stream.readable() => Wake::Ready,
        () = timer => Wake::Quiet,
    }
}

/// The connection cannot go on.
struct Closed;

/// Takes every whole message out of the buffer; hands a full group over on the way.
async fn split(
    intake: &mut Intake,
    batch: &mut Batch,
    peer: IpAddr,
    shared: &Shared,
    eof: bool,
) -> std::result::Result<(), Closed> {
    let received = Timestamp::now();
    loop {
        match intake.split(batch, received, Peer::Ip(peer), eof) {
            Ok(Split::All) => return Ok(()),
            Ok(Split::Full) => {
                give(batch, shared).await?;
                tokio::task::yield_now().await;
            }
            Err((error, lost)) => {
                shared.metrics.framing_error(error.name()).inc();
                if let Some(unlogged) = shared.complaints.allow() {
                    tracing::warn!(%peer, %error, lost, unlogged, "syslog connection closed");
                }
                return Err(Closed);
            }
        }
    }
}

async fn give(batch: &mut Batch, shared: &Shared) -> std::result::Result<(), Closed> {
    if batch.is_empty() {
        return Ok(());
    }
    match shared.submit(batch, Transport::Tcp).await {
        Pipeline::Open => Ok(()),
        Pipeline::Closed => Err(Closed),
    }
}
