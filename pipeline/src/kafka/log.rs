//! What librdkafka logs, in our own log.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;

/// Lines of one facility about connections, which come with every attempt, are logged once in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

static LOGGED: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

/// Logs a line of librdkafka.
pub(crate) fn line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // Producers are told of settings that are for consumers, and the other way round: both get all of
        // `[kafka.properties]`.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning if repeats(facility) => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        // What it means for us, and whether anything must be done, is for the part that uses the client to say.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Debug => tracing::trace!(target: "librdkafka", facility, "{message}"),
    }
}

fn repeats(facility: &str) -> bool {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    match logged.get_mut(facility) {
        Some(last) if now.duration_since(*last) < REPEAT_AFTER => true,
        Some(last) => {
            *last = now;
            false
        }
        None => {
            logged.insert(facility.to_owned(), now);
            false
        }
    }
}
