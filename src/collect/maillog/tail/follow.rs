//! All sources of all entries: which paths there are, whose turn it is, what goes into one group.
//!
//! Synchronous and without a clock or a watcher of its own, so that tests drive it step by step; [`super::listen`] calls
//! it. Sources that may have something to read wait in a queue and read one buffer in turn, so a file with a long
//! backlog delays another by at most one buffer a source.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use greypit_pipeline::{Error, Group, Result};
use tracing::{info, warn};

use super::checkpoint::State;
use super::config::Config;
use super::file::Now;
use super::metrics::{Metrics, Reason};
use super::siblings;
use super::source::{Given, Owners, Rules, Source, Visit, Visited};
use super::{SOURCE_PREFIX, Sink};

/// Most bytes taken from one file at a time.
const READ_BYTES: usize = 256 << 10;
/// Most files followed at a time, over all entries.
const SOURCES_MAX: usize = 10_000;
/// Patterns are expanded once in so many polls, besides whenever a watched folder changes.
const POLLS_PER_SCAN: u32 = 10;
/// A file that a pattern found and that is gone and finished is forgotten when its last change is this long ago.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What the watcher saw since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Written to.
    pub(super) written: HashSet<PathBuf>,
    /// Created, removed or renamed.
    pub(super) renamed: HashSet<PathBuf>,
    /// Too much to say one by one.
    pub(super) all: bool,
}

/// One `[[maillog]]` entry.
#[derive(Debug)]
struct Entry {
    rules: Rules,
    path: PathBuf,
    pattern: Option<glob::Pattern>,
    poll: Duration,
    next_poll: Option<Instant>,
    polls: u32,
}

/// All followed files.
#[derive(Debug)]
pub(super) struct Tail {
    entries: Vec<Entry>,
    sources: Vec<Option<Source>>,
    by_path: HashMap<PathBuf, usize>,
    /// What symlinked sources lead to, as of the last time the watcher asked.
    by_real_path: HashMap<PathBuf, usize>,
    folders_due: bool,
    owners: Owners,
    ready: VecDeque<usize>,
    queued: HashSet<usize>,
    /// Sources to forget with the next group.
    forget: Vec<String>,
    buffer: Vec<u8>,
    limit_hit: bool,
    bad_names: HashSet<PathBuf>,
    /// Checkpoints not taken up yet.
    recovered: HashMap<String, State>,
    started: bool,
}

/// A group and whether another can be filled at once.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) group: Group,
    pub(super) more: bool,
}

impl Tail {
    /// Nothing is opened or read yet.
    ///
    /// # Errors
    /// [`Error::Config`] for an entry that cannot be right, or a checkpoint that this version cannot read.
    pub(super) fn new(
        configs: &[Config],
        recovered: &HashMap<String, Vec<u8>>,
        metrics: &Metrics,
        quiet: Duration,
    ) -> Result<Tail> {
        let mut entries = Vec::new();
        let mut buffer_bytes = READ_BYTES;
        for (entry, config) in configs.iter().enumerate() {
            config.validate()?;
            let max_line = config.max_line.0 as usize;
            buffer_bytes = buffer_bytes.max(max_line + 1);
            let rules = Rules { entry, start: config.start, max_line, quiet, counts: metrics.of(&config.path) };
            let path = config.absolute();
            let pattern = config.is_pattern().then(|| glob::Pattern::new(&path.to_string_lossy())).transpose();
            let pattern =
                pattern.map_err(|error| Error::Config { key: "maillog.path".into(), problem: error.to_string() })?;
            entries.push(Entry { rules, path, pattern, poll: config.poll.0, next_poll: None, polls: 0 });
        }
        let mut states = HashMap::new();
        for (source, state) in recovered {
            let Some(path) = source.strip_prefix(SOURCE_PREFIX).filter(|_| !state.is_empty()) else { continue };
            let state = State::decode(state).map_err(|error| Error::Config {
                key: "maillog.path".into(),
                problem: format!("the checkpoint of {path} in the spool cannot be read: {error}"),
            })?;
            states.insert(path.to_owned(), state);
        }
        Ok(Tail {
            entries,
            sources: Vec::new(),
            by_path: HashMap::new(),
            by_real_path: HashMap::new(),
            folders_due: true,
            owners: Owners::new(),
            ready: VecDeque::new(),
            queued: HashSet::new(),
            forget: Vec::new(),
            buffer: vec![0; buffer_bytes],
            limit_hit: false,
            bad_names: HashSet::new(),
            recovered: states,
            started: false,
        })
    }

