//! A greypit as a child, with a config for collecting, shipping or both.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::net::free_port;

const WAIT: Duration = Duration::from_secs(600);

/// How often figures are asked for: each time costs the node a fraction of a millisecond.
const POLL: Duration = Duration::from_millis(50);

/// What a node is to be.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) node: &'a str,
    /// As in the config: `"collect"`, `"ship"`.
    pub(crate) roles: &'a [&'a str],
    pub(crate) data: PathBuf,
    pub(crate) objects: PathBuf,
    /// Lines of `[batch]`.
    pub(crate) batch: &'a str,
    /// The brokers, and what topics begin with; none: the node ships by itself.
    pub(crate) kafka: Option<(&'a str, &'a str)>,
    pub(crate) group: &'a str,
}

pub(crate) struct Node {
    child: Child,
    syslog: u16,
    http: u16,
    pub(crate) began: Instant,
}

impl Node {
    /// Starts it and waits until it answers.
    pub(crate) fn start(setup: &Setup<'_>) -> Node {
        let (syslog, http) = (free_port(), free_port());
        let collects = setup.roles.contains(&"collect");
        let tcp = if collects { format!("\"127.0.0.1:{syslog}\"") } else { String::new() };
        let mut text = format!(
            "node = \"{}\"\nroles = {:?}\ndata_dir = {:?}\n[log]\nlevel = \"error\"\n[syslog]\nudp = []\ntcp = [{tcp}]\n\
             [spool]\nmax_bytes = \"64GiB\"\n[batch]\n{}\ndrain_timeout = \"10m\"\n[store]\nurl = {:?}\n\
             [http]\nlisten = \"127.0.0.1:{http}\"\n",
            setup.node, setup.roles, setup.data, setup.batch, setup.objects
        );
        if let Some((brokers, prefix)) = setup.kafka {
            text += &format!(
                "[kafka]\nbrokers = \"{brokers}\"\ntopic_prefix = \"{prefix}\"\ngroup = \"{}\"\n[kafka.topics]\nreplication = 1\n",
                setup.group
            );
        }
        fs::create_dir_all(&setup.data).expect("the folder is made");
        let config = setup.data.join("greypit.toml");
        fs::write(&config, text).expect("the config is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_greypit"));
        let began = Instant::now();
        let child =
            command.args(["run", "--config"]).arg(&config).stdout(Stdio::null()).spawn().expect("greypit starts");
        let mut node = Node { child, syslog, http, began };
        node.wait("an answer", |node| node.get("/healthz").is_some().then_some(()));
        node
    }

    /// Sends a log by TCP syslog.
    pub(crate) fn send(&self, log: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.syslog)).expect("greypit listens");
        stream.write_all(log).expect("greypit takes it");
    }

    /// The sum of all series of a counter or gauge.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.series(name).iter().map(|(_, value)| value).sum()
    }

    /// The series of a counter or gauge: labels and value.
    pub(crate) fn series(&self, name: &str) -> Vec<(String, f64)> {
        let text = self.get("/metrics").unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{')).then(|| Some((labels.to_owned(), value.parse().ok()?)))?
        });
        lines.collect()
    }

    /// Waits until a counter has reached `count`.
    pub(crate) fn reach(&mut self, name: &str, count: usize) {
        self.wait(name, |node| (node.sum(name) >= count as f64).then_some(()));
    }

    pub(crate) fn wait<T>(&mut self, what: &str, mut done: impl FnMut(&Node) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(done) = done(self) {
                return done;
            }
            assert!(began.elapsed() < WAIT, "still waiting for {what}");
            assert!(self.child.try_wait().expect("a child of ours").is_none(), "greypit has ended by itself");
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it as systemd would; it drains.
    pub(crate) fn finish(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("greypit runs");
        assert!(self.child.wait().expect("greypit ends").success());
    }

    fn get(&self, path: &str) -> Option<String> {
        crate::http::get(self.http, path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Copies a data folder, so that it can be used up more than once.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is made");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the file is copied");
        }
    }
}
