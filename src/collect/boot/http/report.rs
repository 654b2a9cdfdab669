//! What is told of a request once its answer is over: metrics, the machine's session, and an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hyper::{Method, StatusCode};
use jiff::Timestamp;

use super::serve::Shared;
use crate::collect::boot::audit::HTTP;
use crate::collect::boot::sessions::Protocol;
use crate::collect::boot::world::Served;

/// How a connection goes on, for whoever watches it.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Bytes that the kernel has taken.
    pub(super) written: AtomicU64,
    /// How many requests there were.
    pub(super) requests: AtomicU64,
    /// The last one is still being answered.
    pub(super) answering: AtomicBool,
}

/// Told when it is dropped.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) shared: Arc<Shared>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) served: Served,
    pub(super) method: Method,
    /// As it came.
    pub(super) path: Vec<u8>,
    pub(super) user_agent: Option<Vec<u8>>,
    pub(super) range: Option<Vec<u8>>,
    pub(super) status: StatusCode,
    pub(super) began: Timestamp,
    pub(super) clock: Instant,
    /// Bytes of the body, and how many of them were given to the connection.
    pub(super) wanted: u64,
    pub(super) given: u64,
    /// Whether the body goes to the end of what it is of.
    pub(super) to_end: bool,
    pub(super) why: Option<String>,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.pulse.answering.store(false, Ordering::Relaxed);
        let (world, metrics, now) = (&self.shared.world, &self.shared.metrics, Timestamp::now());
        let took = self.clock.elapsed();
        metrics.answered(self.status);
        metrics.bytes.inc_by(self.given);
        let is_whole = self.given == self.wanted;
        let outcome = match (is_whole, self.status.is_success()) {
            (true, true) => "complete",
            (true, false) => "refused",
            (false, _) => "aborted",
        };
        let session = match outcome {
            "complete" if self.method == Method::GET && self.to_end => world.fetched(&self.served, Protocol::Http, now),
            "complete" => self.served.session.clone(),
            _ => {
                let why = self.why.as_deref().unwrap_or("the connection ended");
                world.failed(&self.served, &format!("http {}: {why}", self.status.as_str()), now);
                self.served.session.clone()
            }
        };
        if !is_whole {
            metrics.aborted.inc();
        }
        let mut record = world
            .record(HTTP, &self.served, session, self.began)
            .text("method", &self.method)
            .bytes("path", &self.path)
            .number("status", self.status.as_u16().into())
            .number("bytes", self.given)
            .number("duration_ms", u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if let Some(user_agent) = &self.user_agent {
            record = record.bytes("user_agent", user_agent);
        }
        if let Some(range) = &self.range {
            record = record.bytes("range", range);
        }
        let decision = if self.status.is_success() { "served" } else { "refused" };
        let record = record.text("outcome", outcome).text("decision", decision).known("why", self.why.take());
        world.audit.record(record);
    }
}
