//! Proves that the real parts do what the other tests take for granted.

mod support;

use support::rsyslog::Rsyslog;
use support::sendmail::{MailNet, Sendmail, Setup};
use support::traffic;

/// Makes tests/golden/sendmail/real-8.17.log anew:
/// `cargo test --features real --test parts -- --ignored collect`
#[test]
#[ignore = "writes a file of the repository"]
fn collect_a_log_for_the_parser() {
    let net = MailNet::start();
    let syslogs = [Rsyslog::start("mx1", &[]), Rsyslog::start("mx2", &[])];
    let mut mx1 = Sendmail::start(Setup::mx(1).impatient("4s", "10s"), &net, &syslogs[0]);
    let mut mx2 = Sendmail::start(Setup::mx(2).log_label("sendmail"), &net, &syslogs[1]);
    traffic::play(&mx1, 2);
    mx1.wait_queue_empty();
    mx2.wait_queue_empty();
    mx1.stop();
    mx2.stop();
    let mut lines: Vec<String> = syslogs.iter().flat_map(Rsyslog::lines).collect();
    lines.sort_by(|a, b| a.get(..15).cmp(&b.get(..15)));
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/sendmail/real-8.17.log"
    );
    std::fs::write(file, lines.join("\n") + "\n").expect("the golden folder");
}
