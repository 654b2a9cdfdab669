//! RFC 2131's states: which message gets what, in order.

use std::net::Ipv4Addr;

use dhcproto::v4::DhcpOption;
use jiff::Timestamp;

use super::clock::Moment;
use super::leases::{Change, Lease};
use super::testing::*;
use super::wire::testing::Packet;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::{Boot, Machine, Machines};
use crate::collect::boot::sessions::testing::problem_of_one;

const US: [u8; 4] = [10, 77, 0, 1];
const OTHER: [u8; 4] = [10, 77, 0, 2];

fn discover(mac: Mac) -> Packet {
    Packet::of(mac, 1)
}

fn selecting(mac: Mac, server: [u8; 4], ip: [u8; 4]) -> Packet {
    Packet::of(mac, 3).ip(54, server).ip(50, ip)
}

fn reboot(mac: Mac, ip: [u8; 4]) -> Packet {
    Packet::of(mac, 3).ip(50, ip)
}

fn renew(mac: Mac, ip: [u8; 4]) -> Packet {
    Packet::of(mac, 3).ciaddr(ip)
}

fn pool(n: u8) -> [u8; 4] {
    [10, 77, 0, 100 + n]
}

const STATIC: [u8; 4] = [10, 77, 0, 9];

/// Steps after each other with one server: seconds that pass, what is sent, what comes of it.
fn run(steps: Vec<(i64, Packet, &str)>) -> Rig {
    let mut rig = Rig::serving();
    for (n, (seconds, packet, wanted)) in steps.into_iter().enumerate() {
        rig.now_s += seconds;
        assert_eq!(rig.say(packet.clone()), wanted, "step {n}: {packet:?}");
    }
    rig
}

#[test]
fn an_unknown_machine_in_each_state() {
    let a = mac(1);
    run(vec![
        (0, discover(a), "offer 10.77.0.100 link"),
        (0, discover(a).at(10, &[0x80, 0]), "offer 10.77.0.100 broadcast"),
        (0, selecting(a, US, pool(0)), "ack 10.77.0.100 link"),
        (1800, renew(a, pool(0)), "ack 10.77.0.100 client 10.77.0.100"),
        (0, reboot(a, pool(0)), "ack 10.77.0.100 link"),
        (0, reboot(a, pool(1)), "ack 10.77.0.101 link"),
        (0, reboot(a, [10, 77, 0, 50]), "nak 0.0.0.0 broadcast"),
        (0, reboot(a, [192, 168, 1, 5]), "nak 0.0.0.0 broadcast"),
        (0, renew(a, [192, 168, 1, 5]), "nak 0.0.0.0 broadcast"),
        (0, selecting(a, OTHER, pool(0)), "none: for another server"),
        (0, Packet::of(a, 3), "none: no address named"),
        (0, Packet::of(a, 7).ciaddr(pool(0)).ip(54, US), "none: released"),
        (0, Packet::of(a, 7).ciaddr(pool(0)).ip(54, US), "none: nothing to give back"),
        (0, Packet::of(a, 4).ip(50, pool(3)).ip(54, US), "none: nothing to give back"),
        (0, Packet::of(a, 8).ciaddr(pool(0)), "ack 0.0.0.0 client 10.77.0.100"),
        (0, Packet::of(a, 8), "none: no address named"),
        (0, Packet::of(a, 5), "none: a server's message"),
        (0, Packet::of(a, 0), "none: bootp of an unknown machine"),
    ]);
}

#[test]
fn a_known_machine_in_each_state() {
    run(vec![
        (0, discover(KNOWN).ip(50, pool(0)), "offer 10.77.0.9 link"),
        (0, selecting(KNOWN, US, pool(0)), "nak 0.0.0.0 broadcast"),
        (0, selecting(KNOWN, US, STATIC), "ack 10.77.0.9 link"),
        (0, discover(KNOWN_TOO).option(61, b"\xffsystem"), "offer 10.77.0.9 link"),
        (0, renew(KNOWN_TOO, STATIC), "ack 10.77.0.9 client 10.77.0.9"),
        (0, reboot(mac(1), STATIC), "nak 0.0.0.0 broadcast"),
        (0, discover(mac(1)).ip(50, STATIC), "offer 10.77.0.100 link"),
        (0, Packet::of(KNOWN, 0), "reply 10.77.0.9 link"),
        (0, Packet::of(KNOWN, 4).ip(50, STATIC).ip(54, US), "none: declined"),
        (599, discover(KNOWN), "none: somebody uses the address"),
        (2, discover(KNOWN), "offer 10.77.0.9 link"),
        (0, discover(KNOWN).giaddr([10, 9, 0, 1]), "none: relay not trusted"),
    ]);
}

