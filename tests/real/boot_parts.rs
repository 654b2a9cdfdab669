//! Proves that machines and clients boot over a wire of these tests, with dnsmasq as
//! the server: where greypit's own boot test fails and these pass, it is greypit.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use support::capture::{Capture, Datagram};
use support::dhcp::{Client, perfdhcp};
use support::dnsmasq::Dnsmasq;
use support::netns::{Host, INTERFACE, Wire};
use support::qemu::Vm;
use support::web::Web;
use support::{Folder, boot, run, tftp};

const SERVER: &str = "10.77.0.1";
const BIOS: &str = "52:54:00:77:00:01";
const UEFI: &str = "52:54:00:77:00:02";
const UEFI_HTTP: &str = "52:54:00:77:00:03";

#[test]
fn bios_runs_a_script_that_starts_a_kernel() {
    let wire = Wire::new();
    let _server = Server::start(&wire);
    let mut vm = Vm::bios(&wire, BIOS);
    let took = vm.wait();
    assert!(vm.console().contains("the kernel runs its initrd"), "{}", vm.console());
    eprintln!("BIOS: {took:.1?}");
}

#[test]
fn uefi_loads_ipxe_by_tftp() {
    let wire = Wire::new();
    let server = Server::start(&wire);
    let mut vm = Vm::uefi(&wire, UEFI);
    let took = vm.wait();
    assert!(vm.console().contains(&server.last_words), "{}", vm.console());
    assert_eq!(server.web.requests().len(), 1, "the script's last part");
    eprintln!("UEFI: {took:.1?}");
}

#[test]
fn uefi_loads_ipxe_by_http() {
    let wire = Wire::new();
    let server = Server::start(&wire);
    let mut vm = Vm::uefi_http(&wire, UEFI_HTTP);
    let took = vm.wait();
    assert!(vm.console().contains(&server.last_words), "{}", vm.console());
    let asked: Vec<_> =
        server.web.requests().iter().filter_map(|head| Some(head.split_once(" HTTP/")?.0.to_owned())).collect();
    assert_eq!(asked, ["HEAD /snponly.efi", "GET /snponly.efi", "GET /last.ipxe"]);
    eprintln!("UEFI by HTTP: {took:.1?}");
}

#[test]
fn clients_take_keep_and_give_back_leases() {
    let wire = Wire::new();
    let _server = Server::start(&wire);
    leases(&wire);
}

#[test]
fn clients_fetch_files_and_names() {
    let wire = Wire::new();
    let server = Server::start(&wire);
    fetches(&wire.host("client", Some("10.77.0.2/24")), &server);
}

/// Every client of DHCP does all that it can.
fn leases(wire: &Wire) {
    let [first, second, third] = ["udhcpc", "dhclient", "bootpc"].map(|name| wire.host(name, None));
    let mut udhcpc = Client::udhcpc(&first, &["-x", "hostname:first"]);
    let bound = udhcpc.next("bound");
    assert_eq!((&*bound["serverid"], &*bound["lease"]), (SERVER, "300"));
    assert_eq!(first.addresses(), [format!("{}/24", bound["ip"])]);
    udhcpc.process().signal("USR1");
    assert_eq!(udhcpc.next("renew")["ip"], bound["ip"]);
    udhcpc.process().signal("USR2");
    udhcpc.next("deconfig");
    assert!(first.addresses().is_empty());

    let mut dhclient = Client::dhclient(&second, "send host-name \"second\";");
    let bound = dhclient.next("BOUND");
    assert_eq!(second.addresses(), [format!("{}/24", bound["new_ip_address"])]);
    dhclient.dhclient_reboots();
    assert_eq!(dhclient.next("REBOOT")["new_ip_address"], bound["new_ip_address"]);
    dhclient.dhclient_releases();
    assert_eq!(dhclient.next("RELEASE")["old_ip_address"], bound["new_ip_address"]);

    // It sends without an address and leaves the way to the kernel.
    third.ip(&format!("route add default dev {INTERFACE}"));
    let bootpc = ["--dev", INTERFACE, "--serverbcast", "--timeoutwait", "20", "--returniffail"];
    let said = run(third.command(boot("sbin/bootpc")).args(bootpc));
    assert!(said.contains(&format!("SERVER='{SERVER}'")), "{said}");

    let relay = wire.host("perfdhcp", Some("10.77.0.2/24"));
    let (exchanges, said) = perfdhcp(&relay, &["-r", "100", "-n", "200", "-R", "200", SERVER]);
    // It does not wait for the last answers.
    assert!(exchanges.iter().all(|exchange| exchange.sent >= 198 && exchange.received >= 198), "{said}");
}

