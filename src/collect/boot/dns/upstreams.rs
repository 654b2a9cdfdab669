//! Which of the servers of `boot.dns.forward` are asked, and in which order. Pure: the time is an argument.
//!
//! The order is the config's; those that are away are asked last. A server is away once a query has waited for it in vain
//! and it has answered nothing else since that was asked: a name that nobody knows in time says nothing of a server that
//! tells others. It is away too where query after query gives up sooner than that, and none of them was answered. SERVFAIL
//! and REFUSED are answers.
//!
//! It is back with its next answer. So that there is one, each [`AGAIN`] a query goes to it too, beside the first of the
//! order, which is asked for the client: nobody waits for that.
//!
//! UDP and TCP are told apart: there are networks that let only one of them through.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::answer::Transport;

/// How often a server that is away is tried.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

const TRANSPORTS: [Transport; 2] = [Transport::Udp, Transport::Tcp];

#[derive(Debug)]
pub(super) struct Upstreams {
    /// In the config's order, with what is known of each by [`TRANSPORTS`].
    servers: Vec<(SocketAddr, [Link; TRANSPORTS.len()])>,
    /// How long a server may answer nothing.
    patience: Duration,
    again: Duration,
}

/// One server over one transport.
#[derive(Clone, Debug, Default)]
struct Link {
    /// Its last answer.
    answered: Option<Instant>,
    /// The first and the last query of those that followed each other and that none has answered yet.
    unanswered: Option<(Instant, Instant)>,
    away: Option<Away>,
}

#[derive(Clone, Debug)]
struct Away {
    why: String,
    /// When it was last tried.
    tried: Instant,
}

impl Upstreams {
    pub(super) fn new(servers: &[SocketAddr], patience: Duration, again: Duration) -> Upstreams {
        let servers = servers.iter().map(|server| (*server, <[Link; TRANSPORTS.len()]>::default())).collect();
        Upstreams { servers, patience, again }
    }

    fn links(&self, transport: Transport) -> impl Iterator<Item = &Link> {
        self.servers.iter().map(move |(_, links)| &links[at(transport)])
    }

    fn link(&mut self, server: usize, transport: Transport) -> Option<&mut Link> {
        self.servers.get_mut(server).map(|(_, links)| &mut links[at(transport)])
    }

    /// All servers, by their number: those that are away behind the others.
    pub(super) fn order(&self, transport: Transport) -> Vec<usize> {
        let (there, away): (Vec<_>, Vec<_>) =
            self.links(transport).enumerate().partition(|(_, link)| link.away.is_none());
        there.into_iter().chain(away).map(|(server, _)| server).collect()
    }

    /// A server that is away and to be tried now beside the first one, which is asked in any case: the longest untried.
    pub(super) fn due(&mut self, transport: Transport, now: Instant) -> Option<usize> {
        let (first, again) = (self.order(transport).first().copied(), self.again);
        let links = self.servers.iter_mut().map(|(_, links)| &mut links[at(transport)]).enumerate();
        let away = links.filter_map(|(server, link)| Some((server, link.away.as_mut()?)));
        let is_due = |away: &Away| now.saturating_duration_since(away.tried) >= again;
        let due = away.filter(|(server, away)| Some(*server) != first && is_due(away));
        let (server, away) = due.max_by_key(|(server, away)| Reverse((away.tried, *server)))?;
        away.tried = now;
        Some(server)
    }

    /// Says that it is asked. Whether it is away since this moment.
    pub(super) fn asked(&mut self, server: usize, transport: Transport, now: Instant) -> bool {
        let patience = self.patience;
        let Some(link) = self.link(server, transport) else { return false };
        let first = match link.unanswered {
            Some((first, last)) if now.saturating_duration_since(last) < patience => first,
            _ => now,
        };
        link.unanswered = Some((first, now));
        let is_silent = now.saturating_duration_since(first) >= patience;
        is_silent && link.leave(format!("no answer within {patience:?}"), now)
    }

    /// Says that it has answered. Whether that is news: it was away, or has never answered before.
    pub(super) fn answered(&mut self, server: usize, transport: Transport, now: Instant) -> bool {
        let Some(link) = self.link(server, transport) else { return false };
        let is_first = link.answered.replace(now).is_none();
        link.unanswered = None;
        link.away.take().is_some() || is_first
    }

    /// Says that a query was in vain. Whether it is away since this moment.
    pub(super) fn failed(&mut self, server: usize, transport: Transport, asked: Instant, why: String) -> bool {
        let Some(link) = self.link(server, transport) else { return false };
        link.answered.is_none_or(|answered| answered < asked) && link.leave(why, asked)
    }

    /// What is wrong with a server, for a person.
    pub(super) fn trouble(&self, server: usize) -> Option<String> {
        let (address, links) = self.servers.get(server)?;
        let away = TRANSPORTS.iter().zip(links).filter_map(|(transport, link)| Some((transport, link.away.as_ref()?)));
        let whys: Vec<_> = away.map(|(transport, away)| format!("over {}: {}", transport.name(), away.why)).collect();
        (!whys.is_empty()).then(|| format!("{address} of boot.dns.forward does not answer {}", whys.join(", ")))
    }
}

impl Link {
    /// Whether it was there before.
    fn leave(&mut self, why: String, now: Instant) -> bool {
        let was_there = self.away.is_none();
        self.away.get_or_insert(Away { why, tried: now });
        was_there
    }
}