#[test]
fn addresses_end_and_the_oldest_is_used_again() {
    let others = "none: pool exhausted";
    run(vec![
        (0, discover(mac(1)), "offer 10.77.0.100 link"),
        (0, selecting(mac(1), US, pool(0)), "ack 10.77.0.100 link"),
        (0, discover(mac(2)), "offer 10.77.0.101 link"),
        (0, discover(mac(3)), "offer 10.77.0.102 link"),
        (0, discover(mac(4)).ip(50, pool(3)), "offer 10.77.0.103 link"),
        (59, discover(mac(5)), others),
        // Offers end after a minute; who asked gets the same again.
        (1, discover(mac(3)), "offer 10.77.0.102 link"),
        (0, discover(mac(5)), "offer 10.77.0.101 link"),
        (0, selecting(mac(2), US, pool(1)), "nak 0.0.0.0 broadcast"),
        (0, selecting(mac(5), OTHER, pool(1)), "none: for another server"),
        (0, selecting(mac(2), US, pool(1)), "ack 10.77.0.101 link"),
        // The lease of .100 has ended, and its client was not there.
        (3600, discover(mac(6)), "offer 10.77.0.103 link"),
        (0, discover(mac(1)), "offer 10.77.0.100 link"),
    ]);
}

#[test]
fn setting_the_wall_clock_neither_ends_nor_prolongs_a_lease_and_events_have_its_time() {
    let config = CONFIG.replace("10.77.0.103", "10.77.0.100");
    for wall_ahead_s in [400 * 86_400, -400 * 86_400] {
        let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
        assert_eq!(rig.say(discover(mac(1))), "offer 10.77.0.100 link");
        assert_eq!(rig.say(selecting(mac(1), US, pool(0))), "ack 10.77.0.100 link");
        rig.wall_ahead_s = wall_ahead_s;
        rig.now_s += 3600;
        let outcome = rig.send(discover(mac(2)));
        assert_eq!(said(&outcome), "none: pool exhausted");
        assert_eq!(rig.server.sessions.mac_of(pool(0).into()), Some(mac(1)));
        let event: serde_json::Value = serde_json::from_slice(&outcome.record.unwrap().end()).unwrap();
        let at: Timestamp = event["ts"].as_str().unwrap().parse().unwrap();
        assert_eq!(at.as_second(), START_S + 3600 + wall_ahead_s);
        rig.now_s += 1;
        assert_eq!(rig.say(discover(mac(2))), "offer 10.77.0.100 link");
    }
}

#[test]
fn one_boot_has_one_address_however_often_its_identifier_changes() {
    let a = mac(1);
    let pxe = |packet: Packet| packet.option(60, b"PXEClient:Arch:00007").option(61, b"\x00firmware-uuid-xx");
    let ipxe = |packet: Packet| packet.option(77, b"iPXE").option(61, &[&[1], &a.0[..]].concat());
    let initrd = |packet: Packet| packet.option(61, b"\xffinitrd");
    let system = |packet: Packet| packet.option(61, b"\xffsystem");
    run(vec![
        (0, pxe(discover(a)), "offer 10.77.0.100 link"),
        (0, pxe(selecting(a, US, pool(0))), "ack 10.77.0.100 link"),
        (9, ipxe(discover(a)), "offer 10.77.0.100 link"),
        (0, ipxe(selecting(a, US, pool(0))), "ack 10.77.0.100 link"),
        (9, initrd(discover(a)), "offer 10.77.0.100 link"),
        (0, initrd(selecting(a, US, pool(0))), "ack 10.77.0.100 link"),
        // Two systems on one card at a time are two clients.
        (0, system(discover(a)), "offer 10.77.0.101 link"),
        (0, system(reboot(a, pool(0))), "nak 0.0.0.0 broadcast"),
        (0, pxe(discover(a)), "offer 10.77.0.100 link"),
    ]);
}

#[test]
fn a_card_with_many_identifiers_does_not_get_the_whole_pool() {
    let config = CONFIG.replace("10.77.0.103", "10.77.0.199");
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    let said: Vec<_> = (0..40_u8).map(|n| rig.say(discover(mac(1)).option(61, &[0xff, n]))).collect();
    assert_eq!(said.iter().filter(|said| said.starts_with("offer")).count(), 16);
    assert_eq!(said[39], "none: the card has too many addresses");
    assert_eq!(rig.server.levels().offered, 16);
}

#[test]
fn a_card_that_declines_whatever_it_gets_does_not_take_the_pool_away() {
    let config = CONFIG.replace("10.77.0.103", "10.77.0.199");
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    let mut round = |card: Mac| {
        let offer = rig.send(discover(card));
        let ip = decoded(&offer).yiaddr().octets();
        let said = rig.say(Packet::of(card, 4).ip(50, ip).ip(54, US));
        let outcome = rig.server.levels();
        (ip, said, outcome.quarantined)
    };
    let first: Vec<_> = (0..4).map(|_| round(mac(1)).1).collect();
    assert_eq!(first, ["none: declined"; 4]);
    let beyond: Vec<_> = (0..10).map(|_| round(mac(1))).collect();
    assert!(beyond.iter().all(|(_, said, n)| said == "none: the card declines too many addresses" && *n == 4));
    let different: std::collections::HashSet<_> = beyond.iter().map(|(ip, ..)| *ip).collect();
    assert_eq!(different.len(), 10, "it may be right, so it gets another each time");
    assert_eq!(round(mac(2)).1, "none: declined", "another card is believed");
    rig.now_s += 600;
    rig.say(discover(mac(3)));
    assert_eq!((rig.server.levels().quarantined, rig.server.levels().free), (0, 101));
    let ip = decoded(&rig.send(discover(mac(1)))).yiaddr().octets();
    assert_eq!(rig.say(Packet::of(mac(1), 4).ip(50, ip).ip(54, US)), "none: declined");
}

