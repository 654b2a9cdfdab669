//! What greypit gives out over the wire, and what it does not: large files by real
//! clients, and hostile packets and names, which are refused and counted while others
//! are served.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;
use support::boot_server::{BootServer, SERVER};
use support::dhcp::Client;
use support::dhcp_packet::{DISCOVER, Packet, SERVERS, socket};
use support::netns::{Host, INTERFACE, Wire};
use support::random::Random;
use support::{WAIT, boot, run, tftp, wait_for};

/// 100 MB: with blksize 512 more than three times 65,536 blocks.
const BIG_BYTES: usize = 100_000_000;

#[test]
fn large_files_come_whole_by_tftp() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.machine("default", &[("boot", "local")]);
    // More than the wire's MTU: these come in fragments.
    server.set("boot.tftp.max_blksize", 8192);
    let big = noise(BIG_BYTES);
    // Lines that end in each way, for netascii.
    let text: Vec<u8> = noise(500_000).iter().map(|octet| b"\n\r\0ab"[usize::from(octet % 5)]).collect();
    server.file("big", &big);
    server.file("text", &text);
    server.start();
    let host = wire.host("client", Some("10.77.0.2/24"));
    let windows = ["blksize 1468", "windowsize 16", "tsize 0", "timeout 2"];
    // What the client asks for, the agreed blksize and windowsize, and the blocks.
    let cases: [(&[&str], u64, u64, u64); 4] = [
        (&["blksize 512", "windowsize 16"], 512, 16, 195_313),
        (&windows, 1468, 16, 68_120),
        (&["blksize 8192", "tsize 0"], 8192, 1, 12_208),
        (&["blksize 65464", "windowsize 4"], 8192, 4, 12_208),
    ];
    thread::scope(|scope| {
        let plain = scope.spawn(|| {
            assert!(tftp::hpa(&host, SERVER, "octet", "big").as_ref() == Ok(&big), "lock-step");
            let got = tftp::hpa(&host, SERVER, "netascii", "text").expect("it is there");
            assert!(got == text, "netascii: {} of {} bytes", got.len(), text.len());
        });
        for (options, ..) in cases {
            assert!(tftp::atftp(&host, SERVER, "big", options).as_ref() == Ok(&big), "{options:?}");
        }
        plain.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    server.terminate();
    let records = server.records("tftp");
    let whole: BTreeMap<(u64, u64), &Value> = records
        .iter()
        .filter(|record| record["filename"] == "big" && record["outcome"] == "complete")
        .map(|record| ((number(record, "blksize"), number(record, "windowsize")), record))
        .collect();
    let plain = (&[][..], 512, 1, 195_313);
    for (options, blksize, windowsize, blocks) in cases.into_iter().chain([plain]) {
        let record = whole.get(&(blksize, windowsize)).unwrap_or_else(|| panic!("{options:?}: {records:?}"));
        eprintln!("{options:?}: {} ms, {} sent again", record["duration_ms"], record["retransmits"]);
        assert_eq!((number(record, "bytes"), number(record, "blocks")), (BIG_BYTES as u64, blocks), "{record}");
    }
    assert_eq!(records.len(), cases.len() + 2, "{records:?}");
    let text = records.iter().find(|record| record["filename"] == "text").expect("the other one");
    assert_eq!((&text["mode"], &text["outcome"]), (&"netascii".into(), &"complete".into()), "{text}");
}

fn number(record: &Value, name: &str) -> u64 {
    record[name].as_u64().unwrap_or_else(|| panic!("no {name} in {record}"))
}

/// Bytes of no pattern, the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut random = Random::new(count as u64);
    let words = std::iter::repeat_with(|| random.next().to_ne_bytes());
    words.flatten().take(count).collect()
}

#[test]
fn hostile_packets_and_names_get_nothing() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.set("boot.dhcp.domain", "boot.test");
    let [good, dark, stranger] = ["good", "dark", "stranger"].map(|name| wire.host(name, None));
    server.machine("10.77.0.5", &[("hostname", "good"), ("mac", &good.mac()), ("kernel", "fine")]);
    server.machine("10.77.0.6", &[("hostname", "dark"), ("mac", &dark.mac()), ("kernel", "fine"), ("boot", "off")]);
    furnish(&server);
    server.start();
    let served = || {
        assert_eq!(tftp::hpa(&good, SERVER, "octet", "fine").as_deref(), Ok(FINE));
        assert_eq!(http(&good, "GET /fine HTTP/1.0\r\n\r\n"), (200, FINE.to_vec()));
        assert_eq!(dig(&good, &["good.boot.test"]), "NOERROR 10.77.0.5");
    };
    let mut client = Client::udhcpc(&good, &[]);
    assert_eq!(client.next("bound")["ip"], "10.77.0.5");
    served();
    lying_dhcp(&server, &wire);
    served();
    tftp_names_and_packets(&server, &good);
    served();
    http_paths_and_requests(&server, &good);
    served();
    who_may_not_boot(&server, &dark, "10.77.0.8/24", "boot is off");
    who_may_not_boot(&server, &stranger, "10.77.0.9/24", "unknown machine");
    from_outside(&server, &wire);
    served();
    client.process().signal("USR1");
    assert_eq!(client.next("renew")["ip"], "10.77.0.5");
    server.assert_alive();
    server.terminate();
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    let (verdict, complaints) = server.verify();
    assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
}

