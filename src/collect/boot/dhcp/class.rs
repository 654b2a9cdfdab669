//! What sent a packet: firmware, iPXE, an operating system; and for which processor.

use super::wire::{Message, Request};
use crate::collect::boot::sessions::Stage;

/// Who asks, as far as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Firmware that speaks PXE: option 60 begins with `PXEClient`.
    Pxe,
    /// A Raspberry Pi's firmware. It says PXE on a BIOS PC (architecture 0); its card's address tells it apart.
    RaspberryPi,
    /// UEFI firmware that boots by HTTP: option 60 begins with `HTTPClient`.
    Http,
    /// iPXE: option 77 is `iPXE`, or it has option 175. In option 60 it says that it is PXE.
    Ipxe,
    /// A boot ROM of before DHCP.
    Bootp,
    /// Anything else, mostly an operating system.
    System,
}

impl Class {
    pub(crate) fn of(request: &Request<'_>) -> Class {
        let vendor = request.vendor_class().unwrap_or_default();
        if request.has_ipxe_options() || request.user_classes().iter().any(|class| matches!(*class, b"iPXE" | b"gPXE"))
        {
            Class::Ipxe
        } else if vendor.starts_with(HTTP_CLIENT) {
            Class::Http
        } else if vendor.starts_with(PXE_CLIENT) {
            let is_pc = arch(request).is_none_or(|arch| arch == 0 || arch == 41);
            let is_pi = is_pc && RASPBERRY_PI.contains(&[request.mac.0[0], request.mac.0[1], request.mac.0[2]]);
            if is_pi { Class::RaspberryPi } else { Class::Pxe }
        } else if request.message == Message::Bootp {
            Class::Bootp
        } else {
            Class::System
        }
    }

    /// Whether this is over when the machine has started: what comes next on the card is the same machine.
    pub(crate) fn is_booting(self) -> bool {
        self != Class::System
    }

    /// How far a machine is that sends this.
    pub(crate) fn stage(self) -> Stage {
        match self {
            Class::Pxe | Class::RaspberryPi | Class::Http | Class::Bootp => Stage::Firmware,
            Class::Ipxe => Stage::Ipxe,
            Class::System => Stage::System,
        }
    }
}

pub(crate) const PXE_CLIENT: &[u8] = b"PXEClient";
pub(crate) const HTTP_CLIENT: &[u8] = b"HTTPClient";

/// The first half of the addresses that the IEEE gave to Raspberry Pi.
const RASPBERRY_PI: [[u8; 3]; 7] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
    [0x88, 0xa2, 0x9e],
];

/// The processor architecture: option 93, or what option 60 says (`PXEClient:Arch:00007:…`).
pub(crate) fn arch(request: &Request<'_>) -> Option<u16> {
    request.archs().next().or_else(|| {
        let mut parts = request.vendor_class()?.split(|byte| *byte == b':');
        parts.find(|part| *part == b"Arch")?;
        std::str::from_utf8(parts.next()?).ok()?.parse().ok()
    })
}

/// The names of architectures in `boot.dhcp.loader` and in events; a `raspberrypi` is known by its card. Those that boot
/// by HTTP have the loader of those that boot by TFTP.
///
/// IANA's list, "Processor Architecture Types". 9 is "EBC" there, but RFC 4578 had it as x86-64, and that is what
/// firmware means by it.
const ARCHS: [(&[u16], &str); 24] = [
    (&[0, 20], "bios"),
    (&[1], "pc98"),
    (&[2], "itanium"),
    (&[3], "alpha"),
    (&[4], "arc_x86"),
    (&[5], "lean_client"),
    (&[6, 15], "uefi_x86"),
    (&[7, 9, 16, 17], "uefi_x64"),
    (&[8], "xscale"),
    (&[10, 18], "uefi_arm32"),
    (&[11, 19], "uefi_arm64"),
    (&[12], "powerpc_of"),
    (&[13], "powerpc_epapr"),
    (&[14], "power_opal"),
    (&[21, 23], "uboot_arm32"),
    (&[22, 24], "uboot_arm64"),
    (&[25, 26], "uefi_riscv32"),
    (&[27, 28], "uefi_riscv64"),
    (&[29, 30], "uefi_riscv128"),
    (&[31, 32], "s390"),
    (&[33, 34], "uefi_mips"),
    (&[35, 36], "sunway"),
    (&[37, 38], "uefi_loongarch32"),
    (&[39, 40], "uefi_loongarch64"),
];

pub(crate) const RASPBERRY_PI_NAME: &str = "raspberrypi";

/// The name of an architecture; `None` for numbers that nobody has given out.
pub(crate) fn arch_name(arch: u16) -> Option<&'static str> {
    if arch == 41 {
        return Some(RASPBERRY_PI_NAME);
    }
    ARCHS.iter().find(|(numbers, _)| numbers.contains(&arch)).map(|(_, name)| *name)
}

/// All names, for what a person may write.
pub(crate) fn arch_names() -> impl Iterator<Item = &'static str> {
    ARCHS.iter().map(|(_, name)| *name).chain([RASPBERRY_PI_NAME])
}

#[cfg(test)]
mod tests {
    use super::super::wire::testing::Packet;
    use super::*;
    use crate::collect::boot::mac::Mac;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const PI: Mac = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);

    #[test]
    fn each_is_known_by_what_it_says() {
        let pxe = |mac| Packet::of(mac, 1).option(60, b"PXEClient:Arch:00000:UNDI:002001");
        for (packet, class, arch_is) in [
            (pxe(MAC), Class::Pxe, Some("bios")),
            (pxe(MAC).option(93, &[0, 7]), Class::Pxe, Some("uefi_x64")),
            (pxe(PI), Class::RaspberryPi, Some("bios")),
            (pxe(PI).option(93, &[0, 11]), Class::Pxe, Some("uefi_arm64")),
            (pxe(MAC).option(77, b"iPXE"), Class::Ipxe, Some("bios")),
            (pxe(MAC).option(175, &[]), Class::Ipxe, Some("bios")),
            (Packet::of(MAC, 1).option(60, b"HTTPClient:Arch:00016:UNDI:003001"), Class::Http, Some("uefi_x64")),
            (Packet::of(MAC, 1).option(60, b"udhcp 1.35"), Class::System, None),
            (Packet::of(MAC, 1).option(93, &[0xff, 0xff]), Class::System, None),
            (Packet::of(MAC, 0), Class::Bootp, None),
        ] {
            let bytes = packet.end();
            let request = Request::parse(&bytes).unwrap();
            assert_eq!((Class::of(&request), arch(&request).and_then(arch_name)), (class, arch_is), "{bytes:?}");
        }
    }

    #[test]
    fn no_number_has_two_names() {
        let mut numbers: Vec<_> = ARCHS.iter().flat_map(|(numbers, _)| *numbers).collect();
        numbers.sort();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(numbers.len(), 41);
    }
}
