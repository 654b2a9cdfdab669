//! What the milter costs beside a filter in C, and what held connections cost: `cargo bench --bench milter`.
//!
//! **Mail.** Sixteen connections at a time, ten messages of 4 KB on each, as fast as the answers come. The reference is
//! `benches/count_mail.c`, which counts MAIL through libmilter and does nothing else; greypit runs as it does in
//! production, from its spool to a directory, and records every transaction. Both are started anew and loaded in turn;
//! CPU time is user plus system of the whole process. For greypit it is taken twice: while mail flows, and until the
//! process has ended with every record compressed and stored. The records are counted in the objects.
//!
//! **Held** (`-- --held 10000`, the default). So many connections wait for the answer to the MAIL that is over the limit
//! while the same sixteen deliver ordinary mail; the reference is a second greypit that holds none, in turn. Then SIGTERM:
//! every held connection must get its answer, and the process must end.
//!
//! Other arguments: `--pairs 5`, `--seconds 4`, `--pause-us 0` (between the commands of a message, as an SMTP client
//! makes it), `--no-mail`.
//!
//! Needs a C compiler and libmilter (Debian: `apt-get install gcc libmilter-dev`).

mod http;
mod mta;
#[path = "../real/support/net.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod net;

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use greypit_pipeline::codec::Codec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use mta::{Answer, Message, Session};
use net::free_port;

const CONNECTIONS: usize = 16;
const MESSAGES: u64 = 10;
const WAIT: Duration = Duration::from_secs(120);

/// Descriptors for everything that is no held connection.
const SPARE_FILES: u64 = 200;

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(counter) = build(folder.path()) else { return ExitCode::FAILURE };
    let load = Load {
        seconds: argument("--seconds").unwrap_or(4.0),
        pause: Duration::from_micros(argument("--pause-us").unwrap_or(0)),
        pairs: argument::<usize>("--pairs").unwrap_or(5).max(1),
    };
    if !std::env::args().any(|arg| arg == "--no-mail") {
        mail(&counter, &load);
    }
    match argument("--held").unwrap_or(10_000) {
        0 => {}
        held => hold(&load, held),
    }
    ExitCode::SUCCESS
}

fn argument<T: FromStr>(name: &str) -> Option<T> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.nth(1)?.parse().ok()
}

/// The filter in C.
fn build(folder: &Path) -> Option<PathBuf> {
    let program = folder.join("count_mail");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/count_mail.c");
    let built = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(source)
        .args(["-lmilter", "-lpthread"])
        .status()
        .is_ok_and(|status| status.success());
    if !built {
        eprintln!("{source} does not compile; it needs a C compiler and libmilter: apt-get install gcc libmilter-dev");
    }
    built.then_some(program)
}

#[derive(Debug)]
struct Load {
    seconds: f64,
    pause: Duration,
    pairs: usize,
}

/// What a round of ordinary mail gave.
#[derive(Debug)]
struct Round {
    messages: u64,
    rate: f64,
    /// Milliseconds that the filter added to a message.
    p50: f64,
    p99: f64,
}

