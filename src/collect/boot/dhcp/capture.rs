//! DHCP on the wire, whoever it is for: what a packet socket sees of an interface.
//!
//! | mode | what is taken | why |
//! |---|---|---|
//! | serve | to port 68, but not what leaves here | another server that answers on our network is noticed |
//! | proxy | to ports 67 and 68 | requests, without holding port 67, so that another server may have it, on this machine too; and the other server's ACKs, which say who has which address |
//! | listen | to ports 67, 68 and 4011 | to record it |
//!
//! The kernel drops the rest (a classic BPF program, [`filter`]). Packets of a VLAN on top of the interface are seen by
//! its packet sockets too and are not its own; they are left alone.
//!
//! A switch passes on what is broadcast. What it sends to others, as most servers' answers, is seen only on a mirror
//! port, with `boot.dhcp.promiscuous`. Another server is noticed all the same once a client asks it, which is broadcast.

use std::net::Ipv4Addr;

use nix::sys::socket::LinkAddr;
use socket2::SockFilter;

use super::super::config::Mode;
use super::super::mac::Mac;
use super::outcome::Arrival;
use super::packet::{self, Datagram, Unfit};
use super::{BOOT_PORT, CLIENT_PORT, SERVER_PORT};

/// `PACKET_OUTGOING` and `PACKET_OTHERHOST` of linux/if_packet.h.
const OUTGOING: u8 = 4;
const OTHER_HOST: u8 = 3;

/// Where BPF gives the Ethernet type and the VLAN: `SKF_AD_OFF + SKF_AD_PROTOCOL` and `SKF_AD_VLAN_TAG`.
const ETHERNET_TYPE: u32 = -0x1000_i32 as u32;
const VLAN_TAG: u32 = (-0x1000_i32 + 44) as u32;

/// Of IPv4, and `ETH_P_ALL`.
const IPV4: u16 = 0x0800;
const ALL: u16 = 0x0003;

/// What a packet socket is bound to: only with all Ethernet types it sees what leaves here.
pub(super) fn ethernet_type(mode: Mode) -> u16 {
    match mode {
        Mode::Serve => IPV4,
        Mode::Proxy | Mode::Listen => ALL,
    }
}

/// The ports to which packets go that a mode takes.
fn ports(mode: Mode) -> &'static [u16] {
    match mode {
        Mode::Serve => &[CLIENT_PORT],
        Mode::Proxy => &[SERVER_PORT, CLIENT_PORT],
        Mode::Listen => &[SERVER_PORT, CLIENT_PORT, BOOT_PORT],
    }
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
/// `x = 4 * (packet[k] & 15)`: the length of the IP header.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const LOAD_HALF_AT_X: u16 = 0x48;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Lets through what the mode takes.
pub(super) fn filter(mode: Mode) -> Vec<SockFilter> {
    let mut program = Vec::new();
    if ethernet_type(mode) == ALL {
        program.extend([
            SockFilter::new(LOAD_WORD, 0, 0, ETHERNET_TYPE),
            SockFilter::new(JUMP_EQUAL, 0, 3, u32::from(IPV4)),
            SockFilter::new(LOAD_WORD, 0, 0, VLAN_TAG),
            // Without the priority: VLAN 0 is none.
            SockFilter::new(AND, 0, 0, 0xfff),
            SockFilter::new(JUMP_EQUAL, 1, 0, 0),
            SockFilter::new(RETURN, 0, 0, 0),
        ]);
    }
    program.extend(filter_ipv4(mode));
    program
}

/// UDP to the mode's ports, and no later fragments, which have none.
fn filter_ipv4(mode: Mode) -> Vec<SockFilter> {
    let ports = ports(mode);
    // How many instructions there are until the last, which refuses: those of the ports, and the one that accepts.
    let after = |instructions: usize| (instructions + ports.len() + 1) as u8;
    let mut program = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(JUMP_EQUAL, 0, after(4), 17),
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        SockFilter::new(JUMP_SET, after(2), 0, 0x1fff),
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_HALF_AT_X, 0, 0, 2),
    ];
    for (i, port) in ports.iter().enumerate() {
        let last = i + 1 == ports.len();
        program.push(SockFilter::new(JUMP_EQUAL, (ports.len() - 1 - i) as u8, u8::from(last), u32::from(*port)));
    }
    program.extend([SockFilter::new(RETURN, 0, 0, u32::MAX), SockFilter::new(RETURN, 0, 0, 0)]);
    program
}

/// How the link gave a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The card that sent it.
    pub(super) from: Option<Mac>,
    /// The kernel's number of the interface that it is of.
    pub(super) index: u32,
    kind: u8,
}

impl Link {
    pub(super) fn new(address: &LinkAddr) -> Link {
        Link {
            from: address.addr().map(Mac).filter(|mac| address.halen() == 6 && !mac.is_nobody()),
            index: address.ifindex() as u32,
            kind: address.pkttype(),
        }
    }
}

/// What is seen on one interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) mode: Mode,
    /// Which of the interfaces.
    pub(super) interface: usize,
    /// The kernel's number for it.
    pub(super) index: u32,
    pub(super) addr: Ipv4Addr,
    pub(super) broadcast: Ipv4Addr,
}

/// What a captured packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen<'p> {
    Message(Arrival, &'p [u8]),
    /// Not this interface's, our own, or not for us.
    NotOurs,
    Unfit(Unfit),
}

