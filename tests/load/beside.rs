//! greypit and rsyslogd as children, each with one syslog socket, to be measured beside each other.
//!
//! rsyslogd is as Debian ships it, with the input given and omfile as its only action, in its own default format;
//! greypit is as it ships. Both have the same receive buffer. "Taken" is what is on disk: lines in rsyslogd's file,
//! events in greypit's spool. rsyslogd is the unpacked one of tests/run.sh ($GREYPIT_CACHE), else the one in the PATH.

// Every benchmark compiles this module and uses some of it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::net::free_port;

pub(crate) const MESSAGE_BYTES: usize = 250;
const WAIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Greypit,
    Rsyslog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Udp,
    Tcp,
}

/// A running receiver.
pub(crate) struct Receiver {
    child: Child,
    pub(crate) port: u16,
    http: u16,
    which: Which,
    folder: TempDir,
    /// Of one line in rsyslogd's file; all are equal.
    line_bytes: u64,
}

impl Receiver {
    /// `to_disk`: greypit compresses nothing before its end.
    pub(crate) fn start(which: Which, input: Input, to_disk: bool) -> Receiver {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (port, http) = (free_port(), free_port());
        let child = match which {
            Which::Greypit => greypit(folder.path(), input, port, http, to_disk),
            Which::Rsyslog => rsyslog(folder.path(), input, port),
        };
        let receiver = Receiver { child, port, http, which, folder, line_bytes: 0 };
        wait("a receiver", || match (which, input) {
            (Which::Greypit, _) => receiver.get("/healthz").is_some(),
            (Which::Rsyslog, Input::Udp) => !udp_rows(port).is_empty(),
            (Which::Rsyslog, Input::Tcp) => TcpStream::connect(("127.0.0.1", port)).is_ok(),
        });
        receiver
    }

    /// Messages that are on disk.
    pub(crate) fn taken(&mut self) -> u64 {
        match self.which {
            Which::Greypit => self.metric("greypit_spool_events_total{"),
            Which::Rsyslog => {
                let file = self.folder.path().join("out");
                let bytes = fs::metadata(&file).map_or(0, |file| file.len());
                if self.line_bytes == 0 && bytes > 0 {
                    let mut head = [0; 1024];
                    let read =
                        fs::File::open(&file).and_then(|mut file| file.read(&mut head)).expect("the file is there");
                    self.line_bytes = head[..read].iter().position(|b| *b == b'\n').map_or(0, |at| at as u64 + 1);
                }
                bytes / self.line_bytes.max(1)
            }
        }
    }

    /// The sum of the series that begin so.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.get("/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// What the kernel says it dropped at the sockets of its port.
    pub(crate) fn kernel_drops(&self) -> u64 {
        udp_rows(self.port).iter().sum()
    }

    /// Waits until nothing more arrives on disk, and says how much did.
    pub(crate) fn settle(&mut self) -> u64 {
        let (mut seen, mut since) = (self.taken(), Instant::now());
        while since.elapsed() < Duration::from_millis(1500) {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.taken();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        seen
    }

    /// CPU seconds so far, user and system.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("Linux, and it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // USER_HZ is 100 on Linux.
        [11, 12].iter().map(|at| fields[*at].parse::<f64>().unwrap_or_default() / 100.0).sum()
    }

    fn get(&self, path: &str) -> Option<String> {
        crate::http::get(self.http, path)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

fn greypit(folder: &Path, input: Input, port: u16, http: u16, to_disk: bool) -> Child {
    let (udp, tcp) = match input {
        Input::Udp => (format!("\"127.0.0.1:{port}\""), String::new()),
        Input::Tcp => (String::new(), format!("\"127.0.0.1:{port}\"")),
    };
    let batch = if to_disk { "[batch]\nwindow = \"1d\"\nmax_bytes = \"1GiB\"\n" } else { "" };
    let text = format!(
        "node = \"mx1\"\ndata_dir = {:?}\n[log]\nlevel = \"error\"\n[syslog]\nudp = [{udp}]\ntcp = [{tcp}]\n{batch}\
         [store]\nurl = {:?}\n[http]\nlisten = \"127.0.0.1:{http}\"\n",
        folder.join("data"),
        folder.join("objects"),
    );
    let config = folder.join("greypit.toml");
    fs::write(&config, text).expect("the config is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_greypit"));
    command.args(["run", "--config"]).arg(&config).stdout(Stdio::null()).spawn().expect("greypit starts")
}

fn rsyslog(folder: &Path, input: Input, port: u16) -> Child {
    let input = match input {
        Input::Udp => format!(
            "module(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\" rcvbufSize=\"4m\")\n"
        ),
        Input::Tcp => {
            format!("module(load=\"imptcp\")\ninput(type=\"imptcp\" address=\"127.0.0.1\" port=\"{port}\")\n")
        }
    };
    // It writes lines about itself, which are not to be counted.
    let text = format!(
        "global(workDirectory={folder:?})\n{input}if $syslogtag startswith \"app\" then action(type=\"omfile\" file={:?})\n",
        folder.join("out"),
    );
    let config = folder.join("rsyslog.conf");
    fs::write(&config, text).expect("the config is written");
    let root = std::env::var_os("GREYPIT_CACHE").map(|cache| PathBuf::from(cache).join("parts/debian"));
    let root = root.filter(|root| root.join("usr/sbin/rsyslogd").exists());
    let mut command = match &root {
        Some(root) => {
            let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
            let mut command = Command::new(root.join("usr/sbin/rsyslogd"));
            command.arg("-M").arg(libraries.join("rsyslog")).env("LD_LIBRARY_PATH", libraries);
            command
        }
        None => Command::new("rsyslogd"),
    };
    command.args(["-n", "-iNONE", "-f"]).arg(&config);
    command.spawn().expect("rsyslogd: run tests/run.sh once and set GREYPIT_CACHE, or install rsyslog")
}

/// Drops at each UDP socket of a port.
fn udp_rows(port: u16) -> Vec<u64> {
    let text = fs::read_to_string("/proc/net/udp").expect("Linux");
    let wanted = format!(":{port:04X}");
    let rows = text.lines().filter(|row| row.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&wanted)));
    rows.filter_map(|row| row.split_whitespace().last()?.parse().ok()).collect()
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < WAIT, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Message `n`: RFC 3164, always as long.
pub(crate) fn message(n: usize, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing to a Vec cannot fail.
    let _ = write!(out, "<30>Nov 20 12:55:00 web1 app[1234]: request {n:012} of client 192.0.2.7 took 17 ms: ");
    let left = MESSAGE_BYTES - (out.len() - start);
    out.extend((0..left).map(|at| b"GET /some/page HTTP/1.1 200 "[(at + n) % 28]));
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
