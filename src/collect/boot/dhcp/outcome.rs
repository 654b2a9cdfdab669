//! What a packet leads to: the answer, what must be durable before it, the event.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::leases::Change;
use crate::collect::boot::audit::Record;
use crate::collect::boot::mac::Mac;

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
    /// [`super::server::Server::conflict`].
    pub(crate) probe: Option<Ipv4Addr>,
    /// None for what is beyond a card's limit.
    pub(crate) record: Option<Record>,
    pub(crate) counted: Counted,
}

/// How many addresses are in which state; what is free is of the pools, the others are the machines' too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    /// How many addresses the pools have.
    pub(crate) pools: usize,
    pub(crate) free: usize,
    pub(crate) offered: usize,
    pub(crate) leased: usize,
    pub(crate) quarantined: usize,
}
