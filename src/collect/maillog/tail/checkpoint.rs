//! How far a source has been read, as it is kept in the spool.
//!
//! One state a source (`maillog:<absolute path>`), JSON, at most [`super::source::FILES_MAX`] positions, oldest file first:
//!
//! ```json
//! {"v":1,"files":[{"dev":2049,"ino":131,"offset":5120,"head":[1024,2774301919],"since":1795181234123456789}]}
//! ```
//!
//! - `offset` (bytes): the first byte that is not part of a record yet; always the start of a line, unless `skip`
//!   says that it lies inside a line over the limit whose beginning is already a record.
//! - `head`: the fingerprint, `[length, crc32]` of the first min(offset, 1024) bytes. It covers consumed bytes only, so it
//!   stays right while a short file grows, and no other file that takes over the name or the inode has it.
//! - `since` (ns since 1970): the file's time of change when it was last looked at. A rotated sibling that changed later,
//!   and that nothing else explains, has not been read.
//! - `at`: the real path, where the source's path is a symlink.
//! - `done`: read to its end and closed; kept as the last position until a successor appears.
//!
//! A state with another `v` is refused rather than guessed: reading a file again would repeat its records.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde::{Deserialize, Serialize};

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// How many bytes a fingerprint covers at most.
pub(super) const HEAD_BYTES_MAX: usize = 1024;

/// From this length on a fingerprint is trusted without a matching inode. Two syslog lines that agree this far, with
/// their time, host and process, are the same line.
pub(super) const HEAD_BYTES_SURE: u32 = 64;

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) dev: u64,
    pub(super) ino: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> FileId {
        FileId { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// The fingerprint: length and CRC-32 of a file's first consumed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head(pub(super) u32, pub(super) u32);

impl Head {
    /// The fingerprint of `bytes`, which begin a file.
    pub(super) fn of(bytes: &[u8]) -> Head {
        let mut head = Head::default();
        head.extend(bytes);
        head
    }

    pub(super) fn len(&self) -> u32 {
        self.0
    }

    /// Takes in the bytes that follow those already covered.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let take = bytes.len().min(HEAD_BYTES_MAX - self.0 as usize);
        if take > 0 {
            let mut hasher = crc32fast::Hasher::new_with_initial_len(self.1, u64::from(self.0));
            hasher.update(&bytes[..take]);
            *self = Head(self.0 + take as u32, hasher.finalize());
        }
    }

    /// Whether `file` still begins with these bytes.
    pub(super) fn matches(&self, file: &File) -> io::Result<bool> {
        let mut bytes = [0; HEAD_BYTES_MAX];
        let bytes = &mut bytes[..self.0 as usize];
        match file.read_exact_at(bytes, 0) {
            Ok(()) => Ok(Head::of(bytes) == *self),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How far one file has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) offset: u64,
    pub(super) head: Head,
    pub(super) since: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) skip: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) done: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
}

impl Position {
    /// The beginning of a file.
    pub(super) fn start(metadata: &Metadata) -> Position {
        let FileId { dev, ino } = FileId::of(metadata);
        let since = changed_ns(metadata);
        Position { dev, ino, offset: 0, head: Head::default(), since, skip: false, done: false, at: None }
    }

    pub(super) fn id(&self) -> FileId {
        FileId { dev: self.dev, ino: self.ino }
    }

    /// Takes in consumed bytes.
    pub(super) fn consume(&mut self, bytes: &[u8]) {
        debug_assert!(self.head.len() as u64 == self.offset.min(HEAD_BYTES_MAX as u64), "{self:?}");
        self.head.extend(bytes);
        self.offset += bytes.len() as u64;
    }
}

/// When the content last changed, in ns since 1970.
pub(super) fn changed_ns(metadata: &Metadata) -> u64 {
    let ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    u64::try_from(ns).unwrap_or(0)
}

/// How far a source has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    v: u32,
    pub(super) files: Vec<Position>,
}

impl State {
    pub(super) fn new(files: Vec<Position>) -> State {
        State { v: VERSION, files }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain integers, booleans and strings always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// # Errors
    /// What is wrong with the state, for a person.
    pub(super) fn decode(bytes: &[u8]) -> Result<State, String> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        match serde_json::from_slice::<Version>(bytes) {
            Ok(Version { v: VERSION }) => {}
            Ok(Version { v }) => {
                return Err(format!("version {v} was written by another greypit; this one reads {VERSION}"));
            }
            Err(error) => return Err(error.to_string()),
        }
        let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for position in &state.files {
            if u64::from(position.head.len()) != position.offset.min(HEAD_BYTES_MAX as u64) {
                return Err(format!("a fingerprint of {} bytes at offset {}", position.head.len(), position.offset));
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was_and_its_form_is_fixed() {
        let mut position = Position {
            dev: 2049,
            ino: 131,
            offset: 0,
            head: Head::default(),
            since: 5,
            skip: false,
            done: false,
            at: None,
        };
        position.consume(b"abc");
        let plain = State::new(vec![position.clone()]);
        assert_eq!(
            String::from_utf8(plain.encode()).unwrap(),
            r#"{"v":1,"files":[{"dev":2049,"ino":131,"offset":3,"head":[3,891568578],"since":5}]}"#
        );
        position.skip = true;
        position.done = true;
        position.at = Some("/var/log/real".into());
        let full = State::new(vec![position]);
        assert_eq!(State::decode(&full.encode()), Ok(full));
        assert_eq!(State::decode(&plain.encode()), Ok(plain));
    }

    #[test]
    fn what_is_not_a_state_is_refused() {
        let another = br#"{"v":2,"files":[]}"#;
        assert!(State::decode(another).unwrap_err().contains("version 2"));
        for bad in ["", "{}", "[]", r#"{"v":1}"#, r#"{"v":1,"files":[],"x":1}"#] {
            assert!(State::decode(bad.as_bytes()).is_err(), "{bad}");
        }
        let short = br#"{"v":1,"files":[{"dev":1,"ino":1,"offset":9,"head":[4000000000,1],"since":5}]}"#;
        assert!(State::decode(short).is_err());
    }

    #[test]
    fn a_fingerprint_grows_to_its_limit_and_knows_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..3000).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        let mut head = Head::default();
        for part in bytes.chunks(700) {
            head.extend(part);
            assert!(head.matches(&file).unwrap());
        }
        assert_eq!(head, Head::of(&bytes));
        assert_eq!(head.len() as usize, HEAD_BYTES_MAX);
        std::fs::write(&path, &bytes[1..]).unwrap();
        assert!(!head.matches(&file).unwrap());
        std::fs::write(&path, b"").unwrap();
        assert!(!head.matches(&file).unwrap());
        assert!(Head::default().matches(&file).unwrap());
    }
}
