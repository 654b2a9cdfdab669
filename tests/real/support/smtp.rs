//! A small SMTP client that says what it is told to say.

use super::WAIT;
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

/// One answer of the server: the code and the text of its last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) text: String,
}

/// An SMTP connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    pub(crate) greeting: Reply,
}

impl Client {
    /// Connects from 127.0.0.1 and says EHLO.
    pub(crate) fn connect(server: SocketAddr) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, server, "client.example.com")
    }

    /// Connects from an address of its own in 127/8 and says EHLO.
    pub(crate) fn connect_from(source: Ipv4Addr, server: SocketAddr, helo: &str) -> Self {
        let mut client = Self::open(source, server);
        if client.greeting.code == 220 {
            client.command(&format!("EHLO {helo}"));
        }
        client
    }

    /// Connects and reads the greeting, no more.
    pub(crate) fn open(source: Ipv4Addr, server: SocketAddr) -> Self {
        Self::hasty(source, server, b"")
    }

    /// Sends bytes before it reads the greeting.
    pub(crate) fn hasty(source: Ipv4Addr, server: SocketAddr, bytes: &[u8]) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("a loopback address");
        socket.connect_timeout(&server.into(), WAIT).expect("an SMTP server listens");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(WAIT)).expect("a time limit");
        stream.write_all(bytes).expect("the server reads");
        let mut stream = BufReader::new(stream);
        let greeting = read_reply(&mut stream);
        Self { stream, greeting }
    }

    /// Sends bytes as they are, and reads nothing.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Sends a command line and reads its answer.
    pub(crate) fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.read()
    }

    /// Reads one answer.
    pub(crate) fn read(&mut self) -> Reply {
        read_reply(&mut self.stream)
    }

    /// One message in a transaction of its own. The answer is that to the
    /// first command that was refused, or to the final dot. `content` is the
    /// header and body, lines ended by LF.
    pub(crate) fn mail(&mut self, from: &str, to: &[&str], content: &str) -> Reply {
        self.mail_with(&format!("MAIL FROM:<{from}>"), to, content)
    }

    /// Like [`Client::mail`], with the MAIL command as it is given. One
    /// refused recipient of several does not end the transaction.
    pub(crate) fn mail_with(&mut self, mail: &str, to: &[&str], content: &str) -> Reply {
        let mut reply = self.command(mail);
        if reply.code != 250 {
            return reply;
        }
        let mut accepted = 0;
        for to in to {
            let answer = self.command(&format!("RCPT TO:<{to}>"));
            match answer.code {
                250 => accepted += 1,
                _ => reply = answer,
            }
        }
        if accepted > 0 {
            reply = self.command("DATA");
        }
        if reply.code != 354 {
            self.command("RSET");
            return reply;
        }
        for line in content.lines() {
            let dot = if line.starts_with('.') { "." } else { "" };
            self.send(format!("{dot}{line}\r\n").as_bytes());
        }
        self.command(".")
    }

    pub(crate) fn quit(mut self) {
        self.command("QUIT");
    }
}

/// Reads one answer of any number of lines. A connection that the server
/// closes gives code 0.
fn read_reply(stream: &mut impl BufRead) -> Reply {
    loop {
        let mut line = Vec::new();
        let _reset_counts_as_closed = stream.read_until(b'\n', &mut line);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.as_bytes().get(3) != Some(&b'-') {
            let code = line.get(..3).and_then(|c| c.parse().ok()).unwrap_or(0);
            return Reply { code, text: line };
        }
    }
}
