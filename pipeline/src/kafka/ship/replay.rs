//! A past range of the topics once more, for `crate::replay`.
//!
//! It joins no group, commits nothing, and neither reads nor writes cuts. All partitions of the topics are read, one after
//! the other, from the first message received in the range to the end that the log had when it began: a node that was
//! cut off sends late. Repeats are dropped and objects made as the shipper does, so `{part}` is `p<partition>-<offset>`; a
//! batch is what follows in the range, not what the shipper once cut.
//!
//! Limits: one batch in memory, compressed, and the objects being written; [`ANSWER`] without a word from the brokers is
//! the end.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::batch::{Base, Batch, Ended, Message, Now, Taken};
use super::cut::{Form, Name, Place};
use super::objects::{Growing, same_records};
use super::seen::Seen;
use crate::codec::Codec;
use crate::kafka::{Config, log};
use crate::replay::{Range, Written, check_prefix, put};
use crate::store::Store;
use crate::workers::Workers;
use crate::{Error, Kind, Result, batch};

/// How long the brokers may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How long one call waits for a message.
const POLL: Duration = Duration::from_millis(200);

/// How many bytes may wait for a compressing thread before reading goes on.
const UNCOMPRESSED_MAX: usize = 16 << 20;

/// Objects that wait to be written.
const ENDED_MAX: usize = 2;

/// The partitions of a range.
pub struct Topics {
    consumer: BaseConsumer<Quiet>,
    parts: Vec<Part>,
    config: batch::Config,
    prefix: Option<String>,
    range: Range,
}

#[derive(Clone, Debug)]
struct Part {
    place: Place,
    /// The first offset to read, and the one behind the last.
    from: i64,
    end: i64,
    /// Whether something before `from` has been deleted.
    cut_off: bool,
}

/// What is met while a range is read.
#[derive(Debug)]
pub enum Met {
    /// An object that can be written.
    Object(Box<Object>),
    /// The log of a partition begins only here: what was received before may have been deleted.
    Begins(Timestamp),
    /// What was read since this was told last.
    Read(Counts),
}

/// Messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All, of about [`Topics::messages`].
    pub read: u64,
    /// Events met before.
    pub repeated: u64,
    /// Those that no greypit wrote.
    pub foreign: u64,
}

/// An object that has been read and is being compressed.
#[derive(Debug)]
pub struct Object {
    kind: Kind,
    key: String,
    codec: Codec,
    growing: Growing,
    workers: Workers,
}

impl Object {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many records it will have.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.growing.records()
    }

    /// Compresses what is left of it and writes it, if it is new.
    ///
    /// # Errors
    /// The store, which has then been asked often enough.
    pub async fn write(self, store: &Store) -> Result<Written> {
        let Object { key, codec, growing, workers, .. } = self;
        let encoded = growing.finish(&workers).await?;
        let is_same = |there: &[u8]| same_records(codec, there, &encoded.bytes);
        let outcome = put(store, &key, &encoded.object(codec), is_same).await?;
        Ok(Written { key, records: encoded.records, outcome: Some(outcome) })
    }
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// What goes wrong comes back from the calls.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log::line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka: consumer");
    }
}

impl ConsumerContext for Quiet {}

impl Topics {
    /// Asks the brokers for the topics of the range's kinds and where in them the range begins. Blocks.
    ///
    /// # Errors
    /// A config that cannot be right; the brokers do not answer; none of the topics exists.
    pub fn open(kafka: &Config, config: &batch::Config, prefix: Option<&str>, range: &Range) -> Result<Topics> {
        config.validate()?;
        prefix.map_or(Ok(()), check_prefix)?;
        let mut client = kafka.client();
        client
            .set("group.id", &kafka.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(failed)?;
        let mut parts = Vec::new();
        let metadata = consumer.fetch_metadata(None, ANSWER).map_err(failed)?;
        for topic in metadata.topics() {
            let kind = topic.name().strip_prefix(kafka.topic_prefix.as_str()).and_then(Kind::parse);
            let Some(kind) = kind.filter(|kind| range.kinds.is_empty() || range.kinds.contains(kind)) else { continue };
            for partition in topic.partitions() {
                let place = Place { topic: topic.name().to_owned(), partition: partition.id(), kind };
                parts.push(part(&consumer, place, range.since)?);
            }
        }
        if parts.is_empty() {
            let problem =
                format!("there is no topic that begins with '{}' and is of a kind asked for", kafka.topic_prefix);
            return Err(Error::Config { key: "kafka.topic_prefix".into(), problem });
        }
        let (prefix, range) = (prefix.map(str::to_owned), range.clone());
        Ok(Topics { consumer, parts, config: config.clone(), prefix, range })
    }

    /// How many messages will be read, roughly.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.parts.iter().map(|part| part.end.saturating_sub(part.from).unsigned_abs()).sum()
    }

    /// Reads everything and tells what it meets, on a thread of its own. It waits where `met` is not read.
    ///
    /// # Errors
    /// In the channel: the brokers do not answer any more, or a config that cannot be right.
    pub fn read(self) -> mpsc::Receiver<Result<Met>> {
        let (met, receiver) = mpsc::channel(ENDED_MAX);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = self.read_all(&met) {
                let _ended_already = met.blocking_send(Err(error));
            }
        });
        receiver
    }

    fn read_all(&self, met: &mpsc::Sender<Result<Met>>) -> Result<()> {
        let workers = Workers::start(self.config.workers)?;
        for part in self.parts.iter().filter(|part| part.from < part.end) {
            let mut reader = Reader { topics: self, part, workers: &workers, met, counts: Counts::default() };
            reader.read()?;
        }
        Ok(())
    }
}

