//! Machines that boot over a [`Wire`]: QEMU without acceleration, so that it
//! runs wherever the tests do, with a network card and nothing else.
//!
//! What they do, with a server that answers at once (see `boot_parts.rs`):
//!
//! - **BIOS**: the card's ROM is iPXE from its first packet on (architecture 0, user
//!   class `iPXE`): no other loader comes first. Two DISCOVERs a second apart, whatever
//!   is offered, then the REQUEST two seconds later; then the file of the ACK.
//! - **UEFI**: OVMF's own PXE (architecture 7, broadcast flag set). One DISCOVER,
//!   the REQUEST four seconds later; the file by TFTP twice: once for its size,
//!   which it ends with error 8 after the OACK, and once for its contents. What it
//!   loads is iPXE, which starts over with DHCP as above.
//! - **UEFI by HTTP**: architecture 16, vendor class `HTTPClient`: HEAD, GET, each
//!   on a connection of its own. It needs option 60 `HTTPClient` in the answer.
//!
//! None of them has a screen or a disk. A machine that restarts ends instead, so a
//! script's last word is `reboot`: this iPXE has no `poweroff`.

use super::netns::{Tap, Wire};
use super::{Folder, Process, boot};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A boot takes 5 to 15 seconds on a free processor; there may be eight for one, and a slow one.
const LIMIT: Duration = Duration::from_secs(900);

/// A machine that was switched on; dropping it switches it off.
#[derive(Debug)]
pub(crate) struct Vm {
    process: Process,
    folder: Folder,
    since: Instant,
}

impl Vm {
    /// A BIOS, and the iPXE in the card's ROM.
    pub(crate) fn bios(wire: &Wire, mac: &str) -> Self {
        Self::start(wire, mac, |command, _| {
            command.args(["-machine", "pc,accel=tcg,graphics=off", "-m", "256", "-boot", "order=n,reboot-timeout=1"]);
            format!("virtio-net-pci,netdev=wire,mac={mac}")
        })
    }

    /// UEFI, which tries PXE by IPv4 first.
    pub(crate) fn uefi(wire: &Wire, mac: &str) -> Self {
        Self::start(wire, mac, |command, folder| {
            ovmf(command, folder);
            format!("virtio-net-pci,netdev=wire,mac={mac},romfile=,bootindex=1")
        })
    }

    /// UEFI, which boots by HTTP and nothing else.
    pub(crate) fn uefi_http(wire: &Wire, mac: &str) -> Self {
        Self::start(wire, mac, |command, folder| {
            ovmf(command, folder);
            // It would spend a minute on PXE by IPv6 before.
            for protocol in ["IPv4PXESupport", "IPv6PXESupport"] {
                command.arg("-fw_cfg").arg(format!("name=opt/org.tianocore/{protocol},string=no"));
            }
            format!("virtio-net-pci,netdev=wire,mac={mac},romfile=,bootindex=1")
        })
    }

    /// `firmware` adds its arguments and gives the network card.
    fn start(wire: &Wire, mac: &str, firmware: impl FnOnce(&mut Command, &Folder) -> String) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = Folder::new("vm");
        let Tap { name, bridge } = wire.tap(&format!("vm{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut command = bridge.command(boot("usr/bin/qemu-system-x86_64"));
        command.env("QEMU_MODULE_DIR", boot(&format!("usr/lib/{}-linux-gnu/qemu", std::env::consts::ARCH)));
        for firmwares in ["usr/share/seabios", "usr/share/qemu", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(boot(firmwares));
        }
        command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"]);
        command.arg("-serial").arg(format!("file:{}", folder.join("console").display()));
        // What it calls itself in option 97.
        command.args(["-uuid", &format!("9e100000-0000-4000-8000-{}", mac.replace(':', ""))]);
        let card = firmware(&mut command, &folder);
        command.arg("-netdev").arg(format!("tap,id=wire,ifname={name},script=no,downscript=no"));
        command.args(["-device", &card]);
        let process = Process::spawn(&format!("the machine {mac}"), &mut command);
        Self { process, folder, since: Instant::now() }
    }

    /// What it has shown so far, without the codes for colours and the cursor.
    /// The last line before the end may be cut.
    pub(crate) fn console(&self) -> String {
        let shown = std::fs::read(self.folder.join("console")).unwrap_or_default();
        plain(&String::from_utf8_lossy(&shown))
    }

    /// Waits until its console shows this.
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(&format!("{text:?} on its console"), |vm| vm.console().contains(text));
    }

    /// Waits until it ends, as it does when its script says `reboot`; gives the
    /// time since it was switched on.
    pub(crate) fn wait(&mut self) -> Duration {
        self.wait_until("it to end", |vm| !vm.process.alive());
        self.since.elapsed()
    }

    fn wait_until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        while !done(self) {
            let ended = !self.process.alive() && !done(self);
            let late = self.since.elapsed() > LIMIT;
            // UEFI's last way out needs a keyboard.
            let console = self.console();
            let lost = ended || late || console.contains("BdsDxe: failed to ");
            assert!(!lost || done(self), "waited for {what}: {console}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Switches it off at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }
}

/// OVMF with a memory of its own for its variables.
fn ovmf(command: &mut Command, folder: &Folder) {
    let variables = folder.join("variables");
    std::fs::copy(boot("usr/share/OVMF/OVMF_VARS_4M.fd"), &variables).expect("a file of ours");
    let flash = |unit: u8, rest: String| format!("if=pflash,unit={unit},format=raw,{rest}");
    command.args(["-machine", "q35,accel=tcg,graphics=off", "-m", "512"]);
    let code = boot("usr/share/OVMF/OVMF_CODE_4M.fd");
    command.arg("-drive").arg(flash(0, format!("readonly=on,file={}", code.display())));
    command.arg("-drive").arg(flash(1, format!("file={}", variables.display())));
}

/// Text without the sequences of ECMA-48: `ESC [`, parameters, a letter; or
/// `ESC` and one character.
fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut rest = shown.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' if rest.next() == Some('[') => drop(rest.find(|c| ('@'..='~').contains(c))),
            '\u{1b}' | '\r' => {}
            _ => text.push(c),
        }
    }
    text
}
