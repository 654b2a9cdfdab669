//! Mail of several real mail servers, through a real rsyslogd each, by three
//! paths into three stores: syslog over TCP into S3, syslog over UDP into a
//! directory, and a followed log file into another directory. What is in the
//! stores must be what the logs say.

mod support;

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use support::greypit::Greypit;
use support::reading::{Fields, fields_of_record, multiset, records_of, without};
use support::rsyslog::{Forward, Over, Rsyslog};
use support::s3::{S3Client, S3Server};
use support::sendmail::{MailNet, Sendmail, Setup};
use support::smtp::Client;
use support::{net, run, traffic, wait_for};
use toml::Value;

/// What each server is sent besides the traffic that has everything once.
const BULK: [(u8, usize); 3] = [(1, 200), (2, 70), (3, 25)];

#[test]
fn the_stores_hold_what_the_logs_say() {
    let began = Timestamp::now();
    let s3 = S3Server::start();
    let [tcp, udp] = [net::free_port(), net::free_port()];
    let mut by_tcp = greypit("tcp", |g| {
        g.set("syslog.tcp", vec![Value::from(format!("127.0.0.1:{tcp}"))]);
        g.set("store.url", format!("s3://{}/archive", S3Server::BUCKET));
        g.set("store.endpoint", s3.endpoint());
        g.set("store.path_style", true);
        g.env(s3.env());
    });
    let mut by_udp = greypit("udp", |g| g.set("syslog.udp", vec![Value::from(format!("127.0.0.1:{udp}"))]));
    by_tcp.start();
    by_udp.start();
    let net = MailNet::start();
    let mut hosts = BULK.map(|(number, _)| Host::start(number, &net, tcp, udp));
    let mut by_file = greypit("file", |g| hosts.iter().for_each(|host| g.follow(&host.syslog.file())));
    by_file.start();

    let bulk = send_everything(&mut hosts);
    hosts.iter_mut().for_each(Host::stop);
    let lines: Vec<String> = hosts.iter().flat_map(Host::lines).collect();
    let expected = records_of(lines.iter().map(String::as_str));
    holds_what_was_sent(&expected, &bulk);

    let count = lines.len() as f64;
    wait_for("every line by TCP", || (by_tcp.metric("greypit_syslog_messages_total")? >= count).then_some(()));
    wait_for("every line of the files", || (by_file.metric("greypit_maillog_lines_total")? >= count).then_some(()));
    let dropped = wait_for("every line by UDP, or its loss", || {
        let is_there = by_udp.metric("greypit_syslog_messages_total")? + kernel_drops(&by_udp)? >= count;
        // Asked afterwards: what is counted as a message and dropped is counted as dropped by then.
        is_there.then(|| by_udp.metric("greypit_syslog_dropped_total"))?
    });
    [&mut by_tcp, &mut by_udp, &mut by_file].into_iter().for_each(Greypit::terminate);
    let period = (began, Timestamp::now());

    for greypit in [&by_tcp, &by_file] {
        let records = holds(greypit, &expected);
        answers(greypit, &expected);
        assert_eq!(records, expected.len());
    }
    match dropped {
        0.0 => drop(holds(&by_udp, &expected)),
        _ => holds_but_for(&by_udp, &lines, dropped),
    }
    objects_are_readable(&objects_of_dir(&by_file.objects()), &by_file, period);
    objects_are_readable(&objects_of_dir(&by_udp.objects()), &by_udp, period);
    objects_are_readable(&objects_of_s3(&s3.client()), &by_tcp, period);
}

/// A greypit with windows so short that there are several.
fn greypit(node: &str, set: impl FnOnce(&mut Greypit)) -> Greypit {
    let mut greypit = Greypit::new(node);
    greypit.set("batch.window", "3s");
    set(&mut greypit);
    greypit
}

/// A mail server and its rsyslogd.
struct Host {
    mail: Sendmail,
    syslog: Rsyslog,
    /// Where rsyslogd wrote before its file was rotated.
    aside: std::path::PathBuf,
}

