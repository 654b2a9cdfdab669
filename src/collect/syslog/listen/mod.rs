//! Sockets for syslog: UDP (RFC 5426), TCP (RFC 6587), TLS (RFC 5425), unix datagrams (`/dev/log`) and streams; made
//! here or passed by systemd.
//!
//! [`bind`] takes every address before [`spawn`] starts anything. Each task fills a
//! [`Group`]; a group goes to the pipeline when the socket has nothing more or the
//! group is full, never one a line. What happens when the pipeline's queue is full is
//! the transport's nature:
//!
//! | transport | queue full | limit | at shutdown |
//! |---|---|---|---|
//! | TCP, TLS | reading stops, the sender waits | `max_connections`, `max_connections_per_peer`, then accepted, closed and counted | reads what the kernel holds |
//! | unix stream | reading stops, the sender waits | `max_connections` | the same |
//! | unix datagram | reading stops, the sender waits | the kernel's `max_dgram_qlen` | the same |
//! | UDP | the group is dropped and counted | `recv_buffer`; the kernel's drops are counted too | the same |
//!
//! Above `max_rate_per_peer` UDP is dropped and counted; TCP and TLS are read later.
//!
//! Shutdown: when the token is cancelled each task stops waiting, reads what has
//! already arrived for at most [`DRAIN_MAX`], gives it to the pipeline and ends. A line
//! that was received in part is passed on as it is. Plain syslog has no
//! acknowledgement: what a sender writes after that is its own to repeat.

mod accept;
mod config;
mod datagram;
mod intake;
mod metrics;
mod passed;
mod peers;
mod stream;
mod tcp;
pub mod tls;
mod udp;
mod unix;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::{Addresses, Error, Group, Kind, Refused, Result, Submit};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::metrics::{Dropped, Metrics, Tally, Transport};
use self::peers::Peers;
use crate::collect::boot::sessions::{self, Sessions};
use crate::collect::complaints::Complaints;
use crate::collect::maillog::postfix::Joins;
use crate::collect::privacy::Privacy;
use crate::collect::record::{Peer, Recorder};
use crate::collect::syslog::fold::{Folded, Folds};
use crate::collect::syslog::rules::Rules;

pub use config::{ClientCert, Config, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN};
pub use passed::Passed;
pub use tls::Tls;

/// How long a task goes on reading and submitting once it is told to stop.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);

pub(crate) const KINDS: [Kind; 3] = [Kind::new("from"), Kind::new("to"), Kind::new("syslog")];

/// Sockets that are bound and not yet read.
#[derive(Debug, Default)]
pub struct Bound {
    udp: Vec<udp::Listener>,
    tcp: Vec<tcp::Listener>,
    tls: Vec<tcp::Listener>,
    unix: Vec<unix::Listener>,
    certificate: Option<Tls>,
}

impl Bound {
    /// What was bound, for people: `udp 127.0.0.1:5514`, with the port that the kernel chose where 0 was asked for.
    pub fn addresses(&self) -> Vec<String> {
        let udp = self.udp.iter().map(|l| format!("udp {}", l.address));
        let tcp = self.tcp.iter().map(|l| format!("tcp {}", l.address));
        let tls = self.tls.iter().map(|l| format!("tls {}", l.address));
        let unix = self.unix.iter().map(|l| {
            let kind = if l.is_stream() { "unix_stream" } else { "unix" };
            format!("{kind} {}", l.path.display())
        });
        udp.chain(tcp).chain(tls).chain(unix).collect()
    }

    /// The certificate of the TLS listeners, for a reload; none where there are none.
    pub fn tls(&self) -> Option<Tls> {
        self.certificate.clone()
    }
}

/// Binds every socket of the section. Whatever was bound is released again on an error.
///
/// # Errors
/// [`Error::Config`] names the key, the address, the reason and what to do.
pub fn bind(config: &Config) -> Result<Bound> {
    bind_beside(config, Vec::new(), Addresses::AreHere)
}