#[test]
fn a_relay_is_told_and_only_one_that_is_one() {
    let mut rig = Rig::serving();
    let relay = Ipv4Addr::new(10, 9, 0, 1);
    let packet = || discover(mac(1)).giaddr([10, 9, 0, 1]).option(82, &[1, 2, b'e', b'1']);
    let outcome = rig.send_from(packet(), relay, 67, 67);
    assert_eq!(said(&outcome), "offer 10.9.0.100 relay 10.9.0.1");
    assert_eq!(outcome.probe, None, "nobody hears ARP through a relay");
    let answer = &outcome.answer.as_ref().unwrap().bytes;
    assert_eq!(codes(answer).last(), Some(&82));
    assert!(answer.windows(6).any(|bytes| bytes == [82, 4, 1, 2, b'e', b'1']));
    // Its other address, in the server's network.
    let to_us = Ipv4Addr::new(10, 77, 0, 2);
    assert_eq!(said(&rig.send_from(packet(), to_us, 67, 67)), "offer 10.9.0.100 relay 10.9.0.1");
    // RFC 3527.
    let linked = discover(mac(2)).giaddr([10, 77, 0, 2]).option(82, &[5, 4, 10, 9, 0, 0]);
    assert_eq!(said(&rig.send_from(linked, to_us, 67, 67)), "offer 10.9.0.101 relay 10.77.0.2");
    let nak = reboot(mac(3), pool(0)).giaddr([10, 9, 0, 1]);
    let outcome = rig.send_from(nak, relay, 67, 67);
    assert_eq!(said(&outcome), "nak 0.0.0.0 relay 10.9.0.1");
    assert!(decoded(&outcome).flags().broadcast(), "RFC 2131 section 4.3.2");
    // A renewal comes through a router, without the relay.
    let ip = Ipv4Addr::new(10, 9, 0, 100);
    assert_eq!(said(&rig.send_from(renew(mac(1), ip.octets()), ip, 68, 67)), "ack 10.9.0.100 client 10.9.0.100");
    for (giaddr, source, port) in [
        ([10, 9, 0, 1], relay, 68),
        ([10, 9, 0, 1], Ipv4Addr::new(8, 8, 8, 8), 67),
        ([8, 8, 8, 8], relay, 67),
        (US, relay, 67),
    ] {
        let outcome = rig.send_from(discover(mac(9)).giaddr(giaddr), source, port, 67);
        assert_eq!(said(&outcome), "none: relay not trusted", "{giaddr:?} {source}:{port}");
    }
    let hops = packet().at(3, &[17]);
    assert_eq!(said(&rig.send_from(hops, relay, 67, 67)), "none: relay not trusted");
}

#[test]
fn nobody_far_away_takes_an_address() {
    let far = Ipv4Addr::new(198, 51, 100, 7);
    let outside = "none: no network of ours";
    let mut rig = Rig::serving();
    for (packet, source, wanted) in [
        (discover(mac(1)), far, outside),
        (discover(mac(1)).ciaddr(far.octets()), far, outside),
        (selecting(mac(1), US, pool(0)), far, outside),
        (reboot(mac(1), pool(0)), far, outside),
        (renew(mac(1), pool(0)), far, outside),
        (Packet::of(mac(1), 8).ciaddr(pool(0)), far, outside),
        (Packet::of(KNOWN, 0), far, outside),
        // It may have been moved here with the address that it had.
        (renew(mac(1), far.octets()), far, "nak 0.0.0.0 broadcast"),
        (discover(mac(1)), Ipv4Addr::new(169, 254, 7, 7), "offer 10.77.0.100 link"),
        (discover(mac(1)), pool(0).into(), "offer 10.77.0.100 link"),
    ] {
        assert_eq!(said(&rig.send_from(packet.clone(), source, 68, 67)), wanted, "{source} {packet:?}");
    }
    assert_eq!(rig.server.levels().leased, 0);
}

#[test]
fn a_question_to_the_port_of_clients_is_not_for_us() {
    for mode in ["serve", "proxy"] {
        let mut rig = Rig::new(&format!("mode = \"{mode}\"\n{CONFIG}"), machines(), Vec::new(), START_S);
        let pxe = discover(mac(1)).option(60, b"PXEClient").option(93, &[0, 0]);
        let outcome = rig.send_from(pxe, Ipv4Addr::UNSPECIFIED, 68, 68);
        assert_eq!(said(&outcome), "none: for another server", "{mode}");
    }
}

#[test]
fn an_old_lease_says_nothing_of_who_has_an_address_now() {
    let leased = |n: u8, until_s| {
        let (ip, mac, id) = (pool(n).into(), mac(n), Box::default());
        Change::Leased(Lease { ip, mac, id, booting: false, until_s })
    };
    let leases = vec![leased(0, START_S), leased(1, START_S + 1)];
    let rig = Rig::new(CONFIG, machines(), leases, START_S);
    let known = [0, 1].map(|n| rig.server.sessions.mac_of(pool(n).into()));
    assert_eq!(known, [None, Some(mac(1))]);
}

