//! Proves that machines and clients boot over a wire of these tests, with dnsmasq as
//! the server: where greypit's own boot test fails and these pass, it is greypit.

mod support;

use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use support::capture::{Capture, Datagram};
use support::dhcp::{Client, perfdhcp};
use support::dnsmasq::Dnsmasq;
use support::netns::{Host, INTERFACE, Wire};
use support::qemu::Vm;
use support::web::Web;
use support::{Folder, boot, linux, run, tftp, wait_for};

const SERVER: &str = "10.77.0.1";
const BIOS: &str = "52:54:00:77:00:01";
const UEFI: &str = "52:54:00:77:00:02";
const UEFI_HTTP: &str = "52:54:00:77:00:03";

#[test]
fn bios_starts_linux() {
    starts_linux(Vm::bios, BIOS, "the BIOS", &[]);
}

#[test]
fn uefi_starts_linux() {
    let asked = ["GET /initrd", "GET /vmlinuz", "GET /big"];
    starts_linux(Vm::uefi, UEFI, "UEFI", &asked);
}

#[test]
fn uefi_by_http_starts_linux() {
    let asked = ["HEAD /snponly.efi", "GET /snponly.efi", "GET /initrd", "GET /vmlinuz", "GET /big"];
    starts_linux(Vm::uefi_http, UEFI_HTTP, "UEFI by HTTP", &asked);
}

/// The machine comes by its loaders to a kernel that was told who it is, and fetches
/// files whole.
fn starts_linux(start: fn(&Wire, &str) -> Vm, mac: &str, name: &str, asked: &[&str]) {
    let wire = Wire::new();
    let server = Server::start(&wire);
    let mut vm = start(&wire, mac);
    let took = vm.wait();
    let console = vm.console();
    eprintln!("{name}: {took:.1?}");
    let sum: String = Sha256::digest(&server.files["big"]).iter().map(|octet| format!("{octet:02x}")).collect();
    assert!(console.contains(&format!("who={mac}")), "{console}");
    assert_eq!(console.matches(&sum).count(), 2, "{sum} by HTTP and TFTP: {console}");
    let requests = server.web.requests();
    let requests: Vec<_> = requests.iter().filter_map(|head| Some(head.split_once(" HTTP/")?.0)).collect();
    // Linux fetches one over HTTP in any case.
    assert_eq!(requests, if asked.is_empty() { &["GET /big"] } else { asked });
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
    let bootpc = ["--dev", INTERFACE, "--serverbcast", "--timeoutwait", "120", "--returniffail"];
    let said = run(third.command(boot("sbin/bootpc")).args(bootpc));
    assert!(said.contains(&format!("SERVER='{SERVER}'")), "{said}");

    let relay = wire.host("perfdhcp", Some("10.77.0.2/24"));
    // As many as a socket's buffer holds by default: where this machine stands still they come all at once.
    // It waits for as many answers of both kinds as the two numbers are together, and may send some more of the first.
    let (exchanges, said) = perfdhcp(&relay, &["-r", "100", "-n", "100", "-n", "100", "-R", "100", SERVER]);
    assert!(exchanges.iter().all(|exchange| exchange.sent >= 95 && exchange.received >= 95), "{said}");
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
    files: BTreeMap<String, Vec<u8>>,
    _folder: Folder,
}

impl Server {
    fn start(wire: &Wire) -> Self {
        let host = wire.host("server", Some(&format!("{SERVER}/24")));
        let folder = Folder::new("tftp");
        let files = files();
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
        Self { _dnsmasq: dnsmasq, web, files, _folder: folder }
    }
}

/// What the Linux that boots does.
const LINUX: &str = "
grep -o 'who=.*' /proc/cmdline
wget -q -O - http://$siaddr/big | sha256sum
tftp -g -r big -l - $siaddr | sha256sum
";

