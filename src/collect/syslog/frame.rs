//! Frames of syslog over TCP, RFC 6587: octet counting and line feeds.
//!
//! The first byte of each frame decides: 1 to 9 begins `MSG-LEN SP MSG`, anything
//! else a message that ends at the next LF (a message begins with `<`, so no text
//! that is syslog is mistaken for a count; a bare line that begins with a digit is,
//! as in every other receiver). CR and NUL before the LF are left to the parser.
//!
//! The caller owns the buffer and gets ranges of it: nothing is copied. Limits:
//! - a count above the limit, or with more than [`COUNT_DIGITS_MAX`] digits, cannot be
//!   skipped safely and ends the connection ([`Step::Broken`]);
//! - a line above the limit is passed on cut (`truncated`), and the rest of it, up to
//!   the next LF, comes as [`Step::Skipped`]: the lines beside it are unharmed.
//!
//! No input can cause a panic. Each byte is looked at a bounded number of times: how
//! far a line without end was searched is remembered.

use std::ops::Range;

/// Digits of a count: 9,999,999 bytes is beyond any limit in use.
pub const COUNT_DIGITS_MAX: usize = 7;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `frame` is one message, a range of the buffer given; then drop `consumed` bytes.
    Message { consumed: usize, frame: Range<usize>, truncated: bool },
    /// Bytes to drop: separators, or more of a line whose head was passed on.
    Skipped { consumed: usize },
    /// Read more behind what is there; at the end of the stream: done.
    Need,
    /// The stream cannot be followed further: close it. `lost` bytes were not passed on.
    Broken { error: FrameError, lost: usize },
}

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("an octet count above the limit")]
    CountTooLarge,
    #[error("an octet count with too many digits")]
    CountTooLong,
    #[error("an octet count that is no number followed by a blank")]
    CountNotANumber,
    #[error("the connection ended inside a counted message")]
    CutOff,
}

impl FrameError {
    /// A bounded label for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FrameError::CountTooLarge => "count_too_large",
            FrameError::CountTooLong => "count_too_long",
            FrameError::CountNotANumber => "count_not_a_number",
            FrameError::CutOff => "cut_off",
        }
    }
}

/// The state of one connection.
#[derive(Clone, Debug)]
pub struct Splitter {
    message_bytes_max: usize,
    /// In the rest of a line whose head was passed on.
    skipping: bool,
    /// Bytes at the front of the buffer that hold no LF.
    searched: usize,
    /// Ends a line as LF does: LF itself, or NUL.
    also: u8,
}

impl Splitter {
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Splitter { message_bytes_max: message_bytes_max.max(1), skipping: false, searched: 0, also: b'\n' }
    }

    /// One for a local stream socket, where syslog(3) ends each message with NUL.
    #[must_use]
    pub fn with_nul_ends(self) -> Self {
        Splitter { also: 0, ..self }
    }

    /// Whether the rest of a line whose head was passed on is still to come.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The buffer must hold this much, or [`Step::Need`] could not be satisfied.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.message_bytes_max + COUNT_DIGITS_MAX + 1
    }

    /// Looks at the unconsumed bytes `buf`; `eof` says that no more will follow.
    pub fn next(&mut self, buf: &[u8], eof: bool) -> Step {
        let Some(&first) = buf.first() else {
            return Step::Need;
        };
        if self.skipping {
            return self.skip(buf);
        }
        match first {
            // Left behind by senders that end a counted frame with LF, CRLF or NUL.
            b'\n' | b'\r' | 0 => {
                let consumed = buf.iter().take_while(|c| matches!(c, b'\n' | b'\r' | 0)).count();
                self.searched = 0;
                Step::Skipped { consumed }
            }
            b'1'..=b'9' => self.counted(buf, eof),
            _ => self.line(buf, eof),
        }
    }

    fn counted(&mut self, buf: &[u8], eof: bool) -> Step {
        let broken = |error| Step::Broken { error, lost: buf.len() };
        let digits = buf.iter().take(COUNT_DIGITS_MAX + 1).take_while(|c| c.is_ascii_digit()).count();
        if digits > COUNT_DIGITS_MAX {
            return broken(FrameError::CountTooLong);
        }
        let length = buf[..digits].iter().fold(0, |n, c| n * 10 + usize::from(c - b'0'));
        if length > self.message_bytes_max {
            return broken(FrameError::CountTooLarge);
        }
        let start = digits + 1;
        match buf.get(digits) {
            Some(b' ') if buf.len() - start >= length => {
                let end = start + length;
                Step::Message { consumed: end, frame: start..end, truncated: false }
            }
            Some(b' ') | None if eof => broken(FrameError::CutOff),
            Some(b' ') | None => Step::Need,
            Some(_) => broken(FrameError::CountNotANumber),
        }
    }

    fn line(&mut self, buf: &[u8], eof: bool) -> Step {
        let from = self.searched.min(buf.len());
        let window = buf.len().min(self.message_bytes_max + 1);
        let found = memchr::memchr2(b'\n', self.also, buf.get(from..window).unwrap_or_default());
        if let Some(i) = found {
            self.searched = 0;
            let end = from + i;
            return Step::Message { consumed: end + 1, frame: 0..end, truncated: false };
        }
        if buf.len() > self.message_bytes_max {
            self.searched = 0;
            self.skipping = true;
            let end = self.message_bytes_max;
            return Step::Message { consumed: end, frame: 0..end, truncated: true };
        }
        if eof {
            self.searched = 0;
            return Step::Message { consumed: buf.len(), frame: 0..buf.len(), truncated: false };
        }
        self.searched = buf.len();
        Step::Need
    }

    fn skip(&mut self, buf: &[u8]) -> Step {
        let consumed = match memchr::memchr2(b'\n', self.also, buf) {
            Some(i) => {
                self.skipping = false;
                i + 1
            }
            None => buf.len(),
        };
        Step::Skipped { consumed }
    }
}

#[cfg(test)]
mod tests;
