//! Port 69: each request becomes a transfer, or is refused, or is left without an answer.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::metrics::{Ignored, Metrics, Outcome};
use super::serve::{self, Job};
use super::table::{Asked, Table};
use super::wire::{Code, Packet, REQUEST_BYTES_MAX, WireError, error};
use crate::collect::boot::audit::TFTP;
use crate::collect::boot::world::World;
use crate::collect::complaints::Complaints;

/// Of a transfer's thread: what is large is on the heap.
const STACK_BYTES: usize = 256 << 10;

/// What all sockets and transfers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) world: Arc<World>,
    pub(super) metrics: Metrics,
    pub(super) table: Arc<Table>,
    pub(super) stop: CancellationToken,
    pub(super) transfers: TaskTracker,
    pub(super) complaints: Complaints,
    stopped: OnceLock<Instant>,
    /// How long transfers may go on once greypit ends.
    pub(super) stopping_max: Duration,
}

impl Shared {
    pub(super) fn new(world: Arc<World>, metrics: Metrics, stop: CancellationToken, stopping_max: Duration) -> Shared {
        let config = &world.config.tftp;
        let table = Table::new(config.max_transfers, config.max_transfers_per_client);
        let (transfers, complaints, stopped) = (TaskTracker::new(), Complaints::default(), OnceLock::new());
        Shared { world, metrics, table, stop, transfers, complaints, stopped, stopping_max }
    }

    /// Since when there is an end to come to.
    pub(super) fn stopped_at(&self) -> Option<Instant> {
        self.stop.is_cancelled().then(|| *self.stopped.get_or_init(Instant::now))
    }
}

/// One of our addresses.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) socket: UdpSocket,
    pub(super) address: SocketAddrV4,
}

/// Reads requests until `stop`.
pub(super) async fn run(door: Arc<Door>, shared: Arc<Shared>) {
    // One more, so that what is too long shows.
    let mut buf = vec![0; REQUEST_BYTES_MAX + 1];
    loop {
        let received = tokio::select! {
            () = shared.stop.cancelled() => return,
            received = door.socket.recv_from(&mut buf) => received,
        };
        match received {
            Ok((bytes, SocketAddr::V4(client))) => arrived(&door, &shared, &buf[..bytes], client),
            Ok(_) => {}
            // Of an answer that did not arrive; the next one may.
            Err(error) => tracing::debug!(%error, "tftp: cannot receive"),
        }
    }
}

/// Does what a packet that came to port 69 wants.
pub(super) fn arrived(door: &Arc<Door>, shared: &Arc<Shared>, packet: &[u8], client: SocketAddrV4) {
    let Shared { world, metrics, .. } = &**shared;
    if world.networks.of(*client.ip()).is_none() || client.port() == 0 {
        metrics.ignored(Ignored::Outside);
        if let Some(unlogged) = shared.complaints.allow() {
            tracing::warn!(%client, unlogged, "tftp: a packet from outside of the served networks");
        }
        return;
    }
    match Packet::parse(packet) {
        Ok(Packet::Read(_)) => begin(door, shared, packet, client),
        Ok(Packet::Write) => {
            answer(door, &error(Code::Access, "read only"), client);
            refused(shared, client, Outcome::Write, "read only");
        }
        // Never an answer to what is no request, so that two servers cannot talk to each other for ever.
        Ok(Packet::Ack(_) | Packet::Error(..) | Packet::Other) => metrics.ignored(Ignored::Stray),
        Err(WireError::Mode) => {
            answer(door, &error(Code::Illegal, "only octet and netascii"), client);
            refused(shared, client, Outcome::Refused, "unknown mode");
        }
        Err(problem) => {
            metrics.ignored(Ignored::Malformed);
            malformed(shared, client, packet, problem);
        }
    }
}

fn begin(door: &Arc<Door>, shared: &Arc<Shared>, request: &[u8], client: SocketAddrV4) {
    let ticket = match shared.table.ask(door.address, client, request, Instant::now()) {
        Asked::New(ticket) => ticket,
        Asked::Repeated => return shared.metrics.ignored(Ignored::Repeated),
        Asked::Busy => {
            if let Some(unlogged) = shared.complaints.allow() {
                tracing::warn!(%client, unlogged, "tftp: no place for another transfer, see boot.tftp.max_transfers");
            }
            return refused(shared, client, Outcome::Busy, "too many transfers at once");
        }
    };
    let running = Running { shared: shared.clone(), _token: shared.transfers.token() };
    shared.metrics.transfers.inc();
    let job = Job { door: door.clone(), ticket, client, request: request.to_vec() };
    let thread = std::thread::Builder::new().name("tftp".to_owned()).stack_size(STACK_BYTES);
    if let Err(problem) = thread.spawn(move || serve::run(job, &running.shared)) {
        // The closure is gone, and with it the place.
        tracing::error!(%problem, "tftp: cannot start a thread");
        refused(shared, client, Outcome::Busy, "no thread");
    }
}

/// Keeps the end of the collector waiting; the fields are dropped in this order.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    _token: TaskTrackerToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.metrics.transfers.dec();
    }
}

/// Where the socket's buffer is full the answer is lost, as on any network.
fn answer(door: &Door, packet: &[u8], client: SocketAddrV4) {
    let sent: io::Result<usize> = door.socket.try_send_to(packet, client.into());
    if let Err(error) = sent {
        tracing::debug!(%error, %client, "tftp: cannot answer");
    }
}

/// Records what is no packet of TFTP.
fn malformed(shared: &Shared, client: SocketAddrV4, packet: &[u8], problem: WireError) {
    let (world, now) = (&shared.world, Timestamp::now());
    let (served, _) = world.identify(*client.ip(), now);
    let record = world.record(TFTP, &served, served.session.clone(), now).text("decision", "none");
    let record = record.text("why", "malformed").text("parse_error", problem).base64("raw_base64", packet);
    world.audit.record(record);
}

/// Records a request that became no transfer.
fn refused(shared: &Shared, client: SocketAddrV4, outcome: Outcome, why: &str) {
    let (world, now) = (&shared.world, Timestamp::now());
    shared.metrics.ended(outcome);
    let (served, _) = world.identify(*client.ip(), now);
    world.failed(&served, &format!("tftp: {why}"), now);
    let record = world.record(TFTP, &served, served.session.clone(), now).text("outcome", outcome.name());
    world.audit.record(record.text("decision", "refused").text("why", why));
}
