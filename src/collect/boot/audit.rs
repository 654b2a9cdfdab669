//! Every packet and transfer as an event: `dhcp`, `tftp`, `http`, `dns`, `power`.
//!
//! [`Audit::record`] never waits: where the pipeline's queue is full or has ended the event is dropped and counted, and
//! the machine boots all the same.
//!
//! A body begins `{"kind":"dhcp","ts":"…"`, in UTC to the microsecond. Then come, where they are known, `session` (the
//! boot session, see [`super::sessions`]), `machine` (its host name), `mac`, `addr`, the protocol's own fields, and at
//! the end `decision` and `why`. Texts that others wrote are cut at [`TEXT_BYTES_MAX`] bytes; what is not UTF-8 is
//! U+FFFD.

use std::fmt::{Display, Write as _};
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use greypit_pipeline::{Group, Kind, Refused, Register, Submit};
use jiff::Timestamp;
use prometheus::{IntCounterVec, Registry};

use crate::collect::complaints::Complaints;
use crate::collect::record::json;

/// Of one text of somebody else's, before escaping.
pub(crate) const TEXT_BYTES_MAX: usize = 1 << 10;

pub(crate) const DHCP: Kind = Kind::new("dhcp");
pub(crate) const TFTP: Kind = Kind::new("tftp");
pub(crate) const HTTP: Kind = Kind::new("http");
pub(crate) const DNS: Kind = Kind::new("dns");
pub(crate) const POWER: Kind = Kind::new("power");

/// Where events go.
#[derive(Debug)]
pub(crate) struct Audit {
    /// None once it is closed.
    submit: RwLock<Option<Submit>>,
    events: IntCounterVec,
    dropped: IntCounterVec,
    complaints: Complaints,
}

impl Audit {
    pub(crate) fn new(submit: Submit, registry: &Registry) -> prometheus::Result<Audit> {
        let register = Register::new(registry, "greypit_boot_");
        let audit = Audit {
            submit: RwLock::new(Some(submit)),
            events: register.counters("events_total", "Boot events given to the pipeline.", &["kind"])?,
            dropped: register.counters(
                "events_dropped_total",
                "Packets and transfers that did not become events; they were answered all the same.",
                &["kind", "reason"],
            )?,
            complaints: Complaints::default(),
        };
        for kind in super::KINDS {
            audit.events.with_label_values(&[kind.as_str()]);
            for reason in ["queue_full", "closed", "unfit"] {
                audit.dropped.with_label_values(&[kind.as_str(), reason]);
            }
        }
        Ok(audit)
    }

    /// Nothing comes any more: the pipeline, which ends once nobody can submit, does not wait for whoever still has this.
    pub(crate) fn close(&self) {
        *self.submit.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Gives an event to the pipeline, or counts that it could not.
    pub(crate) fn record(&self, record: Record) {
        let kind = record.kind;
        let mut group = Group::new();
        let pushed = group.push(kind, &record.end());
        let submit = self.submit.read().unwrap_or_else(PoisonError::into_inner);
        let submitted = pushed.map(|()| match submit.as_ref() {
            Some(submit) => submit.try_submit(group),
            None => Err(Refused::Closed(group)),
        });
        let reason = match submitted {
            Ok(Ok(())) => return self.events.with_label_values(&[kind.as_str()]).inc(),
            Ok(Err(Refused::Full(_))) => "queue_full",
            Ok(Err(Refused::Closed(_))) => "closed",
            Err(_) => "unfit",
        };
        self.dropped.with_label_values(&[kind.as_str(), reason]).inc();
        if let Some(unlogged) = self.complaints.allow() {
            tracing::warn!(reason, unlogged, %kind, "the record of a packet is dropped");
        }
    }
}

/// The body of an event that is being written.
#[derive(Debug)]
pub(crate) struct Record {
    kind: Kind,
    body: Vec<u8>,
}

impl Record {
    pub(crate) fn new(kind: Kind, at: Timestamp) -> Record {
        let mut body = Vec::with_capacity(512);
        body.extend_from_slice(format!("{{\"kind\":\"{kind}\",\"ts\":\"{at:.6}\"").as_bytes());
        Record { kind, body }
    }