#[test]
fn who_gives_an_address_back_or_lets_it_end_has_it_no_more() {
    let ip = pool(0);
    for (packet, seconds) in [
        (Packet::of(mac(1), 7).ciaddr(ip).ip(54, US), 0),
        (Packet::of(mac(1), 4).ip(50, ip).ip(54, US), 0),
        (discover(mac(2)), 3601),
    ] {
        let mut rig = Rig::serving();
        assert_eq!(rig.say(reboot(mac(1), ip)), "ack 10.77.0.100 link");
        rig.say(selecting(KNOWN, US, STATIC));
        assert_eq!(rig.server.sessions.mac_of(ip.into()), Some(mac(1)));
        rig.now_s += seconds - i64::from(seconds > 0);
        let at = rig.at();
        rig.server.tick(at);
        assert_eq!(rig.server.sessions.mac_of(ip.into()), Some(mac(1)), "not before");
        rig.now_s += i64::from(seconds > 0);
        rig.say(packet.clone());
        assert_eq!(rig.server.sessions.mac_of(ip.into()), None, "{packet:?}");
        let others = (seconds == 0).then_some(KNOWN);
        assert_eq!(rig.server.sessions.mac_of(STATIC.into()), others, "{packet:?}");
    }
    // An offer that nobody took says nothing of who has an address that was set by hand.
    let mut rig = Rig::serving();
    rig.say(discover(mac(1)));
    rig.server.sessions.address(mac(7), ip.into());
    rig.now_s += 61;
    rig.say(discover(mac(2)));
    assert_eq!(rig.server.sessions.mac_of(ip.into()), Some(mac(7)));
}

#[test]
fn whoever_may_not_boot_gets_nothing_of_any_kind() {
    let mut machines = Machines::default();
    machines.add(SERVER, Machine { boot: Boot::Off, ..machine(9, "off", vec![KNOWN]) });
    let mut rig = Rig::new(CONFIG, machines, Vec::new(), START_S);
    for (card, wanted) in [(KNOWN, "none: boot is off"), (mac(1), "none: unknown machine")] {
        for packet in [discover(card), reboot(card, STATIC), renew(card, pool(0)), Packet::of(card, 8).ciaddr(STATIC)] {
            assert_eq!(rig.say(packet.clone()), wanted, "{packet:?}");
        }
        assert_eq!(rig.say(Packet::of(card, 0)), wanted);
    }
}

#[test]
fn it_is_said_why_a_machine_does_not_start() {
    for (packet, wanted) in [
        (discover(KNOWN).option(60, b"PXEClient"), Some("boot is off")),
        (discover(mac(1)).option(60, b"PXEClient"), Some("unknown machine")),
        (discover(mac(1)), None),
    ] {
        let mut machines = Machines::default();
        machines.add(SERVER, Machine { boot: Boot::Off, ..machine(9, "off", vec![KNOWN]) });
        let mut rig = Rig::new(CONFIG, machines, Vec::new(), START_S);
        rig.send(packet);
        assert_eq!(problem_of_one(&rig.server.sessions).as_deref(), wanted);
    }
}

#[test]
fn files_that_change_take_effect_and_leases_are_respected() {
    let mut rig = Rig::serving();
    assert_eq!(rig.say(discover(mac(1))), "offer 10.77.0.100 link");
    assert_eq!(rig.say(selecting(mac(1), US, pool(0))), "ack 10.77.0.100 link");
    // .100 becomes a machine's that is not mac(1), and mac(3) gets a file of its own.
    let mut files = machines();
    files.add(SERVER, machine(100, "late", vec![mac(2)]));
    files.add(SERVER, machine(30, "own", vec![mac(3)]));
    rig.server.replace_machines(files);
    assert_eq!(rig.say(discover(mac(2))), "none: another has the address");
    assert_eq!(rig.say(renew(mac(1), pool(0))), "nak 0.0.0.0 broadcast");
    assert_eq!(rig.say(discover(mac(2))), "none: another has the address", "the NAK may be lost");
    assert_eq!(rig.say(discover(mac(1))), "offer 10.77.0.101 link");
    assert_eq!(rig.say(discover(mac(3))), "offer 10.77.0.30 link");
    rig.now_s += 3601;
    assert_eq!(rig.say(discover(mac(2))), "offer 10.77.0.100 link");
    // And it is the pool's again when the file goes.
    rig.server.replace_machines(machines());
    rig.now_s += 100;
    let offers: Vec<_> = (10..14).map(|n| rig.say(discover(mac(n)))).collect();
    assert!(offers.iter().any(|offer| offer == "offer 10.77.0.100 link"), "{offers:?}");
}

