//! `[kafka.properties]`: librdkafka's own settings, passed through.
//!
//! In TOML `security.protocol = "ssl"` and `"security.protocol" = "ssl"` are the same: tables inside are taken apart into
//! dotted names. Numbers and booleans may stand without quotes. Every name and value is tried on librdkafka itself, so a
//! wrong one is known before anything runs. What greypit's guarantees stand on cannot be set ([`refused`]), and what is
//! secret ([`is_secret`]) is never shown.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands in place of a secret wherever one would be shown.
const HIDDEN: &str = "***";

/// The longest a property and its value may be, in bytes: a chain of certificates fits.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// Settings of librdkafka by their dotted names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

/// A property that cannot be right, and why.
pub(crate) type Problem = (String, String);

/// Names of one setting; the first is the one that greypit uses.
const ALIASES: [&[&str]; 9] = [
    &["bootstrap.servers", "metadata.broker.list"],
    &["max.in.flight.requests.per.connection", "max.in.flight"],
    &["sasl.mechanism", "sasl.mechanisms"],
    &["linger.ms", "queue.buffering.max.ms"],
    &["retries", "message.send.max.retries"],
    &["compression.type", "compression.codec"],
    &["fetch.message.max.bytes", "max.partition.fetch.bytes"],
    &["acks", "request.required.acks"],
    &["message.timeout.ms", "delivery.timeout.ms"],
];

/// The name that greypit uses for a setting.
fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|names| names.contains(&name)).map_or(name, |names| names[0])
}

/// Why a property is not the user's to set.
fn refused(name: &str) -> Option<&'static str> {
    Some(match canonical(name) {
        "bootstrap.servers" => "set kafka.brokers instead",
        "group.id" => "set kafka.group instead",
        "enable.idempotence"
        | "acks"
        | "enable.gapless.guarantee"
        | "message.timeout.ms"
        | "retries"
        | "queuing.strategy"
        | "transactional.id"
        | "transaction.timeout.ms" => {
            "leave it out: that no event is lost, repeated or out of order stands on greypit's own value"
        }
        "partitioner" | "partitioner_cb" => {
            "leave it out: greypit chooses the partition, the one that Java clients would, so that a node keeps it"
        }
        "enable.auto.commit"
        | "auto.commit.enable"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store"
        | "offset.store.method" => {
            "leave it out: offsets are committed by greypit once the events are in the store, never before"
        }
        "auto.offset.reset" => {
            "leave it out: greypit goes on where its cuts in the store end, and begins with the oldest message"
        }
        "partition.assignment.strategy" | "group.protocol" | "group.remote.assignor" => {
            "leave it out: how partitions change hands is what greypit's shippers agree on"
        }
        "isolation.level" => "leave it out: all shippers must see the same messages",
        "enable.partition.eof" | "delivery.report.only.error" | "enabled_events" | "statistics.interval.ms" => {
            "leave it out: greypit needs its own value to see what goes on"
        }
        "allow.auto.create.topics" => "leave it out: [kafka.topics] says how topics are made",
        _ => return None,
    })
}

