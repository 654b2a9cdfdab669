//! One datagram, one message: the loop that UDP and unix sockets share.
//!
//! Each wake-up reads until the socket is empty, the group is full or
//! [`DATAGRAMS_MAX`] were read, and makes one group of it. UDP is read many at a
//! time; unix datagrams, of which the kernel keeps ten, one by one with who sent them.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, UnixCredentials, recvmmsg, recvmsg,
};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};

use super::metrics::{Dropped, Tally, Transport};
use super::{Batch, DRAIN_MAX, Pipeline, Shared, unix};
use crate::collect::record::Peer;

/// Read at a time before other tasks get their turn.
const DATAGRAMS_MAX: usize = 512;

/// How often the kernel is asked for its drops.
const DROPS_EVERY: Duration = Duration::from_secs(1);

/// Read by one system call.
const AT_ONCE: usize = 64;

thread_local! {
    /// The kernel's list of what to fill in, for IPv4 and for IPv6. It holds pointers, which mean something only during
    /// the call, and the lengths of the addresses that came last, which is why a socket of the other family may not use
    /// it.
    static HEADERS: [RefCell<MultiHeaders<SockaddrStorage>>; 2] =
        [(); 2].map(|()| RefCell::new(MultiHeaders::preallocate(AT_ONCE, None)));
}

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

    fn is_ipv6(&self) -> bool {
        matches!(self, Socket::Udp(socket) if socket.local_addr().is_ok_and(|address| address.is_ipv6()))
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

/// Reads `socket` until the token is cancelled and what has arrived by then is submitted. `drops_seen`: what the kernel
/// had dropped before.
pub(super) async fn run(socket: Socket, drops_seen: u32, shared: Arc<Shared>) {
    let transport = socket.transport();
    // One byte more than is wanted shows that a datagram was longer; the rest lets each begin at a cache line of its own.
    let room = (shared.message_bytes_max + 1).next_multiple_of(64) + 64;
    let at_once = if transport == Transport::Udp { AT_ONCE } else { 1 };
    let mut reader = Reader {
        transport,
        batch: shared.batch(),
        // Pages that nothing was written to cost nothing.
        buffer: vec![0; room * at_once],
        family: usize::from(socket.is_ipv6()),
        room,
        received: Timestamp::now(),
        waiting: Vec::with_capacity(at_once),
        control: nix::cmsg_space!(UnixCredentials),
        drops_seen,
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
    reader.give_up();
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
    /// Which of the headers are its own.
    family: usize,
    /// Bytes of the buffer for each datagram.
    room: usize,
    /// When those that wait were read.
    received: Timestamp,
    /// Datagrams in the buffer that are not in a group yet, the last one first.
    waiting: Vec<Waiting>,
    control: Vec<u8>,
    drops_seen: u32,
    shared: &'a Shared,
}

struct Waiting {
    index: usize,
    length: usize,
    peer: Option<IpAddr>,
}

impl Reader<'_> {
    fn read(&mut self, socket: BorrowedFd<'_>) -> More {
        let mut read = 0;
        while read < DATAGRAMS_MAX {
            if !self.take_waiting() {
                return More::Perhaps;
            }
            let result = match self.transport {
                Transport::Udp => self.receive_many(socket),
                _ => self.receive_one(socket),
            };
            match result {
                Ok(n) => read += n,
                Err(Errno::EAGAIN) => return More::Empty,
                Err(Errno::EINTR) => {}
                // An ICMP error of something that was sent from here is of no interest, but is taken out by reading.
                Err(error) => {
                    read += 1;
                    if let Some(unlogged) = self.shared.complaints.allow() {
                        let (transport, error) = (self.transport.name(), io::Error::from(error));
                        tracing::warn!(transport, %error, unlogged, "cannot receive");
                    }
                }
            }
        }
        self.take_waiting();
        More::Perhaps
    }

    fn receive_many(&mut self, socket: BorrowedFd<'_>) -> nix::Result<usize> {
        let Reader { buffer, room, waiting, family, .. } = self;
        HEADERS.with(|headers| {
            let headers = &mut *headers[*family].borrow_mut();
            let mut slices: Vec<_> = buffer.chunks_exact_mut(*room).map(|chunk| [IoSliceMut::new(chunk)]).collect();
            let found = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
            waiting.extend(found.enumerate().map(|(index, message)| Waiting {
                index,
                length: message.bytes,
                peer: message.address.as_ref().and_then(ip),
            }));
            Ok(())
        })?;
        self.received = Timestamp::now();
        // Taken from the end.
        self.waiting.reverse();
        Ok(self.waiting.len())
    }

    fn receive_one(&mut self, socket: BorrowedFd<'_>) -> nix::Result<usize> {
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let found = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT)?;
        let sender = found.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(sender) => Some(unix::peer_text(sender.pid(), sender.uid())),
            _ => None,
        });
        let length = found.bytes;
        let peer = sender.as_deref().map_or(Peer::None, Peer::Text);
        self.batch.add(&self.buffer[..length], Timestamp::now(), peer);
        Ok(1)
    }

    /// Puts what waits into the group; whether it had room for all.
    fn take_waiting(&mut self) -> bool {
        while !self.batch.is_full() {
            let Some(Waiting { index, length, peer }) = self.waiting.pop() else { return true };
            let raw = &self.buffer[index * self.room..][..length];
            if let Some(peer) = peer
                && !self.shared.peers.allow(peer, &self.shared.metrics.peers_forgotten)
            {
                self.batch.limited(raw);
                continue;
            }
            let session = peer.and_then(|peer| self.shared.session(peer, self.received));
            self.batch.add(raw, self.received, Peer::of(peer, session.as_deref()));
        }
        false
    }

    /// What was received and cannot go anywhere is at least counted.
    fn give_up(&mut self) {
        let bytes = self.waiting.iter().map(|waiting| waiting.length as u64).sum();
        let tally = Tally { messages: self.waiting.len() as u64, bytes, ..Tally::default() };
        self.shared.metrics.add(self.transport, &tally, false);
        self.shared.metrics.dropped(self.transport, Dropped::Stopping).inc_by(tally.messages);
        self.waiting.clear();
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

fn ip(from: &SockaddrStorage) -> Option<IpAddr> {
    match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(from), _) => Some(from.ip().into()),
        (_, Some(from)) => Some(IpAddr::from(from.ip()).to_canonical()),
        _ => None,
    }
}
