//! What it costs to go through Apache Kafka: `GREYPIT_CACHE=… cargo bench --bench kafka`, at most ten minutes.
//!
//! One broker, a directory as the store, a mail log by TCP syslog. Everything is a ratio to a reference that runs in
//! turn with it, pair by pair, and medians of the pairs. CPU time is user plus system of the greypit processes (or kcat);
//! the broker's is printed beside it, never in it.
//!
//! * `path`: CPU a message and messages a second from the first byte sent until everything is in the store and the
//!   processes have ended: the embedded path (spool → store) beside spool → Kafka → store with both roles in one process,
//!   and in two. With codec none, which is the cost outside of compressing objects (what producers compress for Kafka
//!   is in it), and with bzip2, which is the whole.
//! * `produce`: a spool that is full is sent to Kafka, beside kcat -P sending the same records with four headers from a
//!   file, both with zstd, acks=all and idempotence. From the start of the process to the last acknowledgement; greypit's
//!   start reads its spool once.
//! * `backlog`: messages of twelve nodes wait in Kafka, and as many in the spool of a node without Kafka; how fast either
//!   is shipped, with one compressing thread and with two. When half is shipped it is shown how far each partition is.

mod broker;
mod http;
mod maillog;
#[path = "../real/support/net.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod net;
mod node;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use broker::{Broker, kcat};
use greypit_pipeline::codec::Codec;
use node::{Node, Setup, copy};

const HELP: &str = "\
cargo bench --bench kafka -- [path] [produce] [backlog] [OPTIONS]      default: all three
  --pairs N      rounds of path with codec none, and of produce (3)
  --whole N      rounds of path with bzip2 (1)
  --rounds N     rounds of backlog (2)
  --messages N   mail messages, of about 2.3 log lines each, for path and produce (100000)
  --backlog N    log lines that wait in all (1000000)
  --codec NAME   of backlog (zstd)
GREYPIT_CACHE must be the folder in which tests/run.sh keeps Kafka's jars.";

const NODES: usize = 12;
const SPOOLED: &str = "greypit_spool_events_total";
const PRODUCED: &str = "greypit_kafka_produced_events_total";
const CONSUMED: &str = "greypit_kafka_consumed_events_total";
const SHIPPED: &str = "greypit_ship_events_total";
const LAG: &str = "greypit_kafka_consumer_lag";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.iter().any(|arg| arg == "--help") {
        println!("{HELP}");
        return;
    }
    let value = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let names = ["path", "produce", "backlog"];
    let all = !args.iter().any(|arg| names.contains(&arg.as_str()));
    let wanted = |name: &str| all || args.iter().any(|arg| arg == name);
    let bench = Bench { broker: Broker::start(), log: Log::new(value("--messages", 100_000)) };
    println!("input: {} lines, {:.1} MB of syslog over TCP", bench.log.lines, bench.log.text.len() as f64 / 1e6);
    if wanted("path") {
        bench.path("none", value("--pairs", 3));
        bench.path("bzip2", value("--whole", 1));
    }
    if wanted("produce") {
        bench.produce(value("--pairs", 3));
    }
    if wanted("backlog") {
        let codec = args.iter().position(|arg| arg == "--codec").and_then(|at| args.get(at + 1));
        let codec = codec.map_or("zstd", String::as_str);
        bench.backlog(value("--backlog", 1_000_000), value("--rounds", 2), codec);
    }
}

struct Log {
    text: Vec<u8>,
    lines: usize,
}

impl Log {
    fn new(messages: usize) -> Log {
        let mut text = Vec::new();
        maillog::write(messages, &mut text);
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        Log { text, lines }
    }
}

struct Bench {
    broker: Broker,
    log: Log,
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    seconds: f64,
    cpu: f64,
    /// The broker's.
    broker: f64,
}

impl Cost {
    fn say(&self, name: &str, messages: usize) {
        println!(
            "  {name}: {:.0} messages/s, {:.2} µs CPU a message; the broker {:.2} µs",
            messages as f64 / self.seconds,
            self.cpu * 1e6 / messages as f64,
            self.broker * 1e6 / messages as f64
        );
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Embedded,
    OneProcess,
    TwoProcesses,
}

impl Shape {
    const ALL: [Shape; 3] = [Shape::Embedded, Shape::OneProcess, Shape::TwoProcesses];

    fn name(self) -> &'static str {
        match self {
            Shape::Embedded => "embedded",
            Shape::OneProcess => "by Kafka, one process",
            Shape::TwoProcesses => "by Kafka, two processes",
        }
    }
}

