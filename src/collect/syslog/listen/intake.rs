//! The bytes of one TCP connection that are not yet messages: one buffer, no I/O.

use jiff::Timestamp;

use super::super::frame::{FrameError, Splitter, Step};
use super::Batch;
use crate::collect::record::Peer;

/// What a connection begins with, and goes back to when it is quiet.
const BUFFER_BYTES_MIN: usize = 16 << 10;
/// What it grows to, unless `max_message` needs more.
const BUFFER_BYTES_MAX: usize = 256 << 10;

/// Whether the buffer holds more whole messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Split {
    All,
    /// The group is full: hand it over and call again.
    Full,
}

/// The bytes of one connection that are not yet messages. No I/O.
#[derive(Debug)]
pub(super) struct Intake {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    splitter: Splitter,
    buffer_bytes_max: usize,
}

impl Intake {
    pub(super) fn new(message_bytes_max: usize) -> Intake {
        let splitter = Splitter::new(message_bytes_max);
        let buffer_bytes_max = BUFFER_BYTES_MAX.max(splitter.buffer_bytes());
        Intake { buffer: vec![0; BUFFER_BYTES_MIN], start: 0, end: 0, splitter, buffer_bytes_max }
    }

    /// Room to read into, never empty once `split` has said [`Split::All`].
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.grow();
        }
        &mut self.buffer[self.end..]
    }

    /// `n` bytes were read into [`Intake::space`]; whether that was all of it, so that more is likely there.
    pub(super) fn filled(&mut self, n: usize) -> bool {
        self.end = (self.end + n).min(self.buffer.len());
        self.end == self.buffer.len()
    }

    fn grow(&mut self) {
        let bytes = (self.buffer.len() * 4).min(self.buffer_bytes_max);
        self.buffer.resize(bytes.max(self.buffer.len()), 0);
    }

    pub(super) fn is_large(&self) -> bool {
        self.buffer.len() > BUFFER_BYTES_MIN
    }

    pub(super) fn shrink(&mut self) {
        if self.end - self.start <= BUFFER_BYTES_MIN / 2 {
            self.space();
            self.buffer.truncate(BUFFER_BYTES_MIN);
            self.buffer.shrink_to_fit();
        }
    }

    /// Gives whole messages to the batch, up to a full group.
    pub(super) fn split(
        &mut self,
        batch: &mut Batch,
        received: Timestamp,
        peer: Peer<'_>,
        eof: bool,
    ) -> std::result::Result<Split, (FrameError, usize)> {
        let whole = self.end == self.buffer.len();
        loop {
            let bytes = &self.buffer[self.start..self.end];
            match self.splitter.next(bytes, eof) {
                Step::Message { consumed, frame, truncated } => {
                    batch.add(&bytes[frame], received, peer);
                    batch.tally.cut += u64::from(truncated);
                    self.start += consumed;
                    if batch.is_full() {
                        return Ok(Split::Full);
                    }
                }
                Step::Skipped { consumed } => self.start += consumed,
                Step::Need => break,
                Step::Broken { error, lost } => return Err((error, lost)),
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if whole && self.buffer.len() < BUFFER_BYTES_MAX {
            self.space();
            self.grow();
        }
        Ok(Split::All)
    }
}
