//! What a store answers when it cannot do what was asked.

use std::io;
use std::path::Path;

/// A failed operation of a store: one line for a person, one word for metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} {target}: {reason}")]
pub struct StoreError {
    /// What was tried, for example `put`.
    pub operation: &'static str,
    /// The object's or the store's URL.
    pub target: String,
    /// A short word from a fixed set, for metrics:
    ///
    /// | class | what happened |
    /// |---|---|
    /// | `refused` | nobody listens at the endpoint |
    /// | `network` | no route, no such host name, a connection cut off |
    /// | `timeout` | no connection or no answer in time |
    /// | `tls` | the certificate is not trusted, or no root certificates are installed |
    /// | `throttled` | asked to slow down |
    /// | `server` | 5xx, or an answer that is not S3's |
    /// | `conflict` | another conditional write to the key is under way |
    /// | `clock` | this machine's clock differs too much from the server's |
    /// | `denied` | the credentials do not allow it |
    /// | `rejected` | any other 4xx |
    /// | `unsupported` | the server does not know conditional writes |
    /// | `no_bucket` `no_credentials` `bad_credentials` `wrong_region` | as they say |
    /// | `not_found` | no such object or directory |
    /// | `no_space` | disk full or over quota |
    /// | `not_writable` | permission denied, read-only, or not a directory |
    /// | `io` | any other failure of the disk |
    /// | `too_large` | an object larger than [`super::OBJECT_BYTES_MAX`] |
    /// | `bad_key` | a key that this crate never writes |
    pub class: &'static str,
    /// What to tell a person.
    pub reason: String,
}

impl StoreError {
    /// Every class that writing an object may fail with.
    pub(crate) const OF_WRITING: [&'static str; 18] = [
        "refused",
        "network",
        "timeout",
        "tls",
        "throttled",
        "server",
        "conflict",
        "clock",
        "denied",
        "rejected",
        "unsupported",
        "no_bucket",
        "no_credentials",
        "bad_credentials",
        "wrong_region",
        "no_space",
        "not_writable",
        "io",
    ];

    pub(super) fn new(
        operation: &'static str,
        target: impl Into<String>,
        class: &'static str,
        reason: impl Into<String>,
    ) -> StoreError {
        StoreError { operation, target: target.into(), class, reason: reason.into() }
    }

    /// Whether this is a mistake in the config or the environment that waiting does not mend. A daemon that starts gives
    /// up on it; one that runs goes on trying, because somebody may mend it.
    pub fn is_config(&self) -> bool {
        matches!(
            self.class,
            "no_bucket"
                | "no_credentials"
                | "bad_credentials"
                | "wrong_region"
                | "not_writable"
                | "unsupported"
                | "bad_key"
        )
    }

    pub(super) fn too_large(target: impl Into<String>, bytes: u64) -> StoreError {
        let reason = format!("{bytes} bytes are more than the limit of {} bytes", super::OBJECT_BYTES_MAX);
        StoreError::new("read", target, "too_large", reason)
    }

    pub(super) fn io(operation: &'static str, path: &Path, error: &io::Error) -> StoreError {
        use io::ErrorKind as K;
        let class = match error.kind() {
            K::NotFound => "not_found",
            K::PermissionDenied | K::ReadOnlyFilesystem | K::NotADirectory => "not_writable",
            K::StorageFull | K::QuotaExceeded => "no_space",
            _ => "io",
        };
        StoreError::new(operation, path.display().to_string(), class, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn disk_failures_are_told_apart() {
        for (errno, class, config) in [
            (Errno::NOSPC, "no_space", false),
            (Errno::DQUOT, "no_space", false),
            (Errno::ACCESS, "not_writable", true),
            (Errno::ROFS, "not_writable", true),
            (Errno::NOTDIR, "not_writable", true),
            (Errno::IO, "io", false),
            (Errno::NOENT, "not_found", false),
        ] {
            let error = StoreError::io("write", Path::new("/x"), &errno.into());
            assert_eq!((error.class, error.is_config()), (class, config), "{error}");
        }
    }
}
