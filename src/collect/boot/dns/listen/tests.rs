use std::net::{TcpListener as PlainListener, UdpSocket as Plain};
use std::sync::atomic::{AtomicUsize, Ordering};

use greypit_pipeline::health::State;
use greypit_pipeline::submit::testing::Queue;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record as Rr, RecordType};
use prometheus::Registry;

use super::*;
use crate::collect::boot::dns;
use crate::collect::boot::dns::forward::FORWARDS_PER_CLIENT_MAX;
use crate::collect::boot::machines::{Machine, Machines};
use crate::collect::boot::world::testing::{shows, world};

/// Longer than anything here takes on any machine.
const SOON: Duration = Duration::from_secs(120);
/// No test lasts so long.
const LONG: Duration = Duration::from_secs(600);

/// So that a test sees what it waits for, and not that something took its time.
const NO_HURRY: Limits = Limits { patience: LONG, again: LONG, ..Limits::USUAL };

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A server on 127.0.0.1, whose machine is web1.example.com.
struct Bench {
    address: SocketAddr,
    queue: Queue,
    registry: Registry,
    server: Arc<Server>,
    health: Health,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    _root: tempfile::TempDir,
}

impl Bench {
    async fn start(section: &str, upstreams: &[SocketAddr]) -> Bench {
        Bench::start_with(NO_HURRY, section, upstreams).await
    }

    async fn start_with(limits: Limits, section: &str, upstreams: &[SocketAddr]) -> Bench {
        let mut machines = Machines::default();
        let ip = Some(Ipv4Addr::new(127, 0, 0, 10));
        machines.add(LOOPBACK, Machine { hostname: "web1".into(), ip, ..Machine::default() });
        let root = tempfile::tempdir().unwrap();
        let (world, queue, registry) = world(
            &format!("interface = \"lo\"\ndhcp.domain = \"example.com\"\n{section}"),
            "127.0.0.1/8",
            root.path(),
            machines,
        );
        let world = Arc::new(world);
        let stop = CancellationToken::new();
        let config = dns::Config { forward: vec![String::new(); upstreams.len()], ..dns::Config::default() };
        let (metrics, health) = (dns::metrics(&registry, &config).unwrap(), Health::new());
        let forwarder = Forwarder::new(upstreams.to_vec(), limits, metrics.clone(), health.clone());
        let server = Server::new(world, forwarder, metrics, stop.clone());
        // The kernel chooses the port for one of the two; the other may have it.
        let (udp, tcp) = (0..1000).find_map(|_| dns::open(LOOPBACK, 0).ok()).expect("a port that is free for both");
        let address = udp.local_addr().unwrap();
        let (udp, tcp) = (UdpSocket::from_std(udp).unwrap(), TcpListener::from_std(tcp).unwrap());
        let tasks = server.clone().serve(vec![(udp, tcp)]);
        Bench { address, queue, registry, server, health, stop, tasks, _root: root }
    }

    async fn udp(&self, query: &Message) -> Message {
        self.udp_from(LOOPBACK, query).await
    }

