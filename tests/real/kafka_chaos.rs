//! Three brokers, three collectors, up to four shippers and an S3 server, all
//! of which are killed, frozen, cut off and restarted at random while logs
//! grow and are rotated. In the end the store must hold exactly the records of
//! the logs.
//!
//! `GREYPIT_CHAOS_EVENTS` (default 36) and `GREYPIT_CHAOS_MINUTES` (default 2)
//! say how much must have happened, `GREYPIT_SEED` repeats the choices of a
//! run; the machine's own timing it cannot repeat.
//!
//! Of the brokers only one is away at a time: two of three hold what was
//! acknowledged. Everything else may be away together.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};
use support::farm::{Held, check_topics, properties, through, wait_committed};
use support::greypit::Greypit;
use support::kafka::Kafka;
use support::maillog::{Records, Rotation, Writer, differences, identity};
use support::proxy::{FaultProxy, Mode};
use support::random::{Random, seed};
use support::s3::S3Server;
use support::watch::{Change, Watch};
use support::{wait_for, wait_up_to};

const COLLECTORS: usize = 3;
const SHIPPERS: usize = 4;
/// Shippers at first; the last one joins.
const SHIPPERS_AT_FIRST: usize = 3;
/// Fewer than collectors, so that some share one.
const PARTITIONS: i64 = 2;
/// Without a sign of life a shipper loses its partitions after this time.
const SESSION_MILLIS: u64 = 6_000;
/// A sight is waited for so long, then it happens anyway.
const PATIENCE: Duration = Duration::from_secs(2);
/// Until everything has been shipped once nothing is broken any more.
const SETTLE: Duration = Duration::from_secs(600);

#[test]
fn what_goes_in_is_in_the_store_once() {
    let seed = seed("GREYPIT_SEED");
    let events = number("GREYPIT_CHAOS_EVENTS").unwrap_or(36.0) as u64;
    let minutes = number("GREYPIT_CHAOS_MINUTES").unwrap_or(2.0);
    println!("GREYPIT_SEED={seed} GREYPIT_CHAOS_EVENTS={events} GREYPIT_CHAOS_MINUTES={minutes}");
    let mut chaos = Chaos::new(seed);
    chaos.run(events, Duration::from_secs_f64(minutes * 60.0));
    chaos.settle();
    chaos.compare();
}

fn number(variable: &str) -> Option<f64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    CollectorKilled,
    CollectorFrozen,
    CollectorRestarted,
    ShipperKilled,
    /// All at once: nobody has in memory what was begun.
    ShippersKilled,
    /// Longer than the session: when it wakes up its partitions are another's.
    ShipperFrozen,
    ShipperLeaves,
    ShipperJoins,
    BrokerKilled,
    BrokerRestarted,
    BrokerFrozen,
    BrokerCutOff,
    StoreKilled,
    StoreOutage,
}

impl Repair {
    fn is_of_a_broker(self) -> bool {
        matches!(self, Self::StartBroker(_) | Self::WakeBroker(_) | Self::MendBroker(_))
    }
}

impl Event {
    /// Each with how often it is to be taken.
    const ALL: [(Self, u64); 14] = [
        (Self::CollectorKilled, 14),
        (Self::CollectorFrozen, 5),
        (Self::CollectorRestarted, 4),
        (Self::ShipperKilled, 12),
        (Self::ShippersKilled, 8),
        (Self::ShipperFrozen, 16),
        (Self::ShipperLeaves, 6),
        (Self::ShipperJoins, 6),
        (Self::BrokerKilled, 7),
        (Self::BrokerRestarted, 5),
        (Self::BrokerFrozen, 6),
        (Self::BrokerCutOff, 6),
        (Self::StoreKilled, 6),
        (Self::StoreOutage, 10),
    ];
}

