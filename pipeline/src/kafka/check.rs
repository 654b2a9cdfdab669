//! Whether everything that greypit needs of the brokers is there, for `greypit check --connect`: every broker can be
//! reached as it tells others to reach it, topics are there and fit, and this user has the rights. Nothing is changed: not
//! a message is written, not a topic made.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Config;
use super::ask::{Ask, New};
use super::errors::Problem;
use super::rights::{Operation, Rights};
use super::topics::{MESSAGE_BYTES, Wanted};
use crate::Kind;
use crate::units::{Size, Span};

/// What was looked at, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about, for example `topic greypit.to`.
    pub about: String,
    /// What was found.
    pub verdict: Verdict,
}

/// A verdict, with a line for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Ok(String),
    /// It works, and could be better.
    Note(String),
    /// It will not work, and what to do.
    Wrong(String),
}

impl Finding {
    /// As it must be.
    pub fn ok(about: impl Into<String>, line: impl Into<String>) -> Finding {
        Finding { about: about.into(), verdict: Verdict::Ok(line.into()) }
    }

    /// It works, and could be better.
    pub fn note(about: impl Into<String>, line: impl Into<String>) -> Finding {
        Finding { about: about.into(), verdict: Verdict::Note(line.into()) }
    }

    /// It will not work.
    pub fn wrong(about: impl Into<String>, line: impl Into<String>) -> Finding {
        Finding { about: about.into(), verdict: Verdict::Wrong(line.into()) }
    }
}

/// What a node does with the topics.
#[derive(Clone, Copy, Debug)]
pub struct Does {
    /// It sends.
    pub collect: bool,
    /// It reads, as a member of the group.
    pub ship: bool,
    /// The window of its batches: topics must keep messages for several.
    pub window: Span,
}

/// Looks at everything. What is found later may depend on what is wrong before it.
pub async fn check(config: &Config, wanted: &[Wanted], does: Does) -> Vec<Finding> {
    let configured: Vec<String> = config.brokers.split(',').map(|broker| broker.trim().to_owned()).collect();
    let mut findings = reach(config, &configured).await;
    let (config, wanted) = (config.clone(), wanted.to_vec());
    let runtime = tokio::runtime::Handle::current();
    // librdkafka's questions block.
    let asked = tokio::task::spawn_blocking(move || {
        // Said by the brokers' own findings.
        let Ok(ask) = Ask::connect(&config) else { return Vec::new() };
        runtime.block_on(look(&ask, &config, &configured, &wanted, does))
    });
    findings.extend(asked.await.unwrap_or_default());
    findings
}

