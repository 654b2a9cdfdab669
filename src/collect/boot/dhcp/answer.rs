//! Answers as bytes: pure.
//!
//! Options come in this order: what must be there (53, 54, 51, 56; for boot 60, 97, 43), the subnet mask if it is asked
//! for (RFC 2132 section 3.3), the rest in the order in which the client asks (55), the client's own identifier (61, RFC
//! 6842) and at the very end the relay's option as it came (82, RFC 3046). What does not fit in the client's maximum
//! message size (57) is left out: first what is asked for, later before earlier, then 61, then 82.
//!
//! Sizes: an answer has at least [`ANSWER_BYTES_MIN`] bytes, as relays and old clients want it, and at most what the client
//! says, within [`ANSWER_BYTES_DEFAULT`] and [`ANSWER_BYTES_MAX`]; a BOOTP answer has exactly [`ANSWER_BYTES_MIN`].

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, HType, Message as Header, MessageType, Opcode, UnknownOption};
use dhcproto::{Encodable, Encoder};

use super::bootfile::{self, Boot};
use super::class::Class;
use super::wire::{Request, code};
use crate::collect::boot::net::Network;

/// RFC 951: header and a vendor field of 64 bytes.
pub(crate) const ANSWER_BYTES_MIN: usize = 300;
/// RFC 2131: 576 bytes of IP, without the headers of IP and UDP.
pub(crate) const ANSWER_BYTES_DEFAULT: usize = 576 - 28;
/// An Ethernet frame's.
pub(crate) const ANSWER_BYTES_MAX: usize = 1500 - 28;

/// Which answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Offer,
    Ack,
    Nak,
    /// To BOOTP.
    Reply,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Offer => "offer",
            Kind::Ack => "ack",
            Kind::Nak => "nak",
            Kind::Reply => "reply",
        }
    }
}

/// The lengths of a lease in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) lease_s: u32,
}

impl Times {
    /// When a client asks to go on (RFC 2131 section 4.4.5: half of it).
    fn renewal_s(self) -> u32 {
        self.lease_s / 2
    }

    /// When it asks everybody (seven eighths).
    fn rebinding_s(self) -> u32 {
        (u64::from(self.lease_s) * 7 / 8) as u32
    }
}

/// What is said.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) server: Ipv4Addr,
    pub(crate) yiaddr: Ipv4Addr,
    pub(crate) times: Option<Times>,
    /// Where there is none it is told nothing but its boot file.
    pub(crate) network: Option<&'a Network>,
    /// Where the network names none.
    pub(crate) dns: Option<Ipv4Addr>,
    /// The machine's name, with its domain or without.
    pub(crate) hostname: &'a str,
    pub(crate) boot: Option<&'a Boot>,
    /// Whether iPXE is told that no proxy will answer.
    pub(crate) alone: bool,
    /// Of a NAK: why.
    pub(crate) text: &'a str,
}

/// The bytes of an answer to `request`.
pub(crate) fn encode(request: &Request<'_>, draft: &Draft<'_>) -> Vec<u8> {
    let mut answer =
        Bytes { bytes: header(request, draft), option: Vec::with_capacity(260), limit: limit(request, draft.kind) };
    if request.has_cookie {
        answer.options(request, draft);
        answer.bytes.push(255);
    } else {
        // RFC 951 knows no options; the cookie that the header ends with is one.
        answer.bytes.truncate(236);
    }
    if answer.bytes.len() < ANSWER_BYTES_MIN {
        answer.bytes.resize(ANSWER_BYTES_MIN, 0);
    }
    answer.bytes
}

fn limit(request: &Request<'_>, kind: Kind) -> usize {
    match (kind, request.size_max) {
        (Kind::Reply, _) => ANSWER_BYTES_MIN,
        (_, None) => ANSWER_BYTES_DEFAULT,
        (_, Some(ip_bytes)) => (ip_bytes as usize).saturating_sub(28).clamp(ANSWER_BYTES_DEFAULT, ANSWER_BYTES_MAX),
    }
}

/// RFC 2131 table 3.
fn header(request: &Request<'_>, draft: &Draft<'_>) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let boot = draft.boot.filter(|_| draft.kind != Kind::Nak);
    let ciaddr = if matches!(draft.kind, Kind::Ack | Kind::Reply) { request.ciaddr } else { none };
    let siaddr = if boot.is_some() { draft.server } else { none };
    let mut header = Header::new_with_id(request.xid, ciaddr, draft.yiaddr, siaddr, request.giaddr, &request.mac.0);
    // A relay sends to the client's address unless it is told to tell everybody, and here there is none to send to.
    let through_relay = !request.giaddr.is_unspecified() && draft.yiaddr.is_unspecified() && ciaddr.is_unspecified();
    header.set_opcode(Opcode::BootReply).set_htype(HType::from(request.htype)).set_flags(
        if request.broadcast || through_relay { Flags::default().set_broadcast() } else { Flags::default() },
    );
    if let Some(file) = boot.and_then(Boot::file) {
        header.set_fname_str(file);
    }
    let mut bytes = Vec::with_capacity(ANSWER_BYTES_DEFAULT);
    // Writing to a Vec cannot fail, and the names are shorter than their fields.
    let _ = header.encode(&mut Encoder::new(&mut bytes));
    bytes
}

/// An answer that grows up to its limit.
struct Bytes {
    bytes: Vec<u8>,
    /// Room for one option.
    option: Vec<u8>,
    limit: usize,
}

