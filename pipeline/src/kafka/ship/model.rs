//! A model of everything around the lanes of one partition: the log, the group, the store, and owners that crash, hang
//! and wake up late. What the lanes want is done by the real code on a store in memory, one step at a time, in an order
//! that a seed decides. At the end one owner is left in peace; then every event of the log is in exactly one object.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::time::{Duration, Instant};

use super::batch::{Message, Now};
use super::cut::{self, Cut, Form, Name, Part, Place};
use super::lane::{Answer, Effect, Lane};
use super::objects::{Growing, Ready};
use super::start::{self, Log};
use crate::codec::Codec;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::upload::Uploader;
use crate::workers::Workers;
use crate::{Health, Kind, Metrics};

const NODES: usize = 3;
const WINDOW_MS: u64 = 10_000;

/// splitmix64: a seed is one history.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is under way for an owner.
enum Task {
    FindStart { not: Vec<u32>, log: Option<Log> },
    PutCut(Box<Cut>),
    Finish { cut: Box<Cut>, objects: Vec<(Part, Growing)>, look_ahead: bool },
    PutObjects { cut: Box<Cut>, objects: VecDeque<Ready>, look_ahead: bool },
}

struct Owner {
    lane: Lane,
    number: u64,
    position: i64,
    task: Option<Task>,
}

struct Message0 {
    id: String,
    timestamp_ms: i64,
    value: Vec<u8>,
}

/// What may happen in a history, besides crashes and zombies.
#[derive(Clone, Copy)]
struct Rules {
    /// Retention deletes messages that have not been shipped.
    loses: bool,
    /// The topic is deleted and made anew once everything is in the store.
    renews: bool,
}

struct World {
    seed: u64,
    dice: Dice,
    rules: Rules,
    log: Vec<Message0>,
    /// The offset of the first message that retention has left.
    low: i64,
    next_seq: [u64; NODES],
    committed: Option<(i64, String)>,
    owners: Vec<Owner>,
    /// The owner that the group knows.
    current: u64,
    numbers: u64,
    uploader: Uploader,
    store: MemoryStore,
    workers: Workers,
    begun: Instant,
    elapsed: Duration,
    runtime: tokio::runtime::Runtime,
    /// The newest life that is not of this log.
    old_life: Option<u32>,
    /// Ids of logs that are gone.
    gone: Vec<String>,
}

fn place() -> Place {
    Place { topic: "greypit.to".into(), partition: 3, kind: Kind::new("to") }
}

impl World {
    fn new(seed: u64, rules: Rules, workers: &Workers) -> World {
        let store = MemoryStore::default();
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let uploader = Uploader { store: Store::Memory(store.clone()), health: Health::new(), metrics };
        let mut world = World {
            seed,
            dice: Dice(seed),
            rules,
            log: Vec::new(),
            low: 0,
            next_seq: [1; NODES],
            committed: None,
            owners: Vec::new(),
            current: 0,
            numbers: 0,
            uploader,
            store,
            workers: workers.clone(),
            begun: Instant::now(),
            elapsed: Duration::from_secs(1_000_000),
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            old_life: None,
            gone: Vec::new(),
        };
        world.join();
        world
    }

    fn high(&self) -> i64 {
        self.log.len() as i64
    }

    fn now(&self) -> Now {
        Now { wall_ms: self.elapsed.as_millis() as i64, instant: self.begun + self.elapsed }
    }

    /// A new owner, with a config of its own.
    fn join(&mut self) {
        let codec = [Codec::None, Codec::Gzip][self.dice.below(2) as usize];
        let form = Form {
            codec,
            level: codec.default_level(),
            key: ["{prefix}/{kind}-{date}-{HH}-{MM}-{part}.json{ext}", "{kind}/{part}-{HH}{MM}.json{ext}"]
                [self.dice.below(2) as usize]
                .into(),
            prefix: "mail".into(),
            window_s: [10, 60][self.dice.below(2) as usize],
        };
        let bytes_max = [200, 1_000, 1 << 20][self.dice.below(3) as usize];
        let lane = Lane::new(place(), form, bytes_max, self.workers.clone());
        self.numbers += 1;
        self.current = self.numbers;
        self.owners.push(Owner { lane, number: self.numbers, position: 0, task: None });
    }

