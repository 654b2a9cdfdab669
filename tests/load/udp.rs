//! The UDP rate that is taken without a drop in the kernel, beside rsyslog's imudp → omfile: `cargo bench --bench udp`.
//!
//! 250-byte messages from four ports, paced, for some seconds at each rate, greypit and rsyslogd in turn, each
//! time a fresh process. A rate is taken if one of three attempts has no drop; the first that is not ends the search.
//! The kernel cuts what is sent into datagrams (UDP_SEGMENT), so that the sender, which shares the machine, costs little.
//! For greypit every attempt checks that what was sent is on disk or counted, to the message:
//! sent = events + kernel + queue_full + other drops.
//!
//! `-- --from 20000 --factor 1.2 --seconds 3 --to-disk`: with the last, greypit compresses nothing meanwhile, as omfile
//! does not.

mod beside;
mod http;
#[path = "../real/support/net.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod net;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use beside::{Input, Receiver, Which};

const ATTEMPTS: usize = 3;
/// Messages of one system call.
const BURST: usize = 32;
/// Different ones.
const MESSAGES: usize = 4096;
const PORTS: usize = 4;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).and_then(|n| n.parse::<f64>().ok())
    };
    let (mut rate, factor) = (value("--from").unwrap_or(30_000.0), value("--factor").unwrap_or(1.2));
    let seconds = value("--seconds").unwrap_or(3.0);
    let to_disk = args.iter().any(|arg| arg == "--to-disk");
    let mut best = [(Which::Rsyslog, 0.0, true), (Which::Greypit, 0.0, true)];
    while best.iter().any(|(.., goes_on)| *goes_on) {
        let mut sender_at_its_end = false;
        for (which, best, goes_on) in best.iter_mut().filter(|(.., goes_on)| *goes_on) {
            let mut attempts = (0..ATTEMPTS).map(|_| attempt(*which, rate, seconds, to_disk));
            match attempts.find(|attempt| attempt.drops == 0) {
                Some(attempt) => {
                    *best = attempt.rate;
                    sender_at_its_end |= attempt.rate < 0.93 * rate;
                }
                None => *goes_on = false,
            }
        }
        if sender_at_its_end {
            println!("the sender cannot send faster");
            break;
        }
        rate *= factor;
    }
    let [(_, rsyslog, _), (_, greypit, _)] = best;
    println!(
        "highest rate without a drop: greypit {greypit:.0}/s, rsyslog imudp → omfile {rsyslog:.0}/s, ratio {:.2}",
        greypit / rsyslog
    );
}

struct Attempt {
    /// What was sent in a second.
    rate: f64,
    drops: u64,
}

fn attempt(which: Which, rate: f64, seconds: f64, to_disk: bool) -> Attempt {
    let mut receiver = Receiver::start(which, Input::Udp, to_disk);
    let before = receiver.cpu();
    let (sent, took) = send(receiver.port, rate, seconds);
    let taken = receiver.settle();
    let cpu = (receiver.cpu() - before) * 1e6 / taken.max(1) as f64;
    let drops = receiver.kernel_drops();
    let real = sent as f64 / took;
    print!("{which:?} at {rate:.0}/s: sent {sent} ({real:.0}/s), on disk {taken}, dropped by the kernel {drops}");
    if which == Which::Greypit {
        let counted = |reason: &str| receiver.metric(&format!("greypit_syslog_dropped_total{{reason=\"{reason}\""));
        beside::wait("the count of drops", || counted("kernel") == drops);
        let all = receiver.metric("greypit_syslog_dropped_total{");
        print!(", counted: kernel {}, queue_full {}, all {all}", counted("kernel"), counted("queue_full"));
        assert_eq!(sent, taken + all, "sent = on disk + counted");
        print!("; sent = on disk + counted");
    }
    println!("; {cpu:.2} µs CPU a message");
    // What a receiver itself let go is lost as well.
    Attempt { rate: real, drops: sent - taken.min(sent) }
}

/// Sends at the rate, and says how many and in which time.
fn send(port: u16, rate: f64, seconds: f64) -> (u64, f64) {
    let sockets: Vec<UdpSocket> = (0..PORTS)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
            socket.connect(("127.0.0.1", port)).expect("loopback");
            cut_into_messages(&socket);
            socket
        })
        .collect();
    let mut bytes = Vec::new();
    (0..MESSAGES).for_each(|n| beside::message(n, &mut bytes));
    let (total, began) = ((rate * seconds) as usize, Instant::now());
    let mut sent = 0;
    while sent < total {
        let due = ((began.elapsed().as_secs_f64() * rate) as usize).min(total);
        if due <= sent {
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let first = sent % MESSAGES;
        let count = (due - sent).min(BURST).min(MESSAGES - first);
        let [start, end] = [first, first + count].map(|at| at * beside::MESSAGE_BYTES);
        match sockets[sent / BURST % PORTS].send(&bytes[start..end]) {
            Ok(_) => sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => panic!("send: {error}"),
        }
    }
    (sent as u64, began.elapsed().as_secs_f64())
}

/// From now on each write becomes datagrams of one message.
#[allow(unsafe_code)]
fn cut_into_messages(socket: &UdpSocket) {
    let bytes = beside::MESSAGE_BYTES as libc::c_int;
    // SAFETY: the socket is open, and the kernel reads one int, which is that long and lives until it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "UDP_SEGMENT: Linux 4.18 or newer");
}
