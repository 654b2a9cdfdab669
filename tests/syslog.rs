//! The syslog listeners over real sockets, with the test itself in the place of the spool's writer: it decides when there
//! is room, so what a full queue does can be shown exactly.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use greypit::collect::syslog::listen::{Config, Tls, bind, spawn};
use greypit_pipeline::Submit;
use greypit_pipeline::submit::testing::{self, Queue};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "syslog/activation.rs"]
mod activation;
#[path = "syslog/limits.rs"]
mod limits;
#[path = "syslog/local.rs"]
mod local;
#[path = "syslog/rules.rs"]
mod rules;
#[path = "syslog/tls.rs"]
mod tls;

/// How long anything may take: it only ends what hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// In this time a stop that waits a few times for `DRAIN_MAX` has ended, on any machine, and one that waits for
/// each message has not.
const STOPPED: Duration = Duration::from_secs(60);
/// How long to look for a group that is not expected.
const NOTHING: Duration = Duration::from_millis(1);

/// Listeners on their own threads; the test's thread may block.
struct Rig {
    runtime: tokio::runtime::Runtime,
    submit: Submit,
    queue: Queue,
    registry: Registry,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    addresses: Vec<String>,
    tls: Option<Tls>,
}

fn listen(config: &Config, queue_bytes: u32) -> Rig {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (submit, queue) = testing::queue(queue_bytes);
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let bound = bind(config).unwrap();
    let addresses = bound.addresses().iter().map(|text| text.split_once(' ').unwrap().1.to_owned()).collect();
    let tls = bound.tls();
    let inside = runtime.enter();
    let tasks = spawn(bound, config, "gw", None, None, submit.clone(), &registry, stop.clone()).unwrap();
    drop(inside);
    Rig { runtime, submit, queue, registry, stop, tasks, addresses, tls }
}

fn only(udp: &[&str], tcp: &[&str], unix: &[&str]) -> Config {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Config { udp: list(udp), tcp: list(tcp), unix: list(unix), ..Config::default() }
}

impl Rig {
    /// The sum of the series of a metric that have all of these label values.
    fn metric(&self, name: &str, labels: &[&str]) -> usize {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let labelled =
            metrics.filter(|metric| labels.iter().all(|l| metric.get_label().iter().any(|m| m.value() == *l)));
        labelled.map(|metric| (metric.get_counter().get_value() + metric.get_gauge().get_value()) as usize).sum()
    }

    fn connections(&self) -> usize {
        self.metric("greypit_syslog_connections", &[])
    }

    fn messages(&self) -> usize {
        self.metric("greypit_syslog_messages_total", &[])
    }

    fn dropped(&self, reason: &str) -> usize {
        self.metric("greypit_syslog_dropped_total", &[reason])
    }

    fn until(&self, what: &str, done: impl Fn(&Rig) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < LIMIT, "{what} did not happen; {} messages", self.messages());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes bodies until there are `n`, or fails.
    fn take(&self, n: usize) -> Vec<serde_json::Value> {
        let mut bodies = Vec::new();
        while bodies.len() < n {
            let group = self.queue.next(LIMIT).unwrap_or_else(|| panic!("{} of {n} events came", bodies.len()));
            bodies.extend(group.iter().map(|(_, body)| serde_json::from_slice::<serde_json::Value>(body).unwrap()));
        }
        bodies
    }

    /// How many events wait in the queue.
    fn take_waiting(&self) -> usize {
        std::iter::from_fn(|| self.queue.next(NOTHING)).map(|group| group.len()).sum()
    }

    /// Cancels, and waits for every task.
    fn end(&mut self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            self.runtime.block_on(async { tokio::time::timeout(LIMIT, task).await }).expect("the task ends").unwrap();
        }
        began.elapsed()
    }
}

fn line(i: usize) -> String {
    format!("<13>1 2026-11-20T12:55:01Z mx1 app 1 - - {i:06}")
}