/// What everybody may have, and what nobody may.
const FINE: &[u8] = b"fine";
const SECRET: &[u8] = b"SECRET";

/// The folder that is given out, with ways that lead out of it, beside the secret.
fn furnish(server: &BootServer) {
    let (outside, root) = (server.folder().to_owned(), server.folder().join("files"));
    fs::write(outside.join("secret"), SECRET).expect("a file of ours");
    server.file("fine", FINE);
    server.file("folder/fine", FINE);
    let links = [
        ("absolute", outside.join("secret")),
        ("relative", "../secret".into()),
        ("up", "..".into()),
        ("process", "/proc/self/root".into()),
        ("inside", "folder/fine".into()),
    ];
    for (name, target) in links {
        symlink(target, root.join(name)).expect("a link of ours");
    }
    run(Command::new("mkfifo").arg(root.join("fifo")));
}

/// Packets that lie about their lengths, and relays that are none.
fn lying_dhcp(server: &BootServer, wire: &Wire) {
    let bad = wire.host("bad", Some("10.77.0.2/24"));
    let (as_client, as_relay) = (socket(&bad, 68), socket(&bad, 67));
    let discover = || Packet::new(DISCOVER, [2, 0x66, 0, 0, 0, 1], 7);
    let mut cut = discover().end();
    cut.truncate(200);
    let malformed = [
        vec![],
        vec![1],
        cut,
        discover().at(0, &[9]).end(),
        discover().at(2, &[200]).end(),
        discover().at(2, &[0]).end(),
        discover().at(236, b"NOPE").end(),
        discover().raw(&[12, 200, b'x']).cut(),
        discover().raw(&[60]).cut(),
        discover().option(50, &[10, 77]).end(),
        discover().option(52, &[9]).end(),
        discover().option(52, &[3]).at(44, &[12, 255]).at(108, &[12, 255]).end(),
        Packet::new(99, [2, 0x66, 0, 0, 0, 1], 7).end(),
        discover().option(82, &[1, 99, 0]).end(),
    ];
    let count = || server.series("greypit_dhcp_messages_total{message=\"malformed\"}");
    for (number, packet) in malformed.iter().enumerate() {
        let before = count();
        as_client.send_to(packet, (SERVER, 67)).expect("the wire is there");
        wait_for(&format!("packet {number} to be malformed"), || (count() > before).then_some(()));
    }
    let relayed = [
        (&as_relay, "8.8.8.8"),
        (&as_relay, "10.78.0.1"),
        // Ours.
        (&as_relay, SERVER),
        // Not from a relay's port.
        (&as_client, "10.77.0.2"),
    ];
    let why = "greypit_dhcp_unanswered_total{why=\"relay not trusted\"}";
    for (number, (socket, giaddr)) in (1..).zip(relayed) {
        let packet = discover().giaddr(giaddr.parse().expect("an address")).end();
        socket.send_to(&packet, (SERVER, 67)).expect("the wire is there");
        wait_for(giaddr, || (server.series(why) == number).then_some(()));
    }
    assert_silent(&as_client);
    assert_silent(&as_relay);
}

