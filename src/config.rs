//! The whole configuration: composes each part's own struct, reads TOML, validates everything before anything is bound.
//!
//! A mistake names the file, the line and the key. `${VAR}` in any text value is taken from the environment, `$${` stands
//! for `${`.

use std::fmt;
use std::path::{Path, PathBuf};

use greypit_milter::config::Scope;
use greypit_pipeline::{Kind, batch, check_node, kafka, spool, store};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::collect::boot;
use crate::collect::maillog::tail;
use crate::collect::syslog::listen as syslog;
use crate::collect::{milter, privacy};
use crate::farm;
use crate::http;
use crate::logging;

/// Windows for which a topic must keep messages at the very least.
const WINDOWS_RETAINED_MIN: u32 = 4;

/// Everything that `greypit run` needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Names this machine in every record.
    pub node: String,
    /// What this node does: collect, ship, or both.
    pub roles: Vec<Role>,
    /// Where the spool is.
    pub data_dir: PathBuf,
    /// `[log]`
    pub log: logging::Config,
    /// `[milter]`
    pub milter: greypit_milter::Config,
    /// `[syslog]`
    pub syslog: syslog::Config,
    /// `[[maillog]]`
    pub maillog: Vec<tail::Config>,
    /// `[boot]`
    pub boot: boot::Config,
    /// `[privacy]`
    pub privacy: privacy::Config,
    /// `[spool]`
    pub spool: spool::Config,
    /// `[batch]`
    pub batch: batch::Config,
    /// `[store]`
    pub store: store::Config,
    /// `[kafka]`
    pub kafka: kafka::Config,
    /// `[http]`
    pub http: http::Config,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            node: host_name(),
            roles: vec![Role::Collect, Role::Ship],
            data_dir: "greypit-data".into(),
            log: logging::Config::default(),
            milter: greypit_milter::Config::default(),
            syslog: syslog::Config::default(),
            maillog: Vec::new(),
            boot: boot::Config::default(),
            privacy: privacy::Config::default(),
            spool: spool::Config::default(),
            batch: batch::Config::default(),
            store: store::Config::default(),
            kafka: kafka::Config::default(),
            http: http::Config::default(),
        }
    }
}

/// What a node does where events go through Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes events in and sends them to Kafka.
    Collect,
    /// Takes them from Kafka to the store.
    Ship,
}

impl Config {
    /// Whether this node has a role.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The kinds of events that this config can bring about.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = syslog::KINDS.to_vec();
        if !self.milter.listen.is_empty() {
            kinds.push(milter::MAIL);
        }
        if self.boot.is_on() {
            kinds.extend(boot::KINDS);
        }
        kinds.extend(self.syslog.rule.iter().filter_map(|rule| Kind::parse(rule.kind.as_deref()?)));
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The topics that must be there. A node that only ships finds those that are, but may be the first of a farm to start.
    pub fn topics(&self) -> Vec<kafka::topics::Wanted> {
        match self.is(Role::Collect) || self.kafka.topics.create {
            true => {
                let kinds = self.kinds().into_iter().map(|kind| kafka::topics::Wanted::of_kind(&self.kafka, kind));
                kinds.chain(self.farm_topic()).collect()
            }
            false => Vec::new(),
        }
    }

    fn farm_topic(&self) -> Option<kafka::topics::Wanted> {
        let client = &self.milter.client;
        let is_farm = self.is(Role::Collect) && client.scope == Scope::Farm && !self.milter.listen.is_empty();
        is_farm.then(|| farm::topic(&self.kafka, client.window.0))
    }

    fn validate_roles(&self) -> greypit_pipeline::Result<()> {
        let refuse =
            |problem: &str| Err(greypit_pipeline::Error::Config { key: "roles".into(), problem: problem.into() });
        match (self.is(Role::Collect), self.is(Role::Ship)) {
            (false, false) => refuse("must name at least one of \"collect\" and \"ship\""),
            (true, true) if self.roles.len() == 2 => Ok(()),
            _ if self.roles.len() > 1 => refuse("names a role twice"),
            _ if self.kafka.is_on() => Ok(()),
            _ => refuse("one role alone needs [kafka] brokers: without Kafka a node ships what it collects"),
        }
    }

