//! What a `[[maillog]]` entry says.

use std::path::{Path, PathBuf};

use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Error, Result};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::collect::syslog::time::parse_zone;

/// Longest line that is kept whole, unless the config says otherwise.
pub const MAX_LINE: Size = Size(64 << 10);
/// What `max_line` may be at most: beyond it a record could outgrow the pipeline's own limit.
pub const MAX_LINE_MAX: Size = Size(1 << 20);
/// What `max_line` must be at least: a shorter one would cut ordinary mail log lines.
pub const MAX_LINE_MIN: Size = Size(1 << 10);
/// How often every file is looked at, whatever the watcher says.
pub const POLL: Span = Span::seconds(1);
/// Shortest poll that is accepted.
pub const POLL_MIN: Span = Span(std::time::Duration::from_millis(10));
/// Longest poll that is accepted.
pub const POLL_MAX: Span = Span::seconds(3600);
/// Time zone of dates that carry none.
pub const ZONE: &str = "local";

/// Where to begin in a file that greypit has never seen and that is there when it starts. Files that appear later are
/// always read from their beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With its first line.
    #[default]
    Beginning,
    /// Behind its last whole line.
    End,
}

/// One `[[maillog]]` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A file, or a pattern with `*`, `?`, `[…]` or `**` for many. Neither the file nor its folder need exist yet.
    pub path: String,
    /// Where to begin in a file never seen before.
    #[serde(default)]
    pub start: Start,
    /// Longer lines are cut here and flagged; the rest of the line is skipped.
    #[serde(default = "max_line")]
    pub max_line: Size,
    /// How often to look without being woken: for NFS, for missed events, for a watcher that hit a system limit.
    #[serde(default = "poll")]
    pub poll: Span,
    /// Time zone of dates that carry none: `local`, `UTC`, an IANA name or an offset such as `+02:00`.
    #[serde(default = "zone")]
    pub zone: String,
}

fn max_line() -> Size {
    MAX_LINE
}

fn poll() -> Span {
    POLL
}

fn zone() -> String {
    ZONE.to_owned()
}

impl Config {
    /// An entry with every default.
    pub fn new(path: impl Into<String>) -> Config {
        Config { path: path.into(), start: Start::default(), max_line: MAX_LINE, poll: POLL, zone: zone() }
    }

    /// Checks what can be checked without following anything.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what to write instead.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, problem: String| Err(Error::Config { key: format!("maillog.{key}"), problem });
        if self.path.is_empty() {
            return wrong("path", "is empty; write a file such as \"/var/log/maillog\"".into());
        }
        if self.path.contains('\0') {
            return wrong("path", "contains a NUL byte".into());
        }
        if let Err(error) = glob::Pattern::new(&self.path) {
            return wrong("path", format!("'{}' is no pattern: {error}", self.path));
        }
        if Path::new(&self.path).is_dir() {
            let path = self.path.trim_end_matches('/');
            return wrong("path", format!("'{path}' is a folder; write \"{path}/*\" for the files in it"));
        }
        if !(MAX_LINE_MIN..=MAX_LINE_MAX).contains(&self.max_line) {
            return wrong("max_line", format!("{} is not within {MAX_LINE_MIN} and {MAX_LINE_MAX}", self.max_line));
        }
        if !(POLL_MIN..=POLL_MAX).contains(&self.poll) {
            return wrong("poll", format!("{} is not within {POLL_MIN} and {POLL_MAX}", self.poll));
        }
        self.time_zone().map(|_| ())
    }

    /// The time zone of dates that carry none.
    ///
    /// # Errors
    /// [`Error::Config`] where this machine does not know it.
    pub fn time_zone(&self) -> Result<TimeZone> {
        parse_zone(&self.zone).map_err(|error| Error::Config { key: "maillog.zone".into(), problem: error.to_string() })
    }

    /// The path with the working folder in front where it is relative, so that a checkpoint does not depend on it.
    pub(super) fn absolute(&self) -> PathBuf {
        std::path::absolute(&self.path).unwrap_or_else(|_| PathBuf::from(&self.path))
    }

    /// Whether the path is a pattern rather than one file.
    pub(super) fn is_pattern(&self) -> bool {
        self.path.contains(['*', '?', '['])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_is_needed_and_unknown_keys_are_refused() {
        let config: Config = toml::from_str("path = \"/var/log/maillog\"").unwrap();
        assert_eq!(config, Config::new("/var/log/maillog"));
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        let error = toml::from_str::<Config>("path = \"/a\"\nstrat = \"end\"").unwrap_err().to_string();
        assert!(error.contains("strat"), "{error}");
        assert!(toml::from_str::<Config>("start = \"end\"").is_err());
        assert_eq!(toml::from_str::<Config>("path = \"/a\"\nstart = \"end\"").unwrap().start, Start::End);
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let ok = Config::new("/var/log/mail*");
        ok.validate().unwrap();
        let cases = [
            ("maillog.path", Config { path: String::new(), ..ok.clone() }),
            ("maillog.path", Config { path: "/var/log/[".into(), ..ok.clone() }),
            ("maillog.path", Config { path: folder.path().to_str().unwrap().into(), ..ok.clone() }),
            ("maillog.max_line", Config { max_line: Size(2 << 20), ..ok.clone() }),
            ("maillog.max_line", Config { max_line: Size(0), ..ok.clone() }),
            ("maillog.poll", Config { poll: Span::seconds(0), ..ok.clone() }),
            ("maillog.zone", Config { zone: String::new(), ..ok.clone() }),
            ("maillog.zone", Config { zone: "Mars/Phobos".into(), ..ok.clone() }),
        ];
        for (expected, config) in cases {
            match config.validate() {
                Err(Error::Config { key, .. }) => assert_eq!(key, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
