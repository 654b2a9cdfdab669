//! Ethernet addresses: `52:54:00:12:34:56` in records, files and on the screen.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The address of a network card, EUI-48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mac(pub [u8; 6]);

impl Mac {
    /// Nobody's: all zeros, all ones, or any other group address (IEEE 802, the lowest bit of the first byte).
    pub(crate) fn is_nobody(self) -> bool {
        self.0 == [0; 6] || self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a text is that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no MAC address; write for example 52:54:00:12:34:56")]
pub(crate) struct NotAMac(String);

impl FromStr for Mac {
    type Err = NotAMac;

    /// Six bytes in hexadecimal, with `:` or `-` between them.
    fn from_str(text: &str) -> Result<Mac, NotAMac> {
        let refused = || NotAMac(text.chars().take(40).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(refused)?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_and_no_other() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:12:ab:ff");
        for text in ["52:54:00:12:ab:ff", "52-54-00-12-AB-FF"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in
            ["", "52:54:00:12:ab", "52:54:00:12:ab:ff:00", "52:54:00:12:ab:+f", "525400:12:ab:ff", "52 54 00 12 ab ff"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn groups_and_zeros_are_nobody() {
        assert!(Mac([0; 6]).is_nobody() && Mac([0xff; 6]).is_nobody() && Mac([1, 0, 0x5e, 0, 0, 1]).is_nobody());
        assert!(!Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]).is_nobody());
    }
}