    fn validate_farm(&self) -> greypit_pipeline::Result<()> {
        if self.milter.client.scope == Scope::Farm && !self.kafka.is_on() {
            let problem = "\"farm\" needs [kafka] brokers: through them the nodes tell each other what passed";
            return Err(greypit_pipeline::Error::Config { key: "milter.client.scope".into(), problem: problem.into() });
        }
        Ok(())
    }

    /// What the sections must be for events to go through Kafka.
    fn validate_kafka(&self) -> greypit_pipeline::Result<()> {
        self.kafka.validate()?;
        if !self.kafka.is_on() {
            return Ok(());
        }
        let refuse = |key: &str, problem: String| Err(greypit_pipeline::Error::Config { key: key.into(), problem });
        if self.batch.key.contains("{node}") {
            let problem = "'{node}' has no place with Kafka, where an object holds the events of several nodes; {part} \
                           tells objects apart, and each record names its node";
            return refuse("batch.key", problem.into());
        }
        let (retention, window) = (self.kafka.topics.retention, self.batch.window);
        if retention.0 < window.0 * WINDOWS_RETAINED_MIN {
            let problem = format!(
                "{retention} is too short for batch.window = \"{window}\": what Kafka deletes before it is shipped is \
                 lost; at least {WINDOWS_RETAINED_MIN} windows"
            );
            return refuse("kafka.topics.retention", problem);
        }
        if !self.is(Role::Collect) {
            let unused = [
                ("milter.listen", self.milter.listen.is_empty()),
                ("maillog", self.maillog.is_empty()),
                ("boot.interface", !self.boot.is_on()),
            ];
            if let Some((key, _)) = unused.into_iter().find(|(_, is_empty)| !is_empty) {
                return refuse(key, "says nothing on a node without the role \"collect\"".into());
            }
        }
        Ok(())
    }

    /// The keys (`batch.window`) in which `other` differs, without those that can be changed while running.
    pub fn changed_keys(&self, other: &Config) -> Vec<String> {
        let [old, new] = [self, other].map(|config| match Value::try_from(config) {
            Ok(Value::Table(table)) => table,
            // A config is a table.
            _ => Table::new(),
        });
        let mut keys = Vec::new();
        changed(&old, &new, "", &mut keys);
        // Not shown, so it looks the same.
        if self.privacy.key != other.privacy.key && !keys.iter().any(|key| key == "privacy.key") {
            keys.push("privacy.key".to_owned());
        }
        let secrets = self.kafka.properties.changed_secrets(&other.kafka.properties);
        keys.extend(secrets.iter().map(|name| format!("kafka.properties.{name}")));
        keys.retain(|key| {
            key != "log.level"
                && !greypit_milter::Config::takes_while_running(key)
                && !syslog::Config::takes_while_running(key)
        });
        keys
    }
}

fn changed(old: &Table, new: &Table, above: &str, keys: &mut Vec<String>) {
    let added = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(added) {
        let key = format!("{above}{name}");
        match (old.get(name), new.get(name)) {
            (Some(Value::Table(old)), Some(Value::Table(new))) => changed(old, new, &format!("{key}."), keys),
            (old, new) if old != new => keys.push(key),
            _ => {}
        }
    }
}

/// A mistake in the configuration, in one line: file, line, key, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(line: String) -> ConfigError {
        ConfigError(line)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// A configuration and the text it came from, so that a mistake found later can still name its line.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values, checked.
    pub config: Config,
    source: Option<(PathBuf, String)>,
}