    /// A node sends what comes next, or again what it may have sent, or has not sent all of it before.
    fn produce(&mut self) {
        let node = self.dice.below(NODES as u64) as usize;
        let next = self.next_seq[node];
        // Not together with loss: see the limits in the module above.
        let from = if !self.rules.loses && self.dice.one_in(4) {
            next.saturating_sub(self.dice.below(12)).max(1)
        } else {
            next
        };
        let to = next + self.dice.below(5);
        for seq in from..to {
            self.append(node, seq);
        }
        self.next_seq[node] = to.max(next);
        if self.dice.one_in(20) {
            let value = [&b"no record"[..], b"{\"id\":\"mx0-e-from-1\"}"][self.dice.below(2) as usize];
            self.log.push(Message0 { id: String::new(), timestamp_ms: self.now().wall_ms, value: value.into() });
        }
    }

    fn append(&mut self, node: usize, seq: u64) {
        let id = format!("mx{node}-e-to-{seq}");
        let value = format!("{{\"id\":\"{id}\",\"node\":\"mx{node}\"}}").into_bytes();
        // Some come late, out of a spool.
        let late = if self.dice.one_in(6) { self.dice.below(3 * WINDOW_MS) as i64 } else { 0 };
        self.log.push(Message0 { id, timestamp_ms: self.now().wall_ms - late, value });
    }

    fn step(&mut self) {
        let owners = self.owners.len() as u64;
        match self.dice.below(100) {
            0..10 => self.produce(),
            10..20 => {
                self.elapsed += Duration::from_millis(self.dice.below(WINDOW_MS));
            }
            20..22 => {
                // Killed; another takes over.
                let owner = self.dice.below(owners) as usize;
                let was_current = self.owners[owner].number == self.current;
                self.owners.remove(owner);
                if was_current {
                    self.join();
                }
            }
            // Lost its partition without knowing it.
            22..24 => {
                if owners < 4 {
                    self.join();
                }
            }
            24 => {
                let high = self.high();
                let reset = [None, Some((0, String::new())), Some((high, String::new())), Some((high / 2, "x".into()))];
                self.committed = reset[self.dice.below(4) as usize].clone();
            }
            25 => self.retain(),
            26 if self.rules.renews && self.dice.one_in(4) => self.renew(),
            roll => {
                let owner = self.dice.below(owners) as usize;
                self.act(owner, roll < 60);
            }
        }
    }

    /// Retention deletes what is shipped, or more.
    fn retain(&mut self) {
        let cuts = self.runtime.block_on(cut::last_of_lives(&self.uploader, &place())).unwrap();
        let shipped = match cuts.first() {
            Some(name) if !self.rules.loses && Some(name.life) > self.old_life => name.start,
            _ if self.rules.loses => self.high(),
            _ => 0,
        };
        let to = self.low + self.dice.below(8) as i64;
        self.low = self.low.max(to.min(shipped));
    }

    /// Another log under the same name. What the nodes had not heard of is sent once more.
    fn renew(&mut self) {
        self.settle();
        let old = std::mem::take(&mut self.log);
        self.gone.extend(old.into_iter().skip(self.low as usize).map(|message| message.id));
        self.low = 0;
        let lives = self.runtime.block_on(cut::last_of_lives(&self.uploader, &place())).unwrap();
        self.old_life = lives.first().map(|name| name.life);
        self.committed = None;
        self.owners.clear();
        for node in 0..NODES {
            let next = self.next_seq[node];
            for seq in next.saturating_sub(self.dice.below(3)).max(1)..next + 1 + self.dice.below(9) {
                self.append(node, seq);
                self.next_seq[node] = self.next_seq[node].max(seq + 1);
            }
        }
        self.join();
    }

