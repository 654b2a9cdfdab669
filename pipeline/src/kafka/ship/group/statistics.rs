//! What librdkafka's statistics say of the logs' ends and of the brokers.

use std::collections::HashMap;

use serde::Deserialize;

/// The ends of a partition's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// What was heard.
pub(super) struct Heard {
    /// By topic and partition.
    pub(super) ends: HashMap<(String, i32), Ends>,
    /// Whether any broker is connected.
    pub(super) is_up: bool,
}

#[derive(Deserialize)]
struct Statistics {
    brokers: HashMap<String, Broker>,
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Broker {
    state: String,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<i32, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    lo_offset: i64,
    hi_offset: i64,
}

/// Reads them.
pub(super) fn read(json: &[u8]) -> serde_json::Result<Heard> {
    let statistics: Statistics = serde_json::from_slice(json)?;
    let mut ends = HashMap::new();
    for (topic, Topic { partitions }) in statistics.topics {
        for (partition, Partition { lo_offset: low, hi_offset: high }) in partitions {
            // One of -1 stands for "none" and for "not known yet".
            if partition >= 0 && low >= 0 && high >= 0 {
                ends.insert((topic.clone(), partition), Ends { low, high });
            }
        }
    }
    Ok(Heard { ends, is_up: statistics.brokers.values().any(|broker| broker.state == "UP") })
}
