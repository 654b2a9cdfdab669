//! The `[boot]` section.

use std::path::PathBuf;
use std::time::Duration;

use greypit_pipeline::units::Span;
use greypit_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};

use super::dhcp::config as dhcp;
use super::dns::config as dns;
use super::http::config as http;
use super::power::config as power;
use super::tftp::config as tftp;

/// What the collector does on its interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is the network's DHCP server.
    Serve,
    /// Beside another DHCP server it answers boot questions only, and gives no addresses.
    Proxy,
    /// It records and answers nothing.
    Listen,
}

/// `[boot]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Interfaces to serve; none: the collector is off.
    #[serde(deserialize_with = "one_or_many")]
    pub interface: Vec<String>,
    /// Serve, answer beside another server, or only listen.
    pub mode: Mode,
    /// The machine files, see [`super::machines`].
    pub dir: PathBuf,
    /// What TFTP and HTTP give out.
    pub root: PathBuf,
    /// How long after its beginning a boot session may go on: what comes later is another, or none.
    pub session: Span,
    /// `[boot.dhcp]`
    pub dhcp: dhcp::Config,
    /// `[boot.tftp]`
    pub tftp: tftp::Config,
    /// `[boot.http]`
    pub http: http::Config,
    /// `[boot.dns]`
    pub dns: dns::Config,
    /// `[boot.power]`
    pub power: power::Config,
    /// `[[boot.network]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<dhcp::Relayed>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            interface: Vec::new(),
            mode: Mode::Serve,
            dir: "machines".into(),
            root: "boot".into(),
            session: Span::seconds(30 * 60),
            dhcp: dhcp::Config::default(),
            tftp: tftp::Config::default(),
            http: http::Config::default(),
            dns: dns::Config::default(),
            power: power::Config::default(),
            network: Vec::new(),
        }
    }
}

/// The longest `session`.
const SESSION_MAX: Duration = Duration::from_secs(7 * 86_400);

/// The longest name of an interface, `IFNAMSIZ` without its NUL.
const INTERFACE_BYTES_MAX: usize = 15;

impl Config {
    /// Whether it does anything.
    pub fn is_on(&self) -> bool {
        !self.interface.is_empty()
    }

    /// Checks what the types cannot and what needs no look at the machine.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::Config { key: format!("boot.{key}"), problem });
        let is_name = |name: &String| {
            (1..=INTERFACE_BYTES_MAX).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_whitespace())
        };
        if let Some(name) = self.interface.iter().find(|name| !is_name(name)) {
            return refuse("interface", format!("'{name}' is no name of an interface; `ip link` lists them"));
        }
        if self.session.0 < Duration::from_secs(60) || self.session.0 > SESSION_MAX {
            return refuse("session", format!("{} must be from 1m to 7d", self.session));
        }
        self.dhcp.validate()?;
        self.tftp.validate()?;
        self.http.validate()?;
        self.dns.validate()?;
        self.power.validate()?;
        self.network.iter().try_for_each(dhcp::Relayed::validate)
    }
}

/// A text or a list of them; `""` is none.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an interface such as \"eth1\", or a list of them")]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::One(name) if name.is_empty() => Vec::new(),
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_or_several_and_mistakes_by_their_key() {
        let parse = |text: &str| toml::from_str::<Config>(text);
        assert_eq!(parse("interface = \"eth1\"").unwrap().interface, ["eth1"]);
        assert_eq!(parse("interface = [\"eth1\", \"eth2\"]").unwrap().interface, ["eth1", "eth2"]);
        assert!(!parse("interface = \"\"").unwrap().is_on());
        for (text, key) in [
            ("interface = \"much-too-long-a-name\"", "boot.interface"),
            ("session = \"1s\"", "boot.session"),
            ("dhcp.pool = [\"10.0.0.9-10.0.0.1\"]", "boot.dhcp.pool"),
        ] {
            let error = parse(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(parse("interfaces = \"eth1\"").is_err());
    }
}
