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

use super::checkpoint::{FileId, State};
use super::config::Start;
use super::file::{Chunk, Followed, Now, open};
use super::locate::holds;
use super::metrics::{Counts, Reason};
use super::siblings::Sibling;
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

/// What came of asking a source for a file.
#[derive(Debug)]
pub(super) enum Given {
    /// The other source goes on with it.
    File(Box<Followed>),
    /// It is at this source's path too.
    StillHere,
    /// It only has the inode of one that this source finished.
    Unknown,
}

/// One path.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Which entry asked for it.
    pub(super) rules: usize,
    pub(super) files: VecDeque<Followed>,
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

    /// Gives a file to the source of another path that it is at now.
    pub(super) fn give(&mut self, id: FileId, to: &Path) -> Given {
        if fs::metadata(&self.path).is_ok_and(|metadata| FileId::of(&metadata) == id) {
            return Given::StillHere;
        }
        let Some(at) = self.files.iter().rposition(|file| file.id() == id) else { return Given::Unknown };
        let position = &self.files[at].position;
        if position.done && (position.head.len() == 0 || holds(to, position).is_none()) {
            return Given::Unknown;
        }
        self.at_path &= at + 1 < self.files.len();
        self.changed = true;
        self.files.remove(at).map_or(Given::Unknown, |file| Given::File(Box::new(file)))
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
        self.look_at_left(visit.rules);
        self.find_copies_of_unread(visit);
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
                if let Some(at) = self.files.iter().rposition(|file| file.id() == id)
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

    /// Finds out whether files that have left the path have grown.
    fn look_at_left(&mut self, rules: &Rules) {
        let left = self.files.len() - usize::from(self.at_path);
        for i in 0..left {
            if let Err(error) = self.files[i].look() {
                self.complain(rules, Reason::Read, "cannot look at the open file", &error);
            }
        }
    }

    /// Reads once from each file in order. Returns whether there is more.
    fn read_all(&mut self, visit: &mut Visit<'_>) -> bool {
        for i in 0..self.files.len() {
            let leaves = i + 1 < self.files.len() || !self.at_path;
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
        self.insert(i, copies, visit);
        true
    }

    /// A file of which nothing has been read has no fingerprint, so its truncation cannot be noticed. Before its first
    /// read, copies made since it was last looked at are therefore read in front of it.
    fn find_copies_of_unread(&mut self, visit: &mut Visit<'_>) {
        let mut at = 0;
        while let Some(file) = self.files.get(at) {
            let Some((old, now)) = file.changed_unread() else {
                at += 1;
                continue;
            };
            let mut copies = match self.copies(&old, visit.owners) {
                Ok(copies) => copies,
                Err(error) => return self.complain(visit.rules, Reason::List, "cannot list the folder", &error),
            };
            // In the moment between copying and truncating, the file itself still has the lines.
            copies.retain(|copy| self.files[at].begins_like(copy).is_ok_and(|alike| !alike));
            self.files[at].position.since = now;
            self.changed = true;
            visit.rules.counts.truncations.inc_by(u64::from(!copies.is_empty()));
            at = self.insert(at, copies, visit) + 1;
        }
    }

    /// Puts files in front of another; returns where that one is now.
    fn insert(&mut self, at: usize, copies: Vec<Followed>, visit: &mut Visit<'_>) -> usize {
        let moved = at + copies.len();
        for (i, copy) in copies.into_iter().enumerate() {
            visit.owners.insert(copy.id(), visit.me);
            self.files.insert(at + i, copy);
        }
        moved
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
                // A newer file may have taken over the inode.
                let again = self.files.iter().any(|other| other.id() == file.id());
                if !again && visit.owners.get(&file.id()) == Some(&visit.me) {
                    visit.owners.remove(&file.id());
                }
                let next = &mut self.files[i].position;
                next.since = next.since.max(file.position.since);
                self.changed = true;
            }
        }
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
