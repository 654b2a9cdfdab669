//! The server on a socket of its own, with a sink that remembers, or breaks.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use greypit_pipeline::Addresses;
use greypit_pipeline::units::Span;
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Milter, bind};
use crate::config::{Config, Mode};
use crate::transaction::{Ending, Sink};

/// Longer than a mail server of these tests is silent by itself, on any machine. Nobody waits for it: once all is quiet,
/// the clock is paused and goes from one timer to the next.
const IDLE: Span = Span::seconds(30);

/// Far longer than any test takes: a hold of this length ends only because something ends it.
const LONG: Span = Span::seconds(200);

type Records = Arc<Mutex<Vec<(Ending, Option<&'static str>)>>>;

struct Running {
    milter: Milter,
    task: JoinHandle<()>,
    stop: CancellationToken,
    registry: Registry,
    records: Records,
    config: Config,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start(config: Config) -> Running {
        let records = Records::default();
        let kept = records.clone();
        let sink: Sink = Arc::new(move |transaction| {
            kept.lock().unwrap().push((transaction.ending, transaction.cut));
        });
        let mut running = Running::with_sink(config, sink);
        running.records = records;
        running
    }

    fn with_sink(config: Config, sink: Sink) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let config = Config { listen: vec![format!("unix:{}", path.display())], ..config };
        let (registry, stop) = (Registry::new(), CancellationToken::new());
        let bound = bind(&config, Addresses::AreHere).unwrap();
        let (milter, task) = Milter::spawn(bound, &config, "mx1", sink, &registry, stop.clone()).unwrap();
        Running { milter, task, stop, registry, records: Records::default(), config, path, _dir: dir }
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let values = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        values.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }

    async fn until(&self, name: &str, value: f64) {
        let reached = async {
            while self.metric(name) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), reached)
            .await
            .unwrap_or_else(|_| panic!("{name} never was {value}"));
    }

    fn ended(&self) -> Vec<(Ending, Option<&'static str>)> {
        self.records.lock().unwrap().clone()
    }
}

/// A mail server.
struct Mta(UnixStream);

impl Mta {
    /// One that has negotiated and passed on a client.
    async fn connect(running: &Running) -> Mta {
        let mut mta = Mta(UnixStream::connect(&running.path).await.unwrap());
        mta.say(b'O', &[0, 0, 0, 6, 0, 0, 1, 255, 0, 31, 255, 255]).await;
        assert_eq!(mta.answer().await.unwrap()[0], b'O');
        mta.say(b'C', b"mx.example.org\x004\x01\xbb192.0.2.1\0").await;
        mta
    }

    async fn say(&mut self, command: u8, data: &[u8]) {
        let mut packet = (data.len() as u32 + 1).to_be_bytes().to_vec();
        packet.push(command);
        packet.extend_from_slice(data);
        self.0.write_all(&packet).await.unwrap();
    }

    /// Command and data, or nothing where the connection has ended.
    async fn answer(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let length = self.0.read_u32().await.ok()?;
            let mut answer = vec![0; length as usize];
            self.0.read_exact(&mut answer).await.ok()?;
            Some(answer)
        };
        tokio::time::timeout(Duration::from_secs(120), read).await.expect("an answer, or the end")
    }

    async fn mail(&mut self) -> Option<Vec<u8>> {
        self.say(b'M', b"<a@example.org>\0").await;
        self.answer().await
    }

    async fn whole_message(&mut self) -> Option<Vec<u8>> {
        assert_eq!(self.mail().await?, b"c");
        self.say(b'R', b"<b@example.net>\0").await;
        self.say(b'E', b"").await;
        self.answer().await
    }
}

fn is_refused(answer: Option<Vec<u8>>) -> bool {
    answer.is_some_and(|answer| answer.starts_with(b"y451 4.7.1 192.0.2.1: more than 1 messages"))
}

/// One message passes, the next is refused, the one after waits long.
fn one_then_long() -> Config {
    Config { limit: 1, step: LONG, max_delay: LONG, ..Config::default() }
}

/// A connection whose answer is held.
async fn held(running: &Running) -> Mta {
    let mut mta = Mta::connect(running).await;
    assert_eq!(mta.whole_message().await.unwrap(), b"c");
    assert!(is_refused(mta.mail().await));
    mta.say(b'M', b"<a@example.org>\0").await;
    mta
}

