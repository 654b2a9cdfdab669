//! Clients and a server that dies, on a machine whose wall clock is set: no address is ever acknowledged to two machines
//! at once, every lease that was acknowledged is known after a restart, wherever the crash comes, and leases end here
//! no earlier than at their clients; where only greypit is started anew, no later either.
//!
//! Each seed is a history: clients boot, renew, give back, forget what they had and change their identifiers; files come
//! and go; packets get lost; the disk fails; the daemon or the whole computer stops before a write, in it, after it and
//! before the answers, or after those. What the computer takes with it is what no fdatasync was called for. The wall clock
//! is set forward and back by up to 400 days, while the daemon runs and while it does not; over a restart of the computer
//! it keeps time to within a minute, or comes back too early.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::Ipv4Addr;
use std::path::Path;

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};
use jiff::Timestamp;

use super::clock::{Clock, Reading};
use super::leases::{Change, Log};
use super::outcome::Outcome;
use super::testing::*;
use super::wire::testing::Packet;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::Machines;

const CLIENTS: u8 = 9;
const STEPS: usize = 500;

/// By how much the wall clock is set at most.
const SET_S: u64 = 400 * 86_400;

/// xorshift: a history is its seed's.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What passes, and what the kernel's clocks say.
#[derive(Debug)]
struct Time {
    /// That of the clients.
    true_s: i64,
    wall_s: i64,
    steady_s: i64,
}

impl Time {
    fn pass(&mut self, seconds: i64) {
        self.true_s += seconds;
        self.wall_s += seconds;
        self.steady_s += seconds;
    }

    fn set_wall(&mut self, dice: &mut Dice) {
        self.wall_s = self.true_s;
        match dice.below(3) {
            0 => {}
            1 => self.wall_s += dice.below(SET_S) as i64,
            _ => self.wall_s -= dice.below(SET_S) as i64,
        }
    }

    fn reading(&self) -> Reading {
        Reading { wall: Timestamp::from_second(self.wall_s).unwrap(), steady_s: self.steady_s }
    }
}

/// What stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stops {
    Daemon,
    Computer,
}

/// What a client believes.
#[derive(Clone, Debug, Default)]
struct Client {
    offered: Option<Ipv4Addr>,
    /// And until when by its own clock.
    has: Option<(Ipv4Addr, i64)>,
    id: u8,
    /// Counts what it sends: an answer to anything but the last it does not take.
    turn: u64,
}

/// What a client sent, and when: it counts its lease from then.
#[derive(Clone, Copy, Debug)]
struct Sent {
    mac: Mac,
    turn: u64,
    at_s: i64,
}

/// Whether two cards are of one machine.
fn is_same(one: Mac, other: Mac) -> bool {
    one == other || [one, other].iter().all(|mac| [KNOWN, KNOWN_TOO].contains(mac))
}

struct World<'a> {
    dir: &'a Path,
    rig: Rig,
    log: Log,
    time: Time,
    clock: Clock,
    machines: Machines,
    dice: Dice,
    clients: BTreeMap<Mac, Client>,
    /// Outcomes whose changes are not written yet: the lease thread's queue.
    waiting: Vec<(Sent, Outcome)>,
    acks: usize,
    crashes: usize,
}

