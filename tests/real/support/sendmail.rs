//! A real sendmail with everything of its own, and the mail destinations
//! around it.
//!
//! sendmail runs on a machine of its own (see [`super::machine`]): it sees its
//! own /etc/hosts, passwd and /dev/log there and the machine keeps its own. The
//! network is the machine's loopback. Every mail host of the test network has
//! an address in 127/8 and all listen on one port, so that mailers and log
//! lines look as usual.

use super::net::{free_port, listens};
use super::rsyslog::Rsyslog;
use super::{Folder, Process, debian_command, machine, run, wait_for};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Paths as they are inside the namespaces.
const SENDMAIL: &str = "/opt/usr/libexec/sendmail/sendmail";
const CF: &str = "/mnt/sendmail.cf";

/// The destinations: Postfix's smtp-sink under several addresses.
///
/// | mail to | what happens |
/// |---|---|
/// | `…@good.example.net` | taken |
/// | `…@defer.example.net` | 450 at RCPT |
/// | `…@refuse.example.net` | 550 at RCPT |
/// | `…@slow.example.net` | taken, 2 s after DATA |
/// | `…@dead.example.net` | connection refused |
///
/// More names (by mailertable, aliases and access list) are in
/// tests/parts/sendmail/.
#[derive(Debug)]
pub(crate) struct MailNet {
    port: u16,
    /// Holds the authority that signs the certificates of every server, and
    /// in `kept` what the good destination took.
    folder: Folder,
    _sinks: Vec<Process>,
}

impl MailNet {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A network whose good destination keeps every message it takes.
    pub(crate) fn keeping() -> Self {
        Self::with(&["-d", "%M%S."])
    }

    fn with(good: &[&str]) -> Self {
        let port = free_port();
        let folder = Folder::new("mailnet");
        authority(folder.path());
        machine::folder(&folder.join("kept"), 0o777, None);
        let sinks = [
            (1, "mx.good.example.net", vec![]),
            (2, "mx.defer.example.net", vec!["-b", "450 4.2.1 Mailbox busy, try later", "-r", "RCPT"]),
            (3, "mx.refuse.example.net", vec!["-B", "550 5.1.1 No such user, here: stat=Sent", "-f", "RCPT"]),
            (4, "mx.slow.example.net", vec!["-w", "2"]),
        ];
        let sinks = sinks.map(|(host, name, options)| {
            let addr = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), port));
            let mut command = debian_command("usr/sbin/smtp-sink");
            command.args(["-a", "-u", "nobody", "-h", name]).args(options);
            if host == 1 {
                command.arg("-R").arg(folder.join("kept")).args(good);
            }
            command.arg(addr.to_string()).arg("256");
            let mut sink = Process::spawn(name, &mut command);
            wait_for(name, || {
                sink.assert_alive();
                listens(addr).then_some(())
            });
            sink
        });
        Self { port, folder, _sinks: sinks.into() }
    }

    /// The Message-IDs that the good destination has taken, where it keeps
    /// messages; one that it took twice is there twice.
    pub(crate) fn kept(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.join("kept")).expect("a folder of ours").flatten();
        let id = |file: fs::DirEntry| {
            let text = String::from_utf8_lossy(&fs::read(file.path()).ok()?).into_owned();
            let id = text.lines().find_map(|line| line.strip_prefix("Message-ID: <")?.strip_suffix('>'));
            id.map(str::to_owned)
        };
        let mut ids: Vec<String> = files.filter_map(id).collect();
        ids.sort_unstable();
        ids
    }

    /// The port of every mail host of this network.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// What a test may choose about a [`Sendmail`].
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// 1 to 4: the host mx1.example.org to mx4.example.org.
    pub(crate) number: u8,
    /// More m4 text, in front of `MAILER(…)`: `INPUT_MAIL_FILTER(…)`,
    /// `define(…)`.
    pub(crate) extra_mc: String,
    /// Where it listens besides.
    pub(crate) also: Vec<Ipv4Addr>,
    /// `-L`: the program name in the log.
    pub(crate) log_label: String,
    /// `-q`: how often the queue is run.
    pub(crate) queue_run: String,
    /// How long a message is tried before it returns to its sender.
    pub(crate) queue_life: String,
}

