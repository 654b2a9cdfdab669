//! The whole pipeline in one process: events in, objects out, each event in exactly one of them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use greypit_pipeline::codec::Codec;
use greypit_pipeline::object::{Line, Lines};
use greypit_pipeline::store::{self, Store};
use greypit_pipeline::units::Span;
use greypit_pipeline::{Drained, Event, Health, Kind, Metrics, Parts, Pipeline, batch, spool};

const TO: Kind = Kind::new("to");

fn start_as(node: &str, folder: &Path, batch: batch::Config) -> greypit_pipeline::Result<(Pipeline, Health)> {
    let health = Health::new();
    let url = folder.join("objects").display().to_string();
    let pipeline = Pipeline::start(Parts {
        node: node.into(),
        data_dir: folder.join("data"),
        spool: spool::Config::default(),
        batch,
        store: Store::open(&store::Config { url, ..store::Config::default() })?,
        kafka: None,
        metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        health: health.clone(),
    })?;
    Ok((pipeline, health))
}

/// A drain that nothing keeps from its end comes there, however busy the machine is.
fn patient() -> batch::Config {
    batch::Config { drain_timeout: Span::seconds(300), ..batch::Config::default() }
}

/// A window that is not over for many hours, wherever the clock stands.
fn long_window() -> Span {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let window = (43_200..=86_400).find(|window| now % window < window / 2);
    Span(Duration::from_secs(window.expect("some began lately")))
}

fn start(folder: &Path) -> Pipeline {
    start_as("mx1", folder, patient()).unwrap().0
}

async fn submit(pipeline: &Pipeline, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let event = Event { kind: TO, body: format!("{{\"kind\":\"to\",\"n\":{n}}}").into_bytes() };
        pipeline.submit().submit(event.into()).await.unwrap();
    }
}

fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// All records by id; an id that comes twice fails the test. Names that begin with a dot are objects being written.
fn records(folder: &Path) -> BTreeMap<String, u64> {
    let mut paths = Vec::new();
    files(&folder.join("objects"), &mut paths);
    paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    let mut records = BTreeMap::new();
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let mut lines = Lines::new(Codec::of_key(path.to_str().unwrap()).decoder(&bytes));
        while let Some(Line::Text(line)) = lines.next().unwrap() {
            let record: serde_json::Value = serde_json::from_slice(line).unwrap();
            assert_eq!(record["kind"], "to");
            let id = record["id"].as_str().unwrap().to_owned();
            assert_eq!(records.insert(id.clone(), record["n"].as_u64().unwrap()), None, "{id} twice");
        }
    }
    records
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_in_one_object_over_restarts_and_codecs() {
    let folder = tempfile::tempdir().unwrap();
    let mut n = 0;
    for codec in [Codec::Bzip2, Codec::Zstd, Codec::Gzip, Codec::None] {
        let (pipeline, _) = start_as("mx1", folder.path(), batch::Config { codec, ..patient() }).unwrap();
        submit(&pipeline, n..n + 100).await;
        n += 100;
        assert_eq!(pipeline.drain().await, Drained::Shipped);
    }
    let records = records(folder.path());
    assert_eq!(records.values().copied().collect::<std::collections::BTreeSet<_>>(), (0..400).collect());
    let mut seqs: Vec<u64> = records.keys().map(|id| id.rsplit('-').next().unwrap().parse().unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>(), "numbers have no gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends_without_a_shutdown_and_the_spool_is_freed() {
    let folder = tempfile::tempdir().unwrap();
    let config = batch::Config { window: Span::seconds(1), ..patient() };
    let (pipeline, _) = start_as("mx1", folder.path(), config).unwrap();
    submit(&pipeline, 0..10).await;
    until("the object", || records(folder.path()).len() == 10).await;
    assert_eq!(pipeline.drain().await, Drained::Shipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_does_not_take_waits_and_is_shipped_when_it_does() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the store's folder should be: every write fails.
    std::fs::write(folder.path().join("objects"), b"").unwrap();
    let config =
        batch::Config { window: Span::seconds(1), drain_timeout: Span::seconds(1), ..batch::Config::default() };
    let (pipeline, health) = start_as("mx1", folder.path(), config).unwrap();
    submit(&pipeline, 0..10).await;
    until("being held back", || !health.is_ready()).await;
    assert_eq!(pipeline.drain().await, Drained::Waiting(10));
    std::fs::remove_file(folder.path().join("objects")).unwrap();
    assert_eq!(start(folder.path()).drain().await, Drained::Shipped);
    assert_eq!(records(folder.path()).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_an_earlier_epoch_is_left_alone_and_ours_gets_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let window = long_window();
    let config = || batch::Config { window, ..patient() };
    for epoch in 0..3 {
        let (pipeline, _) = start_as("mx1", folder.path(), config()).unwrap();
        submit(&pipeline, epoch * 10..epoch * 10 + 10).await;
        assert_eq!(pipeline.drain().await, Drained::Shipped);
        // The disk of the spool is lost; numbers begin again in the same window.
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    }
    let records = records(folder.path());
    assert_eq!(records.values().copied().collect::<std::collections::BTreeSet<_>>(), (0..30).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_done_finds_its_own_object_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing is cut while the spool is copied.
    let config = batch::Config { window: long_window(), ..patient() };
    let (pipeline, _) = start_as("mx1", folder.path(), config.clone()).unwrap();
    submit(&pipeline, 0..10).await;
    pipeline.submit().durable().await.unwrap();
    // The spool as it was before the CUT: what a crash between upload and DONE looks like, seen from the store.
    let before = folder.path().join("before");
    copy(&folder.path().join("data"), &before);
    assert_eq!(pipeline.drain().await, Drained::Shipped);
    assert_eq!(records(folder.path()).len(), 10);
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    std::fs::rename(&before, folder.path().join("data")).unwrap();
    let (pipeline, _) = start_as("mx1", folder.path(), config).unwrap();
    assert_eq!(pipeline.drain().await, Drained::Shipped);
    assert_eq!(records(folder.path()).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_a_spool_and_one_node_a_spool() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("objects"), b"").unwrap();
    let config = batch::Config { drain_timeout: Span::seconds(1), ..batch::Config::default() };
    let (pipeline, _) = start_as("mx1", folder.path(), config).unwrap();
    let error = start_as("mx1", folder.path(), batch::Config::default()).unwrap_err().to_string();
    assert!(error.contains("in use by another greypit"), "{error}");
    submit(&pipeline, 0..3).await;
    assert_eq!(pipeline.drain().await, Drained::Waiting(3));
    let error = start_as("mx2", folder.path(), batch::Config::default()).unwrap_err().to_string();
    assert!(error.contains("3 events of node 'mx1' wait"), "{error}");

    std::fs::remove_file(folder.path().join("objects")).unwrap();
    assert_eq!(start(folder.path()).drain().await, Drained::Shipped);
    for _ in 0..2 {
        let (pipeline, _) = start_as("mx2", folder.path(), patient()).unwrap();
        submit(&pipeline, 3..4).await;
        assert_eq!(pipeline.drain().await, Drained::Shipped);
    }
    let records = records(folder.path());
    let of = |node: &str| records.keys().filter(|id| id.starts_with(node)).count();
    assert_eq!((of("mx1-"), of("mx2-")), (3, 2));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(drop).unwrap() }
    }
}
