//! `greypit simulate`: what the greypit would have done to the connections in these mail logs.
//!
//! ```text
//!  lines ── log ── connections ── replay, once a limit ── report
//!           MAILs, by time        the policy itself, `now` from the log
//! ```

mod log;
mod replay;
mod report;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use greypit_milter::Policy;
use jiff::tz::TimeZone;

use super::progress::Progress;
use super::{EXIT_DONE, Stop, counted, end, grouped, lines};
use crate::collect::syslog::time::parse_zone;
use crate::config::Config;
use log::{Log, Reader};
use replay::replay;
use report::Report;

/// Limits that people choose between.
const LIMITS: [u32; 5] = [5, 10, 20, 50, 100];

/// How often it is looked whether progress is to be shown.
const PROGRESS_LINES: u64 = 1 << 14;

const HELP: &str = "\
Examples:
  greypit simulate /var/log/maillog             with the config's policy, or the default one
  greypit simulate --limit 20 -n 50 maillog     the policy with another limit
  zcat maillog.*.gz | greypit simulate --config greypit.toml --json

Reads the from= lines of sendmail, in any order of files. A connection is what one process (pid) of one \
mail server logged for one relay, until it has been silent for an hour. The whole policy is replayed, each mail \
server by itself: limits, rules, allow-lists, the client limit.

It is a replay, and blind: messages come when the log says they came, as if no answer had been held and nobody had \
given up. A real sender would have slowed down, or closed and come back: `held` is what it would have cost to go on \
to the last message, `at once` how many connections would then have waited at the same time. What the log does not \
show is not replayed: messages that the mail server refused at MAIL (no from= line), those that a local program \
submitted (relay=user@localhost; they are counted as local), recipients (postmaster, abuse). max_tarpitted is taken \
as never reached. Postfix does not log its connections this way.";

/// What the greypit would have done to the connections in these mail logs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Simulate {
    /// Mail logs; none or `-`: stdin
    files: Vec<PathBuf>,
    /// Messages that pass on one connection, in place of the config's limit; 0: no limit
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// How many of the refused to print
    #[arg(short, long, value_name = "N", default_value_t = 10)]
    number: usize,
    /// One JSON object a line, `row` being client, limit or total
    #[arg(long)]
    json: bool,
    /// Time zone of dates that carry none: local, UTC, an IANA name or +02:00
    #[arg(long, default_value = "local")]
    zone: String,
    /// The mail server of lines without a host
    #[arg(long, default_value = "localhost")]
    host: String,
}

impl Simulate {
    pub(crate) fn run(&self, config: &Config) -> ExitCode {
        end("simulate", self.print(config, &mut BufWriter::new(io::stdout().lock())))
    }

    fn print(&self, config: &Config, out: &mut impl Write) -> Result<u8, Stop> {
        let zone = parse_zone(&self.zone).map_err(|error| Stop::Say(format!("--zone: {error}")))?;
        let log = self.read(zone)?;
        let report = self.simulate(config, &log)?;
        report.write(out, self.number, self.json)?;
        out.flush()?;
        Ok(EXIT_DONE)
    }

    fn read(&self, zone: TimeZone) -> Result<Log, Stop> {
        let mut reader = Reader::new(zone, &self.host);
        let mut progress = Progress::new(true);
        let truncated = lines::for_each(&self.files, |line, opened| {
            reader.read(line, opened)?;
            if reader.lines.is_multiple_of(PROGRESS_LINES) {
                progress.say(|| counted(reader.lines, "line"));
            }
            Ok(())
        })?;
        progress.clear();
        let mut words = reader.summary();
        if truncated > 0 {
            words.push(format!("truncated={truncated}"));
        }
        eprintln!("{}", words.join(" "));
        if reader.is_empty() {
            eprintln!("greypit simulate: no from= line of sendmail with a relay's address, so nothing to replay");
        }
        Ok(reader.finish())
    }

    /// Replays the policy, then the same with every other limit.
    fn simulate<'l>(&self, config: &Config, log: &'l Log) -> Result<Report<'l>, Stop> {
        let mut progress = Progress::new(true);
        let mut milter = config.milter.clone();
        milter.limit = self.limit.unwrap_or(milter.limit);
        let mut replay_with = |limit| {
            progress.say(|| format!("replaying {} with a limit of {limit}", grouped(log.mails.len() as u64)));
            let config = greypit_milter::Config { limit, ..milter.clone() };
            let policy = Policy::new(&config, "node").map_err(|error| Stop::Say(error.to_string()))?;
            Ok::<_, Stop>(replay(log, &policy, &config.client))
        };
        let chosen = replay_with(milter.limit)?;
        let mut limits = LIMITS.to_vec();
        limits.extend((milter.limit > 0).then_some(milter.limit));
        limits.sort_unstable();
        limits.dedup();
        let mut others = Vec::with_capacity(limits.len());
        for limit in limits {
            others.push((limit, replay_with(limit)?.total));
        }
        progress.clear();
        Ok(Report { log, limit: milter.limit, max_tarpitted: milter.max_tarpitted, chosen, others })
    }
}

#[cfg(test)]
mod tests;
