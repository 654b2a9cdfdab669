//! greypit with a real Apache Kafka between the spool and the store.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use support::daemon::{Daemon, messages};
use support::farm::{check_topics, properties, through, wait_committed};
use support::greypit::Greypit;
use support::kafka::{Kafka, Message};
use support::proxy::{FaultProxy, Mode};
use support::s3::S3Server;
use toml::Value;

const LIMIT: Duration = Duration::from_secs(300);
/// Short windows and small objects.
const BATCH: &str = "[batch]\nwindow = \"1s\"\nmax_bytes = \"64KiB\"\n";
const TOPIC: &str = "greypit.syslog";

/// A node that receives syslog, follows a file and does what `roles` say.
fn node(kafka: &Kafka, roles: &[&str]) -> Daemon {
    let mut daemon = Daemon::new(BATCH);
    through(&mut daemon, kafka, roles);
    daemon.set("kafka.topics.partitions", 3);
    // Gone in a moment, so that the next one need not wait.
    properties(&mut daemon, &[("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")]);
    daemon
}

/// A node that only ships, to the store of another one.
fn shipper(kafka: &Kafka, name: &str, to: &Daemon) -> Greypit {
    let mut greypit = Greypit::new(name);
    through(&mut greypit, kafka, &["ship"]);
    greypit.set_toml(BATCH);
    greypit.set("store.url", to.objects().to_str().expect("a plain path"));
    properties(&mut greypit, &[("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")]);
    greypit
}

/// Waits until so many events were in the spool since the start, Kafka has them all, and the group has shipped them.
fn wait_shipped(kafka: &Kafka, daemon: &mut Daemon, events: usize) {
    daemon.wait_series(r#"greypit_spool_events_total{kind="syslog"}"#, events as u64);
    daemon.wait("the spool to be empty", |daemon| daemon.metric("greypit_waiting_events") == Some(0.0));
    wait_committed(kafka, "greypit", LIMIT);
}

/// The records of the store, by id.
fn records(greypit: &Greypit) -> BTreeMap<String, String> {
    let mut records = BTreeMap::new();
    greypit.cat(|line| {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let id = record["id"].as_str().expect("an id").to_owned();
        assert!(records.insert(id, line.to_owned()).is_none(), "twice: {line}");
    });
    records
}

/// The files of a store in a folder, without its cuts, each with its content.
fn objects(store: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut objects = BTreeMap::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the store").flatten() {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b"_cut") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let key = path.strip_prefix(store).expect("below").to_string_lossy().into_owned();
                objects.insert(key, std::fs::read(path).expect("an object"));
            }
        }
    }
    objects
}

#[test]
fn events_go_through_kafka_as_it_is_documented() {
    let kafka = Kafka::start();
    let server = S3Server::start();
    let mut daemon = node(&kafka, &["collect", "ship"]);
    daemon.env(server.env());
    daemon.set("store.url", format!("s3://{}/archive", S3Server::BUCKET));
    daemon.set("store.endpoint", server.endpoint());
    daemon.set("store.path_style", true);
    daemon.start();
    daemon.wait_ready();
    assert_eq!(kafka.topics()[TOPIC], 3, "made at the start");

    let mut sent = messages("file", 500, 200);
    daemon.log_lines(&sent);
    let tcp = support::daemon::Sender::start(daemon.tcp, "tcp", 500, 300, Duration::ZERO);
    sent.extend(tcp.finish());
    wait_shipped(&kafka, &mut daemon, sent.len());
    // One more, alone: its window ends without a successor.
    let last = messages("last", 1, 10);
    daemon.log_lines(&last);
    sent.extend(last);
    wait_shipped(&kafka, &mut daemon, sent.len());

    let held = check_topics(&kafka, true);
    assert_eq!((held.events, held.repeats), (sent.len() as u64, 0));
    let messages = kafka.messages(TOPIC);
    let partitions: BTreeSet<_> = messages.iter().map(|message| message.partition).collect();
    // By hand: murmur2("mx1") as the Java client has it.
    assert_eq!(partitions, [murmur2_partition("mx1", 3)].into());
    assert_eq!(kafka.committed("greypit", TOPIC).values().sum::<i64>(), sent.len() as i64);
    daemon.assert_exactly(sent);
    let records = records(&daemon);
    for message in &messages {
        assert_documented(message, "mx1");
        // What is in the store is what was in the message.
        assert_eq!(records[message.header("id")], message.value);
    }
    daemon.terminate();
}

