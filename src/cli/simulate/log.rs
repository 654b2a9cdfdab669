//! The MAILs that sendmail logged: who, when, over which connection.
//!
//! Kept as small values, so that they can be put in the order of time (files come in any order, and those of several
//! servers beside each other) and replayed several times.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str;

use greypit_milter::policy::Subject;
use jiff::Timestamp;
use jiff::civil;
use jiff::tz::{Offset, TimeZone};

use super::super::Stop;
use crate::cli::grouped;
use crate::collect::maillog::wire::{self as maillog, FromLine, Parsed};
use crate::collect::syslog::time::{Stamp, TimeResolver};
use crate::collect::syslog::wire;

/// Messages, at most: 32 bytes each.
const MAILS_MAX: usize = 50_000_000;

/// Different clients, servers and listeners, at most, for the same reason.
const NAMES_MAX: usize = 10_000_000;

/// sendmail's `Timeout.command`: whoever is silent for longer is no longer connected. In milliseconds.
const SILENCE_MS_MAX: i64 = 3_600_000;

/// What sendmail writes behind a name that does not lead back to the address.
const FORGED: &[u8] = b" (may be forged)";

/// One MAIL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mail {
    /// Since 1970.
    pub(super) ms: i64,
    server: u32,
    pid: u32,
    client: u32,
    daemon: u32,
    /// Place in [`Log::connections`].
    pub(super) connection: u32,
    is_authenticated: bool,
}

/// One SMTP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) server: u32,
    pub(super) client: u32,
}

/// Whom sendmail calls a relay: one name at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) addr: IpAddr,
    pub(super) is_verified: bool,
}

/// The MAILs in the order of time.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) mails: Vec<Mail>,
    pub(super) clients: Vec<Client>,
    pub(super) connections: Vec<Connection>,
    pub(super) servers: usize,
    daemons: Vec<Box<[u8]>>,
}

impl Log {
    pub(super) fn subject(&self, mail: &Mail) -> Subject<'_> {
        let client = &self.clients[mail.client as usize];
        Subject {
            addr: Some(client.addr),
            verified_name: client.is_verified.then_some(client.name.as_bytes()),
            authenticated: mail.is_authenticated,
            daemon: &self.daemons[mail.daemon as usize],
            postfix: false,
        }
    }
}

/// Reads lines.
#[derive(Debug)]
pub(super) struct Reader {
    times: TimeResolver,
    host: Vec<u8>,
    pub(super) lines: u64,
    local: u64,
    unreadable: u64,
    mails: Vec<Mail>,
    clients: Vec<Client>,
    client_names: Names,
    servers: Names,
    daemons: Names,
    scratch: Vec<u8>,
}

