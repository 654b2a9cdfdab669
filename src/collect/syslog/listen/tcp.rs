//! TCP listeners, for plain syslog (RFC 6587) and for TLS (RFC 5425).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use greypit_pipeline::{Addresses, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::accept::{self, Door};
use super::config::{address, problem};
use super::{Shared, Tls};

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    pub(super) address: SocketAddr,
}

/// `key`: `tcp` or `tls`.
pub(super) fn bind(key: &str, text: &str, addresses: Addresses) -> Result<Listener> {
    let wanted = address(key, text)?;
    let open = || {
        let socket =
            Socket::new(Domain::for_address(wanted), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        if wanted.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        addresses.bind(&socket, wanted)?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
        Ok(Listener { socket, address })
    };
    open().map_err(|error| problem(key, advice(text, &error, "-t")))
}

/// One that is bound and listens.
pub(super) fn passed(socket: Socket, address: SocketAddr) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    Ok(Listener { socket, address })
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
    /// With `tls`, nothing else is spoken.
    pub(super) fn spawn(self, tls: Option<Tls>, shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
        let key = if tls.is_some() { "tls" } else { "tcp" };
        let listener = TcpListener::from_std(self.socket.into()).map_err(|error| problem(key, error.to_string()))?;
        let door = match tls {
            Some(tls) => Door::Tls(listener, tls),
            None => Door::Tcp(listener),
        };
        Ok(tokio::spawn(accept::run(door, shared.clone())))
    }
}
