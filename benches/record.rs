//! What one mail transaction costs as a record: `write` is the whole sink with a queue that is emptied, over a usual
//! message; `headers` the same with four header fields; `hashed` with local parts hashed.
//!
//! `cargo bench --bench record`

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use greypit::collect::{milter, privacy};
use greypit_milter::Transaction;
use greypit_milter::transaction::{Ending, Peer};
use greypit_pipeline::submit::testing::queue;
use prometheus::Registry;

const HEADERS: &[u8] = b"From: =?utf-8?Q?J=C3=B6rg?= <joerg@example.com>\r\n\
    Subject: =?utf-8?B?R3LDvMOfZSBhdXMgS8O2bG4=?= and more\r\n\
    Message-ID: <20261120125501.1234.GA5678@mail.example.com>\r\n\
    List-Id: a list <list.example.com>\r\n\r\n";

fn record(c: &mut Criterion) {
    let peer = Peer {
        connection: 123_456,
        addr: Some([192, 0, 2, 17].into()),
        name: b"mail17.example.com".to_vec(),
        name_verified: true,
        helo: b"mail17.example.com".to_vec(),
        mta: b"8.17.1.9".to_vec(),
        server: b"mx1.example.org".to_vec(),
        daemon: b"MTA-v4".to_vec(),
        tls_version: b"TLSv1.3".to_vec(),
        tls_cipher: b"TLS_AES_256_GCM_SHA384".to_vec(),
        ..Peer::default()
    };
    let (rcpts, args) = ([b"bob.baker@example.org".to_vec()], [b"SIZE=4096".to_vec(), b"BODY=8BITMIME".to_vec()]);
    let transaction = |headers| Transaction {
        peer: &peer,
        started: SystemTime::now(),
        took: Duration::from_millis(42),
        number: 3,
        queue_id: b"5AKCt1x2003456",
        mail_from: b"alice.archer@example.com",
        mail_args: &args,
        rcpts: &rcpts,
        nrcpts: 1,
        msgid: b"<20261120125501.1234.GA5678@mail.example.com>",
        size: Some(4096),
        headers,
        ending: Ending::Accept,
        rule: "connection",
        strike: 0,
        delay: Duration::ZERO,
        cut: None,
        would: None,
    };
    let names = ["Subject", "Message-ID", "List-Id", "X-Mailer"].map(str::to_owned);
    let hashing = privacy::Config { hash_local_part: true, key: "0123456789abcdef".into() };
    let cases = [
        ("write", &names[..0], &b""[..], None),
        ("headers", &names, HEADERS, None),
        ("hashed", &[], b"", hashing.privacy()),
    ];
    let mut group = c.benchmark_group("record");
    for (name, names, headers, privacy) in cases {
        let (submit, queue) = queue(1 << 30);
        let sink = milter::sink(submit, names, privacy, &Registry::new()).expect("a valid config");
        let transaction = transaction(headers);
        group.bench_function(name, |b| {
            b.iter(|| sink(black_box(&transaction)));
            while queue.next(Duration::ZERO).is_some() {}
        });
    }
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
