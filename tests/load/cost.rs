//! What the whole path costs beside compressing alone: `cargo bench --bench cost`.
//!
//! The gateway takes a mail log by TCP syslog, parses, spools, compresses and writes objects to a directory; the
//! reference compresses the very same NDJSON with the same library at the same level, in one thread. CPU time is user
//! plus system, of the process. Both run in turn; the ratio is printed pair by pair. Target: at most 1.15.
//!
//! Then memory: resident size idle, and with the store away and events waiting (`-- --waiting 10000000` for ten million;
//! the default is one million).

mod http;
mod maillog;
#[path = "../real/support/net.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod net;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use greypit_pipeline::codec::Codec;

use net::free_port;

const PAIRS: usize = 5;
const MESSAGES: usize = 100_000;
const WAIT: Duration = Duration::from_secs(600);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).and_then(|n| n.parse().ok())
    };
    let waiting: usize = value("--waiting").unwrap_or(1_000_000);
    cost(value("--pairs").unwrap_or(PAIRS));
    memory(waiting);
}

fn cost(pairs: usize) {
    let mut log = Vec::new();
    maillog::write(MESSAGES, &mut log);
    let lines = log.iter().filter(|byte| **byte == b'\n').count();
    println!("input: {lines} lines, {:.1} MB of syslog over TCP", log.len() as f64 / 1e6);
    let mut ratios = Vec::new();
    for pair in 1..=pairs {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let gateway = Gateway::start(folder.path(), &folder.path().join("objects"));
        let before = children_cpu();
        gateway.send(&log);
        gateway.finish();
        let path = children_cpu() - before;

        let ndjson = objects(&folder.path().join("objects"));
        let raw: usize = ndjson.iter().map(Vec::len).sum();
        let before = own_cpu();
        for object in &ndjson {
            let mut encoder = Codec::Bzip2.encoder(Some(9));
            encoder.write_all(object).expect("memory takes it");
            std::hint::black_box(encoder.finish().expect("memory takes it"));
        }
        let alone = own_cpu() - before;
        ratios.push(path / alone);
        println!(
            "pair {pair}: path {path:.2} s CPU, compressing the same {:.1} MB of NDJSON alone {alone:.2} s ({:.1} MB/s), ratio {:.3}; \
             {:.2} µs a line outside compression",
            raw as f64 / 1e6,
            raw as f64 / 1e6 / alone,
            path / alone,
            (path - alone) * 1e6 / lines as f64
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "ratio: min {:.3} median {:.3} max {:.3} (target: at most 1.15)",
        ratios[0],
        ratios[pairs / 2],
        ratios[pairs - 1]
    );
}

fn memory(events: usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A file where the store's folder should be: the store is away.
    let away = folder.path().join("objects");
    fs::write(&away, b"").expect("the file is written");
    let gateway = Gateway::start(folder.path(), &away);
    println!("memory idle: {:.1} MiB resident (target: under 64)", gateway.resident_mib());
    let mut log = Vec::new();
    maillog::write(MESSAGES, &mut log);
    let lines = log.iter().filter(|byte| **byte == b'\n').count();
    let mut sent = 0;
    let mut most = 0.0_f64;
    let began = Instant::now();
    while sent < events {
        gateway.send(&log);
        sent += lines;
        most = most.max(gateway.resident_mib());
    }
    while gateway.spooled() < sent as u64 {
        assert!(began.elapsed() < WAIT, "{} of {sent} events are in the spool", gateway.spooled());
        std::thread::sleep(Duration::from_millis(50));
    }
    let seconds = began.elapsed().as_secs_f64();
    most = most.max(gateway.resident_mib());
    println!(
        "memory with the store away and {sent} events waiting: {most:.1} MiB resident at most (target: under 256); \
         taken at {:.0} events/s",
        sent as f64 / seconds
    );
    gateway.kill();
}

struct Gateway {
    child: Child,
    syslog: u16,
    http: u16,
}

impl Gateway {
    fn start(folder: &Path, store: &Path) -> Gateway {
        let (syslog, http) = (free_port(), free_port());
        let config = folder.join("greypit.toml");
        let text = format!(
            "node = \"mx1\"\ndata_dir = {:?}\n[log]\nlevel = \"error\"\n[syslog]\nudp = []\ntcp = [\"127.0.0.1:{syslog}\"]\n\
             [spool]\nmax_bytes = \"64GiB\"\n[batch]\nwindow = \"1h\"\nworkers = 1\ndrain_timeout = \"10m\"\n[store]\nurl = {:?}\n\
             [http]\nlisten = \"127.0.0.1:{http}\"\n",
            folder.join("data"),
            store
        );
        // A store that is away is a mistake in the config when it is a file; that check is for the start, so make it a
        // folder until greypit runs.
        let away = store.is_file();
        if away {
            fs::remove_file(store).expect("the file is removed");
        }
        fs::write(&config, text).expect("the config is written");
        let child = Command::new(env!("CARGO_BIN_EXE_greypit"))
            .args(["run", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .spawn()
            .expect("greypit starts");
        let gateway = Gateway { child, syslog, http };
        let began = Instant::now();
        while gateway.get("/healthz").is_none() {
            assert!(began.elapsed() < WAIT, "greypit does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        if away {
            let _ = fs::remove_dir_all(store);
            fs::write(store, b"").expect("the file is written");
        }
        gateway
    }

    fn send(&self, log: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.syslog)).expect("greypit listens");
        stream.write_all(log).expect("greypit takes it");
    }

    fn get(&self, path: &str) -> Option<String> {
        http::get(self.http, path)
    }

    fn spooled(&self) -> u64 {
        let metrics = self.get("/metrics").unwrap_or_default();
        let counters = metrics.lines().filter(|line| line.starts_with("greypit_spool_events_total{"));
        counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    }

    /// Stops it as systemd would; it drains.
    fn finish(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("greypit runs");
        assert!(self.child.wait().expect("greypit ends").success());
    }

    fn kill(mut self) {
        self.child.kill().expect("greypit runs");
        self.child.wait().expect("greypit ends");
    }
}

fn objects(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).expect("the object is there");
                let mut text = Vec::new();
                Codec::Bzip2.decoder(&bytes).read_to_end(&mut text).expect("the object is whole");
                found.push(text);
            }
        }
    }
    found
}

/// CPU seconds of children that have ended; field 16 and 17 of /proc/self/stat.
fn children_cpu() -> f64 {
    cpu(13)
}

fn own_cpu() -> f64 {
    cpu(11)
}

fn cpu(field: usize) -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    // USER_HZ is 100 on Linux.
    (ticks(field) + ticks(field + 1)) / 100.0
}
