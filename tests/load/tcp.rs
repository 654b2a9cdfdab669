//! Messages a second over TCP and CPU a message, beside rsyslog's imptcp → omfile: `cargo bench --bench tcp`.
//!
//! 250-byte messages, LF-delimited, over four connections as fast as they are taken; the clock and the CPU time of the
//! receiver run until the last is on disk (rsyslogd's file, greypit's spool). greypit runs twice: compressing nothing until
//! then, as omfile does not, and with its defaults, by which objects that are full are compressed meanwhile (what is left
//! then is not in the figure: `cargo bench --bench cost` shows the whole). The three take turns; medians of all rounds.
//!
//! `-- --rounds 5 --messages 1000000`

mod beside;
mod http;
#[path = "../real/support/net.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod net;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use beside::{Input, Receiver, Which, median};

const CONNECTIONS: usize = 4;
const WRITE_BYTES: usize = 64 << 10;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).and_then(|n| n.parse::<usize>().ok())
    };
    let rounds = value("--rounds").unwrap_or(5);
    let each = value("--messages").unwrap_or(1_000_000) / CONNECTIONS;
    let mut log = Vec::with_capacity(each * (beside::MESSAGE_BYTES + 1));
    for n in 0..each {
        beside::message(n, &mut log);
        log.push(b'\n');
    }
    let kinds = [
        ("rsyslog imptcp → omfile", Which::Rsyslog, true),
        ("greypit to its spool", Which::Greypit, true),
        ("greypit that compresses meanwhile", Which::Greypit, false),
    ];
    let mut figures = [const { Vec::new() }; 3];
    for round in 1..=rounds {
        for ((name, which, to_disk), figures) in kinds.iter().zip(&mut figures) {
            let (rate, cpu) = run(*which, *to_disk, &log, each * CONNECTIONS);
            println!("round {round}: {name}: {rate:.0} messages/s, {cpu:.2} µs CPU a message");
            figures.push((rate, cpu));
        }
    }
    let column = |kind: usize, f: fn(&(f64, f64)) -> f64| median(figures[kind].iter().map(f).collect());
    for (kind, (name, ..)) in kinds.iter().enumerate() {
        println!(
            "{name}: median {:.0} messages/s, {:.2} µs CPU a message",
            column(kind, |f| f.0),
            column(kind, |f| f.1)
        );
    }
    for (kind, (name, ..)) in kinds.iter().enumerate().skip(1) {
        let ratio = |f: fn(&(f64, f64)) -> f64| {
            median(figures[kind].iter().zip(&figures[0]).map(|(ours, theirs)| f(ours) / f(theirs)).collect())
        };
        println!(
            "{name} beside rsyslog: {:.2} times the messages/s, {:.2} times the CPU",
            ratio(|f| f.0),
            ratio(|f| f.1)
        );
    }
}

fn run(which: Which, to_disk: bool, log: &[u8], messages: usize) -> (f64, f64) {
    let mut receiver = Receiver::start(which, Input::Tcp, to_disk);
    let (before, began) = (receiver.cpu(), Instant::now());
    let port = receiver.port;
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
                log.chunks(WRITE_BYTES).for_each(|piece| stream.write_all(piece).expect("it reads"));
            });
        }
    });
    beside::wait("all messages on disk", || receiver.taken() >= messages as u64);
    let took = began.elapsed().as_secs_f64();
    assert_eq!(receiver.taken(), messages as u64, "nothing lost, nothing twice");
    (messages as f64 / took, (receiver.cpu() - before) * 1e6 / messages as f64)
}
