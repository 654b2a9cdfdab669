//! Who is told which boot file, and how.
//!
//! | who | file | told by |
//! |---|---|---|
//! | PXE firmware | the loader of its architecture, or `boot`'s file, by TFTP | siaddr, `file`, 66, 67; 60 and 43 so that it waits for nobody else |
//! | Raspberry Pi | the loader of `raspberrypi`, if there is one | the same, and the boot menu that it looks for in 43 |
//! | UEFI HTTP firmware | the URL of the same file | 67 alone, and 60 `HTTPClient` |
//! | iPXE | the machine's script, by HTTP where that is on | `file`, 67, 66; beside another server 60, or it takes no notice |
//! | BOOTP, and systems that ask for 67 and say what processor they have | the loader, by TFTP | siaddr, `file`, 66, 67 |
//!
//! Nothing is told to a machine that boots from its own disk. A name too long for `file` ([`FILE_BYTES_MAX`]) is in 67
//! alone. For PXE firmware, 67 ends with a NUL: some ROMs read it up to the 0xFF behind it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::class::{self, Class};
use super::wire::{Message, Request, code};
use crate::collect::boot::http;
use crate::collect::boot::machines::{Boot as Way, Machine};

/// `file` has 128 bytes, and a NUL at its end.
pub(crate) const FILE_BYTES_MAX: usize = 127;

/// What one option holds at most; a URL beyond it is told to nobody.
const NAME_BYTES_MAX: usize = 254;

/// The name of a machine's script.
const SCRIPT: &str = "boot.ipxe";

/// Option 43 for PXE (PXE 2.1, table 2-1): boot servers are not looked for, the file of this answer is taken.
const TAKE_THIS_FILE: [u8; 4] = [6, 1, 8, 255];

/// Option 43 for a Raspberry Pi: it goes on only where this menu is offered. 6: neither multicast nor broadcast; 10: the
/// prompt, without waiting; 9: a menu of one.
const RASPBERRY_PI_MENU: &[u8] = b"\x06\x01\x03\x0a\x04\x00PXE\x09\x14\x00\x00\x11Raspberry Pi Boot\xff";

/// Option 175 for iPXE: it need not wait for a proxy's answer (`no-pxedhcp`).
pub(crate) const NO_PXE_DHCP: [u8; 3] = [176, 1, 1];

/// By which protocols files are given out, and which loaders there are.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    pub(crate) tftp: bool,
    /// 0: off.
    pub(crate) http_port: u16,
    pub(crate) loader: BTreeMap<String, String>,
}

/// What a machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) class: Class,
    /// A name below boot.root, or a URL; empty: only whom to ask.
    pub(crate) name: String,
}

/// Why a machine is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// It does not boot from here.
    Local,
    /// No file is configured for its architecture.
    NoLoader,
    /// TFTP or HTTP is off, by which it would have to fetch it.
    Off,
    /// It did not ask.
    NotAsked,
    /// The name has more bytes than an option.
    TooLong,
}

impl Nothing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Nothing::Local => "boots from its own disk",
            Nothing::NoLoader => "no loader for its architecture",
            Nothing::Off => "what would serve the file is off",
            Nothing::NotAsked => "no boot file asked for",
            Nothing::TooLong => "the file's name is too long",
        }
    }
}

/// What `request` is told by the server at `server` that holds these files for its machine.
pub(crate) fn choose(
    request: &Request<'_>,
    class: Class,
    machine: &Machine,
    ways: &Ways,
    server: Ipv4Addr,
) -> Result<Boot, Nothing> {
    let has_script = machine.script.is_some() || machine.kernel.is_some();
    let file = match &machine.boot {
        Way::Script if has_script => None,
        Way::File(file) => Some(file.as_str()),
        Way::Script | Way::Local | Way::Off => return Err(Nothing::Local),
    };
    let loader = || file.or_else(|| loader(request, class, ways)).ok_or(Nothing::NoLoader);
    let name = match class {
        Class::Ipxe => match file {
            Some(file) if !has_script => any_way(ways, server, file)?,
            _ => any_way(ways, server, SCRIPT)?,
        },
        Class::Http => url(ways, server, loader()?).ok_or(Nothing::Off)?,
        Class::System if !asks(request) => return Err(Nothing::NotAsked),
        _ if !ways.tftp => return Err(Nothing::Off),
        Class::RaspberryPi => loader().unwrap_or_default().to_owned(),
        Class::Pxe | Class::Bootp | Class::System => loader()?.to_owned(),
    };
    if name.len() > NAME_BYTES_MAX { Err(Nothing::TooLong) } else { Ok(Boot { class, name }) }
}

