//! From the spool to the topics.

use prometheus::Registry;

use super::Config;
use crate::{Error, Result};

/// What a pipeline needs to hand its events to Kafka instead of the store.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[kafka]`
    pub config: Config,
    /// The figures of producing.
    pub metrics: Metrics,
}

/// The figures of producing.
#[derive(Clone, Debug)]
pub struct Metrics {}

impl Metrics {
    /// Makes them and puts them on `registry`.
    ///
    /// # Errors
    /// Where a name is taken.
    pub fn new(_registry: &Registry) -> std::result::Result<Metrics, prometheus::Error> {
        Ok(Metrics {})
    }
}

impl Output {
    /// Puts the figures on `registry`.
    ///
    /// # Errors
    /// [`Error::Config`] where a metric's name is taken.
    pub fn new(config: Config, registry: &Registry) -> Result<Output> {
        let taken =
            |error| Error::Config { key: "http".into(), problem: format!("metrics cannot be registered: {error}") };
        Ok(Output { config, metrics: Metrics::new(registry).map_err(taken)? })
    }
}