impl Setup {
    /// The host with this number, else as Debian has it, with a queue run a
    /// minute.
    pub(crate) fn mx(number: u8) -> Self {
        assert!((1..=4).contains(&number), "the test network has mx1 to mx4");
        Self {
            number,
            extra_mc: String::new(),
            also: Vec::new(),
            log_label: "sm-mta".to_owned(),
            queue_run: "1m".to_owned(),
            queue_life: "5d".to_owned(),
        }
    }

    pub(crate) fn extra_mc(self, text: &str) -> Self {
        Self { extra_mc: text.to_owned(), ..self }
    }

    /// Listens at `addr` besides, with a filter of its own: its `S=…, F=…`.
    pub(crate) fn daemon(mut self, name: &str, addr: Ipv4Addr, filter: &str) -> Self {
        self.extra_mc += &format!(
            "MAIL_FILTER(`f{name}', `{filter}')dnl\n\
             DAEMON_OPTIONS(`Name={name}, Family=inet, Addr={addr}, Port=GP_PORT, InputMailFilters=f{name}')dnl\n"
        );
        self.also.push(addr);
        self
    }

    pub(crate) fn log_label(self, label: &str) -> Self {
        Self { log_label: label.to_owned(), ..self }
    }

    /// For retries and bounces that a test waits for.
    pub(crate) fn impatient(self, queue_run: &str, queue_life: &str) -> Self {
        Self { queue_run: queue_run.to_owned(), queue_life: queue_life.to_owned(), ..self }
    }
}

/// A running sendmail.
#[derive(Debug)]
pub(crate) struct Sendmail {
    setup: Setup,
    process: Option<Process>,
    folder: Folder,
    addr: SocketAddr,
}

