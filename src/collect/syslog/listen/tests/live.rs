//! Sockets, a real pipeline and its objects. Nothing sleeps and hopes: [`Live::until`] waits for the thing itself.
//!
//! The runtime has one thread and the clients block it, so between two `await`s no task of ours runs: what a client
//! wrote before `stop` is in the kernel and nowhere else.

use super::*;
use crate::collect::boot::sessions::{Stage, testing};
use greypit_pipeline::codec::Codec;
use greypit_pipeline::store::{self, Store};
use greypit_pipeline::{Drained, Health, Parts, Pipeline, batch, spool};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

const LIMIT: Duration = Duration::from_secs(120);

struct Live {
    dir: tempfile::TempDir,
    store: store::Config,
    pipeline: Pipeline,
    registry: Registry,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    addresses: Vec<String>,
}

fn start(config: &Config) -> Live {
    start_with(config, spool::Config::default())
}

fn start_with(config: &Config, spool: spool::Config) -> Live {
    start_beside(None, config, spool)
}

fn start_beside(boots: Option<Arc<Sessions>>, config: &Config, spool: spool::Config) -> Live {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    // Whatever the disk takes.
    let drain_timeout = greypit_pipeline::units::Span(LIMIT);
    let store = store::Config { url: dir.path().join("objects").display().to_string(), ..store::Config::default() };
    let pipeline = Pipeline::start(Parts {
        node: "mx1".to_owned(),
        data_dir: dir.path().to_owned(),
        spool,
        batch: batch::Config { codec: Codec::None, drain_timeout, ..batch::Config::default() },
        store: Store::open(&store).unwrap(),
        kafka: None,
        metrics: greypit_pipeline::Metrics::new(&registry).unwrap(),
        health: Health::new(),
    })
    .unwrap();
    let stop = CancellationToken::new();
    let bound = bind(config).unwrap();
    let addresses = bound.addresses();
    let tasks = spawn(bound, config, "mx1", None, boots, pipeline.submit().clone(), &registry, stop.clone()).unwrap();
    Live { dir, store, pipeline, registry, stop, tasks, addresses }
}

/// The sum over the series that have `label` as the value of one of their labels; of all with `""`.
fn metric(registry: &Registry, name: &str, label: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let named = |m: &&prometheus::proto::Metric| label.is_empty() || m.get_label().iter().any(|l| l.value() == label);
    metrics.iter().filter(named).map(|m| (m.get_counter().get_value() + m.get_gauge().get_value()) as u64).sum()
}

impl Live {
    fn address(&self, i: usize) -> &str {
        self.addresses[i].split_once(' ').unwrap().1
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address(0)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn metric(&self, name: &str, label: &str) -> u64 {
        metric(&self.registry, name, label)
    }

    async fn until(&self, name: &str, label: &str, value: u64) {
        let deadline = Instant::now() + LIMIT;
        while self.metric(name, label) != value {
            assert!(Instant::now() < deadline, "{name}{{{label}}} is {}, not {value}", self.metric(name, label));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops; every message that came, sorted.
    async fn finish(self) -> (Vec<String>, Registry) {
        let (records, registry) = self.finish_with_records().await;
        let mut found: Vec<_> = records.iter().map(|record| record["message"].as_str().unwrap().to_owned()).collect();
        found.sort();
        (found, registry)
    }

    async fn finish_with_records(self) -> (Vec<serde_json::Value>, Registry) {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(LIMIT, task).await.expect("the task ends").unwrap();
        }
        assert_eq!(self.pipeline.drain().await, Drained::Shipped);
        let store = Store::open(&self.store).unwrap();
        let mut found = Vec::new();
        for object in store.list("").await.unwrap() {
            let bytes = store.get(&object.key).await.unwrap();
            for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                found.push(serde_json::from_slice(line).unwrap());
            }
        }
        drop(self.dir);
        (found, self.registry)
    }
}

fn lines(client: usize, n: usize) -> String {
    (0..n).map(|i| format!("<13>1 2026-11-20T12:55:01Z mx1 app 1 - - {client}-{i:05}\n")).collect()
}

fn expected(clients: usize, n: usize) -> Vec<String> {
    (0..clients).flat_map(|client| (0..n).map(move |i| format!("{client}-{i:05}"))).collect()
}

fn tcp() -> Config {
    only(|c| c.tcp = vec!["127.0.0.1:0".to_owned()])
}

#[tokio::test]
async fn tcp_lines_become_records_once() {
    let live = start(&tcp());
    let mut clients: Vec<_> = (0..3).map(|_| live.connect()).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.write_all(lines(i, 500).as_bytes()).unwrap();
    }
    live.until("greypit_syslog_messages_total", "tcp", 1500).await;
    assert_eq!(live.metric("greypit_syslog_connections", ""), 3);
    drop(clients);
    live.until("greypit_syslog_connections", "", 0).await;
    assert_eq!(live.metric("greypit_syslog_events_total", "syslog"), 1500);
    assert_eq!(live.metric("greypit_syslog_bytes_total", "tcp"), 3 * (lines(0, 500).len() as u64 - 500));
    assert_eq!(live.finish().await.0, expected(3, 500));
}

