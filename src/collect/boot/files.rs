//! What TFTP and HTTP give out: files below `boot.root`, and each machine's script.
//!
//! A name is taken apart before the kernel sees it ([`Name::of`], pure): bytes 0xFF and NUL at its end go (some ROMs
//! append them); a backslash is a slash (Windows' boot loaders ask for `\Boot\BCD`); slashes at the beginning and the end
//! and repeated ones say nothing, nor does a part that is `.`. A name with `..`, with a control character, with nothing
//! left or with more than [`NAME_BYTES_MAX`] bytes is refused. Upper and lower case are different.
//!
//! What is left is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)` (Linux 5.6): symbolic links that are
//! relative and stay below the root work, all others are refused by the kernel, also when somebody renames folders at
//! that moment. Only regular files are given out, and opening never waits (`O_NONBLOCK`: a fifo). The root is looked up
//! for each file, so it may be a link that is changed to another folder.
//!
//! Two names are made for each machine that asks: `boot.ipxe` and `autoexec.ipxe` (which iPXE asks for by itself) are its
//! script (see [`super::script`]).

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use greypit_pipeline::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

/// Of a name in a request.
pub const NAME_BYTES_MAX: usize = 512;

/// How often a lookup begins again because a folder on its way was renamed.
const RENAMED_MAX: u32 = 8;

/// The names that are a machine's script.
const SCRIPTS: [&[u8]; 2] = [b"boot.ipxe", b"autoexec.ipxe"];

/// A name that is fit to be looked up: relative, of plain parts, at most [`NAME_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(Vec<u8>);

/// The folder.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
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
pub enum Denied {
    /// No such file.
    Missing,
    /// A name that leads out of the root, or is none.
    Name,
    /// Not a regular file, or not ours to read.
    Unreadable,
}

impl Denied {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Denied::Missing => "no such file",
            Denied::Name => "not a name below boot.root",
            Denied::Unreadable => "not a readable regular file",
        }
    }
}

impl Name {
    /// Takes a name apart as the module's text says.
    ///
    /// # Errors
    /// [`Denied::Name`].
    pub fn of(raw: &[u8]) -> std::result::Result<Name, Denied> {
        let end = raw.iter().rposition(|byte| !matches!(byte, 0 | 0xff)).map_or(0, |last| last + 1);
        let raw = &raw[..end];
        if raw.len() > NAME_BYTES_MAX {
            return Err(Denied::Name);
        }
        let mut name = Vec::with_capacity(raw.len());
        for part in raw.split(|byte| matches!(byte, b'/' | b'\\')) {
            if part == b".." || part.iter().any(u8::is_ascii_control) {
                return Err(Denied::Name);
            }
            if part.is_empty() || part == b"." {
                continue;
            }
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(part);
        }
        if name.is_empty() { Err(Denied::Name) } else { Ok(Name(name)) }
    }

    /// What is looked up.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the machine's script.
    pub(crate) fn is_script(&self) -> bool {
        SCRIPTS.contains(&self.as_bytes())
    }

    /// Whether `text`, from a machine's files or the config, is this name.
    pub(crate) fn is(&self, text: &str) -> bool {
        Name::of(text.as_bytes()).is_ok_and(|other| other == *self)
    }

    /// What its ending says of the content.
    pub(crate) fn has_ending(&self, ending: &str) -> bool {
        let at = self.0.len().saturating_sub(ending.len());
        self.0[at..].eq_ignore_ascii_case(ending.as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0.escape_ascii())
    }
}

impl Root {
    /// Looks whether the folder is there, and whether the kernel can keep lookups in it.
    ///
    /// # Errors
    /// [`greypit_pipeline::Error::Config`] for `boot.root`.
    pub(crate) fn open(path: &Path) -> Result<Root> {
        let refuse = |problem: String| Error::Config { key: "boot.root".into(), problem };
        let root = Root { path: path.to_owned() };
        let folder = root.folder().map_err(|error| {
            refuse(format!("{}: {}; make the folder, or name another", path.display(), io::Error::from(error)))
        })?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(&folder, ".", flags, Mode::empty(), ResolveFlags::BENEATH) {
            Err(Errno::NOSYS) => {
                Err(refuse("this kernel has no openat2(2); Linux 5.6 is the first that has".to_owned()))
            }
            _ => Ok(root),
        }
    }

    fn folder(&self) -> rustix::io::Result<OwnedFd> {
        open(&self.path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens a file. May wait for the disk.
    ///
    /// # Errors
    /// Why there is none to give.
    pub(crate) fn find(&self, name: &Name) -> std::result::Result<(File, u64), Denied> {
        let folder = self.folder().map_err(denied)?;
        let path = OsStr::from_bytes(name.as_bytes());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        let file = loop {
            match openat2(&folder, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < RENAMED_MAX => tries += 1,
                opened => break opened.map_err(denied)?,
            }
        };
        let stat = fstat(&file).map_err(denied)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Denied::Unreadable);
        }
        Ok((file.into(), u64::try_from(stat.st_size).unwrap_or(0)))
    }
}

