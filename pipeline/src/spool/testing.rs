//! For fuzzing recovery: a spool without a pipeline around it. The node is `mx1`, the epoch `e1`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Config;
use super::ledger::{Cut, Ledger};
use super::recover::Recovered;
use super::segments::Segments;
use super::shared::Shared;
use super::writer::Writer;
use crate::batch::Planner;
use crate::codec::Codec;
use crate::encode::{Read, read_batch};
use crate::event::{Group, Kind};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::submit::Submit;
use crate::{Error, Result};

/// Events of small groups make more than one batch.
const BATCH_BYTES_MAX: u64 = 64;

/// What a recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Events that are to be shipped.
    pub waiting: u64,
    /// Frames that could not be read.
    pub damaged: u64,
    /// Bytes that were cut off.
    pub torn: u64,
    /// The next number of each kind.
    pub next: BTreeMap<Kind, u64>,
    /// How far each source has been read.
    pub checkpoints: BTreeMap<String, Vec<u8>>,
    /// What would be shipped, in this order: kind, number, body.
    pub records: Vec<(Kind, u64, Vec<u8>)>,
}

/// Recovers the spool in `folder` and reads everything that waits.
///
/// # Errors
/// As starting a pipeline would.
pub fn recover(folder: &Path) -> Result<Summary> {
    let (_, mut planner, recovered) = open(folder)?;
    planner.close_all();
    let mut records = Vec::new();
    while let Some(batch) = planner.pop_ready() {
        read_batch(folder, &batch, |Read { seq, body, .. }| {
            records.push((batch.kind, seq, body.to_vec()));
            ControlFlow::Continue(())
        })?;
        assert!(batch.first <= batch.last, "{batch:?}");
    }
    Ok(Summary {
        waiting: recovered.waiting_events,
        damaged: recovered.damaged_frames,
        torn: recovered.torn_bytes,
        next: recovered.next_seqs,
        checkpoints: recovered.checkpoints,
        records,
    })
}

/// One life of a spool: recovers, writes `groups`, ends.
///
/// # Errors
/// As starting a pipeline would.
///
/// # Panics
/// Never: the figures go to a registry of their own.
pub fn write(folder: &Path, groups: Vec<Group>) -> Result<()> {
    let (_, planner, mut recovered) = open(folder)?;
    let segments = Segments::new(folder, std::mem::take(&mut recovered.segments));
    let shared = Arc::new(Shared::new(segments, planner));
    let config = Config::default();
    let (submit, queue) = Submit::new(config.queue_bytes.0 as u32);
    let metrics = Metrics::new(&prometheus::Registry::new()).expect("a registry of its own");
    let writer = Writer::new(folder, config, false, queue, recovered, shared, Health::new(), metrics);
    groups.into_iter().try_for_each(|group| submit.try_submit(group).map_err(|_| Error::Closed))?;
    drop(submit);
    writer.run();
    Ok(())
}

/// Puts `batches` of those that wait into a store that takes everything.
///
/// # Errors
/// As starting a pipeline would.
pub fn ship(folder: &Path, batches: usize) -> Result<()> {
    let (mut ledger, mut planner, _) = open(folder)?;
    planner.close_all();
    for batch in std::iter::from_fn(|| planner.pop_ready()).take(batches) {
        let cut = Cut { batch, key: "key".into(), codec: Codec::None, level: 0 };
        ledger.cut(&cut)?;
        ledger.done(&cut)?;
    }
    Ok(())
}

fn open(folder: &Path) -> Result<(Ledger, Planner, Recovered)> {
    let ledger = Ledger::open(&folder.join("ledger"), "mx1", || "e1".into())?;
    let mut planner = Planner::new(Duration::from_secs(86_400), BATCH_BYTES_MAX, 0);
    let recovered = super::recover::recover(folder, &ledger, &mut planner)?;
    Ok((ledger, planner, recovered))
}
