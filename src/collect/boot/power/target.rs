//! Whom a person means by a name, an address or a MAC. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::{Machine, Machines};

/// Names that are shown where one is not known.
const NEAR_MAX: usize = 5;

/// How many letters a near name may differ in.
const NEAR_LETTERS: usize = 2;

/// Of a name that is shown again.
const SHOWN_CHARS_MAX: usize = 80;

/// Somebody to switch on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where files name it.
    pub(crate) machine: Option<Arc<Machine>>,
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) macs: Vec<Mac>,
}

impl From<&Arc<Machine>> for Target {
    fn from(machine: &Arc<Machine>) -> Target {
        Target { machine: Some(machine.clone()), ip: machine.ip, macs: machine.macs.clone() }
    }
}

impl Target {
    /// For people: `web1 10.0.0.10 52:54:00:12:34:56`.
    pub(crate) fn text(&self) -> String {
        let name = self.machine.iter().map(|machine| machine.hostname.clone());
        name.chain(self.ip.iter().map(ToString::to_string))
            .chain(self.macs.iter().map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Finds whom `text` means. `mac_of`: what else is known of an address. A MAC that no file names is somebody too.
///
/// # Errors
/// That nobody is known by that name, and which names are near to it.
pub(crate) fn find(
    machines: &Machines,
    mac_of: impl Fn(Ipv4Addr) -> Option<Mac>,
    text: &str,
) -> Result<Target, String> {
    let mut all: Vec<&Arc<Machine>> = machines.iter().map(|(_, machine)| machine).collect();
    all.sort_by_key(|machine| machine.ip);
    if let Ok(mac) = text.parse::<Mac>() {
        if mac.is_nobody() {
            return Err(format!("{mac} is no machine's address"));
        }
        let known = all.iter().find(|machine| machine.macs.contains(&mac));
        // This card and no other.
        let ip = known.and_then(|machine| machine.ip);
        return Ok(Target { machine: known.map(|machine| (*machine).clone()), ip, macs: vec![mac] });
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        if let Some(machine) = all.iter().find(|machine| machine.ip == Some(ip)) {
            return Ok(Target::from(*machine));
        }
        let Some(mac) = mac_of(ip) else { return Err(format!("no machine has {ip}, and none was seen with it")) };
        return Ok(Target { machine: None, ip: Some(ip), macs: vec![mac] });
    }
    let wanted = text.trim_end_matches('.');
    let named = |machine: &&&Arc<Machine>| machine.hostname.eq_ignore_ascii_case(wanted);
    let labelled = |machine: &&&Arc<Machine>| first_label(&machine.hostname).eq_ignore_ascii_case(wanted);
    match all.iter().find(named).or_else(|| all.iter().find(labelled)) {
        Some(machine) => Ok(Target::from(*machine)),
        None => Err(unknown(&all, wanted)),
    }
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

fn unknown(all: &[&Arc<Machine>], wanted: &str) -> String {
    let shown: String = wanted.chars().take(SHOWN_CHARS_MAX).collect();
    let wanted = wanted.to_ascii_lowercase();
    let mut near: Vec<(usize, &str)> = Vec::new();
    for machine in all {
        let name = machine.hostname.to_ascii_lowercase();
        let letters = match name.starts_with(&wanted) && !wanted.is_empty() {
            true => 0,
            false => distance(first_label(&name), &wanted).min(distance(&name, &wanted)),
        };
        if letters <= NEAR_LETTERS {
            near.push((letters, &machine.hostname));
        }
    }
    near.sort();
    near.dedup();
    let names: Vec<&str> = near.iter().take(NEAR_MAX).map(|(_, name)| *name).collect();
    match (names.is_empty(), all.len()) {
        (true, 0) => format!("no machine '{shown}': there are no machine files"),
        (true, count) => format!("no machine '{shown}' among {count}"),
        (false, _) => format!("no machine '{shown}'; there is {}", names.join(", ")),
    }
}

/// Letters to change, add or take away (Levenshtein). Long ones are far from everything.
fn distance(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > NEAR_LETTERS {
        return usize::MAX;
    }
    let other: Vec<u8> = other.bytes().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn mac(last: u8) -> Mac {
        Mac([0x52, 0x54, 0, 0, 0, last])
    }

    fn machines() -> Machines {
        let mut machines = Machines::default();
        for (hostname, last) in [("web1", 1), ("web2", 2), ("db.example.com", 3), ("printer", 4)] {
            let ip = Some(Ipv4Addr::new(10, 77, 0, last));
            let macs = vec![mac(last), mac(last + 100)];
            machines.add(SERVER, Machine { hostname: hostname.into(), ip, macs, ..Machine::default() });
        }
        machines
    }

    #[test]
    fn by_name_address_and_card() {
        let machines = machines();
        let seen = |ip: Ipv4Addr| (ip.octets()[3] == 99).then(|| mac(99));
        let text = |wanted: &str| find(&machines, seen, wanted).map(|target| target.text());
        for (wanted, found) in [
            ("web1", "web1 10.77.0.1 52:54:00:00:00:01 52:54:00:00:00:65"),
            ("WEB1.", "web1 10.77.0.1 52:54:00:00:00:01 52:54:00:00:00:65"),
            ("db", "db.example.com 10.77.0.3 52:54:00:00:00:03 52:54:00:00:00:67"),
            ("10.77.0.2", "web2 10.77.0.2 52:54:00:00:00:02 52:54:00:00:00:66"),
            ("52-54-00-00-00-66", "web2 10.77.0.2 52:54:00:00:00:66"),
            ("10.77.0.99", "10.77.0.99 52:54:00:00:00:63"),
            ("52:54:00:00:00:c8", "52:54:00:00:00:c8"),
        ] {
            assert_eq!(text(wanted).as_deref(), Ok(found));
        }
        for (wanted, problem) in [
            ("wbe1", "no machine 'wbe1'; there is web1"),
            ("web", "no machine 'web'; there is web1, web2"),
            ("d", "no machine 'd'; there is db.example.com"),
            ("elsewhere", "no machine 'elsewhere' among 4"),
            ("10.77.0.50", "no machine has 10.77.0.50"),
            ("ff:ff:ff:ff:ff:ff", "no machine's address"),
        ] {
            let error = text(wanted).unwrap_err();
            assert!(error.starts_with(problem) || error.ends_with(problem), "{error}");
        }
        let error = find(&Machines::default(), seen, "web1").unwrap_err();
        assert!(error.ends_with("there are no machine files"), "{error}");
    }
}