/// What makes good again what an event has done.
#[derive(Debug, Clone, Copy)]
enum Repair {
    Start(usize),
    Wake(usize),
    StartBroker(usize),
    WakeBroker(usize),
    MendBroker(usize),
    StartStore,
    EndOutage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Frozen,
    Down,
    /// A shipper that does not take part.
    Absent,
}

/// One greypit.
struct Node {
    name: String,
    greypit: Greypit,
    collects: bool,
    /// Of a collector, from the beginning to the end.
    writer: Option<Writer>,
    state: State,
    /// Counters of the life that is going on, as last seen, and the sums of
    /// those that have ended.
    now: BTreeMap<&'static str, u64>,
    before: BTreeMap<&'static str, u64>,
}

/// Counters that tell whether the hard cases were met.
const COUNTERS: [&str; 15] = [
    "greypit_kafka_produced_events_total",
    "greypit_kafka_producer_restarts_total",
    "greypit_kafka_errors_total",
    "greypit_kafka_consumed_events_total",
    "greypit_kafka_repeated_events_total",
    "greypit_kafka_missing_events_total",
    "greypit_kafka_foreign_messages_total",
    "greypit_kafka_cuts_total{cut=\"own\"}",
    "greypit_kafka_cuts_total{cut=\"before\"}",
    "greypit_kafka_cuts_total{cut=\"rival\"}",
    "greypit_store_existing_total{object=\"same\"}",
    "greypit_kafka_rebalances_total",
    "greypit_kafka_commit_errors_total",
    "greypit_ship_objects_total",
    "greypit_ship_events_total",
];

impl Node {
    fn collector(number: usize, kafka: &Kafka) -> Self {
        let name = format!("mx{}", number + 1);
        let mut greypit = Greypit::new(&name);
        through(&mut greypit, kafka, &["collect"]);
        let log = greypit.folder().join("log.d/maillog");
        std::fs::create_dir(greypit.folder().join("log.d")).expect("a folder of ours");
        greypit.follow(&log);
        greypit.set("spool.segment_bytes", "64KiB");
        greypit.set("batch.window", "1s");
        greypit.set("kafka.topics.partitions", PARTITIONS);
        File::create(&log).expect("a folder of ours");
        Self::new(name, greypit, true)
    }

    fn shipper(number: usize, kafka: &Kafka) -> Self {
        let name = format!("ship{}", number + 1);
        let mut greypit = Greypit::new(&name);
        through(&mut greypit, kafka, &["ship"]);
        greypit.set("kafka.topics.partitions", PARTITIONS);
        greypit.set("batch.window", "1s");
        greypit.set("batch.max_bytes", "64KiB");
        greypit.set("batch.drain_timeout", "5s");
        Self::new(name, greypit, false)
    }

    fn new(name: String, mut greypit: Greypit, collects: bool) -> Self {
        let session = SESSION_MILLIS.to_string();
        properties(
            &mut greypit,
            &[
                ("session.timeout.ms", &session),
                ("heartbeat.interval.ms", "1000"),
                ("socket.timeout.ms", "10000"),
                ("reconnect.backoff.max.ms", "1000"),
            ],
        );
        Self {
            name,
            greypit,
            collects,
            writer: None,
            state: State::Absent,
            now: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }

    /// The log of a collector that runs begins, and it has seen that: what was rotated before it ever ran is not
    /// its affair.
    fn begin(&mut self, rotation: Rotation, random: Random) {
        let metric = |name: &str| self.greypit.metric(name);
        wait_for("the collector to follow its log", || (metric("greypit_maillog_files")? > 0.0).then_some(()));
        let log = self.greypit.folder().join("log.d/maillog");
        self.writer = Some(Writer::start_slow(log, rotation, random, 10));
        wait_for("the first durable record", || (metric("greypit_spool_events_total")? > 0.0).then_some(()));
    }

    fn start(&mut self, random: &mut Random) {
        if !self.collects {
            self.greypit.set("batch.workers", *random.pick(&[1, 2, 4]));
            self.greypit.set("batch.codec", *random.pick(&["none", "zstd", "bzip2"]));
            self.greypit.set("batch.flush_on_exit", random.chance(50));
        } else {
            self.greypit.set("spool.sync", *random.pick(&["each", "10ms", "50ms"]));
        }
        self.greypit.spawn();
        self.state = State::Up;
    }

    fn kill(&mut self) {
        if self.state == State::Up {
            self.greypit.assert_alive();
        }
        self.end_life();
        self.greypit.kill();
        self.state = State::Down;
    }

    fn terminate(&mut self) {
        self.look();
        self.end_life();
        let began = Instant::now();
        let status = self.greypit.end();
        assert!(status.code().is_some(), "{}: {status}", self.name);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(120), "{} took {took:?} to end", self.name);
        self.state = State::Down;
    }

