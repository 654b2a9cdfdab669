//! greypit where it has few rights, where a relay is between it and its clients, and
//! where others give addresses.

mod support;

use serde_json::Value;
use std::fs;
use support::boot_server::{BootServer, SERVER};
use support::capture::{Capture, Datagram};
use support::dhcp::Client;
use support::dnsmasq::Dnsmasq;
use support::netns::{Host, INTERFACE, Wire};
use support::{boot, run, tftp, wait_for};

/// The other DHCP server, where there is one.
const OTHER: &str = "10.77.0.2";

#[test]
fn another_user_with_two_capabilities_serves_all() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    let host = wire.host("client", None);
    server.set("boot.dhcp.domain", "boot.test");
    server.machine("10.77.0.5", &[("hostname", "web1"), ("mac", &host.mac()), ("kernel", "fine")]);
    server.file("fine", b"fine");
    server.as_nobody("+net_bind_service");
    server.start();
    wait_for("what it lacks", || {
        let ready = server.readiness()?;
        ready["parts"]["boot"]["reason"].as_str()?.contains("CAP_NET_RAW").then_some(())
    });
    server.terminate();

    server.as_nobody("+net_raw,+net_bind_service");
    server.start();
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("it runs");
    for line in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000002400", "CapBnd:\t0000000000002400"] {
        assert!(status.contains(line), "{status}");
    }
    let mut client = Client::udhcpc(&host, &[]);
    assert_eq!(client.next("bound")["ip"], "10.77.0.5");
    assert_eq!(tftp::hpa(&host, SERVER, "octet", "fine").as_deref(), Ok(&b"fine"[..]));
    let script = get(&host, "boot.ipxe");
    assert!(script.starts_with("#!ipxe\n") && script.contains("/fine"), "{script}");
    assert_eq!(get(&host, "fine"), "fine");
    let answer = run(host.command(boot("usr/bin/dig")).args([&format!("@{SERVER}"), "+short", "web1.boot.test"]));
    assert_eq!(answer.trim(), "10.77.0.5");
    run(server.command("wake").arg("web1"));
    server.kill();
    // What it has written it may read again.
    server.start();
    client.process().signal("USR1");
    assert_eq!(client.next("renew")["ip"], "10.77.0.5");
    server.terminate();
    let (verdict, complaints) = server.verify();
    assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
}

fn get(host: &Host, name: &str) -> String {
    run(host.command(boot("bin/busybox")).args(["wget", "-q", "-O", "-", &format!("http://{SERVER}/{name}")]))
}

/// ```text
/// greypit 10.77.0.1 ── 10.77.0.3 relay 10.9.0.1 ── clients
/// ```
#[test]
fn clients_behind_a_relay_take_renew_and_give_back_leases() {
    let (near, far) = (Wire::new(), Wire::new());
    let mut server = BootServer::new(&near);
    let relay = near.host("relay", Some("10.77.0.3/24"));
    far.join(&relay, "relay", "eth1", "10.9.0.1/24");
    relay.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).expect("root may");
    server.host.ip("route add 10.9.0.0/24 via 10.77.0.3");
    let [known, stranger] = ["known", "stranger"].map(|name| far.host(name, None));
    server.set_toml(
        "[[boot.network]]\nsubnet = \"10.9.0.0/24\"\npool = [\"10.9.0.100-10.9.0.199\"]\nrouter = [\"10.9.0.1\"]",
    );
    server.machine("10.9.0.5", &[("hostname", "known"), ("mac", &known.mac()), ("kernel", "fine")]);
    server.machine("default", &[("boot", "local")]);
    server.file("fine", b"fine");
    server.start();
    let _relay = Dnsmasq::start(&relay, &["port=0", "interface=eth1", &format!("dhcp-relay=10.9.0.1,{SERVER}")]);
    for (host, address) in [(&known, "10.9.0.5"), (&stranger, "10.9.0.100")] {
        let mut client = Client::udhcpc(host, &[]);
        let bound = client.next("bound");
        let told = ["ip", "router", "serverid", "mask"].map(|name| &*bound[name]);
        assert_eq!(told, [address, "10.9.0.1", SERVER, "24"]);
        // To the server itself, past the relay.
        let route = || host.ip(&format!("route replace default via 10.9.0.1 dev {INTERFACE}"));
        route();
        client.process().signal("USR1");
        assert_eq!(client.next("renew")["ip"], address);
        route();
        assert_eq!(tftp::hpa(host, SERVER, "octet", "fine").as_deref(), Ok(&b"fine"[..]));
        client.process().signal("USR2");
        client.next("deconfig");
    }
    wait_for("both to be free", || {
        (server.series("greypit_dhcp_messages_total{message=\"release\"}") == 2).then_some(())
    });
    server.terminate();
    let records = server.records("dhcp");
    for (host, address) in [(&known, "10.9.0.5"), (&stranger, "10.9.0.100")] {
        // udhcpc may ask for its renewal twice: it is not quick enough for the answer.
        let mut records: Vec<_> = of(&records, host).collect();
        records.dedup_by_key(|record| ["message", "xid", "ciaddr"].map(|name| text(record, name)));
        let seen: Vec<_> = records
            .iter()
            .map(|record| ["message", "decision", "answer_addr", "giaddr"].map(|name| text(record, name)).join(" "))
            .collect();
        let by_relay = ["discover offer", "request ack"].map(|step| format!("{step} {address} 10.9.0.1"));
        let by_itself = [format!("request ack {address} "), "release none  ".to_owned()];
        assert_eq!(seen, [by_relay, by_itself].concat());
    }
}

