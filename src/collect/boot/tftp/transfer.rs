//! One transfer as a state machine: RFC 1350 with windows (RFC 7440). Pure: packets and the time come in, what is to be
//! sent goes out, blocks come from a reader.
//!
//! * With options the first packet is the option acknowledgement, which is block 0; else block 1.
//! * A window is sent at once. An acknowledgement of its last block brings the next window; one of a block within it says
//!   that what followed was lost, and the window begins anew behind that block.
//! * A repeated acknowledgement sends nothing (RFC 1123, 4.2.3.1: the sorcerer's apprentice), but for one case: with a
//!   window of several blocks it says that the window's first block was lost. It is believed once a window, and not where
//!   the window before was sent in parts twice, since then it may be that one's echo.
//! * What is not acknowledged within the timeout is sent again, up to [`RETRANSMITS_MAX`] times in a row, the timeout
//!   doubled each time. So [`RETRANSMITS_MAX`] + 2 windows a block are the most that can be sent.
//! * A client that has not answered at all within [`OPENING_MAX`] is gone, whatever timeout it asked for: anybody can send
//!   a request in somebody's name. A client that is there and so slow asks again, and has another transfer.
//! * Block numbers have 16 bits on the wire and 64 here: behind 65,535 they go on with 0.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::wire::{DATA_HEADER, Packet, data_header};

/// How often in a row the same is sent again.
pub(super) const RETRANSMITS_MAX: u32 = 5;

/// How long the first answer may take: firmware takes a second or two at most. Three retransmissions where the client asks
/// for no timeout of its own.
pub(super) const OPENING_MAX: Duration = Duration::from_secs(15);

/// What was agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) blksize: u16,
    pub(super) windowsize: u16,
    pub(super) timeout: Duration,
    /// The packet that says so; none where no option was asked for.
    pub(super) option_ack: Option<Vec<u8>>,
}

/// What to do after a packet or at the deadline.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    /// Send [`Transfer::runs`].
    Send,
    End(End),
}

/// How a transfer ended.
#[derive(Debug)]
pub(super) enum End {
    /// The last block is acknowledged.
    Complete,
    /// The client said that it ends.
    Aborted { code: u16, message: Vec<u8>, before_data: bool },
    /// No acknowledgement in time.
    TimedOut,
    /// The file cannot be read further.
    Source(io::Error),
}

/// Datagrams that follow each other in memory: all of `segment` bytes, the last one of that or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) segment: usize,
}

#[derive(Debug)]
pub(super) struct Transfer<R> {
    source: R,
    terms: Terms,
    /// Places for `windowsize` blocks with their headers; block n is in place n modulo windowsize.
    window: Vec<u8>,
    /// The option acknowledgement is not acknowledged yet.
    opening: bool,
    /// The last block that the client has.
    acked: u64,
    /// The last one that is in the window.
    read: u64,
    /// The file's last block and its bytes, once it is in the window.
    last: Option<(u64, usize)>,
    /// Blocks in the window were sent twice.
    again: bool,
    /// A repeated acknowledgement may be an echo of the window before.
    doubtful: bool,
    in_a_row: u32,
    timeout: Duration,
    deadline: Instant,
    /// When a client that has not answered is gone.
    opening_ends: Instant,
    retransmits: u64,
}

impl<R: Read> Transfer<R> {
    /// The first packets are ready to be sent.
    ///
    /// # Errors
    /// Where the source cannot be read.
    pub(super) fn begin(source: R, terms: Terms, now: Instant) -> io::Result<Transfer<R>> {
        let place = DATA_HEADER + usize::from(terms.blksize);
        let mut transfer = Transfer {
            source,
            window: vec![0; place * usize::from(terms.windowsize)],
            opening: terms.option_ack.is_some(),
            acked: 0,
            read: 0,
            last: None,
            again: false,
            doubtful: false,
            in_a_row: 0,
            timeout: terms.timeout,
            deadline: now + terms.timeout.min(OPENING_MAX),
            opening_ends: now + OPENING_MAX,
            retransmits: 0,
            terms,
        };
        if !transfer.opening {
            transfer.fill()?;
        }
        Ok(transfer)
    }

    /// What came from the client.
    pub(super) fn packet(&mut self, packet: &Packet<'_>, now: Instant) -> Step {
        match packet {
            Packet::Ack(number) => self.acknowledged(*number, now),
            Packet::Error(code, message) => {
                let before_data = self.opening;
                Step::End(End::Aborted { code: *code, message: message.to_vec(), before_data })
            }
            _ => Step::Wait,
        }
    }

