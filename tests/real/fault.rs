//! What greypit does when something around it fails: the store, the disk, the
//! clock, the config, the sender. Each test breaks one thing under a real
//! greypit, sees the fault in `/metrics` and `/readyz`, mends it, and proves
//! that the store then holds exactly what went in.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::daemon::{Daemon, Sender, messages};
use support::proxy::{FaultProxy, Mode};
use support::s3::S3Server;
use support::{debian, run};

/// Windows of a second, so that a test sees several.
const BATCH: &str = "[batch]\nwindow = \"1s\"\ncodec = \"zstd\"\ndrain_timeout = \"3s\"\n";

/// The time after which a drained greypit must have ended: `drain_timeout`,
/// 2 s each for collectors that wait for room, and a busy machine.
const END: Duration = Duration::from_secs(60);

/// A store that answers at all answers in this time, and what waits is drained in it.
const PATIENT: &str = "[batch]\ndrain_timeout = \"2m\"\n[store]\nrequest_timeout = \"1m\"\n";

const PUT_ERRORS: &str = "greypit_store_errors_total";

fn put_errors(reason: &str) -> String {
    format!("{PUT_ERRORS}{{reason=\"{reason}\"}}")
}

/// An S3 server behind a proxy, and a greypit that ships there.
struct Away {
    greypit: Daemon,
    proxy: FaultProxy,
    _server: S3Server,
}

impl Away {
    fn new(spool: &str) -> Self {
        let server = S3Server::start();
        let proxy = FaultProxy::start(server.addr());
        let mut greypit =
            Daemon::new(&format!("{BATCH}\n[spool]\n{spool}\n{}", s3(&proxy.endpoint(), S3Server::BUCKET)));
        greypit.env(server.env());
        Self { greypit, proxy, _server: server }
    }

    fn start(spool: &str) -> Self {
        let mut away = Self::new(spool);
        away.greypit.start();
        away.greypit.wait_ready();
        away
    }
}

fn s3(endpoint: &str, bucket: &str) -> String {
    format!(
        "[store]\nurl = \"s3://{bucket}\"\nendpoint = \"{endpoint}\"\npath_style = true\n\
         request_timeout = \"1s\"\nconnect_timeout = \"1s\"\n"
    )
}

/// Sends messages over a TCP connection and closes it in order, which is the
/// only acknowledgement that plain syslog has.
fn send(greypit: &Daemon, name: &str, count: usize, bytes: usize) -> Vec<String> {
    Sender::start(greypit.tcp, name, count, bytes, Duration::ZERO).finish()
}

/// Feeds `count` messages by TCP and as many by the followed file.
fn feed(greypit: &Daemon, name: &str, count: usize) -> Vec<String> {
    let mut all = messages(&format!("tail-{name}"), count, 100);
    greypit.log_lines(&all);
    all.extend(send(greypit, &format!("tcp-{name}"), count, 100));
    all
}

/// Waits until the followed file is read to its end and nothing is left to ship. Every line is an event.
fn wait_drained(greypit: &mut Daemon) {
    let lag = format!("greypit_maillog_lag_bytes{{path=\"{}\"}}", greypit.log_file().display());
    let series = ["greypit_spool_queue_bytes", "greypit_waiting_events", "greypit_ship_in_flight"];
    let counted = |greypit: &Daemon, name: &str| greypit.metric(name).unwrap_or_default();
    let received = |greypit: &Daemon| {
        counted(greypit, "greypit_maillog_lines_total") + counted(greypit, "greypit_syslog_messages_total")
    };
    greypit.wait("everything to be shipped", |greypit| {
        // First of all: before it has looked at the file there is no lag either.
        greypit.metric("greypit_maillog_files").is_some_and(|files| files > 0.0)
            && greypit.series(&lag) == 0
            // What was read may be on its way to the spool.
            && received(greypit) == counted(greypit, "greypit_spool_events_total")
            && series.iter().all(|series| greypit.series(series) == 0)
    });
    greypit.wait_ready();
}

