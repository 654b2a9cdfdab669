//! Which connections have lost their peer: the rule of progress.
//!
//! An answer may take as long as it needs, as long as the peer takes [`Pace::bytes`] in each [`Pace::window`]; 1 Mbit/s is
//! a hundred times that. What waits for a request has hyper's header timeout.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::report::Pulse;

/// How long answers may go on once greypit ends.
const STOPPING_MAX: Duration = Duration::from_secs(2);

/// How fast a peer has to be at least, and at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) window: Duration,
    pub(super) bytes: u64,
    /// How long answers may go on once greypit ends.
    pub(super) stopping: Duration,
}

impl Pace {
    /// About 1 KiB/s.
    pub(super) const LEAST: Pace = Pace { window: Duration::from_secs(60), bytes: 64 << 10, stopping: STOPPING_MAX };
}

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    written: u64,
    /// The request that was being answered.
    request: Option<u64>,
}

impl Watch {
    /// Looks once a window: whether one answer was on its way for all of it, and too little of it went.
    pub(super) fn is_stalled(&mut self, pulse: &Pulse, pace: Pace) -> bool {
        let written = pulse.written.load(Ordering::Relaxed);
        let request = pulse.requests.load(Ordering::Relaxed);
        let request = pulse.answering.load(Ordering::Relaxed).then_some(request);
        let stalled = request.is_some() && request == self.request && written - self.written < pace.bytes;
        (self.written, self.request) = (written, request);
        stalled
    }
}

/// Counts what the kernel takes.
#[derive(Debug)]
pub(super) struct Counted {
    stream: TcpStream,
    pulse: Arc<Pulse>,
}

impl Counted {
    pub(super) fn new(stream: TcpStream, pulse: Arc<Pulse>) -> Counted {
        Counted { stream, pulse }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.pulse.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_answer_without_progress_for_a_whole_window_is_stalled() {
        let (pulse, mut watch) = (Pulse::default(), Watch::default());
        let mut look = |request: u64, answering: bool, more: u64| {
            pulse.requests.store(request, Ordering::Relaxed);
            pulse.answering.store(answering, Ordering::Relaxed);
            pulse.written.fetch_add(more, Ordering::Relaxed);
            watch.is_stalled(&pulse, Pace { bytes: 1000, ..Pace::LEAST })
        };
        assert!(!look(0, false, 0));
        assert!(!look(1, true, 0), "it began in this window");
        assert!(!look(1, true, 1000));
        assert!(!look(2, true, 999), "another one");
        assert!(look(2, true, 999));
        assert!(!look(2, false, 0), "it waits for a request");
        assert!(!look(3, true, 0));
    }
}