/// Whether something that is no firmware we know wants a boot file.
fn asks(request: &Request<'_>) -> bool {
    request.message != Message::Bootp && request.asks_for(code::BOOT_FILE) && class::arch(request).is_some()
}

fn loader<'a>(request: &Request<'_>, class: Class, ways: &'a Ways) -> Option<&'a str> {
    let find = |name: &str| ways.loader.get(name).map(String::as_str);
    match class {
        Class::RaspberryPi => find(class::RASPBERRY_PI_NAME),
        // What says nothing is as old as BIOS.
        _ if request.archs().next().is_none() => find(class::arch_name(class::arch(request).unwrap_or(0))?),
        // The first of those that it can run.
        _ => request.archs().filter_map(class::arch_name).find_map(find),
    }
}

/// By HTTP where that is on, else by TFTP.
fn any_way(ways: &Ways, server: Ipv4Addr, name: &str) -> Result<String, Nothing> {
    url(ways, server, name).or_else(|| ways.tftp.then(|| name.to_owned())).ok_or(Nothing::Off)
}

fn url(ways: &Ways, server: Ipv4Addr, name: &str) -> Option<String> {
    let mut url = http::base(server, ways.http_port)? + "/";
    for byte in name.trim_start_matches('/').bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => url.push(byte as char),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(url)
}

impl Boot {
    /// The header's `file`.
    pub(crate) fn file(&self) -> Option<&str> {
        let fits = (1..=FILE_BYTES_MAX).contains(&self.name.len()) && self.class != Class::Http;
        fits.then_some(&self.name)
    }

    /// Option 67.
    pub(crate) fn option(&self) -> Option<Vec<u8>> {
        let mut name = self.name.clone().into_bytes();
        if self.class == Class::Pxe {
            name.push(0);
        }
        (!self.name.is_empty()).then_some(name)
    }

    /// Whether option 67 is there even if nobody asked for it: nothing else tells the name.
    pub(crate) fn needs_option(&self) -> bool {
        !self.name.is_empty() && self.file().is_none()
    }

