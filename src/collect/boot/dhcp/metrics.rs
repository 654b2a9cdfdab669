//! What DHCP counts:
//!
//! | metric | labels | |
//! |---|---|---|
//! | `greypit_dhcp_messages_total` | `message` | what came, by DHCP's names; `bootp`, `malformed` |
//! | `greypit_dhcp_answers_total` | `answer` | what was sent |
//! | `greypit_dhcp_unanswered_total` | `why` | what got no answer, by the `why` of its event |
//! | `greypit_dhcp_unsent_total` | `reason` | answers that were made and not sent: the lease was not written, its queue was full, the kernel did not take it |
//! | `greypit_dhcp_dropped_total` | `reason` | what was not read: the kernel's buffer was full, or no packet of ours |
//! | `greypit_dhcp_addresses` | `state` | `free` ones of the pools; `offered`, `leased`, `quarantined` ones, the machines' too |
//! | `greypit_dhcp_pool_addresses` | | how many addresses the pools have |
//! | `greypit_dhcp_conflicts_total` | | offered addresses that somebody else had |
//! | `greypit_dhcp_probes_unsent_total` | | offers without a conflict check |
//! | `greypit_dhcp_foreign_servers_total` | | messages of, or for, servers that should not be there |
//! | `greypit_dhcp_commit_seconds` | | from a request that changes a lease to its answer |
//! | `greypit_dhcp_commit_leases` | | leases written by one sync |
//! | `greypit_dhcp_commit_queue`, `…_limit` | | requests that wait for their lease to be written |
//!
//! Every label is one of a fixed few.

use greypit_pipeline::Register;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::outcome::{Counted, Levels};
use super::packet::Unfit;

/// Why an answer was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Too many leases wait to be written.
    QueueFull,
    /// The disk did not take the lease.
    NotWritten,
    /// The kernel did not take the packet.
    NotSent,
}

impl Unsent {
    const ALL: [Unsent; 3] = [Unsent::QueueFull, Unsent::NotWritten, Unsent::NotSent];

    pub(super) fn name(self) -> &'static str {
        match self {
            Unsent::QueueFull => "queue_full",
            Unsent::NotWritten => "not_written",
            Unsent::NotSent => "not_sent",
        }
    }
}

/// Why something was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The kernel's receive buffer was full, or a checksum was wrong.
    Kernel,
    /// Longer than any DHCP message.
    TooLong,
    Unfit(Unfit),
}

impl Dropped {
    const ALL: [Dropped; 7] = [
        Dropped::Kernel,
        Dropped::TooLong,
        Dropped::Unfit(Unfit::Short),
        Dropped::Unfit(Unfit::Header),
        Dropped::Unfit(Unfit::Fragment),
        Dropped::Unfit(Unfit::Protocol),
        Dropped::Unfit(Unfit::Checksum),
    ];

    fn name(self) -> &'static str {
        match self {
            Dropped::Kernel => "kernel",
            Dropped::TooLong => "too_long",
            Dropped::Unfit(Unfit::Short) => "short",
            Dropped::Unfit(Unfit::Header) => "header",
            Dropped::Unfit(Unfit::Fragment) => "fragment",
            Dropped::Unfit(Unfit::Protocol) => "protocol",
            Dropped::Unfit(Unfit::Checksum) => "checksum",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    messages: IntCounterVec,
    answers: IntCounterVec,
    unanswered: IntCounterVec,
    unsent: IntCounterVec,
    dropped: IntCounterVec,
    addresses: IntGaugeVec,
    pools: IntGauge,
    pub(super) conflicts: IntCounter,
    pub(super) probes_unsent: IntCounter,
    pub(super) foreign: IntCounter,
    pub(super) commit_seconds: Histogram,
    pub(super) commit_leases: Histogram,
    pub(super) commit_queue: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_dhcp_");
        let metrics = Metrics {
            messages: register.counters("messages_total", "DHCP and BOOTP messages received.", &["message"])?,
            answers: register.counters("answers_total", "DHCP and BOOTP answers sent.", &["answer"])?,
            unanswered: register.counters("unanswered_total", "Messages that got no answer, by why.", &["why"])?,
            unsent: register.counters("unsent_total", "Answers that were made and not sent.", &["reason"])?,
            dropped: register.counters("dropped_total", "Packets that were not read.", &["reason"])?,
            addresses: register.gauges("addresses", "Addresses by state; free ones are of the pools.", &["state"])?,
            pools: register.gauge("pool_addresses", "How many addresses the pools have.")?,
            conflicts: register.counter("conflicts_total", "Offered addresses that somebody else had.")?,
            probes_unsent: register.counter("probes_unsent_total", "Offers without a conflict check.")?,
            foreign: register
                .counter("foreign_servers_total", "Messages of, or for, servers that should not be there.")?,
            commit_seconds: register.histogram(
                "commit_seconds",
                "From a request that changes a lease to its answer.",
                &[0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0],
            )?,
            commit_leases: register.histogram(
                "commit_leases",
                "Changes of leases that one sync made durable.",
                &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0],
            )?,
            commit_queue: register.gauge("commit_queue", "Requests that wait for their lease to be written.")?,
        };
        let limit = register.gauge("commit_queue_limit", "The most requests that wait for their lease.")?;
        limit.set(super::writer::QUEUE_MAX as i64);
        for message in ["discover", "request", "decline", "release", "inform", "bootp", "malformed"] {
            metrics.messages.with_label_values(&[message]);
        }
        for answer in ["offer", "ack", "nak"] {
            metrics.answers.with_label_values(&[answer]);
        }
        for unsent in Unsent::ALL {
            metrics.unsent.with_label_values(&[unsent.name()]);
        }
        for dropped in Dropped::ALL {
            metrics.dropped.with_label_values(&[dropped.name()]);
        }
        metrics.levels(Levels::default());
        Ok(metrics)
    }

    /// Counts a message that was read.
    pub(super) fn received(&self, counted: &Counted, is_answered: bool) {
        self.messages.with_label_values(&[counted.message]).inc();
        if !is_answered {
            self.unanswered.with_label_values(&[counted.why]).inc();
        }
    }

    pub(super) fn sent(&self, counted: &Counted) {
        self.answers.with_label_values(&[counted.answer]).inc();
    }

    pub(super) fn unsent(&self, unsent: Unsent) {
        self.unsent.with_label_values(&[unsent.name()]).inc();
    }

    pub(super) fn dropped(&self, dropped: Dropped, packets: u64) {
        self.dropped.with_label_values(&[dropped.name()]).inc_by(packets);
    }

    pub(super) fn levels(&self, levels: Levels) {
        let Levels { pools, free, offered, leased, quarantined } = levels;
        self.pools.set(pools as i64);
        for (state, n) in [("free", free), ("offered", offered), ("leased", leased), ("quarantined", quarantined)] {
            self.addresses.with_label_values(&[state]).set(n as i64);
        }
    }
}
