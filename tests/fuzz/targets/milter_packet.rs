//! The milter's packets. Cutting a stream into packets takes every byte once and depends on nothing behind the packet;
//! reading a command never panics and finds what this target's own reading finds; what is emitted is one whole packet.
#![no_main]

use greypit_milter::wire::{Command, Frame, Reply, frame};
use libfuzzer_sys::fuzz_target;

const PACKET_BYTES_MAX: usize = 300;

/// Walks over the stream, and says what a walk over `0..end` would have said of each packet.
fn walk(stream: &[u8]) {
    let mut rest = stream;
    loop {
        let length = rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize);
        match (frame(rest, PACKET_BYTES_MAX), length) {
            (Frame::Partial, length) => {
                return assert!(
                    length.is_none_or(|length| (1..=PACKET_BYTES_MAX).contains(&length) && rest.len() < length + 4)
                );
            }
            (Frame::Empty, length) => {
                assert_eq!(length, Some(0));
                rest = &rest[4..];
            }
            (Frame::TooLong { command, bytes }, Some(length)) => {
                assert!(length > PACKET_BYTES_MAX && bytes == length as u64 + 4);
                assert_eq!(command, rest.get(4).copied());
                let Some(behind) = usize::try_from(bytes).ok().and_then(|bytes| rest.get(bytes..)) else { return };
                rest = behind;
            }
            (Frame::Packet { command, data, used }, Some(length)) => {
                assert!(used == length + 4 && command == rest[4] && data == &rest[5..used]);
                assert_eq!(frame(&rest[..used], PACKET_BYTES_MAX), frame(rest, PACKET_BYTES_MAX));
                assert_eq!(frame(&rest[..used - 1], PACKET_BYTES_MAX), Frame::Partial);
                read(command, data);
                rest = &rest[used..];
            }
            (found, None) => panic!("{found:?} of {} bytes", rest.len()),
        }
    }
}

/// Texts up to their NUL; none where the last has no end.
fn texts(data: &[u8]) -> Vec<&[u8]> {
    let mut texts: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    texts.pop();
    texts
}

fn read(command: u8, data: &[u8]) {
    let found = Command::parse(command, data);
    let texts = texts(data);
    match (command, found) {
        (b'M', Ok(Command::Mail { path, args })) => {
            assert_eq!((path, args.collect::<Vec<_>>()), (texts[0], texts[1..].to_vec()));
        }
        (b'R', Ok(Command::Rcpt { path })) => assert_eq!(path, texts[0]),
        (b'H', Ok(Command::Helo(name))) => assert_eq!(name, texts[0]),
        (b'L', Ok(Command::Header { name, value })) => assert_eq!([name, value], texts[..2]),
        (b'L', Err(_)) => assert!(texts.len() < 2),
        (b'M' | b'R' | b'H', Err(_)) => assert!(texts.is_empty()),
        (b'D', Ok(Command::Macros { macros, .. })) => {
            let values = &data[1..];
            let pairs: Vec<_> = macros.pairs().collect();
            let expected = self::texts(values);
            assert_eq!(pairs, expected.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>());
        }
        (b'D', Err(_)) => assert!(data.is_empty()),
        (b'O', Ok(Command::Negotiate { version, actions, steps })) => {
            let numbers = [version, actions, steps].map(u32::to_be_bytes).concat();
            assert_eq!(numbers, data[..12]);
        }
        (b'O', Err(_)) => assert!(data.len() < 12),
        (b'C', Ok(Command::Connect { name, addr })) => {
            assert_eq!(name, texts[0]);
            let family = data[name.len() + 1];
            assert_eq!(addr.is_some(), matches!(family, b'4' | b'6'));
        }
        (b'C', Err(_)) => {}
        (b'M' | b'R' | b'H' | b'L' | b'D' | b'O' | b'C', found) => panic!("{found:?}"),
        // The other commands are whole whatever is in them.
        (_, found) => assert!(found.is_ok()),
    }
}

/// One whole packet with this letter, and what is in it.
fn emitted<'o>(reply: &Reply<'_>, out: &'o mut Vec<u8>) -> (u8, &'o [u8]) {
    out.extend_from_slice(b"before");
    reply.emit(out);
    match frame(&out[6..], usize::MAX) {
        Frame::Packet { command, data, used } if used + 6 == out.len() => (command, data),
        found => panic!("{found:?}"),
    }
}

fuzz_target!(|stream: &[u8]| {
    walk(stream);
    let (answer, offer) = (Reply::Answer(stream), stream.first_chunk::<12>());
    assert_eq!(emitted(&answer, &mut Vec::new()), (b'y', [stream, b"\0"].concat().as_slice()));
    if let Some(offer) = offer {
        let number = |at: usize| u32::from_be_bytes([offer[at], offer[at + 1], offer[at + 2], offer[at + 3]]);
        let reply = Reply::Negotiate { version: number(0), actions: number(4), steps: number(8), macros: &[] };
        assert_eq!(emitted(&reply, &mut Vec::new()), (b'O', offer.as_slice()));
    }
});
