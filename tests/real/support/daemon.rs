//! A [`Greypit`] for tests that break things around it: what it says of itself,
//! what goes in, and whether the store then holds just that.

use super::greypit::Greypit;
use super::net::free_port;
use super::wait_for;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use toml::Value;

/// A greypit that receives syslog by TCP and follows the file `maillog`.
#[derive(Debug)]
pub(crate) struct Daemon {
    greypit: Greypit,
    /// Where it receives syslog.
    pub(crate) tcp: SocketAddr,
}

impl Deref for Daemon {
    type Target = Greypit;

    fn deref(&self) -> &Greypit {
        &self.greypit
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Greypit {
        &mut self.greypit
    }
}

impl Daemon {
    /// One with these `section.key`s besides.
    pub(crate) fn new(keys: &str) -> Self {
        let tcp = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut daemon = Self { greypit: Greypit::new("mx1"), tcp };
        daemon.set("syslog.tcp", vec![Value::from(tcp.to_string())]);
        daemon.set_toml(keys);
        File::create(daemon.log_file()).expect("the file to follow");
        let file = daemon.log_file();
        daemon.follow(&file);
        daemon
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// The file that is followed.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.path("maillog")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.path("greypit.toml")
    }

    /// Asks until the answer is yes, as long as the process lives.
    pub(crate) fn wait(&mut self, what: &str, mut yes: impl FnMut(&Daemon) -> bool) {
        wait_for(what, || {
            self.assert_alive();
            yes(self).then_some(())
        });
    }

    /// Waits until a series has at least this value.
    pub(crate) fn wait_series(&mut self, series: &str, value: u64) {
        self.wait(&format!("{series} >= {value}"), |daemon| daemon.series(series) >= value);
    }

    /// Why `/readyz` says that `part` is held back.
    pub(crate) fn held(&self, part: &str) -> Option<String> {
        let (status, body) = self.get("/readyz")?;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let reason = body["parts"][part]["reason"].as_str()?.to_owned();
        assert_eq!(status, 503, "{body}");
        Some(reason)
    }

    /// Waits until `/readyz` is 503, for this part and with this text.
    pub(crate) fn wait_held(&mut self, part: &str, text: &str) {
        self.wait(&format!("{part}: {text}"), |daemon| daemon.held(part).is_some_and(|reason| reason.contains(text)));
    }

    /// Waits until `/readyz` is 200.
    pub(crate) fn wait_ready(&mut self) {
        self.wait("/readyz to be 200", |daemon| daemon.get("/readyz").is_some_and(|(status, _)| status == 200));
    }

    /// Waits until so many events are in the store since the start.
    pub(crate) fn wait_shipped(&mut self, events: usize) {
        self.wait_series("greypit_ship_events_total{kind=\"syslog\"}", events as u64);
    }

    /// Waits until as many events are in the store as are expected and nothing is held back, and compares.
    pub(crate) fn assert_settles_with(&mut self, expected: Vec<String>) {
        self.wait_shipped(expected.len());
        self.wait_ready();
        self.assert_exactly(expected);
    }

    /// Appends lines to the file that is followed.
    pub(crate) fn log_lines(&self, messages: &[String]) {
        let lines: String = messages.iter().map(|message| line(message)).collect();
        let mut file = File::options().append(true).open(self.log_file()).expect("the file to follow");
        file.write_all(lines.as_bytes()).expect("written");
    }

    /// What the records in the store say, in no order.
    pub(crate) fn messages(&self) -> Vec<String> {
        let mut messages = Vec::new();
        self.cat(|record| {
            let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
            messages.push(record["message"].as_str().unwrap_or_else(|| panic!("{record}")).to_owned());
        });
        messages
    }

    /// Every id is there once and without a gap.
    pub(crate) fn assert_verified(&self) {
        let (verdict, complaints) = self.verify();
        assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
        eprintln!("{verdict:?}");
    }

    /// The store holds exactly these messages, each as often as it is here.
    pub(crate) fn assert_exactly(&self, mut expected: Vec<String>) {
        self.assert_verified();
        let mut found = self.messages();
        found.sort_unstable();
        expected.sort_unstable();
        if found != expected {
            let head = |text: &String| text.chars().take(40).collect::<String>();
            let missing: Vec<_> = only_in(&expected, &found).iter().take(5).map(head).collect();
            let foreign: Vec<_> = only_in(&found, &expected).iter().take(5).map(head).collect();
            panic!("{} found, {} expected; missing {missing:?}, too many {foreign:?}", found.len(), expected.len());
        }
    }
}

/// Of two sorted lists, what the first has more of.
fn only_in(these: &[String], others: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    these.iter().for_each(|message| *counts.entry(message).or_default() += 1);
    others.iter().for_each(|message| *counts.entry(message).or_default() -= 1);
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(message, _)| message.clone()).collect()
}

/// A message as a log file has it.
fn line(message: &str) -> String {
    format!("Nov 20 14:00:00 mx2 fault[7]: {message}\n")
}

/// `count` messages of `bytes` bytes that no other call makes.
pub(crate) fn messages(name: &str, count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|number| message(name, number, bytes)).collect()
}

fn message(name: &str, number: usize, bytes: usize) -> String {
    format!("{:x<bytes$}", format!("{name}-{number:07} "))
}

/// Somebody who writes syslog over one TCP connection from a thread of its own.
#[derive(Debug)]
pub(crate) struct Sender {
    thread: std::thread::JoinHandle<Vec<String>>,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
}

impl Sender {
    /// Writes up to `count` messages of `bytes` bytes, with a pause behind each.
    pub(crate) fn start(to: SocketAddr, name: &str, count: usize, bytes: usize, pause: Duration) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, progress, name) = (stop.clone(), written.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(to).expect("greypit listens");
            let mut sent = Vec::new();
            while sent.len() < count && !stopped.load(Ordering::Relaxed) {
                let message = message(&name, sent.len(), bytes);
                if stream.write_all(format!("<22>{}", line(&message)).as_bytes()).is_err() {
                    return sent;
                }
                sent.push(message);
                progress.store(sent.len(), Ordering::Relaxed);
                if !pause.is_zero() {
                    std::thread::sleep(pause);
                }
            }
            // The receiver closes once it has read to the end.
            let _reset = stream.shutdown(Shutdown::Write);
            let _reset = stream.read_to_end(&mut Vec::new());
            sent
        });
        Self { thread, stop, written }
    }

    /// Messages written so far.
    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, read by the other side, and the
    /// connection closed in order; gives what was written.
    pub(crate) fn finish(self) -> Vec<String> {
        self.thread.join().expect("the sender does not panic")
    }

    /// The same, but no new message is begun.
    pub(crate) fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}
