//! One sender and a farm of three greypits that tell each other, through a
//! real Kafka, what they let pass.
//!
//! A mail server's side of the milter protocol stands for each server, so that
//! senders can be as fast as greypit is; one story has a real sendmail.

#[path = "../load/mta.rs"]
#[allow(dead_code)]
mod mta;
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mta::{Answer, Message, Session};
use support::flood::Flood;
use support::greypit::Greypit;
use support::kafka::Kafka;
use support::rsyslog::Rsyslog;
use support::sendmail::{MailNet, Sendmail, Setup};
use support::{WAIT, wait_for};

const NODES: usize = 3;
/// What a client may send over all nodes in a window.
const LIMIT: usize = 60;
/// A window that does not end while a test runs.
const WINDOW: &str = "1h";
/// What a node lets pass is known to the others within this time, on a machine that is busy with other things too:
/// by itself it takes tenths of a second.
const CONVERGENCE: Duration = Duration::from_secs(6);
/// An answer that took this long has waited for Kafka, which then is away for longer, and not only for its turn on a
/// busy machine.
const WAITED: Duration = Duration::from_secs(30);
const TOPIC: &str = "greypit.milter-clients";

/// One farm at a time: four of them would measure the machine.
static ALONE: Mutex<()> = Mutex::new(());

struct Farm {
    nodes: Vec<Greypit>,
    kafka: Kafka,
    _alone: MutexGuard<'static, ()>,
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of one MAIL command.
#[derive(Debug, Clone, Copy)]
struct Tried {
    node: usize,
    at: Instant,
    took: Duration,
    passed: bool,
}

fn greypit(number: usize, kafka: &Kafka, listen: &str) -> Greypit {
    let mut greypit = Greypit::new(&format!("mx{}", number + 1));
    greypit.set("milter.listen", vec![toml::Value::from(listen)]);
    // Whatever waits, waits for something else.
    greypit.set_toml("[milter]\nlimit = 0\nmax_delay = \"0s\"\n");
    greypit.set("milter.client.limit", LIMIT as i64);
    greypit.set("milter.client.window", WINDOW);
    greypit.set("milter.client.scope", "farm");
    greypit.set("kafka.brokers", kafka.addrs());
    greypit
}

impl Farm {
    fn start() -> Self {
        let _alone = alone();
        let kafka = Kafka::start();
        let mut nodes: Vec<Greypit> = (0..NODES).map(|number| greypit(number, &kafka, "")).collect();
        for node in &mut nodes {
            let socket = socket(node);
            node.set("milter.listen", vec![toml::Value::from(format!("unix:{}", socket.display()))]);
            node.start();
        }
        let farm = Self { nodes, kafka, _alone };
        farm.wait_connected(true);
        farm.wait_metric("greypit_milter_farm_nodes", NODES as f64);
        farm
    }

    fn wait_metric(&self, name: &str, value: f64) {
        for node in &self.nodes {
            wait_for(name, || (node.metric(name) == Some(value)).then_some(()));
        }
    }

    fn wait_connected(&self, connected: bool) {
        self.wait_metric("greypit_milter_farm_connected", f64::from(u8::from(connected)));
    }

    /// A connection of this client to each node.
    fn sender(&self, client: u64) -> Sender {
        let sessions = self.nodes.iter().map(|node| Session::open(&socket(node), client).expect("a milter"));
        Sender { sessions: sessions.map(Some).collect(), sent: 0 }
    }

    /// The sum of what the topic says that a node let a client pass, over all
    /// its lives.
    fn told(&self, node: &str, client: &str) -> u64 {
        let values: BTreeMap<String, String> =
            self.kafka.messages(TOPIC).into_iter().map(|message| (message.key, message.value)).collect();
        let of_node = values
            .iter()
            .filter(|(key, _)| key.starts_with(&format!("{node}/")) && key.ends_with(&format!("/{client}/32")));
        let passed = |value: &String| {
            let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
            let passed = value["passed"].as_array().expect("slots").clone();
            passed.iter().map(|slot| slot.as_u64().expect("a number")).sum::<u64>()
        };
        of_node.map(|(_, value)| passed(value)).sum()
    }

