//! Rules and folding, through the listeners: every message is in a record, in a number, or counted.

use greypit_pipeline::units::Span;

use super::*;

#[test]
fn what_rules_leave_out_and_what_is_folded_is_counted_exactly() {
    const ROUNDS: usize = 300;
    let mut config = only(&[], &["127.0.0.1:0"], &[]);
    config.fold = Span(Duration::from_secs(3600));
    config.rule = toml::from_str::<toml::Table>(
        "[[rule]]\nname = \"noise\"\napp = [\"noise\"]\ndrop = true\n\
         [[rule]]\nname = \"some\"\napp = [\"some\"]\nsample = 10\n\
         [[rule]]\nname = \"net\"\nseverity = [\"debug\"]\nkind = \"net\"\n",
    )
    .unwrap()["rule"]
        .clone()
        .try_into()
        .unwrap();
    let mut rig = listen(&config, 64 << 20);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    for i in 0..ROUNDS {
        let text = format!(
            "<13>1 - mx1 noise - - - x{i}\n<13>1 - mx1 some - - - x{i}\n<15>1 - mx1 app - - - x{i}\n<13>1 - mx1 app - - - same\n"
        );
        client.write_all(text.as_bytes()).unwrap();
    }
    drop(client);
    rig.until("every message", |rig| rig.messages() == 4 * ROUNDS);
    rig.end();
    let groups = || std::iter::from_fn(|| rig.queue.next(NOTHING));
    let taken: Vec<(String, serde_json::Value)> = groups()
        .flat_map(|group| {
            let read = |body: &[u8]| serde_json::from_slice(body).unwrap();
            group.iter().map(|(kind, body)| (kind.to_string(), read(body))).collect::<Vec<_>>()
        })
        .collect();
    let rule = |labels: &[&str]| rig.metric("greypit_syslog_rule_messages_total", labels);
    assert_eq!(rule(&["noise", "drop"]), ROUNDS);
    assert_eq!((rule(&["some", "sample"]), rule(&["some", "skip"])), (ROUNDS / 10, ROUNDS - ROUNDS / 10));
    assert_eq!(rule(&["net", "kind"]), ROUNDS);
    let count = |wanted: &dyn Fn(&str, &serde_json::Value) -> bool| taken.iter().filter(|(k, b)| wanted(k, b)).count();
    assert_eq!(count(&|kind, body| kind == "net" && body["kind"] == "net" && body["severity"] == "debug"), ROUNDS);
    assert_eq!(count(&|kind, body| kind == "syslog" && body["sampled"] == 10), ROUNDS / 10);
    assert_eq!(count(&|_, body| body["message"] == "same"), 2);
    assert_eq!(count(&|_, body| body["message"] == "same" && body["repeated"] == ROUNDS - 1), 1);
    let metric = |name: &str| rig.metric(name, &[]);
    let events = metric("greypit_syslog_events_total");
    assert_eq!(events, taken.len());
    let (folded, records) = (metric("greypit_syslog_folded_total"), metric("greypit_syslog_fold_records_total"));
    let skipped = rule(&["drop"]) + rule(&["skip"]);
    assert_eq!(rig.messages(), events - records + folded + skipped);
    assert_eq!((metric("greypit_syslog_dropped_total"), metric("greypit_syslog_folded_lost_total")), (0, 0));
}

#[test]
fn a_window_ends_without_another_message() {
    let mut config = only(&[], &["127.0.0.1:0"], &[]);
    config.fold = Span(Duration::from_millis(100));
    let mut rig = listen(&config, 1 << 20);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    client.write_all(b"<13>1 - mx1 app - - - same\n<13>1 - mx1 app - - - same\n").unwrap();
    let bodies = rig.take(2);
    assert_eq!((&bodies[0]["repeated"], &bodies[1]["repeated"]), (&serde_json::Value::Null, &1.into()));
    rig.end();
    assert_eq!(rig.take_waiting(), 0);
}
