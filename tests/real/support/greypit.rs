//! The daemon itself as a child process, and its commands over the same store.

use super::net::free_port;
use super::netns::Host;
use super::{Folder, Process, WAIT, run, wait_for};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use toml::{Table, Value};

/// A greypit with a folder of its own: config, log, spool and, unless the
/// config says otherwise, objects. It may be started and ended any number of
/// times.
#[derive(Debug)]
pub(crate) struct Greypit {
    process: Option<Process>,
    config: Table,
    env: Vec<(String, String)>,
    port: u16,
    /// Where it and its commands run, if not on the machine itself.
    host: Option<Host>,
    /// What it may do as the user `nobody`, if it is not started as root.
    capabilities: Option<String>,
    folder: Folder,
}

/// As seen by `nobody`, who may not pass through the folders above it: its folder.
const NOBODYS_FOLDER: &str = "/mnt";
/// Mounts the folder there (`ip netns exec` has made a mount namespace), and runs the
/// rest of the arguments as `nobody` with these capabilities and no way to others.
const AS_NOBODY: &str = "mount --bind \"$1\" /mnt; caps=-all,$2; shift 2
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
    --inh-caps=$caps --ambient-caps=$caps --bounding-set=$caps /mnt/greypit \"$@\"";

/// What `greypit verify` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) records: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) broken: u64,
    pub(crate) objects: u64,
}

impl Greypit {
    /// A greypit that is not started, listens to nothing but HTTP, and has a
    /// directory as its store.
    pub(crate) fn new(node: &str) -> Self {
        Self::made(node, None)
    }

    /// The same on a host of a private wire. It is asked there too.
    pub(crate) fn on(host: &Host, node: &str) -> Self {
        Self::made(node, Some(host.clone()))
    }

    fn made(node: &str, host: Option<Host>) -> Self {
        let folder = Folder::new(&format!("greypit-{node}"));
        let port = free_port();
        let mut greypit =
            Self { process: None, config: Table::new(), env: Vec::new(), port, host, capabilities: None, folder };
        greypit.set("node", node);
        greypit.set("data_dir", path(&greypit.folder.join("data")));
        greypit.set("store.url", path(&greypit.objects()));
        greypit.set("http.listen", greypit.addr().to_string());
        greypit.set("log.format", "json");
        // A test that stops it and reads the store wants all of it there, however busy the machine is.
        greypit.set("batch.drain_timeout", "2m");
        for sockets in ["udp", "tcp", "unix"] {
            greypit.set(&format!("syslog.{sockets}"), Vec::<Value>::new());
        }
        greypit
    }

    /// Sets keys as they are in a config file, for the next start or reload.
    pub(crate) fn set_toml(&mut self, text: &str) {
        for (section, keys) in text.parse::<Table>().expect("TOML") {
            for (key, value) in keys.as_table().expect("a section") {
                self.set(&format!("{section}.{key}"), value.clone());
            }
        }
    }

