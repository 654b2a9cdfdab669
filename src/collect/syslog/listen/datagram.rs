//! One datagram, one message: the loop that UDP and unix sockets share.
//!
//! Each wake-up reads until the socket is empty, the group is full or
//! [`DATAGRAMS_MAX`] were read, and makes one group of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::net::{RecvFlags, SocketAddrAny, recvfrom};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};

use super::metrics::{Dropped, Transport};
use super::{Batch, DRAIN_MAX, Pipeline, Shared};
use crate::collect::record::Peer;

/// Read at a time before other tasks get their turn.
const DATAGRAMS_MAX: usize = 512;

/// How often the kernel is asked for its drops.
const DROPS_EVERY: Duration = Duration::from_secs(1);

/// One of the two kinds of socket.
#[derive(Debug)]
pub(super) enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Socket {
    fn transport(&self) -> Transport {
        match self {
            Socket::Udp(_) => Transport::Udp,
            Socket::Unix(_) => Transport::Unix,
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Udp(socket) => socket.readable().await,
            Socket::Unix(socket) => socket.readable().await,
        }
    }

    /// Runs `read`; Tokio waits for the next event once that says that nothing is left.
    fn while_readable(&self, read: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self {
            Socket::Udp(socket) => socket.try_io(Interest::READABLE, read),
            Socket::Unix(socket) => socket.try_io(Interest::READABLE, read),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Reads `socket` until the token is cancelled and what has arrived by then is submitted.
pub(super) async fn run(socket: Socket, shared: Arc<Shared>) {
    let transport = socket.transport();
    let mut reader = Reader {
        transport,
        batch: shared.batch(),
        // One byte more than is wanted shows that a datagram was longer.
        buffer: vec![0; shared.message_bytes_max + 1],
        drops_seen: 0,
        shared: &shared,
    };
    let mut ticks = tokio::time::interval(DROPS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stopped = shared.stop.cancelled();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            _ = ticks.tick() => reader.count_drops(socket.fd()),
            ready = socket.readable() => {
                if ready.is_err() {
                    break;
                }
                let mut more = More::Empty;
                let _ = socket.while_readable(|| {
                    more = reader.read(socket.fd());
                    match more {
                        More::Empty => Err(io::ErrorKind::WouldBlock.into()),
                        More::Perhaps => Ok(()),
                    }
                });
                if reader.give().await == Pipeline::Closed {
                    break;
                }
                if matches!(more, More::Perhaps) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    let deadline = Instant::now() + DRAIN_MAX;
    loop {
        let more = reader.read(socket.fd());
        if !reader.batch.is_empty() && shared.submit(&mut reader.batch, transport).await == Pipeline::Closed {
            break;
        }
        if matches!(more, More::Empty) || Instant::now() >= deadline {
            break;
        }
    }
    reader.count_drops(socket.fd());
}

enum More {
    Empty,
    Perhaps,
}

struct Reader<'a> {
    transport: Transport,
    batch: Batch,
    buffer: Vec<u8>,
    drops_seen: u32,
    shared: &'a Shared,
}

impl Reader<'_> {
    fn read(&mut self, socket: BorrowedFd<'_>) -> More {
        let received = Timestamp::now();
        for _ in 0..DATAGRAMS_MAX {
            match recvfrom(socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _, from)) => {
                    let peer = peer(from);
                    self.batch.add(&self.buffer[..length], received, peer);
                    if self.batch.is_full() {
                        return More::Perhaps;
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return More::Empty,
                Err(rustix::io::Errno::INTR) => {}
                // An ICMP error of something that was sent from here is of no interest, but is taken out by reading.
                Err(error) => {
                    if let Some(unlogged) = self.shared.complaints.allow() {
                        let (transport, error) = (self.transport.name(), io::Error::from(error));
                        tracing::warn!(transport, %error, unlogged, "cannot receive");
                    }
                }
            }
        }
        More::Perhaps
    }

    async fn give(&mut self) -> Pipeline {
        match self.transport {
            _ if self.batch.is_empty() => Pipeline::Open,
            Transport::Udp => self.shared.try_submit(&mut self.batch, self.transport),
            _ => self.shared.submit(&mut self.batch, self.transport).await,
        }
    }

    fn count_drops(&mut self, socket: BorrowedFd<'_>) {
        if self.transport != Transport::Udp {
            return;
        }
        if let Ok(drops) = crate::sys::dropped_packets(socket) {
            let new = u64::from(drops.wrapping_sub(self.drops_seen));
            self.drops_seen = drops;
            if new > 0 {
                self.shared.metrics.dropped(Transport::Udp, Dropped::Kernel).inc_by(new);
                if let Some(unlogged) = self.shared.complaints.allow() {
                    tracing::warn!(
                        datagrams = new,
                        unlogged,
                        "the kernel dropped UDP syslog: raise syslog.recv_buffer and net.core.rmem_max, or use TCP"
                    );
                }
            }
        }
    }
}

fn peer(from: Option<SocketAddrAny>) -> Peer<'static> {
    match from.map(std::net::SocketAddr::try_from) {
        Some(Ok(address)) => Peer::Ip(address.ip()),
        _ => Peer::None,
    }
}
