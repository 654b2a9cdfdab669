//! A client of one small compacted topic, in which nodes tell each other what they know: each key's last value counts.
//!
//! Best effort, and never in anybody's way. [`Compacted::publish`] only puts a record into a queue of
//! [`QUEUE_RECORDS`]; one that is not delivered within [`DELIVERY`] is given up, and the [`Listener`] told so. The
//! leader's word that it has a record is enough (`acks=1`): the next value of its key makes up for one that is lost.
//! Records of this client are appended in the order in which they were published.
//!
//! A thread reads every partition, without a group: from the records on that are younger than `reach`, then what comes,
//! its own records as well. It looks for the brokers and for the topic until they are there, for ever. What is wrong
//! meanwhile is a [`Problem`]; nothing here is an error once it has started.
//!
//! The topic is one of those that a start [prepares](super::topics::prepare); [`wanted`] says how it is made. Needs the
//! rights to read, write and describe it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::Config;
use super::errors::{Class, Problem};
use super::topics::Wanted;
use crate::{Error, Result};

/// Records that wait to be delivered, at most.
pub const QUEUE_RECORDS: usize = 10_000;

/// A record that takes longer is given up.
pub const DELIVERY: Duration = Duration::from_secs(5);

/// One question to the brokers, at most.
const QUESTION: Duration = Duration::from_secs(5);

/// Between two attempts to find the topic.
const AGAIN: Duration = Duration::from_millis(500);

/// What fails, for a person.
const READ: &str = "read the compacted topic";
const PUBLISH: &str = "write to the compacted topic";

/// How soon the reading thread sees that it is to end.
const POLL: Duration = Duration::from_millis(50);

/// How such a topic is made: one partition, small segments, so that little more than the last values is read at a start.
#[must_use]
pub fn wanted(name: String, retention: Duration) -> Wanted {
    let properties = vec![
        ("cleanup.policy", "compact,delete".to_owned()),
        ("retention.ms", millis(retention).to_string()),
        ("segment.ms", "600000".to_owned()),
        ("segment.bytes", (16 << 20).to_string()),
        ("min.cleanable.dirty.ratio", "0.1".to_owned()),
    ];
    Wanted { name, partitions: 1, properties }
}

/// Every word that [`Listener::problem`] is told.
pub fn codes() -> impl Iterator<Item = &'static str> {
    Class::ALL.into_iter().map(Class::name)
}

/// Who is told what happens. Called by threads of this client, which wait meanwhile.
pub trait Listener: Send + Sync + 'static {
    /// A record was read; without a value its key has been deleted.
    fn record(&self, key: &[u8], value: Option<&[u8]>);
    /// A record that was published is in the topic, or never will be.
    fn delivered(&self, key: &[u8], is_there: bool);
    /// Something does not work and is tried again: one of [`codes`], and a line for a person.
    fn problem(&self, code: &'static str, line: String);
}

/// A running client.
#[derive(Debug)]
pub struct Compacted<L: Listener> {
    shared: Arc<Shared<L>>,
    reader: Option<JoinHandle<()>>,
}

struct Shared<L: Listener> {
    topic: String,
    listener: Arc<L>,
    producer: ThreadedProducer<Context<L>>,
    reach_ms: AtomicU64,
    /// The topic has been found.
    is_open: AtomicBool,
    /// Every partition has been read to its end once.
    is_read: AtomicBool,
    rewinds: AtomicBool,
    stops: AtomicBool,
}

impl<L: Listener> std::fmt::Debug for Shared<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl<L: Listener> Compacted<L> {
    /// Starts to read records that are no older than `reach`.
    ///
    /// # Errors
    /// [`Error::Config`] for a property that librdkafka refuses.
    pub fn start(kafka: &Config, topic: String, reach: Duration, listener: Arc<L>) -> Result<Compacted<L>> {
        let refused =
            |error| Error::Config { key: "kafka.properties".into(), problem: Problem::of("use them", &error).line };
        let producer = producer_config(kafka).create_with_context(Context(listener.clone())).map_err(refused)?;
        let consumer = consumer_config(kafka).create_with_context(Quiet).map_err(refused)?;
        let shared = Arc::new(Shared {
            reach_ms: AtomicU64::new(millis(reach)),
            topic,
            listener,
            producer,
            is_open: AtomicBool::new(false),
            is_read: AtomicBool::new(false),
            rewinds: AtomicBool::new(false),
            stops: AtomicBool::new(false),
        });
        let reading = shared.clone();
        let reader = std::thread::Builder::new().name("kafka-compacted".into()).spawn(move || reading.run(&consumer));
        let reader = reader.map_err(|source| Error::Config {
            key: "kafka".into(),
            problem: format!("no thread can be started: {source}"),
        })?;
        Ok(Compacted { shared, reader: Some(reader) })
    }

