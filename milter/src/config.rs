//! The `[milter]` section.

use std::collections::HashSet;

use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::server::address::Address;

/// Where mail servers attach, what is refused, and the limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `unix:/path` (or `local:`), `inet:port@host`, `inet6:port@host`, as in sendmail's `S=`.
    pub listen: Vec<String>,
    /// Permissions of the unix sockets, octal.
    pub socket_mode: String,
    /// Group of the unix sockets; empty: the process's own.
    pub socket_group: String,
    /// Whether the policy acts.
    pub mode: Mode,
    /// Messages that pass on one connection.
    pub limit: u32,
    /// The first delay, and what each further answer waits longer.
    pub step: Span,
    /// How delays grow.
    pub growth: Growth,
    /// No answer waits longer.
    pub max_delay: Span,
    /// Refusals on one connection before it is closed with 421; 0: never.
    pub max_strikes: u32,
    /// Connections whose answer waits at the same time; beyond it answers are immediate.
    pub max_tarpitted: usize,
    /// The answer to a message over a limit.
    pub answer: String,
    /// The answer that closes the connection.
    pub closing_answer: String,
    /// Header fields that go into the `mail` record.
    pub headers: Vec<String>,
    /// Recipients that a record lists; the others are counted.
    pub max_recipients: usize,
    /// Connections of mail servers; beyond it their mail passes unseen.
    pub max_connections: usize,
    /// A longer packet is not from a mail server: it is skipped.
    pub max_packet: Size,
    /// A mail server silent for so long is gone.
    pub idle_timeout: Span,
    /// `[milter.client]`
    pub client: Client,
    /// `[milter.allow]`
    pub allow: Allow,
    /// `[milter.postfix]`
    pub postfix: Postfix,
    /// `[[milter.rule]]`
    pub rule: Vec<Rule>,
}

/// Whether the policy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuses and holds.
    Enforce,
    /// Decides and records, changes nothing.
    Observe,
}

/// How delays grow with each strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Growth {
    /// `step`, 2 · `step`, 3 · `step` …
    Linear,
    /// `step` each time.
    Constant,
}

/// `[milter.client]`: what one client may send over all its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// Messages that pass in `window`; 0: no limit.
    pub limit: u32,
    /// Whose messages are counted together.
    pub scope: Scope,
    /// The window, which slides.
    pub window: Span,
    /// IPv4 addresses that share this many leading bits are one client.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
    /// Clients remembered; beyond it those that have been quiet longest are forgotten.
    pub max_clients: usize,
}

/// Whose messages are counted together for a client's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Those that this node sees.
    Node,
    /// Those of all nodes that tell each other of them.
    Farm,
}

/// `[milter.allow]`: what no limit holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allow {
    /// Networks: `192.0.2.0/24`, or one address.
    pub clients: Vec<String>,
    /// Verified host names: `example.com` is that host and all below it, `.example.com` those below it.
    pub hosts: Vec<String>,
    /// Whether authenticated users are allowed.
    pub authenticated: bool,
    /// Listeners by `{daemon_name}`.
    pub daemons: Vec<String>,
    /// Local parts or whole addresses: a message to nobody else does not count.
    pub recipients: Vec<String>,
}

/// `[milter.postfix]`: what only Postfix understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Postfix {
    /// Whether delays on Postfix are kept alive by PROGRESS, and may be as long as `max_delay` here.
    pub progress: bool,
    /// How often, which must be below Postfix's `milter_command_timeout`.
    pub progress_every: Span,
    /// No answer to Postfix waits longer, where `progress` is on.
    pub max_delay: Span,
}

