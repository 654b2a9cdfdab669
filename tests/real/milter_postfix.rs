//! A real Postfix with greypit as its filter: chrooted and not, by unix and by
//! inet socket, with either default action.

mod support;

use std::net::Ipv4Addr;
use std::thread::scope;
use std::time::Duration;
use support::filtered::{Filtered, assert_pattern};
use support::flood::Flood;
use support::net::free_port;
use support::postfix::{Postfix, Setup, version};
use support::sendmail::MailNet;
use support::smtp::Client;
use support::{debian_command, run, wait_for};

/// Postfix counts refused commands too; these limits keep it out.
const LENIENT: &str = "smtpd_soft_error_limit = 100000\nsmtpd_hard_error_limit = 100000";

/// A Postfix, and the greypit that it is attached to.
struct Attached {
    filtered: Filtered,
    postfix: Postfix,
    net: MailNet,
}

impl Attached {
    /// By a socket in the queue folder.
    fn start(setup: Setup, action: &str) -> Self {
        let net = MailNet::keeping();
        let milter = format!("smtpd_milters = unix:greypit/sock\nmilter_default_action = {action}");
        let postfix = Postfix::start(setup.main_cf(&milter), &net);
        let socket = postfix.milter_folder().join("sock");
        let filtered = Filtered::by_socket(postfix.addr(), &socket, action == "accept");
        Self { filtered, postfix, net }
    }

    /// By a port.
    fn start_inet(setup: Setup) -> Self {
        let net = MailNet::keeping();
        let port = free_port();
        let milter = format!("smtpd_milters = inet:127.0.0.1:{port}\nmilter_default_action = accept");
        let postfix = Postfix::start(setup.main_cf(&milter), &net);
        let filtered = Filtered::new(postfix.addr(), &format!("inet:{port}@127.0.0.1"), true);
        Self { filtered, postfix, net }
    }

    fn end(mut self) {
        self.filtered.nothing_is_lost(&self.net);
    }

    /// Postfix's own load, all on one connection; says how it ended.
    fn smtp_source(&self, from: &str, messages: usize) -> bool {
        let mut source = debian_command("usr/sbin/smtp-source");
        source.args(["-A", "-d", "-m", &messages.to_string(), "-f", from, "-t", "bob@good.example.net"]);
        source.arg(self.postfix.addr().to_string());
        source.output().expect("smtp-source starts").status.success()
    }

    /// Waits until so many messages of a sender are in its log, and says how many were queued and how many refused.
    fn wait_logged(&self, from: &str, messages: usize) -> (usize, usize) {
        let from = format!("from=<{from}>");
        let with = |lines: &[String], text: &str| lines.iter().filter(|line| line.contains(text)).count();
        wait_for(&format!("{messages} messages in the log"), || {
            let mut lines = self.postfix.lines();
            lines.retain(|line| line.contains(&from));
            let logged = (with(&lines, ": from=<"), with(&lines, "milter-reject: MAIL"));
            (logged.0 + logged.1 >= messages).then_some(logged)
        })
    }
}

#[test]
fn mail_passes_while_greypit_is_away() {
    let mut pf = Attached::start(Setup::pf(1).main_cf(LENIENT), "accept");
    pf.filtered.comes_later();
    pf.filtered.answers_wait_longer_and_longer();
    pf.filtered.others_are_not_held();
    pf.filtered.a_reload_keeps_counts();
    pf.filtered.ends_while_answers_wait();
    pf.filtered.is_killed();
    pf.filtered.closes_after_strikes();
    pf.filtered.observes();
    pf.filtered.allows();
    pf.filtered.ten_thousand();
    pf.end();
}

#[test]
fn mail_is_deferred_while_greypit_is_away() {
    let mut pf = Attached::start(Setup::pf(1).chrooted().main_cf(LENIENT), "tempfail");
    pf.filtered.comes_later();
    pf.filtered.answers_wait_longer_and_longer();
    pf.filtered.others_are_not_held();
    pf.filtered.ends_while_answers_wait();
    pf.filtered.is_killed();
    smtp_source_gets_ten_in(&mut pf);
    pf.end();
}

