//! What HTTP boot counts, all with `greypit_boot_http_` in front:
//!
//! * `requests_total{status}`: by the answer's status; `malformed_total`: what was no request;
//! * `bytes_total`: of bodies, given to connections; `aborted_total`: answers whose client did not take them whole;
//! * `connections`, `connections_max`: those that are open, and `boot.http.max_connections`;
//! * `waits_total`: how often connections had to wait because of that limit;
//! * `closed_total{reason}`: connections that were closed without or amid an answer, see [`Closed`].

use greypit_pipeline::Register;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Not from one of our networks.
    Outside,
    /// `boot.http.max_connections_per_client`.
    Client,
    /// The peer does not take what it asked for.
    Slow,
    /// No request in time.
    Idle,
    /// Open for too long.
    Old,
}

impl Closed {
    const ALL: [Closed; 5] = [Closed::Outside, Closed::Client, Closed::Slow, Closed::Idle, Closed::Old];

    fn name(self) -> &'static str {
        match self {
            Closed::Outside => "outside",
            Closed::Client => "client",
            Closed::Slow => "slow",
            Closed::Idle => "idle",
            Closed::Old => "old",
        }
    }
}

/// The statuses that are ever answered.
const STATUSES: [&str; 8] = ["200", "206", "400", "403", "404", "405", "416", "500"];

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    closed: IntCounterVec,
    pub(super) malformed: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) aborted: IntCounter,
    pub(super) connections: IntGauge,
    pub(super) waits: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, connections_max: usize) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_boot_http_");
        let metrics = Metrics {
            requests: register.counters("requests_total", "Requests by the status of the answer.", &["status"])?,
            closed: register.counters("closed_total", "Connections that were closed by a limit.", &["reason"])?,
            malformed: register.counter("malformed_total", "What came and was no request.")?,
            bytes: register.counter("bytes_total", "Bytes of bodies that were given to connections.")?,
            aborted: register.counter("aborted_total", "Answers that were not taken whole.")?,
            connections: register.gauge("connections", "Connections that are open.")?,
            waits: register.counter("waits_total", "Connections that had to wait for a place.")?,
        };
        register.gauge("connections_max", "The limit on open connections.")?.set(connections_max as i64);
        for status in STATUSES {
            metrics.requests.with_label_values(&[status]);
        }
        for reason in Closed::ALL {
            metrics.closed.with_label_values(&[reason.name()]);
        }
        Ok(metrics)
    }

    pub(super) fn answered(&self, status: hyper::StatusCode) {
        self.requests.with_label_values(&[status.as_str()]).inc();
    }

    pub(super) fn closed(&self, reason: Closed) {
        self.closed.with_label_values(&[reason.name()]).inc();
    }
}
