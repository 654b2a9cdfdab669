//! `[boot.http]`

use greypit_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};

/// Each may hold a chunk or two of a file.
const CONNECTIONS_MAX: usize = 4096;

/// `[boot.http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// 0: off.
    pub port: u16,
    /// Connections at once; others wait.
    pub max_connections: usize,
    /// The same, of one address; others are closed.
    pub max_connections_per_client: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { port: 80, max_connections: 256, max_connections_per_client: 16 }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, problem: String| Err(Error::Config { key: format!("boot.http.{key}"), problem });
        if !(1..=CONNECTIONS_MAX).contains(&self.max_connections) {
            return refuse("max_connections", format!("{} must be from 1 to {CONNECTIONS_MAX}", self.max_connections));
        }
        if !(1..=self.max_connections).contains(&self.max_connections_per_client) {
            let problem = format!("{} must be from 1 to max_connections", self.max_connections_per_client);
            return refuse("max_connections_per_client", problem);
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
            ("max_connections = 0", "max_connections"),
            ("max_connections = 4097", "max_connections"),
            ("max_connections = 10", "max_connections_per_client"),
            ("max_connections_per_client = 0", "max_connections_per_client"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(&format!("boot.http.{key}")), "{text}: {error}");
        }
    }
}
