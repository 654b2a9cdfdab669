//! One producer of librdkafka: how it is set up, and what it tells us.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;

use super::acks::Acks;
use super::failure::{Code, Failure};
use super::metrics::Metrics;
use super::record::Record;
use crate::kafka::ask::Ask;
use crate::kafka::errors::{Class, Problem};
use crate::kafka::topics::MESSAGE_BYTES;
use crate::kafka::{Config, log};

/// How long to wait for an answer to what is asked before anything is sent.
const LOOK: Duration = Duration::from_secs(1);

/// What the client does when it says that something is wrong.
const REACH: &str = "reach the brokers";

/// What goes to a broker at once, uncompressed, where the topic's limit does not ask for less.
pub(super) const BATCH_BYTES_MAX: usize = 1_000_000;

/// The most that the client holds, of events and in number; beyond that events wait in the spool.
const QUEUE_KIB_MAX: &str = "32768";
const QUEUE_EVENTS_MAX: &str = "50000";

/// What may be set otherwise in `[kafka.properties]`.
const DEFAULTS: [(&str, &str); 4] = [
    ("compression.type", "zstd"),
    ("linger.ms", "5"),
    ("queue.buffering.max.kbytes", QUEUE_KIB_MAX),
    ("queue.buffering.max.messages", QUEUE_EVENTS_MAX),
];

/// What the promises stand on.
const FIXED: [(&str, &str); 6] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("enable.gapless.guarantee", "true"),
    // For ever: a message that is given up leaves a gap.
    ("message.timeout.ms", "0"),
    ("statistics.interval.ms", "5000"),
    ("delivery.report.only.error", "false"),
];

/// The settings of a producer that sends `batch_bytes` at once.
pub(super) fn settings(config: &Config, batch_bytes: usize) -> ClientConfig {
    // The topics' own limit decides how large a message may be.
    let message_bytes = (MESSAGE_BYTES + (1 << 20)).to_string();
    let mut client = config.client_with(&DEFAULTS);
    client.set("message.max.bytes", message_bytes);
    for (name, value) in FIXED {
        client.set(name, value);
    }
    let wanted = client.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(BATCH_BYTES_MAX);
    client.set("batch.size", wanted.min(batch_bytes).max(1).to_string());
    client
}

/// A running producer.
pub(super) struct Client {
    producer: ThreadedProducer<Context>,
}

/// How a message was taken.
pub(super) enum Sent {
    Queued,
    Full,
}

impl Client {
    pub(super) fn start(settings: &ClientConfig, acks: Arc<Acks>, metrics: Metrics) -> Result<Client, Failure> {
        let context = Context { acks, metrics, last_word: Mutex::default() };
        let producer = settings.create_with_context(context);
        Ok(Client { producer: producer.map_err(|error| Failure::of("use [kafka]", &error))? })
    }

    /// How many partitions a topic has.
    pub(super) fn partitions(&self, topic: &str) -> Result<i32, Failure> {
        let doing = format!("find topic {topic}");
        let metadata = self.producer.client().fetch_metadata(Some(topic), LOOK);
        let metadata = metadata.map_err(|error| self.explained(Failure::of(&doing, &error)))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.map(|found| (found.error(), found.partitions().len())) {
            Some((None, partitions)) if partitions > 0 => Ok(partitions as i32),
            Some((Some(error), _)) => Err(Failure::of(&doing, &KafkaError::MetadataFetch(error.into()))),
            _ => Err(Failure::of(&doing, &KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))),
        }
    }

    /// Hands a message over, if there is room.
    pub(super) fn send(
        &self,
        topic: &str,
        partition: i32,
        key: &str,
        record: &Record<'_>,
        tag: usize,
    ) -> Result<Sent, Failure> {
        let message = BaseRecord::with_opaque_to(topic, tag)
            .partition(partition)
            .key(key)
            .payload(record.value)
            .timestamp(record.timestamp_ms)
            .headers(record.headers());
        match self.producer.send(message) {
            Ok(()) => Ok(Sent::Queued),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => Ok(Sent::Full),
            Err((error, _)) => Err(self.explained(Failure::of(&format!("produce to {topic}"), &error))),
        }
    }

    /// What stands behind an error that only says that the producer has failed.
    fn explained(&self, failure: Failure) -> Failure {
        match (failure.code, self.producer.context().acks.trouble()) {
            (Code::Brokers(Class::Away) | Code::Purged, Some(trouble)) => trouble,
            _ => failure,
        }
    }
}

