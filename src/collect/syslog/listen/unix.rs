//! Syslog on unix datagram sockets, as `/dev/log` is one. The kernel keeps few datagrams
//! (`net.unix.max_dgram_qlen`) and lets the sender wait, so nothing is dropped here.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Removes the socket's file when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: &fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn bind(text: &str, mode: u32) -> Result<Listener> {
    let path = Path::new(text);
    make_way(path)?;
    let open = || {
        let socket = UnixDatagram::bind(path)?;
        let found = fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        socket.set_nonblocking(true)?;
        Ok(Listener { socket, file })
    };
    open().map_err(|error: io::Error| {
        let todo = match error.kind() {
            ErrorKind::PermissionDenied => "run as a user who may write to its directory, or choose another path",
            ErrorKind::NotFound => "make its directory first",
            _ => "choose another path",
        };
        problem("unix", format!("cannot listen on {text}: {error}; {todo}"))
    })
}

/// Removes the file of a socket that nobody holds any more; refuses anything else that is in the way.
fn make_way(path: &Path) -> Result<()> {
    let refuse = |why: String| Err(problem("unix", format!("cannot listen on {}: {why}", path.display())));
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        // bind says it better.
        Err(_) => return Ok(()),
    };
    if found.is_symlink() {
        return refuse("it is a symbolic link (with systemd, journald owns /dev/log); choose another path".to_owned());
    }
    if !found.file_type().is_socket() {
        return refuse("a file that is no socket is there; move it away or choose another path".to_owned());
    }
    match UnixDatagram::unbound().and_then(|probe| probe.connect(path)) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                refuse(format!("the socket of an ended process is there and cannot be removed: {error}"))
            }
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            refuse(format!("a socket is there that this user may not use: {error}; remove it or choose another path"))
        }
        // Connected, or EPROTOTYPE: a stream socket that somebody listens on.
        _ => {
            refuse("a living process uses this socket; stop it (`ss -xlp` names it) or choose another path".to_owned())
        }
    }
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
