//! What librdkafka tells outside of messages: rebalances, statistics, failed commits. Kept until the member's thread asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::super::metrics::Metrics;
use crate::kafka::log;

/// Partitions by topic and number.
type Partitions = Vec<(String, i32)>;

/// What happened to this member.
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Partitions),
    Revoked(Partitions),
}

/// What librdkafka tells outside of messages.
#[derive(Debug)]
pub(super) struct Context {
    changes: Mutex<Vec<Change>>,
    statistics: Mutex<Option<Vec<u8>>>,
    metrics: Metrics,
    problem: Mutex<Option<String>>,
    /// Whether a commit has failed.
    commit_failed: AtomicBool,
}

impl ClientContext for Context {
    /// A commit that fails later is told nowhere else: rdkafka sets no callback for the ends of commits.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "COMMITFAIL" {
            self.metrics.commit_errors.inc();
            self.commit_failed.store(true, Ordering::Relaxed);
        }
        log::line(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        *lock(&self.statistics) = Some(statistics.to_vec());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka: consumer");
        *lock(&self.problem) = Some(format!("{error}: {reason}"));
    }
}

impl ConsumerContext for Context {
    /// Partitions begin paused: where they go on is not for the group's offset to say.
    fn rebalance(&self, consumer: &BaseConsumer<Context>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let listed = partitions.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect();
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let (change, done) = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                // A plain offset spares librdkafka asking for the group's.
                let _ = partitions.set_all_offsets(Offset::Offset(0));
                let assigned = match cooperative {
                    true => consumer.incremental_assign(partitions),
                    false => consumer.assign(partitions),
                };
                (Change::Assigned(listed), assigned.and_then(|()| consumer.pause(partitions)))
            }
            _ => {
                let revoked = match cooperative {
                    true => consumer.incremental_unassign(partitions),
                    false => consumer.unassign(),
                };
                (Change::Revoked(listed), revoked)
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "kafka: rebalance");
        }
        self.metrics.rebalances.inc();
        lock(&self.changes).push(change);
    }
}

impl Context {
    pub(super) fn new(metrics: Metrics) -> Context {
        Context {
            changes: Mutex::default(),
            statistics: Mutex::default(),
            metrics,
            problem: Mutex::default(),
            commit_failed: AtomicBool::new(false),
        }
    }

    /// What the group has given and taken since this was last asked.
    pub(super) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut *lock(&self.changes))
    }

    /// The latest statistics, once.
    pub(super) fn take_statistics(&self) -> Option<Vec<u8>> {
        lock(&self.statistics).take()
    }

    /// What is wrong with the connections, once.
    pub(super) fn take_problem(&self) -> Option<String> {
        lock(&self.problem).take()
    }

    /// Whether a commit has failed since this was last asked.
    pub(super) fn take_commit_failed(&self) -> bool {
        self.commit_failed.swap(false, Ordering::Relaxed)
    }

    pub(super) fn commit_failed(&self, error: &KafkaError) {
        self.metrics.commit_errors.inc();
        tracing::warn!(%error, "kafka: an offset could not be committed; the cuts in the store say it too");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