    /// Takes in what the watcher saw: only the sources it is about are looked at.
    pub(super) fn wake(&mut self, changes: &Changes) {
        if !self.started {
            self.start();
        }
        if changes.all {
            self.scan();
            self.queue_all();
            return;
        }
        for path in changes.written.iter().chain(&changes.renamed) {
            let known = [self.by_path.get(path), self.by_real_path.get(path)].map(Option::<&usize>::copied);
            known.into_iter().flatten().for_each(|source| self.queue(source));
        }
        let new = |path: &PathBuf| {
            let matches = |entry: &Entry| entry.pattern.as_ref().is_some_and(|pattern| matches(pattern, path));
            !self.by_path.contains_key(path) && self.entries.iter().any(matches)
        };
        if changes.renamed.iter().any(new) {
            self.scan();
        }
    }

    /// Looks at everything whose poll is due; `unwatched` when no watcher says what is new.
    pub(super) fn tick(&mut self, now: Now, unwatched: bool) {
        if !self.started {
            self.start();
        }
        let mut scan = false;
        for i in 0..self.entries.len() {
            let entry = &mut self.entries[i];
            if entry.next_poll.is_some_and(|due| due > now.steady) {
                continue;
            }
            entry.next_poll = Some(now.steady + entry.poll);
            entry.polls = (entry.polls + 1) % POLLS_PER_SCAN;
            scan |= entry.pattern.is_some() && (unwatched || entry.polls == 0);
            self.folders_due |= entry.polls == 0;
            for source in 0..self.sources.len() {
                if self.sources[source].as_ref().is_some_and(|source| source.rules == i) {
                    self.queue(source);
                }
            }
        }
        if scan {
            self.scan();
            self.forget_old(now.wall);
        }
    }

