//! The body of an answer: a text, or a file that is read in chunks while the one before is being sent.
//!
//! At most two chunks of [`CHUNK_BYTES`] an answer are in memory. A file that becomes shorter is an error, which closes
//! the connection: the client must not take it for whole.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use super::report::Report;

/// Read at once.
const CHUNK_BYTES: u64 = 128 << 10;

type Chunk = io::Result<(File, Vec<u8>)>;

#[derive(Debug)]
enum Source {
    Text(Bytes),
    Reading(JoinHandle<Chunk>),
    End,
}

#[derive(Debug)]
pub(super) struct Body {
    source: Source,
    left: u64,
    /// Tells the story once the body is dropped, at its end or not.
    report: Report,
}

impl Body {
    pub(super) fn text(text: Vec<u8>, report: Report) -> Body {
        let left = text.len() as u64;
        Body { source: if left == 0 { Source::End } else { Source::Text(text.into()) }, left, report }
    }

    /// `bytes` of a file, from where it is.
    pub(super) fn file(file: File, bytes: u64, report: Report) -> Body {
        Body { source: if bytes == 0 { Source::End } else { Source::Reading(read(file, bytes)) }, left: bytes, report }
    }
}

fn read(file: File, left: u64) -> JoinHandle<Chunk> {
    spawn_blocking(move || {
        let bytes = left.min(CHUNK_BYTES);
        let mut chunk = Vec::with_capacity(bytes as usize);
        (&file).take(bytes).read_to_end(&mut chunk)?;
        if (chunk.len() as u64) < bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        Ok((file, chunk))
    })
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let chunk = match &mut this.source {
            Source::End => return Poll::Ready(None),
            Source::Text(text) => {
                let text = std::mem::take(text);
                this.source = Source::End;
                text
            }
            Source::Reading(reading) => {
                match ready!(Pin::new(reading).poll(cx)).unwrap_or_else(|error| Err(error.into())) {
                    Ok((file, chunk)) => {
                        let left = this.left - chunk.len() as u64;
                        this.source = if left > 0 { Source::Reading(read(file, left)) } else { Source::End };
                        chunk.into()
                    }
                    Err(error) => {
                        this.source = Source::End;
                        this.report.why = Some(error.to_string());
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        };
        this.left -= chunk.len() as u64;
        this.report.given += chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::End)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
