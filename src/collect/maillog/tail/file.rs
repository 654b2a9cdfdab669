//! One followed file: reading whole lines from a position, and noticing that the file is no longer the same.
//!
//! A file holds no unfinished line in memory: each read begins at [`Position::offset`], the start of the first line that
//! is not a record yet. So what is in memory is exactly what a checkpoint says, and a restart cannot differ from going
//! on.
//!
//! Before the bytes of a read are used the file's fingerprint is compared. A truncation before the read, however much
//! was written behind it, is therefore noticed before a wrong byte becomes a record.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::checkpoint::{FileId, HEAD_BYTES_MAX, HEAD_BYTES_SURE, Position, changed_ns};

/// Time as an argument: the monotonic clock for waiting, the wall clock to compare with times of files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) steady: Instant,
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Now {
        Now { steady: Instant::now(), wall: SystemTime::now() }
    }
}

/// What one read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// There may be more.
    More,
    /// Everything up to the last newline has been used.
    End,
    /// The file no longer holds what was read from it: truncated, or another file under the same inode.
    Cut,
}

/// What tells that a file has changed since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime_ns: u64,
    ctime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            size: metadata.size(),
            mtime_ns: changed_ns(metadata),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One file that is or was at a source's path.
#[derive(Debug)]
pub(super) struct Followed {
    /// Closed once `position.done`.
    file: Option<File>,
    pub(super) position: Position,
    stamp: Option<Stamp>,
    /// Whether the last look left something to read, or could not.
    pub(super) unread: bool,
    /// Since when a file that has left its path has not grown.
    quiet_since: Option<Instant>,
    /// Whether it had left its path before greypit saw it do so, so that its own times tell how long it has been quiet.
    left_before: bool,
}

/// Opens without waiting for a writer, should a FIFO have taken the name.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    Ok((file, metadata))
}

impl Followed {
    /// A file to be read from its beginning.
    pub(super) fn from_start(file: File, metadata: &Metadata) -> Followed {
        Followed::from_position(file, Position::start(metadata))
    }

    /// A file to be read from a known position.
    pub(super) fn from_position(file: File, position: Position) -> Followed {
        let file = Some(file);
        Followed { file, position, stamp: None, unread: true, quiet_since: None, left_before: false }
    }

    /// What is known of a file that is finished or out of reach.
    pub(super) fn closed(position: Position) -> Followed {
        let position = Position { done: true, ..position };
        Followed { file: None, position, stamp: None, unread: false, quiet_since: None, left_before: false }
    }

    /// Says whether it had left its path before greypit saw it do so.
    pub(super) fn left_before(self, left_before: bool) -> Followed {
        Followed { left_before, ..self }
    }

    pub(super) fn id(&self) -> FileId {
        self.position.id()
    }

    /// How many bytes of it are not records yet, as of the last look.
    pub(super) fn lag_bytes(&self) -> u64 {
        match self.stamp {
            Some(stamp) if !self.position.done => stamp.size.saturating_sub(self.position.offset),
            _ => 0,
        }
    }

    /// Goes on with a closed file that is back at its path.
    pub(super) fn reopen(&mut self, file: File) {
        self.position.done = false;
        *self = Followed::from_position(file, self.position.clone());
    }

    /// Takes note of a file's size and times; says whether they changed.
    pub(super) fn saw(&mut self, metadata: &Metadata) -> bool {
        let stamp = Stamp::of(metadata);
        if self.stamp == Some(stamp) {
            return false;
        }
        self.stamp = Some(stamp);
        self.unread = true;
        self.quiet_since = None;
        true
    }

    /// Where nothing has been read and the file has changed all the same: the position, and the time of that change.
    pub(super) fn changed_unread(&self) -> Option<(Position, u64)> {
        let unread = self.position.offset == 0 && !self.position.done;
        let now = self.stamp.filter(|stamp| unread && stamp.mtime_ns > self.position.since)?.mtime_ns;
        Some((self.position.clone(), now))
    }

    /// Whether two files begin with the same bytes; an empty one is like no other.
    pub(super) fn begins_like(&self, other: &Followed) -> io::Result<bool> {
        let (Some(a), Some(b)) = (&self.file, &other.file) else { return Ok(false) };
        let (mut a_bytes, mut b_bytes) = ([0; HEAD_BYTES_MAX], [0; HEAD_BYTES_MAX]);
        let both = a.read_at(&mut a_bytes, 0)?.min(b.read_at(&mut b_bytes, 0)?);
        Ok(both > 0 && a_bytes[..both] == b_bytes[..both])
    }

