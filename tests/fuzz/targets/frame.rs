//! A stream gives the same frames however it is cut into reads, and none is above the
//! limit. The first byte is the size of a read.
#![no_main]

use greypit::collect::syslog::frame::{Splitter, Step};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 64;

fn frames(stream: &[u8], read: usize) -> Vec<&[u8]> {
    let mut splitter = Splitter::new(LIMIT);
    let mut frames = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let eof = end == stream.len();
        let buf = &stream[start..end];
        match splitter.next(buf, eof) {
            Step::Message { consumed, frame, .. } => {
                assert!(frame.len() <= LIMIT && frame.end <= consumed && consumed <= buf.len());
                frames.push(&buf[frame]);
                start += consumed;
            }
            Step::Skipped { consumed } => {
                assert!(consumed > 0 && consumed <= buf.len());
                start += consumed;
            }
            Step::Need if eof => return frames,
            Step::Need => {
                assert!(buf.len() < splitter.buffer_bytes());
                end = (end + read).min(stream.len());
            }
            Step::Broken { .. } => return frames,
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, stream)) = input.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(whole, frames(stream, usize::from(first).max(1)));
});
