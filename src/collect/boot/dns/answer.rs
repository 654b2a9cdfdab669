//! What a query is answered: pure, bytes in and bytes out.
//!
//! | query | answer |
//! |---|---|
//! | shorter than a header, or itself an answer (QR = 1) | none |
//! | opcode other than QUERY | NOTIMP |
//! | not exactly one question (RFC 9619), or cannot be read | FORMERR |
//! | EDNS version above 0 | BADVERS, RFC 6891 6.1.3 |
//! | of a machine that may not boot | REFUSED |
//! | AXFR, IXFR, a class other than IN | REFUSED |
//! | A, PTR of a machine or a lease | the record, authoritative |
//! | ANY of such a name | one HINFO, RFC 8482 |
//! | another type of such a name, such as AAAA | no record, and the zone's SOA, RFC 2308 |
//! | any other name | to `boot.dns.forward`; without it, in our zones NXDOMAIN and SOA, elsewhere REFUSED |
//!
//! Our zones are the networks' domains and the addresses of the networks (in-addr.arpa). Without `forward` each zone has
//! an SOA and one NS, `ns.<domain>`, which is this server.
//!
//! The question comes back as it was written, upper and lower case too. An answer over UDP has at most
//! [`UDP_BYTES_MAX`] bytes, and no more than the client takes (512 without EDNS); what does not fit is cut to the question
//! and marked TC.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, HINFO, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::index::{Found, Zones};

/// What passes everywhere without fragments, RFC 9715.
pub(super) const UDP_BYTES_MAX: u16 = 1232;

/// The fixed header, RFC 1035 4.1.1.
pub(super) const HEADER_BYTES: usize = 12;

/// How long others may keep a record, and that there is none.
const TTL_S: u32 = 60;

/// This server's name in its zones.
pub(super) const OWN_LABEL: &str = "ns";

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
    }

    /// The largest answer to `query`.
    pub(super) fn bytes_max(self, query: &Message) -> usize {
        match self {
            Transport::Udp => query.max_payload().min(UDP_BYTES_MAX).into(),
            Transport::Tcp => u16::MAX.into(),
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) transport: Transport,
    /// Our address in its network.
    pub(super) server: Option<Ipv4Addr>,
    /// Why the policy gives it nothing.
    pub(super) refused: Option<&'static str>,
    /// Whether names that are not ours are asked of others.
    pub(super) forwards: bool,
}

/// Why a packet gets no answer, not even an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Silent {
    /// It is no header.
    Short,
    /// It is an answer: two servers must not answer each other for ever.
    Response,
}

/// What becomes of a query.
#[derive(Debug)]
pub(super) enum Reply {
    None(Silent),
    Answer(Answer),
    /// The others know.
    Forward(Box<Message>),
}

/// An answer of ours.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) rcode: ResponseCode,
    /// The question, where it could be read.
    pub(super) question: Option<(Name, RecordType)>,
    /// The data of its records.
    pub(super) answers: Vec<String>,
    /// Why it is not what was asked for.
    pub(super) why: Option<&'static str>,
}

/// The answer to `packet`. Never more than its transport takes, never a panic.
pub(super) fn answer(packet: &[u8], asker: Asker, zones: Zones<'_>) -> Reply {
    let query = match read(packet) {
        Ok(query) => query,
        Err(Unusable::Silent(silent)) => return Reply::None(silent),
        Err(Unusable::Error(metadata, why)) => return Reply::Answer(error(metadata, why)),
    };
    let Some(question) = query.queries.first() else {
        return Reply::Answer(error(failed(query.metadata, ResponseCode::FormErr), "no question"));
    };
    let refuse = |rcode, why| Reply::Answer(Draft::new(&query, asker).fail(rcode, why));
    if query.version() > 0 {
        return refuse(ResponseCode::BADVERS, "EDNS version");
    }
    if let Some(why) = asker.refused {
        return refuse(ResponseCode::Refused, why);
    }
    if question.query_class != DNSClass::IN {
        return refuse(ResponseCode::Refused, "class");
    }
    if matches!(question.query_type, RecordType::AXFR | RecordType::IXFR) {
        return refuse(ResponseCode::Refused, "transfer");
    }
    match (zones.find(&question.name, asker.server), zones.zone(&question.name)) {
        (Found::Nobody | Found::Apex | Found::Above | Found::Ourselves(_), _) if asker.forwards => {
            Reply::Forward(Box::new(query))
        }
        (Found::Nobody, None) => refuse(ResponseCode::Refused, "not ours"),
        (found, zone) => Reply::Answer(Draft::new(&query, asker).with(found, zone, zones)),
    }
}

