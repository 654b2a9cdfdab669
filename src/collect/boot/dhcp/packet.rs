//! IPv4 (RFC 791) and UDP (RFC 768) as packet sockets give and take them, without a link header.
//!
//! Sent this way is what goes to a client that has no address yet and so answers no ARP, and, where another server has
//! port 67, everything. Received this way is what is only listened to.
//!
//! Pure. What is received comes from anybody: every length is checked against what is there, and each kind of mistake
//! has a name ([`Unfit`]) and is counted. Fragments are refused: no DHCP message needs them, and the rest of one would
//! be whatever somebody sends later.
//!
//! A packet that a program on this machine sends, or on the other end of a veth pair, has no UDP checksum yet when a
//! packet socket sees it: the network card would add it, and the field holds the sum of the pseudo header alone. That
//! very value is taken as right; any other that does not fit is an error.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Of an IPv4 header without options.
const IP_BYTES: usize = 20;

/// Of a UDP header.
const UDP_BYTES: usize = 8;

/// The protocol number of UDP.
const UDP: u8 = 17;

/// How many routers a packet may pass, as the kernel's own.
const TIME_TO_LIVE: u8 = 64;

/// The longest payload of one packet.
pub const PAYLOAD_BYTES_MAX: usize = u16::MAX as usize - IP_BYTES - UDP_BYTES;

/// A UDP datagram in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'p> {
    /// Whom it says it is from.
    pub source: SocketAddrV4,
    /// Whom it is for.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub payload: &'p [u8],
}

/// Why a packet is none that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfit {
    /// It ends before one of its headers does.
    #[error("cut short")]
    Short,
    /// Not version 4, or a length in a header that cannot be.
    #[error("wrong header")]
    Header,
    /// A part of a packet.
    #[error("fragment")]
    Fragment,
    /// Another protocol.
    #[error("not UDP")]
    Protocol,
    /// A sum that does not fit.
    #[error("wrong checksum")]
    Checksum,
}

/// Takes a packet apart. What follows it is padding (Ethernet's shortest frame has 46 bytes of it).
///
/// # Errors
/// What is wrong with it.
pub fn parse(packet: &[u8]) -> Result<Datagram<'_>, Unfit> {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let fixed = packet.first_chunk::<IP_BYTES>().ok_or(Unfit::Short)?;
    let header_bytes = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(word(fixed, 2));
    if fixed[0] >> 4 != 4 || header_bytes < IP_BYTES || total < header_bytes {
        return Err(Unfit::Header);
    }
    let packet = packet.get(..total).ok_or(Unfit::Short)?;
    let (header, rest) = packet.split_at(header_bytes);
    if fold(sum(0, header)) != u16::MAX {
        return Err(Unfit::Checksum);
    }
    // "More fragments", or an offset.
    if word(fixed, 6) & 0x3fff != 0 {
        return Err(Unfit::Fragment);
    }
    if fixed[9] != UDP {
        return Err(Unfit::Protocol);
    }
    let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
    let (source, destination) = (address(12), address(16));

    let udp = rest.first_chunk::<UDP_BYTES>().ok_or(Unfit::Short)?;
    let length = usize::from(word(udp, 4));
    if length < UDP_BYTES {
        return Err(Unfit::Header);
    }
    let datagram = rest.get(..length).ok_or(Unfit::Short)?;
    let (checksum, pseudo) = (word(udp, 6), pseudo(source, destination, length));
    let fits = checksum == 0 || checksum == fold(pseudo) || fold(sum(pseudo, datagram)) == u16::MAX;
    if !fits {
        return Err(Unfit::Checksum);
    }
    Ok(Datagram {
        source: SocketAddrV4::new(source, word(udp, 0)),
        destination: SocketAddrV4::new(destination, word(udp, 2)),
        payload: &datagram[UDP_BYTES..],
    })
}

/// Makes the packet of a datagram; `None` where its payload is longer than [`PAYLOAD_BYTES_MAX`].
pub fn emit(datagram: &Datagram<'_>) -> Option<Vec<u8>> {
    let Datagram { source, destination, payload } = datagram;
    let length = u16::try_from(payload.len() + UDP_BYTES).ok()?;
    let total = length.checked_add(IP_BYTES as u16)?;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend_from_slice(&[0x45, 0]);
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, TIME_TO_LIVE, UDP, 0, 0]);
    packet.extend_from_slice(&source.ip().octets());
    packet.extend_from_slice(&destination.ip().octets());
    let checksum = !fold(sum(0, &packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());

    packet.extend_from_slice(&source.port().to_be_bytes());
    packet.extend_from_slice(&destination.port().to_be_bytes());
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    let pseudo = pseudo(*source.ip(), *destination.ip(), usize::from(length));
    // Zero stands for no checksum, so a sum that comes out as zero is written as all ones.
    let checksum = match !fold(sum(pseudo, &packet[IP_BYTES..])) {
        0 => u16::MAX,
        checksum => checksum,
    };
    packet[IP_BYTES + 6..][..2].copy_from_slice(&checksum.to_be_bytes());
    Some(packet)
}

