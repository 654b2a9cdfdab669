//! A mail server's side of the milter protocol, for load: on the wire what sendmail 8.17 sends (its milter.c).
//!
//! One write a packet, each after asking whether the socket takes it; an answer is read as its five bytes of length and
//! command, then the rest. What the filter negotiated is honoured as sendmail honours it: a step that the filter does
//! not want is not sent but its macros are, an empty list of macros is not sent at all, a list without any known value
//! is sent empty, and an answer is waited for only where one is due.

use std::io::{self, Error, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of a message, headers and body.
pub(crate) const MESSAGE_BYTES: usize = 4096;

/// See [`Session::open`].
pub(crate) const FLOODERS: u64 = 1 << 40;

const VERSION: u32 = 6;
const ACTIONS: u32 = 0x1ff;
const STEPS: u32 = 0x1f_ffff;

const NO_CONNECT: u32 = 0x1;
const NO_HELO: u32 = 0x2;
const NO_MAIL: u32 = 0x4;
const NO_RCPT: u32 = 0x8;
const NO_BODY: u32 = 0x10;
const NO_HEADERS: u32 = 0x20;
const NO_END_OF_HEADERS: u32 = 0x40;
const QUIET_HEADER: u32 = 0x80;
const NO_DATA: u32 = 0x200;
const QUIET_CONNECT: u32 = 0x1000;
const QUIET_HELO: u32 = 0x2000;
const QUIET_MAIL: u32 = 0x4000;
const QUIET_RCPT: u32 = 0x8000;
const QUIET_DATA: u32 = 0x1_0000;
const QUIET_END_OF_HEADERS: u32 = 0x4_0000;
const QUIET_BODY: u32 = 0x8_0000;

/// Macro lists by stage, as in the negotiation.
const STAGES: usize = 7;
const CONNECT: usize = 0;
const HELO: usize = 1;
const MAIL: usize = 2;
const RCPT: usize = 3;
const DATA: usize = 4;
const END: usize = 5;
const END_OF_HEADERS: usize = 6;

/// `confMILTER_MACROS_…` of sendmail's cf.
const DEFAULT_MACROS: [&str; STAGES] = [
    "j _ {daemon_name} {if_name} {if_addr}",
    "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
    "i {auth_type} {auth_authen} {auth_ssf} {auth_author} {mail_mailer} {mail_host} {mail_addr}",
    "{rcpt_mailer} {rcpt_host} {rcpt_addr}",
    "",
    "{msg_id}",
    "",
];

/// What the filter answered to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The mail passes.
    Pass,
    /// The text of a reply, or the letter of an answer without one.
    Refused(Vec<u8>),
}

/// One message; everything in it follows from its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message(pub(crate) u64);

/// An SMTP connection as its filter sees it.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
    /// The steps that the filter does not want or does not answer.
    steps: u32,
    macros: [Vec<String>; STAGES],
    client: u64,
    packet: Vec<u8>,
}

impl Session {
    /// Connects, negotiates, and goes as far as HELO. `client` numbers the SMTP client: those from [`FLOODERS`] on are
    /// in 198.19.0.0/16, the others in 198.18.0.0/16.
    pub(crate) fn open(socket: &Path, client: u64) -> io::Result<Session> {
        let stream = UnixStream::connect(socket)?;
        let macros = DEFAULT_MACROS.map(names);
        let mut session = Session { stream, steps: 0, macros, client, packet: Vec::new() };
        session.negotiate()?;
        session.macros(CONNECT, b'C', Message(0))?;
        let mut connect = format!("{}\0004", session.host()).into_bytes();
        connect.extend_from_slice(&(1024 + (client % 60_000) as u16).to_be_bytes());
        connect.extend_from_slice(session.address().as_bytes());
        connect.push(0);
        session.command(b'C', &connect, NO_CONNECT, QUIET_CONNECT)?;
        session.macros(HELO, b'H', Message(0))?;
        session.command(b'H', format!("{}\0", session.host()).as_bytes(), NO_HELO, QUIET_HELO)?;
        Ok(session)
    }

