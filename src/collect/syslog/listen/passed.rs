//! Sockets that systemd opened (`greypit.socket`): what each is shows in its type, and only TLS in its name.
//!
//! | socket | serves |
//! |---|---|
//! | UDP | `udp` |
//! | TCP that listens | `tcp`; `tls` with `FileDescriptorName=tls`, or where the config lists its address there |
//! | unix datagram | `unix` |
//! | unix stream that listens | `unix_stream` |
//!
//! One that the config names too takes the place of the one that would have been made.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use greypit_pipeline::{Error, Result};
use socket2::{Domain, Socket, Type};

use super::config::Config;
use super::{Bound, tcp, udp, unix};

/// A socket and its name.
pub type Passed = (OwnedFd, String);

/// Adds `sockets` to `bound`.
///
/// # Errors
/// Names the socket that is of no use here.
pub(super) fn take(sockets: Vec<Passed>, config: &Config, bound: &mut Bound) -> Result<()> {
    for (fd, name) in sockets {
        let wrong = |why: String| {
            let text = format!("the socket '{name}' that systemd passes {why}; correct the .socket unit");
            Error::Config { key: "syslog".to_owned(), problem: text }
        };
        match place(Socket::from(fd), &name, config, bound) {
            Ok(true) => {}
            Ok(false) => return Err(wrong("is none for syslog (a datagram or listening stream socket)".to_owned())),
            Err(error) => return Err(wrong(format!("cannot be used: {error}"))),
        }
    }
    Ok(())
}

fn place(socket: Socket, name: &str, config: &Config, bound: &mut Bound) -> io::Result<bool> {
    let (domain, kind, local) = (socket.domain()?, socket.r#type()?, socket.local_addr()?);
    let listens = || socket.is_listener();
    if domain == Domain::UNIX {
        let path = local.as_pathname().map_or_else(PathBuf::new, ToOwned::to_owned);
        match kind {
            Type::DGRAM => bound.unix.push(unix::datagrams(socket.into(), None, path)?),
            Type::STREAM if listens()? => bound.unix.push(unix::streams(socket.into(), path)?),
            _ => return Ok(false),
        }
        return Ok(true);
    }
    let Some(address) = local.as_socket() else { return Ok(false) };
    match kind {
        Type::DGRAM => bound.udp.push(udp::passed(socket, address, config.recv_buffer)?),
        Type::STREAM if listens()? => {
            let over_tls = name == "tls" || names(&config.tls, address);
            let place = if over_tls { &mut bound.tls } else { &mut bound.tcp };
            place.push(tcp::passed(socket, address)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn names(listed: &[String], address: SocketAddr) -> bool {
    listed.iter().any(|text| text.parse() == Ok(address))
}

/// The addresses of `listed` that none of `taken` has.
pub(super) fn missing(listed: &[String], taken: Vec<SocketAddr>) -> impl Iterator<Item = &String> {
    listed.iter().filter(move |text| !taken.iter().any(|address| text.parse() == Ok(*address)))
}
