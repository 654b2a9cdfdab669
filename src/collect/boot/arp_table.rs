//! The kernel's table of neighbours: which network card an address on one of our links has.
//!
//! `/proc/self/net/arp` (proc_net(5), IPv4 only): a line of titles, then `address hwtype flags hwaddress mask device`.
//! Only entries with `ATF_COM` (0x2, complete) of Ethernet (0x1) say something.

use std::net::Ipv4Addr;

use super::mac::Mac;

const PATH: &str = "/proc/self/net/arp";

/// The card that has `ip` on `interface`, if the kernel knows.
pub(crate) fn look_up(ip: Ipv4Addr, interface: &str) -> Option<Mac> {
    find(&std::fs::read_to_string(PATH).ok()?, ip, interface)
}

fn find(table: &str, ip: Ipv4Addr, interface: &str) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let mut next = || fields.next().unwrap_or_default();
        let (address, hardware, flags, mac, _mask, device) = (next(), next(), next(), next(), next(), next());
        let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
        let said = hardware == "0x1" && flags & 2 != 0 && device == interface && address.parse() == Ok(ip);
        mac.parse().ok().filter(|mac: &Mac| said && !mac.is_nobody())
    })
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
        let found = |last, interface| find(table, Ipv4Addr::new(10, 77, 0, last), interface).map(|mac| mac.0[5]);
        assert_eq!(found(9, "eth1"), None);
        assert_eq!(found(10, "eth1"), Some(0x0a));
        assert_eq!(found(10, "eth2"), None);
        assert_eq!(found(11, "eth2"), Some(0x0b));
        assert_eq!(found(12, "eth1"), None);
        assert_eq!(find("", Ipv4Addr::LOCALHOST, "lo"), None);
    }
}