impl View {
    /// What `packet` is for the server.
    pub(super) fn see<'p>(&self, packet: &'p [u8], link: &Link) -> Seen<'p> {
        if link.index != self.index {
            return Seen::NotOurs;
        }
        let datagram = match packet::parse(packet) {
            Ok(datagram) => datagram,
            Err(unfit) => return Seen::Unfit(unfit),
        };
        match self.mode {
            Mode::Proxy if !self.is_for_proxy(&datagram, link) => Seen::NotOurs,
            _ => {
                let arrival =
                    Arrival { interface: self.interface, source: datagram.source, port: datagram.destination.port() };
                Seen::Message(arrival, datagram.payload)
            }
        }
    }

    /// Requests for everybody or for us, and all answers but our own. Those leave here and give no address, unlike those
    /// of another server on this machine that say something of use.
    fn is_for_proxy(&self, datagram: &Datagram<'_>, link: &Link) -> bool {
        let to = *datagram.destination.ip();
        if datagram.destination.port() == CLIENT_PORT {
            return link.kind != OUTGOING || datagram.payload.get(16..20).is_some_and(|yiaddr| yiaddr != [0; 4]);
        }
        let heard = to.is_broadcast() || to == self.broadcast || to == self.addr;
        heard && link.kind != OTHER_HOST
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddrV4;

    use super::*;

    const LINK: Link = Link { from: Some(Mac([2, 0, 0, 0, 0, 9])), index: 7, kind: 0 };

    fn view(mode: Mode) -> View {
        let (addr, broadcast) = ([10, 77, 0, 1].into(), [10, 77, 0, 255].into());
        View { mode, interface: 3, index: 7, addr, broadcast }
    }

    fn packet(to: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
        let source = SocketAddrV4::new([10, 77, 0, 2].into(), 67);
        packet::emit(&Datagram { source, destination: SocketAddrV4::new(to.into(), port), payload }).unwrap()
    }

    #[test]
    fn a_message_comes_with_where_it_came_in() {
        let packet = packet([255; 4], 68, b"offer");
        let Seen::Message(arrival, payload) = view(Mode::Listen).see(&packet, &LINK) else { panic!() };
        assert_eq!((arrival.interface, arrival.port, payload), (3, 68, &b"offer"[..]));
        assert_eq!(arrival.source.to_string(), "10.77.0.2:67");
        assert_eq!(view(Mode::Listen).see(&packet, &Link { index: 8, ..LINK }), Seen::NotOurs);
        assert_eq!(view(Mode::Listen).see(&packet[..30], &LINK), Seen::Unfit(Unfit::Short));
    }

    #[test]
    fn a_proxy_leaves_alone_what_it_said_itself_and_what_is_for_others() {
        let ours = packet([255; 4], 68, &[0; 240]);
        let theirs = packet([255; 4], 68, &[7; 240]);
        let outgoing = Link { kind: OUTGOING, ..LINK };
        let taken = |packet: &[u8], link: &Link| matches!(view(Mode::Proxy).see(packet, link), Seen::Message(..));
        assert!(!taken(&ours, &outgoing));
        assert!(taken(&ours, &LINK), "of another proxy");
        assert!(taken(&theirs, &outgoing), "of the other server on this machine");
        assert!(taken(&packet([255; 4], 67, b""), &LINK));
        assert!(taken(&packet([10, 77, 0, 255], 67, b""), &LINK));
        assert!(taken(&packet([10, 77, 0, 1], 67, b""), &LINK));
        assert!(!taken(&packet([10, 77, 0, 2], 67, b""), &LINK), "a renewal of somebody else's lease");
        assert!(!taken(&packet([255; 4], 67, b""), &Link { kind: OTHER_HOST, ..LINK }));
    }

    /// The kernel runs the filter on what two sockets of this process send each other. A UDP socket's filter sees the UDP
    /// header first, so packets are payloads of a unix socket here, which have no Ethernet type.
    #[test]
    fn the_kernel_takes_the_filter_and_lets_through_what_a_mode_wants() {
        for (mode, wanted) in [(Mode::Serve, &[68][..]), (Mode::Proxy, &[67, 68]), (Mode::Listen, &[67, 68, 4011])] {
            let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
            receiver.set_nonblocking(true).unwrap();
            let mut receiver = socket2::Socket::from(receiver);
            receiver.attach_filter(&filter(mode)).unwrap();
            receiver.attach_filter(&filter_ipv4(mode)).unwrap();
            let mut passes = |packet: &[u8]| {
                // A packet that the filter refuses is an error for the sender or vanishes; either way nothing arrives.
                let _ = sender.send(packet);
                receiver.read(&mut [0; 2048]).is_ok()
            };
            for port in [53, 67, 68, 4011] {
                assert_eq!(passes(&packet([255; 4], port, b"x")), wanted.contains(&port), "{mode:?} {port}");
            }
            let mut tcp = packet([255; 4], wanted[0], b"x");
            tcp[9] = 6;
            assert!(!passes(&tcp));
            let mut later = packet([255; 4], wanted[0], b"x");
            later[7] = 1;
            assert!(!passes(&later));
            let mut options = packet([255; 4], wanted[0], b"x");
            options[0] = 0x46;
            options.splice(20..20, [1, 1, 1, 0]);
            assert!(passes(&options));
        }
    }
}
