//! A log host between the senders and greypit: a real rsyslogd or syslog-ng that takes RFC 5424 over TCP and forwards
//! it as its configuration says.

use super::net::{free_port, listens};
use super::{Folder, Process, debian, debian_command, wait_for};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

/// A running relay.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Process,
    input: SocketAddr,
    folder: Folder,
}

impl Relay {
    /// An rsyslogd that does `action` with each message that it is sent, and with nothing else.
    pub(crate) fn rsyslog(action: &str) -> Self {
        Self::start("rsyslogd", |folder, input| {
            let dir = folder.display();
            let text = format!(
                r#"global(workDirectory="{dir}" localHostname="relay" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off")
module(load="imptcp")
input(type="imptcp" address="{}" port="{}" ruleset="relay")
ruleset(name="relay") {{ {action} }}
"#,
                input.ip(),
                input.port(),
            );
            let config = folder.join("rsyslog.conf");
            std::fs::write(&config, text).expect("write rsyslog.conf");
            super::rsyslog::command(&config)
        })
    }

    /// A syslog-ng that sends each message on by the driver `destination`.
    pub(crate) fn syslog_ng(destination: &str) -> Self {
        Self::start("syslog-ng", |folder, input| {
            let text = format!(
                "@version: 3.38\n\
                 options {{ keep-hostname(yes); chain-hostnames(no); use-dns(no); dns-cache(no); stats-freq(0); log-msg-size(65536); }};\n\
                 source s {{ syslog(ip({}) port({}) transport(\"tcp\")); }};\n\
                 destination d {{ {destination}; }};\n\
                 log {{ source(s); destination(d); flags(flow-control); }};\n",
                input.ip(),
                input.port(),
            );
            let config = folder.join("syslog-ng.conf");
            std::fs::write(&config, text).expect("write syslog-ng.conf");
            let mut command = debian_command("usr/sbin/syslog-ng");
            command.args(["--foreground", "--no-caps"]);
            command.arg("--cfgfile").arg(config).arg("--module-path").arg(debian("usr/lib/syslog-ng/3.38"));
            command.arg("--persist-file").arg(folder.join("persist")).arg("--control").arg(folder.join("ctl"));
            command.arg("--pidfile").arg(folder.join("pid"));
            command
        })
    }

    fn start(name: &str, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Self {
        let folder = Folder::new(name);
        let input = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut process = Process::spawn(name, &mut command(folder.path(), input));
        wait_for(&format!("{name} to listen"), || {
            process.assert_alive();
            listens(input).then_some(())
        });
        Self { process, input, folder }
    }

    /// Hands it messages over one connection, octet-counted, so that a message may hold anything.
    pub(crate) fn send(&self, messages: impl IntoIterator<Item = String>) {
        let mut frames = String::new();
        for message in messages {
            write!(frames, "{} {message}", message.len()).expect("a String takes it");
        }
        let mut stream = TcpStream::connect(self.input).expect("the relay listens");
        stream.write_all(frames.as_bytes()).expect("the relay reads");
    }

    pub(crate) fn assert_alive(&mut self) {
        self.process.assert_alive();
    }
}
