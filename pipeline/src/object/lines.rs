//! Splits decompressed bytes into lines, without copying those that fit the buffer.

use std::io::{self, Read};

use crate::event::BODY_BYTES_MAX;

/// The longest line, in bytes: the largest body and what is put in front of it.
pub const LINE_BYTES_MAX: usize = BODY_BYTES_MAX + (4 << 10);

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 256 << 10;

/// One line without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line that is not empty.
    Text(&'a [u8]),
    /// A line longer than [`LINE_BYTES_MAX`], passed over; its length in bytes.
    TooLong(u64),
}

/// The lines of a reader. The last one may lack its newline; empty lines are passed over.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    /// What is not yet given out: `buffer[start..end]`; of it `buffer[start..searched]` has no newline.
    start: usize,
    searched: usize,
    end: usize,
    /// Bytes of a line that is too long, already dropped.
    dropped: u64,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Reads `reader` to its end.
    pub fn new(reader: R) -> Lines<R> {
        let buffer = vec![0; READ_BYTES];
        Lines { reader, buffer, start: 0, searched: 0, end: 0, dropped: 0, ended: false }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// What the reader says: a damaged or oversized object. Lines before it have been given out.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..self.end]) {
                let (from, to) = (self.start, self.searched + at);
                self.start = to + 1;
                self.searched = self.start;
                if let Some(line) = Self::line(std::mem::take(&mut self.dropped), from..to) {
                    return Ok(Some(line.of(&self.buffer)));
                }
                continue;
            }
            self.searched = self.end;
            if self.end - self.start > LINE_BYTES_MAX {
                self.dropped += (self.end - self.start) as u64;
                self.start = self.end;
            }
            if self.ended {
                let rest = self.start..self.end;
                self.start = self.end;
                return Ok(Self::line(std::mem::take(&mut self.dropped), rest).map(|line| line.of(&self.buffer)));
            }
            self.read_more()?;
        }
    }

    fn line(dropped: u64, mut range: std::ops::Range<usize>) -> Option<Found> {
        if dropped > 0 || range.len() > LINE_BYTES_MAX {
            return Some(Found::TooLong(dropped + range.len() as u64));
        }
        (!range.is_empty()).then(|| {
            range.end = range.end.max(range.start);
            Found::Text(range)
        })
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.searched = self.end;
        }
        if self.buffer.len() - self.end < READ_BYTES {
            self.buffer.resize((self.buffer.len() * 2).max(self.end + READ_BYTES), 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

enum Found {
    Text(std::ops::Range<usize>),
    TooLong(u64),
}

impl Found {
    fn of(self, buffer: &[u8]) -> Line<'_> {
        match self {
            Found::Text(range) => Line::Text(&buffer[range]),
            Found::TooLong(bytes) => Line::TooLong(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(reader: impl Read) -> Vec<Result<Vec<u8>, u64>> {
        let mut lines = Lines::new(reader);
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push(match line {
                Line::Text(text) => Ok(text.to_vec()),
                Line::TooLong(bytes) => Err(bytes),
            });
        }
        found
    }

    /// Gives out a few bytes at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(buffer.len());
            (&mut self.0).take(n as u64).read(buffer)
        }
    }

    #[test]
    fn a_line_over_the_limit_costs_its_neighbours_nothing() {
        let text =
            [b"a\n".to_vec(), vec![b'x'; LINE_BYTES_MAX + 1], b"\nb\n".to_vec(), vec![b'y'; LINE_BYTES_MAX]].concat();
        let found = all(&text[..]);
        assert_eq!(found.len(), 4);
        assert_eq!(found[..3], [Ok(b"a".to_vec()), Err(LINE_BYTES_MAX as u64 + 1), Ok(b"b".to_vec())]);
        assert_eq!(found[3].as_ref().unwrap().len(), LINE_BYTES_MAX);
        let long = vec![b'x'; 5 * LINE_BYTES_MAX];
        let mut lines = Lines::new(&long[..]);
        assert_eq!(lines.next().unwrap(), Some(Line::TooLong(5 * LINE_BYTES_MAX as u64)));
        assert!(lines.buffer.len() <= 4 * LINE_BYTES_MAX, "memory stays bounded");
        assert_eq!(lines.next().unwrap(), None);
    }

    proptest! {
        #[test]
        fn as_the_standard_library_splits(text in "[ab\n]{0,60}", drip in 1usize..8) {
            let expected: Vec<_> = text.split('\n').filter(|line| !line.is_empty()).map(|l| Ok(l.as_bytes().to_vec())).collect();
            prop_assert_eq!(all(Drip(text.as_bytes(), drip)), expected);
        }
    }
}
