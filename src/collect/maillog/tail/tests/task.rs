//! The task with its watcher, on real time; each wait is for the lines themselves.

use std::sync::{Arc, Mutex};

use greypit_pipeline::units::Span;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::collect::maillog::tail::listen::run;
use crate::collect::maillog::tail::records::Records;

const LONG: Duration = Duration::from_secs(120);

/// Runs the task over a folder; its lines arrive on the channel.
struct Running {
    folder: tempfile::TempDir,
    lines: mpsc::UnboundedReceiver<String>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn follow(poll: Span) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { poll, ..Config::new(folder.path().join("*.log").to_str().unwrap()) };
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let tail = Tail::new(&[config], &HashMap::new(), &metrics, QUIET).unwrap();
    let (sender, received) = mpsc::unbounded_channel();
    let send = move |group: Group| {
        lines(&group).into_iter().for_each(|line| sender.send(line).unwrap());
        std::future::ready(Ok(()))
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(tail, record, send, metrics, stop.clone()));
    Running { folder, lines: received, stop, task }
}

impl Running {
    fn append(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    async fn next(&mut self) -> String {
        timeout(LONG, self.lines.recv()).await.unwrap().unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LONG, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_watcher_wakes_the_task_long_before_the_poll() {
    let mut running = follow(Span::seconds(3600));
    running.append("a.log", "one\n");
    assert_eq!(running.next().await, "one");
    running.append("a.log", "two\n");
    assert_eq!(running.next().await, "two");
    let path = |name: &str| running.folder.path().join(name);
    fs::rename(path("a.log"), path("a.log.1")).unwrap();
    running.append("a.log", "three\n");
    assert_eq!(running.next().await, "three");
    running.append("b.log", "four\n");
    assert_eq!(running.next().await, "four");
    running.end().await;
}

#[test]
fn lines_become_records_of_the_parsers() {
    let mut config = Config::new("/log");
    config.zone = "UTC".into();
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let mut records = Records::new(&[config], "mx1", None, &metrics).unwrap();
    let mut group = Group::new();
    let texts = [
        "Nov 20 12:55:01 mail sm-mta[77]: 5AKCt1x0000077: to=<a@x.example>,<b@x.example>, delay=00:00:02, \
         xdelay=00:00:01, mailer=esmtp, pri=1, relay=mx.x.example. [192.0.2.1], dsn=2.0.0, stat=Sent",
        "Nov 20 12:55:01 mail sm-mta[77]: starting daemon",
        "",
        "\u{fffd}",
    ];
    for text in texts {
        records.add(Line { bytes: text.as_bytes(), truncated: false, entry: 0 }, &mut group);
    }
    let kinds: Vec<_> = group.iter().map(|(kind, _)| kind.to_string()).collect();
    assert_eq!(kinds, ["to", "to", "syslog", "syslog"]);
    let count = |name: &str| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum::<f64>()
    };
    assert_eq!(count("greypit_maillog_events_total"), 4.0);
    assert_eq!(count("greypit_maillog_parse_errors_total"), 1.0);
}

#[tokio::test]
async fn stopping_submits_what_is_read_and_ends() {
    let mut running = follow(Span(Duration::from_millis(10)));
    running.append("a.log", "one\n");
    assert_eq!(running.next().await, "one");
    running.end().await;
}

#[tokio::test]
async fn a_group_without_room_holds_the_reading_and_stop_does_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, long("line\n").repeat(50_000)).unwrap();
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let tail = Tail::new(&[Config::new(path.to_str().unwrap())], &HashMap::new(), &metrics, QUIET).unwrap();
    let (asked, mut asks) = mpsc::unbounded_channel();
    let send = move |_| {
        asked.send(()).unwrap();
        std::future::pending()
    };
    let stop = CancellationToken::new();
    let records = Arc::new(Mutex::new(0));
    let counted = records.clone();
    let count = move |line: Line<'_>, group: &mut Group| {
        *counted.lock().unwrap() += 1;
        record(line, group);
    };
    let task = tokio::spawn(run(tail, count, send, metrics, stop.clone()));
    timeout(LONG, asks.recv()).await.unwrap().unwrap();
    let read = *records.lock().unwrap();
    assert!(read < 50_000, "only one group is filled");
    stop.cancel();
    timeout(LONG, task).await.unwrap().unwrap();
    assert_eq!(*records.lock().unwrap(), read);
    assert!(asks.try_recv().is_err(), "submitted once");
}
