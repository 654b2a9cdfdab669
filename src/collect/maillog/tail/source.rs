//! One path and the files that are or were at it, oldest first.
//!
//! ```text
//! files:  maillog.2 ─► maillog.1 ─► maillog        read in this order, each to its end
//!         quiet: done  left its     at the path
//!                      path
//! ```
//!
//! A file that has left its path stays open and is looked at until nobody has written to it for [`super::QUIET`]: a
//! daemon may take a while to reopen its log. Only then its last line counts as finished although no newline ends it. The
//! new file is read meanwhile. The last file stays known, closed, until a successor appears: by it greypit tells which
//! rotated files came after it, and recognises it should it come back.
//!
//! Nothing else is remembered of a source, and all of it is its checkpoint.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use greypit_pipeline::Group;
use tracing::{info, warn};

use super::checkpoint::{FileId, HEAD_BYTES_SURE, Position, State};
use super::config::Start;
use super::file::{Chunk, Followed, Now, open};
use super::metrics::{Counts, Reason};
use super::siblings::{self, Place, Sibling};
use super::{Line, Sink};

/// How many files of one source are open at most; further rotated ones wait their turn on the disk.
pub(super) const FILES_MAX: usize = 64;

/// Which source follows which file, so that no file is read twice under two names.
pub(super) type Owners = HashMap<FileId, usize>;

/// What a source needs to know of its `[[maillog]]` entry.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) entry: usize,
    pub(super) start: Start,
    pub(super) max_line: usize,
    pub(super) quiet: Duration,
    pub(super) counts: Counts,
}

/// What a visit works with.
pub(super) struct Visit<'a> {
    pub(super) me: usize,
    pub(super) rules: &'a Rules,
    pub(super) now: Now,
    pub(super) owners: &'a mut Owners,
    pub(super) buffer: &'a mut [u8],
    pub(super) sink: &'a mut Sink<'a>,
    pub(super) group: &'a mut Group,
}

/// What a visit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visited {
    /// Everything there is has been read.
    Idle,
    /// There may be more to read.
    More,
    /// The file at the path is in another source's hands.
    Taken(FileId),
}

/// One path.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Which entry asked for it.
    pub(super) rules: usize,
    files: VecDeque<Followed>,
    /// Whether the last of `files` is at the path.
    at_path: bool,
    /// Whether [`Start`] still applies: greypit has just started and knows nothing of this path.
    pub(super) fresh: bool,
    /// Whether the checkpoint must be written again.
    pub(super) changed: bool,
    complaint: Option<(Reason, io::ErrorKind)>,
    complained_now: bool,
    lag_bytes: i64,
    open_files: i64,
}

impl Source {
    pub(super) fn new(path: PathBuf, rules: usize) -> Source {
        Source {
            path,
            rules,
            files: VecDeque::new(),
            at_path: false,
            fresh: false,
            changed: false,
            complaint: None,
            complained_now: false,
            lag_bytes: 0,
            open_files: 0,
        }
    }

