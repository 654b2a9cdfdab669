//! greypit and the servers beside it, each on a wire with a host for clients.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::boot_server::{BootServer, SERVER};
use crate::support::dnsmasq::Dnsmasq;
use crate::support::netns::{Host, INTERFACE, Wire};
use crate::support::{Folder, Process, boot, wait_for};

/// The network's prefix: its pool is large.
const BITS: u8 = 16;
/// 65,279 addresses.
const POOL: [&str; 2] = ["10.77.1.0", "10.77.255.254"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Greypit,
    Kea,
    Dnsmasq,
    Tftpd,
    Python,
    Busybox,
}

impl Which {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Which::Greypit => "greypit",
            Which::Kea => "kea",
            Which::Dnsmasq => "dnsmasq",
            Which::Tftpd => "tftpd-hpa",
            Which::Python => "python",
            Which::Busybox => "busybox",
        }
    }
}

/// A server that is ready.
pub(crate) struct Server {
    runs: Runs,
    account: Account,
    pub(crate) client: Host,
    _wire: Wire,
}

enum Runs {
    Greypit(BootServer),
    Dnsmasq(Dnsmasq),
    Other(Process, #[expect(dead_code, reason = "it is removed with the process")] Folder),
}

impl Server {
    /// Gives out what is in `files`.
    pub(crate) fn start(which: Which, files: &Path) -> Server {
        let wire = Wire::new();
        let host = || wire.host("server", Some(&format!("{SERVER}/{BITS}")));
        let runs = match which {
            Which::Greypit => Runs::Greypit(greypit(&wire, files)),
            Which::Kea => kea(&host()),
            Which::Dnsmasq => Runs::Dnsmasq(dnsmasq(&host(), files)),
            Which::Tftpd => tftpd(&host(), files),
            Which::Python => python(&host(), files),
            Which::Busybox => busybox(&host(), files),
        };
        let client = wire.host("client", Some(&format!("10.77.0.2/{BITS}")));
        let id = match &runs {
            Runs::Greypit(server) => server.id(),
            Runs::Dnsmasq(server) => server.id(),
            Runs::Other(process, _) => process.id(),
        };
        Server { runs, account: Account::of(id), client, _wire: wire }
    }

    /// CPU seconds since it was ready, user and system, with all its children.
    pub(crate) fn cpu(&self) -> f64 {
        self.account.seconds()
    }

    /// Of greypit, what a counter says.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        match &self.runs {
            Runs::Greypit(server) => server.metric(name),
            _ => None,
        }
    }
}

fn greypit(wire: &Wire, files: &Path) -> BootServer {
    let mut server = BootServer::in_subnet(wire, BITS);
    server.machine("default", &[("boot", "local")]);
    server.set("boot.root", files.to_str().expect("a plain path").to_owned());
    server.set("boot.dhcp.pool", vec![POOL.join("-")]);
    // As large blocks as the others, and as many transfers.
    server.set("boot.tftp.max_blksize", 65_464);
    server.set("boot.tftp.max_transfers_per_client", 64);
    // As it ships.
    server.set("batch.window", "5m");
    server.set("log.level", "warn");
    server.start();
    server
}

/// With as many threads as there are cores.
fn kea(host: &Host) -> Runs {
    let folder = Folder::new("kea");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let config = format!(
        r#"{{ "Dhcp4": {{
        "interfaces-config": {{ "interfaces": ["{INTERFACE}"], "dhcp-socket-type": "udp" }},
        "lease-database": {{ "type": "memfile", "persist": true, "name": "{}", "lfc-interval": 3600 }},
        "multi-threading": {{ "enable-multi-threading": true, "thread-pool-size": {threads}, "packet-queue-size": 64 }},
        "valid-lifetime": 3600,
        "subnet4": [{{ "subnet": "10.77.0.0/{BITS}", "pools": [{{ "pool": "{}" }}] }}],
        "loggers": [{{ "name": "kea-dhcp4", "severity": "ERROR", "output_options": [{{ "output": "stderr" }}] }}]
        }} }}"#,
        folder.join("leases.csv").display(),
        POOL.join(" - ")
    );
    fs::write(folder.join("config"), config).expect("a file of ours");
    let mut command = host.command(boot("usr/sbin/kea-dhcp4"));
    command.arg("-c").arg(folder.join("config"));
    command.env("KEA_PIDFILE_DIR", folder.path()).env("KEA_LOCKFILE_DIR", "none");
    command.env("KEA_LFC_EXECUTABLE", boot("usr/sbin/kea-lfc"));
    listening("kea-dhcp4", &mut command, folder, 67)
}

