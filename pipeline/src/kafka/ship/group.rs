//! The member of the consumer group: one thread that polls, feeds the lanes and does what they want.
//!
//! Everything that decides runs on this thread: messages, rebalances, commits. So a commit never follows the loss of its
//! partition. What takes long (reading the group's offsets, the store) runs elsewhere and comes back as an answer.

mod context;
mod retention;
mod slot;
mod statistics;
mod work;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use tokio::runtime::Handle;

use self::context::{Change, Context};
use self::retention::Retention;
use self::slot::{Slot, Task, Wanted};
use self::statistics::Ends;
use self::work::{find_start, list, pause, put_objects, seek};
use super::Stop;
use super::batch::{Message, Now};
use super::cut::{self, Form, Name, Place};
use super::lane::{Answer, Effect, Lane, Whose};
use super::metrics::Metrics;
use super::record::Foreign;
use crate::kafka::errors::Problem;
use crate::upload::{Uploader, until_done};
use crate::workers::Workers;
use crate::{Error, Kind, Result, batch};

/// How long a poll waits for a message.
const POLL: Duration = Duration::from_millis(50);

/// How often lanes look whether something is due.
const TICK: Duration = Duration::from_millis(100);

/// The most messages between two looks at everything else.
const MESSAGES_MAX: usize = 2_000;

/// How long the end of one partition's log is waited for at the stop.
const ASK_AT_STOP: Duration = Duration::from_secs(1);

/// Bytes of a partition that wait for a worker before it is paused.
const UNCOMPRESSED_MAX: usize = 8 << 20;

/// The name under which it says how it is.
const HEALTH: &str = "kafka_ship";

