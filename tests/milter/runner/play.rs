//! Plays a script against a greypit of its own.

use super::conn::{Conn, Cut};
use super::packet::{self, ALL_ACTIONS, ALL_STEPS, Reply};
use super::script::{Expected, Script, Step};
use super::support::greypit::Greypit;
use super::support::wait_up_to;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a metric may take to get there before the case has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// The line of the file where something was not as expected, and what.
pub(crate) type Failed = (usize, String);

/// A running greypit with a milter socket.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) greypit: Greypit,
    pub(crate) socket: PathBuf,
}

impl Target {
    /// With these keys of `[milter]`.
    pub(crate) fn start(config: &str) -> Result<Target, String> {
        let mut target = Target::new(config)?;
        target.greypit.start();
        Ok(target)
    }

    /// The same, not started.
    pub(crate) fn new(config: &str) -> Result<Target, String> {
        let mut greypit = Greypit::new("mx1");
        // The records are read in the end, and a slow disk may take its time.
        greypit.set("batch.drain_timeout", "2m");
        let socket = greypit.folder().join("milter.sock");
        let listen = format!("unix:{}", socket.display());
        greypit.set("milter.listen", vec![toml::Value::from(listen)]);
        let mut target = Target { greypit, socket };
        target.set(config)?;
        Ok(target)
    }

    fn set(&mut self, config: &str) -> Result<(), String> {
        fn set(greypit: &mut Greypit, prefix: &str, table: toml::Table) {
            for (key, value) in table {
                let key = format!("{prefix}.{key}");
                match value {
                    toml::Value::Table(table) => set(greypit, &key, table),
                    value => greypit.set(&key, value),
                }
            }
        }
        let table = config.parse::<toml::Table>().map_err(|error| format!("config: {error}"))?;
        set(&mut self.greypit, "milter", table);
        Ok(())
    }

    fn reload(&mut self, config: &str) -> Result<(), String> {
        self.set(config)?;
        let reloads = |greypit: &Greypit| greypit.log().matches("reload").count();
        let before = reloads(&self.greypit);
        self.greypit.write_config();
        self.greypit.signal("HUP");
        wait_up_to(PATIENCE, "the reload", || (reloads(&self.greypit) > before).then_some(()));
        if self.greypit.log().contains("the config is as before") {
            return Err(format!("the reload was refused:\n{}", self.greypit.log()));
        }
        Ok(())
    }

    /// A well-behaved mail server that comes now is served, whatever others have sent.
    pub(crate) fn check_serves(&mut self) -> Result<(), String> {
        self.greypit.assert_alive();
        let mut conn = Conn::open(&self.socket, Cut::AsWritten)?;
        negotiate(&mut conn)?;
        client(&mut conn, "198.51.100.250", &[])?;
        message(&mut conn, &["b@example.org".to_owned()])?;
        conn.send(&packet::packet(b'Q', b""));
        conn.finish()
    }

