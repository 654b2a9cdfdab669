//! A real sendmail with greypit as its filter, by each way that the
//! documentation names.

mod support;

use support::filtered::Filtered;
use support::rsyslog::Rsyslog;
use support::sendmail::{MailNet, Sendmail, Setup};
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
        let logged =
            || self.syslog.lines().iter().filter(|l| l.contains(" from=<alice@") && l.contains(", size=")).count();
        let accepted = self.net.kept().len();
        wait_for("the log", || (logged() >= accepted).then_some(()));
        assert_eq!(logged(), accepted);
    }
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
    let answers = mx.filtered.sends_without_reading();
    // Its own limit is met when the text of refused messages comes as commands.
    let last = answers.last().expect("answers");
    assert!(last.starts_with("421 4.7.0 ") && last.contains("Too many bad commands"), "{last}");
    mx.end();
}