fn assert_documented(message: &Message, node: &str) {
    let value: serde_json::Value = serde_json::from_str(&message.value).expect("JSON");
    let names: Vec<_> = message.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["id", "kind", "node", "ts"]);
    assert_eq!(message.key, node);
    assert_eq!(message.header("node"), node);
    assert_eq!(message.header("kind"), "syslog");
    assert_eq!(value["id"], message.header("id"));
    assert_eq!(value["node"], node);
    assert_eq!(value["ts"], message.header("ts"));
    let front = format!("{{\"id\":\"{}\",\"node\":\"{node}\",", message.header("id"));
    assert!(message.value.starts_with(&front) && !message.value.contains('\n'), "{}", message.value);
    let received = jiff::Timestamp::from_millisecond(message.timestamp).expect("a time");
    let age = jiff::Timestamp::now().duration_since(received);
    assert!(!age.is_negative() && age.as_secs() < 3600, "{received}");
}

/// The partition that Kafka's own producer takes for a key.
fn murmur2_partition(key: &str, partitions: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let bytes = key.as_bytes();
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let chunks = bytes.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) as i32 % partitions
}

#[test]
fn shippers_come_and_go_and_offsets_may_be_reset() {
    let kafka = Kafka::start();
    let mut collector = node(&kafka, &["collect"]);
    collector.start();
    collector.wait_ready();
    let mut shippers = [shipper(&kafka, "ship1", &collector), shipper(&kafka, "ship2", &collector)];
    let mut sent = Vec::new();
    let mut more = |collector: &mut Daemon, name: &str| {
        sent.extend(messages(name, 2_000, 200));
        collector.log_lines(&sent[sent.len() - 2_000..]);
        sent.len()
    };
    more(&mut collector, "before");
    for shipper in &mut shippers {
        shipper.start();
    }
    let count = more(&mut collector, "both");
    wait_shipped(&kafka, &mut collector, count);
    shippers[0].terminate();
    let count = more(&mut collector, "second");
    wait_shipped(&kafka, &mut collector, count);
    shippers[0].start();
    more(&mut collector, "meanwhile");
    shippers[1].kill();
    let count = more(&mut collector, "first");
    wait_shipped(&kafka, &mut collector, count);
    shippers[0].terminate();
    let before = objects(&collector.objects());

    // The group begins from the first message, and from the middle of a batch.
    for offset in [0, 3] {
        kafka.reset("greypit", TOPIC, offset);
        shippers[0].start();
        wait_committed(&kafka, "greypit", LIMIT);
        shippers[0].terminate();
    }
    assert!(objects(&collector.objects()) == before, "nothing is repeated, nothing overwritten");
    shippers[1].start();
    let count = more(&mut collector, "after");
    wait_shipped(&kafka, &mut collector, count);
    collector.assert_exactly(sent);
    for (key, bytes) in before {
        assert!(objects(&collector.objects())[&key] == bytes, "overwritten: {key}");
    }
}

#[test]
fn events_wait_in_the_spool_while_kafka_is_away() {
    let mut kafka = Kafka::start();
    let mut daemon = node(&kafka, &["collect", "ship"]);
    daemon.start();
    daemon.wait_ready();
    let mut sent = messages("before", 200, 100);
    daemon.log_lines(&sent);
    wait_shipped(&kafka, &mut daemon, 200);

    kafka.kill(0);
    let away = messages("away", 300, 100);
    daemon.log_lines(&away);
    sent.extend(away);
    daemon.wait("the events to wait", |daemon| daemon.metric("greypit_waiting_events") == Some(300.0));
    daemon.wait("kafka to be held", |daemon| daemon.held("kafka").is_some());
    eprintln!("{}", daemon.held("kafka").unwrap_or_default());
    // They also wait for a greypit that is started before Kafka is.
    daemon.kill();
    daemon.start();
    let again = messages("again", 100, 100);
    daemon.log_lines(&again);
    sent.extend(again);
    daemon.wait("the events to wait", |daemon| daemon.metric("greypit_waiting_events") == Some(400.0));
    kafka.spawn(0);
    kafka.wait_whole();
    daemon.wait("the spool to be empty", |daemon| daemon.metric("greypit_waiting_events") == Some(0.0));
    wait_committed(&kafka, "greypit", LIMIT);
    daemon.wait_ready();
    daemon.assert_exactly(sent);
    assert_eq!(check_topics(&kafka, true).events, 600);
}

