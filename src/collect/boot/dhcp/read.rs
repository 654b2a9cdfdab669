//! Reads a socket's packets many at a time (recvmmsg(2)).

use std::io::IoSliceMut;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, SockaddrIn, SockaddrLike, recvmmsg};
use socket2::Socket;

use super::capture;

/// Read by one system call.
pub(super) const AT_ONCE: usize = 64;

/// The longest packet that is read; a DHCP message has at most a frame's 1500 bytes, or 4096 by option 57 of a bold one.
pub(super) const PACKET_BYTES_MAX: usize = 4096;

/// Bytes of the buffer for each: one more shows that a packet is longer; each begins at a cache line of its own.
const ROOM: usize = PACKET_BYTES_MAX + 64;

/// Whom a packet is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Udp(SocketAddrV4),
    Link(capture::Link),
}

/// The buffers, and the kernel's lists of what to fill in. Those hold pointers, so a reader stays in its thread; they
/// keep the length of the addresses that came last, so each kind of socket has its own.
pub(super) struct Reader {
    buffer: Vec<u8>,
    udp: MultiHeaders<SockaddrIn>,
    link: MultiHeaders<LinkAddr>,
    found: Vec<(usize, From)>,
}

impl Reader {
    pub(super) fn new() -> Reader {
        Reader {
            buffer: vec![0; ROOM * AT_ONCE],
            udp: MultiHeaders::preallocate(AT_ONCE, None),
            link: MultiHeaders::preallocate(AT_ONCE, None),
            found: Vec::with_capacity(AT_ONCE),
        }
    }

    /// Reads what a UDP socket has, at most [`AT_ONCE`].
    pub(super) fn udp(&mut self, socket: &Socket) -> nix::Result<usize> {
        let Reader { buffer, udp, found, .. } = self;
        receive(socket, buffer, udp, found, |from| Some(From::Udp(SocketAddrV4::new(from.ip(), from.port()))))
    }

    /// Reads what a packet socket has.
    pub(super) fn link(&mut self, socket: &Socket) -> nix::Result<usize> {
        let Reader { buffer, link, found, .. } = self;
        receive(socket, buffer, link, found, |from| Some(From::Link(capture::Link::new(from))))
    }

    /// The packets read last, each with whom it is from; `None` instead of one that was too long.
    pub(super) fn packets(&self) -> impl Iterator<Item = (Option<&[u8]>, From)> {
        let rooms = self.buffer.chunks_exact(ROOM);
        rooms.zip(&self.found).map(|(room, (length, from))| {
            let whole = *length <= PACKET_BYTES_MAX;
            (whole.then(|| &room[..*length]), *from)
        })
    }
}

fn receive<S: SockaddrLike + Copy>(
    socket: &Socket,
    buffer: &mut [u8],
    headers: &mut MultiHeaders<S>,
    found: &mut Vec<(usize, From)>,
    from: impl Fn(&S) -> Option<From>,
) -> nix::Result<usize> {
    found.clear();
    let mut slices: Vec<_> = buffer.chunks_exact_mut(ROOM).map(|room| [IoSliceMut::new(room)]).collect();
    let received = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
    // Each has an address; a packet without one would be of nobody, and too long, so it is dropped and counted.
    let nobody = From::Udp(SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0));
    found.extend(received.map(|message| match message.address.as_ref().and_then(&from) {
        Some(from) => (message.bytes, from),
        None => (usize::MAX, nobody),
    }));
    Ok(found.len())
}
