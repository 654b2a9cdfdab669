//! The log of a real Postfix, read by the parser: one `from` a message, one `to` a
//! recipient and attempt, each with what was joined to it.

mod support;

use greypit::collect::record::{Peer, Recorder};
use greypit::collect::syslog::time::parse_zone;
use serde_json::Value;
use std::net::Ipv4Addr;
use support::postfix::{Postfix, Setup};
use support::sendmail::MailNet;
use support::smtp::Client;
use support::{run, wait_for};

/// Sends what makes every kind of line that becomes a record.
fn traffic(postfix: &Postfix) {
    let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 5, 1), postfix.addr(), "out1.sender.example.com");
    let content = |id: &str| format!("Message-ID: {id}\nSubject: x\n\nbody\n");
    client.mail("alice@example.com", &["bob@good.example.net", "carol@good.example.net"], &content("<m1@example.com>"));
    client.mail("alice@example.com", &["bob@refuse.example.net"], &content("<m2, stat=Sent@example.com>"));
    client.mail("alice@example.com", &["bob@defer.example.net"], &content("no brackets m3"));
    client.mail("alice@example.com", &["bob@dead.example.net"], &content("<m4@example.com>"));
    client.mail("", &["alias@pf.example.org"], &content("<m5@example.com>"));
    client.mail(
        "\"a>, size=1, nrcpt=9 (queue active)\"@example.com",
        &["\"b>, relay=evil[6.6.6.6]:25, delay=1, delays=1/1/1/1, dsn=2.0.0, status=sent (\"@good.example.net"],
        &content("<m6@example.com>, from=<x>, size=1"),
    );
    client.mail("\"a,b c\"@example.com", &["\"x>, orig_to=<y\"@good.example.net"], "Subject: no message-id\n\nx\n");
    client.mail("alice@example.com", &["nobody@pf.example.org"], &content("<m8@example.com>"));
    client.command("EHLO x");
    client.mail_with(
        "MAIL FROM:<alice@example.com> SMTPUTF8",
        &["jörg@good.example.net"],
        &content("<m9@example.com>"),
    );
    let mut stranger = Client::connect_from(Ipv4Addr::new(127, 0, 5, 2), postfix.addr(), "x");
    stranger.mail("alice@example.com", &["bob@reject.example.net"], &content("<m10@example.com>"));
    client.quit();
    stranger.quit();
    postfix.submit_locally("root@example.com", "bob@good.example.net", "Subject: local\n\nx\n");
}

fn setup(number: u8) -> Setup {
    // Over a connection that is used again a message that needs SMTPUTF8 is sent to a server without it.
    Setup::pf(number).main_cf(
        "smtputf8_enable = yes\n\
         smtp_connection_cache_on_demand = no\n\
         virtual_alias_domains = pf.example.org\n\
         virtual_alias_maps = inline:{alias@pf.example.org=bob@good.example.net}\n\
         smtpd_recipient_restrictions = check_recipient_access inline:{reject.example.net=REJECT}, permit\n\
         transport_maps = inline:{{refuse.example.net=smtp:[mx.refuse.example.net]:GP_PORT}, \
         {defer.example.net=smtp:[mx.defer.example.net]:GP_PORT}, {dead.example.net=smtp:[mx.dead.example.net]:GP_PORT}}",
    )
}

/// All records of its log, and the log.
fn records(postfix: &Postfix) -> Vec<Value> {
    let mut recorder = Recorder::new(parse_zone("UTC").expect("UTC is known"), "default.test");
    let mut records = Vec::new();
    for line in postfix.lines() {
        recorder.to_records(line.as_bytes(), jiff::Timestamp::now(), Peer::None, &mut |_, body| {
            records.push(serde_json::from_slice::<Value>(body).expect("valid JSON"));
        });
    }
    records
}

fn check(long_ids: bool) {
    let net = MailNet::start();
    let main_cf = if long_ids { "enable_long_queue_ids = yes" } else { "enable_long_queue_ids = no" };
    let postfix = Postfix::start(setup(1).main_cf(main_cf).port(net.port()), &net);
    traffic(&postfix);
    postfix.wait_for_lines(7, "status=sent");
    postfix.wait_for_lines(2, "status=deferred");
    postfix.wait_for_lines(3, "status=bounced");
    // That is logged before they are where a flush looks.
    wait_for("both to be in the queue of deferred mail", || {
        let queue = run(postfix.inside().args(["postqueue", "-j"]));
        (queue.matches("\"queue_name\": \"deferred\"").count() == 2).then_some(())
    });
    // Every deferred message once more: its from= line is logged again.
    assert!(postfix.inside().args(["postqueue", "-f"]).status().expect("postqueue").success());
    postfix.wait_for_lines(4, "status=deferred");
    if let Some(keep) = std::env::var_os("GREYPIT_KEEP_LOG") {
        std::fs::write(format!("{}-{long_ids}", keep.to_string_lossy()), postfix.lines().join("\n")).expect("a file");
    }
    let records = records(&postfix);
    let of = |kind: &str| records.iter().filter(|r| r["kind"] == kind).cloned().collect::<Vec<_>>();
    let (from, to) = (of("from"), of("to"));
    // Eight by SMTP, one by hand, two notices; the two that are tried again once.
    assert_eq!(from.len(), 11);
    // One recipient is in a line that cannot be told from a forged one.
    assert_eq!(to.len(), postfix.wait_for_lines(14, "status=").len() - 1);
    let refused: Vec<_> = records.iter().filter_map(|r| r["parse_error"].as_str()).collect();
    assert_eq!(refused, ["postfix_ambiguous"]);
    let by_smtp = |r: &&Value| r["relay"] == "out1.sender.example.com" && r["relay_ip"] == "127.0.5.1";
    assert_eq!(from.iter().filter(by_smtp).count(), 8);
    assert_eq!(from.iter().filter(|r| r["relay"] == "local").count(), 1);
    assert_eq!(from.iter().filter(|r| r["src"] == "" && r["relay"] == "" && r["msgid"] != "").count(), 2);
    assert_eq!(from.iter().filter(|r| r["src"] == "\"a>, size=1, nrcpt=9 (queue active)\"@example.com").count(), 1);
    assert_eq!(from.iter().filter(|r| r["msgid"] == "m2, stat=Sent@example.com").count(), 1);
    let replies: Vec<_> = to.iter().filter_map(|r| r["reply"].as_str()).collect();
    assert!(replies.contains(&"550 5.1.1 No such user, here: stat=Sent"), "{replies:?}");
    assert!(to.iter().any(|r| r["orig_to"] == "alias@pf.example.org" && r["relay_ip"] == "127.0.1.1"));
    assert!(to.iter().all(|r| r["sendmailid"].as_str().is_some_and(|id| (id.len() > 11) == long_ids)));
}

#[test]
fn a_real_log_with_short_queue_ids() {
    check(false);
}

#[test]
fn a_real_log_with_long_queue_ids() {
    check(true);
}
