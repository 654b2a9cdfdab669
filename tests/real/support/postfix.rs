//! A real Postfix with everything of its own, on a machine of its own (see
//! [`super::machine`]): queue, configuration, log, and an address in 127/8. It
//! delivers to the destinations of a [`MailNet`].

use super::net::listens;
use super::sendmail::MailNet;
use super::{Folder, Process, machine, run, wait_for};
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The users of tests/parts/sendmail/etc.
const POSTFIX: (u32, u32) = (2200, 2200);
const POSTDROP: u32 = 2201;

/// What a test may choose about a [`Postfix`].
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// 1 to 4: the host pf1.example.org to pf4.example.org.
    number: u8,
    /// Whether smtpd and most others run chrooted in the queue folder, as
    /// Debian has it.
    chroot: bool,
    /// More lines of main.cf.
    main_cf: String,
}

impl Setup {
    pub(crate) fn pf(number: u8) -> Self {
        assert!((1..=4).contains(&number), "the test network has pf1 to pf4");
        Self { number, chroot: false, main_cf: String::new() }
    }

    pub(crate) fn chrooted(self) -> Self {
        Self { chroot: true, ..self }
    }

    pub(crate) fn main_cf(self, lines: &str) -> Self {
        Self { main_cf: format!("{}{lines}\n", self.main_cf), ..self }
    }

    /// What stands for `GP_PORT` in those lines.
    pub(crate) fn port(self, port: u16) -> Self {
        Self { main_cf: self.main_cf.replace("GP_PORT", &port.to_string()), ..self }
    }
}

/// A running Postfix.
#[derive(Debug)]
pub(crate) struct Postfix {
    setup: Setup,
    process: Option<Process>,
    folder: Folder,
    addr: SocketAddr,
}

impl Postfix {
    pub(crate) fn start(setup: Setup, net: &MailNet) -> Self {
        let folder = Folder::new("postfix");
        let addr = SocketAddr::from((Ipv4Addr::new(127, 0, 3, setup.number), net.port()));
        let mut postfix = Self { setup, process: None, folder, addr };
        postfix.write_files(net);
        postfix.start_again();
        postfix
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn host(&self) -> String {
        format!("pf{}.example.org", self.setup.number)
    }

    /// The folder of the server: `spool/`, `config/`, `maillog` …
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder `greypit/` in the queue folder, for a milter's socket.
    pub(crate) fn milter_folder(&self) -> PathBuf {
        self.folder.join("spool/greypit")
    }

    /// Starts the server again with the same queue and configuration.
    pub(crate) fn start_again(&mut self) {
        let mut command = machine::enter(&self.host(), self.folder.path());
        command.args(["/opt/usr/lib/postfix/sbin/master", "-d", "-c", "/mnt/config"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn("postfix", &mut command);
        let addr = self.addr;
        wait_for("postfix", || {
            process.assert_alive();
            listens(addr).then_some(())
        });
        self.process = Some(process);
    }

    /// The start of a command that runs on the server's machine, where
    /// `postconf`, `postfix` and `sendmail` are Postfix's and know its folder.
    pub(crate) fn inside(&self) -> Command {
        let mut command = machine::inside(self.process.as_ref().expect("postfix runs"));
        command.env("MAIL_CONFIG", "/mnt/config").env("PATH", "/opt/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Hands in a message by the command line, as a local user does.
    pub(crate) fn submit_locally(&self, from: &str, to: &str, content: &str) {
        let mut command = self.inside();
        command.args(["sendmail", "-i", "-f", from, to]).stdin(Stdio::piped());
        let mut child = command.spawn().expect("nsenter is there");
        child.stdin.take().expect("a pipe").write_all(content.as_bytes()).expect("sendmail reads");
        assert!(child.wait().expect("a child of ours").success());
    }

    /// Has it read its configuration again by `how`. Nobody may be connected: on return no server of before is left,
    /// which would go on as it was.
    pub(crate) fn reload(&self, how: impl FnOnce()) {
        let servers = self.inside().args(["pidof", "smtpd"]).output().expect("nsenter is there").stdout;
        let servers = String::from_utf8(servers).expect("numbers");
        how();
        self.wait_for_lines(1, "reload -- version");
        let script = "for pid in \"$@\"; do [ ! -d /proc/$pid ] || exit 1; done";
        wait_for("the servers of before to end", || {
            let mut command = self.inside();
            let status = command.args(["sh", "-c", script, "sh"]).args(servers.split_whitespace()).status();
            status.expect("nsenter is there").success().then_some(())
        });
    }

    /// Lines of its log so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let bytes = fs::read(self.folder.join("maillog")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    /// Waits until at least `count` lines hold `text`, and gives those.
    pub(crate) fn wait_for_lines(&self, count: usize, text: &str) -> Vec<String> {
        wait_for(&format!("{count} log lines with {text:?}"), || {
            let found: Vec<_> = self.lines().into_iter().filter(|l| l.contains(text)).collect();
            (found.len() >= count).then_some(found)
        })
    }

    fn write_files(&self, net: &MailNet) {
        let dir = self.folder.path();
        machine::furnish(dir, Path::new("/nonexistent"));
        machine::folder(&dir.join("config"), 0o755, None);
        machine::folder(&dir.join("data"), 0o755, Some(POSTFIX));
        let spool = dir.join("spool");
        machine::folder(&spool, 0o755, None);
        machine::folder(&spool.join("pid"), 0o755, None);
        for name in
            "active bounce corrupt defer deferred flush hold incoming private saved trace".split_ascii_whitespace()
        {
            machine::folder(&spool.join(name), 0o700, Some(POSTFIX));
        }
        machine::folder(&spool.join("maildrop"), 0o730, Some((POSTFIX.0, POSTDROP)));
        machine::folder(&spool.join("public"), 0o710, Some((POSTFIX.0, POSTDROP)));
        // What is made in here belongs to Postfix's group.
        machine::folder(&self.milter_folder(), 0o2750, Some((0, POSTFIX.1)));
        // What a chrooted process reads, as Debian's start script copies it.
        machine::folder(&spool.join("etc"), 0o755, None);
        for name in ["hosts", "nsswitch.conf"] {
            fs::copy(dir.join("etc").join(name), spool.join("etc").join(name)).expect("a file of ours");
        }
        let master = fs::read_to_string(machine::source("postfix", "master.cf")).expect("a file of ours");
        let master = master.replace("GP_LISTEN", &self.addr.to_string());
        let master = master.replace("GP_CHROOT", if self.setup.chroot { "y" } else { "n" });
        fs::write(dir.join("config/master.cf"), master).expect("write master.cf");
        let mut main = fs::read_to_string(machine::source("postfix", "main.cf")).expect("a file of ours");
        let libraries = machine::libraries();
        main += &format!(
            "myhostname = {}\ninet_interfaces = all\ndefault_transport = smtp:[mx.good.example.net]:{}\n\
             import_environment = MAIL_CONFIG LD_LIBRARY_PATH={libraries}\n\
             export_environment = MAIL_CONFIG LD_LIBRARY_PATH={libraries}\n{}",
            self.host(),
            net.port(),
            self.setup.main_cf,
        );
        fs::write(dir.join("config/main.cf"), main).expect("write main.cf");
    }
}

/// The version, such as "3.7.11".
pub(crate) fn version() -> String {
    run(super::debian_command("usr/sbin/postconf").args(["-d", "-h", "mail_version"])).trim().to_owned()
}