/// Where in a partition the range begins and ends.
fn part(consumer: &BaseConsumer<Quiet>, place: Place, since: Option<Timestamp>) -> Result<Part> {
    let (topic, partition) = (place.topic.as_str(), place.partition);
    let (low, end) = consumer.fetch_watermarks(topic, partition, ANSWER).map_err(failed)?;
    let from = match since {
        None => low,
        Some(since) => {
            let mut asked = TopicPartitionList::new();
            let at = asked.add_partition_offset(topic, partition, Offset::Offset(since.as_millisecond()));
            at.map_err(failed)?;
            let answer = consumer.offsets_for_times(asked, ANSWER).map_err(failed)?;
            // Without an offset nothing has been received since.
            let offset = answer.elements().first().and_then(|element| element.offset().to_raw());
            offset.filter(|offset| *offset >= 0).unwrap_or(end)
        }
    };
    Ok(Part { place, from, end, cut_off: low > 0 && from == low })
}

fn failed(error: KafkaError) -> Error {
    Error::Config { key: "kafka".into(), problem: error.to_string() }
}

/// Reads one partition.
struct Reader<'a> {
    topics: &'a Topics,
    part: &'a Part,
    workers: &'a Workers,
    met: &'a mpsc::Sender<Result<Met>>,
    counts: Counts,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<()> {
        let Part { place, from, end, cut_off } = self.part;
        let mut assigned = TopicPartitionList::new();
        let at = assigned.add_partition_offset(&place.topic, place.partition, Offset::Offset(*from));
        at.and_then(|()| self.topics.consumer.assign(&assigned)).map_err(failed)?;
        let form = Form::of(&self.topics.config, place.kind);
        let base = Base { name: Name { life: 0, start: *from }, before: None, seen: Seen::default() };
        let mut batch = Batch::open(base, form.clone());
        let (mut heard, mut first) = (Instant::now(), *cut_off);
        loop {
            let message = match self.topics.consumer.poll(POLL) {
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) if is_final(&error) => return Err(failed(error)),
                Some(Err(error)) if heard.elapsed() > ANSWER => return Err(failed(error)),
                None if heard.elapsed() > ANSWER => {
                    return Err(failed(KafkaError::MessageConsumption(RDKafkaErrorCode::RequestTimedOut)));
                }
                _ => continue,
            };
            heard = Instant::now();
            if message.offset() >= *end {
                break;
            }
            let timestamp_ms = message.timestamp().to_millis().unwrap_or_default();
            if std::mem::take(&mut first)
                && let Ok(begins) = Timestamp::from_millisecond(timestamp_ms)
            {
                self.tell(Met::Begins(begins))?;
            }
            self.take(&mut batch, &message, timestamp_ms, &form);
            if batch.is_full(self.topics.config.max_bytes.0) {
                batch = self.end(batch)?;
            }
            while batch.uncompressed() > UNCOMPRESSED_MAX {
                std::thread::sleep(Duration::from_millis(5));
            }
            if message.offset() + 1 == *end {
                break;
            }
        }
        self.end(batch)?;
        self.topics.consumer.unassign().map_err(failed)
    }

    fn take(&mut self, batch: &mut Batch, message: &BorrowedMessage<'_>, timestamp_ms: i64, form: &Form) {
        self.counts.read += 1;
        let (kind, range) = (self.part.place.kind, &self.topics.range);
        if !range.has(kind, form.window(timestamp_ms)) {
            return;
        }
        let value = message.payload().unwrap_or_default();
        let message = Message { offset: message.offset(), timestamp_ms, value };
        match batch.take(&message, kind, &now(), self.workers) {
            Taken::Record => {}
            Taken::Repeated => self.counts.repeated += 1,
            Taken::Foreign(_) => self.counts.foreign += 1,
        }
    }

    /// Hands the batch's objects on; the next knows what this one has seen.
    fn end(&mut self, batch: Batch) -> Result<Batch> {
        let form = Form::of(&self.topics.config, self.part.place.kind);
        let (Ended { objects, .. }, next) = batch.end(&now());
        for (part, growing) in objects {
            let key = form.key(&self.part.place, 0, part.window, part.first)?;
            let key = self.topics.prefix.as_ref().map(|prefix| format!("{prefix}/{key}")).unwrap_or(key);
            let (kind, codec, workers) = (self.part.place.kind, form.codec, self.workers.clone());
            self.tell(Met::Object(Box::new(Object { kind, key, codec, growing, workers })))?;
        }
        let counts = std::mem::take(&mut self.counts);
        self.tell(Met::Read(counts))?;
        Ok(Batch::open(next, form))
    }

    fn tell(&self, met: Met) -> Result<()> {
        // Whoever asked has gone.
        self.met.blocking_send(Ok(met)).map_err(|_| Error::Closed)
    }
}

fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::Fatal)
    )
}

fn now() -> Now {
    Now { wall_ms: Timestamp::now().as_millisecond(), instant: Instant::now() }
}
