//! What brokers and librdkafka say when something is wrong: a word from a fixed set for metrics, and one line for a person
//! that says what to do.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::Error;

/// The kind of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// No connection, no answer, no such host, no leader: waiting may mend it.
    Away,
    /// The broker does not take the user and password.
    Authentication,
    /// No TLS connection.
    Tls,
    /// The user may not do it.
    Denied,
    /// There is no such topic or partition.
    TopicMissing,
    /// The broker does not take a message of this size.
    TooLarge,
    /// A setting that cannot be right.
    InvalidConfig,
    /// Too few copies of the partition are up.
    NotEnoughReplicas,
    /// The broker asks to slow down.
    Throttled,
    /// Another one has taken over.
    Fenced,
    /// Anything else.
    Other,
}

impl Class {
    /// Every class, to register metrics.
    pub(crate) const ALL: [Class; 11] = [
        Class::Away,
        Class::Authentication,
        Class::Tls,
        Class::Denied,
        Class::TopicMissing,
        Class::TooLarge,
        Class::InvalidConfig,
        Class::NotEnoughReplicas,
        Class::Throttled,
        Class::Fenced,
        Class::Other,
    ];

    /// The word for metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::Away => "broker_away",
            Class::Authentication => "authentication",
            Class::Tls => "tls",
            Class::Denied => "denied",
            Class::TopicMissing => "topic_missing",
            Class::TooLarge => "too_large",
            Class::InvalidConfig => "invalid_config",
            Class::NotEnoughReplicas => "not_enough_replicas",
            Class::Throttled => "throttled",
            Class::Fenced => "fenced",
            Class::Other => "other",
        }
    }

    /// The class of an error code.
    pub(crate) fn of(code: Code) -> Class {
        match code {
            Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::NotController
            | Code::UnknownBroker
            | Code::DestroyBroker
            | Code::ListenerNotFound
            | Code::EligibleLeadersNotAvailable
            | Code::KafkaStorageError => Class::Away,
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState => Class::Authentication,
            Code::SSL => Class::Tls,
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed => Class::Denied,
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopicId
            | Code::InvalidTopic => Class::TopicMissing,
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => Class::TooLarge,
            Code::InvalidArgument
            | Code::NotConfigured
            | Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::PolicyViolation
            | Code::InvalidRequest
            | Code::InvalidGroupId
            | Code::InvalidSessionTimeout
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedCompressionType
            | Code::InconsistentGroupProtocol => Class::InvalidConfig,
            Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::ISRInsufficient
            | Code::InvalidReplicationFactor => Class::NotEnoughReplicas,
            Code::ThrottlingQuotaExceeded => Class::Throttled,
            Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch
            | Code::FencedInstanceId
            | Code::IllegalGeneration
            | Code::UnknownMemberId => Class::Fenced,
            _ => Class::Other,
        }
    }

    /// What to do about it.
    fn advice(self) -> &'static str {
        match self {
            Class::Away => "see that the brokers run, and that kafka.brokers and what they advertise can be reached",
            Class::Authentication => {
                "see that sasl.mechanism, sasl.username and sasl.password in [kafka.properties] are those of a user that \
                 the brokers know"
            }
            Class::Tls => {
                "see that ssl.ca.location in [kafka.properties] is the authority of the brokers' certificates, and that \
                 these name the hosts in kafka.brokers"
            }
            Class::Denied => {
                "give the user the rights on the brokers (kafka-acls.sh); `greypit check --connect` lists them"
            }
            Class::TopicMissing => "create it, or let [kafka.topics] create = true do so",
            Class::TooLarge => "raise max.message.bytes of the topic",
            Class::InvalidConfig => "see the section [kafka]",
            Class::NotEnoughReplicas => "see that enough brokers run for replication and min.insync.replicas",
            Class::Throttled => "raise the user's quota on the brokers if it goes on",
            Class::Fenced => "another has taken over; it goes on by itself",
            Class::Other => "see the brokers' logs",
        }
    }

    /// The key that a mistake of this class is most likely in.
    fn key(self) -> &'static str {
        match self {
            Class::Authentication => "kafka.properties.sasl.username",
            Class::Tls => "kafka.properties.ssl.ca.location",
            Class::TopicMissing => "kafka.topics.create",
            _ => "kafka.brokers",
        }
    }
}

/// Something that is wrong, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) class: Class,
    /// One line: what was tried, what is wrong, what to do.
    pub(crate) line: String,
    definite: bool,
}

