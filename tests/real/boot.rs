//! Machines and clients that start from greypit, on a network of the test's own, and what
//! the store then says of them.

mod support;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use support::boot_server::{BootServer, SERVER};
use support::capture::Capture;
use support::dhcp::{Client, perfdhcp};
use support::dnsmasq::Dnsmasq;
use support::netns::{Host, INTERFACE, Wire};
use support::qemu::Vm;
use support::{boot, linux, run, wait_for};

/// What Linux does on each machine: everything that greypit serves, once more.
const LINUX: &str = "
server=10.77.0.1
grep -o 'who=.*' /proc/cmdline
echo lease of $serverid
wget -q -O - http://$server/folder/big | sha256sum
tftp -g -r folder/big -l - $server | sha256sum
[ $serverid = $server ] && nslookup -type=a web2.boot.test $server
/log $server \"$(grep -o 'who=.*' /proc/cmdline) is up\"
";

type Start = fn(&Wire, &str) -> Vm;

/// The machines that start, and how.
const MACHINES: [(&str, &str, &str, Start); 3] = [
    ("web1", "10.77.0.5", "52:54:00:77:00:01", Vm::bios),
    ("web2", "10.77.0.6", "52:54:00:77:00:02", Vm::uefi),
    ("web3", "10.77.0.7", "52:54:00:77:00:03", Vm::uefi_http),
];

#[test]
fn machines_start_by_bios_uefi_and_http() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.set("boot.dhcp.domain", "boot.test");
    machines_start(&wire, &mut server, SERVER);
}

/// Two hosts on one wire: dnsmasq gives the addresses, other ones than the folders
/// have but for one machine, and greypit tells what to load.
#[test]
fn machines_start_beside_another_server() {
    const OTHER: &str = "10.77.0.2";
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.set("boot.mode", "proxy");
    server.set("boot.dhcp.domain", "boot.test");
    let other = wire.host("dnsmasq", Some(&format!("{OTHER}/24")));
    let (_, address, mac, _) = MACHINES[0];
    let lines = ["port=0", "dhcp-range=10.77.0.100,10.77.0.199,1h", &format!("dhcp-host={mac},{address}")];
    let dnsmasq = Dnsmasq::start(&other, &lines);
    let capture = Capture::start(&wire);
    machines_start(&wire, &mut server, OTHER);
    let datagrams = capture.finish();
    let answers: Vec<_> = datagrams
        .iter()
        .filter(|sent| sent.from.ip().to_string() == SERVER && [67, 4011].contains(&sent.from.port()))
        .collect();
    assert!(answers.len() >= MACHINES.len(), "{} answers", answers.len());
    // `yiaddr`: what dnsmasq gives is the only address that a client hears of.
    assert!(answers.iter().all(|sent| sent.payload[16..20] == [0; 4]), "greypit gave an address: {answers:?}");
    let given = dnsmasq.log().matches("DHCPACK(eth0) 10.77.0.1").count();
    assert!(given >= 2, "{}", dnsmasq.log());
    assert!(!server.folder().join("data/boot/leases").exists());
}

/// Held by a test whose machines start: more than these at a time are too many for a small computer without acceleration,
/// and iPXE gives up on DHCP after a few tries.
static STARTING: Mutex<()> = Mutex::new(());

