//! The file of a unix socket: made with the right owner before anybody can connect, removed when done, and never taken
//! from a living process.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// Removes the socket's file when dropped, if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Takes charge of a file just made.
    ///
    /// # Errors
    /// Where it cannot be looked at.
    pub fn new(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
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

/// Removes the file of a socket that nobody holds any more; refuses anything else that is in the way. `probe` connects
/// to it.
///
/// # Errors
/// Says why the way is not free and what to do.
pub fn make_way(path: &Path, probe: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), String> {
    // Where nothing is found, bind says it better.
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if found.is_symlink() {
        return Err("it is a symbolic link (with systemd, journald owns /dev/log); choose another path".to_owned());
    }
    if !found.file_type().is_socket() {
        return Err("a file that is no socket is there; move it away or choose another path".to_owned());
    }
    match probe(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("the socket of an ended process is there and cannot be removed: {error}"))
            }
            _ => Ok(()),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(format!("a socket is there that this user may not use: {error}; remove it or choose another path"))
        }
        // Connected, or EPROTOTYPE: a socket of the other type that somebody holds.
        _ => Err("a living process uses this socket; stop it (`ss -xlp` names it) or choose another path".to_owned()),
    }
}

/// What to do about an error of binding.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run as a user who may write to its directory, or choose another path",
        ErrorKind::NotFound => "make its directory first",
        _ => "choose another path",
    }
}

/// Binds a stream socket and listens once its mode and group are set.
///
/// # Errors
/// Says why it cannot be and what to do.
pub fn bind_stream(path: &Path, mode: u32, group: Option<u32>) -> Result<(UnixListener, SocketFile), String> {
    make_way(path, |path| UnixStream::connect(path).map(drop))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    );
    let open = || {
        let socket = socket?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        let file = SocketFile::new(path)?;
        if let Some(group) = group {
            chown(path, None, Some(group))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((UnixListener::from(socket), file))
    };
    open().map_err(|error: io::Error| format!("{error}; {}", advice(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let (listener, file) = bind_stream(&path, 0o660, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = bind_stream(&path, 0o660, None).unwrap_err();
        assert!(error.contains("a living process uses this socket"), "{error}");
        assert!(path.exists());
        // Killed: the file stays, nobody listens.
        std::mem::forget(file);
        drop(listener);
        let (listener, file) = bind_stream(&path, 0o600, None).unwrap();
        drop((listener, file));
        assert!(!path.exists(), "its file goes with it");
        fs::write(&path, "precious").unwrap();
        assert!(bind_stream(&path, 0o660, None).unwrap_err().contains("no socket"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(bind_stream(&path, 0o660, None).unwrap_err().contains("symbolic link"));
        let error = bind_stream(&dir.path().join("none/sock"), 0o660, None).unwrap_err();
        assert!(error.contains("make its directory first"), "{error}");
    }

    #[test]
    fn a_file_that_somebody_else_made_since_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let (_listener, file) = bind_stream(&path, 0o660, None).unwrap();
        fs::remove_file(&path).unwrap();
        let (_other, _file) = bind_stream(&path, 0o660, None).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
