//! greypit is killed (`kill -9`) again and again while many clients take leases, come
//! back to them and give them up. No address may be acknowledged to two of them, and no
//! acknowledged lease may be forgotten.
//!
//! `GREYPIT_BOOT_KILLS` says how many times (default 40); `GREYPIT_KILL_SEED` repeats
//! the choices of a run.

mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};
use support::boot_server::{BootServer, SERVER};
use support::dhcp_packet::{ACK, Answer, DISCOVER, NAK, OFFER, Packet, RELEASE, REQUEST, SERVERS, socket};
use support::netns::Wire;
use support::random::{Random, seed};
use support::wait_for;

/// Clients that there are, and how many of them are at it at once. There are fewer
/// addresses than clients.
const CARDS: usize = 230;
const AT_ONCE: usize = 48;
const POOL: &str = "10.77.0.10-10.77.0.209";
/// A client asks again after this time, then after twice as long, and so on (RFC 2131, 4.1), up to
/// [`PATIENCE_MAX`]: where answers take long they are waited for.
const PATIENCE: Duration = Duration::from_millis(250);
const PATIENCE_MAX: Duration = Duration::from_secs(8);
/// How often it asks for what it was offered.
const TRIES: u32 = 4;
/// How long all may wait for one more ACK: greypit starts meanwhile.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn no_address_is_given_twice_and_no_lease_is_lost() {
    let seed = seed("GREYPIT_KILL_SEED");
    println!("GREYPIT_KILL_SEED={seed}");
    let kills = std::env::var("GREYPIT_BOOT_KILLS").map_or(40, |text| text.parse().expect("a number"));
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.set("boot.dhcp.pool", vec![POOL.to_owned()]);
    server.machine("default", &[("boot", "local")]);
    let mut random = Random::new(seed);
    let mut storm = Storm::new(socket(&wire.host("clients", Some("10.77.0.2/24")), 68), random.split());
    for number in 0..kills {
        server.spawn();
        if number % 5 == 4 {
            // Amid the start, as it may be.
            let end = Instant::now() + random.millis(0..250);
            storm.goes_on(|_| Instant::now() >= end);
        } else {
            let acks = storm.counts.acks + random.within(1..400);
            storm.goes_on(|storm| storm.counts.acks >= acks);
        }
        server.kill();
    }
    server.start();
    storm.all_come_back();
    eprintln!("{kills} kills: {:?}, {} leases at the end", storm.counts, storm.holders.len());
    assert!(storm.counts.acks > kills && storm.counts.reboots > 0 && storm.counts.releases > 0);
    let leased = wait_for("the gauge", || {
        let leased = server.series("greypit_dhcp_addresses{state=\"leased\"}") as usize;
        (leased >= storm.holders.len()).then_some(leased)
    });
    assert!(leased <= 200, "{leased}");
    server.terminate();
    let (verdict, complaints) = server.verify();
    assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
    eprintln!("{verdict:?}");
}

/// What was seen.
#[derive(Debug, Default)]
struct Counts {
    acks: u64,
    /// Those of them that confirmed a lease that a client came back to.
    reboots: u64,
    releases: u64,
    /// To clients that were offered what is no more to be had.
    naks: u64,
    /// Packets that got no answer in time.
    again: u64,
}

/// All clients, with one socket.
#[derive(Debug)]
struct Storm {
    socket: UdpSocket,
    random: Random,
    cards: Vec<Card>,
    /// Who has what was acknowledged and not given back.
    holders: BTreeMap<Ipv4Addr, usize>,
    counts: Counts,
}

#[derive(Debug, Clone)]
struct Card {
    mac: [u8; 6],
    step: Step,
    /// Of the last packet.
    xid: u32,
    sent: Instant,
    tries: u32,
    held: Option<Ipv4Addr>,
}

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    /// An OFFER.
    Discover,
    /// An ACK of an offer.
    Select(Ipv4Addr),
    /// An ACK of the address that it has.
    Reboot(Ipv4Addr),
}

impl Card {
    /// Until it asks again.
    fn patience(&self) -> Duration {
        let times = 1 << self.tries.saturating_sub(1).min(8);
        PATIENCE_MAX.min(PATIENCE * times)
    }
}

