//! The milter protocol's packets: bytes in, typed value or named error out; pure, and without a panic for any input.
//!
//! There is no standard; the format is that of sendmail's `libmilter/` and `include/libmilter/mfdef.h`, versions 2 to 6,
//! as sendmail 8.12 to 8.18 and Postfix 2.3 to 3.10 speak it. A packet is
//!
//! ```text
//! ┌──────────────────┬─────────┬──────────┐
//! │ length, u32 BE   │ command │ data     │   length counts the command and the data
//! └──────────────────┴─────────┴──────────┘
//! ```
//! Texts in the data end in NUL. Numbers are big-endian. The mail server sends the commands, the filter the replies,
//! one reply a command unless both agreed on none.

use std::net::IpAddr;

/// Bits of the negotiation (`SMFIP_…` and `SMFIF_…` in mfdef.h).
pub mod flag {
    /// The mail server need not send this step.
    pub const NO_CONNECT: u32 = 0x01;
    pub const NO_HELO: u32 = 0x02;
    pub const NO_MAIL: u32 = 0x04;
    pub const NO_RCPT: u32 = 0x08;
    pub const NO_BODY: u32 = 0x10;
    pub const NO_HEADERS: u32 = 0x20;
    pub const NO_EOH: u32 = 0x40;
    /// The filter does not answer this step.
    pub const NR_HEADER: u32 = 0x80;
    pub const NO_UNKNOWN: u32 = 0x100;
    pub const NO_DATA: u32 = 0x200;
    pub const NR_CONNECT: u32 = 0x1000;
    pub const NR_HELO: u32 = 0x2000;
    pub const NR_MAIL: u32 = 0x4000;
    pub const NR_RCPT: u32 = 0x8000;
    pub const NR_DATA: u32 = 0x1_0000;
    pub const NR_UNKNOWN: u32 = 0x2_0000;
    pub const NR_EOH: u32 = 0x4_0000;
    pub const NR_BODY: u32 = 0x8_0000;
    /// An action, not a step: the filter says which macros it wants.
    pub const SET_MACROS: u32 = 0x100;
}

/// The newest version spoken here, and the oldest.
pub const VERSION_MAX: u32 = 6;
pub const VERSION_MIN: u32 = 2;

/// Bytes in front of a packet's data.
const HEAD: usize = 5;

/// What is at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A packet, and how many bytes it takes.
    Packet { command: u8, data: &'a [u8], used: usize },
    /// Not all of it yet.
    Partial,
    /// A length of 0: not even a command. Takes four bytes.
    Empty,
    /// Longer than the limit: how many bytes would have to be skipped, the length itself included.
    TooLong { command: Option<u8>, bytes: u64 },
}

/// Looks for a packet at the beginning of `bytes`.
#[must_use]
pub fn frame(bytes: &[u8], packet_bytes_max: usize) -> Frame<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Frame::Partial };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 {
        return Frame::Empty;
    }
    if length > packet_bytes_max {
        return Frame::TooLong { command: rest.first().copied(), bytes: length as u64 + 4 };
    }
    match rest.get(..length) {
        Some([command, data @ ..]) => Frame::Packet { command: *command, data, used: length + 4 },
        _ => Frame::Partial,
    }
}

/// A stage of the SMTP dialogue at which macros are sent (`SMFIM_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connect,
    Helo,
    Mail,
    Rcpt,
    /// The end of the message.
    Eom,
    /// Any other: DATA, the end of the headers, unknown commands.
    Other,
}

