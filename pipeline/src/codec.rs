//! How an object's bytes are compressed, and back.
//!
//! [`Encoder`]: the same records at the same level give the same bytes, however they are cut into writes, on any machine
//! with the same version of the compressing library: one stream, no time, no name, no threads. [`Decoder`] reads several
//! streams in a row, as other tools write them, and gives out no more than it is told to.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// What the compressing library is given at a time, in bytes; fixed, because its output may depend on it.
const CHUNK_BYTES: usize = 128 << 10;

/// The compression of an object: one stream an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// bzip2, `.bz2`: small, read by Spark and Athena; 13–15 MB/s a core.
    #[default]
    Bzip2,
    /// Zstandard, `.zst`: fast, read by DuckDB too.
    Zstd,
    /// gzip, `.gz`.
    Gzip,
    /// As it is.
    None,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Codec; 4] = [Codec::Bzip2, Codec::Zstd, Codec::Gzip, Codec::None];

    /// Its name in the config and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Bzip2 => "bzip2",
            Codec::Zstd => "zstd",
            Codec::Gzip => "gzip",
            Codec::None => "none",
        }
    }

    /// What follows `.json` in the key.
    pub fn extension(self) -> &'static str {
        match self {
            Codec::Bzip2 => ".bz2",
            Codec::Zstd => ".zst",
            Codec::Gzip => ".gz",
            Codec::None => "",
        }
    }

    /// The media type of the object as it lies there.
    pub fn content_type(self) -> &'static str {
        match self {
            Codec::Bzip2 => "application/x-bzip2",
            Codec::Zstd => "application/zstd",
            Codec::Gzip => "application/gzip",
            Codec::None => "application/x-ndjson",
        }
    }

    /// The levels that it takes. zstd's 20 to 22 need more memory to read than some readers allow.
    pub fn levels(self) -> RangeInclusive<u32> {
        match self {
            Codec::Bzip2 | Codec::Gzip => 1..=9,
            Codec::Zstd => 1..=19,
            Codec::None => 0..=0,
        }
    }

    /// bzip2 9: it is chosen for size, and a lower level is hardly faster. zstd 3: level 9 takes six times the time for a
    /// seventh off the size. gzip 6: its own.
    pub fn default_level(self) -> u32 {
        match self {
            Codec::Bzip2 => 9,
            Codec::Zstd => 3,
            Codec::Gzip => 6,
            Codec::None => 0,
        }
    }

    /// By the end of a key.
    pub fn of_key(key: &str) -> Codec {
        let ends = |codec: &Codec| !codec.extension().is_empty() && key.ends_with(codec.extension());
        Codec::ALL.into_iter().find(ends).unwrap_or(Codec::None)
    }

    /// By how compressed bytes begin; no JSON begins so.
    pub fn of_bytes(bytes: &[u8]) -> Option<Codec> {
        match bytes {
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Codec::Bzip2),
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Codec::Zstd),
            [0x1F, 0x8B, ..] => Some(Codec::Gzip),
            _ => None,
        }
    }

    /// Starts a stream; a level outside [`Codec::levels`] becomes the nearest.
    pub fn encoder(self, level: Option<u32>) -> Encoder {
        let levels = self.levels();
        let level = level.unwrap_or(self.default_level()).clamp(*levels.start(), *levels.end());
        let stream = match self {
            Codec::Bzip2 => Stream::Bzip2(bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(level))),
            Codec::Gzip => {
                // 255: no operating system named.
                let head = flate2::GzBuilder::new().mtime(0).operating_system(255);
                Stream::Gzip(head.write(Vec::new(), flate2::Compression::new(level)))
            }
            Codec::Zstd => match zstd_encoder(level) {
                Ok(encoder) => Stream::Zstd(encoder),
                Err(error) => Stream::Broken(error.to_string()),
            },
            Codec::None => Stream::None(Vec::new()),
        };
        Encoder { stream, waiting: Vec::new() }
    }

    /// Reads what an encoder of this codec wrote.
    pub fn decoder(self, bytes: &[u8]) -> Decoder<'_> {
        self.bounded_decoder(bytes, u64::MAX)
    }

    /// The same for an object that somebody else may have written: after `decompressed_bytes_max` bytes reading fails.
    pub fn bounded_decoder(self, bytes: &[u8], decompressed_bytes_max: u64) -> Decoder<'_> {
        let source = match self {
            Codec::Bzip2 => Source::Bzip2(bzip2::bufread::MultiBzDecoder::new(bytes)),
            Codec::Gzip => Source::Gzip(flate2::bufread::MultiGzDecoder::new(bytes)),
            Codec::Zstd => match zstd::stream::read::Decoder::with_buffer(bytes) {
                Ok(decoder) => Source::Zstd(decoder),
                Err(error) => Source::Broken(error.to_string()),
            },
            Codec::None => Source::None(bytes),
        };
        Decoder { source, left: decompressed_bytes_max }
    }
}

