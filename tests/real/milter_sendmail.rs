//! A real sendmail with greypit as its filter, by each way that the
//! documentation names.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use support::filtered::{Filtered, assert_pattern, is_ours};
use support::flood::Flood;
use support::rsyslog::Rsyslog;
use support::sendmail::{MailNet, Sendmail, Setup};
use support::smtp::Client;
use support::wait_for;

/// A sendmail with these equates behind `S=`, and the greypit at its socket.
struct Attached {
    filtered: Filtered,
    sendmail: Sendmail,
    syslog: Rsyslog,
    net: MailNet,
}

impl Attached {
    fn start(equates: &str) -> Self {
        let net = MailNet::keeping();
        let syslog = Rsyslog::start("mx1", &[]);
        let filter = format!("INPUT_MAIL_FILTER(`greypit', `S=local:/var/run/greypit/sock, {equates}')dnl");
        let sendmail = Sendmail::start(Setup::mx(1).extra_mc(&filter), &net, &syslog);
        let passes = !equates.contains("F=T");
        let filtered = Filtered::by_socket(sendmail.addr(), &sendmail.folder().join("greypit/sock"), passes);
        Self { filtered, sendmail, syslog, net }
    }

    /// All accepted mail arrived; each is in the log.
    fn end(mut self) {
        self.sendmail.wait_queue_empty();
        self.filtered.nothing_is_lost(&self.net);
        let logged = || logged_messages(&self.syslog, ": from=<alice@flood.example.com>, size=");
        let accepted = self.net.kept().len();
        wait_for("the log", || (logged() >= accepted).then_some(()));
        assert_eq!(logged(), accepted);
    }
}

/// How many messages the log has the line of that begins so. A session that ends after a refused MAIL leaves one as
/// well, of no size.
fn logged_messages(syslog: &Rsyslog, from: &str) -> usize {
    syslog.lines().iter().filter(|line| line.contains(from) && !line.contains(", size=0, ")).count()
}

/// The line as the oldest documentation has it.
#[test]
fn mail_passes_while_greypit_is_away() {
    let mut mx = Attached::start("F=");
    mx.filtered.comes_later();
    mx.filtered.answers_wait_longer_and_longer();
    mx.filtered.others_are_not_held();
    mx.filtered.a_reload_keeps_counts();
    mx.filtered.ends_while_answers_wait();
    mx.filtered.is_killed();
    mx.filtered.closes_after_strikes();
    mx.filtered.observes();
    mx.filtered.allows();
    mx.filtered.ten_thousand();
    mx.end();
}

#[test]
fn mail_is_deferred_while_greypit_is_away() {
    let mut mx = Attached::start("F=T");
    mx.filtered.comes_later();
    mx.filtered.answers_wait_longer_and_longer();
    mx.filtered.others_are_not_held();
    mx.filtered.ends_while_answers_wait();
    mx.filtered.is_killed();
    mx.filtered.ten_thousand();
    mx.end();
}

/// As is advised.
#[test]
fn sendmail_has_more_patience() {
    let mut mx = Attached::start("F=, T=S:10s;R:60s;E:5m");
    mx.filtered.answers_wait_longer_and_longer();
    mx.filtered.others_are_not_held();
    mx.filtered.is_killed();
    mx.filtered.ends_while_answers_wait();
    mx.filtered.ten_thousand();
    // sendmail takes no text that comes before its answer to DATA.
    let answers = mx.filtered.sends_without_reading(0);
    assert_eq!(answers.last().map(String::as_str), Some("554 5.5.0 SMTP protocol error"), "{answers:?}");
    mx.end();
}

/// What the README's table says of `F=`: one sendmail that listens four times,
/// with a filter each. Answers may take 10 s.
#[test]
fn what_sendmail_does_without_an_answer() {
    let ways = [("MTA", "F="), ("DEFER", "F=T"), ("REJECT", "F=R"), ("CLOSE", "F=4")];
    let addr = |number: usize| Ipv4Addr::new(127, 0, 4, number as u8);
    let setup = ways.iter().enumerate().fold(Setup::mx(1), |setup, (n, (name, equate))| {
        setup.daemon(name, addr(n), &format!("S=local:/var/run/greypit/sock, {equate}, T=S:10s;R:10s"))
    });
    let net = MailNet::keeping();
    let syslog = Rsyslog::start("mx1", &[]);
    let sendmail = Sendmail::start(setup, &net, &syslog);
    let addr = |number| SocketAddr::from((addr(number), net.port()));
    let mut filtered = Filtered::by_socket(addr(0), &sendmail.folder().join("greypit/sock"), true);
    filtered.start("limit = 1\nstep = \"1m\"\nmax_delay = \"1m\"");

    let late = std::thread::scope(|scope| {
        let floods = [0, 1, 2, 3].map(|n| {
            scope.spawn(move || {
                let mut flood = Flood::connect(addr(n), ways[n].0);
                assert_pattern(&flood.send(2), 1, 1);
                flood.send(2)
            })
        });
        floods.map(|flood| flood.join().expect("no panic"))
    });
    for (attempts, expected) in late.iter().zip([[250, 250], [451, 451], [550, 550], [421, 0]]) {
        let answers: Vec<u16> = attempts.iter().map(|attempt| attempt.mail.code).collect();
        assert!(expected.starts_with(&answers), "{attempts:?}");
        assert!(attempts.iter().all(|attempt| !is_ours(attempt)), "{attempts:?}");
        assert!(attempts[0].took >= Duration::from_secs(10), "{attempts:?}");
    }
    filtered.greypit.terminate();
    assert_eq!([0, 1, 2, 3].map(|n| first_refusal(addr(n))), [250, 451, 554, 421]);
}