/// What the brokers say of a topic's `max.message.bytes`, some time.
pub(super) type Limit = Arc<OnceLock<usize>>;

/// Asks for the largest message that a topic takes, on a thread of its own: nothing waits for the answer. Where none
/// comes, the brokers refuse what is too large.
pub(super) fn ask_limit(config: &Config, topic: &str) -> Limit {
    let limit = Limit::default();
    let (config, topic, answer) = (config.clone(), topic.to_owned(), limit.clone());
    let thread = std::thread::Builder::new().name("kafka-ask".into());
    let asked = thread.spawn(move || match max_message_bytes(&config, &topic) {
        Ok(Some(bytes)) => drop(answer.set(bytes)),
        Ok(None) => tracing::debug!(topic, "kafka: the brokers do not tell max.message.bytes"),
        Err(problem) => tracing::debug!(topic, reason = problem.line, "kafka: the topic's settings cannot be read"),
    });
    if let Err(error) = asked {
        tracing::debug!(%error, "kafka: no thread to ask for the topic's settings");
    }
    limit
}

fn max_message_bytes(config: &Config, topic: &str) -> Result<Option<usize>, Problem> {
    let no_runtime = |error: std::io::Error| Problem::new(Class::Other, format!("cannot ask: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(no_runtime)?;
    let mut told = runtime.block_on(Ask::connect(config)?.settings(&[topic.to_owned()]))?;
    let settings = told.remove(topic).transpose()?.unwrap_or_default();
    Ok(settings.get("max.message.bytes").and_then(|bytes| bytes.parse().ok()))
}

/// Where librdkafka reports to.
struct Context {
    acks: Arc<Acks>,
    metrics: Metrics,
    /// The last that was said of a connection, which says more than "all brokers are down".
    last_word: Mutex<String>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log::line(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        let up = statistics.brokers.values().filter(|broker| broker.state == "UP" && broker.nodeid >= 0).count();
        let throttle = |window: &rdkafka::statistics::Window| window.max.max(0) as f64 / 1000.0;
        let throttles = statistics.brokers.values().filter_map(|broker| broker.throttle.as_ref()).map(throttle);
        self.metrics.brokers_up.set(up as i64);
        self.metrics.throttle_seconds.set(throttles.fold(0.0, f64::max));
        if up > 0 {
            self.acks.set_trouble(None);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut last_word = self.last_word.lock().unwrap_or_else(PoisonError::into_inner);
        match code {
            RDKafkaErrorCode::BrokerTransportFailure => *last_word = reason.to_owned(),
            RDKafkaErrorCode::AllBrokersDown => {
                let what = if last_word.is_empty() { reason } else { last_word.as_str() };
                self.acks.set_trouble(Some(Failure::said(REACH, code, what)));
            }
            RDKafkaErrorCode::Fatal => self.acks.fail(Failure::new(Code::Purged, reason)),
            _ if matches!(Class::of(code), Class::Authentication | Class::Tls | Class::Denied | Class::Away) => {
                *last_word = reason.to_owned();
                self.acks.set_trouble(Some(Failure::said(REACH, code, reason)));
            }
            _ => tracing::debug!(%error, reason, "kafka: the client reports"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: usize) {
        match result {
            Ok(_) => self.acks.delivered(tag),
            Err((error, message)) => {
                self.acks.refused(tag, Failure::of(&format!("produce to {}", message.topic()), error))
            }
        }
    }
}