/// EXDEV and ELOOP are what the kernel says of a way out of the root.
fn denied(error: Errno) -> Denied {
    match error {
        Errno::NOENT | Errno::NOTDIR => Denied::Missing,
        Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG => Denied::Name,
        _ => Denied::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_name_is_plain_parts_or_refused() {
        let long = [b'x'; NAME_BYTES_MAX + 1];
        for (raw, wanted) in [
            (&b"pxelinux.0"[..], Some(&b"pxelinux.0"[..])),
            (b"pxelinux.0\xff", Some(b"pxelinux.0")),
            (b"pxelinux.0\xff\0\xff", Some(b"pxelinux.0")),
            (b"//a///b/./c/", Some(b"a/b/c")),
            (b"\\Boot\\BCD", Some(b"Boot/BCD")),
            (b"a\xffb", Some(b"a\xffb")),
            (b"...", Some(b"...")),
            (b"a..b", Some(b"a..b")),
            (&long[1..], Some(&long[1..])),
            (&long, None),
            (b"", None),
            (b"\xff\0", None),
            (b"/", None),
            (b"./.", None),
            (b"..", None),
            (b"a/../b", None),
            (b"..\\..\\etc\\shadow", None),
            (b"/etc/../../etc/shadow", None),
            (b"a\0b", None),
            (b"a\nb", None),
            (b"a\x7fb", None),
        ] {
            let name = Name::of(raw);
            assert_eq!(name.as_ref().ok().map(Name::as_bytes), wanted, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn names_of_scripts_and_of_machine_files() {
        let name = |text: &str| Name::of(text.as_bytes()).unwrap();
        assert!(name("//boot.ipxe").is_script() && name("autoexec.ipxe").is_script());
        assert!(!name("a/boot.ipxe").is_script() && !name("BOOT.IPXE").is_script());
        assert!(name("k/vmlinuz").is("/k//vmlinuz") && !name("k/vmlinuz").is("vmlinuz") && !name("k").is(""));
        assert!(name("a.EFI").has_ending(".efi") && !name("efi").has_ending(".efi"));
    }

    /// A folder `root` beside a `secret`.
    fn folder() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/kernel"), b"kernel").unwrap();
        std::fs::write(dir.path().join("secret"), b"secret").unwrap();
        let opened = Root::open(&root).unwrap();
        (dir, opened)
    }

    fn read(root: &Root, name: &str) -> std::result::Result<String, Denied> {
        let (mut file, size) = root.find(&Name::of(name.as_bytes())?)?;
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(size, text.len() as u64);
        Ok(text)
    }

    #[test]
    fn only_regular_files_below_the_root_are_given_out() {
        let (dir, root) = folder();
        let inside = |name: &str| dir.path().join("root").join(name);
        symlink("sub/kernel", inside("within")).unwrap();
        symlink("../root/sub/kernel", inside("out-and-in")).unwrap();
        symlink("../secret", inside("out")).unwrap();
        symlink(dir.path().join("secret"), inside("absolute")).unwrap();
        symlink("..", inside("parent")).unwrap();
        symlink("loop", inside("loop")).unwrap();
        symlink("/proc/self/root", inside("magic")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, inside("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = UnixListener::bind(inside("socket")).unwrap();

        assert_eq!(read(&root, "/sub//kernel").as_deref(), Ok("kernel"));
        assert_eq!(read(&root, "within").as_deref(), Ok("kernel"));
        for (name, why) in [
            ("out-and-in", Denied::Name),
            ("out", Denied::Name),
            ("absolute", Denied::Name),
            ("parent/secret", Denied::Name),
            ("loop", Denied::Name),
            ("magic/etc/passwd", Denied::Name),
            ("../secret", Denied::Name),
            ("fifo", Denied::Unreadable),
            ("socket", Denied::Unreadable),
            ("sub", Denied::Unreadable),
            ("nothing", Denied::Missing),
            ("sub/kernel/x", Denied::Missing),
            ("Sub/kernel", Denied::Missing),
        ] {
            assert_eq!(read(&root, name), Err(why), "{name}");
        }
    }

    #[test]
    fn a_root_that_is_a_link_may_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["1", "2"] {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("kernel"), version).unwrap();
        }
        let current = dir.path().join("current");
        symlink("1", &current).unwrap();
        let root = Root::open(&current).unwrap();
        assert_eq!(read(&root, "kernel").as_deref(), Ok("1"));
        symlink("2", dir.path().join("next")).unwrap();
        std::fs::rename(dir.path().join("next"), &current).unwrap();
        assert_eq!(read(&root, "kernel").as_deref(), Ok("2"));
        let error = Root::open(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("boot.root") && error.contains("none"), "{error}");
    }
}