    fn negotiate(&mut self) -> io::Result<()> {
        let mut offer = Vec::new();
        for word in [VERSION, ACTIONS, STEPS] {
            offer.extend_from_slice(&word.to_be_bytes());
        }
        self.send(b'O', &offer)?;
        let (command, answer) = self.receive()?;
        if command != b'O' || answer.len() < 12 {
            return Err(Error::other("the filter does not negotiate"));
        }
        self.steps = word(&answer[8..]);
        let mut lists = &answer[12..];
        let mut asked = [false; STAGES];
        while lists.len() > 4 {
            let stage = word(lists) as usize;
            let end = lists[4..].iter().position(|byte| *byte == 0).ok_or_else(|| Error::other("an open list"))?;
            let list = String::from_utf8_lossy(&lists[4..4 + end]);
            *self.macros.get_mut(stage).ok_or_else(|| Error::other("an unknown stage"))? = names(&list);
            asked[stage] = true;
            lists = &lists[4 + end + 1..];
        }
        // So does sendmail 8.17: whether it takes the list for the end of the message depends on whether the filter
        // asked for one at the end of the headers.
        if !asked[END_OF_HEADERS] {
            self.macros[END] = names(DEFAULT_MACROS[END]);
        }
        Ok(())
    }

    /// MAIL, and its answer.
    pub(crate) fn mail(&mut self, message: Message) -> io::Result<Answer> {
        self.mail_unanswered(message)?;
        if self.steps & (NO_MAIL | QUIET_MAIL) != 0 { Ok(Answer::Pass) } else { self.answer() }
    }

    /// MAIL, without waiting for the answer.
    pub(crate) fn mail_unanswered(&mut self, message: Message) -> io::Result<()> {
        self.macros(MAIL, b'M', message)?;
        if self.steps & NO_MAIL == 0 {
            self.send(b'M', format!("<{}>\0SIZE={MESSAGE_BYTES}\0", message.from()).as_bytes())?;
        }
        Ok(())
    }

    /// From RCPT to the end of the message, and the answer to that.
    pub(crate) fn rest(&mut self, message: Message) -> io::Result<Answer> {
        self.macros(RCPT, b'R', message)?;
        self.command(b'R', format!("<{}>\0", message.to()).as_bytes(), NO_RCPT, QUIET_RCPT)?;
        self.macros(DATA, b'T', message)?;
        self.command(b'T', b"", NO_DATA, QUIET_DATA)?;
        let mut bytes = MESSAGE_BYTES;
        for (name, value) in message.headers() {
            bytes = bytes.saturating_sub(name.len() + value.len() + 4);
            self.command(b'L', format!("{name}\0{value}\0").as_bytes(), NO_HEADERS, QUIET_HEADER)?;
        }
        if self.steps & NO_END_OF_HEADERS == 0 {
            self.macros(END_OF_HEADERS, b'N', message)?;
            self.command(b'N', b"", NO_END_OF_HEADERS, QUIET_END_OF_HEADERS)?;
        }
        self.command(b'B', &vec![b'x'; bytes], NO_BODY, QUIET_BODY)?;
        self.macros(END, b'E', message)?;
        self.send(b'E', b"")?;
        self.answer()
    }

    /// RSET after an accepted MAIL.
    pub(crate) fn abort(&mut self) -> io::Result<()> {
        self.send(b'A', b"")
    }

    /// The SMTP client is gone.
    pub(crate) fn quit(mut self) -> io::Result<()> {
        self.send(b'Q', b"")
    }

