//! The member of the consumer group: one thread that polls, feeds the lanes and does what they want.
//!
//! Everything that decides runs on this thread: messages, rebalances, commits. So a commit never follows the loss of its
//! partition. What takes long (reading the group's offsets, the store) runs elsewhere and comes back as an answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::Stop;
use super::batch::{Message, Now};
use super::cut::{self, Cut, Form, Name, Part, Place};
use super::lane::{Answer, Effect, Lane, Whose};
use super::metrics::Metrics;
use super::objects::{Growing, Ready};
use super::record::Foreign;
use super::start::{self, Log, Start};
use crate::upload::{Uploader, jittered, until_done};
use crate::workers::Workers;
use crate::{Error, Kind, Result, batch};

/// How long a poll waits for a message.
const POLL: Duration = Duration::from_millis(50);

/// How often lanes look whether something is due.
const TICK: Duration = Duration::from_millis(100);

/// The most messages between two looks at everything else.
const MESSAGES_MAX: usize = 2_000;

/// How long the group's offsets and the log's ends are waited for.
const ASK: Duration = Duration::from_secs(10);

/// How long moving to an offset may take.
const SEEK: Duration = Duration::from_secs(5);

/// Bytes of a partition that wait for a worker before it is paused.
const UNCOMPRESSED_MAX: usize = 8 << 20;

/// The name under which it says how it is.
const HEALTH: &str = "kafka_ship";

/// How long after a failed commit the next is tried.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);

/// Pauses between attempts to find out where a lane begins.
const AGAIN: Duration = Duration::from_secs(2);

/// Partitions by topic and number.
type Partitions = Vec<(String, i32)>;

/// What happened to this member.
#[derive(Debug)]
enum Change {
    Assigned(Partitions),
    Revoked(Partitions),
}

/// The ends of a partition's log.
#[derive(Clone, Copy, Debug)]
struct Ends {
    low: i64,
    high: i64,
}

/// What librdkafka tells outside of messages.
#[derive(Debug)]
pub(super) struct Context {
    changes: Mutex<Vec<Change>>,
    statistics: Mutex<Option<Vec<u8>>>,
    metrics: Metrics,
    problem: Mutex<Option<String>>,
    /// Partitions whose commit has come to an end: the offset, or none where it failed.
    commits: Mutex<Vec<(String, i32, Option<i64>)>>,
}

impl ClientContext for Context {
    fn stats_raw(&self, statistics: &[u8]) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics.to_vec());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka: consumer");
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error}: {reason}"));
    }
}

impl ConsumerContext for Context {
    /// Partitions begin paused: where they go on is not for the group's offset to say.
    fn rebalance(&self, consumer: &BaseConsumer<Context>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let listed = partitions.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect();
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let (change, done) = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                // A plain offset spares librdkafka asking for the group's.
                let _ = partitions.set_all_offsets(Offset::Offset(0));
                let assigned = match cooperative {
                    true => consumer.incremental_assign(partitions),
                    false => consumer.assign(partitions),
                };
                (Change::Assigned(listed), assigned.and_then(|()| consumer.pause(partitions)))
            }
            _ => {
                let revoked = match cooperative {
                    true => consumer.incremental_unassign(partitions),
                    false => consumer.unassign(),
                };
                (Change::Revoked(listed), revoked)
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "kafka: rebalance");
        }
        self.metrics.rebalances.inc();
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let is_done = result.is_ok();
        if let Err(error) = result {
            self.commit_failed(&error);
        }
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.extend(offsets.elements().iter().map(|one| {
            let offset = one.offset().to_raw().filter(|_| is_done && one.error().is_ok());
            (one.topic().to_owned(), one.partition(), offset)
        }));
    }
}

impl Context {
    fn commit_failed(&self, error: &KafkaError) {
        self.metrics.commit_errors.inc();
        tracing::warn!(%error, "kafka: an offset could not be committed; the cuts in the store say it too");
    }
}

/// An offset on its way to the group.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    offset: i64,
    cut: Name,
    /// It failed, and is tried again then.
    again: Option<Instant>,
}

