use std::collections::BTreeMap;

use greypit_pipeline::units::Span;
use proptest::prelude::*;

use super::super::Clients;
use super::*;
use crate::config::Scope;

const ALL: usize = 1000;

fn config(window_s: u64) -> Client {
    Client { scope: Scope::Farm, window: Span::seconds(window_s), ..Client::default() }
}

fn addr(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// All that `from` has to tell, told to `to` at once.
fn tell(origin: Origin, from: (&Clients, u64), to: (&Clients, u64)) -> usize {
    let changes = from.0.take_changes(ALL, seconds(from.1));
    for (client, passed) in &changes.clients {
        let report = Report { meaning: changes.meaning, age: changes.age, elapsed: Duration::ZERO, passed: *passed };
        assert!(to.0.fold(origin, *client, &report, seconds(to.1)));
    }
    changes.clients.len()
}

fn offer(clients: &Clients, number: u8, limit: u32, second: u64) -> u32 {
    clients.offer(addr(number), limit, true, seconds(second))
}

#[test]
fn what_passed_elsewhere_counts() {
    let [a, b] = [(); 2].map(|()| Clients::new(&config(110)));
    assert_eq!([0, 1, 2].map(|second| offer(&a, 1, 10, second)), [0; 3]);
    assert_eq!(tell(7, (&a, 3), (&b, 503)), 1);
    assert_eq!([504, 504, 504].map(|second| offer(&b, 1, 5, second)), [0, 0, 1]);
    // Said again in place of what was said.
    assert_eq!(offer(&a, 1, 10, 5), 0);
    assert_eq!(tell(7, (&a, 6), (&b, 506)), 1);
    assert_eq!([7, 7].map(|wait| offer(&b, 1, 7, 500 + wait)), [0, 2]);
    // Nothing new, and what only was refused is not told.
    assert_eq!(offer(&a, 1, 1, 6), 1);
    assert_eq!(tell(7, (&a, 7), (&b, 507)), 0);
    // Another origin's come on top, and b's own are not told twice.
    assert_eq!(tell(8, (&a, 8), (&b, 508)), 0);
    a.changed_again(b.meaning().read("192.0.2.1/32").unwrap());
    assert_eq!(tell(8, (&a, 8), (&b, 508)), 1);
    assert_eq!([9, 9].map(|wait| offer(&b, 1, 12, 500 + wait)), [0, 3]);
}

#[test]
fn what_passed_elsewhere_goes_with_the_window() {
    let [a, b] = [(); 2].map(|()| Clients::new(&config(110)));
    assert_eq!([0, 55].map(|second| offer(&a, 1, 10, second)), [0, 0]);
    tell(7, (&a, 60), (&b, 1065));
    // 65 s and 10 s ago at b's clock; never forgotten before 110 s have passed, nor later than after 130 s.
    assert_eq!(offer(&b, 1, 2, 1114), 1);
    assert_eq!(offer(&b, 1, 2, 1135), 0);
    assert_eq!(offer(&b, 1, 2, 1164), 2);
    assert_eq!(offer(&b, 1, 2, 1185), 0);
}

#[test]
fn counts_from_before_the_start_keep_their_age() {
    let clients = Clients::new(&config(110));
    let mut passed = [0; SLOTS];
    (passed[0], passed[6]) = (1, 2);
    let report = Report { meaning: clients.meaning(), age: seconds(5), elapsed: seconds(40), passed };
    assert!(clients.fold(1, clients.meaning().read("192.0.2.1/32").unwrap(), &report, seconds(1)));
    // Said 40 s ago: the newer passed 45 to 40 s ago, the older ones 105 to 95 s ago.
    assert_eq!([15, 36].map(|second| offer(&clients, 1, 3, second)), [1, 0]);
    assert_eq!([69, 94].map(|second| offer(&clients, 1, 2, second)), [2, 0]);
    // Too old altogether: not even remembered.
    let report = Report { elapsed: seconds(200), ..report };
    assert!(clients.fold(1, clients.meaning().read("192.0.2.2/32").unwrap(), &report, seconds(95)));
    assert_eq!(clients.len(), 1);
}

#[test]
fn other_meanings_are_not_added_up() {
    let a = Clients::new(&config(110));
    assert_eq!(offer(&a, 1, 10, 0), 0);
    let changes = a.take_changes(ALL, seconds(1));
    let (client, passed) = changes.clients[0];
    let report = Report { meaning: changes.meaning, age: changes.age, elapsed: Duration::ZERO, passed };
    for other in [config(111), Client { ipv4_prefix: 24, ..config(110) }, Client { ipv6_prefix: 48, ..config(110) }] {
        let b = Clients::new(&other);
        assert!(!b.fold(1, client, &report, seconds(1)) && b.is_empty());
    }
    // A reload to another meaning begins anew, and goes on telling.
    a.reconfigure(&config(60));
    assert_eq!(a.take_changes(ALL, seconds(2)).clients, []);
    assert_eq!(offer(&a, 1, 10, 3), 0);
    assert_eq!(a.take_changes(ALL, seconds(3)).clients.len(), 1);
    let alone = Clients::new(&Client { scope: Scope::Node, ..config(110) });
    assert!(!alone.fold(1, client, &report, seconds(1)));
    assert_eq!(offer(&alone, 1, 10, 0), 0);
    assert_eq!((alone.take_changes(ALL, seconds(1)).clients, alone.decided_alone()), (vec![], 0));
}

#[test]
fn clients_are_written_as_networks() {
    let meaning = Meaning { window: seconds(60), ipv4_prefix: 24, ipv6_prefix: 64 };
    for text in ["192.0.2.0/24", "2001:db8::/64", "::/64"] {
        assert_eq!(meaning.write(meaning.read(text).unwrap()), text);
    }
    for text in ["192.0.2.1/24", "192.0.2.0/25", "192.0.2.0", "2001:db8::1/64", "2001:db8:0::/64", "x/24", "/24", ""] {
        assert_eq!(meaning.read(text), None, "{text}");
    }
    let clients = Clients::new(&Client { ipv4_prefix: 24, ..config(60) });
    assert_eq!(offer(&clients, 77, 1, 0), 0);
    let changes = clients.take_changes(ALL, seconds(1));
    assert_eq!(changes.meaning.write(changes.clients[0].0), "192.0.2.0/24");
}

#[test]
fn changes_wait_until_they_are_taken() {
    let clients = Clients::new(&Client { max_clients: 3, ..config(60) });
    // More come and go than there is room for, and none is told twice.
    for number in 0..20 {
        assert_eq!(offer(&clients, number, 5, 0), 0);
        assert_eq!(offer(&clients, number, 5, 0), 0);
    }
    let changed = |max| clients.take_changes(max, seconds(1)).clients;
    let mut all: Vec<u8> =
        [changed(2), changed(2), changed(2)].concat().iter().map(|(client, _)| client.octets()[15]).collect();
    all.sort_unstable();
    assert_eq!(all, [17, 18, 19]);
    assert_eq!(changed(2), []);
    assert!(clients.lock().farm.as_ref().unwrap().changed.capacity() < 40);
}

#[test]
fn the_quiet_are_told_once_and_go() {
    let clients = Clients::new(&config(60));
    assert_eq!([1, 2].map(|number| offer(&clients, number, 5, 0)), [0, 0]);
    assert_eq!(clients.take_changes(1, seconds(1)).clients.len(), 1);
    assert_eq!(clients.len(), 2);
    let told = clients.take_changes(ALL, seconds(100)).clients;
    assert_eq!(told.iter().map(|(_, passed)| passed.iter().sum::<u32>()).collect::<Vec<_>>(), [0]);
    assert_eq!((clients.len(), clients.forgotten()), (0, 0));
    assert_eq!(clients.take_changes(ALL, seconds(101)).clients, []);
}

#[test]
fn rings_of_others_have_a_limit() {
    let clients = Clients::new(&Client { max_clients: 2, ..config(60) });
    let mut passed = [0; SLOTS];
    passed[0] = 1;
    let report = Report { meaning: clients.meaning(), age: Duration::ZERO, elapsed: Duration::ZERO, passed };
    let client = |number: u8| clients.meaning().read(&format!("192.0.2.{number}/32")).unwrap();
    let parts = || clients.lock().farm.as_ref().unwrap().parts;
    for origin in 0..8 {
        assert!(clients.fold(origin, client((origin % 2) as u8), &report, seconds(1)));
    }
    assert_eq!((clients.len(), parts(), clients.forgotten()), (2, 8, 0));
    assert!(clients.fold(8, client(0), &report, seconds(1)));
    assert_eq!((clients.len(), parts(), clients.forgotten()), (1, 5, 1));
    // All 0 takes back what was said; what is too old goes by itself.
    assert!(clients.fold(8, client(0), &Report { passed: [0; SLOTS], ..report.clone() }, seconds(1)));
    assert_eq!(parts(), 4);
    assert!(clients.fold(9, client(0), &report, seconds(100)));
    assert_eq!((clients.len(), parts()), (1, 1));
}

#[test]
fn decisions_made_alone_are_counted() {
    let clients = Clients::new(&config(60));
    assert_eq!(offer(&clients, 1, 1, 0), 0);
    clients.set_reached(true);
    assert_eq!(offer(&clients, 1, 1, 0), 1);
    clients.set_reached(false);
    assert_eq!(offer(&clients, 1, 1, 0), 2);
    assert_eq!(clients.decided_alone(), 2);
}

/// What one node has said of the one client, as a topic keeps it: the last of each origin.
type Topic = BTreeMap<Origin, (Duration, Report)>;

/// A node of a simulated farm: its clock began at a moment of its own.
struct Node {
    origin: Origin,
    started: Duration,
    clients: Clients,
    /// What is on its way here: when it arrives, from whom, what.
    arriving: Vec<(Duration, Origin, Report)>,
}

impl Node {
    fn start(origin: Origin, config: &Client, at: Duration, topic: &Topic) -> Node {
        // Some machines have been up for longer than others.
        let started = at - Duration::from_millis(u64::from(origin) * 77 % 1000);
        let node = Node { origin, started, clients: Clients::new(config), arriving: Vec::new() };
        for (origin, (said, report)) in topic {
            node.fold(*origin, &Report { elapsed: at - *said, ..report.clone() }, at);
        }
        node
    }

    fn fold(&self, origin: Origin, report: &Report, at: Duration) {
        let client = report.meaning.read("192.0.2.1/32").unwrap();
        assert!(self.clients.fold(origin, client, report, at - self.started));
    }

    fn receive(&mut self, at: Duration) {
        let (now, later) = std::mem::take(&mut self.arriving).into_iter().partition(|(when, ..)| *when <= at);
        self.arriving = later;
        let mut now: Vec<(Duration, Origin, Report)> = now;
        now.sort_by_key(|(when, ..)| *when);
        for (when, origin, report) in now {
            self.fold(origin, &report, when.max(self.started));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// One sender over a farm in which each node speaks every 100 ms and is heard within 400 ms more. Nodes end and come
    /// back. In every window no more messages pass than the limit and what the other nodes have let pass within the
    /// last 500 ms; nobody is refused but by what three slots more than a window, and that time, explain.
    #[test]
    fn no_window_has_more_than_the_limit_and_what_is_on_its_way(
        nodes in 1_usize..5,
        limit in 1_u32..12,
        window_ms in 1000_u64..8000,
        steps in prop::collection::vec((0_u64..300, 0_usize..5, 0_u64..400, prop::bool::weighted(0.03)), 1..400),
    ) {
        const EVERY: Duration = Duration::from_millis(100);
        const DELAY: Duration = Duration::from_millis(500);
        let window = Duration::from_millis(window_ms);
        let config = Client { scope: Scope::Farm, window: Span(window), ..Client::default() };
        let mut now = seconds(100);
        let mut topic = Topic::new();
        let mut origins = nodes as Origin;
        let mut farm: Vec<Node> = (0..origins).map(|origin| Node::start(origin, &config, now, &topic)).collect();
        let mut passed: Vec<(Duration, usize)> = Vec::new();
        let mut spoken = now;
        for (wait_ms, node, delay_ms, restarts) in steps {
            let until = now + Duration::from_millis(wait_ms);
            while spoken + EVERY <= until {
                spoken += EVERY;
                for from in 0..farm.len() {
                    farm[from].receive(spoken);
                    let changes = farm[from].clients.take_changes(ALL, spoken - farm[from].started);
                    let origin = farm[from].origin;
                    for (_, passed) in changes.clients {
                        let (meaning, age, elapsed) = (changes.meaning, changes.age, Duration::ZERO);
                        let report = Report { meaning, age, elapsed, passed };
                        topic.insert(origin, (spoken, report.clone()));
                        // In the order in which they were said.
                        for to in farm.iter_mut().filter(|to| to.origin != origin) {
                            let last = to.arriving.iter().filter(|(_, from, _)| *from == origin);
                            let last = last.map(|(when, ..)| *when).max().unwrap_or_default();
                            let when = last.max(spoken + Duration::from_millis(delay_ms));
                            to.arriving.push((when, origin, report.clone()));
                        }
                    }
                }
            }
            now = until;
            let node = node % farm.len();
            farm[node].receive(now);
            if restarts {
                // What it has not said yet is lost, and so is what is on its way to it, which the topic has.
                let (lost, origin) = (farm[node].clients.take_changes(ALL, now - farm[node].started), origins);
                passed.retain(|(time, at)| *at != node || lost.clients.is_empty() || *time < spoken);
                origins += 1;
                farm[node] = Node::start(origin, &config, now, &topic);
            }
            let strike = farm[node].clients.offer(addr(1), limit, true, now - farm[node].started);
            let within = |span: Duration, not_here: bool| {
                let is_it = |(time, at): &&(Duration, usize)| now - *time < span && !(not_here && *at == node);
                passed.iter().filter(is_it).count() as u32
            };
            if strike == 0 {
                let (all, unheard) = (within(window, false), within(DELAY + Duration::from_millis(1), true));
                prop_assert!(all < limit + unheard, "{all} in a window, {unheard} of them not heard of");
                passed.push((now, node));
            } else {
                let late = window * 14 / 11 + DELAY + Duration::from_micros(1);
                prop_assert!(within(late, false) >= limit, "refused for nothing");
            }
        }
    }
}
