//! The log of leases: what makes an ACK true after a crash.
//!
//! ```text
//! <data_dir>/boot/leases
//! file    = "GREYLEA2" | salt u64 | crc32 u32 of those 16 bytes | frame+
//! frame   = "LEAS" | length u32 | crc32 u32 of salt, length and payload | payload
//! payload = moment | change*
//! moment  = lease time i64 | steady clock i64 | wall clock i64
//! change  = type u8 | address 4 bytes | …
//!   1 leased       until i64 | card 6 bytes | booting u8 | n u8 | client identifier, n bytes
//!   2 freed
//!   3 quarantined  until i64
//! ```
//! Integers are little-endian, times in seconds; `until` is of lease time ([`super::clock`]), which goes on from the last
//! moment when the file is read. The last change of an address holds. One [`Log::append`] is one frame and one
//! `fdatasync`: when it returns, its changes survive a crash, and until then no answer that rests on them may go out.
//!
//! A crash can tear only the last frame, whose answers never went out; opening the file cuts it off. A frame that cannot
//! be read with another behind it is damage: those leases were acknowledged, so that is an error, and a person decides.
//! The salt is new for each file, so that no client can put a frame into its identifier.
//!
//! A file that has grown to several times what is in force is written anew: `leases.new`, `fdatasync`, rename, `fsync` of
//! the folder. The same after a failed write, as nobody knows what of it is on the disk.
//!
//! "GREYLEA1", which earlier versions wrote, has no moments, and its times are the wall clock's: lease time begins with it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use greypit_pipeline::{Error, Result};
use jiff::Timestamp;

use super::clock::{Clock, Moment, Reading};
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

const MAGIC: &[u8; 8] = b"GREYLEA2";
/// Of a file whose frames have no moment.
const MAGIC_1: &[u8; 8] = b"GREYLEA1";
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
    /// Of lease time.
    pub(crate) until_s: i64,
}

/// What must be on disk before the answer goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Leased(Lease),
    /// Given back.
    Freed(Ipv4Addr),
    /// Somebody else uses it: left alone until then, of lease time.
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

fn encode_moment(moment: &Moment, out: &mut Vec<u8>) {
    let Moment { wall, steady_s, lease_s } = moment;
    [*lease_s, *steady_s, wall.as_second()].iter().for_each(|time| out.extend_from_slice(&time.to_le_bytes()));
}

/// The moment at the start of `bytes`, and what is behind it.
fn decode_moment(bytes: &[u8]) -> Option<(Moment, &[u8])> {
    let (lease, rest) = bytes.split_first_chunk()?;
    let (steady, rest) = rest.split_first_chunk()?;
    let (wall, rest) = rest.split_first_chunk()?;
    let wall = Timestamp::from_second(i64::from_le_bytes(*wall)).ok()?;
    Some((Moment { wall, steady_s: i64::from_le_bytes(*steady), lease_s: i64::from_le_bytes(*lease) }, rest))
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
    /// What was written last, or was to be.
    moment: Moment,
    buffer: Vec<u8>,
    /// What a crash of the machine leaves at least.
    #[cfg(test)]
    pub(super) synced_bytes: u64,
}

