//! One connection: bytes to messages to groups, whatever the bytes come through.
//!
//! While nothing is there to be read a connection owns no buffer and no group: both come from a pool that all share, and
//! go back to it, so that ten thousand idle senders cost what the kernel and the runtime keep of them. What has begun and
//! not ended, a message in part, is kept in exactly its size.
//!
//! A broken frame closes its connection only; a longer line than `max_message` is cut and the lines beside it are
//! unharmed.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::super::frame::Splitter;
use super::intake::{Intake, Split};
use super::metrics::Transport;
use super::{Batch, DRAIN_MAX, Pipeline, Shared, tls};
use crate::collect::record::Peer;

/// Reads of one batch on a connection that always has a little more.
const SHORT_READS_MAX: u32 = 64;

/// Unused buffers and groups that are kept.
const POOL_MAX: usize = 32;

/// What a connection needs only while it has something to do.
#[derive(Debug)]
pub(super) struct Work {
    buffer: Vec<u8>,
    batch: Batch,
}

/// Those that nobody uses at the moment.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Work>>);

impl Pool {
    fn take(&self, shared: &Shared) -> Work {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pooled.unwrap_or_else(|| Work { buffer: Vec::new(), batch: shared.batch() })
    }

    fn put(&self, work: Work) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOL_MAX {
            pool.push(work);
        }
    }
}

/// What a connection is read from.
pub(super) trait Source: AsyncRead + Unpin {
    /// From now on the kernel is asked at every read: the runtime would answer from what it last heard of the socket.
    fn read_directly(&mut self);
}

/// A socket that can be read past the runtime.
#[derive(Debug)]
pub(super) struct Direct<S> {
    stream: S,
    direct: bool,
}

impl<S> Direct<S> {
    pub(super) fn new(stream: S) -> Direct<S> {
        Direct { stream, direct: false }
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Direct<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.direct {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        match recv(&self.stream, buffer.initialize_unfilled(), RecvFlags::DONTWAIT) {
            Ok((_, n)) => {
                buffer.advance(n);
                Poll::Ready(Ok(()))
            }
            // Nobody is woken: who reads so asks once.
            Err(rustix::io::Errno::WOULDBLOCK) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Direct<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsFd + Unpin> Source for Direct<S> {
    fn read_directly(&mut self) {
        self.direct = true;
    }
}

impl Source for TlsStream<Direct<TcpStream>> {
    fn read_directly(&mut self) {
        self.get_mut().0.read_directly();
    }
}

/// Who sends.
#[derive(Debug)]
pub(super) enum From {
    Ip(IpAddr),
    /// A local process; empty where the kernel does not say which.
    Text(String),
}

impl From {
    /// `session`: the boot session that it is in.
    fn peer<'a>(&'a self, session: Option<&'a str>) -> Peer<'a> {
        match self {
            From::Ip(ip) => Peer::of(Some(*ip), session),
            From::Text(text) if text.is_empty() => Peer::None,
            From::Text(text) => Peer::Text(text),
        }
    }
}

/// Why a connection's loop ended.
enum End {
    /// By the peer, by time, or on our stop: what is left in the buffer is a last line.
    Stream,
    /// Nothing more can be told apart or handed over.
    Broken,
}

enum Wake {
    Read(io::Result<usize>),
    Time,
    Stop,
}

/// The connection cannot go on.
struct Closed;

/// Serves one connection to its end.
pub(super) async fn serve<S: Source>(stream: S, from: From, transport: Transport, shared: &Shared) {
    let splitter = Splitter::new(shared.message_bytes_max);
    let splitter = if transport == Transport::UnixStream { splitter.with_nul_ends() } else { splitter };
    let mut connection = Connection { stream, intake: Intake::new(splitter), work: None, from, transport, shared };
    let end = connection.run().await;
    if matches!(end, End::Stream) {
        let _ = connection.split(true).await;
    }
    let _ = connection.give().await;
    connection.pause();
}

struct Connection<'a, S> {
    stream: S,
    intake: Intake,
    /// With the intake's buffer taken out of it.
    work: Option<Work>,
    from: From,
    transport: Transport,
    shared: &'a Shared,
}

impl<S: Source> Connection<'_, S> {
    async fn run(&mut self) -> End {
        let shared = self.shared;
        let stopped = shared.stop.cancelled();
        tokio::pin!(stopped);
        let mut deadline: Option<Instant> = None;
        let mut last_byte = Instant::now();
        // Since when a message is awaited in full.
        let mut amid_since: Option<Instant> = None;
        let mut short_reads = 0;
        let mut woken = None;
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return End::Stream;
            }
            let read = match woken.take() {
                Some(read) => Some(read),
                None => self.try_read().await,
            };
            match read {
                Some(Ok(0)) => return End::Stream,
                Some(Ok(n)) => {
                    let whole = self.intake.filled(n);
                    last_byte = Instant::now();
                    let before = self.intake.messages();
                    if self.split(false).await.is_err() {
                        return End::Broken;
                    }
                    let messages = self.intake.messages() - before;
                    if messages > 0 {
                        amid_since = None;
                    }
                    if deadline.is_none() && shared.stop.is_cancelled() {
                        deadline = Some(self.last_reads());
                    }
                    if deadline.is_none()
                        && let Some(pause) = self.over_rate(messages)
                    {
                        if self.give().await.is_err() {
                            return End::Broken;
                        }
                        self.pause();
                        tokio::select! {
                            biased;
                            () = stopped.as_mut() => deadline = Some(self.last_reads()),
                            () = tokio::time::sleep(pause) => {}
                        }
                        last_byte = Instant::now();
                        amid_since = None;
                    }
                    if !whole {
                        short_reads += 1;
                        if short_reads >= SHORT_READS_MAX {
                            short_reads = 0;
                            if self.give().await.is_err() {
                                return End::Broken;
                            }
                        }
                        // Others run, more arrives, and the next read is larger.
                        tokio::task::yield_now().await;
                    }
                }
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Some(Err(error)) => {
                    self.failed(&error);
                    // A reset: what came before it is good.
                    return End::Stream;
                }
                None => {
                    short_reads = 0;
                    if self.give().await.is_err() {
                        return End::Broken;
                    }
                    if deadline.is_some() {
                        return End::Stream;
                    }
                    self.pause();
                    let now = Instant::now();
                    amid_since = self.intake.is_amid_message().then(|| amid_since.unwrap_or(now));
                    let idle = shared.idle.map(|idle| last_byte + idle);
                    let frame = amid_since.zip(shared.frame).map(|(since, frame)| since + frame);
                    if idle.is_some_and(|idle| idle <= now) {
                        shared.metrics.closed_idle.inc();
                        return End::Stream;
                    }
                    if frame.is_some_and(|frame| frame <= now) {
                        shared.metrics.closed_frame.inc();
                        return End::Stream;
                    }
                    let until = idle.into_iter().chain(frame).min();
                    match self.wait(stopped.as_mut(), until).await {
                        Wake::Read(read) => woken = Some(read),
                        Wake::Stop => deadline = Some(self.last_reads()),
                        Wake::Time => {}
                    }
                }
            }
        }
    }