/// A lane and what is outside of it.
struct Slot {
    lane: Lane,
    /// Tells the answers of this lane from those of one before it.
    number: u64,
    paused: bool,
    committed: Option<i64>,
    /// A member that keeps its partition in a rebalance may have its commit refused.
    wanted: Option<Wanted>,
    /// What is being done for it: at most one thing.
    task: Option<Task>,
}

impl Slot {
    /// Has the group note the wanted offset; the answer comes later.
    fn commit(&mut self, consumer: &BaseConsumer<Context>) {
        let Some(wanted) = &mut self.wanted else { return };
        wanted.again = None;
        if let Err(error) = commit(consumer, &self.lane.place, wanted.offset, wanted.cut) {
            consumer.context().commit_failed(&error);
            wanted.again = Some(Instant::now() + COMMIT_AGAIN);
        }
    }

    fn committed_or_not(&mut self, offset: Option<i64>, now: Instant) {
        match offset {
            Some(offset) => {
                self.committed = Some(offset);
                self.wanted = self.wanted.filter(|wanted| wanted.offset != offset);
            }
            None => {
                if let Some(wanted) = &mut self.wanted {
                    wanted.again = Some(now + COMMIT_AGAIN);
                }
            }
        }
    }
}

/// Ends with the lane that it works for.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Member {
    consumer: Arc<BaseConsumer<Context>>,
    topic_prefix: String,
    batch: batch::Config,
    memory_max: usize,
    /// By partition; few topics share a number.
    slots: HashMap<i32, Vec<Slot>>,
    numbers: u64,
    uploader: Uploader,
    workers: Workers,
    metrics: Metrics,
    runtime: Handle,
    answer: mpsc::Sender<(u64, Answer)>,
    answers: mpsc::Receiver<(u64, Answer)>,
    ends: HashMap<(String, i32), Ends>,
    ticked: Instant,
}

/// What a member is made of.
pub(super) struct MemberParts {
    pub(super) config: super::Config,
    pub(super) batch: batch::Config,
    pub(super) uploader: Uploader,
    pub(super) workers: Workers,
    pub(super) metrics: Metrics,
    pub(super) runtime: Handle,
}