impl Bench {
    fn path(&self, codec: &str, pairs: usize) {
        println!("path, codec {codec}:");
        let mut costs: BTreeMap<usize, Vec<Cost>> = BTreeMap::new();
        for pair in 0..pairs {
            for turn in 0..Shape::ALL.len() {
                let which = (turn + pair) % Shape::ALL.len();
                let cost = self.through(Shape::ALL[which], codec, &format!("path-{codec}-{pair}-{which}."));
                cost.say(Shape::ALL[which].name(), self.log.lines);
                costs.entry(which).or_default().push(cost);
            }
        }
        for which in 1..Shape::ALL.len() {
            let of = |which: usize| costs.get(&which).map_or(&[][..], Vec::as_slice);
            ratios(Shape::ALL[which].name(), "embedded", of(which), of(0));
        }
    }

    /// Sends the log through and waits until all of it is in the store.
    fn through(&self, shape: Shape, codec: &str, prefix: &str) -> Cost {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let objects = folder.path().join("objects");
        let batch = format!("window = \"1h\"\nworkers = 1\ncodec = \"{codec}\"");
        let setup = |data: &str, roles: &'static [&'static str]| Setup {
            node: "mx1",
            roles,
            data: folder.path().join(data),
            objects: objects.clone(),
            batch: &batch,
            kafka: (shape != Shape::Embedded).then_some((self.broker.address.as_str(), prefix)),
            group: prefix,
        };
        let (lines, broker_before, before) = (self.log.lines, cpu_of(self.broker.pid()), children_cpu());
        let shipper = (shape == Shape::TwoProcesses).then(|| Node::start(&setup("shipper", &["ship"])));
        let roles: &'static [&'static str] =
            if shape == Shape::TwoProcesses { &["collect"] } else { &["collect", "ship"] };
        let mut collector = Node::start(&setup("collector", roles));
        let began = Instant::now();
        collector.send(&self.log.text);
        collector.reach(SPOOLED, lines);
        match shipper {
            Some(mut shipper) => {
                collector.finish();
                shipper.reach(CONSUMED, lines);
                shipper.finish();
            }
            None => {
                if shape == Shape::OneProcess {
                    collector.reach(CONSUMED, lines);
                }
                collector.finish();
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let (cpu, broker) = (children_cpu() - before, cpu_of(self.broker.pid()) - broker_before);
        assert_eq!(records(&objects), lines, "everything once");
        Cost { seconds, cpu, broker }
    }

    fn produce(&self, pairs: usize) {
        println!("produce, a spool that is full:");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let full = self.fill_spool(&folder.path().join("full"), 1, self.log.lines);
        let records = self.records_file(folder.path());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            let mut ours_now = || ours.push(self.produce_spool(&full, folder.path(), &format!("produce-{pair}.")));
            let mut theirs_now = || theirs.push(self.produce_kcat(&records, &format!("kcat-{pair}")));
            if pair % 2 == 0 {
                ours_now();
                theirs_now();
            } else {
                theirs_now();
                ours_now();
            }
            ours[pair].say("greypit", self.log.lines);
            theirs[pair].say("kcat -P", self.log.lines);
        }
        ratios("greypit", "kcat -P", &ours, &theirs);
    }

    /// A data folder with nothing shipped of `times` logs.
    fn fill_spool(&self, data: &Path, times: usize, lines: usize) -> PathBuf {
        let mut node = Node::start(&Setup {
            node: "mx1",
            roles: &["collect", "ship"],
            data: data.into(),
            objects: data.with_extension("objects"),
            batch: "window = \"1d\"\nmax_bytes = \"1GiB\"\nflush_on_exit = false",
            kafka: None,
            group: "",
        });
        (0..times).for_each(|_| node.send(&self.log.text));
        node.reach(SPOOLED, lines);
        node.finish();
        data.into()
    }

    fn produce_spool(&self, full: &Path, folder: &Path, prefix: &str) -> Cost {
        let data = folder.join(prefix);
        copy(full, &data);
        let broker_before = cpu_of(self.broker.pid());
        let mut node = Node::start(&Setup {
            node: "mx1",
            roles: &["collect"],
            data: data.clone(),
            objects: folder.join("unused"),
            batch: "",
            kafka: Some((&self.broker.address, prefix)),
            group: "unused",
        });
        node.reach(PRODUCED, self.log.lines);
        let cost = Cost {
            seconds: node.began.elapsed().as_secs_f64(),
            cpu: cpu_of(node.pid()),
            broker: cpu_of(self.broker.pid()) - broker_before,
        };
        drop(node);
        fs::remove_dir_all(data).expect("the folder is removed");
        cost
    }

    /// The log's records as lines of key, tab, value.
    fn records_file(&self, folder: &Path) -> PathBuf {
        let objects = folder.join("objects");
        let mut node = Node::start(&Setup {
            node: "mx1",
            roles: &["collect", "ship"],
            data: folder.join("data"),
            objects: objects.clone(),
            batch: "window = \"1h\"\ncodec = \"none\"",
            kafka: None,
            group: "",
        });
        node.send(&self.log.text);
        node.reach(SPOOLED, self.log.lines);
        node.finish();
        let mut text = Vec::new();
        for object in objects_in(&objects) {
            for line in object.split_inclusive(|byte| *byte == b'\n') {
                text.extend_from_slice(b"mx1\t");
                text.extend_from_slice(line);
            }
        }
        let file = folder.join("records");
        fs::write(&file, text).expect("the file is written");
        file
    }

    fn produce_kcat(&self, records: &Path, topic: &str) -> Cost {
        let mut command = kcat();
        command.args(["-P", "-q", "-b", &self.broker.address, "-t", topic, "-K", "\t", "-z", "zstd"]);
        command.args(["-X", "acks=all", "-X", "enable.idempotence=true"]);
        for header in ["id=mx1-19aa0f3c2b1d04f-from-123456", "kind=from", "node=mx1", "ts=2026-11-20T12:55:00.123Z"] {
            command.args(["-H", header]);
        }
        command.arg("-l").arg(records).stdin(Stdio::null());
        let (broker_before, before, began) = (cpu_of(self.broker.pid()), children_cpu(), Instant::now());
        assert!(command.status().expect("kcat runs: run tests/run.sh once").success());
        Cost {
            seconds: began.elapsed().as_secs_f64(),
            cpu: children_cpu() - before,
            broker: cpu_of(self.broker.pid()) - broker_before,
        }
    }

    fn backlog(&self, messages: usize, rounds: usize, codec: &str) {
        let log = Log::new(self.log_messages(messages));
        let bench = &Bench { broker: Broker::start(), log };
        let total = bench.log.lines * NODES;
        println!("backlog: {total} messages of {NODES} nodes, codec {codec}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let full = bench.fill_spool(&folder.path().join("full"), NODES, total);
        bench.fill_topics(folder.path());
        // The windows of the backlog are over when it is shipped.
        std::thread::sleep(WINDOW + Duration::from_secs(2));
        // Objects small enough that a partition has several.
        let batch = format!("window = \"{}s\"\nmax_bytes = \"4MiB\"\ncodec = \"{codec}\"\n", WINDOW.as_secs());
        for workers in [1, 2] {
            let batch = format!("{batch}workers = {workers}");
            let (mut ours, mut embedded) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                let name = format!("ship-{workers}-{round}");
                let mut by_kafka = || ours.push(bench.drain(None, folder.path(), &name, &batch, total));
                let mut by_spool = || embedded.push(bench.drain(Some(&full), folder.path(), &name, &batch, total));
                if round % 2 == 0 {
                    by_kafka();
                    by_spool();
                } else {
                    by_spool();
                    by_kafka();
                }
                ours[round].say(&format!("from Kafka, {workers} compressing"), total);
                embedded[round].say(&format!("from a spool, {workers} compressing"), total);
            }
            ratios(&format!("from Kafka, {workers} compressing"), "from a spool", &ours, &embedded);
        }
    }

    /// How many mail messages make about as many lines for each node.
    fn log_messages(&self, lines: usize) -> usize {
        // 7 lines for 3 messages.
        (lines / NODES * 3 / 7).max(1)
    }

    /// Each node sends the log into the topics.
    fn fill_topics(&self, folder: &Path) {
        for number in 1..=NODES {
            let name = format!("mx{number}");
            let mut node = Node::start(&Setup {
                node: &name,
                roles: &["collect"],
                data: folder.join(&name),
                objects: folder.join("unused"),
                batch: "",
                kafka: Some((&self.broker.address, "backlog.")),
                group: "unused",
            });
            node.send(&self.log.text);
            node.reach(SPOOLED, self.log.lines);
            node.finish();
        }
    }

    /// Ships the backlog: that in Kafka, or a copy of that in a spool.
    fn drain(&self, spool: Option<&PathBuf>, folder: &Path, name: &str, batch: &str, total: usize) -> Cost {
        let (data, objects) = (folder.join("drain"), folder.join("drained"));
        let kafka = match spool {
            Some(full) => {
                copy(full, &data);
                None
            }
            None => Some((self.broker.address.as_str(), "backlog.")),
        };
        let broker_before = cpu_of(self.broker.pid());
        let roles: &[&str] = if kafka.is_some() { &["ship"] } else { &["collect", "ship"] };
        let setup =
            Setup { node: "mx1", roles, data: data.clone(), objects: objects.clone(), batch, kafka, group: name };
        let mut node = Node::start(&setup);
        let mut partitions = Partitions::default();
        node.wait("the backlog to be shipped", |node| {
            let shipped = node.sum(SHIPPED);
            if kafka.is_some() {
                partitions.see(node.series(LAG), shipped / total as f64);
            }
            (shipped >= total as f64).then_some(())
        });
        let cost = Cost {
            seconds: node.began.elapsed().as_secs_f64(),
            cpu: cpu_of(node.pid()),
            broker: cpu_of(self.broker.pid()) - broker_before,
        };
        node.finish();
        partitions.say();
        assert_eq!(records(&objects), total, "everything once");
        for folder in [data, objects] {
            fs::remove_dir_all(folder).expect("the folder is removed");
        }
        cost
    }
}

