//! Syslog on unix datagram sockets, as `/dev/log` is one. The kernel keeps few datagrams
//! (`net.unix.max_dgram_qlen`) and lets the sender wait, so nothing is dropped here.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use greypit_milter::server::socket_file::{SocketFile, advice, make_way};
use greypit_pipeline::Result;
use tokio::task::JoinHandle;

use super::config::problem;
use super::{Shared, datagram};

/// A bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixDatagram,
    pub(super) file: SocketFile,
}

pub(super) fn bind(text: &str, mode: u32) -> Result<Listener> {
    let path = Path::new(text);
    let cannot = |why: String| problem("unix", format!("cannot listen on {text}: {why}"));
    make_way(path, |path| UnixDatagram::unbound()?.connect(path)).map_err(cannot)?;
    let open = || {
        let socket = UnixDatagram::bind(path)?;
        let file = SocketFile::new(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.set_nonblocking(true)?;
        Ok(Listener { socket, file })
    };
    open().map_err(|error: io::Error| cannot(format!("{error}; {}", advice(&error))))
}

impl Listener {
    pub(super) fn spawn(self, shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
        let Listener { socket, file } = self;
        let socket = tokio::net::UnixDatagram::from_std(socket).map_err(|error| problem("unix", error.to_string()))?;
        let shared = shared.clone();
        Ok(tokio::spawn(async move {
            datagram::run(datagram::Socket::Unix(socket), shared).await;
            drop(file);
        }))
    }
}
