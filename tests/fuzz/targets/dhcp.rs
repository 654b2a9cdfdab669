//! DHCP packets: the first bytes choose the server's mode and how the input is cut; each piece is a packet as it is, or
//! options behind a right header. It never panics; an answer is one by another parser, has the request's xid and card
//! and a size that fits; each event is one JSON object.
#![no_main]

use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{Message, Opcode};
use dhcproto::{Decodable, Decoder};
use greypit::collect::boot::{Mode, fuzz_dhcp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [how, rest @ ..] = input else { return };
    let mode = [Mode::Serve, Mode::Serve, Mode::Proxy, Mode::Listen][(how & 3) as usize];
    let mut subject = fuzz_dhcp::Subject::new(mode, 4).expect("it fits");
    let mut rest = rest;
    while let [len, kind, tail @ ..] = rest {
        let (piece, after) = tail.split_at((*len as usize * 2).min(tail.len()));
        rest = after;
        let packet = if kind & 0x80 == 0 { piece.to_vec() } else { behind_header(*kind, piece) };
        let (source, port) = match kind & 7 {
            0 => ("10.77.0.200:67", 67),
            1 => ("10.77.0.200:68", 4011),
            2 => ("10.77.1.2:68", 67),
            _ => ("0.0.0.0:68", 67),
        };
        let (answer, event) = subject.handle(&packet, source.parse::<SocketAddrV4>().expect("an address"), port);
        let event = event.expect("there is no rate limit");
        assert!(serde_json::from_slice::<serde_json::Value>(&event).expect("an event is JSON").is_object());
        if kind & 8 != 0 {
            subject.wait(*kind);
        }
        let Some(answer) = answer else { continue };
        assert!(mode != Mode::Listen, "only listening");
        assert!(fuzz_dhcp::ANSWER_BYTES.contains(&answer.len()), "{}", answer.len());
        let answer = Message::decode(&mut Decoder::new(&answer)).expect("an answer is one");
        assert_eq!(answer.opcode(), Opcode::BootReply);
        assert_eq!(answer.xid().to_be_bytes(), packet[4..8]);
        assert_eq!(answer.chaddr(), &packet[28..34]);
        let ip = answer.yiaddr();
        assert!(ip.is_unspecified() || ip == Ipv4Addr::new(10, 77, 0, 9) || ip.octets()[..3] == [10, 77, 1], "{ip}");
        assert!(mode == Mode::Serve || ip.is_unspecified(), "no addresses beside another server");
    }
});

/// A request of one of a few cards with these options.
fn behind_header(kind: u8, options: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 240];
    packet[..4].copy_from_slice(&[1, 1, 6, 0]);
    packet[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 8 + (kind >> 4 & 3)]);
    packet[236..].copy_from_slice(&[99, 130, 83, 99]);
    if let [address, options @ ..] = options {
        if address & 1 != 0 {
            packet[12..16].copy_from_slice(&[10, 77, 1, address >> 1 & 7]);
        }
        if address & 16 != 0 {
            packet[24..28].copy_from_slice(&[10, 77, 0, 200]);
        }
        packet.extend_from_slice(options);
    }
    packet
}