#[test]
fn what_is_too_large_for_its_topic_is_set_aside() {
    let kafka = Kafka::start();
    kafka.create_topic(TOPIC, 2, &[("max.message.bytes", "4000")]);
    let mut daemon = node(&kafka, &["collect", "ship"]);
    daemon.start();
    daemon.wait_ready();
    // Text that does not compress.
    let large = |number: u64| {
        let mut random = support::random::Random::new(number);
        (0..1_000).map(|_| format!("{:016x}", random.next())).collect::<String>()
    };
    let mut sent = Vec::new();
    for number in 0..3 {
        sent.extend(messages(&format!("small{number}"), 50, 100));
        sent.push(large(number));
    }
    sent.extend(messages("small", 50, 100));
    daemon.log_lines(&sent);
    wait_shipped(&kafka, &mut daemon, sent.len());
    assert_eq!(daemon.metric("greypit_kafka_set_aside_events_total"), Some(3.0));
    daemon.assert_verified();

    let records = records(&daemon);
    assert_eq!(records.len(), sent.len());
    let aside: Vec<serde_json::Value> = records
        .values()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|record: &serde_json::Value| !record["set_aside"].is_null())
        .collect();
    assert_eq!(aside.len(), 3, "{aside:?}");
    let mut found: Vec<String> = Vec::new();
    for marker in &aside {
        let id = marker["id"].as_str().expect("an id");
        let file = daemon.data_dir().join(format!("set-aside/{id}.json"));
        let kept = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!((&marker["kind"], &marker["node"]), (&"syslog".into(), &"mx1".into()), "{marker}");
        assert!(marker["bytes"].as_u64().is_some_and(|bytes| bytes > 16_000), "{marker}");
        found.extend((0..3).map(large).filter(|text| kept.contains(text.as_str())));
    }
    found.sort();
    let mut expected: Vec<_> = (0..3).map(large).collect();
    expected.sort();
    assert_eq!(found, expected, "each is kept");
    let shipped: BTreeSet<_> = records.values().filter_map(|line| text_of(line)).collect();
    assert!(sent.iter().filter(|text| text.len() < 1_000).all(|text| shipped.contains(text.as_str())));
}

fn text_of(record: &str) -> Option<String> {
    let record: serde_json::Value = serde_json::from_str(record).ok()?;
    Some(record["message"].as_str()?.to_owned())
}

#[test]
fn a_topic_that_is_made_anew_sticks_to_nothing_and_overwrites_nothing() {
    let kafka = Kafka::start();
    let mut daemon = node(&kafka, &["collect", "ship"]);
    daemon.start();
    daemon.wait_ready();
    let mut sent = messages("first", 300, 100);
    daemon.log_lines(&sent);
    wait_shipped(&kafka, &mut daemon, 300);
    let before = objects(&daemon.objects());
    daemon.terminate();

    kafka.delete_topic(TOPIC);
    daemon.start();
    daemon.wait_ready();
    let second = messages("second", 200, 100);
    daemon.log_lines(&second);
    sent.extend(second);
    wait_shipped(&kafka, &mut daemon, 200);
    // The same while it runs.
    kafka.delete_topic(TOPIC);
    let third = messages("third", 200, 100);
    daemon.log_lines(&third);
    sent.extend(third);
    daemon.wait("a missing topic to be told", |daemon| daemon.held("kafka").is_some());
    eprintln!("{}", daemon.held("kafka").unwrap_or_default());
    kafka.create_topic(TOPIC, 3, &[]);
    wait_shipped(&kafka, &mut daemon, 400);
    daemon.wait_ready();

    // Another cluster with the same names, and the same store.
    daemon.terminate();
    let other = Kafka::start();
    daemon.set("kafka.brokers", other.addrs());
    daemon.start();
    daemon.wait_ready();
    let fourth = messages("fourth", 200, 100);
    daemon.log_lines(&fourth);
    sent.extend(fourth);
    wait_shipped(&other, &mut daemon, 200);
    let after = objects(&daemon.objects());
    for (key, bytes) in &before {
        assert!(after.get(key) == Some(bytes), "overwritten: {key}");
    }
    daemon.assert_exactly(sent);
}

