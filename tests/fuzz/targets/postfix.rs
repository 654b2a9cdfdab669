//! A line of Postfix: every value is a piece of the line with the shape that it must have,
//! and what an address or a remote server says is in no other field.
#![no_main]

use greypit::collect::maillog::postfix::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

const DAEMONS: [&[u8]; 5] = [b"qmgr", b"smtp", b"cleanup", b"smtpd", b"pickup"];

fn is_number(s: &[u8]) -> bool {
    !s.is_empty() && s.iter().all(|c| c.is_ascii_digit() || *c == b'.')
}

fuzz_target!(|line: &[u8]| {
    for daemon in DAEMONS {
        match parse(daemon, line) {
            Parsed::From(from) => {
                assert!(line.starts_with(from.id) && line.ends_with(b")"));
                assert!(is_number(from.size) && is_number(from.nrcpts));
            }
            Parsed::To(to) => {
                assert!(line.starts_with(to.id) && line.ends_with(to.stat));
                assert!(is_number(to.delay) && to.dsn.is_none_or(is_number));
                assert!(!to.relay.host.contains(&b' ') && !to.relay.host.contains(&b','));
            }
            Parsed::Client { id, relay, .. } => {
                assert!(line.starts_with(id) && !relay.host.contains(&b' '));
            }
            Parsed::MessageId { id, msgid } => assert!(line.starts_with(id) && msgid.len() <= line.len()),
            Parsed::Pickup { id } | Parsed::Removed { id } => assert!(line.starts_with(id)),
            Parsed::Other | Parsed::Broken(_) => {}
        }
    }
});
