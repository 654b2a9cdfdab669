//! Durations and sizes as people write them in a config: `"5m"`, `"50ms"`, `"64MiB"`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::Duration;

/// A number of bytes, written `"64MiB"`, `"8GiB"`, `"100kB"` or `"512B"`. A plain TOML integer is refused, so that nobody
/// has to guess its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// Reads `"64MiB"`.
    pub fn parse(text: &str) -> Option<Size> {
        let (unit, factor) = SIZE_UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
        let number: u64 = text[..text.len() - unit.len()].trim().parse().ok()?;
        number.checked_mul(*factor).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let text = String::deserialize(deserializer)
            .map_err(|_| de::Error::custom("a size is a text with its unit, for example \"64MiB\""))?;
        Size::parse(&text)
            .ok_or_else(|| de::Error::custom(format!("'{text}' is no size; write for example \"64MiB\" or \"8GiB\"")))
    }
}

/// A span of time, written `"5m"`, `"50ms"`, `"1h30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }

    /// Reads `"1h30m"`.
    pub fn parse(text: &str) -> Option<Span> {
        let mut rest = text.trim();
        let mut total_ms: u64 = 0;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let (_, factor) = SPAN_UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
            total_ms = total_ms.checked_add(number.checked_mul(*factor)?)?;
            rest = rest[letters..].trim_start();
        }
        Some(Span(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis() as u64;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in SPAN_UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)
            .map_err(|_| de::Error::custom("a duration is a text with its unit, for example \"5m\""))?;
        Span::parse(&text).ok_or_else(|| {
            de::Error::custom(format!("'{text}' is no duration; write for example \"50ms\", \"30s\" or \"5m\""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_with_their_unit() {
        for (text, bytes) in [("64MiB", 64 << 20), ("8GiB", 8 << 30), ("100kB", 100_000), ("7B", 7), ("0B", 0)] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), text);
        }
        for bad in ["", "64", "MiB", "-1MiB", "1.5GiB", "64mib", "99999999999GiB"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn spans_are_read_and_written_with_their_unit() {
        for (text, ms) in [("5m", 300_000), ("50ms", 50), ("1h30m", 5_400_000), ("10s", 10_000), ("2d", 172_800_000)] {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_millis(ms))), "{text}");
            assert_eq!(Span(Duration::from_millis(ms)).to_string(), text);
        }
        assert_eq!(Span::parse("0s"), Some(Span(Duration::ZERO)));
        for bad in ["", "5", "m", "5 minutes", "5x", "-5m", "99999999999999999999d"] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
    }
}
