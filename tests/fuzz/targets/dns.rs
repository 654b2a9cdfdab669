//! Any packet as a DNS query: no panic; an answer is one, has the query's id and is no longer than its transport and the
//! query allow; an answer is never answered.
#![no_main]

use greypit::collect::boot::fuzz_dns;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    for over_tcp in [false, true] {
        let Some(answer) = fuzz_dns(packet, over_tcp) else { continue };
        assert!(packet.len() >= 12 && packet[2] & 0x80 == 0, "only queries are answered");
        assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "it is an answer");
        assert_eq!(answer[..2], packet[..2]);
        assert!(over_tcp || answer.len() <= 1232);
    }
});