/// The first answer to a new session that is no 2xx, up to MAIL.
fn first_refusal(server: SocketAddr) -> u16 {
    let mut client = Client::open(Ipv4Addr::LOCALHOST, server);
    if client.greeting.code != 220 {
        return client.greeting.code;
    }
    client.command("EHLO client.example.com");
    client.command("MAIL FROM:<alice@flood.example.com>").code
}

/// The records of the filter and those of the log are of the same messages.
#[test]
fn records_agree_with_the_log() {
    let net = MailNet::keeping();
    let [syslog1, syslog2] = ["mx1", "mx2"].map(|host| Rsyslog::start(host, &[]));
    let filter = "INPUT_MAIL_FILTER(`greypit', `S=local:/var/run/greypit/sock, F=, T=S:10s;R:60s;E:5m')dnl";
    let mx1 = Sendmail::start(Setup::mx(1), &net, &syslog1);
    let mx2 = Sendmail::start(Setup::mx(2).extra_mc(filter), &net, &syslog2);
    let mut filtered = Filtered::by_socket(mx2.addr(), &mx2.folder().join("greypit/sock"), true);
    filtered.greypit.follow(&syslog2.file());
    filtered.start("step = \"20ms\"\nallow.daemons = [\"MSA\"]");

    let mut flood = filtered.flood();
    let attempts = filtered.send(&mut flood, 13);
    assert_pattern(&attempts, 10, 3);
    // A recipient whom sendmail refuses, and a sender who thinks better of it.
    let mut client = Client::connect(mx2.addr());
    assert_eq!(client.mail("bob@sender.example.com", &["nobody-here@mx2.example.org"], "").code, 550);
    client.command("MAIL FROM:<bob@sender.example.com>");
    client.quit();
    // By TLS, from another mail server.
    let mut client = Client::connect(mx1.addr());
    assert_eq!(client.mail("bob@sender.example.com", &["alice@mx2.example.org"], "Subject: TLS\n\ntext\n").code, 250);
    client.quit();
    // Only watched.
    filtered.set("mode = \"observe\"");
    filtered.greypit.reload();
    let mut watched = filtered.flood();
    assert_pattern(&filtered.send(&mut watched, 12), 12, 0);
    mx1.wait_queue_empty();
    mx2.wait_queue_empty();

    // The log is written, and read, in its own time.
    wait_for("the log", || (logged_messages(&syslog2, ": from=<") >= 11 + 12).then_some(()));
    let lines = syslog2.lines().len() as f64;
    wait_for("the log to be read", || (filtered.greypit.metric("greypit_maillog_lines_total")? >= lines).then_some(()));
    let records = filtered.records(16 + 12);
    let mail =
        |verdict: &str| records.iter().filter(|r| r["kind"] == "mail" && r["verdict"] == verdict).collect::<Vec<_>>();
    let accepted = mail("accept");
    assert_eq!(accepted.len(), 11 + 12);
    let would: Vec<_> = accepted.iter().filter_map(|r| Some((r.get("would")?, r.get("would_delay_ms")?))).collect();
    assert_eq!(would, [(&"refuse".into(), &0.into()), (&"refuse".into(), &20.into())]);
    for record in &accepted {
        let id = &record["sendmailid"];
        let from = records.iter().find(|r| r["kind"] == "from" && r["sendmailid"] == *id);
        let from = from.unwrap_or_else(|| panic!("no from= line for {record}"));
        assert_eq!(record["msgid"], from["msgid"]);
        assert_eq!(record["mail_from"], from["src"]);
        assert_eq!(record["daemon"], from["daemon"]);
        assert_eq!(record["client_addr"], from["relay_ip"]);
        assert_eq!(record["size"].to_string(), from["size"].as_str().expect("all strings"));
        assert_eq!(record["nrcpts"].to_string(), from["nrcpts"].as_str().expect("all strings"));
        assert!(record["mta"].as_str().is_some_and(|mta| mta.starts_with("8.")), "{record}");
        assert_eq!(record["delay_ms"], 0);
    }
    let ids: Vec<&str> = accepted.iter().map(|r| r["msgid"].as_str().expect("text")).collect();
    assert!(attempts.iter().filter(|a| a.accepted()).all(|a| ids.contains(&a.message_id.as_str())), "{ids:?}");
    let refused = mail("refuse");
    let strikes: Vec<_> = refused.iter().map(|r| (r["message"].as_u64(), r["strike"].as_u64())).collect();
    assert_eq!(strikes, [(Some(11), Some(1)), (Some(12), Some(2)), (Some(13), Some(3))]);
    for (record, wait) in refused.iter().zip([0, 20, 40]) {
        assert!(record["delay_ms"].as_u64().is_some_and(|delay| delay >= wait), "{record}");
        assert_eq!(record["reason"], "connection");
        assert_eq!(record["connection"], accepted[0]["connection"]);
    }
    assert_eq!(mail("abort").len(), 2);
    let tls = accepted.iter().find(|r| r["mail_from"] == "bob@sender.example.com").expect("from the other server");
    assert!(tls["tls"].is_string() || tls["tls"].is_object(), "{tls}");
    assert_eq!(tls["client_addr"], "127.0.0.1");
}
