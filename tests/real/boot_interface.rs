//! An interface that comes late, goes away and gets another address, a mistake in a machine's
//! files, a folder that is not mounted: nothing else waits for it, and nothing needs a restart.

mod support;

use socket2::{Domain, Socket, Type};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use support::boot_server::{BootServer, SERVER};
use support::dhcp::Client;
use support::greypit::get;
use support::netns::{Host, INTERFACE, Wire};
use support::{tftp, wait_for};

/// The other address of the server, and of the machine.
const OTHER: &str = "10.77.0.9";
const MACHINE: &str = "10.77.0.5";

#[test]
fn an_interface_may_come_late_and_change() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    let host = wire.host("client", None);
    // Its own address too, which the machine does not have yet.
    server.set("syslog.udp", vec!["127.0.0.1:514".to_owned(), format!("{SERVER}:514"), format!("{OTHER}:514")]);
    server.set_toml("[boot.dhcp]\npool = [\"10.77.0.100-10.77.0.199\"]");
    for address in [SERVER, OTHER] {
        let folder = server.folder().join("machines").join(address).join(MACHINE);
        fs::create_dir_all(&folder).expect("a folder of ours");
        fs::write(folder.join("hostname"), "web1").expect("a file of ours");
        fs::write(folder.join("mac"), host.mac()).expect("a file of ours");
    }
    server.file("fine", b"fine");
    server.host.ip(&format!("link delete {INTERFACE}"));

    // Everything else starts.
    server.start();
    held(&server, "eth0: no such interface here");
    assert_eq!(server.get("/readyz").map(|(status, _)| status), Some(503));
    log_line(&server.host, "127.0.0.1", "early");
    wait_for("syslog", || (server.series("greypit_boot_interfaces_down") == 1).then_some(()));
    assert_eq!(server.end().code(), Some(0), "it need not wait for the interface to end");
    server.start();
    held(&server, "eth0: no such interface here");

    // It comes.
    wire.join(&server.host, "late", INTERFACE, &format!("{SERVER}/24"));
    ready(&server);
    let mut client = Client::udhcpc(&host, &[]);
    let bound = client.next("bound");
    assert_eq!([&*bound["ip"], &*bound["serverid"]], [MACHINE, SERVER]);
    assert_eq!(tftp::hpa(&host, SERVER, "octet", "fine").as_deref(), Ok(&b"fine"[..]));
    log_line(&host, SERVER, "first");
    let acks = || server.series("greypit_dhcp_answers_total{answer=\"ack\"}");
    let transfers = || server.series("greypit_tftp_transfers_total{outcome=\"complete\"}");
    wait_for("both to be counted", || (acks() >= 1 && transfers() == 1).then_some(()));

    // It goes down and comes back as it was, but for its card: nothing is bound anew.
    server.host.ip(&format!("link set {INTERFACE} down"));
    held(&server, "eth0: it is down");
    server.host.ip(&format!("link set {INTERFACE} up"));
    ready(&server);
    // As a bridge does that takes the address of a new port.
    server.host.ip(&format!("link set {INTERFACE} address 02:00:00:00:00:42"));
    host.ip("neighbour flush all");
    client.process().signal("USR1");
    assert_eq!(client.next("renew")["serverid"], SERVER);
    assert_eq!(server.log().matches("binds them anew").count(), 0);

    // It gets an address that does not fit the config, and then one that does.
    server.host.ip(&format!("address delete {SERVER}/24 dev {INTERFACE}"));
    held(&server, "eth0: it has no IPv4 address");
    server.host.ip(&format!("address add 10.78.0.1/24 brd + dev {INTERFACE}"));
    held(&server, "boot.dhcp.pool: 10.77.0.100-10.77.0.199 is not in 10.78.0.0/24");
    server.host.ip(&format!("address delete 10.78.0.1/24 dev {INTERFACE}"));
    server.host.ip(&format!("address add {OTHER}/24 brd + dev {INTERFACE}"));
    ready(&server);
    let before = acks();
    drop(client);
    let mut client = Client::udhcpc(&host, &[]);
    let bound = client.next("bound");
    assert_eq!([&*bound["ip"], &*bound["serverid"]], [MACHINE, OTHER]);
    assert_eq!(tftp::hpa(&host, OTHER, "octet", "fine").as_deref(), Ok(&b"fine"[..]));
    log_line(&host, OTHER, "second");
    wait_for("both to be counted", || (acks() > before && transfers() == 2).then_some(()));
    assert!(before >= 2, "the counter went on: {before}");

    // It is made anew, with another number.
    server.host.ip(&format!("link delete {INTERFACE}"));
    held(&server, "eth0: no such interface here");
    wire.join(&server.host, "again", INTERFACE, &format!("{OTHER}/24"));
    ready(&server);
    client.process().signal("USR1");
    assert_eq!(client.next("renew")["serverid"], OTHER);
    wait_for("the lines", || (server.metric("greypit_syslog_messages_total") >= Some(2.0)).then_some(()));
    server.terminate();

    let lines = server.records("syslog");
    let of = |text: &str| lines.iter().find(|record| record["message"] == text).unwrap_or_else(|| panic!("{lines:?}"));
    let acked = |server_id: &str| {
        let records = server.records("dhcp");
        let ack = records.into_iter().find(|record| record["decision"] == "ack" && record["server_id"] == server_id);
        ack.unwrap_or_else(|| panic!("no ack of {server_id}"))["session"].clone()
    };
    for (text, server_id) in [("first", SERVER), ("second", OTHER)] {
        assert!(of(text)["session"].is_string(), "{lines:?}");
        assert_eq!(of(text)["session"], acked(server_id));
    }
    assert!(of("early")["session"].is_null(), "{lines:?}");
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("\"ERROR\""), "{log}");
    assert_eq!(log.matches("boot listens").count(), 3, "late, for another address, and for another number: {log}");
    let (verdict, complaints) = server.verify();
    assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
}