impl Host {
    /// Each forwards in another form.
    fn start(number: u8, net: &MailNet, tcp: u16, udp: u16) -> Self {
        let (over, rfc5424) = match number {
            1 => (Over::TcpLines, false),
            2 => (Over::TcpOctetCounted, false),
            _ => (Over::TcpOctetCounted, true),
        };
        let to = |port| ([127, 0, 0, 1], port).into();
        let forwards = [Forward { to: to(tcp), over, rfc5424 }, Forward { to: to(udp), over: Over::Udp, rfc5424 }];
        let syslog = Rsyslog::start(&format!("mx{number}"), &forwards);
        let mail = Sendmail::start(Setup::mx(number), net, &syslog);
        let aside = syslog.file().with_extension("1");
        Self { mail, syslog, aside }
    }

    /// Ends the mail server and waits for its last line, whichever of its
    /// processes wrote that: rsyslogd takes lines in order.
    fn stop(&mut self) {
        self.mail.stop();
        let log = UnixDatagram::unbound().expect("a socket");
        log.send_to(b"<22>Nov 20 12:55:00 sm-mta[1]: the log ends", self.syslog.socket()).expect("rsyslogd reads");
        self.syslog.wait_for_lines(1, "the log ends");
    }

    /// All lines of its log, those of the rotated file first.
    fn lines(&self) -> Vec<String> {
        let rotated = std::fs::read(&self.aside).unwrap_or_default();
        let rotated = String::from_utf8_lossy(&rotated).lines().map(str::to_owned).collect::<Vec<_>>();
        rotated.into_iter().chain(self.syslog.lines()).collect()
    }
}

/// How many messages the bulk had for each mail server and recipient.
type Bulk = BTreeMap<(String, String), i64>;

/// Hands in all mail, and waits until each has been tried once.
fn send_everything(hosts: &mut [Host]) -> Bulk {
    let bulk = std::thread::scope(|scope| {
        let hosts: &[Host] = hosts;
        let all = hosts.iter().zip(BULK).map(|(host, (number, count))| {
            scope.spawn(move || {
                if number == 1 {
                    traffic::play(&host.mail, 1);
                }
                send_bulk(host, number, count)
            })
        });
        let all: Vec<_> = all.collect();
        all.into_iter().flat_map(|bulk| bulk.join().expect("no panic")).collect::<Bulk>()
    });
    // In the middle of the log, and all paths go on.
    let host = &mut hosts[1];
    host.syslog.rotate(&host.aside);
    // Another try of what was deferred: more lines of the same messages.
    hosts.iter().for_each(|host| host.mail.run_queue());
    wait_for("an attempt at every recipient", || {
        let lines: Vec<String> = hosts.iter().flat_map(Host::lines).collect();
        let tried = bulk_recipients(&records_of(lines.iter().map(String::as_str)));
        bulk.iter().all(|(to, count)| tried.get(to).is_some_and(|tried| tried >= count)).then_some(())
    });
    bulk
}

/// Mail to some recipients more than to others, at every kind of destination.
fn send_bulk(host: &Host, number: u8, count: usize) -> Bulk {
    let mut bulk = Bulk::new();
    let mut client = Client::connect(host.mail.addr());
    for n in 0..count {
        let user = n * n % 13;
        let to: Vec<String> = match n % 10 {
            1 => vec![format!("bulk-{user}@defer.example.net")],
            2 => vec![format!("bulk-{user}@refuse.example.net")],
            3 => vec!["bulk@dead.example.net".to_owned()],
            4 => vec![format!("staff@mx{number}.example.org")],
            5 => vec![format!("alice@mx{number}.example.org"), format!("bulk-{user}@good.example.net")],
            6 => (user..user + 4).map(|user| format!("bulk-{user}@good.example.net")).collect(),
            7 => vec![format!("bulk-{user}@tls.example.net")],
            _ => vec![format!("bulk-{user}@good.example.net")],
        };
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let from = format!("sender-{}@sender.example.com", n % 7);
        let reply = client.mail(&from, &to, &format!("Subject: bulk {n}\n\ntext\n"));
        assert_eq!(reply.code, 250, "{}", reply.text);
        for to in to.into_iter().filter(|to| to.starts_with("bulk")) {
            *bulk.entry((format!("mx{number}"), to.to_owned())).or_default() += 1;
        }
    }
    client.quit();
    bulk
}

