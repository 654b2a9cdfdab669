//! What is answered to a DHCP or BOOTP packet, and why: pure, one owner, no sockets and no clock.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use jiff::Timestamp;

use super::leases::Change;
use crate::collect::boot::audit::{self, Record};
use crate::collect::boot::config::Config;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::catalog::Catalog;
use crate::collect::boot::net::Networks;
use crate::collect::boot::sessions::Sessions;

/// Where a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Which of [`Networks::interfaces`].
    pub(crate) interface: usize,
    pub(crate) source: SocketAddrV4,
    /// Ours: 67, or 4011 for boot questions. Where answers of other servers are seen (port 68), that is 68.
    pub(crate) port: u16,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To a relay's port 67.
    Relay(Ipv4Addr),
    /// To port 68 of a client that has its address and answers ARP.
    Client(Ipv4Addr),
    /// To port 68 of a client that has no address yet: an IP packet to this address in a frame to this card.
    Link(Mac, Ipv4Addr),
    /// To 255.255.255.255 port 68 on the interface's link.
    Broadcast,
    /// Back to where the packet came from, from the port on which it came in.
    Sender(SocketAddrV4),
}

/// An answer, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) to: Destination,
    /// Which of [`Networks::interfaces`] it leaves by, and whose address it comes from.
    pub(crate) interface: usize,
}

/// For the metrics; every text is one of a fixed few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// What came: "discover", "request", …, "bootp"; "malformed".
    pub(crate) message: &'static str,
    /// What went: "offer", "ack", "nak", "reply" (BOOTP); "none".
    pub(crate) answer: &'static str,
    /// Why: the event's `why`.
    pub(crate) why: &'static str,
    /// Another DHCP server that this packet speaks of; to be said, with its address, at a bounded rate.
    pub(crate) foreign: Option<Ipv4Addr>,
}

/// What a packet leads to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) answer: Option<Answer>,
    /// What must be durable before the answer goes out.
    pub(crate) lease: Option<Change>,
    /// An address that was offered for the first time: ask by ARP whether somebody uses it, and say so by
    /// [`Server::conflict`].
    pub(crate) probe: Option<Ipv4Addr>,
    pub(crate) record: Record,
    pub(crate) counted: Counted,
}

/// How many addresses of the pools are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) free: usize,
    pub(crate) offered: usize,
    pub(crate) leased: usize,
    pub(crate) quarantined: usize,
}

/// The server of all networks, in each of the three modes.
#[derive(Debug)]
pub(crate) struct Server {
    networks: Networks,
}

impl Server {
    /// `leases`: what [`super::leases::Log::open`] found.
    pub(crate) fn new(
        config: &Config,
        networks: Networks,
        machines: Catalog,
        sessions: Arc<Sessions>,
        leases: Vec<Change>,
        now: Timestamp,
    ) -> Server {
        let _ = (config, machines, sessions, leases, now);
        Server { networks }
    }

    /// What a packet leads to: any bytes.
    pub(crate) fn handle(&mut self, packet: &[u8], arrival: &Arrival, now: Timestamp) -> Outcome {
        let _ = (packet, arrival);
        let counted = Counted { message: "malformed", answer: "none", why: "short", foreign: None };
        Outcome { answer: None, lease: None, probe: None, record: Record::new(audit::DHCP, now), counted }
    }

    /// `by` answers ARP for `ip`: where it is not the one to whom the address was given, the address is left alone for
    /// `boot.dhcp.decline`. `None` where all is well.
    pub(crate) fn conflict(&mut self, ip: Ipv4Addr, by: Mac, now: Timestamp) -> Option<Outcome> {
        let _ = (ip, by, now);
        None
    }

    /// Lets what has ended end. To be called every second.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        let _ = now;
    }

    /// For the gauges and for alarms on pools that have no free address.
    pub(crate) fn levels(&self) -> Levels {
        Levels::default()
    }
}
