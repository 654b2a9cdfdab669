//! What is answered to a DHCP or BOOTP packet, and why: pure, one owner, no sockets and no clock.
//!
//! Here: what holds for every packet; what each message gets is in [`super::serve`].
//!
//! A packet that is not understood, is of a card that sends too many, comes from a relay that is none, or is of a machine
//! that may not boot gets no answer. The others get one at once, or none: nothing here waits.
//!
//! A relay is believed when its packet comes from port 67 of an address in one of our networks and its own address
//! (giaddr) is in one of them too and not ours: so an answer never leaves the networks that are configured. A client that
//! has an address is believed where that is in one of our networks; from elsewhere only a request to go on with it is, as
//! it may come from a machine that was moved here, and it gets a NAK at most. So nobody far away can take addresses.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::CLIENT_PORT;
use super::answer::{self, Draft, Kind, Times};
use super::book::{Book, Client};
use super::bootfile::{Boot, Ways};
use super::class::Class;
use super::clock::Moment;
use super::event;
use super::leases::{Change, ID_BYTES_MAX};
use super::limits::Limits;
use super::outcome::{Answer, Arrival, Counted, Destination, Levels, Outcome};
use super::pool::Pool;
use super::why::Why;
use super::wire::{Malformed, Message, Request};
use crate::collect::boot::audit::{self, Record};
use crate::collect::boot::config::{Config, Mode};
use crate::collect::boot::dns::names::Names;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::catalog::Catalog;
use crate::collect::boot::machines::{Machine, Machines};
use crate::collect::boot::net::{Network, Networks};
use crate::collect::boot::policy::{self, Verdict};
use crate::collect::boot::sessions::{Sessions, Who};

/// How many relays a packet may have passed (RFC 1542 section 4.1.1).
const HOPS_MAX: u8 = 16;

/// The server of all networks, in each of the three modes.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) mode: Mode,
    /// `boot.dhcp.lease` in seconds.
    pub(super) lease_s: u32,
    /// `boot.dhcp.decline` in seconds.
    pub(super) decline_s: i64,
    /// Whether this server answers DNS.
    answers_dns: bool,
    pub(super) ways: Ways,
    pub(super) networks: Networks,
    catalog: Catalog,
    /// The files that `book` knows of.
    machines: Arc<Machines>,
    pub(super) sessions: Arc<Sessions>,
    /// Told what leases' clients call themselves.
    pub(super) names: Names,
    pub(super) book: Book,
    limits: Limits,
}

/// A packet that is to be answered, with what is known of who sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) class: Class,
    pub(super) arrival: &'a Arrival,
    /// Which of [`Networks::networks`].
    pub(super) network: usize,
    /// Lease time.
    pub(super) now_s: i64,
}

/// What is done.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) why: Why,
    pub(super) reply: Option<Reply>,
    pub(super) change: Option<Change>,
    pub(super) probe: Option<Ipv4Addr>,
    pub(super) foreign: Option<Ipv4Addr>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    pub(super) yiaddr: Ipv4Addr,
    pub(super) times: Option<Times>,
    /// Whether it says more than the boot file.
    pub(super) configures: bool,
    pub(super) boot: Result<Boot, Why>,
    pub(super) to: Destination,
}

impl Decision {
    /// No answer.
    pub(super) fn silent(why: Why) -> Decision {
        Decision { why, reply: None, change: None, probe: None, foreign: None }
    }

    pub(super) fn answered(why: Why, reply: Reply) -> Decision {
        Decision { reply: Some(reply), ..Decision::silent(why) }
    }

    pub(super) fn with(self, change: Change) -> Decision {
        Decision { change: Some(change), ..self }
    }
}

impl Server {
    /// `leases`: what [`super::leases::Log::open`] found; `now`: by the clock that it gave.
    pub(crate) fn new(
        config: &Config,
        networks: Networks,
        machines: Catalog,
        sessions: Arc<Sessions>,
        leases: Vec<Change>,
        now: Moment,
    ) -> Server {
        let mut book = Book::new(networks.networks.iter().map(|network| Pool::new(&network.pools)).collect());
        for change in &leases {
            book.restore(change);
            // Of a lease that is over nobody knows who has the address by now.
            if let Change::Leased(lease) = change
                && lease.until_s > now.lease_s
            {
                sessions.address(lease.mac, lease.ip);
            }
        }
        book.expire(now.lease_s).into_iter().for_each(|ip| sessions.forget(ip));
        let current = machines.current();
        let mut server = Server {
            mode: config.mode,
            lease_s: u32::try_from(config.dhcp.lease.0.as_secs()).unwrap_or(u32::MAX),
            decline_s: i64::try_from(config.dhcp.decline.0.as_secs()).unwrap_or(i64::MAX),
            answers_dns: config.dns.port != 0 && config.mode == Mode::Serve,
            ways: Ways { tftp: config.tftp.port != 0, http_port: config.http.port, loader: config.dhcp.loader.clone() },
            networks,
            catalog: machines,
            machines: current,
            sessions,
            names: Names::default(),
            book,
            limits: Limits::new(config.dhcp.max_rate_per_client),
        };
        server.bar();
        server
    }

