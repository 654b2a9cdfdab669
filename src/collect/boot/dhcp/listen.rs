//! The thread that reads DHCP from all sockets and owns the [`Server`].
//!
//! It has a thread of its own, which waits in poll(2), for an answer to a client is not to wait until a worker of the
//! runtime has done what else it does. Each packet is handled, and answered or given to the lease thread
//! ([`super::writer`]), before the next is looked at; each socket gives at most [`read::AT_ONCE`] packets before the
//! others get their turn. Nothing here waits for a disk, a queue or a send.
//!
//! Once a second ([`TICK`]) it lets leases end, sets the gauges and asks the kernel for its drops.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::Socket;

use super::arp::{self, Probes};
use super::board::{Board, Trouble};
use super::capture::{Link, Seen, View};
use super::clock::{Clock, Moment};
use super::deliver::Delivery;
use super::foreign::Foreign;
use super::metrics::{Dropped, Unsent};
use super::outcome::{Arrival, Destination, Outcome};
use super::read::{From, Reader};
use super::server::Server;
use super::sockets::Sockets;
use super::writer::{Job, Queue, Reply};
use super::{BOOT_PORT, CLIENT_PORT, SERVER_PORT};
use crate::collect::boot::config::Mode;
use crate::collect::boot::mac::Mac;
use crate::sys;

/// How often it looks after what nobody sends a packet for.
const TICK: Duration = Duration::from_secs(1);

/// Wakes the thread to end.
#[derive(Debug)]
pub(super) struct Stop {
    told: AtomicBool,
    wakes: OwnedFd,
}

impl Stop {
    pub(super) fn new() -> std::io::Result<Stop> {
        let wakes = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Stop { told: AtomicBool::new(false), wakes })
    }

    pub(super) fn tell(&self) {
        self.told.store(true, Ordering::Release);
        // It fails only where it has been told 2^64 times.
        let _ = rustix::io::write(&self.wakes, &1u64.to_ne_bytes());
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }
}

/// What a socket gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// Messages to this port of ours.
    Port(u16),
    /// Packets, whoever they are for.
    Capture,
    /// Answers to ARP probes.
    Arp,
}

const INPUTS: [Input; 4] = [Input::Port(SERVER_PORT), Input::Port(BOOT_PORT), Input::Capture, Input::Arp];

impl Input {
    fn of(self, sockets: &Sockets) -> Option<&Socket> {
        match self {
            Input::Port(BOOT_PORT) => sockets.boot.as_ref(),
            Input::Port(_) => sockets.server.as_ref(),
            Input::Capture => sockets.capture.as_ref(),
            Input::Arp => sockets.arp.as_ref(),
        }
    }
}

/// One of the sockets that are read.
#[derive(Clone, Copy, Debug)]
struct Source {
    /// Which of the interfaces.
    interface: usize,
    input: Input,
    /// What the kernel had dropped when it was asked last.
    drops: u32,
}

/// The thread's own.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) server: Server,
    clock: Clock,
    pub(super) delivery: Arc<Delivery>,
    /// Where leases are given.
    pub(super) queue: Option<Queue>,
    pub(super) board: Arc<Board>,
    sockets: Vec<Arc<Sockets>>,
    sources: Vec<Source>,
    probes: Probes,
    foreign: Foreign,
}

impl Listener {
    /// `clock`: the one that `server` was made with.
    pub(super) fn new(
        server: Server,
        clock: Clock,
        delivery: Arc<Delivery>,
        queue: Option<Queue>,
        board: Arc<Board>,
    ) -> Listener {
        let sockets = delivery.sockets.clone();
        let mut sources = Vec::new();
        for (interface, sockets) in sockets.iter().enumerate() {
            for input in INPUTS {
                if let Some(socket) = input.of(sockets) {
                    let drops = sys::dropped_packets(socket).unwrap_or(0);
                    sources.push(Source { interface, input, drops });
                }
            }
        }
        let (probes, foreign) = (Probes::default(), Foreign::default());
        Listener { server, clock, delivery, queue, board, sockets, sources, probes, foreign }
    }

