//! The boot collector beside the servers that it can replace: `GREYPIT_CACHE=… cargo bench --bench boot`, about half an
//! hour, as root.
//!
//! A server and its clients are hosts on one wire: network namespaces with veth pairs on a bridge. Each time a fresh
//! server, one after the other, the order turned in each round; figures are medians of the rounds, and ratios medians of
//! the ratios in each round. CPU is user plus system of the server and its children. Each server runs as Debian ships it,
//! with its packet logging off; greypit records each packet and transfer in its spool, as it always does.
//!
//! * `dhcp`: four-way exchanges of perfdhcp, a relay of [`leases::CLIENTS`] clients. greypit has each lease on disk (one
//!   fdatasync for all that wait) before it says ACK; Kea writes its memfile without waiting for the disk, dnsmasq its
//!   lease file. First the highest rate at which at most 1 % of the exchanges fail, in one of three attempts; then CPU at
//!   a rate that all can do.
//! * `tftp`: a file by one client and by eight, with blocks of a frame (1468), of 8192 bytes in fragments, and with
//!   windows of 16 blocks. tftpd-hpa knows no windows; dnsmasq neither, and no blocks beyond a frame. The client is the
//!   same for all, and says what was agreed.
//! * `http`: the same file. Python's http.server and busybox httpd are no rivals; they say what is usual.

mod fetch;
mod leases;
mod rivals;
#[path = "../real/support/mod.rs"]
mod support;

const HELP: &str = "\
cargo bench --bench boot -- [dhcp] [tftp] [http] [OPTIONS]      default: all three
  --rounds N      rounds of each (3)
  --seconds N     of load of dhcp (5)
  --from N        exchanges a second at which the search begins (250)
  --factor N      from one rate to the next (1.4)
  --rate N        exchanges a second at which CPU is compared (200)
  --only NAME     one server only: greypit, kea, dnsmasq, tftpd-hpa, python, busybox
  --megabytes N   the file (100)
GREYPIT_CACHE must be the folder in which tests/run.sh keeps the parts.";

/// What the command line says.
struct Arguments(Vec<String>);

impl Arguments {
    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, default: f64) -> f64 {
        self.text(name).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }
}

fn main() {
    let arguments = Arguments(std::env::args().skip(1).filter(|argument| argument != "--bench").collect());
    if arguments.has("--help") {
        println!("{HELP}");
        return;
    }
    let names = ["dhcp", "tftp", "http"];
    let all = !names.iter().any(|name| arguments.has(name));
    let wanted = |name: &str| all || arguments.has(name);
    println!("load of the machine before: {}", load());
    if wanted("dhcp") {
        leases::measure(&arguments);
    }
    if wanted("tftp") {
        fetch::tftp(&arguments);
    }
    if wanted("http") {
        fetch::http(&arguments);
    }
    println!("load of the machine after: {}", load());
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").expect("Linux").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The values of each name, name by name in the order of their first appearance, one a round.
#[derive(Debug, Default)]
struct Table(Vec<(String, Vec<f64>)>);

impl Table {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(found, _)| found == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// Prints medians, and how much the first name has of each other's.
    fn say(&self, title: &str, unit: &str) {
        let medians = self.0.iter().map(|(name, values)| format!("{name} {:.3}", median(values.iter().copied())));
        println!("{title}: {} {unit}", medians.collect::<Vec<_>>().join(", "));
        let Some(((first, ours), others)) = self.0.split_first() else { return };
        for (name, theirs) in others {
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
            // Where a server did nothing within the limits there is no ratio.
            if theirs.contains(&0.0) {
                println!("  {first} / {name}: none");
                continue;
            }
            let (least, most) =
                (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
            println!("  {first} / {name}: {:.2} ({least:.2} to {most:.2}, {} rounds)", median(ratios), ours.len());
        }
    }
}