#[test]
fn an_answer_to_arp_before_the_request_takes_the_address_away() {
    let mut rig = Rig::serving();
    let outcome = rig.send(discover(mac(1)));
    let ip = Ipv4Addr::from(pool(0));
    assert_eq!(outcome.probe, Some(ip));
    let at = rig.at();
    assert!(rig.server.conflict(ip, mac(1), at).is_none(), "it is there already");
    let conflict = rig.server.conflict(ip, mac(77), at).unwrap();
    assert_eq!(conflict.lease, Some(Change::Quarantined(ip, START_S + 600)));
    assert_eq!(rig.say(selecting(mac(1), US, pool(0))), "nak 0.0.0.0 broadcast");
    assert_eq!(rig.say(discover(mac(1))), "offer 10.77.0.101 link");
    assert!(rig.server.conflict(ip, mac(78), at).is_none(), "nobody has it");
    assert_eq!(rig.say(selecting(mac(1), US, pool(1))), "ack 10.77.0.101 link");
    let late = rig.server.conflict(pool(1).into(), mac(77), at).unwrap();
    assert_eq!(late.lease, None, "what was acknowledged stays");
    assert_eq!(rig.say(renew(mac(1), pool(1))), "ack 10.77.0.101 client 10.77.0.101");
    assert_eq!(rig.server.levels().quarantined, 1);
    rig.now_s += 601;
    let at = rig.at();
    rig.server.tick(at);
    assert_eq!((rig.server.levels().quarantined, rig.server.levels().free), (0, 5));
}

#[test]
fn beside_another_server_only_boot_questions_are_answered() {
    let config = format!("mode = \"proxy\"\n{CONFIG}");
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    let pxe = |packet: Packet| packet.option(60, b"PXEClient").option(93, &[0, 0]).option(97, &[0; 17]);
    let outcome = rig.send(pxe(discover(mac(1))));
    assert_eq!(said(&outcome), "offer 0.0.0.0 broadcast");
    assert_eq!(codes(&outcome.answer.as_ref().unwrap().bytes), [53, 54, 60, 97, 43]);
    let answer = decoded(&outcome);
    assert_eq!((answer.siaddr(), answer.fname()), (SERVER, Some(b"undionly.kpxe\0".as_slice())));
    let outcome = rig.send(pxe(discover(mac(1))).option(77, b"iPXE"));
    assert_eq!(said(&outcome), "offer 0.0.0.0 broadcast");
    let class = DhcpOption::ClassIdentifier(b"PXEClient".to_vec());
    assert_eq!(option(&outcome, 60), Some(class), "iPXE knows a proxy by it");
    assert_eq!(rig.say(discover(mac(1))), "none: left to the other server");
    assert_eq!(rig.say(pxe(selecting(mac(1), OTHER, [10, 77, 0, 50]))), "none: left to the other server");
    assert_eq!(rig.server.sessions.mac_of([10, 77, 0, 50].into()), Some(mac(1)), "seen on the wire");
    let outcome = rig.send_from(pxe(discover(mac(1)).giaddr([10, 9, 0, 1])), [10, 9, 0, 1].into(), 67, 67);
    assert_eq!(said(&outcome), "offer 0.0.0.0 relay 10.9.0.1");
    assert!(decoded(&outcome).flags().broadcast(), "the relay has no address to send it to");
    let asks = |packet| pxe(packet).ciaddr([10, 77, 0, 50]);
    let from = Ipv4Addr::new(10, 77, 0, 50);
    let outcome = rig.send_from(asks(Packet::of(mac(1), 3)), from, 68, 4011);
    assert_eq!(said(&outcome), "ack 0.0.0.0 sender 10.77.0.50:68");
    assert_eq!(decoded(&outcome).fname(), Some(b"undionly.kpxe\0".as_slice()));
    for (packet, from, wanted) in [
        (asks(Packet::of(mac(1), 3)).ip(54, OTHER), from, "none: for another server"),
        (asks(Packet::of(mac(1), 3)), Ipv4Addr::new(8, 8, 8, 8), "none: no network of ours"),
        (asks(Packet::of(mac(1), 3)), Ipv4Addr::UNSPECIFIED, "none: no address named"),
        (asks(Packet::of(mac(1), 1)), from, "none: left to the other server"),
        (Packet::of(mac(1), 3), from, "none: left to the other server"),
    ] {
        assert_eq!(said(&rig.send_from(packet, from, 68, 4011)), wanted);
    }
    let local = Machine { kernel: None, ..machine(9, "n9", vec![KNOWN]) };
    let mut files = machines();
    files.add(SERVER, local);
    rig.server.replace_machines(files);
    assert_eq!(rig.say(pxe(discover(KNOWN))), "none: boots from its own disk");
}

