//! The sockets: UDP, and TCP with each message behind its length (RFC 1035 4.2.2), queries of one connection in turn.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use greypit_pipeline::{Health, Result};
use hickory_proto::op::Message;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{self, Answer, Asker, Reply, Transport};
use super::forward::{Forwarder, Limits};
use super::index::{Index, Zones, key};
use super::metrics::{Dropped, Forwarded, Metrics, rcode_name};
use super::rate::Rate;
use super::{Bound, config};
use crate::collect::boot::audit::{self, Record};
use crate::collect::boot::bound;
use crate::collect::boot::places::{Full, Place, Places};
use crate::collect::boot::policy::Verdict;
use crate::collect::boot::sessions::Who;
use crate::collect::boot::world::World;
use crate::collect::complaints::Complaints;

/// Of one query: no resolver sends nearly as much.
pub(super) const QUERY_BYTES_MAX: usize = 4096;

/// Over TCP, all clients together.
pub(super) const CONNECTIONS_MAX: usize = 128;

/// Over TCP, of one client.
pub(super) const CONNECTIONS_PER_PEER_MAX: usize = 8;

/// How long a connection may be quiet, and an answer unread.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(10);

/// Pause after a failed accept, as EMFILE would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all sockets share.
struct Server {
    world: Arc<World>,
    metrics: Metrics,
    forwarder: Arc<Forwarder>,
    index: Mutex<Arc<Index>>,
    rate: Mutex<Rate>,
    connections: Arc<Places>,
    complaints: Complaints,
    stop: CancellationToken,
    /// Queries and connections under way.
    tasks: TaskTracker,
}

pub(super) fn spawn(
    bound: Bound,
    world: Arc<World>,
    metrics: Metrics,
    health: &Health,
    stop: CancellationToken,
) -> Result<Vec<JoinHandle<()>>> {
    let forwarder = Forwarder::new(bound.upstreams.clone(), Limits::USUAL, metrics.clone(), health.clone());
    let server = Server::new(world, forwarder, metrics, stop);
    let unusable = |error: io::Error| config::refuse(error.to_string());
    let sockets = bound.sockets.into_iter().map(|(udp, tcp)| {
        Ok((UdpSocket::from_std(udp).map_err(unusable)?, TcpListener::from_std(tcp).map_err(unusable)?))
    });
    Ok(server.serve(sockets.collect::<Result<_>>()?))
}

/// Who asks, and what is known of it.
#[derive(Clone, Copy)]
struct Client {
    ip: Ipv4Addr,
    who: Who,
    asker: Asker,
}

/// What a query comes to before others are asked.
enum Step {
    Nothing,
    Answer(Answer),
    Forward(Box<Message>, Place),
}

