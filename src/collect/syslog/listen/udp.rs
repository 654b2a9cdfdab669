//! Syslog over UDP, RFC 5426. Nobody can be made to wait, so every loss is counted: in
//! our queue (`queue_full`) and, by asking it, in the kernel's (`kernel`).

use std::net::SocketAddr;
use std::sync::Arc;

use greypit_pipeline::Result;
use greypit_pipeline::units::Size;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::config::{address, problem};
use super::{Shared, datagram, tcp};

/// A bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    pub(super) address: SocketAddr,
}

pub(super) fn bind(text: &str, recv_buffer: Size) -> Result<Listener> {
    let wanted = address("udp", text)?;
    let open = || {
        let socket =
            Socket::new(Domain::for_address(wanted), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if wanted.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(recv_buffer.0 as usize)?;
        socket.bind(&wanted.into())?;
        let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
        // The kernel answers with twice what one may use, for its own bookkeeping.
        let given = Size(socket.recv_buffer_size()? as u64 / 2);
        if given < recv_buffer {
            tracing::warn!(
                %address, wanted = %recv_buffer, %given,
                "the kernel gives less than syslog.recv_buffer: set sysctl net.core.rmem_max={}", recv_buffer.0
            );
        }
        Ok(Listener { socket, address })
    };
    open().map_err(|error| problem("udp", tcp::advice(text, &error, "-u")))
}

impl Listener {
    pub(super) fn spawn(self, shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
        let socket = UdpSocket::from_std(self.socket.into()).map_err(|error| problem("udp", error.to_string()))?;
        Ok(tokio::spawn(datagram::run(datagram::Socket::Udp(socket), shared.clone())))
    }
}
