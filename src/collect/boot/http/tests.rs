//! Over loopback, with requests as they are on the wire.

use super::super::machines::{Boot, Machine, Machines};
use super::super::world::testing::{event, everybody, shows, world};
use super::*;
use greypit_pipeline::submit::testing::Queue;
use prometheus::Registry;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

struct Served {
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    address: SocketAddr,
    events: Queue,
    registry: Registry,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn serve_with(text: &str, net: &str, machines: Machines, pace: Pace) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let (world, events, registry) = world(text, net, dir.path(), machines);
    let socket = open("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().as_socket_ipv4().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let tasks = runtime.block_on(async {
        let bound = Bound { sockets: vec![(socket, address)], ..Bound::default() };
        let metrics = Metrics::new(&registry, world.config.http.max_connections).unwrap();
        spawn_with(bound, Arc::new(world), metrics, stop.clone(), pace).unwrap()
    });
    Served { runtime, dir, address: address.into(), events, registry, stop, tasks }
}

fn serve(text: &str) -> Served {
    serve_with(text, "127.0.0.1/8", everybody("127.0.0.1"), Pace::LEAST)
}

impl Served {
    fn file(&self, name: &str, bytes: usize) -> Vec<u8> {
        let content: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
        std::fs::write(self.dir.path().join(name), &content).unwrap();
        content
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// The whole answer to a request that is the connection's only one: head and body.
    fn ask(&self, request: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let body = answer.split_off(end + 4);
        (String::from_utf8(answer).unwrap().to_lowercase(), body)
    }

    fn get(&self, path: &str, more: &str) -> (String, Vec<u8>) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{more}\r\n"))
    }

    fn event(&mut self) -> serde_json::Value {
        event(&mut self.events)
    }

    fn metric(&self, line: &str) -> bool {
        shows(&self.registry, line)
    }

    fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            self.runtime.block_on(task).unwrap();
        }
    }
}

#[test]
fn files_whole_and_in_part_with_an_event_each() {
    let mut served = serve("");
    let content = served.file("kernel", 1_000_000);
    let (head, body) = served.get("//./kernel?x=1", "User-Agent: UefiHttpBoot/1.0\r\n");
    assert!(head.starts_with("http/1.1 200") && head.contains("\r\ncontent-length: 1000000\r\n"), "{head}");
    assert!(head.contains("\r\naccept-ranges: bytes\r\n") && !head.contains("chunked"), "{head}");
    assert!(body == content);
    let event = served.event();
    assert_eq!((&event["status"], &event["bytes"]), (&200.into(), &1_000_000.into()), "{event}");
    assert_eq!((&event["method"], &event["path"]), (&"GET".into(), &"//./kernel?x=1".into()));
    assert_eq!((&event["user_agent"], &event["outcome"]), (&"UefiHttpBoot/1.0".into(), &"complete".into()));

    let (head, body) = served.get("/kernel", "Range: bytes=999990-\r\n");
    assert!(head.starts_with("http/1.1 206") && head.contains("content-range: bytes 999990-999999/1000000"), "{head}");
    assert!(body == content[999_990..]);
    assert_eq!(served.event()["range"], "bytes=999990-");
    let (head, _) = served.get("/kernel", "Range: bytes=1000000-\r\n");
    assert!(head.starts_with("http/1.1 416") && head.contains("content-range: bytes */1000000"), "{head}");
    let (head, body) = served.get("/kernel", "Range: bytes=5-6\r\nIf-Range: \"x\"\r\n");
    assert!(head.starts_with("http/1.1 200") && body == content, "{head}");
    assert!(served.metric("greypit_boot_http_requests_total{status=\"200\"} 2\n"));
    served.end();
}

