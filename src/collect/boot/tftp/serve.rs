//! One transfer on a thread of its own: looks the file up, agrees on the options, and moves packets between the socket
//! and the state machine until it ends; then it is an event.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::listen::{Door, Shared, arrived};
use super::metrics::{Ignored, Outcome};
use super::negotiate::{Most, negotiate};
use super::netascii::{self, Netascii};
use super::socket::{Peer, Received};
use super::table::Ticket;
use super::transfer::{End, Step, Terms, Transfer};
use super::wire::{CODE_OPTIONS, Code, DATA_HEADER, Known, Mode, Packet, Request, error};
use crate::collect::boot::audit::TFTP;
use crate::collect::boot::files::{Content, Denied};
use crate::collect::boot::sessions::Protocol;
use crate::collect::boot::world::{Nothing, Served};

/// Read from the disk at once.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// The largest file whose netascii size is counted before it is sent.
const COUNTED_BYTES_MAX: u64 = 256 << 20;

/// How often a waiting transfer looks whether it is to end.
const LOOK: Duration = Duration::from_millis(500);

/// The same while its client has not answered: so soon after it gave its place up it is gone.
const LOOK_OPENING: Duration = Duration::from_millis(50);

/// A client's answers are short; what is longer is cut, and no packet.
const PACKET_BYTES_MAX: usize = 2048;

/// A transfer to be.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) door: Arc<Door>,
    pub(super) ticket: Ticket,
    pub(super) client: SocketAddrV4,
    /// A packet that was read as a request.
    pub(super) request: Vec<u8>,
}

/// What is recorded of a transfer.
#[derive(Debug, Default)]
struct Story {
    terms: Option<Terms>,
    bytes: u64,
    blocks: u64,
    retransmits: u64,
    why: Option<String>,
}

/// Carries out a transfer and records it.
pub(super) fn run(job: Job, shared: &Arc<Shared>) {
    let Job { door, ticket, client, request: packet } = job;
    let Ok(Packet::Read(request)) = Packet::parse(&packet) else { return };
    let (began, clock) = (Timestamp::now(), Instant::now());
    let served = shared.world.serve(*client.ip(), request.filename, began);
    let mut story = Story::default();
    // What another server of ours is to read, once this one has let the client's port go.
    let mut next = None;
    let config = &shared.world.config.tftp;
    let ours = SocketAddrV4::new(*door.address.ip(), if config.single_port { door.address.port() } else { 0 });
    let (outcome, served) = match Peer::connect(ours, client, config.single_port) {
        Ok(peer) => {
            let line = Line { shared, door: &door, ticket: &ticket, peer, clock };
            line.transfer(served, &request, &packet, &mut story, &mut next)
        }
        Err(error) => {
            story.why = Some(format!("no socket: {error}"));
            (Outcome::Failed, served)
        }
    };
    record(shared, &served, &request, outcome, story, began, clock.elapsed());
    drop(ticket);
    if let Some(packet) = next {
        arrived(&door, shared, &packet, client);
    }
}

/// The socket of a transfer and what it has to look at beside.
struct Line<'a> {
    shared: &'a Arc<Shared>,
    door: &'a Arc<Door>,
    ticket: &'a Ticket,
    peer: Peer,
    clock: Instant,
}

