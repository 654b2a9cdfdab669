//! The milter against miltertest, the mail server's side as OpenDKIM's authors wrote it: the scripts in
//! `tests/milter/*.lua`. Lines `-- config: key = value` at the top of one are keys of `[milter]`.

mod support;

use std::path::Path;
use support::debian_command;
use support::greypit::Greypit;
use support::net::free_port;
use toml::{Table, Value};

fn set(greypit: &mut Greypit, prefix: &str, keys: Table) {
    for (key, value) in keys {
        let key = format!("{prefix}.{key}");
        match value {
            Value::Table(keys) => set(greypit, &key, keys),
            value => greypit.set(&key, value),
        }
    }
}

/// Runs a script against a greypit of its own, over a unix socket and over TCP; it goes on serving.
fn run(script: &str) -> Greypit {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/milter").join(script);
    let text = std::fs::read_to_string(&script).expect("a script");
    let keys: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("-- config: "))
        .fold(String::new(), |all, key| all + key + "\n");
    let mut greypit = Greypit::new("mx1");
    let unix = format!("unix:{}", greypit.folder().join("milter.sock").display());
    let sockets = [unix, format!("inet:{}@127.0.0.1", free_port())];
    greypit.set("milter.listen", sockets.iter().map(|socket| Value::from(socket.as_str())).collect::<Vec<_>>());
    set(&mut greypit, "milter", keys.parse().expect("keys of [milter]"));
    greypit.start();
    for socket in sockets {
        let mut miltertest = debian_command("usr/bin/miltertest");
        miltertest.arg("-s").arg(&script).arg("-D").arg(format!("SOCKET={socket}"));
        support::run(&mut miltertest);
    }
    greypit.assert_alive();
    assert_eq!(greypit.metric("greypit_milter_fail_open_total"), Some(0.0));
    greypit
}

/// The same, and what each run has left in the counts; then it ends in order.
fn run_and_count(script: &str, accepted: u64, refused: u64) {
    let mut greypit = run(script);
    let messages = |ending: &str, expected: u64| {
        let name = format!("greypit_milter_messages_total{{ending=\"{ending}\"}}");
        support::wait_for(&format!("{expected} {ending}"), || {
            let (_, text) = greypit.get("/metrics")?;
            let value = text.lines().find_map(|line| line.strip_prefix(name.as_str()))?.trim().parse::<u64>().ok()?;
            assert!(value <= expected, "{name} {value}");
            (value == expected).then_some(())
        });
    };
    messages("accept", 2 * accepted);
    messages("refuse", 2 * refused);
    assert!(greypit.end().success());
}

#[test]
fn negotiate() {
    run_and_count("negotiate.lua", 0, 0);
}

#[test]
fn a_mail_server_that_leaves_nothing_out() {
    run_and_count("everything.lua", 3, 0);
}

#[test]
fn ten_messages_pass_and_the_eleventh_is_refused() {
    run_and_count("limit.lua", 12, 2);
}

#[test]
fn the_second_refusal_waits() {
    run_and_count("delay.lua", 0, 2);
}

#[test]
fn macros_decide() {
    run_and_count("macros.lua", 5, 1);
}

#[test]
fn mail_servers_that_go_without_a_word() {
    run_and_count("abrupt.lua", 2, 0);
}
