//! Parser speed over a realistic mail log: `parse` is the envelope and sendmail's line
//! alone, `records` the same with the JSON bodies written. MB/s are of log bytes; the
//! reference in the same run is a scan for line ends (`lines`), which any reader pays.
//!
//! `cargo bench --bench parser`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use greypit::collect::maillog::wire::{self as maillog, Parsed};
use greypit::collect::record::{Peer, Recorder};
use greypit::collect::syslog::time::{TimeResolver, parse_zone};
use greypit::collect::syslog::wire;
use std::fmt::Write;
use std::hint::black_box;

/// The mix of a relay: two in five lines are `from=`, half are `to=` (some with several
/// recipients or a reply), the rest is other talk.
fn maillog(lines: u32) -> Vec<u8> {
    let mut log = String::new();
    for n in 0..lines {
        let (minute, second) = (n / 600 % 60, n / 10 % 60);
        let _ = write!(log, "Nov 20 12:{minute:02}:{second:02} mx{} sm-mta[{}]: 5AKCt1{n:08}: ", n % 4, 2000 + n % 97);
        let user = n.wrapping_mul(2_654_435_761) % 100_000;
        let _ = match n % 20 {
            0..8 => writeln!(
                log,
                "from=<user{user}@example.com>, size={}, class=0, nrcpts=1, \
                 msgid=<2026112012550{second}.{n}.GA{user}@mail.example.com>, proto=ESMTP, \
                 daemon=MTA-v4, relay=mail{}.example.com [192.0.2.{}]",
                1000 + user,
                n % 9,
                n % 250
            ),
            8..16 => writeln!(
                log,
                "to=<dest{user}@example.net>, delay=00:00:0{}, xdelay=00:00:01, mailer=esmtp, \
                 pri={}, relay=mx{}.example.net. [198.51.100.{}], dsn=2.0.0, \
                 stat=Sent (ok: Message {n} accepted)",
                n % 9,
                120_000 + user,
                n % 3,
                n % 250
            ),
            16 => writeln!(
                log,
                "to=<a{user}@example.net>,<b{user}@example.net>,<c@example.net>, \
                 ctladdr=<list@example.com> (8/0), delay=1+02:03:04, xdelay=00:00:30, \
                 mailer=esmtp, pri={}, relay=mx.example.net., dsn=4.0.0, \
                 stat=Deferred: Connection refused by mx.example.net.",
                300_000 + user
            ),
            17 => writeln!(
                log,
                "to=<gone{user}@example.org>, delay=00:00:02, xdelay=00:00:02, mailer=esmtp, \
                 pri={}, relay=mx.example.org. [203.0.113.7], dsn=5.1.1, \
                 reply=550 5.1.1 <gone{user}@example.org>... User unknown, stat=User unknown",
                120_000 + user
            ),
            18 => writeln!(
                log,
                "ruleset=check_rcpt, arg1=<x{user}@example.org>, relay=[192.0.2.9], \
                 reject=550 5.7.1 <x{user}@example.org>... Relaying denied"
            ),
            _ => writeln!(log, "lost input channel from [192.0.2.9] to MTA-v4 after rcpt"),
        };
    }
    log.into_bytes()
}

fn lines(log: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', log).map(move |end| {
        let line = &log[start..end];
        start = end + 1;
        line
    })
}

fn parser(c: &mut Criterion) {
    let log = maillog(20_000);
    let received = "2026-11-20T13:00:00Z".parse().expect("a valid time");
    let zone = parse_zone("Europe/Berlin").expect("a known zone");
    let mut group = c.benchmark_group("maillog");
    group.throughput(Throughput::Bytes(log.len() as u64));
    group.bench_function("lines", |b| b.iter(|| lines(black_box(&log)).count()));
    let mut times = TimeResolver::new(zone.clone());
    group.bench_function("parse", |b| {
        b.iter(|| {
            let mut recipients = 0;
            for line in lines(black_box(&log)) {
                let message = wire::parse(line, received, &mut times);
                match maillog::parse(message.message) {
                    Parsed::From(from) => drop(black_box(from)),
                    Parsed::To(to) => recipients += black_box(to).recipients.count(),
                    other => drop(black_box(other)),
                }
                black_box(message.stamp);
            }
            recipients
        });
    });
    let mut recorder = Recorder::new(zone, "mx");
    group.bench_function("records", |b| {
        b.iter(|| {
            let mut bytes = 0;
            for line in lines(black_box(&log)) {
                let mut sink = |_: &'static str, body: &[u8]| bytes += black_box(body).len();
                recorder.to_records(line, received, Peer::None, &mut sink);
            }
            bytes
        });
    });
    group.finish();
    println!("maillog: {} bytes a line", log.len() / 20_000);
}

criterion_group!(benches, parser);
criterion_main!(benches);