/// Postfix's own load client, which goes on whatever is answered.
fn smtp_source_gets_ten_in(pf: &mut Attached) {
    const ALL: usize = 10_000;
    const FROM: &str = "source@flood.example.com";
    pf.filtered.start("step = \"1ms\"\nmax_delay = \"1ms\"");
    assert!(pf.smtp_source(FROM, ALL));
    assert_eq!(pf.wait_logged(FROM, ALL), (10, ALL - 10));
    pf.filtered.greypit.terminate();
}

/// Postfix's limits as they are by default: it adds a second to each answer
/// from the soft limit on, and closes at the hard one.
#[test]
fn postfix_closes_a_flood_itself() {
    const FROM: &str = "source@flood.example.com";
    let mut pf = Attached::start_inet(Setup::pf(1).chrooted());
    pf.filtered.start("step = \"10ms\"\nmax_delay = \"50ms\"");
    let mut blind = pf.filtered.flood();
    let mut flood = pf.filtered.flood();
    assert_pattern(&pf.filtered.send(&mut flood, 10), 10, 0);
    let (blind, mut answers) = scope(|scope| {
        // Three errors a message.
        let blind = scope.spawn(|| blind.send(100));
        // One error a message. With one more it would connect again.
        scope.spawn(|| pf.smtp_source(FROM, 30));
        let answers = flood.try_mail(100);
        (blind.join().expect("no panic"), answers)
    });
    pf.filtered.note(&blind);
    let refused = blind.iter().skip(10).filter(|attempt| attempt.mail.code == 451).count();
    assert!((6..=7).contains(&refused), "{refused} refused: {blind:#?}");
    assert_pattern(&blind[..10 + refused], 10, refused);
    let last = answers.pop().expect("answers").0;
    assert_eq!(answers.len(), 20, "{answers:?}");
    assert!(answers.iter().all(|(reply, _)| reply.code == 451), "{answers:?}");
    assert!(last.code == 421 && last.text.contains("too many errors"), "{last:?}");
    assert_eq!(pf.wait_logged(FROM, 10 + 20), (10, 20));
    eprintln!("by default Postfix closes after {refused} refused messages in one go, or 20 refused MAIL");
    pf.filtered.greypit.terminate();
    pf.end();
}

/// A delay longer than Postfix waits for an answer.
#[test]
fn long_delays_need_progress() {
    let setup = Setup::pf(1).main_cf(LENIENT).main_cf("milter_command_timeout = 10s");
    let mut pf = Attached::start_inet(setup);
    pf.filtered.start(
        "step = \"15s\"\nmax_delay = \"15s\"\n\
         postfix = { progress = true, progress_every = \"1s\", max_delay = \"15s\" }",
    );
    let mut flood = pf.filtered.spent();
    let attempts = pf.filtered.send(&mut flood, 1);
    assert_pattern(&attempts, 0, 1);
    assert!(attempts[0].took >= Duration::from_secs(15), "{attempts:?}");
    eprintln!("with PROGRESS: held {:?} against a time-out of 10 s", attempts[0].took);
    drop(flood);

    pf.filtered.set("postfix.progress = false");
    pf.filtered.greypit.reload();
    let mut flood = pf.filtered.spent();
    let attempts = pf.filtered.send(&mut flood, 3);
    // The default action, for the rest of the session.
    assert_pattern(&attempts, 3, 0);
    assert!(attempts[0].took >= Duration::from_secs(10), "{attempts:?}");

    drop(flood);
    run(pf.postfix.inside().args(["postconf", "-e", "milter_default_action = tempfail"]));
    pf.postfix.reload(|| drop(run(pf.postfix.inside().args(["postfix", "reload"]))));
    let mut flood = pf.filtered.spent();
    let attempts = pf.filtered.send(&mut flood, 2);
    for attempt in &attempts {
        assert_eq!(attempt.mail.text, "451 4.7.1 Service unavailable - try again later");
    }
    assert!(attempts[0].took >= Duration::from_secs(10), "{attempts:?}");
    pf.filtered.greypit.terminate();
    pf.end();
}

