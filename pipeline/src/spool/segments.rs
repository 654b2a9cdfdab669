//! Which segments there are, what each of them holds last, and which of them can go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{segment_path, sync_folder};
use crate::event::Kind;
use crate::{Error, Result};

/// One segment on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) bytes: u64,
    /// The last number of each kind in it.
    pub(crate) last: BTreeMap<Kind, u64>,
    /// Something in it could not be read.
    pub(crate) damaged: bool,
}

/// All segments; the newest is the one being written.
#[derive(Debug)]
pub(crate) struct Segments {
    folder: PathBuf,
    table: BTreeMap<u64, Segment>,
}

impl Segments {
    pub(crate) fn new(folder: &Path, table: BTreeMap<u64, Segment>) -> Segments {
        Segments { folder: folder.into(), table }
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.table.values().map(|segment| segment.bytes).sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn add(&mut self, number: u64, bytes: u64) {
        self.table.insert(number, Segment { bytes, ..Segment::default() });
    }

    /// What has become durable in the newest segment.
    pub(crate) fn update(&mut self, number: u64, bytes: u64, last: impl Iterator<Item = (Kind, u64)>) {
        if let Some(segment) = self.table.get_mut(&number) {
            segment.bytes = bytes;
            segment.last.extend(last);
        }
    }

    /// Whether everything in the newest segment is in the store.
    pub(crate) fn newest_is_done(&self, lowest_undone: &BTreeMap<Kind, u64>) -> bool {
        self.table.last_key_value().is_some_and(|(_, segment)| is_done(segment, lowest_undone))
    }

    /// Deletes, oldest first, the segments of which everything is in the store. The newest stays: it carries the
    /// numbers and checkpoints. Gives the bytes freed.
    pub(crate) fn delete_done(&mut self, lowest_undone: &BTreeMap<Kind, u64>) -> Result<u64> {
        let mut freed = 0;
        while self.table.len() > 1 {
            let Some((number, segment)) = self.table.first_key_value() else { break };
            if !is_done(segment, lowest_undone) {
                break;
            }
            let path = segment_path(&self.folder, *number);
            if segment.damaged {
                let aside = self.folder.join("damaged");
                std::fs::create_dir_all(&aside).map_err(Error::io("create", &aside))?;
                let to = segment_path(&aside, *number);
                std::fs::rename(&path, &to).map_err(Error::io("set aside", &path))?;
            } else {
                std::fs::remove_file(&path).map_err(Error::io("delete", &path))?;
            }
            freed += segment.bytes;
            let number = *number;
            self.table.remove(&number);
        }
        if freed > 0 {
            sync_folder(&self.folder)?;
        }
        Ok(freed)
    }
}

fn is_done(segment: &Segment, lowest_undone: &BTreeMap<Kind, u64>) -> bool {
    segment.last.iter().all(|(kind, last)| lowest_undone.get(kind).is_some_and(|lowest| last < lowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_segments_go_oldest_first_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (Kind::new("to"), Kind::new("from"));
        let mut segments = Segments::new(folder.path(), BTreeMap::new());
        for (number, last) in [(1, vec![(to, 10)]), (2, vec![(to, 20), (from, 5)]), (3, vec![(to, 30)])] {
            std::fs::write(segment_path(folder.path(), number), b"x").unwrap();
            segments.add(number, 0);
            segments.update(number, 1, last.into_iter());
        }
        assert_eq!(segments.delete_done(&BTreeMap::from([(to, 25)])).unwrap(), 1, "from 5 is not done");
        assert_eq!(segments.len(), 2);
        assert_eq!(segments.delete_done(&BTreeMap::from([(to, 31), (from, 6)])).unwrap(), 1);
        assert_eq!(segments.len(), 1);
        assert!(segments.newest_is_done(&BTreeMap::from([(to, 31)])));
        assert!(segment_path(folder.path(), 3).exists());
    }

    #[test]
    fn a_damaged_segment_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(segment_path(folder.path(), 1), b"x").unwrap();
        let damaged = Segment { bytes: 1, damaged: true, ..Segment::default() };
        let table = BTreeMap::from([(1, damaged), (2, Segment::default())]);
        Segments::new(folder.path(), table).delete_done(&BTreeMap::new()).unwrap();
        assert!(segment_path(&folder.path().join("damaged"), 1).exists());
    }
}