    /// The socket, to wait on.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The answer to what was sent last.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        loop {
            match self.receive()? {
                (b'c' | b'a', _) => return Ok(Answer::Pass),
                (b'p', _) => {}
                (b'y', text) => return Ok(Answer::Refused(text)),
                (letter, _) => return Ok(Answer::Refused(vec![letter])),
            }
        }
    }

    fn command(&mut self, command: u8, data: &[u8], unwanted: u32, quiet: u32) -> io::Result<()> {
        if self.steps & unwanted != 0 {
            return Ok(());
        }
        self.send(command, data)?;
        if self.steps & quiet == 0 && self.answer()? != Answer::Pass {
            return Err(Error::other(format!("the filter refuses {}", command as char)));
        }
        Ok(())
    }

    fn macros(&mut self, stage: usize, command: u8, message: Message) -> io::Result<()> {
        if self.macros[stage].is_empty() {
            return Ok(());
        }
        let mut data = vec![command];
        for name in &self.macros[stage] {
            if let Some(value) = self.value(name, message) {
                data.extend_from_slice(name.as_bytes());
                data.push(0);
                data.extend_from_slice(value.as_bytes());
                data.push(0);
            }
        }
        self.send(b'D', &data)
    }

    /// A plain session: neither TLS nor AUTH has defined theirs.
    fn value(&self, name: &str, message: Message) -> Option<String> {
        Some(match name {
            "j" => "mx1.example.org".to_owned(),
            "_" => format!("{} [{}]", self.host(), self.address()),
            "v" => "8.17.1.9".to_owned(),
            "i" => message.queue_id(),
            "{daemon_name}" => "MTA-v4".to_owned(),
            "{if_name}" => "mx1.example.org".to_owned(),
            "{if_addr}" => "203.0.113.25".to_owned(),
            "{client_addr}" => self.address(),
            "{client_name}" | "{client_ptr}" => self.host(),
            "{client_resolve}" => "OK".to_owned(),
            "{client_port}" => "40001".to_owned(),
            "{mail_mailer}" | "{rcpt_mailer}" => "esmtp".to_owned(),
            "{mail_host}" => "example.com.".to_owned(),
            "{mail_addr}" => message.from(),
            "{rcpt_host}" => "example.net.".to_owned(),
            "{rcpt_addr}" => message.to(),
            "{msg_id}" => message.id(),
            "{msg_size}" => MESSAGE_BYTES.to_string(),
            _ => return None,
        })
    }

    fn host(&self) -> String {
        format!("mail{}.example.com", self.client % 10_000)
    }

    fn address(&self) -> String {
        let network = if self.client < FLOODERS { 18 } else { 19 };
        format!("198.{network}.{}.{}", self.client / 250 % 250, self.client % 250 + 1)
    }

    fn send(&mut self, command: u8, data: &[u8]) -> io::Result<()> {
        self.packet.clear();
        self.packet.extend_from_slice(&(data.len() as u32 + 1).to_be_bytes());
        self.packet.push(command);
        self.packet.extend_from_slice(data);
        poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], None)?;
        self.stream.write_all(&self.packet)
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], None)?;
        self.stream.read_exact(&mut head)?;
        let mut data = vec![0; (word(&head) as usize).saturating_sub(1)];
        if !data.is_empty() {
            poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], None)?;
            self.stream.read_exact(&mut data)?;
        }
        Ok((head[4], data))
    }
}

impl Message {
    fn user(self) -> u64 {
        self.0.wrapping_mul(2_654_435_761) % 100_000
    }

    fn queue_id(self) -> String {
        format!("5AKC{:010}", self.0)
    }

    fn from(self) -> String {
        format!("user{}@example.com", self.user())
    }

    fn to(self) -> String {
        format!("dest{}@example.net", self.user())
    }

    fn id(self) -> String {
        format!("<20261120125501.{}.GA{}@mail.example.com>", self.0, self.user())
    }

    /// With the space that sendmail keeps in front of a value only where the filter asks for it; this filter does not.
    fn headers(self) -> [(&'static str, String); 9] {
        [
            ("Received", "from [10.0.0.7] (unknown [10.0.0.7])\n\tby mail.example.com with ESMTP id 4RzK".to_owned()),
            ("From", format!("\"A user\" <{}>", self.from())),
            ("To", self.to()),
            ("Subject", format!("Report {} of the night", self.0)),
            ("Date", "Fri, 20 Nov 2026 12:55:01 +0100".to_owned()),
            ("Message-ID", self.id()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("X-Mailer", "example 1.0".to_owned()),
        ]
    }
}

fn names(list: &str) -> Vec<String> {
    list.split([' ', ',']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
