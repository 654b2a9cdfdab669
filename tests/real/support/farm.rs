//! greypits that share the work through Kafka: what one needs in its config,
//! and whether the topics hold what they must.

use super::greypit::Greypit;
use super::kafka::{Kafka, kcat};
use super::wait_up_to;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;
use toml::{Table, Value};

/// Sends a greypit's events through this Kafka; `roles` are what it does.
pub(crate) fn through(greypit: &mut Greypit, kafka: &Kafka, roles: &[&str]) {
    greypit.set("roles", roles.to_vec());
    greypit.set("kafka.brokers", kafka.addrs());
}

/// Settings of librdkafka.
pub(crate) fn properties(greypit: &mut Greypit, properties: &[(&str, &str)]) {
    let table = properties.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
    greypit.set("kafka.properties", Table::from_iter(table));
}

/// Waits until the group has committed all that is in the topics.
pub(crate) fn wait_committed(kafka: &Kafka, group: &str, limit: Duration) {
    let mut behind = BTreeMap::new();
    let what = "the group to have shipped everything";
    let end = std::time::Instant::now() + limit;
    wait_up_to(limit + Duration::from_secs(1), what, || {
        behind = behind_of(kafka, group);
        assert!(std::time::Instant::now() < end, "after {limit:?} still waiting for {what}: {behind:?}");
        behind.is_empty().then_some(())
    });
}

/// Messages that the group has not committed, by topic and partition.
pub(crate) fn behind_of(kafka: &Kafka, group: &str) -> BTreeMap<String, i64> {
    let mut behind = BTreeMap::new();
    for topic in kafka.topics().into_keys().filter(|topic| topic.starts_with("greypit.")) {
        let committed = kafka.committed(group, &topic);
        for (partition, end) in kafka.ends(&topic) {
            let left = end - committed.get(&partition).unwrap_or(&0);
            if left != 0 {
                behind.insert(format!("{topic}/{partition}"), left);
            }
        }
    }
    behind
}

/// What the topics hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Different ids.
    pub(crate) events: u64,
    /// Messages whose id was there before.
    pub(crate) repeats: u64,
}

/// A node's numbers of a kind.
struct Stream {
    partition: String,
    first: u64,
    /// The one that comes next, unless some are repeated.
    next: Option<u64>,
}

/// Reads all topics of greypit's, and checks that each node's numbers of a
/// kind are in one partition and come first in order, without a gap. They begin
/// with 1 unless the node has shipped some by itself before.
pub(crate) fn check_topics(kafka: &Kafka, from_one: bool) -> Held {
    let mut held = Held::default();
    for topic in kafka.topics().into_keys().filter(|topic| topic.starts_with("greypit.")) {
        let mut streams: HashMap<String, Stream> = HashMap::new();
        let mut command = kcat();
        command.args(["-C", "-b", &kafka.addrs(), "-t", &topic, "-o", "beginning", "-e", "-q", "-f", "%p %o %h\n"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("kcat starts");
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            let line = line.expect("headers are UTF-8");
            let (partition, rest) = line.split_once(' ').expect("a partition");
            let id = rest.split([' ', ',']).find_map(|header| header.strip_prefix("id=")).expect("an id");
            let (stream, number) = id.rsplit_once('-').expect("a number");
            let number: u64 = number.parse().expect("a number");
            let begin =
                || Stream { partition: partition.to_owned(), first: if from_one { 1 } else { number }, next: None };
            let stream = streams.entry(stream.to_owned()).or_insert_with(begin);
            assert_eq!(stream.partition, partition, "two partitions of a stream: {topic}: {line}");
            let next = stream.next.unwrap_or(stream.first);
            assert!(number <= next, "without its predecessors from {next} on: {topic}: {line}");
            held.repeats += u64::from(number < next);
            stream.next = Some(next.max(number + 1));
        }
        assert!(child.wait().expect("a child of ours").success(), "kcat failed");
        held.events += streams.values().map(|stream| stream.next.unwrap_or(stream.first) - stream.first).sum::<u64>();
    }
    held
}
