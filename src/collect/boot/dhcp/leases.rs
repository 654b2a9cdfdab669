//! The log of leases: what makes an ACK true after a crash.
//!
//! ```text
//! <data_dir>/boot/leases
//! file    = "GREYLEA1" | salt u64 | crc32 u32 of those 16 bytes | frame*
//! frame   = "LEAS" | length u32 | crc32 u32 of salt, length and payload | payload
//! payload = change*
//! change  = type u8 | address 4 bytes | …
//!   1 leased       until i64 | card 6 bytes | booting u8 | n u8 | client identifier, n bytes
//!   2 freed
//!   3 quarantined  until i64
//! ```
//! Integers are little-endian, times in seconds since 1970. The last change of an address holds. One [`Log::append`] is
//! one frame and one `fdatasync`: when it returns, its changes survive a crash, and until then no answer that rests on
//! them may go out.
//!
//! A crash can tear only the last frame, whose answers never went out; opening the file cuts it off. A frame that cannot
//! be read with another behind it is damage: those leases were acknowledged, so that is an error, and a person decides.
//! The salt is new for each file, so that no client can put a frame into its identifier.
//!
//! A file that has grown to several times what is in force is written anew: `leases.new`, `fdatasync`, rename, `fsync` of
//! the folder. The same after a failed write, as nobody knows what of it is on the disk.
//!
//! Times are the wall clock's: they must outlive this process. A clock that is set forward ends leases early.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use greypit_pipeline::{Error, Result};

use crate::collect::boot::mac::Mac;

/// Of an identifier that is kept.
pub(crate) const ID_BYTES_MAX: usize = 255;

/// A file below it is not written anew.
const REWRITE_BYTES_MIN: u64 = 1 << 20;
/// How many times larger than what is in force the file may be.
const REWRITE_FACTOR: u64 = 4;

/// Beyond it a frame is damage.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// How many changes are in a frame of a file that is written anew.
const FRAME_CHANGES: usize = 4096;

const MAGIC: &[u8; 8] = b"GREYLEA1";
const HEADER_BYTES: usize = 20;
const FRAME_MAGIC: &[u8; 4] = b"LEAS";
const FRAME_HEADER_BYTES: usize = 12;

const LEASED: u8 = 1;
const FREED: u8 = 2;
const QUARANTINED: u8 = 3;

/// Who has an address, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ip: Ipv4Addr,
    pub(crate) mac: Mac,
    /// Option 61, where it says more than the card's address; empty where it does not. At most [`ID_BYTES_MAX`].
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

impl Change {
    fn ip(&self) -> Ipv4Addr {
        match self {
            Change::Leased(lease) => lease.ip,
            Change::Freed(ip) | Change::Quarantined(ip, _) => *ip,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Change::Leased(lease) => {
                let id = &lease.id[..lease.id.len().min(ID_BYTES_MAX)];
                out.push(LEASED);
                out.extend_from_slice(&lease.ip.octets());
                out.extend_from_slice(&lease.until_s.to_le_bytes());
                out.extend_from_slice(&lease.mac.0);
                out.extend_from_slice(&[lease.booting.into(), id.len() as u8]);
                out.extend_from_slice(id);
            }
            Change::Freed(ip) => {
                out.push(FREED);
                out.extend_from_slice(&ip.octets());
            }
            Change::Quarantined(ip, until_s) => {
                out.push(QUARANTINED);
                out.extend_from_slice(&ip.octets());
                out.extend_from_slice(&until_s.to_le_bytes());
            }
        }
    }

    /// The change at the start of `bytes`, and what is behind it.
    fn decode(bytes: &[u8]) -> Option<(Change, &[u8])> {
        let ([kind, ip @ ..], rest) = bytes.split_first_chunk::<5>()?;
        let ip = Ipv4Addr::from(*ip);
        if *kind == FREED {
            return Some((Change::Freed(ip), rest));
        }
        let (until, rest) = rest.split_first_chunk()?;
        let until_s = i64::from_le_bytes(*until);
        match *kind {
            QUARANTINED => Some((Change::Quarantined(ip, until_s), rest)),
            LEASED => {
                let (mac, rest) = rest.split_first_chunk()?;
                let ([booting, len], rest) = rest.split_first_chunk()?;
                let (id, rest) = rest.split_at_checked(*len as usize)?;
                let lease = Lease { ip, mac: Mac(*mac), id: id.into(), booting: *booting != 0, until_s };
                Some((Change::Leased(lease), rest))
            }
            _ => None,
        }
    }
}

/// What is in force, by address; no [`Change::Freed`].
type InForce = BTreeMap<Ipv4Addr, Change>;

fn apply(state: &mut InForce, change: &Change) {
    match change {
        Change::Freed(ip) => drop(state.remove(ip)),
        change => drop(state.insert(change.ip(), change.clone())),
    }
}