/// How often a record names each recipient of the bulk.
fn bulk_recipients(records: &[Fields]) -> Bulk {
    let mut found = Bulk::new();
    for record in records {
        if let Some(dest) = record.get("dest").filter(|dest| dest.starts_with("bulk")) {
            *found.entry((record["mailserver"].clone(), dest.clone())).or_default() += 1;
        }
    }
    found
}

/// The log itself against what was sent, so that a line that both readings
/// miss is missed here.
fn holds_what_was_sent(records: &[Fields], bulk: &Bulk) {
    let tried = bulk_recipients(records);
    for ((server, dest), sent) in bulk {
        let logged = tried[&(server.clone(), dest.clone())];
        // One attempt is enough for good and for refused mail.
        let once = dest.ends_with("@good.example.net") || dest.ends_with("@refuse.example.net");
        assert!(logged == *sent || !once && logged > *sent, "{server} {dest}: sent {sent}, logged {logged}");
    }
    for (part, at_least) in [("User unknown", 10), ("Deferred: ", 40), ("Sent", 200), ("queued", 0)] {
        let found = records.iter().filter(|r| r.get("stat").is_some_and(|stat| stat.starts_with(part))).count();
        assert!(found >= at_least, "{found} × {part}");
    }
    let found = |name: &str, value: &str| records.iter().any(|r| r.get(name).is_some_and(|v| v == value));
    for mailer in ["esmtp", "local", "prog", "*file*", "relay"] {
        assert!(found("mailer", mailer), "nothing for mailer {mailer}");
    }
    assert!(found("proto", "ESMTPS"), "no mail came over TLS");
    let tls =
        |r: &&Fields| r.get("message").is_some_and(|m| m.starts_with("STARTTLS=client") && m.contains("verify=OK"));
    assert!(records.iter().filter(tls).count() >= 5, "no mail went over TLS");
}

/// What the kernel has dropped of UDP, which never became a message.
fn kernel_drops(greypit: &Greypit) -> Option<f64> {
    let (_, text) = greypit.get("/metrics")?;
    let name = "greypit_syslog_dropped_total{reason=\"kernel\",transport=\"udp\"} ";
    text.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
}

/// The store holds these records and no others, each once by its id too.
fn holds(greypit: &Greypit, expected: &[Fields]) -> usize {
    let found = records_in(greypit);
    let (stored, logged) = (multiset(found.iter().cloned()), multiset(expected.iter().cloned()));
    let (missing, invented) = (without(&logged, &stored), without(&stored, &logged));
    let (first_missing, first_invented) = (missing.first(), invented.first());
    assert!(
        missing.is_empty() && invented.is_empty(),
        "{} records of the log are not in the store, first {first_missing:#?}\n\
         {} records of the store are not in the log, first {first_invented:#?}",
        missing.len(),
        invented.len(),
    );
    let (verdict, complaints) = greypit.verify();
    assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
    assert_eq!(verdict.records, found.len() as u64);
    assert!(verdict.objects >= 6, "several windows: {verdict:?}");
    found.len()
}

fn records_in(greypit: &Greypit) -> Vec<Fields> {
    let mut found = Vec::new();
    greypit.cat(|line| found.push(fields_of_record(line)));
    found
}

