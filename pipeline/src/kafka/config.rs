//! `[kafka]`

use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

pub use super::properties::Properties;
use crate::units::{Size, Span};
use crate::{Error, Kind, Result};

/// The longest `topic_prefix`, in bytes: Kafka allows 249 for a topic, and a kind has up to 15.
const PREFIX_BYTES_MAX: usize = 200;

/// The longest name of a group, in bytes.
const GROUP_BYTES_MAX: usize = 255;

/// The least `max_memory`: one event of the largest size beside what is fetched ahead.
const MEMORY_MIN: Size = Size(16 << 20);

/// The most.
const MEMORY_MAX: Size = Size(1 << 40);

/// The most partitions of a topic that greypit makes.
const PARTITIONS_MAX: i32 = 10_000;

/// The most copies.
const REPLICATION_MAX: i32 = 100;

/// The least time for which a topic must keep messages.
const RETENTION_MIN: Span = Span::seconds(3_600);

/// The most: a hundred years.
const RETENTION_MAX: Span = Span::seconds(36_500 * 86_400);

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
        if !self.is_on() {
            // Else a name that got lost would quietly make a node ship by itself.
            return match *self == Config::default() {
                true => Ok(()),
                false => refuse(
                    "brokers",
                    "is empty while other keys of [kafka] are set; write for example \"kafka1:9092,kafka2:9092\", or \
                     remove [kafka]",
                ),
            };
        }
        self.brokers.split(',').try_for_each(check_broker)?;
        self.check_names()?;
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&self.max_memory) {
            return refuse("max_memory", format!("must be from {MEMORY_MIN} to {MEMORY_MAX}"));
        }
        self.topics.validate()?;
        self.properties.validate().or_else(|(name, problem)| refuse(&format!("properties.{name}"), problem))
    }

    fn check_names(&self) -> Result<()> {
        let prefix = self.topic_prefix.as_str();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if prefix.len() > PREFIX_BYTES_MAX || !prefix.bytes().all(legal) {
            let problem = format!("must be at most {PREFIX_BYTES_MAX} letters, digits, '.', '_' and '-'");
            return refuse("topic_prefix", problem);
        }
        if !prefix.ends_with(['.', '-']) {
            let problem = "must end with '.' or '-', or greypit would take topics for its own that only begin alike";
            return refuse("topic_prefix", problem);
        }
        let group = self.group.as_str();
        if group.is_empty() || group.len() > GROUP_BYTES_MAX || group.chars().any(char::is_control) {
            return refuse("group", format!("must be 1 to {GROUP_BYTES_MAX} bytes without control characters"));
        }
        Ok(())
    }

    /// What every client of the brokers begins with: the brokers and the properties.
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_with(&[])
    }

    /// The same above greypit's `defaults`, which the properties may change by any of their names.
    pub(crate) fn client_with(&self, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        for (name, value) in [("client.id", "greypit")].iter().chain(defaults) {
            if self.properties.get(name).is_none() {
                client.set(*name, *value);
            }
        }
        for (name, value) in self.properties.iter() {
            client.set(name, value);
        }
        client
    }
}

impl Topics {
    fn validate(&self) -> Result<()> {
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return refuse("topics.partitions", format!("must be from 1 to {PARTITIONS_MAX}"));
        }
        if !(0..=REPLICATION_MAX).contains(&self.replication) {
            let problem = format!("must be from 0 to {REPLICATION_MAX}; 0 = three, or as many as there are brokers");
            return refuse("topics.replication", problem);
        }
        if !(RETENTION_MIN..=RETENTION_MAX).contains(&self.retention) {
            return refuse("topics.retention", format!("must be from {RETENTION_MIN} to {RETENTION_MAX}"));
        }
        Ok(())
    }
}

fn check_broker(broker: &str) -> Result<()> {
    let broker = broker.trim();
    let problem = |what: &str| {
        refuse(
            "brokers",
            format!("'{broker}' {what}; write for example \"kafka1:9092,kafka2:9092,[2001:db8::1]:9092\""),
        )
    };
    if broker.contains("://") {
        return problem("names a protocol, which kafka.properties.security.protocol does");
    }
    let (host, port) = match broker.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", rest.strip_prefix(':')),
        Some(_) => return problem("is no address"),
        None => match broker.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (broker, None),
        },
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if host.is_empty() || !host.bytes().all(legal) {
        return problem("is no host and port");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        _ => problem("has no port from 1 to 65535"),
    }
}

fn refuse(key: &str, problem: impl Into<String>) -> Result<()> {
    Err(Error::Config { key: format!("kafka.{key}"), problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(brokers: &str) -> Config {
        Config { brokers: brokers.into(), ..Config::default() }
    }

    fn refused(config: Config) -> (String, String) {
        match config.validate() {
            Err(Error::Config { key, problem }) => (key, problem),
            other => panic!("{config:?}: {other:?}"),
        }
    }

    #[test]
    fn brokers_are_hosts_and_ports() {
        for good in ["a:9092", "a", "kafka-1.example.com:9092, b_2:1", "127.0.0.1:9092", "[2001:db8::1]:9092", "[::1]"]
        {
            at(good).validate().unwrap();
        }
        for bad in [" ", "a:9092,", "a:0", "a:x", "a:70000", "SSL://a:9092", "a b:1", "::1", "[x]:1", "a;b"] {
            assert_eq!(refused(at(bad)).0, "kafka.brokers", "{bad}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_right_names_its_key() {
        let topics = |topics: Topics| Config { topics, ..at("a") };
        let text = |length: usize| "x".repeat(length);
        for (config, key) in [
            (Config { group: "other".into(), ..Config::default() }, "kafka.brokers"),
            (Config { topic_prefix: String::new(), ..at("a") }, "kafka.topic_prefix"),
            (Config { topic_prefix: "greypit".into(), ..at("a") }, "kafka.topic_prefix"),
            (Config { topic_prefix: "gräypit.".into(), ..at("a") }, "kafka.topic_prefix"),
            (Config { topic_prefix: text(200) + ".", ..at("a") }, "kafka.topic_prefix"),
            (Config { group: String::new(), ..at("a") }, "kafka.group"),
            (Config { group: text(256), ..at("a") }, "kafka.group"),
            (Config { max_memory: Size(1), ..at("a") }, "kafka.max_memory"),
            (topics(Topics { partitions: 0, ..Topics::default() }), "kafka.topics.partitions"),
            (topics(Topics { replication: -1, ..Topics::default() }), "kafka.topics.replication"),
            (topics(Topics { retention: Span::seconds(60), ..Topics::default() }), "kafka.topics.retention"),
        ] {
            assert_eq!(refused(config).0, key);
        }
        Config { topic_prefix: "eu-".into(), ..at("a") }.validate().unwrap();
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_property_stands_above_the_default_of_any_of_its_names() {
        let properties = [("queue.buffering.max.ms".to_owned(), "7".to_owned())];
        let config = Config { properties: Properties::from(std::collections::BTreeMap::from(properties)), ..at("a:1") };
        let client = config.client_with(&[("linger.ms", "20"), ("compression.type", "zstd")]);
        assert_eq!(client.get("queue.buffering.max.ms"), Some("7"));
        assert_eq!(client.get("linger.ms"), None);
        assert_eq!(client.get("compression.type"), Some("zstd"));
        assert_eq!(client.get("client.id"), Some("greypit"));
        assert_eq!(client.get("bootstrap.servers"), Some("a:1"));
        client.create_native_config().unwrap();
    }
}
