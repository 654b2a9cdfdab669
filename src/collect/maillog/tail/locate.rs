//! Finding a source's files on the disk again, under whatever name they have by now: those of a checkpoint, those that
//! came and went unseen, and the copies that copytruncate made.
//!
//! Nothing is read from them here beyond their fingerprint. A wrong guess repeats or loses records, so each way to
//! recognise a file says why it can be believed.

use std::fs;
use std::io;
use std::path::Path;

use tracing::warn;

use super::checkpoint::{FileId, HEAD_BYTES_SURE, Position, State};
use super::file::{Followed, open};
use super::metrics::Reason;
use super::siblings::{self, Place, Sibling};
use super::source::{FILES_MAX, Owners, Rules, Source};

impl Source {
    /// Finds the files of a checkpoint again, under whatever name.
    pub(super) fn restore(&mut self, state: State, me: usize, rules: &Rules, owners: &mut Owners) {
        let all = state.files.clone();
        for (i, position) in state.files.into_iter().enumerate() {
            let last = i + 1 == all.len();
            if position.done {
                if last {
                    owners.entry(position.id()).or_insert(me);
                    self.files.push_back(Followed::closed(position));
                }
                continue;
            }
            // Nothing read means no fingerprint: a copy of another file may have taken the inode.
            let other = |path: &Path| {
                let others = all.iter().filter(|other| other.head.len() >= HEAD_BYTES_SURE && **other != position);
                position.offset == 0 && others.into_iter().any(|other| holds(path, other).is_some())
            };
            match self.find(&position, last, owners, other) {
                Some((file, left_before)) => {
                    owners.insert(file.id(), me);
                    self.files.push_back(file.left_before(left_before));
                }
                None => {
                    rules.counts.error(Reason::Gone).inc();
                    warn!(path = %self.path.display(), offset = position.offset,
                        "the file read last is gone; what was added to it meanwhile is lost");
                    self.changed = true;
                    if last {
                        owners.entry(position.id()).or_insert(me);
                        self.files.push_back(Followed::closed(position));
                    }
                }
            }
        }
    }

    /// The file of a position, and whether it has left its path.
    fn find(
        &self,
        position: &Position,
        last: bool,
        owners: &Owners,
        is_other: impl Fn(&Path) -> bool,
    ) -> Option<(Followed, bool)> {
        let id = position.id();
        // A file that was cut, or another one under its inode: reading will notice, and then look for copies.
        if last
            && let Ok((file, metadata)) = open(&self.path)
            && FileId::of(&metadata) == id
        {
            return Some((Followed::from_position(file, position.clone()), false));
        }
        let places = self.places(position.at.as_deref());
        let same = siblings::find(id, &places).filter(|path| !is_other(path));
        if let Some(found) = same.and_then(|path| holds(&path, position)) {
            return Some((found, true));
        }
        if position.head.len() < HEAD_BYTES_SURE {
            return None;
        }
        // Copied to another inode or another device number.
        if let Some(found) = holds(&self.path, position).filter(|found| !owners.contains_key(&found.id())) {
            return Some((found, false));
        }
        let siblings = siblings::list(&places).ok()?;
        let mut copies = siblings.iter().filter(|sibling| !owners.contains_key(&sibling.id));
        copies.find_map(|sibling| holds(&sibling.path, position)).map(|found| (found, true))
    }