impl Loaded {
    /// Reads and checks a file; without one, the defaults.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn read(path: Option<&Path>) -> Result<Loaded, ConfigError> {
        let source = match path {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ConfigError(format!("{}: cannot be read: {error}", path.display())))?;
                Some((path.to_owned(), text))
            }
        };
        Loaded::new(source, |name| std::env::var(name).ok())
    }

    fn new(source: Option<(PathBuf, String)>, env: impl Fn(&str) -> Option<String>) -> Result<Loaded, ConfigError> {
        let mut loaded = Loaded { config: Config::default(), source };
        match &loaded.source {
            Some((path, text)) => loaded.config = parse(path, text, &env)?,
            None => {
                loaded.config.milter.listen =
                    vec![format!("unix:{}", loaded.config.data_dir.join("milter.sock").display())]
            }
        }
        if loaded.config.store.url.is_empty() {
            loaded.config.store.url = loaded.config.data_dir.join("objects").display().to_string();
        }
        loaded.validate()?;
        Ok(loaded)
    }

    /// Whether there is a config file.
    pub fn is_from_file(&self) -> bool {
        self.source.is_some()
    }

    /// Reads the same file again.
    ///
    /// # Errors
    /// As [`Loaded::read`].
    pub fn read_again(&self) -> Result<Loaded, ConfigError> {
        Loaded::read(self.source.as_ref().map(|(path, _)| path.as_path()))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let checks = [
            check_node(&config.node),
            config.log.validate(),
            config.milter.validate(),
            milter::check_headers(&config.milter.headers, config.privacy.hash_local_part),
            config.syslog.validate(),
            config.maillog.iter().try_for_each(tail::Config::validate),
            config.boot.validate(),
            config.privacy.validate(),
            config.spool.validate(),
            config.batch.validate(),
            config.store.validate(),
            config.validate_kafka(),
            config.validate_roles(),
            config.validate_farm(),
            config.http.validate(),
        ];
        checks.into_iter().try_for_each(|check| check.map_err(|error| self.locate(&error)))
    }

    /// Adds file and line to an error that names a key; other errors stay as they are.
    pub fn locate(&self, error: &greypit_pipeline::Error) -> ConfigError {
        let greypit_pipeline::Error::Config { key, problem } = error else { return ConfigError(error.to_string()) };
        match &self.source {
            Some((path, text)) => at(path, line_of(text, key), key, problem),
            None => ConfigError(format!("{key}: {problem}")),
        }
    }
}

fn at(path: &Path, line: Option<usize>, key: &str, problem: &str) -> ConfigError {
    let line = line.map_or(String::new(), |line| format!(":{line}"));
    let key = if key.is_empty() { String::new() } else { format!(" {key}:") };
    ConfigError(format!("{}{line}:{key} {problem}", path.display()))
}

fn parse(path: &Path, text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| line_at(text, span.start));
        at(path, line, "", error.message())
    })?;
    for (key, value) in &mut table {
        substitute(value, key, env).map_err(|(key, problem)| at(path, line_of(text, &key), &key, &problem))?;
    }
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let message = error.inner().message().replace("expected a sequence", "expected a list such as [\"…\"]");
        let mut key = error.path().to_string();
        // The path of an unknown key may end at its table.
        if let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next())
            && key.rsplit('.').next() != Some(unknown)
        {
            key = if key == "." { unknown.to_owned() } else { format!("{key}.{unknown}") };
        }
        at(path, line_of(text, &key), &key, &message)
    })
}

