//! Over loopback, with a client that does what a test wants.

use super::super::files::Denied;
use super::super::machines::Machines;
use super::super::world::testing::{event, everybody, shows, world};
use super::*;
use greypit_pipeline::submit::testing::Queue;
use prometheus::Registry;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::path::Path;

/// A server on 127.0.0.1 with a port of the kernel's choice.
struct Served {
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
    address: SocketAddr,
    events: Queue,
    registry: Registry,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn serve_with(text: &str, machines: Machines, stopping_max: Duration) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let (world, events, registry) = world(text, "127.0.0.1/8", dir.path(), machines);
    let socket = open("127.0.0.1:0".parse().unwrap(), world.config.tftp.single_port).unwrap();
    let address = socket.local_addr().unwrap().as_socket_ipv4().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let tasks = runtime.block_on(async {
        let bound = Bound { sockets: vec![(socket, address)], ..Bound::default() };
        let metrics = Metrics::new(&registry, 1).unwrap();
        spawn_with(bound, Arc::new(world), metrics, stop.clone(), stopping_max).unwrap()
    });
    Served { runtime, dir, address: address.into(), events, registry, stop, tasks }
}

fn serve(text: &str) -> Served {
    serve_with(text, everybody("127.0.0.1"), STOPPING_MAX)
}

impl Served {
    fn file(&self, name: &str, bytes: usize) -> Vec<u8> {
        let content: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect();
        std::fs::write(self.dir.path().join(name), &content).unwrap();
        content
    }

    fn event(&mut self) -> serde_json::Value {
        event(&mut self.events)
    }

    fn metric(&self, line: &str) -> bool {
        shows(&self.registry, line)
    }

    /// Ends it; what is in the queue is still there.
    fn end(self) -> Queue {
        self.stop.cancel();
        for task in self.tasks {
            self.runtime.block_on(task).unwrap();
        }
        self.events
    }
}

struct Client {
    socket: StdSocket,
    server: SocketAddr,
    /// Where answers come from, once one has come.
    from: Option<SocketAddr>,
}

impl Client {
    fn new(served: &Served) -> Client {
        Client::at("127.0.0.1:0", served)
    }

    fn at(address: &str, served: &Served) -> Client {
        let socket = StdSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        Client { socket, server: served.address, from: None }
    }

    fn ask(&self, name: &str, mode: &str, options: &[(&str, &str)]) {
        let mut packet = [&[0, 1], name.as_bytes(), &[0], mode.as_bytes(), &[0]].concat();
        for (name, value) in options {
            packet.extend_from_slice(&[name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
        }
        self.socket.send_to(&packet, self.server).unwrap();
    }

    /// The first answer. As any client it asks again where none comes: a request may meet a transfer from its port that
    /// ends at that moment. The last block of that one is here again where this machine was slow.
    fn first(&mut self, name: &str, mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
        self.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut asked = 0;
        let packet = loop {
            if self.socket.peek(&mut [0; 4]).is_err() {
                asked += 1;
                assert!(asked < 12, "{name} is not answered");
                self.ask(name, mode, options);
                continue;
            }
            let packet = self.receive();
            if packet[..2] != [0, 3] || packet[2..4] == [0, 1] {
                break packet;
            }
        };
        self.socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        packet
    }

    fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.from.expect("an answer")).unwrap();
    }