    /// Says the names of leases where DNS looks for them. Those of leases that ended while no server ran go.
    pub(crate) fn with_names(self, names: Names) -> Server {
        names.retain(|ip| self.book.holder(ip).is_some());
        Server { names, ..self }
    }

    /// What a packet leads to: any bytes.
    pub(crate) fn handle(&mut self, packet: &[u8], arrival: &Arrival, now: Moment) -> Outcome {
        let request = match Request::parse(packet) {
            Ok(request) => request,
            Err(malformed) => return self.malformed(packet, malformed, arrival, now),
        };
        if !self.limits.allow(request.mac, now.lease_s) {
            let counted =
                Counted { message: request.message.name(), answer: "none", why: Why::TooMany.name(), foreign: None };
            return Outcome { answer: None, lease: None, probe: None, record: None, counted };
        }
        self.tick(now);
        let class = Class::of(&request);
        let (network, machine, decision) = match self.network_of(&request, arrival) {
            Err(why) => (None, None, Decision::silent(why)),
            Ok(network) => {
                let server = self.networks.networks[network].server;
                let verdict = policy::judge(&self.machines, server, Some(request.mac), None);
                let asked = Asked { request: &request, class, arrival, network, now_s: now.lease_s };
                let decision = self.decide(asked, &verdict);
                (Some(network), verdict.machine().cloned(), decision)
            }
        };
        self.outcome(&request, class, arrival, network, machine.as_deref(), decision, now)
    }

    /// `by` answers ARP for `ip`: where it is not the one to whom the address was given, the address is left alone for
    /// `boot.dhcp.decline`. `None` where all is well. An address that was acknowledged meanwhile stays its client's: it
    /// has asked by itself, and declines.
    pub(crate) fn conflict(&mut self, ip: Ipv4Addr, by: Mac, now: Moment) -> Option<Outcome> {
        let (holder, network) = (self.book.holder(ip)?, self.networks.of(ip)?);
        let machine = self.machines.by_mac(network.server, holder);
        if by == holder || machine.is_some_and(|machine| machine.macs.contains(&by)) {
            return None;
        }
        let mut lease = None;
        if self.book.is_offered(ip) {
            let until_s = now.lease_s.saturating_add(self.decline_s);
            self.book.quarantine(ip, None, until_s);
            lease = Some(Change::Quarantined(ip, until_s));
        }
        let who = Who { mac: Some(holder), ip: Some(ip) };
        self.sessions.failed(who, Why::Conflict.name(), now.wall);
        let record = Record::new(audit::DHCP, now.wall)
            .known("session", self.sessions.of(who, now.wall))
            .known("machine", machine.map(|machine| &machine.hostname).filter(|name| !name.is_empty()))
            .text("mac", holder)
            .text("addr", ip)
            .text("message", "conflict")
            .text("by", by)
            .text("decision", if lease.is_some() { "quarantine" } else { "none" })
            .text("why", Why::Conflict.name());
        let counted = Counted { message: "conflict", answer: "none", why: Why::Conflict.name(), foreign: None };
        Some(Outcome { answer: None, lease, probe: None, record: Some(record), counted })
    }

    /// Lets what has ended end, and takes changed files. To be called every second; each packet does so too.
    pub(crate) fn tick(&mut self, now: Moment) {
        let current = self.catalog.current();
        if !Arc::ptr_eq(&current, &self.machines) {
            self.machines = current;
            self.bar();
        }
        for ip in self.book.expire(now.lease_s) {
            self.names.released(ip);
            self.sessions.forget(ip);
        }
    }

    #[cfg(test)]
    pub(super) fn replace_machines(&mut self, machines: Machines) {
        self.catalog = Catalog::of(machines);
    }

    /// For the gauges and for alarms on pools that have no free address.
    pub(crate) fn levels(&self) -> Levels {
        self.book.levels()
    }