    /// One owner does one thing.
    fn act(&mut self, at: usize, reads: bool) {
        let now = self.now();
        let (low, high) = (self.low, self.high());
        let owner = &mut self.owners[at];
        if reads {
            for _ in 0..self.dice.below(12) {
                let offset = owner.position.max(low);
                let Some(message) = self.log.get(offset as usize) else { break };
                if !owner.lane.wants_messages(1 << 20) {
                    break;
                }
                owner.position = offset + 1;
                let Message0 { timestamp_ms, value, .. } = message;
                owner.lane.message(&Message { offset, timestamp_ms: *timestamp_ms, value }, &now);
                Self::collect(owner, &mut self.committed, self.current, &mut self.dice, &now);
            }
        }
        // Statistics come late, too.
        owner.lane.tick(&now, Some(low), (!self.dice.one_in(3)).then_some(high));
        if self.dice.one_in(30) {
            owner.lane.end_now(&now);
        }
        Self::collect(owner, &mut self.committed, self.current, &mut self.dice, &now);
        self.work(at);
    }

    /// Takes what a lane wants; what is short is done at once.
    fn collect(owner: &mut Owner, committed: &mut Option<(i64, String)>, current: u64, dice: &mut Dice, now: &Now) {
        for effect in owner.lane.effects() {
            let task = match effect {
                Effect::FindStart { not } => Task::FindStart { not, log: None },
                Effect::PutCut(cut) => Task::PutCut(cut),
                Effect::PutObjects { cut, objects, look_ahead } => Task::Finish { cut, objects, look_ahead },
                Effect::Seek(offset) => {
                    if dice.one_in(8) {
                        owner.lane.seek_failed(now);
                    } else {
                        owner.position = offset;
                    }
                    continue;
                }
                Effect::Commit { offset, cut } => {
                    // The group takes it from the owner that it knows; some are lost.
                    if owner.number == current && !dice.one_in(5) {
                        *committed = Some((offset, start::note(cut)));
                    }
                    continue;
                }
            };
            assert!(owner.task.is_none(), "a lane waits for one thing at a time");
            owner.task = Some(task);
        }
    }

    /// Does one step of what is under way for an owner. The store may be away, and its answer may be lost.
    fn work(&mut self, at: usize) {
        let Some(task) = self.owners[at].task.take() else { return };
        let is_away = self.dice.one_in(10);
        let is_answer_lost = self.dice.one_in(10);
        let (uploader, place) = (self.uploader.clone(), place());
        let (answer, left) = match task {
            Task::FindStart { not, log: None } => {
                let log = Log { low: self.low, high: self.high(), committed: self.committed.clone() };
                (None, Some(Task::FindStart { not, log: Some(log) }))
            }
            task if is_away => (None, Some(task)),
            Task::FindStart { not, log: Some(log) } => {
                // What was asked first may be old by now.
                let asked = std::cell::Cell::new(Some(log));
                let fresh = || Log { low: self.low, high: self.high(), committed: self.committed.clone() };
                let ask = || std::future::ready(Ok(asked.take().unwrap_or_else(fresh)));
                let start = self.runtime.block_on(start::find(&uploader, &place, &not, ask)).unwrap();
                (Some(Answer::Start(start)), None)
            }
            Task::PutCut(cut) => {
                let theirs = self.runtime.block_on(cut::put(&uploader, &place, &cut)).unwrap();
                match is_answer_lost {
                    true => (None, Some(Task::PutCut(cut))),
                    false => (Some(Answer::Cut(theirs.map(Box::new))), None),
                }
            }
            Task::Finish { cut, objects, look_ahead } => {
                let workers = &self.workers;
                let ready = self.runtime.block_on(async {
                    let mut ready = VecDeque::new();
                    for (part, growing) in objects {
                        ready.push_back(Ready::new(&place, &cut, &part, growing, workers).await.unwrap());
                    }
                    ready
                });
                (None, Some(Task::PutObjects { cut, objects: ready, look_ahead }))
            }
            Task::PutObjects { cut, mut objects, look_ahead } => match objects.front() {
                Some(object) => {
                    let ours = self.runtime.block_on(object.try_put(&uploader)).unwrap();
                    // What retention has taken of a batch may be made up for by repeats further on.
                    let is_whole = self.low <= cut.start;
                    assert!(ours || !is_whole || self.rules.loses, "seed {}: an object differs: {object:?}", self.seed);
                    if !is_answer_lost {
                        objects.pop_front();
                    }
                    (None, Some(Task::PutObjects { cut, objects, look_ahead }))
                }
                None => {
                    let next = Name { life: cut.life, start: cut.end + 1 };
                    let next = match look_ahead {
                        true => self.runtime.block_on(cut::get(&uploader, &place, next)).unwrap(),
                        false => None,
                    };
                    (Some(Answer::Shipped(next.map(Box::new))), None)
                }
            },
        };
        let now = self.now();
        let owner = &mut self.owners[at];
        owner.task = left;
        if let Some(answer) = answer {
            owner.lane.answer(answer, &now);
            Self::collect(owner, &mut self.committed, self.current, &mut self.dice, &now);
        }
    }

