//! The `[milter]` section.

use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Error, Result};
use ipnet::IpNet;
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
    /// The window, which slides.
    pub window: Span,
    /// IPv4 addresses that share this many leading bits are one client.
    pub ipv4_prefix: u8,
    /// The same for IPv6.
    pub ipv6_prefix: u8,
    /// Clients remembered; beyond it those that have been quiet longest are forgotten.
    pub max_clients: usize,
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
        Client { limit: 0, window: Span::seconds(3600), ipv4_prefix: 32, ipv6_prefix: 64, max_clients: 100_000 }
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

impl Config {
    /// Checks every value, without touching the network or the disk.
    ///
    /// # Errors
    /// [`Error::Config`] names the first key that cannot be right.
    pub fn validate(&self) -> Result<()> {
        for text in &self.listen {
            Address::parse(text)?;
        }
        for text in &self.allow.clients {
            network("allow.clients", text)?;
        }
        Policy::new(self, "node").map(|_| ())
    }

    pub(crate) fn mode_bits(&self) -> Result<u32> {
        u32::from_str_radix(&self.socket_mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            let text = format!("'{}' is no file mode; write for example \"0660\"", self.socket_mode);
            problem("socket_mode", text)
        })
    }

    /// Looks the group up in the system's database.
    pub(crate) fn group_id(&self) -> Result<Option<u32>> {
        if self.socket_group.is_empty() {
            return Ok(None);
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

const NEED_A_RESTART: [&str; 7] =
    ["listen", "socket_mode", "socket_group", "headers", "max_connections", "max_packet", "idle_timeout"];

/// Reads `192.0.2.0/24` or `192.0.2.1`.
pub(crate) fn network(key: &str, text: &str) -> Result<IpNet> {
    let net = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    net.map_err(|_| {
        problem(key, format!("'{text}' is no network; write for example \"192.0.2.0/24\" or \"2001:db8::/32\""))
    })
}