    /// How many records can be published now.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.shared.is_open.load(Ordering::Relaxed) {
            true => QUEUE_RECORDS.saturating_sub(self.shared.producer.in_flight_count().unsigned_abs() as usize),
            // It could be created by the producer's asking for it, with settings that nobody has chosen.
            false => 0,
        }
    }

    /// Publishes a value for a key, or that the key has none any more. False: it could not be put into the queue, and
    /// the listener is not told.
    pub fn publish(&self, key: &str, value: Option<&str>) -> bool {
        if self.room() == 0 {
            return false;
        }
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(&self.shared.topic).key(key);
        record.payload = value;
        match self.shared.producer.send(record) {
            Ok(()) => true,
            Err((error, _)) => {
                self.shared.tell(Problem::of(PUBLISH, &error));
                false
            }
        }
    }

    /// Whether everything that was there has been read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.shared.is_read.load(Ordering::Relaxed)
    }

    /// Reads again what is younger than `reach`.
    pub fn rewind(&self, reach: Duration) {
        self.shared.reach_ms.store(millis(reach), Ordering::Relaxed);
        self.shared.is_read.store(false, Ordering::Relaxed);
        self.shared.rewinds.store(true, Ordering::Relaxed);
    }

    /// Waits for what was published to be delivered, at most this long, and ends. Blocks.
    pub fn stop(mut self, within: Duration) {
        let since = Instant::now();
        // What is not delivered by then is not missed.
        let _ = self.shared.producer.flush(within);
        self.shared.stops.store(true, Ordering::Relaxed);
        let Some(reader) = self.reader.take() else { return };
        // It may wait for the answer of a broker; then it ends on its own.
        while !reader.is_finished() && since.elapsed() < within + 2 * POLL {
            std::thread::sleep(Duration::from_millis(5));
        }
        if reader.is_finished() && reader.join().is_err() {
            tracing::error!("the reader of a compacted topic ended badly");
        }
    }
}

impl<L: Listener> Drop for Compacted<L> {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
    }
}

impl<L: Listener> Shared<L> {
    fn run(&self, consumer: &BaseConsumer<Quiet>) {
        while !self.stops() {
            self.rewinds.store(false, Ordering::Relaxed);
            match self.open(consumer) {
                Ok(partitions) => {
                    self.is_open.store(true, Ordering::Relaxed);
                    self.read(consumer, partitions);
                    self.is_read.store(false, Ordering::Relaxed);
                    // Its end, or that of the process, unassigns as well.
                    let _ = consumer.unassign();
                }
                Err(problem) => {
                    self.tell(problem);
                    self.pause(consumer);
                }
            }
        }
    }

    fn stops(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }

    /// Waits, and takes what the client has to say meanwhile.
    fn pause(&self, consumer: &BaseConsumer<Quiet>) {
        let since = Instant::now();
        while !self.stops() && since.elapsed() < AGAIN {
            if let Some(Err(error)) = consumer.poll(POLL) {
                self.complain(&error);
            }
        }
    }

    fn tell(&self, problem: Problem) {
        self.listener.problem(problem.class.name(), problem.line);
    }

    fn complain(&self, error: &KafkaError) {
        // Partitions are assigned by hand: it makes no difference who coordinates the group, or who may.
        let of_group = [RDKafkaErrorCode::GroupAuthorizationFailed, RDKafkaErrorCode::CoordinatorNotAvailable];
        if !error.rdkafka_error_code().is_some_and(|code| of_group.contains(&code)) {
            self.tell(Problem::of(READ, error));
        }
    }