    fn name(&mut self, name: &'static str) {
        self.body.extend_from_slice(b",\"");
        self.body.extend_from_slice(name.as_bytes());
        self.body.extend_from_slice(b"\":");
    }

    /// What somebody else wrote: any bytes.
    pub(crate) fn bytes(mut self, name: &'static str, value: &[u8]) -> Record {
        self.name(name);
        json::string(&mut self.body, &value[..value.len().min(TEXT_BYTES_MAX)], false);
        self
    }

    /// A text, ours or checked.
    pub(crate) fn text(self, name: &'static str, value: impl Display) -> Record {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "{value}");
        self.bytes(name, text.as_bytes())
    }

    /// A text where there is one.
    pub(crate) fn known(self, name: &'static str, value: Option<impl Display>) -> Record {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    pub(crate) fn number(mut self, name: &'static str, value: u64) -> Record {
        self.name(name);
        self.body.extend_from_slice(value.to_string().as_bytes());
        self
    }

    pub(crate) fn flag(mut self, name: &'static str, value: bool) -> Record {
        self.name(name);
        self.body.extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// What could not be read, whole; a packet's size is its limit.
    pub(crate) fn base64(mut self, name: &'static str, value: &[u8]) -> Record {
        self.name(name);
        self.body.push(b'"');
        self.body.extend_from_slice(STANDARD.encode(value).as_bytes());
        self.body.push(b'"');
        self
    }

    /// A list of texts.
    pub(crate) fn list(mut self, name: &'static str, values: impl IntoIterator<Item = impl Display>) -> Record {
        self.name(name);
        self.body.push(b'[');
        for (i, value) in values.into_iter().enumerate() {
            if i > 0 {
                self.body.push(b',');
            }
            let text = value.to_string();
            json::string(&mut self.body, &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)], false);
        }
        self.body.push(b']');
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.body.push(b'}');
        self.body
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use greypit_pipeline::submit::testing::queue;

    use super::*;

    #[test]
    fn closed_it_holds_up_no_end_and_counts() {
        let ((submit, queue), registry) = (queue(1 << 20), Registry::new());
        let audit = Audit::new(submit, &registry).unwrap();
        let record = || audit.record(Record::new(TFTP, Timestamp::UNIX_EPOCH));
        record();
        audit.close();
        record();
        // It does not wait: nobody can submit.
        let hour = Duration::from_secs(3600);
        assert!(queue.next(hour).is_some() && queue.next(hour).is_none());
        assert_eq!(audit.events.with_label_values(&["tftp"]).get(), 1);
        assert_eq!(audit.dropped.with_label_values(&["tftp", "closed"]).get(), 1);
    }

    #[test]
    fn a_record_is_one_json_object_whatever_the_bytes_are() {
        let record = Record::new(TFTP, Timestamp::UNIX_EPOCH)
            .bytes("filename", b"a\"b\xff\n")
            .number("bytes", 7)
            .flag("done", true)
            .known("machine", None::<&str>)
            .list("options", ["blksize", "tsize"])
            .base64("raw_base64", &[0, 255])
            .bytes("long", &[b'x'; 5000]);
        let body: serde_json::Value = serde_json::from_slice(&record.end()).unwrap();
        assert_eq!(body["kind"], "tftp");
        assert_eq!(body["ts"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(body["filename"], "a\"b\u{FFFD}\n");
        assert_eq!((&body["bytes"], &body["done"]), (&7.into(), &true.into()));
        assert_eq!(body["options"][1], "tsize");
        assert_eq!(body["raw_base64"], "AP8=");
        assert_eq!(body["long"].as_str().map(str::len), Some(TEXT_BYTES_MAX));
        assert!(body.get("machine").is_none());
    }
}
