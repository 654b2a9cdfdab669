//! What each message gets: RFC 2131 for the network's one server, and the boot questions of PXE.
//!
//! | message | what it says | answer |
//! |---|---|---|
//! | DISCOVER | | OFFER of the machine's address, or of one of the pool, kept for [`OFFER_S`] |
//! | REQUEST | our identifier (SELECTING) | ACK where the client may have the address, else NAK |
//! | REQUEST | another's identifier | none; our offer is free again |
//! | REQUEST | option 50 alone (INIT-REBOOT) | the same; we are the network's server, so there is no doubt |
//! | REQUEST | ciaddr (RENEWING, REBINDING) | the same |
//! | DECLINE | an address that it has | none; left alone for `boot.dhcp.decline`, or [`Why::DeclinesTooMany`] |
//! | RELEASE | an address that it has | none; it is free, and remembered for this client |
//! | INFORM | ciaddr | ACK without address and times |
//! | BOOTP | | the machine's address; unknown ones get none, as they would keep it for ever (RFC 1534) |
//!
//! An address that a file gives to a machine is of no other: whoever still has it is told NAK when it asks to go on, and
//! until its lease ends the machine gets nothing ([`Why::AddressHeld`]). A machine whose address changes is told NAK, and
//! gets its new one when it asks again.
//!
//! In proxy mode (and on port 4011 in both) only firmware and iPXE are answered, with their boot file and no address.

use std::net::Ipv4Addr;

use super::answer::{Kind, Times};
use super::book::{Client, Standing};
use super::bootfile;
use super::class::Class;
use super::leases::Change;
use super::outcome::Destination;
use super::server::{Asked, Decision, Reply, Server};
use super::why::Why;
use super::wire::Message;
use crate::collect::boot::machines::Machine;

/// How long an offer is kept, in seconds.
pub(crate) const OFFER_S: i64 = 60;

/// The shortest lease, in seconds, whatever a client asks for.
pub(crate) const LEASE_S_MIN: u32 = 60;

impl Server {
    /// As the network's server.
    pub(super) fn serve(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        match asked.request.message {
            Message::Discover => self.discover(asked, machine, why),
            Message::Request => self.request(asked, machine, why),
            Message::Decline => self.decline(asked, machine),
            Message::Release => self.release(asked, machine),
            Message::Inform => self.inform(asked, machine, why),
            Message::Bootp => self.bootp(asked, machine, why),
            Message::Offer | Message::Ack | Message::Nak => Decision::silent(Why::ServersMessage),
        }
    }

    fn discover(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        let client = Server::client(asked.request, asked.class, machine);
        let ip = match self.find(asked, &client, machine) {
            Ok(ip) => ip,
            Err(why) => return Decision::silent(why),
        };
        // Only on our own links can anybody be asked whether an address is in use.
        let is_new = self.book.standing(ip, &client) != Standing::Own;
        let on_link =
            asked.request.giaddr.is_unspecified() && self.networks.networks[asked.network].interface.is_some();
        self.book.offer(ip, &client, asked.now_s + OFFER_S);
        let reply = self.reply(asked, machine, Kind::Offer, ip);
        Decision { probe: (is_new && on_link).then_some(ip), ..Decision::answered(why, reply) }
    }

    /// The address for a client.
    fn find(&mut self, asked: Asked<'_>, client: &Client<'_>, machine: &Machine) -> Result<Ipv4Addr, Why> {
        let subnet = self.networks.networks[asked.network].subnet;
        if let Some(ip) = machine.ip {
            if !subnet.contains(&ip) {
                return Err(Why::WrongNetwork);
            }
            return self.standing(ip, client).map(|()| ip);
        }
        if !self.book.has_pool(asked.network) {
            return Err(Why::NoPool);
        }
        if let Some(ip) = self.book.address_of(client, subnet, asked.network) {
            return Ok(ip);
        }
        if self.book.is_greedy(client.mac) {
            return Err(Why::TooManyAddresses);
        }
        let wanted = asked
            .request
            .requested
            .filter(|ip| self.book.may_give(asked.network, *ip) && self.book.standing(*ip, client) == Standing::Free);
        wanted.or_else(|| self.book.take(asked.network)).ok_or(Why::Exhausted)
    }

    /// Whether nobody else has an address.
    fn standing(&self, ip: Ipv4Addr, client: &Client<'_>) -> Result<(), Why> {
        match self.book.standing(ip, client) {
            Standing::Own | Standing::Free => Ok(()),
            Standing::Others => Err(Why::AddressHeld),
            Standing::Quarantined => Err(Why::Quarantined),
        }
    }