fn files() -> BTreeMap<String, Vec<u8>> {
    let read = |path| fs::read(boot(path)).expect("it is there");
    let script = |text: &str| format!("#!ipxe\n{text}\n").into_bytes();
    BTreeMap::from([
        ("snponly.efi".to_owned(), read("usr/lib/ipxe/snponly.efi")),
        ("vmlinuz".to_owned(), linux::kernel()),
        ("initrd".to_owned(), linux::initrd(LINUX)),
        (
            "bios.ipxe".to_owned(),
            script(&format!(
                "initrd tftp://${{next-server}}/initrd\nkernel tftp://${{next-server}}/vmlinuz {} who=${{net0/mac}}\nboot",
                linux::CMDLINE
            )),
        ),
        (
            "efi.ipxe".to_owned(),
            script(&format!(
                "initrd http://${{next-server}}/initrd\nkernel http://${{next-server}}/vmlinuz {} initrd=initrd who=${{net0/mac}}\nboot",
                linux::CMDLINE
            )),
        ),
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
    let datagrams = [capture.finish(), beside_another_server()].concat();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/boot");
    let mut names = Names::default();
    for datagram in &datagrams {
        if let Some(name) = names.first_of_its_kind(datagram) {
            fs::write(format!("{folder}/{name}.bin"), &datagram.payload).expect("the golden folder");
        }
    }
    eprintln!("{:#?}", names.given);
}

/// What is said where one dnsmasq gives addresses, and another one by proxyDHCP the files.
fn beside_another_server() -> Vec<Datagram> {
    let wire = Wire::new();
    let addresses = wire.host("addresses", Some("10.77.0.2/24"));
    let proxy = wire.host("proxy", Some(&format!("{SERVER}/24")));
    let _addresses = Dnsmasq::start(&addresses, &["port=0", "dhcp-range=10.77.0.10,10.77.0.249,5m"]);
    let (bios, efi) = ("pxe-service=X86PC,files,undionly.kpxe", "pxe-service=x86-64_EFI,files,snponly.efi");
    let _proxy = Dnsmasq::start(&proxy, &["port=0", "dhcp-range=10.77.0.0,proxy", bios, efi]);
    let capture = Capture::start(&wire);
    let _vms = [Vm::bios(&wire, BIOS), Vm::uefi(&wire, UEFI)];
    // They are told of files that nobody has; what comes before is enough.
    wait_for("both to ask for their file", || {
        let datagrams = capture.datagrams();
        let asked = |name: &str| {
            datagrams.iter().any(|d| d.to.port() == 69 && String::from_utf8_lossy(&d.payload).contains(name))
        };
        (asked("undionly.kpxe") && asked("snponly.efi")).then_some(())
    });
    capture.finish().into_iter().filter(|datagram| datagram.to.port() != 69).collect()
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
        let proxied = [from, to].iter().any(|end| end.port() == 4011);
        let name = match (from.port(), to.port()) {
            (67 | 68 | 4011, 67 | 68 | 4011) => self.dhcp(payload, proxied),
            (53, _) | (_, 53) => format!("dns-{}", dns_kind(payload)),
            _ => {
                let client = self.by_address.get(from.ip()).or_else(|| self.by_address.get(to.ip()));
                let client = client.map_or("client", |client| if *client == "udhcpc" { "busybox" } else { client });
                format!("tftp-{client}-{}", tftp_kind(payload)?)
            }
        };
        self.given.insert(name.clone()).then_some(name)
    }

    fn dhcp(&mut self, payload: &[u8], proxied: bool) -> String {
        let mac: Vec<_> = payload[28..34].iter().map(|octet| format!("{octet:02x}")).collect();
        let mac = mac.join(":");
        if let Some(client) = dhcp_client(payload, &mac) {
            self.by_mac.insert(mac.clone(), client);
        }
        let client = self.by_mac.get(&mac).copied().unwrap_or("bootpc");
        self.by_address.insert(address(payload, 16), client);
        let kind = dhcp_kind(payload);
        let kind = match (proxied, kind) {
            (true, "ack") => "proxy-ack",
            (true, _) => "proxy-request",
            // It gives no address.
            (false, "offer") if address(payload, 16).is_unspecified() => "proxy-offer",
            (false, _) => kind,
        };
        format!("dhcp-{client}-{kind}")
    }
}

/// Who sends this, if it is a request that tells.
fn dhcp_client(payload: &[u8], mac: &str) -> Option<&'static str> {
    let says = |text: &str| payload.windows(text.len()).any(|window| window == text.as_bytes());
    let relayed = !address(payload, 24).is_unspecified();
    let request = payload[0] == 1;
    let client = match mac {
        // The Linux that was loaded.
        _ if says("udhcp") => "udhcpc",
        BIOS => "ipxe-bios",
        UEFI | UEFI_HTTP if says("iPXE") => "ipxe-efi",
        UEFI => "ovmf-pxe",
        UEFI_HTTP => "ovmf-http",
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