impl Problem {
    /// A problem whose line already says what to do.
    pub(crate) fn new(class: Class, line: impl Into<String>) -> Problem {
        let definite = matches!(class, Class::Authentication | Class::Denied | Class::InvalidConfig);
        Problem { class, line: line.into(), definite }
    }

    /// What a code means when `doing` something (`"create topic x"`).
    pub(crate) fn of_code(doing: &str, code: Code) -> Problem {
        Problem::said(doing, code, &code.to_string())
    }

    /// The same, in the words of the broker or of librdkafka.
    pub(crate) fn said(doing: &str, code: Code, says: &str) -> Problem {
        let class = Class::of(code);
        let advice = match class {
            // What one that expects TLS, or a password, does to a client that does not.
            Class::Away if says.contains("Disconnected") => {
                "see that the broker runs, and that security.protocol in [kafka.properties] is what this port of it wants"
            }
            class => class.advice(),
        };
        let problem = Problem::new(class, format!("cannot {doing}: {}; {advice}", plain(says)));
        // Without a word about certificates a broker, or what stands before it, may just be starting.
        let untrusted = class == Class::Tls && says.contains("certificate");
        Problem { definite: problem.definite || untrusted, ..problem }
    }

    /// The same of an operation that failed.
    pub(crate) fn of(doing: &str, error: &KafkaError) -> Problem {
        let code = match error {
            KafkaError::AdminOp(code) => Some(*code),
            error => error.rdkafka_error_code(),
        };
        match (code, error) {
            (Some(code), _) => Problem::of_code(doing, code),
            (None, KafkaError::ClientCreation(says) | KafkaError::AdminOpCreation(says)) => {
                Problem::new(Class::InvalidConfig, format!("cannot {doing}: {}", plain(says)))
            }
            (None, error) => Problem::new(Class::Other, format!("cannot {doing}: {error}")),
        }
    }

    /// Whether waiting cannot mend it. A daemon that starts gives up on it; one that runs goes on trying, because somebody
    /// may mend it on the brokers.
    pub(crate) fn is_definite(&self) -> bool {
        self.definite
    }

    /// As a mistake in the config.
    pub(crate) fn into_config(self) -> Error {
        Error::Config { key: self.class.key().into(), problem: self.line }
    }
}

/// A text of librdkafka in one line, without what helps nobody here.
fn plain(says: &str) -> String {
    let says = says.replace(['\n', '\r'], " ");
    let says = says.split(" (after ").next().unwrap_or_default();
    let says = says.replace(" (brew install openssl)", "").replace(" (install ca-certificates package)", "");
    says.trim_end_matches([' ', '.', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_word_and_a_line_that_says_what_to_do() {
        for (code, name, says) in [
            (Code::AllBrokersDown, "broker_away", "brokers run"),
            (Code::SaslAuthenticationFailed, "authentication", "sasl.password"),
            (Code::SSL, "tls", "ssl.ca.location"),
            (Code::GroupAuthorizationFailed, "denied", "kafka-acls.sh"),
            (Code::UnknownTopicOrPartition, "topic_missing", "create it"),
            (Code::MessageSizeTooLarge, "too_large", "max.message.bytes"),
            (Code::NotEnoughReplicas, "not_enough_replicas", "min.insync.replicas"),
            (Code::Unknown, "other", "logs"),
        ] {
            let problem = Problem::of_code("try", code);
            assert_eq!(problem.class.name(), name);
            assert!(problem.line.starts_with("cannot try: ") && problem.line.contains(says), "{}", problem.line);
        }
        let names: std::collections::BTreeSet<_> = Class::ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), Class::ALL.len());
    }

    #[test]
    fn what_librdkafka_says_becomes_one_plain_line() {
        let says = "ssl://a:1/bootstrap: SSL handshake failed: certificate verify failed (after 6ms in state SSL)";
        let problem = Problem::said("reach the brokers", Code::SSL, says);
        assert!(problem.line.contains("certificate verify failed; see that"), "{}", problem.line);
        assert!(problem.is_definite());
        let starting = Problem::said("reach the brokers", Code::SSL, "SSL handshake failed: Disconnected");
        assert!(!starting.is_definite());
        assert!(!Problem::of_code("reach the brokers", Code::Resolve).is_definite());
        let creation = Problem::of("start", &KafkaError::ClientCreation("ssl.ca.location failed:\nno file".into()));
        assert_eq!(creation.line, "cannot start: ssl.ca.location failed: no file");
        assert!(creation.is_definite());
    }
}
