//! The pipeline's figures, by Prometheus' conventions: base units, `_total` on counters, no unbounded label.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::event::Kind;
use crate::register::Register;
use crate::store::StoreError;

/// All of the pipeline's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) spool_events: IntCounterVec,
    pub(crate) spool_event_bytes: IntCounterVec,
    pub(crate) spool_errors: IntCounterVec,
    pub(crate) spool_fsync_seconds: Histogram,
    pub(crate) spool_disk_bytes: IntGauge,
    pub(crate) spool_max_bytes: IntGauge,
    pub(crate) spool_segments: IntGauge,
    pub(crate) spool_queue_bytes: IntGauge,
    pub(crate) spool_queue_max_bytes: IntGauge,
    pub(crate) spool_damaged_frames: IntCounter,
    pub(crate) spool_torn_bytes: IntCounter,
    pub(crate) waiting_events: IntGauge,
    pub(crate) waiting_batches: IntGauge,
    pub(crate) oldest_event_age_seconds: IntGauge,
    pub(crate) ship_events: IntCounterVec,
    pub(crate) ship_objects: IntCounterVec,
    pub(crate) ship_bytes: IntCounterVec,
    pub(crate) ship_in_flight: IntGauge,
    pub(crate) ship_missing_events: IntCounter,
    pub(crate) encode_seconds: HistogramVec,
    pub(crate) store_put_seconds: Histogram,
    pub(crate) store_errors: IntCounterVec,
    pub(crate) store_existing: IntCounterVec,
}

const SECONDS: &[f64] = &[0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

impl Metrics {
    /// Makes them and puts them on `registry`.
    ///
    /// # Errors
    /// Where a name is taken: a second pipeline on one registry.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let register = Register::new(registry, "greypit_");
        let spool_errors = register.counters("spool_errors_total", "Failed operations of the spool", &["reason"])?;
        let store_errors =
            register.counters("store_errors_total", "Failed uploads by reason; each is tried again", &["reason"])?;
        // There before the first failure, which an alert would not see otherwise: nothing to one is no increase.
        for reason in ["disk_full", "sync", "write", "delete", "lost_at_exit"] {
            spool_errors.with_label_values(&[reason]);
        }
        for class in StoreError::OF_WRITING {
            store_errors.with_label_values(&[class]);
        }
        Ok(Metrics {
            spool_events: register.counters("spool_events_total", "Events made durable in the spool", &["kind"])?,
            spool_event_bytes: register.counters(
                "spool_event_bytes_total",
                "Their size before compression",
                &["kind"],
            )?,
            spool_errors,
            spool_fsync_seconds: register.histogram(
                "spool_fsync_seconds",
                "Time of one fsync of the spool",
                SECONDS,
            )?,
            spool_disk_bytes: register.gauge("spool_disk_bytes", "Bytes of segments on disk")?,
            spool_max_bytes: register.gauge("spool_disk_max_bytes", "The limit spool.max_bytes")?,
            spool_segments: register.gauge("spool_segments", "Segments on disk")?,
            spool_queue_bytes: register.gauge("spool_queue_bytes", "Bytes in memory that are not durable yet")?,
            spool_queue_max_bytes: register.gauge("spool_queue_max_bytes", "The limit spool.queue_bytes")?,
            spool_damaged_frames: register
                .counter("spool_damaged_frames_total", "Places in the spool that could not be read")?,
            spool_torn_bytes: register
                .counter("spool_torn_bytes_total", "Bytes of unacknowledged writes cut off at start")?,
            waiting_events: register.gauge("waiting_events", "Durable events that are not in the store yet")?,
            waiting_batches: register.gauge("waiting_batches", "Complete batches that wait for a free worker")?,
            oldest_event_age_seconds: register
                .gauge("oldest_event_age_seconds", "Age of the oldest event not in the store")?,
            ship_events: register.counters("ship_events_total", "Events in the store", &["kind"])?,
            ship_objects: register.counters("ship_objects_total", "Objects in the store", &["kind"])?,
            ship_bytes: register.counters(
                "ship_bytes_total",
                "Bytes of shipped objects, raw and compressed",
                &["stage"],
            )?,
            ship_in_flight: register.gauge("ship_in_flight", "Objects being encoded or uploaded")?,
            ship_missing_events: register.counter("ship_missing_events_total", "Events lost to damage of the spool")?,
            encode_seconds: register.histograms(
                "encode_seconds",
                "Time to read and compress one object",
                &["codec"],
                SECONDS,
            )?,
            store_put_seconds: register.histogram("store_put_seconds", "Time of one upload attempt", SECONDS)?,
            store_errors,
            store_existing: register.counters(
                "store_existing_total",
                "Uploads that found the object there: the same one from before a crash, or somebody else's",
                &["object"],
            )?,
        })
    }

    pub(crate) fn spooled(&self, kind: Kind, events: u64, bytes: u64) {
        self.spool_events.with_label_values(&[kind.as_str()]).inc_by(events);
        self.spool_event_bytes.with_label_values(&[kind.as_str()]).inc_by(bytes);
    }

    pub(crate) fn spool_error(&self, reason: &str, by: u64) {
        self.spool_errors.with_label_values(&[reason]).inc_by(by);
    }
}