impl Bytes {
    fn options(&mut self, request: &Request<'_>, draft: &Draft<'_>) {
        // For the end.
        self.limit -= 1;
        for option in needed(request, draft) {
            self.option(&option);
        }
        // What is always last, as far as there is room.
        let whole = self.limit;
        let relay = self.reserve(request.relay_option());
        let id = self.reserve(request.client_id());
        for code in asked(request) {
            if let Some(option) = option(draft, code) {
                self.option(&option);
            }
        }
        self.limit = whole;
        for (code, data) in [(code::CLIENT_ID, id), (code::RELAY, relay)] {
            if let Some(data) = data {
                self.option(&raw(code, data));
            }
        }
    }

    /// Keeps room for an option that is added later, if there is so much.
    fn reserve<'a>(&mut self, data: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let data = data.filter(|data| data.len() <= 255 && self.bytes.len() + 2 + data.len() <= self.limit)?;
        self.limit -= 2 + data.len();
        Some(data)
    }

    /// Adds an option where it fits.
    fn option(&mut self, option: &DhcpOption) {
        // An encoder begins at the start of its buffer, whatever is in there.
        self.option.clear();
        let encoded = option.encode(&mut Encoder::new(&mut self.option));
        if encoded.is_ok() && self.bytes.len() + self.option.len() <= self.limit {
            self.bytes.extend_from_slice(&self.option);
        }
    }
}

fn raw(code: u8, data: &[u8]) -> DhcpOption {
    DhcpOption::Unknown(UnknownOption::new(code.into(), data.to_vec()))
}

/// What is there whether or not it is asked for.
fn needed(request: &Request<'_>, draft: &Draft<'_>) -> Vec<DhcpOption> {
    let mut options = Vec::with_capacity(8);
    let message = match draft.kind {
        Kind::Offer => Some(MessageType::Offer),
        Kind::Ack => Some(MessageType::Ack),
        Kind::Nak => Some(MessageType::Nak),
        Kind::Reply => None,
    };
    if let Some(message) = message {
        options.push(DhcpOption::MessageType(message));
        options.push(DhcpOption::ServerIdentifier(draft.server));
    }
    if let Some(times) = draft.times {
        options.push(DhcpOption::AddressLeaseTime(times.lease_s));
    }
    if !draft.text.is_empty() {
        options.push(DhcpOption::Message(draft.text.to_owned()));
    }
    let Some(boot) = draft.boot.filter(|_| message.is_some()) else { return options };
    if let Some(class) = boot.vendor_class(draft.alone) {
        options.push(DhcpOption::ClassIdentifier(class.to_vec()));
        // What PXE sends it wants back.
        options.extend(request.uuid_option().map(|uuid| raw(code::UUID, uuid)));
    }
    options.extend(boot.vendor_options().map(|menu| DhcpOption::VendorExtensions(menu.to_vec())));
    if boot.needs_option() {
        options.extend(boot.option().map(DhcpOption::BootfileName));
    }
    if boot.class == Class::Ipxe && draft.alone {
        options.push(raw(code::IPXE, &bootfile::NO_PXE_DHCP));
    }
    options
}

/// What most need, for those who do not say.
const USUAL: [u8; 6] = [code::SUBNET_MASK, code::ROUTER, code::DNS, code::HOST_NAME, code::DOMAIN, code::BROADCAST];

/// The codes that the client asks for, each once, the mask first.
fn asked(request: &Request<'_>) -> impl Iterator<Item = u8> {
    let mut seen = [false; 256];
    let list = match request.parameters() {
        [] => &USUAL,
        list => list,
    };
    let mask = list.contains(&code::SUBNET_MASK).then_some(code::SUBNET_MASK);
    let list = list.to_vec();
    mask.into_iter().chain(list).filter(move |code| !std::mem::replace(&mut seen[*code as usize], true))
}

/// An option that may be asked for, where there is something to say.
fn option(draft: &Draft<'_>, code: u8) -> Option<DhcpOption> {
    let network = draft.network.filter(|_| draft.kind != Kind::Nak);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let (name, domain) = draft.hostname.split_once('.').unwrap_or((draft.hostname, ""));
    match code {
        code::SUBNET_MASK => Some(DhcpOption::SubnetMask(network?.subnet.netmask())),
        code::BROADCAST => Some(DhcpOption::BroadcastAddr(network?.subnet.broadcast())),
        code::ROUTER => some(&network?.router).map(DhcpOption::Router),
        code::DNS => {
            let dns = some(&network?.dns).or_else(|| draft.dns.map(|ip| vec![ip]));
            dns.map(DhcpOption::DomainNameServer)
        }
        code::HOST_NAME => network.and_then(|_| text(name)).map(DhcpOption::Hostname),
        code::DOMAIN => text(domain).or_else(|| text(&network?.domain)).map(DhcpOption::DomainName),
        code::T1 => draft.times.map(|times| DhcpOption::Renewal(times.renewal_s())),
        code::T2 => draft.times.map(|times| DhcpOption::Rebinding(times.rebinding_s())),
        code::TFTP_SERVER => {
            draft.boot.filter(|boot| boot.class != Class::Http)?;
            Some(DhcpOption::TFTPServerName(draft.server.to_string().into_bytes()))
        }
        // Where nothing else tells it, it is there already.
        code::BOOT_FILE => draft.boot.filter(|boot| !boot.needs_option())?.option().map(DhcpOption::BootfileName),
        _ => None,
    }
}

fn some(list: &[Ipv4Addr]) -> Option<Vec<Ipv4Addr>> {
    (!list.is_empty()).then(|| list.to_vec())
}