#[test]
fn listening_never_answers_and_learns() {
    let config = format!("mode = \"listen\"\n{CONFIG}");
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    for packet in [discover(KNOWN), discover(mac(1)), reboot(mac(1), pool(0)), Packet::of(KNOWN, 0)] {
        let outcome = rig.send(packet);
        assert_eq!(said(&outcome), "none: listening only");
        assert!(outcome.lease.is_none() && outcome.probe.is_none());
    }
    let ack = Packet::of(mac(2), 5).at(0, &[2]).at(16, &[10, 77, 0, 60]).ip(54, OTHER);
    assert_eq!(said(&rig.send(ack)), "none: another server");
    assert_eq!(rig.server.sessions.mac_of([10, 77, 0, 60].into()), Some(mac(2)));
    // What a client wishes for is not its, nor what it only says that it uses.
    let ip = Ipv4Addr::new(10, 77, 0, 60);
    rig.send(reboot(mac(4), ip.octets()));
    rig.send(renew(mac(4), ip.octets()));
    rig.send_from(renew(mac(4), ip.octets()), [10, 77, 0, 62].into(), 68, 67);
    assert_eq!(rig.server.sessions.mac_of(ip), Some(mac(2)));
    rig.send_from(renew(mac(4), ip.octets()), ip, 68, 67);
    assert_eq!(rig.server.sessions.mac_of(ip), Some(mac(4)));
    rig.send(selecting(mac(5), OTHER, ip.octets()));
    assert_eq!(rig.server.sessions.mac_of(ip), Some(mac(5)));
    // Another server on this machine.
    let ack = Packet::of(mac(3), 5).at(0, &[2]).at(16, &[10, 77, 0, 61]).ip(54, US);
    assert_eq!(said(&rig.send(ack)), "none: another server");
    assert_eq!(rig.server.sessions.mac_of([10, 77, 0, 61].into()), Some(mac(3)));
}

#[test]
fn foreign_servers_are_noticed_where_we_are_the_server() {
    let mut rig = Rig::serving();
    let offer = |server| Packet::of(mac(2), 2).at(0, &[2]).at(16, &[10, 77, 0, 60]).ip(54, server);
    let outcome = rig.send_from(offer(OTHER), OTHER.into(), 67, 68);
    assert_eq!((said(&outcome).as_str(), outcome.counted.foreign), ("none: another server", Some(OTHER.into())));
    let outcome = rig.send_from(offer(OTHER), OTHER.into(), 67, 67);
    assert_eq!((said(&outcome).as_str(), outcome.counted.foreign), ("none: another server", None), "not to clients");
    let outcome = rig.send_from(offer(US), SERVER, 67, 68);
    assert_eq!((said(&outcome).as_str(), outcome.counted.foreign), ("none: our own answer", None));
    let outcome = rig.send(selecting(mac(2), OTHER, [10, 77, 0, 60]));
    assert_eq!(outcome.counted.foreign, Some(OTHER.into()));
    rig.server.replace_machines(Machines::default());
    let outcome = rig.send(selecting(mac(2), OTHER, [10, 77, 0, 60]));
    assert_eq!((said(&outcome).as_str(), outcome.counted.foreign), ("none: unknown machine", Some(OTHER.into())));
}

#[test]
fn options_come_in_the_order_in_which_they_are_asked_for() {
    let mut rig = Rig::serving();
    let asked = discover(KNOWN).option(55, &[59, 15, 12, 1, 3, 6, 58, 12, 121, 28]).option(61, b"\xffabc");
    let outcome = rig.send(asked);
    assert_eq!(codes(&outcome.answer.as_ref().unwrap().bytes), [53, 54, 51, 1, 59, 15, 12, 3, 6, 58, 28, 61]);
    assert_eq!(option(&outcome, 12), Some(DhcpOption::Hostname("n9".into())));
    assert_eq!(option(&outcome, 15), Some(DhcpOption::DomainName("example".into())));
    assert_eq!(option(&outcome, 3), Some(DhcpOption::Router(vec![Ipv4Addr::new(10, 77, 0, 254)])));
    assert_eq!(option(&outcome, 6), Some(DhcpOption::DomainNameServer(vec![SERVER])));
    assert_eq!(option(&outcome, 58), Some(DhcpOption::Renewal(1800)));
    assert_eq!(option(&outcome, 59), Some(DhcpOption::Rebinding(3150)));
    let nothing = rig.send(discover(mac(1)));
    assert_eq!(codes(&nothing.answer.as_ref().unwrap().bytes), [53, 54, 51, 1, 3, 6, 15, 28]);
    for (asked, given) in [(1_u32, 60), (600, 600), (u32::MAX, 3600)] {
        let outcome = rig.send(discover(mac(1)).option(51, &asked.to_be_bytes()));
        assert_eq!(option(&outcome, 51), Some(DhcpOption::AddressLeaseTime(given)));
    }
    let nak = rig.send(reboot(mac(1), STATIC).option(55, &[1, 3, 6, 67]));
    assert_eq!(codes(&nak.answer.as_ref().unwrap().bytes), [53, 54, 56]);
}

