//! The farm's figures, by Prometheus' conventions.

use greypit_pipeline::Register;
use greypit_pipeline::kafka::compacted;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

/// Why a record of the topic is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    /// Its window or its prefixes are other ones.
    Shape,
    /// A greypit of another version wrote it.
    Version,
    /// No greypit wrote it.
    Malformed,
    /// More lives of nodes than are kept apart.
    TooManyNodes,
}

impl Ignored {
    const ALL: [Ignored; 4] = [Ignored::Shape, Ignored::Version, Ignored::Malformed, Ignored::TooManyNodes];

    fn name(self) -> &'static str {
        match self {
            Ignored::Shape => "shape",
            Ignored::Version => "version",
            Ignored::Malformed => "malformed",
            Ignored::TooManyNodes => "too_many_nodes",
        }
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) nodes: IntGauge,
    pub(super) connected: IntGauge,
    pub(super) published: IntCounter,
    pub(super) received: IntCounter,
    pub(super) fallback: IntCounter,
    pub(super) delay: Histogram,
    ignored: [IntCounter; 4],
    errors: IntCounterVec,
}

const SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];

impl Metrics {
    /// Makes them and puts them on `registry`.
    ///
    /// # Errors
    /// Where a name is taken.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_milter_farm_");
        let ignored =
            register.counters("ignored_total", "Records of the farm's topic that are not counted", &["reason"])?;
        let errors =
            register.counters("errors_total", "Failures of Kafka under the farm; all is tried again", &["code"])?;
        // There before the first.
        for code in compacted::codes() {
            errors.with_label_values(&[code]);
        }
        Ok(Metrics {
            nodes: register.gauge("nodes", "Nodes heard of within the window, this one as well")?,
            connected: register
                .gauge("connected", "Whether the farm can be told and heard; if not, this node counts for itself")?,
            published: register.counter("published_total", "Clients' counts that others were told")?,
            received: register.counter("received_total", "Clients' counts that others have told")?,
            fallback: register
                .counter("fallback_total", "Decisions on client limits made while the farm was out of reach")?,
            delay: register.histogram(
                "delay_seconds",
                "From when another node said what it let pass to when it counted here, by the clocks of both",
                SECONDS,
            )?,
            ignored: Ignored::ALL.map(|reason| ignored.with_label_values(&[reason.name()])),
            errors,
        })
    }

    pub(super) fn ignored(&self, reason: Ignored) -> &IntCounter {
        &self.ignored[reason as usize]
    }

    pub(super) fn error(&self, code: &str) -> IntCounter {
        self.errors.with_label_values(&[code])
    }
}
