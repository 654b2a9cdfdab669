//! Where objects go: a directory or S3.

/// What a store answers when it cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {target}: {reason}")]
pub struct StoreError {
    /// What was tried, for example `put`.
    pub operation: &'static str,
    /// The key or the store's URL.
    pub target: String,
    /// A short, bounded word for metrics: `refused`, `timeout`, `throttled`, `denied`, `no_bucket`, `no_credentials`, `server`, `io`.
    pub class: &'static str,
    /// What to tell a person.
    pub reason: String,
}
