//! Binding addresses that may come later: those of an interface that is not there yet (`IP_FREEBIND`, ip(7)).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use rustix::net::sockopt::{set_ip_freebind, set_ipv6_freebind, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1024;

/// Whether an address that this machine does not have is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// It is.
    AreHere,
    /// An interface is waited for that may have it: it is bound all the same, and served once it is here.
    MayCome,
}

impl Addresses {
    /// Binds a socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(self, socket: impl AsFd, address: SocketAddr) -> io::Result<()> {
        let socket = socket.as_fd();
        match bind(socket, &address).map_err(io::Error::from) {
            Err(error) if self == Addresses::MayCome && error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::warn!(%address, "this machine does not have the address yet; it is served once it has");
                match address {
                    SocketAddr::V4(_) => set_ip_freebind(socket, true)?,
                    SocketAddr::V6(_) => set_ipv6_freebind(socket, true)?,
                }
                Ok(bind(socket, &address)?)
            }
            bound => bound,
        }
    }

    /// A TCP socket that listens and does not block. A restart does not wait for the old connections' TIME_WAIT.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(self, address: SocketAddr) -> io::Result<TcpListener> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        set_socket_reuseaddr(&socket, true)?;
        self.bind(&socket, address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_may_come_is_bound_before_it_is_here() {
        let has_ipv6 = Addresses::AreHere.listen("[::1]:0".parse().unwrap()).is_ok();
        // Documentation's (RFC 5737, RFC 3849): nobody has them.
        for address in ["192.0.2.1:0", "[2001:db8::1]:0"].iter().take(1 + usize::from(has_ipv6)) {
            let address: SocketAddr = address.parse().unwrap();
            let ip = |addresses: Addresses| addresses.listen(address).map(|bound| bound.local_addr().unwrap().ip());
            assert_eq!(ip(Addresses::AreHere).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
            assert_eq!(ip(Addresses::MayCome).unwrap(), address.ip());
        }
    }

    #[test]
    fn an_address_that_somebody_has_is_refused_either_way() {
        let taken = Addresses::AreHere.listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = taken.local_addr().unwrap();
        for addresses in [Addresses::AreHere, Addresses::MayCome] {
            assert_eq!(addresses.listen(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }
}
