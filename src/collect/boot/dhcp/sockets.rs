//! The sockets of one interface, and how answers leave by it.
//!
//! | mode | received by | sent by |
//! |---|---|---|
//! | serve | UDP 67 and 4011; a packet socket for other servers' answers; one for ARP | UDP 67 and 4011 |
//! | proxy | a packet socket, so that another server may have port 67, on this machine too; UDP 4011 | a raw IP socket from port 67; UDP 4011 |
//! | listen | a packet socket | nothing |
//!
//! UDP sockets are bound to 0.0.0.0, for broadcasts, and to their interface (`SO_BINDTODEVICE`), and share their port
//! with nobody: a second server on port 67 would get every other unicast. To a client without an address an answer goes
//! in all modes by a packet socket to its card. No send waits: what a full send buffer does not take is counted, or one
//! client that does not answer ARP would hold up all others.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use greypit_pipeline::{Error, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::super::config::{Config, Mode};
use super::super::net::Interface;
use super::outcome::{Answer, Destination};
use super::packet::{self, Datagram};
use super::{BOOT_PORT, CLIENT_PORT, SERVER_PORT, arp, capture};
use crate::sys;

/// Asked of the kernel for each socket that receives; it gives at most net.core.rmem_max.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// The Ethernet types of IPv4 and ARP.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;

/// All of an interface's.
#[derive(Debug)]
pub(super) struct Sockets {
    /// As it was when they were made.
    pub(super) interface: Interface,
    /// UDP 67.
    pub(super) server: Option<Socket>,
    /// UDP 4011.
    pub(super) boot: Option<Socket>,
    /// IPv4 packets to clients' cards.
    link: Option<Socket>,
    /// IPv4 packets that the kernel routes, where there is no UDP 67.
    raw: Option<Socket>,
    /// What others say.
    pub(super) capture: Option<Socket>,
    /// Answers to ARP probes.
    pub(super) arp: Option<Socket>,
    /// Where clients hear.
    client_port: u16,
}

impl Sockets {
    /// Opens those that the mode needs.
    ///
    /// # Errors
    /// [`Error::Config`] for `boot.interface`, with what to do.
    pub(super) fn open(config: &Config, interface: &Interface) -> Result<Sockets> {
        let mode = config.mode;
        let raw_is_needed = |error| refused(&interface.name, "a packet socket", &error);
        let only_in = |wanted: &[Mode]| wanted.contains(&mode).then_some(());
        let answers = [Mode::Serve, Mode::Proxy];
        let server = only_in(&[Mode::Serve]).map(|()| udp(interface, SERVER_PORT)).transpose()?;
        let boot = only_in(&answers).map(|()| udp(interface, BOOT_PORT)).transpose()?;
        let link = only_in(&answers).map(|()| packet_socket().map_err(raw_is_needed)).transpose()?;
        let raw = only_in(&[Mode::Proxy]).map(|()| raw(interface).map_err(raw_is_needed)).transpose()?;
        let arp = only_in(&[Mode::Serve]).map(|()| listening(interface, ARP, &arp::FILTER).map_err(raw_is_needed));
        let capture =
            listening(interface, capture::ethernet_type(mode), &capture::filter(mode)).map_err(raw_is_needed)?;
        if config.dhcp.promiscuous {
            sys::hear_everything(&capture, interface.index).map_err(raw_is_needed)?;
        }
        Ok(Sockets {
            interface: interface.clone(),
            server,
            boot,
            link,
            raw,
            capture: Some(capture),
            arp: arp.transpose()?,
            client_port: CLIENT_PORT,
        })
    }