/// The file `<data_dir>/boot/leases`.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    /// None after a failed write.
    file: Option<File>,
    salt: u64,
    /// The file's length.
    bytes: u64,
    /// Its length when it was written anew.
    bytes_anew: u64,
    state: InForce,
    buffer: Vec<u8>,
    /// What a crash of the machine leaves at least.
    #[cfg(test)]
    pub(super) synced_bytes: u64,
}

impl Log {
    /// Reads what is there; makes the folder and the file where there is none. The changes are one an address, no
    /// [`Change::Freed`], those that have ended too.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] where leases cannot be read that were acknowledged, with what to do.
    pub(crate) fn open(dir: &Path) -> Result<(Log, Vec<Change>)> {
        fs::create_dir_all(dir).map_err(|source| io_error("make", dir, source))?;
        let path = dir.join("leases");
        let bytes = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let mut log = Log {
            dir: dir.to_owned(),
            file: None,
            salt: 0,
            bytes: 0,
            bytes_anew: 0,
            state: InForce::new(),
            buffer: Vec::new(),
            #[cfg(test)]
            synced_bytes: 0,
        };
        if let Some(bytes) = bytes {
            log.salt = read(&bytes, &mut log.state).map_err(|what| Error::Damaged { path: path.clone(), what })?;
        }
        // A torn end goes, and what was read is on the disk for certain.
        log.rewrite().map_err(|source| io_error("write", &path, source))?;
        let changes = log.state.values().cloned().collect();
        Ok((log, changes))
    }

    /// Makes `changes` durable, all of them or (on an error) maybe none; they are on disk when it returns. After an error
    /// the next call begins a new file, so one failed write does not spoil what follows.
    ///
    /// # Errors
    /// The disk's. Answers that belong to these changes must not go out.
    pub(crate) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if self.file.is_none() || self.bytes > REWRITE_BYTES_MIN.max(self.bytes_anew * REWRITE_FACTOR) {
            self.rewrite()?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        encode_frame(self.salt, changes, &mut buffer);
        let written = self.write(&buffer);
        self.buffer = buffer;
        if written.is_err() {
            self.file = None;
            return written;
        }
        changes.iter().for_each(|change| apply(&mut self.state, change));
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(frame)?;
        self.bytes += frame.len() as u64;
        self.sync()
    }

    fn sync(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.sync_data()?;
        #[cfg(test)]
        {
            self.synced_bytes = self.bytes;
        }
        Ok(())
    }

    /// A new file with what is in force. Until the rename the old one holds.
    fn rewrite(&mut self) -> io::Result<()> {
        self.file = None;
        let mut salt = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut salt)?;
        self.salt = u64::from_le_bytes(salt);
        let mut bytes = header(self.salt).to_vec();
        let state: Vec<_> = self.state.values().cloned().collect();
        for changes in state.chunks(FRAME_CHANGES) {
            encode_frame(self.salt, changes, &mut bytes);
        }
        let new = self.dir.join("leases.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&new, self.dir.join("leases"))?;
        File::open(&self.dir)?.sync_all()?;
        self.bytes = bytes.len() as u64;
        self.bytes_anew = self.bytes;
        self.file = Some(file);
        self.sync()
    }
}

#[cfg(test)]
impl Log {
    /// The next write is one that the disk does not take.
    pub(super) fn fail_next(&mut self) {
        self.file = File::open(self.dir.join("leases")).ok();
    }
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { operation, path: path.to_owned(), source }
}

