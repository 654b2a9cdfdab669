//! Syslog on unix sockets: datagrams, as `/dev/log` takes them, and streams. The kernel keeps few datagrams
//! (`net.unix.max_dgram_qlen`) and lets the sender wait, so nothing is dropped here. Who sends is what the kernel says of
//! the process, not what the message claims.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use greypit_milter::server::socket_file::{SocketFile, advice, bind_stream, make_way};
use greypit_pipeline::Result;
use rustix::net::sockopt::set_socket_passcred;
use tokio::task::JoinHandle;

use super::accept::{self, Door};
use super::config::problem;
use super::{Shared, datagram};

/// A bound socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// None where systemd made it.
    file: Option<SocketFile>,
    pub(super) path: PathBuf,
}

#[derive(Debug)]
enum Socket {
    Datagram(UnixDatagram),
    Stream(UnixListener),
}

/// The peer of a record.
pub(super) fn peer_text(pid: i32, uid: u32) -> String {
    format!("pid={pid} uid={uid}")
}

pub(super) fn bind(text: &str, mode: u32) -> Result<Listener> {
    let path = Path::new(text);
    let cannot = |why: String| problem("unix", format!("cannot listen on {text}: {why}"));
    make_way(path, |path| UnixDatagram::unbound()?.connect(path)).map_err(cannot)?;
    let open = || {
        let socket = UnixDatagram::bind(path)?;
        let file = SocketFile::new(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        datagrams(socket, Some(file), path.to_owned())
    };
    open().map_err(|error: io::Error| cannot(format!("{error}; {}", advice(&error))))
}

pub(super) fn bind_streams(text: &str, mode: u32) -> Result<Listener> {
    let path = Path::new(text);
    let (socket, file) = bind_stream(path, mode, None)
        .map_err(|why| problem("unix_stream", format!("cannot listen on {text}: {why}")))?;
    Ok(Listener { socket: Socket::Stream(socket), file: Some(file), path: path.to_owned() })
}

/// A datagram socket that is bound; the kernel adds from now on who sends.
pub(super) fn datagrams(socket: UnixDatagram, file: Option<SocketFile>, path: PathBuf) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    set_socket_passcred(&socket, true)?;
    Ok(Listener { socket: Socket::Datagram(socket), file, path })
}

/// A stream socket that listens and that systemd made.
pub(super) fn streams(socket: UnixListener, path: PathBuf) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    Ok(Listener { socket: Socket::Stream(socket), file: None, path })
}

impl Listener {
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.socket, Socket::Stream(_))
    }

    pub(super) fn spawn(self, shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
        let Listener { socket, file, .. } = self;
        let shared = shared.clone();
        match socket {
            Socket::Datagram(socket) => {
                let socket =
                    tokio::net::UnixDatagram::from_std(socket).map_err(|error| problem("unix", error.to_string()))?;
                Ok(tokio::spawn(async move {
                    datagram::run(datagram::Socket::Unix(socket), 0, shared).await;
                    drop(file);
                }))
            }
            Socket::Stream(socket) => {
                let listener = tokio::net::UnixListener::from_std(socket)
                    .map_err(|error| problem("unix_stream", error.to_string()))?;
                Ok(tokio::spawn(async move {
                    accept::run(Door::Unix(listener), shared).await;
                    drop(file);
                }))
            }
        }
    }
}
