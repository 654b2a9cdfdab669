//! A real rsyslogd: reads a log socket of its own, writes every line to a
//! file as Debian does, and forwards it over TCP and UDP.

use super::{Folder, Process, debian, debian_command, run, wait_for};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place that every line is sent to.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    pub(crate) to: SocketAddr,
    pub(crate) over: Over,
    /// RFC 5424 instead of the BSD form.
    pub(crate) rfc5424: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    TcpLines,
    TcpOctetCounted,
}

/// A running rsyslogd.
#[derive(Debug)]
pub(crate) struct Rsyslog {
    process: Process,
    folder: Folder,
}

impl Rsyslog {
    /// Starts rsyslogd for a machine named `host`.
    pub(crate) fn start(host: &str, forwards: &[Forward]) -> Self {
        let folder = Folder::new("rsyslog");
        std::fs::write(folder.join("rsyslog.conf"), config(host, folder.path(), forwards)).expect("write rsyslog.conf");
        let process = spawn(folder.path());
        let mut rsyslog = Self { process, folder };
        rsyslog.wait_ready();
        rsyslog
    }

    /// The socket that plays /dev/log for [`super::sendmail::Sendmail`].
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The file that every line is appended to.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("maillog")
    }

    /// The lines in that file so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let bytes = std::fs::read(self.file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// Waits until at least `count` lines hold `text`, and gives those.
    pub(crate) fn wait_for_lines(&self, count: usize, text: &str) -> Vec<String> {
        wait_for(&format!("{count} log lines with {text:?}"), || {
            let found: Vec<_> = self.lines().into_iter().filter(|l| l.contains(text)).collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Moves the file aside, as logrotate does, and makes rsyslogd open it
    /// anew.
    pub(crate) fn rotate(&mut self, aside: &Path) {
        std::fs::rename(self.file(), aside).expect("rename the log file");
        self.process.signal("HUP");
    }

    /// Ends rsyslogd, which first writes what it has.
    pub(crate) fn stop(&mut self) {
        self.process.terminate();
    }

    /// Starts it again with the same files.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.folder.path());
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let socket = self.socket();
        wait_for("rsyslogd's log socket", || {
            self.process.assert_alive();
            let probe = std::os::unix::net::UnixDatagram::unbound().ok()?;
            probe.connect(&socket).ok()
        });
    }
}

fn spawn(folder: &Path) -> Process {
    Process::spawn("rsyslogd", &mut command(&folder.join("rsyslog.conf")))
}

/// rsyslogd in the foreground with that configuration.
pub(crate) fn command(config: &Path) -> Command {
    let modules = format!("usr/lib/{}-linux-gnu/rsyslog", std::env::consts::ARCH);
    let mut command = debian_command("usr/sbin/rsyslogd");
    command.arg("-n").arg("-iNONE").arg("-M").arg(debian(&modules)).arg("-f").arg(config);
    command
}

fn config(host: &str, folder: &Path, forwards: &[Forward]) -> String {
    let dir = folder.display();
    let mut text = format!(
        r#"global(workDirectory="{dir}" localHostname="{host}" maxMessageSize="64k")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{dir}/log" CreatePath="off" RateLimit.Interval="0")
action(type="omfile" file="{dir}/maillog" template="RSYSLOG_TraditionalFileFormat")
"#
    );
    for forward in forwards {
        let template = match forward.rfc5424 {
            true => "RSYSLOG_SyslogProtocol23Format",
            false => "RSYSLOG_TraditionalForwardFormat",
        };
        let transport = match forward.over {
            Over::Udp => r#"protocol="udp""#.to_owned(),
            Over::TcpLines => tcp("traditional"),
            Over::TcpOctetCounted => tcp("octet-counted"),
        };
        text += &format!(
            "action(type=\"omfwd\" target=\"{}\" port=\"{}\" template=\"{template}\" {transport})\n",
            forward.to.ip(),
            forward.to.port(),
        );
    }
    text
}

/// TCP with a queue in memory that waits for a receiver that is away.
fn tcp(framing: &str) -> String {
    format!(
        r#"protocol="tcp" TCP_Framing="{framing}" queue.type="LinkedList" queue.size="1000000" action.resumeRetryCount="-1" action.resumeInterval="1""#
    )
}

/// The version, such as "8.2302.0".
pub(crate) fn version() -> String {
    let text = run(debian_command("usr/sbin/rsyslogd").arg("-v"));
    text.split_whitespace().nth(1).unwrap_or("?").to_owned()
}
