//! DHCP and BOOTP packets: pure, bytes in, [`Request`] or a named [`Malformed`] out.
//!
//! Read are RFC 951 (BOOTP, with a vendor field of zeros), RFC 1497 and RFC 2131 (magic cookie and options). Options of
//! one code are put together wherever they stand (RFC 3396), also in `file` and `sname` where option 52 says so (RFC 2132
//! section 9.3). Lengths are checked before anything is used: an option that goes beyond its field, or whose length is
//! not that of its type, makes the packet malformed; what nobody needs here is not looked at.
//!
//! Only Ethernet addresses (htype 1 or 6, hlen 6, of one card) are served.
//!
//! Limits: a packet has at most [`PACKET_BYTES_MAX`] bytes; nothing is allocated but options that are put together.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use dhcproto::v4::{MAGIC, borrowed};

use crate::collect::boot::mac::Mac;

/// Beyond it nothing is read: no client sends that much.
pub(crate) const PACKET_BYTES_MAX: usize = 4096;

/// The fixed fields and the cookie.
const HEADER_BYTES: usize = 240;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// Codes of options.
pub(crate) mod code {
    pub(crate) const SUBNET_MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const BROADCAST: u8 = 28;
    pub(crate) const REQUESTED: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const MESSAGE_TYPE: u8 = 53;
    pub(crate) const SERVER_ID: u8 = 54;
    pub(crate) const PARAMETERS: u8 = 55;
    pub(crate) const SIZE_MAX: u8 = 57;
    pub(crate) const T1: u8 = 58;
    pub(crate) const T2: u8 = 59;
    pub(crate) const CLASS: u8 = 60;
    pub(crate) const CLIENT_ID: u8 = 61;
    pub(crate) const TFTP_SERVER: u8 = 66;
    pub(crate) const BOOT_FILE: u8 = 67;
    pub(crate) const USER_CLASS: u8 = 77;
    pub(crate) const RELAY: u8 = 82;
    pub(crate) const ARCH: u8 = 93;
    pub(crate) const UUID: u8 = 97;
    pub(crate) const IPXE: u8 = 175;
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the packet is too short")]
    Short,
    #[error("the packet is too long")]
    Long,
    #[error("neither a request nor a reply")]
    Op,
    #[error("not the address of one Ethernet card")]
    Hardware,
    #[error("neither a DHCP cookie nor an empty vendor field")]
    Cookie,
    #[error("an option is cut short")]
    Truncated,
    #[error("option {0} has a wrong length")]
    Length(u8),
    #[error("option overload is none of 1, 2, 3")]
    Overload,
    #[error("no such message type")]
    MessageType,
    #[error("a relay's sub-option is cut short")]
    Relay,
}

impl Malformed {
    /// One of a few, for the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Malformed::Short => "short",
            Malformed::Long => "long",
            Malformed::Op => "op",
            Malformed::Hardware => "hardware",
            Malformed::Cookie => "cookie",
            Malformed::Truncated => "truncated",
            Malformed::Length(_) => "option_length",
            Malformed::Overload => "overload",
            Malformed::MessageType => "message_type",
            Malformed::Relay => "relay_option",
        }
    }
}

/// What a packet is; [`Message::Bootp`] where it does not say (RFC 1534).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Bootp,
    Discover,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

impl Message {
    pub(crate) const ALL: [Message; 9] = [
        Message::Bootp,
        Message::Discover,
        Message::Offer,
        Message::Request,
        Message::Decline,
        Message::Ack,
        Message::Nak,
        Message::Release,
        Message::Inform,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Message::Bootp => "bootp",
            Message::Discover => "discover",
            Message::Offer => "offer",
            Message::Request => "request",
            Message::Decline => "decline",
            Message::Ack => "ack",
            Message::Nak => "nak",
            Message::Release => "release",
            Message::Inform => "inform",
        }
    }

    /// Option 53.
    fn of(value: u8) -> Option<Message> {
        Message::ALL.get(value as usize).copied().filter(|_| value > 0)
    }
}

/// Options, put together, each once.
#[derive(Debug, Default)]
struct Options<'a>(Vec<(u8, Cow<'a, [u8]>)>);

