//! Loopback ports.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Below the ports that the kernel hands to outgoing connections, so that no
/// connection of a test takes one between this look and its use.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port that no socket has, TCP or UDP, at any address; each call gives
/// another one.
///
/// The kernel's tables are read, no socket is opened to try: a program that
/// another thread starts at that moment would hold it for a while, and the
/// port's user would find it taken.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run side by side start at different places.
    let start = std::process::id().wrapping_mul(37) % u32::from(COUNT);
    let taken = ports_in_use();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + ((start + u32::from(step)) % u32::from(COUNT)) as u16;
        if !taken.contains(&port) {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}

/// The local ports of every socket of this network namespace (proc(5),
/// `/proc/net/tcp`: the second field is address and port, in hexadecimal).
fn ports_in_use() -> Vec<u16> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        // Without IPv6 there is no table of it.
        let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{table}")) else { continue };
        let ports = text.lines().skip(1).map(|line| {
            let local = line.split_whitespace().nth(1).expect("a local address");
            let (_, port) = local.rsplit_once(':').expect("a port");
            u16::from_str_radix(port, 16).expect("a port in hexadecimal")
        });
        found.extend(ports);
    }
    found
}

/// Whether something listens there.
pub(crate) fn listens(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, Duration::from_millis(500)).is_ok()
}