    /// SIGTERM: it ends in order, and without a panic before.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let status = self.greypit.end();
        let log = self.greypit.log();
        let panicked = log.lines().find(|line| line.contains("panicked"));
        match panicked {
            None if status.success() => Ok(()),
            None => Err(format!("ended with {status}:\n{log}")),
            Some(line) => Err(line.to_owned()),
        }
    }

    fn metric(&self, name: &str, labels: &[String]) -> Option<u64> {
        let (_, text) = self.greypit.get("/metrics")?;
        let series = text.lines().filter_map(|line| {
            let behind = line.strip_prefix(name)?;
            let (found, value) = behind.rsplit_once(' ')?;
            let sound = found.is_empty() || found.starts_with('{');
            (sound && labels.iter().all(|label| found.contains(label.as_str()))).then_some(value.parse::<f64>().ok()?)
        });
        series.fold(None, |sum, value| Some(sum.unwrap_or(0) + value as u64))
    }

    fn await_metric(&self, name: &str, labels: &[String], at_least: bool, value: u64) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.metric(name, labels);
            if found.is_some_and(|found| if at_least { found >= value } else { found == value }) {
                return Ok(());
            }
            if Instant::now() > end {
                let (_, text) = self.greypit.get("/metrics").unwrap_or_default();
                let near: Vec<_> = text.lines().filter(|line| line.starts_with("greypit_milter")).collect();
                return Err(format!("{name} {labels:?} is {found:?}, not {value}; there is\n{}", near.join("\n")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Plays it once.
pub(crate) fn play(script: &Script, cut: Cut) -> Result<(), Failed> {
    let mut target = Target::start(&script.config).map_err(|problem| (1, problem))?;
    let mut player = Player { target: &mut target, cut, conns: BTreeMap::new(), name: String::new(), running: true };
    let played = player.play(script);
    drop(player);
    played.map_err(|(number, problem)| {
        let log = target.greypit.log();
        let bad = log.lines().filter(|line| !line.contains(r#""level":"INFO""#));
        (number, bad.take(4).fold(problem, |text, line| text + "\n  log: " + line))
    })
}

#[derive(Debug)]
struct Player<'t> {
    target: &'t mut Target,
    cut: Cut,
    conns: BTreeMap<String, Conn>,
    /// Of the connection that is spoken on.
    name: String,
    running: bool,
}

impl Player<'_> {
    fn play(&mut self, script: &Script) -> Result<(), Failed> {
        for line in &script.lines {
            self.step(&line.step).map_err(|problem| (line.number, problem))?;
        }
        let last = script.lines.last().map_or(1, |line| line.number);
        for (_, conn) in std::mem::take(&mut self.conns) {
            conn.finish().map_err(|problem| (last, problem))?;
        }
        if self.running {
            self.target.check_serves().map_err(|problem| (last, format!("afterwards: {problem}")))?;
            self.target.end().map_err(|problem| (last, problem))?;
        }
        match &script.records {
            Some(expected) => self.check_records(expected),
            None => Ok(()),
        }
    }

    fn conn(&mut self) -> Result<&mut Conn, String> {
        if !self.conns.contains_key(&self.name) {
            self.conns.insert(self.name.clone(), Conn::open(&self.target.socket, self.cut)?);
        }
        self.conns.get_mut(&self.name).ok_or_else(|| "just opened".to_owned())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        if matches!(step, Step::On(_) | Step::Metric { .. } | Step::Terminate | Step::Reload(_)) {
            self.conns.values_mut().for_each(Conn::flush);
        }
        match step {
            Step::On(name) => {
                self.name.clone_from(name);
                self.conn()?;
            }
            Step::Send(bytes) => self.conn()?.send(bytes),
            Step::Expect(Expected::Nothing) => {
                if self.conn()?.has_answer()? {
                    return Err(format!("expected no answer, got {}", self.conn()?.read()?));
                }
            }
            Step::Expect(Expected::Kept(then)) => {
                Expected::Text("progress".to_owned()).check(&self.conn()?.read()?)?;
                let mut reply = Reply::Progress;
                while reply == Reply::Progress {
                    reply = self.conn()?.read()?;
                }
                Expected::Text(then.clone()).check(&reply)?;
            }
            Step::Expect(expected) => expected.check(&self.conn()?.read()?)?,
            Step::Held(least) => {
                let held = self.conn()?.held();
                if held < *least {
                    return Err(format!("held for {held:?}, not {least:?}"));
                }
            }
            Step::Negotiate => negotiate(self.conn()?)?,
            Step::Client(address, macros) => client(self.conn()?, address, macros)?,
            Step::Message(recipients) => message(self.conn()?, recipients)?,
            Step::Split(bytes) => self.conn()?.split(*bytes),
            Step::Coalesce(on) => self.conn()?.coalesce(*on),
            Step::Eof => self.conn()?.eof(),
            Step::Hangup => {
                let mut conn = self.conns.remove(&self.name).ok_or("nothing is open")?;
                conn.coalesce(false);
            }
            Step::Metric { name, labels, at_least, value } => {
                self.target.await_metric(name, labels, *at_least, *value)?;
            }
            Step::Terminate => {
                self.target.end()?;
                self.running = false;
            }
            Step::Reload(config) => self.target.reload(config)?,
        }
        Ok(())
    }

    /// The records of the connections that the case opened, in the order of their numbers.
    fn check_records(&self, expected: &[(usize, serde_json::Value)]) -> Result<(), Failed> {
        let mut found = Vec::new();
        self.target.greypit.cat(|line| found.extend(serde_json::from_str::<serde_json::Value>(line)));
        found.retain(|record| record["kind"] == "mail" && record["client_addr"] != "198.51.100.250");
        for (at, (number, expected)) in expected.iter().enumerate() {
            let fields = expected.as_object().into_iter().flatten();
            let record = found.get(at).ok_or((*number, "there is no such record".to_owned()))?;
            for (name, value) in fields {
                if record.get(name).unwrap_or(&serde_json::Value::Null) != value {
                    return Err((*number, format!("{name} is not {value} in {record}")));
                }
            }
        }
        match found.get(expected.len()) {
            Some(record) => Err((expected.last().map_or(1, |(number, _)| *number), format!("a record more: {record}"))),
            None => Ok(()),
        }
    }
}

fn negotiate(conn: &mut Conn) -> Result<(), String> {
    conn.send(&packet::offer(6, ALL_ACTIONS, ALL_STEPS));
    match conn.read()? {
        Reply::Agreed(_) => Ok(()),
        reply => Err(format!("{reply} to OPTNEG")),
    }
}

/// Sends a command and expects `continue`, or nothing where that was agreed on.
pub(crate) fn passes(conn: &mut Conn, command: u8, data: &[u8]) -> Result<(), String> {
    conn.send(&packet::packet(command, data));
    if !conn.agreed.answers(command) {
        return Ok(());
    }
    match conn.read()? {
        Reply::Continue => Ok(()),
        Reply::Accept if command == b'E' => Ok(()),
        reply => Err(format!("{reply} to {}", char::from(command))),
    }
}

/// A client connects, from an address, `local` or `unknown`, and says HELO.
pub(crate) fn client(conn: &mut Conn, address: &str, macros: &[(String, Vec<u8>)]) -> Result<(), String> {
    let given = |name: &str| macros.iter().any(|(given, _)| given == name);
    let common = [("j", "mx1.example.org"), ("v", "8.17.1.9"), ("{daemon_name}", "MTA"), ("{client_addr}", address)];
    let common = common.iter().filter(|(name, _)| !given(name));
    let mut values: Vec<_> = common.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    values.extend(macros.iter().cloned());
    conn.send(&packet::macros(b'C', &values));
    let connect = match address {
        "local" => packet::connect("localhost", b'L', 0, "/run/submit"),
        "unknown" => packet::connect("unknown", b'U', 0, ""),
        _ if address.contains(':') => packet::connect("client.example.com", b'6', 40001, address),
        _ => packet::connect("client.example.com", b'4', 40001, address),
    };
    passes(conn, b'C', &connect[5..])?;
    conn.send(&packet::macros(b'H', &[]));
    passes(conn, b'H', b"client.example.com\0")
}

/// A message from MAIL to its end, with the commands that were agreed on.
pub(crate) fn message(conn: &mut Conn, recipients: &[String]) -> Result<(), String> {
    let agreed = conn.agreed.clone();
    conn.send(&packet::macros(b'M', &[("i".to_owned(), b"5ALCu12s000001".to_vec())]));
    passes(conn, b'M', b"<a@example.com>\0SIZE=200\0")?;
    for recipient in recipients {
        conn.send(&packet::macros(b'R', &[("{rcpt_addr}".to_owned(), recipient.as_bytes().to_vec())]));
        passes(conn, b'R', format!("<{recipient}>\0").as_bytes())?;
    }
    if agreed.version >= 4 && !agreed.has("NODATA") {
        passes(conn, b'T', b"")?;
    }
    if !agreed.has("NOHDRS") {
        passes(conn, b'L', b"Message-ID\0<1@example.com>\0")?;
        passes(conn, b'L', b"Subject\0one of many\0")?;
    }
    if !agreed.has("NOEOH") {
        passes(conn, b'N', b"")?;
    }
    if !agreed.has("NOBODY") {
        passes(conn, b'B', b"text\r\n")?;
    }
    conn.send(&packet::macros(b'E', &[("{msg_id}".to_owned(), b"<1@example.com>".to_vec())]));
    passes(conn, b'E', b"")
}