/// Two interfaces, of which one is there: it is served, and the other as soon as it comes.
#[test]
fn an_interface_that_is_there_does_not_wait_for_another() {
    let (wire, second) = (Wire::new(), Wire::new());
    let mut server = BootServer::new(&wire);
    server.set("boot.interface", vec![INTERFACE, "eth1"]);
    let (near, far) = (wire.host("near", None), second.host("far", None));
    for (address, machine, host) in [(SERVER, MACHINE, &near), ("10.78.0.1", "10.78.0.5", &far)] {
        let folder = server.folder().join("machines").join(address).join(machine);
        fs::create_dir_all(&folder).expect("a folder of ours");
        fs::write(folder.join("hostname"), format!("of-{}", address.replace('.', "-"))).expect("a file of ours");
        fs::write(folder.join("mac"), host.mac()).expect("a file of ours");
    }
    // A disk that refuses the leases is waited for too.
    let in_the_way = server.folder().join("data/boot/leases.new");
    fs::create_dir_all(&in_the_way).expect("a folder of ours");
    server.start();
    held(&server, "data/boot/leases");
    fs::remove_dir(&in_the_way).expect("it is empty");
    held(&server, "waits for eth1: no such interface here; `ip link` lists those that are\"");
    let mut client = Client::udhcpc(&near, &[]);
    assert_eq!(client.next("bound")["ip"], MACHINE);
    // Somebody has its TFTP port: that costs the first nothing.
    let taken = server.host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        socket.set_freebind_v4(true).expect("a socket of ours");
        socket.bind(&SocketAddrV4::new(Ipv4Addr::new(10, 78, 0, 1), 69).into()).expect("a free port");
        socket
    });
    second.join(&server.host, "greypit", "eth1", "10.78.0.1/24");
    held(&server, "10.78.0.1:69");
    client.process().signal("USR1");
    assert_eq!(client.next("renew")["ip"], MACHINE);
    drop(taken);
    ready(&server);
    let mut other = Client::udhcpc(&far, &[]);
    assert_eq!(other.next("bound")["ip"], "10.78.0.5");
    client.process().signal("USR1");
    assert_eq!(client.next("renew")["ip"], MACHINE);
    server.terminate();
}

