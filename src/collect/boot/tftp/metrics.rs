//! What TFTP counts, all with `greypit_tftp_` in front:
//!
//! * `transfers_total{outcome}`: transfers that ended, see [`Outcome`];
//! * `transfers`, `transfers_max`: those that go on, and `boot.tftp.max_transfers`;
//! * `bytes_total`: of files, acknowledged; `retransmits_total`: packets that were sent again;
//! * `duration_seconds`: of complete transfers;
//! * `ignored_total{reason}`: packets without an answer, see [`Ignored`].

use greypit_pipeline::Register;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it has arrived.
    Complete,
    /// The client wanted the size only, as firmware does.
    Probed,
    /// The client ended it.
    Aborted,
    /// No acknowledgement came.
    Timeout,
    /// The client's port is closed.
    Gone,
    /// The client began another transfer from the same port.
    Replaced,
    /// The client had not answered, and another one needed the place.
    Displaced,
    /// Longer than `boot.tftp.max_duration`.
    TooLong,
    /// The file could not be read to its end, or packets not be sent.
    Failed,
    /// greypit ends.
    Stopped,
    /// There is nothing for this client under this name.
    Refused,
    /// A client that wants to write.
    Write,
    /// `boot.tftp.max_transfers` or `max_transfers_per_client`: no answer, the client asks again.
    Busy,
}

impl Outcome {
    const ALL: [Outcome; 13] = [
        Outcome::Complete,
        Outcome::Probed,
        Outcome::Aborted,
        Outcome::Timeout,
        Outcome::Gone,
        Outcome::Replaced,
        Outcome::Displaced,
        Outcome::TooLong,
        Outcome::Failed,
        Outcome::Stopped,
        Outcome::Refused,
        Outcome::Write,
        Outcome::Busy,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Probed => "probed",
            Outcome::Aborted => "aborted",
            Outcome::Timeout => "timeout",
            Outcome::Gone => "gone",
            Outcome::Replaced => "replaced",
            Outcome::Displaced => "displaced",
            Outcome::TooLong => "too_long",
            Outcome::Failed => "failed",
            Outcome::Stopped => "stopped",
            Outcome::Refused => "refused",
            Outcome::Write => "write",
            Outcome::Busy => "busy",
        }
    }
}

/// Why a packet got no answer; of these only what is malformed becomes an event, and not within a transfer, which is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Not from one of our networks.
    Outside,
    /// No packet of TFTP.
    Malformed,
    /// Of no transfer that goes on.
    Stray,
    /// A request that is being answered.
    Repeated,
}

impl Ignored {
    const ALL: [Ignored; 4] = [Ignored::Outside, Ignored::Malformed, Ignored::Stray, Ignored::Repeated];

    fn name(self) -> &'static str {
        match self {
            Ignored::Outside => "outside",
            Ignored::Malformed => "malformed",
            Ignored::Stray => "stray",
            Ignored::Repeated => "repeated",
        }
    }
}

const DURATION_BUCKETS: [f64; 9] = [0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0, 1800.0];

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    transfers_total: IntCounterVec,
    ignored: IntCounterVec,
    pub(super) transfers: IntGauge,
    pub(super) bytes: IntCounter,
    pub(super) retransmits: IntCounter,
    pub(super) duration: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, transfers_max: usize) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_tftp_");
        let metrics = Metrics {
            transfers_total: register.counters("transfers_total", "Transfers by how they ended.", &["outcome"])?,
            ignored: register.counters("ignored_total", "Packets without an answer.", &["reason"])?,
            transfers: register.gauge("transfers", "Transfers that go on.")?,
            bytes: register.counter("bytes_total", "Bytes of files that clients have acknowledged.")?,
            retransmits: register.counter("retransmits_total", "Packets that were sent again.")?,
            duration: register.histogram("duration_seconds", "How long complete transfers took.", &DURATION_BUCKETS)?,
        };
        register.gauge("transfers_max", "The limit on transfers at once.")?.set(transfers_max as i64);
        for outcome in Outcome::ALL {
            metrics.transfers_total.with_label_values(&[outcome.name()]);
        }
        for reason in Ignored::ALL {
            metrics.ignored.with_label_values(&[reason.name()]);
        }
        Ok(metrics)
    }

    pub(super) fn ended(&self, outcome: Outcome) {
        self.transfers_total.with_label_values(&[outcome.name()]).inc();
    }

    pub(super) fn ignored(&self, reason: Ignored) {
        self.ignored.with_label_values(&[reason.name()]).inc();
    }
}