fn dnsmasq(host: &Host, files: &Path) -> Dnsmasq {
    let range = format!("dhcp-range={},{},255.255.0.0,1h", POOL[0], POOL[1]);
    let root = format!("tftp-root={}", files.display());
    let lines = [
        "port=0",
        &range,
        "dhcp-lease-max=70000",
        "dhcp-authoritative",
        "quiet-dhcp",
        "enable-tftp",
        "quiet-tftp",
        &root,
    ];
    Dnsmasq::quiet(host, &lines)
}

fn tftpd(host: &Host, files: &Path) -> Runs {
    let mut command = host.command(boot("usr/sbin/in.tftpd"));
    command.args(["-L", "-4", "-u", "root", "-s"]).arg(files);
    listening("in.tftpd", &mut command, Folder::new("tftpd"), 69)
}

fn python(host: &Host, files: &Path) -> Runs {
    let mut command = host.command("python3");
    command.args(["-m", "http.server", "80", "--directory"]).arg(files).env_remove("LD_LIBRARY_PATH");
    listening("http.server", &mut command, Folder::new("python"), 80)
}

fn busybox(host: &Host, files: &Path) -> Runs {
    let mut command = host.command(boot("bin/busybox"));
    command.args(["httpd", "-f", "-p", "80", "-h"]).arg(files);
    listening("httpd", &mut command, Folder::new("busybox"), 80)
}

/// Starts a server and waits until it has a socket with this port.
fn listening(name: &str, command: &mut std::process::Command, folder: Folder, port: u16) -> Runs {
    let log = File::create(folder.join("log")).expect("a file of ours");
    command.stdout(log.try_clone().expect("a file of ours")).stderr(log);
    let mut process = Process::spawn(name, command);
    wait_for(name, || {
        assert!(process.alive(), "{name}: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
        let has_port = |table: &str| {
            let sockets = fs::read_to_string(format!("/proc/{}/net/{table}", process.id())).unwrap_or_default();
            sockets.contains(&format!(":{port:04X} "))
        };
        ["udp", "tcp", "tcp6"].into_iter().any(has_port).then_some(())
    });
    Runs::Other(process, folder)
}

/// A control group of a process and its children, which counts the CPU of those too that nobody waits for.
struct Account {
    folder: PathBuf,
    /// Where version 1 has them apart.
    is_v1: bool,
}

impl Account {
    fn of(process: u32) -> Account {
        let root = Path::new("/sys/fs/cgroup");
        let is_v1 = root.join("cpuacct").exists();
        let folder = if is_v1 { root.join("cpuacct") } else { root.to_path_buf() }.join(format!("gp{process}"));
        fs::create_dir(&folder).expect("root may, and control groups are there");
        // All its threads.
        fs::write(folder.join("cgroup.procs"), process.to_string()).expect("a group of ours");
        Account { folder, is_v1 }
    }

    fn seconds(&self) -> f64 {
        let read = |name: &str| fs::read_to_string(self.folder.join(name)).expect("a group of ours");
        if self.is_v1 {
            return read("cpuacct.usage").trim().parse::<f64>().expect("nanoseconds") / 1e9;
        }
        let stat = read("cpu.stat");
        let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).expect("microseconds");
        usage.parse::<f64>().expect("microseconds") / 1e6
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Once those in it have ended, which a killed process takes a moment for.
        let removed = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            fs::remove_dir(&self.folder).is_ok()
        });
        if !removed {
            eprintln!("{} is left", self.folder.display());
        }
    }
}
