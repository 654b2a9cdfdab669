//! What greypit gives out over the wire, and what it does not: large files by real
//! clients, and hostile packets and names, which are refused and counted while others
//! are served.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::thread;
use support::boot_server::{BootServer, SERVER};
use support::netns::Wire;
use support::random::Random;
use support::tftp;

/// 100 MB: with blksize 512 more than three times 65,536 blocks.
const BIG_BYTES: usize = 100_000_000;

#[test]
fn large_files_come_whole_by_tftp() {
    let wire = Wire::new();
    let mut server = BootServer::new(&wire);
    server.machine("default", &[("boot", "local")]);
    // More than the wire's MTU: these come in fragments.
    server.set("boot.tftp.max_blksize", 8192);
    let big = noise(BIG_BYTES);
    // Lines that end in each way, for netascii.
    let text: Vec<u8> = noise(500_000).iter().map(|octet| b"\n\r\0ab"[usize::from(octet % 5)]).collect();
    server.file("big", &big);
    server.file("text", &text);
    server.start();
    let host = wire.host("client", Some("10.77.0.2/24"));
    let windows = ["blksize 1468", "windowsize 16", "tsize 0", "timeout 2"];
    // What the client asks for, the agreed blksize and windowsize, and the blocks.
    let cases: [(&[&str], u64, u64, u64); 4] = [
        (&["blksize 512", "windowsize 16"], 512, 16, 195_313),
        (&windows, 1468, 16, 68_120),
        (&["blksize 8192", "tsize 0"], 8192, 1, 12_208),
        (&["blksize 65464", "windowsize 4"], 8192, 4, 12_208),
    ];
    thread::scope(|scope| {
        let plain = scope.spawn(|| {
            assert!(tftp::hpa(&host, SERVER, "octet", "big").as_ref() == Ok(&big), "lock-step");
            let got = tftp::hpa(&host, SERVER, "netascii", "text").expect("it is there");
            assert!(got == text, "netascii: {} of {} bytes", got.len(), text.len());
        });
        for (options, ..) in cases {
            assert!(tftp::atftp(&host, SERVER, "big", options).as_ref() == Ok(&big), "{options:?}");
        }
        plain.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    server.terminate();
    let records = server.records("tftp");
    let whole: BTreeMap<(u64, u64), &Value> = records
        .iter()
        .filter(|record| record["filename"] == "big" && record["outcome"] == "complete")
        .map(|record| ((number(record, "blksize"), number(record, "windowsize")), record))
        .collect();
    let plain = (&[][..], 512, 1, 195_313);
    for (options, blksize, windowsize, blocks) in cases.into_iter().chain([plain]) {
        let record = whole.get(&(blksize, windowsize)).unwrap_or_else(|| panic!("{options:?}: {records:?}"));
        eprintln!("{options:?}: {} ms, {} sent again", record["duration_ms"], record["retransmits"]);
        assert_eq!((number(record, "bytes"), number(record, "blocks")), (BIG_BYTES as u64, blocks), "{record}");
    }
    assert_eq!(records.len(), cases.len() + 2, "{records:?}");
    let text = records.iter().find(|record| record["filename"] == "text").expect("the other one");
    assert_eq!((&text["mode"], &text["outcome"]), (&"netascii".into(), &"complete".into()), "{text}");
}

fn number(record: &Value, name: &str) -> u64 {
    record[name].as_u64().unwrap_or_else(|| panic!("no {name} in {record}"))
}

/// Bytes of no pattern, the same each time.
fn noise(count: usize) -> Vec<u8> {
    let mut random = Random::new(count as u64);
    let words = std::iter::repeat_with(|| random.next().to_ne_bytes());
    words.flatten().take(count).collect()
}
