//! dnsmasq on a host of a [`Wire`](super::netns::Wire): the server that greypit
//! is compared with and stands beside.

use super::netns::{Host, INTERFACE};
use super::{Folder, Process, boot, wait_for};
use std::fs::{self, File};

/// A running dnsmasq.
#[derive(Debug)]
pub(crate) struct Dnsmasq {
    process: Process,
    folder: Folder,
}

impl Dnsmasq {
    /// Serves what these lines of its config say, and no DNS unless they do; its log has every packet of DHCP.
    pub(crate) fn start(host: &Host, lines: &[&str]) -> Self {
        Self::quiet(host, &[lines, &["log-dhcp"]].concat())
    }

    /// The same, and it logs what it logs by itself.
    pub(crate) fn quiet(host: &Host, lines: &[&str]) -> Self {
        let folder = Folder::new("dnsmasq");
        let mut config = vec![
            format!("interface={INTERFACE}"),
            format!("dhcp-leasefile={}", folder.join("leases").display()),
            format!("pid-file={}", folder.join("pid").display()),
        ];
        // Nobody to ask first whether an address is free: it would cost 3 seconds.
        config.extend(["bind-interfaces", "no-ping", "user=root", "no-resolv", "no-hosts"].map(str::to_owned));
        config.extend(lines.iter().map(|&line| line.to_owned()));
        fs::write(folder.join("config"), config.join("\n") + "\n").expect("a file of ours");
        let log = File::create(folder.join("log")).expect("a file of ours");
        let mut command = host.command(boot("usr/sbin/dnsmasq"));
        command.args(["--keep-in-foreground", "--log-facility=-", "-C"]);
        command.arg(folder.join("config")).stderr(log);
        let process = Process::spawn("dnsmasq", &mut command);
        let mut dnsmasq = Self { process, folder };
        wait_for("dnsmasq", || {
            let log = dnsmasq.log();
            assert!(dnsmasq.process.alive(), "dnsmasq ended: {log}");
            log.contains(": started, version").then_some(())
        });
        dnsmasq
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }
}
