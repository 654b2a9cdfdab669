//! One connection of a mail server: bytes to packets to the session, replies back, and the waiting in between.

use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use super::{GRACE, Server, State};
use crate::metrics::{Cut, FailOpen};
use crate::session::{Context, Next, Rules, Session};
use crate::wire::{Frame, Reply, frame, wants_reply};

/// Read at once; mail servers send no larger packets.
const READ_BYTES: usize = 64 << 10;

/// A packet above the limit is skipped up to this length; beyond it the length is no length, and the connection is
/// closed.
const SKIP_BYTES_MAX: u64 = 64 << 20;

thread_local! {
    /// What is read is handled before anything else runs on the thread, so one buffer a thread is enough.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Serves one connection to its end. Not `seen`: everything passes.
///
/// Thousands of these may wait at a time, so here and below functions that return a future stand for `async fn`: that
/// would keep its arguments twice, as they came and as it uses them.
pub(super) fn serve<S>(
    mut stream: S,
    server: Arc<Server>,
    mut state: watch::Receiver<State>,
    seen: bool,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let State { rules, stopping } = state.borrow_and_update().clone();
    let id = server.connection_ids.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection {
        session: Session::new(id),
        rules,
        latest: state.clone(),
        stopping,
        input: Vec::new(),
        skip: 0,
        out: Vec::new(),
        server,
    };
    let metrics = &connection.server.shared.metrics;
    metrics.connections.inc();
    metrics.connections_total.inc();
    if !seen {
        metrics.fail_open(FailOpen::Connections);
        connection.session.look_away();
    }
    async move { connection.run(&mut stream, &mut state).await }
}

struct Connection {
    server: Arc<Server>,
    session: Session,
    rules: Arc<Rules>,
    /// Asked before bytes are handled, while `run` waits for its own: what comes after a reload is under the new rules.
    latest: watch::Receiver<State>,
    stopping: bool,
    /// What was read and not handled: a packet in part, or what came during a hold. Mostly without memory.
    input: Vec<u8>,
    /// Bytes of an overlong packet that are still to come.
    skip: u64,
    out: Vec<u8>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.guarded(|session, context, _| session.end(context));
        self.server.connections.fetch_sub(1, Ordering::Relaxed);
        self.server.shared.metrics.connections.dec();
    }
}