#[tokio::test]
async fn a_hold_ends_with_greypit_and_the_answer_is_given() {
    let running = Running::start(one_then_long());
    let mut mta = held(&running).await;
    running.until("greypit_milter_tarpitted", 1.0).await;
    running.stop.cancel();
    assert!(is_refused(mta.answer().await));
    assert_eq!(mta.answer().await, None);
    running.task.await.unwrap();
    assert!(!running.path.exists());
    let records = running.records.lock().unwrap();
    assert_eq!(*records, [(Ending::Accept, None), (Ending::Refuse, None), (Ending::Refuse, Some("stop"))]);
}

#[tokio::test]
async fn a_hold_ends_when_the_new_policy_says_so() {
    let running = Running::start(one_then_long());
    let mut mta = held(&running).await;
    running.until("greypit_milter_tarpitted", 1.0).await;
    // A change that says nothing about it leaves it.
    running.milter.reload(&Config { max_tarpitted: 7, ..running.config.clone() }).unwrap();
    running.until("greypit_milter_tarpitted_max", 7.0).await;
    assert_eq!(running.metric("greypit_milter_tarpitted"), 1.0);
    // Shorter: refused now.
    running.milter.reload(&Config { step: Span::seconds(0), ..running.config.clone() }).unwrap();
    assert!(is_refused(mta.answer().await));
    // The limit is higher now, and the connection's count is still there: the second passes, the third does not.
    running.milter.reload(&Config { limit: 2, step: Span::seconds(0), ..running.config.clone() }).unwrap();
    assert_eq!(mta.whole_message().await.unwrap(), b"c");
    assert!(mta.mail().await.unwrap().starts_with(b"y451"));
    assert_eq!(running.ended()[2], (Ending::Refuse, Some("reload")));
}

#[tokio::test]
async fn a_held_message_passes_when_the_new_policy_lets_it() {
    let running = Running::start(one_then_long());
    let mut mta = held(&running).await;
    running.until("greypit_milter_tarpitted", 1.0).await;
    running.milter.reload(&Config { mode: Mode::Observe, ..running.config.clone() }).unwrap();
    assert_eq!(mta.answer().await.unwrap(), b"c");
    mta.say(b'E', b"").await;
    assert_eq!(mta.answer().await.unwrap(), b"c");
    assert_eq!(running.ended().last(), Some(&(Ending::Accept, None)));
}

#[tokio::test]
async fn a_mail_server_that_hangs_up_gives_its_place_back() {
    let running = Running::start(one_then_long());
    let mta = held(&running).await;
    running.until("greypit_milter_tarpitted", 1.0).await;
    drop(mta);
    running.until("greypit_milter_tarpitted", 0.0).await;
    running.until("greypit_milter_connections", 0.0).await;
    assert_eq!(running.ended().last(), Some(&(Ending::Refuse, Some("gone"))));
}

#[tokio::test]
async fn a_full_tarpit_answers_at_once() {
    let running = Running::start(Config { max_tarpitted: 1, ..one_then_long() });
    let _first = held(&running).await;
    running.until("greypit_milter_tarpitted", 1.0).await;
    let mut second = held(&running).await;
    assert!(is_refused(second.answer().await));
    assert_eq!(running.ended().last(), Some(&(Ending::Refuse, Some("tarpit_full"))));
}

#[tokio::test]
async fn a_panic_costs_no_mail_and_no_other_connection() {
    let broken: Sink = Arc::new(|transaction| assert!(transaction.mail_from != b"bomb@example.org", "on purpose"));
    let running = Running::with_sink(Config { limit: 1, ..Config::default() }, broken);
    let mut mta = Mta::connect(&running).await;
    mta.say(b'M', b"<bomb@example.org>\0").await;
    assert_eq!(mta.answer().await.unwrap(), b"c");
    mta.say(b'E', b"").await;
    assert_eq!(mta.answer().await.unwrap(), b"c", "the message is accepted");
    for _ in 0..3 {
        assert_eq!(mta.mail().await.unwrap(), b"c", "and from then on all pass");
    }
    assert_eq!(running.metric("greypit_milter_fail_open_total"), 1.0);
    let mut other = Mta::connect(&running).await;
    assert_eq!(other.whole_message().await.unwrap(), b"c");
    assert!(is_refused(other.mail().await), "others are looked at as before");
}

