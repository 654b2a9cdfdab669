//! The language of the case files; `tests/milter/README.md` explains it. A file that cannot be read is an error with its
//! line, never a case that is left out.

use super::packet::{self, ALL_ACTIONS, ALL_STEPS, Reply, step};
use super::words::{Word, glob, words};
use std::time::Duration;

/// A file, with `repeat` written out.
#[derive(Debug)]
pub(crate) struct Script {
    /// Keys of `[milter]` in TOML.
    pub(crate) config: String,
    pub(crate) lines: Vec<Line>,
    /// The `mail` records that the store holds in the end, where the case says.
    pub(crate) records: Option<Vec<(usize, serde_json::Value)>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// In the file, from 1.
    pub(crate) number: usize,
    pub(crate) step: Step,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Goes on with the connection of this name, opened at first mention.
    On(String),
    Send(Vec<u8>),
    Expect(Expected),
    /// The last answer came no sooner.
    Held(Duration),
    Negotiate,
    /// CONNECT and HELO of a client, with these macros besides.
    Client(String, Vec<(String, Vec<u8>)>),
    /// A whole message that passes, with these recipients.
    Message(Vec<String>),
    Split(Option<usize>),
    Coalesce(bool),
    Eof,
    Hangup,
    Metric {
        name: String,
        labels: Vec<String>,
        at_least: bool,
        value: u64,
    },
    /// SIGTERM, and waits for the end.
    Terminate,
    /// SIGHUP with these keys besides, and waits until they are in effect.
    Reload(String),
}

#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// No answer to what was sent.
    Nothing,
    Agreed(Answer),
    /// PROGRESS, any number of times, then this.
    Kept(String),
    /// By its words, where `*` stands for anything; several, separated by ` | `.
    Text(String),
}

/// What is expected of an answer to OPTNEG, besides what holds for every one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    version: u32,
    actions: Option<u32>,
    with: Vec<String>,
    without: Vec<String>,
    asks: Vec<(u32, String)>,
    asks_nothing: bool,
}

impl Expected {
    pub(crate) fn check(&self, reply: &Reply) -> Result<(), String> {
        let fits = match (self, reply) {
            (Expected::Agreed(answer), Reply::Agreed(agreed)) => {
                let lists = |stage: u32| agreed.asks.iter().filter(move |(asked, _)| *asked == stage);
                let asked = |stage, name: &str| lists(stage).any(|(_, names)| names.split(' ').any(|n| n == name));
                agreed.version == answer.version
                    && answer.actions.is_none_or(|actions| agreed.actions == actions)
                    && answer.with.iter().all(|name| agreed.has(name))
                    && !answer.without.iter().any(|name| agreed.has(name))
                    && answer.asks.iter().all(|(stage, name)| asked(*stage, name))
                    && (!answer.asks_nothing || agreed.asks.is_empty())
            }
            (Expected::Text(patterns), reply) => patterns.split(" | ").any(|text| glob(text, &reply.to_string())),
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("expected {self:?}, got {reply}")) }
    }
}

/// What a file may say only once it is done with the wire.
const LAST: &str = "records come last";

impl Script {
    /// # Errors
    /// The line, and what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Script, (usize, String)> {
        if !text.starts_with("# ") {
            return Err((1, "a case begins with a comment that tells its story".to_owned()));
        }
        let mut script = Script { config: String::new(), lines: Vec::new(), records: None };
        // `repeat`: where its lines begin, how often.
        let mut open: Vec<(usize, usize, usize)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem: String| (number, problem);
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (verb, rest.trim()) {
                ("config", key) if script.lines.is_empty() => script.config += &format!("{key}\n"),
                ("config", _) => return Err(wrong("config comes first".to_owned())),
                ("repeat", count) => {
                    let count = count.parse().map_err(|_| wrong(format!("'{count}' is no number")))?;
                    open.push((number, script.lines.len(), count));
                }
                ("end", "") => {
                    let (_, start, count) = open.pop().ok_or_else(|| wrong("nothing to end".to_owned()))?;
                    let lines = script.lines[start..].to_vec();
                    script.lines.truncate(start);
                    (0..count).for_each(|_| script.lines.extend(lines.iter().cloned()));
                }
                ("record", json) => {
                    let json = json_object(json).map_err(wrong)?;
                    script.records.get_or_insert_default().push((number, json));
                }
                ("records", "0") => script.records = Some(Vec::new()),
                _ if script.records.is_some() => return Err(wrong(LAST.to_owned())),
                (verb, rest) => script.lines.push(Line { number, step: parse_step(verb, rest).map_err(wrong)? }),
            }
        }
        match open.pop() {
            Some((number, ..)) => Err((number, "no end for this".to_owned())),
            None if script.lines.is_empty() => Err((1, "nothing is done".to_owned())),
            None => Ok(script),
        }
    }
}

