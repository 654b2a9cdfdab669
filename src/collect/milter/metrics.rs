//! What becomes of the records of mail transactions.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Why a transaction did not become an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The pipeline's queue was full, and mail does not wait for it.
    QueueFull,
    /// The pipeline had ended.
    Closed,
    /// The pipeline does not take the record: a fault of ours.
    Unfit,
}

impl Dropped {
    const ALL: [Dropped; 3] = [Dropped::QueueFull, Dropped::Closed, Dropped::Unfit];

    pub(super) fn name(self) -> &'static str {
        match self {
            Dropped::QueueFull => "queue_full",
            Dropped::Closed => "closed",
            Dropped::Unfit => "unfit",
        }
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) events: IntCounter,
    dropped: [IntCounter; 3],
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let events = IntCounter::new("greypit_milter_events_total", "Mail transactions given to the pipeline.")?;
        registry.register(Box::new(events.clone()))?;
        let dropped = Opts::new(
            "greypit_milter_events_dropped_total",
            "Mail transactions that did not become events; their mail was not held up.",
        );
        let dropped = IntCounterVec::new(dropped, &["reason"])?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Metrics { events, dropped: Dropped::ALL.map(|reason| dropped.with_label_values(&[reason.name()])) })
    }

    pub(super) fn dropped(&self, reason: Dropped) -> &IntCounter {
        &self.dropped[reason as usize]
    }
}
