//! From the lines of followed files to records in a group.

use greypit_pipeline::{Error, Group, Kind, Result};
use jiff::Timestamp;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::tail::{self, Line};
use crate::collect::record::{Peer, Recorder};
use crate::collect::syslog::time::parse_zone;

/// What `tail::spawn` calls for every line.
///
/// # Errors
/// [`Error::Config`] where a zone is unknown or the metrics are there already.
pub fn records(
    configs: &[tail::Config],
    node: &str,
    registry: &Registry,
) -> Result<impl FnMut(Line<'_>, &mut Group) + Send + use<>> {
    let refuse = |key: &str, problem: String| Error::Config { key: key.into(), problem };
    let mut recorders = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        let zone =
            parse_zone(&config.zone).map_err(|error| refuse(&format!("maillog[{index}].zone"), error.to_string()))?;
        recorders.push(Recorder::new(zone, node));
    }
    let counts = Counts::new(registry).map_err(|error| refuse("maillog", error.to_string()))?;
    Ok(move |line: Line<'_>, group: &mut Group| {
        let mut refused = None;
        let outcome = recorders[line.entry].to_records(line.bytes, Timestamp::now(), Peer::None, &mut |kind, body| {
            let pushed = Kind::parse(kind).map(|kind| group.push(kind, body));
            refused = refused.take().or(pushed.and_then(std::result::Result::err));
        });
        counts.kind(outcome.kind).inc_by(u64::from(outcome.records));
        if let Some(reason) = outcome.error {
            counts.errors.with_label_values(&[reason.name()]).inc();
        }
        if let Some(error) = refused {
            counts.errors.with_label_values(&["refused"]).inc();
            tracing::error!(%error, "maillog: a record was refused");
        }
    })
}

#[derive(Debug)]
struct Counts {
    from: IntCounter,
    to: IntCounter,
    syslog: IntCounter,
    errors: IntCounterVec,
}

impl Counts {
    fn new(registry: &Registry) -> std::result::Result<Counts, prometheus::Error> {
        let events =
            IntCounterVec::new(Opts::new("greypit_maillog_events_total", "Records made of followed lines"), &["kind"])?;
        let errors =
            Opts::new("greypit_maillog_parse_errors_total", "Lines that became syslog events with parse_error");
        let errors = IntCounterVec::new(errors, &["reason"])?;
        registry.register(Box::new(events.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        let [from, to, syslog] = ["from", "to", "syslog"].map(|kind| events.with_label_values(&[kind]));
        Ok(Counts { from, to, syslog, errors })
    }

    fn kind(&self, kind: &str) -> &IntCounter {
        match kind {
            "from" => &self.from,
            "to" => &self.to,
            _ => &self.syslog,
        }
    }
}