/// As [`bind`], with sockets that systemd made.
///
/// # Errors
/// As [`bind`], and where such a socket is of no use.
pub fn bind_beside(config: &Config, passed: Vec<Passed>, addresses: Addresses) -> Result<Bound> {
    config.validate()?;
    let mode = config.mode()?;
    let mut bound = Bound::default();
    passed::take(passed, config, &mut bound)?;
    let taken = |listeners: &[tcp::Listener]| listeners.iter().map(|l| l.address).collect::<Vec<_>>();
    let (tcp, tls) = (taken(&bound.tcp), taken(&bound.tls));
    let udp = bound.udp.iter().map(|l| l.address).collect();
    for text in passed::missing(&config.udp, udp) {
        bound.udp.push(udp::bind(text, config.udp_sockets(), config.recv_buffer, addresses)?);
    }
    for text in passed::missing(&config.tcp, tcp) {
        bound.tcp.push(tcp::bind("tcp", text, addresses)?);
    }
    for text in passed::missing(&config.tls, tls) {
        bound.tls.push(tcp::bind("tls", text, addresses)?);
    }
    if !bound.tls.is_empty() {
        bound.certificate = Some(Tls::new(tls::read(config)?));
    }
    let unix: Vec<_> = bound.unix.iter().map(|l| l.path.clone()).collect();
    let is_missing = |text: &&String| !unix.iter().any(|path| path.as_path() == std::path::Path::new(text));
    for path in config.unix.iter().filter(is_missing) {
        bound.unix.push(unix::bind(path, mode)?);
    }
    for path in config.unix_stream.iter().filter(is_missing) {
        bound.unix.push(unix::bind_streams(path, mode)?);
    }
    Ok(bound)
}

/// Starts one task a socket, inside a Tokio runtime. They end, and drop their [`Submit`], once `stop` is cancelled and
/// what had arrived is with the pipeline. With `boots`, the messages of machines that have booted from here say in which
/// session.
///
/// # Errors
/// [`Error::Config`] where the runtime does not take a socket or `registry` has these metrics already.
#[expect(clippy::too_many_arguments, reason = "each is what one other part gives")]
pub fn spawn(
    bound: Bound,
    config: &Config,
    node: &str,
    privacy: Option<Privacy>,
    boots: Option<Arc<Sessions>>,
    submit: Submit,
    registry: &Registry,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let joins = Joins::default();
    let refused = |error: prometheus::Error| Error::Config { key: "syslog".to_owned(), problem: error.to_string() };
    let window = Some(config.fold.0).filter(|window| !window.is_zero());
    let folds = window.map(|window| Folds::new(window, registry)).transpose().map_err(refused)?;
    let metrics =
        Metrics::new(registry).and_then(|metrics| joins.register(registry).map(|()| metrics)).map_err(refused)?;
    metrics.connections_max.set(config.max_connections as i64);
    metrics.per_peer_max.set(config.max_connections_per_peer as i64);
    metrics.rate_max.set(config.max_rate_per_peer as i64);
    let unless_zero = |span: greypit_pipeline::units::Span| Some(span.0).filter(|time| !time.is_zero());
    let shared = Arc::new(Shared {
        submit,
        metrics,
        stop,
        zone: config.time_zone()?,
        node: node.to_owned(),
        privacy,
        boots,
        joins,
        folds,
        rules: if config.rule.is_empty() { None } else { Some(Rules::new(&config.rule, registry)?) },
        message_bytes_max: config.max_message.0 as usize,
        idle: unless_zero(config.idle_timeout),
        frame: unless_zero(config.frame_timeout),
        handshake: config.tls_handshake_timeout.0,
        peers: Peers::new(config.max_connections_per_peer, config.max_rate_per_peer),
        pool: stream::Pool::default(),
        connections: Arc::new(tokio::sync::Semaphore::new(config.max_connections)),
        complaints: Complaints::default(),
    });
    let mut tasks = Vec::new();
    for listener in bound.udp {
        listener.spawn(&shared, &mut tasks)?;
    }
    for listener in bound.tcp {
        tasks.push(listener.spawn(None, &shared)?);
    }
    for listener in bound.tls {
        tasks.push(listener.spawn(bound.certificate.clone(), &shared)?);
    }
    for listener in bound.unix {
        tasks.push(listener.spawn(&shared)?);
    }
    Ok(match shared.folds.clone() {
        None => tasks,
        Some(folds) => vec![tokio::spawn(folding(tasks, shared, folds))],
    })
}