impl Line<'_> {
    fn transfer(
        mut self,
        mut served: Served,
        request: &Request<'_>,
        packet: &[u8],
        story: &mut Story,
        next: &mut Option<Vec<u8>>,
    ) -> (Outcome, Served) {
        let content = std::mem::replace(&mut served.content, Err(Nothing::Outside));
        let open = || -> Result<(Transfer<Source>, usize), (Code, Outcome, String)> {
            let content = content.map_err(|nothing| (code(&nothing), Outcome::Refused, nothing.why()))?;
            let failed = |error: io::Error| (Code::Undefined, Outcome::Failed, error.to_string());
            let (source, size) = source(content, request, self.shared.world.config.tftp.max_file.0)?;
            let terms = negotiate(request, Most::of(&self.shared.world.config.tftp, self.peer.mtu()), size);
            let segment = DATA_HEADER + usize::from(terms.blksize);
            story.terms = Some(terms.clone());
            let windows = terms.windowsize > 1;
            let transfer = Transfer::begin(source, terms, Instant::now()).map_err(failed)?;
            Ok((transfer, if windows { segment } else { 0 }))
        };
        let (mut transfer, segment) = match open() {
            Ok(opened) => opened,
            Err((code, outcome, why)) => {
                self.peer.send_once(&error(code, &why));
                story.why = Some(why);
                return (outcome, served);
            }
        };
        let sized = request.option(Known::Tsize).is_some();
        let (outcome, why) = self.go(&mut transfer, segment, packet, sized, next);
        story.bytes = transfer.bytes();
        story.blocks = transfer.blocks();
        story.retransmits = transfer.retransmits();
        story.why = why;
        if self.shared.world.config.tftp.single_port && next.is_none() {
            *next = self.rest();
        }
        (outcome, served)
    }

    /// In single-port mode the next request may be here before this socket is closed. One that comes right between this
    /// look and the close is lost, and the client asks again.
    fn rest(&mut self) -> Option<Vec<u8>> {
        let mut buf = vec![0; PACKET_BYTES_MAX];
        let mut last = None;
        while let Some((bytes, from)) = self.peer.waiting(&mut buf) {
            match Packet::parse(&buf[..bytes]) {
                Ok(Packet::Read(_) | Packet::Write) if from.is_none() => last = Some(buf[..bytes].to_vec()),
                _ => {
                    if let Some(from) = from {
                        arrived(self.door, self.shared, &buf[..bytes], from);
                    }
                }
            }
        }
        last
    }

    fn go(
        &mut self,
        transfer: &mut Transfer<Source>,
        segment: usize,
        request: &[u8],
        sized: bool,
        next: &mut Option<Vec<u8>>,
    ) -> (Outcome, Option<String>) {
        let mut buf = vec![0; PACKET_BYTES_MAX];
        let mut step = Step::Send;
        let mut begun = false;
        loop {
            match step {
                Step::Send => {
                    if transfer.runs().any(|run| self.peer.send(run).is_err()) {
                        return (Outcome::Gone, None);
                    }
                    self.ticket.entry.answered.get_or_init(Instant::now);
                }
                Step::Wait => {}
                Step::End(end) => return self.ended(end, sized),
            }
            let now = Instant::now();
            if let Some((outcome, why)) = self.is_over(now) {
                // Whoever has not answered may not be there, and if it is, it asks again by itself.
                if outcome != Outcome::Displaced {
                    self.peer.send_once(&error(Code::Undefined, why));
                }
                return (outcome, Some(why.to_owned()));
            }
            let look = if begun { LOOK } else { LOOK_OPENING };
            let wait = transfer.deadline().saturating_duration_since(now).min(look);
            step = match self.peer.receive(&mut buf, wait) {
                Ok(Received::Packet(bytes)) => match Packet::parse(&buf[..bytes]) {
                    // In single-port mode requests come here too.
                    Ok(Packet::Read(_) | Packet::Write) if self.ticket.entry.is_repeated_by(&buf[..bytes]) => {
                        debug_assert_eq!(request, &buf[..bytes]);
                        self.shared.metrics.ignored(Ignored::Repeated);
                        Step::Wait
                    }
                    Ok(Packet::Read(_) | Packet::Write) => {
                        *next = Some(buf[..bytes].to_vec());
                        return (Outcome::Replaced, None);
                    }
                    Ok(packet) => transfer.packet(&packet, Instant::now()),
                    Err(_) => {
                        self.shared.metrics.ignored(Ignored::Malformed);
                        Step::Wait
                    }
                },
                Ok(Received::Stranger(bytes, from)) => {
                    // In single-port mode what came between bind and connect is the door's.
                    arrived(self.door, self.shared, &buf[..bytes], from);
                    Step::Wait
                }
                Ok(Received::Nothing) => transfer.late(Instant::now()),
                Ok(Received::Gone) => return (Outcome::Gone, None),
                Err(error) => return (Outcome::Failed, Some(error.to_string())),
            };
            if !begun && transfer.has_begun() {
                begun = true;
                self.ticket.entry.begun.store(true, Ordering::Relaxed);
                if segment > 0 {
                    self.peer.cut_at(segment);
                }
            }
        }
    }

    fn ended(&self, end: End, sized: bool) -> (Outcome, Option<String>) {
        match end {
            End::Complete => (Outcome::Complete, None),
            End::TimedOut => (Outcome::Timeout, Some("no acknowledgement".to_owned())),
            // Of firmware that wanted the size: with the code for options, or with any other.
            End::Aborted { before_data: true, code, .. } if sized || code == CODE_OPTIONS => (Outcome::Probed, None),
            End::Aborted { code, message, .. } => {
                let message = String::from_utf8_lossy(&message).into_owned();
                (Outcome::Aborted, Some(format!("error {code} of the client: {message}")))
            }
            End::Source(problem) => {
                self.peer.send_once(&error(Code::Undefined, "the file cannot be read"));
                (Outcome::Failed, Some(problem.to_string()))
            }
        }
    }

    /// What ends a transfer from outside of it.
    fn is_over(&self, now: Instant) -> Option<(Outcome, &'static str)> {
        let shared = self.shared;
        if self.ticket.entry.replaced.load(Ordering::Relaxed) {
            return Some((Outcome::Replaced, "another transfer from the same port"));
        }
        if self.ticket.entry.is_displaced() {
            return Some((Outcome::Displaced, "no answer, and others need the place"));
        }
        if shared.stopped_at().is_some_and(|at| now >= at + shared.stopping_max) {
            return Some((Outcome::Stopped, "the server ends"));
        }
        let took_too_long = now.duration_since(self.clock) > shared.world.config.tftp.max_duration.0;
        took_too_long.then_some((Outcome::TooLong, "the transfer takes too long"))
    }
}

