//! Exchanges of DHCP a second, and their CPU.

use crate::rivals::{Server, Which};
use crate::support::Folder;
use crate::support::boot_server::SERVER;
use crate::support::dhcp::perfdhcp;
use crate::{Arguments, Table};

/// Of perfdhcp, each with a card of its own.
pub(crate) const CLIENTS: u32 = 60_000;

const ATTEMPTS: usize = 3;
/// What may fail of a rate that counts as taken.
const FAILURES_MAX: f64 = 0.01;
/// What perfdhcp must have sent of a rate that it was to send.
const SENT_MIN: f64 = 0.93;

const ALL: [Which; 3] = [Which::Greypit, Which::Kea, Which::Dnsmasq];

pub(crate) fn measure(arguments: &Arguments) {
    let seconds = arguments.number("--seconds", 5.0);
    let only = arguments.text("--only");
    let servers: Vec<Which> = ALL.into_iter().filter(|which| only.is_none_or(|name| name == which.name())).collect();
    let mut rates = Table::default();
    for round in 0..arguments.number("--rounds", 3.0) as usize {
        println!("dhcp, rates, round {}:", round + 1);
        let from = arguments.number("--from", 250.0);
        for (which, rate) in highest(&servers, round, from, arguments.number("--factor", 1.4), seconds) {
            rates.add(which.name(), rate);
        }
    }
    let (mut cpu, rate) = (Table::default(), arguments.number("--rate", 200.0));
    for round in 0..arguments.number("--rounds", 3.0) as usize {
        println!("dhcp, CPU at {rate:.0}/s, round {}:", round + 1);
        let mut costs: Vec<_> = turned(&servers, round).map(|which| (which, load(which, rate, seconds).cpu)).collect();
        costs.sort_by_key(|(which, _)| servers.iter().position(|server| server == which));
        costs.into_iter().for_each(|(which, cost)| cpu.add(which.name(), cost));
    }
    rates.say("dhcp, exchanges completed at the highest rate with at most 1 % failed", "/s");
    cpu.say(&format!("dhcp, CPU of an exchange at {rate}/s"), "ms");
}

/// All, another one first in each round.
fn turned(servers: &[Which], round: usize) -> impl Iterator<Item = Which> {
    servers.iter().cycle().skip(round % servers.len().max(1)).take(servers.len()).copied()
}

/// What each completes in a second of the highest rate that it takes.
fn highest(servers: &[Which], round: usize, from: f64, factor: f64, seconds: f64) -> Vec<(Which, f64)> {
    let mut best: Vec<_> = turned(servers, round).map(|which| (which, 0.0, true)).collect();
    let mut rate = from;
    while best.iter().any(|(.., goes_on)| *goes_on) {
        for (which, best, goes_on) in best.iter_mut().filter(|(.., goes_on)| *goes_on) {
            let mut attempts = (0..ATTEMPTS).map(|_| load(*which, rate, seconds));
            match attempts.find(|load| load.failed <= FAILURES_MAX && load.sent >= SENT_MIN) {
                Some(load) => *best = load.completed,
                None => *goes_on = false,
            }
        }
        rate *= factor;
    }
    let mut best: Vec<_> = best.into_iter().map(|(which, rate, _)| (which, rate)).collect();
    best.sort_by_key(|(which, _)| servers.iter().position(|server| server == which));
    best
}

struct Load {
    /// Of the rate that perfdhcp was to send.
    sent: f64,
    /// A second.
    completed: f64,
    /// Of those that began.
    failed: f64,
    /// Milliseconds of an exchange.
    cpu: f64,
}

/// Offers exchanges to a fresh server.
fn load(which: Which, rate: f64, seconds: f64) -> Load {
    let files = Folder::new("files");
    let server = Server::start(which, files.path());
    let before = server.cpu();
    let numbers = [rate.round() as u64, u64::from(CLIENTS), seconds as u64].map(|number| number.to_string());
    // Half a second at the end for the last answers.
    let arguments = ["-r", &numbers[0], "-R", &numbers[1], "-p", &numbers[2], "-W", "500000", SERVER];
    let ([discovers, requests], _) = perfdhcp(&server.client, &arguments);
    let (began, done) = (discovers.sent as f64, requests.received as f64);
    let load = Load {
        sent: began / (rate * seconds),
        completed: done / seconds,
        failed: 1.0 - done / began.max(1.0),
        cpu: (server.cpu() - before) * 1e3 / done.max(1.0),
    };
    print!(
        "  {} at {rate:.0}/s: {:.0}/s sent, {:.0}/s completed, {:.2} % failed, {:.3} ms CPU",
        which.name(),
        began / seconds,
        load.completed,
        load.failed * 100.0,
        load.cpu
    );
    if let Some(events) = server.metric("greypit_boot_events_total") {
        let dropped = server.metric("greypit_boot_events_dropped_total").unwrap_or_default();
        print!("; events {events}, dropped {dropped}");
    }
    println!();
    load
}