/// They load what is theirs from `server` by all its ways, have leases of `addresses`,
/// and their sessions have every packet.
fn machines_start(wire: &Wire, server: &mut BootServer, addresses: &str) {
    server.set("syslog.udp", vec![format!("{SERVER}:514")]);
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 / 3) as u8).collect();
    server.file("vmlinuz", &linux::kernel());
    server.file("initrd", &linux::initrd(LINUX));
    server.file("snponly.efi", &std::fs::read(boot("usr/lib/ipxe/snponly.efi")).expect("it is there"));
    server.file("folder/big", &big);
    let cmdline = format!("{} who={{{{ hostname }}}}", linux::CMDLINE);
    for (name, address, mac, _) in MACHINES {
        let files =
            [("hostname", name), ("mac", mac), ("kernel", "vmlinuz"), ("initrd", "initrd"), ("cmdline", &cmdline)];
        server.machine(address, &files);
    }
    server.start();
    let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut vms = MACHINES.map(|(_, _, mac, start)| start(wire, mac));
    for (vm, (name, ..)) in vms.iter_mut().zip(MACHINES) {
        let took = vm.wait();
        eprintln!("{name}: {took:.1?}");
    }
    drop(starting);
    let sum: String = Sha256::digest(&big).iter().map(|octet| format!("{octet:02x}")).collect();
    for (vm, (name, ..)) in vms.iter().zip(MACHINES) {
        let console = vm.console();
        assert!(console.contains(&format!("who={name}")), "{console}");
        assert!(console.contains(&format!("lease of {addresses}")), "{console}");
        assert_eq!(console.matches(&sum).count(), 2, "{name}: {sum} by HTTP and TFTP: {console}");
        // Beside another server it does not answer DNS.
        assert_eq!(console.contains("Address: 10.77.0.6"), addresses == SERVER, "{name}: {console}");
    }
    let rows = wait_for("the last stage of all", || {
        let rows = overview(server);
        rows.values().all(|row| row["stage"] == "syslog").then_some(rows)
    });
    server.terminate();
    let kinds = ["dhcp", "tftp", "http", "syslog", "dns"];
    let kinds = if addresses == SERVER { &kinds[..] } else { &kinds[..4] };
    let records: Vec<Value> = kinds.iter().flat_map(|kind| server.records(kind)).collect();
    let from_ipxe = ["ipxe", "script", "kernel", "initrd", "system", "syslog"];
    let from_firmware = [&["firmware", "loader"], &from_ipxe[..]].concat();
    for ((name, ..), stages) in MACHINES.into_iter().zip([&from_ipxe[..], &from_firmware, &from_firmware]) {
        let row = &rows[name];
        let reached: Vec<_> = row["stages"].as_array().expect("a list").iter().map(|stage| &stage["stage"]).collect();
        assert_eq!(reached, stages, "{name}");
        // Every packet of the start is its session's, and so is the first line of its log.
        let mine =
            |kind: &&str| records.iter().any(|record| record["kind"] == **kind && record["session"] == row["session"]);
        assert!(kinds.iter().all(mine), "{name}");
        let line = records.iter().find(|record| record["kind"] == "syslog" && record["session"] == row["session"]);
        let up = format!("who={name} is up");
        assert!(line.is_some_and(|line| line["message"].as_str().is_some_and(|text| text.contains(&up))), "{line:?}");
    }
    let strays: Vec<_> = records.iter().filter(|record| !record["session"].is_string()).collect();
    assert!(strays.is_empty(), "{strays:?}");
}

/// What `greypit boot` says of each machine.
fn overview(server: &BootServer) -> BTreeMap<String, Value> {
    let lines = run(server.command("boot").arg("--json"));
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    rows.map(|row| (row["machine"].as_str().expect("a name").to_owned(), row)).collect()
}

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
    let bootpc = ["--dev", INTERFACE, "--serverbcast", "--timeoutwait", "120", "--returniffail"];
    let said = run(old.command(boot("sbin/bootpc")).args(bootpc));
    assert!(said.contains("IPADDR='10.77.0.6'"), "{said}");

    let relay = wire.host("perfdhcp", Some("10.77.0.2/24"));
    // As many as a socket's buffer holds by default: where this machine stands still they come all at once.
    // It waits for as many answers of both kinds as the two numbers are together, and may send some more of the first.
    let (exchanges, said) = perfdhcp(&relay, &["-r", "100", "-n", "100", "-n", "100", "-R", "100", SERVER]);
    assert!(exchanges.iter().all(|exchange| exchange.sent >= 95 && exchange.received >= 95), "{said}");

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
    assert!(relayed >= 195, "{relayed} of 200 packets that perfdhcp sent");
}

/// What a host said, what was decided, and the address in the answer.
fn steps(records: &[Value], host: &Host) -> Vec<String> {
    let word = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let mut records: Vec<_> = of(records, host).collect();
    // udhcpc may ask for its renewal twice: it is not quick enough for the answer.
    records.dedup_by_key(|record| ["message", "xid", "ciaddr"].map(|name| word(record, name)));
    let step = |record: &Value| ["message", "decision", "answer_addr"].map(|name| word(record, name)).join(" ");
    records.into_iter().map(step).collect()
}

fn of<'a>(records: &'a [Value], host: &Host) -> impl Iterator<Item = &'a Value> {
    let mac = host.mac();
    records.iter().filter(move |record| record["mac"] == *mac)
}
