//! Follows log files and hands every line on exactly once.
//!
//! # Promise
//! A file's position is in the same [`Group`] as the records made of the bytes before it, so the spool makes both durable
//! or neither. After a stop of any kind reading goes on with the first line that is not in the spool: none is repeated,
//! none left out, also when the file was rotated meanwhile, by rename or by copytruncate, once or several times, or its
//! symlink points elsewhere. Files are recognised by device, inode and a fingerprint of their first bytes
//! ([`checkpoint`]).
//!
//! # Where it ends
//! - What is deleted, compressed or truncated before it was read is lost. It is counted (`errors_total{reason="gone"}`,
//!   `truncations_total`), except what copytruncate itself loses: lines written between its copying and its truncating are
//!   in no file, so prefer rotation by rename.
//! - What a daemon writes to a file that it should have let go of is read as long as it never pauses for [`QUIET`].
//! - copytruncate in the middle of a line gives two records. Log daemons write whole lines.
//! - A writer that does not append (`O_APPEND`) leaves a hole of NUL bytes behind copytruncate; it becomes a truncated line.
//! - An empty file that is deleted, and its inode taken by a file that is itself rotated away, all between two looks, is
//!   mistaken for it; files that came between may be left out. So may a file that between two looks takes the inode of
//!   another path's last, deleted file and is rotated away.
//! - A file whose lines are shorter than 64 bytes altogether when copytruncate takes it is told from its copy by the copy's
//!   time only.
//! - Rotated files are only looked for in the log's own folder, and in that of what its symlink led to.
//! - One thread reads all files in turn. A network file system that hangs in a read holds up all of them.
//!
//! # Lines
//! A line ends with LF; what is handed on is every byte before it, CR, NUL and invalid UTF-8 included. A line without LF
//! waits, because half a line must not become a record, until its file has left its path and is quiet: then it is whole.
//! A line over `max_line` is cut there, flagged and counted, and its rest skipped.
//!
//! # Parts
//! [`config`] · [`file`] one file · [`siblings`] names that rotation gives · [`source`] one path and its files ·
//! [`locate`] finding them again · [`follow`] all paths, turns and groups · [`records`] the parsers · [`listen`] watcher,
//! clock and pipeline · [`checkpoint`] durable form · [`metrics`].

mod checkpoint;
mod config;
mod file;
mod follow;
mod listen;
mod locate;
mod metrics;
mod records;
mod siblings;
mod source;
#[cfg(test)]
mod tests;

use std::time::Duration;

use greypit_pipeline::Group;

pub use config::{Config, MAX_LINE, MAX_LINE_MAX, MAX_LINE_MIN, POLL, POLL_MAX, POLL_MIN, Start, ZONE};
pub use listen::spawn;

/// How checkpoints of this collector begin; the absolute path follows.
pub const SOURCE_PREFIX: &str = "maillog:";

/// A file that has left its path is finished when nobody has written to it for this long. Daemons reopen their log on a
/// signal that comes after all logs have been renamed, and sometimes after the old ones have been compressed.
pub const QUIET: Duration = Duration::from_secs(60);

/// One line of a followed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// Without the LF that ends it.
    pub(crate) bytes: &'a [u8],
    /// Whether it was longer than `max_line` and this is only its beginning.
    pub(crate) truncated: bool,
    /// Which `[[maillog]]` entry it belongs to, counted from 0.
    pub(crate) entry: usize,
}

/// Makes records of a line and puts them into the group.
pub(crate) type Sink<'a> = dyn FnMut(Line<'_>, &mut Group) + Send + 'a;