/// Whether a value is never to be shown.
fn is_secret(name: &str) -> bool {
    let parts = ["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];
    parts.iter().any(|part| name.contains(part))
}

impl Properties {
    /// Names and values, as librdkafka gets them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a setting, by whichever of its names.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let same = |other: &str| canonical(other) == canonical(name);
        self.iter().find(|(other, _)| same(other)).map(|(_, value)| value)
    }

    /// The names of secrets that differ, which look the same where they are hidden.
    #[must_use]
    pub fn changed_secrets(&self, other: &Properties) -> Vec<String> {
        let differs = |(name, value): &(&String, &String)| {
            is_secret(name) && other.0.get(*name).is_some_and(|other| other != *value)
        };
        self.0.iter().filter(differs).map(|(name, _)| name.clone()).collect()
    }

    /// Tries each on librdkafka, and those of security on each other.
    pub(crate) fn validate(&self) -> Result<(), Problem> {
        for (name, value) in self.iter() {
            self.check(name, value).map_err(|problem| (name.to_owned(), problem))?;
        }
        self.check_security()
    }

    /// Whether the files that they name can be read; of which OpenSSL says no more than that something did not work.
    pub(crate) fn check_files(&self) -> Result<(), Problem> {
        let named = self.iter().filter(|(name, _)| name.starts_with("ssl.") && name.ends_with(".location"));
        for (name, path) in named {
            std::fs::File::open(path).map_err(|error| (name.to_owned(), format!("{path} cannot be read: {error}")))?;
        }
        Ok(())
    }

    fn check(&self, name: &str, value: &str) -> Result<(), String> {
        if let Some(reason) = refused(name) {
            return Err(format!("cannot be set here: {reason}"));
        }
        if value == HIDDEN && is_secret(name) {
            return Err(format!(
                "'{HIDDEN}' is what `greypit check` prints in place of a secret; write the secret itself, best from \
                 the environment: \"${{KAFKA_PASSWORD}}\""
            ));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(format!("is longer than {VALUE_BYTES_MAX} bytes"));
        }
        let twice = |other: &&str| *other != name && canonical(other) == canonical(name);
        if let Some(other) = self.0.keys().map(String::as_str).find(twice) {
            return Err(format!("is the same setting as {other}; leave one of them out"));
        }
        match ClientConfig::new().set(name, value).create_native_config() {
            Ok(_) => Ok(()),
            // What librdkafka says quotes the value.
            Err(_) if is_secret(name) => Err("is refused by librdkafka".into()),
            Err(KafkaError::ClientConfig(_, says, ..)) => Err(said(&says)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Credentials that would silently not be used, and a mechanism that would be guessed.
    fn check_security(&self) -> Result<(), Problem> {
        let protocol = self.get("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
        let (tls, sasl) = (protocol.ends_with("ssl"), protocol.starts_with("sasl"));
        let unused = |prefix: &str| self.0.keys().find(|name| name.starts_with(prefix)).cloned();
        if !sasl && let Some(name) = unused("sasl.") {
            let problem = "says nothing without security.protocol = \"sasl_ssl\" (or \"sasl_plaintext\")";
            return Err((name, problem.into()));
        }
        if !tls && let Some(name) = unused("ssl.") {
            return Err((name, "says nothing without security.protocol = \"ssl\" or \"sasl_ssl\"".into()));
        }
        if sasl && self.get("sasl.mechanism").is_none() {
            let problem = "needs sasl.mechanism: \"SCRAM-SHA-512\", \"SCRAM-SHA-256\", \"PLAIN\" or \"OAUTHBEARER\"";
            return Err(("security.protocol".into(), problem.into()));
        }
        Ok(())
    }
}

/// What librdkafka says of a setting, as one line that says what to do.
fn said(says: &str) -> String {
    let says = says.replace('\n', " ");
    match says.starts_with("No such configuration property") {
        true => "librdkafka knows no such property; the names are those of its CONFIGURATION.md".into(),
        false => says,
    }
}

impl From<BTreeMap<String, String>> for Properties {
    fn from(properties: BTreeMap<String, String>) -> Properties {
        Properties(properties)
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, shown(name, value)))).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, value)| (name, shown(name, value))))
    }
}

fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    if is_secret(name) && !value.is_empty() { HIDDEN } else { value }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Properties, D::Error> {
        let mut flat = BTreeMap::new();
        let Value::Table(table) = Value::deserialize(deserializer)? else {
            return Err(D::Error::custom("is a table: write the properties below [kafka.properties]"));
        };
        flatten(table, "", &mut flat).map_err(D::Error::custom)?;
        Ok(Properties(flat))
    }
}

fn flatten(table: Vec<(String, Value)>, above: &str, flat: &mut BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in table {
        let name = format!("{above}{name}");
        match value {
            Value::Table(table) => flatten(table, &format!("{name}."), flat)?,
            Value::Text(_) if flat.contains_key(&name) => return Err(format!("{name} is set twice")),
            Value::Text(text) => drop(flat.insert(name, text)),
        }
    }
    Ok(())
}

/// A property's value, or the table that its dotted name makes.
enum Value {
    Text(String),
    Table(Vec<(String, Value)>),
}