/// Names that lead out, names that only look odd, and packets that are no requests.
fn tftp_names_and_packets(server: &BootServer, good: &Host) {
    let request = |opcode: u8, name: &[u8], behind: &[u8]| [&[0, opcode], name, b"\0", behind].concat();
    let ask = |packet: &[u8]| {
        let socket = good.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a port");
        socket.set_read_timeout(Some(WAIT)).expect("a timeout");
        socket.send_to(packet, (SERVER, 69)).expect("the wire is there");
        let mut answer = [0; 1500];
        let (length, from) = loop {
            match socket.recv_from(&mut answer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap_or_else(|e| panic!("{}: {e}", packet.escape_ascii())),
            }
        };
        // Of a block of data, so that it ends.
        let _gone = socket.send_to(&[0, 4, 0, 1], from);
        answer[..length].to_vec()
    };
    let refused = || server.series("greypit_tftp_transfers_total{outcome=\"refused\"}");
    let names: [&[u8]; 14] = [
        b"../secret",
        b"/../secret",
        b"folder/../../secret",
        b"..\\secret",
        b"folder/../fine",
        b"absolute",
        b"relative",
        b"up/secret",
        b"process/etc/passwd",
        b"fifo",
        b"folder",
        b"",
        b"/",
        b"fi\nne",
    ];
    for name in names {
        let before = refused();
        let answer = ask(&request(1, name, b"octet\0"));
        assert_eq!(answer[..2], [0, 5], "{}: {}", name.escape_ascii(), answer.escape_ascii());
        wait_for("it to be counted", || (refused() == before + 1).then_some(()));
    }
    let huge = b"octet\0blksize\099999999999999999999999\0tsize\0-1\0windowsize\0\0timeout\0x\0nothing\0at all\0";
    let names: [(&[u8], &[u8]); 8] = [
        (b"//fine", b"octet\0"),
        (b"/folder//.//fine", b"OcTeT\0"),
        (b"fine\xff", b"octet\0"),
        (b"fine\xff\xff", b"octet\0"),
        (b"\\folder\\fine", b"octet\0"),
        (b"inside", b"octet\0"),
        (b"fine", huge),
        (b"fine", b"octet\0\0\0\0\0\0"),
    ];
    for (name, behind) in names {
        let answer = ask(&request(1, name, behind));
        assert_eq!(answer, [&[0, 3, 0, 1], FINE].concat(), "{}", name.escape_ascii());
    }
    // It is told the size, or an error; never DATA.
    let answer = ask(&request(2, b"fine", b"octet\0"));
    assert_eq!(answer[..4], [0, 5, 0, 2], "a write: {}", answer.escape_ascii());
    let write = "greypit_tftp_transfers_total{outcome=\"write\"}";
    wait_for("it to be counted", || (server.series(write) == 1).then_some(()));
    assert_eq!(ask(&request(1, b"fine", b"mail\0"))[..2], [0, 5]);

    let socket = good.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a port");
    let long = request(1, b"fine", &[b"octet\0blksize\0", &[b'1'; 1100][..], b"\0"].concat());
    let malformed: [&[u8]; 6] = [b"", b"\0", b"\0\x01fine", b"\0\x01fine\0octet", b"\0\x09what\0octet\0", &long];
    let ignored = "greypit_tftp_ignored_total{reason=\"malformed\"}";
    for (number, packet) in (1..).zip(malformed) {
        socket.send_to(packet, (SERVER, 69)).expect("the wire is there");
        wait_for(&packet.escape_ascii().to_string(), || (server.series(ignored) == number).then_some(()));
    }
    assert_silent(&socket);
    assert!(!server.folder().join("files/written").exists());
}

