//! Metrics of DNS. `rcode` is one of the names below or `other`.
//!
//! | metric | what |
//! |---|---|
//! | `greypit_dns_queries_total{proto}` | queries taken, by `udp` and `tcp` |
//! | `greypit_dns_answers_total{rcode}` | answers sent, forwarded ones too |
//! | `greypit_dns_dropped_total{reason}` | without an answer: `foreign` (of no network of ours), `rate`, `short`, `response`, `send` |
//! | `greypit_dns_forwarded_total{outcome}` | asked of `boot.dns.forward`: `answered`, `failed` (no server answered), `displaced` (gave its place to a client with fewer), and not asked: `busy` (too many at once), `busy_client` (too many of one client) |
//! | `greypit_dns_upstream_queries_total{server,proto,outcome}` | what each of these servers was asked, those beside the client's query too: `answered` or `failed`; `server` is 1 to 4, its place in the config |
//! | `greypit_dns_forward_seconds` | how long the servers took, all tries together |
//! | `greypit_dns_forwards`, `greypit_dns_forwards_max` | under way, and the limit |
//! | `greypit_dns_connections`, `greypit_dns_connections_max` | over TCP, and the limit |
//! | `greypit_dns_connections_refused_total` | accepted and closed at the limit, or of no network of ours |

use greypit_pipeline::Register;
use hickory_proto::op::ResponseCode;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry, Result};

use super::answer::{Silent, Transport};

const SECONDS: [f64; 9] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 2.0, 4.0];

/// Why a query gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dropped {
    /// Its source is in no network of ours.
    Foreign,
    /// Its client asks too often.
    Rate,
    Silent(Silent),
    /// The kernel did not take the answer.
    Send,
}

impl Dropped {
    const ALL: [Dropped; 5] = [
        Dropped::Foreign,
        Dropped::Rate,
        Dropped::Silent(Silent::Short),
        Dropped::Silent(Silent::Response),
        Dropped::Send,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Dropped::Foreign => "foreign",
            Dropped::Rate => "rate",
            Dropped::Silent(Silent::Short) => "short",
            Dropped::Silent(Silent::Response) => "response",
            Dropped::Send => "send",
        }
    }
}

/// What became of a forwarded query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Forwarded {
    Answered,
    Failed,
    /// All places are taken.
    Busy,
    /// Those of its client are.
    BusyClient,
    /// A client with fewer has its place.
    Displaced,
}

impl Forwarded {
    pub(super) const ALL: [Forwarded; 5] =
        [Forwarded::Answered, Forwarded::Failed, Forwarded::Busy, Forwarded::BusyClient, Forwarded::Displaced];

    pub(super) fn name(self) -> &'static str {
        match self {
            Forwarded::Answered => "answered",
            Forwarded::Failed => "failed",
            Forwarded::Busy => "busy",
            Forwarded::BusyClient => "busy_client",
            Forwarded::Displaced => "displaced",
        }
    }
}

/// What became of a query to one server.
fn upstream_outcome(answered: bool) -> &'static str {
    if answered { Forwarded::Answered.name() } else { Forwarded::Failed.name() }
}

/// The names of codes in records and metrics, RFC 1035 4.1.1 and RFC 6895.
const RCODES: [(ResponseCode, &str); 8] = [
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::BADVERS, "BADVERS"),
    (ResponseCode::NotAuth, "NOTAUTH"),
];

/// A name for a record and a label.
pub(super) fn rcode_name(rcode: ResponseCode) -> &'static str {
    RCODES.iter().find(|(known, _)| *known == rcode).map_or("other", |(_, name)| name)
}

/// A query that waits for other servers, in `greypit_dns_forwards` until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a IntGauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    queries: IntCounterVec,
    answers: IntCounterVec,
    dropped: IntCounterVec,
    forwarded: IntCounterVec,
    upstream: IntCounterVec,
    pub(super) forward_seconds: Histogram,
    pub(super) forwards: IntGauge,
    pub(super) connections: IntGauge,
    pub(super) connections_refused: IntCounter,
}

impl Metrics {
    /// `upstreams`: how many servers others are asked of.
    pub(crate) fn new(
        registry: &Registry,
        upstreams: usize,
        forwards_max: usize,
        connections_max: usize,
    ) -> Result<Metrics> {
        let register = Register::new(registry, "greypit_dns_");
        let metrics = Metrics {
            queries: register.counters("queries_total", "DNS queries taken.", &["proto"])?,
            answers: register.counters("answers_total", "DNS answers sent.", &["rcode"])?,
            dropped: register.counters("dropped_total", "DNS packets that got no answer.", &["reason"])?,
            forwarded: register.counters(
                "forwarded_total",
                "DNS queries for the servers of boot.dns.forward.",
                &["outcome"],
            )?,
            upstream: register.counters(
                "upstream_queries_total",
                "DNS queries to each server of boot.dns.forward.",
                &["server", "proto", "outcome"],
            )?,
            forward_seconds: register.histogram(
                "forward_seconds",
                "How long the servers of boot.dns.forward took, all tries together.",
                &SECONDS,
            )?,
            forwards: register.gauge("forwards", "DNS queries that wait for other servers.")?,
            connections: register.gauge("connections", "DNS connections over TCP.")?,
            connections_refused: register.counter(
                "connections_refused_total",
                "DNS connections closed at the limit, or because their peer is in no network of ours.",
            )?,
        };
        register.gauge("forwards_max", "The limit of greypit_dns_forwards.")?.set(forwards_max as i64);
        register.gauge("connections_max", "The limit of greypit_dns_connections.")?.set(connections_max as i64);
        for proto in [Transport::Udp, Transport::Tcp] {
            metrics.queries.with_label_values(&[proto.name()]);
        }
        for (_, name) in RCODES {
            metrics.answers.with_label_values(&[name]);
        }
        Dropped::ALL.iter().for_each(|reason| metrics.dropped.with_label_values(&[reason.name()]).inc_by(0));
        Forwarded::ALL.iter().for_each(|outcome| metrics.forwarded.with_label_values(&[outcome.name()]).inc_by(0));
        for server in 0..upstreams {
            for proto in [Transport::Udp, Transport::Tcp] {
                [true, false].iter().for_each(|answered| metrics.of_upstream(server, proto, *answered).inc_by(0));
            }
        }
        Ok(metrics)
    }

    pub(super) fn query(&self, transport: Transport) {
        self.queries.with_label_values(&[transport.name()]).inc();
    }

    pub(super) fn answer(&self, rcode: ResponseCode) {
        self.answers.with_label_values(&[rcode_name(rcode)]).inc();
    }

    pub(super) fn dropped(&self, reason: Dropped) {
        self.dropped.with_label_values(&[reason.name()]).inc();
    }

    /// Counts one more that waits.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.forwards.inc();
        Waiting(&self.forwards)
    }

    /// Counts a query to a server, by its number from 0.
    pub(super) fn upstream(&self, server: usize, proto: Transport, answered: bool) {
        self.of_upstream(server, proto, answered).inc();
    }

    fn of_upstream(&self, server: usize, proto: Transport, answered: bool) -> IntCounter {
        let place = (server + 1).to_string();
        self.upstream.with_label_values(&[&place, proto.name(), upstream_outcome(answered)])
    }

    pub(super) fn forwarded(&self, outcome: Forwarded) {
        self.forwarded.with_label_values(&[outcome.name()]).inc();
    }
}