impl World<'_> {
    fn new(dir: &Path, seed: u64) -> World<'_> {
        let time = Time { true_s: START_S, wall_s: START_S, steady_s: 1000 };
        let (log, leases, clock) = Log::open(dir, time.reading()).unwrap();
        let rig = Rig::new(CONFIG, machines(), leases, START_S);
        let clients = (0..CLIENTS).map(|n| (mac(n), Client::default()));
        let clients = clients.chain([KNOWN, KNOWN_TOO].map(|mac| (mac, Client::default()))).collect();
        let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (machines, waiting) = (machines(), Vec::new());
        World { dir, rig, log, time, clock, machines, dice, clients, waiting, acks: 0, crashes: 0 }
    }

    /// The server sees what the clocks say by now.
    fn look_at_clocks(&mut self) {
        let now = self.clock.at(self.time.reading());
        self.rig.now_s = now.lease_s;
        self.rig.wall_ahead_s = now.wall.as_second() - now.lease_s;
    }

    fn append(&mut self, changes: &[Change]) -> bool {
        let now = self.clock.at(self.time.reading());
        self.log.append(changes, now).is_ok()
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..4 => self.crash(),
            4..6 => self.change_files(),
            6..16 => self.time.pass(self.dice.below(900) as i64),
            16..20 => {
                self.time.set_wall(&mut self.dice);
                // The lease thread looks every second, until it is written.
                while !self.append(&[]) {}
            }
            20..42 => self.write(false),
            42..44 => self.write(true),
            _ => self.client(),
        }
        self.look_at_clocks();
        self.forget_what_ended();
    }

    fn forget_what_ended(&mut self) {
        for client in self.clients.values_mut() {
            client.has = client.has.filter(|(_, until_s)| *until_s > self.time.true_s);
        }
    }

    /// One of the clients does something.
    fn client(&mut self) {
        let nth = self.dice.below(self.clients.len() as u64) as usize;
        let (mac, client) = self.clients.iter().nth(nth).map(|(mac, client)| (*mac, client.clone())).unwrap();
        let us = SERVER.octets();
        let packet = match (self.dice.below(12), client.offered, client.has) {
            (0..6, Some(ip), _) => Packet::of(mac, 3).ip(54, us).ip(50, ip.octets()),
            (0..4, _, Some((ip, _))) => Packet::of(mac, 3).ciaddr(ip.octets()),
            (4, _, Some((ip, _))) => Packet::of(mac, 3).ip(50, ip.octets()),
            (5, _, Some((ip, _))) => Packet::of(mac, 7).ciaddr(ip.octets()).ip(54, us),
            (6, Some(ip), _) => Packet::of(mac, 4).ip(50, ip.octets()).ip(54, us),
            // An address that it has not.
            (7, ..) => Packet::of(mac, 3).ip(50, [10, 77, 0, 100 + self.dice.below(4) as u8]),
            (8, ..) => Packet::of(mac, 7).ciaddr([10, 77, 0, 100 + self.dice.below(4) as u8]).ip(54, us),
            (9, ..) => {
                // It starts anew; what it had it does not use.
                let client = self.clients.get_mut(&mac).unwrap();
                *client = Client { id: client.id ^ 1, turn: client.turn + 1, ..Client::default() };
                return;
            }
            _ => Packet::of(mac, 1),
        };
        let packet = if client.id == 1 { packet.option(77, b"iPXE") } else { packet };
        // What it gives back it does not use any more, whether or not we hear of it.
        if matches!(packet.0[242], 4 | 7) {
            for (_, client) in self.clients.iter_mut().filter(|(other, _)| is_same(**other, mac)) {
                client.has = None;
                client.turn += 1;
            }
        }
        let mine = self.clients.get_mut(&mac).unwrap();
        mine.turn += 1;
        let sent = Sent { mac, turn: mine.turn, at_s: self.time.true_s };
        let outcome = self.rig.send(packet);
        if self.dice.below(10) == 0 {
            // Somebody else has it.
            if let Some(ip) = outcome.probe {
                let at = self.rig.at();
                let conflict = self.rig.server.conflict(ip, Mac([2; 6]), at);
                self.waiting.extend(conflict.map(|conflict| (sent, conflict)));
            }
        }
        match outcome.lease {
            Some(_) => self.waiting.push((sent, outcome)),
            None => self.deliver(sent, &outcome),
        }
    }

    /// The lease thread: all that waits, one write, then the answers.
    fn write(&mut self, fails: bool) {
        let waiting = std::mem::take(&mut self.waiting);
        let changes: Vec<Change> = waiting.iter().filter_map(|(_, outcome)| outcome.lease.clone()).collect();
        if fails {
            self.log.fail_next();
        }
        if !self.append(&changes) {
            return;
        }
        let stops_at = if self.dice.below(20) == 0 { self.dice.below(3) as usize } else { usize::MAX };
        for (nth, (sent, outcome)) in waiting.iter().enumerate() {
            if nth >= stops_at {
                return self.restart(Stops::Daemon);
            }
            self.deliver(*sent, outcome);
        }
    }

    /// An answer reaches its client, or not.
    fn deliver(&mut self, sent: Sent, outcome: &Outcome) {
        if outcome.answer.is_none() || self.dice.below(12) == 0 {
            return;
        }
        let answer = decoded(outcome);
        let Sent { mac, turn, at_s } = sent;
        let client = self.clients.get_mut(&mac).unwrap();
        if client.turn != turn {
            return;
        }
        match answer.opts().msg_type() {
            Some(MessageType::Offer) => client.offered = Some(answer.yiaddr()),
            Some(MessageType::Nak) => *client = Client { id: client.id, turn, ..Client::default() },
            Some(MessageType::Ack) => {
                let Some(DhcpOption::AddressLeaseTime(lease_s)) = answer.opts().get(OptionCode::AddressLeaseTime)
                else {
                    panic!("an ACK without a lease: {answer}");
                };
                client.offered = None;
                client.has = Some((answer.yiaddr(), at_s + i64::from(*lease_s)));
                self.acks += 1;
                self.check_alone(mac, answer.yiaddr());
            }
            _ => panic!("{answer}"),
        }
    }

    fn check_alone(&self, mac: Mac, ip: Ipv4Addr) {
        let same = |other: &Mac| is_same(*other, mac);
        let of = |client: &Client| client.has.filter(|(has, until_s)| *has == ip && *until_s > self.time.true_s);
        let others: Vec<_> =
            self.clients.iter().filter(|(other, client)| !same(other) && of(client).is_some()).collect();
        assert!(others.is_empty(), "{ip} was acknowledged to {mac} and is of {others:?}");
    }

    /// Files come and go, also for addresses of the pool that others have.
    fn change_files(&mut self) {
        self.machines = machines();
        if self.dice.below(2) == 0 {
            let (last, n) = (100 + self.dice.below(4) as u8, self.dice.below(CLIENTS.into()) as u8);
            self.machines.add(SERVER, machine(last, "late", vec![mac(n)]));
        }
        self.rig.server.replace_machines(self.machines.clone());
    }

    /// The computer stops: what was not synced may be there, or not, or in part.
    fn crash(&mut self) {
        let changes: Vec<Change> = self.waiting.iter().filter_map(|(_, outcome)| outcome.lease.clone()).collect();
        let synced = self.log.synced_bytes;
        match self.dice.below(3) {
            // Before the write.
            0 => {}
            // In it: the answers have not gone out.
            _ => {
                let before = self.log.synced_bytes;
                let written = self.append(&changes);
                let path = self.dir.join("leases");
                let len = path.metadata().unwrap().len();
                // Where the file was written anew there is nothing to tear.
                if written && len > before && before == synced {
                    let left = before + self.dice.below(len - before + 1);
                    OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
                }
            }
        }
        self.lose_what_is_not_synced();
        self.restart(Stops::Computer);
    }

    fn lose_what_is_not_synced(&mut self) {
        let path = self.dir.join("leases");
        let len = path.metadata().unwrap().len();
        if len > self.log.synced_bytes {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(self.log.synced_bytes).unwrap();
        }
    }

    /// The daemon starts again, and knows every lease that was acknowledged.
    fn restart(&mut self, stops: Stops) {
        self.crashes += 1;
        self.waiting.clear();
        let behind_s = self.time.true_s - self.clock.at(self.time.reading()).lease_s;
        let was_set = self.stay_away(stops);
        let (log, leases, clock) = Log::open(self.dir, self.time.reading()).unwrap();
        (self.log, self.clock) = (log, clock);
        let now_s = clock.at(self.time.reading()).lease_s;
        let behind_by_now_s = self.time.true_s - now_s;
        match stops {
            Stops::Daemon if !was_set => assert_eq!(behind_by_now_s, behind_s),
            _ => assert!(behind_by_now_s >= behind_s, "{behind_s} {behind_by_now_s}"),
        }
        self.rig = Rig::new(CONFIG, self.machines.clone(), leases.clone(), now_s);
        self.look_at_clocks();
        self.forget_what_ended();
        for (mac, client) in &self.clients {
            let Some((ip, until_s)) = client.has else { continue };
            let until_s = until_s - behind_by_now_s;
            let known = leases.iter().any(|change| {
                matches!(change, Change::Leased(lease) if lease.ip == ip && lease.until_s >= until_s
                    && is_same(lease.mac, *mac))
            });
            assert!(known, "{mac} has {ip} until {until_s}, and after a crash there is {leases:?}");
        }
    }

    /// Gives whether the wall clock was set meanwhile.
    fn stay_away(&mut self, stops: Stops) -> bool {
        match stops {
            Stops::Daemon => {
                self.time.pass(self.dice.below(300) as i64);
                let was_set = self.dice.below(2) == 0;
                if was_set {
                    self.time.set_wall(&mut self.dice);
                }
                was_set
            }
            Stops::Computer => {
                self.time.pass(self.dice.below(1800) as i64);
                // The same one, or another one that runs for longer, or as long.
                self.time.steady_s = match self.dice.below(3) {
                    0 => self.dice.below(SET_S) as i64,
                    _ => 0,
                };
                self.time.pass(5 + self.dice.below(60) as i64);
                match self.dice.below(2) {
                    0 => self.time.wall_s += self.dice.below(100) as i64 - 50,
                    _ => self.time.wall_s -= self.dice.below(SET_S) as i64,
                }
                true
            }
        }
    }
}

#[test]
fn no_address_is_of_two_machines_and_no_lease_is_lost() {
    let (mut acks, mut crashes) = (0, 0);
    for seed in 1..=120 {
        // Thousands of writes that a disk has not to make: what a crash takes is counted here.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut world = World::new(dir.path(), seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.restart(Stops::Daemon);
        (acks, crashes) = (acks + world.acks, crashes + world.crashes);
    }
    assert!(acks > 3000 && crashes > 1000, "the histories say something: {acks} {crashes}");
}
