//! Connections and answers.

use std::convert::Infallible;
use std::io::{self, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue,
    IF_RANGE, RANGE, USER_AGENT,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant as TokioInstant, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Body;
use super::metrics::{Closed, Metrics};
use super::report::{Pulse, Report};
use super::request::{Part, content_type, decode, part};
use super::watch::{Counted, Pace, Watch};
use crate::collect::boot::audit::HTTP;
use crate::collect::boot::files::{Content, Denied};
use crate::collect::boot::places::{Place, Places};
use crate::collect::boot::world::{Nothing, Served, World};
use crate::collect::complaints::Complaints;

/// Of a request's line and headers, and of what waits in memory to be written beside a chunk.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// For a request, from its first byte or from the answer before.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Whatever it does.
const CONNECTION_MAX: Duration = Duration::from_secs(86_400);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) world: Arc<World>,
    pub(super) metrics: Metrics,
    pub(super) connections: Arc<Semaphore>,
    pub(super) clients: Arc<Places>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) pace: Pace,
    pub(super) complaints: Complaints,
}

/// Accepts until `stop`.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        if shared.connections.available_permits() == 0 {
            shared.metrics.waits.inc();
        }
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = async {
                let permit = shared.connections.clone().acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
        };
        let (permit, stream, peer) = match accepted {
            (Ok(permit), Ok((stream, SocketAddr::V4(peer)))) => (permit, stream, *peer.ip()),
            (Ok(_), Ok(_)) => continue,
            (Ok(_), Err(error)) => {
                // Out of descriptors, most likely: others will be closed.
                tracing::warn!(%error, "boot http: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            (Err(_), _) => return,
        };
        let Some(place) = door(&shared, peer) else { continue };
        let connected = shared.clone();
        shared.tasks.spawn(async move {
            connected.metrics.connections.inc();
            connection(stream, peer, &connected).await;
            connected.metrics.connections.dec();
            drop((permit, place));
        });
    }
}

/// Whether a peer may come in.
fn door(shared: &Shared, peer: Ipv4Addr) -> Option<Place> {
    let closed = if shared.world.networks.of(peer).is_none() {
        Closed::Outside
    } else {
        match shared.clients.take(peer) {
            Ok(place) => return Some(place),
            Err(_) => Closed::Client,
        }
    };
    shared.metrics.closed(closed);
    if let Some(unlogged) = shared.complaints.allow() {
        tracing::warn!(%peer, ?closed, unlogged, "boot http: a connection is closed unread");
    }
    None
}

async fn connection(stream: TcpStream, peer: Ipv4Addr, shared: &Arc<Shared>) {
    // Answers are written whole; nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let pulse = Arc::new(Pulse::default());
    let service = service_fn(|request| {
        let (shared, pulse) = (shared.clone(), pulse.clone());
        async move { Ok::<_, Infallible>(answer(request, peer, shared, pulse).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Counted::new(stream, pulse.clone())), service);
    tokio::pin!(connection);
    let now = TokioInstant::now();
    let mut looks = interval_at(now + shared.pace.window, shared.pace.window);
    let (mut watch, mut end, mut stopping) = (Watch::default(), now + CONNECTION_MAX, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    broken(&error, peer, shared);
                }
                return;
            }
            _ = looks.tick() => if watch.is_stalled(&pulse, shared.pace) {
                return shared.metrics.closed(Closed::Slow);
            },
            () = shared.stop.cancelled(), if !stopping => {
                stopping = true;
                end = TokioInstant::now() + shared.pace.stopping;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(end) => {
                if !stopping {
                    shared.metrics.closed(Closed::Old);
                }
                return;
            }
        }
    }
}

/// A connection that ended otherwise than HTTP lets it.
fn broken(error: &hyper::Error, peer: Ipv4Addr, shared: &Shared) {
    if error.is_timeout() {
        return shared.metrics.closed(Closed::Idle);
    }
    if !error.is_parse() {
        return;
    }
    // hyper has answered 400 or 431.
    shared.metrics.malformed.inc();
    let now = Timestamp::now();
    let (served, _) = shared.world.identify(peer, now);
    let record = shared.world.record(HTTP, &served, served.session.clone(), now);
    shared.world.audit.record(record.text("outcome", "malformed").text("decision", "refused").text("why", error));
}

/// What is answered, before it is known what is recorded.
struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    source: Source,
    to_end: bool,
    why: Option<String>,
}

enum Source {
    Text(Vec<u8>),
    File(std::fs::File, u64),
}

impl Source {
    fn bytes(&self) -> u64 {
        match self {
            Source::Text(text) => text.len() as u64,
            Source::File(_, bytes) => *bytes,
        }
    }
}

impl Answer {
    /// Nothing, and why, on one line.
    fn refuse(status: StatusCode, why: String) -> Answer {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
        Answer { status, headers, source: Source::Text(format!("{why}\n").into_bytes()), to_end: true, why: Some(why) }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.headers.push((name, value));
        self
    }
}

