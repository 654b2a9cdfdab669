//! `greypit boot`: the machines, their last start, how far it got, and what went wrong.
//!
//! Reads the machine files and what the daemon saves, so that it needs no daemon.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;

use super::{EXIT_DONE, EXIT_NO, Stop, counted, end, printable};
use crate::collect::boot::overview::{Known, Row, known, rows, sessions_path};
use crate::config::Config;

/// How often `--watch` looks for something new.
const LOOK: Duration = Duration::from_millis(500);
/// How often `--watch` reads the machine files.
const FILES: Duration = Duration::from_secs(10);
/// Clears a terminal and begins at its top.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";
/// Between the columns.
const GAP: &str = "  ";

/// The machines that boot from here, and how far their last start got
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  greypit boot
  greypit boot web1 52:54:00:12:34:56       these only
  greypit boot --watch                      again as soon as something happens
  greypit boot --json | jq 'select(.error)'
  greypit boot --json | jq 'select(.session == null).machine'

STAGES names what was seen of a start, and how long it was until the next was seen:
  firmware         it asked for an address or its boot file
  loader           it fetched that file
  ipxe             iPXE asked
  script           iPXE fetched the machine's script
  kernel, initrd   they were fetched
  system           the operating system asked for an address
  syslog           the first message of its log came
Times are UTC. No daemon is needed.
Exit codes: 0 done, 1 there is no such machine, 2 something cannot be read.")]
pub(crate) struct Boot {
    /// A host name with or without its domain, a MAC or an IP address; default: every machine that has files or was seen
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on, and print again what changes
    #[arg(long)]
    watch: bool,
    /// One JSON object a machine, a line each; with --watch those that changed
    #[arg(long)]
    json: bool,
}

impl Boot {
    pub(crate) fn run(self, config: &Config) -> ExitCode {
        let out = &mut std::io::stdout();
        match self.watch {
            true => end("boot", self.follow(config, out)),
            false => end("boot", self.list(config, out)),
        }
    }

    pub(crate) fn list(&self, config: &Config, out: &mut impl Write) -> Result<u8, Stop> {
        let rows = self.read(&files(config), config)?;
        let missing = self.missing(&rows);
        for name in &missing {
            eprintln!("greypit boot: no machine is called {}", printable(name));
        }
        self.print(&rows, out)?;
        if !self.json && missing.is_empty() {
            match rows.len() {
                0 => eprintln!("no machine was seen, and there are no files of any in {}", config.boot.dir.display()),
                many => eprintln!("{}", counted(many as u64, "machine")),
            }
        }
        Ok(if missing.is_empty() { EXIT_DONE } else { EXIT_NO })
    }

    /// Prints again what changes, until nobody reads.
    fn follow(&self, config: &Config, out: &mut (impl Write + IsTerminal)) -> Result<u8, Stop> {
        let path = sessions_path(&config.data_dir);
        let (mut known, mut known_at) = (files(config), Instant::now());
        let (mut state, mut before) = (None, HashMap::new());
        let mut first = true;
        loop {
            let files_due = known_at.elapsed() >= FILES;
            if files_due {
                (known, known_at) = (files(config), Instant::now());
            }
            let state_now = state_of(&path);
            if first || files_due || state_now != state {
                let mut rows = self.read(&known, config)?;
                let changed = changed(&rows, &mut before);
                if self.json {
                    rows = changed;
                    self.print(&rows, out)?;
                } else if first || !changed.is_empty() {
                    match out.is_terminal() {
                        true => out.write_all(CLEAR)?,
                        false if !first => out.write_all(b"\n")?,
                        false => {}
                    }
                    self.print(&rows, out)?;
                }
                (state, first) = (state_now, false);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The machines that were asked for.
    fn read(&self, known: &Known, config: &Config) -> Result<Vec<Row>, Stop> {
        let mut rows = rows(known, &config.data_dir).map_err(|error| Stop::Say(error.to_string()))?;
        if !self.names.is_empty() {
            rows.retain(|row| self.names.iter().any(|name| row.is_called(name)));
        }
        Ok(rows)
    }

    /// Names that are nobody's.
    fn missing(&self, rows: &[Row]) -> Vec<&str> {
        let is_missing = |name: &&str| !rows.iter().any(|row| row.is_called(name));
        self.names.iter().map(String::as_str).filter(is_missing).collect()
    }

    fn print(&self, rows: &[Row], out: &mut impl Write) -> Result<(), Stop> {
        let mut out = std::io::BufWriter::new(out);
        if self.json {
            for row in rows {
                serde_json::to_writer(&mut out, row).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            }
        } else if !rows.is_empty() {
            write_table(&mut out, rows)?;
        }
        Ok(out.flush()?)
    }
}

/// The machine files; without them, as far as they are not right, cards have no names.
fn files(config: &Config) -> Known {
    known(&config.boot).unwrap_or_else(|mistake| {
        eprintln!("greypit boot: {}; shows cards without their machines' names", printable(&mistake.to_string()));
        Known::default()
    })
}

/// Another one, another state.
fn state_of(path: &Path) -> Option<(SystemTime, u64)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// Rows that are others than before.
fn changed(rows: &[Row], before: &mut HashMap<String, Row>) -> Vec<Row> {
    let key = |row: &Row| format!("{:?} {:?} {:?}", row.machine, row.mac, row.addr);
    let now: HashMap<String, Row> = rows.iter().map(|row| (key(row), row.clone())).collect();
    let changed = rows.iter().filter(|row| before.get(&key(row)) != Some(*row)).cloned().collect();
    *before = now;
    changed
}

const HEAD: [&str; 8] = ["MACHINE", "MAC", "ADDRESS", "STARTED", "STAGE", "TOTAL", "STAGES", "LAST ERROR"];

fn write_table(out: &mut impl Write, rows: &[Row]) -> std::io::Result<()> {
    let cells: Vec<_> = std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let mut widths = [0; HEAD.len()];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &cells {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:width$}{GAP}"));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn cells(row: &Row) -> [String; HEAD.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let stages = row.stages.iter().map(|step| match step.took_s {
        Some(took) => format!("{} {}", step.stage.name(), short(took)),
        None => step.stage.name().to_owned(),
    });
    [
        or_dash(row.machine.as_deref().map(printable)),
        or_dash(row.mac.map(|mac| mac.to_string())),
        or_dash(row.addr.map(|addr| addr.to_string())),
        row.began.map_or_else(|| "never".to_owned(), |began| began.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        or_dash(row.stage.map(|stage| stage.name().to_owned())),
        or_dash(row.total_s.filter(|_| row.stages.len() > 1).map(short)),
        stages.collect::<Vec<_>>().join(", "),
        row.error.as_ref().map(|error| printable(&error.problem)).unwrap_or_default(),
    ]
}

/// A time as people read it: `0.25s`, `12.3s`, `2m05s`, `1h02m`.
fn short(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        ..10 => format!("{seconds:.2}s"),
        10..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests;