/// Both clients of TFTP, with and without options, and dig.
fn fetches(host: &Host, server: &Server) {
    let big = &server.files["big"];
    assert!(tftp::hpa(host, SERVER, "octet", "big").as_ref() == Ok(big));
    let options = ["blksize 1024", "tsize 0", "timeout 2", "windowsize 16"];
    assert!(tftp::atftp(host, SERVER, "big", &options).as_ref() == Ok(big));
    let text = tftp::hpa(host, SERVER, "netascii", "bios.ipxe");
    assert_eq!(text.as_ref(), Ok(&server.files["bios.ipxe"]));
    let refused = [tftp::hpa(host, SERVER, "octet", "none"), tftp::atftp(host, SERVER, "none", &[])];
    assert!(refused.iter().all(|answer| answer.as_ref().is_err_and(|said| said.contains("not found"))), "{refused:?}");
    let ask = |words: &[&str]| run(host.command(boot("usr/bin/dig")).arg(format!("@{SERVER}")).args(words));
    assert_eq!(ask(&["+short", "server.boot.test"]).trim(), SERVER);
    assert_eq!(ask(&["+short", "-x", SERVER]).trim(), "server.boot.test.");
    assert_eq!(ask(&["+short", "+tcp", "server.boot.test", "AAAA"]).trim(), "");
}

/// The server's host with a dnsmasq that boots everything, and what it serves.
struct Server {
    _dnsmasq: Dnsmasq,
    web: Web,
    /// What a script says at its end.
    last_words: String,
    files: BTreeMap<String, Vec<u8>>,
    _folder: Folder,
}

impl Server {
    fn start(wire: &Wire) -> Self {
        let last_words = format!("chained to the end of {}", std::process::id());
        let host = wire.host("server", Some(&format!("{SERVER}/24")));
        let folder = Folder::new("tftp");
        let files = files(&last_words);
        for (name, contents) in &files {
            fs::write(folder.join(name), contents).expect("a file of ours");
        }
        let web =
            Web::start(&host, files.iter().map(|(name, contents)| (format!("/{name}"), contents.clone())).collect());
        let root = format!("tftp-root={}", folder.path().display());
        let dnsmasq = Dnsmasq::start(
            &host,
            &[
                "dhcp-range=10.77.0.10,10.77.0.249,5m",
                "dhcp-authoritative",
                "bootp-dynamic",
                "enable-tftp",
                &root,
                "host-record=server.boot.test,10.77.0.1",
                "dhcp-userclass=set:ipxe,iPXE",
                "dhcp-option=7,10.77.0.1",
                "dhcp-match=set:bios,option:client-arch,0",
                "dhcp-match=set:efi,option:client-arch,7",
                "dhcp-match=set:http,option:client-arch,16",
                "dhcp-boot=tag:ipxe,tag:bios,bios.ipxe",
                "dhcp-boot=tag:ipxe,tag:efi,efi.ipxe",
                "dhcp-boot=tag:efi,tag:!ipxe,snponly.efi",
                "dhcp-boot=tag:http,tag:!ipxe,http://10.77.0.1/snponly.efi",
                "dhcp-option-force=tag:http,60,HTTPClient",
            ],
        );
        Self { _dnsmasq: dnsmasq, web, last_words, files, _folder: folder }
    }
}

/// What a restart loses of the console is this.
const END: &str = "echo ........................................\nreboot";

fn files(last_words: &str) -> BTreeMap<String, Vec<u8>> {
    let read = |path| fs::read(boot(path)).expect("it is there");
    let script = |text: &str| format!("#!ipxe\n{text}\n").into_bytes();
    // Its last word is said only where all before it came whole.
    let padding = format!("# {}\n", "x".repeat(70)).repeat(2000);
    BTreeMap::from([
        ("snponly.efi".to_owned(), read("usr/lib/ipxe/snponly.efi")),
        ("kernel".to_owned(), read("boot/ipxe.lkrn")),
        (
            "bios.ipxe".to_owned(),
            script(
                "initrd tftp://${next-server}/second.ipxe\nkernel tftp://${next-server}/kernel imgexec <INITRD>\nboot",
            ),
        ),
        ("second.ipxe".to_owned(), script(&format!("echo the kernel runs its initrd\n{END}"))),
        ("efi.ipxe".to_owned(), script("chain http://${next-server}/last.ipxe")),
        ("last.ipxe".to_owned(), script(&format!("{padding}echo {last_words}\n{END}"))),
        ("big".to_owned(), (0..3_000_000_u32).map(|n| (n * 7 / 3) as u8).collect()),
    ])
}

/// Makes tests/golden/boot/*.bin anew, the first of each kind of datagram that the
/// clients and dnsmasq send:
/// `cargo test --features real --test boot_parts -- --ignored collect`
#[test]
#[ignore = "writes files of the repository"]
fn collect_packets_for_the_parsers() {
    let wire = Wire::new();
    let server = Server::start(&wire);
    let capture = Capture::start(&wire);
    let mut vms = [Vm::bios(&wire, BIOS), Vm::uefi(&wire, UEFI), Vm::uefi_http(&wire, UEFI_HTTP)];
    for vm in &mut vms {
        vm.wait();
    }
    leases(&wire);
    fetches(&wire.host("client", Some("10.77.0.3/24")), &server);
    let datagrams = capture.finish();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/boot");
    let mut names = Names::default();
    for datagram in &datagrams {
        if let Some(name) = names.first_of_its_kind(datagram) {
            fs::write(format!("{folder}/{name}.bin"), &datagram.payload).expect("the golden folder");
        }
    }
    eprintln!("{:#?}", names.given);
}