/// A client that says whom it speaks for, and local programs.
#[test]
fn the_client_is_who_postfix_says() {
    let milters = "non_smtpd_milters = unix:greypit/sock";
    let mut pf = Attached::start(Setup::pf(1).chrooted().main_cf(LENIENT).main_cf(milters), "accept");
    pf.filtered.start("step = \"10ms\"");
    for addr in ["192.0.2.7", "192.0.2.8"] {
        let client = Client::connect_from(Ipv4Addr::new(127, 0, 6, 1), pf.postfix.addr(), "proxy.example.com");
        let mut flood = Flood::over(client, &format!("proxy-{addr}"));
        assert_pattern(&pf.filtered.send(&mut flood, 5), 5, 0);
        // From here on it is another session, for Postfix and for its filter.
        let mut client = flood.into_client();
        let reply = client.command(&format!("XCLIENT ADDR={addr} NAME=out.sender.example.com"));
        assert_eq!(reply.code, 220, "{reply:?}");
        client.command("EHLO out.sender.example.com");
        let mut flood = Flood::over(client, &format!("xclient-{addr}"));
        let attempts = pf.filtered.send(&mut flood, 12);
        assert_pattern(&attempts, 10, 2);
        assert!(attempts[11].mail.text.contains(addr), "{:?}", attempts[11]);
    }
    // A user who has said who he is.
    let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 6, 1), pf.postfix.addr(), "proxy.example.com");
    assert_eq!(client.command("XCLIENT ADDR=192.0.2.9 LOGIN=alice").code, 220);
    client.command("EHLO laptop.example.com");
    assert_pattern(&pf.filtered.send(&mut Flood::over(client, "user"), 12), 12, 0);
    let text = "Message-ID: <local@pf1.example.org>\nSubject: by hand\n\ntext\n";
    pf.postfix.submit_locally("alice@sender.example.com", "bob@good.example.net", text);
    pf.filtered.also_accepted("local@pf1.example.org");

    let records = pf.filtered.records(2 * (5 + 12) + 12 + 1);
    let of = |addr: &str, verdict: &str| {
        let found = records.iter().filter(|r| r["client_addr"] == addr && r["verdict"] == verdict);
        found.collect::<Vec<_>>()
    };
    assert_eq!(of("127.0.6.1", "accept").len(), 10);
    for addr in ["192.0.2.7", "192.0.2.8"] {
        assert_eq!((of(addr, "accept").len(), of(addr, "refuse").len()), (10, 2));
    }
    let user = of("192.0.2.9", "accept");
    assert!(user.len() == 12 && user.iter().all(|r| r["auth"] == "alice" && r["reason"] == "allow"), "{user:?}");
    let local = of("127.0.0.1", "accept");
    assert!(local.len() == 1 && local[0]["msgid"] == "", "Postfix has no {{msg_id}}: {local:?}");
    // Postfix says its queue id after the first recipient, and so does the log.
    for record in records.iter().filter(|r| r["verdict"] == "accept") {
        let id = record["sendmailid"].as_str().expect("text");
        assert!(!id.is_empty(), "{record}");
        pf.postfix.wait_for_lines(1, &format!(": {id}: from=<{}>", record["mail_from"].as_str().expect("text")));
        assert_eq!(record["mta"], format!("Postfix {}", version()));
    }
    assert!(records.iter().filter(|r| r["verdict"] == "refuse").all(|r| r["sendmailid"] == ""));
    pf.end();
}

/// Everything without waiting for an answer.
#[test]
fn a_deaf_sender_gets_ten_in() {
    let mut pf = Attached::start(Setup::pf(1), "accept");
    let answers = pf.filtered.sends_without_reading(10);
    let last = answers.last().expect("answers");
    assert!(last.contains("I can break rules, too. Goodbye."), "{last}");
    let stop = run(pf.postfix.inside().args(["postconf", "-h", "smtpd_hard_error_limit"]));
    eprintln!("Postfix ends it with {last:?}; its hard limit is {}", stop.trim());
    pf.end();
}
