//! The figures of producing.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::failure::Code;

/// The figures of producing.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) events: IntCounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) in_flight_events: IntGauge,
    pub(super) in_flight_bytes: IntGauge,
    pub(super) delivery_seconds: Histogram,
    pub(super) errors: IntCounterVec,
    pub(super) set_aside: IntCounterVec,
    pub(super) restarts: IntCounter,
    pub(super) throttle_seconds: Gauge,
    pub(super) brokers_up: IntGauge,
}

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

impl Metrics {
    /// Makes them and puts them on `registry`.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(format!("greypit_kafka_{name}"), help), &[label])?;
            registry.register(Box::new(counters.clone())).map(|()| counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("greypit_kafka_{name}"), help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let delivery = HistogramOpts::new(
            "greypit_kafka_delivery_seconds",
            "From handing an event to the client until all brokers have it; one in up to 256 is measured",
        );
        let delivery_seconds = Histogram::with_opts(delivery.buckets(SECONDS.to_vec()))?;
        registry.register(Box::new(delivery_seconds.clone()))?;
        let restarts = IntCounter::new(
            "greypit_kafka_producer_restarts_total",
            "Producers given up after a failure, and begun anew at the first unacknowledged event",
        )?;
        registry.register(Box::new(restarts.clone()))?;
        let throttle_seconds =
            Gauge::new("greypit_kafka_throttle_seconds", "Pause that the brokers' quota imposes, the longest of all")?;
        registry.register(Box::new(throttle_seconds.clone()))?;
        let errors = counters("errors_total", "Failures by code; events wait in the spool meanwhile", "code")?;
        let set_aside =
            counters("set_aside_events_total", "Events that no broker takes, kept in <data_dir>/set-aside", "reason")?;
        // There before the first failure, or an alert would not see the first.
        for code in Code::all() {
            errors.with_label_values(&[code.name()]);
            if code.is_of_the_event() {
                set_aside.with_label_values(&[code.name()]);
            }
        }
        Ok(Metrics {
            events: counters("produced_events_total", "Events that the brokers have acknowledged", "kind")?,
            bytes: counters("produced_bytes_total", "Their size before compression", "kind")?,
            in_flight_events: gauge("in_flight_events", "Events handed to the client and not acknowledged")?,
            in_flight_bytes: gauge("in_flight_bytes", "Their size before compression")?,
            delivery_seconds,
            errors,
            set_aside,
            restarts,
            throttle_seconds,
            brokers_up: gauge("brokers_up", "Brokers that the producer is connected to")?,
        })
    }
}
