//! One file a subcommand. Data goes to stdout, everything else to stderr; exit 0 done, 1 the answer is no, 2 wrong usage,
//! wrong config or a store out of reach.

pub mod cat;
pub mod ls;
pub mod reader;
pub mod top;
pub mod verify;

use std::io;
use std::process::ExitCode;

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
        assert_eq!(printable("a\u{1b}[2Jb\u{202E}ä"), "a\\u{1b}[2Jb\\u{202e}ä");
    }
}
