//! Where a lane begins.
//!
//! The group's committed offset carries the name of the cut before it. Where that cut is there and ends right before the
//! offset, the lane goes on after it, with the streams that it knows. Where the cut is gone (a lifecycle rule may delete
//! what is older than the topic's retention), the lane goes on at the offset and knows nothing of the streams.
//!
//! Anything else (no commit, one that is not greypit's, an offset set by hand) is not followed: the cuts in the store say
//! how far the partition is. The last one is done again, for its objects may be missing, and putting objects that are
//! there already does no harm. Where there is no cut, the lane begins with the log.
//!
//! A log that ends before the cut's batch does is another one under the same name, and so is one whose message at the
//! offset of the cut's first message has another id. It gets a life of its own, and begins at 0; what the streams of the
//! life before had seen stays seen.

use super::batch::Base;
use super::cut::{self, Cut, Name, Place};
use super::seen::Seen;
use crate::Result;
use crate::upload::Uploader;

/// What Kafka knows of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    /// The first offset that is there, and the one after the last.
    pub(super) low: i64,
    pub(super) high: i64,
    /// The group's offset and what was noted beside it.
    pub(super) committed: Option<(i64, String)>,
}

/// Where a lane begins.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) base: Base,
    /// The cut that is there for the first batch.
    pub(super) obeys: Option<Box<Cut>>,
    pub(super) low: i64,
    pub(super) high: i64,
}

/// What is noted beside a committed offset.
pub(super) fn note(name: Name) -> String {
    format!("greypit cut {name}")
}

fn noted(note: &str) -> Option<Name> {
    note.strip_prefix("greypit cut ").and_then(Name::parse)
}

/// Finds out where to begin; lives in `not` are of another log.
///
/// # Errors
/// The store cannot be read, or a cut in it: nothing is assumed then.
pub(super) async fn find<F: Future<Output = Result<Log>>>(
    uploader: &Uploader,
    place: &Place,
    not: &[u32],
    ask: impl Fn() -> F,
) -> Result<Start> {
    let log = ask().await?;
    let start =
        |base: Base, obeys: Option<Cut>| Start { base, obeys: obeys.map(Box::new), low: log.low, high: log.high };
    if let Some((offset, name)) = committed(&log, not) {
        match cut::get(uploader, place, name).await? {
            Some(cut) if cut.end + 1 == offset => {
                let base = after(&cut);
                let obeys = cut::get(uploader, place, base.name).await?;
                return Ok(start(base, obeys));
            }
            Some(_) => {}
            None => {
                tracing::warn!(topic = place.topic, partition = place.partition, offset, cut = %name, "the cut that the group's offset names is gone: going on at the offset");
                let name = Name { life: name.life, start: offset };
                let base = Base { name, before: None, seen: Seen::default() };
                let obeys = cut::get(uploader, place, name).await?;
                return Ok(start(base, obeys));
            }
        }
    }
    let lives = last_cuts(uploader, place).await?;
    // Once more, now that the cuts are known: their batches are in the log, if it is theirs.
    let log = ask().await?;
    let start =
        |base: Base, obeys: Option<Cut>| Start { base, obeys: obeys.map(Box::new), low: log.low, high: log.high };
    for cut in lives.iter().filter(|cut| !not.contains(&cut.life)) {
        if cut.end < log.high {
            let seen = match cut.before {
                Some(before) => cut::get(uploader, place, before).await?.map(|before| Seen::of(&before.streams)),
                None => None,
            };
            let base = Base { name: cut.name(), before: cut.before, seen: seen.unwrap_or_default() };
            return Ok(start(base, Some(cut.clone())));
        }
    }
    // Nothing of this log: it begins. What the newest life had seen stays seen.
    let newest = lives.first();
    let base = Base {
        name: Name { life: newest.map_or(0, |cut| cut.life + 1), start: 0 },
        before: newest.map(Cut::name),
        seen: newest.map_or_else(Seen::default, |cut| Seen::of(&cut.streams)),
    };
    let obeys = cut::get(uploader, place, base.name).await?;
    Ok(start(base, obeys))
}

/// The last cut of every life, the newest life first.
async fn last_cuts(uploader: &Uploader, place: &Place) -> Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    for name in cut::last_of_lives(uploader, place).await? {
        // One that was deleted since it was listed was old.
        cuts.extend(cut::get(uploader, place, name).await?);
    }
    Ok(cuts)
}

/// The group's word, where it is greypit's and can be true.
fn committed(log: &Log, not: &[u32]) -> Option<(i64, Name)> {
    let (offset, note) = log.committed.as_ref()?;
    let name = noted(note).filter(|name| !not.contains(&name.life))?;
    (name.start < *offset && *offset <= log.high).then_some((*offset, name))
}

fn after(cut: &Cut) -> Base {
    let name = Name { life: cut.life, start: cut.end + 1 };
    Base { name, before: Some(cut.name()), seen: Seen::of(&cut.streams) }
}
