//! The fault proxy itself, in front of a plain HTTP server of a few lines.
//! Needs no real part.

#[path = "support/net.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod net;
#[path = "support/proxy.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod proxy;

use proxy::{FaultProxy, Mode};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that keeps the body of each complete request.
struct Store {
    addr: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Store {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept) = (stream.expect("a client"), Arc::clone(&kept));
                std::thread::spawn(move || {
                    let Some((head, body)) = read_message(&mut stream) else {
                        return;
                    };
                    kept.lock().expect("the list").push(body);
                    assert!(head.contains("Connection: close\r\n"), "{head}");
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("a client");
                });
            }
        });
        Self { addr, bodies }
    }

    fn stored(&self) -> usize {
        self.bodies.lock().expect("the list").len()
    }
}

/// Reads a head and a body of its Content-Length; None if it ends early.
fn read_message(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
            let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: "));
            let length = length.map_or(0, |n| n.parse().expect("a number"));
            if bytes.len() - end - 4 >= length {
                return Some((head, bytes.split_off(end + 4)));
            }
            if head.contains("100-continue") && bytes.len() == end + 4 {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// Only ends what hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// How long to look for an answer that is not to come.
const NOTHING: Duration = Duration::from_millis(500);

/// What a client sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Status(u16),
    Refused,
    Cut,
    Nothing,
}

fn request(proxy: &FaultProxy, method: &str, body: &[u8]) -> Seen {
    request_within(LIMIT, proxy, method, body)
}

fn request_within(limit: Duration, proxy: &FaultProxy, method: &str, body: &[u8]) -> Seen {
    let mut stream = match TcpStream::connect(proxy.addr()) {
        Ok(stream) => stream,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Seen::Refused,
        Err(e) => panic!("{e}"),
    };
    stream.set_read_timeout(Some(limit)).expect("a time limit");
    let head = format!(
        "{method} /key HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("a proxy reads the head");
    let _may_be_cut = stream.write_all(body);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(0) => Seen::Cut,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Seen::Cut,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Seen::Nothing,
        other => {
            let text = String::from_utf8_lossy(&answer).into_owned();
            let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
            Seen::Status(status.unwrap_or_else(|| panic!("{other:?} {text:?}")))
        }
    }
}

fn start() -> (Store, FaultProxy) {
    let store = Store::start();
    let proxy = FaultProxy::start(store.addr);
    (store, proxy)
}

#[test]
fn passes_whole_bodies() {
    let (store, proxy) = start();
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(request(&proxy, "PUT", &body), Seen::Status(200));
    assert_eq!(store.bodies.lock().expect("the list")[0], body);
    assert_eq!(request(&proxy, "GET", b""), Seen::Status(200));
    let counts = proxy.counts();
    assert_eq!((counts.requests, counts.uploads, counts.faults), (2, 1, 0));
}

#[test]
fn passes_an_interim_answer_while_the_final_one_is_lost() {
    let (store, proxy) = start();
    proxy.set(Mode::LoseAnswer);
    let mut stream = TcpStream::connect(proxy.addr()).expect("the proxy listens");
    let head = "PUT /key HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the proxy reads");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("100 Continue");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").expect("the proxy reads");
    assert!(matches!(stream.read(&mut interim), Ok(0) | Err(_)));
    assert_eq!(store.stored(), 1);
}

#[test]
fn refuses_and_comes_back_at_the_same_address() {
    let (store, proxy) = start();
    for _ in 0..5 {
        proxy.set(Mode::Refuse);
        assert_eq!(request(&proxy, "PUT", b"x"), Seen::Refused);
        proxy.set(Mode::Pass);
        assert_eq!(request(&proxy, "PUT", b"x"), Seen::Status(200));
    }
    assert_eq!(store.stored(), 5);
}

#[test]
fn hangs_until_the_mode_changes() {
    let (store, proxy) = start();
    proxy.set(Mode::Hang);
    assert_eq!(request_within(NOTHING, &proxy, "PUT", b"x"), Seen::Nothing);
    let waiting = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut stream = TcpStream::connect(proxy.addr()).expect("the proxy listens");
            stream.write_all(b"PUT /key HTTP/1.1\r\n\r\n").expect("the proxy reads");
            stream.read(&mut [0; 10]).map_err(|e| e.kind())
        });
        while proxy.counts().requests < 2 {
            std::thread::yield_now();
        }
        proxy.set(Mode::Pass);
        client.join().expect("no panic")
    });
    assert_eq!(waiting, Err(ErrorKind::ConnectionReset));
    assert_eq!(store.stored(), 0);
}

#[test]
fn answers_in_place_of_the_store() {
    let (store, proxy) = start();
    let body = vec![b'x'; 3_000_000];
    for status in [500, 503, 409, 429] {
        proxy.set(Mode::Answer(status));
        assert_eq!(request(&proxy, "PUT", &body), Seen::Status(status));
    }
    assert_eq!(store.stored(), 0);
}

#[test]
fn cuts_an_upload_in_the_middle() {
    let (store, proxy) = start();
    for bytes in [0, 1, 1_000, 999_999] {
        proxy.set(Mode::CutUploadAfter(bytes));
        assert_eq!(request(&proxy, "PUT", &vec![b'x'; 1_000_000]), Seen::Cut);
    }
    assert_eq!(store.stored(), 0);
}

#[test]
fn loses_an_answer_after_the_object_is_stored() {
    let (store, proxy) = start();
    proxy.set(Mode::LoseAnswer);
    assert_eq!(request(&proxy, "PUT", &vec![b'x'; 1_000_000]), Seen::Cut);
    assert_eq!((store.stored(), proxy.counts().successes_lost), (1, 1));
    proxy.set(Mode::ChangeAnswer(500));
    assert_eq!(request(&proxy, "PUT", b"x"), Seen::Status(500));
    assert_eq!((store.stored(), proxy.counts().successes_lost), (2, 2));
}

#[test]
fn meets_only_the_uploads_it_is_meant_for() {
    let (store, proxy) = start();
    proxy.next_uploads(2, Mode::Answer(503));
    let seen = ["GET", "PUT", "POST", "PUT"].map(|method| request(&proxy, method, b"x"));
    let [pass, fault] = [Seen::Status(200), Seen::Status(503)];
    assert_eq!([&seen[0], &seen[1], &seen[2], &seen[3]], [&pass, &fault, &fault, &pass]);
    proxy.set_uploads(Mode::LoseAnswer);
    assert_eq!(request(&proxy, "HEAD", b""), Seen::Status(200));
    assert_eq!(request(&proxy, "PUT", b"x"), Seen::Cut);
    assert_eq!((store.stored(), proxy.counts().faults), (4, 3));
}

#[test]
fn slows_down() {
    let (store, proxy) = start();
    proxy.set(Mode::Slow(100_000));
    let start = Instant::now();
    assert_eq!(request(&proxy, "PUT", &vec![b'x'; 30_000]), Seen::Status(200));
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(store.stored(), 1);
}

#[test]
fn cuts_what_is_under_way() {
    let (_store, proxy) = start();
    proxy.set(Mode::Hang);
    let mut stream = TcpStream::connect(proxy.addr()).expect("the proxy listens");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("the proxy reads");
    while proxy.counts().requests == 0 {
        std::thread::yield_now();
    }
    proxy.cut_all();
    assert!(matches!(stream.read(&mut [0; 10]), Ok(0) | Err(_)));
}
