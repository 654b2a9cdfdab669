//! The event of a packet.

use jiff::Timestamp;

use super::class;
use super::outcome::Arrival;
use super::wire::{CIRCUIT_ID, REMOTE_ID, Request};
use crate::collect::boot::audit::{self, Record};

/// What came: the event's fields up to the answer.
pub(super) fn packet(
    request: &Request<'_>,
    arrival: &Arrival,
    session: Option<&str>,
    machine: Option<&str>,
    addr: Option<std::net::Ipv4Addr>,
    now: Timestamp,
) -> Record {
    let some = |ip: std::net::Ipv4Addr| (!ip.is_unspecified()).then_some(ip);
    let mut record = Record::new(audit::DHCP, now)
        .known("session", session)
        .known("machine", machine)
        .text("mac", request.mac)
        .known("addr", addr)
        .text("message", request.message.name())
        .text("direction", "in")
        .text("xid", format_args!("{:08x}", request.xid))
        .number("secs", request.secs.into())
        .number("port", arrival.port.into())
        .known("giaddr", some(request.giaddr))
        .known("ciaddr", some(request.ciaddr))
        .known("yiaddr", some(request.yiaddr))
        .known("requested", request.requested)
        .known("server_id", request.server_id);
    if let Some(vendor) = request.vendor_class() {
        record = record.bytes("vendor_class", vendor);
    }
    if let Some(user) = request.user_classes().first() {
        record = record.bytes("user_class", user);
    }
    if let Some(arch) = class::arch(request) {
        record = match class::arch_name(arch) {
            Some(name) => record.text("arch", name),
            None => record.text("arch", arch),
        };
    }
    if let Some(uuid) = request.uuid() {
        record = record.text("uuid", Uuid(uuid));
    }
    if let Some(id) = request.client_id() {
        record = record.text("client_id", Hex(id));
    }
    if let Some(name) = request.host_name() {
        record = record.bytes("hostname", name);
    }
    for (name, code) in [("relay_circuit", CIRCUIT_ID), ("relay_remote", REMOTE_ID)] {
        if let Some(data) = request.relay(code) {
            record = record.text(name, Hex(data));
        }
    }
    record
}

/// Bytes that are no text.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The usual writing. Its first three parts are little-endian in SMBIOS, but DHCP clients send them as people read them
/// in one half of the cases and not in the other; so these are the bytes as they came.
struct Uuid([u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