    /// When [`Tail::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.next_poll).min()
    }

    /// Reads from the sources in turn until the group is full or there is nothing more.
    pub(super) fn fill(&mut self, now: Now, sink: &mut Sink<'_>) -> Filled {
        let mut group = Group::new();
        let mut touched = BTreeSet::new();
        while !group.is_full()
            && let Some(me) = self.ready.pop_front()
        {
            self.queued.remove(&me);
            let Some(mut source) = self.sources[me].take() else { continue };
            let mut visit = Visit {
                me,
                rules: &self.entries[source.rules].rules,
                now,
                owners: &mut self.owners,
                buffer: &mut self.buffer,
                sink,
                group: &mut group,
            };
            let visited = source.visit(&mut visit);
            if source.changed {
                touched.insert(me);
            }
            self.sources[me] = Some(source);
            match visited {
                Visited::Idle => {}
                Visited::More => self.queue(me),
                Visited::Taken(id) => {
                    if let Some(other) = self.hand_over(id, me) {
                        touched.extend([me, other]);
                    }
                }
            }
        }
        for me in touched {
            if let Some(source) = &mut self.sources[me] {
                source.changed = false;
                group.set_checkpoint(&name(&source.path), source.state());
            }
        }
        for source in self.forget.drain(..) {
            group.set_checkpoint(&source, Vec::new());
        }
        Filled { group, more: !self.ready.is_empty() }
    }

    /// Folders to watch, if it is time to ask: of every source, of what its symlinks lead to, and where patterns may find
    /// new ones.
    pub(super) fn folders(&mut self) -> Option<BTreeSet<PathBuf>> {
        if !std::mem::take(&mut self.folders_due) {
            return None;
        }
        let mut folders = BTreeSet::new();
        self.by_real_path.clear();
        for (me, source) in self.sources.iter().enumerate() {
            let Some(source) = source else { continue };
            folders.extend(source.path.parent().map(Path::to_path_buf));
            if let Some(real) = source.real_path().map(PathBuf::from) {
                folders.extend(real.parent().map(Path::to_path_buf));
                self.by_real_path.insert(real, me);
            }
        }
        for entry in self.entries.iter().filter(|entry| entry.pattern.is_some()) {
            let fixed: PathBuf =
                entry.path.iter().take_while(|part| !part.to_string_lossy().contains(['*', '?', '['])).collect();
            folders.insert(fixed);
        }
        Some(folders)
    }

    /// Brings the lag up to date without reading, while a group waits for room.
    pub(super) fn measure(&mut self) {
        for source in self.sources.iter_mut().flatten() {
            source.measure(&self.entries[source.rules].rules.counts);
        }
    }

    /// Takes up the checkpoints, then finds the other files. In this order, so that a file known under one name is not
    /// begun again under another.
    fn start(&mut self) {
        self.started = true;
        let mut recovered: Vec<(String, State)> = self.recovered.drain().collect();
        recovered.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, state) in recovered {
            let path = PathBuf::from(path);
            let Some(i) = self.entries.iter().position(|entry| entry.covers(&path)) else {
                if !path.exists() {
                    self.forget.push(name(&path));
                }
                continue;
            };
            let source = self.add(path, i);
            if let Some(source_state) = &mut self.sources[source] {
                source_state.restore(state, source, &self.entries[i].rules, &mut self.owners);
            }
        }
        let known = self.sources.len();
        self.scan();
        for source in self.sources[known..].iter_mut().flatten() {
            source.fresh = true;
        }
        self.queue_all();
    }

    /// Finds paths that are not followed yet.
    fn scan(&mut self) {
        for i in 0..self.entries.len() {
            if self.entries[i].pattern.is_none() {
                if !self.by_path.contains_key(&self.entries[i].path) {
                    self.add(self.entries[i].path.clone(), i);
                }
                continue;
            }
            let found = self.expand(i);
            for path in &found {
                if !self.by_path.contains_key(path) && !self.is_rotated(path, &found) && self.has_room(i) {
                    let source = self.add(path.clone(), i);
                    self.queue(source);
                }
            }
        }
    }

    /// The files that a pattern matches, but no compressed ones.
    fn expand(&mut self, i: usize) -> BTreeSet<PathBuf> {
        let entry = &self.entries[i];
        let mut found = BTreeSet::new();
        let options = match_options();
        for path in glob::glob_with(&entry.path.to_string_lossy(), options).into_iter().flatten() {
            match path {
                Ok(path) => match path.to_str() {
                    Some(name) if siblings::is_compressed(name) => {}
                    Some(_) if self.by_path.contains_key(&path) || path.is_file() => drop(found.insert(path)),
                    Some(_) => {}
                    None => {
                        if self.bad_names.len() < SOURCES_MAX && self.bad_names.insert(path.clone()) {
                            entry.rules.counts.error(Reason::Name).inc();
                            warn!(path = %path.display(), "is not followed: its name is not UTF-8");
                        }
                    }
                },
                Err(error) => {
                    entry.rules.counts.error(Reason::List).inc();
                    tracing::debug!(%error, "a folder cannot be listed");
                }
            }
        }
        found
    }

    /// Whether it is what rotation made of another file that is followed.
    fn is_rotated(&self, path: &Path, found: &BTreeSet<PathBuf>) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        siblings::bases_of(name).into_iter().any(|base| {
            let base = path.with_file_name(base);
            self.by_path.contains_key(&base) || found.contains(&base)
        })
    }

    fn has_room(&mut self, i: usize) -> bool {
        let room = self.by_path.len() < SOURCES_MAX;
        if !room {
            self.entries[i].rules.counts.error(Reason::Limit).inc();
            if !std::mem::replace(&mut self.limit_hit, true) {
                warn!("more than {SOURCES_MAX} log files; the others are not followed");
            }
        }
        room
    }

    fn add(&mut self, path: PathBuf, entry: usize) -> usize {
        let source = self.sources.len();
        info!(path = %path.display(), "follows");
        self.by_path.insert(path.clone(), source);
        self.sources.push(Some(Source::new(path, entry)));
        self.folders_due = true;
        source
    }

    /// A file has moved from one followed path to another, or two paths lead to it. In the first case its new path goes
    /// on where the old one stopped.
    fn hand_over(&mut self, id: super::checkpoint::FileId, to: usize) -> Option<usize> {
        let from = *self.owners.get(&id)?;
        let path = self.sources[to].as_ref()?.path.clone();
        match self.sources.get_mut(from)?.as_mut()?.give(id, &path) {
            Given::File(file) => self.sources[to].as_mut()?.take(*file),
            Given::StillHere => return None,
            Given::Unknown => {
                self.owners.remove(&id);
                self.queue(to);
                return None;
            }
        }
        self.owners.insert(id, to);
        self.queue(to);
        Some(from)
    }

    /// Forgets finished files that patterns found, so that daily logs do not pile up.
    fn forget_old(&mut self, wall: SystemTime) {
        for me in 0..self.sources.len() {
            let Some(source) = &self.sources[me] else { continue };
            let entry = &self.entries[source.rules];
            let Some(since_ns) = source.finished_since().filter(|_| entry.pattern.is_some()) else { continue };
            let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(since_ns);
            let old = wall.duration_since(changed).is_ok_and(|age| age >= FORGET_AFTER);
            if !old || source.changed || source.path.exists() {
                continue;
            }
            info!(path = %source.path.display(), "is gone and finished; forgets it");
            source.disown(&mut self.owners, &entry.rules.counts);
            self.forget.push(name(&source.path));
            self.by_path.retain(|_, source| *source != me);
            self.sources[me] = None;
        }
    }

    fn queue(&mut self, source: usize) {
        if self.queued.insert(source) {
            self.ready.push_back(source);
        }
    }

    fn queue_all(&mut self) {
        for source in 0..self.sources.len() {
            self.queue(source);
        }
    }
}

impl Entry {
    fn covers(&self, path: &Path) -> bool {
        match &self.pattern {
            Some(pattern) => matches(pattern, path),
            None => self.path == path,
        }
    }
}

/// `*` stays within one folder, as in a shell.
fn match_options() -> glob::MatchOptions {
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true }
}

fn matches(pattern: &glob::Pattern, path: &Path) -> bool {
    pattern.matches_path_with(path, match_options()) && path.to_str().is_some_and(|path| !siblings::is_compressed(path))
}

fn name(path: &Path) -> String {
    format!("{SOURCE_PREFIX}{}", path.display())
}
