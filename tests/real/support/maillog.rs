//! A log that a mail server writes and rotates all the time, and the records
//! that it must give.

use super::random::Random;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Records by what tells them apart, each with how often it is there.
pub(crate) type Records = HashMap<String, u64>;

/// How rotated files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// `maillog.1`, and every older one moves on to the next number.
    Numbers,
    /// `maillog-2026112000001`, greater is newer.
    Dates,
}

/// A thread that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Written>,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) rotations: u64,
    /// What greypit must make of it.
    pub(crate) records: Records,
}

impl Writer {
    pub(crate) fn start(file: PathBuf, rotation: Rotation, random: Random) -> Self {
        Self::start_slow(file, rotation, random, 1)
    }

    /// With pauses so many times as long.
    pub(crate) fn start_slow(file: PathBuf, rotation: Rotation, random: Random, slowness: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut log = Log::new(file, rotation, random);
            log.slowness = slowness;
            while !stopped.load(Ordering::Relaxed) {
                log.burst();
            }
            log.written
        });
        Self { stop, thread }
    }

    /// Ends it; the last line is whole.
    pub(crate) fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}

struct Log {
    path: PathBuf,
    rotation: Rotation,
    random: Random,
    file: File,
    /// Makes every line another one.
    number: u64,
    until_rotation: u64,
    slowness: u32,
    written: Written,
}

impl Log {
    fn new(path: PathBuf, rotation: Rotation, random: Random) -> Self {
        let file = append(&path);
        Self { path, rotation, random, file, number: 0, until_rotation: 50, slowness: 1, written: Written::default() }
    }