impl Member {
    /// Joins the group.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub(super) fn join(parts: MemberParts) -> Result<Member> {
        let MemberParts { config, batch, uploader, workers, metrics, runtime } = parts;
        let refused = |error: KafkaError| Error::Config { key: "kafka.properties".into(), problem: error.to_string() };
        let fetched_kib = (config.max_memory.0 / 4 / 1024).clamp(1_024, 65_536).to_string();
        let mut client = config.client_with(&[
            ("statistics.interval.ms", "1000"),
            ("fetch.queue.backoff.ms", "50"),
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("queued.max.messages.kbytes", &fetched_kib),
        ]);
        client
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky");
        let context = Context {
            changes: Mutex::default(),
            statistics: Mutex::default(),
            metrics: metrics.clone(),
            problem: Mutex::default(),
            commits: Mutex::default(),
        };
        let consumer: BaseConsumer<Context> = client.create_with_context(context).map_err(refused)?;
        let topics = format!("^{}[a-z0-9_]+$", escape(&config.topic_prefix));
        consumer.subscribe(&[&topics]).map_err(refused)?;
        metrics.memory_max.set(config.max_memory.0 as i64);
        let (answer, answers) = mpsc::channel();
        Ok(Member {
            consumer: Arc::new(consumer),
            topic_prefix: config.topic_prefix,
            memory_max: usize::try_from(config.max_memory.0).unwrap_or(usize::MAX),
            batch,
            slots: HashMap::new(),
            numbers: 0,
            uploader,
            workers,
            metrics,
            runtime,
            answer,
            answers,
            ends: HashMap::new(),
            ticked: Instant::now(),
        })
    }

    /// Ships until it is told to stop; gives how many events were on their way then.
    pub(super) fn run(mut self, stop: &Stop) {
        while !stop.is_asked() {
            self.round();
        }
        self.stop(stop);
    }

    /// Ends what is open where it is to be shipped, and waits for what is on its way.
    fn stop(mut self, stop: &Stop) {
        let until = Instant::now() + self.batch.drain_timeout.0;
        loop {
            if self.batch.flush_on_exit {
                let now = now();
                self.each(|slot| slot.lane.end_now(&now));
            }
            let flush = self.batch.flush_on_exit;
            let is_busy = |slot: &Slot| if flush { !slot.lane.is_idle() } else { slot.lane.is_in_flight() };
            let busy = self.slots.values().flatten().filter(|slot| is_busy(slot)).count();
            if busy == 0 || Instant::now() >= until {
                stop.left_behind.store(busy as u64, Ordering::Relaxed);
                break;
            }
            self.round();
        }
        // Leaving the group waits for commits that are under way.
        self.slots.clear();
    }

    fn round(&mut self) {
        let mut wait = POLL;
        let consumer = self.consumer.clone();
        for _ in 0..MESSAGES_MAX {
            let polled = consumer.poll(wait);
            if self.apply_changes() {
                break;
            }
            match polled {
                Some(Ok(message)) => {
                    wait = Duration::ZERO;
                    self.take(&message);
                }
                Some(Err(error)) => {
                    self.held(&error.to_string());
                    break;
                }
                None => break,
            }
        }
        while let Ok((number, answer)) = self.answers.try_recv() {
            let now = now();
            if let Some(slot) = self.slot(number) {
                slot.lane.answer(answer, &now);
            }
        }
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.tick();
        }
        self.do_effects();
        self.pause_and_resume();
    }

    fn take(&mut self, message: &rdkafka::message::BorrowedMessage<'_>) {
        let Some(slots) = self.slots.get_mut(&message.partition()) else { return };
        let topic = message.topic();
        let Some(slot) = slots.iter_mut().find(|slot| slot.lane.place.topic == topic) else { return };
        let message = Message {
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            value: message.payload().unwrap_or_default(),
        };
        slot.lane.message(&message, &now());
        if slot.lane.wants_messages(UNCOMPRESSED_MAX) || slot.paused {
            return;
        }
        // At once, so that what has been fetched is not handed out in vain.
        slot.paused = true;
        pause(&self.consumer, &slot.lane.place);
    }

    /// Takes what the group has given and taken; whether there was anything.
    fn apply_changes(&mut self) -> bool {
        let context = self.consumer.context();
        let changes = std::mem::take(&mut *context.changes.lock().unwrap_or_else(PoisonError::into_inner));
        if changes.is_empty() {
            return false;
        }
        for change in changes {
            match change {
                Change::Assigned(partitions) => {
                    partitions.into_iter().for_each(|(topic, partition)| self.open(topic, partition))
                }
                Change::Revoked(partitions) => {
                    for (topic, partition) in partitions {
                        tracing::info!(topic, partition, "kafka: partition revoked");
                        if let Some(slots) = self.slots.get_mut(&partition) {
                            slots.retain(|slot| slot.lane.place.topic != topic);
                        }
                        let _ = self.metrics.lag.remove_label_values(&[&topic, &partition.to_string()]);
                        self.ends.remove(&(topic, partition));
                    }
                }
            }
        }
        self.metrics.assigned.set(self.slots.values().map(Vec::len).sum::<usize>() as i64);
        true
    }

    fn open(&mut self, topic: String, partition: i32) {
        let kind = topic.strip_prefix(&self.topic_prefix).and_then(Kind::parse);
        let Some(kind) = kind else {
            tracing::warn!(topic, "kafka: no kind of greypit's is named so: the topic is left alone");
            return;
        };
        tracing::info!(topic, partition, "kafka: partition assigned");
        let form = Form::of(&self.batch, kind);
        let place = Place { topic, partition, kind };
        let lane = Lane::new(place, form, self.batch.max_bytes.0, self.workers.clone());
        self.numbers += 1;
        let slot = Slot { lane, number: self.numbers, paused: true, committed: None, wanted: None, task: None };
        let slots = self.slots.entry(partition).or_default();
        slots.retain(|other| other.lane.place != slot.lane.place);
        slots.push(slot);
    }

    fn each(&mut self, visit: impl FnMut(&mut Slot)) {
        self.slots.values_mut().flatten().for_each(visit);
    }

    fn tick(&mut self) {
        self.read_statistics();
        let now = now();
        let ends = std::mem::take(&mut self.ends);
        self.each(|slot| {
            let known = ends.get(&(slot.lane.place.topic.clone(), slot.lane.place.partition));
            slot.lane.tick(&now, known.map(|ends| ends.low), known.map(|ends| ends.high));
        });
        self.ends = ends;
        self.settle_commits(now.instant);
        self.limit_memory(&now);
        self.count(&now);
    }

    /// Takes note of what was committed, and tries again what was not.
    fn settle_commits(&mut self, now: Instant) {
        let consumer = self.consumer.clone();
        let commits = std::mem::take(&mut *consumer.context().commits.lock().unwrap_or_else(PoisonError::into_inner));
        for (topic, partition, offset) in commits {
            let slots = self.slots.get_mut(&partition);
            if let Some(slot) = slots.and_then(|slots| slots.iter_mut().find(|slot| slot.lane.place.topic == topic)) {
                slot.committed_or_not(offset, now);
            }
        }
        self.each(|slot| {
            if slot.wanted.and_then(|wanted| wanted.again).is_some_and(|again| now >= again) {
                slot.commit(&consumer);
            }
        });
    }

    /// Ends the largest batch where all together hold too much.
    fn limit_memory(&mut self, now: &Now) {
        let memory: usize = self.slots.values().flatten().map(|slot| slot.lane.memory()).sum();
        self.metrics.memory.set(memory as i64);
        if memory <= self.memory_max / 4 * 3 {
            return;
        }
        let open = self.slots.values_mut().flatten().filter(|slot| !slot.lane.is_in_flight());
        if let Some(largest) = open.max_by_key(|slot| slot.lane.memory()) {
            tracing::debug!(topic = largest.lane.place.topic, memory, "kafka: a batch ends for want of memory");
            largest.lane.end_now(now);
        }
    }

    fn count(&mut self, now: &Now) {
        let metrics = self.metrics.clone();
        let mut oldest_ms: Option<i64> = None;
        self.each(|slot| {
            let kind = slot.lane.place.kind;
            let counts = slot.lane.take_counts();
            metrics.consumed.with_label_values(&[kind.as_str()]).inc_by(counts.records);
            metrics.repeated.with_label_values(&[kind.as_str()]).inc_by(counts.repeated);
            metrics.missing.with_label_values(&[kind.as_str()]).inc_by(counts.missing);
            for (whose, count) in Whose::ALL.into_iter().zip(counts.cuts) {
                metrics.cuts.with_label_values(&[whose.name()]).inc_by(count);
            }
            for (reason, count) in Foreign::ALL.into_iter().zip(counts.foreign).filter(|(_, count)| *count > 0) {
                metrics.foreign.with_label_values(&[reason.name()]).inc_by(count);
                tracing::warn!(
                    topic = slot.lane.place.topic,
                    reason = reason.name(),
                    count,
                    "kafka: messages that no greypit wrote"
                );
            }
            if let Some(oldest) = slot.lane.oldest_ms() {
                oldest_ms = Some(oldest_ms.map_or(oldest, |other| other.min(oldest)));
            }
            if let Some(committed) = slot.committed {
                let Place { topic, partition, .. } = &slot.lane.place;
                let lag = (slot.lane.high() - committed).max(0);
                metrics.lag.with_label_values(&[topic, &partition.to_string()]).set(lag);
            }
        });
        self.metrics.oldest_unshipped.set(oldest_ms.map_or(0, |oldest| (now.wall_ms - oldest).max(0) / 1_000));
    }

    fn do_effects(&mut self) {
        let mut wanted = Vec::new();
        self.each(|slot| {
            let effects = slot.lane.effects();
            if !effects.is_empty() {
                wanted.push((slot.number, slot.lane.place.clone(), effects));
            }
        });
        for (number, place, effects) in wanted {
            for effect in effects {
                self.do_effect(number, &place, effect);
            }
        }
    }

    fn do_effect(&mut self, number: u64, place: &Place, effect: Effect) {
        let (consumer, uploader, workers) = (self.consumer.clone(), self.uploader.clone(), self.workers.clone());
        let place = place.clone();
        match effect {
            Effect::FindStart { not } => {
                self.spawn(number, async move { Answer::Start(find_start(&consumer, &uploader, &place, &not).await) })
            }
            Effect::PutCut(cut) => self.spawn(number, async move {
                let theirs = until_done(&uploader.health, "store", || cut::put(&uploader, &place, &cut)).await;
                Answer::Cut(theirs.map(Box::new))
            }),
            Effect::PutObjects { cut, objects, look_ahead } => self.spawn(number, async move {
                match put_objects(&uploader, &workers, &place, &cut, objects).await {
                    Ok(()) if look_ahead => {
                        let next = Name { life: cut.life, start: cut.end + 1 };
                        let next = until_done(&uploader.health, "store", || cut::get(&uploader, &place, next)).await;
                        Answer::Shipped(next.map(Box::new))
                    }
                    Ok(()) => Answer::Shipped(None),
                    Err(error) => {
                        tracing::error!(%error, topic = place.topic, "kafka: a batch could not be made, it is read again");
                        Answer::Failed
                    }
                }
            }),
            Effect::Seek(offset) => {
                let moved = seek(&consumer, &place, offset);
                let now = now();
                let Some(slot) = self.slot(number) else { return };
                slot.committed.get_or_insert(offset);
                if let Err(error) = moved {
                    tracing::debug!(topic = place.topic, partition = place.partition, %error, "kafka: seek");
                    slot.lane.seek_failed(&now);
                }
            }
            Effect::Commit { offset, cut } => {
                if let Some(slot) = self.slot(number) {
                    slot.wanted = Some(Wanted { offset, cut, again: None });
                    slot.commit(&consumer);
                }
            }
        }
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        self.slots.values_mut().flatten().find(|slot| slot.number == number)
    }

    /// Does something that takes long, for as long as the lane is there.
    fn spawn(&mut self, number: u64, work: impl Future<Output = Answer> + Send + 'static) {
        let answer = self.answer.clone();
        let task = self.runtime.spawn(async move {
            // The one who asked may have gone, at the stop.
            let _ = answer.send((number, work.await));
        });
        let task = Task(task.abort_handle());
        if let Some(slot) = self.slot(number) {
            slot.task = Some(task);
        }
    }

    fn pause_and_resume(&mut self) {
        let consumer = self.consumer.clone();
        let mut paused = 0;
        self.each(|slot| {
            let wants = slot.lane.wants_messages(if slot.paused { UNCOMPRESSED_MAX / 4 } else { UNCOMPRESSED_MAX });
            if wants && slot.paused {
                let resumed = consumer.resume(&list(&slot.lane.place));
                slot.paused = resumed.is_err();
            } else if !wants && !slot.paused {
                slot.paused = true;
                pause(&consumer, &slot.lane.place);
            }
            paused += i64::from(slot.paused);
        });
        self.metrics.paused.set(paused);
    }

    fn read_statistics(&mut self) {
        let statistics = self.consumer.context().statistics.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(statistics) = statistics else { return };
        #[derive(Deserialize)]
        struct Statistics {
            brokers: HashMap<String, Broker>,
            topics: HashMap<String, Topic>,
        }
        #[derive(Deserialize)]
        struct Broker {
            state: String,
        }
        #[derive(Deserialize)]
        struct Topic {
            partitions: HashMap<i32, Partition>,
        }
        #[derive(Deserialize)]
        struct Partition {
            lo_offset: i64,
            hi_offset: i64,
        }
        match serde_json::from_slice::<Statistics>(&statistics) {
            Ok(statistics) => {
                self.ends.clear();
                for (topic, Topic { partitions }) in statistics.topics {
                    for (partition, Partition { lo_offset, hi_offset }) in partitions {
                        if partition >= 0 && hi_offset >= 0 && lo_offset >= 0 {
                            self.ends.insert((topic.clone(), partition), Ends { low: lo_offset, high: hi_offset });
                        }
                    }
                }
                self.say_health(statistics.brokers.values().any(|broker| broker.state == "UP"));
            }
            Err(error) => tracing::warn!(%error, "kafka: statistics"),
        }
    }

    fn say_health(&self, is_up: bool) {
        let problem = self.consumer.context().problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        match problem {
            _ if is_up => self.uploader.health.ok(HEALTH),
            Some(problem) => self.uploader.health.held(HEALTH, problem),
            None => {}
        }
    }

    fn held(&self, reason: &str) {
        self.uploader.health.held(HEALTH, reason);
    }
}

