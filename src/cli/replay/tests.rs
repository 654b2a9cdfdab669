//! Over spools of pipelines that run and have ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Drained, Event, Health, Metrics, Parts, Pipeline};

use super::super::verify::Verify;
use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    replay: Replay,
}

#[derive(Parser)]
struct VerifyLine {
    #[command(flatten)]
    verify: Verify,
}

/// What `greypit verify` says of a folder.
async fn verify(folder: &str) -> String {
    let mut out = Vec::new();
    let line = VerifyLine::try_parse_from(["verify", folder, "--from-first-seen"]).unwrap();
    line.verify.prove(None, &mut out).await.unwrap();
    String::from_utf8(out).unwrap()
}

/// A window that does not end while a test runs, wherever the clock stands.
fn lasting_window() -> Span {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let window = (43_200..=86_400).find(|window| now % window < window / 2);
    Span::seconds(window.expect("some began lately"))
}

/// A node with its folder.
struct Node {
    folder: tempfile::TempDir,
    config: Config,
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { node: "mx1".into(), data_dir: folder.path().join("data"), ..Config::default() };
        config.store.url = folder.path().join("objects").display().to_string();
        // Segments are many.
        config.batch.window = lasting_window();
        // Whatever the disk takes.
        config.batch.drain_timeout = Span::seconds(120);
        config.batch.max_bytes = Size(64 << 10);
        config.spool.segment_bytes = Size(64 << 10);
        Node { folder, config }
    }

    fn start(&self) -> Pipeline {
        let Config { node, data_dir, spool, batch, .. } = self.config.clone();
        Pipeline::start(Parts {
            node,
            data_dir,
            spool,
            batch,
            store: Store::open(&self.config.store).unwrap(),
            kafka: None,
            metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
            health: Health::new(),
        })
        .unwrap()
    }

    async fn replay(&self, arguments: &[&str]) -> Result<(u8, serde_json::Value), Stop> {
        let arguments = [&["replay", "--from-spool", "--json"], arguments].concat();
        let mut out = Vec::new();
        let code = Line::try_parse_from(arguments).unwrap().replay.ship(&self.config, &mut out).await?;
        Ok((code, serde_json::from_slice(&out).unwrap()))
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn spool(&self) -> PathBuf {
        self.config.data_dir.join("spool")
    }
}

/// Events of two kinds, every fifth a `from`, about 300 bytes each.
async fn submit(pipeline: &Pipeline, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let kind = Kind::new(if n % 5 == 0 { "from" } else { "to" });
        let body = format!("{{\"kind\":\"{kind}\",\"n\":{n},\"text\":\"{}\"}}", "x".repeat(250)).into_bytes();
        pipeline.submit().submit(Event { kind, body }.into()).await.unwrap();
    }
}

