//! Many greypits, one limit: what each node let a client pass is known to all of them, through a compacted topic.
//!
//! [`greypit_milter::policy::clients::farm`] says what is counted and what holds; [`message`] what a record of the topic
//! is; this joins the two. Every [`TICK`] a node publishes the clients whose counts have changed; what others publish is
//! counted as it arrives. Nothing here is asked when mail is decided on, and mail never waits for it.
//!
//! # When Kafka is away
//! A node hears itself: every [`BEAT`] it publishes that it is there, and reads that like everything else. Where it has
//! not heard itself for [`SILENCE`], it is out of reach and decides for itself, by its own counts and by what it
//! already knew; that is counted and shown, and no more. What it counts meanwhile waits in the table and is
//! published when the topic takes records again.
//!
//! # Lives
//! The key names a node's life besides the node: it begins with the process, and again when a reload changes what the
//! counts mean. So a node that comes back takes its former counts for another's; they stay what they were and go with
//! the window. What had not been published when it was killed, at most the last [`TICK`]'s, is lost.

pub(crate) mod message;
mod metrics;
mod origins;
#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use greypit_milter::policy::Clients;
use greypit_milter::policy::clients::farm::{Changes, Meaning, Passed, Report};
use greypit_pipeline::kafka::compacted::{self, Compacted, Listener};
use greypit_pipeline::kafka::topics::Wanted;
use greypit_pipeline::{Health, Result, kafka};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::message::{Key, Unfit, Value};
use self::metrics::{Ignored, Metrics};
use self::origins::Origins;

/// How often changes are published.
const TICK: Duration = Duration::from_millis(100);

/// Changes that are taken from the table at once: connections wait for the lock meanwhile.
const TAKEN_AT_ONCE: usize = 500;

/// How often a node says that it is there.
const BEAT: Duration = Duration::from_secs(1);

/// A node that has not heard itself for so long is out of reach.
const SILENCE: Duration = Duration::from_secs(3);

/// Clocks of nodes may differ by this much: a record that seems no older has just been sent.
const CLOCKS: Duration = Duration::from_secs(10);

/// A new topic keeps records for at least this long, and for twice the window.
const RETENTION_MIN: Duration = Duration::from_secs(6 * 3600);

/// How long stopping waits until the last counts are delivered.
const LAST: Duration = Duration::from_millis(500);

/// What `/readyz` calls it.
const PART: &str = "farm";

/// What a farm is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) node: &'a str,
    pub(crate) kafka: &'a kafka::Config,
    /// The table, and the moment since which it takes the time.
    pub(crate) clients: (Arc<Clients>, Instant),
    pub(crate) registry: &'a Registry,
    pub(crate) health: &'a Health,
}

/// A node's part in its farm.
#[derive(Debug)]
pub(crate) struct Farm {
    running: JoinHandle<()>,
    stop: CancellationToken,
}

/// The topic of a farm, and how it is made.
pub(crate) fn topic(kafka: &kafka::Config, window: Duration) -> Wanted {
    compacted::wanted(format!("{}milter-clients", kafka.topic_prefix), RETENTION_MIN.max(2 * window))
}

/// How old a record may be that still says something: a window, rounded up to slots at both ends, by another clock.
fn reach(window: Duration) -> Duration {
    window + window / 4 + 2 * CLOCKS
}

impl Farm {
    /// Joins, inside a Tokio runtime.
    ///
    /// # Errors
    /// A property that librdkafka refuses; metrics that are there already.
    pub(crate) fn start(parts: Parts<'_>) -> Result<Farm> {
        let taken = |error: prometheus::Error| greypit_pipeline::Error::Config {
            key: "http".into(),
            problem: format!("metrics cannot be registered: {error}"),
        };
        let (clients, epoch) = parts.clients;
        let meaning = clients.meaning();
        let member = Arc::new(Member {
            state: Mutex::new(State::new(parts.node.to_owned(), meaning)),
            metrics: Metrics::new(parts.registry).map_err(taken)?,
            clients,
            epoch,
        });
        let (topic, reach) = (topic(parts.kafka, meaning.window).name, reach(meaning.window));
        let compacted = Compacted::start(parts.kafka, topic, reach, member.clone())?;
        let (stop, health) = (CancellationToken::new(), parts.health.clone());
        let running = tokio::spawn(run(member, compacted, health, stop.clone()));
        Ok(Farm { running, stop })
    }