/// Replaces `${VAR}` in every text of `value`; an error names the key.
fn substitute(value: &mut Value, key: &str, env: &impl Fn(&str) -> Option<String>) -> Result<(), (String, String)> {
    match value {
        Value::String(text) => *text = expand(text, env).map_err(|problem| (key.to_owned(), problem))?,
        Value::Array(values) => {
            for (index, value) in values.iter_mut().enumerate() {
                substitute(value, &format!("{key}[{index}]"), env)?;
            }
        }
        Value::Table(table) => {
            for (name, value) in table.iter_mut() {
                substitute(value, &format!("{key}.{name}"), env)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn expand(text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let (name, after) = rest[at + 2..].split_once('}').ok_or("'${' without '}'; write '$${' for the characters")?;
        let value = env(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The line in which `key` (`batch.window`, `maillog[1].path`) stands, or the nearest table above it. A quoted name may
/// itself have dots: `kafka.properties.sasl.password` is found in `[kafka.properties]` as `"sasl.password"` too.
fn line_of(text: &str, key: &str) -> Option<usize> {
    use toml::de::{DeTable, DeValue};
    let document = DeTable::parse(text).ok()?;
    let mut line = None;
    let mut table: &DeTable<'_> = document.get_ref();
    let mut rest = key;
    while !rest.is_empty() {
        let after = |name: &str| {
            let after = rest.strip_prefix(name)?;
            (after.is_empty() || after.starts_with(['.', '['])).then_some(after)
        };
        let found = table.iter().filter_map(|(name, value)| Some((name, value, after(name.get_ref())?)));
        let Some((name, mut value, mut after)) = found.min_by_key(|(_, _, after)| after.len()) else { break };
        line = Some(line_at(text, name.span().start));
        let index = match after.strip_prefix('[').and_then(|index| index.split_once(']')) {
            Some((index, beyond)) => {
                after = beyond;
                index.parse().unwrap_or(0)
            }
            None => 0_usize,
        };
        if let DeValue::Array(values) = value.get_ref() {
            let Some(element) = values.get(index) else { break };
            line = Some(line_at(text, element.span().start));
            value = element;
        }
        rest = after.trim_start_matches('.');
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    line
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if check_node(&name).is_ok() { name } else { "greypit".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greypit_pipeline::units::Span;

    fn load(text: &str) -> Result<Config, String> {
        let env = |name: &str| match name {
            "BUCKET" => Some("logs".to_owned()),
            "KAFKA_PASSWORD" => Some("hunter2".to_owned()),
            _ => None,
        };
        let source = Some(("greypit.toml".into(), text.to_owned()));
        Loaded::new(source, env).map(|loaded| loaded.config).map_err(|error| error.to_string())
    }

    #[test]
    fn mistakes_name_file_line_key_and_what_to_do() {
        for (text, expected) in [
            (
                "node = \"mx1\"\n[batch]\nwindw = \"5m\"\n",
                "greypit.toml:3: batch.windw: unknown field `windw`, expected one of",
            ),
            ("nodes = \"mx1\"\n", "greypit.toml:1: nodes: unknown field `nodes`"),
            (
                "[batch]\n\nwindow = \"5 minutes\"\n",
                "greypit.toml:3: batch.window: '5 minutes' is no duration; write for example",
            ),
            ("[batch]\nwindow = 5\n", "greypit.toml:2: batch.window: a duration is a text with its unit"),
            ("[spool]\nmax_bytes = \"1MiB\"\n", "greypit.toml:2: spool.max_bytes: must be at least"),
            ("[batch]\nkey = \"{kind}\"\n", "greypit.toml:2: batch.key: '{kind}' needs {part}"),
            ("node = \"a b\"\n", "greypit.toml:1: node: 'a b' must be"),
            (
                "\n[store]\nurl = \"s3://${BUCKETS}\"\n",
                "greypit.toml:3: store.url: the environment variable BUCKETS is not set",
            ),
            (
                "[syslog]\nudp = \"127.0.0.1:514\"\n",
                "greypit.toml:2: syslog.udp: invalid type: string \"127.0.0.1:514\", expected a list such as",
            ),
            ("[batch\n", "greypit.toml:1:"),
            ("[http]\nlisten = \"x\"\n", "greypit.toml:2: http.listen: 'x' is no address"),
            (
                "[[milter.rule]]\nname = \"a\"\nhosts = [\"x\"]\n[[milter.rule]]\nhosts = [\"y\"]\nname = \"a\"\n",
                "greypit.toml:6: milter.rule[1].name: 'a' is taken",
            ),
            (
                "[milter]\nlimit = 5\n[milter.client]\nipv4_prefix = 33\n",
                "greypit.toml:4: milter.client.ipv4_prefix: 33",
            ),
            (
                "[milter.client]\nlimit = 5\nscope = \"farm\"\n",
                "greypit.toml:3: milter.client.scope: \"farm\" needs [kafka] brokers",
            ),
            (
                "[kafka]\nbrokers = \"b:9092\"\n[milter.client]\nscope = \"farm\"\n",
                "greypit.toml:4: milter.client.scope: \"farm\" needs a limit",
            ),
            ("[[maillog]]\npath = \"/var/log/maillog\"\n[[maillog]]\npath = \"\"\n", "greypit.toml:"),
            (
                "[privacy]\nhash_local_part = true\nkey = \"0123456789abcde\"\n",
                "greypit.toml:3: privacy.key: 15 characters are too few",
            ),
            ("[privacy]\nhash_local_part = true\n", "greypit.toml:1: privacy.key: 0 characters are too few"),
            (
                "[privacy]\nhash_local_part = true\nkey = \"***\"\n",
                "greypit.toml:3: privacy.key: '***' is what `greypit check` prints",
            ),
            ("[privacy]\nkey = 2468135790\n", "greypit.toml:2: privacy.key: a key is a text in quotes"),
            ("[milter]\nheaders = [\"a b\"]\n", "greypit.toml:2: milter.headers: 'a b' is no header field"),
            (
                "[milter]\nheaders = [\"To\"]\n[privacy]\nhash_local_part = true\nkey = \"0123456789abcdef\"\n",
                "greypit.toml:2: milter.headers: 'To' names people",
            ),
            ("roles = [\"ship\"]\n", "greypit.toml:1: roles: one role alone needs [kafka] brokers"),
            ("roles = []\n", "greypit.toml:1: roles: must name at least one of"),
            ("roles = [\"collect\", \"collect\"]\n", "greypit.toml:1: roles: names a role twice"),
            (
                "roles = [\"ship\"]\n[milter]\nlisten = [\"unix:x\"]\n[kafka]\nbrokers = \"a:1\"\n",
                "greypit.toml:3: milter.listen: says nothing on a node without the role",
            ),
            ("[kafka]\ngroup = \"x\"\n", "greypit.toml:1: kafka.brokers: is empty while other keys"),
            ("[kafka]\nbrokers = \"a:x\"\n", "greypit.toml:2: kafka.brokers: 'a:x' has no port"),
            (
                "[batch]\nkey = \"{kind}/{node}-{part}.json{ext}\"\n[kafka]\nbrokers = \"a:1\"\n",
                "greypit.toml:2: batch.key: '{node}' has no place with Kafka",
            ),
            (
                "[batch]\nwindow = \"1d\"\n[kafka]\nbrokers = \"a:1\"\n[kafka.topics]\nretention = \"2d\"\n",
                "greypit.toml:6: kafka.topics.retention: 2d is too short for batch.window = \"1d\"",
            ),
            (
                "[kafka]\nbrokers = \"a:1\"\n\n[kafka.properties]\nlinger.mz = 5\n",
                "greypit.toml:5: kafka.properties.linger.mz: librdkafka knows no such property",
            ),
            (
                "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\nsocket.nagle.disable = true\n\"linger.ms\" = \"x\"\n",
                "greypit.toml:5: kafka.properties.linger.ms: Invalid value",
            ),
            (
                "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\n\"acks\" = 1\n",
                "greypit.toml:4: kafka.properties.acks: cannot be set here: leave it out",
            ),
            (
                "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\nsasl.password = [\"0123456789abcdef\"]\n",
                "greypit.toml:4: kafka.properties.sasl.password: a list is written as librdkafka wants it",
            ),
            (
                "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\nssl.ca.location = \"/x\"\n",
                "greypit.toml:4: kafka.properties.ssl.ca.location: says nothing without security.protocol",
            ),
            (
                "[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\nsecurity.protocol = \"sasl_ssl\"\n\
                 sasl.mechanism = \"PLAIN\"\nsasl.password = \"***\"\n",
                "greypit.toml:6: kafka.properties.sasl.password: '***' is what `greypit check` prints",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(
                !error.contains('\n') && !error.contains("0123456789abcde") && !error.contains("2468135790"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_reload_names_the_keys_that_changed() {
        let old = load("node = \"mx1\"\n[batch]\nwindow = \"5m\"\n[log]\nlevel = \"info\"\n").unwrap();
        let new = "node = \"mx1\"\n[batch]\nwindow = \"1m\"\nlevel = 7\n[log]\nlevel = \"debug\"\n[[maillog]]\npath = \"/x\"\n";
        let mut keys = old.changed_keys(&load(new).unwrap());
        keys.sort();
        assert_eq!(keys, ["batch.level", "batch.window", "maillog"]);
        assert!(old.changed_keys(&old).is_empty());
    }

    #[test]
    fn variables_come_from_the_environment() {
        let config = load("[store]\nurl = \"s3://${BUCKET}/mail\"\n").unwrap();
        assert_eq!(config.store.url, "s3://logs/mail");
        assert_eq!(expand("a $${X} b", &|_| None).unwrap(), "a ${X} b");
        assert!(expand("${X", &|_| None).is_err());
    }

    #[test]
    fn without_a_file_everything_is_local() {
        let config = Loaded::new(None, |_| None).unwrap().config;
        assert_eq!(config.store.url, "greypit-data/objects");
        assert_eq!(config.http.listen, "127.0.0.1:9425");
    }

    #[test]
    fn the_documented_config_has_every_key_with_its_default() {
        let text = include_str!("../config/greypit.toml");
        let documented = load(text).unwrap();
        let mut defaults = Config::default();
        defaults.store.url = documented.store.url.clone();
        assert_eq!(documented, defaults);

        let mut every = defaults;
        every.maillog = vec![tail::Config::new("/var/log/maillog")];
        every.batch.level = Some(9);
        every.syslog.rule = vec![crate::collect::syslog::rules::Rule::default()];
        every.milter.rule = vec![greypit_milter::config::Rule {
            authenticated: Some(false),
            limit: Some(1),
            client_limit: Some(1),
            step: Some(Span::seconds(1)),
            max_delay: Some(Span::seconds(1)),
            max_strikes: Some(1),
            ..Default::default()
        }];
        every.store = store::Config {
            endpoint: Some(String::new()),
            region: Some(String::new()),
            profile: Some(String::new()),
            sse_kms_key_id: Some(String::new()),
            ..every.store
        };
        let Value::Table(every) = Value::try_from(every).unwrap() else { panic!("a config is a table") };
        for (section, value) in &every {
            let keys: Vec<&String> = match value {
                Value::Table(table) => table.keys().collect(),
                Value::Array(tables) => tables.iter().filter_map(Value::as_table).flat_map(Table::keys).collect(),
                _ => Vec::new(),
            };
            for key in keys.into_iter().chain([section]) {
                let plain = text.lines().any(|line| {
                    let line = line.trim_start_matches(['#', ' ']).trim_start_matches('[');
                    line.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with([' ', ']', '.']))
                        || line.split_once('.').is_some_and(|(_, last)| last.trim_end_matches(']') == key)
                });
                assert!(plain, "{section}.{key} is not in config/greypit.toml");
            }
        }
        load(include_str!("../config/minimal.toml")).unwrap();
    }

    #[test]
    fn the_configs_of_a_farm_are_valid_and_of_one_farm() {
        let collect = load(include_str!("../config/farm-collect.toml")).unwrap();
        let ship = load(include_str!("../config/farm-ship.toml")).unwrap();
        assert_eq!((collect.roles, ship.roles), (vec![Role::Collect], vec![Role::Ship]));
        assert_eq!(kafka::Config { max_memory: ship.kafka.max_memory, ..collect.kafka }, ship.kafka);
    }

    #[test]
    fn what_check_prints_can_be_read_again() {
        let config = Loaded::new(None, |_| None).unwrap().config;
        let text = toml::to_string_pretty(&config).unwrap();
        assert_eq!(load(&text).unwrap(), config);
    }

    #[test]
    fn a_key_is_never_shown_and_its_change_is() {
        let with = |key: &str| load(&format!("[privacy]\nhash_local_part = true\nkey = \"{key}\"\n")).unwrap();
        let (old, new) = (with("0123456789abcdef"), with("0123456789abcdeF"));
        for text in [toml::to_string_pretty(&old).unwrap(), format!("{old:?}")] {
            assert!(text.contains("***") && !text.contains("0123456789"), "{text}");
        }
        // All that a reader of what `check` prints has to put back.
        let printed = toml::to_string_pretty(&old).unwrap();
        assert!(load(&printed).unwrap_err().contains("privacy.key: '***'"));
        assert_eq!(load(&printed.replace("***", "0123456789abcdef")).unwrap(), old);
        assert_eq!(old.changed_keys(&new), ["privacy.key"]);
        assert_eq!(old.changed_keys(&with("0123456789abcdef")), [""; 0]);
        assert_eq!(load("[privacy]\nkey = \"x\"\n").unwrap().changed_keys(&load("").unwrap()), ["privacy.key"]);
    }

    #[test]
    fn secrets_of_kafka_are_never_shown_and_their_change_is() {
        let with = |password: &str| {
            let sasl =
                format!("sasl.mechanism = \"PLAIN\"\nsasl.username = \"g\"\n\"sasl.password\" = \"{password}\"\n");
            let text =
                format!("[kafka]\nbrokers = \"a:1\"\n[kafka.properties]\nsecurity.protocol = \"sasl_ssl\"\n{sasl}");
            load(&text).unwrap()
        };
        let (old, new) = (with("hunter2"), with("hunter3"));
        let printed = toml::to_string_pretty(&old).unwrap();
        for text in [printed.clone(), format!("{old:?}")] {
            assert!(text.contains("***") && !text.contains("hunter2"), "{text}");
        }
        assert_eq!(load(&printed.replace("***", "hunter2")).unwrap(), old);
        assert_eq!(old.changed_keys(&new), ["kafka.properties.sasl.password"]);
        assert_eq!(old.changed_keys(&with("hunter2")), [""; 0]);
    }
}
