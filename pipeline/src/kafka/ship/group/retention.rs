//! How long the topics keep messages: what is not shipped by then is lost. Asked when partitions come, and again now and
//! then, for somebody may have changed it to gain time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::kafka::Config;
use crate::kafka::ask::Ask;
use crate::kafka::errors::Problem;

/// How often it is asked.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// What is known.
pub(super) struct Retention {
    config: Config,
    /// In milliseconds, by topic; those that keep messages for ever are not in it.
    known: Arc<Mutex<HashMap<String, i64>>>,
    topics: BTreeSet<String>,
    asked: Option<Instant>,
}

impl Retention {
    pub(super) fn new(config: Config) -> Retention {
        Retention { config, known: Arc::default(), topics: BTreeSet::new(), asked: None }
    }

    /// How long a topic keeps messages, in milliseconds, where that is known and comes to an end.
    pub(super) fn of(&self, topic: &str) -> Option<i64> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied()
    }

    /// Asks where there is a new topic, or where it is time.
    pub(super) fn ask_when_due(&mut self, topics: BTreeSet<String>, runtime: &Handle) {
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN);
        if topics.is_empty() || (!is_due && topics.is_subset(&self.topics)) {
            return;
        }
        (self.topics, self.asked) = (topics, Some(Instant::now()));
        let (config, known, handle) = (self.config.clone(), self.known.clone(), runtime.clone());
        let topics: Vec<String> = self.topics.iter().cloned().collect();
        runtime.spawn_blocking(move || match handle.block_on(read(&config, &topics)) {
            Ok(read) => *known.lock().unwrap_or_else(PoisonError::into_inner) = read,
            Err(problem) => tracing::debug!(reason = problem.line, "kafka: how long topics keep messages is not known"),
        });
    }
}

async fn read(config: &Config, topics: &[String]) -> Result<HashMap<String, i64>, Problem> {
    let settings = Ask::connect(config)?.settings(topics).await?;
    let retention = |settings: &std::collections::BTreeMap<String, String>| settings.get("retention.ms")?.parse().ok();
    let told = settings.into_iter().filter_map(|(topic, settings)| Some((topic, retention(&settings.ok()?)?)));
    Ok(told.filter(|(_, retention)| *retention >= 0).collect())
}
