//! The clients of DHCP: udhcpc and dhclient on a host of a
//! [`Wire`](super::netns::Wire), which take and keep a lease, and perfdhcp, which
//! takes many.

use super::machine::source;
use super::netns::{Host, INTERFACE};
use super::{Folder, Process, boot, boot_libraries, run, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A client that runs; dropping it ends it without a RELEASE. The host has the
/// address that it was given.
#[derive(Debug)]
pub(crate) struct Client {
    host: Host,
    folder: Folder,
    process: Process,
    /// Events that [`Client::next`] has gone past.
    past: usize,
}

/// What a client told its hook: the event under `event`, and the lease under the
/// names that its manual page gives.
pub(crate) type Event = BTreeMap<String, String>;

impl Client {
    /// udhcpc: events `deconfig`, `bound`, `renew`, `nak`, `leasefail`; values `ip`,
    /// `subnet`, `router`, `lease`, `serverid`, `siaddr`, `boot_file`, …
    pub(crate) fn udhcpc(host: &Host, arguments: &[&str]) -> Self {
        let folder = Folder::new("udhcpc");
        let mut command = host.command(boot("bin/busybox"));
        // What the hook has in its environment beside the lease is in the events too.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LD_LIBRARY_PATH", boot_libraries());
        command.args(["udhcpc", "-f", "-i", INTERFACE, "-s"]).arg(source("boot", "hook.sh"));
        command.args(arguments).env("EVENTS", folder.join("events")).env("IP", boot("bin/ip"));
        let process = start("udhcpc", &mut command, &folder);
        Self { host: host.clone(), folder, process, past: 0 }
    }

    /// dhclient with these lines of `dhclient.conf`: events `PREINIT`, `BOUND`, `REBOOT`,
    /// `RENEW`, `REBIND`, `RELEASE`, …; values `new_ip_address`, `new_dhcp_lease_time`, …
    pub(crate) fn dhclient(host: &Host, config: &str) -> Self {
        let folder = Folder::new("dhclient");
        fs::write(folder.join("config"), config).expect("a file of ours");
        let process = start("dhclient", dhclient(host, &folder).arg("-d").arg(INTERFACE), &folder);
        Self { host: host.clone(), folder, process, past: 0 }
    }

    /// Waits for an event of this name after the last one that this gave.
    pub(crate) fn next(&mut self, name: &str) -> Event {
        let (at, event) = wait_for(&format!("{name:?}"), || {
            // Asked first: what it has written before it ended is there to be read.
            let is_alive = self.process.alive();
            let mut events = self.events().into_iter().enumerate().skip(self.past);
            let found = events.find(|(_, event)| event.get("event").is_some_and(|event| event == name));
            assert!(found.is_some() || is_alive, "it ended without {name:?}: {}", self.log());
            found
        });
        self.past = at + 1;
        event
    }

    /// All events so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        let written = fs::read_to_string(self.folder.join("events")).unwrap_or_default();
        let whole = written.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let event = |block: &str| {
            let pairs = block.lines().filter_map(|line| line.split_once('='));
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        whole.split("\n\n").map(event).collect()
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its process, to signal: udhcpc renews on `USR1` and releases on `USR2`.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// dhclient, once more, releases the lease and ends the first.
    pub(crate) fn dhclient_releases(&mut self) {
        run(dhclient(&self.host, &self.folder).args(["-r", INTERFACE]));
    }

    /// dhclient ends at once and starts again with the lease that it has on file.
    pub(crate) fn dhclient_reboots(&mut self) {
        // It tells its hook first, and then writes the lease.
        wait_for("dhclient to write its lease", || self.log().contains("\nbound to ").then_some(()));
        self.process.kill();
        self.process = start("dhclient", dhclient(&self.host, &self.folder).arg("-d").arg(INTERFACE), &self.folder);
    }
}

/// Its start, up to what it shall do.
fn dhclient(host: &Host, folder: &Folder) -> Command {
    let mut command = host.command(boot("sbin/dhclient"));
    let libraries = boot_libraries().into_string().expect("a plain path");
    let variable = |name: &str, value: PathBuf| format!("{name}={}", value.display());
    // The hook gets nothing of this environment but these.
    command.args(["-e", &variable("EVENTS", folder.join("events")), "-e", &variable("IP", boot("bin/ip"))]);
    command.args(["-e", &format!("LD_LIBRARY_PATH={libraries}")]);
    for (option, name) in [("-cf", "config"), ("-lf", "leases"), ("-pf", "pid")] {
        command.arg(option).arg(folder.join(name));
    }
    command.arg("-sf").arg(source("boot", "hook.sh"));
    command
}

fn start(name: &str, command: &mut Command, folder: &Folder) -> Process {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a file of ours");
    Process::spawn(name, command.stdout(log.try_clone().expect("a file of ours")).stderr(log))
}

/// What perfdhcp counts of one of the two exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchanges {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// perfdhcp with these arguments: DISCOVER-OFFER and REQUEST-ACK, and all that it said.
/// The host needs an address: it is the relay of all its clients.
pub(crate) fn perfdhcp(host: &Host, arguments: &[&str]) -> ([Exchanges; 2], String) {
    let mut command = host.command(boot("usr/sbin/perfdhcp"));
    // After the last packet it waits 5 s for answers, and takes those that are as late as a minute.
    command.args(["-4", "-l", INTERFACE, "-W", "5000000", "-d", "60", "-d", "60"]);
    let output = command.args(arguments).output().expect("perfdhcp starts");
    // It ends with 3 when packets were lost, which its counts say.
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let figures = |name: &str| -> Vec<u64> {
        let values = said.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').next()?.parse().ok());
        values.collect()
    };
    let (sent, received) = (figures("sent packets: "), figures("received packets: "));
    assert!(sent.len() == 2 && received.len() == 2, "{}\n{said}", output.status);
    ([0, 1].map(|exchange| Exchanges { sent: sent[exchange], received: received[exchange] }), said)
}
