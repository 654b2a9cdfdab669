//! From events to topics: a pipeline in front of a cluster of librdkafka's own, which can be told to misbehave.

#![allow(clippy::unwrap_used)]

#[path = "kafka_produce/support.rs"]
#[allow(dead_code, reason = "shared with the tests that need a broker")]
mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use greypit_pipeline::Drained;
use greypit_pipeline::units::Span;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use support::{FROM, Setup, TO, in_order, until};

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
    assert!((first.timestamp_ms - jiff::Timestamp::now().as_millisecond()).abs() < 3_600_000);
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

const TAKEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_refused_is_set_aside_and_its_neighbours_are_not() {
    let setup = Setup::new(1);
    // The first event goes alone. The request with the others is refused, so they go one at a time; one of them is refused.
    setup.cluster.request_errors(RDKafkaApiKey::Produce, &[TAKEN, TOO_LARGE, TAKEN, TOO_LARGE]);
    let life = setup.start();
    life.submit(TO, 0..100).await;
    let messages = setup.read(TO, 100);
    assert_eq!(in_order(&messages), 100);
    assert_eq!(life.figure("greypit_kafka_set_aside_events_total"), 1.0);
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);

    let markers: Vec<_> = messages.iter().filter(|message| message.value.contains("set_aside")).collect();
    assert_eq!(markers.len(), 1);
    let marker: serde_json::Value = serde_json::from_str(&markers[0].value).unwrap();
    assert_eq!((marker["id"].as_str(), marker["set_aside"].as_str()), (Some(markers[0].id()), Some("too_large")));
    let kept = setup.folder.path().join(format!("data/set-aside/{}.json", markers[0].id()));
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(kept).unwrap()).unwrap();
    assert_eq!(kept["record"]["id"], marker["id"]);
    assert_eq!(kept["record"]["n"], markers[0].seq - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_told_so_and_nothing_is_lost() {
    let setup = Setup::new(1);
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    setup.cluster.request_errors(RDKafkaApiKey::Produce, &[TAKEN, denied, denied, denied]);
    let life = setup.start();
    life.submit(TO, 0..200).await;
    until("being held back", || life.held("kafka").is_some_and(|reason| reason.contains("greypit.to"))).await;
    until("the end of it", || life.held("kafka").is_none()).await;
    assert_eq!(in_order(&setup.read(TO, 200)), 200);
    assert!(life.figure("greypit_kafka_producer_restarts_total") >= 3.0);
    assert_eq!(life.figure("greypit_kafka_set_aside_events_total"), 0.0);
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_come_and_go_and_the_order_stays() {
    let setup = Setup::new(3);
    let life = setup.start();
    for round in 0..6 {
        life.submit(TO, round * 500..round * 500 + 500).await;
        let broker = round as i32 % 3 + 1;
        setup.cluster.broker_down(broker).unwrap();
        life.submit(FROM, round * 100..round * 100 + 100).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        setup.cluster.broker_up(broker).unwrap();
        for partition in 0..support::PARTITIONS {
            setup.cluster.partition_leader("greypit.to", partition, Some(broker)).unwrap();
        }
    }
    assert_eq!(in_order(&setup.read(TO, 3000)), 3000);
    assert_eq!(in_order(&setup.read(FROM, 600)), 600);
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
    assert_eq!(setup.segments(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_gone_in_the_middle_goes_on_where_it_was() {
    let setup = Setup::new(1);
    // Long enough for events to be seen on their way, and no longer than the producer waits for what it asks.
    setup.cluster.broker_round_trip_time(1, Duration::from_millis(200)).unwrap();
    let mut life = setup.start();
    for round in 0..5 {
        life.submit(TO, round * 2000..round * 2000 + 2000).await;
        life.pipeline.submit().durable().await.unwrap();
        until("some of it", || life.figure("greypit_kafka_in_flight_events") > 0.0).await;
        drop(life);
        let mut next = None;
        until("the next life", || {
            next = setup.try_start_with(|_| ()).ok();
            next.is_some()
        })
        .await;
        life = next.unwrap();
    }
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
    assert_eq!(in_order(&setup.read(TO, 10_000)), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_drains_and_frees_the_spool() {
    let setup = Setup::new(1);
    setup.cluster.broker_down(1).unwrap();
    let life = setup.start();
    for n in 0..4000 {
        life.submit_body(TO, format!("{{\"n\":{n},\"x\":\"{}\"}}", "y".repeat(1000))).await;
    }
    life.pipeline.submit().durable().await.unwrap();
    assert!(setup.segments() > 2, "{}", setup.segments());
    setup.cluster.broker_up(1).unwrap();
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
    assert_eq!(in_order(&setup.read(TO, 4000)), 4000);
    assert_eq!(setup.segments(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_from_before_kafka_is_finished_for_the_store_and_going_back_waits_for_kafka() {
    let setup = Setup::new(1);
    // A file where the store's folder should be: the cut stays open.
    std::fs::write(setup.folder.path().join("objects"), b"").unwrap();
    let short = |config: &mut support::LifeConfig| config.batch.drain_timeout = Span::seconds(1);
    let life = setup.start_with(|config| {
        config.kafka = None;
        short(config);
    });
    life.submit(TO, 0..10).await;
    assert_eq!(life.pipeline.drain().await, Drained::Waiting(10));
    std::fs::remove_file(setup.folder.path().join("objects")).unwrap();

    let life = setup.start();
    life.submit(TO, 10..20).await;
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
    let seqs: Vec<u64> = setup.read(TO, 10).iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (11..=20).collect::<Vec<_>>());
    assert!(setup.folder.path().join("objects/mail_logs").is_dir());

    setup.cluster.broker_down(1).unwrap();
    let life = setup.start_with(short);
    life.submit(TO, 20..25).await;
    assert_eq!(life.pipeline.drain().await, Drained::Waiting(5));
    let refused = setup.try_start_with(|config| config.kafka = None).map(drop).unwrap_err().to_string();
    assert!(refused.contains("kafka.brokers: 5 events wait"), "{refused}");
    setup.cluster.broker_up(1).unwrap();
    assert_eq!(setup.start().pipeline.drain().await, Drained::Shipped);
    let life = setup.start_with(|config| config.kafka = None);
    assert_eq!(life.pipeline.drain().await, Drained::Shipped);
}
