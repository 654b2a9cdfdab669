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
    /// Connections waiting at the same time, at most.
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
}

/// Replays the policy; every mail server has its own greypit. Those of a farm count as one, at once.
pub(super) fn replay(log: &Log, policy: &Policy, config: &config::Client) -> Outcome {
    let farm = config.scope == config::Scope::Farm;
    let config = config::Client { scope: config::Scope::Node, ..config.clone() };
    let servers: Vec<Clients> = (0..log.servers).map(|_| Clients::new(&config)).collect();
    let mut states = vec![State::default(); log.connections.len()];
    let mut clients = vec![Tally::default(); log.clients.len()];
    let mut held = Held::new(log.connections.len());
    let began = log.mails.first().map_or(0, |mail| mail.ms);
    for mail in &log.mails {
        let now = Duration::from_millis((mail.ms - began).unsigned_abs());
        let connection = log.connections[mail.connection as usize];
        let (state, tally) = (&mut states[mail.connection as usize], &mut clients[connection.client as usize]);
        tally.connections += u64::from(!std::mem::replace(&mut state.is_seen, true));
        tally.messages += 1;
        let server = if farm { 0 } else { connection.server as usize };
        let decision = policy.decide(&log.subject(mail), &mut state.counts, &servers[server], now);
        if decision.verdict == Ending::Accept {
            continue;
        }
        tally.refused += 1;
        tally.connections_refused += u64::from(state.counts.refused == 1);
        tally.longest_hold = tally.longest_hold.max(decision.delay);
        tally.held += decision.delay;
        held.add(mail.connection, now, decision.delay);
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

/// How many connections wait at the same time, if each goes on to its last message: in the log the next one does not wait
/// for the answer to the one before, so holds of one connection are put behind each other.
#[derive(Debug)]
struct Held {
    until: Vec<Duration>,
    /// Ends and connections; one that has been put off since is found out when it comes.
    ends: BinaryHeap<Reverse<(Duration, u32)>>,
    most: usize,
}

impl Held {
    fn new(connections: usize) -> Held {
        Held { until: vec![Duration::ZERO; connections], ends: BinaryHeap::new(), most: 0 }
    }

    fn add(&mut self, connection: u32, now: Duration, delay: Duration) {
        if delay.is_zero() {
            return;
        }
        while let Some(Reverse((end, ended))) = self.ends.peek().copied().filter(|Reverse((end, _))| *end <= now) {
            self.ends.pop();
            let until = self.until[ended as usize];
            if until > end {
                self.ends.push(Reverse((until, ended)));
            }
        }
        let until = &mut self.until[connection as usize];
        if *until > now {
            *until += delay;
            return;
        }
        *until = now + delay;
        self.ends.push(Reverse((*until, connection)));
        self.most = self.most.max(self.ends.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_of_one_connection_are_put_behind_each_other() {
        let mut held = Held::new(3);
        let mut most = |connection, now, delay| {
            held.add(connection, Duration::from_secs(now), Duration::from_secs(delay));
            held.most
        };
        // The first is held until 10, then 18, then 26 s.
        assert_eq!([most(0, 2, 8), most(0, 3, 8), most(0, 3, 8)], [1, 1, 1]);
        assert_eq!(most(1, 20, 0), 1);
        assert_eq!(most(1, 25, 1), 2);
        assert_eq!(most(2, 26, 1), 2);
        assert_eq!(most(1, 26, 5), 2);
        assert_eq!(most(0, 26, 5), 3);
    }
}
