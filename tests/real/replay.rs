//! `greypit replay --from-kafka`, with a real Kafka: what was deleted from the store comes again from the topics, every
//! record once.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

use support::greypit::Greypit;
use support::kafka::Kafka;
use support::net::free_port;
use support::wait_for;

/// How many messages each node sends.
const MESSAGES: usize = 3_000;

/// A node with one role, its syslog port, and a store that all share.
fn node(name: &str, role: &str, kafka: &Kafka, objects: &Path) -> (Greypit, u16) {
    let mut greypit = Greypit::new(name);
    let port = free_port();
    greypit.set("roles", vec![toml::Value::from(role)]);
    greypit.set("kafka.brokers", kafka.addrs());
    greypit.set("kafka.topics.partitions", 3);
    greypit.set("store.url", objects.to_str().expect("a plain path"));
    greypit.set("batch.window", "1s");
    if role == "collect" {
        greypit.set("syslog.tcp", vec![toml::Value::from(format!("127.0.0.1:{port}"))]);
    }
    (greypit, port)
}

fn send(port: u16, messages: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("greypit listens");
    for n in 0..messages {
        writeln!(stream, "<30>Nov 20 12:55:00 web1 app[1]: message {n}").expect("greypit reads");
    }
}

/// Ids of a store, as `greypit cat` gives them; none twice.
fn ids(greypit: &Greypit, url: &str) -> BTreeSet<String> {
    let output = greypit.command("cat").arg(url).output().expect("greypit starts");
    let text = String::from_utf8(output.stdout).expect("records are UTF-8");
    let mut ids = BTreeSet::new();
    for line in text.lines() {
        let id = line.split('"').nth(3).expect("an id").to_owned();
        assert!(ids.insert(id.clone()), "{id} is there twice");
    }
    ids
}

/// `greypit replay --from-kafka --json` with these arguments: its exit code and what it counted.
fn replay(greypit: &Greypit, arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = greypit.command("replay").args(["--from-kafka", "--json"]).args(arguments).output();
    let output = output.expect("greypit starts");
    let says = String::from_utf8_lossy(&output.stderr);
    let counts = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {says}"));
    (output.status.code().expect("it ends by itself"), counts)
}

#[test]
fn what_was_deleted_comes_again_from_the_topics() {
    let kafka = Kafka::start();
    let folder = support::Folder::new("replay");
    let objects = folder.join("objects");
    let (mut shipper, _) = node("ship1", "ship", &kafka, &objects);
    shipper.start();
    for name in ["mx1", "mx2"] {
        let (mut collector, port) = node(name, "collect", &kafka, &objects);
        collector.start();
        send(port, MESSAGES);
        wait_for("the messages in Kafka", || {
            (collector.metric("greypit_kafka_produced_events_total")? >= MESSAGES as f64).then_some(())
        });
        collector.terminate();
    }
    let all = 2 * MESSAGES as u64;
    wait_for("the messages in the store", || {
        (shipper.metric("greypit_ship_events_total")? >= all as f64).then_some(())
    });
    let url = objects.to_str().expect("a plain path").to_owned();
    let before = ids(&shipper, &url);
    assert_eq!(before.len() as u64, all);

    // A message that is there twice, as after a crash of a producer.
    let topic = "greypit.syslog";
    let again = kafka.messages(topic).into_iter().next().expect("messages");
    let headers: Vec<_> = again.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    kafka.send(topic, again.partition, &again.key, &headers, again.value.as_bytes());

    std::fs::remove_dir_all(objects.join("syslog_logs")).expect("the objects are deleted");
    let dry = replay(&shipper, &["--prefix", "repair", "--dry-run"]);
    assert_eq!((dry.0, &dry.1["records"]), (0, &all.into()), "{dry:?}");
    let (code, counts) = replay(&shipper, &["--prefix", "repair"]);
    assert_eq!((code, &counts["records"], &counts["repeated"]), (0, &all.into(), &1.into()), "{counts}");
    assert_eq!(ids(&shipper, &format!("{url}/repair")), before);

    let (code, again) = replay(&shipper, &["--prefix", "repair"]);
    assert_eq!((code, &again["existing"]), (0, &counts["objects"]), "nothing is written twice: {again}");
    let (code, none) = replay(&shipper, &["--prefix", "none", "--until", "2020-01-01"]);
    assert_eq!((code, &none["records"]), (0, &0.into()));
    // The shipper has lost nothing by it: the group's commits are its own.
    shipper.terminate();
}
