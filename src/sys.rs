//! The system calls that no safe crate offers, each in a safe function.
//!
//! The only module of this crate with `unsafe`: every block calls into libc with
//! pointers to live, correctly sized locals and says so.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

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
