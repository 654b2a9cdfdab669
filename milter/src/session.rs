//! The state of one connection of a mail server: commands in, replies out. No sockets and no clock.
//!
//! A connection carries one SMTP session, or several one after the other (QUIT_NC). Of each mail transaction the session
//! keeps what the record needs and hands it to the sink when the transaction ends:
//!
//! | what comes | the transaction ends as |
//! |---|---|
//! | MAIL over a limit | `refuse`, `close` |
//! | the end of the message | `accept` |
//! | ABORT, the next MAIL, CONNECT, QUIT, end of connection | `abort` |
//!
//! A second ABORT, a second HELO (STARTTLS, EHLO again), commands out of order and macros without any are usual and
//! mean nothing. What makes no sense is counted and answered with "continue": it must not cost mail.

mod context;
mod negotiation;
mod text;

use std::time::Duration;

use crate::config::Mode;
use crate::metrics::{Cut, FailOpen};
use crate::policy::{Counts, Decision, Subject};
use crate::transaction::{Ending, Peer, Transaction};
use crate::wire::{Command, Reply, Stage, Texts, WireError, wants_reply};

pub use context::{Context, Now, Rules, Shared};
pub use text::TEXT_BYTES_MAX;
use text::{address, bare, kept, number, strip_prefix_ignore_case};

/// Parameters of one MAIL that are kept.
const ARGS_MAX: usize = 32;

/// Bytes of the header fields that one message may leave here.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// What is to be done after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send what there is to send, read on.
    Go,
    /// The same, but first wait for so long, then [`Session::release`].
    Hold(Duration),
    /// Send what there is to send, close.
    End,
}

/// One connection's state.
#[derive(Debug, Default)]
pub struct Session {
    /// The steps agreed on.
    steps: u32,
    /// Nothing is looked at: everything continues.
    unseen: bool,
    peer: Peer,
    counts: Counts,
    /// MAIL commands so far.
    number: u32,
    /// Macro `i` as it came before MAIL.
    queue_id: Vec<u8>,
    open: Option<Box<Mail>>,
    held: Option<Box<Held>>,
}

/// An open transaction.
#[derive(Debug)]
struct Mail {
    started: Now,
    queue_id: Vec<u8>,
    from: Vec<u8>,
    args: Vec<Vec<u8>>,
    rcpts: Vec<Vec<u8>>,
    nrcpts: u32,
    msgid: Vec<u8>,
    size: Option<u64>,
    headers: Vec<u8>,
    rule: Box<str>,
    strike: u32,
    would: Option<(Ending, Duration)>,
}

/// A transaction whose refusal waits.
#[derive(Debug)]
struct Held {
    mail: Mail,
    verdict: Ending,
    delay: Duration,
    limit: u32,
    /// As they were before this MAIL.
    before: Counts,
    counted_for_client: bool,
}

impl Session {
    /// A connection that has said nothing yet. `connection`: a number for its records.
    #[must_use]
    pub fn new(connection: u64) -> Session {
        Session { peer: Peer { connection, ..Peer::default() }, ..Session::default() }
    }

    /// The steps agreed on.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// From now on nothing is looked at, and everything continues.
    pub fn look_away(&mut self) {
        *self = Session { steps: self.steps, unseen: true, ..Session::new(self.peer.connection) };
    }

    /// Handles one packet and appends the reply that is due. Not to be called between [`Next::Hold`] and
    /// [`Session::release`].
    pub fn on(&mut self, command: u8, data: &[u8], context: &Context<'_>, out: &mut Vec<u8>) -> Next {
        let next = match Command::parse(command, data) {
            Ok(Command::Negotiate { version, actions, steps }) => {
                return self.negotiate([version, actions, steps], context, out);
            }
            Ok(Command::Quit) => {
                self.abort(context);
                return Next::End;
            }
            Err(WireError::Short) if command == b'O' => {
                context.shared.metrics.fail_open(FailOpen::Packet);
                return Next::End;
            }
            Err(_) => {
                context.shared.metrics.fail_open(FailOpen::Packet);
                Next::Go
            }
            Ok(_) if self.unseen => Next::Go,
            Ok(Command::Mail { path, args }) => self.mail(path, args, context),
            Ok(command) => {
                self.note(command, context);
                Next::Go
            }
        };
        match next {
            Next::Hold(Duration::ZERO) => self.release(None, context, out),
            Next::Go if wants_reply(command, self.steps) => Reply::Continue.emit(out),
            next => return next,
        }
        Next::Go
    }

    fn negotiate(&mut self, [version, actions, steps]: [u32; 3], context: &Context<'_>, out: &mut Vec<u8>) -> Next {
        let wanted = negotiation::wanted(self.unseen, !context.rules.headers.is_empty());
        match negotiation::answer(version, actions, steps & wanted) {
            Some(answer) => {
                self.steps = steps & wanted;
                answer.emit(out);
                Next::Go
            }
            None => {
                context.shared.metrics.fail_open(FailOpen::Version);
                Next::End
            }
        }
    }

