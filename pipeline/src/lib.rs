//! Events in, every one once in an object.
//!
//! ```text
//! Event ─► Submit ─► spool ─► batch ─► encode ─► store
//!          bounded   fsync    durable  own       conditional
//!          queue              CUT      threads   PUT, then durable DONE
//! ```
//!
//! One direction; only acknowledgements travel back, each one stage. Nothing here knows a collector: an event is a kind
//! and an encoded JSON body. [`event`] and [`submit`] are what a collector uses; the other modules are the stages in
//! order, each with its promises and formats at its top.

mod addresses;
pub mod batch;
pub mod codec;
mod encode;
mod error;
pub mod event;
pub mod health;
pub mod kafka;
pub mod key;
mod metrics;
pub mod object;
mod pipeline;
mod register;
pub mod replay;
mod ship;
pub mod spool;
pub mod store;
pub mod submit;
pub mod units;
mod upload;
mod workers;

pub use addresses::Addresses;
pub use error::{Error, Result};
pub use event::{Checkpoint, Event, Group, Kind};
pub use health::Health;
pub use metrics::Metrics;
pub use pipeline::{Drained, Parts, Pipeline, check_node};
pub use register::Register;
pub use submit::{Refused, Submit};
