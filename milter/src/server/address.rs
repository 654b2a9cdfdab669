//! Where mail servers attach, in the notation of sendmail's `S=`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use greypit_pipeline::Result;

use crate::config::problem;

/// Bytes that fit into the path of a unix socket, `sun_path` without its NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// One entry of `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:/path` or `local:/path`.
    Unix(PathBuf),
    /// `inet:port@host` or `inet6:port@host`.
    Inet(SocketAddr),
}

impl Address {
    /// Reads one entry.
    ///
    /// # Errors
    /// Says what is wrong and how it is written.
    pub fn parse(text: &str) -> Result<Address> {
        let wrong = |why: &str| {
            let text =
                format!("'{text}' {why}; write for example \"unix:/run/greypit/sock\" or \"inet:8891@127.0.0.1\"");
            problem("listen", text)
        };
        let (family, rest) = text.split_once(':').ok_or_else(|| wrong("names no kind of socket"))?;
        match family {
            "unix" | "local" if rest.is_empty() => Err(wrong("names no path")),
            "unix" | "local" if rest.len() > UNIX_PATH_BYTES_MAX => {
                Err(wrong(&format!("is longer than the {UNIX_PATH_BYTES_MAX} bytes that a socket's path may have")))
            }
            "unix" | "local" => Ok(Address::Unix(Path::new(rest).to_owned())),
            "inet" | "inet6" => {
                let (port, host) = rest.split_once('@').ok_or_else(|| wrong("needs a port and an address"))?;
                let port = port.parse().map_err(|_| wrong("has no numeric port"))?;
                let host: IpAddr = match host.trim_start_matches('[').trim_end_matches(']') {
                    "localhost" if family == "inet6" => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
                    "localhost" => IpAddr::from([127, 0, 0, 1]),
                    host => host.parse().map_err(|_| wrong("has no numeric address"))?,
                };
                if host.is_ipv6() != (family == "inet6") {
                    return Err(wrong("mixes IPv4 and IPv6"));
                }
                Ok(Address::Inet(SocketAddr::new(host, port)))
            }
            _ => Err(wrong("is no kind of socket known here")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_sendmail_writes_them() {
        let unix = Address::Unix("/var/run/greypit/sock".into());
        assert_eq!(Address::parse("unix:/var/run/greypit/sock").unwrap(), unix);
        assert_eq!(Address::parse("local:/var/run/greypit/sock").unwrap(), unix);
        assert_eq!(Address::parse("inet:8891@127.0.0.1").unwrap(), Address::Inet(([127, 0, 0, 1], 8891).into()));
        assert_eq!(Address::parse("inet:8891@localhost").unwrap(), Address::Inet(([127, 0, 0, 1], 8891).into()));
        assert_eq!(Address::parse("inet6:8891@::1").unwrap(), Address::parse("inet6:8891@[::1]").unwrap());
        for bad in ["", "/run/x", "unix:", "inet:8891", "inet:x@127.0.0.1", "inet:1@mx", "inet:1@::1", "tcp:1@::1"] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("milter.listen: '") && error.contains("write for example"), "{error}");
        }
    }
}