    /// Addresses that are somebody's are never given out of a pool.
    fn bar(&mut self) {
        let mut barred: Vec<_> = self.machines.iter().filter_map(|(_, machine)| machine.ip).collect();
        barred.extend(self.networks.interfaces.iter().map(|interface| interface.addr));
        for network in &self.networks.networks {
            barred.extend(&network.router);
            barred.extend(&network.dns);
            barred.extend([network.subnet.network(), network.subnet.broadcast()]);
        }
        self.book.bar(&barred);
    }

    /// The network that a packet is from.
    fn network_of(&self, request: &Request<'_>, arrival: &Arrival) -> Result<usize, Why> {
        let all = &self.networks.networks;
        let of = |ip: Ipv4Addr| all.iter().position(|network| network.subnet.contains(&ip));
        let on_link = || all.iter().position(|network| network.interface == Some(arrival.interface));
        if request.is_reply {
            return on_link().ok_or(Why::NoNetwork);
        }
        if request.giaddr.is_unspecified() {
            let source = *arrival.source.ip();
            // Through a router, from a client that has its address.
            let has_address = !source.is_unspecified() && request.ciaddr == source;
            let routed = if has_address { of(source) } else { None };
            let may_ask = source.is_unspecified()
                || source.is_link_local()
                || of(source).is_some()
                || (has_address && request.message == Message::Request);
            return routed.or_else(on_link).filter(|_| may_ask).ok_or(Why::NoNetwork);
        }
        let is_relay = arrival.source.port() == 67
            && of(*arrival.source.ip()).is_some()
            && of(request.giaddr).is_some()
            && !self.networks.is_server(request.giaddr)
            && request.hops <= HOPS_MAX;
        if !is_relay {
            return Err(Why::Relay);
        }
        of(request.link_selection().unwrap_or(request.giaddr)).ok_or(Why::NoNetwork)
    }

    fn decide(&mut self, asked: Asked<'_>, verdict: &Verdict) -> Decision {
        if asked.request.is_reply {
            return self.others_reply(asked);
        }
        if self.mode != Mode::Serve {
            self.learn(asked);
        }
        let (machine, why) = match verdict {
            _ if self.mode == Mode::Listen => return Decision::silent(Why::Listening),
            // What is sent there goes to clients; it is only heard because other servers send there too.
            _ if asked.arrival.port == CLIENT_PORT => return Decision::silent(Why::NotOurs),
            Verdict::Refused(why) => {
                // Whom we refuse may well be another server's.
                let named = asked.request.server_id.filter(|id| !self.networks.is_server(*id));
                let foreign = named.filter(|_| self.mode == Mode::Serve);
                return Decision { foreign, ..Decision::silent(Why::Refused(*why)) };
            }
            Verdict::Known(machine) => (machine, Why::Known),
            Verdict::Default(machine) => (machine, Why::Default),
        };
        match (asked.arrival.port, self.mode) {
            (4011, _) => self.boot_server(asked, machine, why),
            (_, Mode::Proxy) => self.beside(asked, machine, why),
            _ => self.serve(asked, machine, why),
        }
    }

    /// What other servers tell.
    fn others_reply(&mut self, asked: Asked<'_>) -> Decision {
        let Asked { request, arrival, .. } = asked;
        let server = request.server_id.unwrap_or(*arrival.source.ip());
        // Where this one gives no addresses, another on this machine has the same address as this one.
        if self.mode == Mode::Serve && self.networks.is_server(server) {
            return Decision::silent(Why::OurOwn);
        }
        if self.mode != Mode::Serve && request.message == Message::Ack && self.networks.of(request.yiaddr).is_some() {
            self.sessions.address(request.mac, request.yiaddr);
        }
        // What clients hear is on our link; to our own port anybody may send an answer, from anywhere.
        let foreign = (self.mode == Mode::Serve && arrival.port == CLIENT_PORT).then_some(server);
        Decision { foreign, ..Decision::silent(Why::Foreign) }
    }