    /// As [`Followed::saw`], by way of the open file, for one that is no longer at its path.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            let metadata = file.metadata()?;
            self.saw(&metadata);
        }
        Ok(())
    }

    /// Reads once and hands on every whole line; `emit` gets a line without its newline and whether it was cut at
    /// `max_line`, and says whether there is room for another.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        max_line: usize,
        emit: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> io::Result<Chunk> {
        debug_assert!(buffer.len() > max_line, "a line over the limit must be seen as such");
        let Some(file) = &self.file else { return Ok(Chunk::End) };
        let read = loop {
            match file.read_at(buffer, self.position.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if !self.position.head.matches(file)? {
            return Ok(Chunk::Cut);
        }
        if read == 0 {
            let shorter = file.metadata()?.size() < self.position.offset;
            return Ok(if shorter { Chunk::Cut } else { Chunk::End });
        }
        // Before the lines go on, so that what was written after the look still counts as new.
        if let Some(stamp) = self.stamp {
            self.position.since = self.position.since.max(stamp.mtime_ns);
        }
        let (used, room) = split(&buffer[..read], &mut self.position.skip, max_line, emit);
        self.position.consume(&buffer[..used]);
        Ok(if !room || read == buffer.len() { Chunk::More } else { Chunk::End })
    }

    /// Whether nobody has written to a file that left its path for long enough that nobody will.
    pub(super) fn is_quiet(&mut self, now: Now, quiet: Duration) -> bool {
        let since = *self.quiet_since.get_or_insert(now.steady);
        if now.steady.saturating_duration_since(since) >= quiet {
            return true;
        }
        // Renaming a file sets its ctime, so that this does not cut short the time a daemon has to reopen its log.
        let Some(stamp) = self.stamp.filter(|_| self.left_before) else { return false };
        let written = SystemTime::UNIX_EPOCH + Duration::from_nanos(stamp.mtime_ns);
        let renamed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp.ctime.0).unwrap_or(0));
        now.wall.duration_since(written.max(renamed)).is_ok_and(|age| age >= quiet)
    }

    /// Hands on the line without a newline at the end, if there is one, and closes the file.
    pub(super) fn finish(
        &mut self,
        buffer: &mut [u8],
        max_line: usize,
        emit: &mut dyn FnMut(&[u8], bool) -> bool,
    ) -> io::Result<()> {
        if let Some(file) = &self.file {
            let read = file.read_at(buffer, self.position.offset)?;
            let line = &buffer[..read];
            if read > 0 && !self.position.skip {
                emit(&line[..read.min(max_line)], read > max_line);
            }
            self.position.consume(line);
        }
        self.close();
        Ok(())
    }

    /// Lets go of the file; what is left in it is not read.
    pub(super) fn close(&mut self) {
        self.position.done = true;
        self.position.skip = false;
        self.unread = false;
        self.file = None;
    }

    /// After [`Chunk::Cut`]: whether only the end is missing, so that reading goes on at the new end. A crash of the
    /// machine does that to a file whose last lines were read but not yet on the disk.
    pub(super) fn accept_lost_end(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let size = file.metadata()?.size();
        let same = self.position.head.len() >= HEAD_BYTES_SURE && self.position.head.matches(file)?;
        if !same || size >= self.position.offset {
            return Ok(false);
        }
        self.position.offset = size;
        self.position.skip = false;
        Ok(true)
    }

    /// After [`Chunk::Cut`]: begins again with the first byte.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let at = self.position.at.take();
        self.position = Position { at, ..Position::start(&file.metadata()?) };
        self.unread = true;
        Ok(())
    }

    /// Moves a new file's position behind its last whole line, or into the middle of a line over the limit.
    pub(super) fn skip_to_end(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let size = file.metadata()?.size();
        let back = size.min(buffer.len() as u64);
        let tail = &mut buffer[..back as usize];
        file.read_exact_at(tail, size - back)?;
        let behind_newline = memchr::memrchr(b'\n', tail).map(|i| i as u64 + 1);
        let (offset, skip) = match behind_newline {
            Some(i) => (size - back + i, false),
            None if back == size => (0, false),
            None => (size, true),
        };
        let head = &mut buffer[..offset.min(HEAD_BYTES_MAX as u64) as usize];
        file.read_exact_at(head, 0)?;
        self.position.head.extend(head);
        self.position.offset = offset;
        self.position.skip = skip;
        Ok(())
    }
}

/// Hands on the whole lines in `bytes`, as long as there is room; returns how many bytes are used up and whether there
/// was room for all.
fn split(bytes: &[u8], skip: &mut bool, max_line: usize, emit: &mut dyn FnMut(&[u8], bool) -> bool) -> (usize, bool) {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(end) = memchr::memchr(b'\n', rest) else {
            if *skip {
                return (bytes.len(), true);
            }
            if rest.len() <= max_line {
                return (at, true);
            }
            *skip = true;
            return (bytes.len(), emit(&rest[..max_line], true));
        };
        at += end + 1;
        if *skip {
            *skip = false;
        } else if !emit(&rest[..end.min(max_line)], end > max_line) {
            return (at, false);
        }
    }
}