/// Whether each of these brokers can be reached.
async fn reach(config: &Config, brokers: &[String]) -> Vec<Finding> {
    let mut tries = JoinSet::new();
    for (place, broker) in brokers.iter().cloned().enumerate() {
        let config = config.clone();
        tries.spawn_blocking(move || (place, reach_one(&config, &broker)));
    }
    let mut findings = tries.join_all().await;
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

fn reach_one(config: &Config, broker: &str) -> Finding {
    let about = format!("broker {broker}");
    match Ask::connect_to(config, broker) {
        Ok(_) => Finding::ok(about, format!("answers ({})", protocol(config))),
        Err(problem) => Finding::wrong(about, problem.line),
    }
}

fn protocol(config: &Config) -> String {
    let protocol = config.properties.get("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
    match config.properties.get("sasl.mechanism").filter(|_| protocol.starts_with("sasl")) {
        Some(mechanism) => format!("{protocol}, {mechanism}"),
        None => protocol,
    }
}

async fn look(ask: &Ask<'_>, config: &Config, configured: &[String], wanted: &[Wanted], does: Does) -> Vec<Finding> {
    let brokers = ask.brokers();
    let others: Vec<String> =
        brokers.iter().map(|broker| broker.address.clone()).filter(|address| !configured.contains(address)).collect();
    let mut findings = reach(config, &others).await;
    findings.extend(look_at_topics(ask, config, wanted, does.window, brokers.len()).await);
    findings.extend(look_at_rights(ask, config, wanted, does));
    findings
}

async fn look_at_topics(
    ask: &Ask<'_>,
    config: &Config,
    wanted: &[Wanted],
    window: Span,
    brokers: usize,
) -> Vec<Finding> {
    let there = ask.topics();
    let (present, missing): (Vec<&Wanted>, Vec<&Wanted>) =
        wanted.iter().partition(|topic| there.contains_key(&topic.name));
    let names: Vec<String> = present.iter().map(|topic| topic.name.clone()).collect();
    let settings = match names.is_empty() {
        true => Ok(Default::default()),
        false => ask.settings(&names).await,
    };
    let mut findings: Vec<Finding> = present
        .iter()
        .flat_map(|topic| {
            let spread = there[&topic.name];
            let about = format!("topic {}", topic.name);
            let shape = shape(spread.partitions, spread.replication);
            let settings = match &settings {
                Ok(settings) => settings.get(&topic.name),
                Err(problem) => return vec![Finding::note(about, format!("{shape}; {}", problem.line))],
            };
            let settings = match settings {
                Some(Ok(settings)) => settings,
                Some(Err(problem)) => return vec![Finding::note(about, format!("{shape}; {}", problem.line))],
                None => return vec![Finding::ok(about, shape)],
            };
            let get = |name: &str| settings.get(name).and_then(|value| value.parse::<i64>().ok());
            let mut found = Vec::new();
            if let Err(problem) = topic.check_policy(settings) {
                found.push(Finding::wrong(&*about, problem.line));
            }
            let retention_ms = get("retention.ms").unwrap_or(-1);
            let too_short = u64::try_from(retention_ms).is_ok_and(|ms| Duration::from_millis(ms) < window.0 * 4);
            if too_short && !topic.is_compacted() {
                let problem = format!(
                    "keeps messages for {retention_ms} ms, which is too short for batch.window = \"{window}\": what is \
                     deleted before it is shipped is lost; raise retention.ms"
                );
                found.push(Finding::wrong(&*about, problem));
            }
            let copies = spread.replication;
            if copies < 3 && brokers >= 3 {
                let note =
                    format!("{copies} copies on {brokers} brokers: the loss of a disk may lose events; have three");
                found.push(Finding::note(&*about, note));
            }
            if copies >= 3 && get("min.insync.replicas") == Some(1) {
                let note = "min.insync.replicas=1: a message counts as written when one broker has it; set it to 2";
                found.push(Finding::note(&*about, note));
            }
            let message_bytes = get("max.message.bytes").and_then(|bytes| u64::try_from(bytes).ok());
            if let Some(bytes) = message_bytes.filter(|bytes| *bytes < MESSAGE_BYTES)
                && !topic.is_compacted()
            {
                let note = format!(
                    "max.message.bytes={bytes}: larger events are set aside in data_dir; {MESSAGE_BYTES} takes all"
                );
                found.push(Finding::note(&*about, note));
            }
            if !found.iter().any(|finding| matches!(finding.verdict, Verdict::Wrong(_))) {
                let kept = match u64::try_from(retention_ms) {
                    Ok(ms) => format!("kept {}", Span(Duration::from_millis(ms))),
                    Err(_) => "kept for ever".into(),
                };
                let largest = message_bytes.map_or(String::new(), |bytes| format!(", messages up to {}", Size(bytes)));
                found.insert(0, Finding::ok(about, format!("{shape}, {kept}{largest}")));
            }
            found
        })
        .collect();
    let new: Vec<New> = missing.iter().map(|topic| topic.to_make(config, brokers)).collect();
    findings.extend(look_at_missing(ask, config, &new).await);
    findings
}

/// A topic that is missing is fine where it would be made: brokers say so without making it.
async fn look_at_missing(ask: &Ask<'_>, config: &Config, new: &[New]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for topic in new {
        let about = format!("topic {}", topic.name);
        findings.push(match config.topics.create {
            false => Finding::wrong(about, super::topics::missing_line(ask.asked(), std::slice::from_ref(topic))),
            true => match ask.try_create(std::slice::from_ref(topic)).await {
                Ok(()) => {
                    let shape = shape(topic.partitions as usize, topic.replication as usize);
                    Finding::ok(about, format!("is missing and will be created: {shape}"))
                }
                Err(problem) => Finding::wrong(about, problem.line),
            },
        });
    }
    findings
}

fn shape(partitions: usize, copies: usize) -> String {
    let partitions = if partitions == 1 { "1 partition".to_owned() } else { format!("{partitions} partitions") };
    let copies = if copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") };
    format!("{partitions}, {copies}")
}

fn look_at_rights(ask: &Ask<'_>, config: &Config, wanted: &[Wanted], does: Does) -> Vec<Finding> {
    let there = ask.topics();
    let ours = |name: &&String| {
        let kind = name.strip_prefix(&config.topic_prefix);
        wanted.iter().any(|topic| topic.name == **name)
            || does.ship && kind.is_some_and(|kind| Kind::parse(kind).is_some())
    };
    let names: Vec<String> = there.keys().filter(ours).cloned().collect();
    let mut findings = Vec::new();
    if names.is_empty() && wanted.is_empty() {
        let note = "none is there, or none that this user may Describe";
        findings.push(Finding::note(format!("topics {}*", config.topic_prefix), note));
    }
    if !names.is_empty() {
        match ask.rights_on_topics(&names) {
            Ok(rights) => findings.extend(names.iter().zip(rights).map(|(name, rights)| {
                let shared = wanted.iter().any(|topic| topic.name == *name && topic.is_compacted());
                let mut needed = Vec::new();
                if does.collect && wanted.iter().any(|topic| topic.name == *name) {
                    needed.push(Operation::Write);
                }
                if does.ship && !shared || does.collect && shared {
                    needed.push(Operation::Read);
                }
                needed.push(Operation::Describe);
                judge("topic", name, &needed, rights)
            })),
            Err(problem) => findings.push(Finding::wrong("rights on topics", problem.line)),
        }
    }
    if does.ship {
        let rights = ask.rights_on_group(&config.group);
        findings.push(judge("group", &config.group, &[Operation::Read, Operation::Describe], rights));
    }
    findings
}

fn judge(what: &str, name: &str, needed: &[Operation], rights: Rights) -> Finding {
    let about = format!("rights on {what} {name}");
    let names =
        |operations: &[Operation]| operations.iter().map(|operation| operation.name()).collect::<Vec<_>>().join(", ");
    let command = |operations: &[Operation]| {
        let operations: String =
            operations.iter().map(|operation| format!(" --operation {}", operation.name())).collect();
        format!("kafka-acls.sh --add --allow-principal User:…{operations} --{what} {name}")
    };
    let rights = match rights {
        Ok(rights) => rights,
        Err(code) if super::errors::Class::of(code) == super::errors::Class::Denied => Vec::new(),
        Err(code) => return Finding::wrong(&*about, Problem::of_code(&format!("see {about}"), code).line),
    };
    let missing: Vec<Operation> = needed.iter().copied().filter(|operation| !rights.contains(operation)).collect();
    match missing.is_empty() {
        true => Finding::ok(about, names(needed)),
        false => Finding::wrong(about, format!("{} missing: {}", names(&missing), command(&missing))),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    #[test]
    fn a_right_that_is_missing_comes_with_the_command_that_gives_it() {
        use Operation::{Describe, Read, Write};
        let fine = judge("topic", "greypit.to", &[Write, Describe], Ok(vec![Read, Describe, Write]));
        assert_eq!(fine, Finding::ok("rights on topic greypit.to", "Write, Describe"));
        for rights in [Ok(vec![Describe]), Err(Code::GroupAuthorizationFailed)] {
            let Verdict::Wrong(line) = judge("group", "g", &[Read], rights).verdict else { panic!("wrong") };
            assert_eq!(line, "Read missing: kafka-acls.sh --add --allow-principal User:… --operation Read --group g");
        }
    }
}
