//! A day of a mail server in a few seconds: one message or incident of each
//! kind that shows up in a real log.

use super::sendmail::Sendmail;
use super::smtp::Client;
use std::net::Ipv4Addr;

/// What was handed in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Messages that sendmail took: one `from=` line each, at least.
    pub(crate) accepted: usize,
    /// Transactions that sendmail refused.
    pub(crate) refused: usize,
}

impl Sent {
    fn count(&mut self, code: u16) {
        match code {
            250 => self.accepted += 1,
            _ => self.refused += 1,
        }
    }
}

/// Messages to each kind of destination: sender, recipients.
const MAIL: &[(&str, &[&str])] = &[
    ("a@sender.example.com", &["one@good.example.net"]),
    ("a@sender.example.com", &["one@good.example.net", "two@good.example.net", "three@good.example.net"]),
    ("b@sender.example.com", &["one@good.example.net", "alice", "two@partner.example.net"]),
    ("b@sender.example.com", &["alice@mx1.example.org", "bob@mx1.example.org"]),
    ("", &["alice@mx1.example.org"]),
    ("c@sender.example.com", &["busy@defer.example.net"]),
    ("alice@mx1.example.org", &["nobody-there@refuse.example.net"]),
    ("d@good.example.net", &["nobody-there@refuse.example.net", "one@good.example.net"]),
    ("", &["nobody-there@refuse.example.net"]),
    ("e@sender.example.com", &["x@dead.example.net"]),
    ("e@sender.example.com", &["x@deadpartner.example.net", "y@dead.example.net"]),
    ("f@good.example.net", &["x@no-such-host.example.net"]),
    ("g@sender.example.com", &["one@partner.example.net"]),
    ("g@sender.example.com", &["one@smart.example.net"]),
    ("g@sender.example.com", &["one@deep.sub.example.net"]),
    ("h@sender.example.com", &["x@closed.example.net"]),
    ("h@sender.example.com", &["x@later.example.net"]),
    ("i@sender.example.com", &["staff@mx1.example.org"]),
    ("i@sender.example.com", &["news@mx1.example.org"]),
    ("i@sender.example.com", &["sales@mx1.example.org", "archive@mx1.example.org"]),
    ("j@good.example.net", &["robot@mx1.example.org"]),
    ("j@good.example.net", &["broken@mx1.example.org"]),
    ("j@good.example.net", &["loop1@mx1.example.org"]),
    ("k@sender.example.com", &["postmaster@mx1.example.org", "nobody@mx1.example.org"]),
    ("k@sender.example.com", &["unknown-user@mx1.example.org", "alice@mx1.example.org"]),
    ("k@sender.example.com", &["unknown-user@mx1.example.org"]),
    ("l@sender.example.com", &["alice@tls.example.net", "bob@mx2.example.org"]),
    ("spam@sender.example.com", &["one@good.example.net"]),
    ("slow@sender.example.com", &["one@good.example.net"]),
    ("m@sender.example.com", &["noone@good.example.net", "one@good.example.net"]),
    ("prvs=0123456789=n@sender.example.com", &["bounces+tag=one=good@good.example.net"]),
    ("\"odd, name\"@sender.example.com", &["\"a, b\"@good.example.net"]),
    ("\"x>, size=1, nrcpts=9\"@sender.example.com", &["\"y>, delay=1, stat=Sent\"@good.example.net"]),
    ("\"with space\"@sender.example.com", &["\"at@sign\"@good.example.net"]),
    ("o@[192.0.2.7]", &["one@good.example.net"]),
    (
        "an-address-that-goes-on-for-quite-a-while-as-those-of-newsletters-do-0123456789@newsletters.example.com",
        &["one@good.example.net"],
    ),
];

/// Message-ids as senders make them.
const MESSAGE_IDS: &[&str] = &[
    "<20261120135500.1234.qmail@sender.example.com>",
    "<a,b=c stat=Sent@sender.example.com>",
    "no-brackets@sender.example.com",
    "<in two> <parts@sender.example.com>",
    "<x>, proto=ESMTP, daemon=MTA, relay=trusted.example.org [192.0.2.1]",
    "<gr\u{fc}n-\u{20ac}@sender.example.com>",
    "<control\u{1}\u{7f}char@sender.example.com>",
    "<tab\tinside@sender.example.com>",
    "<[192.0.2.1]:(comment)\\\"quoted\\\"@sender.example.com>",
    "<0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789@sender.example.com>",
    "",
];