fn json_object(text: &str) -> Result<serde_json::Value, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() { Ok(value) } else { Err("a record is a JSON object".to_owned()) }
}

fn parse_step(verb: &str, rest: &str) -> Result<Step, String> {
    let list = words(rest)?;
    let texts = || list.iter().map(Word::text).collect::<Result<Vec<String>, String>>();
    Ok(match (verb, list.as_slice()) {
        (">", [command, arguments @ ..]) => parse_command(&command.text()?, arguments)?,
        ("<", [word, answer @ ..]) if word.is("OPTNEG") => Step::Expect(Expected::Agreed(parse_answer(answer)?)),
        ("<", [word]) if word.is("none") => Step::Expect(Expected::Nothing),
        ("<", [word, _, ..]) if word.is("progress,") => {
            let text = rest.strip_prefix("progress, then ").ok_or("progress, then what?")?;
            Step::Expect(Expected::Kept(text.to_owned()))
        }
        ("<", [_, ..]) => Step::Expect(Expected::Text(rest.to_owned())),
        ("on", [name]) => Step::On(name.text()?),
        ("held", [at_least, span]) if at_least.is(">=") => Step::Held(milliseconds(&span.text()?)?),
        ("negotiate", []) => Step::Negotiate,
        ("client", [address, macros @ ..]) => Step::Client(address.text()?, parse_macros(macros)?),
        ("message", []) => Step::Message(vec!["b@example.org".to_owned()]),
        ("message", [_, ..]) => Step::Message(texts()?),
        ("split", [bytes]) => Step::Split(Some(bytes.number()? as usize)),
        ("split", []) => Step::Split(None),
        ("coalesce", []) => Step::Coalesce(true),
        ("write", []) => Step::Coalesce(false),
        ("eof", []) => Step::Eof,
        ("hangup", []) => Step::Hangup,
        ("terminate", []) => Step::Terminate,
        ("reload", _) => Step::Reload(rest.to_owned()),
        ("metric", [name, sign, value]) => {
            let name = name.text()?;
            let (name, labels) = name.split_once('{').unwrap_or((&name, ""));
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
            let at_least = sign.is(">=");
            if !at_least && !sign.is("=") {
                return Err("a metric is = or >= a number".to_owned());
            }
            let labels = labels.map(|label| label.replacen('=', "=\"", 1) + "\"").collect();
            Step::Metric { name: name.to_owned(), labels, at_least, value: u64::from(value.number()?) }
        }
        _ => return Err(format!("'{verb} {rest}' is not understood")),
    })
}

/// `250ms`, `1s`.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let wrong = |_| format!("'{text}' is no time");
    match text.strip_suffix("ms") {
        Some(number) => number.parse().map(Duration::from_millis).map_err(wrong),
        None => text.strip_suffix('s').unwrap_or("").parse().map(Duration::from_secs).map_err(wrong),
    }
}

fn parse_macros(list: &[Word]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let pair = |word: &Word| {
        let at = word.bytes.iter().position(|byte| *byte == b'=').ok_or("a macro is name=value")?;
        let name = String::from_utf8(word.bytes[..at].to_vec()).map_err(|error| error.to_string())?;
        Ok((name, word.bytes[at + 1..].to_vec()))
    };
    list.iter().map(pair).collect()
}

