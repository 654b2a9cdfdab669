//! What can go wrong on the way to a topic: a bounded set of names for alerts, and a line that says what to do.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Error};

use crate::kafka::errors::{Class, Problem};

/// Names a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// Of the brokers, or of the way there.
    Brokers(Class),
    /// The broker takes the event for invalid.
    Invalid,
    /// The broker takes no event of that time.
    Timestamp,
    /// Nothing is acknowledged, and nobody says why.
    Stalled,
    /// On this node's disk.
    Spool,
    /// Given up with another message that failed; says nothing.
    Purged,
}

impl Code {
    /// Those that are counted.
    pub(super) fn all() -> impl Iterator<Item = Code> {
        let ours = [Code::Invalid, Code::Timestamp, Code::Stalled, Code::Spool];
        Class::ALL.into_iter().map(Code::Brokers).chain(ours)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Code::Brokers(class) => class.name(),
            Code::Invalid => "invalid",
            Code::Timestamp => "timestamp",
            Code::Stalled => "stalled",
            Code::Spool => "spool",
            Code::Purged => Class::Other.name(),
        }
    }

    pub(super) fn of(error: Error) -> Code {
        match error {
            Error::InvalidRecord | Error::InvalidMessage => Code::Invalid,
            Error::InvalidTimestamp => Code::Timestamp,
            Error::PurgeQueue
            | Error::PurgeInflight
            | Error::Fatal
            | Error::GaplessGuarantee
            | Error::OutOfOrderSequenceNumber
            | Error::DestroyBroker
            | Error::BrokerDestroy => Code::Purged,
            error => Code::Brokers(Class::of(error)),
        }
    }

    /// Whether it is the event itself that will never be taken.
    pub(super) fn is_of_the_event(self) -> bool {
        matches!(self, Code::Brokers(Class::TooLarge) | Code::Invalid)
    }
}

/// Something that went wrong, with a line for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// An error of librdkafka while `doing` something (`"produce to x"`).
    pub(super) fn of(doing: &str, error: &KafkaError) -> Failure {
        match error.rdkafka_error_code() {
            Some(code) => Failure::said(doing, code, &code.to_string()),
            None => {
                let Problem { class, line, .. } = Problem::of(doing, error);
                Failure::new(Code::Brokers(class), line)
            }
        }
    }

    /// The same, in the words of the broker or of librdkafka.
    pub(super) fn said(doing: &str, error: Error, says: &str) -> Failure {
        let code = Code::of(error);
        match code {
            Code::Timestamp => Failure::new(
                code,
                format!(
                    "cannot {doing}: {says}; see that this node's clock is right, and the topic's \
                     message.timestamp.before.max.ms and message.timestamp.after.max.ms"
                ),
            ),
            Code::Invalid | Code::Purged => Failure::new(code, format!("cannot {doing}: {says}")),
            _ => Failure::new(code, Problem::said(doing, error, says).line),
        }
    }
}

impl From<crate::Error> for Failure {
    /// Of the spool or of what is set aside.
    fn from(error: crate::Error) -> Failure {
        Failure::new(Code::Spool, error.to_string())
    }
}