    fn freeze(&mut self) {
        self.greypit.signal("STOP");
        self.state = State::Frozen;
    }

    fn wake(&mut self) {
        self.greypit.signal("CONT");
        self.state = State::Up;
    }

    /// Reads the counters.
    fn look(&mut self) {
        if self.state != State::Up {
            return;
        }
        self.greypit.assert_alive();
        let Some(text) = self.greypit.get("/metrics").map(|(_, text)| text) else { return };
        for name in COUNTERS {
            let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            let values = text.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            self.now.insert(name, values.sum::<f64>() as u64);
        }
    }

    fn end_life(&mut self) {
        for (name, value) in std::mem::take(&mut self.now) {
            *self.before.entry(name).or_default() += value;
        }
    }

    fn counter(&self, name: &str) -> u64 {
        self.before.get(name).unwrap_or(&0) + self.now.get(name).unwrap_or(&0)
    }
}

struct Chaos {
    seed: u64,
    began: Instant,
    random: Random,
    kafka: Kafka,
    store: S3Server,
    proxy: FaultProxy,
    nodes: Vec<Node>,
    /// What is to be made good, and when.
    repairs: Vec<(Instant, Repair)>,
    /// A broker is away, or was and has not yet caught up.
    broker_away: bool,
    outage: bool,
    store_down: bool,
    events: BTreeMap<Event, u64>,
    /// Known at the end.
    input: Input,
}

