//! Writes objects, several at a time, and counts what comes of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;

use greypit_pipeline::replay::{Outcome, Written};
use greypit_pipeline::{Kind, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::super::progress::Progress;
use super::super::{Stop, counted, printable};

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) records: u64,
    pub(super) objects: u64,
    pub(super) existing: u64,
    pub(super) repeated: u64,
    pub(super) missing: u64,
    pub(super) differing: u64,
    pub(super) damaged_frames: u64,
    pub(super) dry_run: bool,
    pub(super) kinds: BTreeMap<Kind, Count>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Count {
    records: u64,
    objects: u64,
}

/// Writes objects as they are given to it.
#[derive(Debug)]
pub(super) struct Writer {
    threads: usize,
    running: JoinSet<(Kind, u64, Result<Written>)>,
    done: u64,
    progress: Progress,
    pub(super) summary: Summary,
}

impl Writer {
    /// A writer that writes so many at a time; in a dry run it only counts.
    pub(super) fn new(threads: usize, dry_run: bool) -> Writer {
        let summary = Summary { dry_run, ..Summary::default() };
        Writer { threads, running: JoinSet::new(), done: 0, progress: Progress::new(true), summary }
    }

    /// Says how far it is; `text` is given how many objects have been written.
    pub(super) fn say(&mut self, text: impl FnOnce(u64) -> String) {
        self.progress.say(|| text(self.done));
    }

    /// Takes away what was said.
    pub(super) fn clear(&mut self) {
        self.progress.clear();
    }

    /// Has `work` write an object of so many records; waits until there is room for it.
    pub(super) async fn add(
        &mut self,
        kind: Kind,
        records: u64,
        work: impl Future<Output = Result<Written>> + Send + 'static,
    ) -> std::result::Result<(), Stop> {
        if self.summary.dry_run {
            self.summary.count(kind, records);
            return Ok(());
        }
        while self.running.len() >= self.threads {
            self.take_next().await?;
        }
        self.running.spawn(async move { (kind, records, work.await) });
        Ok(())
    }

    /// Waits for what is being written.
    pub(super) async fn finish(mut self) -> std::result::Result<Summary, Stop> {
        while !self.running.is_empty() {
            self.take_next().await?;
        }
        self.progress.clear();
        Ok(self.summary)
    }

    async fn take_next(&mut self) -> std::result::Result<(), Stop> {
        let Some(written) = self.running.join_next().await else { return Ok(()) };
        let (kind, planned, written) = written.map_err(|error| Stop::Say(error.to_string()))?;
        let written = written.map_err(|error| {
            self.progress.clear();
            Stop::Say(error.to_string())
        })?;
        if let Some(line) = self.summary.take(kind, planned, &written) {
            self.progress.clear();
            eprintln!("greypit replay: {line}");
        }
        self.done += 1;
        Ok(())
    }
}

impl Summary {
    pub(super) fn count(&mut self, kind: Kind, records: u64) {
        self.records += records;
        self.objects += 1;
        let of_kind = self.kinds.entry(kind).or_default();
        of_kind.records += records;
        of_kind.objects += 1;
    }

    /// Counts an object; a line for stderr where it is not as planned.
    fn take(&mut self, kind: Kind, planned: u64, written: &Written) -> Option<String> {
        let (key, missing) = (printable(&written.key), planned.saturating_sub(written.records));
        self.missing += missing;
        match written.outcome {
            Some(Outcome::Other) => {
                self.differing += 1;
                return Some(format!("{key}: is there with other records, left as it is; take another --prefix"));
            }
            Some(Outcome::Created) => self.count(kind, written.records),
            Some(Outcome::Existing) => {
                self.count(kind, written.records);
                self.existing += 1;
            }
            None => {}
        }
        let events = counted(missing, "event");
        (missing > 0).then(|| format!("{key}: {events} could not be read: shipped and freed by the daemon meanwhile"))
    }

    pub(super) fn is_whole(&self) -> bool {
        self.missing == 0 && self.differing == 0 && self.damaged_frames == 0
    }

    pub(super) fn print(&self, json: bool, out: &mut impl Write) -> std::result::Result<(), Stop> {
        if json {
            serde_json::to_writer(&mut *out, self).map_err(std::io::Error::from)?;
            writeln!(out)?;
            return Ok(());
        }
        let Summary { records, objects, existing, repeated, missing, differing, .. } = self;
        writeln!(
            out,
            "records={records} objects={objects} existing={existing} repeated={repeated} missing={missing} differing={differing}"
        )?;
        if self.dry_run {
            eprintln!("greypit replay: a dry run: nothing was written");
        }
        Ok(())
    }
}