#[tokio::test]
async fn a_sender_above_the_speed_of_the_disk_waits_and_loses_nothing() {
    let spool = spool::Config { queue_bytes: Size(1 << 20), ..spool::Config::default() };
    let live = start_with(&tcp(), spool);
    let mut client = live.connect();
    let sender = std::thread::spawn(move || client.write_all(lines(0, 20_000).as_bytes()));
    live.until("greypit_syslog_messages_total", "tcp", 20_000).await;
    sender.join().unwrap().unwrap();
    assert_eq!(live.metric("greypit_syslog_dropped_total", ""), 0);
    assert_eq!(live.finish().await.0, expected(1, 20_000));
}

#[tokio::test]
async fn a_last_line_without_lf_is_taken_at_the_end_of_the_stream() {
    let live = start(&tcp());
    live.connect().write_all(lines(0, 2).trim_end().as_bytes()).unwrap();
    live.until("greypit_syslog_messages_total", "tcp", 2).await;
    assert_eq!(live.finish().await.0, expected(1, 2));
}

#[tokio::test]
async fn stop_loses_nothing_that_had_arrived_even_on_connections_not_yet_accepted() {
    let live = start(&tcp());
    let mut early = live.connect();
    live.until("greypit_syslog_connections", "", 1).await;
    early.write_all(lines(0, 400).as_bytes()).unwrap();
    let mut late = live.connect();
    late.write_all(lines(1, 400).as_bytes()).unwrap();
    // No await since `early` wrote: no task has seen any of this.
    assert_eq!(live.finish().await.0, expected(2, 400));
    assert_eq!(early.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
}

#[tokio::test]
async fn a_broken_frame_closes_its_own_connection_only() {
    let live = start(&tcp());
    let (mut good, mut bad) = (live.connect(), live.connect());
    bad.write_all(format!("{}99999999999 x", lines(0, 1)).as_bytes()).unwrap();
    live.until("greypit_syslog_framing_errors_total", "count_too_long", 1).await;
    live.until("greypit_syslog_connections", "", 1).await;
    assert_eq!(bad.read(&mut [0]).unwrap_or(0), 0);
    good.write_all(lines(1, 1).as_bytes()).unwrap();
    live.until("greypit_syslog_messages_total", "tcp", 2).await;
    assert_eq!(live.finish().await.0, ["0-00000", "1-00000"]);
}

#[tokio::test]
async fn a_connection_above_the_limit_is_closed_and_counted_and_the_place_comes_back() {
    let live = start(&Config { max_connections: 1, ..tcp() });
    assert_eq!(live.metric("greypit_syslog_connections_max", ""), 1);
    let mut first = live.connect();
    live.until("greypit_syslog_connections", "", 1).await;
    let mut second = live.connect();
    live.until("greypit_syslog_connections_refused_total", "", 1).await;
    match second.read(&mut [0]) {
        Ok(n) => assert_eq!(n, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    first.write_all(lines(0, 1).as_bytes()).unwrap();
    drop(first);
    live.until("greypit_syslog_connections", "", 0).await;
    live.connect().write_all(lines(1, 1).as_bytes()).unwrap();
    live.until("greypit_syslog_messages_total", "tcp", 2).await;
    assert_eq!(live.finish().await.0, ["0-00000", "1-00000"]);
}

#[tokio::test]
async fn an_idle_connection_is_closed_where_the_config_asks_for_it() {
    let live = start(&Config { idle_timeout: greypit_pipeline::units::Span(Duration::from_millis(50)), ..tcp() });
    let mut client = live.connect();
    client.write_all(lines(0, 1).as_bytes()).unwrap();
    live.until("greypit_syslog_messages_total", "tcp", 1).await;
    live.until("greypit_syslog_connections", "", 0).await;
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(live.finish().await.0, ["0-00000"]);
}

#[tokio::test]
async fn every_datagram_is_an_event_or_counted_as_dropped() {
    let live = start(&only(|c| {
        c.udp = vec!["127.0.0.1:0".to_owned()];
        c.recv_buffer = Size(16 << 10);
    }));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(live.address(0)).unwrap();
    // No await: nobody reads, so the kernel must drop.
    for i in 0..2000 {
        client.send(format!("<13>1 2026-11-20T12:55:01Z mx1 app 1 - - {i:05}").as_bytes()).unwrap();
    }
    let (found, registry) = live.finish().await;
    let dropped = |reason: &str| metric(&registry, "greypit_syslog_dropped_total", reason) as usize;
    assert!(dropped("kernel") > 0);
    assert_eq!(found.len() + dropped("kernel") + dropped("queue_full"), 2000);
    assert!(!found.is_empty());
}

#[tokio::test]
async fn datagrams_on_a_unix_socket_become_records_and_the_file_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let live = start(&only(|c| c.unix = vec![path.to_str().unwrap().to_owned()]));
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    for i in 0..100 {
        let text = format!("<13>Nov 20 12:55:01 app[1]: {i:05}");
        while let Err(error) = client.send(text.as_bytes()) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            tokio::task::yield_now().await;
        }
    }
    let (found, _) = live.finish().await;
    assert_eq!(found.len(), 100, "{found:?}");
    assert!(!path.exists());
}

#[tokio::test]
async fn what_a_machine_logs_that_has_booted_from_here_joins_its_session() {
    let (sessions, id) = testing::of_one([127, 0, 0, 1].into());
    let config = only(|c| {
        c.udp = vec!["127.0.0.1:0".to_owned()];
        c.tcp = vec!["127.0.0.1:0".to_owned()];
    });
    let live = start_beside(Some(sessions.clone()), &config, spool::Config::default());
    assert_eq!(testing::stage_of_one(&sessions), Stage::Firmware);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // Another address has no session.
    let stranger = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
    for socket in [&udp, &stranger] {
        socket.send_to(lines(0, 1).trim_end().as_bytes(), live.address(0)).unwrap();
    }
    let mut tcp = TcpStream::connect(live.address(1)).unwrap();
    tcp.write_all(lines(1, 2).as_bytes()).unwrap();
    live.until("greypit_syslog_messages_total", "", 4).await;
    let (records, _) = live.finish_with_records().await;
    let mut found: Vec<_> =
        records.iter().map(|record| (record["peer"].as_str().unwrap(), record.get("session").cloned())).collect();
    found.sort_by_key(|(peer, _)| *peer);
    let id = serde_json::Value::from(&*id);
    let joined = ("127.0.0.1", Some(id));
    assert_eq!(found, [joined.clone(), joined.clone(), joined, ("127.0.0.2", None)]);
    assert_eq!(testing::stage_of_one(&sessions), Stage::Syslog);
}
