//! The shipper's own figures.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::lane::Whose;
use super::record::Foreign;
use crate::register::Register;

/// What is counted of shipping from Kafka.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) consumed: IntCounterVec,
    pub(super) repeated: IntCounterVec,
    pub(super) missing: IntCounterVec,
    pub(super) foreign: IntCounterVec,
    pub(super) cuts: IntCounterVec,
    pub(super) rebalances: IntCounter,
    pub(super) assigned: IntGauge,
    pub(super) paused: IntGauge,
    pub(super) lag: IntGaugeVec,
    pub(super) oldest_unshipped: IntGauge,
    pub(super) retention_left: Gauge,
    pub(super) commit_errors: IntCounter,
    pub(super) memory: IntGauge,
    pub(super) memory_max: IntGauge,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let register = Register::new(registry, "greypit_kafka_");
        let retention_left = register.float_gauge(
            "retention_left_seconds",
            "Until the first event that is read and not in the store leaves its topic; NaN where that is not known",
        )?;
        retention_left.set(f64::NAN);
        let foreign =
            register.counters("foreign_messages_total", "Messages that no greypit wrote, skipped", &["reason"])?;
        for reason in Foreign::ALL {
            foreign.with_label_values(&[reason.name()]);
        }
        let cuts =
            register.counters("cuts_total", "Batches whose end was decided, by whose cut was first", &["cut"])?;
        for whose in Whose::ALL {
            cuts.with_label_values(&[whose.name()]);
        }
        Ok(Metrics {
            consumed: register.counters(
                "consumed_events_total",
                "Events read from Kafka, each once a reading",
                &["kind"],
            )?,
            repeated: register.counters(
                "repeated_events_total",
                "Events that Kafka held more than once, dropped",
                &["kind"],
            )?,
            missing: register.counters("missing_events_total", "Events that were not in Kafka any more", &["kind"])?,
            foreign,
            cuts,
            rebalances: register.counter("rebalances_total", "Changes of this member's partitions")?,
            assigned: register.gauge("assigned_partitions", "Partitions that this member ships")?,
            paused: register.gauge("paused_partitions", "Of those, the ones that wait")?,
            lag: register.gauges(
                "consumer_lag",
                "Messages of a partition behind the committed offset",
                &["topic", "partition"],
            )?,
            oldest_unshipped: register
                .gauge("oldest_unshipped_seconds", "Age of the oldest event read and not in the store")?,
            retention_left,
            commit_errors: register.counter("commit_errors_total", "Offsets that could not be committed")?,
            memory: register.gauge("memory_bytes", "Memory of batches being collected")?,
            memory_max: register.gauge("memory_max_bytes", "The limit kafka.max_memory")?,
        })
    }
}
