//! The commands over a directory with all four codecs.

use clap::Parser;
use greypit_pipeline::codec::Codec;
use greypit_pipeline::store::{Config, Object, Store};
use std::io::Write;

use super::{EXIT_DONE, EXIT_NO, Stop};

#[derive(Parser)]
enum Command {
    Ls(super::ls::Ls),
    Cat(super::cat::Cat),
    Top(super::top::Top),
    Verify(super::verify::Verify),
}

async fn run(arguments: &[&str]) -> Result<(u8, String), Stop> {
    let mut out = Vec::new();
    let code = match Command::try_parse_from([&["greypit"], arguments].concat()).unwrap() {
        Command::Ls(ls) => ls.list(None, &mut out).await,
        Command::Cat(cat) => cat.print(None, &mut out).await,
        Command::Top(top) => top.count(None, &mut out).await,
        Command::Verify(verify) => verify.prove(None, &mut out).await,
    }?;
    Ok((code, String::from_utf8(out).unwrap()))
}

fn encode(codec: Codec, text: &str) -> Vec<u8> {
    let mut encoder = codec.encoder(None);
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

struct Archive {
    folder: tempfile::TempDir,
    store: Store,
}

impl Archive {
    fn new() -> Archive {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Config { url: folder.path().display().to_string(), ..Config::default() }).unwrap();
        Archive { folder, store }
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let object = Object { bytes: bytes.into(), content_type: "", metadata: Vec::new() };
        self.store.put_new(key, &object).await.unwrap();
    }

    /// Four windows of `to`, one for each codec, 100 records each; one of `from`.
    async fn filled() -> Archive {
        let archive = Archive::new();
        for (i, codec) in Codec::ALL.into_iter().enumerate() {
            let seqs = i * 100 + 1..=i * 100 + 100;
            let records: String = seqs
                .map(|seq| {
                    format!(
                        "{{\"id\":\"mx1-e-to-{seq}\",\"node\":\"mx1\",\"kind\":\"to\",\"ts\":\"2026-11-20T12:{:02}:01Z\",\"dest\":\"u{}@x\"}}\n",
                        i * 5,
                        seq % 4
                    )
                })
                .collect();
            let key = format!(
                "mail_logs/2026-11-20/to-2026-11-20-12-{:02}-mx1-{}.json{}",
                i * 5,
                i * 100 + 1,
                codec.extension()
            );
            archive.put(&key, encode(codec, &records)).await;
        }
        let from = "{\"id\":\"mx1-e-from-1\",\"kind\":\"from\",\"ts\":\"2026-11-20T12:00:01Z\",\"src\":\"\"}";
        archive.put("mail_logs/2026-11-20/from-2026-11-20-12-00-mx1-1.json", from.into()).await;
        archive
    }

    fn url(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_shows_what_the_keys_say() {
    let archive = Archive::filled().await;
    let (code, out) = run(&["ls", archive.url(), "--kind", "from"]).await.unwrap();
    assert_eq!(code, EXIT_DONE);
    assert_eq!(out, "2026-11-20T12:00Z  from        72  mail_logs/2026-11-20/from-2026-11-20-12-00-mx1-1.json\n");
    let (_, out) = run(&["ls", archive.url(), "--json", "--since", "2026-11-20T12:05", "--until", "2026-11-20T12:15"])
        .await
        .unwrap();
    let keys: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0]["window"], "2026-11-20T12:05Z");
    assert_eq!(keys[1]["key"], "mail_logs/2026-11-20/to-2026-11-20-12-10-mx1-201.json.gz");
}

