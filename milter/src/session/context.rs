//! What a session looks at while it handles a command: the config, what all sessions share, the moment.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use greypit_pipeline::Result;

use crate::config::{Config, Mode};
use crate::metrics::Metrics;
use crate::policy::{Clients, Policy};
use crate::transaction::Sink;

/// What the config says to a session. Made anew by a reload.
#[derive(Debug)]
pub struct Rules {
    /// Decides.
    pub policy: Policy,
    /// Whether what it decides is done.
    pub mode: Mode,
    /// Names of wanted header fields; none: no headers are asked for.
    pub headers: Vec<Vec<u8>>,
    /// Recipients kept.
    pub recipients_max: usize,
    /// Answers held at the same time.
    pub tarpitted_max: usize,
    /// Keep long delays of Postfix alive, this often.
    pub progress: Option<Duration>,
}

impl Rules {
    /// Makes them from the section.
    ///
    /// # Errors
    /// Names the key that cannot be right.
    pub fn new(config: &Config, node: &str) -> Result<Rules> {
        Ok(Rules {
            policy: Policy::new(config, node)?,
            mode: config.mode,
            headers: config.headers.iter().map(|name| name.clone().into_bytes()).collect(),
            recipients_max: config.max_recipients,
            tarpitted_max: config.max_tarpitted,
            progress: config.postfix.progress.then_some(config.postfix.progress_every.0),
        })
    }

    pub(super) fn wants_header(&self, name: &[u8]) -> bool {
        self.headers.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
    }
}

/// What all sessions share.
#[derive(Clone)]
pub struct Shared {
    /// What clients have done lately.
    pub clients: Arc<Clients>,
    /// Takes finished transactions.
    pub sink: Sink,
    /// The figures.
    pub metrics: Metrics,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since any fixed moment; never goes back.
    pub steady: Duration,
    /// The time of day.
    pub wall: SystemTime,
}

/// What a session looks at while it handles a command.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// As the config is now.
    pub rules: &'a Rules,
    /// Of all sessions.
    pub shared: &'a Shared,
    /// The moment.
    pub now: Now,
}
