//! `[[syslog.rule]]`: which messages go to another kind, are dropped, or are sampled.
//!
//! The first rule of which every given condition holds decides; a message that no rule
//! takes is a `syslog` record as ever. Lines of sendmail and Postfix that become `from` and
//! `to` are no rule's, unless it says `mail = true`: such rules are asked first, and their
//! messages are not looked at by the mail parser. Every message that a rule takes is counted under the rule's name and
//! what became of it. A condition on something that a message does not have does not hold.
//!
//! Pure but for the counters. One set for all tasks of a section, so that one in N is one
//! in N of all.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use glob::{MatchOptions, Pattern};
use greypit_pipeline::{Error, Kind, Result};
use ipnet::IpNet;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};

use super::wire::{FACILITIES, Message, SEVERITIES};

/// How many rules there may be.
pub const RULES_MAX: usize = 256;

/// How many kinds of their own they may have together: a group of events holds 32.
pub const RULE_KINDS_MAX: usize = 16;

/// The largest `sample`.
pub const SAMPLE_MAX: u64 = 1_000_000_000;

const NAME_BYTES_MAX: usize = 32;

/// Kinds whose records have other fields.
const OTHERS: [&str; 8] = ["from", "to", "mail", "dhcp", "tftp", "http", "dns", "power"];

/// One `[[syslog.rule]]`. Conditions that are empty hold always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Its name in metrics.
    pub name: String,
    pub facility: Vec<String>,
    /// `debug`, or a range: `notice..` and less urgent, `..err` and more urgent.
    pub severity: Vec<String>,
    /// Program names; `*` is anything.
    pub app: Vec<String>,
    /// As the message names its host; `*` is anything.
    pub host: Vec<String>,
    /// Networks that it came from.
    pub peer: Vec<String>,
    /// Whether it also takes what would become `from` or `to`.
    pub mail: bool,
    /// The kind that its messages become instead of `syslog`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whether its messages are dropped.
    pub drop: bool,
    /// One in so many is kept, the first one first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
}

/// What becomes of a message that a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A record of this kind, which says that it stands for so many where that is not one.
    Keep {
        kind: &'static str,
        sampled: Option<u64>,
    },
    Skip,
}

/// All rules, ready to be asked. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rules(Arc<[Compiled]>);

#[derive(Debug)]
struct Compiled {
    conditions: Conditions,
    mail: bool,
    kind: &'static str,
    drop: bool,
    sample: Option<u64>,
    seen: AtomicU64,
    kept: IntCounter,
    skipped: IntCounter,
}

#[derive(Debug, Default)]
struct Conditions {
    /// A bit for each facility and severity; none is all.
    facilities: u32,
    severities: u8,
    apps: Vec<Pattern>,
    hosts: Vec<Pattern>,
    peers: Vec<IpNet>,
}

fn problem(index: usize, key: &str, problem: impl Into<String>) -> Error {
    Error::Config { key: format!("syslog.rule[{index}].{key}"), problem: problem.into() }
}

/// Checks every rule.
///
/// # Errors
/// [`Error::Config`] names the rule, counted from 0, and its key.
pub fn validate(rules: &[Rule]) -> Result<()> {
    if rules.len() > RULES_MAX {
        return Err(problem(RULES_MAX, "name", format!("more than {RULES_MAX} rules")));
    }
    let mut kinds: Vec<&str> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        check_name(rules, index, rule)?;
        Conditions::new(index, rule)?;
        check_action(index, rule)?;
        if let Some(kind) = rule.kind.as_deref().filter(|kind| !kinds.contains(kind)) {
            kinds.push(kind);
            if kinds.len() > RULE_KINDS_MAX {
                return Err(problem(index, "kind", format!("'{kind}' is one kind too many: at most {RULE_KINDS_MAX}")));
            }
        }
    }
    Ok(())
}

fn check_name(rules: &[Rule], index: usize, rule: &Rule) -> Result<()> {
    let name = &rule.name;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        let text = name.escape_default();
        let text = format!("'{text}' must be 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-'");
        return Err(problem(index, "name", text));
    }
    if rules[..index].iter().any(|other| other.name == *name) {
        return Err(problem(index, "name", format!("'{name}' is taken")));
    }
    Ok(())
}