    /// What only adds to what is known.
    fn note(&mut self, command: Command<'_>, context: &Context<'_>) {
        match command {
            Command::Macros { stage, macros } => self.macros(stage, macros),
            Command::Connect { name, addr } => {
                self.abort(context);
                self.counts = Counts::default();
                self.number = 0;
                self.peer.name = kept(name);
                self.peer.name_verified &= !name.starts_with(b"[");
                self.peer.addr = addr.or(self.peer.addr);
            }
            Command::Helo(name) => self.peer.helo = kept(name),
            Command::Rcpt { path } => {
                if let Some(mail) = &mut self.open {
                    mail.nrcpts = mail.nrcpts.saturating_add(1);
                    if mail.rcpts.len() < context.rules.recipients_max {
                        mail.rcpts.push(kept(bare(path)));
                    }
                }
            }
            Command::Header { name, value } => {
                if let Some(mail) = &mut self.open
                    && context.rules.wants_header(name)
                    && mail.headers.len() + name.len() + value.len() < HEADER_BYTES_MAX
                {
                    for part in [name, b": ", value.trim_ascii_start(), b"\r\n"] {
                        mail.headers.extend_from_slice(part);
                    }
                }
            }
            Command::EndOfMessage => {
                if let Some(mut mail) = self.open.take() {
                    context.rules.policy.delivered(&mut self.counts, &mail.rcpts, mail.nrcpts);
                    if !mail.headers.is_empty() {
                        mail.headers.extend_from_slice(b"\r\n");
                    }
                    self.finish(&mail, Ending::Accept, (Duration::ZERO, None), context);
                }
            }
            Command::Abort => self.abort(context),
            Command::QuitNewConnection => {
                self.abort(context);
                let steps = self.steps;
                *self = Session { steps, ..Session::new(self.peer.connection) };
            }
            _ => {}
        }
    }

    /// Each list replaces what its stage said before: after STARTTLS, or on the next message.
    fn macros(&mut self, stage: Stage, macros: Texts<'_>) {
        let peer = &mut self.peer;
        match stage {
            Stage::Connect => peer.name_verified = false,
            Stage::Mail => {
                self.queue_id.clear();
                peer.auth.clear();
            }
            _ => {}
        }
        for (name, value) in macros.pairs() {
            let name = name.strip_prefix(b"{").and_then(|name| name.strip_suffix(b"}")).unwrap_or(name);
            match (name, &mut self.open) {
                (b"i", Some(mail)) if stage != Stage::Mail => mail.queue_id = kept(value),
                (b"i", _) => self.queue_id = kept(value),
                (b"msg_id", Some(mail)) => mail.msgid = kept(bare(value)),
                (b"msg_size", Some(mail)) if stage == Stage::Eom => {
                    mail.size = number(value).or(mail.size);
                }
                (b"j", _) => peer.server = kept(value),
                (b"v", _) => peer.mta = kept(value),
                (b"daemon_name", _) => peer.daemon = kept(value),
                (b"client_addr", _) => peer.addr = address(value).or(peer.addr),
                (b"client_resolve", _) => peer.name_verified = value == b"OK",
                (b"tls_version", _) => peer.tls_version = kept(value),
                (b"cipher", _) => peer.tls_cipher = kept(value),
                (b"auth_authen", _) => peer.auth = kept(value),
                _ => {}
            }
        }
    }

    fn mail(&mut self, path: &[u8], args: Texts<'_>, context: &Context<'_>) -> Next {
        self.abort(context);
        self.number = self.number.saturating_add(1);
        let Context { rules, shared, now } = *context;
        let before = self.counts;
        let subject = subject(&self.peer);
        let decision = rules.policy.decide(&subject, &mut self.counts, &shared.clients, now.steady);
        shared.metrics.verdict(decision.rule, decision.verdict);
        let args: Vec<Vec<u8>> = args.take(ARGS_MAX).map(kept).collect();
        let refused = decision.verdict != Ending::Accept;
        let mut mail = Mail {
            started: now,
            queue_id: std::mem::take(&mut self.queue_id),
            from: kept(bare(path)),
            size: args.iter().find_map(|arg| number(strip_prefix_ignore_case(arg, b"SIZE=")?)),
            args,
            rcpts: Vec::new(),
            nrcpts: 0,
            msgid: Vec::new(),
            headers: Vec::new(),
            rule: decision.rule.into(),
            strike: decision.strike,
            would: (refused && rules.mode == Mode::Observe).then_some((decision.verdict, decision.delay)),
        };
        if !refused || rules.mode == Mode::Observe {
            self.open = Some(Box::new(mail));
            return Next::Go;
        }
        // It may be held for long, and with many others.
        mail.args.shrink_to_fit();
        let delay = decision.delay;
        self.held = Some(Box::new(Held {
            mail,
            verdict: decision.verdict,
            delay,
            limit: decision.limit,
            before,
            counted_for_client: decision.counted_for_client,
        }));
        Next::Hold(delay)
    }

