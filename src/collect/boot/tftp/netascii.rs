//! Netascii (RFC 764, RFC 1350): a line feed goes out as CR LF, a carriage return as CR NUL; all else as it is.

use std::io::{self, Read};

/// Converts what it reads.
#[derive(Debug)]
pub(super) struct Netascii<R> {
    source: R,
    /// The second byte of a pair whose first one ended a buffer.
    owed: Option<u8>,
}

impl<R: Read> Netascii<R> {
    pub(super) fn new(source: R) -> Netascii<R> {
        Netascii { source, owed: None }
    }
}

impl<R: Read> Read for Netascii<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(first) = buf.first_mut() else { return Ok(0) };
        if let Some(owed) = self.owed.take() {
            *first = owed;
            return Ok(1);
        }
        // Half of it, so that what is read has room even if every byte becomes two.
        let half = buf.len().div_ceil(2);
        let read = self.source.read(&mut buf[..half])?;
        let grown = read + pairs(&buf[..read]) as usize;
        // From the end, in place: the place written to is never before the one read from.
        let mut to = grown;
        for from in (0..read).rev() {
            let (byte, second) = match buf[from] {
                b'\n' => (b'\r', Some(b'\n')),
                b'\r' => (b'\r', Some(0)),
                byte => (byte, None),
            };
            if let Some(second) = second {
                to -= 1;
                // Only the last byte of an odd buffer can be without room.
                match buf.get_mut(to) {
                    Some(place) => *place = second,
                    None => self.owed = Some(second),
                }
            }
            to -= 1;
            buf[to] = byte;
        }
        Ok(grown.min(buf.len()))
    }
}

fn pairs(bytes: &[u8]) -> u64 {
    memchr::memchr2_iter(b'\n', b'\r', bytes).count() as u64
}

/// How many bytes `source` will be.
pub(super) fn length(mut source: impl Read) -> io::Result<u64> {
    let mut buf = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match source.read(&mut buf)? {
            0 => return Ok(length),
            read => length += read as u64 + pairs(&buf[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> Vec<u8> {
        let pair = |byte: &u8| match byte {
            b'\n' => vec![b'\r', b'\n'],
            b'\r' => vec![b'\r', 0],
            byte => vec![*byte],
        };
        bytes.iter().flat_map(pair).collect()
    }

    proptest! {
        #[test]
        fn as_byte_by_byte_whatever_the_buffers_are(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..100),
            sizes in proptest::collection::vec(1usize..9, 1..20),
        ) {
            let mut source = Netascii::new(&bytes[..]);
            let mut converted = Vec::new();
            for size in sizes.iter().cycle() {
                let mut buf = vec![0; *size];
                let read = source.read(&mut buf).unwrap();
                if read == 0 {
                    break;
                }
                converted.extend_from_slice(&buf[..read]);
            }
            prop_assert_eq!(&converted, &naive(&bytes));
            prop_assert_eq!(length(&bytes[..]).unwrap(), converted.len() as u64);
        }
    }
}
