//! The kernel's table of neighbours: which network card an address on one of our links has.
//!
//! `/proc/self/net/arp` (proc_net(5), IPv4 only): a line of titles, then `address hwtype flags hwaddress mask device`.
//! Only entries with `ATF_COM` (0x2, complete) of Ethernet (0x1) say something.
//!
//! It is read as a whole and shared by all who ask: as seldom as they can bear ([`SHARED`], [`FRESH`]), and where it is
//! long, so that reading takes at most a tenth of a CPU's time.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::mac::Mac;

const PATH: &str = "/proc/self/net/arp";

/// How old the table may be where many ask.
pub(crate) const SHARED: Duration = Duration::from_secs(1);
/// How old it may be where a file depends on it: a machine that has a new address asks for its loader at once.
pub(crate) const FRESH: Duration = Duration::from_millis(20);

/// Reading may take this part of the time between two reads.
const READS_TAKE: u32 = 10;

/// The table as it was read last.
#[derive(Debug)]
pub(crate) struct ArpTable {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    at: Option<Instant>,
    took: Duration,
    cards: Cards,
}

/// By interface.
type Cards = HashMap<String, HashMap<Ipv4Addr, Mac>>;

impl Default for ArpTable {
    fn default() -> ArpTable {
        ArpTable::of(PATH)
    }
}

impl ArpTable {
    pub(crate) fn of(path: impl Into<PathBuf>) -> ArpTable {
        ArpTable { path: path.into(), read: Mutex::default() }
    }

    /// The card that has `ip` on `interface`, if the kernel knew when the table was that old.
    pub(crate) fn look_up(&self, ip: Ipv4Addr, interface: &str, age_max: Duration) -> Option<Mac> {
        self.look_up_at(ip, interface, age_max, Instant::now())
    }

    fn look_up_at(&self, ip: Ipv4Addr, interface: &str, age_max: Duration, now: Instant) -> Option<Mac> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let age_max = age_max.max(READS_TAKE * read.took);
        if read.at.is_none_or(|at| now.saturating_duration_since(at) >= age_max) {
            let began = Instant::now();
            // Without a table nobody is known.
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            *read = Read { at: Some(now), cards: parse(&text), took: began.elapsed() };
        }
        read.cards.get(interface)?.get(&ip).copied()
    }
}

fn parse(table: &str) -> Cards {
    let mut cards = Cards::new();
    for (ip, mac, device) in table.lines().skip(1).filter_map(entry) {
        cards.entry(device.to_owned()).or_default().insert(ip, mac);
    }
    cards
}

fn entry(line: &str) -> Option<(Ipv4Addr, Mac, &str)> {
    let mut fields = line.split_ascii_whitespace();
    let mut next = || fields.next().unwrap_or_default();
    let (address, hardware, flags, mac, _mask, device) = (next(), next(), next(), next(), next(), next());
    let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
    let mac: Mac = mac.parse().ok()?;
    let says = hardware == "0x1" && flags & 2 != 0 && !mac.is_nobody();
    Some((address.parse().ok()?, mac, device)).filter(|_| says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_entries_of_the_interface_count() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.77.0.9        0x1         0x0         00:00:00:00:00:00     *        eth1\n\
                     10.77.0.10       0x1         0x2         52:54:00:00:00:0a     *        eth1\n\
                     10.77.0.11       0x1         0x6         52:54:00:00:00:0b     *        eth2\n\
                     10.77.0.12       0x20        0x2         52:54:00:00:00:0c     *        eth1\n\
                     garbage\n\n";
        let cards = parse(table);
        let found = |last, interface| Some(cards.get(interface)?.get(&Ipv4Addr::new(10, 77, 0, last))?.0[5]);
        assert_eq!(found(9, "eth1"), None);
        assert_eq!(found(10, "eth1"), Some(0x0a));
        assert_eq!(found(10, "eth2"), None);
        assert_eq!(found(11, "eth2"), Some(0x0b));
        assert_eq!(found(12, "eth1"), None);
        assert!(parse("").is_empty());
    }

    #[test]
    fn it_is_read_as_seldom_as_who_asks_can_bear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("arp");
        let write = |mac: &str| std::fs::write(&path, format!("titles\n10.0.0.9 0x1 0x2 {mac} * eth1\n")).unwrap();
        let (table, began) = (ArpTable::of(&path), Instant::now());
        let ask = |age, after| {
            // However long the disk of a test takes.
            table.read.lock().unwrap().took = Duration::ZERO;
            let found = |last| table.look_up_at(Ipv4Addr::new(10, 0, 0, last), "eth1", age, began + after);
            (found(9).map(|mac| mac.0[5]), found(10))
        };
        assert_eq!(ask(SHARED, Duration::ZERO), (None, None), "there is no table");
        write("02:00:00:00:00:01");
        assert_eq!(ask(SHARED, SHARED / 2), (None, None), "that nobody is there is shared too");
        assert_eq!(ask(SHARED, SHARED), (Some(1), None));
        write("02:00:00:00:00:02");
        assert_eq!(ask(FRESH, SHARED + FRESH / 2), (Some(1), None));
        assert_eq!(ask(SHARED, SHARED + FRESH), (Some(1), None));
        assert_eq!(ask(FRESH, SHARED + FRESH), (Some(2), None));
        // A table that is long to read is read more seldom.
        write("02:00:00:00:00:03");
        table.read.lock().unwrap().took = SHARED;
        let ip = Ipv4Addr::new(10, 0, 0, 9);
        let late = |after| table.look_up_at(ip, "eth1", FRESH, began + SHARED + FRESH + after).map(|mac| mac.0[5]);
        assert_eq!((late(9 * SHARED), late(10 * SHARED)), (Some(2), Some(3)));
    }
}
