//! What can go wrong with the brokers: a bounded set of names for alerts, and for each a line that says what to do.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Error};

/// Names a failure in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Broker,
    Authentication,
    Tls,
    Authorization,
    Topic,
    TooLarge,
    Refused,
    Timestamp,
    Stalled,
    QueueFull,
    Config,
    Spool,
    Other,
    /// Given up with another message that failed; says nothing.
    Purged,
}

impl Code {
    /// Those that are counted.
    pub(super) const ALL: [Code; 13] = [
        Code::Broker,
        Code::Authentication,
        Code::Tls,
        Code::Authorization,
        Code::Topic,
        Code::TooLarge,
        Code::Refused,
        Code::Timestamp,
        Code::Stalled,
        Code::QueueFull,
        Code::Config,
        Code::Spool,
        Code::Other,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Code::Broker => "broker",
            Code::Authentication => "authentication",
            Code::Tls => "tls",
            Code::Authorization => "authorization",
            Code::Topic => "topic",
            Code::TooLarge => "too_large",
            Code::Refused => "refused",
            Code::Timestamp => "timestamp",
            Code::Stalled => "stalled",
            Code::QueueFull => "queue_full",
            Code::Config => "config",
            Code::Spool => "spool",
            Code::Other | Code::Purged => "other",
        }
    }

    pub(super) fn of(error: Error) -> Code {
        match error {
            Error::BrokerTransportFailure
            | Error::AllBrokersDown
            | Error::Resolve
            | Error::OperationTimedOut
            | Error::MessageTimedOut
            | Error::TimedOutQueue
            | Error::RequestTimedOut
            | Error::BrokerNotAvailable
            | Error::LeaderNotAvailable
            | Error::NotLeaderForPartition
            | Error::NetworkException
            | Error::NotEnoughReplicas
            | Error::NotEnoughReplicasAfterAppend => Code::Broker,
            Error::Authentication
            | Error::UnsupportedSASLMechanism
            | Error::IllegalSASLState
            | Error::SaslAuthenticationFailed => Code::Authentication,
            Error::SSL => Code::Tls,
            Error::TopicAuthorizationFailed
            | Error::ClusterAuthorizationFailed
            | Error::TransactionalIdAuthorizationFailed => Code::Authorization,
            Error::UnknownTopic | Error::UnknownTopicOrPartition | Error::UnknownPartition | Error::InvalidTopic => {
                Code::Topic
            }
            Error::MessageSizeTooLarge | Error::MessageBatchTooLarge | Error::InvalidMessageSize => Code::TooLarge,
            Error::InvalidRecord | Error::InvalidMessage => Code::Refused,
            Error::InvalidTimestamp => Code::Timestamp,
            Error::PurgeQueue
            | Error::PurgeInflight
            | Error::Fatal
            | Error::GaplessGuarantee
            | Error::OutOfOrderSequenceNumber
            | Error::DestroyBroker
            | Error::BrokerDestroy => Code::Purged,
            _ => Code::Other,
        }
    }

    /// Whether it is the event itself that will never be taken.
    pub(super) fn is_of_the_event(self) -> bool {
        matches!(self, Code::TooLarge | Code::Refused)
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

    /// An error of librdkafka concerning `what`, with what to do.
    pub(super) fn of(error: &KafkaError, what: &str) -> Failure {
        match error.rdkafka_error_code() {
            Some(code) => Failure::of_code(code, what),
            None => Failure::new(Code::Config, format!("{what}: {error}; see [kafka] in the config")),
        }
    }

    pub(super) fn of_code(error: Error, what: &str) -> Failure {
        let code = Code::of(error);
        Failure::new(code, format!("{what}: {error}{}", code.advice()))
    }
}

impl Code {
    fn advice(self) -> &'static str {
        match self {
            Code::Broker => "; events wait in the spool until the brokers answer",
            Code::Authentication => "; look at sasl.* in [kafka.properties]",
            Code::Tls => "; look at ssl.* in [kafka.properties]",
            Code::Authorization => {
                "; this user needs Write and Describe on the topic, and IdempotentWrite on old clusters"
            }
            Code::Topic => "; create the topic, or let greypit do it with kafka.topics.create = true and a restart",
            Code::TooLarge => "; raise max.message.bytes of the topic",
            Code::Timestamp => {
                "; is this node's clock right? The topic limits it by message.timestamp.before.max.ms and .after.max.ms"
            }
            _ => "",
        }
    }
}