/// Files below a folder, by their path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn says(answer: Result<(u8, serde_json::Value), Stop>) -> String {
    match answer {
        Err(Stop::Say(line)) => line,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_objects_come_from_a_spool_in_use_and_from_one_at_rest() {
    let mut node = Node::new();
    node.config.batch.flush_on_exit = false;
    // No batch ends by its size either: what is shipped leaves the spool.
    node.config.batch.max_bytes = Size(64 << 20);
    let pipeline = node.start();
    submit(&pipeline, 0..1000).await;
    // Events count once they are durable.
    let began = Instant::now();
    while node.replay(&["--prefix", "dry", "--dry-run"]).await.unwrap().1["records"] != 1000 {
        assert!(began.elapsed() < Duration::from_secs(120), "1000 events do not become durable");
    }
    let (code, running) = node.replay(&["--to", &node.path("running")]).await.unwrap();
    assert_eq!((code, &running["records"], &running["missing"]), (EXIT_DONE, &1000.into(), &0.into()));
    assert_eq!(running["kinds"]["from"]["records"], 200);
    pipeline.drain().await;

    let (code, again) = node.replay(&["--to", &node.path("running")]).await.unwrap();
    assert_eq!((code, &again["existing"]), (EXIT_DONE, &again["objects"]), "nothing is written twice");
    let (code, _) = node.replay(&["--to", &node.path("at-rest")]).await.unwrap();
    assert_eq!(code, EXIT_DONE);
    let running = files(&node.folder.path().join("running"));
    assert_eq!(running, files(&node.folder.path().join("at-rest")));

    node.config.batch.flush_on_exit = true;
    assert_eq!(node.start().drain().await, Drained::Shipped);
    assert_eq!(running, files(&node.folder.path().join("objects")), "and from shipping");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_asked_for_goes_under_a_prefix() {
    let mut node = Node::new();
    node.config.batch.flush_on_exit = false;
    let pipeline = node.start();
    submit(&pipeline, 0..100).await;
    pipeline.drain().await;
    let (_, counts) = node.replay(&["--prefix", "repair/1", "--kind", "from"]).await.unwrap();
    assert_eq!((&counts["records"], &counts["objects"]), (&20.into(), &1.into()));
    let proof = verify(&node.path("objects/repair/1")).await;
    assert_eq!(proof, "records=20 lost=0 repeated=0 broken=0 objects=1\n");
    let written = files(&node.folder.path().join("objects"));
    let keys: Vec<&String> = written.keys().collect();
    assert!(matches!(keys[..], [key] if key.starts_with("repair/1/mail_logs/") && key.contains("/from-")), "{keys:?}");
    let (_, counts) = node.replay(&["--prefix", "repair/2", "--until", "2020-01-01"]).await.unwrap();
    assert_eq!(counts["records"], 0);
    let (_, counts) = node.replay(&["--prefix", "repair/2", "--since", "3d", "--dry-run"]).await.unwrap();
    assert_eq!((&counts["records"], &counts["dry_run"]), (&100.into(), &true.into()));
    assert_eq!(files(&node.folder.path().join("objects")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_holds_other_records_is_left_as_it_is() {
    let mut node = Node::new();
    node.config.batch.flush_on_exit = false;
    let pipeline = node.start();
    submit(&pipeline, 0..10).await;
    pipeline.drain().await;
    node.replay(&["--prefix", "repair", "--kind", "to"]).await.unwrap();
    let pipeline = node.start();
    submit(&pipeline, 10..20).await;
    pipeline.drain().await;
    let before = files(&node.folder.path().join("objects"));
    let (code, counts) = node.replay(&["--prefix", "repair", "--kind", "to"]).await.unwrap();
    assert_eq!((code, &counts["differing"], &counts["records"]), (EXIT_NO, &1.into(), &0.into()));
    assert_eq!(files(&node.folder.path().join("objects")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_does_not_reach_back_is_an_answer_of_no() {
    let node = Node::new();
    let pipeline = node.start();
    submit(&pipeline, 0..1000).await;
    assert_eq!(pipeline.drain().await, Drained::Shipped);
    // What the first life left behind is freed by the second.
    let pipeline = node.start();
    submit(&pipeline, 1000..1100).await;
    assert_eq!(pipeline.drain().await, Drained::Shipped);
    let (code, counts) = node.replay(&["--prefix", "repair", "--since", "2d"]).await.unwrap();
    assert_eq!(code, EXIT_NO);
    assert!(counts["records"].as_u64() < Some(1100), "{counts}");
    let (code, _) = node.replay(&["--prefix", "repair"]).await.unwrap();
    assert_eq!(code, EXIT_DONE, "everything there is");
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_set_aside_are_read_where_asked_for() {
    let mut node = Node::new();
    node.config.batch.flush_on_exit = false;
    let pipeline = node.start();
    submit(&pipeline, 0..100).await;
    pipeline.drain().await;
    let segment = node.spool().join("00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    // Twice, so that the damaged segment is not the newest any more when its events are shipped.
    node.config.batch.flush_on_exit = true;
    for round in 1..=2 {
        let pipeline = node.start();
        submit(&pipeline, 100 * round..100 * round + 10).await;
        assert_eq!(pipeline.drain().await, Drained::Shipped);
    }
    assert!(node.spool().join("damaged/00000000000000000001.seg").exists());
    let (_, without) = node.replay(&["--prefix", "a"]).await.unwrap();
    let (code, with) = node.replay(&["--prefix", "b", "--damaged"]).await.unwrap();
    assert_eq!((code, &with["damaged_frames"]), (EXIT_NO, &1.into()));
    let [without, with] = [without, with].map(|counts| counts["records"].as_u64().unwrap());
    assert!(with > without && with < 120, "{without} {with}");
}

#[tokio::test]
async fn a_place_where_the_daemon_ships_to_is_refused() {
    let node = Node::new();
    let same = format!("file://{}", node.path("objects"));
    for (arguments, why) in [
        (["--prefix", ""], "must not be empty"),
        (["--prefix", "_cut"], "begins with"),
        (["--to", &node.path("objects")], "is where the daemon ships to"),
        (["--to", &same], "is where the daemon ships to"),
        (["--to", &node.path("elsewhere")], "reads the spool folder in data_dir"),
    ] {
        let line = says(node.replay(&arguments).await);
        assert!(line.contains(why) && !line.contains('\n'), "{arguments:?}: {line}");
    }
    assert!(Line::try_parse_from(["replay", "--from-spool"]).is_err(), "a place must be given");
    assert!(Line::try_parse_from(["replay", "--prefix", "x"]).is_err(), "a source must be given");
}