    /// Rotated files between the last known one and `head`, oldest first.
    pub(super) fn came_between(&self, head: &Followed, owners: &Owners) -> io::Result<Vec<Sibling>> {
        let Some(last) = self.files.back() else { return Ok(Vec::new()) };
        let mut places = self.places(last.position.at.as_deref());
        // A symlink that moves on from log.2026-11-20 to log.2026-11-22 has skipped one.
        if let Some(place) = last.position.at.as_deref().and_then(|at| Place::of(Path::new(at))) {
            let bases = siblings::bases_of(&place.base);
            places.extend(bases.into_iter().map(|base| Place { base, ..place.clone() }));
        }
        let found = siblings::list(&places)?;
        let is_last = |sibling: &Sibling| {
            // A closed file's inode may be another's by now; if nothing was read of it, that makes no difference.
            let same = || last.position.head.len() > 0 && holds(&sibling.path, &last.position).is_some();
            sibling.id == last.id() && (!last.position.done || same())
        };
        let last_order = found.iter().find(|sibling| is_last(sibling)).map(|sibling| sibling.order.clone());
        let head_order = found.iter().find(|sibling| sibling.id == head.id()).map(|sibling| sibling.order.clone());
        let copy_of_last = |sibling: &Sibling| {
            last.position.head.len() >= HEAD_BYTES_SURE && holds(&sibling.path, &last.position).is_some()
        };
        let unknown = found.into_iter().filter(|sibling| {
            let known = sibling.id == head.id() || is_last(sibling);
            let owned = sibling.id != last.id() && owners.contains_key(&sibling.id);
            !known && !owned
        });
        let mut between = siblings::newer(unknown.collect(), last_order.as_ref(), last.position.since);
        between.retain(|sibling| !copy_of_last(sibling));
        if let Some(head_order) = head_order {
            between.retain(|sibling| head_order.is_newer_than(&sibling.order) == Some(true));
        }
        Ok(between)
    }

    /// The copies that copytruncate made of a file since `old`: first the one with the rest of what was being read, then
    /// those that came later, oldest first.
    pub(super) fn copies(&self, old: &Position, owners: &Owners) -> io::Result<Vec<Followed>> {
        let mut found = siblings::list(&self.places(old.at.as_deref()))?;
        found.retain(|sibling| !owners.contains_key(&sibling.id));
        let continues = |sibling: &Sibling| {
            let sure = old.head.len() >= HEAD_BYTES_SURE;
            let likely = old.head.len() > 0 && sibling.changed_ns > old.since;
            if sure || likely { holds(&sibling.path, old) } else { None }
        };
        let rest = found.iter().find_map(|sibling| continues(sibling).map(|file| (file, sibling.clone())));
        let (order, since) = match &rest {
            Some((_, sibling)) => (Some(sibling.order.clone()), sibling.changed_ns),
            None => (None, old.since),
        };
        found.retain(|sibling| rest.as_ref().is_none_or(|(_, rest)| rest.id != sibling.id));
        let later = siblings::newer(found, order.as_ref(), since);
        let later = later.iter().filter_map(|sibling| {
            let (file, metadata) = open(&sibling.path).ok()?;
            Some(Followed::from_start(file, &metadata))
        });
        let all = rest.into_iter().map(|(file, _)| file).chain(later);
        Ok(all.take(FILES_MAX - 1).map(|file| file.left_before(true)).collect())
    }

    /// Folders and names under which this source's rotated files may be.
    fn places(&self, at: Option<&str>) -> Vec<Place> {
        let real = fs::canonicalize(&self.path).ok();
        let paths = [Some(self.path.as_path()), real.as_deref(), at.map(Path::new)];
        let mut places = Vec::new();
        for place in paths.into_iter().flatten().filter_map(Place::of) {
            if !places.contains(&place) && place.folder.is_dir() {
                places.push(place);
            }
        }
        places
    }

    /// The path behind the symlinks, where there are any.
    pub(super) fn real_path(&self) -> Option<String> {
        let real = fs::canonicalize(&self.path).ok().filter(|real| *real != self.path)?;
        real.to_str().map(str::to_owned)
    }
}

/// The file at `path`, if it holds what `position` says was read.
pub(super) fn holds(path: &Path, position: &Position) -> Option<Followed> {
    let (file, metadata) = open(path).ok()?;
    if metadata.len() < position.offset || !position.head.matches(&file).ok()? {
        return None;
    }
    let FileId { dev, ino } = FileId::of(&metadata);
    let mut followed = Followed::from_position(file, Position { dev, ino, ..position.clone() });
    followed.saw(&metadata);
    Some(followed)
}
