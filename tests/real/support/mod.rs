//! The real parts that tests start: a sendmail, a Postfix, an rsyslogd, mail
//! destinations, an S3 server, an Apache Kafka, a proxy that breaks
//! connections, and machines that boot over networks of their own.
//!
//! Each part is a child process (or a thread) with a folder of its own, on
//! loopback ports that were free when it started. A part is ready when its
//! `start` returns, since `start` asks the part itself; it is gone when its
//! value is dropped. The folder stays, and its path is printed, when the test
//! that owns it panics.
//!
//! The programs come from the folder that `tests/run.sh` fills: see
//! [`parts_dir`].

// Every test program compiles this module and uses some of it.
#![allow(dead_code)]

pub(crate) mod boot_server;
pub(crate) mod capture;
pub(crate) mod collector;
pub(crate) mod daemon;
pub(crate) mod dhcp;
pub(crate) mod dhcp_packet;
pub(crate) mod dnsmasq;
pub(crate) mod farm;
pub(crate) mod filtered;
pub(crate) mod flood;
pub(crate) mod greypit;
pub(crate) mod kafka;
pub(crate) mod link;
pub(crate) mod linux;
pub(crate) mod machine;
pub(crate) mod maillog;
pub(crate) mod net;
pub(crate) mod netns;
pub(crate) mod postfix;
pub(crate) mod proxy;
pub(crate) mod qemu;
pub(crate) mod random;
pub(crate) mod reading;
pub(crate) mod readme;
pub(crate) mod relay;
pub(crate) mod rsyslog;
pub(crate) mod s3;
pub(crate) mod sendmail;
pub(crate) mod smtp;
pub(crate) mod tftp;
pub(crate) mod traffic;
pub(crate) mod watch;
pub(crate) mod web;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a part may take to be ready, or a wait in a test may last. It only
/// ends what hangs: no machine is so slow and so busy with other things.
pub(crate) const WAIT: Duration = Duration::from_secs(180);

/// The folder of what `tests/run.sh` built and unpacked: `debian/` and `boot/` hold
/// the unpacked packages, `bin/` the S3 server, `kafka/` Kafka's jars.
pub(crate) fn parts_dir() -> PathBuf {
    let cache = std::env::var_os("GREYPIT_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| {
        let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
        std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("greypit")
    });
    cache.join("parts")
}

/// The path of a file of an unpacked Debian package, which must exist.
pub(crate) fn debian(path: &str) -> PathBuf {
    let path = parts_dir().join("debian").join(path);
    assert!(path.exists(), "{} is missing: run tests/run.sh once", path.display());
    path
}

/// A command from an unpacked Debian package, able to find its libraries.
pub(crate) fn debian_command(path: &str) -> Command {
    let mut command = Command::new(debian(path));
    command.env("LD_LIBRARY_PATH", library_path());
    command
}

/// The path of a file of the packages that boot and serve boots, which must exist.
pub(crate) fn boot(path: &str) -> PathBuf {
    let path = parts_dir().join("boot").join(path);
    assert!(path.symlink_metadata().is_ok(), "{} is missing: run tests/run.sh once", path.display());
    path
}

/// Where their libraries are.
fn boot_libraries() -> OsString {
    library_path_in(&parts_dir().join("boot"))
}

/// Where the libraries of the unpacked packages are.
fn library_path() -> OsString {
    library_path_in(&parts_dir().join("debian"))
}

/// The same, when the unpacked packages are seen at `root`.
fn library_path_in(root: &Path) -> OsString {
    let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [
        root.join("usr/lib").join(&arch),
        root.join("lib").join(&arch),
        root.join("usr/lib/postfix"),
        root.join("usr/lib/syslog-ng"),
    ];
    std::env::join_paths(folders).expect("no colon in the cache folder's path")
}

/// Runs a command to its end and gives its standard output; a failure ends
/// the test with what the command said.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// Asks `ready` until it has an answer, for at most [`WAIT`].
pub(crate) fn wait_for<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    wait_up_to(WAIT, what, ready)
}

/// Asks `ready` until it has an answer, for at most `limit`.
pub(crate) fn wait_up_to<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(Instant::now() < end, "after {limit:?} still waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder for one part or test. It goes with its value, unless the test
/// panics: then it stays to be looked at.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: Option<tempfile::TempDir>,
}

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a folder in cargo's temporary folder");
        Self { dir: Some(dir) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.as_ref().expect("only drop takes it").path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take().filter(|_| std::thread::panicking()) {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// A child process that does not outlive its value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(std::process::Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {command:?}: {e}"));
        Self { child, name: name.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Ends the test if the process has ended by itself.
    pub(crate) fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "{} ended by itself: {ended:?}", self.name);
    }

    /// Sends a signal such as `TERM`, `STOP` or `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        run(Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()));
    }

    /// Asks the process to end, and waits until it has.
    pub(crate) fn terminate(&mut self) {
        let _status = self.end();
    }

    /// The same, and says how it ended.
    pub(crate) fn end(&mut self) -> ExitStatus {
        if self.alive() {
            self.signal("TERM");
        }
        wait_for(&format!("{} to end", self.name), || self.child.try_wait().expect("a child of ours"))
    }

    /// Ends the process at once.
    pub(crate) fn kill(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
