//! A limit on what our own log says of what others do.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one line a second in our own log about what others do wrong.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    state: Mutex<(Option<Instant>, u64)>,
}

impl Complaints {
    /// `Some(n)`: log, and n were not logged since the last one.
    pub(super) fn allow(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}
