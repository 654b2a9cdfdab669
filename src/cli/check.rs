//! `greypit check`: the effective configuration, after all checks that need no network.

use std::io::Write;
use std::process::ExitCode;

use super::{EXIT_DONE, Stop, end};
use crate::collect::syslog::listen::tls;
use crate::config::Loaded;

pub(crate) fn run(loaded: &Loaded) -> ExitCode {
    end("check", print(loaded, &mut std::io::stdout()))
}

fn print(loaded: &Loaded, out: &mut impl Write) -> Result<u8, Stop> {
    let syslog = &loaded.config.syslog;
    if !syslog.tls_cert.is_empty() {
        tls::read(syslog).map_err(|error| Stop::Say(loaded.locate(&error).to_string()))?;
    }
    let text = toml::to_string_pretty(&loaded.config)
        .map_err(|error| Stop::Say(format!("the config cannot be printed: {error}")))?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(EXIT_DONE)
}
