//! `greypit parse`: log lines to NDJSON, without a gateway.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use jiff::Timestamp;

use super::{EXIT_DONE, EXIT_NO, Stop, end, lines};
use crate::collect::privacy::Privacy;
use crate::collect::record::{Peer, Recorder};
use crate::collect::syslog::time::parse_zone;

const EXAMPLES: &str = "\
Examples:
  greypit parse sendmail /var/log/maillog | jq -r 'select(.kind == \"to\") | .dest'
  journalctl -o short | greypit parse syslog
Counts go to stderr. Exit code 1 where a line could not be parsed.";

/// What the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Mail logs of sendmail and Postfix: from= and to= lines become `from` and `to`, all others `syslog`
    #[value(alias = "postfix")]
    Sendmail,
    /// Every line becomes `syslog`
    Syslog,
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[arg(value_enum)]
    format: Format,
    /// Files; none or `-`: stdin
    files: Vec<PathBuf>,
    /// Time zone of dates that carry none: local, UTC, an IANA name or +02:00
    #[arg(long, default_value = "local")]
    zone: String,
    /// The mail server of lines without a host
    #[arg(long, default_value = "localhost")]
    host: String,
}

#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    kinds: BTreeMap<&'static str, u64>,
    errors: BTreeMap<&'static str, u64>,
    truncated: u64,
}

impl Args {
    pub(crate) fn run(&self, privacy: Option<Privacy>) -> ExitCode {
        end("parse", self.print(privacy, &mut BufWriter::with_capacity(256 << 10, io::stdout().lock())))
    }

    fn print(&self, privacy: Option<Privacy>, out: &mut impl Write) -> Result<u8, Stop> {
        let zone = parse_zone(&self.zone).map_err(|error| Stop::Say(format!("--zone: {error}")))?;
        let mut recorder = match self.format {
            Format::Sendmail => Recorder::new(zone, &self.host),
            Format::Syslog => Recorder::without_mail(zone, &self.host),
        }
        .with_privacy(privacy);
        let mut counts = Counts::default();
        counts.truncated = lines::for_each(&self.files, |line, received| {
            Ok(record(line, received, &mut recorder, out, &mut counts)?)
        })?;
        out.flush()?;
        counts.report();
        Ok(if counts.errors.is_empty() { EXIT_DONE } else { EXIT_NO })
    }
}

fn record(
    line: &[u8],
    received: Timestamp,
    recorder: &mut Recorder,
    out: &mut impl Write,
    counts: &mut Counts,
) -> io::Result<()> {
    let mut written = Ok(());
    let outcome = recorder.to_records(line, received, Peer::None, &mut |kind, body| {
        *counts.kinds.entry(kind).or_default() += 1;
        if written.is_ok() {
            written = out.write_all(body).and_then(|()| out.write_all(b"\n"));
        }
    });
    counts.lines += 1;
    if let Some(reason) = outcome.error {
        *counts.errors.entry(reason.name()).or_default() += 1;
    }
    written
}

impl Counts {
    fn report(&self) {
        let mut words = vec![format!("lines={}", self.lines)];
        words.extend(self.kinds.iter().map(|(kind, n)| format!("{kind}={n}")));
        words.push(format!("unparsed={}", self.errors.values().sum::<u64>()));
        words.extend(self.errors.iter().map(|(reason, n)| format!("unparsed.{reason}={n}")));
        if self.truncated > 0 {
            words.push(format!("truncated={}", self.truncated));
        }
        eprintln!("{}", words.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(files: &[&str]) -> Args {
        let files = files.iter().map(PathBuf::from).collect();
        Args { format: Format::Sendmail, files, zone: "UTC".into(), host: "localhost".into() }
    }

    /// A full disk, or a reader that has gone.
    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn what_is_not_written_is_no_success() {
        let log = args(&["tests/golden/sendmail/plain.log"]);
        assert!(matches!(log.print(None, &mut Vec::new()), Ok(EXIT_DONE)));
        assert!(matches!(log.print(None, &mut Fails(io::ErrorKind::StorageFull)), Err(Stop::Say(_))));
        assert!(matches!(log.print(None, &mut Fails(io::ErrorKind::BrokenPipe)), Err(Stop::Pipe)));
        for wrong in ["tests/golden/sendmail/none.log", "tests/golden"] {
            assert!(
                matches!(args(&[wrong]).print(None, &mut Vec::new()), Err(Stop::Say(line)) if line.starts_with(wrong))
            );
        }
    }
}