    /// To be called once [`Self::deadline`] has passed.
    pub(super) fn late(&mut self, now: Instant) -> Step {
        if now < self.deadline {
            return Step::Wait;
        }
        let is_nobody = !self.has_begun() && now >= self.opening_ends;
        if is_nobody || self.in_a_row >= RETRANSMITS_MAX {
            return Step::End(End::TimedOut);
        }
        self.in_a_row += 1;
        self.timeout *= 2;
        self.send_again(now)
    }

    fn acknowledged(&mut self, number: u16, now: Instant) -> Step {
        // Blocks in the window are few, so 16 bits tell them apart; what is not in it is of long ago.
        let ahead = u64::from(number.wrapping_sub(self.acked as u16));
        if self.opening {
            if number != 0 {
                return Step::Wait;
            }
            self.opening = false;
            return self.go_on(now);
        }
        if ahead > self.read - self.acked {
            return Step::Wait;
        }
        if ahead == 0 {
            let believed = self.terms.windowsize > 1 && !self.again && !self.doubtful;
            return if believed { self.send_again(now) } else { Step::Wait };
        }
        self.acked += ahead;
        if self.last.is_some_and(|(last, _)| last == self.acked) {
            return Step::End(End::Complete);
        }
        let left = self.read - self.acked;
        self.retransmits += left;
        self.doubtful = self.again || left > 0;
        self.again = left > 0;
        self.go_on(now)
    }

    /// Sends the window behind what is acknowledged.
    fn go_on(&mut self, now: Instant) -> Step {
        self.in_a_row = 0;
        self.timeout = self.terms.timeout;
        if let Err(error) = self.fill() {
            return Step::End(End::Source(error));
        }
        self.deadline = now + self.timeout;
        Step::Send
    }

    fn send_again(&mut self, now: Instant) -> Step {
        self.again = true;
        self.retransmits += if self.opening { 1 } else { self.read - self.acked };
        self.deadline = now + self.timeout;
        if !self.has_begun() {
            self.deadline = self.deadline.min(self.opening_ends);
        }
        Step::Send
    }

    /// Reads until the window is full or the file is at its end.
    fn fill(&mut self) -> io::Result<()> {
        while self.last.is_none() && self.read - self.acked < u64::from(self.terms.windowsize) {
            let block = self.read + 1;
            let (at, blksize) = (self.place(block), usize::from(self.terms.blksize));
            let place = &mut self.window[at..at + DATA_HEADER + blksize];
            let (header, data) = place.split_at_mut(DATA_HEADER);
            header.copy_from_slice(&data_header(block));
            let bytes = read_full(&mut self.source, data)?;
            self.read = block;
            if bytes < blksize {
                self.last = Some((block, bytes));
            }
        }
        Ok(())
    }

    fn place(&self, block: u64) -> usize {
        let slot = block % u64::from(self.terms.windowsize);
        slot as usize * (DATA_HEADER + usize::from(self.terms.blksize))
    }

    /// What is not acknowledged, in its order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let segment = DATA_HEADER + usize::from(self.terms.blksize);
        let runs = match &self.terms.option_ack {
            Some(packet) if self.opening => [Run { bytes: packet, segment: packet.len() }, Run { bytes: &[], segment }],
            _ => {
                let (first, end) = (self.place(self.acked + 1), self.bytes_until(self.read));
                if self.place(self.read) >= first {
                    [Run { bytes: &self.window[first..end], segment }, Run { bytes: &[], segment }]
                } else {
                    [Run { bytes: &self.window[first..], segment }, Run { bytes: &self.window[..end], segment }]
                }
            }
        };
        runs.into_iter().filter(|run| !run.bytes.is_empty())
    }

    /// Where a block of the window ends.
    fn bytes_until(&self, block: u64) -> usize {
        let bytes = match self.last {
            Some((last, bytes)) if last == block => bytes,
            _ => usize::from(self.terms.blksize),
        };
        self.place(block) + DATA_HEADER + bytes
    }

    /// When to say [`Self::late`].
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Blocks that the client has.
    pub(super) fn blocks(&self) -> u64 {
        self.acked
    }

    /// Bytes in them.
    pub(super) fn bytes(&self) -> u64 {
        let blksize = u64::from(self.terms.blksize);
        match self.last {
            Some((last, bytes)) if last == self.acked => (last - 1) * blksize + bytes as u64,
            _ => self.acked * blksize,
        }
    }

    /// Packets that were sent again.
    pub(super) fn retransmits(&self) -> u64 {
        self.retransmits
    }

    /// Whether the client has shown that it hears us.
    pub(super) fn has_begun(&self) -> bool {
        self.acked > 0 || (self.terms.option_ack.is_some() && !self.opening)
    }
}

/// Reads until `buf` is full or nothing more comes.
fn read_full(source: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match source.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