impl<'a> Options<'a> {
    fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(of, _)| *of == code).map(|(_, data)| &**data)
    }

    /// One that has exactly `N` bytes.
    fn exact<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, Malformed> {
        let Some(data) = self.get(code) else { return Ok(None) };
        data.try_into().map(Some).map_err(|_| Malformed::Length(code))
    }

    fn ip(&self, code: u8) -> Result<Option<Ipv4Addr>, Malformed> {
        Ok(self.exact::<4>(code)?.map(Ipv4Addr::from))
    }

    /// Adds a field's options.
    fn read(&mut self, places: &mut [u8; 256], mut field: &'a [u8]) -> Result<(), Malformed> {
        while let [code, rest @ ..] = field {
            field = match code {
                0 => rest,
                255 => return Ok(()),
                code => {
                    let [len, rest @ ..] = rest else { return Err(Malformed::Truncated) };
                    let (data, rest) = rest.split_at_checked(*len as usize).ok_or(Malformed::Truncated)?;
                    self.add(places, *code, data);
                    rest
                }
            };
        }
        Ok(())
    }

    /// `places[code]` is one more than where the option is, so that many options cost no search.
    fn add(&mut self, places: &mut [u8; 256], code: u8, data: &'a [u8]) {
        let place = &mut places[code as usize];
        match self.0.get_mut((*place as usize).wrapping_sub(1)) {
            Some((_, whole)) => whole.to_mut().extend_from_slice(data),
            None => {
                self.0.push((code, Cow::Borrowed(data)));
                // There are at most 254 codes.
                *place = self.0.len() as u8;
            }
        }
    }
}

/// A packet that was checked.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Whether a server sent it.
    pub(crate) is_reply: bool,
    pub(crate) htype: u8,
    pub(crate) hops: u8,
    pub(crate) xid: u32,
    pub(crate) secs: u16,
    pub(crate) broadcast: bool,
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) yiaddr: Ipv4Addr,
    pub(crate) giaddr: Ipv4Addr,
    pub(crate) mac: Mac,
    pub(crate) message: Message,
    /// Whether it has a cookie; BOOTP before RFC 1048 has none and is answered without options.
    pub(crate) has_cookie: bool,
    pub(crate) requested: Option<Ipv4Addr>,
    pub(crate) server_id: Option<Ipv4Addr>,
    pub(crate) lease_s: Option<u32>,
    pub(crate) size_max: Option<u16>,
    options: Options<'a>,
}

