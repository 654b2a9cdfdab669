//! Machines and clients that start from greypit, on a network of the test's own, and what
//! the store then says of them.

mod support;

use serde_json::Value;
use support::boot_server::{BootServer, SERVER};
use support::dhcp::{Client, perfdhcp};
use support::netns::{Host, INTERFACE, Wire};
use support::{boot, run};

#[test]
fn clients_take_keep_and_give_back_leases() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    let [stranger, known, old] = ["udhcpc", "dhclient", "bootpc"].map(|name| wire.host(name, None));
    server.set("boot.dhcp.pool", vec!["10.77.0.10-10.77.0.249".to_owned()]);
    server.machine("default", &[("boot", "local")]);
    server.machine("10.77.0.5", &[("hostname", "known"), ("mac", &known.mac())]);
    server.machine("10.77.0.6", &[("hostname", "old"), ("mac", &old.mac())]);
    server.start();

    let mut udhcpc = Client::udhcpc(&stranger, &["-x", "hostname:stranger"]);
    let bound = udhcpc.next("bound");
    assert_eq!((&*bound["serverid"], &*bound["ip"], &*bound["lease"]), (SERVER, "10.77.0.10", "3600"));
    assert_eq!(stranger.addresses(), ["10.77.0.10/24"]);
    udhcpc.process().signal("USR1");
    assert_eq!(udhcpc.next("renew")["ip"], "10.77.0.10");
    udhcpc.process().signal("USR2");
    udhcpc.next("deconfig");

    let mut dhclient = Client::dhclient(&known, "");
    let bound = dhclient.next("BOUND");
    assert_eq!((&*bound["new_ip_address"], &*bound["new_host_name"]), ("10.77.0.5", "known"));
    dhclient.dhclient_reboots();
    assert_eq!(dhclient.next("REBOOT")["new_ip_address"], "10.77.0.5");
    dhclient.dhclient_releases();
    dhclient.next("RELEASE");

    // It sends without an address and leaves the way to the kernel.
    old.ip(&format!("route add default dev {INTERFACE}"));
    let bootpc = ["--dev", INTERFACE, "--serverbcast", "--timeoutwait", "20", "--returniffail"];
    let said = run(old.command(boot("sbin/bootpc")).args(bootpc));
    assert!(said.contains("IPADDR='10.77.0.6'"), "{said}");

    let relay = wire.host("perfdhcp", Some("10.77.0.2/24"));
    let (exchanges, said) = perfdhcp(&relay, &["-r", "100", "-n", "200", "-R", "100", SERVER]);
    // It does not wait for the last answers.
    assert!(exchanges.iter().all(|exchange| exchange.sent >= 198 && exchange.received >= 198), "{said}");

    server.terminate();
    let records = server.records("dhcp");
    let discover = "discover offer 10.77.0";
    let request = "request ack 10.77.0";
    let [first, fifth] = ["10", "5"].map(|host| [discover, request, request].map(|step| format!("{step}.{host}")));
    assert_eq!(steps(&records, &stranger), [&first[..], &["release none ".to_owned()]].concat());
    assert_eq!(steps(&records, &known), [&fifth[..], &["release none ".to_owned()]].concat());
    assert_eq!(steps(&records, &old), ["bootp reply 10.77.0.6"]);
    assert!(of(&records, &known).all(|record| record["machine"] == "known" && record["session"].is_string()));
    let relayed = records.iter().filter(|record| record["giaddr"] == "10.77.0.2").count();
    assert!(relayed >= 396, "{relayed} of 400 packets that perfdhcp sent");
}

/// What a host said, what was decided, and the address in the answer.
fn steps(records: &[Value], host: &Host) -> Vec<String> {
    let word = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let step = |record| ["message", "decision", "answer_addr"].map(|name| word(record, name)).join(" ");
    of(records, host).map(step).collect()
}

fn of<'a>(records: &'a [Value], host: &Host) -> impl Iterator<Item = &'a Value> {
    let mac = host.mac();
    records.iter().filter(move |record| record["mac"] == *mac)
}