    /// Option 60: whose answer this is. `alone`: no other server gives the addresses.
    pub(crate) fn vendor_class(&self, alone: bool) -> Option<&'static [u8]> {
        match self.class {
            Class::Pxe | Class::RaspberryPi => Some(class::PXE_CLIENT),
            Class::Http => Some(class::HTTP_CLIENT),
            // It knows a proxy's offer by it.
            Class::Ipxe if !alone => Some(class::PXE_CLIENT),
            Class::Ipxe | Class::Bootp | Class::System => None,
        }
    }

    /// Option 43.
    pub(crate) fn vendor_options(&self) -> Option<&'static [u8]> {
        match self.class {
            Class::Pxe => Some(&TAKE_THIS_FILE),
            Class::RaspberryPi => Some(RASPBERRY_PI_MENU),
            Class::Http | Class::Ipxe | Class::Bootp | Class::System => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::testing::Packet;
    use super::*;
    use crate::collect::boot::mac::Mac;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const PI: Mac = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn ways() -> Ways {
        let loader = crate::collect::boot::dhcp::config::Config::default().loader;
        Ways { tftp: true, http_port: 80, loader }
    }

    fn machine() -> Machine {
        Machine { kernel: Some("vmlinuz".into()), ..Machine::default() }
    }

    fn told(packet: Packet, machine: &Machine, ways: &Ways) -> Result<String, Nothing> {
        let bytes = packet.end();
        let request = Request::parse(&bytes).unwrap();
        choose(&request, Class::of(&request), machine, ways, SERVER).map(|boot| boot.name)
    }

    fn pxe(arch: u8) -> Packet {
        Packet::of(MAC, 1).option(60, b"PXEClient").option(93, &[0, arch])
    }

    #[test]
    fn each_is_told_what_it_can_load() {
        let file = Machine { boot: Way::File("grub x64.efi".into()), ..Machine::default() };
        let local = Machine { boot: Way::Local, ..machine() };
        let http = || Packet::of(MAC, 1).option(60, b"HTTPClient:Arch:00016").option(93, &[0, 16]);
        let ipxe = || pxe(0).option(77, b"iPXE");
        for (packet, machine, wanted) in [
            (pxe(0), &machine(), Ok("undionly.kpxe")),
            (pxe(7), &machine(), Ok("snponly.efi")),
            (pxe(9), &machine(), Ok("snponly.efi")),
            (pxe(11), &machine(), Ok("snponly-arm64.efi")),
            (pxe(27), &machine(), Err(Nothing::NoLoader)),
            (pxe(7), &file, Ok("grub x64.efi")),
            (pxe(7), &local, Err(Nothing::Local)),
            (pxe(7), &Machine::default(), Err(Nothing::Local)),
            (http(), &machine(), Ok("http://10.77.0.1/snponly.efi")),
            (http(), &file, Ok("http://10.77.0.1/grub%20x64.efi")),
            (ipxe(), &machine(), Ok("http://10.77.0.1/boot.ipxe")),
            (ipxe(), &file, Ok("http://10.77.0.1/grub%20x64.efi")),
            (Packet::of(MAC, 0), &machine(), Ok("undionly.kpxe")),
            (Packet::of(MAC, 1), &machine(), Err(Nothing::NotAsked)),
            (Packet::of(MAC, 1).option(93, &[0, 22]).option(55, &[67]), &machine(), Err(Nothing::NoLoader)),
            (Packet::of(MAC, 1).option(93, &[0, 7]).option(55, &[67]), &machine(), Ok("snponly.efi")),
            (Packet::of(PI, 1).option(60, b"PXEClient").option(93, &[0, 0]), &machine(), Ok("")),
        ] {
            assert_eq!(told(packet.clone(), machine, &ways()), wanted.map(str::to_owned), "{packet:?}");
        }
    }

    #[test]
    fn what_is_off_is_not_told() {
        let no_http = Ways { http_port: 0, ..ways() };
        let nothing = Ways { tftp: false, ..no_http.clone() };
        let port = Ways { http_port: 8080, ..ways() };
        let ipxe = || pxe(0).option(77, b"iPXE");
        assert_eq!(told(ipxe(), &machine(), &no_http).as_deref(), Ok("boot.ipxe"));
        assert_eq!(told(ipxe(), &machine(), &nothing), Err(Nothing::Off));
        assert_eq!(told(pxe(0), &machine(), &nothing), Err(Nothing::Off));
        assert_eq!(told(ipxe(), &machine(), &port).as_deref(), Ok("http://10.77.0.1:8080/boot.ipxe"));
        let long = Machine { boot: Way::File("x".repeat(255)), ..Machine::default() };
        assert_eq!(told(pxe(0), &long, &ways()), Err(Nothing::TooLong));
    }

    #[test]
    fn a_long_name_is_in_the_option_alone_and_roms_find_its_end() {
        let boot = |len, class| Boot { class, name: "x".repeat(len) };
        assert_eq!(boot(127, Class::Pxe).file().map(str::len), Some(127));
        assert_eq!(boot(128, Class::Pxe).file(), None);
        assert!(boot(128, Class::Pxe).needs_option() && !boot(127, Class::Pxe).needs_option());
        assert!(boot(9, Class::Http).needs_option());
        assert_eq!(boot(2, Class::Pxe).option().as_deref(), Some(b"xx\0".as_slice()));
        assert_eq!(boot(2, Class::Ipxe).option().as_deref(), Some(b"xx".as_slice()));
        assert_eq!(boot(0, Class::RaspberryPi).option(), None);
    }
}
