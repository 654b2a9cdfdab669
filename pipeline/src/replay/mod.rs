//! A past range once more, into another place, for repair.
//!
//! Objects have the keys that shipping gives them, behind a prefix, and are written only if they are new: the same range
//! again makes the same objects, which are then found to be there. Whole windows are taken, by the time at which events
//! were received, so that an object is never a part of what shipping made.
//!
//! From a spool ([`find`]) or from the topics ([`Topics`]).
//!
//! # Limits
//! A few dozen bytes an object are held while planning, and one compressed object for each that is being written. The
//! store is asked [`ATTEMPTS_MAX`] times for each.

mod spool;

use std::time::Duration;

use jiff::Timestamp;

use crate::event::Kind;
use crate::key::is_plain_path;
use crate::store::{Object, Put, Store, StoreError};
use crate::{Error, Result};

pub use crate::kafka::ship::replay::{Counts, Met, Object as KafkaObject, Topics};
pub use spool::{Found, Planned, Written, find};

/// How often the store is asked when it is busy or the line is bad.
pub const ATTEMPTS_MAX: u32 = 5;

/// The pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// Which events are meant: those whose window begins at or after `since` and before `until`.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Empty: all.
    pub kinds: Vec<Kind>,
    /// By the time at which they were received.
    pub since: Option<Timestamp>,
    /// By the time at which they were received.
    pub until: Option<Timestamp>,
}

impl Range {
    /// Whether events of a kind in the window that begins at `window`, in seconds since 1970, are meant.
    #[must_use]
    pub fn has(&self, kind: Kind, window: i64) -> bool {
        let window_ms = window.saturating_mul(1000);
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && self.since.is_none_or(|since| window_ms >= since.as_millisecond())
            && self.until.is_none_or(|until| window_ms < until.as_millisecond())
    }
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there because of this.
    Created,
    /// It was there already, with the same records.
    Existing,
    /// Another object has its key, and is untouched.
    Other,
}

/// Checks what is to stand in front of the keys.
///
/// # Errors
/// [`Error::Config`] for `--prefix`: nothing could be written there, or nobody would find it.
pub fn check_prefix(prefix: &str) -> Result<()> {
    let problem = if prefix.is_empty() {
        "must not be empty: that is where the daemon ships to"
    } else if !is_plain_path(prefix) {
        "must be a relative path without empty, '.' or '..' parts"
    } else if prefix.split('/').any(|part| part.starts_with(['.', '_'])) {
        "must have no part that begins with '.' or '_': ls, cat and verify pass those over, and so does Spark"
    } else {
        return Ok(());
    };
    Err(Error::Config { key: "--prefix".into(), problem: problem.into() })
}

/// Puts an object if it is new; `is_same` says whether what lies there already has the same records.
pub(crate) async fn put(
    store: &Store,
    key: &str,
    object: &Object,
    is_same: impl Fn(&[u8]) -> bool,
) -> std::result::Result<Outcome, StoreError> {
    let put = attempts(|| store.put_new(key, object)).await?;
    if put == Put::Created {
        return Ok(Outcome::Created);
    }
    let there = attempts(|| store.get(key)).await?;
    Ok(if there == object.bytes || is_same(&there) { Outcome::Existing } else { Outcome::Other })
}

async fn attempts<T, F: Future<Output = std::result::Result<T, StoreError>>>(
    mut attempt: impl FnMut() -> F,
) -> std::result::Result<T, StoreError> {
    let (mut n, mut pause) = (1, PAUSE);
    loop {
        match attempt().await {
            Err(error) if n < ATTEMPTS_MAX && may_pass(&error) => tokio::time::sleep(pause).await,
            done => return done,
        }
        n += 1;
        pause *= 2;
    }
}

fn may_pass(error: &StoreError) -> bool {
    matches!(error.class, "throttled" | "server" | "network" | "timeout" | "conflict")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_whole_windows() {
        let noon: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let (since, until) = (Some(noon), noon.checked_add(Duration::from_secs(600)).ok());
        let range = Range { kinds: vec![Kind::new("to")], since, until };
        let window = |minute: i64| noon.as_second() + minute * 60;
        let taken = |kind| [-5, 0, 5, 10].map(|minute| range.has(Kind::new(kind), window(minute)));
        assert_eq!(taken("to"), [false, true, true, false]);
        assert_eq!(taken("from"), [false; 4]);
        assert!(Range::default().has(Kind::new("from"), 0));
    }

    #[test]
    fn a_prefix_is_another_place_that_readers_see() {
        for good in ["repair", "repair/2026-11-20"] {
            check_prefix(good).unwrap();
        }
        for bad in ["", "/", "repair/", "/repair", "../x", "_cut", "a/.b"] {
            let problem = check_prefix(bad).unwrap_err().to_string();
            assert!(problem.starts_with("--prefix: must"), "{bad}: {problem}");
        }
    }
}
