//! The figures of producing.

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use super::failure::Code;
use crate::register::Register;

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
        let register = Register::new(registry, "greypit_kafka_");
        let errors =
            register.counters("errors_total", "Failures by code; events wait in the spool meanwhile", &["code"])?;
        let set_aside = register.counters(
            "set_aside_events_total",
            "Events that no broker takes, kept in <data_dir>/set-aside",
            &["reason"],
        )?;
        // There before the first failure, or an alert would not see the first.
        for code in Code::all() {
            errors.with_label_values(&[code.name()]);
            if code.is_of_the_event() {
                set_aside.with_label_values(&[code.name()]);
            }
        }
        Ok(Metrics {
            events: register.counters(
                "produced_events_total",
                "Events that the brokers have acknowledged",
                &["kind"],
            )?,
            bytes: register.counters("produced_bytes_total", "Their size before compression", &["kind"])?,
            in_flight_events: register.gauge("in_flight_events", "Events handed to the client and not acknowledged")?,
            in_flight_bytes: register.gauge("in_flight_bytes", "Their size before compression")?,
            delivery_seconds: register.histogram(
                "delivery_seconds",
                "From handing an event to the client until all brokers have it; one in up to 256 is measured",
                SECONDS,
            )?,
            errors,
            set_aside,
            restarts: register.counter(
                "producer_restarts_total",
                "Producers given up after a failure, and begun anew at the first unacknowledged event",
            )?,
            throttle_seconds: register
                .float_gauge("throttle_seconds", "Pause that the brokers' quota imposes, the longest of all")?,
            brokers_up: register.gauge("brokers_up", "Brokers that the producer is connected to")?,
        })
    }
}
