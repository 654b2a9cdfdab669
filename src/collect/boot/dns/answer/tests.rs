use std::sync::Arc;

use hickory_proto::op::Query;
use proptest::prelude::*;

use super::super::index::Index;
use super::super::names::Names;
use super::*;
use crate::collect::boot::machines::{Machine, Machines};
use crate::collect::boot::net::{self, Networks};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

struct Bench {
    index: Index,
    names: Names,
    networks: Networks,
}

impl Bench {
    /// web1 and, with its domain, web2 in 10.77.0.0/24 of example.com; a lease "laptop" there; nas behind a relay.
    fn new() -> Bench {
        let networks = net::testing::networks(
            "dhcp.domain = \"example.com\"\n[[network]]\nsubnet = \"10.9.0.0/16\"\ndomain = \"far.test\"",
        );
        let mut machines = Machines::default();
        for (hostname, ip) in [
            ("web1", [10, 77, 0, 10]),
            ("Web2.Example.com", [10, 77, 0, 11]),
            ("nas", [10, 9, 3, 4]),
            ("a.b", [10, 77, 0, 12]),
        ] {
            let machine = Machine { hostname: hostname.to_owned(), ip: Some(ip.into()), ..Machine::default() };
            machines.add(SERVER, machine);
        }
        let names = Names::default();
        names.lease([10, 77, 0, 100].into(), Some(b"Laptop"));
        names.lease([10, 77, 0, 101].into(), Some(b"web1"));
        Bench { index: Index::new(Arc::new(machines), &networks), names, networks }
    }