fn now() -> Now {
    Now { wall_ms: jiff::Timestamp::now().as_millisecond(), instant: Instant::now() }
}

fn list(place: &Place) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(&place.topic, place.partition);
    list
}

fn pause(consumer: &BaseConsumer<Context>, place: &Place) {
    if let Err(error) = consumer.pause(&list(place)) {
        tracing::debug!(%error, "kafka: pause");
    }
}

fn seek(consumer: &BaseConsumer<Context>, place: &Place, offset: i64) -> KafkaResult<()> {
    let mut list = list(place);
    list.set_all_offsets(Offset::Offset(offset))?;
    let moved = consumer.seek_partitions(list, SEEK)?;
    moved.elements().iter().try_for_each(|one| one.error())
}

fn commit(consumer: &BaseConsumer<Context>, place: &Place, offset: i64, cut: Name) -> KafkaResult<()> {
    let mut list = TopicPartitionList::with_capacity(1);
    let mut one = list.add_partition(&place.topic, place.partition);
    one.set_metadata(start::note(cut));
    one.set_offset(Offset::Offset(offset))?;
    consumer.commit(&list, CommitMode::Async)
}

/// Finds out where a lane begins, for as long as it takes.
async fn find_start(consumer: &Arc<BaseConsumer<Context>>, uploader: &Uploader, place: &Place, not: &[u32]) -> Start {
    loop {
        let ask = || async { Ok(until_done(&uploader.health, HEALTH, || ask(consumer, place)).await) };
        match start::find(uploader, place, not, ask).await {
            Ok(start) => {
                uploader.health.ok("store");
                let offset = start.base.name.start;
                tracing::info!(topic = place.topic, partition = place.partition, offset, "kafka: partition begins");
                return start;
            }
            Err(error) => uploader.health.held("store", error.to_string()),
        }
        tokio::time::sleep(jittered(AGAIN)).await;
    }
}