    fn request(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        let Asked { request, network, .. } = asked;
        let client = Server::client(request, asked.class, machine);
        if let Some(id) = request.server_id.filter(|id| !self.networks.is_server(*id)) {
            self.book.withdraw(&client);
            return Decision { foreign: Some(id), ..Decision::silent(Why::NotOurs) };
        }
        let renewed = (!request.ciaddr.is_unspecified()).then_some(request.ciaddr);
        let Some(ip) = renewed.or(request.requested) else { return Decision::silent(Why::NoAddress) };
        if let Err(why) = self.may_have(ip, network, &client, machine) {
            return Decision::answered(why, self.nak(asked));
        }
        self.acknowledge(asked, machine, Kind::Ack, ip, why)
    }

    /// Whether the client may have the address that it names. One that is free it may have without an offer too: after
    /// leases were lost, clients go on with what they have.
    fn may_have(&self, ip: Ipv4Addr, network: usize, client: &Client<'_>, machine: &Machine) -> Result<(), Why> {
        if !self.networks.networks[network].subnet.contains(&ip) {
            return Err(Why::WrongNetwork);
        }
        match machine.ip {
            Some(own) if own != ip => return Err(Why::OtherAddress),
            None if !self.book.may_give(network, ip) => return Err(Why::NotInPool),
            _ => {}
        }
        let is_new = self.book.standing(ip, client) == Standing::Free;
        if is_new && machine.ip.is_none() && self.book.is_greedy(client.mac) {
            return Err(Why::TooManyAddresses);
        }
        self.standing(ip, client)
    }

    fn acknowledge(&mut self, asked: Asked<'_>, machine: &Machine, kind: Kind, ip: Ipv4Addr, why: Why) -> Decision {
        let client = Server::client(asked.request, asked.class, machine);
        let reply = self.reply(asked, machine, kind, ip);
        // The client counts from when it asked, in whole seconds; we go on a second longer.
        let until_s = asked.now_s + i64::from(self.lease_time(asked)) + 1;
        let change = self.book.lease(ip, &client, until_s);
        self.sessions.address(client.mac, ip);
        // A machine has the name of its file.
        let host = asked.request.host_name().filter(|_| machine.ip.is_none());
        self.names.lease(ip, host);
        Decision::answered(why, reply).with(change)
    }

    fn decline(&mut self, asked: Asked<'_>, machine: &Machine) -> Decision {
        let client = Server::client(asked.request, asked.class, machine);
        let Some(ip) = self.named(asked, &client, asked.request.requested) else {
            return Decision::silent(Why::NotHeld);
        };
        self.names.released(ip);
        self.sessions.forget(ip);
        if self.book.declines_too_many(client.mac) {
            self.book.give_up(ip);
            return Decision::silent(Why::DeclinesTooMany).with(Change::Freed(ip));
        }
        let until_s = asked.now_s.saturating_add(self.decline_s);
        self.book.quarantine(ip, Some(client.mac), until_s);
        Decision::silent(Why::Declined).with(Change::Quarantined(ip, until_s))
    }

    fn release(&mut self, asked: Asked<'_>, machine: &Machine) -> Decision {
        let client = Server::client(asked.request, asked.class, machine);
        let Some(ip) = self.named(asked, &client, Some(asked.request.ciaddr)) else {
            return Decision::silent(Why::NotHeld);
        };
        self.book.end(ip);
        self.names.released(ip);
        self.sessions.forget(ip);
        Decision::silent(Why::Released).with(Change::Freed(ip))
    }

    /// The address that a client gives back, if it has it from us.
    fn named(&self, asked: Asked<'_>, client: &Client<'_>, ip: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let is_ours = asked.request.server_id.is_none_or(|id| self.networks.is_server(id));
        ip.filter(|ip| is_ours && self.book.standing(*ip, client) == Standing::Own)
    }

