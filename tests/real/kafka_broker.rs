//! The pipeline against Apache Kafka: what librdkafka's own brokers, which its other tests have, do not do.
//!
//! What a message costs: `cargo test --features real --test kafka_broker -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

#[path = "../../pipeline/tests/kafka_produce/support.rs"]
#[allow(dead_code, reason = "shared with the tests that need no broker")]
mod produce;
mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use greypit_pipeline::Drained;
use greypit_pipeline::units::{Size, Span};
use produce::{Node, PARTITIONS, TO, in_order, until};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use support::kafka::Kafka;

/// Runs a test with a node and the broker that it knows. Kafka ends with this thread.
fn with_broker(test: impl AsyncFnOnce(Node)) {
    let kafka = Kafka::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test(Node::new(&kafka.addrs(), "greypit.")));
}

fn admin(node: &Node) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &node.brokers).create().unwrap()
}

/// Text that hardly compresses.
fn noise(len: usize, seed: u32) -> String {
    let mut state = u64::from(seed) << 1 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + (state >> 32) as u8 % 64)
    };
    (0..len).map(|_| next()).map(|c| if c == '\\' { '~' } else { c }).collect()
}

async fn create(node: &Node, kind: greypit_pipeline::Kind, properties: &[(&str, &str)]) {
    let name = format!("{}{kind}", node.prefix);
    let mut topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
    for (name, value) in properties {
        topic = topic.set(name, value);
    }
    admin(node).create_topics(&[topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

#[test]
fn a_missing_topic_is_said_and_waited_for() {
    with_broker(async |node| {
        let life = node.start();
        life.submit(TO, 0..100).await;
        let topic = format!("{}to", node.prefix);
        let says = |held: String| held.contains(&topic) && held.contains("create");
        until("being held back for that", || life.held("kafka").is_some_and(says)).await;
        create(&node, TO, &[]).await;
        assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        assert_eq!(in_order(&node.read(TO, 100)), 100);
    });
}

#[test]
fn what_is_too_large_for_the_topic_is_set_aside() {
    with_broker(async |node| {
        create(&node, TO, &[("max.message.bytes", "20000")]).await;
        for (round, compression) in [(1, "none"), (2, "zstd")] {
            let life = node.start_with(|config| config.property("compression.type", compression));
            // The very first is too large already, and so is each request as the client would make it.
            for n in 0..300 {
                let text = if n % 50 == 0 { noise(40_000, n) } else { noise(500, n) };
                life.submit_body(TO, format!("{{\"n\":{n},\"x\":\"{text}\"}}")).await;
            }
            assert_eq!(in_order(&node.read(TO, round * 300)), round as u64 * 300);
            assert_eq!(life.figure("greypit_kafka_set_aside_events_total"), 6.0);
            assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        }
        // Larger than the limit, but not as it is sent.
        let life = node.start();
        life.submit_body(TO, format!("{{\"x\":\"{}\"}}", "y".repeat(40_000))).await;
        assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        let messages = node.read(TO, 601);
        assert_eq!(in_order(&messages), 601);
        assert_eq!(messages.iter().filter(|message| message.value.contains("\"set_aside\":\"too_large\"")).count(), 12);
    });
}

#[test]
fn what_follows_a_refused_request_is_not_taken_without_it() {
    with_broker(async |node| {
        create(&node, TO, &[("max.message.bytes", "20000")]).await;
        // The spool is filled first, so that many requests could follow the first one at once.
        let life = node.start_with(|config| {
            config.kafka.as_mut().unwrap().brokers = "127.0.0.1:1".into();
            config.batch.drain_timeout = Span::seconds(1);
        });
        life.submit_body(TO, format!("{{\"x\":\"{}\"}}", noise(40_000, 1))).await;
        for n in 0..300 {
            life.submit_body(TO, format!("{{\"x\":\"{}\"}}", noise(500, n))).await;
        }
        assert_eq!(life.pipeline.drain().await, Drained::Waiting(301));
        let life = node.start_with(|config| config.property("batch.size", "5000"));
        assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        assert_eq!(in_order(&node.read(TO, 301)), 301);
    });
}

#[test]
fn more_partitions_move_what_has_not_been_sent() {
    with_broker(async |node| {
        create(&node, TO, &[]).await;
        let life = node.start();
        life.submit(TO, 0..100).await;
        assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        let name = format!("{}to", node.prefix);
        admin(&node).create_partitions(&[NewPartitions::new(&name, 7)], &AdminOptions::new()).await.unwrap()[0]
            .as_ref()
            .unwrap();
        let life = node.start();
        life.submit(TO, 100..200).await;
        assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        let mut seqs = BTreeMap::<i32, Vec<u64>>::new();
        for message in node.read_of(TO, 200, 7) {
            seqs.entry(message.partition).or_default().push(message.seq);
        }
        let mut seqs: Vec<Vec<u64>> = seqs.into_values().collect();
        seqs.sort();
        assert_eq!(seqs, [(1..=100).collect::<Vec<_>>(), (101..=200).collect()]);
    });
}

/// CPU seconds of this process' threads by name.
fn cpu() -> BTreeMap<String, f64> {
    let mut seconds = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        let Ok(spent) = std::fs::read_to_string(task.join("schedstat")) else { continue };
        let ns: f64 = spent.split(' ').next().unwrap().parse().unwrap();
        *seconds.entry(name.trim().to_owned()).or_default() += ns / 1e9;
    }
    seconds
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_message() {
    const EVENTS: u32 = 300_000;
    for compression in ["none", "zstd"] {
        with_broker(async |node| {
            // The spool is filled while there is no topic.
            let life = node.start_with(|config| {
                config.property("compression.type", compression);
                config.spool.segment_bytes = Size(32 << 20);
                config.batch.drain_timeout = Span::seconds(120);
            });
            for n in 0..EVENTS {
                let body = format!(
                    "{{\"kind\":\"to\",\"ts\":\"2026-11-20T12:00:00.{:03}+00:00\",\"host\":\"mx1.example.com\",\"pid\":{n},\
                 \"qid\":\"5AKC{n:010}\",\"to\":\"user{}@example.org\",\"delay\":\"00:00:0{}\",\"mailer\":\"esmtp\",\
                 \"relay\":\"mx.example.org. [192.0.2.{}]\",\"dsn\":\"2.0.0\",\"stat\":\"Sent (ok {n} queued)\"}}",
                    n % 1000,
                    n % 977,
                    n % 10,
                    n % 250
                );
                life.submit_body(TO, body).await;
            }
            life.pipeline.submit().durable().await.unwrap();
            let (began, before) = (Instant::now(), cpu());
            create(&node, TO, &[]).await;
            let mut last = before.clone();
            until("the end", || {
                last = cpu();
                life.figure("greypit_waiting_events") == 0.0
            })
            .await;
            let took = began.elapsed();
            println!("compression {compression}: {EVENTS} events in {took:?}, µs of CPU a message by thread:");
            for (name, seconds) in &last {
                let spent = (seconds - before.get(name).copied().unwrap_or(0.0)) * 1e6 / f64::from(EVENTS);
                if spent > 0.005 {
                    println!("  {name:20} {spent:.2}");
                }
            }
            assert_eq!(life.pipeline.drain().await, Drained::Shipped);
        });
    }
}