fn check_action(index: usize, rule: &Rule) -> Result<()> {
    if rule.drop && (rule.kind.is_some() || rule.sample.is_some()) {
        return Err(problem(index, "drop", "what is dropped has neither kind nor sample"));
    }
    if !rule.drop && rule.kind.is_none() && rule.sample.is_none() {
        return Err(problem(index, "name", format!("'{}' does nothing: give it kind, drop or sample", rule.name)));
    }
    if let Some(kind) = &rule.kind {
        let text = kind.escape_default();
        if Kind::parse(kind).is_none() {
            let text = format!("'{text}' is no kind: 1 to 15 characters of a-z, 0-9 and _");
            return Err(problem(index, "kind", text));
        }
        if OTHERS.contains(&kind.as_str()) {
            return Err(problem(index, "kind", format!("'{text}' has records of another form; choose another name")));
        }
    }
    if rule.sample.is_some_and(|n| !(2..=SAMPLE_MAX).contains(&n)) {
        return Err(problem(index, "sample", format!("must be from 2 to {SAMPLE_MAX}: one in so many is kept")));
    }
    Ok(())
}

impl Conditions {
    fn new(index: usize, rule: &Rule) -> Result<Conditions> {
        let mut made = Conditions::default();
        for name in &rule.facility {
            let number = FACILITIES.iter().position(|known| known == name).ok_or_else(|| {
                let text = name.escape_default();
                problem(index, "facility", format!("'{text}' is no facility; one of {}", FACILITIES.join(" ")))
            })?;
            made.facilities |= 1 << number;
        }
        for text in &rule.severity {
            made.severities |= severities(text).ok_or_else(|| {
                let text = text.escape_default();
                let names = SEVERITIES.join(" ");
                problem(
                    index,
                    "severity",
                    format!("'{text}' is no severity; one of {names}, or a range such as \"notice..\""),
                )
            })?;
        }
        made.apps = patterns(index, "app", &rule.app)?;
        made.hosts = patterns(index, "host", &rule.host)?;
        for text in &rule.peer {
            let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
                let text = text.escape_default();
                let text = format!("'{text}' is no network; write for example \"192.0.2.0/24\" or \"2001:db8::/32\"");
                problem(index, "peer", text)
            })?;
            made.peers.push(net);
        }
        let none =
            [&rule.facility, &rule.severity, &rule.app, &rule.host, &rule.peer].iter().all(|list| list.is_empty());
        if none {
            let text =
                "has no condition: give it facility, severity, app, host or peer (app = [\"*\"] is all that have one)";
            return Err(problem(index, "name", format!("'{}' {text}", rule.name)));
        }
        Ok(made)
    }

    fn hold(&self, message: &Message<'_>, peer: Option<IpAddr>) -> bool {
        let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
        let any = |patterns: &[Pattern], text: Option<&[u8]>| {
            let text = text.and_then(|text| std::str::from_utf8(text).ok());
            patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| p.matches_with(text, options)))
        };
        let bit = |names: &[&str], name: &str| names.iter().position(|known| *known == name).map_or(0, |n| 1_u32 << n);
        let facility = || message.pri.map_or(0, |pri| bit(&FACILITIES, pri.facility()));
        let severity = || message.pri.map_or(0, |pri| bit(&SEVERITIES, pri.severity()));
        (self.facilities == 0 || self.facilities & facility() != 0)
            && (self.severities == 0 || u32::from(self.severities) & severity() != 0)
            && (self.peers.is_empty() || peer.is_some_and(|peer| self.peers.iter().any(|net| net.contains(&peer))))
            && any(&self.apps, message.app)
            && any(&self.hosts, message.hostname)
    }
}

/// The bits of `info`, `notice..`, `..err` or `err..info`.
fn severities(text: &str) -> Option<u8> {
    let number = |name: &str| SEVERITIES.iter().position(|known| *known == name);
    let (from, to) = match text.split_once("..") {
        Some(("", "")) => return None,
        Some((from, "")) => (number(from)?, 7),
        Some(("", to)) => (0, number(to)?),
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(text)?, number(text)?),
    };
    (from <= to).then(|| (from..=to).fold(0, |bits, n| bits | 1 << n))
}

fn patterns(index: usize, key: &str, texts: &[String]) -> Result<Vec<Pattern>> {
    let pattern = |text: &String| {
        let wrong = |why: &str| problem(index, key, format!("'{}' is no pattern: {why}", text.escape_default()));
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        Pattern::new(text).map_err(|error| wrong(error.msg))
    };
    texts.iter().map(pattern).collect()
}