    fn inform(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        let Asked { request, arrival, network, .. } = asked;
        let ip = [request.ciaddr, *arrival.source.ip()].into_iter().find(|ip| !ip.is_unspecified());
        let Some(ip) = ip.filter(|ip| self.networks.networks[network].subnet.contains(ip)) else {
            return Decision::silent(Why::NoAddress);
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let reply = Reply { times: None, to: Destination::Client(ip), ..self.reply(asked, machine, Kind::Ack, none) };
        Decision::answered(why, reply)
    }

    fn bootp(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        let client = Server::client(asked.request, asked.class, machine);
        if machine.ip.is_none() {
            return Decision::silent(Why::UnknownBootp);
        }
        match self.find(asked, &client, machine) {
            Ok(ip) => {
                let decision = self.acknowledge(asked, machine, Kind::Reply, ip, why);
                let reply = decision.reply.map(|reply| Reply { times: None, ..reply });
                Decision { reply, ..decision }
            }
            Err(why) => Decision::silent(why),
        }
    }

    /// In proxy mode: another server gives the addresses.
    pub(super) fn beside(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        if asked.request.message != Message::Discover {
            return Decision::silent(Why::LeftToOther);
        }
        let to = match asked.request.giaddr {
            giaddr if giaddr.is_unspecified() => Destination::Broadcast,
            giaddr => Destination::Relay(giaddr),
        };
        self.boot_answer(asked, machine, why, Kind::Offer, to)
    }

    /// On port 4011, where firmware asks the server that offered it a boot file for that file.
    pub(super) fn boot_server(&mut self, asked: Asked<'_>, machine: &Machine, why: Why) -> Decision {
        let Asked { request, arrival, .. } = asked;
        let speaks_to_us = request.server_id.is_none_or(|id| self.networks.is_server(id));
        let has_address = self.networks.of(*arrival.source.ip()).is_some();
        match request.message {
            Message::Request | Message::Inform if !speaks_to_us => Decision::silent(Why::NotOurs),
            Message::Request | Message::Inform if has_address => {
                self.boot_answer(asked, machine, why, Kind::Ack, Destination::Sender(arrival.source))
            }
            Message::Request | Message::Inform => Decision::silent(Why::NoAddress),
            _ => Decision::silent(Why::LeftToOther),
        }
    }

    fn boot_answer(&mut self, asked: Asked<'_>, machine: &Machine, why: Why, kind: Kind, to: Destination) -> Decision {
        if matches!(asked.class, Class::System | Class::Bootp) {
            return Decision::silent(Why::LeftToOther);
        }
        match self.boot(asked, machine) {
            Ok(boot) => {
                let none = Ipv4Addr::UNSPECIFIED;
                let reply = Reply { kind, yiaddr: none, times: None, configures: false, boot: Ok(boot), to };
                Decision::answered(why, reply)
            }
            Err(why) => Decision::silent(why),
        }
    }

    fn boot(&self, asked: Asked<'_>, machine: &Machine) -> Result<bootfile::Boot, Why> {
        let server = self.networks.networks[asked.network].server;
        bootfile::choose(asked.request, asked.class, machine, &self.ways, server).map_err(Why::Nothing)
    }

    /// How long the lease is that this client gets, in seconds.
    fn lease_time(&self, asked: Asked<'_>) -> u32 {
        asked.request.lease_s.unwrap_or(self.lease_s).clamp(LEASE_S_MIN.min(self.lease_s), self.lease_s)
    }

    /// An answer with an address and all that goes with it.
    fn reply(&self, asked: Asked<'_>, machine: &Machine, kind: Kind, yiaddr: Ipv4Addr) -> Reply {
        let Asked { request, .. } = asked;
        // RFC 2131 section 4.1.
        let to = if !request.giaddr.is_unspecified() {
            Destination::Relay(request.giaddr)
        } else if !request.ciaddr.is_unspecified() && kind != Kind::Offer {
            Destination::Client(request.ciaddr)
        } else if request.broadcast {
            Destination::Broadcast
        } else {
            Destination::Link(request.mac, yiaddr)
        };
        let times = Some(Times { lease_s: self.lease_time(asked) });
        Reply { kind, yiaddr, times, configures: true, boot: self.boot(asked, machine), to }
    }

    /// RFC 2131 section 4.3.2: everybody on the link hears it, as the client's address is wrong; a client behind a
    /// router, which would not hear it, is told where it says it is.
    fn nak(&self, asked: Asked<'_>) -> Reply {
        let Asked { request, arrival, network, .. } = asked;
        let is_routed = self.networks.networks[network].interface != Some(arrival.interface);
        let to = match request.giaddr {
            giaddr if !giaddr.is_unspecified() => Destination::Relay(giaddr),
            _ if is_routed && !request.ciaddr.is_unspecified() => Destination::Client(request.ciaddr),
            _ => Destination::Broadcast,
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let boot = Err(Why::Nothing(bootfile::Nothing::NotAsked));
        Reply { kind: Kind::Nak, yiaddr: none, times: None, configures: false, boot, to }
    }
}