    /// Until when what has arrived is read.
    fn last_reads(&mut self) -> Instant {
        self.stream.read_directly();
        Instant::now() + DRAIN_MAX
    }

    fn over_rate(&self, messages: u64) -> Option<Duration> {
        let From::Ip(ip) = self.from else { return None };
        let pause = self.shared.peers.charge(ip, messages, &self.shared.metrics.peers_forgotten)?;
        self.shared.metrics.slowed.inc();
        Some(pause)
    }

    fn failed(&self, error: &io::Error) {
        // Without TLS's own goodbye, as most senders end.
        if self.transport == Transport::Tls && error.kind() == ErrorKind::InvalidData {
            self.shared.metrics.tls_error(tls::reason(error));
            if let Some(unlogged) = self.shared.complaints.allow() {
                tracing::warn!(peer = ?self.from, %error, unlogged, "syslog connection over TLS broke");
            }
        }
    }

    /// What is there now; nothing where one would have to wait.
    async fn try_read(&mut self) -> Option<io::Result<usize>> {
        poll_fn(|cx| match self.poll_read(cx) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.work.is_none() {
            let mut work = self.shared.pool.take(self.shared);
            self.intake.resume(std::mem::take(&mut work.buffer));
            self.work = Some(work);
        }
        let mut buffer = ReadBuf::new(self.intake.space());
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(read) => Poll::Ready(read.map(|()| buffer.filled().len())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Gives back what only work needs.
    fn pause(&mut self) {
        if let Some(mut work) = self.work.take() {
            work.buffer = self.intake.pause();
            self.shared.pool.put(work);
        }
    }

    async fn wait(&mut self, stopped: Pin<&mut impl Future<Output = ()>>, until: Option<Instant>) -> Wake {
        let timer = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopped => Wake::Stop,
            read = poll_fn(|cx| {
                let read = self.poll_read(cx);
                if read.is_pending() {
                    self.pause();
                }
                read
            }) => Wake::Read(read),
            () = timer => Wake::Time,
        }
    }

    /// Takes every whole message out of the buffer; hands a full group over on the way.
    async fn split(&mut self, eof: bool) -> std::result::Result<(), Closed> {
        if self.work.is_none() {
            if !self.intake.is_amid_message() {
                return Ok(());
            }
            let mut work = self.shared.pool.take(self.shared);
            self.intake.resume(std::mem::take(&mut work.buffer));
            self.work = Some(work);
        }
        let received = Timestamp::now();
        let session = match self.from {
            From::Ip(ip) => self.shared.session(ip, received),
            From::Text(_) => None,
        };
        loop {
            let Some(work) = &mut self.work else { return Ok(()) };
            match self.intake.split(&mut work.batch, received, self.from.peer(session.as_deref()), eof) {
                Ok(Split::All) => return Ok(()),
                Ok(Split::Full) => {
                    self.give().await?;
                    tokio::task::yield_now().await;
                }
                Err((error, lost)) => {
                    self.shared.metrics.framing_error(error.name()).inc();
                    if let Some(unlogged) = self.shared.complaints.allow() {
                        tracing::warn!(peer = ?self.from, %error, lost, unlogged, "syslog connection closed");
                    }
                    return Err(Closed);
                }
            }
        }
    }

    async fn give(&mut self) -> std::result::Result<(), Closed> {
        match &mut self.work {
            Some(work) if !work.batch.is_empty() => match self.shared.submit(&mut work.batch, self.transport).await {
                Pipeline::Open => Ok(()),
                Pipeline::Closed => Err(Closed),
            },
            _ => Ok(()),
        }
    }
}
