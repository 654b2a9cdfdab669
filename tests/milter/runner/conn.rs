//! One connection of the mail server that a case plays: how its bytes are cut, and what comes back.

use super::packet::{Agreed, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer may take before the case has failed. Never part of what is tested.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than any packet of ours, and of greypit's.
const PACKET_BYTES_MAX: usize = 64 << 10;

/// How the bytes of a case reach the filter: its answers must not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Each command in a write of its own, unless the case says otherwise.
    AsWritten,
    /// A write for each byte.
    Bytes,
    /// One write for all up to the next answer.
    Together,
    /// Writes of any length, which follow from this number.
    Anyhow(u64),
}

impl Cut {
    pub(crate) fn name(self) -> String {
        match self {
            Cut::AsWritten => "as written".to_owned(),
            Cut::Bytes => "byte by byte".to_owned(),
            Cut::Together => "together".to_owned(),
            Cut::Anyhow(seed) => format!("cut anyhow, seed {seed}"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Conn {
    stream: UnixStream,
    cut: Cut,
    /// Of `Cut::AsWritten`: bytes of a write, where the case wants so many.
    split: Option<usize>,
    /// Waits for the next write: `coalesce`, or `Cut::Together`.
    unsent: Vec<u8>,
    coalesce: bool,
    random: u64,
    offered: Agreed,
    pub(crate) agreed: Agreed,
    /// Just before the last write, and after the last answer.
    written: Instant,
    answered: Instant,
    /// What came while the filter took no more: it answers what it has before it reads on.
    came: VecDeque<u8>,
    /// The filter has closed.
    ended: bool,
}

impl Conn {
    pub(crate) fn open(socket: &Path, cut: Cut) -> Result<Conn, String> {
        let stream = UnixStream::connect(socket).map_err(|error| format!("no connection: {error}"))?;
        let limits = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        limits.map_err(|error| error.to_string())?;
        let random = if let Cut::Anyhow(seed) = cut { seed } else { 0 };
        let now = Instant::now();
        Ok(Conn {
            stream,
            cut,
            split: None,
            unsent: Vec::new(),
            coalesce: false,
            random,
            offered: Agreed::default(),
            agreed: Agreed::default(),
            written: now,
            answered: now,
            came: VecDeque::new(),
            ended: false,
        })
    }

    pub(crate) fn split(&mut self, bytes: Option<usize>) {
        self.split = bytes;
    }

    pub(crate) fn coalesce(&mut self, on: bool) {
        self.coalesce = on;
        if !on {
            self.flush();
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if let Some(offered) = Agreed::offered(bytes) {
            self.offered = offered;
        }
        self.unsent.extend(bytes);
        if !self.coalesce && self.cut != Cut::Together {
            self.flush();
        }
    }

    /// Writes what waits. A filter that has closed shows when it is read from.
    pub(crate) fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.unsent);
        let mut rest = bytes.as_slice();
        // From the first piece on: a hold may begin before the last one is written.
        if !rest.is_empty() {
            self.written = Instant::now();
        }
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(self.next_write().min(rest.len()));
            if self.write_all(piece).is_err() {
                return;
            }
            rest = behind;
        }
    }

    /// Takes answers where the filter takes no more before they are read.
    fn write_all(&mut self, mut piece: &[u8]) -> std::io::Result<()> {
        let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        while !piece.is_empty() {
            match send(&self.stream, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(written) => piece = &piece[written..],
                Err(rustix::io::Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&self.stream, PollFlags::IN | PollFlags::OUT)];
                    if poll(&mut ready, Some(&limit))? == 0 {
                        return Err(ErrorKind::TimedOut.into());
                    }
                    let mut answers = [0; 4096];
                    if let Ok((count, _)) = recv(&self.stream, &mut answers, RecvFlags::DONTWAIT) {
                        self.came.extend(&answers[..count]);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn next_write(&mut self) -> usize {
        match self.cut {
            Cut::AsWritten => self.split.unwrap_or(usize::MAX),
            Cut::Bytes => 1,
            Cut::Together => usize::MAX,
            Cut::Anyhow(_) => {
                // xorshift64*; mostly short, sometimes longer than a packet.
                self.random ^= self.random >> 12;
                self.random ^= self.random << 25;
                self.random ^= self.random >> 27;
                let value = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
                1 + (value as usize >> 8) % [3, 9, 70, 3000][value as usize % 4]
            }
        }
    }

    /// The next answer. What waits is written first, even in the middle of `coalesce`.
    pub(crate) fn read(&mut self) -> Result<Reply, String> {
        self.flush();
        let reply = self.read_packet()?;
        self.answered = Instant::now();
        if let Reply::Agreed(agreed) = &reply {
            agreed.check(&self.offered)?;
            self.agreed = agreed.clone();
        }
        Ok(reply)
    }

    fn read_packet(&mut self) -> Result<Reply, String> {
        if self.ended {
            return Ok(Reply::Closed);
        }
        let mut length = [0; 4];
        let filled = self.fill(&mut length)?;
        if filled == 0 {
            self.ended = true;
            return Ok(Reply::Closed);
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if filled < length.len() || bytes == 0 || bytes > PACKET_BYTES_MAX {
            return Err(format!("a broken length: {length:?}, of which {filled} came"));
        }
        let mut packet = vec![0; bytes];
        if self.fill(&mut packet)? < bytes {
            return Err(format!("closed in the middle of a packet: {}", packet.escape_ascii()));
        }
        Reply::parse(&packet)
    }

    /// Reads until the buffer is full or the filter has closed.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        let mut filled = 0;
        while filled < buffer.len() {
            if let Some(byte) = self.came.pop_front() {
                buffer[filled] = byte;
                filled += 1;
                continue;
            }
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(format!("no answer in {PATIENCE:?}"));
                }
                Err(error) => return Err(format!("reading: {error}")),
            }
        }
        Ok(filled)
    }

    /// Whether an answer has come already that nobody has read. Says no where it is merely slow: what it misses shows
    /// as an answer too many later.
    pub(crate) fn has_answer(&mut self) -> Result<bool, String> {
        if self.ended || !self.came.is_empty() {
            return Ok(!self.came.is_empty());
        }
        let peek = || {
            self.stream.set_nonblocking(true)?;
            let found = rustix::net::recv(&self.stream, &mut [0_u8; 1], rustix::net::RecvFlags::PEEK);
            self.stream.set_nonblocking(false)?;
            std::io::Result::Ok(found.is_ok_and(|(count, _)| count > 0))
        };
        peek().map_err(|error| error.to_string())
    }

    /// From the beginning of the last write to the answer.
    pub(crate) fn held(&self) -> Duration {
        self.answered.saturating_duration_since(self.written)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn eof(&mut self) {
        self.flush();
        let _closed_already = self.stream.shutdown(Shutdown::Write);
    }

    /// Says that nothing more will be sent, and expects no answer but that the filter closes too.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        self.eof();
        match self.read()? {
            Reply::Closed => Ok(()),
            reply => Err(format!("an answer too many: {reply}")),
        }
    }
}
