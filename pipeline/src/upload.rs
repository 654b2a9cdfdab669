//! Objects into the store, tried until it works: what shipping from the spool and shipping from Kafka share.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use crate::codec::Codec;
use crate::encode::Encoded;
use crate::event::Kind;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::store::{Object, Put, Store, StoreError};
use crate::{Error, Result};

/// Pauses between attempts: from the first to the last.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(200);
pub(crate) const RETRY_LAST: Duration = Duration::from_secs(15);

/// Puts objects and says how that goes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Uploader {
    pub(crate) store: Store,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
}

impl Uploader {
    /// Puts an object until it is there; false where the key holds another one. `is_same` judges an object whose bytes
    /// are not the same.
    pub(crate) async fn put(
        &self,
        key: &str,
        codec: Codec,
        encoded: &Encoded,
        is_same: impl Fn(&[u8]) -> bool,
    ) -> bool {
        until_done(&self.health, "store", || self.try_put(key, codec, encoded, &is_same)).await
    }

    /// The same, once.
    pub(crate) async fn try_put(
        &self,
        key: &str,
        codec: Codec,
        encoded: &Encoded,
        is_same: impl Fn(&[u8]) -> bool,
    ) -> Result<bool> {
        let object = encoded.object(codec);
        match self.put_new(key, &object).await? {
            Put::Created => Ok(true),
            Put::Exists => {
                let theirs = self.failed(self.store.get(key).await)?;
                let same = theirs == encoded.bytes || is_same(&theirs);
                self.metrics.store_existing.with_label_values(&[if same { "same" } else { "other" }]).inc();
                Ok(same)
            }
        }
    }

    /// Writes an object once, and counts how that went.
    pub(crate) async fn put_new(&self, key: &str, object: &Object) -> Result<Put> {
        let started = Instant::now();
        let put = self.store.put_new(key, object).await;
        self.metrics.store_put_seconds.observe(started.elapsed().as_secs_f64());
        self.failed(put)
    }

    fn failed<T>(&self, result: std::result::Result<T, StoreError>) -> Result<T> {
        result.map_err(|error| {
            self.metrics.store_errors.with_label_values(&[error.class]).inc();
            Error::Store(error)
        })
    }

    /// Counts an object that is in the store.
    pub(crate) fn count(&self, kind: Kind, key: &str, encoded: &Encoded) {
        let kind = kind.as_str();
        self.metrics.ship_events.with_label_values(&[kind]).inc_by(encoded.records);
        self.metrics.ship_objects.with_label_values(&[kind]).inc();
        self.metrics.ship_bytes.with_label_values(&["raw"]).inc_by(encoded.raw_bytes);
        self.metrics.ship_bytes.with_label_values(&["compressed"]).inc_by(encoded.bytes.len() as u64);
        tracing::info!(key, records = encoded.records, bytes = encoded.bytes.len(), "shipped");
    }
}

/// Tries until it works, with growing pauses and jitter; the board says what is held back and why.
pub(crate) async fn until_done<T, F: Future<Output = Result<T>>>(
    health: &Health,
    part: &'static str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let mut pause = RETRY_FIRST;
    loop {
        match attempt().await {
            Ok(value) => {
                health.ok(part);
                return value;
            }
            Err(error) => health.held(part, error.to_string()),
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// Between half of `pause` and all of it, so that many nodes do not come back at the same moment.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}