#[tokio::test(flavor = "multi_thread")]
async fn cat_gives_every_record_in_the_order_of_the_keys() {
    let archive = Archive::filled().await;
    let (code, out) = run(&["cat", archive.url()]).await.unwrap();
    assert_eq!((code, out.lines().count()), (EXIT_DONE, 401));
    assert!(out.starts_with("{\"id\":\"mx1-e-from-1\"") && out.ends_with("}\n"));
    let seqs: Vec<u64> = out
        .lines()
        .skip(1)
        .map(|line| line.split('"').nth(3).unwrap().rsplit('-').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(seqs, (1..=400).collect::<Vec<u64>>());
    let one = format!("{}/mail_logs/2026-11-20/to-2026-11-20-12-05-mx1-101.json.zst", archive.url());
    let (_, out) = run(&["cat", &one]).await.unwrap();
    assert_eq!(out.lines().count(), 100);
    let (_, out) =
        run(&["cat", &format!("file://{}", archive.url()), "--since", "2026-11-20T12:15:00Z"]).await.unwrap();
    assert_eq!(out.lines().count(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn top_counts_one_field() {
    let archive = Archive::filled().await;
    let (code, out) = run(&["top", "dest", archive.url(), "-n", "2"]).await.unwrap();
    assert_eq!((code, out.as_str()), (EXIT_DONE, "  100   25.0%  u0@x\n  100   25.0%  u1@x\n"));
    let (_, out) = run(&["top", "kind", archive.url(), "--json"]).await.unwrap();
    assert_eq!(out.lines().next(), Some("{\"value\":\"to\",\"count\":400,\"share\":0.9975062344139651}"));
    let (_, out) = run(&["top", "kind", archive.url(), "--kind", "mail"]).await.unwrap();
    assert_eq!(out, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_key_does_not_tell_the_records_do() {
    let archive = Archive::new();
    let text = "{\"id\":\"a-e-to-1\",\"kind\":\"to\",\"ts\":\"2026-11-20T01:00:00+01:00\"}\nbroken\n\
                {\"id\":\"a-e-from-1\",\"kind\":\"from\",\"ts\":\"2026-11-20T01:00:00Z\"}\n";
    archive.put("dt=2026-11-20/x.json.gz", encode(Codec::Gzip, text)).await;
    archive.put("y.json", b"{\"id\":\"b-e-to-1\",\"kind\":\"to\",\"ts\":\"2026-11-21T00:00:00Z\"}".to_vec()).await;
    let out = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&arguments).await.unwrap().1
    };
    let cat = |rest: &[&str]| out([&["cat", archive.url()], rest].concat().into_iter().map(str::to_owned).collect());
    assert_eq!(cat(&["--kind", "to"]).await.lines().count(), 2);
    assert_eq!(cat(&["--until", "2026-11-20T00:30"]).await.lines().count(), 1);
    assert_eq!(cat(&["--since", "2026-11-20T00:30"]).await.lines().count(), 2);
    assert_eq!(cat(&[]).await.lines().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_says_yes_only_when_everything_is_there_once() {
    let archive = Archive::filled().await;
    let (code, out) = run(&["verify", archive.url()]).await.unwrap();
    assert_eq!((code, out.as_str()), (EXIT_DONE, "records=401 lost=0 repeated=0 broken=0 objects=5\n"));

    let (code, out) = run(&["verify", archive.url(), "--since", "2026-11-20T12:10"]).await.unwrap();
    assert_eq!((code, out.as_str()), (EXIT_DONE, "records=200 lost=0 repeated=0 broken=0 objects=2\n"));

    let day = archive.folder.path().join("mail_logs/2026-11-20");
    std::fs::copy(day.join("to-2026-11-20-12-05-mx1-101.json.zst"), day.join("again.json")).unwrap();
    std::fs::remove_file(day.join("to-2026-11-20-12-10-mx1-201.json.gz")).unwrap();
    let bytes = std::fs::read(day.join("to-2026-11-20-12-15-mx1-301.json")).unwrap();
    std::fs::write(day.join("to-2026-11-20-12-15-mx1-301.json"), &bytes[..bytes.len() - 20]).unwrap();
    let (code, out) = run(&["verify", archive.url(), "--json"]).await.unwrap();
    assert_eq!(code, EXIT_NO);
    let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&verdict["lost"], &verdict["repeated"], &verdict["broken"]), (&100.into(), &100.into(), &1.into()));
    assert_eq!(verdict["streams"][1]["gaps"], serde_json::json!([[201, 300]]));
    assert_eq!(verdict["streams"][1]["repeats"], serde_json::json!([[101, 200]]));
    let (code, out) = run(&["verify", archive.url(), "--kind", "from"]).await.unwrap();
    assert_eq!((code, out.as_str()), (EXIT_DONE, "records=1 lost=0 repeated=0 broken=0 objects=2\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_costs_its_neighbours_nothing() {
    let archive = Archive::filled().await;
    let path = archive.folder.path().join("mail_logs/2026-11-20/to-2026-11-20-12-00-mx1-1.json.bz2");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let (code, out) = run(&["cat", archive.url()]).await.unwrap();
    assert_eq!((code, out.lines().count()), (EXIT_NO, 301));
    let (code, _) = run(&["top", "dest", archive.url()]).await.unwrap();
    assert_eq!(code, EXIT_NO);
    let (code, out) = run(&["verify", archive.url()]).await.unwrap();
    assert_eq!((code, out.as_str()), (EXIT_NO, "records=301 lost=100 repeated=0 broken=1 objects=5\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_one_line() {
    let says = |stop: Stop| match stop {
        Stop::Say(line) => line,
        Stop::Pipe => panic!("no pipe here"),
    };
    let line = says(run(&["cat", "/nowhere/at-all"]).await.unwrap_err());
    assert!(line.starts_with("cannot list /nowhere/at-all: No such file") && line.contains("s3://"), "{line}");
    let line = says(run(&["ls", "http://x"]).await.unwrap_err());
    assert!(line.starts_with("store.url: 'http://x'"), "{line}");
    assert!(!line.contains('\n'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_enough_ends_it_quietly() {
    struct Enough;
    impl Write for Enough {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let archive = Archive::filled().await;
    for name in ["ls", "cat", "verify"] {
        let stopped = match Command::try_parse_from(["greypit", name, archive.url()]).unwrap() {
            Command::Ls(ls) => ls.list(None, &mut Enough).await,
            Command::Cat(cat) => cat.print(None, &mut Enough).await,
            Command::Top(top) => top.count(None, &mut Enough).await,
            Command::Verify(verify) => verify.prove(None, &mut Enough).await,
        };
        assert!(matches!(stopped, Err(Stop::Pipe)), "{name}");
    }
}

#[tokio::test]
async fn a_time_that_ends_before_it_begins_is_a_mistake() {
    let archive = Archive::filled().await;
    for command in ["ls", "cat", "verify"] {
        let answer = run(&[command, archive.url(), "--since", "1h", "--until", "2h"]).await;
        assert!(matches!(answer, Err(Stop::Say(line)) if line.contains("--until")), "{command}");
    }
}
