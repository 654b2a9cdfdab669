//! The `[syslog]` section.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use greypit_pipeline::units::{Size, Span};
use greypit_pipeline::{Error, Result};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::super::rules::{self, Rule};
use super::super::time::parse_zone;

/// The largest `max_message`; the pipeline's limit on a body allows for what JSON makes of it.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// What RFC 5424 section 6.1 wants every receiver to take.
pub const MESSAGE_BYTES_MIN: u64 = 480;

/// Bytes that fit into the path of a unix socket, `sun_path` without its NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// What is asked of a client where `tls_client_ca` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCert {
    /// Without a certificate there is no connection.
    Required,
    /// One that is shown must be good.
    Optional,
}

/// The least and the longest `fold`.
const FOLD_MIN: Duration = Duration::from_millis(100);
const FOLD_MAX: Duration = Duration::from_secs(3600);

/// Where plain syslog is received, and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `address:port` to receive datagrams on (RFC 5426).
    pub udp: Vec<String>,
    /// `address:port` to accept connections on (RFC 6587).
    pub tcp: Vec<String>,
    /// `address:port` to accept TLS on (RFC 5425).
    pub tls: Vec<String>,
    /// Our certificate and those between it and its authority, PEM.
    pub tls_cert: String,
    /// Its private key, PEM.
    pub tls_key: String,
    /// Authorities of client certificates, PEM; empty: none are asked for.
    pub tls_client_ca: String,
    /// Whether a client must have one.
    pub tls_client_cert: ClientCert,
    /// How long a TLS handshake may take.
    pub tls_handshake_timeout: Span,
    /// Paths of datagram sockets, as `/dev/log` is one.
    pub unix: Vec<String>,
    /// Paths of stream sockets.
    pub unix_stream: Vec<String>,
    /// Longer messages are cut there and counted.
    pub max_message: Size,
    /// Of all listeners together; more are closed at once and counted.
    pub max_connections: usize,
    /// Of one address, over TCP and TLS; 0 is no limit.
    pub max_connections_per_peer: usize,
    /// Messages a second of one address: UDP beyond it is dropped and counted, TCP and TLS wait. 0 is no limit.
    pub max_rate_per_peer: u64,
    /// A TCP connection silent for so long is closed; `0s` is never, since a quiet sender is
    /// silent for hours (dead peers are found by TCP keep-alive within two minutes).
    pub idle_timeout: Span,
    /// A connection whose message is not complete after so long is closed; `0s` is never.
    pub frame_timeout: Span,
    /// Sockets an address that the kernel spreads senders over; 0 is one a core, at most 4.
    pub udp_sockets: usize,
    /// `SO_RCVBUF` of each UDP socket: what a burst may pile up while the disk is busy.
    pub recv_buffer: Size,
    /// Permissions of the unix sockets, octal.
    pub unix_mode: String,
    /// The time zone of stamps without one: `local`, `UTC`, `Europe/Berlin`, `+02:00`.
    pub zone: String,
    /// Within so long, identical messages become one record with their number; `0s` is not at all.
    pub fold: Span,
    /// What becomes of messages that are not as others; the first that holds decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            udp: vec!["127.0.0.1:5514".to_owned()],
            tcp: vec!["127.0.0.1:5514".to_owned()],
            tls: Vec::new(),
            tls_cert: String::new(),
            tls_key: String::new(),
            tls_client_ca: String::new(),
            tls_client_cert: ClientCert::Required,
            tls_handshake_timeout: Span::seconds(10),
            unix: Vec::new(),
            unix_stream: Vec::new(),
            max_message: Size(64 << 10),
            max_connections: 1000,
            max_connections_per_peer: 100,
            max_rate_per_peer: 0,
            idle_timeout: Span::seconds(0),
            frame_timeout: Span::seconds(300),
            udp_sockets: 0,
            recv_buffer: Size(4 << 20),
            unix_mode: "0666".to_owned(),
            zone: "local".to_owned(),
            fold: Span::seconds(0),
            rule: Vec::new(),
        }
    }
}