impl<'a> Request<'a> {
    /// # Errors
    /// By what is wrong.
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Request<'a>, Malformed> {
        if packet.len() > PACKET_BYTES_MAX {
            return Err(Malformed::Long);
        }
        let header = borrowed::Message::new(packet).map_err(|_| Malformed::Short)?;
        let is_reply = match packet[0] {
            1 => false,
            2 => true,
            _ => return Err(Malformed::Op),
        };
        let (htype, hlen) = (packet[1], header.hlen());
        if !matches!(htype, 1 | 6) || hlen != 6 {
            return Err(Malformed::Hardware);
        }
        let mac = header.chaddr().try_into().map(Mac).map_err(|_| Malformed::Hardware)?;
        if mac.is_nobody() {
            return Err(Malformed::Hardware);
        }
        let (options, has_cookie) = read_options(packet)?;
        let message = match options.exact::<1>(code::MESSAGE_TYPE)? {
            None => Message::Bootp,
            Some([value]) => Message::of(value).ok_or(Malformed::MessageType)?,
        };
        let request = Request {
            is_reply,
            htype,
            hops: header.hops(),
            xid: header.xid(),
            secs: header.secs(),
            broadcast: header.flags().broadcast(),
            ciaddr: header.ciaddr(),
            yiaddr: header.yiaddr(),
            giaddr: header.giaddr(),
            mac,
            message,
            has_cookie,
            requested: options.ip(code::REQUESTED)?,
            server_id: options.ip(code::SERVER_ID)?,
            lease_s: options.exact(code::LEASE_TIME)?.map(u32::from_be_bytes),
            size_max: options.exact(code::SIZE_MAX)?.map(u16::from_be_bytes),
            options,
        };
        request.check()?;
        Ok(request)
    }

    /// What is read where it is needed.
    fn check(&self) -> Result<(), Malformed> {
        if self.options.get(code::ARCH).is_some_and(|data| data.is_empty() || data.len() % 2 != 0) {
            return Err(Malformed::Length(code::ARCH));
        }
        if self.options.get(code::UUID).is_some_and(|data| !matches!(data.len(), 0 | 17)) {
            return Err(Malformed::Length(code::UUID));
        }
        let Some(mut rest) = self.options.get(code::RELAY) else { return Ok(()) };
        while !rest.is_empty() {
            (_, rest) = sub_option(rest).ok_or(Malformed::Relay)?;
        }
        match self.relay(LINK_SELECTION) {
            Some(link) if link.len() != 4 => Err(Malformed::Relay),
            _ => Ok(()),
        }
    }

    /// Option 55.
    pub(crate) fn parameters(&self) -> &[u8] {
        self.options.get(code::PARAMETERS).unwrap_or_default()
    }

    /// Whether the client asks for an option.
    pub(crate) fn asks_for(&self, code: u8) -> bool {
        self.parameters().contains(&code)
    }

    /// Option 60.
    pub(crate) fn vendor_class(&self) -> Option<&[u8]> {
        self.options.get(code::CLASS)
    }

    /// Option 61 as it came; none where it is empty.
    pub(crate) fn client_id(&self) -> Option<&[u8]> {
        self.options.get(code::CLIENT_ID).filter(|id| !id.is_empty())
    }

    /// Option 12.
    pub(crate) fn host_name(&self) -> Option<&[u8]> {
        self.options.get(code::HOST_NAME)
    }

    /// Option 93, the first of the list being what the firmware prefers.
    pub(crate) fn archs(&self) -> impl Iterator<Item = u16> {
        let data = self.options.get(code::ARCH).unwrap_or_default();
        data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    /// Option 97 as it came.
    pub(crate) fn uuid_option(&self) -> Option<&[u8]> {
        self.options.get(code::UUID)
    }

    /// The UUID of option 97.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        let (kind, uuid) = self.options.get(code::UUID)?.split_first()?;
        uuid.try_into().ok().filter(|_| *kind == 0)
    }

    /// Option 77: a plain text, as most send it, or the list of RFC 3004.
    pub(crate) fn user_classes(&self) -> Vec<&[u8]> {
        let Some(data) = self.options.get(code::USER_CLASS) else { return Vec::new() };
        let (mut rest, mut list) = (data, Vec::new());
        while let Some((len, tail)) = rest.split_first() {
            match tail.split_at_checked(*len as usize) {
                Some((class, tail)) if !class.is_empty() => {
                    list.push(class);
                    rest = tail;
                }
                _ => return vec![data],
            }
        }
        list
    }

    /// Whether it has iPXE's own options.
    pub(crate) fn has_ipxe_options(&self) -> bool {
        self.options.get(code::IPXE).is_some()
    }

    /// Option 82 as it came.
    pub(crate) fn relay_option(&self) -> Option<&[u8]> {
        self.options.get(code::RELAY)
    }

    /// A sub-option of option 82.
    pub(crate) fn relay(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = self.options.get(code::RELAY)?;
        while let Some(((code, data), tail)) = sub_option(rest) {
            if code == wanted {
                return Some(data);
            }
            rest = tail;
        }
        None
    }

    /// The network that the relay names (RFC 3527) instead of its own.
    pub(crate) fn link_selection(&self) -> Option<Ipv4Addr> {
        self.relay(LINK_SELECTION)?.try_into().map(|bytes: [u8; 4]| bytes.into()).ok()
    }
}

/// Sub-options of option 82.
pub(crate) const CIRCUIT_ID: u8 = 1;
pub(crate) const REMOTE_ID: u8 = 2;
const LINK_SELECTION: u8 = 5;

type SubOption<'a> = (u8, &'a [u8]);