/// SIGTERM, and exit code 0 in time.
fn stop(greypit: &mut Daemon) {
    let begin = Instant::now();
    let status = greypit.end();
    eprintln!("{status} {:?} after SIGTERM", begin.elapsed());
    assert!(status.success() && begin.elapsed() < END, "{status} after {:?}\n{}", begin.elapsed(), greypit.log());
}

#[test]
fn every_answer_of_a_broken_store_is_waited_out() {
    let Away { mut greypit, proxy, _server } = Away::start("");
    let mut all = Vec::new();
    for (mode, reason, text) in [
        (Mode::Refuse, "refused", "Connection refused"),
        (Mode::Hang, "timeout", "no answer within 1s"),
        (Mode::Answer(500), "server", "InternalError (HTTP 500)"),
        (Mode::Answer(503), "throttled", "SlowDown (HTTP 503)"),
        (Mode::Answer(409), "conflict", "ConditionalRequestConflict (HTTP 409)"),
        (Mode::Answer(429), "throttled", "TooManyRequests (HTTP 429)"),
        (Mode::CutUploadAfter(200), "network", "cannot write s3://mail-archive/"),
        (Mode::Slow(200), "timeout", "no answer within 1s"),
    ] {
        let before = greypit.series(&put_errors(reason));
        proxy.set(mode);
        all.extend(feed(&greypit, &format!("{mode:?}"), 50));
        greypit.wait_held("store", text);
        greypit.wait_series(&put_errors(reason), before + 1);
        greypit.wait_series("greypit_oldest_event_age_seconds", 1);
        assert!(greypit.series("greypit_waiting_events") > 0);
        assert!(greypit.series("greypit_ship_in_flight") > 0);
        proxy.set(Mode::Pass);
        greypit.wait_shipped(all.len());
        greypit.wait_ready();
        greypit.wait("no event to be old", |greypit| greypit.series("greypit_oldest_event_age_seconds") == 0);
    }
    greypit.assert_exactly(all);
}

#[test]
fn an_answer_that_is_lost_or_slow_makes_no_second_object() {
    let Away { mut greypit, proxy, _server } = Away::new("");
    greypit.set_toml(PATIENT);
    greypit.start();
    greypit.wait_ready();
    let mut all = Vec::new();
    for (round, (mode, reason)) in
        [(Mode::LoseAnswer, "network"), (Mode::ChangeAnswer(500), "server")].into_iter().enumerate()
    {
        proxy.next_uploads(1, mode);
        all.extend(feed(&greypit, &format!("{mode:?}"), 50));
        greypit.wait_shipped(all.len());
        greypit.wait_ready();
        assert_eq!(greypit.series(&put_errors(reason)), 1, "{mode:?}");
        assert_eq!(greypit.series("greypit_store_existing_total{object=\"same\"}"), round as u64 + 1, "{mode:?}");
        assert_eq!(proxy.counts().successes_lost, round + 1, "the server had stored it");
    }
    proxy.set(Mode::Slow(4000));
    all.extend(feed(&greypit, "slow", 50));
    greypit.wait_shipped(all.len());
    greypit.wait_ready();
    proxy.set(Mode::Pass);
    assert_eq!(greypit.series(&put_errors("timeout")), 0);
    greypit.assert_exactly(all);
}

#[test]
fn windows_pile_up_while_the_store_is_away_and_all_arrive() {
    let Away { mut greypit, proxy, _server } = Away::start("");
    proxy.set(Mode::Refuse);
    let sender = Sender::start(greypit.tcp, "tcp", usize::MAX, 200, Duration::from_millis(5));
    let mut all = Vec::new();
    // More of them than are asked for below: one that is busy for seconds has fewer windows.
    for second in 0..12 {
        let lines = messages(&format!("tail-{second}"), 100, 200);
        greypit.log_lines(&lines);
        all.extend(lines);
        std::thread::sleep(Duration::from_secs(1));
    }
    greypit.wait_held("store", "Connection refused");
    greypit.wait_series("greypit_waiting_batches", 2);
    greypit.wait_series("greypit_waiting_events", 100);
    greypit.wait_series("greypit_oldest_event_age_seconds", 5);
    proxy.set(Mode::Pass);
    all.extend(sender.stop());
    greypit.wait_shipped(all.len());
    greypit.wait_ready();
    assert!(greypit.series("greypit_ship_objects_total{kind=\"syslog\"}") >= 5, "an object a window");
    greypit.assert_exactly(all);
}

