//! The S3 store against a real server.
//!
//! Credentials come from the environment alone, so each test starts this program again with the server's.

mod support;

use std::process::Command;

use greypit_pipeline::store::{Config, Object, Put, Store};
use greypit_pipeline::units::Size;
use support::s3::S3Server;

/// Where the server is, and that this is the inner program.
const ENDPOINT: &str = "GREYPIT_TEST_ENDPOINT";

/// Runs the test `inner` of this program with the server's environment, changed by `env`.
fn inside(server: &S3Server, inner: &str, env: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", inner, "--nocapture"]).envs(server.env()).env(ENDPOINT, server.endpoint());
    let text = support::run(command.envs(env.iter().copied()));
    assert!(text.contains("1 passed"), "{text}");
}

fn config(url: &str) -> Option<Config> {
    let endpoint = std::env::var(ENDPOINT).ok()?;
    let parts = Size(5 << 20);
    Some(Config {
        url: url.into(),
        endpoint: Some(endpoint),
        path_style: true,
        multipart_bytes: parts,
        ..Config::default()
    })
}

fn store(url: &str) -> Option<Store> {
    Some(Store::open(&config(url)?).expect("a valid config"))
}

fn bucket() -> Option<Store> {
    store(&format!("s3://{}/logs", S3Server::BUCKET))
}

fn object(bytes: Vec<u8>) -> Object {
    let metadata = vec![("greypit-records", "12".to_owned()), ("greypit-sha256", "abc".to_owned())];
    Object { bytes: bytes.into(), content_type: "application/x-bzip2", metadata }
}

#[test]
fn objects_are_created_once_and_found_again() {
    let server = S3Server::start();
    inside(&server, "inner_objects", &[]);
    let client = server.client();
    for key in ["logs/day/a.json.bz2", "logs/day/parts.json.bz2"] {
        let head = client.head(key);
        assert_eq!(head.header("content-type"), Some("application/x-bzip2"), "{key}");
        assert_eq!(head.header("x-amz-meta-greypit-records"), Some("12"), "{key}");
        assert_eq!(head.header("x-amz-meta-greypit-sha256"), Some("abc"), "{key}");
        assert_eq!(head.header("content-encoding"), None, "{key}");
    }
    let uploads = client.request("GET", "?uploads=", &[], None).text();
    assert!(!uploads.contains("<UploadId>"), "a lost race leaves no parts behind: {uploads}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inner_objects() {
    let Some(store) = bucket() else { return };
    store.check().await.unwrap();
    assert_eq!(store.put_new("day/a.json.bz2", &object(b"first".to_vec())).await, Ok(Put::Created));
    assert_eq!(store.put_new("day/a.json.bz2", &object(b"second".to_vec())).await, Ok(Put::Exists));
    assert_eq!(store.get("day/a.json.bz2").await.unwrap(), "first");

    let parts: Vec<u8> = (0..40 << 20).map(|i: u32| (i % 251) as u8).collect();
    assert_eq!(store.put_new("day/parts.json.bz2", &object(parts.clone())).await, Ok(Put::Created));
    assert_eq!(store.put_new("day/parts.json.bz2", &object(vec![0; 6 << 20])).await, Ok(Put::Exists));
    assert!(store.get("day/parts.json.bz2").await.unwrap() == parts);

    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16u8 {
        let store = store.clone();
        let bytes = if writer % 2 == 0 { 6 << 20 } else { 1_000 };
        writers.spawn(async move { store.put_new("day/race.json", &object(vec![writer; bytes])).await });
    }
    let answers = writers.join_all().await;
    let created = answers.iter().filter(|answer| **answer == Ok(Put::Created)).count();
    let refused_for_now = answers.iter().filter(|answer| answer.as_ref().is_err_and(|e| e.class == "conflict")).count();
    let exists = answers.iter().filter(|answer| **answer == Ok(Put::Exists)).count();
    assert_eq!((created, exists + refused_for_now), (1, 15), "{answers:?}");

    for i in 0..1_001 {
        store.put_new(&format!("many/{i:04}.json"), &object(Vec::new())).await.unwrap();
    }
    let keys: Vec<String> = store.list("many/").await.unwrap().into_iter().map(|object| object.key).collect();
    assert_eq!(keys, (0..1_001).map(|i| format!("many/{i:04}.json")).collect::<Vec<_>>(), "more than one page");
    let day: Vec<(String, u64)> =
        store.list("day/p").await.unwrap().into_iter().map(|object| (object.key, object.size)).collect();
    assert_eq!(day, [("day/parts.json.bz2".to_owned(), 40 << 20)]);
    assert_eq!(store.get("day/none.json").await.unwrap_err().class, "not_found");
}

#[test]
fn mistakes_are_told_apart_from_a_server_that_is_away() {
    let mut server = S3Server::start();
    inside(&server, "inner_mistake", &[("EXPECT", "no_bucket"), ("BUCKET", "no-such-bucket")]);
    inside(&server, "inner_mistake", &[("EXPECT", "bad_credentials"), ("AWS_SECRET_ACCESS_KEY", "wrong")]);
    inside(&server, "inner_mistake", &[("EXPECT", "bad_credentials"), ("AWS_ACCESS_KEY_ID", "nobody")]);
    inside(&server, "inner_mistake", &[("EXPECT", "wrong_region"), ("AWS_REGION", "eu-north-1")]);
    let none = [("EXPECT", "no_credentials"), ("AWS_ACCESS_KEY_ID", ""), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")];
    inside(&server, "inner_mistake", &none);
    server.pause();
    inside(&server, "inner_away", &[("EXPECT", "timeout")]);
    server.resume();
    server.kill();
    inside(&server, "inner_away", &[("EXPECT", "refused")]);
}

#[tokio::test]
async fn inner_mistake() {
    let Ok(expected) = std::env::var("EXPECT") else { return };
    let bucket = std::env::var("BUCKET").unwrap_or(S3Server::BUCKET.into());
    let error = store(&format!("s3://{bucket}")).unwrap().check().await.unwrap_err();
    assert_eq!((error.class, error.is_config()), (expected.as_str(), true), "{error}");
}

#[tokio::test]
async fn inner_away() {
    let Ok(expected) = std::env::var("EXPECT") else { return };
    // So long as nobody answers, and longer than a refusal takes anywhere.
    let limit = greypit_pipeline::units::Span::seconds(if expected == "timeout" { 1 } else { 120 });
    let config = Config { request_timeout: limit, ..config(&format!("s3://{}", S3Server::BUCKET)).unwrap() };
    let store = Store::open(&config).unwrap();
    for error in [store.check().await.unwrap_err(), store.put_new("a.json", &object(vec![1])).await.unwrap_err()] {
        assert_eq!((error.class, error.is_config()), (expected.as_str(), false), "{error}");
    }
}
