//! What a server's answers become. The server here only repeats canned answers; that requests are right is shown by the
//! tests against a real one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::Region;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Config, Encryption, Object, Put, Store, StoreError};
use super::{S3Store, client};
use crate::units::{Size, Span};

/// What the server does with each connection in turn; the last is repeated.
#[derive(Clone, Debug)]
enum Act {
    Answer(u16, &'static str),
    /// Reads the request and hangs up.
    HangUp,
    /// Reads the request and says nothing.
    Silence,
    /// Promises more than it sends.
    CutOff,
}

#[derive(Clone, Debug, Default)]
struct Requests(Arc<Mutex<Vec<String>>>);

impl Requests {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

async fn serve(acts: Vec<Act>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = requests.clone();
    tokio::spawn(async move {
        let mut acts = acts.into_iter().peekable();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let act = if acts.len() > 1 { acts.next() } else { acts.peek().cloned() };
            tokio::spawn(answer(stream, act.unwrap(), seen.clone()));
        }
    });
    (endpoint, requests)
}

async fn answer(mut stream: TcpStream, act: Act, requests: Requests) {
    let mut request = Vec::new();
    let mut buffer = [0; 65_536];
    let end = loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        request.extend_from_slice(&buffer[..read]);
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = request.len() - end;
    while body < length {
        body += stream.read(&mut buffer).await.unwrap_or(0);
    }
    requests.0.lock().unwrap().push(head);
    let text = match act {
        Act::Answer(status, body) => {
            format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nETag: \"e\"\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
        }
        Act::HangUp => return,
        Act::CutOff => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nhalf".into(),
        Act::Silence => {
            let _until_the_client_gives_up = stream.read(&mut buffer).await;
            return;
        }
    };
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn store_at(endpoint: &str) -> S3Store {
    store_within(Duration::from_secs(120), endpoint).await
}

async fn store_within(limit: Duration, endpoint: &str) -> S3Store {
    store_with(Config {
        url: "s3://bucket/logs".into(),
        endpoint: Some(endpoint.into()),
        path_style: true,
        request_timeout: Span(limit),
        ..Config::default()
    })
    .await
}

async fn store_with(config: Config) -> S3Store {
    config.validate().unwrap();
    let store = S3Store::new(&config, "bucket".into(), "logs".into());
    let credentials = SharedCredentialsProvider::new(Credentials::new("key", "a secret", None, None, "test"));
    let http = client::http_client(&config).unwrap();
    let connection = client::connect_with(&config, http, Region::new("us-east-1"), credentials).await;
    store.inner.connection.set(connection).unwrap();
    store
}

fn object(bytes: usize) -> Object {
    Object {
        bytes: vec![7; bytes].into(),
        content_type: "application/x-bzip2",
        metadata: vec![("greypit-records", "12".into())],
    }
}

async fn put(act: Act) -> Result<Put, StoreError> {
    let (endpoint, _) = serve(vec![act]).await;
    store_at(&endpoint).await.put_new("a.json", &object(10)).await
}

#[tokio::test]
async fn answers_become_classes() {
    for (status, body, class, config) in [
        (404, "<Error><Code>NoSuchBucket</Code></Error>", "no_bucket", true),
        (403, "<Error><Code>InvalidAccessKeyId</Code><Message>m</Message></Error>", "bad_credentials", true),
        (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", "bad_credentials", true),
        (400, "<Error><Code>ExpiredToken</Code></Error>", "bad_credentials", true),
        (403, "<Error><Code>AccessDenied</Code></Error>", "denied", false),
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", "clock", false),
        (301, "<Error><Code>PermanentRedirect</Code></Error>", "wrong_region", true),
        (409, "<Error><Code>ConditionalRequestConflict</Code></Error>", "conflict", false),
        (503, "<Error><Code>SlowDown</Code></Error>", "throttled", false),
        (429, "", "throttled", false),
        (500, "<Error><Code>InternalError</Code></Error>", "server", false),
        (502, "<html>bad gateway</html>", "server", false),
        (404, "<html>not found</html>", "server", false),
        (501, "<Error><Code>NotImplemented</Code></Error>", "unsupported", true),
        (507, "<Error><Code>XMinioStorageFull</Code></Error>", "no_space", false),
        (400, "<Error><Code>InvalidRequest</Code></Error>", "rejected", false),
    ] {
        let error = put(Act::Answer(status, body)).await.unwrap_err();
        assert_eq!((error.class, error.is_config()), (class, config), "{status} {body}: {error}");
        let line = error.to_string();
        assert!(line.starts_with("cannot write s3://bucket/logs/a.json: ") && !line.contains('\n'), "{line}");
        assert!(!line.contains("a secret"), "{line}");
    }
    assert_eq!(put(Act::Answer(412, "<Error><Code>PreconditionFailed</Code></Error>")).await, Ok(Put::Exists));
    assert_eq!(put(Act::Answer(200, "")).await, Ok(Put::Created));
}

#[tokio::test]
async fn a_line_that_breaks_is_told_by_its_cause() {
    assert_eq!(put(Act::HangUp).await.unwrap_err().class, "network");
    let (silent, _) = serve(vec![Act::Silence]).await;
    let store = store_within(Duration::from_millis(1_500), &silent).await;
    let error = store.put_new("a.json", &object(10)).await.unwrap_err();
    assert_eq!((error.class, error.is_config()), ("timeout", false), "{error}");
    assert!(error.reason.starts_with("no answer within 1s500ms"), "{error}");

    // A port that nobody is given.
    let error = store_at("http://127.0.0.1:1").await.put_new("a.json", &object(1)).await.unwrap_err();
    assert_eq!(error.class, "refused", "{error}");
    assert!(error.reason.contains("onnection refused (os error 111)"), "{error}");

    let (endpoint, _) = serve(vec![Act::CutOff]).await;
    let error = store_at(&endpoint).await.get("a.json").await.unwrap_err();
    assert_eq!(error.class, "network", "{error}");
}

#[tokio::test]
async fn nothing_is_tried_twice() {
    let (endpoint, requests) = serve(vec![Act::Answer(503, "<Error><Code>SlowDown</Code></Error>")]).await;
    let store = store_at(&endpoint).await;
    store.put_new("a.json", &object(1)).await.unwrap_err();
    assert_eq!(requests.all().len(), 1);
}

#[tokio::test]
async fn credentials_that_may_only_write_pass_the_check() {
    let (endpoint, _) = serve(vec![Act::Answer(403, "<Error><Code>AccessDenied</Code></Error>")]).await;
    store_at(&endpoint).await.check().await.unwrap();
    let (endpoint, _) = serve(vec![Act::Answer(404, "<Error><Code>NoSuchBucket</Code></Error>")]).await;
    let error = store_at(&endpoint).await.check().await.unwrap_err();
    assert!(error.is_config() && error.reason.contains("'bucket'"), "{error}");
}

#[tokio::test]
async fn a_server_that_overwrites_is_found_out() {
    let twice = async |second| {
        let (endpoint, _) = serve(vec![Act::Answer(200, ""), second]).await;
        Store::S3(store_at(&endpoint).await).check_never_overwrites("_cut/_check").await
    };
    twice(Act::Answer(412, "<Error><Code>PreconditionFailed</Code></Error>")).await.unwrap();
    let error = twice(Act::Answer(200, "")).await.unwrap_err();
    assert_eq!(error.class, "unsupported");
    assert!(error.to_string().contains("overwrites what is there"), "{error}");
}

#[tokio::test]
async fn a_put_carries_condition_checksum_type_and_encryption() {
    let (endpoint, requests) = serve(vec![Act::Answer(200, "")]).await;
    let store = store_with(Config {
        url: "s3://bucket/logs".into(),
        endpoint: Some(endpoint),
        path_style: true,
        sse: Encryption::Kms,
        sse_kms_key_id: Some("my-key".into()),
        ..Config::default()
    })
    .await;
    store.put_new("day/a.json.bz2", &object(3)).await.unwrap();
    let request = &requests.all()[0];
    for line in [
        "put /bucket/logs/day/a.json.bz2?x-id=putobject http/1.1",
        "if-none-match: *",
        "content-type: application/x-bzip2",
        "content-length: 3",
        "x-amz-meta-greypit-records: 12",
        "x-amz-checksum-sha256: ",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: my-key",
    ] {
        assert!(request.contains(line), "{line} in {request}");
    }
    // Servers keep as much of an unsigned body as came before the line broke.
    assert!(!request.contains("unsigned-payload"), "{request}");
    assert!(!request.contains("content-encoding") && !request.contains("x-amz-trailer"), "{request}");
}

#[tokio::test]
async fn a_failed_upload_of_parts_is_given_up() {
    let created = "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
    let (endpoint, requests) = serve(vec![Act::Answer(200, created), Act::Answer(500, ""), Act::Answer(204, "")]).await;
    let config = Config {
        url: "s3://bucket/logs".into(),
        endpoint: Some(endpoint),
        path_style: true,
        multipart_bytes: Size(5 << 20),
        ..Config::default()
    };
    let error = store_with(config).await.put_new("a.json", &object(6 << 20)).await.unwrap_err();
    assert_eq!(error.class, "server", "{error}");
    let requests = requests.all();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[2].starts_with("delete /bucket/logs/a.json?") && requests[2].contains("uploadid=u1"),
        "{requests:?}"
    );
}
