//! The packets of TFTP: RFC 1350, with options of RFC 2347 (`blksize` RFC 2348, `timeout` and `tsize` RFC 2349,
//! `windowsize` RFC 7440).
//!
//! ```text
//! 1 read   2 write    2 bytes opcode | filename 0 mode 0 [option 0 value 0]…
//! 3 data              opcode | block number, 2 bytes | 0 to blksize bytes
//! 4 ack               opcode | block number
//! 5 error             opcode | code, 2 bytes | message 0
//! 6 option ack        opcode | [option 0 value 0]…
//! ```
//!
//! Numbers are in network order, names of modes and options in any case. Reading borrows and allocates at most a place
//! for each of the four options that are known; others are left alone, and of one that comes twice the first counts.

/// A request that is longer is none; RFC 2347 allows 512 bytes.
pub const REQUEST_BYTES_MAX: usize = 1024;

/// `filename` may be as long as the request.
pub(crate) const BLKSIZE_DEFAULT: u16 = 512;
pub(crate) const BLKSIZE_MIN: u16 = 8;
pub(crate) const BLKSIZE_MAX: u16 = 65_464;

/// In front of a block.
pub(crate) const DATA_HEADER: usize = 4;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

/// The codes of RFC 1350 and 2347 that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    /// See the message.
    Undefined = 0,
    NotFound = 1,
    Access = 2,
    Illegal = 4,
}

/// The code that ends a transfer because of its options, or that firmware sends when it has seen enough.
pub(crate) const CODE_OPTIONS: u16 = 8;

/// How the bytes of a file become those of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As they are.
    Octet,
    /// Lines end with CR LF.
    Netascii,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Octet => "octet",
            Mode::Netascii => "netascii",
        }
    }
}

/// The options that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Bytes in a block.
    Blksize,
    /// Seconds until a packet is sent again.
    Timeout,
    /// Bytes in the file.
    Tsize,
    /// Blocks before an acknowledgement.
    Windowsize,
}

impl Known {
    const ALL: [Known; 4] = [Known::Blksize, Known::Timeout, Known::Tsize, Known::Windowsize];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Known::Blksize => "blksize",
            Known::Timeout => "timeout",
            Known::Tsize => "tsize",
            Known::Windowsize => "windowsize",
        }
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Any bytes but NUL.
    pub filename: &'a [u8],
    /// How it wants the bytes.
    pub mode: Mode,
    /// Those of the known options whose values are numbers, in their order.
    pub options: Vec<(Known, u64)>,
}

/// A packet that somebody sent to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ.
    Read(Request<'a>),
    /// WRQ, which is not read further.
    Write,
    /// The number of a block.
    Ack(u16),
    /// Code and message.
    Error(u16, &'a [u8]),
    /// Of no meaning for a server that only sends: DATA, OACK.
    Other,
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WireError {
    /// Shorter than its opcode says, or a text without its NUL.
    #[error("cut off")]
    Short,
    /// More than [`REQUEST_BYTES_MAX`].
    #[error("too long")]
    Long,
    /// No such opcode.
    #[error("unknown opcode")]
    Opcode,
    /// Neither octet nor netascii.
    #[error("unknown mode")]
    Mode,
}

impl<'a> Packet<'a> {
    /// Reads a packet. What follows a whole packet of fixed length says nothing.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, WireError> {
        let (opcode, rest) = number(bytes)?;
        match opcode {
            READ if bytes.len() > REQUEST_BYTES_MAX => Err(WireError::Long),
            READ => Request::parse(rest).map(Packet::Read),
            WRITE => Ok(Packet::Write),
            ACK => Ok(Packet::Ack(number(rest)?.0)),
            ERROR => {
                let (code, message) = number(rest)?;
                // Some clients leave the message or its NUL out.
                Ok(Packet::Error(code, message.split(|byte| *byte == 0).next().unwrap_or_default()))
            }
            DATA | OPTION_ACK => Ok(Packet::Other),
            _ => Err(WireError::Opcode),
        }
    }
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Request<'a>, WireError> {
        let (filename, rest) = text(bytes)?;
        let (mode, mut rest) = text(rest)?;
        let mode =
            [Mode::Octet, Mode::Netascii].into_iter().find(|known| mode.eq_ignore_ascii_case(known.name().as_bytes()));
        let mode = mode.ok_or(WireError::Mode)?;
        let mut options: Vec<(Known, u64)> = Vec::new();
        let mut seen = [false; Known::ALL.len()];
        // Some firmware fills its packet up with NULs.
        while rest.iter().any(|byte| *byte != 0) {
            let (name, behind) = text(rest)?;
            let (value, behind) = text(behind)?;
            rest = behind;
            let known = Known::ALL.iter().position(|known| name.eq_ignore_ascii_case(known.name().as_bytes()));
            let Some(at) = known.filter(|at| !seen[*at]) else { continue };
            seen[at] = true;
            if let Some(value) = decimal(value) {
                options.push((Known::ALL[at], value));
            }
        }
        Ok(Request { filename, mode, options })
    }

    /// The value of an option.
    pub fn option(&self, wanted: Known) -> Option<u64> {
        self.options.iter().find(|(known, _)| *known == wanted).map(|(_, value)| *value)
    }
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), WireError> {
    let (number, rest) = bytes.split_first_chunk::<2>().ok_or(WireError::Short)?;
    Ok((u16::from_be_bytes(*number), rest))
}