fn numbers(bodies: &[serde_json::Value]) -> Vec<usize> {
    bodies.iter().map(|body| body["message"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn udp_drops_what_the_queue_does_not_take_and_counts_exactly_that() {
    const SENT: usize = 3000;
    let mut rig = listen(&only(&["127.0.0.1:0"], &[], &[]), 20_000);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(&rig.addresses[0]).unwrap();
    for i in 0..SENT {
        client.send(line(i).as_bytes()).unwrap();
    }
    rig.until("every datagram accounted for", |rig| rig.messages() + rig.dropped("kernel") == SENT);
    rig.end();
    let taken = rig.take_waiting();
    assert!(taken > 0 && rig.dropped("queue_full") > 0);
    assert_eq!(taken + rig.dropped("queue_full") + rig.dropped("kernel"), SENT);
    assert_eq!(rig.metric("greypit_syslog_events_total", &["syslog"]), taken);
    assert_eq!(rig.dropped("stopping") + rig.dropped("refused"), 0);
}

#[test]
fn several_sockets_share_an_address_and_every_datagram_of_a_burst_is_received_or_counted() {
    const SENDERS: usize = 16;
    const EACH: usize = 2000;
    let mut config = only(&["127.0.0.1:0"], &[], &[]);
    config.udp_sockets = 4;
    config.recv_buffer = greypit_pipeline::units::Size(64 << 10);
    let mut rig = listen(&config, 64 << 20);
    assert_eq!((rig.addresses.len(), rig.tasks.len()), (1, 4));
    // Nobody else gets in, though the sockets share the address among themselves.
    let busy = Config { udp: vec![rig.addresses[0].clone()], ..config };
    assert!(bind(&busy).unwrap_err().to_string().contains("another process has it"));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let address = rig.addresses[0].clone();
            std::thread::spawn(move || {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect(address).unwrap();
                for i in 0..EACH {
                    client.send(line(sender * EACH + i).as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    rig.until("every datagram accounted for", |rig| rig.messages() + rig.dropped("kernel") == SENDERS * EACH);
    rig.end();
    let mut bodies = Vec::new();
    while let Some(group) = rig.queue.next(NOTHING) {
        bodies.extend(group.iter().map(|(_, body)| serde_json::from_slice::<serde_json::Value>(body).unwrap()));
    }
    assert_eq!(bodies.len() + rig.metric("greypit_syslog_dropped_total", &[]), SENDERS * EACH);
    // What one sender wrote is in order.
    let mut last = [None; SENDERS];
    for number in numbers(&bodies) {
        let last = &mut last[number / EACH];
        assert!(last.is_none_or(|last| last < number), "{number} after {last:?}");
        *last = Some(number);
    }
}

#[test]
fn udp_goes_on_once_there_is_room_again() {
    let rig = listen(&only(&["127.0.0.1:0"], &[], &[]), 500);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(&rig.addresses[0]).unwrap();
    let mut sent = 0;
    while rig.dropped("queue_full") == 0 {
        client.send(line(sent).as_bytes()).unwrap();
        sent += 1;
        rig.until("the datagram is received", |rig| rig.messages() == sent);
    }
    assert_eq!(rig.take_waiting() + 1, sent);
    client.send(line(sent).as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [sent]);
}

#[test]
fn a_full_queue_stops_the_reading_of_tcp_and_nothing_is_lost_or_reordered() {
    const SENT: usize = 100_000;
    const QUEUE_BYTES: u32 = 64 << 10;
    let rig = listen(&only(&[], &["127.0.0.1:0"], &[]), QUEUE_BYTES);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    let sender = std::thread::spawn(move || {
        let text: String = (0..SENT).map(|i| line(i) + "\n").collect();
        client.write_all(text.as_bytes())
    });
    rig.until("the queue is full", |rig| rig.submit.queue_bytes().0 >= u64::from(QUEUE_BYTES));
    // One group in the queue, one that waits for room: nothing else was read while nobody takes.
    let target = greypit_pipeline::event::GROUP_BYTES_TARGET;
    assert!(rig.messages() * 100 < 2 * target, "{} messages", rig.messages());
    assert_eq!(numbers(&rig.take(SENT)), (0..SENT).collect::<Vec<_>>());
    sender.join().unwrap().unwrap();
    assert_eq!(rig.metric("greypit_syslog_dropped_total", &[]), 0);
}

#[test]
fn stopping_with_a_full_queue_ends_in_time_and_counts_what_it_held() {
    let mut rig = listen(&only(&[], &["127.0.0.1:0"], &[]), 1000);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    client.write_all((line(0) + "\n").as_bytes()).unwrap();
    rig.until("the first is queued", |rig| rig.messages() == 1);
    let rest: String = (1..100).map(|i| line(i) + "\n").collect();
    client.write_all(rest.as_bytes()).unwrap();
    let took = rig.end();
    assert!(took < STOPPED, "{took:?}");
    assert_eq!(rig.messages(), 100);
    assert_eq!(rig.take_waiting() + rig.dropped("stopping"), 100);
    assert!(rig.dropped("stopping") > 0);
}

#[test]
fn a_sender_that_never_pauses_does_not_hold_up_the_end() {
    let mut rig = listen(&only(&[], &["127.0.0.1:0"], &[]), 1 << 20);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    let text: String = (0..1000).map(|i| line(i) + "\n").collect();
    let sender = std::thread::spawn(move || while client.write_all(text.as_bytes()).is_ok() {});
    // Room all the time, or the end would be that of a full queue.
    let (queue, ended) = (std::mem::replace(&mut rig.queue, testing::queue(1).1), CancellationToken::new());
    let taker = std::thread::spawn({
        let ended = ended.clone();
        move || {
            let mut taken = 0;
            loop {
                let last = ended.is_cancelled();
                match queue.next(NOTHING) {
                    Some(group) => taken += group.len(),
                    None if last => return taken,
                    None => {}
                }
            }
        }
    });
    rig.until("it is at it", |rig| rig.messages() > 1000);
    let took = rig.end();
    assert!(took < STOPPED, "{took:?}");
    sender.join().unwrap();
    ended.cancel();
    assert_eq!(taker.join().unwrap(), rig.messages());
    assert_eq!(rig.metric("greypit_syslog_dropped_total", &[]), 0);
}

#[test]
fn a_unix_sender_waits_for_room_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let config = Config { unix_mode: "0620".to_owned(), ..only(&[], &[], &[path.to_str().unwrap()]) };
    let mut rig = listen(&config, 500);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    let client = UnixDatagram::unbound().unwrap();
    client.connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    // The kernel takes few; while nobody makes room the sender is told to wait.
    let (mut sent, began) = (0, Instant::now());
    let mut waiting = None;
    while waiting.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(100)) {
        assert!(began.elapsed() < LIMIT && sent < 100_000, "the sender never waits");
        match client.send(line(sent).as_bytes()) {
            Ok(_) => (sent, waiting) = (sent + 1, None),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                waiting.get_or_insert_with(Instant::now);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    assert_eq!(numbers(&rig.take(sent)), (0..sent).collect::<Vec<_>>());
    rig.end();
    assert!(!path.exists());
    assert_eq!((rig.messages(), rig.metric("greypit_syslog_dropped_total", &[])), (sent, 0));
}

#[test]
fn records_carry_the_peer_over_both_address_families() {
    let families: &[&str] = match UdpSocket::bind("[::1]:0") {
        Ok(_) => &["127.0.0.1:0", "[::1]:0"],
        Err(error) => {
            eprintln!("no IPv6 here: {error}");
            &["127.0.0.1:0"]
        }
    };
    let rig = listen(&only(families, families, &[]), 1 << 20);
    for (i, address) in rig.addresses.iter().enumerate() {
        let peer = address.parse::<std::net::SocketAddr>().unwrap().ip();
        if i < families.len() {
            let from = std::net::SocketAddr::new(peer, 0);
            UdpSocket::bind(from).unwrap().send_to(line(i).as_bytes(), address).unwrap();
        } else {
            TcpStream::connect(address).unwrap().write_all(line(i).as_bytes()).unwrap();
        }
        assert_eq!(rig.take(1)[0]["peer"], peer.to_string(), "{address}");
    }
}