fn http_paths_and_requests(server: &BootServer, good: &Host) {
    let paths = [
        ("/../secret", 403),
        ("/folder/../../secret", 403),
        ("/%2e%2e/secret", 403),
        ("/%2e%2e%2fsecret", 403),
        ("/folder/%2E./%2e%2E/secret", 403),
        ("/..%5csecret", 403),
        ("/fine%0a", 403),
        ("/absolute", 403),
        ("/relative", 403),
        ("/up/secret", 403),
        ("/process/etc/passwd", 403),
        ("/fifo", 403),
        ("/folder", 403),
        ("/%252e%252e/secret", 404),
        ("/none", 404),
        ("/%zz", 400),
        // Never a redirect.
        ("//fine", 200),
        ("///folder//.//fine", 200),
        ("/folder%2ffine", 200),
        ("/inside", 200),
        ("/fine%ff", 200),
        ("/fine?a=../secret", 200),
    ];
    for (path, wanted) in paths {
        let (status, body) = http(good, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(status, wanted, "{path}");
        assert_eq!(body == FINE, wanted == 200, "{path}: {}", body.escape_ascii());
    }
    for status in [400, 403, 404] {
        let wanted = paths.iter().filter(|(_, wanted)| *wanted == status).count() as u64;
        let series = format!("greypit_boot_http_requests_total{{status=\"{status}\"}}");
        wait_for(&series, || (server.series(&series) >= wanted).then_some(()));
        assert_eq!(server.series(&series), wanted, "{status}");
    }
    for method in ["POST", "PUT", "DELETE", "CONNECT"] {
        assert_eq!(http(good, &format!("{method} /fine HTTP/1.0\r\n\r\n")).0, 405, "{method}");
    }
    let malformed = || server.series("greypit_boot_http_malformed_total");
    let long = format!("GET /fine HTTP/1.0\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    for request in ["\u{1}\u{2}\u{3}\r\n\r\n", "GET\r\n\r\n", "GET /fine HTTP/9.9\r\n\r\n", &long] {
        let before = malformed();
        let (status, body) = http(good, request);
        assert!(status != 200 && body != FINE, "{status}");
        wait_for("it to be counted", || (malformed() > before).then_some(()));
    }
}

/// A machine that none of the protocols gives anything.
fn who_may_not_boot(server: &BootServer, host: &Host, address: &str, why: &str) {
    let unanswered = format!("greypit_dhcp_unanswered_total{{why=\"{why}\"}}");
    let before = server.series(&unanswered);
    let mac: Vec<u8> = host.mac().split(':').map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal")).collect();
    let discover = Packet::new(DISCOVER, mac.try_into().expect("six octets"), 7);
    let client = socket(host, 68);
    for packet in [discover.clone(), discover.option(60, b"PXEClient").option(93, &[0, 0])] {
        client.send_to(&packet.end(), SERVERS).expect("the wire is there");
    }
    wait_for("both to be counted", || (server.series(&unanswered) == before + 2).then_some(()));
    assert_silent(&client);
    host.ip(&format!("address add {address} dev {INTERFACE}"));
    for name in ["fine", "boot.ipxe"] {
        let refused = tftp::hpa(host, SERVER, "octet", name);
        assert!(refused.as_ref().is_err_and(|said| said.contains(why)), "{refused:?}");
        let (status, body) = http(host, &format!("GET /{name} HTTP/1.0\r\n\r\n"));
        assert_eq!(status, 403, "{}", body.escape_ascii());
    }
    for name in ["good.boot.test", "elsewhere.test"] {
        assert_eq!(dig(host, &[name]), "REFUSED ");
        assert_eq!(dig(host, &["+tcp", name]), "REFUSED ");
    }
}

/// Whoever is in no network of ours gets not one packet, although a way leads back.
fn from_outside(server: &BootServer, wire: &Wire) {
    let far = wire.host("far", Some("192.168.9.9/24"));
    far.ip(&format!("route add 10.77.0.0/24 dev {INTERFACE}"));
    server.host.ip(&format!("route add 192.168.9.0/24 dev {INTERFACE}"));
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x04good\x04boot\x04test\0\0\xff\0\x01");
    let cases: [(u16, &[u8], &str); 2] = [
        (53, &query, "greypit_dns_dropped_total{reason=\"foreign\"}"),
        (69, b"\0\x01fine\0octet\0", "greypit_tftp_ignored_total{reason=\"outside\"}"),
    ];
    for (port, packet, series) in cases {
        let socket = far.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a port");
        socket.send_to(packet, (SERVER, port)).expect("a way leads there");
        wait_for(series, || (server.series(series) == 1).then_some(()));
        assert_silent(&socket);
    }
    assert_eq!(http(&far, "GET /fine HTTP/1.0\r\n\r\n"), (0, Vec::new()));
    assert_eq!(server.series("greypit_boot_http_closed_total{reason=\"outside\"}"), 1);
    let before = server.series("greypit_dns_connections_refused_total");
    let closed =
        run_any(far.command(boot("usr/bin/dig")).args([&format!("@{SERVER}"), "+tcp", "+tries=1", "good.boot.test"]));
    assert!(!closed.contains("status:"), "{closed}");
    assert!(server.series("greypit_dns_connections_refused_total") > before);
}

/// What was sent has been read by now, and what it could have caused sent.
fn assert_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a socket");
    let mut answer = [0; 1500];
    let got = socket.recv(&mut answer).map(|length| answer[..length].escape_ascii().to_string());
    assert!(got.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{got:?}");
}

/// Status and body; 0 and nothing where it closes. A redirect is a failure.
fn http(host: &Host, request: &str) -> (u16, Vec<u8>) {
    let mut stream = host.enter(|| TcpStream::connect((SERVER, 80))).expect("it listens");
    stream.set_read_timeout(Some(WAIT)).expect("a timeout");
    // It may close before it has read all.
    let _closed = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _closed = stream.read_to_end(&mut answer);
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return (0, Vec::new()) };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(!head.contains("location:"), "{head}");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    (status, answer[end + 4..].to_vec())
}

/// The status of the answer, and the last word of each record in it.
fn dig(host: &Host, words: &[&str]) -> String {
    let said = run(host.command(boot("usr/bin/dig")).arg(format!("@{SERVER}")).args(words));
    let status = said.split_once("status: ").and_then(|(_, rest)| rest.split(',').next()).expect("an answer");
    let records = said.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
    let records: Vec<_> = records.filter_map(|line| line.split_whitespace().last()).collect();
    format!("{status} {}", records.join(" "))
}

/// All that a command says, whatever comes of it.
fn run_any(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
