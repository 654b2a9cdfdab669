//! Sockets on the interfaces' addresses, taken before anything is answered, and the tasks that read them.

use std::io;
use std::net::SocketAddrV4;

use greypit_pipeline::{Error, Result};
use socket2::Socket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::net::Interface;

/// Sockets of one protocol that are bound and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    pub(super) protocol: &'static str,
    pub(super) sockets: Vec<(Socket, SocketAddrV4)>,
}

impl Bound {
    /// One on each interface; none where `port` is 0. `ss`: the options with which that command shows such sockets.
    ///
    /// # Errors
    /// [`Error::Config`] for `boot.<protocol>.port`, with what to do.
    pub(super) fn open(
        protocol: &'static str,
        ss: &str,
        port: u16,
        interfaces: &[Interface],
        open: impl Fn(SocketAddrV4) -> io::Result<Socket>,
    ) -> Result<Bound> {
        let interfaces = if port == 0 { &[] } else { interfaces };
        let sockets = interfaces.iter().map(|interface| {
            let wanted = SocketAddrV4::new(interface.addr, port);
            let opened = open(wanted).and_then(|socket| {
                let address = socket.local_addr()?.as_socket_ipv4().unwrap_or(wanted);
                Ok((socket, address))
            });
            opened.map_err(|error| {
                let problem = format!(
                    "cannot listen on {wanted}: {error}; `ss {ss} 'sport = :{port}'` names whoever has it; ports below \
                     1024 need CAP_NET_BIND_SERVICE; 0 = off"
                );
                Error::Config { key: format!("boot.{protocol}.port"), problem }
            })
        });
        Ok(Bound { protocol, sockets: sockets.collect::<Result<_>>()? })
    }

    /// A task for each, that `serve` makes of it, and one that ends when all of `tasks` have.
    ///
    /// # Errors
    /// Where Tokio cannot read a socket.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        self,
        tasks: &TaskTracker,
        stop: CancellationToken,
        serve: impl Fn(Socket, SocketAddrV4) -> io::Result<F>,
    ) -> Result<Vec<JoinHandle<()>>> {
        let key = format!("boot.{}.port", self.protocol);
        let unusable = |error: io::Error| Error::Config { key: key.clone(), problem: error.to_string() };
        let served = self.sockets.into_iter().map(|(socket, address)| {
            let serving = serve(socket, address).map_err(unusable)?;
            Ok(tokio::spawn(tasks.track_future(serving)))
        });
        let mut spawned = served.collect::<Result<Vec<_>>>()?;
        spawned.push(last(tasks, stop));
        Ok(spawned)
    }

    /// For people: `tftp 10.0.0.1:69`.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.sockets.iter().map(|(_, address)| format!("{} {address}", self.protocol)).collect()
    }
}

/// Ends when, after `stop`, the last of `tasks` has.
pub(super) fn last(tasks: &TaskTracker, stop: CancellationToken) -> JoinHandle<()> {
    let tasks = tasks.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    })
}
