//! TFTP packets and names of files. Reading never panics; a request's texts are pieces of the packet and hold no NUL; its
//! options are those that a second reading finds; a name that is let through is relative, of plain parts, and stays
//! itself.
#![no_main]

use greypit::collect::boot::files::{NAME_BYTES_MAX, Name};
use greypit::collect::boot::tftp::wire::{Known, Packet, REQUEST_BYTES_MAX, Request};
use libfuzzer_sys::fuzz_target;

fn request(packet: &[u8], request: &Request<'_>) {
    assert!(packet.len() <= REQUEST_BYTES_MAX && packet[..2] == [0, 1]);
    let texts: Vec<&[u8]> = packet[2..].split(|byte| *byte == 0).collect();
    assert_eq!(texts[0], request.filename);
    assert_eq!(packet.last(), Some(&0));
    assert!(request.options.len() <= 4);
    for (name, known) in [
        ("blksize", Known::Blksize),
        ("timeout", Known::Timeout),
        ("tsize", Known::Tsize),
        ("windowsize", Known::Windowsize),
    ] {
        let first = texts[2..].chunks(2).find(|pair| pair[0].eq_ignore_ascii_case(name.as_bytes()));
        let value = first.and_then(|pair| std::str::from_utf8(pair.get(1)?).ok());
        let number = value.filter(|text| !text.starts_with('+')).and_then(|text| text.parse::<u64>().ok());
        assert_eq!(request.option(known), number, "{name}");
    }
}

fn name(raw: &[u8]) {
    let Ok(name) = Name::of(raw) else { return };
    let bytes = name.as_bytes();
    assert!(!bytes.is_empty() && bytes.len() <= NAME_BYTES_MAX);
    assert!(!bytes.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\'));
    assert!(bytes.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
    // In front of a slash at the end 0xFF is a part of the name.
    if bytes.last() != Some(&0xff) {
        assert_eq!(Name::of(bytes).as_ref().map(Name::as_bytes), Ok(bytes));
    }
}

fuzz_target!(|input: &[u8]| {
    if let Ok(Packet::Read(read)) = Packet::parse(input) {
        request(input, &read);
        name(read.filename);
    }
    name(input);
});
