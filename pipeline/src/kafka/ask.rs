//! Questions to the brokers: who is there, which topics, how they are set; and the making of topics.
//!
//! Every question ends within [`PATIENCE`]. What goes wrong with a connection is told by librdkafka on the side, as events
//! of the client, while the question itself only times out; so both are put together here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};

use super::Config;
use super::errors::{Class, Problem};
use super::rights;

/// How long a question may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How often a question that is under way looks at what the connections say.
const LOOK: Duration = Duration::from_millis(250);

/// How long it listens then.
const LISTEN: Duration = Duration::from_millis(20);

/// What connections say is kept up to this many lines.
const SAID_MAX: usize = 64;

/// A client that asks.
pub(crate) struct Ask<'a> {
    config: &'a Config,
    /// Which brokers, for messages.
    brokers: String,
    client: BaseProducer<Listener>,
    metadata: Metadata,
}

/// One broker, as it tells others to reach it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Broker {
    pub(crate) address: String,
}

/// How a topic is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) partitions: usize,
    /// Copies of the partition that has the fewest.
    pub(crate) replication: usize,
}

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct New {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) properties: Vec<(&'static str, String)>,
}

impl New {
    fn native(&self) -> NewTopic<'_> {
        let new = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(self.replication));
        self.properties.iter().fold(new, |new, (name, value)| new.set(name, value))
    }
}

#[derive(Default)]
struct Listener {
    said: Mutex<Vec<(Code, String)>>,
}

