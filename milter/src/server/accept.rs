//! Binding the addresses, and accepting.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use greypit_pipeline::{Addresses, Result};
use tokio::sync::watch;

use super::address::Address;
use super::connection::serve;
use super::socket_file::{SocketFile, bind_stream};
use super::{Server, State};
use crate::config::{Config, problem};
use crate::metrics::FailOpen;

/// How long accepting rests when not even shedding a connection is possible.
const REST: Duration = Duration::from_millis(50);

/// How often running out of descriptors is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Sockets that are bound and not yet served.
#[derive(Debug)]
pub struct Bound(Vec<(Socket, String)>);

#[derive(Debug)]
enum Socket {
    Unix(UnixListener, SocketFile),
    Inet(TcpListener),
}

impl Bound {
    /// What was bound, for people: `milter unix:/run/greypit/sock`, with the port that the kernel chose where 0 was
    /// asked for.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(_, address)| format!("milter {address}"))
    }

    /// Whether nothing is to be served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_listeners(self) -> Result<Vec<Listener>> {
        let tokio = |socket| {
            Ok(match socket {
                Socket::Unix(socket, file) => Listener::Unix(tokio::net::UnixListener::from_std(socket)?, file),
                Socket::Inet(socket) => Listener::Inet(tokio::net::TcpListener::from_std(socket)?),
            })
        };
        let listeners: io::Result<_> = self.0.into_iter().map(|(socket, _)| tokio(socket)).collect();
        listeners.map_err(|error| problem("listen", error.to_string()))
    }
}

/// Binds every address of the section. Whatever was bound is released again on an error.
///
/// # Errors
/// Names the address, the reason and what to do.
pub fn bind(config: &Config, addresses: Addresses) -> Result<Bound> {
    let mode = config.mode_bits()?;
    let group = config.group_id()?;
    let bind = |text: &String| {
        Ok(match Address::parse(text)? {
            Address::Unix(path) => {
                let (socket, file) = bind_stream(Path::new(&path), mode, group)
                    .map_err(|why| problem("listen", format!("cannot listen on {text}: {why}")))?;
                (Socket::Unix(socket, file), text.clone())
            }
            Address::Inet(address) => {
                let socket = addresses.listen(address).map_err(|error| cannot(text, &error))?;
                let bound = socket.local_addr().map_err(|error| cannot(text, &error))?;
                let family = if bound.is_ipv6() { "inet6" } else { "inet" };
                (Socket::Inet(socket), format!("{family}:{}@{}", bound.port(), bound.ip()))
            }
        })
    };
    Ok(Bound(config.listen.iter().map(bind).collect::<Result<_>>()?))
}

fn cannot(text: &str, error: &io::Error) -> greypit_pipeline::Error {
    let todo = match error.kind() {
        ErrorKind::AddrInUse => "something else listens there; stop it (`ss -tlnp` names it) or choose another port",
        ErrorKind::AddrNotAvailable => "this machine has no such address",
        ErrorKind::PermissionDenied => "ports below 1024 are for root; choose another one",
        _ => "choose another address",
    };
    problem("listen", format!("cannot listen on {text}: {error}; {todo}"))
}

/// A socket being served.
#[derive(Debug)]
pub(super) enum Listener {
    /// The file goes with the listener.
    Unix(tokio::net::UnixListener, #[allow(dead_code)] SocketFile),
    Inet(tokio::net::TcpListener),
}

/// Accepts until greypit ends. Never gives up: an error is counted, and the next connection is tried.
pub(super) async fn run(listener: Listener, server: Arc<Server>, state: watch::Receiver<State>) {
    let mut stopping = state.clone();
    let mut spare = Spare::new();
    loop {
        let accepted = tokio::select! {
            biased;
            ended = stopping.wait_for(|state| state.stopping) => { drop(ended); return; }
            accepted = accept(&listener, &server, &state) => accepted,
        };
        match accepted {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => {
                spare.complain(&error);
                server.shared.metrics.fail_open(FailOpen::Descriptors);
                spare.shed(&listener).await;
            }
        }
    }
}

async fn accept(listener: &Listener, server: &Arc<Server>, state: &watch::Receiver<State>) -> io::Result<()> {
    match listener {
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            start(stream, server, state);
        }
        Listener::Inet(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            start(stream, server, state);
        }
    }
    Ok(())
}

fn start<S>(stream: S, server: &Arc<Server>, state: &watch::Receiver<State>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let before = server.connections.fetch_add(1, Ordering::Relaxed);
    let seen = before < server.connections_max;
    server.tasks.spawn(serve(stream, server.clone(), state.clone(), seen));
}

/// A descriptor kept back, so that a connection can still be accepted, and closed, when there are none left: a mail
/// server whose connection is closed goes on at once, one that is left waiting holds up its mail.
struct Spare {
    file: Option<File>,
    complained: Option<Instant>,
}

impl Spare {
    fn new() -> Spare {
        Spare { file: File::open("/dev/null").ok(), complained: None }
    }

    async fn shed(&mut self, listener: &Listener) {
        let had = self.file.take().is_some();
        let shed = async {
            match listener {
                Listener::Unix(listener, _) => listener.accept().await.map(drop),
                Listener::Inet(listener) => listener.accept().await.map(drop),
            }
        };
        let shed = tokio::time::timeout(REST, shed).await.is_ok_and(|shed| shed.is_ok());
        self.file = File::open("/dev/null").ok();
        if !had || !shed {
            tokio::time::sleep(REST).await;
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "milter: connections cannot be accepted; their mail passes as F= says");
        }
    }
}
