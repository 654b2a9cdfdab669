//! A greypit that takes syslog on one socket, and the records that it makes.

use super::greypit::Greypit;
use super::net::free_port;
use super::{run, wait_for};
use serde_json::Value;
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    /// A line feed ends a message.
    TcpLines,
    /// A count precedes it.
    TcpOctets,
    /// TLS; a line feed ends a message.
    TlsLines,
    /// TLS with certificates on both sides; a count precedes a message.
    TlsOctets,
}

impl Over {
    /// Whether a message ends with its line.
    pub(crate) fn is_lines(self) -> bool {
        matches!(self, Over::TcpLines | Over::TlsLines)
    }
}

/// It runs until its records are read.
#[derive(Debug)]
pub(crate) struct Collector {
    greypit: Greypit,
    pub(crate) port: u16,
}

impl Collector {
    pub(crate) fn start(over: Over) -> Self {
        let (mut greypit, port) = (Greypit::new("peers"), free_port());
        let section = match over {
            Over::Udp => "udp",
            Over::TcpLines | Over::TcpOctets => "tcp",
            Over::TlsLines | Over::TlsOctets => "tls",
        };
        greypit.set(&format!("syslog.{section}"), vec![format!("127.0.0.1:{port}")]);
        let collector = Self { greypit, port };
        if section == "tls" { collector.with_certificates(over == Over::TlsOctets) } else { collector }.started()
    }

    /// On a unix socket; `kind` is the key of its list.
    pub(crate) fn start_unix(kind: &str) -> Self {
        let mut greypit = Greypit::new("peers");
        let socket = greypit.folder().join("dev-log");
        greypit.set(&format!("syslog.{kind}"), vec![socket.to_str().expect("a plain path")]);
        Self { greypit, port: 0 }.started()
    }

    fn started(mut self) -> Self {
        self.greypit.start();
        self
    }

    /// Makes an authority and certificates for both sides; the folder holds `ca.pem`, and `NAME.pem` and `NAME.key` of
    /// `server` and `client`.
    fn with_certificates(mut self, of_clients: bool) -> Self {
        let dir = self.greypit.folder().to_owned();
        let openssl = |args: &[&str]| drop(run(Command::new("openssl").args(args).current_dir(&dir)));
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let authority = ["-x509", "-days", "30", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"];
        openssl(&[&["req"], &key[..], &authority].concat());
        let names = "basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n";
        std::fs::write(dir.join("names"), names).expect("the folder is there");
        for name in ["server", "client"] {
            let [key_file, request, certificate] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
            openssl(
                &[&["req"], &key[..], &["-subj", "/CN=localhost", "-keyout", &key_file, "-out", &request]].concat(),
            );
            let signed = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
            openssl(&[&signed[..], &["-days", "30", "-extfile", "names", "-out", &certificate]].concat());
        }
        let path = |name: &str| self.file(name);
        let [certificate, key, authority] = ["server.pem", "server.key", "ca.pem"].map(path);
        self.greypit.set("syslog.tls_cert", certificate);
        self.greypit.set("syslog.tls_key", key);
        if of_clients {
            self.greypit.set("syslog.tls_client_ca", authority);
        }
        self
    }

    /// The path of a file in its folder.
    pub(crate) fn file(&self, name: &str) -> String {
        self.greypit.folder().join(name).to_str().expect("a plain path").to_owned()
    }

    pub(crate) fn socket(&self) -> String {
        self.file("dev-log")
    }

    /// Waits until that many messages were received or counted as dropped before that, and says how many were dropped,
    /// there or later.
    pub(crate) fn wait_for(&self, messages: u64) -> u64 {
        let figure = |name: &str| self.greypit.metric(name).unwrap_or_default() as u64;
        wait_for(&format!("{messages} messages"), || {
            let kernel = self.greypit.series(r#"greypit_syslog_dropped_total{reason="kernel",transport="udp"}"#);
            (figure("greypit_syslog_messages_total") + kernel >= messages).then_some(())
        });
        figure("greypit_syslog_dropped_total")
    }

    /// Ends it, which drains it, and reads what it stored, in its order.
    pub(crate) fn records(&mut self) -> Vec<Value> {
        self.greypit.terminate();
        let mut records = Vec::new();
        self.greypit.cat(|line| records.push(serde_json::from_str(line).expect("a record")));
        records
    }
}
