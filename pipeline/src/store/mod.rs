//! Where objects go: a directory or S3.
//!
//! Promises of both:
//! - [`Store::put_new`] never overwrites. Of any number of writers of one key, in any number of processes, exactly one
//!   is told [`Put::Created`]; the others are told [`Put::Exists`]. The object is seen whole or not at all.
//! - When `put_new` returns either answer, the object survives a power cut (a directory) or has been acknowledged by the
//!   server (S3).
//! - Every failure is a [`StoreError`] with a short class for metrics and one line for a person. Nothing is tried twice
//!   here: whoever ships knows how long to wait and shows that it waits.
//!
//! A key is relative to the store's URL: parts joined by `/`, none of them empty or beginning with `.`, at most
//! [`KEY_BYTES_MAX`] bytes. [`Store::list`] leaves out everything that cannot be an object of records: names that begin
//! with `.` or `_` in any part, and names without `.json`.

mod config;
mod dir;
mod error;
#[cfg(test)]
pub(crate) mod memory;
mod s3;

use std::cmp::Ordering;

use bytes::Bytes;

pub use config::{Config, Encryption};
pub use dir::DirStore;
pub use error::StoreError;
pub use s3::S3Store;

/// The longest key, in bytes: S3 allows 1,024 for prefix and key.
pub const KEY_BYTES_MAX: usize = 900;

/// The largest object that [`Store::get`] reads into memory, in bytes.
pub const OBJECT_BYTES_MAX: u64 = 1 << 30;

/// What a store does; see the module.
type Result<T> = std::result::Result<T, StoreError>;

/// An object to write.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its content, already compressed. Cloning shares it.
    pub bytes: Bytes,
    /// What the content is once read as it lies there, for example `application/x-bzip2`; no Content-Encoding is set, so
    /// that no client decompresses on its own.
    pub content_type: &'static str,
    /// Names (lower case, `-`) and values (printable ASCII) kept beside the object where the store can; a directory
    /// cannot.
    pub metadata: Vec<(&'static str, String)>,
}

/// What became of a [`Store::put_new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is there because of this call.
    Created,
    /// Something was there under this key already; it is untouched.
    Exists,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Relative to the store's URL.
    pub key: String,
    /// In bytes, as stored.
    pub size: u64,
}

/// A directory or an S3 bucket.
#[derive(Clone, Debug)]
pub enum Store {
    /// A directory.
    Dir(DirStore),
    /// A bucket, or a prefix in it.
    S3(S3Store),
    /// For tests.
    #[cfg(test)]
    Memory(memory::MemoryStore),
}

impl Store {
    /// Opens the configured store without touching it; the first operation or [`Store::check`] does.
    ///
    /// # Errors
    /// [`crate::Error::Config`] as [`Config::validate`].
    pub fn open(config: &Config) -> crate::Result<Store> {
        Ok(match config.location()? {
            config::Location::Dir(root) => Store::Dir(DirStore::new(root)),
            config::Location::S3 { bucket, prefix } => Store::S3(S3Store::new(config, bucket, prefix)),
        })
    }

    /// Whether writing can work, for the start of the daemon: creates the directory and writes a file that is removed
    /// again; asks S3 for one name. A bucket that may only be written to is fine.
    ///
    /// # Errors
    /// [`StoreError::is_config`] tells a definite mistake from a store that is out of reach now.
    pub async fn check(&self) -> Result<()> {
        match self {
            Store::Dir(dir) => dir.check().await,
            Store::S3(s3) => s3.check().await,
            #[cfg(test)]
            Store::Memory(_) => Ok(()),
        }
    }

    /// Writes an object unless the key is taken.
    ///
    /// # Errors
    /// Whether the object exists is then unknown (a time-out can hide a success): call again, [`Put::Exists`] settles it.
    pub async fn put_new(&self, key: &str, object: &Object) -> Result<Put> {
        check_key(key)?;
        match self {
            Store::Dir(dir) => dir.put_new(key, object).await,
            Store::S3(s3) => s3.put_new(key, object).await,
            #[cfg(test)]
            Store::Memory(memory) => memory.put_new(key, object),
        }
    }

    /// Whether the store keeps the promise never to overwrite, on which exactly-once stands: writes an object twice, of
    /// which it must refuse one. The object stays there; another check finds it.
    ///
    /// # Errors
    /// Class `unsupported` where it overwrites.
    pub async fn check_never_overwrites(&self, key: &str) -> Result<()> {
        let probe = Object {
            bytes: Bytes::from_static(b"written by greypit check --connect; may be deleted\n"),
            content_type: "text/plain",
            metadata: Vec::new(),
        };
        if self.put_new(key, &probe).await? == Put::Exists || self.put_new(key, &probe).await? == Put::Exists {
            return Ok(());
        }
        let reason = "it overwrites what is there although asked not to (If-None-Match: * is ignored), so events could be \
                      lost or be there twice; use a store, or a version of it, that knows conditional writes";
        Err(StoreError::new("rely on", self.url(), "unsupported", reason))
    }