/// The most that `max_rate_per_peer` can tell from no limit.
const RATE_MAX: u64 = 10_000_000;

/// More sockets an address than any machine has use for.
const UDP_SOCKETS_MAX: usize = 64;

/// What [`Tls`](super::Tls) takes anew.
const WHILE_RUNNING: [&str; 4] = ["tls_cert", "tls_key", "tls_client_ca", "tls_client_cert"];

/// An error about one key of this section.
pub(super) fn problem(key: &str, problem: impl Into<String>) -> Error {
    Error::Config { key: format!("syslog.{key}"), problem: problem.into() }
}

impl Config {
    /// Checks every value, without touching the network or the disk.
    ///
    /// # Errors
    /// [`Error::Config`] names the first key that cannot be right.
    pub fn validate(&self) -> Result<()> {
        for (key, listed) in [("udp", &self.udp), ("tcp", &self.tcp), ("tls", &self.tls)] {
            for text in listed {
                address(key, text)?;
            }
            no_repeats(key, listed, true)?;
        }
        for (key, listed) in [("unix", &self.unix), ("unix_stream", &self.unix_stream)] {
            for path in listed {
                if !Path::new(path).is_absolute() {
                    let text = format!("'{path}' is no absolute path; write for example \"/dev/log\"");
                    return Err(problem(key, text));
                }
                if path.len() > UNIX_PATH_BYTES_MAX {
                    let text = format!(
                        "'{path}' is {} bytes long, a socket's path at most {UNIX_PATH_BYTES_MAX}: choose a shorter one",
                        path.len()
                    );
                    return Err(problem(key, text));
                }
            }
            no_repeats(key, listed, false)?;
        }
        if let Some(twice) = self.unix_stream.iter().find(|path| self.unix.contains(path)) {
            return Err(problem(
                "unix_stream",
                format!("'{twice}' is in syslog.unix too; a path has one kind of socket"),
            ));
        }
        if !self.tls.is_empty() {
            for (key, path) in [("tls_cert", &self.tls_cert), ("tls_key", &self.tls_key)] {
                if path.is_empty() {
                    return Err(problem(key, "syslog.tls needs a file in PEM form here"));
                }
            }
        }
        let handshake = self.tls_handshake_timeout.0;
        if !(Duration::from_millis(10)..=Duration::from_secs(600)).contains(&handshake) {
            let text = format!("{} is not between 10ms and 10m", self.tls_handshake_timeout);
            return Err(problem("tls_handshake_timeout", text));
        }
        if self.max_connections_per_peer > 1_000_000 {
            let text = format!("{} is more than 1000000; 0 is no limit", self.max_connections_per_peer);
            return Err(problem("max_connections_per_peer", text));
        }
        if self.max_rate_per_peer > RATE_MAX {
            let text = format!("{} is more than {RATE_MAX}; 0 is no limit", self.max_rate_per_peer);
            return Err(problem("max_rate_per_peer", text));
        }
        if self.udp_sockets > UDP_SOCKETS_MAX {
            let text = format!("{} is more than {UDP_SOCKETS_MAX}; 0 lets greypit choose", self.udp_sockets);
            return Err(problem("udp_sockets", text));
        }
        if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&self.max_message.0) {
            let text = format!(
                "{} is not between {} and {}",
                self.max_message,
                Size(MESSAGE_BYTES_MIN),
                Size(MESSAGE_BYTES_MAX)
            );
            return Err(problem("max_message", text));
        }
        if !(1..=1_000_000).contains(&self.max_connections) {
            return Err(problem("max_connections", format!("{} is not between 1 and 1000000", self.max_connections)));
        }
        if !(4 << 10..=1 << 30).contains(&self.recv_buffer.0) {
            return Err(problem("recv_buffer", format!("{} is not between 4KiB and 1GiB", self.recv_buffer)));
        }
        self.mode()?;
        self.time_zone()?;
        if !self.fold.0.is_zero() && !(FOLD_MIN..=FOLD_MAX).contains(&self.fold.0) {
            return Err(problem("fold", format!("{} is neither 0s nor between 100ms and 1h", self.fold)));
        }
        rules::validate(&self.rule)
    }

    /// Whether a reload takes a key, given in full (`syslog.tls_cert`).
    #[must_use]
    pub fn takes_while_running(key: &str) -> bool {
        key.strip_prefix("syslog.").is_some_and(|key| WHILE_RUNNING.contains(&key))
    }

    /// Sockets for each UDP address.
    pub(super) fn udp_sockets(&self) -> usize {
        match self.udp_sockets {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(4),
            sockets => sockets,
        }
    }

    pub(super) fn mode(&self) -> Result<u32> {
        u32::from_str_radix(&self.unix_mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            let text = format!("'{}' is no file mode; write for example \"0666\" or \"0660\"", self.unix_mode);
            problem("unix_mode", text)
        })
    }

    pub(super) fn time_zone(&self) -> Result<TimeZone> {
        parse_zone(&self.zone).map_err(|error| problem("zone", error.to_string()))
    }
}