impl Listener {
    fn hear(&self, code: Code, reason: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < SAID_MAX {
            said.push((code, reason.to_owned()));
        }
    }
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
        // A broker that just hangs up, as one does that expects TLS, is no error to librdkafka and only logged.
        if facility == "FAIL" {
            let reason = message.split_once("]: ").map_or(message, |(_thread, reason)| reason);
            self.hear(Code::BrokerTransportFailure, reason);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.hear(code, reason);
        }
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl<'a> Ask<'a> {
    /// Connects to one of the configured brokers. Blocks.
    pub(crate) fn connect(config: &'a Config) -> Result<Ask<'a>, Problem> {
        Ask::connect_to(config, &config.brokers)
    }

    /// Connects to one of `brokers`. Blocks.
    pub(crate) fn connect_to(config: &'a Config, brokers: &str) -> Result<Ask<'a>, Problem> {
        let mut settings = config.client();
        settings.set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Info);
        let client: BaseProducer<Listener> = settings
            .create_with_context(Listener::default())
            .map_err(|error| Problem::of("use [kafka.properties]", &error))?;
        let doing = format!("reach {brokers}");
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match client.client().fetch_metadata(None, LOOK) {
                Ok(metadata) => return Ok(Ask { config, brokers: brokers.to_owned(), client, metadata }),
                Err(error) => error,
            };
            // Log lines and errors are in one queue; no time at all would take one of them.
            client.poll(LISTEN);
            let said = client.context().said.lock().unwrap_or_else(PoisonError::into_inner);
            // Every one of them has been tried.
            let all_down = said.iter().any(|(code, _)| *code == Code::AllBrokersDown);
            if all_down || Instant::now() >= until {
                return Err(worst(&doing, &said).unwrap_or_else(|| Problem::of(&doing, &error)));
            }
        }
    }

    /// Which brokers were asked, for messages.
    pub(crate) fn asked(&self) -> &str {
        &self.brokers
    }

    /// The brokers that run.
    pub(crate) fn brokers(&self) -> Vec<Broker> {
        let broker = |broker: &rdkafka::metadata::MetadataBroker| Broker {
            address: format!("{}:{}", broker.host(), broker.port()),
        };
        let mut brokers: Vec<Broker> = self.metadata.brokers().iter().map(broker).collect();
        brokers.sort();
        brokers
    }

    /// The topics that this user may see.
    pub(crate) fn topics(&self) -> BTreeMap<String, Spread> {
        let spread = |topic: &rdkafka::metadata::MetadataTopic| Spread {
            partitions: topic.partitions().len(),
            replication: topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
        };
        self.metadata.topics().iter().map(|topic| (topic.name().to_owned(), spread(topic))).collect()
    }

    /// The settings of topics, by name; a topic whose settings this user may not see is a problem in its place.
    pub(crate) async fn settings(
        &self,
        topics: &[String],
    ) -> Result<BTreeMap<String, Result<BTreeMap<String, String>, Problem>>, Problem> {
        let admin = self.admin()?;
        let names: Vec<_> = topics.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let doing = |name: &str| format!("see the settings of topic {name}");
        let answers = admin
            .describe_configs(&names, &options())
            .await
            .map_err(|error| Problem::of("see the settings of topics", &error))?;
        let told = topics.iter().zip(answers).map(|(name, answer)| {
            let entries = answer.map_err(|code| Problem::of_code(&doing(name), code));
            let entries = entries.map(|resource| {
                resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
            });
            (name.clone(), entries)
        });
        Ok(told.collect())
    }

    /// Makes topics. One that is there meanwhile is fine, whoever made it.
    pub(crate) async fn create(&self, topics: &[New]) -> Result<(), Problem> {
        for topic in self.create_with(topics, &options()).await? {
            tracing::info!(topic, "topic created");
        }
        Ok(())
    }

    /// Whether topics could be made; makes none.
    pub(crate) async fn try_create(&self, topics: &[New]) -> Result<(), Problem> {
        self.create_with(topics, &options().validate_only(true)).await.map(drop)
    }

    /// What may be done with these topics. Blocks.
    pub(crate) fn rights_on_topics(&self, names: &[String]) -> Result<Vec<rights::Rights>, Problem> {
        let rights = rights::of_topics(self.client.client(), names);
        rights.map_err(|code| Problem::of_code("see the rights on topics", code))
    }

    /// What may be done with this group. Blocks.
    pub(crate) fn rights_on_group(&self, group: &str) -> rights::Rights {
        let until = Instant::now() + PATIENCE;
        loop {
            match rights::of_group(self.client.client(), group) {
                // A cluster's first question of a group makes the place where groups are kept.
                Err(code) if Class::of(code) == Class::Away && Instant::now() < until => std::thread::sleep(LOOK),
                rights => return rights,
            }
        }
    }

    async fn create_with(&self, topics: &[New], options: &AdminOptions) -> Result<Vec<String>, Problem> {
        let admin = self.admin()?;
        let wanted: Vec<NewTopic<'_>> = topics.iter().map(New::native).collect();
        let answers = admin.create_topics(&wanted, options).await;
        let mut created = Vec::new();
        for answer in answers.map_err(|error| Problem::of("create topics", &error))? {
            match answer {
                Ok(topic) => created.push(topic),
                Err((_, Code::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(refused_topic(&topic, code)),
            }
        }
        Ok(created)
    }

    fn admin(&self) -> Result<AdminClient<Listener>, Problem> {
        let mut settings = self.config.client();
        settings.set("bootstrap.servers", &self.brokers);
        settings.create_with_context(Listener::default()).map_err(|error| Problem::of("use [kafka.properties]", &error))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

/// What a broker's refusal to make a topic asks of a person.
fn refused_topic(topic: &str, code: Code) -> Problem {
    match Class::of(code) {
        Class::Denied => Problem::new(
            Class::Denied,
            format!(
                "cannot create topic {topic}: {code}; let the user Create it (kafka-acls.sh --add --allow-principal … \
                 --operation Create --operation Describe --operation Write --topic {topic}), or create it yourself"
            ),
        ),
        _ => Problem::of_code(&format!("create topic {topic}"), code),
    }
}

/// The most telling of what connections said: a refusal before a broker that is away.
fn worst(doing: &str, said: &[(Code, String)]) -> Option<Problem> {
    let rank = |code: Code| match Class::of(code) {
        _ if code == Code::AllBrokersDown => 3,
        Class::Authentication | Class::Tls | Class::Denied => 0,
        Class::Away => 2,
        _ => 1,
    };
    let (code, says) = said.iter().min_by_key(|(code, _)| rank(*code))?;
    Some(Problem::said(doing, *code, says))
}
