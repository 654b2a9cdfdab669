//! DNS for the machines: A and PTR of machine files and leases, and nothing for strangers.
//!
//! | file | what |
//! |---|---|
//! | [`answer`] | what a query is answered, pure |
//! | [`index`], [`names`] | the names there are |
//! | [`forward`] | names that are not ours |
//! | [`upstreams`] | whom these are asked of, and who is away, pure |
//! | [`listen`] | UDP and TCP on the interfaces' addresses (RFC 1035, RFC 7766) |
//!
//! Promises: it is no open resolver, since only addresses in our networks, this machine's own and loopback get an answer
//! at all, others are counted. The one policy holds: a machine that may not boot is REFUSED. Each answer, error and refusal
//! is one `dns` event, and so is what is no query, with its bytes; what is dropped for its source or its rate is counted
//! only, so a flood does not fill the archive.
//!
//! Limits: queries of [`listen::QUERY_BYTES_MAX`] bytes, answers as [`answer`] says, `boot.dns.max_rate_per_client`,
//! [`forward::FORWARDS_MAX`] forwarded at once, [`forward::FORWARDS_PER_CLIENT_MAX`] of one client,
//! [`listen::CONNECTIONS_MAX`] TCP connections,
//! [`listen::CONNECTIONS_PER_PEER_MAX`] of one client, each at most [`listen::IDLE_MAX`] quiet.

mod answer;
pub(crate) mod config;
mod forward;
mod index;
mod listen;
mod metrics;
pub(crate) mod names;
mod rate;
mod upstreams;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;

use greypit_pipeline::{Error, Health, Result};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::net::Interface;
use super::world::World;

pub(crate) use config::Config;
pub(crate) use metrics::Metrics;
pub(crate) use names::Names;

/// Sockets that are bound and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    sockets: Vec<(UdpSocket, TcpListener)>,
    /// `boot.dns.forward`.
    upstreams: Vec<SocketAddr>,
}

impl Bound {
    /// For people: `dns 10.0.0.1:53`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let addresses = self.sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok());
        addresses.map(|address| format!("dns {address}")).collect()
    }
}

/// Binds the interfaces' addresses, UDP and TCP.
///
/// # Errors
/// [`Error::Config`] for `boot.dns.port`, with what to do.
pub(crate) fn bind(config: &Config, interfaces: &[Interface]) -> Result<Bound> {
    if config.port == 0 {
        return Ok(Bound::default());
    }
    let upstreams = config.upstreams()?;
    for interface in interfaces {
        if upstreams.contains(&SocketAddr::from((interface.addr, config.port))) {
            let problem = format!("{} is this server itself: queries would go round in circles", interface.addr);
            return Err(config::refuse(problem));
        }
    }
    let sockets = interfaces.iter().map(|interface| open(interface.addr, config.port)).collect::<Result<_>>()?;
    Ok(Bound { sockets, upstreams })
}

/// The two sockets of an address.
fn open(ip: Ipv4Addr, port: u16) -> Result<(UdpSocket, TcpListener)> {
    let address = SocketAddrV4::new(ip, port);
    let sockets = || {
        let udp = UdpSocket::bind(address)?;
        udp.set_nonblocking(true)?;
        // The same port where the kernel chose one.
        let tcp = TcpListener::bind(udp.local_addr()?)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    };
    sockets().map_err(|error: std::io::Error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another name server is there (`ss -lnp 'sport = :{port}'`); stop it, or set the port to 0")
            }
            std::io::ErrorKind::PermissionDenied => "it needs CAP_NET_BIND_SERVICE; or set the port to 0".to_owned(),
            _ => "choose another port, or 0 for none".to_owned(),
        };
        let problem = format!("cannot listen on {address}: {error}; {advice}");
        Error::Config { key: "boot.dns.port".into(), problem }
    })
}

/// # Errors
/// Where `registry` has these metrics already.
pub(crate) fn metrics(registry: &Registry, config: &Config) -> prometheus::Result<Metrics> {
    Metrics::new(registry, config.forward.len(), forward::FORWARDS_MAX, listen::CONNECTIONS_MAX)
}

/// Answers until `stop`.
///
/// # Errors
/// Where the sockets cannot be read by Tokio.
pub(crate) fn spawn(
    bound: Bound,
    world: Arc<World>,
    metrics: Metrics,
    health: &Health,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    if bound.sockets.is_empty() {
        return Ok(Vec::new());
    }
    listen::spawn(bound, world, metrics, health, stop)
}

/// For the fuzz target: an answer to any bytes, from one machine, one lease and no servers.
#[doc(hidden)]
pub fn fuzz(packet: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    use answer::{Asker, Reply, Transport};
    let interface = Interface::new("eth1", 2, super::mac::Mac([0x52, 0x54, 0, 0, 0, 1]), "10.77.0.1/24".parse().ok()?);
    let mut config = super::Config::default();
    config.dhcp.domain = "test".to_owned();
    let networks = super::net::Networks::new(&config, vec![interface]).ok()?;
    let mut machines = super::machines::Machines::default();
    let ip = Some(Ipv4Addr::new(10, 77, 0, 10));
    machines.add(
        Ipv4Addr::new(10, 77, 0, 1),
        super::machines::Machine { hostname: "a".to_owned(), ip, ..Default::default() },
    );
    let names = Names::default();
    names.lease(Ipv4Addr::new(10, 77, 0, 100), Some(b"b"));
    let index = index::Index::new(Arc::new(machines), &networks);
    let zones = index::Zones { index: &index, names: &names, networks: &networks, now_s: 0 };
    let transport = if over_tcp { Transport::Tcp } else { Transport::Udp };
    let server = Some(Ipv4Addr::new(10, 77, 0, 1));
    let asker = Asker { transport, server, refused: None, forwards: false };
    match answer::answer(packet, asker, zones) {
        Reply::Answer(answer) => Some(answer.bytes),
        Reply::None(_) | Reply::Forward(_) => None,
    }
}
