//! Sockets for plain syslog: UDP (RFC 5426), TCP (RFC 6587) and unix datagrams (`/dev/log`).
//!
//! [`bind`] takes every address before [`spawn`] starts anything. Each task owns a
//! `Recorder` and fills a [`Group`]; a group goes to the pipeline when the socket has
//! nothing more or the group is full, never one a line. What happens when the
//! pipeline's queue is full is the transport's nature:
//!
//! | transport | queue full | limit | at shutdown |
//! |---|---|---|---|
//! | TCP | reading stops, the sender waits | `max_connections`, then accepted, closed and counted | reads what the kernel holds |
//! | unix | reading stops, the sender waits | the kernel's `max_dgram_qlen` | the same |
//! | UDP | the group is dropped and counted | `recv_buffer`; the kernel's drops are counted too | the same |
//!
//! Shutdown: when the token is cancelled each task stops waiting, reads what has
//! already arrived for at most [`DRAIN_MAX`], gives it to the pipeline and ends. A line
//! that was received in part is passed on as it is. Plain syslog has no
//! acknowledgement: what a sender writes after that is its own to repeat.

mod config;
mod datagram;
mod intake;
mod metrics;
mod tcp;
mod udp;
mod unix;

use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::{Error, Group, Kind, Refused, Result, Submit};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::metrics::{Dropped, Metrics, Tally, Transport};
use crate::collect::complaints::Complaints;
use crate::collect::maillog::postfix::Joins;
use crate::collect::privacy::Privacy;
use crate::collect::record::{Peer, Recorder};

pub use config::{Config, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN};

/// How long a task goes on reading and submitting once it is told to stop.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);

const KINDS: [Kind; 3] = [Kind::new("from"), Kind::new("to"), Kind::new("syslog")];

/// Sockets that are bound and not yet read.
#[derive(Debug)]
pub struct Bound {
    udp: Vec<udp::Listener>,
    tcp: Vec<tcp::Listener>,
    unix: Vec<unix::Listener>,
}

impl Bound {
    /// What was bound, for people: `udp 127.0.0.1:5514`, with the port that the kernel chose where 0 was asked for.
    pub fn addresses(&self) -> Vec<String> {
        let udp = self.udp.iter().map(|l| format!("udp {}", l.address));
        let tcp = self.tcp.iter().map(|l| format!("tcp {}", l.address));
        let unix = self.unix.iter().map(|l| format!("unix {}", l.file.path().display()));
        udp.chain(tcp).chain(unix).collect()
    }
}

/// Binds every socket of the section. Whatever was bound is released again on an error.
///
/// # Errors
/// [`Error::Config`] names the key, the address, the reason and what to do.
pub fn bind(config: &Config) -> Result<Bound> {
    config.validate()?;
    let mode = config.mode()?;
    Ok(Bound {
        udp: config.udp.iter().map(|text| udp::bind(text, config.recv_buffer)).collect::<Result<_>>()?,
        tcp: config.tcp.iter().map(|text| tcp::bind(text)).collect::<Result<_>>()?,
        unix: config.unix.iter().map(|path| unix::bind(path, mode)).collect::<Result<_>>()?,
    })
}

/// Starts one task a socket, inside a Tokio runtime. They end, and drop their [`Submit`], once `stop` is cancelled and
/// what had arrived is with the pipeline.
///
/// # Errors
/// [`Error::Config`] where the runtime does not take a socket or `registry` has these metrics already.
pub fn spawn(
    bound: Bound,
    config: &Config,
    node: &str,
    privacy: Option<Privacy>,
    submit: Submit,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let joins = Joins::default();
    let metrics = Metrics::new(registry)
        .and_then(|metrics| joins.register(registry).map(|()| metrics))
        .map_err(|error| Error::Config { key: "syslog".to_owned(), problem: error.to_string() })?;
    metrics.connections_max.set(config.max_connections as i64);
    let shared = Arc::new(Shared {
        submit,
        metrics,
        stop,
        zone: config.time_zone()?,
        node: node.to_owned(),
        privacy,
        joins,
        message_bytes_max: config.max_message.0 as usize,
        idle: Some(config.idle_timeout.0).filter(|idle| !idle.is_zero()),
        connections: Arc::new(tokio::sync::Semaphore::new(config.max_connections)),
        complaints: Complaints::default(),
    });
    let mut tasks = Vec::new();
    for listener in bound.udp {
        tasks.push(listener.spawn(&shared)?);
    }
    for listener in bound.tcp {
        tasks.push(listener.spawn(&shared)?);
    }
    for listener in bound.unix {
        tasks.push(listener.spawn(&shared)?);
    }
    Ok(tasks)
}