impl Sendmail {
    /// Starts a sendmail in this network that logs through this rsyslogd.
    pub(crate) fn start(setup: Setup, net: &MailNet, syslog: &Rsyslog) -> Self {
        let folder = Folder::new("sendmail");
        let addr = SocketAddr::from((Ipv4Addr::new(127, 0, 2, setup.number), net.port()));
        let mut sendmail = Self { setup, process: None, folder, addr };
        sendmail.write_files(net, syslog);
        sendmail.start_again();
        sendmail
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn host(&self) -> String {
        format!("mx{}.example.org", self.setup.number)
    }

    /// The folder of the server: `mqueue/`, `mail/USER`, `sendmail.cf` …
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Asks the server to end, and waits until it has. The queue stays.
    pub(crate) fn stop(&mut self) {
        // unshare itself does not pass the signal on.
        let mut process = self.process.take().expect("sendmail runs");
        run(Command::new("kill").args(["-TERM", &machine::init(&process)]));
        wait_for("sendmail to end", || (!process.alive()).then_some(()));
    }

    /// Starts the server again with the same queue and configuration.
    pub(crate) fn start_again(&mut self) {
        let setup = &self.setup;
        let mut command = self.machine();
        command.arg(SENDMAIL).arg(format!("-L{}", setup.log_label)).args([
            "-C",
            CF,
            "-bD",
            &format!("-q{}", setup.queue_run),
        ]);
        let mut process = Process::spawn("sendmail", &mut command);
        // It opens one after the other.
        for ip in [self.addr.ip()].into_iter().chain(self.setup.also.iter().copied().map(Into::into)) {
            wait_for("sendmail", || {
                process.assert_alive();
                listens((ip, self.addr.port()).into()).then_some(())
            });
        }
        self.process = Some(process);
    }

    /// Runs the queue once, now, and waits for it to end.
    pub(crate) fn run_queue(&self) {
        run(self.inside().args([SENDMAIL, "-C", CF, "-q"]));
    }

    /// Hands in a message by the command line, as a local user does.
    pub(crate) fn submit_locally(&self, from: &str, to: &[&str], content: &str) {
        use std::io::Write as _;
        let mut command = self.inside();
        command.args([SENDMAIL, "-C", CF, "-Lsendmail", "-oi", "-f", from]).args(to).stdin(Stdio::piped());
        let mut child = command.spawn().expect("nsenter is there");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(content.as_bytes()).expect("sendmail reads");
        drop(stdin);
        assert!(child.wait().expect("a child of ours").code().is_some());
    }

    /// How many messages wait in the queue.
    pub(crate) fn queued(&self) -> usize {
        let files = fs::read_dir(self.folder.join("mqueue")).expect("the queue folder");
        files.flatten().filter(|f| f.file_name().as_encoded_bytes().starts_with(b"qf")).count()
    }

    /// Waits until nothing is left in the queue.
    pub(crate) fn wait_queue_empty(&self) {
        wait_for("an empty queue", || (self.queued() == 0).then_some(()));
    }

    /// The start of a command that makes the machine and runs in it.
    fn machine(&self) -> Command {
        machine::enter(&self.host(), self.folder.path())
    }

    /// The start of a command that runs on the running server's machine.
    pub(crate) fn inside(&self) -> Command {
        machine::inside(self.process.as_ref().expect("sendmail runs"))
    }

    fn write_files(&self, net: &MailNet, syslog: &Rsyslog) {
        let dir = self.folder.path();
        machine::furnish(dir, &syslog.socket());
        machine::folder(&dir.join("mqueue"), 0o700, None);
        // /run/greypit, for the socket of a greypit outside.
        machine::folder(&dir.join("greypit"), 0o755, None);
        for name in ["access", "aliases", "mailertable", "news.list", "service.switch"] {
            fs::copy(source(name), dir.join(name)).expect("a file of tests/parts/sendmail");
        }
        fs::write(dir.join("archive.mbox"), "").expect("write a file of ours");
        let nobody = Some(65534);
        std::os::unix::fs::chown(dir.join("archive.mbox"), nobody, nobody).expect("root may");
        self.write_cf();
        certificate(net.folder.path(), dir, &self.host());
        for map in ["access", "mailertable"] {
            let input = fs::File::open(dir.join(map)).expect("a file of ours");
            let mut makemap = self.machine();
            makemap.args(["/opt/usr/libexec/sendmail/makemap", "-C", CF, "hash"]);
            run(makemap.arg(format!("/mnt/{map}")).stdin(input));
        }
        run(self.machine().args([SENDMAIL, "-C", CF, "-bi"]));
    }

    fn write_cf(&self) {
        let dir = self.folder.path();
        let defines = [
            ("GP_HOST", self.host()),
            ("GP_ADDR", self.addr.ip().to_string()),
            ("GP_PORT", self.addr.port().to_string()),
            ("GP_QUEUE_LIFE", self.setup.queue_life.clone()),
            ("GP_LIBRARIES", machine::libraries()),
        ];
        fs::write(dir.join("extra.m4"), format!("{}\n", self.setup.extra_mc)).expect("write extra.m4");
        fs::copy(source("mx.mc"), dir.join("mx.mc")).expect("a file of tests/parts/sendmail");
        let mut m4 = self.machine();
        m4.arg("/opt/usr/bin/m4").args(defines.map(|(name, value)| format!("-D{name}={value}")));
        fs::write(dir.join("sendmail.cf"), run(m4.arg("/mnt/mx.mc"))).expect("write sendmail.cf");
    }
}

/// Makes a certificate authority in a folder.
fn authority(dir: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]);
    openssl.args(["-subj", "/O=Example/CN=Test authority", "-keyout", "ca.key", "-out", "ca.pem"]);
    run(openssl.current_dir(dir));
}

/// Makes a certificate for this host in `dir`, signed by the authority.
fn certificate(authority: &Path, dir: &Path, host: &str) {
    fs::copy(authority.join("ca.pem"), dir.join("ca.pem")).expect("a file of ours");
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-newkey", "rsa:2048", "-nodes", "-subj", &format!("/O=Example/CN={host}")]);
    openssl.args(["-keyout", "key.pem", "-out", "request.pem"]);
    run(openssl.current_dir(dir));
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-req", "-in", "request.pem", "-days", "30", "-out", "cert.pem"]);
    openssl.arg("-CA").arg("ca.pem").arg("-CAkey").arg(authority.join("ca.key"));
    openssl.args(["-set_serial", &host[2..3]]);
    run(openssl.current_dir(dir));
    let secret = fs::Permissions::from_mode(0o600);
    fs::set_permissions(dir.join("key.pem"), secret).expect("a file of ours");
}

/// A file under tests/parts/sendmail.
fn source(name: &str) -> PathBuf {
    machine::source("sendmail", name)
}

/// The version, such as "8.17.1.9".
pub(crate) fn version() -> String {
    let mut command = debian_command("usr/libexec/sendmail/sendmail");
    let output = command.args(["-d0.1", "-bv", "root"]).output().expect("sendmail starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(1).unwrap_or("?").to_owned()
}
