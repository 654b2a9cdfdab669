//! What the tail counts. The label `path` is the entry's path as configured, never that of a file a pattern found.

use greypit_pipeline::{Error, Register, Result};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// Why something could not be done; the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A file could not be looked at or opened.
    Open,
    /// A file could not be read.
    Read,
    /// A folder could not be listed.
    List,
    /// A file was gone before it was read to its end.
    Gone,
    /// A file's name is not UTF-8.
    Name,
    /// More files than the limit.
    Limit,
    /// The pipeline refused a record.
    Refused,
}

/// Kinds in the order of the counters; what is neither of the first two is the last.
pub(super) const EVENT_KINDS: [&str; 3] = ["from", "to", "syslog"];

impl Reason {
    const ALL: [Reason; 7] =
        [Reason::Open, Reason::Read, Reason::List, Reason::Gone, Reason::Name, Reason::Limit, Reason::Refused];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Reason::Open => "open",
            Reason::Read => "read",
            Reason::List => "list",
            Reason::Gone => "gone",
            Reason::Name => "name",
            Reason::Limit => "limit",
            Reason::Refused => "refused",
        }
    }
}

/// The metrics of all entries.
#[derive(Debug)]
pub(super) struct Metrics {
    bytes: IntCounterVec,
    lines: IntCounterVec,
    truncated: IntCounterVec,
    rotations: IntCounterVec,
    truncations: IntCounterVec,
    errors: IntCounterVec,
    events: IntCounterVec,
    parse_errors: IntCounterVec,
    files: IntGaugeVec,
    lag: IntGaugeVec,
    /// Whether the watcher covers every folder; polling goes on either way.
    pub(super) watching: IntGauge,
}

/// The metrics of one entry.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) bytes: IntCounter,
    pub(super) lines: IntCounter,
    pub(super) truncated: IntCounter,
    pub(super) rotations: IntCounter,
    pub(super) truncations: IntCounter,
    errors: [IntCounter; Reason::ALL.len()],
    pub(super) events: [IntCounter; EVENT_KINDS.len()],
    path: String,
    parse_errors: IntCounterVec,
    pub(super) files: IntGauge,
    pub(super) lag: IntGauge,
}

impl Counts {
    pub(super) fn error(&self, reason: Reason) -> &IntCounter {
        &self.errors[reason as usize]
    }

    /// `reason` is one of the parsers' names.
    pub(super) fn parse_error(&self, reason: &str) {
        self.parse_errors.with_label_values(&[self.path.as_str(), reason]).inc();
    }
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Metrics> {
        let register = Register::new(registry, "greypit_maillog_");
        let all = || {
            Ok::<_, prometheus::Error>(Metrics {
                bytes: register.counters("read_bytes_total", "Bytes of log files turned into lines.", &["path"])?,
                lines: register.counters("lines_total", "Lines read from log files.", &["path"])?,
                truncated: register.counters("truncated_lines_total", "Lines cut at max_line.", &["path"])?,
                rotations: register.counters(
                    "rotations_total",
                    "Files replaced by another at the same path.",
                    &["path"],
                )?,
                truncations: register.counters("truncations_total", "Files that became shorter.", &["path"])?,
                errors: register.counters("errors_total", "What could not be done, by reason.", &["path", "reason"])?,
                events: register.counters("events_total", "Records made of lines, by kind.", &["path", "kind"])?,
                parse_errors: register.counters(
                    "parse_errors_total",
                    "Lines that did not parse and became raw records, by reason.",
                    &["path", "reason"],
                )?,
                files: register.gauges("files", "Files that are open.", &["path"])?,
                lag: register.gauges(
                    "lag_bytes",
                    "Bytes in log files that are not read yet, as of the last look.",
                    &["path"],
                )?,
                watching: register.gauge("watching", "1 if every folder is watched, 0 if only polled.")?,
            })
        };
        all().map_err(|error| Error::Config { key: "maillog".into(), problem: format!("metrics: {error}") })
    }

    pub(super) fn of(&self, path: &str) -> Counts {
        Counts {
            bytes: self.bytes.with_label_values(&[path]),
            lines: self.lines.with_label_values(&[path]),
            truncated: self.truncated.with_label_values(&[path]),
            rotations: self.rotations.with_label_values(&[path]),
            truncations: self.truncations.with_label_values(&[path]),
            errors: Reason::ALL.map(|reason| self.errors.with_label_values(&[path, reason.as_str()])),
            events: EVENT_KINDS.map(|kind| self.events.with_label_values(&[path, kind])),
            path: path.to_owned(),
            parse_errors: self.parse_errors.clone(),
            files: self.files.with_label_values(&[path]),
            lag: self.lag.with_label_values(&[path]),
        }
    }
}