impl Log {
    /// Reads what is there; makes the folder and the file where there is none. The changes are one an address, no
    /// [`Change::Freed`], those that have ended too; the clock is the one that they end by.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] where leases cannot be read that were acknowledged, with what to do.
    pub(crate) fn open(dir: &Path, now: Reading) -> Result<(Log, Vec<Change>, Clock)> {
        fs::create_dir_all(dir).map_err(|source| io_error("make", dir, source))?;
        let path = dir.join("leases");
        let bytes = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(io_error("read", &path, source)),
        };
        let content = match &bytes {
            Some(bytes) => read(bytes).map_err(|what| Error::Damaged { path: path.clone(), what })?,
            None => Content::default(),
        };
        let clock = Clock::resume(content.moment.as_ref(), now);
        let mut log = Log {
            dir: dir.to_owned(),
            file: None,
            salt: 0,
            bytes: 0,
            bytes_anew: 0,
            state: content.state,
            moment: clock.at(now),
            buffer: Vec::new(),
            #[cfg(test)]
            synced_bytes: 0,
        };
        // A torn end goes, and what was read is on the disk for certain.
        log.rewrite().map_err(|source| io_error("write", &path, source))?;
        let changes = log.state.values().cloned().collect();
        Ok((log, changes, clock))
    }

    /// Makes `changes` durable, all of them or (on an error) maybe none; they are on disk when it returns. After an error
    /// the next call begins a new file, so one failed write does not spoil what follows. Without changes it writes where
    /// the wall clock was set, which is to be known before the machine is started anew.
    ///
    /// # Errors
    /// The disk's. Answers that belong to these changes must not go out.
    pub(crate) fn append(&mut self, changes: &[Change], now: Moment) -> io::Result<()> {
        if changes.is_empty() && self.file.is_some() && !now.is_stepped_since(&self.moment) {
            return Ok(());
        }
        self.moment = now;
        if self.file.is_none() || self.bytes > REWRITE_BYTES_MIN.max(self.bytes_anew * REWRITE_FACTOR) {
            self.rewrite()?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        encode_frame(self.salt, &now, changes, &mut buffer);
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
        let mut bytes = header(MAGIC, self.salt).to_vec();
        // Without changes too there is a moment.
        encode_frame(self.salt, &self.moment, &[], &mut bytes);
        let state: Vec<_> = self.state.values().cloned().collect();
        for changes in state.chunks(FRAME_CHANGES) {
            encode_frame(self.salt, &self.moment, changes, &mut bytes);
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

fn header(magic: &[u8; 8], salt: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(magic);
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

fn encode_frame(salt: u64, moment: &Moment, changes: &[Change], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    encode_moment(moment, out);
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

/// What a file says.
#[derive(Debug, Default)]
struct Content {
    state: InForce,
    /// The last one; none in a file of the first version.
    moment: Option<Moment>,
}

/// Reads a whole file.
fn read(bytes: &[u8]) -> std::result::Result<Content, String> {
    let damaged = |at: usize, what: &str| {
        format!(
            "{what} at byte {at}: leases that were acknowledged cannot be read; restore the file from a backup, or remove \
             it: then no lease is known, and an address may be given out that a machine still has, until the last of the \
             old leases has ended"
        )
    };
    let salt = bytes.get(8..16).and_then(|salt| salt.try_into().ok()).map(u64::from_le_bytes);
    let is_of = |magic| salt.is_some_and(|salt| bytes.starts_with(&header(magic, salt)));
    let has_moments = is_of(MAGIC);
    let salt = salt.filter(|_| has_moments || is_of(MAGIC_1)).ok_or_else(|| damaged(0, "no header"))?;
    let mut content = Content::default();
    let mut rest = &bytes[HEADER_BYTES..];
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let Some((mut payload, behind)) = frame(salt, rest) else {
            let is_torn = memchr::memmem::find_iter(&rest[1..], FRAME_MAGIC)
                .all(|offset| frame(salt, &rest[1 + offset..]).is_none());
            if !is_torn {
                return Err(damaged(at, "a damaged frame"));
            }
            break;
        };
        if has_moments {
            let (moment, more) = decode_moment(payload).ok_or_else(|| damaged(at, "a frame of another version"))?;
            content.moment = Some(moment);
            payload = more;
        }
        while !payload.is_empty() {
            let (change, more) = Change::decode(payload).ok_or_else(|| damaged(at, "a frame of another version"))?;
            apply(&mut content.state, &change);
            payload = more;
        }
        rest = behind;
    }
    // The first frame is as old as the file's name, so no crash has torn it.
    if has_moments && content.moment.is_none() {
        return Err(damaged(HEADER_BYTES, "no whole frame"));
    }
    Ok(content)
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

    fn reading(wall_s: i64, steady_s: i64) -> Reading {
        Reading { wall: Timestamp::from_second(wall_s).unwrap(), steady_s }
    }

    const WALL_S: i64 = 1_700_000_000;

    /// Without time that passes.
    fn opened(dir: &Path) -> (Log, Vec<Change>, Moment) {
        let now = reading(WALL_S, 1000);
        let (log, changes, clock) = Log::open(dir, now).unwrap();
        (log, changes, clock.at(now))
    }

    fn reopened(dir: &Path) -> Vec<Change> {
        opened(dir).1
    }

    /// As earlier versions wrote it.
    fn first_version(changes: &[Change]) -> Vec<u8> {
        let mut file = header(MAGIC_1, 7).to_vec();
        for change in changes {
            let mut payload = Vec::new();
            change.encode(&mut payload);
            file.extend_from_slice(FRAME_MAGIC);
            file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            file.extend_from_slice(&checksum(7, &payload).to_le_bytes());
            file.extend_from_slice(&payload);
        }
        file
    }

    #[test]
    fn what_was_appended_is_there_again_and_the_last_word_holds() {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("boot");
        let (mut log, changes, now) = opened(dir);
        assert!(changes.is_empty());
        log.append(&[lease(1, b""), lease(2, &[7; 255])], now).unwrap();
        log.append(&[lease(3, b"x"), Change::Freed(ip(1)), Change::Quarantined(ip(4), -1)], now).unwrap();
        let wanted = [lease(2, &[7; 255]), lease(3, b"x"), Change::Quarantined(ip(4), -1)];
        assert_eq!(reopened(dir), wanted);
        assert_eq!(reopened(dir), wanted);
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (mut log, _, now) = opened(dir.path());
        log.append(&[lease(1, b"")], now).unwrap();
        let whole = log.bytes as usize;
        log.append(&[lease(2, b"abc"), lease(3, b"")], now).unwrap();
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
        let (mut log, _, now) = opened(dir.path());
        log.append(&[lease(1, b"")], now).unwrap();
        let end = log.bytes as usize;
        log.append(&[lease(2, b"")], now).unwrap();
        let bytes = fs::read(&path).unwrap();
        for at in 0..end {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let error = Log::open(dir.path(), reading(WALL_S, 1000)).unwrap_err().to_string();
            assert!(error.contains("remove it") && error.contains("leases"), "byte {at}: {error}");
        }
        fs::write(&path, b"").unwrap();
        assert!(Log::open(dir.path(), reading(WALL_S, 1000)).is_err(), "a file is never made empty");
    }

    #[test]
    fn lease_time_goes_on_whatever_was_done_to_the_wall_clock() {
        let dir = tempfile::tempdir().unwrap();
        let lease_s = |wall_s: i64, steady_s: i64| {
            let now = reading(wall_s, steady_s);
            Log::open(dir.path(), now).unwrap().2.at(now).lease_s
        };
        assert_eq!(lease_s(WALL_S, 1000), WALL_S);
        assert_eq!(lease_s(WALL_S + 1_000_000, 1100), WALL_S + 100, "set forward");
        assert_eq!(lease_s(WALL_S, 1200), WALL_S + 100, "set back while greypit was not there");
        assert_eq!(lease_s(WALL_S + 100, 1300), WALL_S + 200);
        // The machine starts anew, 160 s later by its wall clock, the last minute of which is a doubt.
        assert_eq!(lease_s(WALL_S + 260, 20), WALL_S + 300);
        assert_eq!(lease_s(0, 10), WALL_S + 300, "without its battery");
    }

    #[test]
    fn that_the_wall_clock_was_set_is_written_without_a_lease() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _, _) = opened(dir.path());
        let clock = Clock::resume(None, reading(WALL_S, 1000));
        let bytes = log.bytes;
        log.append(&[], clock.at(reading(WALL_S + 61, 1060))).unwrap();
        assert_eq!(log.bytes, bytes, "it was not set");
        let now = clock.at(reading(WALL_S + 1_000_000, 1060));
        log.append(&[], now).unwrap();
        assert!(log.bytes > bytes && log.synced_bytes == log.bytes);
        let bytes = log.bytes;
        log.append(&[], now).unwrap();
        assert_eq!(log.bytes, bytes, "once is enough");
        // What it was set by is not how long the machine was off.
        let started = reading(WALL_S + 1_000_000 + 120, 20);
        let (_, _, clock) = Log::open(dir.path(), started).unwrap();
        assert_eq!(clock.at(started).lease_s, WALL_S + 60 + 60);
    }

    #[test]
    fn a_file_of_the_first_version_is_read_and_its_times_are_the_wall_clocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let changes = [lease(1, b""), lease(2, b"id"), Change::Freed(ip(1)), Change::Quarantined(ip(3), WALL_S + 60)];
        let wanted = [lease(2, b"id"), Change::Quarantined(ip(3), WALL_S + 60)];
        let bytes = first_version(&changes);
        fs::write(&path, &bytes).unwrap();
        let (_, read, now) = opened(dir.path());
        assert_eq!((&read[..], now.lease_s), (&wanted[..], WALL_S));
        // By now it is of this version, and has a moment.
        let now = reading(WALL_S + 1_000_000, 1010);
        let (_, read, clock) = Log::open(dir.path(), now).unwrap();
        assert_eq!((&read[..], clock.at(now).lease_s), (&wanted[..], WALL_S + 10));

        // Without leases, with a torn end and with damage.
        fs::write(&path, &bytes[..HEADER_BYTES]).unwrap();
        assert_eq!(reopened(dir.path()), []);
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(reopened(dir.path()), [lease(2, b"id")]);
        let mut damaged = bytes.clone();
        damaged[HEADER_BYTES + FRAME_HEADER_BYTES] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(Log::open(dir.path(), reading(WALL_S, 1000)).is_err());
    }

    #[test]
    fn a_file_without_a_moment_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        opened(dir.path());
        let bytes = fs::read(&path).unwrap();
        let mut wrong = bytes.clone();
        wrong[HEADER_BYTES + FRAME_HEADER_BYTES] ^= 1;
        for bytes in [&bytes[..HEADER_BYTES], &bytes[..bytes.len() - 1], &wrong] {
            fs::write(&path, bytes).unwrap();
            let error = Log::open(dir.path(), reading(WALL_S, 1000)).unwrap_err().to_string();
            assert!(error.contains("no whole frame"), "{error}");
        }
    }

    #[test]
    fn a_client_cannot_put_a_frame_into_its_identifier() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (mut log, _, now) = opened(dir.path());
        let mut frame = Vec::new();
        encode_frame(0, &now, &[Change::Freed(ip(1))], &mut frame);
        log.append(&[lease(1, &frame)], now).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(reopened(dir.path()), []);
    }

    #[test]
    fn it_stays_small_and_what_a_crash_left_half_written_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let (mut log, _, now) = opened(dir.path());
        let many: Vec<_> = (0..200).map(|last| lease(last, &[1; 100])).collect();
        for _ in 0..60 {
            log.append(&many, now).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= REWRITE_BYTES_MIN + (200 * 200));
        fs::write(dir.path().join("leases.new"), b"GREYL").unwrap();
        assert_eq!(reopened(dir.path()), many);
        assert!(!dir.path().join("leases.new").exists());
    }

    #[test]
    fn after_a_failed_write_a_new_file_begins() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _, now) = opened(dir.path());
        log.append(&[lease(1, b"")], now).unwrap();
        // A descriptor that cannot be written.
        log.fail_next();
        assert!(log.append(&[lease(2, b"")], now).is_err());
        log.append(&[lease(3, b"")], now).unwrap();
        assert_eq!(reopened(dir.path()), [lease(1, b""), lease(3, b"")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), salt in 0..2_u64) {
            let _ = read(&bytes);
            for magic in [MAGIC, MAGIC_1] {
                let mut file = header(magic, salt).to_vec();
                file.extend_from_slice(&bytes);
                let _ = read(&file);
                // Behind a right checksum too.
                let mut file = header(magic, salt).to_vec();
                file.extend_from_slice(FRAME_MAGIC);
                file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                file.extend_from_slice(&checksum(salt, &bytes).to_le_bytes());
                file.extend_from_slice(&bytes);
                if let Ok(Content { moment: Some(moment), .. }) = read(&file) {
                    let _ = Clock::resume(Some(&moment), reading(WALL_S, 20)).at(reading(WALL_S, 30));
                }
            }
        }
    }
}