/// The names of the kinds of datagrams, each given once.
#[derive(Default)]
struct Names {
    given: BTreeSet<String>,
    /// Who has this Ethernet address, and this IPv4 address, now.
    by_mac: BTreeMap<String, &'static str>,
    by_address: BTreeMap<Ipv4Addr, &'static str>,
}

impl Names {
    fn first_of_its_kind(&mut self, datagram: &Datagram) -> Option<String> {
        let payload = &datagram.payload;
        let (from, to) = (datagram.from, datagram.to);
        let name = match (from.port(), to.port()) {
            (67 | 68, 67 | 68) => self.dhcp(payload),
            (53, _) | (_, 53) => format!("dns-{}", dns_kind(payload)),
            _ => {
                let client = self.by_address.get(from.ip()).or_else(|| self.by_address.get(to.ip()));
                format!("tftp-{}-{}", client.unwrap_or(&"client"), tftp_kind(payload)?)
            }
        };
        self.given.insert(name.clone()).then_some(name)
    }

    fn dhcp(&mut self, payload: &[u8]) -> String {
        let mac: Vec<_> = payload[28..34].iter().map(|octet| format!("{octet:02x}")).collect();
        let mac = mac.join(":");
        if let Some(client) = dhcp_client(payload, &mac) {
            self.by_mac.insert(mac.clone(), client);
        }
        let client = self.by_mac.get(&mac).copied().unwrap_or("bootpc");
        self.by_address.insert(address(payload, 16), client);
        format!("dhcp-{client}-{}", dhcp_kind(payload))
    }
}

/// Who sends this, if it is a request that tells.
fn dhcp_client(payload: &[u8], mac: &str) -> Option<&'static str> {
    let says = |text: &str| payload.windows(text.len()).any(|window| window == text.as_bytes());
    let relayed = !address(payload, 24).is_unspecified();
    let request = payload[0] == 1;
    let client = match mac {
        BIOS => "ipxe-bios",
        UEFI | UEFI_HTTP if says("iPXE") => "ipxe-efi",
        UEFI => "ovmf-pxe",
        UEFI_HTTP => "ovmf-http",
        _ if says("udhcp") => "udhcpc",
        _ if says("second") => "dhclient",
        _ if relayed => "perfdhcp",
        _ => return None,
    };
    Some(client).filter(|_| request)
}

fn address(payload: &[u8], at: usize) -> Ipv4Addr {
    <[u8; 4]>::try_from(&payload[at..at + 4]).expect("four octets").into()
}

/// The kind of message by RFC 2131, and of a REQUEST what it is sent for.
fn dhcp_kind(payload: &[u8]) -> &'static str {
    let options = dhcp_options(&payload[240..]);
    let kind = options.get(&53).map_or(0, |value| value[0]);
    match (kind, payload[0]) {
        (0, 1) => "bootp-request",
        (0, _) => "bootp-reply",
        (1, _) => "discover",
        (2, _) => "offer",
        (3, _) if options.contains_key(&54) => "request-selecting",
        (3, _) if address(payload, 12).is_unspecified() => "request-init-reboot",
        (3, _) => "request-renewing",
        (4, _) => "decline",
        (5, _) => "ack",
        (6, _) => "nak",
        (7, _) => "release",
        _ => "other",
    }
}

fn dhcp_options(mut rest: &[u8]) -> BTreeMap<u8, &[u8]> {
    let mut options = BTreeMap::new();
    while let [code @ 1..=254, length, behind @ ..] = rest {
        let (value, next) = behind.split_at(usize::from(*length));
        options.insert(*code, value);
        rest = next;
    }
    options
}

/// A request with its mode and the names of its options, an OACK or an error.
fn tftp_kind(payload: &[u8]) -> Option<String> {
    let (opcode, rest) = payload.split_at(2);
    let words: Vec<_> = rest.split(|octet| *octet == 0).map(String::from_utf8_lossy).collect();
    match opcode[1] {
        1 => {
            let options = words.iter().skip(2).step_by(2).take_while(|name| !name.is_empty());
            Some(options.fold(format!("rrq-{}", words[1]), |kind, option| format!("{kind}-{option}")))
        }
        5 => Some(format!("error-{}", rest[1])),
        6 => Some("oack".to_owned()),
        _ => None,
    }
}

/// Query or answer, and the number of the type that is asked for, which dig puts
/// behind the one name.
fn dns_kind(payload: &[u8]) -> String {
    let kind = if payload[2] & 0x80 == 0 { "query" } else { "answer" };
    let name = payload[12..].iter().position(|octet| *octet == 0).expect("a name ends");
    format!("{kind}-{}", payload[12 + name + 2])
}