/// The same where greypit says that some lines were dropped: nothing else is
/// missing.
fn holds_but_for(greypit: &Greypit, lines: &[String], dropped: f64) {
    let mut stored = multiset(records_in(greypit));
    let mut missing = 0;
    for line in lines {
        let records = records_of([line.as_str()]);
        if records.iter().all(|record| stored.get(record).is_some_and(|count| *count > 0)) {
            records.iter().for_each(|record| *stored.get_mut(record).expect("just seen") -= 1);
        } else {
            missing += 1;
        }
    }
    assert!(stored.values().all(|left| *left == 0), "in the store and not in the log");
    assert_eq!(f64::from(missing), dropped, "missing lines are counted");
    let (verdict, complaints) = greypit.verify();
    assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
}

/// The two questions that greypit is for, answered from the objects alone.
fn answers(greypit: &Greypit, expected: &[Fields]) {
    let servers = top(expected, "mailserver", 3);
    assert_eq!(servers.len(), 3);
    assert!(servers[0].0 > 2 * servers[1].0 && servers[1].0 > 2 * servers[2].0, "{servers:?}");
    assert_eq!(servers.iter().map(|(_, server)| server.as_str()).collect::<Vec<_>>(), ["mx1", "mx2", "mx3"]);
    asked(greypit, &["mailserver", "-n", "3"], &servers);
    let recipients = top(expected, "dest", 10);
    assert_eq!(recipients.len(), 10);
    asked(greypit, &["dest", "-n", "10"], &recipients);
    asked(greypit, &["dest", "-n", "10", "--kind", "to", "--since", "1h"], &recipients);
    let senders: Vec<Fields> = expected.iter().filter(|record| record["kind"] == "from").cloned().collect();
    asked(greypit, &["mailserver", "--kind", "from"], &top(&senders, "mailserver", 10));
}

/// The most frequent values of a field, ties by value.
fn top(records: &[Fields], field: &str, number: usize) -> Vec<(i64, String)> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for value in records.iter().filter_map(|record| record.get(field)) {
        *counts.entry(value).or_default() += 1;
    }
    let mut counts: Vec<(i64, String)> = counts.into_iter().map(|(value, count)| (count, value.to_owned())).collect();
    counts.sort_by_key(|(count, _)| -count);
    counts.truncate(number);
    counts
}

/// `greypit top` says so, to people and to programs.
fn asked(greypit: &Greypit, question: &[&str], expected: &[(i64, String)]) {
    let table = run(greypit.command("top").args(question));
    let table: Vec<(i64, String)> = table.lines().map(row).collect();
    assert_eq!(table, expected, "{question:?}");
    let json = run(greypit.command("top").args(question).arg("--json"));
    let json = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let json =
        json.map(|row| (row["count"].as_i64().expect("a count"), row["value"].as_str().expect("a value").to_owned()));
    assert_eq!(json.collect::<Vec<_>>(), expected, "{question:?} --json");
}

/// `  1,234   12.3%  value`
fn row(line: &str) -> (i64, String) {
    let (count, rest) = line.trim_start().split_once(' ').expect("a count");
    let (_share, value) = rest.split_once("%  ").expect("a share");
    (count.replace(',', "").parse().expect("a number"), value.to_owned())
}

/// An object as it is stored.
struct Object {
    key: String,
    bytes: Vec<u8>,
    /// What its metadata says, where the store keeps any.
    records: Option<usize>,
}

fn objects_of_dir(dir: &Path) -> Vec<Object> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of the store") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(dir).expect("below it").to_str().expect("plain names").to_owned();
            found.push(Object { key, bytes: std::fs::read(&path).expect("an object"), records: None });
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

fn objects_of_s3(s3: &S3Client) -> Vec<Object> {
    let keys = s3.list("archive/");
    assert_eq!(s3.list(""), keys, "nothing is beside the prefix");
    let object = |key: String| {
        let answer = s3.get(&key);
        assert_eq!(answer.status, 200, "{key}");
        assert_eq!(answer.header("content-encoding"), None, "a client would decompress on its own");
        let records = answer.header("x-amz-meta-greypit-records").map(|n| n.parse().expect("a number"));
        assert!(records.is_some(), "{key} has no count");
        let key = key.strip_prefix("archive/").expect("listed by it").to_owned();
        Object { key, bytes: answer.body, records }
    };
    keys.into_iter().map(object).collect()
}