impl Rules {
    /// Takes the names of kinds for the life of the process, at most [`RULE_KINDS_MAX`] of 15 bytes: call it once.
    ///
    /// # Errors
    /// As [`validate`]; or `registry` has these metrics already.
    pub fn new(rules: &[Rule], registry: &Registry) -> Result<Rules> {
        validate(rules)?;
        if rules.is_empty() {
            return Ok(Rules::default());
        }
        let refused = |error: prometheus::Error| problem(0, "name", error.to_string());
        let help = "Messages that a rule took, by what became of them; drop and skip made no event.";
        let counters = IntCounterVec::new(Opts::new("greypit_syslog_rule_messages_total", help), &["rule", "action"])
            .map_err(refused)?;
        registry.register(Box::new(counters.clone())).map_err(refused)?;
        let mut kinds: Vec<&'static str> = vec!["syslog"];
        let mut compiled = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let name = rule.kind.as_deref().unwrap_or("syslog");
            let kind = match kinds.iter().find(|known| **known == name) {
                Some(known) => known,
                None => {
                    let kind: &'static str = name.to_owned().leak();
                    kinds.push(kind);
                    kind
                }
            };
            let (kept, skipped) = if rule.sample.is_some() { ("sample", "skip") } else { ("kind", "drop") };
            compiled.push(Compiled {
                conditions: Conditions::new(index, rule)?,
                mail: rule.mail,
                kind,
                drop: rule.drop,
                sample: rule.sample,
                seen: AtomicU64::new(0),
                kept: counters.with_label_values(&[rule.name.as_str(), kept]),
                skipped: counters.with_label_values(&[rule.name.as_str(), skipped]),
            });
        }
        Ok(Rules(compiled.into()))
    }

    /// What becomes of a message that is or is not `mail`'s, if a rule takes it. To be asked once: it counts.
    pub(crate) fn verdict(&self, message: &Message<'_>, peer: Option<IpAddr>, before_mail: bool) -> Option<Verdict> {
        let mut open = self.0.iter().filter(|rule| rule.mail || !before_mail);
        let rule = open.find(|rule| rule.conditions.hold(message, peer.map(|ip| ip.to_canonical())))?;
        let skip =
            rule.drop || rule.sample.is_some_and(|n| !rule.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(n));
        if skip {
            rule.skipped.inc();
            return Some(Verdict::Skip);
        }
        rule.kept.inc();
        Some(Verdict::Keep { kind: rule.kind, sampled: rule.sample })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::syslog::time::{TimeResolver, parse_zone};
    use crate::collect::syslog::wire;

    fn rules(text: &str) -> Vec<Rule> {
        #[derive(Deserialize)]
        struct All {
            rule: Vec<Rule>,
        }
        toml::from_str::<All>(text).expect("valid TOML").rule
    }

    fn verdicts(text: &str, messages: &[&str]) -> Vec<Option<Verdict>> {
        let rules = Rules::new(&rules(text), &Registry::new()).expect("valid rules");
        let mut times = TimeResolver::new(parse_zone("UTC").expect("UTC is known"));
        let received = "2026-11-20T13:00:00Z".parse().expect("a time");
        let peer = Some([192, 0, 2, 7].into());
        let mut of = |text: &&str| rules.verdict(&wire::parse(text.as_bytes(), received, &mut times), peer, false);
        messages.iter().map(&mut of).collect()
    }

    const KERN_ERR: &str = "<3>Nov 20 12:55:01 sw-12 kernel: x";
    const LOCAL7_DEBUG: &str = "<191>Nov 20 12:55:01 SW-13 app/x[1]: x";
    const BARE: &str = "no header at all";

    fn keep(kind: &'static str) -> Option<Verdict> {
        Some(Verdict::Keep { kind, sampled: None })
    }

    #[test]
    fn every_condition_must_hold() {
        let all = [KERN_ERR, LOCAL7_DEBUG, BARE];
        for (conditions, expected) in [
            ("facility = [\"kern\", \"mail\"]", [true, false, false]),
            ("severity = [\"debug\"]", [false, true, false]),
            ("severity = [\"..err\"]", [true, false, false]),
            ("severity = [\"notice..\", \"emerg\"]", [false, true, false]),
            ("severity = [\"crit..info\"]", [true, false, false]),
            ("app = [\"app/*\"]", [false, true, false]),
            ("host = [\"sw-*\"]", [true, true, false]),
            ("host = [\"sw-*\"]\nfacility = [\"kern\"]", [true, false, false]),
            ("peer = [\"192.0.2.0/24\"]", [true, true, true]),
            ("peer = [\"192.0.2.8\", \"2001:db8::/32\"]", [false; 3]),
        ] {
            let text = format!("[[rule]]\nname = \"a\"\nkind = \"net\"\n{conditions}\n");
            assert_eq!(verdicts(&text, &all), expected.map(|yes| if yes { keep("net") } else { None }), "{conditions}");
        }
    }

    #[test]
    fn the_first_rule_decides_and_samples_count() {
        let text = "[[rule]]\nname = \"a\"\nfacility = [\"kern\"]\nkind = \"syslog\"\n\
                    [[rule]]\nname = \"b\"\nseverity = [\"debug\"]\nkind = \"noise\"\nsample = 3\n\
                    [[rule]]\nname = \"c\"\npeer = [\"0.0.0.0/0\"]\ndrop = true\n";
        let kept = Some(Verdict::Keep { kind: "noise", sampled: Some(3) });
        let skip = Some(Verdict::Skip);
        assert_eq!(
            verdicts(text, &[KERN_ERR, LOCAL7_DEBUG, LOCAL7_DEBUG, LOCAL7_DEBUG, LOCAL7_DEBUG, BARE]),
            [keep("syslog"), kept, skip, skip, kept, skip]
        );
    }

    #[test]
    fn a_mistake_names_the_rule_and_its_key() {
        let good = "[[rule]]\nname = \"a\"\nfacility = [\"kern\"]\ndrop = true\n[[rule]]\n";
        for (text, expected) in [
            ("name = \"b c\"\napp = [\"x\"]\ndrop = true", "syslog.rule[1].name: 'b c' must be"),
            ("name = \"a\"\napp = [\"x\"]\ndrop = true", "syslog.rule[1].name: 'a' is taken"),
            ("name = \"b\"\ndrop = true", "syslog.rule[1].name: 'b' has no condition"),
            ("name = \"b\"\napp = [\"x\"]", "syslog.rule[1].name: 'b' does nothing"),
            ("name = \"b\"\nfacility = [\"local8\"]\ndrop = true", "syslog.rule[1].facility: 'local8' is no facility"),
            ("name = \"b\"\nseverity = [\"warn\"]\ndrop = true", "syslog.rule[1].severity: 'warn' is no severity"),
            ("name = \"b\"\nseverity = [\"..\"]\ndrop = true", "syslog.rule[1].severity: '..' is no severity"),
            ("name = \"b\"\nseverity = [\"debug..err\"]\ndrop = true", "syslog.rule[1].severity: 'debug..err'"),
            ("name = \"b\"\napp = [\"[\"]\ndrop = true", "syslog.rule[1].app: '[' is no pattern"),
            ("name = \"b\"\nhost = [\"\"]\ndrop = true", "syslog.rule[1].host: '' is no pattern"),
            ("name = \"b\"\npeer = [\"x\"]\ndrop = true", "syslog.rule[1].peer: 'x' is no network"),
            ("name = \"b\"\napp = [\"x\"]\nkind = \"A\"", "syslog.rule[1].kind: 'A' is no kind"),
            ("name = \"b\"\napp = [\"x\"]\nkind = \"to\"", "syslog.rule[1].kind: 'to' has records of another form"),
            ("name = \"b\"\napp = [\"x\"]\nkind = \"x\"\ndrop = true", "syslog.rule[1].drop: "),
            ("name = \"b\"\napp = [\"x\"]\nsample = 1", "syslog.rule[1].sample: must be from 2"),
        ] {
            let error = validate(&rules(&format!("{good}{text}\n"))).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let many = |n: usize| {
            let rule = |i: usize| format!("[[rule]]\nname = \"r{i}\"\napp = [\"x\"]\nkind = \"k{i}\"\n");
            rules(&(0..n).map(rule).collect::<String>())
        };
        validate(&many(RULE_KINDS_MAX)).unwrap();
        let error = validate(&many(RULE_KINDS_MAX + 1)).unwrap_err().to_string();
        assert!(error.contains("syslog.rule[16].kind: 'k16' is one kind too many"), "{error}");
    }
}