    /// Sets a key, such as `batch.window`, for the next start.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = &mut self.config;
        for step in tables.split('.').filter(|step| !step.is_empty()) {
            let entry = table.entry(step).or_insert_with(|| Table::new().into());
            table = entry.as_table_mut().expect("a section of the config");
        }
        table.insert(name.to_owned(), value.into());
    }

    /// Follows a log file, as one more `[[maillog]]`.
    pub(crate) fn follow(&mut self, file: &Path) {
        let entries = self.config.entry("maillog").or_insert_with(|| Vec::<Value>::new().into());
        let entry = Table::from_iter([("path".to_owned(), path(file).into())]);
        entries.as_array_mut().expect("a list").push(entry.into());
    }

    /// Sets variables for the daemon and the commands.
    pub(crate) fn env<K: Into<String>, V: Into<String>>(&mut self, variables: impl IntoIterator<Item = (K, V)>) {
        self.env.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
    }

    /// From now on it and its commands run as the user `nobody` with these capabilities
    /// alone, such as `+net_raw,+net_bind_service`, and its folder is that user's. It must be on a host.
    pub(crate) fn as_nobody(&mut self, capabilities: &str) {
        self.capabilities = Some(capabilities.to_owned());
        let program = self.folder.join("greypit");
        if !program.exists() {
            std::fs::hard_link(env!("CARGO_BIN_EXE_greypit"), program).expect("the folder is beside the program");
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.folder.join("data/spool")
    }

    /// The store, unless the config names another one.
    pub(crate) fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// Where it answers HTTP.
    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts it, and does not wait until it is ready.
    pub(crate) fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("the daemon's log file");
        let mut command = self.command("run");
        command.stdout(log.try_clone().expect("the daemon's log file")).stderr(log);
        self.process = Some(Process::spawn("greypit", &mut command));
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.spawn();
        wait_for("greypit to answer", || {
            self.process.as_mut().expect("just started").assert_alive();
            self.get("/healthz").filter(|(status, _)| *status == 200)
        });
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("greypit runs").kill();
    }

    /// SIGTERM; waits until it has ended.
    pub(crate) fn terminate(&mut self) {
        let _status = self.end();
    }

    /// The same, and says how it ended.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.process.take().expect("greypit runs").end()
    }

    /// Sends a signal such as `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.as_ref().expect("greypit runs").signal(name);
    }

    /// Makes it read its config, as it is now, and waits until it has.
    pub(crate) fn reload(&mut self) {
        let reloads = |greypit: &Self| greypit.log().matches("\"reloaded").count();
        let before = reloads(self);
        self.write_config();
        self.process.as_ref().expect("greypit runs").signal("HUP");
        wait_for("the reload", || (reloads(self) > before).then_some(()));
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().expect("greypit runs").id()
    }

    /// From now on it may have no more descriptors than these.
    pub(crate) fn limit_descriptors(&self, count: u64) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit { current: Some(count), maximum: Some(count) };
        prlimit(Pid::from_raw(self.id() as i32), Resource::Nofile, limit).expect("a limit for a child of ours");
    }

    /// Ends the test if it has ended by itself.
    pub(crate) fn assert_alive(&mut self) {
        self.process.as_mut().expect("greypit runs").assert_alive();
    }

    /// What it has logged so far, over all its starts.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// GET from its HTTP address: status and body, if it answers.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        match &self.host {
            Some(host) => host.enter(|| get(self.addr(), path)),
            None => get(self.addr(), path),
        }
    }

    /// What `/readyz` says.
    pub(crate) fn readiness(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.get("/readyz")?.1).ok()
    }

    /// The sum of a metric over all its labels; none where it does not answer
    /// or does not know the metric.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics")?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// One series, with its labels as they are printed; 0 while there is none.
    pub(crate) fn series(&self, series: &str) -> u64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse::<f64>().expect("a number") as u64)
    }

    /// Writes the daemon's config as it is now.
    pub(crate) fn write_config(&self) {
        self.write("greypit.toml", &self.config);
    }

    fn write(&self, file: &str, config: &Table) {
        let mut text = toml::to_string(config).expect("a config");
        if self.capabilities.is_some() {
            text = text.replace(&path(self.folder.path()), NOBODYS_FOLDER);
        }
        std::fs::write(self.folder.join(file), text).expect("write the config");
    }

    /// The config for a command. It asks the store once, so it has patience with it, which the daemon need not have.
    fn patient(&self) -> Table {
        let mut config = self.config.clone();
        if let Some(store) = config.get_mut("store").and_then(Value::as_table_mut) {
            for key in ["request_timeout", "connect_timeout"] {
                store.insert(key.to_owned(), "1m".into());
            }
        }
        config
    }

    /// A command with the config as it is now, in a file of its own unless it is the daemon.
    pub(crate) fn command(&self, name: &str) -> Command {
        let file = if name == "run" { "greypit.toml" } else { "command.toml" };
        match name {
            "run" => self.write_config(),
            _ => self.write(file, &self.patient()),
        }
        let config = self.folder.join(file);
        let program = env!("CARGO_BIN_EXE_greypit");
        let (mut command, config) = match (&self.host, &self.capabilities) {
            (None, _) => (Command::new(program), config),
            (Some(host), None) => (host.command(program), config),
            (Some(host), Some(capabilities)) => {
                // While it runs its files come and go, and are its own anyhow.
                if self.process.is_none() {
                    run(Command::new("chown").args(["-R", "65534:65534"]).arg(self.folder.path()));
                }
                let mut command = host.command("sh");
                command.args(["-ec", AS_NOBODY, "sh"]).arg(self.folder.path()).arg(capabilities);
                (command, Path::new(NOBODYS_FOLDER).join(file))
            }
        };
        let env = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        command.arg("--config").arg(config).arg(name).envs(env).stdin(Stdio::null());
        command
    }

    /// `greypit verify`, and what it said on stderr.
    pub(crate) fn verify(&self) -> (Verdict, String) {
        let output = self.command("verify").output().expect("greypit starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let figure = |name: &str| {
            let mut figures = text.split_whitespace().filter_map(|word| word.split_once('='));
            let figure = figures.find(|(found, _)| *found == name).and_then(|(_, value)| value.parse().ok());
            figure.unwrap_or_else(|| panic!("no {name} in {text:?}\n{complaints}"))
        };
        let verdict = Verdict {
            records: figure("records"),
            lost: figure("lost"),
            repeated: figure("repeated"),
            broken: figure("broken"),
            objects: figure("objects"),
        };
        let exact = (verdict.lost, verdict.repeated, verdict.broken) == (0, 0, 0);
        assert_eq!(output.status.code(), Some(i32::from(!exact)), "{text}{complaints}");
        (verdict, complaints)
    }

    /// `greypit cat`: hands on every line.
    pub(crate) fn cat(&self, mut each: impl FnMut(&str)) {
        let mut child = self.command("cat").stdout(Stdio::piped()).spawn().expect("greypit starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        lines.for_each(|line| each(&line.expect("records are UTF-8")));
        assert!(child.wait().expect("a child of ours").success(), "greypit cat failed");
    }
}

/// GET from an HTTP server: status and body, if it answers.
pub(crate) fn get(server: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&server, WAIT).ok()?;
    stream.set_read_timeout(Some(WAIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: greypit\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn path(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}