/// How long events are collected into one object where a backlog is shipped.
const WINDOW: Duration = Duration::from_secs(10);

/// How far each partition is.
#[derive(Debug, Default)]
struct Partitions {
    most: BTreeMap<String, f64>,
    /// When half of all was shipped: that, and what waited in each.
    half: Option<(f64, BTreeMap<String, f64>)>,
}

impl Partitions {
    fn see(&mut self, lag: Vec<(String, f64)>, shipped: f64) {
        for (partition, waiting) in &lag {
            let most = self.most.entry(partition.clone()).or_default();
            *most = most.max(*waiting);
        }
        if shipped >= 0.5 && self.half.is_none() {
            self.half = Some((shipped, lag.into_iter().collect()));
        }
    }

    fn say(&self) {
        let Some((shipped, waiting)) = &self.half else { return };
        let of_all = self.most.iter().filter(|(_, most)| **most > 0.0);
        let mut done: Vec<f64> =
            of_all.map(|(partition, most)| 1.0 - waiting.get(partition).copied().unwrap_or(*most) / most).collect();
        done.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (done.first(), done.last()) else { return };
        println!(
            "  when {:.0} % were shipped, {} of {} partitions with messages had shipped something: least {:.0} %, median {:.0} %, most {:.0} %",
            shipped * 100.0,
            done.iter().filter(|share| **share > 0.0).count(),
            done.len(),
            least * 100.0,
            done[done.len() / 2] * 100.0,
            most * 100.0
        );
    }
}

