//! What `/readyz` says of DHCP: one line of all that is wrong now.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use greypit_pipeline::Health;

/// The part's name.
const PART: &str = "dhcp";

/// What can be wrong. The first keeps machines from starting; with the others most things work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// Leases cannot be written.
    Leases,
    /// No address is free.
    Pool,
    /// Another server answers.
    Foreign,
}

/// Tells the health board what changes.
#[derive(Debug)]
pub(super) struct Board {
    health: Health,
    troubles: Mutex<BTreeMap<Trouble, String>>,
}

impl Board {
    pub(super) fn new(health: &Health) -> Board {
        health.ok(PART);
        Board { health: health.clone(), troubles: Mutex::default() }
    }

    /// What is wrong, in words; `None` where it is well.
    pub(super) fn set(&self, trouble: Trouble, reason: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &reason {
            Some(reason) => troubles.insert(trouble, reason.clone()),
            None => troubles.remove(&trouble),
        };
        if before == reason {
            return;
        }
        let said = troubles.values().map(String::as_str).collect::<Vec<_>>().join("; ");
        let holds = troubles.keys().any(|trouble| matches!(trouble, Trouble::Leases));
        match (holds, said.is_empty()) {
            (_, true) => self.health.ok(PART),
            (true, false) => self.health.held(PART, said),
            (false, false) => self.health.limited(PART, said),
        }
    }
}

#[cfg(test)]
mod tests {
    use greypit_pipeline::health::State;

    use super::*;

    #[test]
    fn all_that_is_wrong_is_said_and_the_worst_decides() {
        let health = Health::new();
        let board = Board::new(&health);
        let state = || health.parts()[PART].clone();
        board.set(Trouble::Foreign, Some("10.0.0.9 answers".to_owned()));
        assert!(matches!(state(), State::Limited { reason, .. } if reason == "10.0.0.9 answers"));
        board.set(Trouble::Leases, Some("disk full".to_owned()));
        assert!(matches!(state(), State::Held { reason, .. } if reason == "disk full; 10.0.0.9 answers"));
        board.set(Trouble::Leases, None);
        assert!(matches!(state(), State::Limited { .. }));
        board.set(Trouble::Foreign, None);
        assert!(matches!(state(), State::Ok));
    }
}
