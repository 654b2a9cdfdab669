//! `greypit top FIELD`: the most frequent values of one field.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use greypit_pipeline::Kind;
use greypit_pipeline::codec::Decoder;
use greypit_pipeline::object::{Line, Lines};
use greypit_pipeline::store::Config;
use serde::Serialize;

use super::reader::{DECOMPRESSED_BYTES_MAX, Fetched, Selection, Source, TIMES_HELP, Take, for_each, pick};
use super::{EXIT_DONE, EXIT_NO, Stop, counted, end, grouped, printable};

/// How many different values are counted before the answer would take too much memory.
const VALUES_MAX: usize = 20_000_000;

/// Count the values of a field and print the most frequent
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("Examples:
  greypit top mailserver -n 3
  greypit top dest --kind to --since 2026-11-20 --until 2026-11-21
  greypit top verdict s3://mail-archive/mail_logs --kind mail --json

{TIMES_HELP}"))]
pub struct Top {
    /// The field to count, for example dest
    field: String,
    #[command(flatten)]
    source: Source,
    /// How many values to print
    #[arg(short, long, value_name = "N", default_value_t = 10)]
    number: usize,
    /// One JSON object a line: value, count, share
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    value: &'a str,
    count: u64,
    /// Of the records that have the field.
    share: f64,
}

/// What was counted.
#[derive(Debug, Default)]
struct Counts {
    values: HashMap<Box<str>, u64>,
    records: u64,
    without: u64,
    broken: u64,
    damaged: Vec<String>,
    too_many: bool,
}

impl Top {
    /// The `number` most frequent values of `field` in records of `kind`, as a table.
    pub(crate) fn new(field: &str, kind: Kind, number: usize) -> Top {
        let source = Source { kind: vec![kind], ..Source::default() };
        Top { field: field.to_owned(), source, number, json: false }
    }

    /// Counts in the store named by the arguments, else in `store`.
    pub async fn run(self, store: Option<Config>) -> ExitCode {
        end("top", self.count(store, &mut std::io::stdout()).await)
    }

    pub(crate) async fn count(self, store: Option<Config>, out: &mut impl Write) -> Result<u8, Stop> {
        let opened = self.source.open(store)?;
        let objects = opened.objects().await?;
        let object_count = objects.len() as u64;
        let (field, selection) = (self.field.clone(), opened.selection.clone());
        let mut total = Counts::default();
        let work = move |fetched: Fetched| Counts::of(&fetched, &field, &selection);
        for_each(&opened.store, objects, true, work, |counts: Counts| total.merge(counts)).await?;

        let mut out = std::io::BufWriter::new(out);
        total.write(&mut out, self.number, self.json)?;
        out.flush()?;
        for line in &total.damaged {
            eprintln!("greypit top: {line}");
        }
        let field = printable(&self.field);
        let mut summary = vec![
            format!("{} in {}", counted(total.records, "record"), counted(object_count, "object")),
            counted(total.values.len() as u64, "different value"),
        ];
        if total.without > 0 {
            summary.push(format!("{} without '{field}'", counted(total.without, "record")));
        }
        if total.broken > 0 {
            summary.push(counted(total.broken, "broken line"));
        }
        eprintln!("{}", summary.join(", "));
        Ok(if total.damaged.is_empty() { EXIT_DONE } else { EXIT_NO })
    }
}

impl Counts {
    fn of(fetched: &Fetched, field: &str, selection: &Selection) -> Counts {
        let mut counts = Counts::default();
        let key = &fetched.object.key;
        let mut lines = Lines::new(Decoder::of_object(key, &fetched.bytes, DECOMPRESSED_BYTES_MAX));
        loop {
            match lines.next() {
                Ok(None) => return counts,
                Ok(Some(Line::Text(line))) => counts.add(line, field, fetched.object.take, selection),
                Ok(Some(Line::TooLong(_))) => counts.broken += 1,
                Err(error) => {
                    counts.damaged.push(format!("{key}: damaged: {error}"));
                    return counts;
                }
            }
            if counts.values.len() > VALUES_MAX {
                counts.too_many = true;
                return counts;
            }
        }
    }

    fn add(&mut self, line: &[u8], field: &str, take: Take, selection: &Selection) {
        let Some(picked) = std::str::from_utf8(line).ok().and_then(|line| pick(line, field)) else {
            self.broken += 1;
            return;
        };
        if take == Take::ByRecord && !picked.is_wanted(selection) {
            return;
        }
        self.records += 1;
        match picked.text() {
            None => self.without += 1,
            Some(value) => match self.values.get_mut(&*value) {
                Some(count) => *count += 1,
                None => {
                    self.values.insert(value.into(), 1);
                }
            },
        }
    }

    fn merge(&mut self, other: Counts) -> Result<(), Stop> {
        self.records += other.records;
        self.without += other.without;
        self.broken += other.broken;
        self.damaged.extend(other.damaged);
        if self.values.is_empty() {
            self.values = other.values;
        } else {
            for (value, count) in other.values {
                *self.values.entry(value).or_default() += count;
            }
        }
        if other.too_many || self.values.len() > VALUES_MAX {
            let limit = grouped(VALUES_MAX as u64);
            return Err(Stop::Say(format!("more than {limit} different values: take a shorter time or another field")));
        }
        Ok(())
    }

    /// The most frequent first, ties by value.
    fn ranked(&self, number: usize) -> Vec<(&str, u64)> {
        let mut ranked: Vec<(&str, u64)> = self.values.iter().map(|(value, count)| (&**value, *count)).collect();
        let order = |a: &(&str, u64), b: &(&str, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0));
        if number < ranked.len() {
            ranked.select_nth_unstable_by(number, order);
            ranked.truncate(number);
        }
        ranked.sort_unstable_by(order);
        ranked
    }

    fn write(&self, out: &mut impl Write, number: usize, json: bool) -> std::io::Result<()> {
        let total = (self.records - self.without).max(1) as f64;
        let ranked = self.ranked(number);
        let width = ranked.first().map_or(0, |(_, count)| grouped(*count).len()).max(5);
        for (value, count) in ranked {
            let share = count as f64 / total;
            if json {
                serde_json::to_writer(&mut *out, &Row { value, count, share })?;
                writeln!(out)?;
            } else {
                writeln!(out, "{:>width$}  {:>5.1}%  {}", grouped(count), 100.0 * share, printable(value))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[&str], field: &str) -> Counts {
        let mut counts = Counts::default();
        for line in lines {
            counts.add(line.as_bytes(), field, Take::All, &Selection::default());
        }
        counts
    }

    #[test]
    fn values_are_counted_by_their_text() {
        let counts = counts(
            &[
                r#"{"a":"x"}"#,
                r#"{"b":{"a":"no"},"a":"\u0078"}"#,
                r#"{"a":1.50}"#,
                r#"{"a":true}"#,
                r#"{"a":["x", 1]}"#,
                r#"{"a":null}"#,
                r#"{"b":1}"#,
                r#"{"a":"x"#,
                r#"{"a":"x"}}"#,
                "[]",
            ],
            "a",
        );
        assert_eq!((counts.records, counts.without, counts.broken), (7, 2, 3));
        assert_eq!(counts.ranked(9), [("x", 2), ("1.50", 1), (r#"["x", 1]"#, 1), ("true", 1)]);
    }

    #[test]
    fn ties_are_sorted_by_value_also_at_the_cut() {
        let lines: Vec<String> = (0..50).rev().map(|i| format!("{{\"a\":\"v{i:02}\"}}")).collect();
        let counts = counts(&lines.iter().map(String::as_str).collect::<Vec<_>>(), "a");
        assert_eq!(counts.ranked(3), [("v00", 1), ("v01", 1), ("v02", 1)]);
        assert_eq!(counts.ranked(0), []);
    }

    #[test]
    fn a_table_for_people_and_lines_for_programs() {
        let counts = counts(&[r#"{"a":"x\u001b"}"#, r#"{"a":"x\u001b"}"#, r#"{"a":""}"#, "{}"], "a");
        let mut out = Vec::new();
        counts.write(&mut out, 10, false).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "    2   66.7%  x\\u{1b}\n    1   33.3%  \n");
        let mut out = Vec::new();
        counts.write(&mut out, 1, true).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"value\":\"x\\u001b\",\"count\":2,\"share\":0.6666666666666666}\n"
        );
    }

    #[test]
    fn the_field_may_be_one_that_is_looked_at_anyway() {
        let counts = counts(&[r#"{"kind":"to","ts":"2026-11-20T00:00:00Z"}"#], "kind");
        assert_eq!(counts.ranked(1), [("to", 1)]);
    }
}