const SOURCES: [Ipv4Addr; 4] =
    [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 5, 1), Ipv4Addr::new(127, 0, 5, 2), Ipv4Addr::new(127, 0, 5, 3)];

/// Sends every kind of message, and has every kind of incident, `rounds`
/// times.
pub(crate) fn play(server: &Sendmail, rounds: usize) -> Sent {
    let mut sent = Sent::default();
    for round in 0..rounds {
        every_destination(server, round, &mut sent);
        every_message_id(server, round, &mut sent);
        body_types(server, &mut sent);
        locally(server, &mut sent);
        incidents(server);
    }
    sent
}

fn every_destination(server: &Sendmail, round: usize, sent: &mut Sent) {
    // Four messages a connection, from several clients.
    for (number, mails) in MAIL.chunks(4).enumerate() {
        let source = SOURCES[(number + round) % SOURCES.len()];
        let mut client = Client::connect_from(source, server.addr(), "client.example.com");
        for (from, to) in mails {
            let content = format!("Subject: round {round}\n\n{}", "text\n".repeat(1 + number * 7));
            sent.count(client.mail(from, to, &content).code);
        }
        client.quit();
    }
}

fn every_message_id(server: &Sendmail, round: usize, sent: &mut Sent) {
    let mut client = Client::connect(server.addr());
    for id in MESSAGE_IDS {
        let content = format!("Message-Id: {id}\nSubject: round {round}\n\ntext\n");
        sent.count(client.mail("ids@sender.example.com", &["one@good.example.net"], &content).code);
    }
    client.quit();
}

fn body_types(server: &Sendmail, sent: &mut Sent) {
    let mut client = Client::connect_from(SOURCES[2], server.addr(), "[127.0.5.2]");
    for parameters in ["BODY=8BITMIME", "SIZE=100000 BODY=7BIT", "SIZE=20 BODY=8BITMIME RET=HDRS ENVID=QQ314159"] {
        let mail = format!("MAIL FROM:<types@sender.example.com> {parameters}");
        sent.count(client.mail_with(&mail, &["one@good.example.net"], "Subject: \u{fc}\n\n\u{fc}\n").code);
    }
    client.quit();
}

/// By the command line.
fn locally(server: &Sendmail, sent: &mut Sent) {
    server.submit_locally("alice@mx1.example.org", &["one@good.example.net"], "Subject: local\n\ntext\n");
    server.submit_locally("root", &["bob", "staff"], "Subject: cron\n\ntext\n");
    sent.accepted += 2;
}

/// Sessions that end without a message.
fn incidents(server: &Sendmail) {
    let addr = server.addr();
    let source = Ipv4Addr::new(127, 0, 5, 77);
    // Says nothing, or asks what nobody answers.
    Client::open(source, addr).quit();
    let mut client = Client::connect_from(source, addr, "asks.example.com");
    for command in [
        "VRFY alice",
        "EXPN staff",
        "ETRN example.net",
        "XYZZY",
        "MAIL FROM: nonsense <",
        "RCPT TO:<x@y>",
        "AUTH LOGIN",
    ] {
        client.command(command);
    }
    client.quit();
    // From a client on the access list, and to a foreign domain from one that
    // may not relay.
    let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 5, 5), addr, "spammer.example.info");
    client.mail("x@spammer.example.info", &["alice@mx1.example.org"], "x\n");
    client.quit();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 9, 9), addr, "stranger.example.info");
    client.mail("x@stranger.example.info", &["one@good.example.net"], "x\n");
    client.quit();
    // Talks before it is greeted: that client is one that must wait.
    Client::hasty(Ipv4Addr::new(127, 0, 5, 4), addr, b"EHLO hasty.example.edu\r\n");
    // Hangs up in the middle of the body, and between MAIL and RCPT.
    let mut client = Client::connect_from(source, addr, "gone.example.com");
    client.command("MAIL FROM:<gone@sender.example.com>");
    client.command("RCPT TO:<one@good.example.net>");
    client.command("DATA");
    client.send(b"Subject: never finished\r\n\r\nsome te");
    drop(client);
    let mut client = Client::connect_from(SOURCES[1], addr, "gone.example.com");
    client.command("MAIL FROM:<gone@sender.example.com>");
    drop(client);
}
