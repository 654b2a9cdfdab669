//! A proxy in front of an HTTP server (the object store) that breaks
//! connections in the ways that networks and stores do, switched while it
//! runs.
//!
//! One request a connection: the proxy asks the server to close after its
//! answer, so that a fault always meets the request it was meant for. Apart
//! from its `Connection` header a request passes as it is, signature
//! included.

use super::net::free_port;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// A request's or answer's head may be this long.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Only ends what hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What the proxy does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes it.
    Pass,
    /// Nobody listens: "connection refused". Always for all requests.
    Refuse,
    /// Takes it and never answers, until the client goes or the mode changes.
    Hang,
    /// Takes it, keeps it, and answers with this status (500, 503, 409, 429).
    Answer(u16),
    /// Passes the head and this many bytes of the body, then cuts both sides.
    CutUploadAfter(usize),
    /// Passes it, waits for the server's answer, and cuts the client off
    /// without it: the object is stored, and the client cannot know.
    LoseAnswer,
    /// Like `LoseAnswer`, but says this status instead.
    ChangeAnswer(u16),
    /// Passes it at this many bytes a second in each direction.
    Slow(u32),
}

/// Which requests a mode is for; the others pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    All,
    /// PUT and POST.
    Uploads,
}

/// What the proxy has seen and done so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests whose head was read.
    pub(crate) requests: usize,
    /// Of these, PUT and POST.
    pub(crate) uploads: usize,
    /// Requests that a mode other than `Pass` was applied to.
    pub(crate) faults: usize,
    /// Of these, answers of the server with a 2xx status that the client did
    /// not get: things were stored.
    pub(crate) successes_lost: usize,
}

/// A running proxy; dropping it ends it and every connection.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    shared: Arc<Shared>,
    /// None only while dropping.
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Debug)]
struct Shared {
    addr: SocketAddr,
    upstream: SocketAddr,
    rule: watch::Sender<Rule>,
    /// Raised to cut what is under way.
    cut: watch::Sender<u64>,
    /// Whether the port is bound, told by the accept loop.
    listening: watch::Sender<bool>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    mode: Mode,
    requests: Requests,
    /// How many requests more it is for; None: all.
    times: Option<usize>,
}