/// `[[milter.rule]]`: other limits for some. The first rule of which every given condition holds is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What metrics, records and answers call it.
    pub name: String,
    /// As in `[milter.allow]`; empty: any.
    pub clients: Vec<String>,
    /// As in `[milter.allow]`; empty: any.
    pub hosts: Vec<String>,
    /// Whether it is for authenticated users or for the others; absent: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
    /// As in `[milter.allow]`; empty: any.
    pub daemons: Vec<String>,
    /// In place of `milter.limit`; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// In place of `milter.client.limit`; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_limit: Option<u32>,
    /// In place of `milter.step`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Span>,
    /// In place of `milter.max_delay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Span>,
    /// In place of `milter.max_strikes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_strikes: Option<u32>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            socket_mode: "0660".to_owned(),
            socket_group: String::new(),
            mode: Mode::Enforce,
            limit: 10,
            step: Span::seconds(1),
            growth: Growth::Linear,
            max_delay: Span::seconds(8),
            max_strikes: 0,
            max_tarpitted: 500,
            answer: "451 4.7.1 {client_addr}: more than {limit} messages ({rule}); try again later".to_owned(),
            closing_answer: "421 4.7.1 {client_addr}: more than {limit} messages ({rule}); closing".to_owned(),
            headers: Vec::new(),
            max_recipients: 100,
            max_connections: 20_000,
            max_packet: Size(1 << 20),
            idle_timeout: Span::seconds(2 * 3600),
            client: Client::default(),
            allow: Allow::default(),
            postfix: Postfix::default(),
            rule: Vec::new(),
        }
    }
}

impl Default for Client {
    fn default() -> Client {
        Client {
            limit: 0,
            scope: Scope::Node,
            window: Span::seconds(3600),
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            max_clients: 100_000,
        }
    }
}

impl Default for Allow {
    fn default() -> Allow {
        Allow {
            clients: Vec::new(),
            hosts: Vec::new(),
            authenticated: true,
            daemons: Vec::new(),
            recipients: vec!["postmaster".to_owned(), "abuse".to_owned()],
        }
    }
}

impl Default for Postfix {
    fn default() -> Postfix {
        Postfix { progress: false, progress_every: Span::seconds(10), max_delay: Span::seconds(60) }
    }
}

/// An error about one key of this section.
pub(crate) fn problem(key: &str, problem: impl Into<String>) -> Error {
    Error::Config { key: format!("milter.{key}"), problem: problem.into() }
}

/// Sockets to listen on, at most.
const LISTEN_MAX: usize = 64;

/// Header fields in a record, at most, and the length of a name.
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 64;

/// A packet of a whole body chunk (libmilter's `MILTER_CHUNK_SIZE` and its command), at least.
const PACKET_BYTES_MIN: Size = Size(64 << 10);
const PACKET_BYTES_MAX: Size = Size(64 << 20);

/// Between an answer and the next command a mail server waits for its client, up to an hour in sendmail.
const IDLE_MIN: Span = Span::seconds(60);
const IDLE_MAX: Span = Span::seconds(7 * 86_400);

/// Connections and recipients, at most: beyond it memory ends first.
const CONNECTIONS_MAX: usize = 1_000_000;
const RECIPIENTS_MAX: usize = 10_000;

/// Postfix may have been told to wait longer than its 30 s, but not for more than this would make sense.
const PROGRESS_MIN: Span = Span::seconds(1);
const PROGRESS_MAX: Span = Span::seconds(120);

/// A group's name, at most.
const GROUP_BYTES_MAX: usize = 64;

impl Config {
    /// Checks every value, without touching the network or the disk.
    ///
    /// # Errors
    /// [`Error::Config`] names the first key that cannot be right.
    pub fn validate(&self) -> Result<()> {
        self.check_listen()?;
        self.mode_bits()?;
        self.check_group()?;
        self.check_headers()?;
        within("max_recipients", &self.max_recipients, &1, &RECIPIENTS_MAX)?;
        within("max_connections", &self.max_connections, &1, &CONNECTIONS_MAX)?;
        within("max_packet", &self.max_packet, &PACKET_BYTES_MIN, &PACKET_BYTES_MAX)?;
        within("idle_timeout", &self.idle_timeout, &IDLE_MIN, &IDLE_MAX)?;
        within("postfix.progress_every", &self.postfix.progress_every, &PROGRESS_MIN, &PROGRESS_MAX)?;
        self.check_scope()?;
        Policy::new(self, "node").map(|_| ())
    }

