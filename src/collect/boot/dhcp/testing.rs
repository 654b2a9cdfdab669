//! A server for tests: two networks, one machine with files, `default/` for the others.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message as Decoded, OptionCode};
use dhcproto::{Decodable, Decoder};
use jiff::Timestamp;

use super::clock::Moment;
use super::leases::Change;
use super::outcome::{Arrival, Destination, Outcome};
use super::server::Server;
use super::wire::testing::Packet;
use crate::collect::boot::config::Config;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::catalog::Catalog;
use crate::collect::boot::machines::{Machine, Machines};
use crate::collect::boot::net::{Networks, testing};
use crate::collect::boot::sessions::Sessions;

pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(super) const START_S: i64 = 1_800_000_000;

/// Four addresses on our link, two behind a relay.
pub(super) const CONFIG: &str = "interface = \"eth1\"\n[dhcp]\npool = [\"10.77.0.100-10.77.0.103\"]\nrouter = [\"10.77.0.254\"]\n\
     domain = \"lab\"\nmax_rate_per_client = 0\n[[network]]\nsubnet = \"10.9.0.0/24\"\npool = [\"10.9.0.100-10.9.0.101\"]";

pub(super) const KNOWN: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
pub(super) const KNOWN_TOO: Mac = Mac([0x52, 0x54, 0, 0, 0, 10]);

pub(super) fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 1, 0, n])
}

/// 10.77.0.9 has two cards; everybody else is `default/`'s.
pub(super) fn machines() -> Machines {
    let mut machines = Machines::default();
    machines.add(SERVER, machine(9, "n9.example", vec![KNOWN, KNOWN_TOO]));
    machines.add(SERVER, Machine { kernel: Some("vmlinuz".into()), ..Machine::default() });
    machines
}

pub(super) fn machine(last: u8, hostname: &str, macs: Vec<Mac>) -> Machine {
    let ip = Some(Ipv4Addr::new(10, 77, 0, last));
    Machine { hostname: hostname.into(), ip, macs, kernel: Some("vmlinuz".into()), ..Machine::default() }
}

#[derive(Debug)]
pub(super) struct Rig {
    pub(super) server: Server,
    /// Lease time.
    pub(super) now_s: i64,
    /// What the wall clock is ahead of it.
    pub(super) wall_ahead_s: i64,
}

impl Rig {
    pub(super) fn new(config: &str, machines: Machines, leases: Vec<Change>, now_s: i64) -> Rig {
        let config: Config = toml::from_str(config).unwrap();
        let networks = Networks::new(&config, vec![testing::interface()]).unwrap();
        let sessions = Arc::new(Sessions::new(Duration::from_secs(1800)));
        let server = Server::new(&config, networks, Catalog::of(machines), sessions, leases, moment(now_s, 0));
        Rig { server, now_s, wall_ahead_s: 0 }
    }

    pub(super) fn serving() -> Rig {
        Rig::new(CONFIG, machines(), Vec::new(), START_S)
    }

    pub(super) fn at(&self) -> Moment {
        moment(self.now_s, self.wall_ahead_s)
    }

    /// From a client without an address, on port 67.
    pub(super) fn send(&mut self, packet: Packet) -> Outcome {
        self.send_from(packet, Ipv4Addr::UNSPECIFIED, 68, 67)
    }

    pub(super) fn send_from(&mut self, packet: Packet, from: Ipv4Addr, from_port: u16, port: u16) -> Outcome {
        let arrival = Arrival { interface: 0, source: SocketAddrV4::new(from, from_port), port };
        let at = self.at();
        self.server.handle(&packet.end(), &arrival, at)
    }

    /// What came of it, in short: `offer 10.77.0.100 link`, `none: pool exhausted`.
    pub(super) fn say(&mut self, packet: Packet) -> String {
        said(&self.send(packet))
    }
}

fn moment(now_s: i64, wall_ahead_s: i64) -> Moment {
    let wall = Timestamp::from_second(now_s + wall_ahead_s).unwrap();
    Moment { wall, steady_s: now_s - START_S, lease_s: now_s }
}

pub(super) fn decoded(outcome: &Outcome) -> Decoded {
    Decoded::decode(&mut Decoder::new(&outcome.answer.as_ref().unwrap().bytes)).unwrap()
}

pub(super) fn said(outcome: &Outcome) -> String {
    let Some(answer) = &outcome.answer else { return format!("none: {}", outcome.counted.why) };
    let message = decoded(outcome);
    let kind = message.opts().msg_type().map_or("reply".to_owned(), |kind| format!("{kind:?}").to_lowercase());
    assert_eq!(kind, outcome.counted.answer);
    let to = match answer.to {
        Destination::Relay(ip) => format!("relay {ip}"),
        Destination::Client(ip) => format!("client {ip}"),
        Destination::Link(_, ip) => {
            assert_eq!(ip, message.yiaddr());
            "link".to_owned()
        }
        Destination::Broadcast => "broadcast".to_owned(),
        Destination::Sender(to) => format!("sender {to}"),
    };
    format!("{kind} {} {to}", message.yiaddr())
}

/// The codes of an answer in their order.
pub(super) fn codes(bytes: &[u8]) -> Vec<u8> {
    let (mut rest, mut codes) = (&bytes[240..], Vec::new());
    while let [code, len, tail @ ..] = rest {
        match code {
            0 => rest = &rest[1..],
            255 => break,
            code => {
                codes.push(*code);
                rest = &tail[*len as usize..];
            }
        }
    }
    codes
}

pub(super) fn option(outcome: &Outcome, code: u8) -> Option<DhcpOption> {
    decoded(outcome).opts().get(OptionCode::from(code)).cloned()
}
