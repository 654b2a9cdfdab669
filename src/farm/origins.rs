//! Who has been heard of: numbers for the lives of nodes, in bounded memory.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use greypit_milter::policy::clients::farm::Origin;

use super::message::Key;

/// Lives heard of within a window, at most. Records of more are ignored, and counted.
const ORIGINS_MAX: usize = 1000;

/// Lives of nodes, by node and life.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: HashMap<(String, String), Known>,
    next: Origin,
}

#[derive(Debug)]
struct Known {
    number: Origin,
    /// When it last said something; none: before this machine was started.
    said: Option<Instant>,
}

impl Origins {
    /// The number of a life that has said something so long ago. One that is not known yet gets one, if it `may_begin`
    /// and there is room.
    pub(super) fn number(&mut self, key: &Key, ago: Duration, window: Duration, may_begin: bool) -> Option<Origin> {
        let said = Instant::now().checked_sub(ago);
        let life = (key.node.clone(), key.life.clone());
        if let Some(known) = self.known.get_mut(&life) {
            known.said = known.said.max(said);
            return Some(known.number);
        }
        if self.known.len() >= ORIGINS_MAX {
            // Their counts have gone with the window, as has their slack.
            self.known.retain(|_, known| known.is_within(2 * window));
        }
        if !may_begin || self.known.len() >= ORIGINS_MAX {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.known.insert(life, Known { number, said });
        Some(number)
    }

    /// Nodes heard of within the window.
    pub(super) fn nodes(&self, window: Duration) -> usize {
        let within = self.known.iter().filter(|(_, known)| known.is_within(window));
        within.map(|((node, _), _)| node).collect::<HashSet<_>>().len()
    }
}

impl Known {
    fn is_within(&self, window: Duration) -> bool {
        self.said.is_some_and(|said| said.elapsed() <= window)
    }
}
