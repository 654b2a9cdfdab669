//! A record of the topic `<topic_prefix>milter-clients`.
//!
//! The key is `<node>/<life>/<client>`: `mx1/19aa6f1b2c3-4d2-0/192.0.2.0/24`. Only its own node ever writes it. The value
//! is what passed there, in the slots of an eleventh of the window, the one that fills first:
//!
//! ```json
//! {"v":1,"at":1763738088123,"window_ms":3600000,"ipv4_prefix":24,"ipv6_prefix":64,"age_ms":81500,"passed":[3,0,2]}
//! ```
//!
//! `at`: when this was said, by that node's clock; `age_ms`: how long before that the slot that fills had begun. Slots at
//! the end in which nothing passed are left out. No value: the client has been quiet there for a whole window.
//!
//! `<node>/<life>` alone says that the node is there; its value is the same without `age_ms` and `passed`.

use std::fmt;
use std::time::Duration;

use greypit_milter::policy::clients::farm::{Meaning, Passed};
use serde::{Deserialize, Serialize};

/// A longer one was not written by a greypit.
const BYTES_MAX: usize = 1000;

/// What greypits of another version may write is not guessed at.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) node: String,
    pub(crate) life: String,
    /// As [`Meaning::write`] writes it.
    pub(crate) client: Option<String>,
}

impl Key {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= BYTES_MAX)?;
        let mut parts = text.splitn(3, '/').map(str::to_owned);
        let (node, life, client) = (parts.next()?, parts.next()?, parts.next());
        (!node.is_empty() && !life.is_empty()).then_some(Key { node, life, client })
    }

    /// Whether both are of one life.
    pub(crate) fn is_of(&self, other: &Key) -> bool {
        self.node == other.node && self.life == other.life
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.life)?;
        self.client.iter().try_for_each(|client| write!(f, "/{client}"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) meaning: Meaning,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    pub(crate) age: Duration,
    pub(crate) passed: Passed,
}

/// Why a value says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Version,
    Malformed,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: u32,
    at: u64,
    window_ms: u64,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    #[serde(default, skip_serializing_if = "is_nothing")]
    age_ms: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    passed: Vec<u32>,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

fn is_nothing(number: &u64) -> bool {
    *number == 0
}

impl Value {
    pub(crate) fn new(meaning: Meaning, at: u64, age: Duration, passed: Passed) -> Value {
        Value { meaning, at, age, passed }
    }

    /// The node is there.
    pub(crate) fn beat(meaning: Meaning, at: u64) -> Value {
        Value::new(meaning, at, Duration::ZERO, Passed::default())
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Unfit> {
        let malformed = |_| Unfit::Malformed;
        if bytes.len() > BYTES_MAX {
            return Err(Unfit::Malformed);
        }
        let Version { v } = serde_json::from_slice(bytes).map_err(malformed)?;
        if v != VERSION {
            return Err(Unfit::Version);
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(malformed)?;
        let mut passed = Passed::default();
        passed.get_mut(..wire.passed.len()).ok_or(Unfit::Malformed)?.copy_from_slice(&wire.passed);
        let Wire { at, window_ms, ipv4_prefix, ipv6_prefix, age_ms, .. } = wire;
        let meaning = Meaning { window: Duration::from_millis(window_ms), ipv4_prefix, ipv6_prefix };
        Ok(Value { meaning, at, age: Duration::from_millis(age_ms), passed })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Meaning { window, ipv4_prefix, ipv6_prefix } = self.meaning;
        let slots = self.passed.iter().rposition(|passed| *passed > 0).map_or(0, |last| last + 1);
        let wire = Wire {
            v: VERSION,
            at: self.at,
            // Windows are whole milliseconds, of 7 days at most.
            window_ms: window.as_millis() as u64,
            ipv4_prefix,
            ipv6_prefix,
            age_ms: self.age.as_millis() as u64,
            passed: self.passed[..slots].to_vec(),
        };
        f.write_str(&serde_json::to_string(&wire).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning() -> Meaning {
        Meaning { window: Duration::from_secs(3600), ipv4_prefix: 24, ipv6_prefix: 64 }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut passed = Passed::default();
        (passed[0], passed[2]) = (3, 2);
        let value = Value::new(meaning(), 1_763_738_088_123, Duration::from_millis(81_500), passed);
        let text = value.to_string();
        assert_eq!(
            text,
            "{\"v\":1,\"at\":1763738088123,\"window_ms\":3600000,\"ipv4_prefix\":24,\"ipv6_prefix\":64,\
             \"age_ms\":81500,\"passed\":[3,0,2]}"
        );
        assert_eq!(Value::parse(text.as_bytes()), Ok(value));
        let beat = Value::beat(meaning(), 7);
        assert_eq!(Value::parse(beat.to_string().as_bytes()), Ok(beat));
        for text in ["mx1/19aa6f1b2c3-4d2-0/192.0.2.0/24", "mx1/1-2-3"] {
            assert_eq!(Key::parse(text.as_bytes()).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_no_greypit_wrote_is_told_apart() {
        let of = |text: &str| Value::parse(text.as_bytes());
        assert_eq!(of("{\"v\":2,\"other\":true}"), Err(Unfit::Version));
        let slots = |slots: usize| {
            let passed = vec!["1"; slots].join(",");
            of(&format!(
                "{{\"v\":1,\"at\":1,\"window_ms\":1,\"ipv4_prefix\":1,\"ipv6_prefix\":1,\"passed\":[{passed}]}}"
            ))
        };
        assert!(slots(12).is_ok());
        let long = format!("{{\"v\":1,{}\"at\":1}}", " ".repeat(1000));
        let bad = ["", "{}", "[1]", "{\"v\":1}", "{\"v\":\"1\"}", long.as_str()].map(of);
        for value in bad.into_iter().chain([slots(13), slots(99)]) {
            assert_eq!(value, Err(Unfit::Malformed));
        }
        for key in ["", "mx1", "/x", "mx1/", "\u{0}"] {
            assert_eq!(Key::parse(key.as_bytes()), None, "{key:?}");
        }
        assert_eq!(Key::parse(b"\xff/1/2"), None);
    }
}
