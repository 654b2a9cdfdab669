//! `[boot.tftp]`

use std::time::Duration;

use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};

use super::wire::BLKSIZE_MAX;

/// RFC 7440 allows 65,535; more than this brings nothing and costs memory.
pub(super) const WINDOWSIZE_MAX: u16 = 64;

/// Each is a thread.
const TRANSFERS_MAX: usize = 4096;

/// `[boot.tftp]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// 0: off.
    pub port: u16,
    /// Whether files come from that port too, and not each from a port of its own.
    pub single_port: bool,
    /// The largest `blksize` that is agreed to; 0: what fits the network's MTU.
    pub max_blksize: u16,
    /// The largest `windowsize` that is agreed to.
    pub max_windowsize: u16,
    /// Larger files are refused.
    pub max_file: Size,
    /// Transfers at once.
    pub max_transfers: usize,
    /// The same, to one address.
    pub max_transfers_per_client: usize,
    /// A transfer that takes longer is ended.
    pub max_duration: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            port: 69,
            single_port: false,
            max_blksize: 0,
            max_windowsize: WINDOWSIZE_MAX,
            max_file: Size(4 << 30),
            max_transfers: 256,
            max_transfers_per_client: 8,
            max_duration: Span::seconds(3600),
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::Config { key: format!("boot.tftp.{key}"), problem });
        if self.max_blksize != 0 && !(512..=BLKSIZE_MAX).contains(&self.max_blksize) {
            return refuse("max_blksize", format!("{} must be 0 or from 512 to {BLKSIZE_MAX}", self.max_blksize));
        }
        if !(1..=WINDOWSIZE_MAX).contains(&self.max_windowsize) {
            return refuse("max_windowsize", format!("{} must be from 1 to {WINDOWSIZE_MAX}", self.max_windowsize));
        }
        if !(1..=TRANSFERS_MAX).contains(&self.max_transfers) {
            return refuse("max_transfers", format!("{} must be from 1 to {TRANSFERS_MAX}", self.max_transfers));
        }
        if !(1..=self.max_transfers).contains(&self.max_transfers_per_client) {
            let problem = format!("{} must be from 1 to max_transfers", self.max_transfers_per_client);
            return refuse("max_transfers_per_client", problem);
        }
        if self.max_duration.0 < Duration::from_secs(10) || self.max_duration.0 > Duration::from_secs(86_400) {
            return refuse("max_duration", format!("{} must be from 10s to 1d", self.max_duration));
        }
        if self.max_file.0 == 0 {
            return refuse("max_file", "0 is no size; write for example \"4GiB\"".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_by_their_key() {
        assert!(Config::default().validate().is_ok());
        for (text, key) in [
            ("max_blksize = 511", "max_blksize"),
            ("max_blksize = 65465", "max_blksize"),
            ("max_windowsize = 0", "max_windowsize"),
            ("max_windowsize = 65", "max_windowsize"),
            ("max_transfers = 0", "max_transfers"),
            ("max_transfers = 4", "max_transfers_per_client"),
            ("max_duration = \"1s\"", "max_duration"),
            ("max_file = \"0B\"", "max_file"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(&format!("boot.tftp.{key}")), "{text}: {error}");
        }
    }
}
