//! Syslog over UDP, RFC 5426. Nobody can be made to wait, so every loss is counted: in
//! our queue (`queue_full`) and, by asking it, in the kernel's (`kernel`).
//!
//! An address has several sockets (SO_REUSEPORT), over which the kernel spreads senders, each always to the same one, so
//! that what one sender writes stays in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use greypit_pipeline::units::Size;
use greypit_pipeline::{Addresses, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::config::{address, problem};
use super::{Shared, datagram, tcp};

/// The bound sockets of an address.
#[derive(Debug)]
pub(super) struct Listener {
    sockets: Vec<Socket>,
    pub(super) address: SocketAddr,
    /// What the kernel had dropped when they came here.
    drops: u32,
}

pub(super) fn bind(text: &str, count: usize, recv_buffer: Size, addresses: Addresses) -> Result<Listener> {
    let wanted = address("udp", text)?;
    let socket = || {
        let socket =
            Socket::new(Domain::for_address(wanted), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if wanted.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        set_buffer(&socket, recv_buffer)?;
        io::Result::Ok(socket)
    };
    let open = || {
        // The first one does not share, so that it fails where another process has the address, even one that would.
        let first = socket()?;
        addresses.bind(&first, wanted)?;
        let address = first.local_addr()?.as_socket().unwrap_or(wanted);
        let mut sockets = vec![first];
        if count > 1 {
            sockets[0].set_reuse_port(true)?;
        }
        for _ in 1..count {
            let next = socket()?;
            next.set_reuse_port(true)?;
            addresses.bind(&next, address)?;
            sockets.push(next);
        }
        warn_of_small_buffer(&sockets[0], address, recv_buffer)?;
        Ok(Listener { sockets, address, drops: 0 })
    };
    open().map_err(|error| problem("udp", tcp::advice(text, &error, "-u")))
}

/// One that is bound. What the kernel dropped before was somebody else's to count.
pub(super) fn passed(socket: Socket, address: SocketAddr, recv_buffer: Size) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    if (socket.recv_buffer_size()? as u64 / 2) < recv_buffer.0 {
        // Only so: SO_RCVBUF of this process could take away what systemd gave.
        let _ = set_socket_recv_buffer_size_force(&socket, recv_buffer.0 as usize);
    }
    warn_of_small_buffer(&socket, address, recv_buffer)?;
    let drops = crate::sys::dropped_packets(&socket).unwrap_or(0);
    Ok(Listener { sockets: vec![socket], address, drops })
}

/// Beyond net.core.rmem_max where this process may.
fn set_buffer(socket: &Socket, recv_buffer: Size) -> io::Result<()> {
    let bytes = recv_buffer.0 as usize;
    match set_socket_recv_buffer_size_force(socket, bytes) {
        Ok(()) => Ok(()),
        Err(_) => socket.set_recv_buffer_size(bytes),
    }
}

fn warn_of_small_buffer(socket: &Socket, address: SocketAddr, recv_buffer: Size) -> io::Result<()> {
    // The kernel answers with twice what one may use, for its own bookkeeping.
    let given = Size(socket.recv_buffer_size()? as u64 / 2);
    if given < recv_buffer {
        tracing::warn!(
            %address, wanted = %recv_buffer, %given,
            "the kernel gives less than syslog.recv_buffer: set sysctl net.core.rmem_max={}, or grant CAP_NET_ADMIN",
            recv_buffer.0
        );
    }
    Ok(())
}

impl Listener {
    pub(super) fn spawn(self, shared: &Arc<Shared>, tasks: &mut Vec<JoinHandle<()>>) -> Result<()> {
        for socket in self.sockets {
            let socket = UdpSocket::from_std(socket.into()).map_err(|error| problem("udp", error.to_string()))?;
            tasks.push(tokio::spawn(datagram::run(datagram::Socket::Udp(socket), self.drops, shared.clone())));
        }
        Ok(())
    }
}