enum Unusable {
    Silent(Silent),
    Error(Metadata, &'static str),
}

/// Reads a query: exactly one question. Counts that lie are found before anything is made room for.
fn read(packet: &[u8]) -> Result<Message, Unusable> {
    let Some(header) = packet.first_chunk::<HEADER_BYTES>() else { return Err(Unusable::Silent(Silent::Short)) };
    if header[2] & 0x80 != 0 {
        return Err(Unusable::Silent(Silent::Response));
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let opcode = OpCode::from_u8(header[2] >> 3 & 0xf);
    let error = |rcode, why| {
        let mut metadata = Metadata::new(id, MessageType::Response, opcode);
        metadata.recursion_desired = header[2] & 1 == 1;
        Unusable::Error(failed(metadata, rcode), why)
    };
    if opcode != OpCode::Query {
        return Err(error(ResponseCode::NotImp, "opcode"));
    }
    if [header[4], header[5]] != [0, 1] {
        return Err(error(ResponseCode::FormErr, "not one question"));
    }
    Message::from_vec(packet).map_err(|_| error(ResponseCode::FormErr, "malformed"))
}

fn failed(mut metadata: Metadata, rcode: ResponseCode) -> Metadata {
    metadata.message_type = MessageType::Response;
    metadata.response_code = rcode;
    metadata
}

/// A header alone: what is known of a query that cannot be read.
fn error(metadata: Metadata, why: &'static str) -> Answer {
    let counts = HeaderCounts { queries: 0, answers: 0, authorities: 0, additionals: 0 };
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    // A header always fits.
    let _ = Header { metadata, counts }.emit(&mut BinEncoder::new(&mut bytes));
    Answer { bytes, rcode: metadata.response_code, question: None, answers: Vec::new(), why: Some(why) }
}

/// SERVFAIL, where those who know cannot be asked.
pub(super) fn cannot(query: &Message, transport: Transport, why: &'static str) -> Answer {
    let asker = Asker { transport, server: None, refused: None, forwards: true };
    Draft::new(query, asker).fail(ResponseCode::ServFail, why)
}

/// The question alone, marked TC: ask by TCP.
pub(super) fn truncated(query: &Message, transport: Transport) -> Answer {
    let asker = Asker { transport, server: None, refused: None, forwards: true };
    let mut draft = Draft::new(query, asker);
    draft.message.metadata.truncation = true;
    draft.end(Some("too long"))
}

/// An answer that is being written.
struct Draft<'a> {
    query: &'a Message,
    transport: Transport,
    message: Message,
}

impl<'a> Draft<'a> {
    fn new(query: &'a Message, asker: Asker) -> Draft<'a> {
        let mut message = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        message.metadata = Metadata::response_from_request(&query.metadata);
        message.metadata.recursion_available = asker.forwards;
        message.add_queries(query.queries.iter().cloned());
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        Draft { query, transport: asker.transport, message }
    }

    fn fail(mut self, rcode: ResponseCode, why: &'static str) -> Answer {
        self.message.metadata.response_code = rcode;
        self.end(Some(why))
    }

    fn with(mut self, found: Found, zone: Option<String>, zones: Zones<'_>) -> Answer {
        self.message.metadata.authoritative = true;
        let question = self.query.queries.first();
        let asked = question.map_or(RecordType::ZERO, |question| question.query_type);
        let name = question.map_or_else(Name::root, |question| question.name.clone());
        let zone = zone.as_deref().and_then(absolute);
        let mut put = |data| {
            self.message.add_answer(Record::from_rdata(name.clone(), TTL_S, data));
        };
        match (found, asked) {
            (Found::Nobody, _) => self.message.metadata.response_code = ResponseCode::NXDomain,
            // RFC 8482 4.2.
            (_, RecordType::ANY) => put(RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))),
            (Found::Addresses(ips), RecordType::A) => ips.into_iter().for_each(|ip| put(RData::A(A(ip)))),
            (Found::Ourselves(ip), RecordType::A) => put(RData::A(A(ip))),
            (Found::Pointer(target), RecordType::PTR) => {
                absolute(&target).into_iter().for_each(|target| put(RData::PTR(PTR(target))));
            }
            (Found::Apex, RecordType::SOA) => {
                zone.iter().filter_map(|zone| soa(zone, zones)).for_each(|soa| put(RData::SOA(soa)));
            }
            (Found::Apex, RecordType::NS) => {
                zone.iter().filter_map(|zone| server(zone, zones)).for_each(|server| put(RData::NS(NS(server))));
            }
            _ => {}
        }
        if self.message.answers.is_empty()
            && let Some(zone) = zone
            && let Some(soa) = soa(&zone, zones)
        {
            self.message.add_authority(Record::from_rdata(zone, TTL_S, RData::SOA(soa)));
        }
        self.end(None)
    }

    fn end(self, why: Option<&'static str>) -> Answer {
        let bytes_max = self.transport.bytes_max(self.query);
        let mut message = self.message;
        let mut bytes = message.to_vec();
        if bytes.as_ref().is_ok_and(|bytes| bytes.len() > bytes_max) {
            message = message.truncate();
            bytes = message.to_vec();
        }
        let rcode = message.metadata.response_code;
        match bytes {
            Ok(bytes) => Answer {
                bytes,
                rcode,
                question: message.queries.first().map(|question| (question.name.clone(), question.query_type)),
                answers: message.answers.iter().map(|record| record.data.to_string()).collect(),
                why,
            },
            // Names that were read can be written again; should that not hold, an error is better than nothing.
            Err(_) => error(failed(message.metadata, ResponseCode::ServFail), "cannot be written"),
        }
    }
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// `ns.<domain>`; in zones of addresses too, if there is a domain.
fn server(zone: &Name, zones: Zones<'_>) -> Option<Name> {
    let forward = absolute("in-addr.arpa").is_none_or(|arpa| !arpa.zone_of(zone));
    let domain = zones.domain().filter(|_| !forward).and_then(|domain| absolute(&domain));
    domain.as_ref().unwrap_or(zone).prepend_label(OWN_LABEL).ok()
}

/// The zone's SOA. Nobody transfers it, so its number may be the time.
fn soa(zone: &Name, zones: Zones<'_>) -> Option<SOA> {
    let rname = zone.prepend_label("hostmaster").ok()?;
    Some(SOA::new(server(zone, zones)?, rname, zones.now_s as u32, 3600, 600, 86_400, TTL_S))
}

#[cfg(test)]
mod tests;