fn sub_option(bytes: &[u8]) -> Option<(SubOption<'_>, &[u8])> {
    let [code, len, rest @ ..] = bytes else { return None };
    let (data, rest) = rest.split_at_checked(*len as usize)?;
    Some(((*code, data), rest))
}

/// The options of all fields that have some, option 52, and whether there is a cookie.
fn read_options(packet: &[u8]) -> Result<(Options<'_>, bool), Malformed> {
    let (header, field) = packet.split_at(HEADER_BYTES);
    let mut options = Options::default();
    match header[HEADER_BYTES - MAGIC.len()..] {
        [0, 0, 0, 0] => return Ok((options, false)),
        ref cookie if cookie == MAGIC => {}
        _ => return Err(Malformed::Cookie),
    }
    let mut places = [0; 256];
    options.0.reserve(24);
    options.read(&mut places, field)?;
    let overload = match options.exact::<1>(code::OVERLOAD)? {
        None => 0,
        Some([overload @ 1..=3]) => overload,
        Some(_) => return Err(Malformed::Overload),
    };
    if overload & 1 != 0 {
        options.read(&mut places, &packet[FILE])?;
    }
    if overload & 2 != 0 {
        options.read(&mut places, &packet[SNAME])?;
    }
    Ok((options, true))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A packet that is being made.
    #[derive(Clone, Debug)]
    pub(crate) struct Packet(pub(crate) Vec<u8>);

    impl Packet {
        /// Of a card, with the message type; 0 is BOOTP.
        pub(crate) fn of(mac: Mac, message: u8) -> Packet {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
            bytes[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
            bytes[28..34].copy_from_slice(&mac.0);
            bytes[236..].copy_from_slice(&MAGIC);
            let packet = Packet(bytes);
            if message == 0 { packet } else { packet.option(53, &[message]) }
        }

        pub(crate) fn option(mut self, code: u8, data: &[u8]) -> Packet {
            for chunk in data.chunks(255).chain(data.is_empty().then_some(data)) {
                self.0.extend_from_slice(&[code, chunk.len() as u8]);
                self.0.extend_from_slice(chunk);
            }
            self
        }

        pub(crate) fn ip(self, code: u8, ip: [u8; 4]) -> Packet {
            self.option(code, &ip)
        }

        pub(crate) fn at(mut self, offset: usize, bytes: &[u8]) -> Packet {
            self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
            self
        }

        pub(crate) fn ciaddr(self, ip: [u8; 4]) -> Packet {
            self.at(12, &ip)
        }

        pub(crate) fn giaddr(self, ip: [u8; 4]) -> Packet {
            self.at(24, &ip)
        }

        pub(crate) fn end(mut self) -> Vec<u8> {
            self.0.push(255);
            self.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Packet;
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn discover() -> Packet {
        Packet::of(MAC, 1)
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_name() {
        for (packet, wanted) in [
            (vec![1; 239], Malformed::Short),
            (vec![1; 4097], Malformed::Long),
            (discover().at(0, &[3]).end(), Malformed::Op),
            (discover().at(1, &[32]).end(), Malformed::Hardware),
            (discover().at(2, &[200]).end(), Malformed::Hardware),
            (discover().at(2, &[0]).end(), Malformed::Hardware),
            (discover().at(28, &[0xff; 6]).end(), Malformed::Hardware),
            (discover().at(28, &[0; 6]).end(), Malformed::Hardware),
            (discover().at(236, b"CMU\0").end(), Malformed::Cookie),
            ([discover().0, vec![12]].concat(), Malformed::Truncated),
            ([discover().0, vec![12, 200, 1]].concat(), Malformed::Truncated),
            (discover().option(50, &[1, 2, 3]).end(), Malformed::Length(50)),
            (discover().option(54, &[1; 8]).end(), Malformed::Length(54)),
            (discover().option(51, &[]).end(), Malformed::Length(51)),
            (discover().option(57, &[1]).end(), Malformed::Length(57)),
            (discover().option(53, &[1]).end(), Malformed::Length(53)),
            (discover().option(93, &[0, 7, 0]).end(), Malformed::Length(93)),
            (discover().option(97, &[0; 16]).end(), Malformed::Length(97)),
            (discover().option(52, &[4]).end(), Malformed::Overload),
            (Packet::of(MAC, 9).end(), Malformed::MessageType),
            (Packet::of(MAC, 0).option(53, &[0]).end(), Malformed::MessageType),
            (discover().option(82, &[1, 5, 0]).end(), Malformed::Relay),
            (discover().option(82, &[5, 3, 1, 1, 1]).end(), Malformed::Relay),
        ] {
            assert_eq!(Request::parse(&packet).map(|_| ()), Err(wanted), "{packet:?}");
        }
    }

    #[test]
    fn options_of_one_code_are_one_wherever_they_stand() {
        let packet = discover()
            .option(52, &[3])
            .option(12, b"a-")
            .option(60, b"PXEClient")
            .option(12, b"long-")
            .at(108, &[12, 5, b'n', b'a', b'm', b'e', b'-', 255, 9, 99])
            .at(44, &[0, 12, 1, b'x', 255])
            .end();
        let request = Request::parse(&packet).unwrap();
        assert_eq!(request.host_name(), Some(b"a-long-name-x".as_slice()));
        assert_eq!(request.vendor_class(), Some(b"PXEClient".as_slice()));
        let cut = discover().option(52, &[1]).at(108, &[0; 128]).at(234, &[12, 1]).end();
        assert_eq!(Request::parse(&cut).map(|_| ()), Err(Malformed::Truncated), "an option ends in its field");
    }

    #[test]
    fn user_classes_are_a_text_or_a_list() {
        let classes = |data: &[u8]| {
            let packet = discover().option(77, data).end();
            Request::parse(&packet).unwrap().user_classes().iter().map(|class| class.to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(classes(b"iPXE"), [b"iPXE"]);
        assert_eq!(classes(b"\x04iPXE"), [b"iPXE"]);
        assert_eq!(classes(b"\x04iPXE\x02ab"), [b"iPXE".to_vec(), b"ab".to_vec()]);
        assert_eq!(classes(b"\x04iPXE\x09ab"), [b"\x04iPXE\x09ab"]);
        assert_eq!(classes(b""), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn bootp_has_a_cookie_or_zeros() {
        let bootp = Packet::of(MAC, 0).option(1, &[255, 255, 255, 0]).end();
        let request = Request::parse(&bootp).unwrap();
        assert_eq!((request.message, request.has_cookie), (Message::Bootp, true));
        let old = [Packet::of(MAC, 0).at(236, &[0; 4]).0, vec![0; 60]].concat();
        let request = Request::parse(&old).unwrap();
        assert_eq!((request.message, request.has_cookie), (Message::Bootp, false));
    }

    #[test]
    fn lists_and_relays() {
        let packet = discover()
            .option(93, &[0, 7, 0, 16])
            .option(97, &[])
            .option(82, &[1, 3, b'e', b't', b'h', 5, 4, 10, 9, 0, 0, 2, 1, 7])
            .end();
        let request = Request::parse(&packet).unwrap();
        assert_eq!(request.archs().collect::<Vec<_>>(), [7, 16]);
        assert_eq!((request.uuid(), request.uuid_option()), (None, Some([].as_slice())));
        assert_eq!(request.relay(CIRCUIT_ID), Some(b"eth".as_slice()));
        assert_eq!(request.relay(REMOTE_ID), Some([7].as_slice()));
        assert_eq!(request.link_selection(), Some(Ipv4Addr::new(10, 9, 0, 0)));
    }

    #[test]
    fn the_end_may_be_missing() {
        let packet = discover().option(12, b"x").0;
        assert_eq!(Request::parse(&packet).unwrap().host_name(), Some(b"x".as_slice()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            op in 0..3_u8,
            hlen in 5..8_u8,
            fields in proptest::collection::vec(any::<u8>(), 192),
            options in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut packet = discover().at(0, &[op]).at(2, &[hlen]).at(44, &fields).0;
            packet.extend_from_slice(&options);
            for len in [packet.len(), 230] {
                if let Ok(request) = Request::parse(&packet[..len]) {
                    request.user_classes();
                    request.uuid();
                    request.archs().for_each(drop);
                }
            }
        }
    }
}