#[test]
fn a_store_that_comes_back_is_noticed_without_an_event() {
    let Away { mut greypit, proxy, _server } = Away::new("");
    proxy.set(Mode::Refuse);
    greypit.start();
    greypit.wait_held("store", "Connection refused");
    proxy.set(Mode::Pass);
    greypit.wait_ready();
    let all = feed(&greypit, "late", 10);
    greypit.wait_shipped(all.len());
    greypit.assert_exactly(all);
}

/// A disk of its own, this small. Needs root.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(at: &Path, size: &str) -> Self {
        std::fs::create_dir_all(at).expect("a folder to mount on");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "greypit-test"]).arg(at));
        Self { at: at.to_owned() }
    }

    fn change(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _it_goes_with_its_last_user = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// Waits until a sender who would go on is made to wait.
fn wait_stuck(sender: &Sender) -> usize {
    let end = Instant::now() + support::WAIT;
    loop {
        let before = sender.written();
        std::thread::sleep(Duration::from_millis(1000));
        if before == sender.written() {
            return before;
        }
        assert!(Instant::now() < end, "the sender is never made to wait");
    }
}

/// More than the small disks hold.
const FLOOD: usize = 14_000;
const FLOOD_BYTES: usize = 1000;
const DISK_FULL: &str = "greypit_spool_errors_total{reason=\"disk_full\"}";

/// Whether the log says so. A store that was slow to answer may have come back meanwhile.
fn spool_works_again(log: &str) -> bool {
    log.lines().any(|line| line.contains("works again") && line.contains("\"part\":\"spool\""))
}

/// Fills the spool's disk with the store away; gives what the file had and the
/// sender who waits.
fn fill_the_disk(greypit: &mut Daemon) -> (Vec<String>, Sender) {
    let lines = messages("tail", FLOOD / 4, FLOOD_BYTES);
    greypit.log_lines(&lines);
    let sender = Sender::start(greypit.tcp, "tcp", FLOOD, FLOOD_BYTES, Duration::ZERO);
    greypit.wait_series(DISK_FULL, 1);
    let stuck = wait_stuck(&sender);
    assert!(stuck < FLOOD, "the disk has not room for all");
    // It was tried again, so that nothing of the first failure is left to be done.
    let failures = greypit.series(DISK_FULL);
    greypit.wait_series(DISK_FULL, failures + 3);
    greypit.wait_held("spool", "No space left on device");
    greypit.assert_alive();
    assert!(!spool_works_again(&greypit.log()), "it is held back all the time");
    eprintln!(
        "stuck after {stuck} of {FLOOD} messages, {} durable, {} segments",
        greypit.series("greypit_spool_events_total{kind=\"syslog\"}"),
        greypit.series("greypit_spool_segments"),
    );
    (lines, sender)
}

const SMALL_SPOOL: &str = "segment_bytes = \"256KiB\"\nqueue_bytes = \"1MiB\"";

#[test]
fn a_full_disk_stops_the_intake_until_the_store_is_back() {
    let Away { mut greypit, proxy, _server } = Away::new(SMALL_SPOOL);
    let _disk = Disk::mount(&greypit.data_dir(), "6m");
    greypit.start();
    greypit.wait_ready();
    proxy.set(Mode::Refuse);
    let (mut all, sender) = fill_the_disk(&mut greypit);
    greypit.wait_held("store", "Connection refused");
    let (segments, log) = (greypit.series("greypit_spool_segments"), greypit.log());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(greypit.series("greypit_spool_segments"), segments, "waiting makes no segments");
    let log_lines = greypit.log()[log.len()..].lines().filter(|line| line.contains("\"spool\"")).count();
    assert!(log_lines <= 1, "nor a log line for each attempt: {log_lines}");
    proxy.set(Mode::Pass);
    all.extend(sender.finish());
    greypit.assert_settles_with(all);
}

#[test]
fn a_full_disk_that_is_enlarged_takes_everything() {
    let Away { mut greypit, proxy, _server } = Away::new(SMALL_SPOOL);
    let disk = Disk::mount(&greypit.data_dir(), "6m");
    greypit.start();
    greypit.wait_ready();
    proxy.set(Mode::Refuse);
    let (mut all, sender) = fill_the_disk(&mut greypit);
    disk.change("size=64m");
    all.extend(sender.finish());
    greypit.wait_series("greypit_spool_events_total{kind=\"syslog\"}", all.len() as u64);
    greypit.wait("the spool to work again", |greypit| greypit.held("spool").is_none());
    greypit.wait_held("store", "Connection refused");
    proxy.set(Mode::Pass);
    greypit.assert_settles_with(all);
}

#[test]
fn a_full_disk_survives_a_stop_and_a_kill() {
    let Away { mut greypit, proxy, _server } = Away::new(SMALL_SPOOL);
    let _disk = Disk::mount(&greypit.data_dir(), "6m");
    greypit.start();
    proxy.set(Mode::Refuse);
    let lines = messages("tail", FLOOD, FLOOD_BYTES);
    greypit.log_lines(&lines);
    greypit.wait_series(DISK_FULL, 3);
    stop(&mut greypit);
    greypit.start();
    greypit.wait_held("spool", "No space left on device");
    greypit.kill();
    greypit.start();
    greypit.wait_held("spool", "No space left on device");
    proxy.set(Mode::Pass);
    wait_drained(&mut greypit);
    greypit.assert_exactly(lines);
}

#[test]
fn a_store_folder_on_a_full_disk_holds_whole_objects_only() {
    let mut greypit = Daemon::new("[batch]\nwindow = \"1s\"\ncodec = \"none\"\nmax_bytes = \"256KiB\"\n");
    let objects = greypit.objects();
    let disk = Disk::mount(&objects, "1m");
    greypit.start();
    greypit.wait_ready();
    let mut all = messages("tail", 2000, 1000);
    greypit.log_lines(&all);
    all.extend(send(&greypit, "tcp", 2000, 1000));
    greypit.wait_held("store", "No space left on device");
    greypit.wait_series(&put_errors("no_space"), 1);
    greypit.wait_series("greypit_waiting_events", 1);
    greypit.wait_series("greypit_oldest_event_age_seconds", 2);
    let mut whole = 0;
    greypit.cat(|record| whole += usize::from(record.ends_with('}')));
    let (verdict, complaints) = greypit.verify();
    assert_eq!((verdict.records, verdict.broken), (whole as u64, 0), "what is there is whole: {complaints}");
    eprintln!("on the full disk: {verdict:?}");
    disk.change("size=32m");
    greypit.assert_settles_with(all);
}

const SPOOL_16M: &str = "max_bytes = \"16MiB\"\nsegment_bytes = \"1MiB\"\nqueue_bytes = \"1MiB\"";

#[test]
fn a_spool_at_its_limit_makes_senders_wait() {
    let Away { mut greypit, proxy, _server } = Away::start(SPOOL_16M);
    proxy.set(Mode::Refuse);
    let mut all = messages("tail", FLOOD, 1500);
    greypit.log_lines(&all);
    let sender = Sender::start(greypit.tcp, "tcp", FLOOD, 1500, Duration::ZERO);
    greypit.wait_held("spool", "spool.max_bytes = \"16MiB\" is reached; waiting for the store");
    let stuck = wait_stuck(&sender);
    assert!(stuck < FLOOD);
    let disk_bytes = greypit.series("greypit_spool_disk_bytes");
    assert!(disk_bytes <= 16 << 20, "{disk_bytes}");
    let log = greypit.log();
    for _ in 0..20 {
        assert!(greypit.held("spool").is_some(), "never ready in between");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!spool_works_again(&greypit.log()[log.len()..]));
    greypit.wait_series("greypit_waiting_events", 1000);
    eprintln!("stuck after {stuck} messages with {disk_bytes} bytes on disk");
    proxy.set(Mode::Pass);
    all.extend(sender.finish());
    greypit.assert_settles_with(all);
}

#[test]
fn a_spool_at_its_limit_can_be_stopped() {
    let Away { mut greypit, proxy, _server } = Away::start(SPOOL_16M);
    proxy.set(Mode::Refuse);
    let lines = messages("tail", FLOOD, 1500);
    greypit.log_lines(&lines);
    greypit.wait_held("spool", "is reached");
    stop(&mut greypit);
    proxy.set(Mode::Pass);
    greypit.start();
    wait_drained(&mut greypit);
    greypit.assert_exactly(lines);
}

/// An hour, as libfaketime reads it.
const FORWARD: &str = "+3600";
const BACK: &str = "-3600";
const NOW: &str = "+0";

#[test]
fn the_clock_jumps_by_an_hour_and_back() {
    let server = S3Server::start();
    let mut greypit = Daemon::new(&format!("{BATCH}{}", s3(&server.endpoint(), S3Server::BUCKET)));
    greypit.env(server.env());
    let clock = greypit.path("clock");
    // Renamed into place: greypit must never read an empty file.
    let set = |offset: &str| {
        std::fs::write(clock.with_extension("new"), format!("{offset}\n")).expect("written");
        std::fs::rename(clock.with_extension("new"), &clock).expect("renamed");
    };
    set(NOW);
    let library = debian(&format!("usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH));
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    greypit.env([("LD_PRELOAD", text(&library)), ("FAKETIME_TIMESTAMP_FILE", text(&clock))]);
    // Only the wall clock jumps, as it does when NTP or a person sets it.
    greypit.env([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("NO_FAKE_STAT", "1")]);
    greypit.start();
    greypit.wait_ready();
    let mut all = feed(&greypit, "now", 50);
    greypit.wait_shipped(all.len());

    for (round, offset) in [FORWARD, NOW, BACK, NOW].into_iter().enumerate() {
        set(offset);
        all.extend(feed(&greypit, &format!("jump-{round}"), 50));
        // S3 accepts a quarter of an hour: the first request is refused, and the answer says what time it is. That is
        // how the next one is signed, until the clock jumps again.
        greypit.wait_series(&put_errors("clock"), round as u64 + 1);
        greypit.wait_shipped(all.len());
        greypit.wait_ready();
    }
    assert!(greypit.log().contains("this machine's clock is wrong: RequestTimeTooSkewed"), "{}", greypit.log());
    let keys: Vec<String> = server.client().list("syslog_logs/");
    let hours: std::collections::BTreeSet<&str> = keys.iter().filter_map(|key| key.split('-').nth(6)).collect();
    assert!(hours.len() >= 3, "windows of three hours: {hours:?}");
    // Killed, it would leave libfaketime's shared memory behind.
    stop(&mut greypit);
    // The commands run by the real clock.
    greypit.env([("LD_PRELOAD", "")]);
    greypit.assert_exactly(all);
}

/// SIGTERM while a sender, who closed in order, has been acknowledged, another
/// one goes on sending, the file grows, and uploads are under way.
fn stop_amid_everything(mode: Mode) {
    let Away { mut greypit, proxy, _server } = Away::new("");
    if mode == Mode::Pass {
        greypit.set_toml(PATIENT);
    }
    greypit.start();
    greypit.wait_ready();
    proxy.set(mode);
    let acknowledged = send(&greypit, "acknowledged", 500, 200);
    let ongoing = Sender::start(greypit.tcp, "ongoing", usize::MAX, 200, Duration::from_micros(300));
    let mut tail = Vec::new();
    for part in 0..20 {
        let lines = messages(&format!("tail-{part}"), 50, 200);
        greypit.log_lines(&lines);
        tail.extend(lines);
        std::thread::sleep(Duration::from_millis(100));
    }
    if mode != Mode::Pass {
        greypit.wait_series("greypit_ship_in_flight", 1);
    }
    stop(&mut greypit);
    let log = greypit.log();
    let ended = if mode == Mode::Pass { "everything is in the store" } else { "the rest waits in the spool" };
    assert!(log.contains(ended), "{log}");
    let ongoing = ongoing.stop();

    proxy.set(Mode::Pass);
    let later = messages("tail-later", 50, 200);
    greypit.log_lines(&later);
    tail.extend(later);
    greypit.start();
    greypit.wait_shipped(1);
    wait_drained(&mut greypit);
    greypit.assert_verified();

    let found = greypit.messages();
    let of = |name: &str| {
        let mut of: Vec<String> = found.iter().filter(|message| message.starts_with(name)).cloned().collect();
        of.sort_unstable();
        of
    };
    let sorted = |mut messages: Vec<String>| {
        messages.sort_unstable();
        messages
    };
    assert_eq!(of("tail-"), sorted(tail), "a followed file is read exactly once");
    assert_eq!(of("acknowledged-"), acknowledged, "and so is a connection that was closed in order");
    // Of the connection that was cut, what had been read: its beginning, without a gap, nothing twice. Its last line
    // may be half a line.
    let mut kept = of("ongoing-");
    eprintln!("{mode:?}: {} of {} messages of the connection that was cut", kept.len(), ongoing.len());
    assert!(!kept.is_empty() && kept.len() <= ongoing.len() + 1);
    let last = kept.pop().expect("it is not empty");
    assert_eq!(kept, ongoing[..kept.len()]);
    assert!(ongoing.get(kept.len()).is_none_or(|message| message.starts_with(&last)), "{last}");
    assert_eq!(found.len(), of("tail-").len() + of("acknowledged-").len() + kept.len() + 1);
}

#[test]
fn sigterm_with_a_healthy_store() {
    stop_amid_everything(Mode::Pass);
}

#[test]
fn sigterm_with_the_store_away() {
    stop_amid_everything(Mode::Refuse);
}

#[test]
fn sigterm_with_a_store_that_hangs() {
    stop_amid_everything(Mode::Hang);
}

/// What `greypit run` says of a config that cannot work: exit code 2 and one line on stderr, before anything runs.
fn refusal(greypit: &Daemon) -> String {
    let child =
        greypit.command("run").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn();
    let mut child = child.expect("greypit starts");
    let end = Instant::now() + support::WAIT;
    while child.try_wait().expect("a child of ours").is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ended_already = child.kill();
    let output = child.wait_with_output().expect("a child of ours");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!((text.lines().count(), output.stdout.len()), (1, 0), "{text}");
    eprint!("{text}");
    text
}

/// The line of the config in which `text` stands.
fn line_of(greypit: &Daemon, text: &str) -> String {
    let config = std::fs::read_to_string(greypit.config_file()).expect("the config");
    let number = 1 + config.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}"));
    format!("greypit: {}:{number}: ", greypit.config_file().display())
}

/// The refusal names the file, the line that begins with `at`, the key and what to do; `expected` is the beginning of
/// what follows the line's number, and more.
fn assert_refused(greypit: &Daemon, at: &str, expected: &[&str]) {
    let text = refusal(greypit);
    let start = format!("{}{}", line_of(greypit, at), expected[0]);
    assert!(text.starts_with(&start), "{text}expected: {start}");
    assert!(expected.iter().all(|part| text.contains(part)), "{text}expected: {expected:?}");
    assert!(!greypit.spool().exists(), "nothing was begun");
}

#[test]
fn a_config_that_cannot_be_right_is_refused_in_one_line() {
    for (keys, at, expected) in [
        ("[batch]\nwindw = \"5m\"", "windw", ["batch.windw: unknown field", "expected one of `window`, "]),
        (
            "[batch]\nwindow = \"5 minutes\"",
            "window",
            ["batch.window: '5 minutes' is no duration", "write for example"],
        ),
        ("[store]\nurl = \"s3://${NO_SUCH}\"", "url", ["store.url: the environment variable NO_SUCH", "is not set"]),
    ] {
        assert_refused(&Daemon::new(keys), at, &expected);
    }
}

#[test]
fn a_store_folder_that_cannot_be_written_is_refused_in_one_line() {
    // Root may write anywhere but below a file and on a read-only disk.
    let mut greypit = Daemon::new("");
    let url = |path: &str| greypit.path(path).to_str().expect("a plain path").to_owned();
    let (below_a_file, read_only) = (url("maillog/objects"), url("readonly/objects"));
    greypit.set("store.url", below_a_file);
    assert_refused(
        &greypit,
        "url",
        &[
            "store.url: cannot write to the directory",
            "Not a directory",
            "let this user write there, or correct store.url",
        ],
    );
    let disk = Disk::mount(&greypit.path("readonly"), "1m");
    disk.change("ro");
    greypit.set("store.url", read_only);
    assert_refused(
        &greypit,
        "url",
        &[
            "store.url: cannot write to the directory",
            "Read-only file system",
            "let this user write there, or correct store.url",
        ],
    );
}

#[test]
fn a_port_in_use_is_refused_in_one_line() {
    let greypit = Daemon::new("");
    for (addr, at, expected) in [
        (greypit.tcp, "tcp", ["syslog.tcp: cannot listen on", "stop that one or choose another port"]),
        (greypit.addr(), "listen", ["http.listen: cannot listen on", "choose another port"]),
    ] {
        let _listener = TcpListener::bind(addr).expect("a free port");
        assert_refused(&greypit, at, &[expected[0], "Address already in use", expected[1]]);
    }
}

#[test]
fn a_wrong_bucket_and_wrong_credentials_are_refused_in_one_line() {
    let server = S3Server::start();
    for (bucket, env, expected) in [
        ("no-such-bucket", vec![], ["s3://no-such-bucket", "does not exist: create it or correct store.url"]),
        (
            S3Server::BUCKET,
            vec![("AWS_SECRET_ACCESS_KEY", "wrong")],
            ["s3://mail-archive", "the credentials are not accepted: SignatureDoesNotMatch"],
        ),
        (
            S3Server::BUCKET,
            vec![("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("HOME", "/nonexistent")],
            ["s3://mail-archive", "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"],
        ),
    ] {
        let mut greypit = Daemon::new(&s3(&server.endpoint(), bucket));
        greypit.env(server.env());
        greypit.env(env);
        assert_refused(&greypit, "url", &[&format!("store.url: cannot use {}", expected[0]), expected[1]]);
    }
}

#[test]
fn a_data_folder_that_cannot_be_used_is_refused_in_one_line() {
    let greypit = Daemon::new("");
    let said = |expected: &[&str]| {
        let text = refusal(&greypit);
        assert!(text.starts_with(&format!("{}data_dir: ", line_of(&greypit, "data_dir"))), "{text}");
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    };
    std::fs::write(greypit.data_dir(), "").expect("a file in its place");
    said(&["cannot create", "data/spool: Not a directory", "choose another folder"]);
    std::fs::remove_file(greypit.data_dir()).expect("the file");
    let disk = Disk::mount(&greypit.data_dir(), "1m");
    std::fs::create_dir(greypit.data_dir().join("spool")).expect("a folder of before");
    disk.change("ro");
    said(&["cannot open", "data/spool/lock: Read-only file system", "choose another folder"]);
    disk.change("rw");
    let _held = {
        let lock = std::fs::File::create(greypit.data_dir().join("spool/lock")).expect("the lock");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("it is free");
        lock
    };
    said(&["is in use by another greypit; stop that one or give this one its own"]);
}

#[test]
fn bad_input_is_counted_and_costs_no_neighbour() {
    let mut greypit = Daemon::new(BATCH);
    greypit.start();
    greypit.wait_ready();
    let long = "y".repeat(1 << 20);
    let line = |text: &[u8]| [b"<22>Nov 20 14:00:00 mx2 fault[7]: ", text, b"\n"].concat();
    let framed = |text: &[u8]| {
        let message = line(text);
        [format!("{} ", message.len() - 1).as_bytes(), &message[..message.len() - 1]].concat()
    };
    let tell = |bytes: &[&[u8]]| {
        let mut stream = TcpStream::connect(greypit.tcp).expect("greypit listens");
        for part in bytes {
            let _closed_by_greypit = stream.write_all(part);
        }
        let _closed_by_greypit = stream.shutdown(Shutdown::Write);
        let _reset = stream.read_to_end(&mut Vec::new());
    };
    tell(&[&line(b"a1"), &line(long.as_bytes()), &line(b"a2"), &line(b"nul \0 inside"), &line(b"a3")]);
    tell(&[&line(b"b1"), &line(b"half \xe2\x82"), &line(b"b2"), b"no syslog at all \xff\n", &line(b"b3")]);
    tell(&[&framed(b"c1"), &framed(b"c2"), b"99999999999 ", &framed(b"never read")]);
    tell(&[&framed(b"d1"), b"9999999 ", &line(b"never read")]);
    tell(&[&framed(b"e1"), b"12x", &line(b"never read")]);
    tell(&[&framed(b"f1"), b"500 cut off"]);
    tell(&[&framed(b"g1"), &line(b"g2 without end")[..40]]);
    let mut file = std::fs::File::options().append(true).open(greypit.log_file()).expect("the file");
    let unframed = |text: &[u8]| line(text)[4..].to_vec();
    for part in [b"h1".as_slice(), long.as_bytes(), b"h2", b"nul \0 inside", b"h3", b"half \xe2\x82", b"h4"] {
        file.write_all(&unframed(part)).expect("written");
    }
    let expected: [(&str, usize); 16] = [
        ("a1", 1),
        ("a2", 1),
        ("a3", 1),
        ("b1", 1),
        ("b2", 1),
        ("b3", 1),
        ("c1", 1),
        ("c2", 1),
        ("d1", 1),
        ("e1", 1),
        ("f1", 1),
        ("h1", 1),
        ("h2", 1),
        ("h3", 1),
        ("h4", 1),
        ("never read", 0),
    ];
    greypit.wait_shipped(24);
    greypit.assert_alive();
    greypit.wait_ready();
    greypit.assert_verified();
    let found = greypit.messages();
    for (text, count) in expected {
        assert_eq!(found.iter().filter(|message| *message == text).count(), count, "{text}");
    }
    for (text, count) in [("nul \0 inside", 2), ("half \u{fffd}", 2)] {
        assert_eq!(found.iter().filter(|message| *message == text).count(), count, "{text:?}");
    }
    let cut: Vec<usize> = found.iter().filter(|message| message.starts_with("yyy")).map(String::len).collect();
    assert!(cut.len() == 2 && cut.iter().all(|bytes| (65_000..=65_536).contains(bytes)), "{cut:?}");
    for (series, value) in [
        ("greypit_syslog_framing_errors_total{reason=\"message_too_long\"}", 1),
        ("greypit_syslog_framing_errors_total{reason=\"count_too_long\"}", 1),
        ("greypit_syslog_framing_errors_total{reason=\"count_too_large\"}", 1),
        ("greypit_syslog_framing_errors_total{reason=\"count_not_a_number\"}", 1),
        ("greypit_syslog_framing_errors_total{reason=\"cut_off\"}", 1),
        ("greypit_syslog_connections", 0),
    ] {
        assert_eq!(greypit.series(series), value, "{series}");
    }
    assert_eq!(
        found.len(),
        24,
        "{:?}",
        found.iter().map(|m| m.chars().take(30).collect::<String>()).collect::<Vec<_>>()
    );
}
