//! A log folder, a tail over it and the groups that it filled. Time is virtual: [`Bench::later`] moves it.

mod lines;
mod model;
mod paths;
mod recovery;
mod rotation;
mod task;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use greypit_pipeline::units::Size;
use greypit_pipeline::{Group, Kind};
use prometheus::Registry;

use super::config::Config;
use super::file::Now;
use super::follow::{Changes, Tail};
use super::metrics::Metrics;
use super::{Line, QUIET};

const KIND: Kind = Kind::new("line");

/// A record that a line can be read back from: `{"<entry>":"<hex>"}`, or with `cut` in front of the entry.
fn record(line: Line<'_>, group: &mut Group) {
    let cut = if line.truncated { "cut" } else { "" };
    let hex: String = line.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    group.push(KIND, format!("{{\"{cut}{}\":\"{hex}\"}}", line.entry).as_bytes()).unwrap();
}

/// The lines of a group as text; `…` marks one that was cut.
fn lines(group: &Group) -> Vec<String> {
    let text = |body: &[u8]| {
        let body = std::str::from_utf8(body).unwrap();
        let hex = body.split('"').nth(3).unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let ending = if body.contains("cut") { "…" } else { "" };
        format!("{}{ending}", bytes.escape_ascii())
    };
    group.iter().map(|(_, body)| text(body)).collect()
}

/// A line long enough to tell its file.
fn long(text: &str) -> String {
    format!("{text} {}", "-".repeat(80))
}

struct Bench {
    folder: tempfile::TempDir,
    configs: Vec<Config>,
    tail: Tail,
    registry: Registry,
    now: Now,
    /// Filled groups; only those before `durable` survive a crash.
    groups: Vec<Group>,
    durable: usize,
}

impl Bench {
    /// Follows `pattern` in a new folder.
    fn new(pattern: &str) -> Bench {
        Bench::with(&[pattern], |_| {})
    }

    fn with(patterns: &[&str], change: impl Fn(&mut Config)) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let configs: Vec<Config> = patterns
            .iter()
            .map(|pattern| {
                let mut config = Config::new(folder.path().join(pattern).to_str().unwrap());
                config.max_line = Size(1024);
                change(&mut config);
                config
            })
            .collect();
        let (tail, registry) = start(&configs, &HashMap::new());
        Bench { folder, configs, tail, registry, now: Now::read(), groups: Vec::new(), durable: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Appends through a new handle, creating the file.
    fn append(&self, name: &str, bytes: impl AsRef<[u8]>) -> File {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
        file
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// As logrotate does it: a copy, then truncation.
    fn copytruncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        OpenOptions::new().write(true).open(self.path(from)).unwrap().set_len(0).unwrap();
    }

    /// greypit waits. The times of files stand still, so the wall clock does too.
    fn later(&mut self, time: Duration) {
        self.now.steady += time;
    }

    /// Time goes by while greypit is down.
    fn later_by_the_wall(&mut self, time: Duration) {
        self.now.wall += time;
    }

    /// Fills one group; says whether there is more.
    fn step(&mut self) -> bool {
        self.tail.wake(&Changes { all: true, ..Changes::default() });
        self.fill()
    }

    fn fill(&mut self) -> bool {
        self.tail.tick(self.now, true);
        let filled = self.tail.fill(self.now, &mut record);
        if !filled.group.is_empty() {
            self.groups.push(filled.group);
        }
        filled.more
    }

    /// Reads what there is; returns the new lines.
    fn read(&mut self) -> Vec<String> {
        let before = self.groups.len();
        while self.step() {}
        self.groups[before..].iter().flat_map(lines).collect()
    }

    /// Reads after a while in which files that left their path have become quiet.
    fn read_quiet(&mut self) -> Vec<String> {
        let mut all = self.read();
        self.later(QUIET);
        all.extend(self.read());
        all
    }

    /// Everything so far is fsynced.
    fn sync(&mut self) {
        self.durable = self.groups.len();
    }

    /// Dies, forgetting what is not fsynced, and starts again.
    fn crash(&mut self) {
        self.groups.truncate(self.durable);
        let (tail, registry) = start(&self.configs, &self.checkpoints());
        (self.tail, self.registry) = (tail, registry);
    }

    /// Stops and starts in order.
    fn restart(&mut self) {
        self.sync();
        self.crash();
    }

    fn checkpoints(&self) -> HashMap<String, Vec<u8>> {
        let mut states = HashMap::new();
        for checkpoint in self.groups.iter().flat_map(Group::checkpoints) {
            states.insert(checkpoint.source.clone(), checkpoint.state.clone());
        }
        states.retain(|_, state| !state.is_empty());
        states
    }

    fn all(&self) -> Vec<String> {
        self.groups.iter().flat_map(lines).collect()
    }

    /// A metric, summed over its labels; `reason` as in `errors_total/gone`.
    fn metric(&self, name: &str) -> i64 {
        let (name, reason) = name.split_once('/').map_or((name, None), |(name, reason)| (name, Some(reason)));
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == format!("greypit_maillog_{name}"));
        let wanted = |metric: &&prometheus::proto::Metric| {
            reason.is_none_or(|reason| metric.get_label().iter().any(|label| label.value() == reason))
        };
        let value = |metric: &prometheus::proto::Metric| {
            (metric.get_counter().get_value() + metric.get_gauge().get_value()) as i64
        };
        family.map_or(0, |family| family.get_metric().iter().filter(wanted).map(value).sum())
    }
}

fn start(configs: &[Config], recovered: &HashMap<String, Vec<u8>>) -> (Tail, Registry) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    (Tail::new(configs, recovered, &metrics, QUIET).unwrap(), registry)
}