fn code(nothing: &Nothing) -> Code {
    match nothing {
        Nothing::Denied(Denied::Missing) => Code::NotFound,
        Nothing::Script(_) => Code::Undefined,
        Nothing::Outside | Nothing::Refused(_) | Nothing::Denied(_) => Code::Access,
    }
}

/// Where blocks come from.
#[derive(Debug)]
enum Source {
    File(BufReader<Exact<File>>),
    Made(Cursor<Vec<u8>>),
    FileLines(Netascii<BufReader<Exact<File>>>),
    MadeLines(Netascii<Cursor<Vec<u8>>>),
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::File(source) => source.read(buf),
            Source::Made(source) => source.read(buf),
            Source::FileLines(source) => source.read(buf),
            Source::MadeLines(source) => source.read(buf),
        }
    }
}

/// As many bytes as were promised, or an error: a file that becomes shorter must not look whole.
#[derive(Debug)]
struct Exact<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buf[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// The bytes to send, and their number where it is known.
fn source(
    content: Content,
    request: &Request<'_>,
    bytes_max: u64,
) -> Result<(Source, Option<u64>), (Code, Outcome, String)> {
    let failed = |error: io::Error| (Code::Undefined, Outcome::Failed, error.to_string());
    let wants_size = request.option(Known::Tsize).is_some();
    match (content, request.mode) {
        (Content::File(_, size), _) if size > bytes_max => {
            let why = format!("{size} bytes are more than boot.tftp.max_file");
            Err((Code::Undefined, Outcome::Refused, why))
        }
        (Content::File(file, size), Mode::Octet) => Ok((Source::File(buffered(file, size)), Some(size))),
        (Content::File(mut file, size), Mode::Netascii) => {
            let mut length = None;
            if wants_size && size <= COUNTED_BYTES_MAX {
                length = Some(netascii::length((&mut file).take(size)).map_err(failed)?);
                file.rewind().map_err(failed)?;
            }
            Ok((Source::FileLines(Netascii::new(buffered(file, size))), length))
        }
        (Content::Made(text), Mode::Octet) => {
            let size = text.len() as u64;
            Ok((Source::Made(Cursor::new(text)), Some(size)))
        }
        (Content::Made(text), Mode::Netascii) => {
            let length = netascii::length(&text[..]).map_err(failed)?;
            Ok((Source::MadeLines(Netascii::new(Cursor::new(text))), Some(length)))
        }
    }
}

fn buffered(file: File, size: u64) -> BufReader<Exact<File>> {
    let ahead = usize::try_from(size).unwrap_or(usize::MAX).clamp(1, READ_AHEAD_BYTES);
    BufReader::with_capacity(ahead, Exact { source: file, left: size })
}

fn record(
    shared: &Shared,
    served: &Served,
    request: &Request<'_>,
    outcome: Outcome,
    story: Story,
    began: Timestamp,
    took: Duration,
) {
    let (world, metrics, now) = (&shared.world, &shared.metrics, Timestamp::now());
    metrics.ended(outcome);
    metrics.bytes.inc_by(story.bytes);
    metrics.retransmits.inc_by(story.retransmits);
    let session = match outcome {
        Outcome::Complete => {
            metrics.duration.observe(took.as_secs_f64());
            world.fetched(served, Protocol::Tftp, now)
        }
        Outcome::Probed => served.session.clone(),
        _ => {
            world.failed(served, &format!("tftp {}", story.why.as_deref().unwrap_or(outcome.name())), now);
            served.session.clone()
        }
    };
    let mut record = world
        .record(TFTP, served, session, began)
        .bytes("filename", request.filename)
        .text("mode", request.mode.name())
        .list("options", request.options.iter().map(|(known, value)| format!("{}={value}", known.name())));
    if let Some(terms) = &story.terms {
        record = record.number("blksize", terms.blksize.into()).number("windowsize", terms.windowsize.into());
    }
    let record = record
        .number("bytes", story.bytes)
        .number("blocks", story.blocks)
        .number("retransmits", story.retransmits)
        .number("duration_ms", u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
        .text("outcome", outcome.name())
        .text("decision", if outcome == Outcome::Refused { "refused" } else { "served" })
        .known("why", story.why);
    world.audit.record(record);
}
