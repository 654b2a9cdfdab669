//! What goes over a [`Wire`]: tcpdump writes it to a file, from which the UDP
//! datagrams are read.

use super::netns::Wire;
use super::{Folder, Process, boot, wait_for};
use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::time::Duration;

/// A running capture of all UDP over IPv4.
#[derive(Debug)]
pub(crate) struct Capture {
    process: Process,
    folder: Folder,
}

/// A datagram that was seen.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    /// Since 1970.
    pub(crate) at: Duration,
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) payload: Vec<u8>,
}

impl Capture {
    /// Sees everything from its return on.
    pub(crate) fn start(wire: &Wire) -> Self {
        let folder = Folder::new("capture");
        let (host, interface) = wire.tapped();
        let mut command = host.command(boot("usr/bin/tcpdump"));
        command.args(["-Z", "root", "--immediate-mode", "-U", "-s", "0", "-i", interface, "-w"]);
        command.arg(folder.join("packets")).arg("ip and udp");
        let errors = folder.join("errors");
        command.stderr(File::create(&errors).expect("a file of ours"));
        let mut process = Process::spawn("tcpdump", &mut command);
        wait_for("tcpdump to listen", || {
            process.assert_alive();
            fs::read_to_string(&errors).ok()?.contains("listening on").then_some(())
        });
        Self { process, folder }
    }

    /// What was seen so far, unfragmented.
    pub(crate) fn datagrams(&self) -> Vec<Datagram> {
        let file = fs::read(self.folder.join("packets")).unwrap_or_default();
        frames(&file).filter_map(|(at, frame)| datagram(at, frame)).collect()
    }

    /// The same, after waiting for the last one.
    pub(crate) fn finish(mut self) -> Vec<Datagram> {
        // It reads out what the kernel holds for it.
        self.process.terminate();
        self.datagrams()
    }
}

/// The whole frames of a file in libpcap's format, written on this machine: a
/// header of 24 octets, then per frame its seconds, microseconds, octets here
/// and octets on the wire, and the frame.
fn frames(file: &[u8]) -> impl Iterator<Item = (Duration, &[u8])> {
    let mut rest = file.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (header, behind) = rest.split_first_chunk::<16>()?;
        let number = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (frame, next) = behind.split_at_checked(number(8) as usize)?;
        rest = next;
        Some((Duration::new(u64::from(number(0)), number(4) * 1000), frame))
    })
}

/// Of an Ethernet frame with a whole IPv4 packet that is UDP.
fn datagram(at: Duration, frame: &[u8]) -> Option<Datagram> {
    const ETHERNET: usize = 14;
    const IPV4: [u8; 2] = [8, 0];
    const UDP: u8 = 17;
    let packet = frame.get(ETHERNET..).filter(|_| frame[12..14] == IPV4)?;
    let header = usize::from(packet.first()? & 0xf) * 4;
    // More fragments, or an offset.
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff != 0;
    let udp = packet.get(header..).filter(|udp| udp.len() >= 8 && packet[9] == UDP && !fragment)?;
    let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).expect("four octets");
    Some(Datagram {
        at,
        from: SocketAddrV4::new(address(12).into(), word(0)),
        to: SocketAddrV4::new(address(16).into(), word(2)),
        payload: udp.get(8..usize::from(word(4)))?.to_vec(),
    })
}
