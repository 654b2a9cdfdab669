//! Queries for names that are not ours, asked of the servers of `boot.dns.forward`.
//!
//! A query is written anew: the question as the client wrote it, a random id, and from a socket of its own, so from a
//! random port (RFC 5452). An answer counts that comes from the server's address and port, with that id and that question;
//! everything else is not heard. After [`PATIENCE`], an error, SERVFAIL or REFUSED the next server is asked; the last
//! answer is the client's. What came by TCP is asked by TCP. Nothing is kept: the servers do that.
//!
//! Limits: [`FORWARDS_MAX`] queries at once, [`FORWARDS_PER_CLIENT_MAX`] of one client, so that where no server answers
//! the impatience of one costs the others nothing; beyond either SERVFAIL at once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::answer::{self, Answer, HEADER_BYTES, Transport};
use super::metrics::{Forwarded, Metrics};
use crate::collect::boot::places::{Full, Place, Places};

/// Queries that wait for other servers.
pub(super) const FORWARDS_MAX: usize = 512;

/// The same, of one client.
pub(super) const FORWARDS_PER_CLIENT_MAX: usize = 64;

/// How long one server may take. Resolvers ask again after 5 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// The data of answers that a record holds.
const ANSWERS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    places: Arc<Places>,
    patience: Duration,
}

impl Forwarder {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Forwarder {
        let places = Places::new(FORWARDS_MAX, FORWARDS_PER_CLIENT_MAX);
        Forwarder { servers, places, patience: PATIENCE }
    }

    #[cfg(test)]
    pub(super) fn with_patience(self, patience: Duration) -> Forwarder {
        Forwarder { patience, ..self }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.servers.is_empty()
    }

    /// A place for one more query of `client`.
    ///
    /// # Errors
    /// The limit.
    pub(super) fn place(&self, client: Ipv4Addr) -> Result<Place, Full> {
        self.places.take(client)
    }

    /// The answer for the client, and what became of its query.
    pub(super) async fn ask(&self, query: &Message, transport: Transport, metrics: &Metrics) -> (Answer, Forwarded) {
        let began = Instant::now();
        let waiting = metrics.waiting();
        let answer = self.ask_in_turn(query, transport).await;
        drop(waiting);
        metrics.forward_seconds.observe(began.elapsed().as_secs_f64());
        match answer {
            Some(bytes) => (fit(bytes, query, transport), Forwarded::Answered),
            None => (answer::cannot(query, transport, "no server of boot.dns.forward answers"), Forwarded::Failed),
        }
    }

    async fn ask_in_turn(&self, query: &Message, transport: Transport) -> Option<Vec<u8>> {
        let mut last = None;
        for server in &self.servers {
            let ours = write(query, transport);
            let Ok(bytes) = ours.to_vec() else { return None };
            let asked = async {
                match transport {
                    Transport::Udp => by_udp(*server, &bytes, &ours).await,
                    Transport::Tcp => by_tcp(*server, &bytes, &ours).await,
                }
            };
            let Ok(Ok(answer)) = tokio::time::timeout(self.patience, asked).await else { continue };
            let rcode = answer[3] & 0xf;
            let useless = [ResponseCode::ServFail, ResponseCode::Refused].iter().any(|code| code.low() == rcode);
            last = Some(answer);
            if !useless {
                break;
            }
        }
        last
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