    /// A farm without a limit would tell each other of every client for nothing.
    fn check_scope(&self) -> Result<()> {
        let limits = self.rule.iter().filter_map(|rule| rule.client_limit).chain([self.client.limit]);
        if self.client.scope == Scope::Farm && limits.max() == Some(0) {
            let text = "\"farm\" needs a limit: set milter.client.limit, or client_limit in a rule";
            return Err(problem("client.scope", text));
        }
        Ok(())
    }

    /// `socket_mode` as the kernel takes it.
    ///
    /// # Errors
    /// It is no mode, or the process itself could not use the socket.
    pub(crate) fn mode_bits(&self) -> Result<u32> {
        let text = self.socket_mode.escape_default();
        let is_octal = self.socket_mode.bytes().all(|byte| byte.is_ascii_digit());
        let bits = u32::from_str_radix(&self.socket_mode, 8).ok().filter(|bits| is_octal && *bits <= 0o777);
        let bits = bits.ok_or_else(|| {
            problem("socket_mode", format!("'{text}' is no file mode; write for example \"0660\" or \"0666\""))
        })?;
        if bits & 0o600 != 0o600 {
            let why = format!("'{text}' takes the socket away from greypit itself; it must begin \"06\" or \"07\"");
            return Err(problem("socket_mode", why));
        }
        Ok(bits)
    }

    fn check_listen(&self) -> Result<()> {
        if self.listen.len() > LISTEN_MAX {
            return Err(problem("listen", format!("there are {}; at most {LISTEN_MAX} sockets", self.listen.len())));
        }
        let mut seen = HashSet::new();
        for text in &self.listen {
            let address = Address::parse(text)?;
            if !seen.insert(format!("{address:?}")) {
                return Err(problem("listen", format!("'{text}' is there twice; leave one out")));
            }
        }
        Ok(())
    }

    fn check_group(&self) -> Result<()> {
        let group = &self.socket_group;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b':' | b',' | b'/');
        if group.len() > GROUP_BYTES_MAX || !group.bytes().all(is_plain) {
            let text = format!("'{}' is no group; write a name or a number, or \"\"", group.escape_default());
            return Err(problem("socket_group", text));
        }
        Ok(())
    }

    /// Field names of RFC 5322 section 3.6.8, each once.
    fn check_headers(&self) -> Result<()> {
        if self.headers.len() > HEADERS_MAX {
            return Err(problem("headers", format!("there are {}; at most {HEADERS_MAX}", self.headers.len())));
        }
        let mut seen = HashSet::new();
        for name in &self.headers {
            let is_field = |byte: u8| byte.is_ascii_graphic() && byte != b':';
            if name.is_empty() || name.len() > HEADER_BYTES_MAX || !name.bytes().all(is_field) {
                let name = name.escape_default();
                let text =
                    format!("'{name}' is no header field; write its name without colon, for example \"Subject\"");
                return Err(problem("headers", text));
            }
            if !seen.insert(name.to_ascii_lowercase()) {
                return Err(problem("headers", format!("'{name}' is there twice; leave one out")));
            }
        }
        Ok(())
    }

    /// Looks the group up in the system's database.
    pub(crate) fn group_id(&self) -> Result<Option<u32>> {
        if self.socket_group.is_empty() {
            return Ok(None);
        }
        if let Ok(number) = self.socket_group.parse() {
            return Ok(Some(number));
        }
        match nix::unistd::Group::from_name(&self.socket_group) {
            Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
            Ok(None) => {
                let text =
                    format!("there is no group '{}' on this machine; make it or choose another", self.socket_group);
                Err(problem("socket_group", text))
            }
            Err(error) => Err(problem("socket_group", format!("the groups cannot be read: {error}"))),
        }
    }

    /// Whether a reload takes this key (`milter.limit`); the others need a restart.
    #[must_use]
    pub fn takes_while_running(key: &str) -> bool {
        key.strip_prefix("milter.").is_some_and(|key| !NEED_A_RESTART.contains(&key))
    }
}

