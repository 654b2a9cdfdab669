//! The packets of the milter protocol, from the mail server's side and written without a look at greypit's own codec:
//! four bytes of length, a command letter, data.

use std::fmt;

/// What a mail server of today offers: every action, and every step of version 6.
pub(crate) const ALL_ACTIONS: u32 = 0x1ff;
pub(crate) const ALL_STEPS: u32 = 0x1f_ffff;
/// The action that lets a filter ask for macros.
const SETSYMLIST: u32 = 0x100;

/// The names of the step bits, as `libmilter/mfdef.h` has them behind `SMFIP_`.
pub(crate) const STEPS: [(&str, u32); 21] = [
    ("NOCONNECT", 0x1),
    ("NOHELO", 0x2),
    ("NOMAIL", 0x4),
    ("NORCPT", 0x8),
    ("NOBODY", 0x10),
    ("NOHDRS", 0x20),
    ("NOEOH", 0x40),
    ("NR_HDR", 0x80),
    ("NOUNKNOWN", 0x100),
    ("NODATA", 0x200),
    ("SKIP", 0x400),
    ("RCPT_REJ", 0x800),
    ("NR_CONN", 0x1000),
    ("NR_HELO", 0x2000),
    ("NR_MAIL", 0x4000),
    ("NR_RCPT", 0x8000),
    ("NR_DATA", 0x1_0000),
    ("NR_UNKN", 0x2_0000),
    ("NR_EOH", 0x4_0000),
    ("NR_BODY", 0x8_0000),
    ("HDR_LEADSPC", 0x10_0000),
];

/// The bit of a step's name.
pub(crate) fn step(name: &str) -> Option<u32> {
    STEPS.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

/// One command as it goes over the wire.
pub(crate) fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = (data.len() as u32 + 1).to_be_bytes().to_vec();
    bytes.push(command);
    bytes.extend(data);
    bytes
}

/// Texts, each ended by NUL.
pub(crate) fn texts<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
    parts.iter().flat_map(|part| [part.as_ref(), b"\0"].concat()).collect()
}

/// `OPTNEG`.
pub(crate) fn offer(version: u32, actions: u32, steps: u32) -> Vec<u8> {
    packet(b'O', &[version, actions, steps].map(u32::to_be_bytes).concat())
}

/// `CONNECT`; the family says what else there is.
pub(crate) fn connect(name: &str, family: u8, port: u16, address: &str) -> Vec<u8> {
    let mut data = texts(&[name]);
    data.push(family);
    if family != b'U' {
        data.extend(port.to_be_bytes());
        data.extend(texts(&[address]));
    }
    packet(b'C', &data)
}

/// `MACRO`: for which command, then names and values.
pub(crate) fn macros(command: u8, values: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut data = vec![command];
    for (name, value) in values {
        data.extend(texts(&[name.as_bytes(), value]));
    }
    packet(b'D', &data)
}

/// What was agreed on: the answer to `OPTNEG`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) version: u32,
    pub(crate) actions: u32,
    pub(crate) steps: u32,
    /// For a stage (connect, helo, mail, rcpt, data, eom, eoh) the macros asked for, separated by blanks.
    pub(crate) asks: Vec<(u32, String)>,
}

impl Agreed {
    /// What an OPTNEG packet with its length offers.
    pub(crate) fn offered(bytes: &[u8]) -> Option<Agreed> {
        let (b'O', data) = bytes.get(4..)?.split_first()? else { return None };
        parse_agreed(data.get(..12)?)
    }

    /// Whether the peer answers this command. Data stages are asked for by `NR_…`; the others have fixed rules.
    pub(crate) fn answers(&self, command: u8) -> bool {
        let silenced = match command {
            b'C' => "NR_CONN",
            b'H' => "NR_HELO",
            b'M' => "NR_MAIL",
            b'R' => "NR_RCPT",
            b'T' => "NR_DATA",
            b'L' => "NR_HDR",
            b'N' => "NR_EOH",
            b'B' => "NR_BODY",
            b'U' => "NR_UNKN",
            b'O' | b'E' => return true,
            _ => return false,
        };
        !self.has(silenced)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        step(name).is_some_and(|bit| self.steps & bit != 0)
    }