    /// Lets the zombies do what they still have, then one owner do everything.
    fn settle(&mut self) {
        for round in 0..3_000 {
            let owners = self.owners.len();
            let at = if round < 300 { round % owners } else { owners - 1 };
            self.elapsed += Duration::from_millis(WINDOW_MS / 4);
            if round == 300 {
                self.owners.retain(|owner| owner.number == self.current);
                if self.owners.is_empty() {
                    self.join();
                }
            } else {
                self.act(at, true);
            }
            let only = &self.owners[0];
            if round > 300 && only.task.is_none() && only.lane.next() == Some(self.high()) && only.lane.is_idle() {
                return;
            }
        }
        panic!("the partition does not come to its end: {:?}", self.owners[0].lane);
    }

    /// Every id in the store, with how often it is there.
    fn shipped(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        for (key, bytes) in self.store.objects().iter().filter(|(key, _)| !key.starts_with('_')) {
            let mut text = String::new();
            Codec::of_key(key).decoder(bytes).read_to_string(&mut text).unwrap();
            for line in text.lines() {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                *found.entry(record["id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        found
    }

    fn check(&self) {
        let seed = self.seed;
        let shipped = self.shipped();
        let twice: Vec<_> = shipped.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "seed {seed}: more than once: {twice:?}");
        if self.rules.loses {
            return;
        }
        let ids = self.log.iter().map(|message| &message.id).chain(&self.gone).filter(|id| !id.is_empty());
        let lost: Vec<_> = ids.filter(|id| !shipped.contains_key(*id)).collect();
        assert!(lost.is_empty(), "seed {seed}: lost: {lost:?}");
    }
}

fn histories(seeds: std::ops::Range<u64>, rules: Rules) {
    let workers = Workers::start(1).unwrap();
    let mut cuts = 0;
    for seed in seeds {
        let mut world = World::new(seed, rules, &workers);
        for _ in 0..400 {
            world.step();
        }
        world.settle();
        world.check();
        cuts += world.store.objects().keys().filter(|key| key.starts_with('_')).count();
    }
    assert!(cuts > 200, "too little happened: {cuts} cuts");
}

#[test]
fn every_event_is_in_exactly_one_object_whatever_happens() {
    histories(0..400, Rules { loses: false, renews: false });
}

#[test]
fn another_log_under_the_same_name_is_shipped_beside_the_first() {
    histories(0..150, Rules { loses: false, renews: true });
}

#[test]
fn what_retention_takes_is_lost_but_nothing_is_there_twice() {
    histories(0..400, Rules { loses: true, renews: false });
}