    /// Works until it is told to stop.
    pub(super) fn run(mut self, stop: &Stop) {
        let mut reader = Reader::new();
        let mut next = Instant::now();
        while !stop.is_told() {
            let now = Instant::now();
            if now >= next {
                self.tick(now);
                next = now + TICK;
            }
            for source in self.wait(stop, next.saturating_duration_since(now)) {
                self.read(source, &mut reader);
            }
        }
        self.tick(Instant::now());
    }

    /// The sockets that have something, within `timeout`.
    fn wait(&self, stop: &Stop, timeout: Duration) -> Vec<Source> {
        let socket = |source: &Source| source.input.of(self.sockets.get(source.interface)?).map(Socket::as_fd);
        let (sources, mut fds): (Vec<_>, Vec<_>) = self
            .sources
            .iter()
            .filter_map(|source| Some((*source, PollFd::from_borrowed_fd(socket(source)?, PollFlags::IN))))
            .unzip();
        fds.push(PollFd::new(&stop.wakes, PollFlags::IN));
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // An interrupted call is one that found nothing.
        if poll(&mut fds, Some(&timeout)).is_err() {
            return Vec::new();
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|(source, _)| source).collect()
    }

    fn read(&mut self, source: Source, reader: &mut Reader) {
        let Some(sockets) = self.sockets.get(source.interface).cloned() else { return };
        let Some(socket) = source.input.of(&sockets) else { return };
        let result = match source.input {
            Input::Port(_) => reader.udp(socket),
            Input::Capture | Input::Arp => reader.link(socket),
        };
        match result {
            Ok(_) => {}
            // ENETDOWN comes once when an interface goes down, which is said by whoever looks at the interfaces.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return,
            Err(error) => {
                if let Some(unlogged) = self.delivery.complaints.allow() {
                    let (interface, error) = (&sockets.interface.name, std::io::Error::from(error));
                    tracing::warn!(interface, %error, unlogged, "cannot receive DHCP");
                }
                return;
            }
        }
        let (at, received) = (self.clock.now(), Instant::now());
        for (packet, from) in reader.packets() {
            let Some(packet) = packet else {
                self.delivery.metrics.dropped(Dropped::TooLong, 1);
                continue;
            };
            match (source.input, from) {
                (Input::Port(port), From::Udp(from)) => {
                    let arrival = Arrival { interface: source.interface, source: from, port };
                    self.message(packet, &arrival, None, at, received);
                }
                (Input::Capture, From::Link(link)) => {
                    self.captured(packet, source.interface, &sockets, &link, at, received);
                }
                (Input::Arp, From::Link(link)) if link.index == sockets.interface.index => {
                    self.claimed(packet, source.interface, &sockets, at, received);
                }
                _ => {}
            }
        }
    }

    fn captured(
        &mut self,
        packet: &[u8],
        interface: usize,
        sockets: &Sockets,
        link: &Link,
        at: Moment,
        received: Instant,
    ) {
        let (index, addr, broadcast) = (sockets.interface.index, sockets.interface.addr, sockets.interface.broadcast());
        let view = View { mode: self.mode(), interface, index, addr, broadcast };
        match view.see(packet, link) {
            Seen::Message(arrival, message) => self.message(message, &arrival, link.from, at, received),
            Seen::Unfit(unfit) => self.delivery.metrics.dropped(Dropped::Unfit(unfit), 1),
            Seen::NotOurs => {}
        }
    }

    fn mode(&self) -> Mode {
        self.delivery.world.config.mode
    }

    /// One DHCP message. `from`: the card that sent it, where that is known.
    fn message(&mut self, bytes: &[u8], arrival: &Arrival, from: Option<Mac>, at: Moment, received: Instant) {
        let outcome = self.server.handle(bytes, arrival, at);
        self.delivery.metrics.received(&outcome.counted, outcome.answer.is_some());
        if let Some(server) = outcome.counted.foreign {
            self.delivery.metrics.foreign.inc();
            let heard = from.filter(|_| arrival.port == CLIENT_PORT);
            self.noticed(server, heard, arrival.interface, received);
        }
        let probe = outcome.probe.filter(|_| is_on_link(&outcome));
        self.carry_out(outcome, received);
        if let Some(ip) = probe {
            self.probe(arrival.interface, ip, received);
        }
    }

