//! The whole command over `tests/golden/simulate`; `UPDATE_GOLDEN=1` rewrites what is expected.

use std::path::Path;

use clap::Parser;
use greypit_milter::config::Rule;
use greypit_pipeline::units::Span;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    simulate: Simulate,
}

const LOG: &str = "tests/golden/simulate/farm.log";

fn run(config: &Config, arguments: &[&str]) -> String {
    let arguments = [&["simulate", "--zone", "UTC"], arguments].concat();
    let mut out = Vec::new();
    let code = Command::try_parse_from(arguments).unwrap().simulate.print(config, &mut out).unwrap();
    assert_eq!(code, EXIT_DONE);
    String::from_utf8(out).unwrap()
}

fn is_golden(name: &str, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/simulate").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(path, got).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), got, "{name}");
}

#[test]
fn who_would_have_been_refused() {
    is_golden("farm.txt", &run(&Config::default(), &[LOG]));
    is_golden("farm.ndjson", &run(&Config::default(), &[LOG, "--json", "-n", "2"]));
}

#[test]
fn the_whole_policy_is_replayed() {
    let mut config = Config::default();
    config.milter.limit = 3;
    config.milter.client.limit = 12;
    config.milter.max_delay = Span::seconds(2);
    config.milter.allow.hosts = vec!["lists.example.org".to_owned()];
    config.milter.rule = vec![Rule {
        name: "submission".to_owned(),
        daemons: vec!["MSA".to_owned()],
        limit: Some(0),
        ..Rule::default()
    }];
    is_golden("policy.txt", &run(&config, &[LOG, "--limit", "8"]));
}

#[test]
fn a_log_without_connections_refuses_nobody() {
    let out = run(&Config::default(), &["/dev/null", "--limit", "0"]);
    let first = out.lines().next().unwrap();
    assert_eq!(
        first,
        "with no limit a connection: 0 of 0 messages refused (0.0%), on 0 of 0 connections, from 0 of 0 clients"
    );
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, expected) in [
        (&["--zone", "Mars/Phobos", LOG][..], "--zone: unknown time zone"),
        (&["/nowhere/maillog"], "/nowhere/maillog: No such file"),
    ] {
        let command = Command::try_parse_from([&["simulate"], arguments].concat()).unwrap();
        let stopped = command.simulate.print(&Config::default(), &mut Vec::new());
        assert!(matches!(stopped, Err(Stop::Say(line)) if line.starts_with(expected)), "{expected}");
    }
}