fn ratios(name: &str, reference: &str, ours: &[Cost], theirs: &[Cost]) {
    if ours.is_empty() {
        return;
    }
    let median_of = |f: fn(&Cost) -> f64| {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| f(ours) / f(theirs)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    println!(
        "{name} beside {reference}: {:.2} times the messages/s, {:.2} times the CPU (medians of {})",
        1.0 / median_of(|cost| cost.seconds),
        median_of(|cost| cost.cpu),
        ours.len()
    );
}

/// How many records lie in a store.
fn records(objects: &Path) -> usize {
    objects_in(objects).iter().map(|text| text.iter().filter(|byte| **byte == b'\n').count()).sum()
}

/// The content of all objects.
fn objects_in(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).expect("the object is there");
                let mut text = Vec::new();
                Codec::of_key(&name).decoder(&bytes).read_to_end(&mut text).expect("the object is whole");
                found.push(text);
            }
        }
    }
    found
}

/// CPU seconds of children that have ended; fields 16 and 17 of /proc/self/stat.
fn children_cpu() -> f64 {
    cpu("/proc/self/stat", 13)
}

/// CPU seconds of a process that runs.
fn cpu_of(pid: u32) -> f64 {
    cpu(&format!("/proc/{pid}/stat"), 11)
}

fn cpu(path: &str, field: usize) -> f64 {
    let stat = fs::read_to_string(path).expect("Linux, and it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    // USER_HZ is 100 on Linux.
    (ticks(field) + ticks(field + 1)) / 100.0
}