impl Load {
    /// Ordinary mail for so many seconds: nothing of it may be refused.
    fn run(&self, socket: &Path, serial: &AtomicU64) -> Round {
        let began = Instant::now();
        let mut added: Vec<u32> = std::thread::scope(|scope| {
            let clients = (0..CONNECTIONS).map(|_| scope.spawn(|| self.client(socket, serial, began)));
            let clients: Vec<_> = clients.collect();
            clients.into_iter().flat_map(|client| client.join().expect("the filter keeps answering")).collect()
        });
        let seconds = began.elapsed().as_secs_f64();
        added.sort_unstable();
        let quantile = |q: f64| f64::from(added[((added.len() - 1) as f64 * q) as usize]) / 1e6;
        Round {
            messages: added.len() as u64,
            rate: added.len() as f64 / seconds,
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }

    /// One connection after the other; nanoseconds of each message.
    fn client(&self, socket: &Path, serial: &AtomicU64, began: Instant) -> Vec<u32> {
        let mut added = Vec::new();
        while began.elapsed().as_secs_f64() < self.seconds {
            let first = serial.fetch_add(MESSAGES, Ordering::Relaxed);
            let mut session = Session::open(socket, first / MESSAGES).expect("the filter takes the connection");
            for message in (first..first + MESSAGES).map(Message) {
                self.pause();
                let began = Instant::now();
                assert_eq!(session.mail(message).expect("the filter answers"), Answer::Pass);
                let mail = began.elapsed();
                self.pause();
                let began = Instant::now();
                assert_eq!(session.rest(message).expect("the filter answers"), Answer::Pass);
                added.push((mail + began.elapsed()).as_nanos() as u32);
            }
            session.quit().expect("the filter is there");
        }
        added
    }

    fn pause(&self) {
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
    }
}

fn mail(counter: &Path, load: &Load) {
    println!(
        "ordinary mail: {CONNECTIONS} connections at a time, {MESSAGES} messages of {} bytes each, {} s a round",
        mta::MESSAGE_BYTES,
        load.seconds
    );
    println!(
        "{:>4}  {:<12} {:>10} {:>16} {:>18} {:>8} {:>8}",
        "pair", "filter", "messages/s", "CPU µs a message", "µs with the store", "p50 ms", "p99 ms"
    );
    let (mut flowing, mut stored) = (Vec::new(), Vec::new());
    let (mut c, mut ours) = (Vec::new(), Vec::new());
    let line = |pair, name: &str, round: &Round, cpu: f64, all: String| {
        println!(
            "{pair:>4}  {name:<12} {:>10.0} {cpu:>16.1} {all:>18} {:>8.2} {:>8.2}",
            round.rate, round.p50, round.p99
        );
    };
    for pair in 1..=load.pairs {
        // Whichever is first has the colder caches.
        for turn in 0..2 {
            if (pair + turn) % 2 == 1 {
                let (round, cpu) = by_c(counter, load);
                line(pair, "C", &round, cpu, "-".to_owned());
                c.push((round, cpu));
            } else {
                let (round, flow, all) = by_greypit(load);
                line(pair, "greypit", &round, flow, format!("{all:.1}"));
                ours.push((round, flow, all));
            }
        }
        let (_, reference) = c[pair - 1];
        flowing.push(ours[pair - 1].1 / reference);
        stored.push(ours[pair - 1].2 / reference);
    }
    let of_c = |pick: fn(&(Round, f64)) -> f64| median(c.iter().map(pick).collect());
    let of_ours = |pick: fn(&(Round, f64, f64)) -> f64| median(ours.iter().map(pick).collect());
    println!(
        "median C: {:.0} messages/s, {:.1} µs, p50 {:.2} ms, p99 {:.2} ms",
        of_c(|run| run.0.rate),
        of_c(|run| run.1),
        of_c(|run| run.0.p50),
        of_c(|run| run.0.p99)
    );
    println!(
        "median greypit: {:.0} messages/s, {:.1} µs, {:.1} µs with the records compressed and stored, p50 {:.2} ms, p99 {:.2} ms",
        of_ours(|run| run.0.rate),
        of_ours(|run| run.1),
        of_ours(|run| run.2),
        of_ours(|run| run.0.p50),
        of_ours(|run| run.0.p99)
    );
    println!("CPU a message, greypit by C: {} (target: at most 1)", spread(flowing));
    println!("the same with the records compressed and stored: {}", spread(stored));
}

fn by_c(counter: &Path, load: &Load) -> (Round, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let filter = CountMail::start(counter, folder.path());
    let round = load.run(&filter.socket, &AtomicU64::new(0));
    let cpu = cpu_of(filter.child.id()) * 1e6 / round.messages as f64;
    (round, cpu)
}

/// CPU a message while mail flows, and all of it until the records are in the store. A round in which the disk was so
/// slow that records were dropped would flatter greypit, so it is taken again.
fn by_greypit(load: &Load) -> (Round, f64, f64) {
    loop {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let greypit = Greypit::start(folder.path(), "", "window = \"1d\"\n");
        let before = children_cpu();
        let round = load.run(&greypit.socket, &AtomicU64::new(0));
        // The last records' fsync.
        greypit.settle();
        let flow = cpu_of(greypit.child.id()) * 1e6 / round.messages as f64;
        let dropped = greypit.dropped();
        greypit.finish();
        let all = (children_cpu() - before) * 1e6 / round.messages as f64;
        let records = records(&folder.path().join("objects"));
        assert_eq!(records + dropped, round.messages, "every transaction is a record, or counted");
        if dropped == 0 {
            return (round, flow, all);
        }
        println!("      the disk was too slow for {dropped} of {} records; this round again", round.messages);
    }
}

/// The flooders' third message is held for four minutes, far longer than this takes.
const HOLDING: &str = "max_tarpitted = 20000\nmax_connections = 20000\n[[milter.rule]]\nname = \"flooders\"\n\
    clients = [\"198.19.0.0/16\"]\nlimit = 1\nstep = \"4m\"\nmax_delay = \"4m\"\n";

fn hold(load: &Load, wanted: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [holding, empty] = ["holding", "empty"].map(|name| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).expect("the folder is made");
        // Compressing has its memory and its time elsewhere: see `mail`, and the end of this.
        Greypit::start(&folder, HOLDING, "window = \"1d\"\nflush_on_exit = false\n")
    });
    // Only now: the filter has to raise its own limit.
    let held = wanted.min(files() as usize);
    let idle = holding.memory();
    let began = Instant::now();
    let sessions: Vec<Session> = (0..held).map(|n| over_the_limit(&holding.socket, n, true)).collect();
    let seconds = began.elapsed().as_secs_f64();
    // The other one has the same to do and holds nothing, so that what records cost is in both.
    for number in 0..held {
        over_the_limit(&empty.socket, number, false).quit().expect("the filter is there");
    }
    for greypit in [&holding, &empty] {
        greypit.settle();
    }
    assert!(is_held(&sessions), "a connection is not held");
    let (with, without) = (holding.memory(), empty.memory());
    println!(
        "held: {held} connections (made in {seconds:.1} s), {:.0} bytes resident each (target: at most 2048), {} threads; \
         resident {:.1} MiB at the start, {:.1} MiB now, {:.1} MiB after the same without holding",
        (with - without) * 1024.0 / held as f64,
        threads(holding.child.id()),
        idle / 1024.0,
        with / 1024.0,
        without / 1024.0
    );

    let serial = AtomicU64::new(0);
    for greypit in [&holding, &empty] {
        load.run(&greypit.socket, &serial);
        greypit.settle();
    }
    let mut ratios = Vec::new();
    println!(
        "{:>4}  {:>10} {:>8} {:>8}   {:>10} {:>8} {:>8}",
        "pair", "none held", "p50 ms", "p99 ms", "held", "p50 ms", "p99 ms"
    );
    for pair in 1..=load.pairs {
        let mut rounds = [&empty, &holding].map(|greypit| (greypit, None));
        if pair % 2 == 0 {
            rounds.reverse();
        }
        for (greypit, round) in &mut rounds {
            *round = Some(load.run(&greypit.socket, &serial));
            greypit.settle();
        }
        if pair % 2 == 0 {
            rounds.reverse();
        }
        let [(_, Some(none)), (_, Some(all))] = rounds else { unreachable!("both ran") };
        println!(
            "{pair:>4}  {:>10.0} {:>8.2} {:>8.2}   {:>10.0} {:>8.2} {:>8.2}",
            none.rate, none.p50, none.p99, all.rate, all.p50, all.p99
        );
        ratios.push(all.p99 / none.p99);
    }
    println!("p99 of ordinary mail, {held} held by none: {} (target: at most 1.5)", spread(ratios));

    terminate(holding, sessions, "records left in the spool");
    drop(empty);

    // Windows so short that when it is asked to end it has little more to ship than what was held.
    let shipping = Greypit::start(folder.path(), HOLDING, "window = \"1s\"\n");
    let sessions = (0..held).map(|n| over_the_limit(&shipping.socket, n, true)).collect();
    shipping.settle();
    wait_for("the store", || shipping.gauge("greypit_waiting_events") == Some(0.0));
    terminate(shipping, sessions, "their records compressed and stored");
}