impl Server {
    fn new(world: Arc<World>, forwarder: Forwarder, metrics: Metrics, stop: CancellationToken) -> Arc<Server> {
        let rate = Rate::new(world.config.dns.max_rate_per_client);
        let index = Index::new(world.machines(), &world.networks);
        Arc::new(Server {
            world,
            metrics,
            forwarder: Arc::new(forwarder),
            index: Mutex::new(Arc::new(index)),
            rate: Mutex::new(rate),
            connections: Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX),
            complaints: Complaints::default(),
            stop,
            tasks: TaskTracker::new(),
        })
    }

    /// The names of the machine files as they are now.
    fn index(&self) -> Arc<Index> {
        let machines = self.world.machines();
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if !index.is_of(&machines) {
            *index = Arc::new(Index::new(machines, &self.world.networks));
        }
        index.clone()
    }

    /// Whoever may ask here; `None`: in no network of ours.
    fn may_ask(&self, from: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V4(ip) = from else { return None };
        let networks = &self.world.networks;
        (ip.is_loopback() || networks.is_server(ip) || networks.of(ip).is_some()).then_some(ip)
    }

    /// Who asks, of those that may: not too often, which is looked at first as the rest costs more.
    fn admit(&self, ip: Ipv4Addr, transport: Transport) -> Option<Client> {
        if !self.rate.lock().unwrap_or_else(PoisonError::into_inner).allow(ip, Instant::now()) {
            self.metrics.dropped(Dropped::Rate);
            return None;
        }
        self.client(ip, transport)
    }

    fn client(&self, ip: Ipv4Addr, transport: Transport) -> Option<Client> {
        let forwards = self.forwarder.is_on();
        let asker = |server, refused| Asker { transport, server, refused, forwards };
        if ip.is_loopback() || self.world.networks.is_server(ip) {
            let who = Who { mac: None, ip: Some(ip) };
            return Some(Client { ip, who, asker: asker(None, None) });
        }
        let server = self.world.networks.of(ip)?.server;
        let (who, verdict) = self.world.judge_ip(ip)?;
        let refused = match verdict {
            Verdict::Refused(why) => Some(why.name()),
            Verdict::Known(_) | Verdict::Default(_) => None,
        };
        Some(Client { ip, who, asker: asker(Some(server), refused) })
    }

    /// What needs nobody else.
    fn step(&self, packet: &[u8], client: &Client, now: Timestamp) -> Step {
        let index = self.index();
        let (names, networks) = (&self.world.names, &self.world.networks);
        let zones = Zones { index: &index, names, networks, now_s: now.as_second() };
        match answer::answer(packet, client.asker, zones) {
            Reply::None(silent) => {
                let dropped = Dropped::Silent(silent);
                self.metrics.dropped(dropped);
                let record = self.begin(client, now).text("decision", "none").text("why", dropped.name());
                self.world.audit.record(record.text("parse_error", dropped.name()).base64("raw_base64", packet));
                Step::Nothing
            }
            Reply::Answer(answer) => Step::Answer(answer),
            Reply::Forward(query) => {
                let (outcome, why) = match self.forwarder.place(client.ip) {
                    Ok(place) => return Step::Forward(query, place),
                    Err(Full::All) => (Forwarded::Busy, "too many queries wait"),
                    Err(Full::Client) => (Forwarded::BusyClient, "too many queries of this client wait"),
                };
                self.metrics.forwarded(outcome);
                Step::Answer(answer::cannot(&query, client.asker.transport, why))
            }
        }
    }

    /// Asks others, unless greypit stops meanwhile.
    async fn forward(&self, query: &Message, place: Place, transport: Transport) -> Option<(Answer, Forwarded)> {
        self.try_again(query, transport);
        let asked = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            () = place.lost() => {
                let why = "its place went to a client with fewer";
                (answer::cannot(query, transport, why), Forwarded::Displaced)
            }
            asked = self.forwarder.ask(query, transport) => asked,
        };
        drop(place);
        self.metrics.forwarded(asked.1);
        Some(asked)
    }

    /// Tries a server that was away with this query too, where it is time for that. Nobody waits for it.
    fn try_again(&self, query: &Message, transport: Transport) {
        let Some(server) = self.forwarder.due(transport) else { return };
        let (forwarder, query, stop) = (self.forwarder.clone(), query.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(forwarder.ask_one(server, &query, transport)).await;
        });
    }

    /// Begins a record: who asks.
    fn begin(&self, client: &Client, now: Timestamp) -> Record {
        let machines = self.world.machines();
        let server = client.asker.server;
        let by_mac = server.zip(client.who.mac).and_then(|(server, mac)| machines.by_mac(server, mac));
        let machine = by_mac.or_else(|| {
            let ip = server.filter(|_| client.who.mac.is_none()).map(|server| (server, client.ip));
            ip.and_then(|(server, ip)| machines.by_ip(server, ip))
        });
        Record::new(audit::DNS, now)
            .known("session", self.world.sessions.of(client.who, now))
            .known("machine", machine.map(|machine| &machine.hostname))
            .known("mac", client.who.mac)
            .text("addr", client.ip)
            .text("proto", client.asker.transport.name())
    }

    /// Counts and records what `packet` was answered.
    fn record(&self, client: &Client, packet: &[u8], answer: &Answer, forwarded: Option<Forwarded>, now: Timestamp) {
        self.metrics.answer(answer.rcode);
        let decision = match (forwarded, answer.why) {
            (Some(Forwarded::Answered), None) => "forwarded",
            (_, None) => "answered",
            (None, Some(_)) if client.asker.refused.is_some() => "refused",
            (_, Some(_)) => "failed",
        };
        let qname = answer.question.as_ref().map(|(name, _)| key(name)).map(|name| match name.is_empty() {
            true => ".".to_owned(),
            false => name,
        });
        let record = self
            .begin(client, now)
            .known("qname", qname)
            .known("qtype", answer.question.as_ref().map(|(_, kind)| kind))
            .text("rcode", rcode_name(answer.rcode))
            .list("answers", &answer.answers)
            .flag("forwarded", forwarded.is_some())
            .text("decision", decision)
            .known("why", answer.why);
        self.world.audit.record(match answer.question {
            Some(_) => record,
            None => record.known("parse_error", answer.why).base64("raw_base64", packet),
        });
    }

    /// A task for each socket, and one that ends when all queries and connections have.
    fn serve(self: Arc<Server>, sockets: Vec<(UdpSocket, TcpListener)>) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for (udp, tcp) in sockets {
            tasks.push(tokio::spawn(self.tasks.track_future(self.clone().serve_udp(udp))));
            tasks.push(tokio::spawn(self.tasks.track_future(self.clone().serve_tcp(tcp))));
        }
        tasks.push(bound::last(&self.tasks, self.stop.clone()));
        tasks
    }

    async fn serve_udp(self: Arc<Server>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        // One more, so that what is too long shows.
        let mut buffer = vec![0; QUERY_BYTES_MAX + 1];
        loop {
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                received = socket.recv_from(&mut buffer) => received,
            };
            match received {
                Ok((length, from)) => {
                    self.clone().take(&socket, buffer.get(..length).unwrap_or_default(), from).await;
                }
                // An error of an earlier answer, such as a port that is closed by now.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    self.complain(&error, "cannot receive DNS queries");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One datagram.
    async fn take(self: Arc<Server>, socket: &Arc<UdpSocket>, packet: &[u8], from: SocketAddr) {
        self.metrics.query(Transport::Udp);
        let now = Timestamp::now();
        let Some(ip) = self.may_ask(from.ip()) else {
            return self.metrics.dropped(Dropped::Foreign);
        };
        let Some(client) = self.admit(ip, Transport::Udp) else { return };
        match self.step(packet, &client, now) {
            Step::Nothing => {}
            Step::Answer(answer) => {
                self.send(socket, from, &answer.bytes);
                self.record(&client, packet, &answer, None, now);
            }
            Step::Forward(query, place) => {
                let socket = socket.clone();
                let tasks = self.tasks.clone();
                tasks.spawn(async move {
                    let Some((answer, outcome)) = self.forward(&query, place, Transport::Udp).await else { return };
                    self.send(&socket, from, &answer.bytes);
                    // Only what was read is forwarded.
                    self.record(&client, &[], &answer, Some(outcome), now);
                });
            }
        }
    }

    /// Never waits: a full socket buffer costs this answer, and the client asks again.
    fn send(&self, socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
        if let Err(error) = socket.try_send_to(bytes, to) {
            self.metrics.dropped(Dropped::Send);
            self.complain(&error, "cannot send a DNS answer");
        }
    }

    fn complain(&self, error: &io::Error, what: &'static str) {
        if let Some(unlogged) = self.complaints.allow() {
            tracing::warn!(%error, unlogged, "{what}");
        }
    }

    async fn serve_tcp(self: Arc<Server>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.clone().accept(stream, from.ip()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.complain(&error, "cannot accept DNS connections: raise LimitNOFILE?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(self: Arc<Server>, stream: TcpStream, from: IpAddr) {
        let Some((ip, open)) = self.may_ask(from).and_then(|ip| Some((ip, self.open(ip)?))) else {
            return self.metrics.connections_refused.inc();
        };
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                // A broken connection is its client's affair.
                _ = self.converse(stream, ip) => {}
            }
            drop(open);
        });
    }

    /// A place for one more connection of `ip`, if there is one.
    fn open(self: &Arc<Server>, ip: Ipv4Addr) -> Option<Open> {
        let place = self.connections.take(ip).ok()?;
        self.metrics.connections.inc();
        Some(Open { server: self.clone(), _place: place })
    }

    /// Answers the queries of one connection in turn, until it is quiet for too long.
    async fn converse(&self, mut stream: TcpStream, ip: Ipv4Addr) -> io::Result<()> {
        loop {
            let packet = tokio::time::timeout(IDLE_MAX, read(&mut stream)).await??;
            self.metrics.query(Transport::Tcp);
            let now = Timestamp::now();
            // The files may have changed since the last query.
            let Some(client) = self.admit(ip, Transport::Tcp) else { return Ok(()) };
            let (answer, outcome) = match self.step(&packet, &client, now) {
                Step::Nothing => return Ok(()),
                Step::Answer(answer) => (answer, None),
                Step::Forward(query, place) => match self.forward(&query, place, Transport::Tcp).await {
                    Some((answer, outcome)) => (answer, Some(outcome)),
                    None => return Ok(()),
                },
            };
            let length = u16::try_from(answer.bytes.len()).map_err(io::Error::other)?;
            let message = [&length.to_be_bytes(), &answer.bytes[..]].concat();
            let sent = tokio::time::timeout(IDLE_MAX, stream.write_all(&message)).await;
            self.record(&client, &packet, &answer, outcome, now);
            sent??;
        }
    }
}

/// One message behind its length.
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUERY_BYTES_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

/// The place of one connection, given back when dropped.
struct Open {
    server: Arc<Server>,
    _place: Place,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests;
