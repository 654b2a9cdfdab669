//! A sender that goes on with its next message whatever is answered.

use super::smtp::{Client, Reply};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// One connection of such a sender.
#[derive(Debug)]
pub(crate) struct Flood {
    client: Client,
    name: String,
    to: String,
    sent: usize,
}

/// What became of one message.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) message_id: String,
    /// The answer to MAIL, and what it took.
    pub(crate) mail: Reply,
    pub(crate) took: Duration,
    /// The answer to the final dot, where it came to that.
    pub(crate) end: Option<Reply>,
}

impl Attempt {
    pub(crate) fn accepted(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.code == 250)
    }
}

/// The Message-IDs of those that were accepted, in order.
pub(crate) fn accepted(attempts: &[Attempt]) -> Vec<String> {
    let mut ids: Vec<String> = attempts.iter().filter(|a| a.accepted()).map(|a| a.message_id.clone()).collect();
    ids.sort_unstable();
    ids
}

impl Flood {
    /// Connects from 127.0.0.1. The name begins its Message-IDs.
    pub(crate) fn connect(server: SocketAddr, name: &str) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, server, name)
    }

    pub(crate) fn connect_from(source: Ipv4Addr, server: SocketAddr, name: &str) -> Self {
        Self::over(Client::connect_from(source, server, "flood.example.com"), name)
    }

    /// Over a connection that has begun with EHLO.
    pub(crate) fn over(client: Client, name: &str) -> Self {
        assert_eq!(client.greeting.code, 220, "{:?}", client.greeting);
        Self { client, name: name.to_owned(), to: "bob@good.example.net".to_owned(), sent: 0 }
    }

    pub(crate) fn into_client(self) -> Client {
        self.client
    }

    /// Sends this many messages; ends early where the server closes.
    pub(crate) fn send(&mut self, count: usize) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for _ in 0..count {
            let attempt = self.send_one();
            let closed = [0, 421].contains(&attempt.mail.code);
            attempts.push(attempt);
            if closed {
                break;
            }
        }
        attempts
    }

    /// MAIL, RCPT and DATA in one packet and, where DATA is not refused, the
    /// text: a text that nobody waits for would be read as commands, and every
    /// mail server closes after a few that it does not know.
    pub(crate) fn send_one(&mut self) -> Attempt {
        let message_id = format!("{}-{}@flood.example.com", self.name, self.sent);
        self.sent += 1;
        let (mail, took) =
            self.mail(&format!("MAIL FROM:<alice@flood.example.com>\r\nRCPT TO:<{}>\r\nDATA\r\n", self.to));
        if [0, 421].contains(&mail.code) {
            return Attempt { message_id, mail, took, end: None };
        }
        let _rcpt = self.client.read();
        let data = self.client.read();
        let end = (data.code == 354).then(|| {
            self.client.command(&format!("Message-ID: <{message_id}>\r\nSubject: {}\r\n\r\ntext\r\n.", self.name))
        });
        Attempt { message_id, mail, took, end }
    }

    /// MAIL alone, to be refused, and so often; ends early where the server
    /// closes.
    pub(crate) fn try_mail(&mut self, count: usize) -> Vec<(Reply, Duration)> {
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(self.mail("MAIL FROM:<alice@flood.example.com>\r\n"));
            if [0, 421].contains(&answers.last().expect("just pushed").0.code) {
                break;
            }
        }
        answers
    }

    fn mail(&mut self, commands: &str) -> (Reply, Duration) {
        let start = Instant::now();
        self.client.send(commands.as_bytes());
        (self.client.read(), start.elapsed())
    }
}