/// SIGTERM with all held: each must get its answer, and the process must end.
fn terminate(mut greypit: Greypit, mut sessions: Vec<Session>, drain: &str) {
    let held = sessions.len();
    assert!(is_held(&sessions), "a connection is not held");
    let began = Instant::now();
    greypit.terminate();
    let (answered, ended) = std::thread::scope(|scope| {
        let answered = scope.spawn(|| {
            let answers = sessions.iter_mut().filter_map(|session| session.answer().ok());
            let answered = answers.filter(|answer| matches!(answer, Answer::Refused(text) if text.len() > 1)).count();
            (answered, began.elapsed())
        });
        let ended = greypit.wait();
        (answered.join().expect("sockets can be read"), ended.duration_since(began))
    });
    println!(
        "SIGTERM with {held} held: {} answered within {:.0} ms, ended after {:.0} ms, {drain} (target: all, under 1000 ms)",
        answered.0,
        answered.1.as_secs_f64() * 1e3,
        ended.as_secs_f64() * 1e3
    );
}

/// Whether none of them has been answered.
fn is_held(sessions: &[Session]) -> bool {
    sessions.iter().all(|session| !is_readable(session.stream()))
}

/// A flooder's connection: one message passes, one is refused at once, one more is not answered yet.
fn over_the_limit(socket: &Path, number: usize, held: bool) -> Session {
    let client = mta::FLOODERS + number as u64;
    let mut session = Session::open(socket, client).expect("the filter takes the connection");
    let message = |n| Message((number as u64 + 1_000_000_000) * MESSAGES + n);
    assert_eq!(session.mail(message(0)).expect("the filter answers"), Answer::Pass);
    session.abort().expect("the filter is there");
    assert!(matches!(session.mail(message(1)).expect("the filter answers"), Answer::Refused(_)));
    if held {
        session.mail_unanswered(message(2)).expect("the filter is there");
    }
    session
}