    /// Whether a long wait is to be kept alive, how often.
    #[must_use]
    pub fn progress(&self, rules: &Rules) -> Option<Duration> {
        rules.progress.filter(|_| is_postfix(&self.peer))
    }

    /// Whether a message has begun that has not ended.
    #[must_use]
    pub fn is_amid_message(&self) -> bool {
        self.open.is_some()
    }

    /// The rules have changed during a hold: how long the answer waits in all by the new ones. Zero where they would
    /// let the message pass, which it then does.
    pub fn reconsider(&mut self, context: &Context<'_>) -> Duration {
        let Some(mut held) = self.held.take() else { return Duration::ZERO };
        let Context { rules, shared, now } = *context;
        let subject = subject(&self.peer);
        let mut counts = held.before;
        let counted = held.counted_for_client;
        let decision = rules.policy.decide_again(&subject, &mut counts, counted, &shared.clients, now.steady);
        held.counted_for_client = decision.counted_for_client;
        self.counts = counts;
        if decision.verdict == Ending::Accept || rules.mode == Mode::Observe {
            let waited = now.steady.saturating_sub(held.mail.started.steady);
            shared.metrics.held(waited.as_secs_f64(), Some(Cut::Reload));
            if decision.verdict != Ending::Accept {
                held.mail.would = Some((decision.verdict, decision.delay));
            }
            self.open = Some(Box::new(held.mail));
            return Duration::ZERO;
        }
        held.verdict = decision.verdict;
        held.delay = held.delay.min(decision.delay);
        held.mail.rule = decision.rule.into();
        held.mail.strike = decision.strike;
        held.limit = decision.limit;
        let delay = held.delay;
        self.held = Some(held);
        delay
    }

    /// The hold is over: appends the answer and ends the transaction. Where the rules have come to let the message
    /// pass, it goes on.
    pub fn release(&mut self, cut: Option<Cut>, context: &Context<'_>, out: &mut Vec<u8>) {
        let Some(held) = self.held.take() else {
            return Reply::Continue.emit(out);
        };
        let waited = context.now.steady.saturating_sub(held.mail.started.steady);
        let waited = if held.delay.is_zero() || cut == Some(Cut::Full) { Duration::ZERO } else { waited };
        context.shared.metrics.held(waited.as_secs_f64(), cut);
        let (rule, strike) = (&*held.mail.rule, held.mail.strike);
        let decision = Decision {
            verdict: held.verdict,
            rule,
            strike,
            limit: held.limit,
            delay: held.delay,
            counted_for_client: held.counted_for_client,
        };
        let mut answer = Vec::new();
        context.rules.policy.answer(&decision, &subject(&self.peer), &mut answer);
        Reply::Answer(&answer).emit(out);
        self.finish(&held.mail, held.verdict, (waited, cut), context);
    }

    /// The connection is over.
    pub fn end(&mut self, context: &Context<'_>) {
        self.abort(context);
    }

    fn abort(&mut self, context: &Context<'_>) {
        if let Some(mail) = self.open.take() {
            self.finish(&mail, Ending::Abort, (Duration::ZERO, None), context);
        }
    }

    fn finish(&self, mail: &Mail, ending: Ending, (delay, cut): (Duration, Option<Cut>), context: &Context<'_>) {
        context.shared.metrics.ended(ending);
        (context.shared.sink)(&Transaction {
            peer: &self.peer,
            started: mail.started.wall,
            took: context.now.steady.saturating_sub(mail.started.steady),
            number: self.number,
            queue_id: &mail.queue_id,
            mail_from: &mail.from,
            mail_args: &mail.args,
            rcpts: &mail.rcpts,
            nrcpts: mail.nrcpts,
            msgid: &mail.msgid,
            size: mail.size,
            headers: &mail.headers,
            ending,
            rule: &mail.rule,
            strike: mail.strike,
            delay,
            cut: cut.map(Cut::name),
            would: mail.would,
        });
    }
}

fn subject(peer: &Peer) -> Subject<'_> {
    Subject {
        addr: peer.addr,
        verified_name: peer.name_verified.then_some(peer.name.as_slice()),
        authenticated: !peer.auth.is_empty(),
        daemon: &peer.daemon,
        postfix: is_postfix(peer),
    }
}

fn is_postfix(peer: &Peer) -> bool {
    peer.mta.starts_with(b"Postfix")
}