/// Gives out what was folded as windows end, and the rest once nothing more comes.
async fn folding(tasks: Vec<JoinHandle<()>>, shared: Arc<Shared>, folds: Folds) {
    let others = async {
        for task in tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    tokio::pin!(others);
    let mut tick = tokio::time::interval(folds.tick());
    loop {
        tokio::select! {
            biased;
            () = &mut others => break,
            _ = tick.tick() => shared.give_folded(&folds, folds.due(Timestamp::now())).await,
        }
    }
    shared.give_folded(&folds, folds.rest()).await;
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
    /// Where machines boot from this process too.
    boots: Option<Arc<Sessions>>,
    /// The lines of one Postfix may come over several sockets and connections.
    joins: Joins,
    rules: Option<Rules>,
    folds: Option<Folds>,
    message_bytes_max: usize,
    idle: Option<Duration>,
    frame: Option<Duration>,
    handshake: Duration,
    peers: Arc<Peers>,
    pool: stream::Pool,
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
                .with_joins(self.joins.clone())
                .with_rules(self.rules.clone())
                .with_folds(self.folds.clone()),
            group: Group::new(),
            tally: Tally::default(),
            message_bytes_max: self.message_bytes_max,
        }
    }

    /// The boot session that messages of `peer` belong to. Where nothing boots from here this costs nothing.
    fn session(&self, peer: IpAddr, now: Timestamp) -> Option<sessions::Id> {
        self.boots.as_ref()?.of_syslog(peer, now)
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

    /// Waits for room, while stopping at most for [`DRAIN_MAX`].
    async fn give_folded(&self, folds: &Folds, due: Vec<Folded>) {
        // All that is folded is smaller than a group may be.
        let mut group = Group::new();
        let mut given = Vec::new();
        for folded in due {
            match Kind::parse(folded.kind).map(|kind| group.push(kind, &folded.body)) {
                Some(Ok(())) => given.push(folded),
                _ => folds.lost.inc_by(folded.repeated),
            }
        }
        if given.is_empty() {
            return;
        }
        let taken = tokio::select! {
            biased;
            result = self.submit.submit(group) => result.is_ok(),
            () = async { self.stop.cancelled().await; tokio::time::sleep(DRAIN_MAX).await } => false,
        };
        for folded in given {
            if taken { self.metrics.event(folded.kind) } else { folds.lost.inc_by(folded.repeated) }
        }
    }

    fn count(&self, batch: &mut Batch, transport: Transport, result: std::result::Result<(), Dropped>) -> Pipeline {
        let is_taken = result.is_ok();
        let pipeline = match result {
            Ok(()) => Pipeline::Open,
            Err(reason) => {
                let tally = &batch.tally;
                let messages = tally.messages - tally.unfit - tally.limited - tally.silent;
                self.metrics.dropped(transport, reason).inc_by(messages);
                if let Some(unlogged) = self.complaints.allow() {
                    let transport = transport.name();
                    tracing::warn!(transport, messages, ?reason, unlogged, "syslog messages dropped");
                }
                if reason == Dropped::QueueFull { Pipeline::Open } else { Pipeline::Closed }
            }
        };
        // Who sees a message counted sees as well that it was dropped.
        self.metrics.add(transport, &batch.tally, is_taken);
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
            let (index, known) = match kind {
                "from" => (Some(0), Some(KINDS[0])),
                "to" => (Some(1), Some(KINDS[1])),
                "syslog" => (Some(2), Some(KINDS[2])),
                _ => (None, Kind::parse(kind)),
            };
            match (known.map(|known| group.push(known, body)), index) {
                (Some(Ok(())), Some(index)) => tally.events[index] += 1,
                (Some(Ok(())), None) => tally.routed(kind),
                (Some(Err(_)) | None, _) => refused = true,
            }
        });
        self.tally.messages += 1;
        self.tally.bytes += raw.len() as u64;
        self.tally.unfit += u64::from(refused);
        self.tally.silent += u64::from(outcome.records == 0);
        if let Some(reason) = outcome.error {
            self.tally.parse_error(reason.name());
        }
    }

    /// Counts a datagram beyond the rate of its peer.
    fn limited(&mut self, raw: &[u8]) {
        self.tally.messages += 1;
        self.tally.bytes += raw.len().min(self.message_bytes_max) as u64;
        self.tally.limited += 1;
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