    /// Finds the files of a checkpoint again, under whatever name.
    pub(super) fn restore(&mut self, state: State, me: usize, rules: &Rules, owners: &mut Owners) {
        let count = state.files.len();
        for (i, position) in state.files.into_iter().enumerate() {
            let last = i + 1 == count;
            if position.done {
                if last {
                    owners.insert(position.id(), me);
                    self.files.push_back(Followed::closed(position));
                }
                continue;
            }
            match self.find(&position, last, owners) {
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
                        owners.insert(position.id(), me);
                        self.files.push_back(Followed::closed(position));
                    }
                }
            }
        }
    }

    /// The file of a position, and whether it has left its path.
    fn find(&self, position: &Position, last: bool, owners: &Owners) -> Option<(Followed, bool)> {
        let id = position.id();
        // A file that was cut, or another one under its inode: reading will notice, and then look for copies.
        if last
            && let Ok((file, metadata)) = open(&self.path)
            && FileId::of(&metadata) == id
        {
            return Some((Followed::from_position(file, position.clone()), false));
        }
        let places = self.places(position.at.as_deref());
        if let Some(found) = siblings::find(id, &places).and_then(|path| holds(&path, position)) {
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

    /// The checkpoint.
    pub(super) fn state(&self) -> Vec<u8> {
        State::new(self.files.iter().map(|file| file.position.clone()).collect()).encode()
    }

    /// Whether everything known of it is read and closed, and when the last file changed, in ns since 1970.
    pub(super) fn finished_since(&self) -> Option<u64> {
        match self.files.back() {
            _ if self.at_path || self.files.iter().any(|file| !file.position.done) => None,
            Some(last) => Some(last.position.since),
            None => Some(0),
        }
    }

    /// Gives a file to another source, unless it is still at this one's path.
    pub(super) fn give(&mut self, id: FileId) -> Option<Followed> {
        if fs::metadata(&self.path).is_ok_and(|metadata| FileId::of(&metadata) == id) {
            return None;
        }
        let at = self.files.iter().position(|file| file.id() == id)?;
        self.at_path &= at + 1 < self.files.len();
        self.changed = true;
        self.files.remove(at)
    }

    /// Takes a file over from another source.
    pub(super) fn take(&mut self, file: Followed) {
        self.files.push_back(file);
        self.changed = true;
    }

    /// Forgets which files it owns, before it is dropped.
    pub(super) fn disown(&self, owners: &mut Owners, counts: &Counts) {
        for file in &self.files {
            owners.remove(&file.id());
        }
        counts.lag.sub(self.lag_bytes);
        counts.files.sub(self.open_files);
    }

    /// Looks at the path, reads at most one buffer from each file, lets go of what is finished.
    pub(super) fn visit(&mut self, visit: &mut Visit<'_>) -> Visited {
        self.complained_now = false;
        let taken = self.look_at_path(visit);
        let more = self.read_all(visit);
        self.drop_finished(visit);
        self.gauge(&visit.rules.counts);
        if !self.complained_now && self.complaint.take().is_some() {
            info!(path = %self.path.display(), "followed again");
        }
        match (more, taken) {
            (true, _) => Visited::More,
            (false, Some(id)) => Visited::Taken(id),
            (false, None) => Visited::Idle,
        }
    }

    /// Finds out which file is at the path; a new one joins `files`, behind those that came between.
    fn look_at_path(&mut self, visit: &mut Visit<'_>) -> Option<FileId> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.at_path = false;
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                    self.complain(visit.rules, Reason::Open, "cannot look at the file", &error);
                } else {
                    self.fresh = false;
                }
                return None;
            }
        };
        let id = FileId::of(&metadata);
        if let Some(last) = self.files.back_mut()
            && last.id() == id
        {
            self.at_path = true;
            if !last.position.done {
                last.saw(&metadata);
                return None;
            }
        } else {
            self.at_path = false;
        }
        match open(&self.path) {
            Ok((file, metadata)) if FileId::of(&metadata) == id => {
                if self.at_path {
                    if let Some(last) = self.files.back_mut() {
                        last.reopen(file);
                        last.saw(&metadata);
                        self.changed = true;
                    }
                    return None;
                }
                let mut head = Followed::from_start(file, &metadata);
                head.saw(&metadata);
                self.join(head, visit)
            }
            // Replaced between the two calls: seen at the next look, which the replacement causes.
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.complain(visit.rules, Reason::Open, "cannot open the file", &error);
                None
            }
        }
    }

    /// A file that was not at the path before.
    fn join(&mut self, mut head: Followed, visit: &mut Visit<'_>) -> Option<FileId> {
        let id = head.id();
        match visit.owners.get(&id) {
            Some(owner) if *owner != visit.me => return Some(id),
            Some(_) => {
                // An older file was moved back.
                if let Some(at) = self.files.iter().position(|file| file.id() == id)
                    && let Some(file) = self.files.remove(at)
                {
                    self.files.push_back(file.left_before(false));
                    self.at_path = true;
                    self.changed = true;
                }
                return None;
            }
            None => {}
        }
        head.position.at = self.real_path();
        if !self.files.is_empty() {
            let between = match self.came_between(&head, visit.owners) {
                Ok(between) => between,
                Err(error) => {
                    self.complain(visit.rules, Reason::List, "cannot list the folder", &error);
                    return None;
                }
            };
            for sibling in between {
                if !self.join_rotated(&sibling, visit) {
                    return None;
                }
            }
            if self.files.len() >= FILES_MAX {
                return None;
            }
            visit.rules.counts.rotations.inc();
        }
        if self.fresh
            && visit.rules.start == Start::End
            && let Err(error) = head.skip_to_end(visit.buffer)
        {
            self.complain(visit.rules, Reason::Read, "cannot find the end of the file", &error);
            return None;
        }
        visit.owners.insert(id, visit.me);
        self.files.push_back(head);
        self.at_path = true;
        self.fresh = false;
        self.changed = true;
        None
    }

    /// A rotated file that was never seen at the path. Returns whether there is room for more.
    fn join_rotated(&mut self, sibling: &Sibling, visit: &mut Visit<'_>) -> bool {
        if self.files.len() >= FILES_MAX {
            return false;
        }
        match open(&sibling.path) {
            Ok((file, metadata)) if FileId::of(&metadata) == sibling.id => {
                let mut file = Followed::from_start(file, &metadata).left_before(true);
                file.saw(&metadata);
                visit.owners.insert(sibling.id, visit.me);
                visit.rules.counts.rotations.inc();
                self.files.push_back(file);
                self.changed = true;
                true
            }
            // Renamed meanwhile: the folder must be listed again.
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                self.complain(visit.rules, Reason::Open, "skips a rotated file that it cannot open", &error);
                true
            }
        }
    }

    /// Rotated files between the last known one and `head`, oldest first.
    fn came_between(&self, head: &Followed, owners: &Owners) -> io::Result<Vec<Sibling>> {
        let Some(last) = self.files.back() else { return Ok(Vec::new()) };
        let mut places = self.places(last.position.at.as_deref());
        // A symlink that moves on from log.2026-11-20 to log.2026-11-22 has skipped one.
        if let Some(place) = last.position.at.as_deref().and_then(|at| Place::of(Path::new(at))) {
            let bases = siblings::bases_of(&place.base);
            places.extend(bases.into_iter().map(|base| Place { base, ..place.clone() }));
        }
        let found = siblings::list(&places)?;
        let is_last = |sibling: &Sibling| {
            sibling.id == last.id() && (!last.position.done || holds(&sibling.path, &last.position).is_some())
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

    /// Reads once from each file in order. Returns whether there is more.
    fn read_all(&mut self, visit: &mut Visit<'_>) -> bool {
        for i in 0..self.files.len() {
            let leaves = i + 1 < self.files.len() || !self.at_path;
            if leaves && let Err(error) = self.files[i].look() {
                self.complain(visit.rules, Reason::Read, "cannot look at the open file", &error);
                continue;
            }
            if self.files[i].unread {
                match self.read(i, visit) {
                    Ok(Chunk::More) => return true,
                    Ok(Chunk::Cut) => return self.was_cut(i, visit),
                    Ok(Chunk::End) => self.files[i].unread = false,
                    Err(error) => {
                        self.complain(visit.rules, Reason::Read, "cannot read the file", &error);
                        continue;
                    }
                }
            }
            if leaves && !self.files[i].position.done && self.files[i].is_quiet(visit.now, visit.rules.quiet) {
                self.finish(i, visit);
            }
        }
        false
    }

    fn read(&mut self, i: usize, visit: &mut Visit<'_>) -> io::Result<Chunk> {
        self.emit(i, visit, |file, buffer, max_line, emit| file.read(buffer, max_line, emit))
    }

    /// Ends a file that has left its path.
    fn finish(&mut self, i: usize, visit: &mut Visit<'_>) {
        let finished = self.emit(i, visit, |file, buffer, max_line, emit| file.finish(buffer, max_line, emit));
        match finished {
            Ok(()) => self.changed = true,
            Err(error) => self.complain(visit.rules, Reason::Read, "cannot read the end of the file", &error),
        }
    }

    fn emit<T>(
        &mut self,
        i: usize,
        visit: &mut Visit<'_>,
        read: impl FnOnce(&mut Followed, &mut [u8], usize, &mut dyn FnMut(&[u8], bool) -> bool) -> io::Result<T>,
    ) -> io::Result<T> {
        let Visit { rules, buffer, sink, group, .. } = visit;
        let file = &mut self.files[i];
        let before = file.position.offset;
        let (mut lines, mut lines_cut) = (0, 0);
        let outcome = read(file, buffer, rules.max_line, &mut |bytes, truncated| {
            lines += 1;
            lines_cut += u64::from(truncated);
            sink(Line { bytes, truncated, entry: rules.entry }, group);
            !group.is_full()
        });
        let used = file.position.offset - before;
        self.changed |= used > 0;
        rules.counts.bytes.inc_by(used);
        rules.counts.lines.inc_by(lines);
        rules.counts.truncated.inc_by(lines_cut);
        outcome
    }

    /// A file no longer holds what was read from it. Returns whether to look again at once.
    fn was_cut(&mut self, i: usize, visit: &mut Visit<'_>) -> bool {
        let rules = visit.rules;
        rules.counts.truncations.inc();
        self.changed = true;
        let path = self.path.display();
        match self.files[i].accept_lost_end() {
            Ok(true) => {
                warn!(%path, "the end of the file is missing; goes on at its new end");
                return true;
            }
            Ok(false) if i + 1 < self.files.len() => {
                warn!(%path, "a rotated file was truncated before it was finished");
                self.files[i].close();
                return true;
            }
            Ok(false) => {}
            Err(error) => {
                self.complain(rules, Reason::Read, "cannot look at the truncated file", &error);
                return false;
            }
        }
        let old = self.files[i].position.clone();
        let copies = self.copies(&old, visit.owners).unwrap_or_else(|error| {
            self.complain(rules, Reason::List, "cannot list the folder", &error);
            Vec::new()
        });
        if let Err(error) = self.files[i].restart() {
            self.complain(rules, Reason::Read, "cannot look at the truncated file", &error);
            return false;
        }
        info!(path = %self.path.display(), offset = old.offset, copies = copies.len(), "truncated; begins again");
        for (at, copy) in copies.into_iter().enumerate() {
            visit.owners.insert(copy.id(), visit.me);
            self.files.insert(i + at, copy);
        }
        true
    }

    /// The copies that copytruncate made of a file since `old`: first the one with the rest of what was being read, then
    /// those that came later, oldest first.
    fn copies(&self, old: &Position, owners: &Owners) -> io::Result<Vec<Followed>> {
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

    /// Drops finished files, but never the last; the next one remembers how new they were.
    fn drop_finished(&mut self, visit: &mut Visit<'_>) {
        let mut i = 0;
        while i + 1 < self.files.len() {
            if !self.files[i].position.done {
                i += 1;
                continue;
            }
            if let Some(file) = self.files.remove(i) {
                if visit.owners.get(&file.id()) == Some(&visit.me) {
                    visit.owners.remove(&file.id());
                }
                let next = &mut self.files[i].position;
                next.since = next.since.max(file.position.since);
                self.changed = true;
            }
        }
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

    /// Counts each failure, logs the first of a kind.
    fn complain(&mut self, rules: &Rules, reason: Reason, what: &str, error: &io::Error) {
        rules.counts.error(reason).inc();
        self.complained_now = true;
        let complaint = Some((reason, error.kind()));
        if self.complaint != complaint {
            self.complaint = complaint;
            warn!(path = %self.path.display(), %error, "{what}; tries again");
        }
    }

    fn gauge(&mut self, counts: &Counts) {
        let lag_bytes = self.files.iter().map(|file| file.lag_bytes() as i64).sum();
        let open_files = self.files.iter().filter(|file| !file.position.done).count() as i64;
        counts.lag.add(lag_bytes - self.lag_bytes);
        counts.files.add(open_files - self.open_files);
        (self.lag_bytes, self.open_files) = (lag_bytes, open_files);
    }

    /// Brings the lag up to date without reading.
    pub(super) fn measure(&mut self, counts: &Counts) {
        for file in &mut self.files {
            // A failure shows, and is counted, when the file is read.
            let _ = file.look();
        }
        self.gauge(counts);
    }
}

/// The file at `path`, if it holds what `position` says was read.
fn holds(path: &Path, position: &Position) -> Option<Followed> {
    let (file, metadata) = open(path).ok()?;
    if metadata.len() < position.offset || !position.head.matches(&file).ok()? {
        return None;
    }
    let FileId { dev, ino } = FileId::of(&metadata);
    let mut followed = Followed::from_position(file, Position { dev, ino, ..position.clone() });
    followed.saw(&metadata);
    Some(followed)
}