    /// What is bound, for people.
    pub(super) fn addresses(&self) -> Vec<String> {
        let Interface { name, addr, .. } = &self.interface;
        let udp = [(&self.server, SERVER_PORT), (&self.boot, BOOT_PORT)];
        let udp = udp.into_iter().filter(|(socket, _)| socket.is_some());
        let mut addresses: Vec<_> = udp.map(|(_, port)| format!("dhcp {name} {addr}:{port}")).collect();
        if self.server.is_none() {
            addresses.push(format!("dhcp {name} (packets)"));
        }
        addresses
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::WouldBlock`] where the send buffer is full.
    pub(super) fn send(&self, answer: &Answer) -> io::Result<()> {
        let bytes = &answer.bytes;
        let from = |port| SocketAddrV4::new(self.interface.addr, port);
        match answer.to {
            Destination::Relay(relay) => self.send_from_server(bytes, SocketAddrV4::new(relay, SERVER_PORT)),
            Destination::Client(client) => self.send_from_server(bytes, SocketAddrV4::new(client, self.client_port)),
            Destination::Broadcast => {
                self.send_from_server(bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, self.client_port))
            }
            Destination::Link(card, client) => {
                let destination = SocketAddrV4::new(client, self.client_port);
                let packet = made(&Datagram { source: from(SERVER_PORT), destination, payload: bytes })?;
                let to = sys::link_address(self.interface.index, IPV4, card.0);
                open(&self.link)?.send_to(&packet, &to).map(drop)
            }
            Destination::Sender(to) => open(&self.boot)?.send_to(bytes, &to.into()).map(drop),
        }
    }

    fn send_from_server(&self, bytes: &[u8], destination: SocketAddrV4) -> io::Result<()> {
        if let Some(server) = &self.server {
            return server.send_to(bytes, &destination.into()).map(drop);
        }
        let source = SocketAddrV4::new(self.interface.addr, SERVER_PORT);
        let packet = made(&Datagram { source, destination, payload: bytes })?;
        open(&self.raw)?.send_to(&packet, &destination.into()).map(drop)
    }

    /// Asks on the link who has `ip`.
    ///
    /// # Errors
    /// As [`Sockets::send`].
    pub(super) fn probe(&self, ip: Ipv4Addr) -> io::Result<()> {
        let to = sys::link_address(self.interface.index, ARP, [0xff; 6]);
        open(&self.arp)?.send_to(&arp::probe(self.interface.card.mac(), ip), &to).map(drop)
    }

    /// On loopback, with ports of the kernel's choice, and answers to `client_port`.
    #[cfg(test)]
    pub(super) fn on_loopback(client_port: u16) -> Sockets {
        let interface = Interface::new("lo", 1, super::super::mac::Mac([0; 6]), "127.0.0.1/8".parse().unwrap());
        let udp = || Some(udp_on(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap());
        let (server, boot) = (udp(), udp());
        Sockets { interface, server, boot, link: None, raw: None, capture: None, arp: None, client_port }
    }
}

fn open(socket: &Option<Socket>) -> io::Result<&Socket> {
    socket.as_ref().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn made(datagram: &Datagram<'_>) -> io::Result<Vec<u8>> {
    packet::emit(datagram).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn udp(interface: &Interface, port: u16) -> Result<Socket> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        ready(socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())
    };
    open().map_err(|error| refused(&interface.name, &format!("UDP port {port}"), &error))
}

#[cfg(test)]
fn udp_on(address: SocketAddrV4) -> io::Result<Socket> {
    ready(Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, &address.into())
}

fn ready(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    socket.bind(address)?;
    Ok(socket)
}

/// One that sends only: it is of no protocol.
fn packet_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// One that takes packets of an Ethernet type on an interface; the filter is there before the first of them.
fn listening(interface: &Interface, ethernet_type: u16, filter: &[socket2::SockFilter]) -> io::Result<Socket> {
    let socket = packet_socket()?;
    socket.attach_filter(filter)?;
    ready(socket, &sys::link_address(interface.index, ethernet_type, [0; 6]))
}

/// Sends whole IP packets (`IPPROTO_RAW`) and receives nothing.
fn raw(interface: &Interface) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether this process may have packet sockets, which shows without any interface.
///
/// # Errors
/// As [`Sockets::open`].
pub(super) fn try_packets(interface: &str) -> Result<()> {
    packet_socket().map(drop).map_err(|error| refused(interface, "a packet socket", &error))
}

/// What to do about it.
fn refused(interface: &str, what: &str, error: &io::Error) -> Error {
    let capabilities = "under systemd with the drop-in greypit-boot.conf, else by \
                        `setcap cap_net_raw,cap_net_bind_service+ep` on the program";
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("; it needs CAP_NET_RAW and CAP_NET_BIND_SERVICE, and a restart: {capabilities}")
        }
        io::ErrorKind::AddrInUse => "; another DHCP server runs on this machine (`ss -ulpn` names it): stop it, or \
                                     answer boot questions beside it by mode = \"proxy\""
            .to_owned(),
        _ => String::new(),
    };
    let problem = format!("{what} on '{interface}' cannot be opened: {error}{advice}");
    Error::Config { key: "boot.interface".into(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let said = |kind: io::ErrorKind| refused("eth1", "UDP port 67", &kind.into()).to_string();
        let denied = said(io::ErrorKind::PermissionDenied);
        assert!(
            denied.contains("boot.interface") && denied.contains("'eth1'") && denied.contains("setcap"),
            "{denied}"
        );
        let taken = said(io::ErrorKind::AddrInUse);
        assert!(taken.contains("another DHCP server") && taken.contains("proxy"), "{taken}");
    }
}
