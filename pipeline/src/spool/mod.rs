//! The spool: a segmented, append-only log on disk between the collectors and the store.
//!
//! # Promises
//! * A group (`crate::event::Group`) is there whole or not at all, with the checkpoints of its sources.
//! * What has been fsynced is never lost and gets its number once: `seq` counts from 1 without a gap within node, epoch
//!   (one life of this folder) and kind.
//! * Only what has been fsynced is shipped. Events become durable together: one fsync for all that arrived within
//!   `spool.sync`, so a power cut takes at most that much; a killed process takes nothing that was written.
//! * A segment is deleted only when the ledger says, durably, that all of it is in the store.
//!
//! # Limits
//! * `spool.max_bytes` on disk: beyond it nothing is taken until the store has caught up, so sources that can wait do,
//!   and those that cannot count what they drop. A full disk has the same effect, and ends the same way.
//! * `spool.queue_bytes` in memory, in front of the disk.
//!
//! # Files
//! ```text
//! spool/00000000000000000001.seg   segments, format in `frame`; each begins with a snapshot of all numbers and checkpoints
//! spool/ledger                     what is cut and what is done, format in `ledger`
//! spool/reserve                    blocks given up to begin a new segment when the disk is full
//! spool/lock                       one process at a time
//! spool/damaged/                   segments in which something could not be read, kept for a person to look at
//! ```
//! Every start begins a new segment, so nothing is ever appended behind bytes of unknown state.
//!
//! # Recovery
//! Segments are read in order. A frame cut short at the end of the last one is what a crash leaves: it was never
//! acknowledged, and is cut off. Any other unreadable frame is damage: counted, logged, stepped over where the next
//! frame can be found, and its segment goes to `damaged/` instead of being deleted. Frames that a later segment's
//! snapshot does not count were written but never acknowledged (a failed fsync), and are cut off; where that snapshot is
//! damaged, the numbers say what is there twice. A last segment without a whole snapshot was never begun, and is deleted.
//! Recovering again finds the same. A ledger that cannot be read, or is gone while there are segments, is for a person
//! to decide about.

pub mod frame;
pub(crate) mod ledger;
pub(crate) mod reader;
pub(crate) mod recover;
pub(crate) mod segments;
pub(crate) mod shared;
#[cfg(feature = "testing")]
pub mod testing;
pub(crate) mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::units::{Size, Span};
use crate::{Error, Result};

/// When events become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// One fsync for everything that arrived within this time.
    Every(Duration),
    /// One fsync for each submitted group before the next is taken.
    Each,
}

impl Serialize for Sync {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Sync::Each => serializer.serialize_str("each"),
            Sync::Every(time) => Span(*time).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Sync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Sync, D::Error> {
        let text = String::deserialize(deserializer)?;
        match Span::parse(&text) {
            Some(Span(time)) if time.is_zero() => Ok(Sync::Each),
            Some(Span(time)) if time <= Duration::from_secs(10) => Ok(Sync::Every(time)),
            _ if text == "each" => Ok(Sync::Each),
            _ => Err(de::Error::custom(format!(
                "'{text}': write \"each\" or a duration up to \"10s\", for example \"50ms\""
            ))),
        }
    }
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The group-commit interval, or `"each"`.
    pub sync: Sync,
    /// The most that waiting events may take on disk.
    pub max_bytes: Size,
    /// The most that may wait in memory for the disk.
    pub queue_bytes: Size,
    /// The size at which a segment ends; room is freed a segment at a time.
    pub segment_bytes: Size,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            sync: Sync::Every(Duration::from_millis(50)),
            max_bytes: Size(8 << 30),
            queue_bytes: Size(16 << 20),
            segment_bytes: Size(32 << 20),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: &str| Err(Error::Config { key: format!("spool.{key}"), problem: problem.into() });
        if self.queue_bytes.0 < 1 << 20 || self.queue_bytes.0 > 1 << 30 {
            return refuse("queue_bytes", "must be from 1MiB to 1GiB");
        }
        if self.segment_bytes.0 < 64 << 10 || self.segment_bytes.0 > 1 << 30 {
            return refuse("segment_bytes", "must be from 64KiB to 1GiB");
        }
        if self.max_bytes.0 < (4 * self.segment_bytes.0).max(16 << 20) {
            return refuse(
                "max_bytes",
                "must be at least 16MiB and four times spool.segment_bytes: room is freed a segment at a time",
            );
        }
        Ok(())
    }
}

pub(crate) fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.seg"))
}

/// The segments in `folder`, oldest first.
pub(crate) fn segment_numbers(folder: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let name = entry.map_err(Error::io("read", folder))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok());
        // A name that we would write otherwise is not ours.
        numbers.extend(number.filter(|number| segment_path(folder, *number).file_name() == Some(&name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder).and_then(|file| file.sync_all()).map_err(Error::io("sync", folder))
}
