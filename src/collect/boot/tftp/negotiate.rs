//! What a client asks for and what it gets: RFC 2347, 2348, 2349, 7440. Pure.
//!
//! A value that is too large becomes the largest one where the RFC lets a server answer with less (`blksize`,
//! `windowsize`); what makes no sense is as if it had not been asked for. Where nothing is left there is no option
//! acknowledgement, and the first packet is block 1.

use std::time::Duration;

use super::transfer::Terms;
use super::wire::{self, BLKSIZE_DEFAULT, BLKSIZE_MAX, BLKSIZE_MIN, DATA_HEADER, Known, Request};

/// Until the first retransmission, where the client asks for nothing else.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

/// In a window, whatever is asked for: 64 blocks of a jumbo frame, 16 of the largest.
const WINDOW_BYTES_MAX: usize = 1 << 20;

/// The headers of IPv4 and UDP.
pub(super) const IP_UDP_BYTES: usize = 28;

/// The most that is agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    pub(super) blksize: u16,
    pub(super) windowsize: u16,
}

impl Most {
    /// Of the config; `mtu` is that of the way to the client.
    pub(super) fn of(config: &super::Config, mtu: usize) -> Most {
        let fits = mtu.saturating_sub(IP_UDP_BYTES + DATA_HEADER);
        let fits = fits.clamp(BLKSIZE_MIN.into(), BLKSIZE_MAX.into()) as u16;
        let blksize = if config.max_blksize == 0 { fits } else { config.max_blksize };
        Most { blksize, windowsize: config.max_windowsize }
    }
}

/// The terms of a transfer. `size` is what `tsize` is answered with, if that is known.
pub(super) fn negotiate(request: &Request<'_>, most: Most, size: Option<u64>) -> Terms {
    let blksize = request.option(Known::Blksize).filter(|value| *value >= BLKSIZE_MIN.into());
    let blksize = blksize.map(|value| value.min(most.blksize.into()));
    let in_memory = WINDOW_BYTES_MAX / blksize.unwrap_or(BLKSIZE_DEFAULT.into()) as usize;
    let windowsize = request.option(Known::Windowsize).filter(|value| *value >= 1);
    let windowsize = windowsize.map(|value| value.min(u64::from(most.windowsize)).min(in_memory as u64));
    let timeout = request.option(Known::Timeout).filter(|value| (1..=255).contains(value));

    let agreed = |(known, _): &(Known, u64)| {
        let value = match known {
            Known::Blksize => blksize,
            Known::Timeout => timeout,
            Known::Tsize => size,
            Known::Windowsize => windowsize,
        };
        value.map(|value| (*known, value))
    };
    let agreed: Vec<_> = request.options.iter().filter_map(agreed).collect();
    Terms {
        blksize: blksize.map_or(BLKSIZE_DEFAULT, |value| value as u16),
        windowsize: windowsize.map_or(1, |value| value as u16),
        timeout: timeout.map_or(TIMEOUT_DEFAULT, Duration::from_secs),
        option_ack: (!agreed.is_empty()).then(|| wire::option_ack(&agreed)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Mode;
    use super::*;

    fn ask(options: &[(Known, u64)], most: Most) -> (u16, u16, u64, Option<String>) {
        let request = Request { filename: b"x", mode: Mode::Octet, options: options.to_vec() };
        let terms = negotiate(&request, most, Some(7000));
        let text = terms.option_ack.map(|packet| packet[2..].escape_ascii().to_string().replace("\\x00", " "));
        (terms.blksize, terms.windowsize, terms.timeout.as_secs(), text)
    }

    #[test]
    fn every_option_within_its_limits() {
        use Known::{Blksize, Timeout, Tsize, Windowsize};
        let most = Most::of(&super::super::Config::default(), 1500);
        assert_eq!(most, Most { blksize: 1468, windowsize: 64 });
        assert_eq!(ask(&[], most), (512, 1, 1, None));
        let all = [(Tsize, 0), (Windowsize, 16), (Blksize, 1432), (Timeout, 3)];
        let text = "tsize 7000 windowsize 16 blksize 1432 timeout 3 ";
        assert_eq!(ask(&all, most), (1432, 16, 3, Some(text.to_owned())));
        let large = [(Blksize, 1 << 40), (Windowsize, 1 << 40)];
        assert_eq!(ask(&large, most), (1468, 64, 1, Some("blksize 1468 windowsize 64 ".to_owned())));
        let senseless = [(Blksize, 7), (Windowsize, 0), (Timeout, 0)];
        assert_eq!(ask(&senseless, most), (512, 1, 1, None));
        assert_eq!(ask(&[(Timeout, 256), (Blksize, 8)], most), (8, 1, 1, Some("blksize 8 ".to_owned())));
        let loopback = Most::of(&super::super::Config::default(), 65_536);
        assert_eq!(ask(&large, loopback), (65_464, 16, 1, Some("blksize 65464 windowsize 16 ".to_owned())));
    }

    #[test]
    fn without_a_known_size_tsize_is_not_answered() {
        let request = Request { filename: b"x", mode: Mode::Netascii, options: vec![(Known::Tsize, 0)] };
        let terms = negotiate(&request, Most { blksize: 512, windowsize: 1 }, None);
        assert_eq!(terms.option_ack, None);
    }

    #[test]
    fn an_own_limit_may_be_above_the_mtu() {
        let config = super::super::Config { max_blksize: 8192, max_windowsize: 4, ..Default::default() };
        assert_eq!(Most::of(&config, 1500), Most { blksize: 8192, windowsize: 4 });
        assert_eq!(Most::of(&super::super::Config::default(), 0).blksize, 8);
    }
}