/// The only key of the table as which a TOML date is read.
const DATE: &str = "$__toml_private_datetime";

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, or true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut table = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == DATE {
                return Err(A::Error::custom("no property is a date; write a text in quotes"));
            }
            table.push((name, map.next_value()?));
        }
        Ok(Value::Table(table))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("a list is written as librdkafka wants it: one text, with commas"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Properties {
        Properties(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn read(json: &str) -> Result<Properties, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_inside_are_dotted_names_and_plain_values_are_texts() {
        let nested = r#"{"ssl":{"ca":{"location":"/ca"}},"linger":{"ms":5},"socket.keepalive.enable":true}"#;
        let flat = properties(&[("ssl.ca.location", "/ca"), ("linger.ms", "5"), ("socket.keepalive.enable", "true")]);
        assert_eq!(read(nested).unwrap(), flat);
        for (bad, says) in [
            (r#"{"a":{"b":"1"},"a.b":"2"}"#, "a.b is set twice"),
            (r#"{"debug":["security"]}"#, "one text, with commas"),
            (r#"{"debug":{"$__toml_private_datetime":"2026-11-20"}}"#, "no property is a date"),
            (r#"{"debug":null}"#, "expected a text, a number, or true or false"),
            ("5", "is a table"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_known_at_once() {
        let scram = [("security.protocol", "sasl_ssl"), ("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.username", "g")];
        properties(&scram).validate().unwrap();
        properties(&[("security.protocol", "SSL"), ("ssl.ca.location", "/ca.pem")]).validate().unwrap();
        properties(&[("compression.type", "lz4"), ("linger.ms", "50"), ("queue.buffering.max.kbytes", "1000")])
            .validate()
            .unwrap();
        for (bad, key, says) in [
            (&[("linger.mz", "5")][..], "linger.mz", "knows no such property"),
            (&[("linger.ms", "soon")], "linger.ms", "Invalid value"),
            (&[("socket.timeout.ms", "1")], "socket.timeout.ms", "outside allowed range"),
            (&[("compression.type", "bzip2")], "compression.type", "Invalid value"),
            (&[("ssl.truststore.location", "/x")], "ssl.truststore.location", "ssl.ca.location"),
            (&[("linger.ms", "5"), ("queue.buffering.max.ms", "5")], "linger.ms", "same setting as queue.buffering"),
            (&[("sasl.username", "g")], "sasl.username", "security.protocol = \"sasl_ssl\""),
            (&[("ssl.ca.location", "/x")], "ssl.ca.location", "security.protocol = \"ssl\""),
            (&[("security.protocol", "sasl_ssl")], "security.protocol", "needs sasl.mechanism"),
            (&[("sasl.password", "***")], "sasl.password", "'***' is what `greypit check` prints"),
        ] {
            let (named, problem) = properties(bad).validate().unwrap_err();
            assert_eq!(named, key, "{problem}");
            assert!(problem.contains(says), "{key}: {problem}");
        }
    }

    #[test]
    fn what_the_guarantees_stand_on_cannot_be_set_by_any_of_its_names() {
        for name in [
            "bootstrap.servers",
            "metadata.broker.list",
            "group.id",
            "enable.idempotence",
            "acks",
            "request.required.acks",
            "enable.gapless.guarantee",
            "message.timeout.ms",
            "delivery.timeout.ms",
            "message.send.max.retries",
            "partitioner",
            "transactional.id",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "partition.assignment.strategy",
            "isolation.level",
        ] {
            let (named, problem) = properties(&[(name, "1")]).validate().unwrap_err();
            assert_eq!(named, name);
            assert!(problem.starts_with("cannot be set here: "), "{name}: {problem}");
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let secret = "hunter2";
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "my.password.typo",
        ] {
            let with = properties(&[(name, secret)]);
            let problem = with.validate().unwrap_err().1;
            for text in [format!("{with:?}"), serde_json::to_string(&with).unwrap(), problem] {
                assert!(!text.contains(secret), "{text}");
            }
            assert_eq!(with.changed_secrets(&properties(&[(name, "other")])), [name]);
            assert!(with.changed_secrets(&with).is_empty());
        }
        assert!(format!("{:?}", properties(&[("sasl.username", "greypit")])).contains("greypit"));
    }
}
