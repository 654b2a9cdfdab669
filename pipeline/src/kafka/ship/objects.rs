//! Objects that grow: raw bytes in chunks, compressed as they come once there are enough of them.
//!
//! An encoder takes memory of its own, for bzip2 several MiB. So an object stays raw until it holds as much as that, and
//! most objects of a quiet topic are compressed only when they end. From then on its chunks are compressed in order by
//! whichever worker is free, and what is kept is what came out.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::cut::{Cut, Form, Part, Place};
use crate::codec::{Codec, Encoder};
use crate::encode::{Encoded, sha256_hex};
use crate::store::OBJECT_BYTES_MAX;
use crate::upload::{Uploader, until_done};
use crate::workers::Workers;
use crate::{Error, Result};

/// The size at which a chunk is handed on, in bytes.
const CHUNK_BYTES: usize = 128 << 10;

/// An object that is being filled.
#[derive(Debug)]
pub(super) struct Growing {
    codec: Codec,
    level: u32,
    records: u64,
    raw_bytes: u64,
    chunk: Vec<u8>,
    /// Chunks that wait for an encoder to be worth it.
    raw: Vec<Vec<u8>>,
    stream: Option<Arc<Stream>>,
}

impl Growing {
    pub(super) fn new(form: &Form) -> Growing {
        let (codec, level) = (form.codec, form.level);
        Growing { codec, level, records: 0, raw_bytes: 0, chunk: Vec::new(), raw: Vec::new(), stream: None }
    }

    /// Adds a record and its newline.
    pub(super) fn push(&mut self, record: &[u8], workers: &Workers) {
        self.chunk.extend_from_slice(record);
        self.chunk.push(b'\n');
        self.records += 1;
        self.raw_bytes += record.len() as u64 + 1;
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush(workers);
        }
    }

    fn flush(&mut self, workers: &Workers) {
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES + (4 << 10)));
        match &self.stream {
            Some(stream) => stream.push(full, workers),
            None => {
                self.raw.push(full);
                if self.codec != Codec::None && self.raw.len() * CHUNK_BYTES >= encoder_bytes(self.codec, self.level) {
                    let stream = Stream::new(self.codec, self.level);
                    self.raw.drain(..).for_each(|chunk| stream.push(chunk, workers));
                    self.stream = Some(stream);
                }
            }
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// What it takes of memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        let stream = self.stream.as_ref().map_or(0, |stream| stream.bytes.load(Ordering::Relaxed));
        self.chunk.capacity() + self.raw.iter().map(Vec::capacity).sum::<usize>() + stream
    }

    /// Bytes that the workers have not compressed yet.
    pub(super) fn uncompressed(&self) -> usize {
        self.stream.as_ref().map_or(0, |stream| stream.waiting.load(Ordering::Relaxed))
    }

    /// Compresses what is left. Drop it to give it up.
    pub(super) async fn finish(mut self, workers: &Workers) -> Result<Encoded> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = Stream::new(self.codec, self.level);
                self.raw.drain(..).for_each(|chunk| stream.push(chunk, workers));
                stream
            }
        };
        stream.push(std::mem::take(&mut self.chunk), workers);
        let (answer, finished) = oneshot::channel();
        stream.end(answer, workers);
        let bytes = finished.await.map_err(|_| Error::Closed)?;
        let (bytes, sha256) = bytes.map_err(Error::io("compress", "an object"))?;
        Ok(Encoded { bytes: bytes.into(), sha256, records: self.records, raw_bytes: self.raw_bytes })
    }
}

/// What an encoder of a codec takes, in bytes, measured.
fn encoder_bytes(codec: Codec, level: u32) -> usize {
    match codec {
        Codec::Bzip2 => (400 << 10) + 8 * 100_000 * level as usize,
        Codec::Zstd if level > 12 => 32 << 20,
        Codec::Zstd => 4 << 20,
        Codec::Gzip => 256 << 10,
        Codec::None => 0,
    }
}

type Finished = io::Result<(Vec<u8>, String)>;

/// Compresses chunks in order, one worker at a time.
#[derive(Debug)]
struct Stream {
    state: Mutex<State>,
    /// Memory: chunks that wait, the encoder, what came out.
    bytes: AtomicUsize,
    /// Chunks that wait.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    /// `None` while a worker has it, and after the end.
    encoder: Option<Encoder>,
    failed: Option<io::Error>,
    end: Option<oneshot::Sender<Finished>>,
}

