//! One kind on its way to its topic: where it goes, and what is known of its events.

use prometheus::IntCounter;

use super::client::Limit;
use super::forward::Forwarder;
use super::partition;
use super::record::Records;
use super::stream::Stream;
use crate::Result;
use crate::event::Kind;
use crate::spool::ledger::Ledger;

/// Where the topic has another number of partitions than before: what may have been sent stays where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    /// Events below may have been sent to the old partition, and are sent there.
    pub(super) below: u64,
    /// Where the others go.
    partition: i32,
}

/// One kind on its way.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) kind: Kind,
    pub(super) topic: String,
    pub(super) records: Records,
    pub(super) stream: Stream,
    pub(super) partition: i32,
    pub(super) fence: Option<Fence>,
    /// The largest message that the topic takes, once it is asked for and known.
    pub(super) limit: Option<Limit>,
    /// Whether the topic has been found, by this producer.
    pub(super) is_open: bool,
    /// Events below may have been sent.
    maybe_sent: u64,
    /// The ledger says that events below are acknowledged.
    pub(super) saved: u64,
    pub(super) events: IntCounter,
    pub(super) bytes: IntCounter,
}

impl Lane {
    pub(super) fn new(parts: &Forwarder, kind: Kind, acknowledged: u64) -> Lane {
        let metrics = &parts.output.metrics;
        Lane {
            kind,
            topic: parts.output.config.topic(kind),
            records: Records::new(&parts.node, &parts.epoch, kind),
            stream: Stream::new(acknowledged),
            partition: 0,
            fence: None,
            limit: None,
            is_open: false,
            maybe_sent: parts.next_seqs.get(&kind).copied().unwrap_or(1),
            saved: acknowledged,
            events: metrics.events.with_label_values(&[kind.as_str()]),
            bytes: metrics.bytes.with_label_values(&[kind.as_str()]),
        }
    }

    /// The largest message that the topic takes, once it is known.
    pub(super) fn max_bytes(&self) -> Option<usize> {
        self.limit.as_ref()?.get().copied()
    }

    /// Decides where events go, in a topic of `partitions`; durably, before the first is sent.
    pub(super) fn open(&mut self, key: &str, partitions: i32, ledger: &mut Ledger) -> Result<()> {
        let wanted = partition::of(key.as_bytes(), partitions);
        // A partition that is gone has taken with it what was sent there.
        let before = ledger.partition(self.kind).filter(|before| *before < partitions);
        (self.partition, self.fence) = match before {
            Some(before) if before != wanted && self.stream.acknowledged() < self.maybe_sent => {
                (before, Some(Fence { below: self.maybe_sent, partition: wanted }))
            }
            _ => (wanted, None),
        };
        ledger.set_partition(self.kind, self.partition)?;
        if let Some(fence) = self.fence {
            let (topic, partition) = (&self.topic, self.partition);
            tracing::info!(topic, partition, next = fence.partition, "kafka: the topic's partitions have changed");
        }
        self.is_open = true;
        Ok(())
    }

    /// Goes over to the new partition, once all before the fence is acknowledged.
    pub(super) fn pass_fence(&mut self, ledger: &mut Ledger) -> Result<()> {
        if let Some(fence) = self.fence {
            ledger.set_partition(self.kind, fence.partition)?;
            self.partition = fence.partition;
            self.fence = None;
            self.stream.turn();
        }
        Ok(())
    }

    /// Notes that a producer is gone, and with it what it knew.
    pub(super) fn close(&mut self) {
        self.maybe_sent = self.maybe_sent.max(self.stream.fed_below());
        (self.is_open, self.fence) = (false, None);
    }
}