const NEED_A_RESTART: [&str; 8] = [
    "listen",
    "socket_mode",
    "socket_group",
    "headers",
    "max_connections",
    "max_packet",
    "idle_timeout",
    "client.scope",
];

fn within<T: PartialOrd + std::fmt::Display>(key: &str, value: &T, min: &T, max: &T) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(problem(key, format!("{value} must be from {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_defaults_and_every_good_value_are_right() {
        Config::default().validate().unwrap();
        let config = Config {
            listen: texts(&["unix:/run/greypit/sock", "inet:8891@127.0.0.1", "inet6:8891@::1"]),
            socket_mode: "666".to_owned(),
            socket_group: "mail".to_owned(),
            headers: texts(&["Message-ID", "X-Mailer", "List-Id"]),
            max_recipients: 1,
            max_packet: PACKET_BYTES_MIN,
            ..Config::default()
        };
        config.validate().unwrap();
        assert_eq!(config.mode_bits().unwrap(), 0o666);
    }

    #[test]
    fn every_mistake_names_its_key() {
        let base = Config::default;
        let farm = Client { scope: Scope::Farm, ..Client::default() };
        let many = (0..101).map(|i| format!("X-{i}")).collect();
        for (expected, config) in [
            ("milter.listen: '/run/x' names no kind", Config { listen: texts(&["/run/x"]), ..base() }),
            ("milter.listen: 'local:/x' is there twice", Config { listen: texts(&["unix:/x", "local:/x"]), ..base() }),
            ("milter.listen: there are 65", Config { listen: vec!["unix:/x".to_owned(); 65], ..base() }),
            ("milter.socket_mode: '0999' is no file mode", Config { socket_mode: "0999".into(), ..base() }),
            ("milter.socket_mode: '+660' is no file mode", Config { socket_mode: "+660".into(), ..base() }),
            ("milter.socket_mode: '' is no file mode", Config { socket_mode: String::new(), ..base() }),
            ("milter.socket_mode: '1777' is no file mode", Config { socket_mode: "1777".into(), ..base() }),
            ("milter.socket_mode: '0066' takes the socket away", Config { socket_mode: "0066".into(), ..base() }),
            ("milter.socket_group: 'a b' is no group", Config { socket_group: "a b".into(), ..base() }),
            ("milter.headers: 'Subject:' is no header field", Config { headers: texts(&["Subject:"]), ..base() }),
            ("milter.headers: '' is no header field", Config { headers: texts(&[""]), ..base() }),
            ("milter.headers: 'TO' is there twice", Config { headers: texts(&["To", "TO"]), ..base() }),
            ("milter.headers: there are 101", Config { headers: many, ..base() }),
            ("milter.client.scope: \"farm\" needs a limit", Config { client: farm, ..base() }),
            ("milter.max_recipients: 0 must be from 1", Config { max_recipients: 0, ..base() }),
            ("milter.max_connections: 0 must be from 1", Config { max_connections: 0, ..base() }),
            ("milter.max_packet: 1KiB must be from 64KiB to 64MiB", Config { max_packet: Size(1024), ..base() }),
            ("milter.idle_timeout: 0s must be from 1m to 7d", Config { idle_timeout: Span::seconds(0), ..base() }),
            (
                "milter.postfix.progress_every: 0s must be from 1s to 2m",
                Config { postfix: Postfix { progress_every: Span::seconds(0), ..Postfix::default() }, ..base() },
            ),
            ("milter.max_delay: is at most", Config { max_delay: Span::seconds(300), ..base() }),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{expected}: {error}");
        }
    }
}
