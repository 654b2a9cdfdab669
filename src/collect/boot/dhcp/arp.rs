//! The conflict check: an ARP probe (RFC 5227 §2.1.1) for each address that is offered, at the same time as the offer.
//!
//! An answer holds nobody up: whoever has the address already answers long before the client's REQUEST, or, where it
//! does not, the client itself finds out and says DECLINE. A probe's sender address is 0.0.0.0, so nobody's ARP table
//! changes by it. An answer by the very client that the address was offered to is no conflict: it still has the address
//! from before ([`super::server::Server::conflict`] knows).
//!
//! Behind a relay there is no check from here: ARP does not pass a router, and an ICMP echo would need an answer to be
//! waited for across the whole network; there DECLINE is what is left. Nothing is announced: this server takes no
//! address.
//!
//! Pure: the time is an argument. Limits: [`PROBES_MAX`] addresses wait for an answer,
//! each for [`LASTS`]; more offers than that at once go out unchecked and are counted.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use socket2::SockFilter;

use super::super::mac::Mac;

/// Of an ARP packet for IPv4 on Ethernet (RFC 826), without what pads it.
pub(super) const PACKET_BYTES: usize = 28;

/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// Addresses that wait for an answer at once.
pub(super) const PROBES_MAX: usize = 4096;

/// How long an answer to a probe counts; a client asks for an offer within that time, or begins again.
pub(super) const LASTS: Duration = Duration::from_secs(10);

/// Lets only replies through: `ldh [6]; jeq #2; ret`.
pub(super) const FILTER: [SockFilter; 4] = [
    SockFilter::new(0x28, 0, 0, 6),
    SockFilter::new(0x15, 0, 1, REPLY as u32),
    SockFilter::new(0x06, 0, 0, PACKET_BYTES as u32),
    SockFilter::new(0x06, 0, 0, 0),
];

/// The probe for `ip`, to be broadcast from the card `ours`.
pub(super) fn probe(ours: Mac, ip: Ipv4Addr) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[..6].copy_from_slice(&KIND);
    packet[6..8].copy_from_slice(&REQUEST.to_be_bytes());
    packet[8..14].copy_from_slice(&ours.0);
    packet[24..28].copy_from_slice(&ip.octets());
    packet
}

/// Who says in `packet` that an address is its own; `None` for anything but such a reply.
pub(super) fn claim(packet: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let packet = packet.first_chunk::<PACKET_BYTES>()?;
    let is_reply = packet[..6] == KIND && packet[6..8] == REPLY.to_be_bytes();
    let (mac, ip) = (packet[8..14].first_chunk()?, packet[14..18].first_chunk::<4>()?);
    let (mac, ip) = (Mac(*mac), Ipv4Addr::from(*ip));
    (is_reply && !mac.is_nobody() && !ip.is_unspecified()).then_some((ip, mac))
}

/// The probes that are out, one for an interface and address.
#[derive(Debug, Default)]
pub(super) struct Probes {
    waiting: HashMap<(usize, Ipv4Addr), Instant>,
}

impl Probes {
    /// Notes a probe; false where there is no room for it.
    pub(super) fn add(&mut self, interface: usize, ip: Ipv4Addr, now: Instant) -> bool {
        if self.waiting.len() >= PROBES_MAX {
            self.forget(now);
        }
        let fits = self.waiting.len() < PROBES_MAX || self.waiting.contains_key(&(interface, ip));
        if fits {
            self.waiting.insert((interface, ip), now + LASTS);
        }
        fits
    }

    /// Whether an answer for `ip` is one to a probe: what nobody asked for says nothing, or anybody could take away any
    /// lease with one packet.
    pub(super) fn is_asked(&self, interface: usize, ip: Ipv4Addr, now: Instant) -> bool {
        self.waiting.get(&(interface, ip)).is_some_and(|until| now < *until)
    }

    /// An answer was enough.
    pub(super) fn done(&mut self, interface: usize, ip: Ipv4Addr) {
        self.waiting.remove(&(interface, ip));
    }

    /// Lets go of those that nobody answered.
    pub(super) fn forget(&mut self, now: Instant) {
        self.waiting.retain(|_, until| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 3]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

    fn reply(by: Mac, ip: Ipv4Addr) -> [u8; PACKET_BYTES] {
        let mut packet = probe(by, Ipv4Addr::UNSPECIFIED);
        packet[7] = REPLY as u8;
        packet[14..18].copy_from_slice(&ip.octets());
        packet
    }

    #[test]
    fn a_probe_asks_and_claims_nothing() {
        let packet = probe(SERVER, IP);
        assert_eq!(packet[..14], [0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!(packet[14..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 77, 0, 100]);
        assert_eq!(claim(&packet), None);
    }

    #[test]
    fn only_whole_replies_of_somebody_count() {
        let mut padded = reply(OTHER, IP).to_vec();
        padded.resize(46, 0);
        assert_eq!(claim(&padded), Some((IP, OTHER)));
        assert_eq!(claim(&padded[..27]), None);
        assert_eq!(claim(&reply(Mac([0xff; 6]), IP)), None);
        assert_eq!(claim(&reply(OTHER, Ipv4Addr::UNSPECIFIED)), None);
        padded[4] = 8;
        assert_eq!(claim(&padded), None);
    }

    #[test]
    fn only_what_was_asked_for_counts_and_not_for_ever() {
        let (mut probes, now) = (Probes::default(), Instant::now());
        assert!(!probes.is_asked(0, IP, now));
        assert!(probes.add(0, IP, now));
        assert!(probes.is_asked(0, IP, now));
        assert!(!probes.is_asked(1, IP, now), "on another interface");
        assert!(!probes.is_asked(0, IP, now + LASTS), "too late");
        probes.done(0, IP);
        assert!(!probes.is_asked(0, IP, now));
    }

    #[test]
    fn there_is_room_for_so_many_and_it_comes_back() {
        let (mut probes, now) = (Probes::default(), Instant::now());
        let nth = |n: usize| Ipv4Addr::from_bits(0x0a00_0000 + n as u32);
        assert!((0..PROBES_MAX).all(|n| probes.add(0, nth(n), now)));
        assert!(!probes.add(0, nth(PROBES_MAX), now));
        assert!(probes.add(0, nth(0), now), "known already");
        assert!(probes.add(0, nth(PROBES_MAX), now + LASTS));
    }
}
