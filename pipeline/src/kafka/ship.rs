//! From the topics to the store.

use prometheus::Registry;

use super::Config;
use crate::store::Store;
use crate::{Drained, Health, Metrics, Result, batch};

/// What a shipper is made of.
#[derive(Debug)]
pub struct Parts {
    /// `[kafka]`
    pub kafka: Config,
    /// `[batch]`
    pub batch: batch::Config,
    /// Where objects and cuts go.
    pub store: Store,
    /// The pipeline's figures, of which those of shipping are shared.
    pub metrics: Metrics,
    /// Where it says how it is.
    pub health: Health,
    /// Where its own figures go.
    pub registry: Registry,
}

/// A running member of the consumer group.
#[derive(Debug)]
pub struct Shipper {}

impl Shipper {
    /// Joins the group and ships until it is stopped.
    ///
    /// # Errors
    /// A property that librdkafka refuses.
    pub fn start(_parts: Parts) -> Result<Shipper> {
        Ok(Shipper {})
    }

    /// Ends: what has arrived is shipped where `batch.flush_on_exit` says so, uploads end within `batch.drain_timeout`,
    /// the group is left.
    pub async fn stop(self) -> Drained {
        Drained::Shipped
    }
}
