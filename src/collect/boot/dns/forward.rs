//! Queries for names that are not ours, asked of the servers of `boot.dns.forward`.
//!
//! A query is written anew: the question as the client wrote it, a random id, and from a socket of its own, so from a
//! random port (RFC 5452). An answer counts that comes from the server's address and port, with that id and that question;
//! everything else is not heard. After [`PATIENCE`], an error, SERVFAIL or REFUSED the next server is asked; the last
//! answer is the client's. What came by TCP is asked by TCP. Nothing is kept: the servers do that.
//!
//! Who does not answer is asked last until it does ([`upstreams`]), and said in the log and on the board of health: ready
//! all the same.
//!
//! Limits: [`FORWARDS_MAX`] queries at once, [`FORWARDS_PER_CLIENT_MAX`] of one client, so that where no server answers
//! the impatience of one costs the others nothing; beyond either SERVFAIL at once, but see
//! [`Places::take_fairly`]. One more query for each server that is away.
//!
//! [`upstreams`]: super::upstreams

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use greypit_pipeline::Health;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::answer::{self, Answer, HEADER_BYTES, Transport};
use super::config::FORWARD_MAX;
use super::metrics::{Forwarded, Metrics};
use super::upstreams::{AGAIN, Upstreams};
use crate::collect::boot::places::{Full, Place, Places};

/// Queries that wait for other servers.
pub(super) const FORWARDS_MAX: usize = 512;

/// The same, of one client.
pub(super) const FORWARDS_PER_CLIENT_MAX: usize = 64;

/// How long one server may take. Resolvers ask again after 5 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// The data of answers that a record holds.
const ANSWERS_MAX: usize = 16;

/// The servers on the board of health, in the config's order.
const PARTS: [&str; FORWARD_MAX] = ["dns_forward_1", "dns_forward_2", "dns_forward_3", "dns_forward_4"];

/// What may be otherwise in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) forwards: usize,
    pub(super) per_client: usize,
    pub(super) patience: Duration,
    pub(super) again: Duration,
}

impl Limits {
    pub(super) const USUAL: Limits =
        Limits { forwards: FORWARDS_MAX, per_client: FORWARDS_PER_CLIENT_MAX, patience: PATIENCE, again: AGAIN };
}

#[derive(Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    upstreams: Mutex<Upstreams>,
    places: Arc<Places>,
    patience: Duration,
    metrics: Metrics,
    health: Health,
}

impl Forwarder {
    pub(super) fn new(servers: Vec<SocketAddr>, limits: Limits, metrics: Metrics, health: Health) -> Forwarder {
        let Limits { forwards, per_client, patience, again } = limits;
        let upstreams = Mutex::new(Upstreams::new(&servers, patience, again));
        Forwarder { servers, upstreams, places: Places::new(forwards, per_client), patience, metrics, health }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.servers.is_empty()
    }

    /// A place for one more query of `client`.
    ///
    /// # Errors
    /// The limit.
    pub(super) fn place(&self, client: Ipv4Addr) -> Result<Place, Full> {
        self.places.take_fairly(client)
    }

    fn upstreams(&self) -> MutexGuard<'_, Upstreams> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer for the client, and what became of its query.
    pub(super) async fn ask(&self, query: &Message, transport: Transport) -> (Answer, Forwarded) {
        let began = Instant::now();
        let waiting = self.metrics.waiting();
        let answer = self.ask_in_turn(query, transport).await;
        drop(waiting);
        self.metrics.forward_seconds.observe(began.elapsed().as_secs_f64());
        match answer {
            Some(bytes) => (fit(bytes, query, transport), Forwarded::Answered),
            None => (answer::cannot(query, transport, "no server of boot.dns.forward answers"), Forwarded::Failed),
        }
    }

    async fn ask_in_turn(&self, query: &Message, transport: Transport) -> Option<Vec<u8>> {
        let order = self.upstreams().order(transport);
        let mut last = None;
        for server in order {
            let Some(answer) = self.ask_one(server, query, transport).await else { continue };
            let rcode = answer[3] & 0xf;
            let useless = [ResponseCode::ServFail, ResponseCode::Refused].iter().any(|code| code.low() == rcode);
            last = Some(answer);
            if !useless {
                break;
            }
        }
        last
    }

