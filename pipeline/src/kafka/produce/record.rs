//! What is in a message.

use std::ops::Range;

use rdkafka::message::{Header, OwnedHeaders};

use crate::encode::{Front, Read};
use crate::event::Kind;

/// The most that the broker counts of a message beside key, value and headers.
const OVERHEAD_BYTES: usize = 256;

/// Makes the messages of one kind, in buffers that are used again.
#[derive(Debug)]
pub(super) struct Records {
    kind: Kind,
    node: String,
    front: Front,
    /// `{"kind":"<kind>","ts":"`, as bodies begin.
    before_ts: String,
    value: Vec<u8>,
    received: String,
}

/// A message, but for its topic and partition.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) id: &'a str,
    pub(super) ts: &'a str,
    pub(super) value: &'a [u8],
    pub(super) timestamp_ms: i64,
    node: &'a str,
    kind: &'a str,
}

impl Records {
    pub(super) fn new(node: &str, epoch: &str, kind: Kind) -> Records {
        Records {
            kind,
            node: node.to_owned(),
            front: Front::new(node, epoch, kind),
            before_ts: format!("{{\"kind\":\"{kind}\",\"ts\":\""),
            value: Vec::new(),
            received: String::new(),
        }
    }

    pub(super) fn of(&mut self, event: Read<'_>) -> Record<'_> {
        self.value.clear();
        let id = self.front.push_record(&mut self.value, event.seq, event.body);
        let at = self.value.len() - event.body.len();
        let ts = ts(event.body, &self.before_ts).map(|ts| at + ts.start..at + ts.end);
        self.record(event.received_us, id, ts)
    }

    /// What goes in place of an event that no broker takes: the same id, and why.
    pub(super) fn marker(&mut self, event: Read<'_>, reason: &str) -> Record<'_> {
        let received = rfc3339(event.received_us);
        let ts = ts(event.body, &self.before_ts).and_then(|ts| std::str::from_utf8(&event.body[ts]).ok());
        let bytes = self.of(event).value.len();
        let ts = ts.unwrap_or(&received);
        let body = format!("{}{ts}\",\"set_aside\":\"{reason}\",\"bytes\":{bytes}}}", self.before_ts);
        self.of(Read { body: body.as_bytes(), ..event })
    }

    fn record(&mut self, received_us: i64, id: Range<usize>, ts: Option<Range<usize>>) -> Record<'_> {
        if ts.is_none() {
            self.received = rfc3339(received_us);
        }
        let text = |range: Range<usize>| std::str::from_utf8(&self.value[range]).unwrap_or_default();
        Record {
            id: text(id),
            ts: ts.map_or(self.received.as_str(), text),
            value: &self.value,
            timestamp_ms: received_us.div_euclid(1000),
            node: &self.node,
            kind: self.kind.as_str(),
        }
    }
}

impl Record<'_> {
    pub(super) fn headers(&self) -> OwnedHeaders {
        OwnedHeaders::new_with_capacity(4)
            .insert(Header { key: "id", value: Some(self.id) })
            .insert(Header { key: "kind", value: Some(self.kind) })
            .insert(Header { key: "node", value: Some(self.node) })
            .insert(Header { key: "ts", value: Some(self.ts) })
    }

    /// At most what it takes in a topic, uncompressed.
    pub(super) fn bytes_max(&self) -> usize {
        self.value.len() + self.id.len() + self.kind.len() + 2 * self.node.len() + self.ts.len() + OVERHEAD_BYTES
    }
}

/// Where `ts` is in a body that begins as ours do.
fn ts(body: &[u8], before: &str) -> Option<Range<usize>> {
    let rest = body.strip_prefix(before.as_bytes())?;
    let len = rest.iter().take(64).position(|byte| *byte == b'"')?;
    let plain = rest[..len].iter().all(|byte| (b' '..=b'~').contains(byte) && *byte != b'\\');
    (plain && len > 0).then(|| before.len()..before.len() + len)
}

fn rfc3339(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;

    const TO: Kind = Kind::new("to");
    const NOON_US: i64 = 1_763_640_000_123_456;

    fn records() -> Records {
        Records::new("mx1", "e1", TO)
    }

    fn read(body: &str) -> Read<'_> {
        Read { seq: 7, received_us: NOON_US, body: body.as_bytes() }
    }

    #[test]
    fn a_message_is_the_record_with_what_others_need_in_headers() {
        let mut records = records();
        let body = r#"{"kind":"to","ts":"2025-11-20T11:59:58.000+00:00","n":1}"#;
        let record = records.of(read(body));
        assert_eq!(
            std::str::from_utf8(record.value).unwrap(),
            r#"{"id":"mx1-e1-to-7","node":"mx1","kind":"to","ts":"2025-11-20T11:59:58.000+00:00","n":1}"#
        );
        assert_eq!(record.timestamp_ms, 1_763_640_000_123);
        let headers = record.headers();
        let headers: Vec<_> = headers.iter().map(|h| (h.key, std::str::from_utf8(h.value.unwrap()).unwrap())).collect();
        assert_eq!(
            headers,
            [("id", "mx1-e1-to-7"), ("kind", "to"), ("node", "mx1"), ("ts", "2025-11-20T11:59:58.000+00:00")]
        );
    }

    #[test]
    fn without_a_ts_in_front_it_is_when_the_event_was_received() {
        for body in [
            "{}",
            r#"{"n":1,"ts":"2025-11-20T11:59:58Z"}"#,
            r#"{"kind":"from","ts":"2025-11-20T11:59:58Z"}"#,
            r#"{"kind":"to","ts":""}"#,
            r#"{"kind":"to","ts":"a\nb"}"#,
            r#"{"kind":"to","ts":"ä"}"#,
        ] {
            assert_eq!(records().of(read(body)).ts, "2025-11-20T12:00:00.123456Z", "{body}");
        }
    }

    #[test]
    fn a_marker_has_the_id_and_the_ts_of_what_it_stands_for() {
        let body = format!(r#"{{"kind":"to","ts":"2025-11-20T11:59:58Z","x":"{}"}}"#, "y".repeat(1000));
        let bytes = records().of(read(&body)).value.len();
        let mut records = records();
        let marker = records.marker(read(&body), "too_large");
        assert_eq!((marker.id, marker.ts), ("mx1-e1-to-7", "2025-11-20T11:59:58Z"));
        let value: serde_json::Value = serde_json::from_slice(marker.value).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"id": "mx1-e1-to-7", "node": "mx1", "kind": "to", "ts": "2025-11-20T11:59:58Z",
                "set_aside": "too_large", "bytes": bytes})
        );
    }
}
