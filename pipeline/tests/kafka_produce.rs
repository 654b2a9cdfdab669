//! From events to topics: a pipeline in front of a cluster of librdkafka's own, which can be told to misbehave.

#![allow(clippy::unwrap_used)]

#[path = "kafka_produce/support.rs"]
mod support;

use std::collections::BTreeSet;

use greypit_pipeline::Drained;
use greypit_pipeline::units::Span;
use support::{FROM, Setup, TO, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_in_its_topic_in_order_with_key_timestamp_and_headers() {
    let setup = Setup::new(3);
    let mut n = 0;
    for _ in 0..2 {
        let life = setup.start();
        life.submit(TO, n..n + 500).await;
        life.submit(FROM, n..n + 50).await;
        n += 500;
        assert_eq!(life.pipeline.drain().await, Drained::Shipped);
    }
    let messages = setup.read(TO, 1000);
    assert_eq!(messages.iter().map(|message| message.seq).collect::<Vec<_>>(), (1..=1000).collect::<Vec<_>>());
    let partitions: BTreeSet<i32> = messages.iter().map(|message| message.partition).collect();
    assert_eq!(partitions.len(), 1);
    let first = &messages[0];
    assert_eq!(first.key, "mx1");
    let value: serde_json::Value = serde_json::from_str(&first.value).unwrap();
    assert_eq!(
        (value["id"].as_str().unwrap(), value["node"].as_str().unwrap(), value["n"].as_u64()),
        (first.id(), "mx1", Some(0))
    );
    assert_eq!((first.headers["kind"].as_str(), first.headers["node"].as_str()), ("to", "mx1"));
    assert_eq!(first.headers["ts"], "2026-11-20T12:00:00Z");
    assert!((first.timestamp_ms - jiff::Timestamp::now().as_millisecond()).abs() < 60_000);
    assert_eq!(setup.read(FROM, 100).len(), 100);
    assert_eq!(setup.segments(), 1, "what is delivered is freed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_event_leaves_at_once() {
    let setup = Setup::new(1);
    let life = setup.start();
    life.submit(TO, 0..1).await;
    assert_eq!(setup.read(TO, 1).len(), 1);
    until("nothing waiting", || life.figure("greypit_waiting_events") == 0.0).await;
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_broker_takes_waits_and_is_sent_by_the_next_life() {
    let setup = Setup::new(1);
    setup.cluster.broker_down(1).unwrap();
    let life = setup.start_with(|config| config.batch.drain_timeout = Span::seconds(1));
    life.submit(TO, 0..100).await;
    until("being held back", || life.held("kafka").is_some()).await;
    assert_eq!(life.pipeline.drain().await, Drained::Waiting(100));
    setup.cluster.broker_up(1).unwrap();
    assert_eq!(setup.start().pipeline.drain().await, Drained::Shipped);
    assert_eq!(setup.seqs(TO, 100), (1..=100).collect::<Vec<_>>());
}
