//! What a simulation says: who would have been refused, all together, and other limits.

use std::io::{self, Write};
use std::time::Duration;

use greypit_pipeline::units::Span;
use serde::Serialize;

use super::super::{counted, grouped, printable};
use super::log::{Client, Log};
use super::replay::{Outcome, Tally, Total};

/// Everything that is printed.
#[derive(Debug)]
pub(super) struct Report<'l> {
    pub(super) log: &'l Log,
    pub(super) limit: u32,
    pub(super) max_tarpitted: usize,
    /// With the limit that was asked for.
    pub(super) chosen: Outcome,
    /// With other limits, the lowest first.
    pub(super) others: Vec<(u32, Total)>,
}

#[derive(Serialize)]
struct ClientRow<'a> {
    row: &'static str,
    relay: &'a str,
    ip: String,
    verified: bool,
    local: bool,
    connections: u64,
    connections_refused: u64,
    messages: u64,
    passed: u64,
    refused: u64,
    longest_hold_ms: u64,
    held_ms: u64,
}

#[derive(Serialize)]
struct TotalRow {
    row: &'static str,
    limit: u32,
    messages: u64,
    passed: u64,
    refused: u64,
    connections: u64,
    connections_refused: u64,
    clients: u64,
    clients_refused: u64,
    longest_hold_ms: u64,
    held_ms: u64,
    held_at_once: u64,
}

impl Report<'_> {
    /// The `number` clients refused most, then the totals, then the other limits.
    pub(super) fn write(&self, out: &mut impl Write, number: usize, json: bool) -> io::Result<()> {
        let clients = self.ranked(number);
        if json { self.write_json(out, &clients) } else { self.write_tables(out, &clients) }
    }

    /// The refused, most refusals first, ties by name.
    fn ranked(&self, number: usize) -> Vec<(&Client, &Tally)> {
        let both = self.log.clients.iter().zip(&self.chosen.clients);
        let mut refused: Vec<_> = both.filter(|(_, tally)| tally.refused > 0).collect();
        let key = |client: &Client| (client.name.clone(), client.addr, client.is_verified);
        refused.sort_unstable_by(|(a, x), (b, y)| y.refused.cmp(&x.refused).then_with(|| key(a).cmp(&key(b))));
        refused.truncate(number);
        refused
    }

    fn write_tables(&self, out: &mut impl Write, clients: &[(&Client, &Tally)]) -> io::Result<()> {
        if !clients.is_empty() {
            let header =
                ["refused", "messages", "passed", "connections", "longest", "held", "client"].map(str::to_owned);
            let row = |(client, tally): &(&Client, &Tally)| {
                let passed = tally.messages - tally.refused;
                let numbers = [tally.refused, tally.messages, passed, tally.connections].map(grouped);
                let [refused, messages, passed, connections] = numbers;
                let (longest, held) = (span(tally.longest_hold), span(tally.held));
                [refused, messages, passed, connections, longest, held, name(client)]
            };
            table(out, header, clients.iter().map(row))?;
            writeln!(out)?;
        }
        let Total { all, clients_refused, held_at_once } = &self.chosen.total;
        let limit = if self.limit == 0 {
            "no limit".to_owned()
        } else {
            format!("a limit of {}", counted(self.limit.into(), "message"))
        };
        let of = |part: u64, all: u64, what: &str| format!("{} of {}", grouped(part), counted(all, what));
        writeln!(
            out,
            "with {limit} a connection: {} refused ({}), on {}, from {}",
            of(all.refused, all.messages, "message"),
            percent(all.refused, all.messages),
            of(all.connections_refused, all.connections, "connection"),
            of(*clients_refused, self.log.clients.len() as u64, "client"),
        )?;
        let (held, held_at_once) = (span(all.held), grouped(*held_at_once as u64));
        let most = grouped(self.max_tarpitted as u64);
        writeln!(
            out,
            "held for {held} in all, {held_at_once} at once at most, if nobody gives up (max_tarpitted = {most})"
        )?;
        writeln!(out)?;
        let header = ["limit", "refused", "", "connections", "clients", "at once", "held"].map(str::to_owned);
        let row = |(limit, total): &(u32, Total)| {
            let numbers = [total.all.refused, total.all.connections_refused, total.clients_refused].map(grouped);
            let [refused, connections, clients] = numbers;
            let share = percent(total.all.refused, total.all.messages);
            let (at_once, held) = (grouped(total.held_at_once as u64), span(total.all.held));
            [grouped(u64::from(*limit)), refused, share, connections, clients, at_once, held]
        };
        table(out, header, self.others.iter().map(row))
    }

    fn write_json(&self, out: &mut impl Write, clients: &[(&Client, &Tally)]) -> io::Result<()> {
        for (client, tally) in clients {
            let row = ClientRow {
                row: "client",
                relay: &client.name,
                ip: client.addr.to_string(),
                verified: client.is_verified,
                local: client.addr.is_loopback(),
                connections: tally.connections,
                connections_refused: tally.connections_refused,
                messages: tally.messages,
                passed: tally.messages - tally.refused,
                refused: tally.refused,
                longest_hold_ms: tally.longest_hold.as_millis() as u64,
                held_ms: tally.held.as_millis() as u64,
            };
            line(out, &row)?;
        }
        line(out, &self.total_row("total", self.limit, &self.chosen.total))?;
        self.others.iter().try_for_each(|(limit, total)| line(out, &self.total_row("limit", *limit, total)))
    }

    fn total_row(&self, row: &'static str, limit: u32, total: &Total) -> TotalRow {
        let all = &total.all;
        TotalRow {
            row,
            limit,
            messages: all.messages,
            passed: all.messages - all.refused,
            refused: all.refused,
            connections: all.connections,
            connections_refused: all.connections_refused,
            clients: self.log.clients.len() as u64,
            clients_refused: total.clients_refused,
            longest_hold_ms: all.longest_hold.as_millis() as u64,
            held_ms: all.held.as_millis() as u64,
            held_at_once: total.held_at_once as u64,
        }
    }
}

fn line(out: &mut impl Write, row: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    writeln!(out)
}

/// Columns aligned to the right, but the last.
fn table(out: &mut impl Write, header: [String; 7], rows: impl Iterator<Item = [String; 7]>) -> io::Result<()> {
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    for [cells @ .., last] in &rows {
        for (cell, width) in cells.iter().zip(widths) {
            write!(out, "{cell:>width$}  ")?;
        }
        writeln!(out, "{last}")?;
    }
    Ok(())
}

fn name(client: &Client) -> String {
    let mut text = client.addr.to_string();
    if !client.name.starts_with('[') && !client.name.is_empty() {
        text.push(' ');
        text.push_str(&printable(&client.name));
        text.push_str(if client.is_verified { "" } else { " (may be forged)" });
    }
    if client.addr.is_loopback() {
        text.push_str(" (this machine)");
    }
    text
}

fn percent(part: u64, all: u64) -> String {
    format!("{:.1}%", 100.0 * part as f64 / all.max(1) as f64)
}

/// `8s`, `22h9m`: to the second below an hour, then to the minute.
fn span(duration: Duration) -> String {
    let round = |unit: u64| Span::seconds(duration.as_secs() / unit * unit).to_string();
    match duration.as_secs() {
        0 => Span(duration).to_string(),
        1..3600 => round(1),
        _ => round(60),
    }
}