fn header(salt: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn checksum(salt: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn encode_frame(salt: u64, changes: &[Change], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    changes.iter().for_each(|change| change.encode(out));
    let (header, payload) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    header[..4].copy_from_slice(FRAME_MAGIC);
    header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[8..].copy_from_slice(&checksum(salt, payload).to_le_bytes());
}

/// The payload of the frame at the start of `bytes`, and what is behind it.
fn frame(salt: u64, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let [magic @ .., l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    if magic != FRAME_MAGIC || len > FRAME_BYTES_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len)?;
    (checksum(salt, payload) == u32::from_le_bytes([*c0, *c1, *c2, *c3])).then_some((payload, rest))
}

/// Reads a whole file into `state`; gives its salt.
fn read(bytes: &[u8], state: &mut InForce) -> std::result::Result<u64, String> {
    let damaged = |at: usize, what: &str| {
        format!(
            "{what} at byte {at}: leases that were acknowledged cannot be read; restore the file from a backup, or remove \
             it: then no lease is known, and an address may be given out that a machine still has, until the last of the \
             old leases has ended"
        )
    };
    let salt = bytes.get(8..16).and_then(|salt| salt.try_into().ok()).map(u64::from_le_bytes);
    let salt = salt.filter(|salt| bytes.starts_with(&header(*salt))).ok_or_else(|| damaged(0, "no header"))?;
    let mut rest = &bytes[HEADER_BYTES..];
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let Some((mut payload, behind)) = frame(salt, rest) else {
            let is_torn = memchr::memmem::find_iter(&rest[1..], FRAME_MAGIC)
                .all(|offset| frame(salt, &rest[1 + offset..]).is_none());
            return if is_torn { Ok(salt) } else { Err(damaged(at, "a damaged frame")) };
        };
        while !payload.is_empty() {
            let (change, more) = Change::decode(payload).ok_or_else(|| damaged(at, "a frame of another version"))?;
            apply(state, &change);
            payload = more;
        }
        rest = behind;
    }
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(last: u8, id: &[u8]) -> Change {
        Change::Leased(Lease {
            ip: Ipv4Addr::new(10, 0, 0, last),
            mac: Mac([2, 0, 0, 0, 0, last]),
            id: id.into(),
            booting: last.is_multiple_of(2),
            until_s: 1_700_000_000 + i64::from(last),
        })
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn reopened(dir: &Path) -> Vec<Change> {
        Log::open(dir).unwrap().1
    }

    #[test]
    fn what_was_appended_is_there_again_and_the_last_word_holds() {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("boot");
        let (mut log, changes) = Log::open(dir).unwrap();
        assert!(changes.is_empty());
        log.append(&[lease(1, b""), lease(2, &[7; 255])]).unwrap();
        log.append(&[lease(3, b"x"), Change::Freed(ip(1)), Change::Quarantined(ip(4), -1)]).unwrap();
        let wanted = [lease(2, &[7; 255]), lease(3, b"x"), Change::Quarantined(ip(4), -1)];
        assert_eq!(reopened(dir), wanted);
        assert_eq!(reopened(dir), wanted);
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(&[lease(1, b"")]).unwrap();
        let whole = log.bytes as usize;
        log.append(&[lease(2, b"abc"), lease(3, b"")]).unwrap();
        let bytes = fs::read(&path).unwrap();
        for len in whole..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(reopened(dir.path()), [lease(1, b"")], "cut at {len}");
            // Pages reach the disk in any order: the end may be there and the beginning zeros.
            let holed = [&bytes[..whole], &vec![0; len - whole], &bytes[len..]].concat();
            fs::write(&path, holed).unwrap();
            let wanted: &[_] =
                if len == whole { &[lease(1, b""), lease(2, b"abc"), lease(3, b"")] } else { &[lease(1, b"")] };
            assert_eq!(reopened(dir.path()), wanted, "zeros up to {len}");
        }
    }

    #[test]
    fn damage_before_the_end_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(&[lease(1, b"")]).unwrap();
        let end = log.bytes as usize;
        log.append(&[lease(2, b"")]).unwrap();
        let bytes = fs::read(&path).unwrap();
        for at in 0..end {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let error = Log::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("remove it") && error.contains("leases"), "byte {at}: {error}");
        }
        fs::write(&path, b"").unwrap();
        assert!(Log::open(dir.path()).is_err(), "a file is never made empty");
    }

    #[test]
    fn a_client_cannot_put_a_frame_into_its_identifier() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut frame = Vec::new();
        encode_frame(0, &[Change::Freed(ip(1))], &mut frame);
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(&[lease(1, &frame)]).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(reopened(dir.path()), []);
    }

    #[test]
    fn it_stays_small_and_what_a_crash_left_half_written_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (mut log, _) = Log::open(dir.path()).unwrap();
        let many: Vec<_> = (0..200).map(|last| lease(last, &[1; 100])).collect();
        for _ in 0..60 {
            log.append(&many).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= REWRITE_BYTES_MIN + (200 * 200));
        fs::write(dir.path().join("leases.new"), b"GREYL").unwrap();
        assert_eq!(reopened(dir.path()), many);
        assert!(!dir.path().join("leases.new").exists());
    }

    #[test]
    fn after_a_failed_write_a_new_file_begins() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path()).unwrap();
        log.append(&[lease(1, b"")]).unwrap();
        // A descriptor that cannot be written.
        log.fail_next();
        assert!(log.append(&[lease(2, b"")]).is_err());
        log.append(&[lease(3, b"")]).unwrap();
        assert_eq!(reopened(dir.path()), [lease(1, b""), lease(3, b"")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), salt in 0..2_u64) {
            let mut state = InForce::new();
            let _ = read(&bytes, &mut state);
            let mut file = header(salt).to_vec();
            file.extend_from_slice(&bytes);
            let _ = read(&file, &mut state);
            // Behind a right checksum too.
            let mut file = header(salt).to_vec();
            file.extend_from_slice(FRAME_MAGIC);
            file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            file.extend_from_slice(&checksum(salt, &bytes).to_le_bytes());
            file.extend_from_slice(&bytes);
            let _ = read(&file, &mut state);
        }
    }
}
