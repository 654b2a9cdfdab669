//! The policy, asked again for each MAIL of a log.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use greypit_milter::config;
use greypit_milter::policy::{Clients, Counts, Policy};
use greypit_milter::transaction::Ending;

use super::log::Log;

/// What became of one client, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) connections: u64,
    /// Those with at least one refusal.
    pub(super) connections_refused: u64,
    pub(super) messages: u64,
    pub(super) refused: u64,
    pub(super) longest_hold: Duration,
    pub(super) held: Duration,
}

/// What became of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) all: Tally,
    pub(super) clients_refused: u64,
    /// Connections whose answer waited at the same time, at most.
    pub(super) held_at_once: usize,
}

/// One replay.
#[derive(Debug)]
pub(super) struct Outcome {
    /// By the places of [`Log::clients`].
    pub(super) clients: Vec<Tally>,
    pub(super) total: Total,
}

#[derive(Clone, Debug, Default)]
struct State {
    counts: Counts,
    is_seen: bool,
    held_until: Duration,
}

/// Replays the policy; every mail server has its own greypit.
pub(super) fn replay(log: &Log, policy: &Policy, config: &config::Client) -> Outcome {
    let servers: Vec<Clients> = (0..log.servers).map(|_| Clients::new(config)).collect();
    let mut states = vec![State::default(); log.connections.len()];
    let mut clients = vec![Tally::default(); log.clients.len()];
    let mut held = Held::default();
    let began = log.mails.first().map_or(0, |mail| mail.ms);
    for mail in &log.mails {
        let now = Duration::from_millis((mail.ms - began).unsigned_abs());
        let connection = log.connections[mail.connection as usize];
        let (state, tally) = (&mut states[mail.connection as usize], &mut clients[connection.client as usize]);
        tally.connections += u64::from(!std::mem::replace(&mut state.is_seen, true));
        tally.messages += 1;
        let decision = policy.decide(&log.subject(mail), &mut state.counts, &servers[connection.server as usize], now);
        if decision.verdict == Ending::Accept {
            continue;
        }
        tally.refused += 1;
        tally.connections_refused += u64::from(state.counts.refused == 1);
        tally.longest_hold = tally.longest_hold.max(decision.delay);
        tally.held += decision.delay;
        held.add(now, now + decision.delay, &mut state.held_until);
    }
    let mut total = Total { held_at_once: held.most, ..Total::default() };
    for tally in &clients {
        total.all.add(tally);
        total.clients_refused += u64::from(tally.refused > 0);
    }
    Outcome { clients, total }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.connections += other.connections;
        self.connections_refused += other.connections_refused;
        self.messages += other.messages;
        self.refused += other.refused;
        self.longest_hold = self.longest_hold.max(other.longest_hold);
        self.held += other.held;
    }
}

/// How many connections are held at the same time.
#[derive(Debug, Default)]
struct Held {
    ends: BinaryHeap<Reverse<Duration>>,
    most: usize,
}

impl Held {
    /// A hold of a connection. In the log its next message does not wait for the answer to this one, but one connection
    /// is held once at a time: what overlaps its last hold adds nothing.
    fn add(&mut self, now: Duration, until: Duration, held_until: &mut Duration) {
        if until <= now || *held_until > now {
            return;
        }
        *held_until = until;
        while self.ends.peek().is_some_and(|Reverse(end)| *end <= now) {
            self.ends.pop();
        }
        self.ends.push(Reverse(until));
        self.most = self.most.max(self.ends.len());
    }
}
