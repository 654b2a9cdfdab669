//! A real Linux for the machines that boot: Debian's kernel, and an initrd of
//! busybox that runs a test's script. It starts in 4 seconds without acceleration.

use super::{Folder, boot, run};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The driver of the network card, in an order in which each has what it needs.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// What its command line must have, so that its console is the machine's, has nothing of the
/// kernel's amid the lines of the script, and a panic ends it and is shown. Without acceleration and
/// with little of a processor the timer may be too late for the kernel's test of it, which then panics.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet loglevel=0 panic=-1 no_timer_check";

/// The kernel.
pub(crate) fn kernel() -> Vec<u8> {
    let [kernel] = &matching(&boot("boot"), "vmlinuz-")[..] else { panic!("one kernel was unpacked") };
    fs::read(kernel).expect("a readable kernel")
}

/// The initrd: it takes a lease with udhcpc, however long that takes (`$ip`, `$siaddr`, `$serverid` and so on say
/// which), runs the script with all of busybox's commands and `/log SERVER TEXT`, and restarts the machine.
pub(crate) fn initrd(script: &str) -> Vec<u8> {
    let folder = Folder::new("initrd");
    for name in ["bin", "modules", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir(folder.join(name)).expect("a folder of ours");
    }
    fs::copy(boot("bin/busybox"), folder.join("bin/busybox")).expect("a file of ours");
    let [version] = &matching(&boot("lib/modules"), "")[..] else { panic!("one kernel was unpacked") };
    for (number, module) in MODULES.iter().enumerate() {
        let copy = folder.join(&format!("modules/{number}.ko"));
        fs::copy(version.join("kernel").join(module), copy).expect("a module");
    }
    program(&folder, "init", INIT);
    program(&folder, "hook", HOOK);
    program(&folder, "log", LOG);
    program(&folder, "script", &format!("#!/bin/sh\n{script}\n"));
    archive(folder.path())
}

const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -s /hook -q -t 20 -T 1 -A 1 && . /tmp/lease && . /script
sync
reboot -f
";

const HOOK: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip address add $ip/$subnet dev eth0
for gateway in $router; do ip route add default via $gateway; done
for server in $dns; do echo nameserver $server; done >/etc/resolv.conf
for name in ip subnet router dns serverid siaddr boot_file hostname domain lease; do
    eval echo \"$name=\\'\\$$name\\'\"
done >/tmp/lease
";

/// Ends once the message has been sent, however long that takes.
const LOG: &str = "#!/bin/sh
syslogd -R $1:514
until [ -S /dev/log ]; do usleep 20000; done
sent() { awk '/^Udp: [0-9]/ { print $5 }' /proc/net/snmp; }
before=$(sent)
logger -p daemon.notice \"$2\"
until [ $(sent) -gt $before ]; do usleep 20000; done
sleep 1
";

fn program(folder: &Folder, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("a file of ours");
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).expect("a file of ours");
}

/// What is in the folder under a name with this beginning.
fn matching(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    paths.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))).collect()
}

/// As the kernel unpacks it.
fn archive(folder: &Path) -> Vec<u8> {
    let names = run(Command::new("find").arg(".").current_dir(folder).stdin(Stdio::null()));
    let list = Folder::new("initrd-list");
    fs::write(list.join("names"), names).expect("a file of ours");
    let names = fs::File::open(list.join("names")).expect("a file of ours");
    let mut command = Command::new(boot("bin/busybox"));
    let output = command.args(["cpio", "-o", "-H", "newc"]).current_dir(folder).stdin(names).output();
    let output = output.expect("busybox starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