    /// Reads an object of at most [`OBJECT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// Class `not_found` when there is none.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        check_key(key)?;
        match self {
            Store::Dir(dir) => dir.get(key).await,
            Store::S3(s3) => s3.get(key).await,
            #[cfg(test)]
            Store::Memory(memory) => memory.get(key),
        }
    }

    /// All objects of records whose key begins with `prefix` (a text, not a folder; empty for all), by key, numbers in
    /// it by their value: the objects of a window in the order of their first events.
    ///
    /// # Errors
    /// Class `not_found` when the directory does not exist; an S3 prefix without objects is an empty list.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = match self {
            Store::Dir(dir) => dir.list(prefix).await?,
            Store::S3(s3) => s3.list(prefix).await?,
            #[cfg(test)]
            Store::Memory(memory) => memory.list(prefix),
        };
        objects.sort_unstable_by(|a, b| numbers_by_value(&a.key, &b.key));
        Ok(objects)
    }

    /// The names right in `folder`, in order, also where they are hidden from [`Store::list`]; those after `after` only.
    /// A folder that is not there has none.
    ///
    /// # Errors
    /// Class `not_found` when the store's own directory does not exist.
    pub(crate) async fn names(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>> {
        let mut names = match self {
            Store::Dir(dir) => dir.names(folder).await?,
            Store::S3(s3) => s3.names(folder, after).await?,
            #[cfg(test)]
            Store::Memory(memory) => memory.names(folder),
        };
        names.retain(|name| after.is_none_or(|after| name.as_str() > after));
        names.sort_unstable();
        Ok(names)
    }

    /// The URL, for messages.
    pub fn url(&self) -> String {
        match self {
            Store::Dir(dir) => dir.url(),
            Store::S3(s3) => s3.url(),
            #[cfg(test)]
            Store::Memory(_) => "memory".into(),
        }
    }
}

/// Whether a key names records and not something hidden, private to a tool, or foreign.
fn is_records_key(key: &str) -> bool {
    let hidden = |part: &str| part.is_empty() || part.starts_with(['.', '_']);
    let name = key.rsplit('/').next().unwrap_or(key);
    !key.split('/').any(hidden) && name.contains(".json")
}

/// The order of two keys, each number in them taken by its value: `to-9` before `to-10`.
fn numbers_by_value(a: &str, b: &str) -> Ordering {
    fn parts(key: &str) -> impl Iterator<Item = (u8, usize, &[u8])> {
        key.as_bytes().chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit()).map(|part| {
            let value = &part[part.iter().take_while(|byte| **byte == b'0').count()..];
            if part[0].is_ascii_digit() { (b'0', value.len(), value) } else { (part[0], 0, part) }
        })
    }
    parts(a).cmp(parts(b)).then_with(|| a.cmp(b))
}

fn check_key(key: &str) -> Result<()> {
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.');
    let problem = if key.len() > KEY_BYTES_MAX {
        "is longer than 900 bytes"
    } else if key.split('/').any(bad_part) {
        "has a part that is empty or begins with a dot"
    } else if key.chars().any(char::is_control) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(StoreError::new("use key", key.escape_debug().to_string(), "bad_key", format!("the key {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside_the_store() {
        for good in ["a.json", "mail_logs/2026-11-20/to-1.json.bz2", "kind=to/dt=2026-11-20/x", "_cut/mail/0/1"] {
            check_key(good).unwrap();
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "a\0b", "a\nb", &"k".repeat(901)] {
            assert_eq!(check_key(bad).unwrap_err().class, "bad_key", "{bad:?}");
        }
    }

    #[test]
    fn keys_are_in_the_order_of_their_numbers() {
        let ordered = [
            "mail/mail-2026-11-20-12-55-mx-1.json",
            "mail/mail-2026-11-20-12-55-mx-2.json",
            "mail/mail-2026-11-20-12-55-mx-12.json",
            "mail/mail-2026-11-20-12-55-mx-012.json.bz2",
            "mail/mail-2026-11-20-12-55-mx-18446744073709551616.json",
            "mail/mail-2026-11-20-13-00-mx-3.json",
            "mail/p1-7",
            "mail/p01-7.json",
            "mail/p1-7.json",
            "mail/p2-0.json",
            "mail/pé-1.json",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(numbers_by_value(a, b), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn only_names_of_records_are_listed() {
        for good in ["a.json", "mail_logs/2026-11-20/to-1.json.bz2", "a/b.json.zst"] {
            assert!(is_records_key(good), "{good}");
        }
        for bad in ["_SUCCESS", "_cut/a.json", "a/_temporary/b.json", "a/.b.json.tmp", ".a.json", "a/b.parquet", "a/"] {
            assert!(!is_records_key(bad), "{bad}");
        }
    }
}
