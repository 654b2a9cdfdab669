//! `[kafka]`

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use rdkafka::ClientConfig;

use crate::units::{Size, Span};
use crate::{Error, Kind, Result};

/// `[kafka]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `"a:9092,b:9092"`: the brokers to ask first. Empty: no Kafka, the spool is shipped by the node itself.
    pub brokers: String,
    /// What topics begin with; the kind follows.
    pub topic_prefix: String,
    /// The consumer group of all shippers that share the work.
    pub group: String,
    /// The most that batches being collected and messages fetched ahead may take in memory of a shipper.
    pub max_memory: Size,
    /// `[kafka.topics]`
    pub topics: Topics,
    /// `[kafka.properties]`: librdkafka's own settings.
    pub properties: Properties,
}

/// `[kafka.topics]`: whether topics are made, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// Whether a topic that is missing is created; else it is an error.
    pub create: bool,
    /// Partitions of a new topic.
    pub partitions: i32,
    /// Copies of each partition of a new topic; 0 = three, or as many as there are brokers.
    pub replication: i32,
    /// How long a new topic keeps messages.
    pub retention: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            brokers: String::new(),
            topic_prefix: "greypit.".into(),
            group: "greypit".into(),
            max_memory: Size(256 << 20),
            topics: Topics::default(),
            properties: Properties::default(),
        }
    }
}

impl Default for Topics {
    fn default() -> Topics {
        Topics { create: true, partitions: 12, replication: 0, retention: Span::seconds(7 * 86_400) }
    }
}

/// Settings of librdkafka, passed through. In TOML `security.protocol = "ssl"` and `"security.protocol" = "ssl"` are the
/// same; numbers and booleans may stand without quotes. Secrets are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(pub(crate) BTreeMap<String, String>);

impl Config {
    /// Whether events go through Kafka.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.brokers.is_empty()
    }

    /// The topic of a kind.
    #[must_use]
    pub fn topic(&self, kind: Kind) -> String {
        format!("{}{kind}", self.topic_prefix)
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: &str| Err(Error::Config { key: format!("kafka.{key}"), problem: problem.into() });
        if self.is_on() && self.group.is_empty() {
            return refuse("group", "must not be empty");
        }
        Ok(())
    }

    /// What every client of the brokers begins with: the brokers, greypit's defaults, then the properties.
    #[expect(dead_code, reason = "the clients follow")]
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers).set("client.id", "greypit");
        for (name, value) in &self.properties.0 {
            client.set(name, value);
        }
        client
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Properties, D::Error> {
        BTreeMap::deserialize(deserializer).map(Properties)
    }
}