/// The sum of what UDP's checksum covers beside the datagram itself.
fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> u32 {
    let addresses = sum(sum(0, &source.octets()), &destination.octets());
    addresses + u32::from(UDP) + length as u32
}

/// Adds up 16-bit words, an odd byte at the end as the upper half of one. 32 bits hold the sum of a packet: it has at
/// most 2^15 words of less than 2^16.
fn sum(start: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    start + words + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// The ones' complement sum of 16 bits (RFC 1071).
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    (once + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(payload: &[u8]) -> Datagram<'_> {
        Datagram {
            source: SocketAddrV4::new([10, 77, 0, 1].into(), 67),
            destination: SocketAddrV4::new([10, 77, 0, 100].into(), 68),
            payload,
        }
    }

    /// With a checksum over the header that fits again.
    fn mended(mut packet: Vec<u8>) -> Vec<u8> {
        let header = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let checksum = !fold(sum(0, &packet[..header.min(packet.len())]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn changed(payload: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = emit(&datagram(payload)).unwrap();
        change(&mut packet);
        mended(packet)
    }

    #[test]
    fn a_packet_is_what_the_rfcs_say() {
        let packet = emit(&datagram(b"hello")).unwrap();
        // The checksums are another program's.
        let wanted = [
            0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0x65, 0xce, 10, 77, 0, 1, 10, 77, 0, 100, // IPv4
            0, 67, 0, 68, 0, 13, 0xa6, 0x7c, b'h', b'e', b'l', b'l', b'o',
        ];
        assert_eq!(packet, wanted);
    }

    #[test]
    fn padding_options_and_a_missing_checksum_are_no_mistake() {
        let padded = changed(b"hello", |packet| packet.resize(60, 0xee));
        assert_eq!(parse(&padded), Ok(datagram(b"hello")));
        let without = changed(b"hello", |packet| packet[26..28].fill(0));
        assert_eq!(parse(&without), Ok(datagram(b"hello")));
        let options = changed(b"hello", |packet| {
            packet.splice(20..20, [1, 1, 1, 0]);
            packet[0] = 0x46;
            packet[3] += 4;
        });
        assert_eq!(parse(&options), Ok(datagram(b"hello")));
        // As the kernel leaves it to the network card.
        let datagram_bytes = 13;
        let partial = fold(pseudo([10, 77, 0, 1].into(), [10, 77, 0, 100].into(), datagram_bytes));
        let offloaded = changed(b"hello", |packet| packet[26..28].copy_from_slice(&partial.to_be_bytes()));
        assert_eq!(parse(&offloaded), Ok(datagram(b"hello")));
    }

    #[test]
    fn each_mistake_by_its_name() {
        let wrong = |change: fn(&mut Vec<u8>)| parse(&changed(b"hello", change)).unwrap_err();
        assert_eq!(parse(&[]), Err(Unfit::Short));
        assert_eq!(wrong(|packet| packet[0] = 0x65), Unfit::Header);
        assert_eq!(wrong(|packet| packet[0] = 0x44), Unfit::Header);
        assert_eq!(wrong(|packet| packet[3] = 19), Unfit::Header);
        assert_eq!(wrong(|packet| packet[3] = 34), Unfit::Short);
        assert_eq!(wrong(|packet| packet[3] = 27), Unfit::Short);
        assert_eq!(wrong(|packet| packet[6] = 0x20), Unfit::Fragment);
        assert_eq!(wrong(|packet| packet[7] = 1), Unfit::Fragment);
        assert_eq!(wrong(|packet| packet[9] = 6), Unfit::Protocol);
        assert_eq!(wrong(|packet| packet[25] = 7), Unfit::Header);
        assert_eq!(wrong(|packet| packet[25] = 14), Unfit::Short);
        assert_eq!(wrong(|packet| packet[30] ^= 1), Unfit::Checksum);
        let mut packet = emit(&datagram(b"hello")).unwrap();
        packet[8] = 63;
        assert_eq!(parse(&packet), Err(Unfit::Checksum));
    }

    #[test]
    fn the_longest_is_made_and_one_byte_more_is_not() {
        let longest = vec![0xff; PAYLOAD_BYTES_MAX];
        let packet = emit(&datagram(&longest)).unwrap();
        assert_eq!((packet.len(), parse(&packet)), (usize::from(u16::MAX), Ok(datagram(&longest))));
        assert_eq!(emit(&datagram(&vec![0; PAYLOAD_BYTES_MAX + 1])), None);
    }

    proptest! {
        #[test]
        fn what_is_made_is_read(payload in proptest::collection::vec(any::<u8>(), 0..600)) {
            let packet = emit(&datagram(&payload)).unwrap();
            prop_assert_eq!(parse(&packet), Ok(datagram(&payload)));
        }

        #[test]
        fn anything_is_read_or_named(mut packet in proptest::collection::vec(any::<u8>(), 20..80), length in 0u8..90) {
            packet[0] = 0x40 | (packet[0] & 7);
            packet[2..4].copy_from_slice(&[0, length]);
            packet[6..8].fill(0);
            packet[9] = UDP;
            if let Ok(datagram) = parse(&mended(packet)) {
                prop_assert!(datagram.payload.len() < 80);
            }
        }
    }
}