fn zstd_encoder(level: u32) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level as i32)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

/// Compresses into memory what is written to it.
pub struct Encoder {
    stream: Stream,
    /// Less than [`CHUNK_BYTES`].
    waiting: Vec<u8>,
}

enum Stream {
    Bzip2(bzip2::write::BzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    None(Vec<u8>),
    /// The library has no memory: said when it is written to.
    Broken(String),
}

impl Stream {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Bzip2(encoder) => encoder.write_all(bytes),
            Stream::Zstd(encoder) => encoder.write_all(bytes),
            Stream::Gzip(encoder) => encoder.write_all(bytes),
            Stream::None(out) => out.write_all(bytes),
            Stream::Broken(why) => Err(io::Error::other(why.clone())),
        }
    }
}

impl Encoder {
    /// How many bytes have come out so far.
    pub(crate) fn len(&self) -> usize {
        match &self.stream {
            Stream::Bzip2(encoder) => encoder.get_ref().len(),
            Stream::Zstd(encoder) => encoder.get_ref().len(),
            Stream::Gzip(encoder) => encoder.get_ref().len(),
            Stream::None(out) => out.len(),
            Stream::Broken(_) => 0,
        }
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// As the compressing library; there is no room to run out of but memory.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.stream.write_all(&self.waiting)?;
        match self.stream {
            Stream::Bzip2(encoder) => encoder.finish(),
            Stream::Zstd(encoder) => encoder.finish(),
            Stream::Gzip(encoder) => encoder.finish(),
            Stream::None(out) => Ok(out),
            Stream::Broken(why) => Err(io::Error::other(why)),
        }
    }
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.is_empty() && bytes.len() >= CHUNK_BYTES {
            self.stream.write_all(&bytes[..CHUNK_BYTES])?;
            return Ok(CHUNK_BYTES);
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        if self.waiting.len() == CHUNK_BYTES {
            self.stream.write_all(&self.waiting)?;
            self.waiting.clear();
        }
        Ok(taken)
    }

    /// Does nothing: a flushed stream would be another one.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("waiting_bytes", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// Decompresses from memory.
pub struct Decoder<'a> {
    source: Source<'a>,
    left: u64,
}