fn text(bytes: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let end = memchr::memchr(0, bytes).ok_or(WireError::Short)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// The four bytes in front of a block; numbers go on from 65,535 with 0.
pub(crate) fn data_header(block: u64) -> [u8; DATA_HEADER] {
    let (opcode, block) = (DATA.to_be_bytes(), (block as u16).to_be_bytes());
    [opcode[0], opcode[1], block[0], block[1]]
}

/// What was agreed upon, in the order in which it was asked for.
pub(crate) fn option_ack(options: &[(Known, u64)]) -> Vec<u8> {
    let mut packet = OPTION_ACK.to_be_bytes().to_vec();
    for (known, value) in options {
        for text in [known.name(), &value.to_string()] {
            packet.extend_from_slice(text.as_bytes());
            packet.push(0);
        }
    }
    packet
}

pub(crate) fn error(code: Code, message: &str) -> Vec<u8> {
    let mut packet = ERROR.to_be_bytes().to_vec();
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    packet.extend(message.bytes().filter(|byte| *byte != 0));
    packet.push(0);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_real_clients() {
        // tftp-hpa: `mode octet`, `get pxelinux.0`.
        assert_eq!(
            Packet::parse(b"\0\x01pxelinux.0\0octet\0"),
            Ok(Packet::Read(Request { filename: b"pxelinux.0", mode: Mode::Octet, options: vec![] }))
        );
        // OVMF asks for the size first; iPXE asks for all three; names are in any case.
        let Ok(Packet::Read(request)) =
            Packet::parse(b"\0\x01a\xff\0NetASCII\0tsize\x000\0BLKSIZE\x001468\0rollover\x001\0windowsize\x0016\0")
        else {
            panic!("a request")
        };
        assert_eq!((request.filename, request.mode), (&b"a\xff"[..], Mode::Netascii));
        assert_eq!(request.options, [(Known::Tsize, 0), (Known::Blksize, 1468), (Known::Windowsize, 16)]);
        assert_eq!((request.option(Known::Blksize), request.option(Known::Timeout)), (Some(1468), None));
    }

    #[test]
    fn what_is_wrong_has_a_name_and_what_is_odd_is_left_alone() {
        for (bytes, wanted) in [
            (&b""[..], WireError::Short),
            (b"\0", WireError::Short),
            (b"\0\x01", WireError::Short),
            (b"\0\x01a\0octet", WireError::Short),
            (b"\0\x01a\0octet\0blksize\0", WireError::Short),
            (b"\0\x01a\0octet\0blksize\0001", WireError::Short),
            (b"\0\x01a\0mail\0", WireError::Mode),
            (b"\0\x01\0\0", WireError::Mode),
            (b"\0\x04\0", WireError::Short),
            (b"\0\x05\0", WireError::Short),
            (b"\0\x07\0\0", WireError::Opcode),
            (b"\xff\xff", WireError::Opcode),
        ] {
            assert_eq!(Packet::parse(bytes), Err(wanted), "{}", bytes.escape_ascii());
        }
        let long = [b"\0\x01a\0octet\0".to_vec(), vec![0; REQUEST_BYTES_MAX]].concat();
        assert_eq!(Packet::parse(&long), Err(WireError::Long));
        assert!(matches!(Packet::parse(&long[..REQUEST_BYTES_MAX]), Ok(Packet::Read(_))));

        let options = |text: &[u8]| {
            let bytes = [b"\0\x01a\0octet\0", text].concat();
            match Packet::parse(&bytes) {
                Ok(Packet::Read(request)) => request.options,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(options(b"blksize\x001\0blksize\x002\0"), [(Known::Blksize, 1)]);
        for value in ["", "-1", "+1", " 1", "1x", "99999999999999999999", "\u{ff}"] {
            assert_eq!(options(format!("blksize\0{value}\0").as_bytes()), [], "{value}");
        }
    }

    #[test]
    fn the_rest_of_the_packets_byte_for_byte() {
        assert_eq!(Packet::parse(b"\0\x02a\0octet\0"), Ok(Packet::Write));
        assert_eq!(Packet::parse(b"\0\x04\x01\x02"), Ok(Packet::Ack(0x102)));
        assert_eq!(Packet::parse(b"\0\x04\x01\x02padding"), Ok(Packet::Ack(0x102)));
        assert_eq!(Packet::parse(b"\0\x05\0\x08User aborted\0"), Ok(Packet::Error(8, b"User aborted")));
        assert_eq!(Packet::parse(b"\0\x05\0\0"), Ok(Packet::Error(0, b"")));
        assert_eq!(Packet::parse(b"\0\x03\0\x01data"), Ok(Packet::Other));
        assert_eq!(Packet::parse(b"\0\x06"), Ok(Packet::Other));

        assert_eq!(data_header(1), *b"\0\x03\0\x01");
        assert_eq!(data_header(65_536 + 258), *b"\0\x03\x01\x02");
        assert_eq!(
            option_ack(&[(Known::Tsize, 70_000), (Known::Blksize, 1468)]),
            b"\0\x06tsize\x0070000\0blksize\x001468\0"
        );
        assert_eq!(error(Code::NotFound, "no such file"), b"\0\x05\0\x01no such file\0");
    }
}
