//! Addresses that may come later: those of an interface that is not there yet.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;

/// Whether an address that this machine does not have is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// It is.
    AreHere,
    /// An interface is waited for that may have it: it is bound all the same, and served once it is here.
    MayCome,
}

impl Addresses {
    /// Binds `socket`.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn bind(self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        match socket.bind(&address.into()) {
            Err(error) if self == Addresses::MayCome && error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::warn!(%address, "syslog: this machine does not have the address yet; it is served once it has");
                match address {
                    SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                    SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
                }
                socket.bind(&address.into())
            }
            bound => bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn an_address_that_may_come_is_bound_before_it_is_here() {
        // TEST-NET-1 (RFC 5737): nobody has it.
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 0));
        let bind = |addresses: Addresses| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            addresses.bind(&socket, address).map(|()| socket.local_addr().unwrap().as_socket().unwrap().ip())
        };
        assert_eq!(bind(Addresses::AreHere).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(bind(Addresses::MayCome).unwrap(), address.ip());
    }
}
