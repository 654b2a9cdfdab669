//! From the spool to the topics.
//!
//! # Promises
//! * A node's events of one kind go to one partition in the order of `seq`. After a failure some are there twice; none
//!   is ever there without all of its predecessors.
//! * An event leaves the spool only when all in-sync replicas have it.
//! * Events that no broker takes are set aside, durably, before a marker goes in their place, so that they hold up nobody.
//!
//! # How
//! One thread reads batches back from the spool and hands their events to an idempotent producer of librdkafka, which
//! retries for ever what can be retried. Its reports say up to where each kind is acknowledged; that goes to the ledger
//! at most once a second, before segments are deleted. Any failure ends the producer: a new one begins at the first
//! unacknowledged event of every kind.
//!
//! A broker accepts any message of a producer that it does not know. If the first request of a new producer to a partition
//! is refused, one that was sent right behind it would be taken, without its predecessors. So the first event of each kind
//! is sent alone, with each producer and after a pause; from then on the broker knows what must come next, and the
//! idempotent producer's own numbers keep the order. Events sent together with one that was refused are sent one at a time,
//! too: the broker refuses a whole request, and this finds out which event it was.
//!
//! # Limits
//! The client holds at most 32 MiB and 50 000 events (`queue.buffering.max.kbytes`, `queue.buffering.max.messages`); the
//! rest waits on disk.

mod acks;
mod aside;
mod client;
mod failure;
mod feed;
mod forward;
mod lane;
mod metrics;
mod partition;
mod record;
mod stream;
mod upkeep;

use prometheus::Registry;

use super::Config;
use crate::{Error, Result};

pub(crate) use forward::{Forwarder, Running};
pub use metrics::Metrics;

/// What waits together becomes batches of this size, which are read and fed one by one.
pub(crate) const BATCH_BYTES_MAX: u64 = 4 << 20;

/// What a pipeline needs to hand its events to Kafka instead of the store.
#[derive(Clone, Debug)]
pub struct Output {
    /// `[kafka]`
    pub config: Config,
    /// The figures of producing.
    pub metrics: Metrics,
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