/// A mistake in a machine's files, or a folder that is not there, keeps boot back as a whole, and nothing else.
#[test]
fn what_is_not_as_it_must_be_holds_up_boot_alone() {
    let (wire, second) = (Wire::new(), Wire::new());
    let mut server = BootServer::new(&wire);
    let (near, far) = (wire.host("near", None), second.host("far", None));
    second.join(&server.host, "greypit", "eth1", "10.78.0.1/24");
    server.set("boot.interface", vec![INTERFACE, "eth1"]);
    server.set("boot.dhcp.pool", vec!["10.77.0.100-10.77.0.199", "10.78.0.100-10.78.0.199"]);
    server.set("milter.listen", vec!["inet:8891@127.0.0.1"]);
    server.set("syslog.udp", vec!["127.0.0.1:514"]);
    // Whoever has no folder of its own is served.
    server.machine("default", &[("boot", "local")]);
    server.machine(MACHINE, &[("hostname", "web1")]);
    let (dir, root) = (server.folder().join("machines"), server.folder().join("files"));
    let other = dir.join("10.78.0.1/10.78.0.5");
    fs::create_dir_all(&other).expect("a folder of ours");
    fs::write(other.join("mac"), "52:54:00:12:34").expect("a file of ours");
    let aside = server.folder().join("aside");
    fs::rename(&dir, &aside).expect("a folder of ours");
    fs::remove_dir(&root).expect("it is empty");

    let checked = |server: &BootServer, said: &str| {
        let output = server.command("check").output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(said), "{text}");
    };
    checked(&server, "boot.root: ");
    server.start();
    held(&server, "files: No such file or directory");
    fs::create_dir(&root).expect("a folder of ours");
    held(&server, "machines: is missing; make the folder");
    checked(&server, "machines: is missing; make the folder");
    fs::rename(&aside, &dir).expect("a folder of ours");
    held(&server, "10.77.0.5/mac: is missing or empty");
    checked(&server, "10.77.0.5/mac: is missing or empty");
    log_line(&server.host, "127.0.0.1", "first");
    wait_for("syslog", || (server.metric("greypit_syslog_messages_total") == Some(1.0)).then_some(()));
    server.host.enter(|| drop(TcpStream::connect("127.0.0.1:8891").expect("mail is served")));
    nobody_serves(&server);
    // It is tried again every 5 s, and said once.
    let held_s = || server.readiness()?["parts"]["boot"]["held_seconds"].as_u64();
    let before = wait_for("it to be held", held_s);
    wait_for("another try", || held_s().filter(|now| *now > before + 6));
    server.machine(MACHINE, &[("mac", &near.mac())]);
    // The other server's folder holds up all as well, also where nobody knows yet that it is ours.
    held(&server, "10.78.0.5/hostname: is missing or empty");
    server.host.ip("link set eth1 down");
    held(&server, "waits for eth1: it is down; `ip link set eth1 up`; boot.dir: ");
    nobody_serves(&server);
    server.host.ip("link set eth1 up");
    fs::write(other.join("hostname"), "web2").expect("a file of ours");
    held(&server, "'52:54:00:12:34' is no MAC address");
    nobody_serves(&server);
    fs::write(other.join("mac"), far.mac()).expect("a file of ours");
    ready(&server);
    for (host, address) in [(&near, MACHINE), (&far, "10.78.0.5")] {
        assert_eq!(Client::udhcpc(host, &[]).next("bound")["ip"], address);
    }

    // Once it is served a mistake changes nothing.
    fs::write(other.join("hostname"), "-").expect("a file of ours");
    wait_for("the mistake", || server.readiness()?["parts"]["boot_machines"]["reason"].as_str().map(str::to_owned));
    assert_eq!(server.get("/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(Client::udhcpc(&far, &[]).next("bound")["ip"], "10.78.0.5");
    server.terminate();
    let log = server.log();
    let said = |mistake: &str| log.lines().filter(|line| line.contains("held back") && line.contains(mistake)).count();
    assert_eq!(said("10.77.0.5/mac: is missing or empty"), 1, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// What listens on an address of an interface that is not there is served with it.
#[test]
fn whoever_listens_on_the_address_waits_for_nobody() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    let host = wire.host("client", Some("10.77.0.7/24"));
    let http: SocketAddr = (Ipv4Addr::new(10, 77, 0, 1), 9425).into();
    server.set("http.listen", http.to_string());
    server.set("milter.listen", vec![format!("inet:8891@{SERVER}")]);
    server.host.ip(&format!("link delete {INTERFACE}"));
    server.spawn();
    wait_for("the start", || {
        server.assert_alive();
        server.log().contains("greypit runs").then_some(())
    });
    wire.join(&server.host, "late", INTERFACE, &format!("{SERVER}/24"));
    wait_for("readiness", || host.enter(|| get(http, "/readyz")).filter(|(status, _)| *status == 200));
    host.enter(|| drop(TcpStream::connect((SERVER, 8891)).expect("mail is served")));
    server.terminate();
}

/// The interface is not all that is waited for, and what the config alone has wrong is a failed start.
#[test]
fn what_shows_without_the_interface_is_said_without_it() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.host.ip(&format!("link delete {INTERFACE}"));
    let waits = "waits for eth0: no such interface here; `ip link` lists those that are";
    server.machine(MACHINE, &[("hostname", "web1")]);
    server.start();
    held(&server, &format!("{waits}; boot.dir: "));
    held(&server, "10.77.0.5/mac: is missing or empty");
    server.machine(MACHINE, &[("mac", "52:54:00:12:34:56")]);
    held(&server, &format!("{waits}\""));
    let checked = server.command("check").output().expect("it starts");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.contains(waits), "{said}");
    server.terminate();

    for (key, value, wrong) in [("boot.root", "data", "boot.root: "), ("boot.session", "1s", "boot.session: ")] {
        let root = server.folder().join("files");
        let value = if key == "boot.root" { path(&server.folder().join(value)) } else { value.to_owned() };
        server.set(key, value);
        let output = server.command("run").output().expect("it starts");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(wrong), "{text}");
        server.set("boot.root", path(&root));
    }
    server.set("boot.session", "30m");
    server.as_nobody("+net_bind_service");
    server.start();
    held(&server, "CAP_NET_RAW");
}

/// Whether the ports of boot are free.
fn nobody_serves(server: &BootServer) {
    server.host.enter(|| {
        for port in [67, 69, 53] {
            drop(UdpSocket::bind(("0.0.0.0", port)).unwrap_or_else(|error| panic!("{port}: {error}")));
        }
        drop(TcpListener::bind(("0.0.0.0", 80)).expect("nobody has it"));
    });
}

fn path(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

fn held(server: &BootServer, reason: &str) {
    wait_for(&format!("boot to be held by {reason:?}"), || {
        server.readiness()?["parts"]["boot"].to_string().contains(reason).then_some(())
    });
}

fn ready(server: &BootServer) {
    wait_for("everything to be ready", || server.get("/readyz").filter(|(status, _)| *status == 200));
}

fn log_line(host: &Host, server: &str, text: &str) {
    host.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket.send_to(format!("<13>Nov 21 18:15:02 web1 test: {text}").as_bytes(), (server, 514)).expect("it is sent");
    });
}
