//! The README's section on booting machines, followed literally: its commands and its
//! config are taken out of it, and a machine starts from what they made.

mod support;

use std::fs;
use std::process::Command;
use support::greypit::Greypit;
use support::netns::{INTERFACE, Wire};
use support::qemu::Vm;
use support::readme::Section;
use support::{boot, linux, run, wait_for};

/// The machine's own syslog: a line to where its lease came from.
const LINUX: &str = "
/log $serverid 'I am up'
";

#[test]
fn a_machine_starts_as_the_readme_says() {
    let section = Section::named("Boot machines");
    let (commands, config) = (section.block("sh"), section.block("toml"));
    let wire = Wire::new();
    let host = wire.host("greypit", Some("10.0.0.1/24"));
    let mut greypit = Greypit::on(&host, "boot");
    // The same folders, all below one of the test's.
    let root = greypit.folder().to_str().expect("a plain path").to_owned();
    let here = |text: &str| {
        ["/srv/", "/etc/"].iter().fold(text.to_owned(), |text, folder| text.replace(folder, &format!("{root}{folder}")))
    };
    let ipxe = boot("usr/lib/ipxe");
    let commands = here(&commands).replace("/usr/lib/ipxe", ipxe.to_str().expect("a plain path"));
    // What the reader brings.
    fs::write(greypit.folder().join("vmlinuz"), linux::kernel()).expect("a file of ours");
    fs::write(greypit.folder().join("initrd.img"), linux::initrd(LINUX)).expect("a file of ours");
    let commands = commands.replace("console=ttyS0", linux::CMDLINE);
    run(Command::new("sh").args(["-euc", &commands]).current_dir(greypit.folder()));
    greypit.set_toml(&here(&config).replace("\"eth1\"", &format!("\"{INTERFACE}\"")));
    greypit.set("batch.window", "1s");

    greypit.start();
    let mut machine = Vm::uefi(&wire, "52:54:00:12:34:56");
    machine.wait();
    let line = wait_for("the machine's syslog", || {
        let table = run(&mut greypit.command("boot"));
        table.lines().find(|line| line.starts_with("web1 ") && line.contains(" syslog ")).map(str::to_owned)
    });
    assert!(line.contains(" 52:54:00:12:34:56  10.0.0.11 ") && line.contains("firmware"), "{line}");
    run(greypit.command("wake").arg("web1"));

    greypit.terminate();
    let mut kinds = Vec::new();
    greypit.cat(|line| {
        let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        if record["session"].as_str().is_some_and(|session| session.starts_with("525400123456-")) {
            kinds.push(record["kind"].as_str().expect("a kind").to_owned());
        }
    });
    for kind in ["dhcp", "tftp", "http", "syslog"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not in {kinds:?}");
    }
}