fn is_readable(stream: &UnixStream) -> bool {
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}

/// Raises the limit of descriptors as far as it goes; how many connections can be held.
fn files() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit may be raised");
    maximum.unwrap_or(u64::MAX) - SPARE_FILES
}

struct CountMail {
    child: Child,
    socket: PathBuf,
}

impl CountMail {
    fn start(program: &Path, folder: &Path) -> CountMail {
        let socket = folder.join("sock");
        let child = Command::new(program).arg(&socket).spawn().expect("the filter starts");
        wait_for("the filter in C", || UnixStream::connect(&socket).is_ok());
        CountMail { child, socket }
    }
}

impl Drop for CountMail {
    fn drop(&mut self) {
        // Asked to end it looks around every few seconds only.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Greypit {
    child: Child,
    socket: PathBuf,
    http: u16,
}

impl Greypit {
    fn start(folder: &Path, milter: &str, batch: &str) -> Greypit {
        let http = free_port();
        let (socket, config) = (folder.join("sock"), folder.join("greypit.toml"));
        let text = format!(
            "node = \"mx1\"\ndata_dir = {:?}\n[milter]\nlisten = [\"unix:{}\"]\n{milter}[syslog]\nudp = []\ntcp = []\n\
             [batch]\n{batch}max_bytes = \"512MiB\"\nworkers = 1\ndrain_timeout = \"10m\"\n[store]\nurl = {:?}\n\
             [http]\nlisten = \"127.0.0.1:{http}\"\n",
            folder.join("data"),
            socket.display(),
            folder.join("objects"),
        );
        fs::write(&config, text).expect("the config is written");
        let log = fs::File::create(folder.join("log")).expect("the log is made");
        let child = Command::new(env!("CARGO_BIN_EXE_greypit"))
            .args(["run", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("greypit starts");
        let greypit = Greypit { child, socket, http };
        wait_for("greypit", || greypit.get("/healthz").is_some() && UnixStream::connect(&greypit.socket).is_ok());
        greypit
    }

    fn get(&self, path: &str) -> Option<String> {
        http::get(self.http, path)
    }

    fn gauge(&self, name: &str) -> Option<f64> {
        let metrics = self.get("/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Records dropped because the queue in front of the spool was full.
    fn dropped(&self) -> u64 {
        let metrics = self.get("/metrics").expect("greypit answers");
        let lines = metrics.lines().filter(|line| line.starts_with("greypit_milter_events_dropped_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Waits until every record is in the spool, so that what comes next is not measured with it.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(200));
        wait_for("the spool", || self.gauge("greypit_spool_queue_bytes") == Some(0.0));
    }

    fn memory(&self) -> f64 {
        resident_kib(self.child.id())
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("greypit runs");
    }

    fn wait(&mut self) -> Instant {
        let status = self.child.wait().expect("greypit ends");
        let ended = Instant::now();
        assert!(status.success());
        ended
    }

    /// Stops it as systemd would; it drains.
    fn finish(mut self) {
        self.terminate();
        self.wait();
    }
}

impl Drop for Greypit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < WAIT, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn records(folder: &Path) -> u64 {
    let mut found = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found += records(&path);
        } else {
            let bytes = fs::read(&path).expect("the object is there");
            let mut text = Vec::new();
            Codec::Bzip2.decoder(&bytes).read_to_end(&mut text).expect("the object is whole");
            found += text.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }
    found
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread(values: Vec<f64>) -> String {
    let (min, max) = values.iter().fold((f64::MAX, 0.0_f64), |(min, max), value| (min.min(*value), max.max(*value)));
    format!("min {min:.2} median {:.2} max {max:.2}", median(values))
}

fn resident_kib(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    field(&rollup, "Rss:")
}

fn threads(pid: u32) -> f64 {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), "Threads:")
}

fn field(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or_default()
}

/// User and system seconds of a process that runs, with all its threads, also those that have ended.
fn cpu_of(pid: u32) -> f64 {
    cpu(&format!("/proc/{pid}/stat"), 11)
}

/// The same of children that have ended.
fn children_cpu() -> f64 {
    cpu("/proc/self/stat", 13)
}

fn cpu(path: &str, field: usize) -> f64 {
    let stat = fs::read_to_string(path).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    // USER_HZ is 100 on Linux.
    (ticks(field) + ticks(field + 1)) / 100.0
}