    /// What no answer may do, whatever it was asked.
    pub(crate) fn check(&self, offered: &Agreed) -> Result<(), String> {
        if self.version > offered.version || self.version > 6 || self.version < 2 {
            return Err(format!("version {} for an offer of {}", self.version, offered.version));
        }
        for (what, answer, offer) in [("actions", self.actions, offered.actions), ("steps", self.steps, offered.steps)]
        {
            if answer & !offer != 0 {
                return Err(format!("{what} {:#x} were not offered", answer & !offer));
            }
        }
        if !self.asks.is_empty() && offered.actions & SETSYMLIST == 0 {
            return Err("macros are asked for, which was not offered".to_owned());
        }
        Ok(())
    }
}

/// What came from the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Agreed(Agreed),
    Continue,
    Accept,
    Tempfail,
    Reject,
    Discard,
    Progress,
    Skip,
    /// A reply code and its text.
    Code(String),
    /// Nothing more: the filter has closed the connection.
    Closed,
}

impl Reply {
    /// Reads a packet without its length.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Reply, String> {
        let broken = |why: &str| format!("a broken packet, {why}: {}", bytes.escape_ascii());
        let (&letter, data) = bytes.split_first().ok_or_else(|| broken("empty"))?;
        let reply = match letter {
            b'O' => return parse_agreed(data).map(Reply::Agreed).ok_or_else(|| broken("no OPTNEG")),
            b'y' => return parse_code(data).map(Reply::Code).ok_or_else(|| broken("no reply code")),
            b'c' => Reply::Continue,
            b'a' => Reply::Accept,
            b't' => Reply::Tempfail,
            b'r' => Reply::Reject,
            b'd' => Reply::Discard,
            b'p' => Reply::Progress,
            b's' => Reply::Skip,
            _ => return Err(broken("unknown")),
        };
        if data.is_empty() { Ok(reply) } else { Err(broken("with data")) }
    }

    /// One letter for a table.
    pub(crate) fn letter(&self) -> char {
        match self {
            Reply::Agreed(_) => 'o',
            Reply::Continue => 'c',
            Reply::Accept => 'a',
            Reply::Tempfail => 't',
            Reply::Reject => 'r',
            Reply::Discard => 'd',
            Reply::Progress => 'p',
            Reply::Skip => 's',
            Reply::Code(text) if text.starts_with("421") => '!',
            Reply::Code(_) => '4',
            Reply::Closed => 'x',
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Agreed(agreed) => {
                let names = STEPS.iter().filter(|(name, _)| agreed.has(name)).map(|(name, _)| *name);
                let names: Vec<_> = names.collect();
                write!(f, "OPTNEG {} actions={:#x} with {}", agreed.version, agreed.actions, names.join(" "))?;
                agreed.asks.iter().try_for_each(|(stage, names)| write!(f, ", asks {stage} {names}"))
            }
            Reply::Continue => f.write_str("continue"),
            Reply::Accept => f.write_str("accept"),
            Reply::Tempfail => f.write_str("tempfail"),
            Reply::Reject => f.write_str("reject"),
            Reply::Discard => f.write_str("discard"),
            Reply::Progress => f.write_str("progress"),
            Reply::Skip => f.write_str("skip"),
            Reply::Code(text) => f.write_str(text),
            Reply::Closed => f.write_str("closed"),
        }
    }
}

fn parse_agreed(data: &[u8]) -> Option<Agreed> {
    let (numbers, mut lists) = data.split_at_checked(12)?;
    let number = |at: usize| Some(u32::from_be_bytes(numbers[at..at + 4].try_into().ok()?));
    let mut agreed = Agreed { version: number(0)?, actions: number(4)?, steps: number(8)?, asks: Vec::new() };
    while !lists.is_empty() {
        let (stage, rest) = lists.split_first_chunk::<4>()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        agreed.asks.push((u32::from_be_bytes(*stage), String::from_utf8(rest[..end].to_vec()).ok()?));
        lists = &rest[end + 1..];
    }
    Some(agreed)
}

/// `451 text`, ended by its only NUL, and nothing that would end the line for SMTP.
fn parse_code(data: &[u8]) -> Option<String> {
    let (0, text) = data.split_last()? else { return None };
    let digits = text.get(..3)?;
    let sound = matches!(digits[0], b'4' | b'5') && digits.iter().all(u8::is_ascii_digit) && text.get(3) == Some(&b' ');
    let sound = sound && text.iter().all(|byte| (b' '..=b'~').contains(byte));
    sound.then(|| String::from_utf8_lossy(text).into_owned())
}