    fn ack(&self, block: u16) {
        self.send(&[&[0, 4], &block.to_be_bytes()[..]].concat());
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut buf = vec![0; 70_000];
        let (bytes, from) = loop {
            match self.socket.recv_from(&mut buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        assert_eq!(*self.from.get_or_insert(from), from, "of one port");
        buf.truncate(bytes);
        buf
    }

    /// A block; where this machine is slow, others may come again before it.
    fn data(&mut self, block: u16) -> Vec<u8> {
        loop {
            let packet = self.receive();
            if packet[..2] == [0, 3] && packet[2..4] == block.to_be_bytes() {
                return packet;
            }
            assert!(matches!(packet[1], 3 | 6), "{}", packet[..packet.len().min(80)].escape_ascii());
        }
    }

    /// A whole transfer; the option acknowledgement as text, and the bytes.
    fn fetch(&mut self, name: &str, mode: &str, options: &[(&str, &str)]) -> (String, Vec<u8>) {
        self.ask(name, mode, options);
        let (mut blksize, mut windowsize, mut agreed) = (512, 1u64, String::new());
        let mut content = Vec::new();
        let mut block = 0u64;
        let mut packet = self.first(name, mode, options);
        if packet[1] == 6 {
            agreed = packet[2..].escape_ascii().to_string().replace("\\x00", " ");
            let mut words = agreed.split(' ');
            while let (Some(name), Some(value)) = (words.next(), words.next()) {
                match name {
                    "blksize" => blksize = value.parse().unwrap(),
                    "windowsize" => windowsize = value.parse().unwrap(),
                    _ => {}
                }
            }
            self.ack(0);
            packet = self.data(1);
        }
        assert_eq!(packet[..4], [0, 3, 0, 1], "{}", packet[..packet.len().min(80)].escape_ascii());
        loop {
            block += 1;
            content.extend_from_slice(&packet[4..]);
            let is_last = packet.len() < blksize + 4;
            if is_last || block.is_multiple_of(windowsize) {
                self.ack(block as u16);
            }
            if is_last {
                return (agreed, content);
            }
            packet = self.data((block + 1) as u16);
        }
    }

    fn error(&mut self) -> (u8, String) {
        let packet = self.receive();
        assert_eq!(packet[..3], [0, 5, 0], "{}", packet.escape_ascii());
        (packet[3], String::from_utf8_lossy(&packet[4..packet.len() - 1]).into_owned())
    }
}

#[test]
fn files_with_every_option_and_an_event_each() {
    for mode in ["", "tftp.single_port = true"] {
        let mut served = serve(mode);
        let content = served.file("kernel", 100_000);
        for (options, wanted) in [
            (&[][..], ""),
            (&[("tsize", "0"), ("blksize", "1468")], "tsize 100000 blksize 1468 "),
            (&[("blksize", "65464")], "blksize 65464 "),
            (&[("blksize", "1000"), ("windowsize", "16")], "blksize 1000 windowsize 16 "),
            (&[("windowsize", "64"), ("timeout", "3"), ("blksize", "8")], "windowsize 64 timeout 3 blksize 8 "),
        ] {
            let mut client = Client::new(&served);
            let (agreed, got) = client.fetch("//kernel", "octet", options);
            assert_eq!((agreed.as_str(), got == content), (wanted, true), "{mode} {options:?}");
            assert_eq!(client.from == Some(served.address), !mode.is_empty());
            let event = served.event();
            assert_eq!((&event["outcome"], &event["bytes"]), (&"complete".into(), &100_000.into()), "{event}");
            assert_eq!((&event["filename"], &event["mode"]), (&"//kernel".into(), &"octet".into()));
            assert_eq!(event["options"].as_array().map(Vec::len), Some(options.len()));
        }
        assert!(served.metric("greypit_tftp_transfers_total{outcome=\"complete\"} 5\n"));
        assert!(served.metric("greypit_tftp_bytes_total 500000\n"));
        served.end();
    }
}

#[test]
fn sizes_at_the_edges_of_blocks_and_of_numbers() {
    let served = serve("");
    for bytes in [0, 1, 511, 512, 513, 1024, 8 * 65_535, 8 * 65_536] {
        let content = served.file("file", bytes);
        let options: &[_] = if bytes > 2000 { &[("blksize", "8"), ("windowsize", "64")] } else { &[] };
        assert!(Client::new(&served).fetch("file", "octet", options).1 == content, "{bytes}");
    }
    served.end();
}

#[test]
fn lines_and_their_exact_size() {
    let served = serve("");
    std::fs::write(served.dir.path().join("text"), "a\nb\r\n\rc").unwrap();
    let (agreed, got) = Client::new(&served).fetch("text", "netascii", &[("tsize", "0")]);
    assert_eq!((agreed.as_str(), got.as_slice()), ("tsize 11 ", &b"a\r\nb\r\0\r\n\r\0c"[..]));
    let (agreed, got) = Client::new(&served).fetch("boot.ipxe", "OCTET", &[("tsize", "0")]);
    assert!(got.starts_with(b"#!ipxe\n"));
    assert_eq!(agreed, format!("tsize {} ", got.len()));
    served.end();
}

#[test]
fn what_is_not_given_out_says_why() {
    let mut served = serve("tftp.max_file = \"10B\"");
    std::os::unix::fs::symlink("/etc/passwd", served.dir.path().join("link")).unwrap();
    served.file("large", 11);
    for (name, code, why) in [
        ("missing", 1, Denied::Missing.name()),
        ("../x", 2, Denied::Name.name()),
        ("link", 2, Denied::Name.name()),
        ("large", 0, "11 bytes are more than boot.tftp.max_file"),
    ] {
        let mut client = Client::new(&served);
        client.ask(name, "octet", &[]);
        assert_eq!(client.error(), (code, why.to_owned()), "{name}");
        let event = served.event();
        assert_eq!((&event["outcome"], &event["why"]), (&"refused".into(), &why.into()), "{event}");
    }
    let mut client = Client::new(&served);
    client.ask("large", "mail", &[]);
    assert_eq!(client.error(), (4, "only octet and netascii".to_owned()));
    assert_eq!(served.event()["why"], "unknown mode");
    let mut client = Client::new(&served);
    client.socket.send_to(b"\0\x02new\0octet\0", client.server).unwrap();
    assert_eq!(client.error(), (2, "read only".to_owned()));
    assert_eq!(served.event()["outcome"], "write");
    served.end();

    let mut nobody = serve_with("", Machines::default(), STOPPING_MAX);
    nobody.file("kernel", 1);
    let mut client = Client::new(&nobody);
    client.ask("kernel", "octet", &[]);
    assert_eq!(client.error(), (2, "unknown machine".to_owned()));
    assert_eq!(nobody.event()["why"], "unknown machine");
    nobody.end();
}

#[test]
fn a_probe_of_the_size_is_no_failure_and_an_abort_is_one() {
    let mut served = serve("");
    served.file("kernel", 10_000);
    let mut client = Client::new(&served);
    client.ask("kernel", "octet", &[("tsize", "0")]);
    assert_eq!(client.receive()[1], 6);
    client.send(b"\0\x05\0\x08User aborted the transfer\0");
    assert_eq!(served.event()["outcome"], "probed");

    let mut client = Client::new(&served);
    client.ask("kernel", "octet", &[("tsize", "0")]);
    client.receive();
    client.ack(0);
    client.data(1);
    client.ack(1);
    client.data(2);
    client.send(b"\0\x05\0\x03disk full\0");
    let event = served.event();
    assert_eq!((&event["outcome"], &event["bytes"]), (&"aborted".into(), &512.into()));
    assert_eq!(event["why"], "error 3 of the client: disk full");
    served.end();
}

#[test]
fn what_is_lost_is_sent_again_and_a_closed_port_ends_it() {
    let mut served = serve("");
    served.file("kernel", 1000);
    let mut client = Client::new(&served);
    client.ask("kernel", "octet", &[]);
    let first = client.receive();
    assert_eq!(client.receive(), first, "after the timeout");
    client.ack(1);
    client.data(2);
    client.ack(2);
    let event = served.event();
    assert_eq!(event["outcome"], "complete");
    assert!(event["retransmits"].as_u64() >= Some(1), "{event}");

    // Nobody else has this address, and so nobody gets its port before the server sends there again.
    let mut client = Client::at("127.0.69.1:0", &served);
    client.ask("kernel", "octet", &[]);
    client.receive();
    drop(client);
    assert_eq!(served.event()["outcome"], "gone");
    served.end();
}

#[test]
fn a_request_again_is_the_same_transfer_and_another_one_replaces_it() {
    for mode in ["", "tftp.single_port = true"] {
        let mut served = serve(mode);
        let content = served.file("kernel", 600);
        served.file("other", 5);
        let mut client = Client::new(&served);
        client.ask("kernel", "octet", &[]);
        let first = client.receive();
        client.ask("kernel", "octet", &[]);
        // The same port answers again after its timeout, and no other.
        assert_eq!(client.receive(), first);
        client.ack(1);
        let second = client.data(2);
        assert_eq!([&first[4..], &second[4..]].concat(), content);
        // The client has started anew.
        client.from = None;
        client.ask("other", "octet", &[]);
        let mut packet = client.receive();
        while packet[..2] != [0, 3] || packet.len() != 9 {
            client.from = None;
            packet = client.receive();
        }
        client.ack(1);
        let mut outcomes: Vec<_> = (0..2).map(|_| served.event()["outcome"].as_str().unwrap().to_owned()).collect();
        outcomes.sort();
        assert_eq!(outcomes, ["complete", "replaced"], "{mode}");
        assert!(served.metric("greypit_tftp_ignored_total{reason=\"repeated\"} 1\n"));
        served.end();
    }
}

#[test]
fn many_clients_in_single_port_mode_get_their_own_files() {
    let served = serve("tftp.single_port = true\ntftp.max_transfers_per_client = 256");
    let contents: Vec<_> = (0..8).map(|n| served.file(&format!("file{n}"), 20_000 + n)).collect();
    std::thread::scope(|scope| {
        for (n, content) in contents.iter().enumerate() {
            let mut client = Client::new(&served);
            scope.spawn(move || {
                for _ in 0..10 {
                    // A port may be used again for a file that was fetched.
                    assert!(client.fetch(&format!("file{n}"), "octet", &[("blksize", "500")]).1 == *content);
                }
            });
        }
    });
    served.end();
}

#[test]
fn limits_are_counted_and_strangers_get_nothing() {
    let mut served = serve("tftp.max_transfers_per_client = 1");
    served.file("kernel", 1000);
    let mut first = Client::new(&served);
    first.ask("kernel", "octet", &[]);
    first.receive();
    first.ack(1);
    first.data(2);
    let second = Client::new(&served);
    second.ask("kernel", "octet", &[]);
    let event = served.event();
    assert_eq!((&event["outcome"], &event["decision"]), (&"busy".into(), &"refused".into()));
    assert!(served.metric("greypit_tftp_transfers 1\n"));
    second.socket.send_to(b"\0\x01kernel", served.address).unwrap();
    let event = served.event();
    assert_eq!((&event["parse_error"], &event["raw_base64"]), (&"cut off".into(), &"AAFrZXJuZWw=".into()), "{event}");
    assert_eq!((&event["addr"], &event["decision"]), (&"127.0.0.1".into(), &"none".into()));
    second.socket.send_to(b"\0\x04\0\x01", served.address).unwrap();
    first.ack(2);
    assert_eq!(served.event()["outcome"], "complete");
    assert!(served.metric("greypit_tftp_ignored_total{reason=\"malformed\"} 1\n"));
    assert!(served.metric("greypit_tftp_ignored_total{reason=\"stray\"} 1\n"));
    second.socket.set_nonblocking(true).unwrap();
    assert!(second.socket.recv(&mut [0; 10]).is_err(), "no answer to any of that");
    served.end();

    let dir = tempfile::tempdir().unwrap();
    assert_eq!(outside(dir.path()), 1);
}

#[test]
fn who_never_answers_gives_its_place_to_others_and_who_has_answered_does_not() {
    for mode in ["", "tftp.single_port = true\n"] {
        let mut served = serve(&format!("{mode}tftp.max_transfers = 2\ntftp.max_transfers_per_client = 2"));
        let content = served.file("kernel", 1000);
        let mut slow = Client::new(&served);
        slow.ask("kernel", "octet", &[]);
        slow.receive();
        slow.ack(1);
        slow.data(2);
        let mut silent = Client::new(&served);
        silent.ask("kernel", "octet", &[]);
        silent.receive();
        // Sent again: some time has passed.
        silent.receive();
        assert!(Client::new(&served).fetch("kernel", "octet", &[]).1 == content, "{mode}");
        let events = [served.event(), served.event()];
        let outcomes = events.each_ref().map(|event| event["outcome"].as_str().unwrap());
        assert!(outcomes.contains(&"complete") && outcomes.contains(&"displaced"), "{outcomes:?}");
        slow.ack(2);
        let event = served.event();
        assert_eq!((&event["outcome"], &event["bytes"]), (&"complete".into(), &1000.into()));
        assert!(served.metric("greypit_tftp_transfers_total{outcome=\"busy\"} 0\n"));
        served.end();
    }
}

/// Sends a request to a server for 10.77.0.0/24 from loopback; how many were ignored.
fn outside(root: &Path) -> u64 {
    let (world, _events, registry) = world("", "10.77.0.1/24", root, everybody("10.77.0.1"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared =
            Shared::new(world.into(), Metrics::new(&registry, 1).unwrap(), CancellationToken::new(), STOPPING_MAX);
        let shared = Arc::new(shared);
        let socket = open("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = socket.local_addr().unwrap().as_socket_ipv4().unwrap();
        let door = Arc::new(Door { socket: UdpSocket::from_std(socket.into()).unwrap(), address });
        listen::arrived(&door, &shared, b"\0\x01kernel\0octet\0", "127.0.0.1:2000".parse().unwrap());
    });
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("greypit_tftp_ignored_total{reason=\"outside\"} "));
    line.unwrap().parse().unwrap()
}

#[test]
fn the_end_waits_for_transfers() {
    // Whatever holds this machine up: what is looked at is that the transfer goes on.
    let served = serve_with("", everybody("127.0.0.1"), Duration::from_secs(600));
    served.file("kernel", 1000);
    let mut client = Client::new(&served);
    client.ask("kernel", "octet", &[]);
    client.receive();
    served.stop.cancel();
    client.ack(1);
    assert_eq!(client.data(2).len(), 4 + 488, "it goes on");
    client.ack(2);
    assert_eq!(event(&mut served.end())["outcome"], "complete");
}

#[test]
fn the_end_waits_for_transfers_for_a_short_time() {
    let served = serve_with("", everybody("127.0.0.1"), Duration::from_millis(100));
    served.file("kernel", 1000);
    let mut client = Client::new(&served);
    client.ask("kernel", "octet", &[]);
    client.receive();
    let mut events = served.end();
    let mut packet = client.receive();
    while packet[1] == 3 {
        packet = client.receive();
    }
    assert_eq!(packet, b"\0\x05\0\0the server ends\0");
    assert_eq!(event(&mut events)["outcome"], "stopped");
}

#[test]
fn a_taken_port_says_what_to_do() {
    let taken = StdSocket::bind("127.0.0.1:0").unwrap();
    let config = Config { port: taken.local_addr().unwrap().port(), single_port: true, ..Config::default() };
    let interface = Interface::new("lo", 1, super::super::mac::Mac([0; 6]), "127.0.0.1/8".parse().unwrap());
    let error = bind(&config, std::slice::from_ref(&interface)).unwrap_err().to_string();
    assert!(error.contains("boot.tftp.port: cannot listen on 127.0.0.1:"), "{error}");
    assert!(bind(&Config { port: 0, ..config }, &[interface]).unwrap().addresses().is_empty());
}
