//! `[boot.power]`

use std::time::Duration;

use greypit_pipeline::units::Span;
use greypit_pipeline::{Error, Result};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::off::Off;

/// The longest `timeout`.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// `[boot.power]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The time zone of schedules.
    pub zone: String,
    /// The command that switches a machine off; empty: none. A template in each word.
    pub off_command: Vec<String>,
    /// The URL that switches a machine off, by POST; empty: none. A template.
    pub off_url: String,
    /// How long such a command or call may take.
    pub timeout: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { zone: "local".into(), off_command: Vec::new(), off_url: String::new(), timeout: Span::seconds(30) }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        self.time_zone()?;
        self.off()?;
        if self.timeout.0 < Duration::from_secs(1) || self.timeout.0 > TIMEOUT_MAX {
            return Err(refuse("timeout", format!("{} must be from 1s to 10m", self.timeout)));
        }
        Ok(())
    }

    /// The zone of `zone`.
    pub(super) fn time_zone(&self) -> Result<TimeZone> {
        match self.zone.as_str() {
            "local" => Ok(TimeZone::system()),
            name => TimeZone::get(name).map_err(|_| {
                refuse("zone", format!("'{name}' is no time zone; write for example \"Europe/Berlin\", or \"local\""))
            }),
        }
    }

    /// What switches a machine off.
    pub(super) fn off(&self) -> Result<Off> {
        match (self.off_command.is_empty(), self.off_url.is_empty()) {
            (true, true) => Ok(Off::Nothing),
            (false, true) => Off::command(&self.off_command).map_err(|problem| refuse("off_command", problem)),
            (true, false) => Off::url(&self.off_url).map_err(|problem| refuse("off_url", problem)),
            (false, false) => Err(refuse("off_url", "one of off_command and off_url is enough".to_owned())),
        }
    }
}

fn refuse(key: &str, problem: String) -> Error {
    Error::Config { key: format!("boot.power.{key}"), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_by_their_key() {
        for (text, key) in [
            ("zone = \"Mars/Base\"", "boot.power.zone"),
            ("timeout = \"0s\"", "boot.power.timeout"),
            ("off_command = [\"a\"]\noff_url = \"http://b/\"", "boot.power.off_url"),
            ("off_command = [\"ipmitool\", \"{{ hostnam }}\"]", "boot.power.off_command"),
            ("off_command = [\"{{ hostname\"]", "boot.power.off_command"),
            ("off_command = [\"\", \"x\"]", "boot.power.off_command"),
            ("off_url = \"ftp://x/\"", "boot.power.off_url"),
            ("off_url = \"/x\"", "boot.power.off_url"),
            ("off_url = \"http://me:secret@x/\"", "boot.power.off_url"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(key) && !error.contains("secret"), "{text}: {error}");
        }
        for text in [
            "zone = \"Europe/Berlin\"",
            "zone = \"UTC\"\noff_command = [\"ssh\", \"root@{{ hostname }}\", \"poweroff\"]",
            "off_url = \"https://pdu.example.com/off?ip={{ ip }}&mac={{ mac }}\"",
        ] {
            toml::from_str::<Config>(text).unwrap().validate().unwrap();
        }
    }
}