impl Connection {
    #[allow(clippy::manual_async_fn)] // smaller: see `serve`
    fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        state: &mut watch::Receiver<State>,
    ) -> impl Future<Output = ()> {
        async move {
            let mut timer = pin!(sleep(self.server.idle));
            // The timer is set again only when it rings: most connections are long gone by then.
            let mut silent_since = Instant::now();
            let mut ending = false;
            loop {
                if state.has_changed().unwrap_or(true) {
                    self.look_at(state);
                }
                if self.stopping {
                    if !self.session.is_amid_message() {
                        return;
                    }
                    if !std::mem::replace(&mut ending, true) {
                        timer.as_mut().reset(Instant::now() + GRACE);
                    }
                }
                let mut next = tokio::select! {
                    biased;
                    read = self.read(stream) => match read {
                        Some(next) => next,
                        None => return,
                    },
                    _ = state.changed(), if !ending => { self.look_at(state); continue; }
                    () = &mut timer => {
                        let until = silent_since + self.server.idle;
                        if self.stopping || until <= Instant::now() {
                            return;
                        }
                        timer.as_mut().reset(until);
                        continue;
                    }
                };
                while let Next::Hold(delay) = next {
                    let cut = self.hold(delay, stream, state, timer.as_mut()).await;
                    timer.as_mut().reset(Instant::now() + self.server.idle);
                    if self.guarded(|session, context, out| session.release(cut, context, out)).is_none() {
                        Reply::Continue.emit(&mut self.out);
                    }
                    if cut == Some(Cut::Gone) || !self.send(stream, timer.as_mut()).await {
                        return;
                    }
                    let input = std::mem::take(&mut self.input);
                    next = self.handle(&input);
                }
                if !self.send(stream, timer.as_mut()).await || next == Next::End {
                    return;
                }
                silent_since = Instant::now();
            }
        }
    }

    fn look_at(&mut self, state: &mut watch::Receiver<State>) {
        let gone = state.has_changed().is_err();
        let State { rules, stopping } = state.borrow_and_update().clone();
        self.rules = rules;
        self.stopping = stopping || gone;
    }

    /// Waits for bytes and handles them; none at the end of the connection.
    fn read<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> impl Future<Output = Option<Next>> {
        poll_fn(move |cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        if self.input.is_empty() {
                            return Poll::Ready(Some(self.handle(buffer.filled())));
                        }
                        let mut input = std::mem::take(&mut self.input);
                        input.extend_from_slice(buffer.filled());
                        Poll::Ready(Some(self.handle(&input)))
                    }
                    Poll::Ready(_) => Poll::Ready(None),
                }
            })
        })
    }

    /// Handles whole packets until one makes the connection wait or end; keeps what is left.
    fn handle(&mut self, mut bytes: &[u8]) -> Next {
        if self.latest.has_changed().unwrap_or(false) {
            self.rules = self.latest.borrow_and_update().rules.clone();
        }
        loop {
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            bytes = &bytes[skipped as usize..];
            match frame(bytes, self.server.packet_bytes_max) {
                Frame::Packet { command, data, used } => {
                    bytes = &bytes[used..];
                    let next = self.step(command, data);
                    if next != Next::Go {
                        self.input = bytes.to_vec();
                        return next;
                    }
                }
                Frame::Partial => {
                    self.input = bytes.to_vec();
                    return Next::Go;
                }
                Frame::Empty => {
                    self.server.shared.metrics.fail_open(FailOpen::Packet);
                    bytes = &bytes[4..];
                }
                Frame::TooLong { command: None, bytes: total } if total <= SKIP_BYTES_MAX => {
                    self.input = bytes.to_vec();
                    return Next::Go;
                }
                Frame::TooLong { command, bytes: total } => {
                    self.server.shared.metrics.fail_open(FailOpen::TooLong);
                    if total > SKIP_BYTES_MAX {
                        return Next::End;
                    }
                    self.skip = total;
                    if command.is_some_and(|command| wants_reply(command, self.session.steps())) {
                        Reply::Continue.emit(&mut self.out);
                    }
                }
            }
        }
    }

    fn step(&mut self, command: u8, data: &[u8]) -> Next {
        match self.guarded(|session, context, out| session.on(command, data, context, out)) {
            Some(next) => next,
            None => {
                if wants_reply(command, self.session.steps()) {
                    Reply::Continue.emit(&mut self.out);
                }
                Next::Go
            }
        }
    }

    /// A panic in the session, the policy or the sink must not cost mail: from then on the connection passes unseen.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Session, &Context<'_>, &mut Vec<u8>) -> T) -> Option<T> {
        let Connection { server, session, rules, out, .. } = self;
        let context = Context { rules, shared: &server.shared, now: server.now() };
        let sent = out.len();
        let done = catch_unwind(AssertUnwindSafe(|| work(session, &context, out)));
        done.inspect_err(|_| {
            tracing::error!("milter: a session panicked; its mail passes");
            server.shared.metrics.fail_open(FailOpen::Panic);
            out.truncate(sent);
            session.look_away();
        })
        .ok()
    }

    /// Waits as long as the policy says, or until something ends it; says what.
    #[allow(clippy::manual_async_fn)] // smaller: see `serve`
    fn hold<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        delay: Duration,
        stream: &mut S,
        state: &mut watch::Receiver<State>,
        mut timer: Pin<&mut Sleep>,
    ) -> impl Future<Output = Option<Cut>> {
        async move {
            // Replies to what came before must not wait.
            if !self.send(stream, timer.as_mut()).await {
                return Some(Cut::Gone);
            }
            if self.stopping {
                return Some(Cut::Stop);
            }
            let Some(_place) = self.server.enter_tarpit(self.rules.tarpitted_max) else { return Some(Cut::Full) };
            let since = Instant::now();
            let mut until = since + delay;
            let mut listens = self.input.is_empty();
            loop {
                if state.has_changed().unwrap_or(true) {
                    self.look_at(state);
                    if self.stopping {
                        return Some(Cut::Stop);
                    }
                    let delay = self.guarded(|session, context, _| session.reconsider(context)).unwrap_or_default();
                    until = since + delay;
                    if until <= Instant::now() {
                        return Some(Cut::Reload);
                    }
                }
                let progress = self.session.progress(&self.rules);
                let ring = progress.map_or(until, |every| until.min(Instant::now() + every));
                timer.as_mut().reset(ring);
                tokio::select! {
                    biased;
                    () = timer.as_mut() => {
                        if until <= Instant::now() {
                            return None;
                        }
                        Reply::Progress.emit(&mut self.out);
                        if !self.send(stream, timer.as_mut()).await {
                            return Some(Cut::Gone);
                        }
                    }
                    _ = state.changed() => state.mark_changed(),
                    is_open = self.read_ahead(stream), if listens => {
                        if !is_open {
                            return Some(Cut::Gone);
                        }
                        // A mail server waits for its answer; whoever does not has to wait until the hold is over.
                        listens = false;
                    }
                }
            }
        }
    }

    /// Waits for bytes and keeps them; says whether the connection is still open.
    fn read_ahead<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> impl Future<Output = bool> {
        poll_fn(move |cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                Pin::new(&mut *stream).poll_read(cx, &mut buffer).map(|read| {
                    self.input.extend_from_slice(buffer.filled());
                    read.is_ok() && !buffer.filled().is_empty()
                })
            })
        })
    }

    /// Sends what there is to send; says whether the connection is still open. Sets the timer only where the mail
    /// server does not take it at once, and has no timer of its own: every held connection would carry it.
    fn send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        mut timer: Pin<&mut Sleep>,
    ) -> impl Future<Output = bool> {
        let (mut sent, mut waits) = (0, false);
        poll_fn(move |cx| {
            while sent < self.out.len() {
                match Pin::new(&mut *stream).poll_write(cx, &self.out[sent..]) {
                    Poll::Ready(Ok(bytes)) if bytes > 0 => sent += bytes,
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => {
                        if !std::mem::replace(&mut waits, true) {
                            let patience = if self.stopping { GRACE } else { self.server.idle };
                            timer.as_mut().reset(Instant::now() + patience);
                        }
                        return timer.as_mut().poll(cx).map(|()| false);
                    }
                }
            }
            self.out = Vec::new();
            Poll::Ready(true)
        })
    }
}
