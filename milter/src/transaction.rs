//! What the milter knows of one mail transaction when it ends (RFC 5321 section 3.3: MAIL to the end of the message).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Takes finished transactions. Called on the thread that serves the mail server: it must not wait.
pub type Sink = Arc<dyn Fn(&Transaction<'_>) + Send + Sync>;

/// How a transaction ended, as far as greypit saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Came to its end of message and was let through; the mail server may still refuse it.
    Accept,
    /// Refused at MAIL with 451.
    Refuse,
    /// Refused at MAIL with 421, which ends the connection.
    Close,
    /// Let through at MAIL, then ended before its end of message: refused by the mail server or another filter,
    /// reset or left by the client.
    Abort,
}

impl Ending {
    /// The record's `verdict`, and a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ending::Accept => "accept",
            Ending::Refuse => "refuse",
            Ending::Close => "close",
            Ending::Abort => "abort",
        }
    }
}

/// What the connection that a transaction came over is known by. Bytes are the mail server's own, unchecked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// A number unique within this process.
    pub connection: u64,
    /// The SMTP client's address; none where it is local or unknown.
    pub addr: Option<IpAddr>,
    /// Its name as the mail server resolved it; `[192.0.2.1]` or `unknown` where it did not.
    pub name: Vec<u8>,
    /// The mail server found the name to resolve back to the address (macro `{client_resolve}` is `OK`).
    pub name_verified: bool,
    /// What the client said at HELO or EHLO.
    pub helo: Vec<u8>,
    /// The mail server's software (macro `v`): `8.17.1.9`, `Postfix 3.7.11`.
    pub mta: Vec<u8>,
    /// The mail server's own name (macro `j`).
    pub server: Vec<u8>,
    /// The listener (macro `{daemon_name}`): `MTA`, `MSA`.
    pub daemon: Vec<u8>,
    /// Macro `{tls_version}`: empty without TLS.
    pub tls_version: Vec<u8>,
    /// Macro `{cipher}`.
    pub tls_cipher: Vec<u8>,
    /// Macro `{auth_authen}`: the authenticated user, empty without one.
    pub auth: Vec<u8>,
}

/// One transaction, borrowed from its session.
#[derive(Clone, Debug)]
pub struct Transaction<'a> {
    /// Who sent it.
    pub peer: &'a Peer,
    /// When MAIL came.
    pub started: SystemTime,
    /// From MAIL to the end.
    pub took: Duration,
    /// The how-many-th MAIL of the connection, from 1.
    pub number: u32,
    /// Macro `i`, empty where the mail server had none yet (Postfix: before the first accepted recipient).
    pub queue_id: &'a [u8],
    /// The envelope sender without angle brackets.
    pub mail_from: &'a [u8],
    /// What followed the sender at MAIL: `SIZE=…`, `BODY=…`.
    pub mail_args: &'a [Vec<u8>],
    /// The envelope recipients without angle brackets, up to `max_recipients`.
    pub rcpts: &'a [Vec<u8>],
    /// All of them.
    pub nrcpts: u32,
    /// Macro `{msg_id}`, empty where the mail server does not give it.
    pub msgid: &'a [u8],
    /// Bytes: macro `{msg_size}` at the end of the message, else what the client declared at MAIL.
    pub size: Option<u64>,
    /// The header fields that the config asks for, as `Name: value` lines that end in CR LF, then the empty line; in
    /// the order and with the spelling of the message. Empty where the config asks for none.
    pub headers: &'a [u8],
    /// How it ended.
    pub ending: Ending,
    /// Which rule decided: see [`crate::policy::Decision::rule`].
    pub rule: &'a str,
    /// How many messages over the limit this one was; 0 within it.
    pub strike: u32,
    /// How long the answer to MAIL was held.
    pub delay: Duration,
    /// Why it was held for less than the policy says, if it was.
    pub cut: Option<&'static str>,
    /// `mode = "observe"`: what would have happened, and for how long it would have been held.
    pub would: Option<(Ending, Duration)>,
}
