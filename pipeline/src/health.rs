//! What each part says of itself: fine, or held back and why. `/readyz` and the log read it, every part writes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The state of one part.
#[derive(Clone, Debug)]
pub enum State {
    /// Working.
    Ok,
    /// Working, but for something that it does without. Ready all the same.
    Limited {
        /// What it does without, for a person.
        reason: String,
        /// Since when.
        since: Instant,
    },
    /// Waiting for something; nothing is lost.
    Held {
        /// What it waits for, for a person.
        reason: String,
        /// Since when.
        since: Instant,
    },
}

/// A shared board of parts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, State>>>,
}

impl Health {
    /// An empty board.
    pub fn new() -> Health {
        Health::default()
    }

    /// `part` works. Logged where it did not before.
    pub fn ok(&self, part: &'static str) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(State::Held { reason, since } | State::Limited { reason, since }) = parts.insert(part, State::Ok) {
            tracing::info!(part, after_s = since.elapsed().as_secs(), reason, "works again");
        }
    }

    /// `part` does without something, and why. Logged when it begins.
    pub fn limited(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match parts.get(part) {
            Some(State::Limited { since, .. }) => *since,
            _ => {
                tracing::warn!(part, reason, "limited");
                Instant::now()
            }
        };
        parts.insert(part, State::Limited { reason, since });
    }

    /// `part` waits, and why. Logged when the reason is new.
    pub fn held(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match parts.get(part) {
            Some(State::Held { reason: before, since }) => {
                if *before == reason {
                    return;
                }
                *since
            }
            _ => Instant::now(),
        };
        tracing::warn!(part, reason, "held back");
        parts.insert(part, State::Held { reason, since });
    }

    /// All parts, by name.
    pub fn parts(&self) -> BTreeMap<&'static str, State> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether no part is held back.
    pub fn is_ready(&self) -> bool {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .all(|state| !matches!(state, State::Held { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_held_back_is_not_ready_and_keeps_its_since() {
        let health = Health::new();
        health.ok("spool");
        health.held("store", "connection refused");
        let State::Held { since, .. } = health.parts()["store"].clone() else { panic!("held") };
        health.held("store", "timed out");
        assert!(!health.is_ready());
        match &health.parts()["store"] {
            State::Held { reason, since: still } => assert_eq!((reason.as_str(), *still), ("timed out", since)),
            state => panic!("{state:?}"),
        }
        health.ok("store");
        assert!(health.is_ready());
    }

    #[test]
    fn one_part_limited_is_ready_and_keeps_its_since() {
        let health = Health::new();
        health.limited("farm", "away");
        let State::Limited { since, .. } = health.parts()["farm"].clone() else { panic!("limited") };
        health.limited("farm", "still away");
        assert!(health.is_ready());
        match &health.parts()["farm"] {
            State::Limited { reason, since: still } => assert_eq!((reason.as_str(), *still), ("still away", since)),
            state => panic!("{state:?}"),
        }
        health.ok("farm");
        assert!(matches!(health.parts()["farm"], State::Ok));
    }
}