impl Reader {
    /// `zone` for dates without one, `host` for lines without one.
    pub(super) fn new(zone: TimeZone, host: &str) -> Reader {
        Reader {
            times: TimeResolver::new(zone),
            host: host.as_bytes().to_vec(),
            lines: 0,
            local: 0,
            unreadable: 0,
            mails: Vec::new(),
            clients: Vec::new(),
            client_names: Names::default(),
            servers: Names::default(),
            daemons: Names::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes one line; `opened` tells the year where it does not say.
    pub(super) fn read(&mut self, line: &[u8], opened: Timestamp) -> Result<(), Stop> {
        self.lines += 1;
        let message = wire::parse(line, opened, &mut self.times);
        if message.parse_error.is_some() || message.app.is_none_or(|app| app.starts_with(b"postfix")) {
            return Ok(());
        }
        let from = match maillog::parse(message.message.trim_ascii_start()) {
            Parsed::From(from) => from,
            Parsed::Broken(_) if is_from(message.message) => {
                self.unreadable += 1;
                return Ok(());
            }
            Parsed::Broken(_) | Parsed::To(_) | Parsed::Other => return Ok(()),
        };
        let Some(addr) = from.relay.ip.and_then(address) else {
            // Put into the queue without a connection, or by sendmail itself.
            self.local += 1;
            return Ok(());
        };
        let when = message.stamp.and_then(|stamp| milliseconds(&stamp));
        let pid = message.procid.and_then(|pid| str::from_utf8(pid).ok()?.parse().ok());
        let (Some(ms), Some(pid)) = (when, pid) else {
            self.unreadable += 1;
            return Ok(());
        };
        let is_forged = message.message.trim_ascii_end().ends_with(FORGED);
        let client = self.client(&from, addr, is_forged);
        let mail = Mail {
            ms,
            server: self.servers.number(message.hostname.unwrap_or(&self.host)),
            pid,
            client,
            daemon: self.daemons.number(from.daemon.unwrap_or_default()),
            connection: u32::MAX,
            is_authenticated: from.auth.is_some_and(|auth| !auth.is_empty() && auth != b"NONE"),
        };
        self.mails.push(mail);
        let names = [self.clients.len(), self.servers.len(), self.daemons.len()];
        if self.mails.len() > MAILS_MAX || names.iter().any(|names| *names > NAMES_MAX) {
            let (mails, names) = (grouped(MAILS_MAX as u64), grouped(NAMES_MAX as u64));
            return Err(Stop::Say(format!(
                "more than {mails} messages or {names} clients: give fewer files at a time"
            )));
        }
        Ok(())
    }

    fn client(&mut self, from: &FromLine<'_>, addr: IpAddr, is_forged: bool) -> u32 {
        let name = from.relay.host;
        let is_verified = !is_forged && !name.is_empty() && !name.starts_with(b"[");
        self.scratch.clear();
        self.scratch.extend_from_slice(name);
        self.scratch.extend_from_slice(&[0, u8::from(is_verified)]);
        self.scratch.extend_from_slice(from.relay.ip.unwrap_or_default());
        let number = self.client_names.number(&self.scratch);
        if number as usize == self.clients.len() {
            let name = String::from_utf8_lossy(name).into_owned();
            self.clients.push(Client { name, addr, is_verified });
        }
        number
    }

    pub(super) fn is_empty(&self) -> bool {
        self.mails.is_empty()
    }

    /// What was read, for stderr.
    pub(super) fn summary(&self) -> Vec<String> {
        [
            ("lines", self.lines),
            ("messages", self.mails.len() as u64),
            ("local", self.local),
            ("unreadable", self.unreadable),
        ]
        .map(|(name, number)| format!("{name}={number}"))
        .to_vec()
    }

    /// Puts everything in the order of time and tells the connections apart.
    pub(super) fn finish(self) -> Log {
        let Reader { mut mails, clients, servers, daemons, .. } = self;
        // Stable: within a second the log's own order stays.
        mails.sort_by_key(|mail| mail.ms);
        let connections = connect(&mut mails);
        Log { mails, clients, connections, servers: servers.len(), daemons: daemons.into_list() }
    }
}

/// Numbers the connections. A process serves one connection and its pid is used again later: another relay, or the same
/// after more silence than sendmail allows, is another connection.
fn connect(mails: &mut [Mail]) -> Vec<Connection> {
    let mut connections = Vec::new();
    let mut open: HashMap<(u32, u32), (u32, i64)> = HashMap::new();
    for mail in mails {
        let this = Connection { server: mail.server, client: mail.client };
        let slot = open.entry((mail.server, mail.pid)).or_insert((u32::MAX, mail.ms));
        let is_same = connections.get(slot.0 as usize) == Some(&this) && mail.ms - slot.1 <= SILENCE_MS_MAX;
        if !is_same {
            slot.0 = connections.len() as u32;
            connections.push(this);
        }
        slot.1 = mail.ms;
        mail.connection = slot.0;
    }
    connections
}

/// Whether a line that cannot be read would have been a `from=`.
fn is_from(message: &[u8]) -> bool {
    memchr::memmem::find(message.get(..80).unwrap_or(message), b": from=").is_some()
}

fn address(text: &[u8]) -> Option<IpAddr> {
    // A link-local address has its interface behind it.
    let text = str::from_utf8(text).ok()?.split('%').next()?;
    text.parse().ok().map(|addr: IpAddr| addr.to_canonical())
}

fn milliseconds(stamp: &Stamp) -> Option<i64> {
    let number = |value: u8| i8::try_from(value).ok();
    let date = civil::Date::new(stamp.year, number(stamp.month)?, number(stamp.day)?).ok()?;
    let second = number(stamp.second.min(59))?;
    let time = civil::Time::new(number(stamp.hour)?, number(stamp.minute)?, second, stamp.nanos as i32).ok()?;
    let offset = Offset::from_seconds(stamp.offset_seconds).ok()?;
    Some(offset.to_timestamp(date.to_datetime(time)).ok()?.as_millisecond())
}

/// Numbers for texts that come again and again.
#[derive(Debug, Default)]
struct Names(HashMap<Box<[u8]>, u32>);

impl Names {
    fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        // At most NAMES_MAX.
        let number = self.0.len() as u32;
        self.0.insert(name.into(), number);
        number
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn into_list(self) -> Vec<Box<[u8]>> {
        let mut list: Vec<_> = self.0.into_iter().collect();
        list.sort_unstable_by_key(|(_, number)| *number);
        list.into_iter().map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::syslog::time::parse_zone;

    fn read(lines: &[&str]) -> (Vec<String>, Log) {
        let mut reader = Reader::new(parse_zone("UTC").unwrap(), "mx0");
        for line in lines {
            reader.read(line.as_bytes(), "2026-11-20T13:00:00Z".parse().unwrap()).unwrap();
        }
        (reader.summary(), reader.finish())
    }

    fn from(time: &str, server_and_pid: &str, relay: &str) -> String {
        let (server, pid) = server_and_pid.split_once(' ').unwrap();
        format!(
            "Nov 20 {time} {server} sm-mta[{pid}]: 6AKE88Xp02676: from=<a@b>, size=1, class=0, nrcpts=1, proto=ESMTP, daemon=MTA, relay={relay}"
        )
    }

    #[test]
    fn a_connection_is_a_process_a_relay_and_an_hour() {
        let lines = [
            from("10:00:00", "mx1 7", "a.example [192.0.2.1]"),
            from("11:00:00", "mx1 7", "a.example [192.0.2.1]"),
            from("12:00:01", "mx1 7", "a.example [192.0.2.1]"),
            from("12:00:02", "mx1 8", "a.example [192.0.2.1]"),
            from("12:00:02", "mx2 7", "a.example [192.0.2.1]"),
            from("12:00:03", "mx1 7", "b.example [192.0.2.1]"),
            from("12:00:04", "mx1 7", "a.example [192.0.2.1]"),
            from("12:00:04", "mx1 7", "a.example [192.0.2.1] (may be forged)"),
        ];
        let (_, log) = read(&lines.each_ref().map(String::as_str));
        let connections: Vec<u32> = log.mails.iter().map(|mail| mail.connection).collect();
        assert_eq!(connections, [0, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!((log.connections.len(), log.servers, log.clients.len()), (7, 2, 3));
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        let early = from("10:00:00", "mx1 7", "a.example [192.0.2.1]");
        let late = from("10:00:01", "mx1 7", "a.example [192.0.2.1]");
        let (_, log) = read(&[&late, &early]);
        assert_eq!(log.mails.iter().map(|mail| mail.ms % 10_000).collect::<Vec<_>>(), [0, 1000]);
        assert_eq!(log.connections.len(), 1);
    }

    #[test]
    fn who_a_relay_is() {
        for (relay, addr, verified, name) in [
            ("a.example [192.0.2.1]", "192.0.2.1", Some("a.example"), "a.example"),
            ("a.example [192.0.2.1] (may be forged)", "192.0.2.1", None, "a.example"),
            ("[192.0.2.1]", "192.0.2.1", None, "[192.0.2.1]"),
            ("[192.0.2.1] [192.0.2.1]", "192.0.2.1", None, "[192.0.2.1]"),
            ("a.example [IPv6:2001:db8::1]", "2001:db8::1", Some("a.example"), "a.example"),
            ("joe@a.example [192.0.2.1]", "192.0.2.1", Some("a.example"), "a.example"),
            ("localhost [127.0.0.1]", "127.0.0.1", Some("localhost"), "localhost"),
        ] {
            let (_, log) = read(&[&from("10:00:00", "mx1 7", relay)]);
            let subject = log.subject(&log.mails[0]);
            assert_eq!(subject.addr.unwrap().to_string(), addr, "{relay}");
            assert_eq!(subject.verified_name, verified.map(str::as_bytes), "{relay}");
            assert_eq!((subject.daemon, subject.authenticated), (&b"MTA"[..], false));
            assert_eq!(log.clients[0].name, name);
        }
    }

    #[test]
    fn what_is_no_connection_is_counted() {
        let (summary, log) = read(&[
            "Nov 20 12:55:04 mx1 sendmail[2300]: 5AKCt1Aa002204: from=root, size=312, class=0, nrcpts=1, relay=root@localhost",
            "Nov 20 12:55:07 mx1 sm-mta[2306]: 5AKCt1Aa002211: from=[RESPONSE], size=3000, class=-60, nrcpts=0, relay=[RESPONSE]",
            "Nov 20 12:55:07 mx1 sm-mta[2306]: 5AKCt1Aa002212: from=<a",
            "Nov 20 12:55:07 mx1 sm-mta: 5AKCt1Aa002212: from=<a@b>, size=1, class=0, nrcpts=1, relay=a [192.0.2.1]",
            "Nov 20 12:55:07 mx1 sm-mta[1]: 5AKCt1Aa002212: to=<a",
            "Nov 20 12:55:07 mx1 postfix/qmgr[1]: 5AKCt1Aa0022: from=<a@b>, size=1, nrcpt=1 (queue active)",
            "rubbish",
        ]);
        assert_eq!(summary, ["lines=7", "messages=0", "local=2", "unreadable=2"]);
        assert!(log.mails.is_empty() && log.connections.is_empty());
    }

    #[test]
    fn authenticated_users_are_known() {
        for (auth, authenticated) in [("auth=PLAIN, ", true), ("auth=NONE, ", false), ("", false)] {
            let line = from("10:00:00", "mx1 7", "a.example [192.0.2.1]").replace("relay=", &format!("{auth}relay="));
            let (_, log) = read(&[&line]);
            assert_eq!(log.subject(&log.mails[0]).authenticated, authenticated, "{line}");
        }
    }
}