#[test]
fn a_node_goes_from_its_own_shipping_to_kafka() {
    let kafka = Kafka::start();
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.addr());
    let mut daemon = Daemon::new(BATCH);
    daemon.env(server.env());
    daemon.set("store.url", format!("s3://{}/archive", S3Server::BUCKET));
    daemon.set("store.endpoint", proxy.endpoint());
    daemon.set("store.path_style", true);
    daemon.start();
    daemon.wait_ready();
    let mut sent = messages("shipped", 300, 100);
    daemon.log_lines(&sent);
    daemon.wait_shipped(300);
    // Cuts that stay open: stored and not known to be, and begun and not stored.
    proxy.set_uploads(Mode::LoseAnswer);
    let lost = messages("lost-answer", 300, 100);
    daemon.log_lines(&lost);
    sent.extend(lost);
    daemon.wait("a lost answer", |_| proxy.counts().successes_lost > 0);
    proxy.set_uploads(Mode::Answer(503));
    for name in ["cut", "waiting"] {
        let more = messages(name, 1_000, 200);
        daemon.log_lines(&more);
        sent.extend(more);
        let expected = sent.len() as f64;
        daemon.wait("the events to be in the spool", |daemon| {
            daemon.metric("greypit_spool_events_total") >= Some(expected)
        });
    }
    daemon.kill();
    proxy.set(Mode::Pass);

    through(&mut daemon, &kafka, &["collect", "ship"]);
    daemon.set("kafka.topics.partitions", 3);
    daemon.start();
    let after = messages("after", 300, 100);
    daemon.log_lines(&after);
    sent.extend(after);
    wait_shipped(&kafka, &mut daemon, 300);
    daemon.wait_ready();
    daemon.assert_exactly(sent.clone());
    let through_kafka = check_topics(&kafka, false).events;
    assert!(through_kafka >= 300 && through_kafka < sent.len() as u64, "{through_kafka}");

    // Back again: only once nothing waits that Kafka may have too.
    drop(kafka);
    let more = messages("waiting-for-kafka", 200, 100);
    daemon.log_lines(&more);
    sent.extend(more);
    daemon.wait("the events to wait", |daemon| daemon.metric("greypit_waiting_events") == Some(200.0));
    daemon.kill();
    daemon.set("kafka.brokers", Value::from(""));
    let output = daemon.command("run").output().expect("greypit starts");
    let text = String::from_utf8_lossy(&output.stderr);
    eprintln!("{text}");
    assert!(!output.status.success() && text.contains("[kafka]"), "{text}");
}

#[test]
fn messages_that_no_greypit_made_are_counted_and_skipped() {
    let kafka = Kafka::start();
    let mut daemon = node(&kafka, &["collect", "ship"]);
    // Who is thought to be gone reads again, and counts again.
    properties(&mut daemon, &[("session.timeout.ms", "120000")]);
    daemon.start();
    daemon.wait_ready();
    let mut sent = messages("before", 100, 100);
    daemon.log_lines(&sent);
    wait_shipped(&kafka, &mut daemon, 100);
    let good = kafka.messages(TOPIC).pop().expect("a message");
    let id = good.header("id").to_owned();
    let send = |headers: &[(&str, &str)], value: &[u8]| kafka.send(TOPIC, good.partition, "mx1", headers, value);
    send(&[], b"{}");
    send(&[("id", "no id at all")], b"{\"id\":\"no id at all\"}");
    send(&[("id", &id)], b"no JSON");
    send(&[("id", &id)], b"{\"id\":\"another-6ake-to-1\",\"node\":\"another\"}");
    send(&[("id", &id)], b"\xff\xfe\n\n");
    send(&[("id", &id)], b"");
    let after = messages("after", 100, 100);
    daemon.log_lines(&after);
    sent.extend(after);
    wait_shipped(&kafka, &mut daemon, 200);
    daemon.assert_exactly(sent);
    assert_eq!(daemon.metric("greypit_kafka_foreign_messages_total"), Some(6.0));
}

#[test]
fn a_missing_topic_is_refused_where_none_is_to_be_made() {
    let kafka = Kafka::start();
    let mut daemon = node(&kafka, &["collect", "ship"]);
    daemon.set("kafka.topics.create", false);
    let output = daemon.command("run").output().expect("greypit starts");
    let text = String::from_utf8_lossy(&output.stderr);
    eprintln!("{text}");
    assert!(!output.status.success() && text.contains("kafka") && text.contains("greypit."), "{text}");
    assert!(kafka.topics().is_empty());
}