    /// Publishes what is left, and ends within about [`LAST`]. To be called once nothing is counted any more.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.running.await {
            tracing::error!(%error, "the farm ended badly");
        }
    }
}

async fn run(member: Arc<Member>, compacted: Compacted<Member>, health: Health, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beats = Instant::now().checked_sub(BEAT);
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = ticks.tick() => {}
        }
        member.follow_reload(&compacted);
        if beats.is_none_or(|last| last.elapsed() >= BEAT) && compacted.room() > 0 {
            beats = Some(Instant::now());
            member.beat(&compacted);
        }
        member.publish(&compacted);
        member.look(&compacted, &health);
    }
    // Blocks for as long as the brokers take, LAST at most.
    let _ = tokio::task::spawn_blocking(move || compacted.stop(LAST)).await;
}

/// One node, as the topic's threads and the publishing task see it.
#[derive(Debug)]
struct Member {
    clients: Arc<Clients>,
    epoch: Instant,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    /// This life.
    own: Key,
    /// When it began; the number of reloads since that have begun another.
    began: (SystemTime, u32),
    meaning: Meaning,
    origins: Origins,
    /// The same by a clock that nobody sets.
    since: Instant,
    /// When this life was last heard.
    heard: Option<Instant>,
    /// The last record that was published was delivered.
    delivers: bool,
    is_read: bool,
    problem: Option<String>,
}

impl State {
    fn new(node: String, meaning: Meaning) -> State {
        let began = (SystemTime::now(), 0);
        State {
            own: Key { node, life: life(began), client: None },
            began,
            meaning,
            origins: Origins::default(),
            since: Instant::now(),
            heard: None,
            delivers: false,
            is_read: false,
            problem: None,
        }
    }

    fn is_reached(&self) -> bool {
        self.is_read && self.heard.is_some_and(|heard| heard.elapsed() < SILENCE)
    }

    /// Other counts: another life, and the others' from the beginning.
    fn begin_anew(&mut self, meaning: Meaning) {
        self.began.1 += 1;
        self.own.life = life(self.began);
        (self.meaning, self.origins) = (meaning, Origins::default());
        (self.since, self.heard, self.is_read) = (Instant::now(), None, false);
    }
}

/// Unlike any other of its node: one process a moment, whatever clocks say.
fn life((began, reloads): (SystemTime, u32)) -> String {
    format!("{:x}-{:x}-{reloads}", wall_ms(began), std::process::id())
}

fn wall_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

impl Member {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn follow_reload(&self, compacted: &Compacted<Member>) {
        let meaning = self.clients.meaning();
        let mut state = self.state();
        if state.meaning != meaning {
            state.begin_anew(meaning);
            compacted.rewind(reach(meaning.window));
        }
    }

    fn beat(&self, compacted: &Compacted<Member>) {
        let (key, meaning) = {
            let state = self.state();
            (state.own.to_string(), state.meaning)
        };
        compacted.publish(&key, Some(&Value::beat(meaning, wall_ms(SystemTime::now())).to_string()));
    }

    /// Publishes what has changed, as far as there is room. Where records are not delivered, changes wait in the table.
    fn publish(&self, compacted: &Compacted<Member>) {
        let (own, meaning, delivers) = {
            let state = self.state();
            (state.own.clone(), state.meaning, state.delivers)
        };
        let mut room = if delivers { compacted.room() } else { 0 };
        while room > 0 {
            let changes = self.clients.take_changes(room.min(TAKEN_AT_ONCE), self.now());
            if changes.meaning != meaning {
                // A reload came in between: it is published as what it now is.
                return changes.clients.iter().for_each(|(client, _)| self.clients.changed_again(*client));
            }
            for (client, passed) in &changes.clients {
                self.publish_one(compacted, &own, (*client, passed), &changes);
            }
            let is_all = changes.clients.len() < TAKEN_AT_ONCE;
            room = if is_all { 0 } else { room.saturating_sub(TAKEN_AT_ONCE) };
        }
    }