/// On a mirror port, where dnsmasq serves a client.
#[test]
fn listening_records_all_and_says_nothing() {
    let wire = Wire::new();
    wire.mirror();
    let mut server = BootServer::new(&wire);
    server.set("boot.mode", "listen");
    server.set("boot.dhcp.promiscuous", true);
    let (other, host) = (wire.host("dnsmasq", Some(&format!("{OTHER}/24"))), wire.host("client", None));
    server.machine("10.77.0.5", &[("hostname", "web1"), ("mac", &host.mac()), ("kernel", "fine")]);
    server.start();
    let capture = Capture::start(&wire);
    let _dnsmasq = Dnsmasq::start(&other, &["port=0", "dhcp-range=10.77.0.100,10.77.0.199,1h"]);
    let mut client = Client::udhcpc(&host, &[]);
    let address = client.next("bound")["ip"].clone();
    client.process().signal("USR1");
    client.next("renew");
    client.process().signal("USR2");
    wait_for("the last message", || {
        (server.series("greypit_dhcp_messages_total{message=\"release\"}") == 1).then_some(())
    });
    server.terminate();
    let records = server.records("dhcp");
    let is_release = |datagram: &Datagram| message(&datagram.payload) == Some("release");
    wait_for("the release in the capture", || capture.datagrams().iter().any(is_release).then_some(()));
    let sent = capture.finish();
    let seen: Vec<_> = of(&records, &host).map(|record| text(record, "message")).collect();
    // udhcpc may ask for its renewal twice: it is not quick enough for the answer. What the two say may pass each other
    // on the way to the two that hear it.
    let captured = sent.iter().filter_map(|datagram| message(&datagram.payload));
    assert_eq!(by_side(seen.iter().map(String::as_str)), by_side(captured));
    assert!(seen.len() >= 7 && seen.iter().filter(|message| *message == "ack").count() >= 2, "{seen:?}");
    assert!(of(&records, &host).all(|record| record["machine"] == "web1" && record["decision"] == "none"));
    let acks = of(&records, &host).filter(|record| record["message"] == "ack");
    assert!(acks.clone().all(|ack| ack["yiaddr"] == *address && ack["server_id"] == OTHER), "{records:?}");
    assert!(sent.iter().all(|datagram| datagram.from.ip().to_string() != SERVER), "{sent:?}");
}

/// What the server said, and what the client did, each in its order.
fn by_side<'m>(messages: impl Iterator<Item = &'m str>) -> (Vec<&'m str>, Vec<&'m str>) {
    messages.partition(|message| ["offer", "ack", "nak"].contains(message))
}

/// What a datagram is, if it is of DHCP.
fn message(payload: &[u8]) -> Option<&'static str> {
    const NAMES: [&str; 9] = ["bootp", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform"];
    // The first option is its type, of all programs here.
    let (type_, cookie) = (payload.get(240..243)?, &payload[236..240]);
    (cookie == [99, 130, 83, 99] && type_[..2] == [53, 1]).then(|| NAMES[usize::from(type_[2])])
}

#[test]
fn another_server_is_noticed() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    let (other, host) = (wire.host("dnsmasq", Some(&format!("{OTHER}/24"))), wire.host("client", None));
    server.start();
    let parts = |server: &BootServer| server.readiness().map(|body| body["parts"]["dhcp"].to_string());
    assert!(!parts(&server).expect("it answers").contains("another DHCP server"));
    let _dnsmasq = Dnsmasq::start(&other, &["port=0", "dhcp-range=10.77.0.100,10.77.0.199,1h"]);
    let mut client = Client::udhcpc(&host, &[]);
    assert_eq!(client.next("bound")["serverid"], OTHER);
    let said = format!("another DHCP server answers here: {OTHER}");
    wait_for("it to be said", || parts(&server)?.contains(&said).then_some(()));
    assert!(server.series("greypit_dhcp_foreign_servers_total") >= 1);
    server.terminate();
    let records = server.records("dhcp");
    let request = of(&records, &host).find(|record| record["message"] == "request").expect("it was broadcast");
    let told = ["server_id", "decision", "why"].map(|name| text(request, name));
    assert_eq!(told, [OTHER, "none", "unknown machine"]);
}

fn of<'a>(records: &'a [Value], host: &Host) -> impl Iterator<Item = &'a Value> + Clone {
    let mac = host.mac();
    records.iter().filter(move |record| record["mac"] == *mac)
}

fn text(record: &Value, name: &str) -> String {
    record[name].as_str().unwrap_or_default().to_owned()
}
