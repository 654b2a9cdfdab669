//! Lines into records: the parsers, with the zone of each entry.

use greypit_pipeline::{Group, Kind, Result};
use jiff::Timestamp;

use super::Line;
use super::config::Config;
use super::metrics::{Counts, EVENT_KINDS, Metrics, Reason};
use crate::collect::privacy::Privacy;
use crate::collect::record::{Peer, Recorder};

const KINDS: [Kind; 3] = [Kind::new(EVENT_KINDS[0]), Kind::new(EVENT_KINDS[1]), Kind::new(EVENT_KINDS[2])];

/// What makes the records of every entry.
#[derive(Debug)]
pub(super) struct Records {
    entries: Vec<(Recorder, Counts)>,
}

impl Records {
    /// `node` stands for the host in lines that name none.
    ///
    /// # Errors
    /// [`greypit_pipeline::Error::Config`] for an unknown zone.
    pub(super) fn new(configs: &[Config], node: &str, privacy: Option<&Privacy>, metrics: &Metrics) -> Result<Records> {
        let entry = |config: &Config| {
            let recorder = Recorder::new(config.time_zone()?, node).with_privacy(privacy.cloned());
            Ok((recorder, metrics.of(&config.path)))
        };
        Ok(Records { entries: configs.iter().map(entry).collect::<Result<_>>()? })
    }

    /// Puts the records of a line into the group.
    pub(super) fn add(&mut self, line: Line<'_>, group: &mut Group) {
        let Some((recorder, counts)) = self.entries.get_mut(line.entry) else { return };
        let outcome = recorder.to_records(line.bytes, Timestamp::now(), Peer::None, &mut |kind, body| {
            let index = EVENT_KINDS.iter().position(|known| *known == kind).unwrap_or(EVENT_KINDS.len() - 1);
            match group.push(KINDS[index], body) {
                Ok(()) => counts.events[index].inc(),
                Err(error) => {
                    counts.error(Reason::Refused).inc();
                    tracing::warn!(%error, "a line of a log file did not become a record");
                }
            }
        });
        if let Some(reason) = outcome.error {
            counts.parse_error(reason.name());
        }
    }
}