impl Stream {
    fn new(codec: Codec, level: u32) -> Arc<Stream> {
        let state =
            State { chunks: VecDeque::new(), encoder: Some(codec.encoder(Some(level))), failed: None, end: None };
        Arc::new(Stream {
            state: Mutex::new(state),
            bytes: AtomicUsize::new(encoder_bytes(codec, level)),
            waiting: AtomicUsize::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Stream>, chunk: Vec<u8>, workers: &Workers) {
        self.bytes.fetch_add(chunk.capacity(), Ordering::Relaxed);
        self.waiting.fetch_add(chunk.len(), Ordering::Relaxed);
        self.state().chunks.push_back(chunk);
        self.wake(workers);
    }

    fn end(self: &Arc<Stream>, answer: oneshot::Sender<Finished>, workers: &Workers) {
        self.state().end = Some(answer);
        self.wake(workers);
    }

    /// Has a worker go on, unless one has the encoder and will see what is new.
    fn wake(self: &Arc<Stream>, workers: &Workers) {
        let Some(encoder) = self.state().encoder.take() else { return };
        let stream = self.clone();
        // Where no worker is left the encoder is dropped, and whoever waits for the end is told.
        if workers.run(move || stream.work(encoder)).is_err() {
            self.state().end = None;
        }
    }

    fn work(&self, mut encoder: Encoder) {
        loop {
            let mut state = self.state();
            let Some(chunk) = state.chunks.pop_front() else {
                match state.end.take() {
                    None => state.encoder = Some(encoder),
                    Some(answer) => {
                        let failed = state.failed.take();
                        drop(state);
                        // The one who asked may have gone, with its partition.
                        let _ = answer.send(finish(encoder, failed));
                    }
                }
                return;
            };
            drop(state);
            let before = encoder.len();
            let written = encoder.write_all(&chunk);
            self.bytes.fetch_add(encoder.len() - before, Ordering::Relaxed);
            self.bytes.fetch_sub(chunk.capacity(), Ordering::Relaxed);
            self.waiting.fetch_sub(chunk.len(), Ordering::Relaxed);
            if let Err(error) = written {
                self.state().failed.get_or_insert(error);
            }
        }
    }
}

fn finish(encoder: Encoder, failed: Option<io::Error>) -> Finished {
    if let Some(error) = failed {
        return Err(error);
    }
    let bytes = encoder.finish()?;
    let sha256 = sha256_hex(&bytes);
    Ok((bytes, sha256))
}

/// An object that has ended.
#[derive(Debug)]
pub(super) struct Ready {
    key: String,
    codec: Codec,
    encoded: Encoded,
    /// Records that its cut's maker had read and that are not in the log any more.
    missing: u64,
}

impl Ready {
    /// Ends an object, and names it as its cut says.
    pub(super) async fn new(
        place: &Place,
        cut: &Cut,
        part: &Part,
        growing: Growing,
        workers: &Workers,
    ) -> Result<Ready> {
        let key = cut.form.key(place, cut.life, part.window, part.first)?;
        let missing = part.records.saturating_sub(growing.records());
        Ok(Ready { key, codec: cut.form.codec, encoded: growing.finish(workers).await?, missing })
    }

    /// Puts it until it is there.
    pub(super) async fn put(&self, uploader: &Uploader, place: &Place) {
        let ours = until_done(&uploader.health, "store", || self.try_put(uploader)).await;
        if ours {
            uploader.count(place.kind, &self.key, &self.encoded);
        } else {
            let (key, records) = (&self.key, self.encoded.records);
            tracing::error!(key, records, "kafka: the key holds other records, which are left alone");
        }
    }

    /// The same, once; false where the key holds other records. Of an object of which the log has lost something any
    /// other is as good.
    pub(super) async fn try_put(&self, uploader: &Uploader) -> Result<bool> {
        let is_same = |theirs: &[u8]| self.missing > 0 || same_records(self.codec, theirs, &self.encoded.bytes);
        uploader.try_put(&self.key, self.codec, &self.encoded, is_same).await
    }
}

/// Whether two objects hold the same records, however they were compressed.
pub(super) fn same_records(codec: Codec, one: &[u8], other: &[u8]) -> bool {
    let mut one = codec.bounded_decoder(one, 2 * OBJECT_BYTES_MAX);
    let mut other = codec.bounded_decoder(other, 2 * OBJECT_BYTES_MAX);
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        match (fill(&mut one, &mut left), fill(&mut other, &mut right)) {
            (Ok(a), Ok(b)) if left[..a] == right[..b] => {
                if a == 0 {
                    return true;
                }
            }
            _ => return false,
        }
    }
}

/// Reads until the buffer is full or there is no more.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(codec: Codec) -> Form {
        Form { codec, level: codec.default_level(), key: String::new(), prefix: String::new(), window_s: 300 }
    }

    #[tokio::test]
    async fn the_bytes_are_those_of_one_encoder() {
        let workers = Workers::start(3).unwrap();
        for codec in Codec::ALL {
            for records in [1, 1_000, 150_000] {
                let mut growing = Growing::new(&form(codec));
                let mut encoder = codec.encoder(None);
                for n in 0..records {
                    let record = format!(
                        "{{\"id\":\"mx1-e1-to-{n}\",\"dest\":\"u{}@example.org\",\"stat\":\"Sent\"}}",
                        n * 7919
                    );
                    growing.push(record.as_bytes(), &workers);
                    encoder.write_all(format!("{record}\n").as_bytes()).unwrap();
                }
                assert!(growing.memory() > 0);
                let encoded = growing.finish(&workers).await.unwrap();
                assert!(encoded.bytes == encoder.finish().unwrap(), "{codec:?} {records}");
                assert_eq!(encoded.records, records);
            }
        }
    }

    #[test]
    fn objects_are_compared_by_their_records() {
        let encode = |codec: Codec, level, text: &[u8]| {
            let mut encoder = codec.encoder(Some(level));
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let text: Vec<u8> = (0..200_000).map(|n| b"abcdefgh\n"[n * n % 9]).collect();
        for codec in [Codec::Bzip2, Codec::Zstd, Codec::Gzip] {
            let one = encode(codec, 1, &text);
            assert!(same_records(codec, &one, &encode(codec, 5, &text)), "{codec:?}");
            assert!(!same_records(codec, &one, &encode(codec, 1, &text[..text.len() - 1])), "{codec:?}");
            assert!(!same_records(codec, &one, &one[..one.len() / 2]), "{codec:?}");
        }
    }
}
