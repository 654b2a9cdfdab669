//! Folders as people write them, and what is said of those that are not right.

use super::*;
use crate::collect::boot::net::testing::networks;

/// A folder of files, `10.77.0.1/10.77.0.7/hostname` with a line each.
pub(in super::super) struct Files(pub(in super::super) tempfile::TempDir);

impl Files {
    pub(in super::super) fn new(files: &[(&str, &str)]) -> Files {
        let made = Files(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| made.put(name, text));
        made
    }

    pub(in super::super) fn put(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn load(&self) -> Result<Machines> {
        let networks = networks("[[network]]\nsubnet = \"10.9.0.0/24\"");
        load(self.0.path(), Some(&networks), &mut |_| {})
    }

    /// What is said of it, without the folder that is another each time.
    fn mistake(&self) -> String {
        let said = self.load().expect_err("a mistake").to_string();
        said.replace(&format!("{}/", self.0.path().display()), "")
    }
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const WEB1: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 7);

/// The two files that every machine has.
const GOOD: [(&str, &str); 2] =
    [("10.77.0.1/10.77.0.7/hostname", "web1\n"), ("10.77.0.1/10.77.0.7/mac", "52:54:00:12:34:56\n")];

#[test]
fn a_machine_is_what_its_files_say() {
    let files = Files::new(&[
        ("10.77.0.1/10.77.0.7/hostname", "# the shop\n\n  web1.example.org \n"),
        ("10.77.0.1/10.77.0.7/mac", "52:54:00:12:34:56\r\n# the second card\n52-54-00-12-34-57"),
        ("10.77.0.1/10.77.0.7/kernel", "/debian//linux\n"),
        ("10.77.0.1/10.77.0.7/initrd", "debian/initrd.gz\nhttps://mirror.example/firmware.cpio\n"),
        ("10.77.0.1/10.77.0.7/cmdline", "console=ttyS0 host={{ hostname }}\n"),
        ("10.77.0.1/10.77.0.7/notes.txt", "\u{0}left alone"),
        ("10.77.0.1/10.77.0.7/.hostname.swp", "left alone"),
        ("10.77.0.1/10.77.0.8/hostname", "db1"),
        ("10.77.0.1/10.77.0.8/mac", "52:54:00:12:34:58"),
        ("10.77.0.1/10.77.0.8/boot", "grub/grubx64.efi"),
        ("10.77.0.1/10.9.0.3/hostname", "far1"),
        ("10.77.0.1/10.9.0.3/mac", "52:54:00:12:34:59"),
        ("10.77.0.1/default/script.ipxe", "#!ipxe\necho {{ mac }}\n"),
        ("10.77.0.1/.git/config", "left alone"),
        ("10.77.0.1/README", "left alone"),
        ("10.78.0.1/10.78.0.7/mac", "not ours"),
        ("docs/x", "left alone"),
    ]);
    let machines = files.load().unwrap();
    assert_eq!(machines.len(), 3);
    let web1 = machines.by_ip(SERVER, WEB1).unwrap();
    let wanted = Machine {
        hostname: "web1.example.org".into(),
        ip: Some(WEB1),
        macs: vec![Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]), Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57])],
        boot: Boot::Script,
        kernel: Some("debian/linux".into()),
        initrd: vec!["debian/initrd.gz".into(), "https://mirror.example/firmware.cpio".into()],
        cmdline: "console=ttyS0 host={{ hostname }}".into(),
        script: None,
        power: None,
    };
    assert_eq!(**web1, wanted);
    assert_eq!(machines.by_mac(SERVER, wanted.macs[1]), Some(web1));
    let boot = |ip: [u8; 4]| &machines.by_ip(SERVER, ip.into()).unwrap().boot;
    assert_eq!(*boot([10, 77, 0, 8]), Boot::File("grub/grubx64.efi".into()));
    assert_eq!(*boot([10, 9, 0, 3]), Boot::Local, "nothing to load is its own disk");
    let default = machines.default_of(SERVER).unwrap();
    assert_eq!((default.ip, default.script.as_deref()), (None, Some("#!ipxe\necho {{ mac }}\n")));
    files.put("10.78.0.1/10.78.0.7/mac", "52:54:00:12:34:60");
    files.put("10.78.0.1/10.78.0.7/hostname", "web1.example.org");
    let all = load(files.0.path(), None, &mut |_| {}).unwrap();
    assert_eq!(all.len(), 4, "whoever does not know the networks takes all servers");
}