/// What a mail server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Negotiation: what it offers.
    Negotiate { version: u32, actions: u32, steps: u32 },
    /// Macros for the command that follows.
    Macros { stage: Stage, macros: Texts<'a> },
    /// An SMTP client has connected; no address where it is local or unknown.
    Connect { name: &'a [u8], addr: Option<IpAddr> },
    /// HELO or EHLO.
    Helo(&'a [u8]),
    /// MAIL: the path with its angle brackets, and the parameters behind it.
    Mail { path: &'a [u8], args: Texts<'a> },
    /// RCPT, alike.
    Rcpt { path: &'a [u8] },
    /// DATA.
    Data,
    /// A command that the mail server does not know.
    Unknown,
    /// One header field.
    Header { name: &'a [u8], value: &'a [u8] },
    /// The end of the headers.
    EndOfHeaders,
    /// A part of the body.
    Body,
    /// The end of the message.
    EndOfMessage,
    /// The transaction is over; the connection stays.
    Abort,
    /// The connection is over.
    Quit,
    /// The SMTP connection is over; the next one comes over this one.
    QuitNewConnection,
    /// Not known here.
    Other(u8),
}

/// Why the data of a packet made no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the packet ends too early")]
    Short,
    #[error("a text has no end")]
    Unterminated,
    #[error("the address cannot be read")]
    Address,
}

impl<'a> Command<'a> {
    /// Reads a packet's data.
    ///
    /// # Errors
    /// Where it is not as the protocol says.
    pub fn parse(command: u8, data: &'a [u8]) -> Result<Command<'a>, WireError> {
        Ok(match command {
            b'O' => {
                let number = |at: usize| {
                    let bytes = data.get(at..).and_then(|bytes| bytes.first_chunk::<4>()).ok_or(WireError::Short)?;
                    Ok(u32::from_be_bytes(*bytes))
                };
                Command::Negotiate { version: number(0)?, actions: number(4)?, steps: number(8)? }
            }
            b'D' => {
                let (stage, macros) = data.split_first().ok_or(WireError::Short)?;
                let stage = match stage {
                    b'C' => Stage::Connect,
                    b'H' => Stage::Helo,
                    b'M' => Stage::Mail,
                    b'R' => Stage::Rcpt,
                    b'E' => Stage::Eom,
                    _ => Stage::Other,
                };
                Command::Macros { stage, macros: Texts(macros) }
            }
            b'C' => connect(data)?,
            b'H' => Command::Helo(text(data)?.0),
            b'M' => {
                let (path, args) = text(data)?;
                Command::Mail { path, args: Texts(args) }
            }
            b'R' => Command::Rcpt { path: text(data)?.0 },
            b'T' => Command::Data,
            b'U' => Command::Unknown,
            b'L' => {
                let (name, rest) = text(data)?;
                Command::Header { name, value: text(rest)?.0 }
            }
            b'N' => Command::EndOfHeaders,
            b'B' => Command::Body,
            b'E' => Command::EndOfMessage,
            b'A' => Command::Abort,
            b'Q' => Command::Quit,
            b'K' => Command::QuitNewConnection,
            other => Command::Other(other),
        })
    }
}

/// Whether the mail server waits for an answer to this command, given the steps agreed on.
#[must_use]
pub fn wants_reply(command: u8, steps: u32) -> bool {
    let silent = match command {
        b'C' => flag::NR_CONNECT,
        b'H' => flag::NR_HELO,
        b'M' => flag::NR_MAIL,
        b'R' => flag::NR_RCPT,
        b'T' => flag::NR_DATA,
        b'U' => flag::NR_UNKNOWN,
        b'L' => flag::NR_HEADER,
        b'N' => flag::NR_EOH,
        b'B' => flag::NR_BODY,
        b'O' | b'E' => 0,
        // Macros, ABORT, QUIT, and what nobody knows.
        _ => return false,
    };
    steps & silent == 0
}

fn connect(data: &[u8]) -> Result<Command<'_>, WireError> {
    let (name, rest) = text(data)?;
    let (family, rest) = rest.split_first().ok_or(WireError::Short)?;
    let addr = match family {
        b'4' | b'6' => {
            // Two bytes of port in front.
            let (addr, _) = text(rest.get(2..).ok_or(WireError::Short)?)?;
            let addr = std::str::from_utf8(addr).map_err(|_| WireError::Address)?;
            let addr = addr.strip_prefix("IPv6:").unwrap_or(addr);
            Some(addr.parse::<IpAddr>().map_err(|_| WireError::Address)?.to_canonical())
        }
        _ => None,
    };
    Ok(Command::Connect { name, addr })
}

/// The text at the beginning, without its NUL, and what is behind it.
fn text(data: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let end = memchr::memchr(0, data).ok_or(WireError::Unterminated)?;
    Ok((&data[..end], &data[end + 1..]))
}

/// Texts that each end in NUL; what is behind the last NUL is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texts<'a>(&'a [u8]);

impl<'a> Texts<'a> {
    /// Texts taken two by two: names and values of macros.
    pub fn pairs(mut self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        std::iter::from_fn(move || Some((self.next()?, self.next()?)))
    }
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (first, rest) = text(self.0).ok()?;
        self.0 = rest;
        Some(first)
    }
}

/// What the filter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Go on.
    Continue,
    /// This connection, at MAIL this message, is of no further interest.
    Accept,
    /// Still at it.
    Progress,
    /// An SMTP answer: `451 4.7.1 text`. A lone `%` in it makes sendmail drop the text.
    Answer(&'a [u8]),
    /// The end of a negotiation. Macros: their names by stage, separated by blanks.
    Negotiate { version: u32, actions: u32, steps: u32, macros: &'a [(MacroStage, &'a str)] },
}

/// Numbers of the stages in the list of wanted macros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MacroStage {
    Connect = 0,
    Helo = 1,
    Mail = 2,
    Rcpt = 3,
    Data = 4,
    Eom = 5,
    EndOfHeaders = 6,
}

impl Reply<'_> {
    /// Appends the packet.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        let command = match self {
            Reply::Continue => b'c',
            Reply::Accept => b'a',
            Reply::Progress => b'p',
            Reply::Answer(text) => {
                out.extend_from_slice(text);
                out.push(0);
                b'y'
            }
            Reply::Negotiate { version, actions, steps, macros } => {
                for number in [version, actions, steps] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                for (stage, names) in *macros {
                    out.extend_from_slice(&(*stage as u32).to_be_bytes());
                    out.extend_from_slice(names.as_bytes());
                    out.push(0);
                }
                b'O'
            }
        };
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4] = command;
    }
}

#[cfg(test)]
mod tests;
