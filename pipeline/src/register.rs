//! Makes metrics and puts them on a registry, in one call each.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result,
};

/// A registry and what the names of a part's metrics begin with, such as `greypit_kafka_`. Every call fails where the
/// name is taken or none.
#[derive(Clone, Copy, Debug)]
pub struct Register<'r> {
    registry: &'r Registry,
    prefix: &'r str,
}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl<'r> Register<'r> {
    pub fn new(registry: &'r Registry, prefix: &'r str) -> Register<'r> {
        Register { registry, prefix }
    }

    fn put<T: Collector + Clone + 'static>(&self, made: Result<T>) -> Result<T> {
        let made = made?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}{name}", self.prefix), help)
    }

    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.put(IntCounter::with_opts(self.opts(name, help)))
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.put(IntCounterVec::new(self.opts(name, help), labels))
    }

    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.put(IntGauge::with_opts(self.opts(name, help)))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.put(IntGaugeVec::new(self.opts(name, help), labels))
    }

    /// For what is no whole number: seconds.
    pub fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge> {
        self.put(Gauge::with_opts(self.opts(name, help)))
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.put(Histogram::with_opts(HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec())))
    }

    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec> {
        self.put(HistogramVec::new(HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec()), labels))
    }
}