async fn answer(request: Request<Incoming>, peer: Ipv4Addr, shared: Arc<Shared>, pulse: Arc<Pulse>) -> Response<Body> {
    pulse.requests.fetch_add(1, Ordering::Relaxed);
    pulse.answering.store(true, Ordering::Relaxed);
    let (began, clock) = (Timestamp::now(), Instant::now());
    let header = |name: HeaderName| request.headers().get(name).map(|value| value.as_bytes().to_vec());
    let (range, user_agent) = (header(RANGE), header(USER_AGENT));
    // There are no validators here, so what is conditional gets the whole file (RFC 9110, 13.1.5).
    let asked = range.clone().filter(|_| header(IF_RANGE).is_none() && request.method() == Method::GET);
    let path = request.uri().path_and_query().map_or("", |path| path.as_str()).as_bytes().to_vec();

    let readable = matches!(*request.method(), Method::GET | Method::HEAD);
    let name = decode(request.uri().path());
    let world = shared.world.clone();
    // It may wait for the disk.
    let looked_up = tokio::task::spawn_blocking(move || {
        let refused = |status, why: &str| Answer::refuse(status, why.to_owned());
        let (mut served, _) = world.identify(peer, began);
        let answer = match name {
            _ if !readable => {
                let answer = refused(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
                answer.with(ALLOW, HeaderValue::from_static("GET, HEAD"))
            }
            None => refused(StatusCode::BAD_REQUEST, "the path has a % that is no escape"),
            Some(name) => {
                served = world.serve(peer, &name, began);
                found(&mut served, asked.as_deref())
            }
        };
        (served, answer)
    });
    let (served, answer) = looked_up.await.unwrap_or_else(|error| {
        let (served, _) = shared.world.identify(peer, began);
        (served, Answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    });

    let Answer { status, headers, source, to_end, why } = answer;
    let (is_head, length) = (request.method() == Method::HEAD, source.bytes());
    let report = Report {
        shared,
        pulse,
        served,
        method: request.method().clone(),
        path,
        user_agent,
        range,
        status,
        began,
        clock,
        wanted: if is_head { 0 } else { length },
        given: 0,
        to_end,
        why,
    };
    let body = match source {
        _ if is_head => Body::text(Vec::new(), report),
        Source::Text(text) => Body::text(text, report),
        Source::File(file, bytes) => Body::file(file, bytes, report),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().extend(headers);
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// The answer to a GET or HEAD of what was looked up.
fn found(served: &mut Served, range: Option<&[u8]>) -> Answer {
    let content = std::mem::replace(&mut served.content, Err(Nothing::Outside));
    match content {
        Err(nothing) => {
            let status = match nothing {
                Nothing::Denied(Denied::Missing) => StatusCode::NOT_FOUND,
                Nothing::Script(_) => StatusCode::INTERNAL_SERVER_ERROR,
                Nothing::Outside | Nothing::Refused(_) | Nothing::Denied(_) => StatusCode::FORBIDDEN,
            };
            Answer::refuse(status, nothing.why())
        }
        Ok(content) => {
            let kind = served.name.as_ref().map_or("application/octet-stream", content_type);
            match whole_or_part(content, range) {
                Ok(answer) => answer.with(CONTENT_TYPE, HeaderValue::from_static(kind)),
                Err(error) => Answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
    }
}

fn whole_or_part(content: Content, range: Option<&[u8]>) -> io::Result<Answer> {
    let size = match &content {
        Content::File(_, size) => *size,
        Content::Made(text) => text.len() as u64,
    };
    let wanted = range.and_then(|range| std::str::from_utf8(range).ok()).map_or(Part::Whole, |range| part(range, size));
    let (first, bytes, status) = match wanted {
        Part::Whole => (0, size, StatusCode::OK),
        Part::Bytes(first, last) => (first, last - first + 1, StatusCode::PARTIAL_CONTENT),
        Part::Nothing => {
            let why = format!("the range is not in the {size} bytes that there are");
            let all = HeaderValue::try_from(format!("bytes */{size}")).map_err(io::Error::other)?;
            return Ok(Answer::refuse(StatusCode::RANGE_NOT_SATISFIABLE, why).with(CONTENT_RANGE, all));
        }
    };
    let mut headers = vec![(ACCEPT_RANGES, HeaderValue::from_static("bytes"))];
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{size}", first + bytes - 1);
        headers.push((CONTENT_RANGE, HeaderValue::try_from(range).map_err(io::Error::other)?));
    }
    let source = match content {
        Content::File(mut file, _) => {
            file.seek(SeekFrom::Start(first))?;
            Source::File(file, bytes)
        }
        Content::Made(text) => {
            // Another machine gets another one.
            headers.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
            Source::Text(text[first as usize..(first + bytes) as usize].to_vec())
        }
    };
    Ok(Answer { status, headers, source, to_end: first + bytes == size, why: None })
}
