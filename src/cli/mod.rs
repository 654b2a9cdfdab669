//! The commands, one file each. Data goes to stdout, everything else to stderr; the exit code is 0 for done, 1 for an
//! answer of no, 2 for wrong usage or configuration.

pub(crate) mod boot;
pub mod cat;
mod check;
mod demo;
mod lines;
pub mod ls;
mod parse;
mod progress;
pub mod reader;
pub mod replay;
mod run;
mod simulate;
pub mod top;
pub mod verify;
mod wake;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Loaded};

const EXAMPLES: &str = "\
Examples:
  greypit run --demo                        see it work, on this machine only
  greypit run --config /etc/greypit.toml    the gateway
  greypit top dest --since 1d               who were the top recipients
  greypit verify                            every event once, none missing?
  greypit simulate /var/log/maillog         whom would the greypit have stopped?
  zcat maillog.*.gz | greypit parse sendmail | jq .";

/// One daemon for mail logs, syslog and machines that boot: every event once, as compressed batches in a directory or S3.
#[derive(Debug, Parser)]
#[command(name = "greypit", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// The config file; without one: everything under ./greypit-data, loopback only
    #[arg(long, short, global = true, env = "GREYPIT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect, spool and ship, until SIGTERM or Ctrl-C
    Run(run::Args),
    /// Check the config and print it with every default filled in
    Check(check::Args),
    /// Turn log lines into records, without a gateway
    Parse(parse::Args),
    /// The machines that boot from here, and how far their last start got
    Boot(boot::Boot),
    /// List objects
    Ls(ls::Ls),
    /// Print the records of objects
    Cat(cat::Cat),
    /// The most frequent values of a field
    Top(top::Top),
    /// Prove that every event is there, once
    Verify(verify::Verify),
    /// Ship a past range again, into another place, for repair
    Replay(replay::Replay),
    /// What the greypit would have done to the connections in these mail logs
    Simulate(simulate::Simulate),
    /// Switch machines on by Wake-on-LAN
    Wake(wake::Wake),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        self.try_run().unwrap_or_else(|error| {
            eprintln!("greypit: {error}");
            ExitCode::from(EXIT_USAGE)
        })
    }

    fn try_run(self) -> Result<ExitCode, ConfigError> {
        let config = || Loaded::read(self.config.as_deref());
        let store = || config().map(|loaded| Some(loaded.config.store));
        Ok(match self.command {
            // Needs no config; one that is given may say that local parts are hidden.
            Command::Parse(args) => args.run(config()?.config.privacy.privacy()),
            Command::Run(args) => args.run(config()?),
            Command::Check(args) => args.run(&config()?),
            Command::Boot(args) => args.run(&config()?.config),
            Command::Ls(args) => block_on(args.run(store()?)),
            Command::Cat(args) => block_on(args.run(store()?)),
            Command::Top(args) => block_on(args.run(store()?)),
            Command::Verify(args) => block_on(args.run(store()?)),
            Command::Replay(args) => block_on(args.run(&config()?.config)),
            Command::Simulate(args) => args.run(&config()?.config),
            Command::Wake(args) => args.run(&config()?),
        })
    }
}

/// How long the exit waits for a system call that does not return.
const EXIT_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            // A write that hangs in a dead network file system must not hang the exit too.
            runtime.shutdown_timeout(EXIT_PATIENCE);
            code
        }
        Err(error) => {
            eprintln!("greypit: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Done.
pub(crate) const EXIT_DONE: u8 = 0;

/// The answer is no: something is lost, repeated or damaged.
pub(crate) const EXIT_NO: u8 = 1;

/// Wrong usage or config, or a store that cannot be read.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Whoever reads our stdout has enough.
    Pipe,
    /// A line for stderr.
    Say(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Pipe,
            _ => Stop::Say(format!("cannot write to stdout: {error}")),
        }
    }
}

/// Ends a command: its exit code, or the reason it stopped.
pub(crate) fn end(command: &str, result: Result<u8, Stop>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Stop::Pipe) => ExitCode::SUCCESS,
        Err(Stop::Say(line)) => {
            eprintln!("greypit {command}: {line}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// A count as people read it: `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and what it is of: `1 object`, `1,234 objects`.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", grouped(number))
}

/// Text that somebody else wrote, fit for a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => out.extend(c.escape_default()),
            // Marks that turn the direction of writing around.
            '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode())
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod command_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_foreign_text_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!([0, 1, 2].map(|n| counted(n, "object")), ["0 objects", "1 object", "2 objects"]);
        assert_eq!(printable("a\u{1b}[2Jb\u{202E}ä"), "a\\u{1b}[2Jb\\u{202e}ä");
    }
}
