//! The system calls that no safe crate offers, each in a safe function.
//!
//! The only module of this crate with `unsafe`: every block calls into libc with
//! pointers to live, correctly sized locals and says so.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{SockAddr, SockAddrStorage};

/// Words of `SO_MEMINFO`, `enum { SK_MEMINFO_RMEM_ALLOC … SK_MEMINFO_VARS }` in linux/sock_diag.h.
const MEMINFO_WORDS: usize = 9;

/// How many packets the kernel has thrown away since `socket` was made, because its
/// receive buffer was full (or a checksum was wrong): `SO_MEMINFO[SK_MEMINFO_DROPS]`,
/// a 32-bit number that wraps.
pub(crate) fn dropped_packets(socket: impl AsFd) -> io::Result<u32> {
    let mut words = [0u32; MEMINFO_WORDS];
    let mut bytes = mem::size_of_val(&words) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so open; `words` is writable for `bytes` bytes, and the kernel writes
    // no more than that and any bit pattern is a u32; `bytes` is a live local.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    match result {
        0 => Ok(words[libc::SK_MEMINFO_DROPS as usize]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The first descriptor that systemd passes, `SD_LISTEN_FDS_START`.
const PASSED_FIRST: i32 = 3;

/// More than any unit passes; beyond it the number is no number.
const PASSED_MAX: i32 = 1024;

/// The sockets that systemd opened for this process (sd_listen_fds(3)), each with its `FileDescriptorName=`. They can be
/// taken once; after that, and where nothing was passed, there are none.
pub(crate) fn passed_sockets() -> Vec<(OwnedFd, String)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let ours = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS").filter(|count| (1..=PASSED_MAX).contains(count));
    let (true, Some(count)) = (ours, count) else { return Vec::new() };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for fd in PASSED_FIRST..PASSED_FIRST + count {
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: only looked at, and not kept: the kernel answers EBADF where it is not open, ENOTSOCK where it is
        // something else.
        let is_socket = rustix::net::sockopt::socket_type(unsafe { BorrowedFd::borrow_raw(fd) }).is_ok();
        if !is_socket {
            continue;
        }
        // SAFETY: the environment, which names this process, gives the open descriptors from 3 on to it; `TAKEN` lets
        // nobody else take them, and nothing else in this process knows their numbers.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
        sockets.push((socket, name));
    }
    sockets
}

/// Where a packet socket sends to or is bound to: a card's address on the link of an interface, and the Ethernet type of
/// what goes there.
pub(crate) fn link_address(interface: u32, ethernet_type: u16, card: [u8; 6]) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the platform's addresses, is no longer than the storage, and all zeros are one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ethernet_type.to_be();
    address.sll_ifindex = interface as libc::c_int;
    address.sll_halen = card.len() as u8;
    address.sll_addr[..card.len()].copy_from_slice(&card);
    // SAFETY: the storage holds what its family says, and that is as long.
    unsafe { SockAddr::new(storage, mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Lets an interface take in what is for others too, as long as the packet socket is open (`PACKET_ADD_MEMBERSHIP`).
pub(crate) fn hear_everything(socket: impl AsFd, interface: u32) -> io::Result<()> {
    let wanted = libc::packet_mreq {
        mr_ifindex: interface as libc::c_int,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the descriptor is borrowed, so open; `wanted` is a live local of the size that is given, and the kernel
    // only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const wanted).cast(),
            mem::size_of_val(&wanted) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_address_is_one_of_the_kernels() {
        let address = link_address(7, 0x0806, [1, 2, 3, 4, 5, 6]);
        assert_eq!((i32::from(address.family()), address.len()), (libc::AF_PACKET, 20));
        assert!(address.as_socket().is_none());
    }
}
