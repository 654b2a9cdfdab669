use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use rdkafka::mocking::MockCluster;

use super::*;

const WAIT: Duration = Duration::from_secs(120);
const REACH: Duration = Duration::from_secs(60);
const TOPIC: &str = "greypit.notes";

/// What a client was told.
#[derive(Debug, Default)]
struct Notes(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    records: Vec<String>,
    delivered: Vec<(String, bool)>,
    problems: BTreeMap<&'static str, String>,
}

impl Notes {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }
}

impl Listener for Notes {
    fn record(&self, key: &[u8], value: Option<&[u8]>) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.told().records.push(format!("{}={}", text(key), value.map_or("-".to_owned(), text)));
    }

    fn delivered(&self, key: &[u8], is_there: bool) {
        self.told().delivered.push((String::from_utf8_lossy(key).into_owned(), is_there));
    }

    fn problem(&self, code: &'static str, line: String) {
        self.told().problems.insert(code, line);
    }
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let since = Instant::now();
    while !ready() {
        assert!(since.elapsed() < WAIT, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(brokers: &str) -> (Compacted<Notes>, Arc<Notes>) {
    let kafka = Config { brokers: brokers.into(), ..Config::default() };
    let notes = Arc::new(Notes::default());
    (Compacted::start(&kafka, TOPIC.into(), REACH, notes.clone()).unwrap(), notes)
}

#[test]
fn what_one_publishes_all_read() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 2, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let ((a, a_notes), (b, b_notes)) = (start(&brokers), start(&brokers));
    wait_for("both to have read nothing", || a.is_read() && b.is_read());
    for (key, value) in [("x", Some("1")), ("y", Some("2")), ("x", Some("3")), ("y", None)] {
        assert!(a.publish(key, value));
    }
    // Each key has its partition.
    let of = |notes: &Notes, key: &str| -> Vec<String> {
        notes.told().records.iter().filter(|record| record.starts_with(key)).cloned().collect()
    };
    for notes in [&a_notes, &b_notes] {
        wait_for("the records", || notes.told().records.len() == 4);
        assert_eq!(
            (of(notes, "x"), of(notes, "y")),
            (vec!["x=1".into(), "x=3".into()], vec!["y=2".into(), "y=-".into()])
        );
    }
    wait_for("the delivery", || a_notes.told().delivered.len() == 4);
    assert!(a_notes.told().delivered.iter().all(|(_, is_there)| *is_there));

    // librdkafka's broker does not find records by time; that old ones are read again is for a real one to show.
    // While the broker is away the end is not there to be read.
    cluster.broker_down(1).unwrap();
    b.rewind(REACH);
    assert!(!b.is_read());
    cluster.broker_up(1).unwrap();
    wait_for("the end again", || b.is_read());
    assert!(a.publish("z", Some("4")));
    wait_for("what comes then", || b_notes.told().records.last().is_some_and(|record| record == "z=4"));
    for client in [a, b] {
        let since = Instant::now();
        client.stop(WAIT);
        assert!(since.elapsed() < WAIT);
    }
}

#[test]
fn what_is_not_there_is_waited_for() {
    let cluster = MockCluster::new(1).unwrap();
    let (client, notes) = start(&cluster.bootstrap_servers());
    wait_for("the topic to be missed", || notes.told().problems.contains_key("topic_missing"));
    assert!(client.room() == 0 && !client.publish("x", Some("1")) && !client.is_read());
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    wait_for("the topic", || client.is_read());
    wait_for("room for all", || client.room() == QUEUE_RECORDS);
    cluster.broker_down(1).unwrap();
    wait_for("the broker to be missed", || notes.told().problems.contains_key("broker_away"));
    // librdkafka counts what it has to tell as well.
    assert!(client.publish("x", Some("2")) && client.room() < QUEUE_RECORDS);
    assert!(notes.told().delivered.is_empty(), "publishing waits");
    wait_for("it to be given up", || notes.told().delivered == [("x".to_owned(), false)]);
    cluster.broker_up(1).unwrap();
    wait_for("the next one", || {
        client.publish("x", Some("3"));
        notes.told().records.iter().any(|record| record == "x=3")
    });
    assert!(!notes.told().records.iter().any(|record| record == "x=2"));
}

#[test]
fn every_word_is_known() {
    let words: Vec<_> = codes().collect();
    assert!(words.contains(&"broker_away") && words.contains(&"topic_missing"));
}
