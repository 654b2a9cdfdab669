//! The packet that wakes a machine: six bytes of ones, then its card's address 16 times; 102 bytes in a UDP datagram.
//!
//! It goes to the broadcast address of the machine's network, on the interface that is in it; a network behind a relay gets
//! it as directed broadcast, which its router must let through (most do not until told to). [`REPEATS`] times: nobody
//! acknowledges it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::collect::boot::mac::Mac;
use crate::collect::boot::net::Networks;

/// Discard (RFC 863), where nobody answers.
pub(crate) const PORT: u16 = 9;

const REPEATS: usize = 3;

/// Cards that lose one packet may lose those right behind it.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) const PACKET_BYTES: usize = 102;

pub(crate) fn packet(mac: Mac) -> [u8; PACKET_BYTES] {
    let mut packet = [0xff; PACKET_BYTES];
    packet[6..].chunks_exact_mut(6).for_each(|copy| copy.copy_from_slice(&mac.0));
    packet
}

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Our address there; `0.0.0.0` where the kernel finds the way.
    pub(crate) from: Ipv4Addr,
    /// Where all of it hears.
    pub(crate) to: Ipv4Addr,
}

/// The way to whoever has `ip`; without one, to all our interfaces.
pub(crate) fn ways(networks: &Networks, ip: Option<Ipv4Addr>) -> Vec<Way> {
    match ip.and_then(|ip| networks.of(ip)) {
        Some(network) => {
            let interface = network.interface.and_then(|index| networks.interfaces.get(index));
            let from = interface.map_or(Ipv4Addr::UNSPECIFIED, |interface| interface.addr);
            vec![Way { from, to: network.subnet.broadcast() }]
        }
        None => networks
            .interfaces
            .iter()
            .map(|interface| Way { from: interface.addr, to: interface.broadcast() })
            .collect(),
    }
}

/// Sends the packets of all `macs` on all `ways`.
///
/// # Errors
/// The first that the kernel gives.
pub(crate) async fn send(macs: &[Mac], ways: &[Way], port: u16) -> io::Result<()> {
    let mut sockets = Vec::new();
    for way in ways {
        let socket = UdpSocket::bind((way.from, 0)).await?;
        socket.set_broadcast(true)?;
        sockets.push((socket, SocketAddrV4::new(way.to, port)));
    }
    for repeat in 0..REPEATS {
        if repeat > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        for (socket, to) in &sockets {
            for mac in macs {
                socket.send_to(&packet(*mac), to).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::boot::net::testing::networks;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn ones_and_sixteen_times_the_address() {
        let packet = packet(MAC);
        assert_eq!(packet.len(), 6 + 16 * 6);
        assert_eq!(packet[..6], [0xff; 6]);
        assert_eq!(packet[6..], MAC.0.repeat(16)[..]);
    }

    #[test]
    fn the_way_is_the_machines_network() {
        let networks = networks("[[network]]\nsubnet = \"10.9.0.0/16\"");
        let way = |ip: Option<[u8; 4]>| {
            let ways = ways(&networks, ip.map(Into::into));
            ways.iter().map(|way| format!("{} {}", way.from, way.to)).collect::<Vec<_>>().join(",")
        };
        assert_eq!(way(Some([10, 77, 0, 9])), "10.77.0.1 10.77.0.255");
        assert_eq!(way(Some([10, 9, 3, 4])), "0.0.0.0 10.9.255.255");
        assert_eq!(way(None), "10.77.0.1 10.77.0.255");
    }

    #[tokio::test]
    async fn it_is_heard_at_the_broadcast_address() {
        let to = Ipv4Addr::new(127, 255, 255, 255);
        let hears = UdpSocket::bind((to, 0)).await.unwrap();
        let port = hears.local_addr().unwrap().port();
        send(&[MAC], &[Way { from: Ipv4Addr::LOCALHOST, to }], port).await.unwrap();
        let mut buffer = [0; 200];
        for _ in 0..REPEATS {
            let received = tokio::time::timeout(Duration::from_secs(120), hears.recv_from(&mut buffer)).await;
            let (length, from) = received.unwrap().unwrap();
            assert_eq!(buffer[..length], packet(MAC));
            assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
        }
    }
}
