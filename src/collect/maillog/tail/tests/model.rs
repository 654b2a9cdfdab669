//! Random histories of a log, its rotation and greypit's crashes: what durable groups hold is what was written, once.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;

#[derive(Clone, Copy, Debug)]
enum Action {
    /// The daemon writes a whole line.
    Line,
    /// It writes the first half of a line, or the rest of one.
    Half,
    /// A burst that fills a group.
    Burst,
    /// Rotation by rename; the daemon keeps writing to the old file until `Reopen`.
    Rename,
    /// As above, and the new file is there at once, empty.
    RenameCreate,
    /// The daemon opens the path again.
    Reopen,
    Copytruncate,
    /// Once everything is durable: the file is removed and another created.
    Recreate,
    /// greypit fills one group.
    Step,
    /// greypit reads what there is.
    Read,
    /// All groups so far are fsynced.
    Sync,
    /// The first half of the groups that are not, is.
    SyncHalf,
    /// greypit dies and starts again with what is durable.
    Crash,
    /// Time passes.
    Later,
}

fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    prop_oneof![
        6 => Just(Line),
        3 => Just(Half),
        1 => Just(Burst),
        2 => Just(Rename),
        1 => Just(RenameCreate),
        3 => Just(Reopen),
        2 => Just(Copytruncate),
        1 => Just(Recreate),
        3 => Just(Step),
        3 => Just(Read),
        2 => Just(Sync),
        2 => Just(SyncHalf),
        3 => Just(Crash),
        2 => Just(Later),
    ]
}

struct Model {
    bench: Bench,
    /// The daemon's handle.
    log: File,
    /// Whether the handle is that of the file at the path.
    at_path: bool,
    /// The half line it has written.
    half: Option<String>,
    written: Vec<String>,
    rotations: u32,
    dated: bool,
}

impl Model {
    fn new(pattern: &str, dated: bool) -> Model {
        let mut bench = Bench::new(pattern);
        let log = bench.append("log", "");
        // Rotation before the first checkpoint is durable takes the file out of sight.
        bench.read();
        bench.sync();
        Model { bench, log, at_path: true, half: None, written: Vec::new(), rotations: 0, dated }
    }

    fn write(&mut self, text: &str) {
        self.log.write_all(text.as_bytes()).unwrap();
    }

    fn new_line(&self) -> String {
        long(&format!("line {}", self.written.len()))
    }

    fn line(&mut self) {
        if self.half.is_some() {
            self.half();
        }
        let line = self.new_line();
        self.write(&format!("{line}\n"));
        self.written.push(line);
    }

    fn half(&mut self) {
        match self.half.take() {
            Some(rest) => self.write(&format!("{rest}\n")),
            None => {
                let line = self.new_line();
                let (first, rest) = line.split_at(line.len() / 2);
                self.write(first);
                self.half = Some(rest.to_owned());
                self.written.push(line);
            }
        }
    }

    /// The name for a file that is rotated now; numbered ones move on.
    fn rotated_name(&mut self) -> String {
        self.rotations += 1;
        if self.dated {
            return format!("log-{}", 20_260_000 + self.rotations);
        }
        for i in (1..self.rotations).rev() {
            let from = format!("log.{i}");
            if self.bench.path(&from).exists() {
                self.bench.rename(&from, &format!("log.{}", i + 1));
            }
        }
        "log.1".to_owned()
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Line => self.line(),
            Action::Half => self.half(),
            Action::Burst => (0..1500).for_each(|_| self.line()),
            Action::Rename | Action::RenameCreate if self.at_path => {
                let name = self.rotated_name();
                self.bench.rename("log", &name);
                self.at_path = false;
                if matches!(action, Action::RenameCreate) {
                    self.bench.append("log", "");
                }
            }
            Action::Reopen if !self.at_path => {
                if self.half.is_some() {
                    self.half();
                }
                self.log = self.bench.append("log", "");
                self.at_path = true;
            }
            Action::Copytruncate if self.at_path && self.half.is_none() => {
                let name = self.rotated_name();
                self.bench.copytruncate("log", &name);
            }
            Action::Recreate if self.at_path && self.half.is_none() => {
                // An empty file has no fingerprint, and its inode is used again at once.
                self.line();
                self.bench.read();
                self.bench.sync();
                fs::remove_file(self.bench.path("log")).unwrap();
                self.log = self.bench.append("log", "");
            }
            Action::Step => drop(self.bench.step()),
            Action::Read => drop(self.bench.read()),
            Action::Sync => self.bench.sync(),
            Action::SyncHalf => self.bench.durable = self.bench.durable.midpoint(self.bench.groups.len()),
            Action::Crash => self.bench.crash(),
            // A daemon reopens its log before greypit believes that it has.
            Action::Later if self.at_path => self.bench.later(QUIET),
            _ => {}
        }
    }

    fn check(mut self) -> Result<(), TestCaseError> {
        if self.half.is_some() {
            self.half();
        }
        self.apply(Action::Reopen);
        for _ in 0..4 {
            self.bench.read_quiet();
        }
        let mut read = self.bench.all();
        read.sort();
        self.written.sort();
        let missing: Vec<_> = self.written.iter().filter(|line| read.binary_search(line).is_err()).collect();
        prop_assert!(missing.is_empty(), "missing {} of {}: {:.200?}", missing.len(), self.written.len(), missing);
        prop_assert_eq!(read.len(), self.written.len(), "repeated");
        prop_assert_eq!(read, self.written);
        Ok(())
    }
}

fn holds_for(pattern: &'static str, dated: bool) {
    let cases = std::env::var("GREYPIT_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64);
    let config = Cases { cases, failure_persistence: None, max_shrink_iters: 2000, ..Cases::default() };
    let run = |actions: Vec<Action>| {
        let mut model = Model::new(pattern, dated);
        actions.into_iter().for_each(|action| model.apply(action));
        model.check()
    };
    TestRunner::new(config).run(&prop::collection::vec(action(), 1..60), run).unwrap();
}

#[test]
fn every_line_once_with_numbered_rotation() {
    holds_for("log", false);
}

#[test]
fn every_line_once_with_dated_rotation() {
    holds_for("log", true);
}

#[test]
fn every_line_once_under_a_pattern_that_matches_rotated_files_too() {
    holds_for("l*", false);
}
