//! Topics are there before anything is sent.
//!
//! A topic that is missing is made as `[kafka.topics]` says, or is an error where that must not be; one that is there
//! stays as it is. Brokers that are away when greypit starts are asked again in the background until the topics are
//! there: events wait in the spool meanwhile. What waiting cannot mend (a wrong password, a certificate that is not
//! trusted, a right that is missing) is an error of the start.
//!
//! A kind that a later config brings is covered by the start that takes this config.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Config;
use super::ask::{Ask, New};
use super::errors::{Class, Problem};
use crate::health::State;
use crate::{Error, Health, Kind, Result};

/// What a topic must at least take in one message, in bytes: the largest event, compressed or not, fits twice.
pub(crate) const MESSAGE_BYTES: u64 = 16 << 20;

/// Copies of a new topic's partitions where the config leaves it to the brokers and enough of them run.
const COPIES: i32 = 3;

/// How often brokers that were away at the start are asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// The part of the health board that the connection to the brokers has.
const PART: &str = "kafka";

/// A topic that greypit needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its partitions, where it is new.
    pub partitions: i32,
    /// Its settings (`retention.ms`), where it is new.
    pub properties: Vec<(&'static str, String)>,
}

impl Wanted {
    /// The topic of a kind.
    #[must_use]
    pub fn of_kind(config: &Config, kind: Kind) -> Wanted {
        let properties = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", config.topics.retention.0.as_millis().to_string()),
            ("max.message.bytes", MESSAGE_BYTES.to_string()),
        ];
        Wanted { name: config.topic(kind), partitions: config.topics.partitions, properties }
    }

    /// Whether it keeps the last message of each key instead of all of them for a time.
    pub(crate) fn is_compacted(&self) -> bool {
        self.properties.iter().any(|(name, value)| *name == "cleanup.policy" && value.contains("compact"))
    }

    /// A compacted topic of events would keep the last one of each key: of each node.
    pub(crate) fn check_policy(&self, settings: &BTreeMap<String, String>) -> std::result::Result<(), Problem> {
        let compacted = settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
        if !compacted || self.is_compacted() {
            return Ok(());
        }
        let name = &self.name;
        let line = format!(
            "topic {name} has cleanup.policy=compact and would keep only the last event of each node; set it to delete \
             (kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config cleanup.policy=delete), or \
             choose another kafka.topic_prefix"
        );
        Err(Problem::new(Class::InvalidConfig, line))
    }

    /// With as many copies as the config says or `brokers` allow. Where there are three, two must have a message before
    /// it counts as written: one broker may be lost, or be away for its update, and nothing is lost or held up.
    pub(crate) fn to_make(&self, config: &Config, brokers: usize) -> New {
        let brokers = i32::try_from(brokers).unwrap_or(i32::MAX).max(1);
        let replication = match config.topics.replication {
            0 => COPIES.min(brokers),
            replication => replication,
        };
        let mut properties = self.properties.clone();
        if replication >= COPIES {
            properties.push(("min.insync.replicas", "2".into()));
        }
        New { name: self.name.clone(), partitions: self.partitions, replication, properties }
    }
}

/// Makes the topics that are missing, or says which are. Gives a task where the brokers are away, which goes on trying.
///
/// # Errors
/// [`Error::Config`] where a topic is missing and must not or cannot be created, or where waiting cannot mend what keeps
/// the brokers from being asked.
pub async fn prepare(config: &Config, wanted: Vec<Wanted>, health: &Health) -> Result<Option<JoinHandle<()>>> {
    try_properties(config)?;
    match try_prepare(config, &wanted).await {
        Ok(()) => {
            health.ok(PART);
            Ok(None)
        }
        Err(problem) if problem.is_definite() || problem.class == Class::TopicMissing => Err(problem.into_config()),
        Err(problem) => {
            health.held(PART, problem.line.clone());
            let (config, health) = (config.clone(), health.clone());
            Ok(Some(tokio::spawn(async move { keep_trying(&config, &wanted, &health, problem.line).await })))
        }
    }
}

/// Whether `[kafka.properties]` make a client, for checks without a network: files that they name are read.
///
/// # Errors
/// [`Error::Config`] with what librdkafka says.
pub fn try_properties(config: &Config) -> Result<()> {
    let unreadable = |(name, problem)| Error::Config { key: format!("kafka.properties.{name}"), problem };
    config.properties.check_files().map_err(unreadable)?;
    let client: rdkafka::error::KafkaResult<rdkafka::producer::BaseProducer> = config.client().create();
    client.map(drop).map_err(|error| Error::Config {
        key: "kafka.properties".into(),
        problem: Problem::of("use them", &error).line,
    })
}

async fn keep_trying(config: &Config, wanted: &[Wanted], health: &Health, mut told: String) {
    loop {
        tokio::time::sleep(AGAIN).await;
        let problem = try_prepare(config, wanted).await.err();
        // The producer or the shipper may have its own word on the board by now.
        let ours = matches!(health.parts().get(PART), Some(State::Held { reason, .. }) if *reason == told);
        match problem {
            None => {
                if ours {
                    health.ok(PART);
                }
                return;
            }
            Some(problem) if ours => {
                health.held(PART, problem.line.clone());
                told = problem.line;
            }
            Some(_) => {}
        }
    }
}

async fn try_prepare(config: &Config, wanted: &[Wanted]) -> std::result::Result<(), Problem> {
    let (config, wanted) = (config.clone(), wanted.to_vec());
    let runtime = tokio::runtime::Handle::current();
    // librdkafka's questions block.
    let work = tokio::task::spawn_blocking(move || {
        let ask = Ask::connect(&config)?;
        runtime.block_on(make_missing(&ask, &config, &wanted))
    });
    work.await.unwrap_or_else(|error| Err(Problem::new(Class::Other, format!("cannot ask the brokers: {error}"))))
}