/// Every object is named as the README says and read by the system's tools, and
/// `greypit ls` lists these and no others.
fn objects_are_readable(objects: &[Object], greypit: &Greypit, period: (Timestamp, Timestamp)) {
    let listed = run(greypit.command("ls").arg("--json"));
    let listed = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let mut listed: Vec<String> = listed.map(|row| row["key"].as_str().expect("a key").to_owned()).collect();
    // It goes by the numbers in the keys; here they are in the order of their letters.
    listed.sort_unstable();
    assert_eq!(listed, objects.iter().map(|object| object.key.clone()).collect::<Vec<_>>());
    let mut windows = BTreeSet::new();
    for Object { key, bytes, records } in objects {
        let name = Name::of(key);
        assert_eq!(name.node, greypit_node(greypit));
        let (from, to) = period;
        let minute = from.as_second() / 60..=to.as_second() / 60;
        assert!(minute.contains(&(name.window.as_second() / 60)), "{key} is of another time");
        windows.insert((name.kind.clone(), name.first));
        let text = pipe(Command::new("bzcat"), bytes);
        let lines: Vec<&str> = text.lines().collect();
        assert!(!lines.is_empty(), "{key} is empty");
        assert!(records.is_none_or(|records| records == lines.len()), "{key}: {records:?}");
        for (line, seq) in lines.iter().zip(name.first..) {
            let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(record["kind"], name.kind.as_str(), "{key}");
            let id = record["id"].as_str().expect("an id");
            let end = format!("-{}-{seq}", name.kind);
            assert!(id.starts_with(&format!("{}-", name.node)) && id.ends_with(&end), "{key}: {id} is not {seq}");
        }
        if jq_is_there() {
            let mut jq = Command::new("jq");
            jq.args(["--exit-status", "--compact-output", "."]);
            assert_eq!(pipe(jq, text.as_bytes()).lines().count(), lines.len(), "{key}");
        }
    }
    assert_eq!(windows.len(), objects.len(), "every object begins at another record");
}

fn greypit_node(greypit: &Greypit) -> String {
    let config = run(&mut greypit.command("check"));
    config.lines().find_map(|line| line.strip_prefix("node = \"")?.strip_suffix('"')).expect("a node").to_owned()
}

/// `mail_logs/2026-11-20/to-2026-11-20-12-55-mx1-42.json.bz2`
struct Name {
    kind: String,
    window: Timestamp,
    node: String,
    first: u64,
}

impl Name {
    fn of(key: &str) -> Self {
        let [prefix, date, name] = key.split('/').collect::<Vec<_>>()[..] else { panic!("{key}") };
        let (kind, rest) = name.split_once('-').expect("a kind");
        assert_eq!(prefix, if kind == "syslog" { "syslog_logs" } else { "mail_logs" }, "{key}");
        let rest = rest.strip_prefix(date).unwrap_or_else(|| panic!("another date: {key}"));
        let [hour, minute, node, first] = rest[1..].split('-').collect::<Vec<_>>()[..] else { panic!("{key}") };
        let window = format!("{date}T{hour}:{minute}:00Z").parse().unwrap_or_else(|e| panic!("{key}: {e}"));
        let first = first.strip_suffix(".json.bz2").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{key}"));
        Self { kind: kind.to_owned(), window, node: node.to_owned(), first }
    }
}

fn jq_is_there() -> bool {
    Command::new("jq").arg("--version").stdout(Stdio::null()).status().is_ok()
}

/// What a command makes of these bytes.
fn pipe(mut command: Command, input: &[u8]) -> String {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().expect("a scratch file");
    file.write_all(input).and_then(|()| file.rewind()).expect("a scratch file");
    run(command.stdin(file))
}