pub(super) struct Member {
    consumer: Arc<BaseConsumer<Context>>,
    group: String,
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
    /// What the brokers do not let it do.
    refused: Option<String>,
    retention: Retention,
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
            // A broker that is asked for idle partitions answers late, and one that goes on meanwhile waits for that.
            ("fetch.wait.max.ms", "100"),
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("queued.max.messages.kbytes", &fetched_kib),
        ]);
        client
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky");
        let context = Context::new(metrics.clone());
        let retention = Retention::new(config.clone());
        let consumer: BaseConsumer<Context> = client.create_with_context(context).map_err(refused)?;
        let topics = format!("^{}[a-z0-9_]+$", escape(&config.topic_prefix));
        consumer.subscribe(&[&topics]).map_err(refused)?;
        metrics.memory_max.set(config.max_memory.0 as i64);
        let (answer, answers) = mpsc::channel();
        Ok(Member {
            consumer: Arc::new(consumer),
            group: config.group,
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
            refused: None,
            retention,
        })
    }

    /// Ships until it is told to stop; gives how many events were on their way then.
    pub(super) fn run(mut self, stop: &Stop) {
        while !stop.is_asked() {
            self.round();
        }
        self.stop(stop);
    }

    /// Reads what is there now and ships it, where `batch.flush_on_exit` says so; else waits for what is on its way.
    fn stop(mut self, stop: &Stop) {
        let until = Instant::now() + self.batch.drain_timeout.0;
        self.set_goals();
        loop {
            if self.batch.flush_on_exit {
                let now = now();
                self.each(|slot| {
                    if slot.is_at_goal() {
                        slot.lane.end_now(&now);
                    }
                });
            }
            let flush = self.batch.flush_on_exit;
            let is_busy = |slot: &Slot| match flush {
                true => !slot.lane.is_idle() || (slot.lane.next().is_some() && !slot.is_at_goal()),
                false => slot.lane.is_in_flight(),
            };
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

    /// Up to where every lane still reads: the end of its log now, or nothing more.
    fn set_goals(&mut self) {
        let mut asks = self.batch.flush_on_exit;
        let consumer = self.consumer.clone();
        self.each(|slot| {
            let Place { topic, partition, .. } = &slot.lane.place;
            let high = asks.then(|| consumer.fetch_watermarks(topic, *partition, ASK_AT_STOP));
            // Brokers that do not answer are not asked for every partition.
            asks = matches!(high, Some(Ok(_)));
            let high = high.and_then(std::result::Result::ok).map(|(_, high)| high);
            slot.goal = Some(high.or(slot.lane.next()).unwrap_or(0));
        });
    }

    fn round(&mut self) {
        let mut wait = POLL;
        let consumer = self.consumer.clone();
        let mut at = now();
        for _ in 0..MESSAGES_MAX {
            let polled = consumer.poll(wait);
            if !wait.is_zero() {
                // What follows comes without waiting: one look at the clocks is enough for it.
                at = now();
            }
            if self.apply_changes() {
                break;
            }
            match polled {
                Some(Ok(message)) => {
                    wait = Duration::ZERO;
                    self.refused = None;
                    self.take(&message, &at);
                }
                Some(Err(error)) => {
                    self.refused(&error);
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

    fn take(&mut self, message: &rdkafka::message::BorrowedMessage<'_>, now: &Now) {
        let Some(slots) = self.slots.get_mut(&message.partition()) else { return };
        let topic = message.topic();
        let Some(slot) = slots.iter_mut().find(|slot| slot.lane.place.topic == topic) else { return };
        let message = Message {
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            value: message.payload().unwrap_or_default(),
        };
        slot.lane.message(&message, now);
        if slot.wants_messages(UNCOMPRESSED_MAX, false) || slot.paused {
            return;
        }
        // At once, so that what has been fetched is not handed out in vain.
        slot.paused = true;
        pause(&self.consumer, &slot.lane.place);
    }

    /// Takes what the group has given and taken; whether there was anything.
    fn apply_changes(&mut self) -> bool {
        let changes = self.consumer.context().take_changes();
        if changes.is_empty() {
            return false;
        }
        for change in changes {
            match change {
                Change::Assigned(partitions) => {
                    self.refused = None;
                    partitions.into_iter().for_each(|(topic, partition)| self.open(topic, partition))
                }
                Change::Revoked(partitions) => {
                    for (topic, partition) in partitions {
                        tracing::debug!(topic, partition, "kafka: partition revoked");
                        if let Some(slots) = self.slots.get_mut(&partition) {
                            slots.retain(|slot| slot.lane.place.topic != topic);
                        }
                        let _ = self.metrics.lag.remove_label_values(&[&topic, &partition.to_string()]);
                        self.ends.remove(&(topic, partition));
                    }
                }
            }
        }
        let partitions = self.slots.values().map(Vec::len).sum::<usize>();
        self.metrics.assigned.set(partitions as i64);
        tracing::info!(partitions, "kafka: partitions of this shipper, after a rebalance");
        true
    }

    fn open(&mut self, topic: String, partition: i32) {
        let kind = topic.strip_prefix(&self.topic_prefix).and_then(Kind::parse);
        let Some(kind) = kind else {
            tracing::warn!(topic, "kafka: no kind of greypit's is named so: the topic is left alone");
            return;
        };
        tracing::debug!(topic, partition, "kafka: partition assigned");
        let form = Form::of(&self.batch, kind);
        let place = Place { topic, partition, kind };
        let lane = Lane::new(place, form, self.batch.max_bytes.0, self.workers.clone());
        self.numbers += 1;
        let slot =
            Slot { lane, number: self.numbers, paused: true, goal: None, committed: None, wanted: None, task: None };
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
        self.commit_again(now.instant);
        self.limit_memory(&now);
        self.count(&now);
    }

    /// Commits again where one has failed; which one is not told, and doing it twice does no harm.
    fn commit_again(&mut self, now: Instant) {
        let consumer = self.consumer.clone();
        let failed = consumer.context().take_commit_failed();
        self.each(|slot| {
            if slot.wanted.and_then(|wanted| wanted.again).is_some_and(|again| now >= again) {
                slot.commit(&consumer);
            } else if failed {
                slot.commit_later(now);
            }
        });
    }

    /// Whether all lanes together hold more than three quarters of what they may; the rest is for what is fetched ahead.
    fn is_tight(&self) -> bool {
        usize::try_from(self.metrics.memory.get()).unwrap_or(0) > self.memory_max / 4 * 3
    }

    /// Ends the largest batch where all together hold too much.
    fn limit_memory(&mut self, now: &Now) {
        let memory: usize = self.slots.values().flatten().map(|slot| slot.lane.memory()).sum();
        self.metrics.memory.set(memory as i64);
        if !self.is_tight() {
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
            if let Some(committed) = slot.committed {
                let Place { topic, partition, .. } = &slot.lane.place;
                let lag = (slot.lane.high() - committed).max(0);
                metrics.lag.with_label_values(&[topic, &partition.to_string()]).set(lag);
            }
        });
        self.say_age(now);
    }

    /// How old what waits is, beside how long its topic keeps it.
    fn say_age(&mut self, now: &Now) {
        let topics = self.slots.values().flatten().map(|slot| slot.lane.place.topic.clone()).collect();
        self.retention.ask_when_due(topics, &self.runtime);
        let age_ms = |slot: &Slot| slot.lane.oldest_ms().map_or(0, |oldest| (now.wall_ms - oldest).max(0));
        let slots = || self.slots.values().flatten();
        self.metrics.oldest_unshipped.set(slots().map(age_ms).max().unwrap_or(0) / 1_000);
        let left = slots().filter_map(|slot| Some(self.retention.of(&slot.lane.place.topic)? - age_ms(slot))).min();
        // No number where no topic's retention is known: an alert on it stays silent, and a graph shows the gap.
        self.metrics.retention_left.set(left.map_or(f64::NAN, |left| left as f64 / 1_000.0));
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
        let (mut paused, is_tight) = (0, self.is_tight());
        self.each(|slot| {
            let wants =
                slot.wants_messages(if slot.paused { UNCOMPRESSED_MAX / 4 } else { UNCOMPRESSED_MAX }, is_tight);
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
        let Some(json) = self.consumer.context().take_statistics() else { return };
        match statistics::read(&json) {
            Ok(heard) => {
                self.ends = heard.ends;
                self.say_health(heard.is_up);
            }
            Err(error) => tracing::warn!(%error, "kafka: statistics"),
        }
    }

    fn say_health(&self, is_up: bool) {
        let problem = self.consumer.context().take_problem();
        match (&self.refused, problem) {
            (Some(_), _) => {}
            (None, _) if is_up => self.uploader.health.ok(HEALTH),
            (None, Some(problem)) => self.uploader.health.held(HEALTH, problem),
            (None, None) => {}
        }
    }

    /// What librdkafka says in place of a message. It goes on trying; what only a person can mend stays on the board until
    /// the group gives a partition, or a message comes.
    fn refused(&mut self, error: &KafkaError) {
        let problem = Problem::of(&format!("read topics as a member of group {}", self.group), error);
        self.uploader.health.held(HEALTH, problem.line.clone());
        if problem.is_definite() {
            self.refused = Some(problem.line);
        }
    }
}

fn now() -> Now {
    Now { wall_ms: jiff::Timestamp::now().as_millisecond(), instant: Instant::now() }
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