async fn make_missing(ask: &Ask<'_>, config: &Config, wanted: &[Wanted]) -> std::result::Result<(), Problem> {
    let there = ask.topics();
    let (present, missing): (Vec<&Wanted>, Vec<&Wanted>) =
        wanted.iter().partition(|topic| there.contains_key(&topic.name));
    if !present.is_empty() {
        check_present(ask, &present).await?;
    }
    for topic in present {
        let partitions = there[&topic.name].partitions;
        if partitions != usize::try_from(topic.partitions).unwrap_or(0) {
            tracing::info!(topic = topic.name, partitions, "the topic is there and stays as it is");
        }
    }
    let new: Vec<New> = missing.iter().map(|topic| topic.to_make(config, ask.brokers().len())).collect();
    match new.as_slice() {
        [] => Ok(()),
        new if config.topics.create => ask.create(new).await,
        new => Err(Problem::new(Class::TopicMissing, missing_line(ask.asked(), new))),
    }
}

async fn check_present(ask: &Ask<'_>, present: &[&Wanted]) -> std::result::Result<(), Problem> {
    let names: Vec<String> = present.iter().map(|topic| topic.name.clone()).collect();
    let mut settings = ask.settings(&names).await?;
    for topic in present {
        match settings.remove(&topic.name) {
            Some(Ok(settings)) => topic.check_policy(&settings)?,
            // A user that may only write cannot know.
            Some(Err(problem)) => {
                tracing::debug!(topic = topic.name, problem = problem.line, "settings cannot be seen")
            }
            None => {}
        }
    }
    Ok(())
}

/// Which topics are missing, and the command that makes them.
pub(crate) fn missing_line(brokers: &str, new: &[New]) -> String {
    let names: Vec<&str> = new.iter().map(|topic| topic.name.as_str()).collect();
    let command = new.first().map(|first| {
        let settings = first.properties.iter().map(|(name, value)| format!(" --config {name}={value}"));
        format!(
            "kafka-topics.sh --bootstrap-server {brokers} --create --topic $t --partitions {} --replication-factor \
             {}{}",
            first.partitions,
            first.replication,
            settings.collect::<String>()
        )
    });
    format!(
        "{} {} missing, or this user may not Describe {}; create {}: for t in {}; do {}; done",
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" },
        if names.len() == 1 { "it" } else { "them" },
        if names.len() == 1 { "it" } else { "them" },
        names.join(" "),
        command.unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::super::config::Topics;
    use super::*;

    const KINDS: [Kind; 2] = [Kind::new("from"), Kind::new("to")];

    fn wanted(config: &Config) -> Vec<Wanted> {
        KINDS.iter().map(|kind| Wanted::of_kind(config, *kind)).collect()
    }

    fn at(brokers: &str) -> Config {
        Config {
            brokers: brokers.into(),
            topics: Topics { create: false, replication: 3, ..Topics::default() },
            ..Config::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_missing_is_named_with_the_command_that_makes_it() {
        let cluster = MockCluster::new(3).unwrap();
        let (config, health) = (at(&cluster.bootstrap_servers()), Health::new());
        cluster.create_topic("greypit.other", 1, 1).unwrap();
        let error = prepare(&config, wanted(&config), &health).await.unwrap_err().to_string();
        assert!(error.starts_with("kafka.topics.create: greypit.from, greypit.to are missing"), "{error}");
        for part in
            ["for t in greypit.from greypit.to; do kafka-topics.sh", "--partitions 12", "--replication-factor 3"]
        {
            assert!(error.contains(part), "{error}");
        }
        for part in ["retention.ms=604800000", "min.insync.replicas=2", "max.message.bytes=16777216"] {
            assert!(error.contains(&format!("--config {part}")), "{error}");
        }
        assert!(!error.contains('\n') && health.is_ready());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_that_are_away_are_asked_again_until_they_answer() {
        let health = Health::new();
        // A port that nobody is given.
        let config = at("127.0.0.1:1");
        let task = prepare(&config, wanted(&config), &health).await.unwrap().expect("it goes on trying");
        match &health.parts()[PART] {
            State::Held { reason, .. } => {
                assert!(reason.contains("Connection refused; see that the brokers"), "{reason}")
            }
            state => panic!("{state:?}"),
        }
        task.abort();
    }

    #[test]
    fn copies_are_three_where_there_are_brokers_for_them() {
        let mut config = at("a");
        config.topics.replication = 0;
        let new = |brokers: usize| {
            let new = Wanted::of_kind(&config, KINDS[0]).to_make(&config, brokers);
            (new.replication, new.properties.iter().any(|(name, _)| *name == "min.insync.replicas"))
        };
        assert_eq!([0, 1, 2, 3, 9].map(new), [(1, false), (1, false), (2, false), (3, true), (3, true)]);
    }

    #[test]
    fn a_compacted_topic_of_events_is_a_mistake() {
        let policy = |policy: &str| BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]);
        let events = Wanted::of_kind(&at("a"), KINDS[0]);
        let counts = Wanted { properties: vec![("cleanup.policy", "compact,delete".into())], ..events.clone() };
        events.check_policy(&policy("delete")).unwrap();
        counts.check_policy(&policy("compact,delete")).unwrap();
        let problem = events.check_policy(&policy("compact,delete")).unwrap_err();
        assert!(problem.is_definite() && problem.line.contains("only the last event of each node"));
    }
}
