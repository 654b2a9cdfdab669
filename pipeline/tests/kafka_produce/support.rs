//! A cluster, a pipeline in front of it, and what arrives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use greypit_pipeline::health::State;
use greypit_pipeline::kafka::{self, produce};
use greypit_pipeline::store::{self, Store};
use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Event, Health, Kind, Metrics, Parts, Pipeline, batch, spool};
use rdkafka::Offset;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::TopicPartitionList;

pub(crate) const TO: Kind = Kind::new("to");
pub(crate) const FROM: Kind = Kind::new("from");
pub(crate) const PARTITIONS: i32 = 4;

/// Only ends what hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// A cluster and the folder of a node.
pub(crate) struct Setup {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) node: Node,
}

/// A node's folder, and the brokers and topics that it knows.
pub(crate) struct Node {
    pub(crate) brokers: String,
    pub(crate) prefix: String,
    pub(crate) folder: tempfile::TempDir,
}

impl std::ops::Deref for Setup {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// What a life of the pipeline is made of.
pub(crate) struct LifeConfig {
    pub(crate) kafka: Option<kafka::Config>,
    pub(crate) batch: batch::Config,
    pub(crate) spool: spool::Config,
    pub(crate) node: String,
}

impl LifeConfig {
    pub(crate) fn property(&mut self, name: &str, value: &str) {
        let table = std::collections::BTreeMap::from([(name.to_owned(), value.to_owned())]);
        self.kafka.as_mut().unwrap().properties = table.into();
    }
}

/// One life of the pipeline.
pub(crate) struct Life {
    pub(crate) pipeline: Pipeline,
    pub(crate) health: Health,
    registry: prometheus::Registry,
}

/// A message as any consumer sees it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) seq: u64,
    pub(crate) partition: i32,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) timestamp_ms: i64,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Message {
    pub(crate) fn id(&self) -> &str {
        &self.headers["id"]
    }
}

impl Setup {
    pub(crate) fn new(brokers: i32) -> Setup {
        let cluster = MockCluster::new(brokers).unwrap();
        for kind in [TO, FROM] {
            cluster.create_topic(&format!("greypit.{kind}"), PARTITIONS, brokers.min(3)).unwrap();
        }
        let node = Node::new(&cluster.bootstrap_servers(), "greypit.");
        Setup { cluster, node }
    }
}

impl Node {
    pub(crate) fn new(brokers: &str, prefix: &str) -> Node {
        Node { brokers: brokers.into(), prefix: prefix.into(), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn start(&self) -> Life {
        self.start_with(|_| ())
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(&mut LifeConfig)) -> Life {
        self.try_start_with(change).unwrap()
    }

    pub(crate) fn try_start_with(&self, change: impl FnOnce(&mut LifeConfig)) -> greypit_pipeline::Result<Life> {
        let (brokers, topic_prefix) = (self.brokers.clone(), self.prefix.clone());
        let kafka = kafka::Config { brokers, topic_prefix, ..kafka::Config::default() };
        let mut config = LifeConfig {
            kafka: Some(kafka),
            batch: batch::Config { drain_timeout: Span::seconds(300), ..batch::Config::default() },
            spool: spool::Config { segment_bytes: Size(64 << 10), ..spool::Config::default() },
            node: "mx1".into(),
        };
        change(&mut config);
        let (registry, health) = (prometheus::Registry::new(), Health::new());
        let url = self.folder.path().join("objects").display().to_string();
        let pipeline = Pipeline::start(Parts {
            node: config.node,
            data_dir: self.folder.path().join("data"),
            spool: config.spool,
            batch: config.batch,
            store: Store::open(&store::Config { url, ..store::Config::default() })?,
            kafka: config.kafka.map(|kafka| produce::Output::new(kafka, &registry)).transpose()?,
            metrics: Metrics::new(&registry).unwrap(),
            health: health.clone(),
        })?;
        Ok(Life { pipeline, health, registry })
    }

    /// The messages of a kind's topic, partition by partition, once there are at least `count`.
    pub(crate) fn read(&self, kind: Kind, count: usize) -> Vec<Message> {
        self.read_of(kind, count, PARTITIONS)
    }

    /// The same of a topic of `partitions`.
    pub(crate) fn read_of(&self, kind: Kind, count: usize, partitions: i32) -> Vec<Message> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "reader")
            .set("check.crcs", "true")
            .create()
            .unwrap();
        let topic = format!("{}{kind}", self.prefix);
        let mut assigned = TopicPartitionList::new();
        for partition in 0..partitions {
            assigned.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assigned).unwrap();
        let (mut messages, began) = (Vec::new(), Instant::now());
        // What follows the last one that is asked for comes within a moment.
        let mut patience = LIMIT;
        while began.elapsed() < LIMIT {
            match consumer.poll(patience) {
                Some(Ok(message)) => messages.push(Message::of(&message)),
                // Brokers that are away for a while are none of our business here.
                Some(Err(_)) => {}
                None if messages.len() >= count => break,
                // It also comes back early, after what is no message.
                None => {}
            }
            if messages.len() >= count {
                patience = Duration::from_millis(500);
            }
        }
        assert!(messages.len() >= count, "{} of {count} messages", messages.len());
        messages.sort_by_key(|message| message.partition);
        messages
    }

    pub(crate) fn seqs(&self, kind: Kind, count: usize) -> Vec<u64> {
        self.read(kind, count).iter().map(|message| message.seq).collect()
    }

    pub(crate) fn segments(&self) -> usize {
        let names = std::fs::read_dir(self.folder.path().join("data/spool")).unwrap();
        names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".seg")).count()
    }
}

impl Message {
    fn of(message: &rdkafka::message::BorrowedMessage<'_>) -> Message {
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        let headers = message.headers().unwrap();
        let headers: BTreeMap<String, String> =
            headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect();
        Message {
            seq: headers["id"].rsplit('-').next().unwrap().parse().unwrap(),
            partition: message.partition(),
            key: text(message.key()),
            value: text(message.payload()),
            timestamp_ms: message.timestamp().to_millis().unwrap(),
            headers,
        }
    }
}

impl Life {
    pub(crate) async fn submit(&self, kind: Kind, numbers: std::ops::Range<u32>) {
        for n in numbers {
            self.submit_body(kind, format!("{{\"kind\":\"{kind}\",\"ts\":\"2026-11-20T12:00:00Z\",\"n\":{n}}}")).await;
        }
    }

    pub(crate) async fn submit_body(&self, kind: Kind, body: String) {
        self.pipeline.submit().submit(Event { kind, body: body.into_bytes() }.into()).await.unwrap();
    }

    /// What a part waits for.
    pub(crate) fn held(&self, part: &str) -> Option<String> {
        match self.health.parts().remove(part) {
            Some(State::Held { reason, .. }) => Some(reason),
            _ => None,
        }
    }

    /// The sum of a metric over its labels.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric().iter().map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum()
    }
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Checks that no event is there without its predecessors, and says how many there are, each counted once.
pub(crate) fn in_order(messages: &[Message]) -> u64 {
    let mut last = 0;
    for Message { seq, .. } in messages {
        assert!(*seq <= last + 1, "{seq} follows {last}");
        last = last.max(*seq);
    }
    last
}
