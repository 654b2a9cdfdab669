//! `greypit check`: the effective configuration, after all checks that need no network.

use std::process::ExitCode;

use super::EXIT_USAGE;
use crate::config::Loaded;

pub(crate) fn run(loaded: &Loaded) -> ExitCode {
    match toml::to_string_pretty(&loaded.config) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("greypit: the config cannot be printed: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