impl Storm {
    fn new(socket: UdpSocket, random: Random) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(2))).expect("a timeout");
        let card = |number: usize| Card {
            mac: [2, 0x77, 0, 0, (number >> 8) as u8, number as u8],
            step: Step::Idle,
            xid: 0,
            sent: Instant::now(),
            tries: 0,
            held: None,
        };
        let cards = (0..CARDS).map(card).collect();
        Self { socket, random, cards, holders: BTreeMap::new(), counts: Counts::default() }
    }

    /// Until it is enough. Each new client that takes part takes a lease, comes back to
    /// its lease, or gives it up.
    fn goes_on(&mut self, enough: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !enough(self) {
            assert!(Instant::now() < end, "no more answers: {:?}", self.counts);
            let busy = self.cards.iter().filter(|card| card.step != Step::Idle).count();
            for _ in busy..AT_ONCE {
                let number = self.random.within(0..CARDS as u64) as usize;
                self.begin(number);
            }
            self.turn();
        }
    }

    /// Every client that has an address comes back to it.
    fn all_come_back(&mut self) {
        let end = Instant::now() + LIMIT;
        self.cards.iter_mut().for_each(|card| (card.step, card.tries) = (Step::Idle, 0));
        for (ip, number) in self.holders.clone() {
            self.cards[number].step = Step::Reboot(ip);
            self.send(number);
        }
        while self.cards.iter().any(|card| card.step != Step::Idle) {
            assert!(Instant::now() < end, "leases that are not confirmed: {:?}", self.cards);
            self.turn();
        }
    }

    fn begin(&mut self, number: usize) {
        let card = &mut self.cards[number];
        if card.step != Step::Idle {
            return;
        }
        card.tries = 0;
        card.step = match card.held {
            None => Step::Discover,
            Some(ip) if self.random.chance(60) => Step::Reboot(ip),
            Some(ip) => return self.release(number, ip),
        };
        self.send(number);
    }

    /// From now on it may be another's.
    fn release(&mut self, number: usize, ip: Ipv4Addr) {
        let packet = Packet::new(RELEASE, self.cards[number].mac, self.random.next() as u32);
        self.cards[number].held = None;
        self.holders.remove(&ip);
        self.counts.releases += 1;
        self.put(packet.ciaddr(ip).option(54, &server().octets()));
    }

    fn send(&mut self, number: usize) {
        let xid = self.random.next() as u32;
        let card = &mut self.cards[number];
        (card.xid, card.sent) = (xid, Instant::now());
        card.tries += 1;
        let packet = |kind| Packet::new(kind, card.mac, xid);
        let packet = match card.step {
            Step::Idle => return,
            Step::Discover => packet(DISCOVER),
            Step::Select(ip) => packet(REQUEST).option(50, &ip.octets()).option(54, &server().octets()),
            Step::Reboot(ip) => packet(REQUEST).option(50, &ip.octets()),
        };
        self.put(packet);
    }

    fn put(&self, packet: Packet) {
        self.socket.send_to(&packet.end(), SERVERS).expect("the wire is there");
    }

    /// Takes an answer, if there is one, and asks again where none came.
    fn turn(&mut self) {
        let mut datagram = [0; 1500];
        match self.socket.recv(&mut datagram) {
            Ok(length) => self.take(&datagram[..length]),
            Err(error) => {
                let nothing = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted];
                assert!(nothing.contains(&error.kind()), "{error}");
            }
        }
        for number in 0..CARDS {
            let card = &mut self.cards[number];
            if card.step == Step::Idle || card.sent.elapsed() < card.patience() {
                continue;
            }
            self.counts.again += 1;
            let gives_up = !matches!(card.step, Step::Reboot(_)) && card.tries >= TRIES;
            if gives_up {
                card.step = Step::Idle;
            }
            self.send(number);
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let Some(answer) = Answer::read(datagram) else { return };
        let waits = |card: &Card| card.step != Step::Idle && card.mac == answer.mac && card.xid == answer.xid;
        // Late answers are for nobody.
        let Some(number) = self.cards.iter().position(waits) else { return };
        let step = self.cards[number].step;
        match (step, answer.kind) {
            (Step::Discover, OFFER) => {
                self.cards[number].step = Step::Select(answer.yiaddr);
                self.cards[number].tries = 0;
                self.send(number);
            }
            (Step::Select(ip) | Step::Reboot(ip), ACK) => {
                assert_eq!(answer.yiaddr, ip, "another address than was asked for: {answer:?}");
                self.acknowledged(number, ip);
                self.counts.reboots += u64::from(matches!(step, Step::Reboot(_)));
            }
            (Step::Select(_), NAK) => {
                self.cards[number].step = Step::Idle;
                self.counts.naks += 1;
            }
            (Step::Reboot(ip), NAK) => panic!("{:?} has lost {ip}: {answer:?}", self.cards[number]),
            _ => panic!("{:?} was told {answer:?}", self.cards[number]),
        }
    }

    fn acknowledged(&mut self, number: usize, ip: Ipv4Addr) {
        if let Some(other) = self.holders.insert(ip, number).filter(|other| *other != number) {
            panic!("{ip} is {:?}'s and was given to {:?}", self.cards[other], self.cards[number]);
        }
        self.counts.acks += 1;
        self.cards[number].held = Some(ip);
        self.cards[number].step = Step::Idle;
    }
}

fn server() -> Ipv4Addr {
    SERVER.parse().expect("an address")
}