#[test]
fn head_then_get_on_one_connection_and_http_1_0() {
    let mut served = serve("");
    let content = served.file("BOOTX64.EFI", 3000);
    let mut stream = served.connect();
    stream.write_all(b"HEAD /BOOTX64.EFI HTTP/1.1\r\nHost: whatever\r\n\r\n").unwrap();
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    assert!(head.contains("content-length: 3000") && head.contains("content-type: application/efi"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "no body: {head}");
    assert_eq!(served.event()["method"], "HEAD");
    stream.write_all(b"GET /BOOTX64.EFI HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&content));
    assert_eq!(served.event()["bytes"], 3000);

    let (head, body) = served.ask("GET /BOOTX64.EFI HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("http/1.0 200") && body == content, "{head}");
    served.end();
}

#[test]
fn the_script_is_the_asking_machines() {
    let mut machines = Machines::default();
    machines.add(
        "127.0.0.1".parse().unwrap(),
        Machine {
            hostname: "m1".to_owned(),
            ip: Some("127.0.0.1".parse().unwrap()),
            boot: Boot::Script,
            script: Some("#!ipxe\necho {{ hostname }} {{ base }}\n".to_owned()),
            ..Machine::default()
        },
    );
    let mut served = serve_with("", "127.0.0.1/8", machines, Pace::LEAST);
    for path in ["/boot.ipxe", "//autoexec.ipxe", "/%62oot.ipxe"] {
        let (head, body) = served.get(path, "");
        assert!(head.contains("content-type: text/plain") && head.contains("cache-control: no-store"), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), "#!ipxe\necho m1 http://127.0.0.1\n", "{path}");
        assert_eq!(served.event()["machine"], "m1");
    }
    served.end();
}

#[test]
fn what_is_refused_says_why_on_one_line() {
    let mut served = serve("");
    std::os::unix::fs::symlink("/etc/passwd", served.dir.path().join("link")).unwrap();
    for (request, status, why) in [
        ("GET /nothing", 404, "no such file"),
        ("GET /%2e%2e/etc/passwd", 403, "not a name below boot.root"),
        ("GET /a%00b", 403, "not a name below boot.root"),
        ("GET /link", 403, "not a name below boot.root"),
        ("GET /", 403, "not a name below boot.root"),
        ("GET /%zz", 400, "the path has a % that is no escape"),
        ("POST /link", 405, "only GET and HEAD"),
        ("OPTIONS *", 405, "only GET and HEAD"),
    ] {
        let (head, body) = served.ask(&format!("{request} HTTP/1.1\r\nConnection: close\r\n\r\n"));
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{request}: {head}");
        assert_eq!(String::from_utf8(body).unwrap(), format!("{why}\n"), "{request}");
        let event = served.event();
        assert_eq!((&event["status"], &event["why"]), (&status.into(), &why.into()), "{event}");
        assert_eq!((&event["outcome"], &event["decision"]), (&"refused".into(), &"refused".into()));
    }
    let (head, _) = served.ask("nonsense\r\n\r\n");
    assert!(head.starts_with("http/1.1 400"), "{head}");
    assert_eq!(served.event()["outcome"], "malformed");
    let (head, _) = served.get("/", &format!("X: {}\r\n", "x".repeat(20_000)));
    assert!(head.starts_with("http/1.1 431"), "{head}");
    assert_eq!(served.event()["outcome"], "malformed");
    assert!(served.metric("greypit_boot_http_malformed_total 2\n"));
    served.end();

    let mut nobody = serve_with("", "127.0.0.1/8", Machines::default(), Pace::LEAST);
    nobody.file("kernel", 1);
    let (head, body) = nobody.get("/kernel", "");
    assert!(head.starts_with("http/1.1 403") && body == b"unknown machine\n", "{head}");
    assert_eq!(nobody.event()["why"], "unknown machine");
    nobody.end();
}

#[test]
fn strangers_and_too_many_of_one_are_closed_unread() {
    let outside = serve_with("", "10.77.0.1/24", everybody("10.77.0.1"), Pace::LEAST);
    assert_eq!(outside.connect().read(&mut [0; 10]).unwrap_or(0), 0);
    assert!(outside.metric("greypit_boot_http_closed_total{reason=\"outside\"} 1\n"));
    outside.end();

    let served = serve("http.max_connections_per_client = 1");
    served.file("kernel", 1);
    let mut first = served.connect();
    first.write_all(b"GET /kernel HTTP/1.1\r\n\r\n").unwrap();
    assert!(first.read(&mut [0; 1000]).unwrap() > 0);
    assert_eq!(served.connect().read(&mut [0; 10]).unwrap_or(0), 0);
    assert!(served.metric("greypit_boot_http_closed_total{reason=\"client\"} 1\n"));
    served.end();
}

#[test]
fn a_peer_that_takes_nothing_is_closed() {
    // Long enough for the file to be found on a slow machine: before that there is no request to speak of.
    let pace = Pace { window: Duration::from_secs(4), bytes: 1, ..Pace::LEAST };
    let mut served = serve_with("", "127.0.0.1/8", everybody("127.0.0.1"), pace);
    served.file("kernel", 64 << 20);
    let mut stream = served.connect();
    stream.write_all(b"GET /kernel HTTP/1.1\r\n\r\n").unwrap();
    let event = served.event();
    assert_eq!((&event["outcome"], &event["status"]), (&"aborted".into(), &200.into()), "{event}");
    assert!(event["bytes"].as_u64().unwrap() < 64 << 20);
    assert!(served.metric("greypit_boot_http_closed_total{reason=\"slow\"} 1\n"));
    served.end();
}

#[test]
fn a_file_that_becomes_shorter_does_not_look_whole() {
    let mut served = serve("");
    served.file("kernel", 64 << 20);
    let mut stream = served.connect();
    stream.write_all(b"GET /kernel HTTP/1.1\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(served.dir.path().join("kernel")).unwrap();
    file.set_len(1 << 20).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < (64 << 20) - 1000);
    assert_eq!(served.event()["why"], "the file became shorter");
    served.end();
}

#[test]
fn the_end_lets_an_answer_end() {
    // Whatever holds this machine up: what is looked at is that the answer goes on.
    let pace = Pace { stopping: Duration::from_secs(600), ..Pace::LEAST };
    let served = serve_with("", "127.0.0.1/8", everybody("127.0.0.1"), pace);
    let content = served.file("kernel", 8 << 20);
    let mut stream = served.connect();
    let idle = served.connect();
    stream.write_all(b"GET /kernel HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = vec![0; 1000];
    stream.read_exact(&mut answer).unwrap();
    served.stop.cancel();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&content));
    drop(idle);
    served.end();
}

#[test]
fn an_answer_that_nobody_takes_does_not_hold_up_the_end() {
    let pace = Pace { stopping: Duration::from_millis(100), ..Pace::LEAST };
    let mut served = serve_with("", "127.0.0.1/8", everybody("127.0.0.1"), pace);
    served.file("kernel", 64 << 20);
    let mut stream = served.connect();
    stream.write_all(b"GET /kernel HTTP/1.1\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    served.stop.cancel();
    assert_eq!(served.event()["outcome"], "aborted");
    served.end();
}

#[test]
fn a_taken_port_says_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config { port: taken.local_addr().unwrap().port(), ..Config::default() };
    let interface = Interface::new("lo", 1, super::super::mac::Mac([0; 6]), "127.0.0.1/8".parse().unwrap());
    let error = bind(&config, std::slice::from_ref(&interface)).unwrap_err().to_string();
    assert!(error.contains("boot.http.port: cannot listen on 127.0.0.1:"), "{error}");
    assert!(bind(&Config { port: 0, ..config }, &[interface]).unwrap().addresses().is_empty());
}
