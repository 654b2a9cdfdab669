//! DHCP as bytes (RFC 2131), made and read by the tests themselves: clients by the
//! dozen, and packets that no client sends.

use super::netns::{Host, INTERFACE};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;
pub(crate) const RELEASE: u8 = 7;

/// Where servers listen, for those who know none.
pub(crate) const SERVERS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);

/// A request that grows.
#[derive(Debug, Clone)]
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    /// Of a client whose answers shall be broadcast.
    pub(crate) fn new(kind: u8, mac: [u8; 6], xid: u32) -> Self {
        let mut bytes = vec![0; 236];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&xid.to_be_bytes());
        bytes[28..34].copy_from_slice(&mac);
        bytes.extend([99, 130, 83, 99]);
        Self(bytes).at(10, &[0x80, 0]).option(53, &[kind])
    }

    /// Overwrites what is at this place of the header.
    pub(crate) fn at(mut self, place: usize, bytes: &[u8]) -> Self {
        self.0[place..place + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn option(mut self, code: u8, data: &[u8]) -> Self {
        self.0.extend([code, data.len() as u8]);
        self.raw(data)
    }

    /// These bytes, whatever they mean.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn ciaddr(self, address: Ipv4Addr) -> Self {
        self.at(12, &address.octets())
    }

    /// As a relay passes it on.
    pub(crate) fn giaddr(self, relay: Ipv4Addr) -> Self {
        self.at(24, &relay.octets())
    }

    /// The datagram without the mark of its end.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }

    /// The whole datagram.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.push(255);
        self.0
    }
}

/// What a server says.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) kind: u8,
    pub(crate) xid: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) yiaddr: Ipv4Addr,
    pub(crate) options: BTreeMap<u8, Vec<u8>>,
}

impl Answer {
    /// None: not an answer of DHCP.
    pub(crate) fn read(datagram: &[u8]) -> Option<Self> {
        let (header, mut rest) = datagram.split_at_checked(240)?;
        let mut options = BTreeMap::new();
        while let [code @ 1..=254, length, behind @ ..] = rest {
            let (value, next) = behind.split_at_checked(usize::from(*length))?;
            options.insert(*code, value.to_vec());
            rest = next;
        }
        let kind = *options.get(&53)?.first()?;
        (header[0] == 2).then_some(Self {
            kind,
            xid: u32::from_be_bytes(header[4..8].try_into().expect("four octets")),
            mac: header[28..34].try_into().expect("six octets"),
            yiaddr: <[u8; 4]>::try_from(&header[16..20]).expect("four octets").into(),
            options,
        })
    }
}

/// A socket on a host for packets of any number of clients, which sends from this port
/// and receives what is broadcast to it.
pub(crate) fn socket(host: &Host, port: u16) -> UdpSocket {
    host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
        socket.set_broadcast(true).expect("a socket may broadcast");
        socket.bind_device(Some(INTERFACE.as_bytes())).expect("root may");
        socket.set_recv_buffer_size(4 << 20).expect("a larger buffer");
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()).expect("the port is free");
        socket.into()
    })
}