    fn sum(&self, name: &str) -> f64 {
        self.nodes.iter().map(|node| node.metric(name).expect("a metric")).sum()
    }
}

fn socket(node: &Greypit) -> PathBuf {
    node.folder().join("milter.sock")
}

/// A client with a connection to each node.
struct Sender {
    sessions: Vec<Option<Session>>,
    sent: u64,
}

impl Sender {
    fn mail(&mut self, node: usize) -> Tried {
        self.sent += 1;
        let session = self.sessions[node].as_mut().expect("a connection");
        let since = Instant::now();
        let answer = session.mail(Message(self.sent)).expect("an answer");
        let tried = Tried { node, at: Instant::now(), took: since.elapsed(), passed: answer == Answer::Pass };
        if tried.passed {
            session.abort().expect("a milter");
        }
        tried
    }

    fn mails(&mut self, node: usize, count: usize) -> usize {
        (0..count).filter(|_| self.mail(node).passed).count()
    }

    /// Takes turns over the nodes, until each has refused so often in a row.
    fn taking_turns(&mut self, pause: Duration, refusals: usize) -> Vec<Tried> {
        let (mut tried, mut refused) = (Vec::new(), [0; NODES]);
        let since = Instant::now();
        while refused.iter().any(|refused| *refused < refusals) {
            assert!(since.elapsed() < WAIT, "after {WAIT:?} still {refused:?} refusals");
            let mail = self.mail(tried.len() % NODES);
            refused[mail.node] = if mail.passed { 0 } else { refused[mail.node] + 1 };
            tried.push(mail);
            // At a rate of its own, whatever it is answered.
            let next = since + pause * tried.len() as u32;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        tried
    }
}

/// How long it took at most until a node knew what others had let pass: what
/// explains every message that passed beyond the limit.
fn convergence(tried: &[Tried]) -> Duration {
    let passed: Vec<&Tried> = tried.iter().filter(|tried| tried.passed).collect();
    let mut longest = Duration::ZERO;
    for (count, tried) in passed.iter().enumerate().filter(|(count, _)| *count >= LIMIT) {
        // So many of the others' must have been unknown here: at least the latest ones.
        let unknown = passed[..count].iter().rev().filter(|other| other.node != tried.node).nth(count - LIMIT);
        let unknown = unknown.unwrap_or_else(|| panic!("node {} let more pass than its own limit", tried.node));
        longest = longest.max(tried.at - unknown.at);
    }
    longest
}

/// So many passed; asserts that what one interval of convergence admits
/// explains it, and that no answer waited.
fn assert_converges(what: &str, tried: &[Tried]) -> usize {
    let passed = tried.iter().filter(|tried| tried.passed).count();
    let took = tried.last().expect("some").at - tried[0].at;
    let rate = tried.len() as f64 / took.as_secs_f64();
    let convergence = convergence(tried);
    let slowest = tried.iter().map(|tried| tried.took).max().expect("some");
    eprintln!(
        "{what}: {rate:.0} messages/s over {NODES} nodes: {passed} passed of a limit of {LIMIT} (without a farm {}), \
         {} refused; the counts were there after at most {convergence:?}; slowest answer {slowest:?}",
        NODES * LIMIT,
        tried.len() - passed,
    );
    assert!(passed >= LIMIT, "{passed} passed");
    assert!(convergence <= CONVERGENCE, "{convergence:?}");
    assert!(slowest < WAITED, "an answer took {slowest:?}");
    passed
}

fn report_delay(farm: &Farm) {
    let count = farm.sum("greypit_milter_farm_delay_seconds_count");
    let mean = farm.sum("greypit_milter_farm_delay_seconds_sum") / count;
    eprintln!("from said to counted elsewhere: {:.1} ms in the mean of {count} records", mean * 1000.0);
    let within = |node: &Greypit| {
        let (_, text) = node.get("/metrics").expect("metrics");
        let buckets = text.lines().filter_map(|line| line.strip_prefix("greypit_milter_farm_delay_seconds_bucket{le="));
        buckets.map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    eprintln!("buckets of mx1: {}", within(&farm.nodes[0]));
}

#[test]
fn one_sender_has_one_limit() {
    let farm = Farm::start();
    let slow = std::thread::scope(|scope| {
        // Who keeps to the limit is never refused, whoever else floods.
        let ordinary = scope.spawn(|| {
            let mut ordinary = farm.sender(3);
            (0..LIMIT)
                .map(|mail| {
                    std::thread::sleep(Duration::from_millis(40));
                    ordinary.mail(mail % NODES)
                })
                .collect::<Vec<_>>()
        });
        assert_converges("quick", &farm.sender(1).taking_turns(Duration::ZERO, 200));
        assert_converges("100 a second", &farm.sender(2).taking_turns(Duration::from_millis(10), 50));
        // So slow that they know of each other in time.
        let slower = farm.sender(4).taking_turns(CONVERGENCE / (2 * LIMIT) as u32, 10);
        let passed = assert_converges("20 a second", &slower);
        assert!(passed < NODES * LIMIT, "the nodes know nothing of each other");
        ordinary.join().expect("no panic")
    });
    assert!(slow.iter().all(|tried| tried.passed), "an ordinary sender was refused");
    report_delay(&farm);
    assert_eq!(farm.sum("greypit_milter_farm_ignored_total"), 0.0);
}

#[test]
fn without_kafka_each_node_counts_for_itself() {
    let mut farm = Farm::start();
    farm.kafka.kill(0);
    farm.wait_connected(false);
    let alone = farm.sum("greypit_milter_farm_fallback_total");
    let tried = farm.sender(1).taking_turns(Duration::ZERO, 20);
    let slowest = tried.iter().map(|tried| tried.took).max().expect("some");
    eprintln!("broker killed: {} MAIL commands, slowest answer {slowest:?}", tried.len());
    assert!(slowest < WAITED, "an answer took {slowest:?}");
    for node in 0..NODES {
        let passed = tried.iter().filter(|tried| tried.node == node && tried.passed).count();
        assert_eq!(passed, LIMIT, "node {node}");
    }
    let decided = || farm.sum("greypit_milter_farm_fallback_total") - alone;
    wait_for("the decisions to be counted", || (decided() == tried.len() as f64).then_some(()));
    for node in &farm.nodes {
        let part = node.readiness().expect("an answer")["parts"]["farm"].clone();
        assert!(part["ready"] == true && part["reason"].as_str().is_some_and(|why| why.contains("Kafka")), "{part}");
    }
    // What came meanwhile is told when Kafka is back.
    let mut other = farm.sender(2);
    assert_eq!(other.mails(0, LIMIT / 2), LIMIT / 2);
    farm.kafka.spawn(0);
    wait_for("the broker to answer", || farm.kafka.answers(0).then_some(()));
    let since = Instant::now();
    farm.wait_connected(true);
    eprintln!("broker back: all connected {:?} after it answers", since.elapsed());
    farm.kafka.wait_whole();
    wait_for("what was counted meanwhile", || (farm.told("mx1", "198.18.0.3") == LIMIT as u64 / 2).then_some(()));
    let passed = (0..LIMIT).filter(|_| other.mail(1).passed).count();
    assert_eq!(passed, LIMIT - LIMIT / 2);
    assert_converges("broker back", &farm.sender(3).taking_turns(Duration::from_millis(10), 30));
    farm.nodes.iter_mut().for_each(Greypit::assert_alive);
}

#[test]
fn a_node_that_comes_back_has_its_counts() {
    let mut farm = Farm::start();
    let (half, client) = (LIMIT / 2, "198.18.0.2");
    assert_eq!(farm.sender(1).mails(0, half), half);
    wait_for("the counts of mx1", || (farm.told("mx1", client) == half as u64).then_some(()));
    farm.nodes[0].kill();
    farm.nodes[0].start();
    farm.wait_connected(true);
    // Its own from before, once; then what it counts now on top.
    assert_eq!(farm.sender(1).mails(0, 10), 10);
    // Ended in order, it has told everything.
    farm.nodes[0].terminate();
    assert_eq!(farm.told("mx1", client), half as u64 + 10);
    farm.nodes[0].start();
    farm.wait_connected(true);
    assert_eq!(farm.sender(1).mails(0, LIMIT), LIMIT - half - 10);
    wait_for("the counts of mx1", || (farm.told("mx1", client) == LIMIT as u64).then_some(()));
    let mut sender = farm.sender(1);
    wait_for("mx2 to know", || (!sender.mail(1).passed).then_some(()));
    // Another window: nothing is added up that means something else, and both sides say so.
    farm.nodes[2].set("milter.client.window", "2h");
    farm.nodes[2].reload();
    wait_for("mx3 to begin anew", || farm.sender(1).mail(2).passed.then_some(()));
    farm.wait_connected(true);
    assert_eq!(farm.sender(2).mails(1, half), half);
    let ignored = "greypit_milter_farm_ignored_total{reason=\"shape\"}";
    for node in &farm.nodes {
        wait_for("records to be ignored", || (node.series(ignored) > 0).then_some(()));
    }
    assert_eq!(farm.sender(2).mails(2, LIMIT), LIMIT);
}

/// One sendmail that stands for three: it listens three times, with a greypit
/// each.
#[test]
fn a_sender_at_three_sendmails_has_one_limit() {
    let _alone = alone();
    let kafka = Kafka::start();
    let addr = |number: usize| Ipv4Addr::new(127, 0, 6, number as u8 + 1);
    let ports: Vec<u16> = (0..NODES).map(|_| support::net::free_port()).collect();
    let setup = (0..NODES).fold(Setup::mx(1), |setup, n| {
        setup.daemon(&format!("MTA{n}"), addr(n), &format!("S=inet:{}@127.0.0.1, F=", ports[n]))
    });
    let nodes: Vec<Greypit> = (0..NODES)
        .map(|number| {
            let mut node = greypit(number, &kafka, &format!("inet:{}@127.0.0.1", ports[number]));
            node.start();
            node
        })
        .collect();
    let farm = Farm { nodes, kafka, _alone };
    farm.wait_connected(true);
    let net = MailNet::keeping();
    let syslog = Rsyslog::start("mx1", &[]);
    let sendmail = Sendmail::start(setup, &net, &syslog);

    let server = |number| SocketAddr::from((addr(number), net.port()));
    let mut floods: Vec<Flood> = (0..NODES).map(|n| Flood::connect(server(n), &format!("farm{n}"))).collect();
    let (mut tried, mut ids, mut refused) = (Vec::new(), Vec::new(), [0; NODES]);
    while refused.iter().any(|refused| *refused < 10) {
        let node = tried.len() % NODES;
        let attempt = floods[node].send_one();
        let passed = attempt.accepted();
        assert!(passed || attempt.mail.code == 451 && attempt.mail.text.contains("(client)"), "{attempt:?}");
        refused[node] = if passed { 0 } else { refused[node] + 1 };
        tried.push(Tried { node, at: Instant::now(), took: attempt.took, passed });
        ids.extend(passed.then_some(attempt.message_id));
    }
    assert_converges("sendmail", &tried);
    sendmail.wait_queue_empty();
    wait_for("the accepted mail", || (net.kept().len() >= ids.len()).then_some(()));
    ids.sort_unstable();
    assert_eq!(net.kept(), ids);
}