    fn publish_one(
        &self,
        compacted: &Compacted<Member>,
        own: &Key,
        (client, passed): (Ipv6Addr, &Passed),
        changes: &Changes,
    ) {
        let key = Key { client: Some(changes.meaning.write(client)), ..own.clone() }.to_string();
        let is_quiet = *passed == Passed::default();
        let at = wall_ms(SystemTime::now());
        let value = (!is_quiet).then(|| Value::new(changes.meaning, at, changes.age, *passed).to_string());
        if compacted.publish(&key, value.as_deref()) {
            self.metrics.published.inc();
        } else if !is_quiet {
            self.clients.changed_again(client);
        }
    }

    /// Sees how it is, and says so.
    fn look(&self, compacted: &Compacted<Member>, health: &Health) {
        let (is_reached, is_beginning, nodes, problem) = {
            let mut state = self.state();
            state.is_read = compacted.is_read();
            let window = state.meaning.window;
            let is_beginning = state.since.elapsed() < SILENCE;
            (state.is_reached(), is_beginning, state.origins.nodes(window), state.problem.clone())
        };
        self.clients.set_reached(is_reached);
        self.metrics.connected.set(i64::from(is_reached));
        self.metrics.nodes.set(nodes as i64);
        let alone = self.clients.decided_alone();
        self.metrics.fallback.inc_by(alone.saturating_sub(self.metrics.fallback.get()));
        if is_reached {
            self.state().problem = None;
            health.ok(PART);
        } else if !is_beginning {
            let why = problem.unwrap_or_else(|| "it does not answer yet".to_owned());
            health.limited(PART, format!("each node counts its clients for itself until Kafka is reached: {why}"));
        }
    }

    /// What a record says, or why it says nothing here.
    fn take(&self, key: &[u8], value: Option<&[u8]>) -> std::result::Result<(), Ignored> {
        let key = Key::parse(key).ok_or(Ignored::Malformed)?;
        let value = value.map(Value::parse).transpose().map_err(|unfit| match unfit {
            Unfit::Version => Ignored::Version,
            Unfit::Malformed => Ignored::Malformed,
        })?;
        let mut state = self.state();
        if key.is_of(&state.own) {
            if value.is_some() {
                state.heard = Some(Instant::now());
                let window = state.meaning.window;
                // Its number is not used: what this node counts is in its table.
                state.origins.number(&key, Duration::ZERO, window, true);
            }
            return Ok(());
        }
        let now = wall_ms(SystemTime::now());
        let age = Duration::from_millis(value.as_ref().map_or(0, |value| now.saturating_sub(value.at)));
        let elapsed = if age <= CLOCKS { Duration::ZERO } else { age };
        let meaning = state.meaning;
        if let Some(value) = &value {
            if value.meaning != meaning {
                return Err(Ignored::Shape);
            }
            if elapsed > reach(meaning.window) {
                // It was read for its younger neighbours' sake.
                return Ok(());
            }
        }
        let is_others = key.node != state.own.node;
        let Some(origin) = state.origins.number(&key, elapsed, meaning.window, value.is_some()) else {
            return if value.is_some() { Err(Ignored::TooManyNodes) } else { Ok(()) };
        };
        let is_new = state.is_read;
        drop(state);

        let Some(client) = &key.client else { return Ok(()) };
        let client = meaning.read(client).ok_or(Ignored::Malformed)?;
        let (slot_age, passed) = value.map_or_else(Default::default, |value| (value.age, value.passed));
        let report = Report { meaning, age: slot_age, elapsed, passed };
        if !self.clients.fold(origin, client, &report, self.now()) {
            return Err(Ignored::Shape);
        }
        self.metrics.received.inc();
        if is_new && is_others {
            self.metrics.delay.observe(age.as_secs_f64());
        }
        Ok(())
    }
}

impl Listener for Member {
    fn record(&self, key: &[u8], value: Option<&[u8]>) {
        if let Err(reason) = self.take(key, value) {
            self.metrics.ignored(reason).inc();
        }
    }

    fn delivered(&self, key: &[u8], is_there: bool) {
        let mut state = self.state();
        state.delivers = is_there;
        if is_there {
            return;
        }
        let lost = Key::parse(key).filter(|key| key.is_of(&state.own)).and_then(|key| key.client);
        let lost = lost.and_then(|client| state.meaning.read(&client));
        drop(state);
        if let Some(client) = lost {
            self.clients.changed_again(client);
        }
    }

    fn problem(&self, code: &'static str, line: String) {
        self.metrics.error(code).inc();
        self.state().problem = Some(line);
    }
}