    async fn udp_from(&self, client: Ipv4Addr, query: &Message) -> Message {
        let socket = UdpSocket::bind((client, 0)).await.unwrap();
        socket.send_to(&query.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = [0; 2048];
        let (length, from) = tokio::time::timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(from, self.address);
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn tcp(&self, queries: &[Message]) -> Vec<Message> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answers = Vec::new();
        for query in queries {
            let bytes = query.to_vec().unwrap();
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let length = tokio::time::timeout(SOON, stream.read_u16()).await.unwrap().unwrap();
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.unwrap();
            answers.push(Message::from_vec(&answer).unwrap());
        }
        answers
    }

    async fn event(&mut self) -> serde_json::Value {
        let events = tokio::task::block_in_place(|| self.queue.next(SOON)).expect("an event");
        serde_json::from_slice(events.iter().next().expect("one").1).unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(SOON, task).await.expect("it ends").unwrap();
        }
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// A name server of a test: what it answers to each query, or nothing.
fn upstream(answer: impl Fn(Message) -> Vec<Message> + Send + 'static) -> SocketAddr {
    let socket = Plain::bind((LOOPBACK, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            for answer in answer(Message::from_vec(&buffer[..length]).unwrap()) {
                socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
            }
        }
    });
    address
}

/// The right answer: 192.0.2.1.
fn right(query: &Message) -> Message {
    let mut answer = query.clone().into_response();
    let name = query.queries[0].name.clone();
    answer.add_answer(Rr::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_answered_over_both_and_each_is_an_event() {
    let mut bench = Bench::start("", &[]).await;
    let answer = bench.udp(&query("WEB1.example.com.", RecordType::A)).await;
    assert_eq!(answer.answers[0].data.to_string(), "127.0.0.10");
    let event = bench.event().await;
    assert_eq!(
        (&event["kind"], &event["qname"], &event["qtype"]),
        (&"dns".into(), &"web1.example.com".into(), &"A".into())
    );
    assert_eq!(
        (&event["proto"], &event["rcode"], &event["answers"][0]),
        (&"udp".into(), &"NOERROR".into(), &"127.0.0.10".into())
    );
    assert_eq!((&event["forwarded"], &event["decision"]), (&false.into(), &"answered".into()));
    assert_eq!(event["addr"], "127.0.0.1");

    let answers = bench.tcp(&[query("web1.", RecordType::A), query("nobody.test.", RecordType::A)]).await;
    assert_eq!(answers[0].answers.len(), 1);
    assert_eq!(answers[1].metadata.response_code, ResponseCode::Refused);
    assert_eq!(bench.event().await["proto"], "tcp");
    let event = bench.event().await;
    assert_eq!((&event["rcode"], &event["why"]), (&"REFUSED".into(), &"not ours".into()));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_those_who_ask_too_often_are_counted_and_get_nothing() {
    let bench = Bench::start("dns.max_rate_per_client = 2", &[]).await;
    assert!(bench.server.may_ask([192, 0, 2, 9].into()).is_none());
    let ip = bench.server.may_ask([127, 0, 0, 10].into()).unwrap();
    let began = std::time::Instant::now();
    let clients: Vec<_> = (0..100).filter_map(|_| bench.server.admit(ip, Transport::Udp)).collect();
    let most = 4 + 2 * began.elapsed().as_secs() as usize;
    assert!((2..=most).contains(&clients.len()), "{} of at most {most}", clients.len());
    let packet = query("web1.", RecordType::A).to_vec().unwrap();
    let step = bench.server.step(&packet, &clients[0], Timestamp::UNIX_EPOCH);
    assert!(matches!(step, Step::Answer(_)));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_is_an_event_with_its_bytes() {
    let mut bench = Bench::start("", &[]).await;
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let packets: [(&[u8], _, _); 3] = [
        (b"abc", "short", "YWJj"),
        (b"\0\x07\x80\0\0\0\0\0\0\0\0\0", "response", "AAeAAAAAAAAAAAAA"),
        (b"\0\x07\0\0\0\0\0\0\0\0\0\0", "not one question", "AAcAAAAAAAAAAAAA"),
    ];
    for (packet, problem, raw) in packets {
        socket.send_to(packet, bench.address).await.unwrap();
        let event = bench.event().await;
        assert_eq!((&event["parse_error"], &event["raw_base64"]), (&problem.into(), &raw.into()), "{event}");
        assert_eq!((&event["proto"], &event["addr"]), (&"udp".into(), &"127.0.0.1".into()));
        assert_eq!((event["decision"] == "none", event["why"] == problem), (event["rcode"].is_null(), true));
    }
    // Only the last one has an answer.
    let mut buffer = [0; 100];
    let length = tokio::time::timeout(SOON, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer[..length], *b"\0\x07\x80\x01\0\0\0\0\0\0\0\0");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_has_its_connections_and_no_more() {
    let bench = Bench::start("", &[]).await;
    let open: Vec<_> = (0..=CONNECTIONS_PER_PEER_MAX).map(|_| bench.server.open(LOOPBACK)).collect();
    assert_eq!(open.iter().flatten().count(), CONNECTIONS_PER_PEER_MAX);
    assert!(bench.server.open([127, 0, 0, 2].into()).is_some());
    drop(open);
    assert!(bench.server.open(LOOPBACK).is_some());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_asked_of_others_and_only_their_answer_counts() {
    let liar = upstream(|query| {
        let mut wrong = right(&query);
        wrong.answers[0].data = RData::A(A::new(192, 0, 2, 66));
        let (mut id, mut question) = (wrong.clone(), wrong);
        id.metadata.id ^= 1;
        question.queries[0].name = Name::from_ascii("other.example.org.").unwrap();
        // Neither counts, nor does the query itself.
        vec![id, question, query.clone(), right(&query)]
    });
    let mut bench = Bench::start("", &[liar]).await;
    let answer = bench.udp(&query("www.Example.org.", RecordType::A)).await;
    assert_eq!((answer.metadata.id, answer.answers[0].data.to_string().as_str()), (7, "192.0.2.1"));
    let event = bench.event().await;
    assert_eq!((&event["forwarded"], &event["decision"]), (&true.into(), &"forwarded".into()));
    assert_eq!(event["answers"][0], "192.0.2.1");
    // Our own are not asked of anybody.
    assert_eq!(bench.udp(&query("web1.", RecordType::A)).await.answers[0].data.to_string(), "127.0.0.10");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_is_asked_when_one_is_silent_or_fails_and_servfail_is_the_end() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let silent = upstream(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    });
    let failing = upstream(|query| {
        let mut answer = query.into_response();
        answer.metadata.response_code = ResponseCode::ServFail;
        vec![answer]
    });
    let good = upstream(|query| vec![right(&query)]);
    let limits = Limits { patience: Duration::from_secs(10), ..NO_HURRY };
    let bench = Bench::start_with(limits, "", &[silent, failing, good]).await;
    // Only the first one waits for the silent server.
    for _ in 0..5 {
        assert_eq!(bench.udp(&query("www.example.org.", RecordType::A)).await.answers.len(), 1);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
    assert!(shows(&bench.registry, "{outcome=\"failed\",proto=\"udp\",server=\"1\"} 1\n"));
    assert!(shows(&bench.registry, "{outcome=\"answered\",proto=\"udp\",server=\"2\"} 5\n"));
    assert!(matches!(&bench.health.parts()["dns_forward_1"], State::Limited { reason, .. } if reason.contains("10s")));
    assert!(bench.health.is_ready());
    bench.stop().await;

    let mut bench = Bench::start_with(Limits { patience: Duration::from_millis(300), ..NO_HURRY }, "", &[silent]).await;
    let answer = bench.udp(&query("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let event = bench.event().await;
    assert_eq!((&event["decision"], &event["rcode"]), (&"failed".into(), &"SERVFAIL".into()));
    bench.stop().await;
}

/// What a name server of a test does with a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tcp {
    Close,
    Wait,
    Answer,
}

/// A name server over TCP that does as it is told, and how often it was asked.
fn tcp_upstream(does: Arc<Mutex<Tcp>>, asked: Arc<AtomicUsize>) -> SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = PlainListener::bind((LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut waiting = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            match *does.lock().unwrap() {
                Tcp::Close => {}
                Tcp::Wait => waiting.push(stream),
                Tcp::Answer => {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut query = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut query).unwrap();
                    let answer = right(&Message::from_vec(&query).unwrap()).to_vec().unwrap();
                    stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).unwrap();
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_tried_beside_the_others_until_it_is_back() {
    let does = Arc::new(Mutex::new(Tcp::Close));
    let [first, second] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let servers =
        [tcp_upstream(does.clone(), first.clone()), tcp_upstream(Arc::new(Mutex::new(Tcp::Answer)), second.clone())];
    let bench = Bench::start_with(Limits { again: Duration::ZERO, ..NO_HURRY }, "", &servers).await;
    let www = query("www.example.org.", RecordType::A);
    let state = || bench.health.parts().get("dns_forward_1").cloned();
    assert_eq!(bench.tcp(std::slice::from_ref(&www)).await[0].answers.len(), 1);
    assert_eq!((first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)), (1, 1));
    assert!(matches!(state(), Some(State::Limited { reason, .. }) if reason.contains("over tcp")));

    // Whoever waited for it would wait longer than this test may take.
    *does.lock().unwrap() = Tcp::Wait;
    for answered in 2..5 {
        assert_eq!(bench.tcp(std::slice::from_ref(&www)).await[0].answers.len(), 1);
        assert_eq!(second.load(Ordering::Relaxed), answered);
    }

    *does.lock().unwrap() = Tcp::Answer;
    let end = Instant::now() + SOON;
    while !matches!(state(), Some(State::Ok)) {
        assert!(Instant::now() < end, "{:?}", state());
        assert_eq!(bench.tcp(std::slice::from_ref(&www)).await[0].answers.len(), 1);
    }
    let before = second.load(Ordering::Relaxed);
    assert_eq!(bench.tcp(std::slice::from_ref(&www)).await[0].answers.len(), 1);
    assert_eq!(second.load(Ordering::Relaxed), before, "the first one is the first again");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_nobody_answers_leaves_places_for_others() {
    let half_dead = upstream(|query| match query.queries[0].name.to_string().as_str() {
        "www.example.org." => vec![right(&query)],
        _ => Vec::new(),
    });
    // Nobody's patience ends before the test does.
    let mut bench = Bench::start("dns.max_rate_per_client = 0", &[half_dead]).await;
    let greedy = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let unanswered = query("dead.example.org.", RecordType::A).to_vec().unwrap();
    for _ in 0..=FORWARDS_PER_CLIENT_MAX {
        greedy.send_to(&unanswered, bench.address).await.unwrap();
    }
    let mut buffer = [0; 2048];
    let (length, _) = tokio::time::timeout(SOON, greedy.recv_from(&mut buffer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let event = bench.event().await;
    assert_eq!((&event["decision"], &event["why"]), (&"failed".into(), &"too many queries of this client wait".into()));
    assert!(shows(&bench.registry, "greypit_dns_forwarded_total{outcome=\"busy_client\"} 1\n"));

    let other = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).await.unwrap();
    let packet = query("www.example.org.", RecordType::A).to_vec().unwrap();
    other.send_to(&packet, bench.address).await.unwrap();
    let (length, _) = tokio::time::timeout(SOON, other.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers[0].data.to_string(), "192.0.2.1");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_wait_in_vain_another_client_is_answered() {
    let half_dead = upstream(|query| match query.queries[0].name.to_string().as_str() {
        "www.example.org." => vec![right(&query)],
        _ => Vec::new(),
    });
    let dead = query("dead.example.org.", RecordType::A).to_vec().unwrap();
    for (clients, displaced) in [(8, 1), (100, 185)] {
        let limits = Limits { forwards: 16, per_client: 2, ..NO_HURRY };
        let bench = Bench::start_with(limits, "", &[half_dead]).await;
        let mut greedy = Vec::new();
        for (sent, client) in (0..2 * clients).map(|number| (number + 1, number % clients)) {
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, client), 0)).await.unwrap();
            socket.send_to(&dead, bench.address).await.unwrap();
            greedy.push(socket);
            assert!(shows(&bench.registry, &format!("greypit_dns_queries_total{{proto=\"udp\"}} {sent}\n")));
        }
        let newcomer = Ipv4Addr::new(127, 0, 2, 1);
        let answer = bench.udp_from(newcomer, &query("www.example.org.", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1, "{clients}");
        assert!(shows(&bench.registry, &format!("{{outcome=\"displaced\"}} {displaced}\n")), "{clients}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_others_that_is_too_long_is_cut() {
    let long = upstream(|query| {
        let mut answer = query.clone().into_response();
        let text = TXT::new(vec!["x".repeat(250); 4]);
        answer.add_answer(Rr::from_rdata(query.queries[0].name.clone(), 60, RData::TXT(text)));
        vec![answer]
    });
    let bench = Bench::start("", &[long]).await;
    let mut query = query("www.example.org.", RecordType::TXT);
    let answer = bench.udp(&query).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    assert_eq!(bench.udp(&query).await.answers.len(), 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_nobody() {
    let silent = upstream(|_| Vec::new());
    let bench = Bench::start("", &[silent]).await;
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    socket.send_to(&query("www.example.org.", RecordType::A).to_vec().unwrap(), bench.address).await.unwrap();
    let quiet = TcpStream::connect(bench.address).await.unwrap();
    while bench.server.metrics.forwards.get() == 0 || bench.server.metrics.connections.get() == 0 {
        tokio::task::yield_now().await;
    }
    bench.stop().await;
    drop(quiet);
}
