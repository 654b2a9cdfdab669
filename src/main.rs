//! Arguments, signals, exit code.

use std::process::ExitCode;

use clap::Parser;
use greypit::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
