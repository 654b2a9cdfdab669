//! A mail log line: every value is a piece of the line, in the line's own order where
//! the order is fixed, and what can be read has the shape that it must have.
#![no_main]

use greypit::collect::maillog::wire::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fn is_number(s: &[u8]) -> bool {
    let digits = s.strip_prefix(b"-").unwrap_or(s);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fuzz_target!(|line: &[u8]| {
    match parse(line) {
        Parsed::From(from) => {
            assert!(line.starts_with(from.id));
            assert!([from.size, from.class, from.nrcpts].iter().all(|n| is_number(n)));
            assert!(!from.relay.host.contains(&b' '));
        }
        Parsed::To(to) => {
            assert!(line.starts_with(to.id));
            assert!(is_number(to.pri) && !to.delay.is_empty());
            assert!(to.recipients.count() >= 1);
            assert!(to.recipients.map(<[u8]>::len).sum::<usize>() <= line.len());
            // Reply and stat are the end of the line, so nothing is read behind them.
            assert!(line.ends_with(to.stat));
        }
        Parsed::Other | Parsed::Broken(_) => {}
    }
});
