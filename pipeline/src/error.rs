use std::io;
use std::path::PathBuf;

/// What can go wrong in the pipeline, by the operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An event larger than [`crate::event::BODY_BYTES_MAX`].
    #[error("an event of {bytes} bytes is larger than the limit of {} bytes", crate::event::BODY_BYTES_MAX)]
    BodyTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A body that is not one JSON object.
    #[error("an event's body must be one JSON object")]
    BodyNotAnObject,
    /// A group beyond [`crate::event::GROUP_BYTES_MAX`].
    #[error("a group holds at most {} bytes", crate::event::GROUP_BYTES_MAX)]
    GroupTooLarge,
    /// More than [`crate::event::GROUP_KINDS_MAX`] kinds.
    #[error("a group holds at most {} kinds", crate::event::GROUP_KINDS_MAX)]
    TooManyKinds,
    /// The pipeline has ended.
    #[error("the pipeline has ended")]
    Closed,
    /// A file operation.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something on disk that greypit cannot have written, or that has been damaged.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: String,
    },
    /// A setting that cannot be right.
    #[error("{key}: {problem}")]
    Config {
        /// The key, as in the config file.
        key: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Apache Kafka.
    #[error("kafka: cannot {operation}: {what}")]
    Kafka {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the broker or the client says.
        what: String,
    },
    /// The object store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// The result of a pipeline operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { operation, path, source }
    }
}