fn parse_command(command: &str, arguments: &[Word]) -> Result<Step, String> {
    let joined = |separator: &[u8]| {
        let parts: Vec<&[u8]> = arguments.iter().map(|word| word.bytes.as_slice()).collect();
        parts.join(separator)
    };
    let terminated = || arguments.iter().flat_map(|word| [&word.bytes[..], b"\0"].concat()).collect::<Vec<u8>>();
    let line = || [joined(b" "), vec![0]].concat();
    let packet = |letter: u8, data: Vec<u8>| Ok(Step::Send(packet::packet(letter, &data)));
    match (command, arguments) {
        ("OPTNEG", [version, options @ ..]) => parse_offer(version.number()?, options),
        ("MACRO", [stage, values @ ..]) if stage.bytes.len() == 1 => {
            Ok(Step::Send(packet::macros(stage.bytes[0], &parse_macros(values)?)))
        }
        ("CONNECT", [name, family]) if family.is("U") => Ok(Step::Send(packet::connect(&name.text()?, b'U', 0, ""))),
        ("CONNECT", [name, family, port, address]) if family.bytes.len() == 1 => {
            let port = u16::try_from(port.number()?).map_err(|error| error.to_string())?;
            Ok(Step::Send(packet::connect(&name.text()?, family.bytes[0], port, &address.text()?)))
        }
        ("HELO", _) => packet(b'H', line()),
        ("MAIL", [_, ..]) => packet(b'M', terminated()),
        ("RCPT", [_, ..]) => packet(b'R', terminated()),
        ("DATA", []) => packet(b'T', Vec::new()),
        ("HEADER", [name, value @ ..]) => {
            let value: Vec<&[u8]> = value.iter().map(|word| word.bytes.as_slice()).collect();
            packet(b'L', packet::texts(&[name.bytes.clone(), value.join(&b' ')]))
        }
        ("EOH", []) => packet(b'N', Vec::new()),
        ("BODY", _) => packet(b'B', joined(b" ")),
        ("EOM", _) => packet(b'E', joined(b" ")),
        ("ABORT", []) => packet(b'A', Vec::new()),
        ("QUIT", []) => packet(b'Q', Vec::new()),
        ("QUIT_NC", []) => packet(b'K', Vec::new()),
        ("UNKNOWN", _) => packet(b'U', line()),
        // Any letter, and data as it is.
        ("PACKET", [letter, ..]) if letter.bytes.len() == 1 => packet(letter.bytes[0], joined(b"")[1..].to_vec()),
        // Any bytes, as hexadecimal or quoted text.
        ("RAW", [_, ..]) => {
            arguments.iter().map(Word::raw).collect::<Result<Vec<_>, _>>().map(|parts| Step::Send(parts.concat()))
        }
        _ => Err(format!("'{command}' is no command with these arguments")),
    }
}

fn parse_offer(version: u32, options: &[Word]) -> Result<Step, String> {
    let (mut actions, mut steps) = (ALL_ACTIONS, ALL_STEPS);
    for option in options {
        let option = option.text()?;
        match option.split_once('=') {
            Some(("actions", value)) => actions = number(value)?,
            Some(("steps", value)) if value.starts_with(|c: char| c.is_ascii_digit()) => steps = number(value)?,
            Some(("steps", names)) => {
                let bit = |name| step(name).ok_or_else(|| format!("'{name}' is no step"));
                steps = names.split('+').map(bit).try_fold(0, |all, bit| bit.map(|bit| all | bit))?;
            }
            _ => return Err(format!("OPTNEG takes no '{option}'")),
        }
    }
    Ok(Step::Send(packet::offer(version, actions, steps)))
}

pub(crate) fn number(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16));
    number.map_err(|_| format!("'{text}' is no number"))
}

/// `6 actions=0 with NOBODY … without SKIP … asks helo {tls_version} …`
fn parse_answer(list: &[Word]) -> Result<Answer, String> {
    const STAGES: [&str; 7] = ["connect", "helo", "mail", "rcpt", "data", "eom", "eoh"];
    let [version, list @ ..] = list else { return Err("which version?".to_owned()) };
    let mut answer = Answer { version: version.number()?, ..Answer::default() };
    let (mut mode, mut stage) = (String::new(), None);
    for word in list {
        let word = word.text()?;
        if let Some(actions) = word.strip_prefix("actions=") {
            answer.actions = Some(number(actions)?);
            continue;
        }
        match (mode.as_str(), word.as_str()) {
            (_, "with" | "without" | "asks") => (mode, stage) = (word, None),
            ("with" | "without", name) => {
                step(name).ok_or_else(|| format!("'{name}' is no step"))?;
                let names = if mode == "with" { &mut answer.with } else { &mut answer.without };
                names.push(word);
            }
            ("asks", "nothing") => answer.asks_nothing = true,
            ("asks", name) => match (STAGES.iter().position(|known| *known == name), stage) {
                (Some(at), _) => stage = Some(at as u32),
                (None, Some(stage)) => answer.asks.push((stage, word)),
                (None, None) => return Err(format!("'{name}' is no stage")),
            },
            _ => return Err(format!("'{word}' says nothing of an answer")),
        }
    }
    Ok(answer)
}