#[test]
fn each_loader_is_told_as_it_reads_it() {
    let mut rig = Rig::serving();
    let list: Vec<u8> = vec![1, 3, 43, 60, 66, 67, 97];
    let pxe = discover(mac(1)).option(60, b"PXEClient").option(93, &[0, 7]).option(97, &[0; 17]).option(55, &list);
    let outcome = rig.send(pxe);
    assert_eq!(codes(&outcome.answer.as_ref().unwrap().bytes), [53, 54, 51, 60, 97, 43, 1, 3, 66, 67]);
    assert_eq!(option(&outcome, 67), Some(DhcpOption::BootfileName(b"snponly.efi\0".to_vec())));
    assert_eq!(option(&outcome, 66), Some(DhcpOption::TFTPServerName(b"10.77.0.1".to_vec())));
    assert_eq!(option(&outcome, 43), Some(DhcpOption::VendorExtensions(vec![6, 1, 8, 255])));
    assert_eq!(decoded(&outcome).siaddr(), SERVER);
    let http = rig.send(discover(mac(1)).option(60, b"HTTPClient:Arch:00016").option(93, &[0, 16]).option(55, &list));
    assert_eq!(option(&http, 60), Some(DhcpOption::ClassIdentifier(b"HTTPClient".to_vec())));
    assert_eq!(option(&http, 67), Some(DhcpOption::BootfileName(b"http://10.77.0.1/snponly.efi".to_vec())));
    assert_eq!(decoded(&http).fname(), None);
    let ipxe = rig.send(discover(mac(1)).option(60, b"PXEClient").option(77, b"iPXE").option(55, &list));
    assert_eq!(option(&ipxe, 67), Some(DhcpOption::BootfileName(b"http://10.77.0.1/boot.ipxe".to_vec())));
    assert_eq!(decoded(&ipxe).fname(), Some(b"http://10.77.0.1/boot.ipxe\0".as_slice()));
    let alone = ipxe.answer.as_ref().unwrap().bytes.windows(5).any(|bytes| bytes == [175, 3, 176, 1, 1]);
    assert!(alone && option(&ipxe, 43).is_none() && option(&ipxe, 60).is_none());
}

