//! Whole sessions with a mail server that sends anything, without sockets: the first bytes choose the config, the rest
//! are bytes of the stream, mostly packets made of what the input holds. It never panics; each command gets the answers
//! that are due and no other, whole and fit for SMTP; no more messages pass than the limit says; every MAIL becomes one
//! transaction; and the same stream, cut otherwise, gets the same answers.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use greypit_milter::config::{Config, Mode};
use greypit_milter::metrics::{Cut, Metrics};
use greypit_milter::policy::Clients;
use greypit_milter::session::{Context, Next, Now, Rules, Session, Shared};
use greypit_milter::transaction::Ending;
use greypit_milter::wire::{Frame, frame};
use libfuzzer_sys::fuzz_target;

const PACKET_BYTES_MAX: usize = 4096;

thread_local! {
    static ENDINGS: RefCell<Vec<Ending>> = const { RefCell::new(Vec::new()) };
}

static METRICS: LazyLock<Metrics> =
    LazyLock::new(|| Metrics::new(&prometheus::Registry::new()).expect("an empty registry"));

/// The step that silences a command; none where it is always answered. A second opinion: not greypit's own table.
fn is_answered(command: u8, steps: u32) -> bool {
    let silenced = match command {
        b'C' => 0x1000,
        b'H' => 0x2000,
        b'M' => 0x4000,
        b'R' => 0x8000,
        b'T' => 0x1_0000,
        b'U' => 0x2_0000,
        b'N' => 0x4_0000,
        b'B' => 0x8_0000,
        b'L' => 0x80,
        b'E' => 0,
        _ => return false,
    };
    steps & silenced == 0
}

struct Peer<'a> {
    session: Session,
    rules: &'a Rules,
    others: &'a Rules,
    shared: &'a Shared,
    limit: u32,
    steady: Duration,
    input: Vec<u8>,
    out: Vec<u8>,
    offered: u32,
    mails: usize,
    /// Messages that passed in this SMTP session.
    passed: u32,
    strict: bool,
    ended: bool,
}

impl Peer<'_> {
    fn context(&mut self) -> (&mut Session, Context<'_>, &mut Vec<u8>) {
        self.steady += Duration::from_millis(1);
        let now = Now { steady: self.steady, wall: SystemTime::UNIX_EPOCH + self.steady };
        (&mut self.session, Context { rules: self.rules, shared: self.shared, now }, &mut self.out)
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        while !self.ended {
            match frame(rest, PACKET_BYTES_MAX) {
                Frame::Packet { command, data, used } => {
                    self.packet(command, data);
                    rest = &rest[used..];
                }
                Frame::Empty => rest = &rest[4..],
                Frame::Partial => break,
                Frame::TooLong { .. } => self.ended = true,
            }
        }
        self.input = rest.to_vec();
    }

    fn packet(&mut self, command: u8, data: &[u8]) {
        let before = self.out.len();
        let steps = self.session.steps();
        let was_amid = self.session.is_amid_message();
        let is_mail = command == b'M' && data.contains(&0);
        let (session, context, out) = self.context();
        let mut held = None;
        match session.on(command, data, &context, out) {
            Next::Go => {}
            Next::End => self.ended = true,
            Next::Hold(delay) => {
                assert!(
                    is_mail && !delay.is_zero() && self.out.len() == before,
                    "only a MAIL is held, before its answer"
                );
                held = Some(delay);
            }
        }
        if let Some(delay) = held {
            self.release(delay, data);
        }
        self.check_answers(command, data, before, steps);
        if command == b'O' && data.len() >= 12 {
            self.offered = u32::from_be_bytes([data[8], data[9], data[10], data[11]]);
            assert!(self.ended || self.session.steps() & !self.offered == 0, "steps that were not offered");
        }
        if command == b'C' && data.contains(&0) || command == b'K' {
            // Another client.
            if !self.session.is_amid_message() {
                self.passed = 0;
            }
        }
        if is_mail {
            self.mails += 1;
            let passes = self.session.is_amid_message();
            self.passed += u32::from(passes);
            if self.strict {
                assert!(self.passed <= self.limit, "{} passed", self.passed);
            }
        } else if was_amid && matches!(command, b'A' | b'E' | b'Q' | b'K') {
            assert!(!self.session.is_amid_message());
        }
    }

    /// By its time, early, or under other rules and back: what the first byte of the sender says.
    fn release(&mut self, delay: Duration, data: &[u8]) {
        let choice = data.get(1).copied().unwrap_or_default();
        let cut = match choice % 5 {
            0 => Some(Cut::Full),
            1 => Some(Cut::Stop),
            2 if !self.strict => {
                let others = self.others;
                let (session, context, _) = self.context();
                let left = session.reconsider(&Context { rules: others, ..context });
                assert!(left <= delay);
                left.is_zero().then_some(Cut::Reload)
            }
            _ => {
                self.steady += delay;
                None
            }
        };
        let (session, context, out) = self.context();
        session.release(cut, &context, out);
    }

    fn check_answers(&self, command: u8, data: &[u8], before: usize, steps: u32) {
        let mut answers = &self.out[before..];
        let mut letters = Vec::new();
        while !answers.is_empty() {
            let Frame::Packet { command, data, used } = frame(answers, usize::MAX) else { panic!("half an answer") };
            letters.push(command);
            match command {
                b'c' => assert!(data.is_empty()),
                b'y' => {
                    let (0, text) = data.split_last().expect("a text") else { panic!("no NUL at the end") };
                    assert!(
                        text.starts_with(b"451 4.7.1 ") || text.starts_with(b"421 4.7.1 "),
                        "{}",
                        text.escape_ascii()
                    );
                    assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)), "{}", text.escape_ascii());
                    assert!(text.len() < 512);
                    let percents = text.split(|byte| *byte != b'%').map(<[u8]>::len);
                    assert!(percents.into_iter().all(|run| run % 2 == 0), "a lone %: {}", text.escape_ascii());
                }
                b'O' => assert!(data.len() >= 12),
                _ => panic!("an answer {command}"),
            }
            answers = &answers[used..];
        }
        let expected: &[&[u8]] = match command {
            b'O' if self.ended => &[b""],
            b'O' => &[b"O"],
            b'M' => &[b"c", b"y"],
            command if is_answered(command, steps) => &[b"c"],
            _ => &[b""],
        };
        assert!(expected.contains(&letters.as_slice()), "{} {}: {letters:?}", command as char, data.escape_ascii());
    }
}

