//! The socket of one transfer, connected to its client: what others send to its port does not come here, and where the
//! client's port is closed the kernel says so.
//!
//! A window goes out in one call where the kernel cuts it into datagrams (`UDP_SEGMENT`, Linux 4.18), else in one call
//! each. Datagrams may be fragmented on their way (`IP_PMTUDISC_DONT`), so that a smaller MTU behind a router costs
//! speed and nothing else.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};

use super::negotiate::IP_UDP_BYTES;
use super::transfer::Run;

/// In one call; the kernel takes no more than a datagram's worth.
const SEGMENTED_BYTES_MAX: usize = 65_000;

/// `UDP_MAX_SEGMENTS` of the kernels that have the least.
const SEGMENTS_MAX: usize = 64;

/// Below it one call a datagram is as well.
const SEGMENT_BYTES_MIN: usize = 256;

/// Where the kernel does not tell.
const MTU_DEFAULT: usize = 1500;

/// What a wait for a packet brought.
#[derive(Debug)]
pub(super) enum Received {
    /// Bytes at the beginning of the buffer, of the client.
    Packet(usize),
    /// The same, of somebody else.
    Stranger(usize, SocketAddrV4),
    Nothing,
    /// The client's port is closed.
    Gone,
}

#[derive(Debug)]
pub(super) struct Peer {
    socket: UdpSocket,
    client: SocketAddrV4,
    waits: Duration,
    /// What the kernel cuts at; 0: it does not.
    segment: usize,
}

impl Peer {
    /// From `local`, whose port may be 0; with `shared` it is one that another socket of ours has too.
    pub(super) fn connect(local: SocketAddrV4, client: SocketAddrV4, shared: bool) -> io::Result<Peer> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
        if shared {
            socket.set_reuse_address(true)?;
        }
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT)?;
        socket.bind(&local.into())?;
        socket.connect(&client.into())?;
        Ok(Peer { socket: socket.into(), client, waits: Duration::ZERO, segment: 0 })
    }

    /// Of the way to the client.
    pub(super) fn mtu(&self) -> usize {
        let mtu = getsockopt(&self.socket.as_fd(), sockopt::IpMtu);
        mtu.ok().and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(MTU_DEFAULT)
    }

    /// Asks the kernel to cut what is sent from now on into datagrams of `segment` bytes.
    pub(super) fn cut_at(&mut self, segment: usize) {
        let fits = segment >= SEGMENT_BYTES_MIN && segment + IP_UDP_BYTES <= self.mtu();
        let length = segment as i32;
        if fits && setsockopt(&self.socket.as_fd(), sockopt::UdpGsoSegment, &length).is_ok() {
            self.segment = segment;
        }
    }

    /// Sends datagrams. What the network cannot take now is as if it were lost.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionRefused`] where the client's port is closed.
    pub(super) fn send(&mut self, run: Run<'_>) -> io::Result<()> {
        if self.segment != run.segment || run.bytes.len() <= run.segment {
            return self.send_each(run);
        }
        let at_once = (SEGMENTED_BYTES_MAX / run.segment).clamp(1, SEGMENTS_MAX) * run.segment;
        for bytes in run.bytes.chunks(at_once) {
            match self.socket.send(bytes) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(error),
                Err(_) => {
                    // The device or a tunnel cannot; not worth a second try.
                    self.segment = 0;
                    let _ = setsockopt(&self.socket.as_fd(), sockopt::UdpGsoSegment, &0);
                    self.send_each(Run { bytes, segment: run.segment })?;
                }
            }
        }
        Ok(())
    }

    fn send_each(&self, run: Run<'_>) -> io::Result<()> {
        for datagram in run.bytes.chunks(run.segment.max(1)) {
            match self.socket.send(datagram) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// One packet, where it is no matter whether it arrives.
    pub(super) fn send_once(&self, packet: &[u8]) {
        let _ = self.socket.send(packet);
    }

    /// A packet that is there already, with whose it is where it is somebody else's.
    pub(super) fn waiting(&mut self, buf: &mut [u8]) -> Option<(usize, Option<SocketAddrV4>)> {
        self.socket.set_nonblocking(true).ok()?;
        match self.socket.recv_from(buf).ok()? {
            (bytes, SocketAddr::V4(from)) if from != self.client => Some((bytes, Some(from))),
            (bytes, _) => Some((bytes, None)),
        }
    }

    /// Waits for a packet, at most for `wait`.
    pub(super) fn receive(&mut self, buf: &mut [u8], wait: Duration) -> io::Result<Received> {
        let wait = wait.max(Duration::from_millis(1));
        // A system call that is rarely needed.
        if wait != self.waits {
            self.socket.set_read_timeout(Some(wait))?;
            self.waits = wait;
        }
        match self.socket.recv_from(buf) {
            Ok((bytes, from)) => Ok(match from {
                SocketAddr::V4(from) if from != self.client => Received::Stranger(bytes, from),
                _ => Received::Packet(bytes),
            }),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(Received::Nothing),
                ErrorKind::ConnectionRefused => Ok(Received::Gone),
                // Unreachable hosts and nets may be reachable again before the timeouts are over.
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Received::Nothing),
                _ => Err(error),
            },
        }
    }
}