#[test]
fn answers_have_the_sizes_that_fit() {
    let config = CONFIG.replace("router = [", &format!("router = [{}", "\"10.77.0.254\", ".repeat(200)));
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    let mut len = |packet: Packet| rig.send(packet).answer.unwrap().bytes.len();
    let id = [0xff; 200];
    let list = [1, 3, 6, 15, 28, 12];
    let asks = || discover(mac(1)).option(55, &list).option(61, &id).option(82, &[1, 2, 0, 0]);
    assert!((450..=548).contains(&len(asks())), "the routers do not fit");
    assert!((300..=548).contains(&len(asks().option(57, &[0, 1]))), "less than 576 is none");
    let large = len(asks().option(57, &[255, 255]));
    assert!((1200..=1472).contains(&large), "{large}");
    assert_eq!(len(discover(mac(1)).option(55, &[1])), 300);
    assert_eq!(len(Packet::of(KNOWN, 0).option(55, &list)), 300);
    // Before RFC 1048: no options, as its vendor field has none.
    let old = Packet(vec![0; 300]).at(0, &[1, 1, 6]).at(28, &KNOWN.0);
    let answer = rig.send(old).answer.unwrap().bytes;
    assert_eq!((answer.len(), &answer[16..20]), (300, STATIC.as_slice()));
    assert!(answer[236..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_must_be_there_is_there_whatever_must_come_back() {
    let config = CONFIG.replace("10.9.0.101", "10.9.0.199");
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    let relay = Ipv4Addr::new(10, 9, 0, 1);
    let mut said = |id: usize, relayed: usize| {
        let relayed = [&[1, (relayed - 2) as u8][..], &vec![7; relayed - 2]].concat();
        let packet = discover(mac(1)).giaddr(relay.octets()).option(61, &vec![0xff; id]).option(82, &relayed);
        let answer = rig.send_from(packet, relay, 67, 67).answer.unwrap().bytes;
        assert!(answer.len() <= 548 && answer[240..243] == [53, 1, 2], "{id} {relayed:?}");
        codes(&answer)
    };
    assert!(said(20, 100).ends_with(&[61, 82]));
    for len in [200, 255] {
        let list = said(len, len);
        let is_right = list.starts_with(&[53, 54, 51, 1]) && list.ends_with(&[82]) && !list.contains(&61);
        assert!(is_right, "the identifier goes first: {list:?}");
    }
    let mut boot = |relayed: &[u8], id: usize, file: usize| {
        let mut machines = Machines::default();
        let boot = Boot::File("f".repeat(file));
        machines.add(SERVER, Machine { boot, ..Machine::default() });
        rig.server.replace_machines(machines);
        let packet = discover(mac(1)).option(60, b"HTTPClient").option(93, &[0, 16]);
        let packet = packet.option(61, &vec![0xff; id]).option(82, relayed).giaddr(relay.octets());
        codes(&rig.send_from(packet, relay, 67, 67).answer.unwrap().bytes)
    };
    let long = [&[1, 198][..], &[7; 198]].concat();
    assert_eq!(&boot(&long, 200, 20)[..5], [53, 54, 51, 60, 67]);
    assert!(boot(&long, 200, 20).ends_with(&[82]));
    let list = boot(&long, 10, 200);
    assert!(list.starts_with(&[53, 54, 51, 60, 67]) && !list.contains(&82) && list.ends_with(&[61]), "{list:?}");
}

#[test]
fn what_is_beyond_a_cards_rate_is_dropped_without_an_event() {
    let config = CONFIG.replace("max_rate_per_client = 0", "max_rate_per_client = 2");
    let mut rig = Rig::new(&config, machines(), Vec::new(), START_S);
    assert!((0..2).all(|_| rig.say(discover(mac(1))).starts_with("offer")));
    let outcome = rig.send(discover(mac(1)));
    assert_eq!(said(&outcome), "none: too many messages");
    assert!(outcome.record.is_none());
}

#[test]
fn an_event_says_what_came_what_went_and_why() {
    let mut rig = Rig::serving();
    let packet = discover(KNOWN)
        .option(60, b"PXEClient:Arch:00007")
        .option(93, &[0, 7])
        .option(97, &[&[0], &[0xab; 16][..]].concat())
        .option(12, b"we\"ird\xff");
    let body = rig.send(packet).record.unwrap().end();
    let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
    for (name, wanted) in [
        ("kind", "dhcp"),
        ("machine", "n9.example"),
        ("mac", "52:54:00:00:00:09"),
        ("addr", "10.77.0.9"),
        ("message", "discover"),
        ("direction", "in"),
        ("xid", "12345678"),
        ("arch", "uefi_x64"),
        ("vendor_class", "PXEClient:Arch:00007"),
        ("uuid", "abababab-abab-abab-abab-abababababab"),
        ("hostname", "we\"ird\u{FFFD}"),
        ("decision", "offer"),
        ("answer_addr", "10.77.0.9"),
        ("file", "snponly.efi"),
        ("why", "known machine"),
    ] {
        assert_eq!(event[name], wanted, "{name}");
    }
    assert_eq!(event["lease_s"], 3600);
    assert!(event["session"].as_str().unwrap().starts_with("525400000009-"));
    let at: Timestamp = event["ts"].as_str().unwrap().parse().unwrap();
    assert_eq!(at.as_second(), START_S);
    let body = rig.send(Packet(vec![7; 10])).record.unwrap().end();
    let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&event["message"], &event["why"]), (&"malformed".into(), &"short".into()));
}

/// What real clients sent.
#[test]
fn packets_of_real_clients_are_understood() {
    for (file, class, wanted) in [
        ("ipxe-bios-discover", "Ipxe bios", "offer"),
        ("ipxe-efi-discover", "Ipxe uefi_x64", "offer"),
        ("ovmf-pxe-discover", "Pxe uefi_x64", "offer"),
        ("ovmf-http-discover", "Http uefi_x64", "offer"),
        ("udhcpc-discover", "System -", "offer"),
        ("dhclient-discover", "System -", "offer"),
        ("bootpc-bootp-request", "Bootp -", "none"),
        ("dhclient-request-init-reboot", "System -", "nak"),
        ("udhcpc-request-renewing", "System -", "nak"),
        ("udhcpc-release", "System -", "none"),
        ("udhcpc-offer", "System -", "none"),
        ("ovmf-pxe-ack", "System -", "none"),
    ] {
        let path = format!("{}/tests/golden/boot/dhcp-{file}.bin", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap();
        let request = super::wire::Request::parse(&bytes).unwrap();
        let arch = super::class::arch(&request).and_then(super::class::arch_name).unwrap_or("-");
        assert_eq!(format!("{:?} {arch}", super::class::Class::of(&request)), class, "{file}");
        let mut rig = Rig::serving();
        let arrival = super::outcome::Arrival { interface: 0, source: "0.0.0.0:68".parse().unwrap(), port: 67 };
        let at = rig.at();
        let outcome = rig.server.handle(&bytes, &arrival, at);
        assert_eq!(outcome.counted.answer, wanted, "{file}: {}", said(&outcome));
    }
}

#[test]
fn dns_is_told_what_clients_call_themselves() {
    let names = crate::collect::boot::dns::names::Names::default();
    let mut rig = Rig::serving();
    rig.server = rig.server.with_names(names.clone());
    let named = |packet: Packet| packet.option(12, b"Laptop.lab");
    rig.say(named(discover(mac(1))));
    assert_eq!(names.address("laptop"), None, "an offer is no lease");
    rig.say(named(selecting(mac(1), US, pool(0))));
    assert_eq!(names.address("laptop"), Some(pool(0).into()));
    // A machine has the name of its file.
    rig.say(Packet::of(KNOWN, 3).ip(54, US).ip(50, STATIC).option(12, b"impostor"));
    assert_eq!(names.address("impostor"), None);
    rig.say(Packet::of(mac(1), 7).ip(54, US).ciaddr(pool(0)));
    assert_eq!(names.address("laptop"), None);
    rig.say(named(reboot(mac(1), pool(0))));
    // It has it for as long as the lease lasts, whatever the wall clock says.
    for wall_ahead_s in [0, 400 * 86_400, -400 * 86_400] {
        rig.wall_ahead_s = wall_ahead_s;
        let now = Moment { lease_s: rig.now_s + 3600, ..rig.at() };
        rig.server.tick(now);
        assert_eq!(names.address("laptop"), Some(pool(0).into()));
    }
    rig.now_s += 3601;
    let now = rig.at();
    rig.server.tick(now);
    assert_eq!(names.address("laptop"), None);
}