/// Asks Kafka what it knows of a partition.
async fn ask(consumer: &Arc<BaseConsumer<Context>>, place: &Place) -> Result<Log> {
    let (consumer, place) = (consumer.clone(), place.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let committed = consumer.committed_offsets(list(&place), ASK)?;
        // After the offset, which is not beyond the end then.
        let (low, high) = consumer.fetch_watermarks(&place.topic, place.partition, ASK)?;
        let committed = committed.elements().first().and_then(|one| match one.offset() {
            Offset::Offset(offset) => Some((offset, one.metadata().to_owned())),
            _ => None,
        });
        Ok(Log { low, high, committed })
    });
    let failed = |what: String| Error::Kafka { operation: "ask for a partition's offsets", what };
    match asked.await {
        Ok(log) => log.map_err(|error: KafkaError| failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Puts all objects of a batch.
async fn put_objects(
    uploader: &Uploader,
    workers: &Workers,
    place: &Place,
    cut: &Cut,
    objects: Vec<(Part, Growing)>,
) -> Result<()> {
    for (part, growing) in objects {
        let timer = uploader.metrics.encode_seconds.with_label_values(&[cut.form.codec.name()]).start_timer();
        let object = Ready::new(place, cut, &part, growing, workers).await?;
        timer.observe_duration();
        uploader.metrics.ship_in_flight.inc();
        object.put(uploader, place).await;
        uploader.metrics.ship_in_flight.dec();
    }
    Ok(())
}

/// A text as librdkafka's regular expressions take it literally.
fn escape(text: &str) -> String {
    let special = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-';
    text.chars().fold(String::new(), |mut escaped, c| {
        if special(c) {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}