    fn zones(&self) -> Zones<'_> {
        Zones { index: &self.index, names: &self.names, networks: &self.networks, now_s: 0 }
    }

    fn reply(&self, packet: &[u8], asker: Asker) -> Reply {
        answer(packet, asker, self.zones())
    }

    /// The answer to a plain question by UDP.
    fn ask(&self, name: &str, kind: RecordType) -> Message {
        let Reply::Answer(answer) = self.reply(&query(name, kind).to_vec().unwrap(), asker()) else {
            panic!("no answer for {name} {kind}")
        };
        let message = Message::from_vec(&answer.bytes).unwrap();
        assert_eq!((message.metadata.id, message.metadata.message_type), (4711, MessageType::Response));
        assert!(message.queries[0].name.eq_case(&Name::from_ascii(name).unwrap()), "the question is as it was written");
        message
    }

    /// Code, records and SOA's zone in one line.
    fn line(&self, name: &str, kind: RecordType) -> String {
        let message = self.ask(name, kind);
        let answers: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
        let soa: Vec<_> = message.authorities.iter().map(|record| record.name.to_string()).collect();
        let authoritative = if message.metadata.authoritative { " aa" } else { "" };
        format!("{:?}{authoritative} {} {}", message.metadata.response_code, answers.join(","), soa.join(","))
            .trim_end()
            .to_owned()
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn asker() -> Asker {
    Asker { transport: Transport::Udp, server: Some(SERVER), refused: None, forwards: false }
}

#[test]
fn names_of_machines_and_leases_with_and_without_domain() {
    let bench = Bench::new();
    for (name, kind, wanted) in [
        ("web1.", RecordType::A, "NoError aa 10.77.0.10"),
        ("wEB1.eXample.COM.", RecordType::A, "NoError aa 10.77.0.10"),
        ("web2.", RecordType::A, "NoError aa 10.77.0.11"),
        ("web2.example.com.", RecordType::A, "NoError aa 10.77.0.11"),
        ("nas.far.test.", RecordType::A, "NoError aa 10.9.3.4"),
        ("laptop.example.com.", RecordType::A, "NoError aa 10.77.0.100"),
        ("laptop.", RecordType::A, "NoError aa 10.77.0.100"),
        ("web1.example.com.", RecordType::AAAA, "NoError aa  example.com."),
        ("web1.", RecordType::AAAA, "NoError aa"),
        ("web1.example.com.", RecordType::ANY, "NoError aa RFC8482"),
        ("10.0.77.10.in-addr.arpa.", RecordType::PTR, "NoError aa web1.example.com."),
        ("11.0.77.10.in-addr.arpa.", RecordType::PTR, "NoError aa web2.example.com."),
        ("100.0.77.10.IN-ADDR.arpa.", RecordType::PTR, "NoError aa laptop.example.com."),
        ("4.3.9.10.in-addr.arpa.", RecordType::PTR, "NoError aa nas.far.test."),
        ("4.3.9.10.in-addr.arpa.", RecordType::A, "NoError aa  9.10.in-addr.arpa."),
        ("nobody.example.com.", RecordType::A, "NXDomain aa  example.com."),
        ("laptop.far.test.", RecordType::A, "NXDomain aa  far.test."),
        ("99.0.77.10.in-addr.arpa.", RecordType::PTR, "NXDomain aa  0.77.10.in-addr.arpa."),
        ("3.9.10.in-addr.arpa.", RecordType::PTR, "NoError aa  9.10.in-addr.arpa."),
        ("b.", RecordType::A, "NoError aa"),
        ("example.com.", RecordType::A, "NoError aa  example.com."),
        ("example.com.", RecordType::NS, "NoError aa ns.example.com."),
        ("ns.example.com.", RecordType::A, "NoError aa 10.77.0.1"),
        ("nobody.", RecordType::A, "Refused"),
        ("www.example.org.", RecordType::A, "Refused"),
        ("notexample.com.", RecordType::A, "Refused"),
        ("1.1.168.192.in-addr.arpa.", RecordType::PTR, "Refused"),
        ("77.10.in-addr.arpa.", RecordType::SOA, "Refused"),
        (".", RecordType::NS, "Refused"),
        ("example.com.", RecordType::AXFR, "Refused"),
    ] {
        let got = bench.line(name, kind);
        let matches = got == wanted || (kind == RecordType::ANY && got.starts_with(wanted));
        assert!(matches, "{name} {kind}: {got:?}, not {wanted:?}");
    }
    let soa = bench.ask("0.77.10.in-addr.arpa.", RecordType::SOA).answers[0].data.to_string();
    assert_eq!(soa, "ns.example.com. hostmaster.0.77.10.in-addr.arpa. 0 3600 600 86400 60");
}

#[test]
fn with_servers_to_ask_only_what_is_known_is_answered_here() {
    let bench = Bench::new();
    let reply =
        |name: &str, kind| bench.reply(&query(name, kind).to_vec().unwrap(), Asker { forwards: true, ..asker() });
    for (name, kind) in [
        ("nobody.example.com.", RecordType::A),
        ("www.example.org.", RecordType::A),
        ("example.com.", RecordType::SOA),
        ("ns.example.com.", RecordType::A),
        ("99.0.77.10.in-addr.arpa.", RecordType::PTR),
    ] {
        assert!(matches!(reply(name, kind), Reply::Forward(_)), "{name}");
    }
    let known = [("web1.", RecordType::A), ("web1.example.com.", RecordType::AAAA), ("example.com.", RecordType::AXFR)];
    for (name, kind) in known {
        assert!(matches!(reply(name, kind), Reply::Answer(_)), "{name}");
    }
}

#[test]
fn whom_the_policy_refuses_gets_nothing_not_even_names() {
    let bench = Bench::new();
    let refused = Asker { refused: Some("boot is off"), forwards: true, ..asker() };
    for name in ["web1.", "www.example.org."] {
        let Reply::Answer(answer) = bench.reply(&query(name, RecordType::A).to_vec().unwrap(), refused) else {
            panic!("an answer")
        };
        assert_eq!((answer.rcode, answer.why), (ResponseCode::Refused, Some("boot is off")));
        assert!(answer.answers.is_empty());
    }
}

#[test]
fn what_is_no_query_is_refused_as_the_rfcs_say() {
    let bench = Bench::new();
    let good = query("web1.", RecordType::A).to_vec().unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        match bench.reply(&packet, asker()) {
            Reply::None(silent) => format!("{silent:?}"),
            Reply::Answer(answer) => {
                let message = Message::from_vec(&answer.bytes).unwrap();
                assert_eq!(message.metadata.id, 4711);
                format!("{:?}", message.metadata.response_code)
            }
            Reply::Forward(_) => "forward".to_owned(),
        }
    };
    assert_eq!(with(&|_| {}), "NoError");
    assert_eq!(with(&|packet| packet.truncate(11)), "Short");
    assert_eq!(with(&|packet| packet[2] |= 0x80), "Response");
    for opcode in [1, 2, 4, 5, 6, 15] {
        assert_eq!(with(&|packet| packet[2] |= opcode << 3), "NotImp", "{opcode}");
    }
    for count in [[0, 0], [0, 2], [0xff, 0xff]] {
        assert_eq!(with(&|packet| packet[4..6].copy_from_slice(&count)), "FormErr", "{count:?}");
    }
    assert_eq!(with(&|packet| packet.truncate(15)), "FormErr");
    // A name that points at itself, and records that are not there.
    assert_eq!(with(&|packet| packet.splice(12..18, [0xc0, 12]).for_each(drop)), "FormErr");
    assert_eq!(with(&|packet| packet[6..8].copy_from_slice(&[0xff, 0xff])), "FormErr");
    assert_eq!(with(&|packet| *packet.last_mut().unwrap() = 3), "Refused", "class CHAOS");
}