#[test]
fn whose_folders_there_are() {
    let files = Files::new(&[("10.78.0.1/x", ""), ("docs/x", ""), (".git/x", ""), ("10.79.0.1", "a file")]);
    assert_eq!(servers(files.0.path()), [Ipv4Addr::new(10, 78, 0, 1)]);
}

#[test]
fn an_empty_folder_is_no_machines_and_a_missing_one_is_a_mistake() {
    let files = Files::new(&[]);
    assert_eq!(files.load().unwrap(), Machines::default());
    let said = load(&files.0.path().join("nowhere"), None, &mut |_| {}).unwrap_err().to_string();
    assert!(said.ends_with("/nowhere: is missing; make the folder, or name another"), "{said}");
}

#[test]
fn a_mistake_names_its_file_and_what_to_write() {
    let machine = "10.77.0.1/10.77.0.7";
    for (file, text, wanted) in [
        ("hostname", "", "is missing or empty; write the machine's name into it, for example web1"),
        ("hostname", "web 1", "'web 1' is no host name; write letters"),
        ("hostname", "-web1", "'-web1' is no host name"),
        ("hostname", "web1..org", "is no host name"),
        ("hostname", "web_1", "is no host name"),
        ("hostname", "10.0.0.9", "is no host name"),
        ("hostname", "web1\nweb2", "has 2 lines; write one"),
        ("hostname", "web\u{1b}[2J", "there is a control character in 'web\\u{1b}[2J'"),
        ("mac", "", "is missing or empty; write the address of the network card"),
        ("mac", "52:54:00:12:34", "'52:54:00:12:34' is no MAC address; write for example"),
        ("mac", "ff:ff:ff:ff:ff:ff", "is no card's address"),
        ("mac", "52:54:00:12:34:56\n52:54:00:12:34:56", "is there twice"),
        ("kernel", "../../etc/passwd", "'../../etc/passwd' leads out of boot.root"),
        ("kernel", "a/..", "leads out of boot.root"),
        ("kernel", "debian linux", "has a blank or a backslash"),
        ("kernel", "a\\b", "has a blank or a backslash"),
        ("kernel", "/", "is no file"),
        ("kernel", "tftp://10.0.0.1/linux", "is no http:// URL"),
        ("kernel", "http://a/b c", "there is a blank"),
        ("initrd", "../x", "leads out of boot.root"),
        ("initrd", "x", "is of no use without a kernel"),
        ("cmdline", "quiet", "is of no use without a kernel"),
        ("boot", "../grubx64.efi", "leads out of boot.root"),
        ("boot", "off\nlocal", "has 2 lines; write one"),
        ("script.ipxe", "#!ipxe\n{{ hostnam }}\n", "the template uses a name in line 2"),
        ("script.ipxe", "echo\n", "the script does not begin with '#!ipxe'"),
    ] {
        let files = Files::new(&GOOD);
        files.put(&format!("{machine}/{file}"), text);
        let said = files.mistake();
        assert!(said.starts_with(&format!("{machine}/{file}: ")) && said.contains(wanted), "{file} {text:?}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn a_template_of_a_command_line_is_tried_too() {
    let files = Files::new(&GOOD);
    files.put("10.77.0.1/10.77.0.7/kernel", "linux");
    files.put("10.77.0.1/10.77.0.7/cmdline", "host={{ hostnam }}");
    assert!(files.mistake().starts_with("10.77.0.1/10.77.0.7/cmdline: the template uses a name"));
}

#[test]
fn folders_that_cannot_be_a_machines() {
    for (folder, wanted) in [
        ("10.77.0.1/10.78.0.7", "10.78.0.7 is not in 10.77.0.0/24 or 10.9.0.0/24, the network of 10.77.0.1; use"),
        ("10.77.0.1/10.77.0.1", "10.77.0.1 is this server's own address"),
        ("10.77.0.1/10.77.0.0", "10.77.0.0 is 10.77.0.0/24's own address"),
        ("10.77.0.1/10.77.0.255", "10.77.0.255 is 10.77.0.0/24's own address"),
        ("10.77.0.1/10.77.0.256", "'10.77.0.256' is no IPv4 address; write for example 10.0.0.7"),
        ("10.77.0.1/web1", "a machine's folder is called by its address"),
        ("10.77.0.300/10.77.0.7", "'10.77.0.300' is no IPv4 address"),
    ] {
        let files = Files::new(&[]);
        files.put(&format!("{folder}/hostname"), "web1");
        files.put(&format!("{folder}/mac"), "52:54:00:12:34:56");
        let said = files.mistake();
        let path = if folder.starts_with("10.77.0.300") { "10.77.0.300" } else { folder };
        assert!(said.starts_with(&format!("{path}: ")) && said.contains(wanted), "{folder}: {said}");
    }
}

#[test]
fn two_machines_have_nothing_in_common() {
    for (file, text, wanted) in [
        ("hostname", "WEB1", "10.77.0.1/10.77.0.8/hostname: WEB1 is that of 10.77.0.1/10.77.0.7 too"),
        ("mac", "52:54:00:12:34:56", "10.77.0.1/10.77.0.8/mac: 52:54:00:12:34:56 is that of 10.77.0.1/10.77.0.7 too"),
    ] {
        let files = Files::new(&GOOD);
        files.put("10.77.0.1/10.77.0.8/hostname", "web2");
        files.put("10.77.0.1/10.77.0.8/mac", "52:54:00:12:34:57");
        assert_eq!(files.load().unwrap().len(), 2);
        files.put(&format!("10.77.0.1/10.77.0.8/{file}"), text);
        let said = files.mistake();
        assert!(said.starts_with(wanted), "{said}");
    }
}

#[test]
fn default_has_no_name_and_no_card() {
    for file in ["hostname", "mac", "power"] {
        let files = Files::new(&[(&format!("10.77.0.1/default/{file}"), "x")]);
        let said = files.mistake();
        assert!(said.starts_with(&format!("10.77.0.1/default/{file}: default/ is for many")), "{said}");
    }
}

#[test]
fn limits_are_said_by_their_number() {
    let files = Files::new(&GOOD);
    files.put("10.77.0.1/10.77.0.7/script.ipxe", &"#".repeat(FILE_BYTES_MAX as usize + 1));
    assert!(files.mistake().ends_with("script.ipxe: is larger than 65536 bytes"));
    files.put("10.77.0.1/10.77.0.7/script.ipxe", "");
    files.put("10.77.0.1/10.77.0.7/kernel", &"x".repeat(NAME_BYTES_MAX + 1));
    assert!(files.mistake().ends_with("has more than 512 bytes"));
    files.put("10.77.0.1/10.77.0.7/kernel", "linux");
    files.put("10.77.0.1/10.77.0.7/initrd", &"x\n".repeat(INITRDS_MAX + 1));
    assert!(files.mistake().ends_with("has 65 lines; at most 64 can be read"));
    files.put("10.77.0.1/10.77.0.7/initrd", "");
    let cards: Vec<String> = (0..=CARDS_MAX).map(|i| format!("52:54:00:12:35:{i:02x}")).collect();
    files.put("10.77.0.1/10.77.0.7/mac", &cards.join("\n"));
    assert!(files.mistake().ends_with("has 33 cards; at most 32 can be read"));
}

#[test]
fn what_is_no_file_holds_up_nothing() {
    let files = Files::new(&GOOD);
    let path = files.0.path().join("10.77.0.1/10.77.0.7/kernel");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(files.mistake().ends_with("kernel: cannot be read: it is no file"));
}

#[test]
fn who_is_off_on_an_interface_that_is_not_there_is_off() {
    let files = Files::new(&[
        ("10.88.0.1/10.88.0.7/hostname", "dark"),
        ("10.88.0.1/10.88.0.7/mac", "52:54:00:12:34:07"),
        ("10.88.0.1/10.88.0.7/boot", "off"),
        ("10.88.0.1/10.88.0.8/hostname", "web"),
        ("10.88.0.1/10.88.0.8/mac", "52:54:00:12:34:08"),
    ]);
    let off = |text: &str| {
        let machines = load(files.0.path(), Some(&networks(text)), &mut |_| {}).unwrap();
        assert_eq!(machines.len(), 0, "{text}");
        ["52:54:00:12:34:07", "52:54:00:12:34:08"].map(|mac| machines.is_off(mac.parse().unwrap()))
    };
    assert_eq!(off("interface = [\"eth1\"]"), [false, false], "another server's");
    assert_eq!(off("interface = [\"eth1\", \"eth2\"]"), [true, false], "it may be eth2's");
}