impl FaultProxy {
    /// Starts a proxy in front of `upstream`, in mode [`Mode::Pass`].
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fault-proxy")
            .enable_all()
            .build()
            .expect("a runtime");
        let (listener, addr) = runtime.block_on(async {
            // No connection gets this port while it is closed.
            let addr = (Ipv4Addr::LOCALHOST, free_port()).into();
            (listen(addr).expect("a free port"), addr)
        });
        let rule = Rule { mode: Mode::Pass, requests: Requests::All, times: None };
        let shared = Arc::new(Shared {
            addr,
            upstream,
            rule: watch::Sender::new(rule),
            cut: watch::Sender::new(0),
            listening: watch::Sender::new(true),
            counts: Mutex::default(),
        });
        runtime.spawn(Arc::clone(&shared).accept_loop(listener));
        Self { shared, runtime: Some(runtime) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// From now on every request that begins meets this mode. When this
    /// returns the port is closed for [`Mode::Refuse`], and open else.
    pub(crate) fn set(&self, mode: Mode) {
        self.set_rule(Rule { mode, requests: Requests::All, times: None });
    }

    /// Only uploads meet this mode, everything else passes.
    pub(crate) fn set_uploads(&self, mode: Mode) {
        self.set_rule(Rule { mode, requests: Requests::Uploads, times: None });
    }

    /// Only the next `times` uploads meet this mode.
    pub(crate) fn next_uploads(&self, times: usize, mode: Mode) {
        self.set_rule(Rule { mode, requests: Requests::Uploads, times: Some(times) });
    }

    /// Cuts every connection that is open.
    pub(crate) fn cut_all(&self) {
        self.shared.cut.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts()
    }

    fn set_rule(&self, rule: Rule) {
        assert!(
            rule.mode != Mode::Refuse || rule.requests == Requests::All,
            "a port is open to all requests or to none"
        );
        self.shared.rule.send_replace(rule);
        let open = rule.mode != Mode::Refuse;
        let end = std::time::Instant::now() + LIMIT;
        // Not async, so that tests of both kinds can call it.
        while *self.shared.listening.borrow() != open {
            assert!(std::time::Instant::now() < end, "the proxy does not follow");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("nothing panics while it holds the lock")
    }

    async fn accept_loop(self: Arc<Self>, listener: TcpListener) {
        let mut rules = self.rule.subscribe();
        let mut listener = Some(listener);
        loop {
            let open = rules.borrow_and_update().mode != Mode::Refuse;
            match (open, &listener) {
                (true, None) => listener = Some(self.listen_again().await),
                (false, Some(bound)) => {
                    // A program that is being started holds the socket for a moment more. Nobody shall get in there.
                    rustix::net::shutdown(bound, rustix::net::Shutdown::Both).expect("it listens");
                    listener = None;
                }
                _ => {}
            }
            self.listening.send_replace(open);
            tokio::select! {
                _ = rules.changed() => {}
                Some(Ok((client, _))) = async { Some(listener.as_ref()?.accept().await) } => {
                    tokio::spawn(Arc::clone(&self).connection(client));
                }
            }
        }
    }

    /// The same port as before; something else may hold it for a moment.
    async fn listen_again(&self) -> TcpListener {
        loop {
            match listen(self.addr) {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn connection(self: Arc<Self>, mut client: TcpStream) {
        let mut cut = self.cut.subscribe();
        // A broken connection is what this is for: the errors are no news.
        let cut_off = tokio::select! {
            result = self.request(&mut client) => result.is_err(),
            _ = cut.changed() => true,
        };
        if cut_off {
            let _already_gone = client.set_zero_linger();
        }
    }

    /// Serves one request. An error means that the client is to be cut off
    /// by a reset.
    async fn request(&self, client: &mut TcpStream) -> io::Result<()> {
        let request = Head::read(client).await?;
        // Before it is counted: who has seen the count may change the mode.
        let mut rules = self.rule.subscribe();
        let mode = self.mode_for(&request);
        match mode {
            Mode::Hang => return hang(client, &mut rules).await,
            Mode::Answer(status) => return answer(client, status).await,
            _ => {}
        }
        let mut server = TcpStream::connect(self.upstream).await?;
        server.write_all(&request.for_one_request()).await?;
        match mode {
            Mode::CutUploadAfter(bytes) => {
                let left = bytes.saturating_sub(request.rest.len());
                let part = &request.rest[..bytes.min(request.rest.len())];
                server.write_all(part).await?;
                copy_bytes(client, &mut server, left).await?;
                server.flush().await?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Mode::LoseAnswer | Mode::ChangeAnswer(_) => {
                server.write_all(&request.rest).await?;
                self.swallow_answer(client, &mut server).await?;
                match mode {
                    Mode::ChangeAnswer(status) => answer(client, status).await,
                    _ => Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
            Mode::Slow(rate) => {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let up = async {
                    trickle(&mut request.rest.as_slice(), &mut to_server, rate).await?;
                    trickle(&mut from_client, &mut to_server, rate).await
                };
                // The server closes when it has answered: that is the end.
                tokio::select! {
                    down = trickle(&mut from_server, &mut to_client, rate) => down,
                    Err(error) = up => Err(error),
                }
            }
            Mode::Pass | Mode::Refuse | Mode::Hang | Mode::Answer(_) => {
                server.write_all(&request.rest).await?;
                pass(client, &mut server).await
            }
        }
    }

    /// What this request meets; counts it, and counts the rule down.
    fn mode_for(&self, request: &Head) -> Mode {
        let mut mode = Mode::Pass;
        self.rule.send_if_modified(|rule| {
            let meant = rule.requests == Requests::All || request.is_upload();
            if meant && rule.times != Some(0) {
                mode = rule.mode;
                rule.times = rule.times.map(|times| times - 1);
            }
            false // no change of mode: nobody need wake up
        });
        let mut counts = self.counts();
        counts.requests += 1;
        counts.uploads += usize::from(request.is_upload());
        counts.faults += usize::from(mode != Mode::Pass);
        mode
    }

    /// Passes the upload, and keeps the server's final answer for itself. An
    /// interim "100 Continue" does pass, or the upload would not come.
    async fn swallow_answer(&self, client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let upload = async {
            tokio::io::copy(&mut from_client, &mut to_server).await?;
            // The client has gone: the server is to see that.
            to_server.shutdown().await?;
            std::future::pending::<io::Result<()>>().await
        };
        let final_status = async {
            let mut known = Vec::new();
            loop {
                let head = Head::read_more(&mut from_server, known).await?;
                match head.status() {
                    100..200 => to_client.write_all(&head.text).await?,
                    status => return Ok(status),
                }
                known = head.rest;
            }
        };
        let status = tokio::select! {
            Err(error) = upload => Err(error),
            status = final_status => status,
        }?;
        self.counts().successes_lost += usize::from((200..300).contains(&status));
        Ok(())
    }
}

/// Listens where connections of before may still be closing.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(128)
}

/// The head of a request or an answer, and what came in behind it.
#[derive(Debug)]
struct Head {
    /// Up to and including the empty line.
    text: Vec<u8>,
    rest: Vec<u8>,
}

impl Head {
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        Self::read_more(stream, Vec::new()).await
    }

    /// Reads on from what is known already.
    async fn read_more(stream: &mut (impl AsyncRead + Unpin), mut known: Vec<u8>) -> io::Result<Self> {
        loop {
            if let Some(end) = known.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = known.split_off(end + 4);
                return Ok(Self { text: known, rest });
            }
            if known.len() > HEAD_BYTES_MAX || stream.read_buf(&mut known).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn is_upload(&self) -> bool {
        self.text.starts_with(b"PUT ") || self.text.starts_with(b"POST ")
    }

    fn status(&self) -> u16 {
        let digits = self.text.get(9..12).and_then(|d| std::str::from_utf8(d).ok());
        digits.and_then(|d| d.parse().ok()).unwrap_or(0)
    }

    /// The head with `Connection: close` for its only Connection header.
    fn for_one_request(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.text.len() + 24);
        for line in self.text.split_inclusive(|&b| b == b'\n') {
            let name = line.split(|&b| b == b':').next().unwrap_or_default();
            if line == b"\r\n" {
                head.extend_from_slice(b"Connection: close\r\n");
            }
            if !name.eq_ignore_ascii_case(b"connection") {
                head.extend_from_slice(line);
            }
        }
        head
    }
}

/// Reads and forgets, until the client goes or the mode changes.
async fn hang(client: &mut TcpStream, rules: &mut watch::Receiver<Rule>) -> io::Result<()> {
    let mut nowhere = tokio::io::sink();
    tokio::select! {
        _ = tokio::io::copy(client, &mut nowhere) => Ok(()),
        _ = rules.changed() => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Joins both sides until the server, which was told to close, has answered.
async fn pass(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await?;
        std::future::pending::<io::Result<u64>>().await
    };
    tokio::select! {
        down = tokio::io::copy(&mut from_server, &mut to_client) => down?,
        Err(error) = up => return Err(error),
    };
    to_client.shutdown().await
}

/// Answers as an S3 server would, and takes in what the client still sends,
/// so that no reset overtakes the answer.
async fn answer(client: &mut TcpStream, status: u16) -> io::Result<()> {
    let (reason, code) = match status {
        409 => ("Conflict", "ConditionalRequestConflict"),
        412 => ("Precondition Failed", "PreconditionFailed"),
        429 => ("Too Many Requests", "TooManyRequests"),
        503 => ("Service Unavailable", "SlowDown"),
        _ => ("Internal Server Error", "InternalError"),
    };
    let body = format!("<Error><Code>{code}</Code><Message>Injected.</Message></Error>");
    let text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await?;
    let mut nowhere = tokio::io::sink();
    let drain = tokio::io::copy(client, &mut nowhere);
    let _gone_or_too_slow = tokio::time::timeout(LIMIT, drain).await;
    Ok(())
}

/// Passes on exactly this many bytes, or what there is until the end.
async fn copy_bytes(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> io::Result<()> {
    tokio::io::copy(&mut from.take(bytes as u64), to).await?;
    Ok(())
}

/// Passes on at most `rate` bytes a second, in twenty pieces.
async fn trickle(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), rate: u32) -> io::Result<()> {
    let mut piece = vec![0; (rate as usize / 20).max(1)];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&piece[..read]).await?;
        tokio::time::sleep(Duration::from_secs_f64(read as f64 / f64::from(rate))).await;
    }
}