/// What went in.
#[derive(Debug, Default)]
struct Input {
    lines: u64,
    rotations: u64,
    records: Records,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let kafka = Kafka::start_with(3, &[]);
        let store = S3Server::start();
        let proxy = FaultProxy::start(store.addr());
        let mut nodes: Vec<_> = (0..COLLECTORS).map(|number| Node::collector(number, &kafka)).collect();
        nodes.extend((0..SHIPPERS).map(|number| Node::shipper(number, &kafka)));
        for node in &mut nodes {
            node.greypit.env(store.env());
            node.greypit.set("store.url", format!("s3://{}/archive", S3Server::BUCKET));
            node.greypit.set("store.path_style", true);
            node.greypit.set("store.endpoint", proxy.endpoint());
            node.greypit.set("store.request_timeout", "10s");
        }
        for node in &mut nodes[..COLLECTORS + SHIPPERS_AT_FIRST] {
            node.start(&mut random);
        }
        for (number, node) in nodes[..COLLECTORS].iter_mut().enumerate() {
            let rotation = if number == 0 { Rotation::Numbers } else { Rotation::Dates };
            node.begin(rotation, random.split());
        }
        Self {
            seed,
            began: Instant::now(),
            random,
            kafka,
            store,
            proxy,
            nodes,
            repairs: Vec::new(),
            broker_away: false,
            outage: false,
            store_down: false,
            events: BTreeMap::new(),
            input: Input::default(),
        }
    }

    /// Until so much has happened and so much time has passed.
    fn run(&mut self, events: u64, time: Duration) {
        let pause = (time.as_millis() as u64 / events.max(1)).max(500);
        // All of them once, in any order, then as often as they are to be.
        let mut deck: Vec<_> = Event::ALL.iter().map(|(event, _)| *event).collect();
        let mut next = Instant::now() + Duration::from_secs(3);
        let mut done = 0;
        while done < events || self.began.elapsed() < time {
            self.tick();
            if Instant::now() < next {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            let event = match deck.len() {
                0 => self.random_event(),
                left => deck[self.random.within(0..left as u64) as usize],
            };
            // What is not possible now is another time.
            if self.happens(event) {
                deck.retain(|other| *other != event);
                *self.events.entry(event).or_default() += 1;
                done += 1;
                next = Instant::now() + self.random.millis(pause / 5..pause * 9 / 5);
            }
        }
    }

    fn random_event(&mut self) -> Event {
        let mut at = self.random.within(0..Event::ALL.iter().map(|(_, weight)| weight).sum());
        for (event, weight) in Event::ALL {
            match at.checked_sub(weight) {
                None => return event,
                Some(rest) => at = rest,
            }
        }
        unreachable!("within the sum of the weights")
    }

    /// Makes good what is due, and looks at everything.
    fn tick(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.repairs).into_iter().partition(|(at, _)| *at <= now);
        self.repairs = later;
        for (_, repair) in Vec::from_iter::<Vec<(Instant, Repair)>>(due) {
            self.repair(repair);
        }
        self.nodes.iter_mut().for_each(Node::look);
        self.kafka.assert_alive();
        let brokers_are_up = !self.repairs.iter().any(|(_, repair)| repair.is_of_a_broker());
        if self.broker_away && brokers_are_up && self.kafka.whole() {
            self.broker_away = false;
        }
    }

    fn repair(&mut self, repair: Repair) {
        self.say(&format!("repair {repair:?}"));
        match repair {
            Repair::Start(node) => self.nodes[node].start(&mut self.random),
            Repair::Wake(node) => self.nodes[node].wake(),
            Repair::StartBroker(number) => self.kafka.spawn(number),
            Repair::WakeBroker(number) => self.kafka.signal(number, "CONT"),
            Repair::MendBroker(number) => self.kafka.mend(number),
            Repair::StartStore => {
                self.store.start_again();
                self.store_down = false;
            }
            Repair::EndOutage => {
                self.proxy.set(Mode::Pass);
                self.proxy.cut_all();
                self.outage = false;
            }
        }
    }

    /// Whether it was possible.
    fn happens(&mut self, event: Event) -> bool {
        match event {
            Event::CollectorKilled => self.collector(State::Up).map(|node| self.kill(node, 0..2_000)),
            Event::CollectorFrozen => self.collector(State::Up).map(|node| self.freeze(node, 500..9_000)),
            Event::CollectorRestarted => self.collector(State::Up).map(|node| self.restart(node, 0..1_000)),
            Event::ShipperKilled => self.shipper(State::Up).map(|node| {
                self.wait_for_a_moment(50);
                self.kill(node, 0..4_000);
            }),
            Event::ShippersKilled => self.shipper(State::Up).map(|_| {
                self.wait_for_a_moment(60);
                let running = |node: &usize| !self.nodes[*node].collects && self.nodes[*node].state == State::Up;
                let all: Vec<_> = (0..self.nodes.len()).filter(running).collect();
                all.into_iter().for_each(|node| self.kill(node, 0..2_000));
            }),
            Event::ShipperFrozen => self.shipper(State::Up).map(|node| {
                // Its commit is the first that it does when it wakes up.
                self.wait_for_a_moment(30);
                self.freeze(node, SESSION_MILLIS + 1_000..SESSION_MILLIS * 2);
            }),
            // One stays.
            Event::ShipperLeaves => self.shippers(State::Up).get(1).copied().map(|node| {
                self.nodes[node].terminate();
                self.nodes[node].state = State::Absent;
                self.say(&format!("{} has left", self.nodes[node].name));
            }),
            Event::ShipperJoins => self.shipper(State::Absent).map(|node| self.nodes[node].start(&mut self.random)),
            Event::BrokerKilled => self.broker(Repair::StartBroker, 0..6_000, Kafka::kill),
            Event::BrokerRestarted => self.broker(Repair::StartBroker, 0..3_000, Kafka::terminate),
            Event::BrokerFrozen => {
                self.broker(Repair::WakeBroker, 1_000..12_000, |kafka, number| kafka.signal(number, "STOP"))
            }
            Event::BrokerCutOff => self.broker(Repair::MendBroker, 1_000..12_000, |kafka, number| kafka.cut(number)),
            Event::StoreKilled => (!self.store_down).then(|| {
                self.store.kill();
                self.store_down = true;
                self.later(Repair::StartStore, 0..3_000);
            }),
            Event::StoreOutage => (!self.outage).then(|| self.break_uploads()),
        }
        .map(|()| self.say(&format!("{event:?}")))
        .is_some()
    }

    fn kill(&mut self, node: usize, away: std::ops::Range<u64>) {
        self.nodes[node].kill();
        self.later(Repair::Start(node), away);
    }

    fn restart(&mut self, node: usize, away: std::ops::Range<u64>) {
        self.nodes[node].terminate();
        self.later(Repair::Start(node), away);
    }

    fn freeze(&mut self, node: usize, away: std::ops::Range<u64>) {
        self.nodes[node].freeze();
        self.later(Repair::Wake(node), away);
    }

    fn broker(
        &mut self,
        repair: fn(usize) -> Repair,
        away: std::ops::Range<u64>,
        happens: fn(&mut Kafka, usize),
    ) -> Option<()> {
        if self.broker_away {
            return None;
        }
        self.broker_away = true;
        let number = self.random.within(0..self.kafka.count() as u64) as usize;
        happens(&mut self.kafka, number);
        self.later(repair(number), away);
        Some(())
    }

    fn break_uploads(&mut self) {
        self.outage = true;
        let after = self.random.within(0..20_000) as usize;
        let mode = *self.random.pick(&[
            Mode::Refuse,
            Mode::Hang,
            Mode::Answer(503),
            Mode::LoseAnswer,
            Mode::ChangeAnswer(500),
            Mode::ChangeAnswer(409),
            Mode::CutUploadAfter(after),
            Mode::Slow(8_000),
        ]);
        if mode == Mode::Refuse {
            self.proxy.set(mode)
        } else {
            self.proxy.set_uploads(mode)
        }
        self.say(&format!("{mode:?}"));
        self.later(Repair::EndOutage, 1_000..8_000);
    }

    fn later(&mut self, repair: Repair, after: std::ops::Range<u64>) {
        let at = Instant::now() + self.random.millis(after);
        self.repairs.push((at, repair));
    }

    fn collector(&mut self, state: State) -> Option<usize> {
        let found: Vec<_> = (0..COLLECTORS).filter(|node| self.nodes[*node].state == state).collect();
        (!found.is_empty()).then(|| *self.random.pick(&found))
    }

    fn shipper(&mut self, state: State) -> Option<usize> {
        let found = self.shippers(state);
        (!found.is_empty()).then(|| *self.random.pick(&found))
    }

    fn shippers(&self, state: State) -> Vec<usize> {
        (COLLECTORS..self.nodes.len()).filter(|node| self.nodes[*node].state == state).collect()
    }

    /// Mostly right after something was stored: a cut, whose objects are not
    /// there yet (so many times in a hundred), or an object, whose offset is
    /// not committed yet.
    fn wait_for_a_moment(&mut self, percent_cuts: u64) {
        if self.random.chance(15) {
            return;
        }
        let wanted = self.random.chance(percent_cuts);
        let mut watch = Watch::new();
        watch.add(&self.store.bucket());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let is_cut = |path: &std::path::Path| path.components().any(|part| part.as_os_str() == "_cut");
            if watch.changes().iter().any(|(path, change)| *change == Change::Made && is_cut(path) == wanted) {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Makes good everything, ends the input and waits until all is shipped.
    fn settle(&mut self) {
        self.say("settle");
        for (_, repair) in std::mem::take(&mut self.repairs) {
            self.repair(repair);
        }
        self.kafka.wait_whole();
        for node in &mut self.nodes {
            if node.state == State::Absent {
                node.start(&mut self.random);
            }
        }
        for node in &mut self.nodes {
            let Some(writer) = node.writer.take() else { continue };
            let written = writer.stop();
            self.input.lines += written.lines;
            self.input.rotations += written.rotations;
            self.input
                .records
                .extend(written.records.into_iter().map(|(record, count)| (format!("{} {record}", node.name), count)));
            let greypit = &mut node.greypit;
            wait_up_to(SETTLE, &format!("{} to have sent everything", node.name), || {
                greypit.assert_alive();
                let zero = |name: &str| greypit.metric(name) == Some(0.0);
                // In this order: before it has looked at a file there is no lag either.
                let read = greypit.metric("greypit_maillog_files").is_some_and(|files| files > 0.0)
                    && zero("greypit_maillog_lag_bytes");
                (read && zero("greypit_waiting_events")).then_some(())
            });
        }
        wait_committed(&self.kafka, "greypit", SETTLE);
        for node in &mut self.nodes {
            let greypit = &mut node.greypit;
            wait_for(&format!("{} to be ready", node.name), || {
                greypit.assert_alive();
                greypit.get("/readyz").filter(|(status, _)| *status == 200)
            });
            node.terminate();
        }
    }

    fn compare(&mut self) {
        let held = check_topics(&self.kafka, true);
        let reader = &self.nodes[0].greypit;
        let (verdict, complaints) = reader.verify();
        let mut found = Records::new();
        reader.cat(|line| {
            let record: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let node = record["node"].as_str().unwrap_or("?");
            *found.entry(format!("{node} {}", identity(&record))).or_default() += 1;
        });
        self.report(&held, &format!("{verdict:?}"));
        let differences = differences(&self.input.records, &found);
        assert!(differences.is_empty(), "logs and store differ:\n{}", differences.join("\n"));
        assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
        assert_eq!(verdict.records, self.input.records.values().sum::<u64>());
        assert_eq!(held.events, verdict.records, "what the topics hold");
        // Few events may by chance meet nothing hard.
        if self.events.values().sum::<u64>() >= 100 {
            let met = |name: &str| self.nodes.iter().map(|node| node.counter(name)).sum::<u64>() > 0;
            assert!(held.repeats > 0, "no event was sent twice");
            assert!(met("greypit_kafka_repeated_events_total"), "none was dropped");
            assert!(met("greypit_kafka_cuts_total{cut=\"before\"}"), "no cut was found");
            assert!(met("greypit_store_existing_total{object=\"same\"}"), "no object was found");
        }
    }

    /// The figures are to be seen where all is well, too.
    fn report(&self, held: &Held, verdict: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let Input { lines, rotations, records } = &self.input;
        let mut text = format!(
            "chaos: {} events in {seconds:.0} s, GREYPIT_SEED={}; {lines} lines, {rotations} rotations, {} records\n  \
             {verdict}\n  in the topics: {} events, {} of them repeated\n",
            self.events.values().sum::<u64>(),
            self.seed,
            records.values().sum::<u64>(),
            held.events,
            held.repeats,
        );
        for (event, count) in &self.events {
            writeln!(text, "  {:<20} {count:>5}", format!("{event:?}")).expect("a String takes everything");
        }
        for name in COUNTERS {
            let sum: u64 = self.nodes.iter().map(|node| node.counter(name)).sum();
            writeln!(text, "  {name:<44} {sum:>9}").expect("a String takes everything");
        }
        std::io::stderr().write_all(text.as_bytes()).expect("stderr");
    }

    /// Shown where the test fails, or with `--nocapture`.
    fn say(&self, text: &str) {
        eprintln!("{:>7.1} {text}", self.began.elapsed().as_secs_f64());
    }
}