/// Where in an array by [`TRANSPORTS`].
fn at(transport: Transport) -> usize {
    match transport {
        Transport::Udp => 0,
        Transport::Tcp => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::Transport::{Tcp, Udp};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    /// Three servers, and a clock.
    fn three() -> (Upstreams, impl Fn(u64) -> Instant) {
        let servers = [1, 2, 3].map(|last| SocketAddr::from(([10, 0, 0, last], 53)));
        let began = Instant::now();
        (Upstreams::new(&servers, PATIENCE, AGAIN), move |ms| began + Duration::from_millis(ms))
    }

    fn fails(upstreams: &mut Upstreams, server: usize, asked: Instant) -> bool {
        upstreams.failed(server, Udp, asked, "no route".to_owned())
    }

    #[test]
    fn who_does_not_answer_is_asked_last_until_it_does() {
        let (mut upstreams, at) = three();
        assert_eq!(upstreams.order(Udp), [0, 1, 2]);
        assert!(fails(&mut upstreams, 0, at(0)));
        assert_eq!(upstreams.order(Udp), [1, 2, 0]);
        // It is news once.
        assert!(!fails(&mut upstreams, 0, at(10)));
        assert!(fails(&mut upstreams, 1, at(0)));
        assert_eq!(upstreams.order(Udp), [2, 0, 1]);
        assert!(upstreams.answered(0, Udp, at(3000)));
        assert_eq!(upstreams.order(Udp), [0, 2, 1]);
        assert!(!upstreams.answered(0, Udp, at(3001)));
        assert!(upstreams.answered(1, Udp, at(3002)));
        assert_eq!(upstreams.order(Udp), [0, 1, 2]);
    }

    #[test]
    fn a_name_that_nobody_knows_in_time_makes_no_server_go_away() {
        let (mut upstreams, at) = three();
        upstreams.asked(0, Udp, at(0));
        upstreams.asked(0, Udp, at(500));
        upstreams.answered(0, Udp, at(510));
        assert!(!fails(&mut upstreams, 0, at(0)), "it has answered another one meanwhile");
        assert_eq!(upstreams.order(Udp), [0, 1, 2]);
        // What was asked after that and is in vain counts.
        assert!(fails(&mut upstreams, 0, at(511)));
    }

    #[test]
    fn whom_many_ask_and_none_for_long_is_away_all_the_same() {
        let (mut upstreams, at) = three();
        let ask = |upstreams: &mut Upstreams, ms| upstreams.asked(0, Udp, at(ms));
        assert!((0..2000).step_by(100).all(|ms| !ask(&mut upstreams, ms)));
        assert!(ask(&mut upstreams, 2000));
        assert_eq!(upstreams.order(Udp), [1, 2, 0]);
        assert!(!ask(&mut upstreams, 2100), "it is news once");

        let (mut upstreams, _) = three();
        assert!((0..2000).step_by(100).all(|ms| !ask(&mut upstreams, ms)));
        upstreams.answered(0, Udp, at(1950));
        assert!((2000..3900).step_by(100).all(|ms| !ask(&mut upstreams, ms)), "an answer begins it anew");
        // Nor does a query a day, each given up.
        let (mut upstreams, _) = three();
        assert!((0..10).all(|day| !ask(&mut upstreams, day * 86_400_000)));
    }

    #[test]
    fn who_is_away_is_tried_beside_the_others_now_and_then() {
        let (mut upstreams, at) = three();
        assert_eq!(upstreams.due(Udp, at(0)), None);
        fails(&mut upstreams, 2, at(1));
        fails(&mut upstreams, 0, at(2));
        assert_eq!(upstreams.due(Udp, at(5000)), None);
        // One with each query, the longest untried first.
        assert_eq!(upstreams.due(Udp, at(5002)), Some(2));
        assert_eq!(upstreams.due(Udp, at(5002)), Some(0));
        assert_eq!(upstreams.due(Udp, at(10_001)), None);
        assert_eq!(upstreams.due(Udp, at(10_002)), Some(0));
        upstreams.answered(0, Udp, at(10_003));
        assert_eq!(upstreams.due(Udp, at(20_000)), Some(2));
        // Where nobody is left the first one is asked as ever, and the others are tried.
        fails(&mut upstreams, 0, at(20_000));
        fails(&mut upstreams, 1, at(20_001));
        assert_eq!(upstreams.order(Udp), [0, 1, 2]);
        let due = [(); 3].map(|()| upstreams.due(Udp, at(90_000)));
        assert_eq!(due, [Some(2), Some(1), None]);
    }

    #[test]
    fn what_is_wrong_is_said_for_each_transport() {
        let (mut upstreams, at) = three();
        assert!(upstreams.answered(0, Udp, at(0)), "its first answer");
        assert!(upstreams.failed(0, Tcp, at(1), "connection refused".to_owned()));
        assert_eq!((upstreams.order(Udp)[0], upstreams.order(Tcp)[0]), (0, 1));
        let wanted = "10.0.0.1:53 of boot.dns.forward does not answer over tcp: connection refused";
        assert_eq!(upstreams.trouble(0).as_deref(), Some(wanted));
        assert!(upstreams.failed(0, Udp, at(1), "no route".to_owned()));
        assert!(upstreams.trouble(0).is_some_and(|text| text.contains("over udp: no route, over tcp: connection")));
        assert!(upstreams.answered(0, Udp, at(2)) && upstreams.answered(0, Tcp, at(2)));
        assert_eq!((upstreams.trouble(0), upstreams.trouble(7)), (None, None));
    }
}
