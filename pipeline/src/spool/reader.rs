//! Reads the frames of one segment in order, stepping over damage.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::frame::{self, FRAME_HEADER_BYTES, Frame, FrameError, SEGMENT_HEADER_BYTES};
use crate::{Error, Result};

/// What [`SegmentReader::next`] found.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A frame, and where it begins and ends.
    Frame { frame: Frame<'a>, at: u64, end: u64 },
    /// Bytes that are no frame, from `at`. If a frame follows right behind (`skipped_to`), reading goes on there; if
    /// not, nothing more can be read from this segment.
    Damage { at: u64, error: FrameError, skipped_to: Option<u64> },
    /// The end of the file, right behind a frame.
    End,
}

/// A reader of one segment file. Memory: one frame and a 128 KiB buffer.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: BufReader<File>,
    path: PathBuf,
    len: u64,
    at: u64,
    payload: Vec<u8>,
    /// Whether the segment's own header is what it must be.
    pub(crate) header_ok: bool,
}

impl SegmentReader {
    /// Opens segment `number` at its first frame.
    pub(crate) fn open(path: &Path, number: u64) -> Result<SegmentReader> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("read", path))?.len();
        let mut file = BufReader::with_capacity(128 << 10, file);
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        let header_ok = match file.read_exact(&mut header) {
            Ok(()) => frame::segment_header_is(&header, number),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let at = SEGMENT_HEADER_BYTES.min(len);
        Ok(SegmentReader { file, path: path.into(), len, at, payload: Vec::new(), header_ok })
    }

    /// Continues at `offset`, which must be the start of a frame.
    pub(crate) fn seek(&mut self, offset: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map_err(Error::io("read", &self.path))?;
        self.at = offset;
        Ok(())
    }

    /// The next frame, damage or the end.
    pub(crate) fn next(&mut self) -> Result<Step<'_>> {
        let at = self.at;
        if at >= self.len {
            return Ok(Step::End);
        }
        let checked = self.read_payload()?.and_then(|crc| frame::check(&self.payload, crc));
        let end = at + (FRAME_HEADER_BYTES + self.payload.len()) as u64;
        let error = match checked {
            Ok(()) if frame::decode_checked(&self.payload).is_some() => None,
            Ok(()) => Some(FrameError::Content),
            Err(error) => Some(error),
        };
        let Some(error) = error else {
            self.at = end;
            let frame = frame::decode_checked(&self.payload);
            return Ok(frame.map_or(Step::End, |frame| Step::Frame { frame, at, end }));
        };
        let whole = matches!(error, FrameError::Checksum | FrameError::Content);
        let skipped_to = if whole && self.frame_at(end)? { Some(end) } else { None };
        match skipped_to {
            Some(end) => self.seek(end)?,
            None => self.at = self.len,
        }
        Ok(Step::Damage { at, error, skipped_to })
    }

    /// Reads the frame at the current place into `payload` and gives its checksum.
    fn read_payload(&mut self) -> Result<std::result::Result<u32, FrameError>> {
        self.payload.clear();
        let left = self.len - self.at;
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Err(FrameError::Torn));
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        self.file.read_exact(&mut header).map_err(Error::io("read", &self.path))?;
        let (len, crc) = match frame::decode_header(header) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        if left - (FRAME_HEADER_BYTES as u64) < len as u64 {
            return Ok(Err(FrameError::Torn));
        }
        self.payload.resize(len, 0);
        self.file.read_exact(&mut self.payload).map_err(Error::io("read", &self.path))?;
        Ok(Ok(crc))
    }

    /// Whether a whole, right frame begins at `offset`.
    fn frame_at(&mut self, offset: u64) -> Result<bool> {
        if offset >= self.len {
            return Ok(false);
        }
        let (at, payload) = (self.at, std::mem::take(&mut self.payload));
        self.seek(offset)?;
        let found = self.read_payload()?.is_ok_and(|crc| frame::decode_payload(&self.payload, crc).is_ok());
        (self.at, self.payload) = (at, payload);
        Ok(found)
    }
}