/// Reads `address:port`.
pub(super) fn address(key: &str, text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        let text = format!(
            "'{text}' is no numeric address and port; write for example \"0.0.0.0:514\" or \"[::]:514\" \
             (that one is IPv6 only: list both)"
        );
        problem(key, text)
    })
}

fn no_repeats(key: &str, listed: &[String], ports: bool) -> Result<()> {
    for (i, text) in listed.iter().enumerate() {
        if listed[..i].contains(text) && !(ports && text.ends_with(":0")) {
            return Err(problem(key, format!("'{text}' is listed twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn an_error_names_the_key() {
        let base = Config::default;
        let cases: Vec<(&str, Config)> = vec![
            ("syslog.udp: 'localhost:514'", Config { udp: vec!["localhost:514".into()], ..base() }),
            ("syslog.tcp: '127.0.0.1'", Config { tcp: vec!["127.0.0.1".into()], ..base() }),
            ("listed twice", Config { tcp: vec!["127.0.0.1:1".into(), "127.0.0.1:1".into()], ..base() }),
            ("syslog.unix: 'log'", Config { unix: vec!["log".into()], ..base() }),
            ("a socket's path at most 107", Config { unix: vec![format!("/{}", "a".repeat(107))], ..base() }),
            ("syslog.tls_cert: syslog.tls needs a file", Config { tls: vec!["0.0.0.0:6514".into()], ..base() }),
            (
                "syslog.tls_handshake_timeout: 0s is not between",
                Config { tls_handshake_timeout: Span::seconds(0), ..base() },
            ),
            (
                "syslog.unix_stream: '/x' is in syslog.unix too",
                Config { unix: vec!["/x".into()], unix_stream: vec!["/x".into()], ..base() },
            ),
            ("syslog.udp_sockets: 65 is more than 64", Config { udp_sockets: 65, ..base() }),
            (
                "syslog.max_rate_per_peer: 10000001 is more than 10000000",
                Config { max_rate_per_peer: 10_000_001, ..base() },
            ),
            ("syslog.max_message: 2MiB", Config { max_message: Size(2 << 20), ..base() }),
            ("syslog.max_message: 0B", Config { max_message: Size(0), ..base() }),
            ("syslog.max_connections: 0", Config { max_connections: 0, ..base() }),
            ("syslog.recv_buffer: 2GiB", Config { recv_buffer: Size(2 << 30), ..base() }),
            ("syslog.unix_mode: '0999'", Config { unix_mode: "0999".into(), ..base() }),
            ("syslog.fold: 2h", Config { fold: Span::seconds(7200), ..base() }),
            ("syslog.zone: unknown time zone", Config { zone: "Mars/Phobos".into(), ..base() }),
        ];
        for (text, config) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        toml::from_str::<Config>("udpp = []").unwrap_err();
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    }
}
