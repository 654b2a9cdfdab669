//! A captured packet is taken apart or refused; what is taken apart and made again is the same datagram. The first byte
//! says whether the checksums are made to fit, which chance never does.
#![no_main]

use greypit::collect::boot::dhcp::packet::{emit, parse};
use libfuzzer_sys::fuzz_target;

fn mend(packet: &mut [u8]) {
    let header = usize::from(packet.first().map_or(0, |first| first & 15)) * 4;
    if header < 20 || header + 8 > packet.len() {
        return;
    }
    packet[header + 6..header + 8].fill(0);
    packet[10..12].fill(0);
    let words = packet[..header].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let once = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(once + (once >> 16)) as u16).to_be_bytes());
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, packet)) = input.split_first() else { return };
    let mut packet = packet.to_vec();
    if first & 1 == 1 {
        mend(&mut packet);
    }
    let Ok(datagram) = parse(&packet) else { return };
    assert!(datagram.payload.len() + 28 <= packet.len());
    let again = emit(&datagram).expect("what was in a packet fits into one");
    assert_eq!(parse(&again), Ok(datagram));
});
