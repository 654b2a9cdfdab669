//! Logs by `tracing`: for people on a terminal, JSON otherwise; always to stderr.

use std::io::IsTerminal;

use greypit_pipeline::{Error, Result};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,greypit_pipeline=debug`.
    pub level: String,
    /// How lines look.
    pub format: Format,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `text` on a terminal, `json` otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Config {
        Config { level: "info".into(), format: Format::Auto }
    }
}

impl Config {
    /// Checks the filter.
    ///
    /// # Errors
    /// [`Error::Config`] for `log.level`.
    pub fn validate(&self) -> Result<()> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<EnvFilter> {
        let problem = format!("'{}' is no level; write error, warn, info, debug or trace", self.level);
        // A bare word that is no level would be taken for the name of a module, and hide everything.
        let word = !self.level.contains(['=', ',']);
        if word && self.level.parse::<tracing::level_filters::LevelFilter>().is_err() {
            return Err(Error::Config { key: "log.level".into(), problem });
        }
        // The AWS libraries say at length, and per provider, what an error of ours then says in a line; notify warns of
        // every watched folder that somebody removes.
        let level = match self.level.to_ascii_lowercase().as_str() {
            plain @ ("warn" | "info") => format!("{plain},aws_config=error,aws_smithy_runtime=error,notify=error"),
            _ => self.level.clone(),
        };
        EnvFilter::try_new(level).map_err(|_| Error::Config { key: "log.level".into(), problem })
    }
}

/// Changes the level of a running process.
#[derive(Clone, Debug)]
pub struct LevelHandle(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LevelHandle {
    /// Takes another level.
    ///
    /// # Errors
    /// [`Error::Config`] where it is none.
    pub fn set(&self, config: &Config) -> Result<()> {
        let filter = config.filter()?;
        // Fails only when the subscriber is gone, at the very end of the process.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Starts logging.
///
/// # Errors
/// [`Error::Config`] where the level is none.
pub fn start(config: &Config) -> Result<LevelHandle> {
    let (filter, handle) = reload::Layer::new(config.filter()?);
    let terminal = std::io::stderr().is_terminal();
    let text = match config.format {
        Format::Auto => terminal,
        Format::Text => true,
        Format::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    let registry = tracing_subscriber::registry().with(filter);
    // Fails only where a test has set one already.
    let _ = if text {
        registry.with(layer.with_target(false)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true)).try_init()
    };
    Ok(LevelHandle(handle))
}