    /// Some lines at once and a pause; now and then a rotation.
    fn burst(&mut self) {
        let mut text = Vec::new();
        for _ in 0..self.random.within(1..60) {
            self.line(&mut text);
        }
        self.written.bytes += text.len() as u64;
        // Daemons write whole lines; a reader may see half of one all the same.
        let middle = self.random.within(0..text.len() as u64) as usize;
        let parts = if self.random.chance(30) { text.split_at(middle) } else { (&text[..], &[][..]) };
        self.file.write_all(parts.0).expect("write the log");
        if !parts.1.is_empty() {
            std::thread::sleep(self.random.millis(0..30));
            self.file.write_all(parts.1).expect("write the log");
        }
        std::thread::sleep(self.random.millis(5..50) * self.slowness);
        self.until_rotation -= 1;
        if self.until_rotation == 0 {
            let soon = self.random.chance(25);
            self.until_rotation = if soon { self.random.within(1..4) } else { self.random.within(40..160) };
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        let named = |suffix: String| PathBuf::from(format!("{}{suffix}", self.path.display()));
        self.written.rotations += 1;
        let aside = match self.rotation {
            Rotation::Dates => named(format!("-20261120{:05}", self.written.rotations)),
            Rotation::Numbers => {
                for number in (1..self.written.rotations).rev() {
                    let (from, to) = (named(format!(".{number}")), named(format!(".{}", number + 1)));
                    std::fs::rename(from, to).expect("rename a rotated log");
                }
                named(".1".to_owned())
            }
        };
        std::fs::rename(&self.path, aside).expect("rename the log");
        // The daemon goes on with the old file until it is told.
        if self.random.chance(50) {
            self.until_rotation += 1;
            self.burst();
        }
        std::thread::sleep(self.random.millis(0..60));
        self.file = append(&self.path);
    }

    /// One line, and sometimes the same once more.
    fn line(&mut self, text: &mut Vec<u8>) {
        self.number += 1;
        let (line, records) = match self.random.within(0..10) {
            0..3 => self.from(),
            3..7 => self.to(),
            7..9 => self.other(),
            _ => self.odd(),
        };
        let times = if self.random.chance(2) { 2 } else { 1 };
        for _ in 0..times {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
            self.written.lines += 1;
            for record in &records {
                *self.written.records.entry(record.clone()).or_default() += 1;
            }
        }
    }

    fn from(&mut self) -> (String, Vec<String>) {
        let (id, n) = (self.queue_id(), self.number);
        let src = if self.random.chance(10) { String::new() } else { format!("bounce+{n}=a,b@sender.example.com") };
        let size = self.random.within(300..9_000_000);
        let line = format!(
            "{}{id}: from=<{src}>, size={size}, class=0, nrcpts=1, msgid=<{n}.x, to=<y>@sender.example.com>, \
             bodytype=8BITMIME, proto=ESMTPS, daemon=MTA, relay=out1.sender.example.com [192.0.2.7]",
            self.header()
        );
        (line, vec![format!("from {id} {src}")])
    }

    fn to(&mut self) -> (String, Vec<String>) {
        let (id, n) = (self.queue_id(), self.number);
        let dests: Vec<_> = (0..self.random.within(1..5)).map(|i| format!("user{i}.{n}@good.example.net")).collect();
        let list = dests.iter().map(|dest| format!("<{dest}>")).collect::<Vec<_>>().join(",");
        let stat = *self.random.pick(&[
            "dsn=2.0.0, stat=Sent (Ok: queued as 12345)",
            "dsn=4.2.1, reply=450 4.2.1 Mailbox busy, try later, stat=Deferred: 450 4.2.1 Mailbox busy, try later",
            "dsn=5.1.1, reply=550 5.1.1 No such user, here: stat=Sent, stat=User unknown",
        ]);
        let line = format!(
            "{}{id}: to={list}, delay=00:00:03, xdelay=00:00:01, mailer=esmtp, pri=30023, \
             relay=good.example.net. [192.0.2.25], {stat}",
            self.header()
        );
        (line, dests.iter().map(|dest| format!("to {id} {dest}")).collect())
    }

    fn other(&mut self) -> (String, Vec<String>) {
        let (id, n) = (self.queue_id(), self.number);
        let message = match self.random.within(0..3) {
            0 => format!("{id}: done; delay=00:00:00, ntries={n}"),
            1 => format!("NOQUEUE: connect from host{n}.example.com [192.0.2.9]"),
            _ => format!("{id}: host{n}.example.com [192.0.2.9] did not issue MAIL/EXPN/VRFY/ETRN during connection"),
        };
        (format!("{}{message}", self.header()), vec![format!("syslog {message}")])
    }

    /// Lines that are no syslog, some of them long.
    fn odd(&mut self) -> (String, Vec<String>) {
        let mut line = format!("no header in line {} of this log", self.number);
        if self.random.chance(5) {
            let repeats = self.random.within(10..400) as usize;
            write!(line, "{}", " \u{fc}\"\\\u{1}\t".repeat(repeats)).expect("a String takes everything");
            line.push('.');
        }
        let record = format!("syslog {line}");
        (line, vec![record])
    }

    fn header(&mut self) -> String {
        let now = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
        format!("{now} mx1 sm-mta[{}]: ", self.random.within(1000..40_000))
    }

    fn queue_id(&self) -> String {
        format!("6AKE8{:03X}{:06}", self.number / 1_000_000, self.number % 1_000_000)
    }
}

/// What tells a record apart, as [`Written::records`] has it.
pub(crate) fn identity(record: &serde_json::Value) -> String {
    let field = |name: &str| record[name].as_str().unwrap_or("?");
    match field("kind") {
        "from" => format!("from {} {}", field("sendmailid"), field("src")),
        "to" => format!("to {} {}", field("sendmailid"), field("dest")),
        kind => format!("{kind} {}", field("message")),
    }
}

/// Where the records that were found are not those that were expected, the
/// first 50.
pub(crate) fn differences(expected: &Records, found: &Records) -> Vec<String> {
    let mut keys: Vec<_> = expected.keys().chain(found.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut differences = Vec::new();
    for key in keys {
        let (expected, there) = (expected.get(key).unwrap_or(&0), found.get(key).unwrap_or(&0));
        if expected != there {
            differences.push(format!("{there} instead of {expected}: {key}"));
        }
    }
    let more = differences.len().saturating_sub(50);
    differences.truncate(50);
    if more > 0 {
        differences.push(format!("and {more} more"));
    }
    differences
}

fn append(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("open the log")
}
