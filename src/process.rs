//! The process as the system sees it. What it uses, under the names that every Prometheus client gives it: `process_cpu_seconds_total`,
//! `process_resident_memory_bytes`, `process_open_fds`, `process_max_fds`, `process_threads`,
//! `process_start_time_seconds`. Read from /proc when scraped; a figure that cannot be read is left out.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};

/// Adds the metrics to `registry`.
///
/// # Errors
/// Where `registry` has them already.
pub fn register(registry: &Registry) -> prometheus::Result<()> {
    let gauge = |name, help| Gauge::new(name, help);
    registry.register(Box::new(Process {
        adding: Mutex::new(()),
        cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time.")?,
        resident: gauge("process_resident_memory_bytes", "Memory in RAM.")?,
        threads: gauge("process_threads", "Threads.")?,
        started: gauge("process_start_time_seconds", "When the process was started, in seconds since 1970.")?,
        open_fds: gauge("process_open_fds", "Open file descriptors.")?,
        max_fds: gauge("process_max_fds", "The limit of open file descriptors.")?,
    }))
}

/// Lets the process open as many files as the system allows: each connection of a mail server is one. systemd, for one,
/// starts services with few and allows many.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, open_files = limit.current, "the limit of open files cannot be raised");
    }
}

/// Tells systemd `READY=1` or `STOPPING=1` where it started us and wants to know (sd_notify(3), `Type=notify`).
pub fn tell_systemd(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(socket.as_bytes(), state)
    {
        tracing::warn!(%error, state, "systemd cannot be told");
    }
}

/// `socket` is a path, or with `@` in front an abstract name.
fn send(socket: &[u8], state: &str) -> io::Result<()> {
    let address = match socket {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// The unit of times in /proc, which is the same on every Linux that Rust's std runs on.
const TICKS_A_SECOND: f64 = 100.0;

struct Process {
    adding: Mutex<()>,
    cpu: Counter,
    resident: Gauge,
    threads: Gauge,
    started: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.resident, &self.threads, &self.started, &self.open_fds, &self.max_fds];
        self.cpu.desc().into_iter().chain(gauges.into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            // A counter cannot be set, and two scrapes at once must not both add the same.
            let _alone = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
            let cpu = stat.cpu_ticks as f64 / TICKS_A_SECOND;
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            self.threads.set(stat.threads as f64);
            families.extend([self.cpu.collect(), self.threads.collect()]);
            if let Some(booted) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time) {
                self.started.set(booted as f64 + stat.start_ticks as f64 / TICKS_A_SECOND);
                families.push(self.started.collect());
            }
        }
        if let Some(kib) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_kib) {
            self.resident.set(kib as f64 * 1024.0);
            families.push(self.resident.collect());
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One is that of the listing itself.
            self.open_fds.set(open.count().saturating_sub(1) as f64);
            families.push(self.open_fds.collect());
        }
        if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            self.max_fds.set(max as f64);
            families.push(self.max_fds.collect());
        }
        families.into_iter().flatten().collect()
    }
}

/// The fields of /proc/self/stat that are needed, see proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The second field is the program's name in parentheses, which may hold blanks and parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // The manual counts from 1, and `fields` begins with the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat { cpu_ticks: field(14)? + field(15)?, threads: field(20)?, start_ticks: field(22)? })
    }
}

/// Seconds since 1970.
fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_kib(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c) R 1 1 1 0 -1 4194304 2 0 0 0 30 12 0 0 20 0 5 0 999 1000 64 1844 1 1 0 0\n";
        let stat = Stat { cpu_ticks: 42, threads: 5, start_ticks: 999 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (a"), None);
        assert_eq!(Stat::parse("7 (a) R 1"), None);
    }

    #[test]
    fn systemd_is_told_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("greypit-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, told) in [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().as_bytes().to_vec()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into_bytes()),
        ] {
            send(&told, "READY=1").unwrap();
            let mut text = [0; 64];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1");
        }
        assert!(send(b"/nowhere/notify", "READY=1").is_err());
    }

    #[test]
    fn every_figure_is_there_and_plausible() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let value = |name: &str| {
            let families = registry.gather();
            let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("{name}"));
            let metric = &family.get_metric()[0];
            metric.get_counter().get_value() + metric.get_gauge().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") < value("process_max_fds"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - value("process_start_time_seconds")).abs() < 86_400.0);
        let before = value("process_cpu_seconds_total");
        let mut sum = 0u64;
        while value("process_cpu_seconds_total") <= before {
            sum = std::hint::black_box((0..100_000).fold(sum, |sum, n| sum.wrapping_add(n)));
        }
    }
}
