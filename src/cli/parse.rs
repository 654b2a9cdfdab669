//! `greypit parse`: log lines to NDJSON, without a gateway.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use jiff::Timestamp;

use super::EXIT_USAGE;
use crate::collect::record::{Peer, Recorder};
use crate::collect::syslog::time::parse_zone;

/// Longer lines are cut, as the gateway cuts them at most.
const LINE_BYTES_MAX: usize = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  greypit parse sendmail /var/log/maillog | jq -r 'select(.kind == \"to\") | .dest'
  journalctl -o short | greypit parse syslog
Counts go to stderr. Exit code 1 where a line could not be parsed.";

/// What the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Mail logs: from= and to= lines become `from` and `to`, all others `syslog`
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
    pub(crate) fn run(&self) -> ExitCode {
        let zone = match parse_zone(&self.zone) {
            Ok(zone) => zone,
            Err(error) => {
                eprintln!("greypit: --zone: {error}");
                return ExitCode::from(EXIT_USAGE);
            }
        };
        let mut recorder = match self.format {
            Format::Sendmail => Recorder::new(zone, &self.host),
            Format::Syslog => Recorder::without_mail(zone, &self.host),
        };
        let mut out = BufWriter::with_capacity(256 << 10, io::stdout().lock());
        let mut counts = Counts::default();
        let stdin = [PathBuf::from("-")];
        let files = if self.files.is_empty() { &stdin[..] } else { &self.files[..] };
        for file in files {
            let opened: io::Result<Box<dyn Read>> = if file.as_os_str() == "-" {
                Ok(Box::new(io::stdin().lock()))
            } else {
                File::open(file).map(|file| Box::new(file) as Box<dyn Read>)
            };
            let input = match opened {
                Ok(input) => input,
                Err(error) => {
                    eprintln!("greypit: {}: {error}", file.display());
                    return ExitCode::from(EXIT_USAGE);
                }
            };
            match parse(BufReader::with_capacity(256 << 10, input), &mut recorder, &mut out, &mut counts) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("greypit: {}: {error}", file.display());
                    return ExitCode::FAILURE;
                }
            }
        }
        if out.flush().is_err() {
            // The reader has gone, as `head` does.
            return ExitCode::SUCCESS;
        }
        counts.report();
        if counts.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn parse(
    mut input: impl BufRead,
    recorder: &mut Recorder,
    out: &mut impl Write,
    counts: &mut Counts,
) -> io::Result<()> {
    let received = Timestamp::now();
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut input).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && line.len() == LINE_BYTES_MAX {
            counts.truncated += 1;
            input.skip_until(b'\n')?;
        }
        let mut written = Ok(());
        let outcome = recorder.to_records(&line, received, Peer::None, &mut |kind, body| {
            *counts.kinds.entry(kind).or_default() += 1;
            if written.is_ok() {
                written = out.write_all(body).and_then(|()| out.write_all(b"\n"));
            }
        });
        written?;
        counts.lines += 1;
        if let Some(reason) = outcome.error {
            *counts.errors.entry(reason.name()).or_default() += 1;
        }
    }
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
