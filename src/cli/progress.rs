//! One line on stderr that says how far long work is, where stderr is a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often it is drawn.
const EVERY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    last: Instant,
    drawn: bool,
}

impl Progress {
    pub(crate) fn new(wanted: bool) -> Progress {
        Progress { shown: wanted && std::io::stderr().is_terminal(), last: Instant::now(), drawn: false }
    }

    /// Says `text` if it is time to.
    pub(crate) fn say(&mut self, text: impl FnOnce() -> String) {
        if self.shown && self.last.elapsed() >= EVERY {
            eprint!("\r{}", text());
            self.last = Instant::now();
            self.drawn = true;
        }
    }

    /// Takes the line away, before anything else is written.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
        }
    }
}