/// What all tasks of the section have in common.
#[derive(Debug)]
struct Shared {
    submit: Submit,
    metrics: Metrics,
    stop: CancellationToken,
    zone: TimeZone,
    node: String,
    privacy: Option<Privacy>,
    /// The lines of one Postfix may come over several sockets and connections.
    joins: Joins,
    message_bytes_max: usize,
    idle: Option<Duration>,
    connections: Arc<tokio::sync::Semaphore>,
    complaints: Complaints,
}

/// Whether the pipeline still takes groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipeline {
    Open,
    /// It has ended, or did not make room in time while stopping.
    Closed,
}

impl Shared {
    fn batch(&self) -> Batch {
        Batch {
            recorder: Recorder::new(self.zone.clone(), &self.node)
                .with_privacy(self.privacy.clone())
                .with_joins(self.joins.clone()),
            group: Group::new(),
            tally: Tally::default(),
            message_bytes_max: self.message_bytes_max,
        }
    }

    /// Gives the batch to the pipeline and waits for room, while stopping at most for [`DRAIN_MAX`].
    async fn submit(&self, batch: &mut Batch, transport: Transport) -> Pipeline {
        let result = match batch.try_submit(&self.submit) {
            Err(Refused::Full(group)) => tokio::select! {
                biased;
                result = self.submit.submit(group) => result.map_err(|_| Dropped::Refused),
                () = async { self.stop.cancelled().await; tokio::time::sleep(DRAIN_MAX).await } => Err(Dropped::Stopping),
            },
            Err(Refused::Closed(_)) => Err(Dropped::Refused),
            Ok(()) => Ok(()),
        };
        self.count(batch, transport, result)
    }

    /// Gives the batch to the pipeline if there is room now; otherwise it is dropped and counted.
    fn try_submit(&self, batch: &mut Batch, transport: Transport) -> Pipeline {
        let result = match batch.try_submit(&self.submit) {
            Err(Refused::Full(_)) => Err(Dropped::QueueFull),
            Err(Refused::Closed(_)) => Err(Dropped::Refused),
            Ok(()) => Ok(()),
        };
        self.count(batch, transport, result)
    }

    fn count(&self, batch: &mut Batch, transport: Transport, result: std::result::Result<(), Dropped>) -> Pipeline {
        self.metrics.add(transport, &batch.tally, result.is_ok());
        let pipeline = match result {
            Ok(()) => Pipeline::Open,
            Err(reason) => {
                let messages = batch.tally.messages - batch.tally.unfit;
                self.metrics.dropped(transport, reason).inc_by(messages);
                if let Some(unlogged) = self.complaints.allow() {
                    let transport = transport.name();
                    tracing::warn!(transport, messages, ?reason, unlogged, "syslog messages dropped");
                }
                if reason == Dropped::QueueFull { Pipeline::Open } else { Pipeline::Closed }
            }
        };
        batch.tally.clear();
        pipeline
    }
}

/// A group being filled, with what makes records and what counts them.
#[derive(Debug)]
struct Batch {
    recorder: Recorder,
    group: Group,
    tally: Tally,
    message_bytes_max: usize,
}

impl Batch {
    /// Adds one datagram, frame or line, cut at the limit.
    fn add(&mut self, raw: &[u8], received: Timestamp, peer: Peer<'_>) {
        let raw = match raw.get(..self.message_bytes_max) {
            Some(head) if head.len() < raw.len() => {
                self.tally.cut += 1;
                head
            }
            _ => raw,
        };
        let (group, tally) = (&mut self.group, &mut self.tally);
        let mut refused = false;
        let outcome = self.recorder.to_records(raw, received, peer, &mut |kind, body| {
            let index = match kind {
                "from" => 0,
                "to" => 1,
                _ => 2,
            };
            match group.push(KINDS[index], body) {
                Ok(()) => tally.events[index] += 1,
                Err(_) => refused = true,
            }
        });
        self.tally.messages += 1;
        self.tally.bytes += raw.len() as u64;
        self.tally.unfit += u64::from(refused);
        if let Some(reason) = outcome.error {
            self.tally.parse_error(reason.name());
        }
    }

    fn is_full(&self) -> bool {
        self.group.is_full()
    }

    /// Whether there is nothing to submit or to count.
    fn is_empty(&self) -> bool {
        self.tally.messages == 0
    }

    #[allow(clippy::result_large_err)]
    fn try_submit(&mut self, submit: &Submit) -> std::result::Result<(), Refused> {
        if self.group.is_empty() { Ok(()) } else { submit.try_submit(std::mem::take(&mut self.group)) }
    }
}

#[cfg(test)]
mod tests;
