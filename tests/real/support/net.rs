//! Loopback ports.

use std::fs;
use std::net::TcpStream;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Below the ports that the kernel hands to outgoing connections, so that no
/// connection of a test takes one between this look and its use.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Ports that a process takes for itself at once.
const BLOCK: u16 = 100;

/// A port that no socket has, TCP or UDP, at any address; each call gives
/// another one, also in test programs that run side by side.
///
/// The kernel's tables are read, no socket is opened to try: a program that
/// another thread starts at that moment would hold it for a while, and the
/// port's user would find it taken.
pub(crate) fn free_port() -> u16 {
    static OURS: Mutex<Vec<Block>> = Mutex::new(Vec::new());
    let taken = ports_in_use();
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(port) = ours.last_mut().and_then(|block| block.ports.find(|port| !taken.contains(port))) {
            return port;
        }
        ours.push(Block::claim());
    }
}

/// Ports that are this process' as long as it lives.
struct Block {
    ports: Range<u16>,
    _claim: UnixDatagram,
}

impl Block {
    /// The claim is a name that one socket may have, and that goes with it.
    fn claim() -> Block {
        const BLOCKS: u16 = COUNT / BLOCK;
        let start = (std::process::id().wrapping_mul(37) % u32::from(BLOCKS)) as u16;
        let claim = |number: u16| {
            let first = FIRST + (start + number) % BLOCKS * BLOCK;
            let name = SocketAddr::from_abstract_name(format!("greypit-tests-ports-{first}")).ok()?;
            Some(Block { ports: first..first + BLOCK, _claim: UnixDatagram::bind_addr(&name).ok()? })
        };
        (0..BLOCKS).find_map(claim).unwrap_or_else(|| panic!("no free ports from {FIRST} on"))
    }
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
pub(crate) fn listens(addr: std::net::SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, Duration::from_millis(500)).is_ok()
}