#[tokio::test]
async fn a_panic_at_the_end_of_a_hold_is_answered_too() {
    let broken: Sink = Arc::new(|transaction| assert!(transaction.delay.is_zero(), "on purpose"));
    let step = Span(Duration::from_millis(20));
    let running = Running::with_sink(Config { limit: 1, step, max_delay: step, ..Config::default() }, broken);
    let mut mta = held(&running).await;
    assert_eq!(mta.answer().await.unwrap(), b"c");
    assert_eq!(running.metric("greypit_milter_fail_open_total"), 1.0);
}

#[tokio::test]
async fn beyond_the_limit_of_connections_mail_passes_unseen() {
    let running = Running::start(Config { limit: 1, max_connections: 1, ..Config::default() });
    let _first = Mta::connect(&running).await;
    let mut mta = Mta(UnixStream::connect(&running.path).await.unwrap());
    mta.say(b'O', &[0, 0, 0, 6, 0, 0, 1, 255, 0, 31, 255, 255]).await;
    let answer = mta.answer().await.unwrap();
    assert_eq!(answer[9..13], [0, 0xf, 0xf3, 0xff], "no step is wanted");
    // A peer that sends them all the same gets no answer where none is due, and "continue" at the end.
    mta.say(b'M', b"<a@example.org>\0").await;
    mta.say(b'E', b"").await;
    assert_eq!(mta.answer().await.unwrap(), b"c");
    assert_eq!(running.metric("greypit_milter_fail_open_total"), 1.0);
    assert!(running.ended().is_empty());
}

#[tokio::test]
async fn a_message_that_has_begun_may_end_while_greypit_does() {
    let running = Running::start(Config::default());
    let (mut amid, mut idle) = (Mta::connect(&running).await, Mta::connect(&running).await);
    assert_eq!(amid.mail().await.unwrap(), b"c");
    running.stop.cancel();
    assert_eq!(idle.answer().await, None, "nothing is open there");
    amid.say(b'E', b"").await;
    assert_eq!(amid.answer().await.unwrap(), b"c");
    assert_eq!(amid.answer().await, None);
    running.task.await.unwrap();
    assert_eq!(*running.records.lock().unwrap(), [(Ending::Accept, None)]);
}

#[tokio::test]
async fn long_holds_of_postfix_are_kept_alive() {
    let mut config = one_then_long();
    config.postfix.progress = true;
    config.postfix.progress_every = Span(Duration::from_millis(10));
    config.postfix.max_delay = LONG;
    let running = Running::start(config);
    let mut mta = Mta(UnixStream::connect(&running.path).await.unwrap());
    mta.say(b'O', &[0, 0, 0, 6, 0, 0, 1, 255, 0, 31, 255, 255]).await;
    mta.answer().await.unwrap();
    mta.say(b'D', b"Cv\0Postfix 3.7.11\0").await;
    mta.say(b'C', b"mx.example.org\x004\x01\xbb192.0.2.1\0").await;
    assert_eq!(mta.whole_message().await.unwrap(), b"c");
    assert!(is_refused(mta.mail().await));
    mta.say(b'M', b"<a@example.org>\0").await;
    for _ in 0..5 {
        assert_eq!(mta.answer().await.unwrap(), b"p");
    }
    running.stop.cancel();
    let mut last = mta.answer().await;
    while last.as_deref() == Some(b"p") {
        last = mta.answer().await;
    }
    assert!(is_refused(last));
}

#[tokio::test]
async fn a_silent_mail_server_is_gone_after_a_while_and_its_message_is_recorded() {
    let running = Running::start(Config { idle_timeout: IDLE, ..Config::default() });
    let mut mta = Mta::connect(&running).await;
    assert_eq!(mta.mail().await.unwrap(), b"c");
    tokio::time::pause();
    assert_eq!(mta.answer().await, None);
    running.until("greypit_milter_connections", 0.0).await;
    assert_eq!(running.ended(), [(Ending::Abort, None)]);
}

#[tokio::test]
async fn a_hold_is_not_silence() {
    let hold = Span(2 * IDLE.0);
    let running = Running::start(Config { limit: 1, step: hold, idle_timeout: IDLE, ..Config::default() });
    let mut mta = held(&running).await;
    tokio::time::pause();
    assert!(is_refused(mta.answer().await));
}
