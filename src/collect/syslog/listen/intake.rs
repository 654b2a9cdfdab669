//! The bytes of one connection that are not yet messages: one buffer, no I/O.

use jiff::Timestamp;

use super::super::frame::{FrameError, Splitter, Step};
use super::Batch;
use crate::collect::record::Peer;

/// What a buffer is at least.
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
///
/// While it is read it has a buffer; between reads it has only what is left of a message, mostly nothing.
#[derive(Debug)]
pub(super) struct Intake {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    splitter: Splitter,
    buffer_bytes_max: usize,
    /// Messages found so far.
    messages: u64,
}

impl Intake {
    pub(super) fn new(splitter: Splitter) -> Intake {
        let buffer_bytes_max = BUFFER_BYTES_MAX.max(splitter.buffer_bytes());
        Intake { buffer: Vec::new(), start: 0, end: 0, splitter, buffer_bytes_max, messages: 0 }
    }

    /// Reads go into `buffer` from now on, behind what was kept.
    pub(super) fn resume(&mut self, mut buffer: Vec<u8>) {
        let kept = self.end - self.start;
        if buffer.len() < BUFFER_BYTES_MIN.max(kept) {
            buffer.resize(BUFFER_BYTES_MIN.max(kept), 0);
        }
        buffer[..kept].copy_from_slice(&self.buffer[self.start..self.end]);
        self.buffer = buffer;
        (self.start, self.end) = (0, kept);
    }

    /// Gives the buffer back and keeps what is no message yet.
    pub(super) fn pause(&mut self) -> Vec<u8> {
        let kept = self.buffer[self.start..self.end].to_vec();
        (self.start, self.end) = (0, kept.len());
        std::mem::replace(&mut self.buffer, kept)
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
        let bytes = (self.buffer.len() * 4).clamp(BUFFER_BYTES_MIN, self.buffer_bytes_max);
        self.buffer.resize(bytes.max(self.buffer.len()), 0);
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_amid_message(&self) -> bool {
        self.start < self.end || self.splitter.is_skipping()
    }

    /// Messages found since the connection began.
    pub(super) fn messages(&self) -> u64 {
        self.messages
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
                    self.messages += 1;
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