enum Source<'a> {
    Bzip2(bzip2::bufread::MultiBzDecoder<&'a [u8]>),
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
    Gzip(flate2::bufread::MultiGzDecoder<&'a [u8]>),
    None(&'a [u8]),
    Broken(String),
}

impl<'a> Decoder<'a> {
    /// Reads an object by how it begins, else by its key.
    pub fn of_object(key: &str, bytes: &'a [u8], decompressed_bytes_max: u64) -> Decoder<'a> {
        Codec::of_bytes(bytes).unwrap_or(Codec::of_key(key)).bounded_decoder(bytes, decompressed_bytes_max)
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.source {
            Source::Bzip2(decoder) => decoder.read(buffer),
            Source::Zstd(decoder) => decoder.read(buffer),
            Source::Gzip(decoder) => decoder.read(buffer),
            Source::None(bytes) => bytes.read(buffer),
            Source::Broken(why) => Err(io::Error::other(why.clone())),
        }?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::new(io::ErrorKind::FileTooLarge, "decompresses to more than the limit")),
        }
        Ok(read)
    }
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(codec: Codec, level: Option<u32>, chunks: &[&[u8]]) -> Vec<u8> {
        let mut encoder = codec.encoder(level);
        for chunk in chunks {
            encoder.write_all(chunk).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn records(count: usize) -> Vec<u8> {
        (0..count)
            .flat_map(|i| format!("{{\"id\":\"mx1-e1-to-{i}\",\"dest\":\"u{}@x\"}}\n", i * 7919).into_bytes())
            .collect()
    }

    fn decode(mut decoder: Decoder<'_>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decoder.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn what_goes_in_comes_out_at_every_level() {
        for text in [records(0), records(1), records(4_000)] {
            for codec in Codec::ALL {
                for level in codec.levels() {
                    let bytes = encode(codec, Some(level), &[&text]);
                    assert!(decode(codec.decoder(&bytes)).unwrap() == text, "{codec:?} {level}");
                    let key = format!("a.json{}", codec.extension());
                    assert!(decode(Decoder::of_object(&key, &bytes, u64::MAX)).unwrap() == text, "{codec:?}");
                    assert!(decode(Decoder::of_object("unnamed", &bytes, u64::MAX)).unwrap() == text, "{codec:?}");
                }
            }
        }
    }

    #[test]
    fn the_bytes_do_not_depend_on_how_they_are_written() {
        let text = records(30_000);
        for codec in Codec::ALL {
            let whole = encode(codec, None, &[&text]);
            assert!(encode(codec, Some(codec.default_level()), &[&text]) == whole, "{codec:?}");
            for size in [1_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1] {
                let chunks: Vec<&[u8]> = text.chunks(size).collect();
                assert!(encode(codec, None, &chunks) == whole, "{codec:?} in chunks of {size}");
            }
        }
        let gzip = encode(Codec::Gzip, None, &[b"x"]);
        assert_eq!(gzip[..10], [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255], "no time, no system");
    }

    #[test]
    fn a_level_out_of_range_is_the_nearest() {
        let text = records(1_000);
        assert_eq!(encode(Codec::Bzip2, Some(99), &[&text]), encode(Codec::Bzip2, Some(9), &[&text]));
        assert_eq!(encode(Codec::Zstd, Some(0), &[&text]), encode(Codec::Zstd, Some(1), &[&text]));
    }

    #[test]
    fn streams_in_a_row_are_read_to_the_end() {
        let (first, second) = (records(100), records(50));
        for codec in Codec::ALL {
            let mut bytes = encode(codec, None, &[&first]);
            bytes.extend(encode(codec, None, &[&second]));
            assert_eq!(decode(codec.decoder(&bytes)).unwrap(), [first.clone(), second.clone()].concat(), "{codec:?}");
        }
    }

    #[test]
    fn a_cut_off_object_is_an_error() {
        let text = records(1_000);
        for codec in [Codec::Bzip2, Codec::Zstd, Codec::Gzip] {
            let bytes = encode(codec, None, &[&text]);
            for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
                let key = format!("a.json{}", codec.extension());
                assert!(decode(Decoder::of_object(&key, &bytes[..cut], u64::MAX)).is_err(), "{codec:?} at {cut}");
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        for codec in Codec::ALL {
            let bytes = encode(codec, None, &[&vec![b' '; 10 << 20]]);
            let mut decoder = codec.bounded_decoder(&bytes, 1 << 20);
            let mut out = Vec::new();
            assert_eq!(decoder.read_to_end(&mut out).unwrap_err().kind(), io::ErrorKind::FileTooLarge, "{codec:?}");
            assert!(out.len() <= 1 << 20);
            assert!(decode(codec.bounded_decoder(&bytes, 10 << 20)).is_ok());
        }
    }

    #[test]
    fn names_are_read_from_config_and_keys() {
        for codec in Codec::ALL {
            let json = serde_json::to_string(&codec).unwrap();
            assert_eq!(json, format!("\"{}\"", codec.name()));
            assert_eq!(Codec::of_key(&format!("a/b.json{}", codec.extension())), codec);
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), start in 0usize..5) {
            let starts: [&[u8]; 5] = [b"BZh91AY&SY", &[0x28, 0xB5, 0x2F, 0xFD], &[0x1F, 0x8B, 8], b"{", b""];
            let bytes = [starts[start], &bytes].concat();
            let _ = decode(Decoder::of_object("a.json", &bytes, 1 << 20));
        }
    }
}
