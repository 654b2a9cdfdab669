//! What a DHCP packet costs without sockets and disk: `exchange` is DISCOVER, OFFER, REQUEST, ACK of one of 10,000 clients
//! with both events; `firmware` a DISCOVER of UEFI firmware.
//!
//! `cargo bench --bench dhcp`

use std::hint::black_box;
use std::net::SocketAddrV4;

use criterion::{Criterion, criterion_group, criterion_main};
use greypit::collect::boot::Mode;
use greypit::collect::boot::fuzz_dhcp::Subject;

const CLIENTS: u32 = 10_000;

fn packet(client: u32, options: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 240];
    packet[..3].copy_from_slice(&[1, 1, 6]);
    packet[4..8].copy_from_slice(&client.to_be_bytes());
    let [_, a, b, c] = client.to_be_bytes();
    packet[28..34].copy_from_slice(&[2, 0, 1, a, b, c]);
    packet[236..].copy_from_slice(&[99, 130, 83, 99]);
    packet.extend_from_slice(options);
    packet.push(255);
    packet
}

fn dhcp(c: &mut Criterion) {
    let from: SocketAddrV4 = "0.0.0.0:68".parse().expect("an address");
    let mut subject = Subject::new(Mode::Serve, 2 * CLIENTS).expect("it fits");
    let list = [55, 7, 1, 28, 2, 3, 15, 6, 12];
    let mut client = 0;
    c.bench_function("exchange", |b| {
        b.iter(|| {
            client = (client + 1) % CLIENTS;
            let discover = packet(client, &[&[53, 1, 1][..], &list].concat());
            let (offer, event) = subject.handle(&discover, from, 67);
            let offer = offer.expect("there are addresses");
            let request = [&[53, 1, 3, 54, 4, 10, 77, 0, 1, 50, 4], &offer[16..20], &list].concat();
            black_box((event, subject.handle(&packet(client, &request), from, 67)))
        });
    });
    let firmware = [&[53, 1, 1, 93, 2, 0, 7, 60, 9][..], b"PXEClient", &[97, 17], &[0; 17], &list].concat();
    let firmware = packet(CLIENTS, &firmware);
    c.bench_function("firmware", |b| b.iter(|| black_box(subject.handle(&firmware, from, 67))));
}

criterion_group!(benches, dhcp);
criterion_main!(benches);
