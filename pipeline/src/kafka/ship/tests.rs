//! The shipper with librdkafka's own mock of a cluster: groups, offsets and messages, without a server.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::{Parts, Shipper};
use crate::codec::Codec;
use crate::kafka::Config;
use crate::store::{self, Store};
use crate::units::Span;
use crate::{Drained, Health, Metrics, batch};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn cluster(topic: &str, partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

fn start(brokers: &str, folder: &Path, window_s: u64) -> Shipper {
    let url = folder.display().to_string();
    // The mock waits almost this long for members that have left.
    let properties = serde_json::from_str(r#"{"session.timeout.ms":4000,"heartbeat.interval.ms":100}"#).unwrap();
    Shipper::start(Parts {
        kafka: Config { brokers: brokers.into(), properties, ..Config::default() },
        batch: batch::Config { window: Span::seconds(window_s), codec: Codec::Zstd, ..batch::Config::default() },
        store: Store::open(&store::Config { url, ..store::Config::default() }).unwrap(),
        metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        health: Health::new(),
        registry: prometheus::Registry::new(),
    })
    .unwrap()
}

/// Sends numbers of a node to a partition, as the producer does.
fn produce(brokers: &str, topic: &str, partition: i32, node: &str, numbers: impl Iterator<Item = u64>) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("linger.ms", "1").create().unwrap();
    for seq in numbers {
        let id = format!("{node}-e1-to-{seq}");
        let value = format!("{{\"id\":\"{id}\",\"node\":\"{node}\",\"kind\":\"to\"}}");
        let header = |key, value| Header { key, value: Some(value) };
        let headers = OwnedHeaders::new().insert(header("id", id.as_str())).insert(header("kind", "to"));
        let record = BaseRecord::to(topic).partition(partition).key(node).payload(&value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// All ids in the store's objects, with how often each is there.
fn ids(folder: &Path) -> BTreeMap<String, u64> {
    fn visit(folder: &Path, found: &mut BTreeMap<String, u64>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with(['.', '_']) {
                continue;
            }
            if path.is_dir() {
                visit(&path, found);
                continue;
            }
            let (bytes, mut text) = (std::fs::read(&path).unwrap(), String::new());
            Codec::of_key(&name).decoder(&bytes).read_to_string(&mut text).unwrap();
            for line in text.lines() {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                *found.entry(record["id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(folder, &mut found);
    found
}

async fn wait_for(folder: &Path, count: usize) -> BTreeMap<String, u64> {
    let started = Instant::now();
    loop {
        let found = ids(folder);
        if found.len() >= count || started.elapsed() > PATIENCE {
            assert_eq!(found.len(), count);
            assert!(found.values().all(|times| *times == 1), "{found:?}");
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_end_in_objects_each_once_over_restarts() {
    let (folder, cluster) = (tempfile::tempdir().unwrap(), cluster("greypit.to", 2));
    let brokers = cluster.bootstrap_servers();
    produce(&brokers, "greypit.to", 0, "mx1", (1..=500).chain(400..=700));
    produce(&brokers, "greypit.to", 1, "mx2", 1..=300);
    let shipper = start(&brokers, folder.path(), 1);
    wait_for(folder.path(), 1_000).await;
    assert_eq!(shipper.stop().await, Drained::Shipped);

    produce(&brokers, "greypit.to", 0, "mx1", 650..=800);
    let shipper = start(&brokers, folder.path(), 1);
    wait_for(folder.path(), 1_100).await;
    assert_eq!(shipper.stop().await, Drained::Shipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_broker_that_does_not_answer() {
    let (folder, cluster) = (tempfile::tempdir().unwrap(), cluster("greypit.to", 1));
    let brokers = cluster.bootstrap_servers();
    produce(&brokers, "greypit.to", 0, "mx1", 1..=100);
    let shipper = start(&brokers, folder.path(), 1);
    wait_for(folder.path(), 100).await;
    cluster.broker_round_trip_time(1, Duration::from_secs(600)).unwrap();
    // The batch that this ends is in the store; its commit stays without an answer.
    let stopped = tokio::time::timeout(PATIENCE, shipper.stop()).await;
    assert!(stopped.is_ok(), "the stop waits for the broker");
}