    /// Where another server gives the addresses, what clients ask for tells who has which: what was just offered to one
    /// (SELECTING), and what one uses already. INIT-REBOOT is a wish that the server may well refuse; its ACK tells.
    fn learn(&self, Asked { request, arrival, .. }: Asked<'_>) {
        let selected = request.requested.filter(|_| request.server_id.is_some());
        let used = Some(request.ciaddr).filter(|ip| ip == arrival.source.ip());
        let named = selected.or(used).filter(|ip| self.networks.of(*ip).is_some());
        if let (Message::Request, Some(ip)) = (request.message, named) {
            self.sessions.address(request.mac, ip);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own")]
    fn outcome(
        &self,
        request: &Request<'_>,
        class: Class,
        arrival: &Arrival,
        network: Option<usize>,
        machine: Option<&Machine>,
        decision: Decision,
        now: Moment,
    ) -> Outcome {
        let Decision { why, reply, change, probe, foreign } = decision;
        let some = |ip: Ipv4Addr| (!ip.is_unspecified()).then_some(ip);
        let addr = reply.as_ref().and_then(|reply| some(reply.yiaddr)).or(some(request.ciaddr));
        let who = Who { mac: Some(request.mac), ip: addr };
        let session = match request.message {
            Message::Discover | Message::Request | Message::Inform | Message::Bootp if !request.is_reply => {
                self.sessions.step(who, class.stage(), now.wall)
            }
            _ => self.sessions.of(who, now.wall),
        };
        let no_file = reply.as_ref().and_then(|reply| reply.boot.as_ref().err()).filter(|_| class.is_booting());
        // Firmware that is refused is somebody's machine that does not start.
        let is_failure = |why: &&Why| why.is_failure() || (class.is_booting() && matches!(why, Why::Refused(_)));
        if let Some(why) = [Some(&why), no_file].into_iter().flatten().find(is_failure) {
            self.sessions.failed(who, why.name(), now.wall);
        }
        let name = machine.map(|machine| machine.hostname.as_str()).filter(|name| !name.is_empty());
        let kind = reply.as_ref().map_or("none", |reply| reply.kind.name());
        let mut record =
            event::packet(request, arrival, session.as_deref(), name, addr, now.wall).text("decision", kind);
        if let Some(reply) = &reply {
            record = record.known("answer_addr", some(reply.yiaddr));
            record = match &reply.boot {
                Ok(boot) => record.text("file", &boot.name),
                Err(_) => record.known("no_file", no_file.map(|why| why.name())),
            };
            if let Some(times) = reply.times {
                record = record.number("lease_s", times.lease_s.into());
            }
        }
        let answer = reply.zip(network).map(|(reply, network)| {
            let network = &self.networks.networks[network];
            Answer {
                bytes: self.encode(request, network, machine, why, &reply),
                to: reply.to,
                interface: arrival.interface,
            }
        });
        let counted = Counted { message: request.message.name(), answer: kind, why: why.name(), foreign };
        Outcome { answer, lease: change, probe, record: Some(record.text("why", why.name())), counted }
    }

    fn encode(
        &self,
        request: &Request<'_>,
        network: &Network,
        machine: Option<&Machine>,
        why: Why,
        reply: &Reply,
    ) -> Vec<u8> {
        let draft = Draft {
            kind: reply.kind,
            server: network.server,
            yiaddr: reply.yiaddr,
            times: reply.times,
            network: reply.configures.then_some(network),
            dns: self.answers_dns.then_some(network.server),
            hostname: machine.map_or("", |machine| &machine.hostname),
            boot: reply.boot.as_ref().ok(),
            alone: self.mode == Mode::Serve,
            text: if reply.kind == Kind::Nak { why.name() } else { "" },
        };
        answer::encode(request, &draft)
    }

    fn malformed(&self, packet: &[u8], malformed: Malformed, arrival: &Arrival, now: Moment) -> Outcome {
        let why = Why::Malformed(malformed);
        let record = Record::new(audit::DHCP, now.wall)
            .text("source", arrival.source)
            .text("message", "malformed")
            .text("direction", "in")
            .number("bytes", packet.len() as u64)
            .text("decision", "none")
            .text("why", why.name())
            .text("parse_error", malformed)
            .base64("raw_base64", packet);
        let counted = Counted { message: "malformed", answer: "none", why: why.name(), foreign: None };
        Outcome { answer: None, lease: None, probe: None, record: Some(record), counted }
    }

    /// Who asks, for the book.
    pub(super) fn client<'a>(request: &'a Request<'_>, class: Class, machine: &'a Machine) -> Client<'a> {
        let id = request.client_id().unwrap_or_default();
        let is_card = id.split_first().is_some_and(|(kind, rest)| *kind == request.htype && rest == request.mac.0);
        let id = if is_card { &[] } else { &id[..id.len().min(ID_BYTES_MAX)] };
        Client { mac: request.mac, id, booting: class.is_booting(), macs: &machine.macs }
    }
}