/// Bytes of the stream: a letter, a length, data; or as they are.
fn stream(mut input: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8] = b"OODDDCCHMMMMMMRRRTLLNBEEEEAAUK";
    let mut stream = Vec::new();
    while let Some((&[choice, length], rest)) = input.split_first_chunk() {
        let (data, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        match LETTERS.get(usize::from(choice)) {
            // Terminated, and behind a good start, so that most are read.
            Some(&letter) => {
                let head: &[u8] = match letter {
                    b'O' => b"\0\0\0\x06\0\0\x01\xff",
                    b'D' => b"C{client_addr}\0192.0.2.7\0",
                    b'C' => b"mx.example\x004\0\x19192.0.2.7\0",
                    _ => b"",
                };
                let end: &[u8] = if matches!(letter, b'M' | b'R' | b'H' | b'L' | b'D') { b"\0" } else { b"" };
                stream.extend(((head.len() + data.len() + end.len() + 1) as u32).to_be_bytes());
                stream.push(letter);
                stream.extend([head, data, end].concat());
            }
            None if choice < 128 => {
                stream.extend((data.len() as u32 + 1).to_be_bytes());
                stream.push(choice);
                stream.extend(data);
            }
            None => stream.extend(data),
        }
    }
    stream
}

fn play(stream: &[u8], cut: usize, setup: &Setup) -> Vec<u8> {
    let sink: greypit_milter::Sink =
        Arc::new(|transaction| ENDINGS.with_borrow_mut(|endings| endings.push(transaction.ending)));
    let Setup { config, rules: [rules, others], strict } = setup;
    let shared = Shared { clients: Arc::new(Clients::new(&config.client)), sink, metrics: METRICS.clone() };
    let mut peer = Peer {
        session: Session::new(1),
        rules,
        others,
        shared: &shared,
        limit: config.limit,
        steady: Duration::ZERO,
        input: Vec::new(),
        out: Vec::new(),
        offered: 0,
        mails: 0,
        passed: 0,
        strict: *strict,
        ended: false,
    };
    ENDINGS.take();
    for piece in stream.chunks(cut) {
        peer.feed(piece);
    }
    let (session, context, _) = peer.context();
    session.end(&context);
    let endings = ENDINGS.take();
    assert_eq!(endings.len(), peer.mails, "{endings:?}");
    peer.out
}

/// What the first byte says.
struct Setup {
    config: Config,
    rules: [Rules; 2],
    /// Nothing is exempt and nothing is changed on the way.
    strict: bool,
}

static SETUPS: LazyLock<Vec<Setup>> = LazyLock::new(|| (0..0x80).map(Setup::new).collect());

impl Setup {
    fn new(choice: u8) -> Setup {
        let strict = choice & 0x40 == 0;
        let mut config = Config {
            limit: 1 + u32::from(choice & 3),
            max_strikes: u32::from(choice >> 2 & 3),
            max_recipients: 2,
            ..Config::default()
        };
        config.client.max_clients = 2;
        if choice & 0x10 != 0 {
            config.client.limit = 3;
            config.headers = vec!["Subject".to_owned()];
        }
        if strict {
            (config.allow.authenticated, config.allow.recipients) = (false, Vec::new());
        } else if choice & 0x20 != 0 {
            config.mode = Mode::Observe;
        }
        let other = Config { limit: 1 + config.limit % 3, ..config.clone() };
        let rules = [&config, &other].map(|config| Rules::new(config, "mx1").expect("a good config"));
        Setup { config, rules, strict }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, cut], input)) = input.split_first_chunk() else { return };
    let (setup, stream) = (&SETUPS[usize::from(choice & 0x7f)], stream(input));
    let whole = play(&stream, stream.len().max(1), setup);
    assert_eq!(whole, play(&stream, usize::from(cut).max(1), setup));
});