    /// A server that was away and is to be tried with a query, whose answer is nobody's.
    pub(super) fn due(&self, transport: Transport) -> Option<usize> {
        self.upstreams().due(transport, Instant::now())
    }

    /// Asks a server, by its number, and remembers whether it answers.
    pub(super) async fn ask_one(&self, server: usize, query: &Message, transport: Transport) -> Option<Vec<u8>> {
        let address = *self.servers.get(server)?;
        let ours = write(query, transport);
        let bytes = ours.to_vec().ok()?;
        let asked = Instant::now();
        self.remember(server, |upstreams| upstreams.asked(server, transport, asked));
        let answer = async {
            match transport {
                Transport::Udp => by_udp(address, &bytes, &ours).await,
                Transport::Tcp => by_tcp(address, &bytes, &ours).await,
            }
        };
        let late = |_| Err(io::Error::new(ErrorKind::TimedOut, format!("no answer within {:?}", self.patience)));
        let answer = tokio::time::timeout(self.patience, answer).await.unwrap_or_else(late);
        self.metrics.upstream(server, transport, answer.is_ok());
        match answer {
            Ok(answer) => {
                self.remember(server, |upstreams| upstreams.answered(server, transport, Instant::now()));
                Some(answer)
            }
            Err(error) => {
                self.remember(server, |upstreams| upstreams.failed(server, transport, asked, error.to_string()));
                None
            }
        }
    }

    /// Says it where there is news of a server; one after the other, so that what is said last is so.
    fn remember(&self, server: usize, is_news: impl FnOnce(&mut Upstreams) -> bool) {
        let mut upstreams = self.upstreams();
        let Some(part) = PARTS.get(server).filter(|_| is_news(&mut upstreams)) else { return };
        match upstreams.trouble(server) {
            Some(trouble) => self.health.limited(part, trouble),
            None => self.health.ok(part),
        }
    }
}

/// The query that we ask for a client's.
fn write(query: &Message, transport: Transport) -> Message {
    // With a random id.
    let mut ours = Message::query();
    ours.metadata.recursion_desired = query.metadata.recursion_desired;
    ours.metadata.checking_disabled = query.metadata.checking_disabled;
    ours.add_queries(query.queries.iter().cloned());
    // EDNS is between neighbours (RFC 6891 6.1.1): none of the client's options goes on.
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        let bytes_max = Transport::Udp.bytes_max(query).min(transport.bytes_max(query)) as u16;
        edns.set_max_payload(bytes_max).set_dnssec_ok(asked.flags().dnssec_ok);
        ours.set_edns(edns);
    }
    ours
}

async fn by_udp(server: SocketAddr, query: &[u8], ours: &Message) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // From here on the kernel lets nobody else's packets through.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(answer::UDP_BYTES_MAX) + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if is_answer(answer, ours) {
            return Ok(answer.to_vec());
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &[u8], ours: &Message) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    if is_answer(&answer, ours) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether this is the answer to our query: its id and its question.
fn is_answer(answer: &[u8], ours: &Message) -> bool {
    let Some(header) = answer.first_chunk::<HEADER_BYTES>() else { return false };
    let question = Query::read(&mut BinDecoder::new(answer).clone(HEADER_BYTES as u16));
    header[..2] == ours.metadata.id.to_be_bytes()
        && header[2] & 0xf8 == 0x80
        && [header[4], header[5]] == [0, 1]
        && question.is_ok_and(|question| ours.queries.first() == Some(&question))
}

/// Another server's answer, with the client's id and no longer than the client takes.
fn fit(mut bytes: Vec<u8>, query: &Message, transport: Transport) -> Answer {
    if bytes.len() > transport.bytes_max(query) {
        return answer::truncated(query, transport);
    }
    let question = query.queries.first().map(|question| (question.name.clone(), question.query_type));
    bytes[..2].copy_from_slice(&query.metadata.id.to_be_bytes());
    // What this codec cannot read the client may.
    let (rcode, answers) = match Message::from_vec(&bytes) {
        Ok(message) => {
            let answers = message.answers.iter().take(ANSWERS_MAX).map(|record| record.data.to_string());
            (message.metadata.response_code, answers.collect())
        }
        Err(_) => (ResponseCode::from(0, bytes[3] & 0xf), Vec::new()),
    };
    Answer { bytes, rcode, question, answers, why: None }
}