    /// Sends, or has the lease written first.
    fn carry_out(&self, outcome: Outcome, received: Instant) {
        let Outcome { answer, lease, record, counted, .. } = outcome;
        let reply = Reply { answer, record, counted, received };
        match (lease, &self.queue) {
            (Some(change), Some(queue)) => {
                if let Err(job) = queue.give(Job { change, reply }) {
                    self.delivery.finish(job.reply, Some(Unsent::QueueFull));
                }
            }
            (_, _) => self.delivery.finish(reply, None),
        }
    }

    fn noticed(&mut self, server: Ipv4Addr, card: Option<Mac>, interface: usize, now: Instant) {
        let is_new = self.foreign.note(server, card, now);
        if is_new {
            let interface = self.sockets.get(interface).map(|sockets| sockets.interface.name.as_str());
            let card = card.map(|mac| mac.to_string());
            tracing::warn!(%server, card, interface, "another DHCP server answers here: stop it, or use mode = \"proxy\"");
        }
        self.board.set(Trouble::Foreign, self.foreign.said());
    }

    /// Asks whether somebody has an address that has just been offered.
    fn probe(&mut self, interface: usize, ip: Ipv4Addr, now: Instant) {
        let sent = self.probes.add(interface, ip, now)
            && self.sockets.get(interface).is_some_and(|sockets| sockets.probe(ip).is_ok());
        if !sent {
            self.delivery.metrics.probes_unsent.inc();
        }
    }

    /// Somebody says by ARP that an address is its own.
    fn claimed(&mut self, packet: &[u8], interface: usize, sockets: &Sockets, at: Moment, received: Instant) {
        let Some((ip, by)) = arp::claim(packet) else { return };
        if by == sockets.interface.card.mac() || !self.probes.is_asked(interface, ip, received) {
            return;
        }
        if let Some(outcome) = self.server.conflict(ip, by, at) {
            self.probes.done(interface, ip);
            self.delivery.metrics.conflicts.inc();
            if let Some(unlogged) = self.delivery.complaints.allow() {
                tracing::warn!(%ip, card = %by, unlogged, "an address of the pool is in use by somebody else");
            }
            self.carry_out(outcome, received);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.server.tick(self.clock.now());
        self.probes.forget(now);
        self.foreign.forget(now);
        self.board.set(Trouble::Foreign, self.foreign.said());
        self.count_drops();
        if self.mode() == Mode::Serve {
            let levels = self.server.levels();
            self.delivery.metrics.levels(levels);
            let is_empty = levels.free == 0 && levels.pools > 0;
            self.board.set(Trouble::Pool, is_empty.then(|| "the pools have no free address".to_owned()));
        }
    }

    fn count_drops(&mut self) {
        let mut new = 0;
        for source in &mut self.sources {
            let sockets = self.sockets.get(source.interface);
            let drops = sockets.and_then(|sockets| source.input.of(sockets)).map(sys::dropped_packets);
            if let Some(Ok(drops)) = drops {
                new += u64::from(drops.wrapping_sub(source.drops));
                source.drops = drops;
            }
        }
        if new > 0 {
            self.delivery.metrics.dropped(Dropped::Kernel, new);
            if let Some(unlogged) = self.delivery.complaints.allow() {
                tracing::warn!(packets = new, unlogged, "the kernel dropped DHCP: raise net.core.rmem_max");
            }
        }
    }
}

/// Whether an offer goes to somebody on our own link, where ARP asks.
fn is_on_link(outcome: &Outcome) -> bool {
    let to = outcome.answer.as_ref().map(|answer| answer.to);
    matches!(to, Some(Destination::Link(..) | Destination::Broadcast | Destination::Client(_)))
}