#[test]
fn edns_is_answered_with_edns_and_its_size_counts() {
    let bench = Bench::new();
    let with = |bytes_max: u16, version: u8| {
        let mut message = query("web1.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(bytes_max).set_version(version).set_dnssec_ok(true);
        message.set_edns(edns);
        let Reply::Answer(answer) = bench.reply(&message.to_vec().unwrap(), asker()) else { panic!("an answer") };
        (Message::from_vec(&answer.bytes).unwrap(), message)
    };
    let (message, _) = with(4096, 0);
    let edns = message.edns.as_ref().unwrap();
    assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (UDP_BYTES_MAX, true));
    // BADVERS and BADSIG are both 16.
    assert_eq!(u16::from(with(4096, 1).0.metadata.response_code), 16);
    assert!(bench.ask("web1.", RecordType::A).edns.is_none());
    assert_eq!(Transport::Udp.bytes_max(&with(0, 0).1), 512);
    assert_eq!(Transport::Udp.bytes_max(&with(800, 0).1), 800);
    assert_eq!(Transport::Udp.bytes_max(&with(u16::MAX, 0).1), 1232);
}

#[test]
fn what_does_not_fit_is_cut_and_whole_by_tcp() {
    let mut machines = Machines::default();
    for last in 1..=100 {
        let ip = Some(Ipv4Addr::new(10, 77, 0, last));
        machines.add(SERVER, Machine { hostname: "many".to_owned(), ip, ..Machine::default() });
    }
    let networks = net::testing::networks("");
    let bench = Bench { index: Index::new(Arc::new(machines), &networks), names: Names::default(), networks };
    let by = |transport| {
        let packet = query("many.", RecordType::A).to_vec().unwrap();
        let Reply::Answer(answer) = bench.reply(&packet, Asker { transport, ..asker() }) else { panic!("an answer") };
        (answer.bytes.len(), Message::from_vec(&answer.bytes).unwrap())
    };
    let (length, message) = by(Transport::Udp);
    assert!(length <= 512 && message.metadata.truncation && message.answers.is_empty());
    let (_, message) = by(Transport::Tcp);
    assert!(!message.metadata.truncation && message.answers.len() == 100);
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer_within_the_limit_or_none(
        header in any::<[u8; 4]>(),
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        tame in any::<bool>(),
    ) {
        let mut packet = [&header[..], &rest].concat();
        if tame && packet.len() > 12 {
            packet[2] &= 1;
            packet[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        }
        let response = packet.get(2).is_some_and(|flags| flags & 0x80 != 0);
        if let Reply::Answer(answer) = Bench::new().reply(&packet, asker()) {
            prop_assert!(!response && packet.len() >= HEADER_BYTES);
            prop_assert!(answer.bytes.len() <= 512 && answer.bytes[..2] == packet[..2] && answer.bytes[2] & 0x80 != 0);
        }
    }
}

proptest! {
    /// As the fuzz target does it: queries of its seeds, cut and changed in a few places.
    #[test]
    fn a_damaged_query_gets_an_answer_that_can_be_read_or_none(
        seed in any::<proptest::sample::Index>(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/dns");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let mut packet = std::fs::read(seed.get(&files)).unwrap();
        for (at, byte) in flips {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if let Some(cut) = cut {
            packet.truncate(cut.index(packet.len()));
        }
        for over_tcp in [false, true] {
            let Some(answer) = super::super::fuzz(&packet, over_tcp) else { continue };
            prop_assert!(packet.len() >= HEADER_BYTES && packet[2] & 0x80 == 0);
            let message = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(message.metadata.message_type, MessageType::Response);
            prop_assert!(answer[..2] == packet[..2] && (over_tcp || answer.len() <= usize::from(UDP_BYTES_MAX)));
        }
    }
}
