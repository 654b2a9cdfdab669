//! What breaks on greypit's side, and what a mail server sees of it: nothing.

use super::conn::{Conn, Cut};
use super::packet::{self, Reply};
use super::play::{Target, client, message};
use super::support::wait_for;

/// A mail server whose client has said HELO; none where greypit has no descriptor for it.
fn attach(target: &Target) -> Option<Conn> {
    let mut conn = Conn::open(&target.socket, Cut::AsWritten).ok()?;
    conn.send(&packet::offer(6, packet::ALL_ACTIONS, packet::ALL_STEPS));
    match conn.read() {
        Ok(Reply::Agreed(_)) => {}
        _ => return None,
    }
    client(&mut conn, "192.0.2.9", &[]).expect("a mail server is served");
    Some(conn)
}

/// Without descriptors those that are served go on, the others are told at once by a closed connection, so that their
/// mail servers do as `F=` says without waiting; and all is well when there are descriptors again.
pub(crate) fn out_of_descriptors() {
    let mut target = Target::start("").expect("greypit starts");
    let mut first = attach(&target).expect("a mail server is served");
    let open = std::fs::read_dir(format!("/proc/{}/fd", target.greypit.id())).expect("its descriptors").count();
    target.greypit.limit_descriptors(open as u64 + 8);
    let many: Vec<_> = (0..40).map(|_| attach(&target)).collect();
    let served = many.iter().flatten().count();
    assert!((1..=10).contains(&served), "{served} of 40 are served");
    for _ in 0..3 {
        message(&mut first, &["b@example.org".to_owned()]).expect("mail of those that are served passes");
    }
    drop(many);
    wait_for("room", || attach(&target));
    target.check_serves().expect("others are served again");
    assert!(target.greypit.series("greypit_milter_fail_open_total{reason=\"descriptors\"}") >= 1);
    target.end().expect("an orderly end");
}

/// The store is away and the spool is full: records are dropped and counted, mail passes and is refused as ever.
pub(crate) fn full_spool() {
    let mut target = Target::new("limit = 0\nmax_recipients = 10000").expect("a config");
    target.greypit.set_toml(
        "[spool]\nmax_bytes = \"16MiB\"\nsegment_bytes = \"1MiB\"\nqueue_bytes = \"1MiB\"\n\
         [store]\nurl = \"s3://nowhere\"\nendpoint = \"http://127.0.0.1:1\"\npath_style = true\n\
         [batch]\ndrain_timeout = \"1s\"\n",
    );
    target.greypit.env([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")]);
    target.greypit.start();
    let recipients: Vec<_> = (0..100).map(|n| format!("{}{n}@example.org", "b".repeat(600))).collect();
    let mut conn = attach(&target).expect("a mail server is served");
    let dropped = "greypit_milter_events_dropped_total{reason=\"queue_full\"}";
    let mut messages = 0;
    wait_for("a full spool", || {
        for _ in 0..50 {
            message(&mut conn, &recipients).expect("mail passes");
            messages += 1;
        }
        (target.greypit.series(dropped) >= 50).then_some(())
    });
    let accepted = target.greypit.series("greypit_milter_messages_total{ending=\"accept\"}");
    assert_eq!(accepted, messages, "each of them was seen");
    let recorded = target.greypit.series("greypit_milter_events_total");
    assert_eq!(recorded + target.greypit.series(dropped), messages, "each is recorded or counted as dropped");
    assert!(target.greypit.log().contains("the record of a mail transaction is dropped"));
    target.greypit.kill();
}
