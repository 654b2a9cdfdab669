//! A real S3 server (versitygw over a folder) on a loopback port, and a small
//! client of it (curl).

use super::net::{free_port, listens};
use super::{Folder, Process, parts_dir, run, wait_for};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const ACCESS_KEY: &str = "greypit-tests";
const SECRET_KEY: &str = "greypit-tests-secret";
const REGION: &str = "us-east-1";

/// A running S3 server with one bucket, and its data.
#[derive(Debug)]
pub(crate) struct S3Server {
    process: Option<Process>,
    folder: Folder,
    port: u16,
}

impl S3Server {
    pub(crate) const BUCKET: &str = "mail-archive";

    /// Starts the server with the bucket in place.
    pub(crate) fn start() -> Self {
        let folder = Folder::new("s3");
        std::fs::create_dir_all(folder.join("data").join(Self::BUCKET)).expect("the bucket");
        let mut server = Self { process: None, folder, port: free_port() };
        server.start_again();
        server
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Where the server keeps the bucket: an object is a file at its key.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.folder.join("data").join(Self::BUCKET)
    }

    /// The environment that gives the AWS credential chain of a child process
    /// this server's credentials and nothing else.
    pub(crate) fn env(&self) -> [(&'static str, &'static str); 5] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", REGION),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
        ]
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again at the same address over the same data.
    pub(crate) fn start_again(&mut self) {
        let addr = self.addr();
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("the server's log file");
        let mut command = Command::new(program());
        command
            .env("ROOT_ACCESS_KEY_ID", ACCESS_KEY)
            .env("ROOT_SECRET_ACCESS_KEY", SECRET_KEY)
            .args(["--quiet", "--keep-alive", "--region", REGION, "--port", &addr.to_string()])
            .arg("posix")
            .arg(self.folder.join("data"))
            .stdout(log.try_clone().expect("the server's log file"))
            .stderr(log);
        let mut process = Process::spawn("versitygw", &mut command);
        wait_for("the S3 server", || {
            process.assert_alive();
            listens(addr).then_some(())
        });
        self.process = Some(process);
    }

    /// Stops the server from running: connections open, nothing answers.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("the server runs").signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("the server runs").signal("CONT");
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> S3Client {
        self.client_at(&self.endpoint())
    }

    /// A client that reaches the server at another address, such as that of a
    /// proxy.
    pub(crate) fn client_at(&self, endpoint: &str) -> S3Client {
        S3Client { endpoint: endpoint.to_owned() }
    }
}

/// A client for the bucket of an [`S3Server`].
#[derive(Debug, Clone)]
pub(crate) struct S3Client {
    endpoint: String,
}

impl S3Client {
    /// PUT of an object, with more headers such as `If-None-Match: *`.
    pub(crate) fn put(&self, key: &str, headers: &[&str], body: &[u8]) -> Answer {
        self.request("PUT", key, headers, Some(body))
    }

    pub(crate) fn get(&self, key: &str) -> Answer {
        self.request("GET", key, &[], None)
    }

    pub(crate) fn head(&self, key: &str) -> Answer {
        self.request("HEAD", key, &[], None)
    }

    pub(crate) fn delete(&self, key: &str) -> Answer {
        self.request("DELETE", key, &[], None)
    }

    /// The keys with this prefix, in order, however many there are.
    pub(crate) fn list(&self, prefix: &str) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let after = keys.last().map_or(String::new(), |k| format!("&start-after={}", query(k)));
            let path = format!("?list-type=2&prefix={}{after}", query(prefix));
            let text = self.request("GET", &path, &[], None).text();
            keys.extend(between(&text, "<Key>", "</Key>").map(unescape));
            if !text.contains("<IsTruncated>true</IsTruncated>") {
                return keys;
            }
        }
    }

    /// A signed request. `path` is the key and, behind a `?`, the query with
    /// its names in alphabetical order.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[&str], body: Option<&[u8]>) -> Answer {
        let head = tempfile::NamedTempFile::new().expect("a scratch file");
        // Signed: versitygw stores what it got of an unsigned body when the
        // connection ends early.
        let sha256 = Sha256::digest(body.unwrap_or_default());
        let sha256 = sha256.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--max-time", "120", "--path-as-is"])
            .args(["--aws-sigv4", &format!("aws:amz:{REGION}:s3")])
            .args(["--user", &format!("{ACCESS_KEY}:{SECRET_KEY}")])
            .args(["--header", &format!("x-amz-content-sha256: {sha256}"), "--header", "Expect:"])
            .args(headers.iter().flat_map(|h| ["--header", h]))
            .arg("--dump-header")
            .arg(head.path());
        match (method, body) {
            ("HEAD", _) => command.arg("--head").stdin(Stdio::null()),
            (_, Some(_)) => command.args(["--request", method, "--data-binary", "@-"]),
            (_, None) => command.args(["--request", method]).stdin(Stdio::null()),
        };
        if body.is_some() {
            // curl would name a form otherwise, and the server would keep that.
            command.args(["--header", "Content-Type: application/octet-stream"]);
            command.stdin(Stdio::piped());
        }
        command.arg(format!("{}/{}/{path}", self.endpoint, S3Server::BUCKET).replace("/?", "?"));
        let output = feed(&mut command, body.unwrap_or_default());
        let head = std::fs::read_to_string(head.path()).unwrap_or_default();
        Answer::new(&head, output)
    }
}

fn feed(command: &mut Command, input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    command.stdout(Stdio::piped());
    let mut child = command.spawn().expect("curl is installed");
    if let Some(mut stdin) = child.stdin.take() {
        let _refused_before_all_was_sent = stdin.write_all(input);
    }
    child.wait_with_output().expect("a child of ours").stdout
}

/// What the server said. `status` is 0 when it said nothing.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn new(head: &str, body: Vec<u8>) -> Self {
        // The last head counts: "100 Continue" may come before it.
        let head = head.trim_end().rsplit("\r\n\r\n").next().unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
        Self { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The server's version, such as "v1.8.0".
pub(crate) fn version() -> String {
    let text = run(Command::new(program()).arg("--version"));
    text.split_whitespace().last().unwrap_or("?").to_owned()
}

fn program() -> PathBuf {
    let program = parts_dir().join("bin/versitygw");
    assert!(program.exists(), "{} is missing: run tests/run.sh once", program.display());
    program
}

/// What stands between each `open` and the next `close`.
pub(crate) fn between<'t>(text: &'t str, open: &'t str, close: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close)).map(|(found, _)| found)
}

fn unescape(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", "\"");
    text.replace("&#39;", "'").replace("&amp;", "&")
}

/// A value for a query, percent-encoded as the signature wants it.
fn query(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => write!(text, "%{byte:02X}").expect("a String takes everything"),
        }
        text
    })
}