    /// Finds the partitions, and begins to read each where records are young enough.
    fn open(&self, consumer: &BaseConsumer<Quiet>) -> std::result::Result<HashSet<i32>, Problem> {
        let failed = |error: KafkaError| Problem::of(READ, &error);
        let name = self.topic.as_str();
        let partitions = self.partitions(consumer)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        let from = now.saturating_sub(self.reach_ms.load(Ordering::Relaxed)) as i64;
        let mut times = TopicPartitionList::new();
        for partition in &partitions {
            times.add_partition_offset(name, *partition, Offset::Offset(from)).map_err(failed)?;
        }
        let found = consumer.offsets_for_times(times, QUESTION).map_err(failed)?;
        let mut start = TopicPartitionList::new();
        for element in found.elements() {
            element.error().map_err(failed)?;
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                // No record is that young: what comes from now on.
                _ => consumer.fetch_watermarks(name, element.partition(), QUESTION).map_err(failed)?.1,
            };
            start.add_partition_offset(name, element.partition(), Offset::Offset(offset)).map_err(failed)?;
        }
        consumer.assign(&start).map_err(failed)?;
        Ok(partitions)
    }

    fn partitions(&self, consumer: &BaseConsumer<Quiet>) -> std::result::Result<HashSet<i32>, Problem> {
        let name = self.topic.as_str();
        let metadata = consumer.fetch_metadata(Some(name), QUESTION).map_err(|error| Problem::of(READ, &error))?;
        let found = metadata.topics().iter().find(|topic| topic.name() == name);
        let error = found.and_then(|topic| topic.error()).map(RDKafkaErrorCode::from);
        match (found, error) {
            (Some(topic), None) if !topic.partitions().is_empty() => {
                Ok(topic.partitions().iter().map(|partition| partition.id()).collect())
            }
            (_, error) => {
                let code = error.unwrap_or(RDKafkaErrorCode::UnknownTopicOrPartition);
                Err(Problem::of_code(&format!("read {name}"), code))
            }
        }
    }

    fn read(&self, consumer: &BaseConsumer<Quiet>, mut unread: HashSet<i32>) {
        while !self.stops() && !self.rewinds.load(Ordering::Relaxed) {
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    // A record without a key says nothing here.
                    self.listener.record(message.key().unwrap_or_default(), message.payload());
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unread.remove(&partition);
                    self.is_read.store(unread.is_empty(), Ordering::Relaxed);
                }
                Some(Err(error)) => {
                    self.complain(&error);
                    if error.rdkafka_error_code().is_some_and(|code| Class::of(code) == Class::TopicMissing) {
                        self.is_open.store(false, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
    }
}

fn producer_config(kafka: &Config) -> ClientConfig {
    let mut config = kafka.client();
    config
        .set("acks", "1")
        .set("enable.idempotence", "false")
        // So that an earlier value never comes after a later one.
        .set("max.in.flight.requests.per.connection", "1")
        .set("message.timeout.ms", millis(DELIVERY).to_string())
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", (2 * QUEUE_RECORDS).to_string())
        .set("reconnect.backoff.max.ms", "1000");
    config
}

fn consumer_config(kafka: &Config) -> ClientConfig {
    let mut config = kafka.client();
    config
        // librdkafka wants a name to assign partitions, also where no group is joined.
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.error.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000");
    config
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The producer's.
struct Context<L: Listener>(Arc<L>);

impl<L: Listener> ClientContext for Context<L> {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, text, "librdkafka");
    }

    fn error(&self, error: KafkaError, _: &str) {
        self.tell(&error);
    }
}

impl<L: Listener> Context<L> {
    fn tell(&self, error: &KafkaError) {
        let problem = Problem::of(PUBLISH, error);
        self.0.problem(problem.class.name(), problem.line);
    }
}

impl<L: Listener> ProducerContext<NoCustomPartitioner> for Context<L> {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let (message, is_there) = match result {
            Ok(message) => (message, true),
            Err((error, message)) => {
                self.tell(error);
                (message, false)
            }
        };
        self.0.delivered(message.key().unwrap_or_default(), is_there);
    }
}

/// The consumer's: its errors are found where it is polled.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, text, "librdkafka");
    }

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Quiet {}

#[cfg(test)]
mod tests;
