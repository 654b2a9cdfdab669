//! What real senders send is what is recorded: rsyslog and syslog-ng that forward, and `logger` in its modes.

mod support;

use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use support::Folder;
use support::collector::{Collector, Over};
use support::relay::Relay;

/// Enough for every facility and severity, and for more than one group and one datagram at a time.
const MESSAGES: usize = 400;

/// One message as it is handed to a relay.
struct Sent {
    pri: usize,
    stamp: Timestamp,
    host: &'static str,
    app: &'static str,
    procid: Option<usize>,
    msgid: Option<usize>,
    data: (&'static str, Value),
    text: String,
}

/// What a form of syslog has no place for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Rfc5424,
    Bsd,
}

impl Sent {
    /// Every message is another one, the same for every test. Only LF framing cannot carry
    /// a message of two lines.
    fn all(over: Over, form: Form) -> Vec<Sent> {
        let texts = [
            "plain words",
            "Grüße, 日本語 и ещё",
            "a\ttab, a \"quote\", a back\\slash",
            "{\"a\":1,\"b\":[\"x\",null]}",
            "@cee: {\"event\":\"login\"}",
            "<13>1 - looks like a header: but is none",
            "[not structured] data",
            "key=value, other=\"two words\": end",
            "two lines\nthe second one",
        ];
        let data = [
            ("-", Value::Null),
            (r#"[ex@32473 k="v"]"#, json!({"ex@32473": {"k": "v"}})),
            (r#"[a@1 x="1" y="q\"b\\c\]d"][b@1]"#, json!({"a@1": {"x": "1", "y": "q\"b\\c]d"}, "b@1": {}})),
        ];
        let now = Timestamp::from_second(Timestamp::now().as_second()).expect("a time");
        let one = |n: usize| {
            let mut text = texts[n % texts.len()].to_owned();
            if over.is_lines() {
                text = text.replace('\n', " ");
            }
            if n % 50 == 49 {
                text += &" and more".repeat(if over == Over::Udp { 150 } else { 900 });
            }
            Sent {
                pri: n % 192,
                stamp: now - jiff::SignedDuration::from_secs((MESSAGES - n) as i64),
                host: ["web1", "mx1.example.org", "192.0.2.7", "r-1-x"][n % 4],
                app: ["sshd", "my-app", "CRON", "a.b_c"][n / 4 % 4],
                // A relay's BSD form has no colon behind a program without a process id.
                procid: (form == Form::Bsd || !n.is_multiple_of(3)).then_some(1000 + n),
                msgid: (!n.is_multiple_of(5)).then_some(n),
                data: data[n / 3 % data.len()].clone(),
                text: format!("{text} #{n}"),
            }
        };
        (0..MESSAGES).map(one).collect()
    }

    fn rfc5424(&self) -> String {
        let or_nil = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let procid = or_nil(self.procid.map(|id| id.to_string()));
        let msgid = or_nil(self.msgid.map(|id| format!("ID{id}")));
        let (host, app, (data, _)) = (self.host, self.app, &self.data);
        format!("<{}>1 {} {host} {app} {procid} {msgid} {data} {}", self.pri, self.stamp, self.text)
    }

    /// As a program writes it, without what there is no place for.
    fn bsd(&self) -> String {
        let time = self.stamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%b %e %H:%M:%S").to_string();
        let procid = self.procid.expect("every BSD message has one");
        format!("<{}>{time} {} {}[{procid}]: {}", self.pri, self.host, self.app, self.text)
    }

    /// The record, as far as it is compared: see [`compared`].
    fn record(&self, form: Form) -> Value {
        let whole = form == Form::Rfc5424;
        json!({
            "facility": FACILITIES[self.pri / 8],
            "severity": SEVERITIES[self.pri % 8],
            "ts": self.stamp.as_second(),
            "hostname": self.host,
            "hostname_source": null,
            "app": self.app,
            "procid": self.procid.map(|id| id.to_string()),
            "msgid": self.msgid.filter(|_| whole).map(|id| format!("ID{id}")),
            "structured_data": if whole { self.data.1.clone() } else { Value::Null },
            "message": self.text,
            "parse_error": null,
        })
    }
}

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// A record's fields under the names of `wanted`, null where it has none; of its time the second.
fn compared(record: &Value, wanted: &Value) -> Value {
    let keys = wanted.as_object().expect("an object").keys();
    let value = |key: &String| match (key.as_str(), &record[key]) {
        ("ts", ts) => {
            let ts: Timestamp = ts.as_str().expect("a time").parse().expect("a time");
            json!(ts.as_second())
        }
        // A guess is not what the sender said.
        ("hostname", _) if !record["hostname_source"].is_null() => Value::Null,
        (_, value) => value.clone(),
    };
    keys.map(|key| (key.clone(), value(key))).collect::<serde_json::Map<_, _>>().into()
}

/// Hands every message to a relay that `start` starts, and compares the records. TCP may lose none; of UDP every
/// message is a record or counted.
fn relayed(over: Over, form: Form, write: fn(&Sent) -> String, start: impl FnOnce(&Collector) -> Relay) {
    let mut collector = Collector::start(over);
    let mut relay = start(&collector);
    let sent = Sent::all(over, form);
    relay.send(sent.iter().map(write));
    let dropped = collector.wait_for(MESSAGES as u64);
    relay.assert_alive();
    drop(relay);
    let records = collector.records();
    let mut seen = vec![false; MESSAGES];
    for record in &records {
        let n = record["message"].as_str().and_then(|text| text.rsplit_once('#')?.1.parse::<usize>().ok());
        let n = n.unwrap_or_else(|| panic!("nobody sent this: {record}"));
        let wanted = sent[n].record(form);
        assert_eq!(compared(record, &wanted), wanted, "{record}");
        assert_eq!(record["peer"], "127.0.0.1");
        assert!(!std::mem::replace(&mut seen[n], true), "twice: {record}");
    }
    assert_eq!(records.len() as u64 + dropped, MESSAGES as u64, "{dropped} were counted as dropped");
    assert!(over == Over::Udp || dropped == 0, "{dropped} dropped");
}

/// rsyslog with each of the forms that it comes with.
fn rsyslog(over: Over) {
    let transport = match over {
        Over::Udp => r#"protocol="udp""#,
        _ if over.is_lines() => r#"protocol="tcp" TCP_Framing="traditional" action.resumeRetryCount="-1""#,
        _ => r#"protocol="tcp" TCP_Framing="octet-counted" action.resumeRetryCount="-1""#,
    };
    let tls = |collector: &Collector| {
        let file = |name| collector.file(name);
        let server = format!(
            r#"StreamDriver="ossl" StreamDriverMode="1" StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="localhost" StreamDriver.CAFile="{}""#,
            file("ca.pem")
        );
        match over {
            Over::TlsLines => server,
            Over::TlsOctets => {
                let (certificate, key) = (file("client.pem"), file("client.key"));
                format!(r#"{server} StreamDriver.CertFile="{certificate}" StreamDriver.KeyFile="{key}""#)
            }
            _ => String::new(),
        }
    };
    type Write = fn(&Sent) -> String;
    let templates: [(&str, Form, Write); 5] = [
        ("RSYSLOG_ForwardFormat", Form::Bsd, Sent::rfc5424),
        ("RSYSLOG_ForwardFormat", Form::Bsd, Sent::bsd),
        ("RSYSLOG_TraditionalForwardFormat", Form::Bsd, Sent::bsd),
        ("RSYSLOG_SyslogProtocol23Format", Form::Rfc5424, Sent::rfc5424),
        // The text of a message that came as BSD syslog then begins with a blank that is not its own.
        ("RSYSLOG_SyslogProtocol23Format", Form::Bsd, Sent::bsd),
    ];
    for (template, form, write) in templates {
        relayed(over, form, write, |collector| {
            let (port, tls) = (collector.port, tls(collector));
            Relay::rsyslog(&format!(
                r#"action(type="omfwd" target="127.0.0.1" port="{port}" template="{template}" {transport} {tls})"#
            ))
        });
    }
}

#[test]
fn rsyslog_forwards_over_udp() {
    rsyslog(Over::Udp);
}

#[test]
fn rsyslog_forwards_lines_over_tcp() {
    rsyslog(Over::TcpLines);
}

#[test]
fn rsyslog_forwards_octet_counted_over_tcp() {
    rsyslog(Over::TcpOctets);
}

#[test]
fn rsyslog_forwards_over_tls() {
    rsyslog(Over::TlsLines);
    rsyslog(Over::TlsOctets);
}

/// In `driver` stand TO for where to, and AUTHORITY and CERTIFICATE for what of TLS.
fn syslog_ng(over: Over, form: Form, driver: &str) {
    relayed(over, form, Sent::rfc5424, |collector| {
        let authority = format!("ca-file(\"{}\") peer-verify(required-trusted)", collector.file("ca.pem"));
        let (certificate, key) = (collector.file("client.pem"), collector.file("client.key"));
        let driver = driver.replace("TO", &format!("\"127.0.0.1\" port({})", collector.port));
        let driver = driver.replace("AUTHORITY", &authority);
        Relay::syslog_ng(&driver.replace("CERTIFICATE", &format!("cert-file(\"{certificate}\") key-file(\"{key}\")")))
    });
}

#[test]
fn syslog_ng_forwards_over_udp() {
    syslog_ng(Over::Udp, Form::Bsd, r#"network(TO transport("udp"))"#);
    syslog_ng(Over::Udp, Form::Bsd, r#"network(TO transport("udp") ts-format(iso))"#);
    syslog_ng(Over::Udp, Form::Rfc5424, r#"syslog(TO transport("udp"))"#);
}

#[test]
fn syslog_ng_forwards_lines_over_tcp() {
    syslog_ng(Over::TcpLines, Form::Bsd, r#"network(TO transport("tcp"))"#);
    syslog_ng(Over::TcpLines, Form::Rfc5424, r#"network(TO transport("tcp") flags(syslog-protocol))"#);
}

#[test]
fn syslog_ng_forwards_octet_counted_over_tcp() {
    syslog_ng(Over::TcpOctets, Form::Rfc5424, r#"syslog(TO transport("tcp"))"#);
}

#[test]
fn syslog_ng_forwards_over_tls() {
    let lines = |driver: &str, form| syslog_ng(Over::TlsLines, form, driver);
    lines(r#"network(TO transport("tls") tls(AUTHORITY))"#, Form::Bsd);
    lines(r#"network(TO transport("tls") flags(syslog-protocol) tls(AUTHORITY))"#, Form::Rfc5424);
    syslog_ng(Over::TlsOctets, Form::Rfc5424, r#"syslog(TO transport("tls") tls(AUTHORITY CERTIFICATE))"#);
}

/// One call of `logger`.
struct Call<'a> {
    args: &'a [&'a str],
    stdin: &'a str,
    /// Records in their order, as far as they are compared. `"PID"` is the process id of `logger`, `"HOST"` the name of
    /// this machine, `"GUESS"` where a host's name comes from that the message does not have.
    records: Vec<Value>,
}

fn call<'a>(args: &'a [&'a str], records: impl Into<Vec<Value>>) -> Call<'a> {
    Call { args, stdin: "", records: records.into() }
}

fn piped<'a>(args: &'a [&'a str], stdin: &'a str, records: impl Into<Vec<Value>>) -> Call<'a> {
    Call { args, stdin, records: records.into() }
}

/// Makes the calls with `to` before their own arguments, one after the other, and compares the records.
fn logged(mut collector: Collector, to: &[&str], calls: &[Call<'_>]) {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux").trim().to_owned();
    let guess = if to.contains(&"--socket") { "default" } else { "peer" };
    let mut wanted: Vec<(&[&str], Value)> = Vec::new();
    for call in calls {
        let mut child = Command::new("logger")
            .args(to)
            .args(call.args)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("logger is part of Debian's bsdutils");
        let id = child.id().to_string();
        child.stdin.take().expect("it is piped").write_all(call.stdin.as_bytes()).expect("logger reads");
        let output = child.wait_with_output().expect("a child of ours");
        assert!(output.status.success(), "{:?}: {}", call.args, String::from_utf8_lossy(&output.stderr));
        for record in &call.records {
            let mut record = record.clone();
            for value in record.as_object_mut().expect("an object").values_mut() {
                match value.as_str() {
                    Some("PID") => *value = json!(id),
                    Some("HOST") => *value = json!(host),
                    Some("GUESS") => *value = json!(guess),
                    _ => {}
                }
            }
            wanted.push((call.args, record));
        }
        let dropped = collector.wait_for(wanted.len() as u64);
        assert_eq!(dropped, 0, "{:?}", call.args);
    }
    let records = collector.records();
    assert_eq!(records.len(), wanted.len(), "{records:#?}");
    for (record, (args, wanted)) in records.iter().zip(&wanted) {
        assert_eq!(compared(record, wanted), *wanted, "logger {args:?}: {record}");
    }
}

/// What `logger` does the same way whatever it sends over: RFC 5424 and BSD headers, and what makes a message.
fn everywhere(default_size: &str) -> Vec<Call<'_>> {
    let plain = |app: &str, message: &str| json!({"facility": "user", "severity": "notice", "app": app, "message": message, "parse_error": null});
    let with = |mut record: Value, more: Value| {
        record.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        record
    };
    let nil = || json!({"procid": null, "msgid": null, "structured_data": null});
    vec![
        call(
            &["--rfc5424=notq", "-t", "app", "notq"],
            [with(with(plain("app", "notq"), nil()), json!({"hostname": "HOST", "timestamp_source": null}))],
        ),
        call(
            &["--rfc5424=notime", "-t", "app", "notime"],
            [with(with(plain("app", "notime"), nil()), json!({"hostname": "HOST", "timestamp_source": "received"}))],
        ),
        call(
            &["--rfc5424=notq,nohost", "-t", "app", "nohost"],
            [with(
                with(plain("app", "nohost"), nil()),
                json!({"hostname": null, "hostname_source": "GUESS", "timestamp_source": null}),
            )],
        ),
        call(
            &["--rfc5424=notime,notq,nohost", "-t", "app", "nothing but text"],
            [with(
                with(plain("app", "nothing but text"), nil()),
                json!({"hostname": null, "hostname_source": "GUESS", "timestamp_source": "received"}),
            )],
        ),
        call(
            &["--rfc5424=notq", "--msgid", "ID47", "-t", "app", "msgid"],
            [with(plain("app", "msgid"), json!({"msgid": "ID47", "procid": null}))],
        ),
        call(
            &[
                "--rfc5424=notq",
                "--sd-id",
                "zoo@123",
                "--sd-param",
                r#"tiger="hungry""#,
                "--sd-param",
                r#"zebra="running \"fast\"""#,
                "--sd-id",
                "manager@123",
                "--sd-param",
                r#"onMeeting="yes""#,
                "-t",
                "app",
                "data",
            ],
            [with(
                plain("app", "data"),
                json!({"structured_data": {"zoo@123": {"tiger": "hungry", "zebra": "running \"fast\""}, "manager@123": {"onMeeting": "yes"}}}),
            )],
        ),
        call(
            &["--rfc5424=notq", "-i", "-t", "app", "own id"],
            [with(plain("app", "own id"), json!({"procid": "PID"}))],
        ),
        call(
            &["--rfc5424=notq", "--id=4242", "-t", "app", "id"],
            [with(plain("app", "id"), json!({"procid": "4242"}))],
        ),
        call(&["--rfc3164", "-t", "app", "bsd"], [with(with(plain("app", "bsd"), nil()), json!({"hostname": "HOST"}))]),
        call(
            &["--rfc3164", "-i", "-t", "app", "bsd: with id"],
            [with(plain("app", "bsd: with id"), json!({"procid": "PID"}))],
        ),
        call(
            &["--rfc3164", "--id=7", "-t", "a-b_c.d", "bsd id"],
            [with(plain("a-b_c.d", "bsd id"), json!({"procid": "7"}))],
        ),
        // Without a tag it is the name of the user.
        call(&["no", "tag"], [json!({"message": "no tag", "procid": null, "parse_error": null})]),
        call(
            &["-p", "local3.err", "-t", "app", "p"],
            [with(plain("app", "p"), json!({"facility": "local3", "severity": "err"}))],
        ),
        call(
            &["-p", "mail.debug", "-t", "app", "p"],
            [with(plain("app", "p"), json!({"facility": "mail", "severity": "debug"}))],
        ),
        call(
            &["--rfc3164", "-p", "authpriv.emerg", "-t", "app", "p"],
            [with(plain("app", "p"), json!({"facility": "authpriv", "severity": "emerg"}))],
        ),
        call(&["-t", "app", "Grüße: <13>1 [x]"], [plain("app", "Grüße: <13>1 [x]")]),
        call(&["-s", "-t", "app", "on stderr as well"], [plain("app", "on stderr as well")]),
        call(&["--no-act", "-t", "app", "nowhere"], []),
        piped(
            &["-t", "app"],
            "first\nsecond\nblanks  and \n",
            [plain("app", "first"), plain("app", "second"), plain("app", "blanks  and ")],
        ),
        piped(
            &["-t", "app", "-e"],
            "one\n\n\ntwo\nno end",
            [plain("app", "one"), plain("app", "two"), plain("app", "no end")],
        ),
        piped(
            &["-t", "app", "--prio-prefix"],
            "none\n<34>auth.crit\n<191>local7.debug\n",
            [
                plain("app", "none"),
                with(plain("app", "auth.crit"), json!({"facility": "auth", "severity": "crit"})),
                with(plain("app", "local7.debug"), json!({"facility": "local7", "severity": "debug"})),
            ],
        ),
        // Longer ones go in pieces of --size, 1 KiB unless it is given.
        piped(&["-t", "app", "--size", "8KiB"], default_size, [plain("app", default_size.trim_end())]),
        piped(
            &["-t", "app"],
            default_size,
            default_size
                .trim_end()
                .as_bytes()
                .chunks(1024)
                .map(|piece| plain("app", &String::from_utf8_lossy(piece)))
                .collect::<Vec<_>>(),
        ),
    ]
}

/// 2,500 letters and a line end.
fn long_line() -> String {
    (0..2500_u32).map(|n| char::from(b'a' + (n % 26) as u8)).chain(['\n']).collect()
}

/// `logger` without options says what it knows of its clock.
fn default_header<'a>() -> Call<'a> {
    let record = json!({"facility": "user", "severity": "notice", "hostname": "HOST", "app": "app", "procid": null, "msgid": null,
        "message": "as it is", "timestamp_source": null, "parse_error": null});
    call(&["-t", "app", "as", "it", "is"], [record])
}

#[test]
fn logger_over_udp() {
    let (collector, long) = (Collector::start(Over::Udp), long_line());
    let port = collector.port.to_string();
    let mut calls = everywhere(&long);
    calls.push(default_header());
    logged(collector, &["--udp", "-n", "127.0.0.1", "-P", &port], &calls);
}

#[test]
fn logger_lines_over_tcp() {
    let (collector, long) = (Collector::start(Over::TcpLines), long_line());
    let port = collector.port.to_string();
    let mut calls = everywhere(&long);
    calls.push(default_header());
    logged(collector, &["--tcp", "-n", "127.0.0.1", "-P", &port], &calls);
}

#[test]
fn logger_octet_counted_over_tcp() {
    let (collector, long) = (Collector::start(Over::TcpOctets), long_line());
    let port = collector.port.to_string();
    let mut calls = everywhere(&long);
    calls.push(default_header());
    logged(collector, &["--tcp", "--octet-count", "-n", "127.0.0.1", "-P", &port], &calls);
}

#[test]
fn logger_on_a_unix_socket() {
    unix(Collector::start_unix("unix"), &["--udp"]);
    unix(Collector::start_unix("unix"), &[]);
}

#[test]
fn logger_on_a_unix_stream_socket() {
    unix(Collector::start_unix("unix_stream"), &["--tcp"]);
    unix(Collector::start_unix("unix_stream"), &["--tcp", "--octet-count"]);
}

fn unix(collector: Collector, options: &[&str]) {
    let (socket, long) = (collector.socket(), long_line());
    let mut calls = everywhere(&long);
    // Locally it names no host, since syslogd knows.
    let local = |procid: Value| {
        json!({"facility": "user", "severity": "notice", "hostname": null, "hostname_source": "GUESS", "app": "app",
        "procid": procid, "msgid": null, "structured_data": null, "message": "local", "parse_error": null})
    };
    calls.push(call(&["-t", "app", "local"], [local(Value::Null)]));
    calls.push(call(&["-t", "app", "-i", "local"], [local(json!("PID"))]));
    logged(collector, &[options, &["--socket", &socket]].concat(), &calls);
}

#[test]
fn logger_sends_a_file() {
    let folder = Folder::new("logger");
    let (file, text) = (folder.join("lines"), "a\nb\n\nc\n");
    std::fs::write(&file, text).expect("the folder is there");
    let collector = Collector::start(Over::TcpLines);
    let (port, file) = (collector.port.to_string(), file.to_str().expect("a plain path"));
    let record = |message: &str| json!({"app": "app", "message": message, "procid": "PID"});
    let args = ["-i", "-t", "app", "-e", "--file", file];
    let calls = [call(&args, [record("a"), record("b"), record("c")])];
    logged(collector, &["--tcp", "-n", "127.0.0.1", "-P", &port], &calls);
}
