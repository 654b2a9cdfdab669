//! Recovery of a spool folder. The first byte says what is in it: a good spool with edits (flipped bytes, cuts,
//! holes of zeros), any bytes, or any payloads in frames whose checksum is right. It never panics and always ends, and
//! recovering again finds the same. After edits nothing comes out that was not written, nor anything that the ledger
//! says is in the store.
#![no_main]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use greypit_pipeline::spool::testing::{Summary, recover, ship, write};
use greypit_pipeline::{Error, Group, Kind};
use libfuzzer_sys::fuzz_target;

type Record = (Kind, u64, Vec<u8>);

const SEGMENT_HEADER_BYTES: usize = 20;
const SLOT_BYTES: usize = 256 << 10;
/// Edits of the ledger go to the start of its slots, where something is.
const SLOT_EDIT_BYTES: usize = 512;

/// A folder in memory, gone with the input.
struct Folder(PathBuf);

impl Folder {
    fn new(ledger: &[u8], segments: &[Vec<u8>]) -> Folder {
        let path = PathBuf::from(format!("/dev/shm/greypit-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder in memory");
        let folder = Folder(path);
        folder.put_ledger(ledger);
        for (i, segment) in segments.iter().enumerate() {
            folder.put(&format!("{:020}.seg", i + 1), segment);
        }
        folder
    }

    /// With holes behind what the slots begin with, which is much faster than writing zeros.
    fn put_ledger(&self, bytes: &[u8]) {
        let file = File::create(self.0.join("ledger")).expect("a file in memory");
        file.set_len(bytes.len() as u64).expect("a file in memory");
        for (i, slot) in bytes.chunks(SLOT_BYTES).enumerate() {
            let start = &slot[..slot.len().min(SLOT_EDIT_BYTES * 2)];
            file.write_all_at(start, (i * SLOT_BYTES) as u64).expect("a file in memory");
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).expect("a file in memory");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("the folder is ours");
    }
}

/// Three lives of a spool, of which the beginning has been shipped. The first ends with a group whose fsync failed, so
/// that it was written again, under the same numbers, in the second.
struct Good {
    ledger: Vec<u8>,
    segments: Vec<Vec<u8>>,
    written: BTreeSet<Record>,
    shipped: BTreeSet<Record>,
    checkpoints: BTreeSet<Vec<u8>>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let folder = Folder::new(&[], &[]);
    let mut checkpoints = BTreeSet::new();
    let mut group = |numbers: std::ops::Range<u32>| {
        let mut group = Group::new();
        for n in numbers.clone() {
            let kind = Kind::new(if n % 3 == 0 { "from" } else { "to" });
            group.push(kind, format!("{{\"n\":{n}}}").as_bytes()).expect("a body");
        }
        let state = numbers.end.to_string().into_bytes();
        checkpoints.insert(state.clone());
        group.set_checkpoint("file", state);
        group
    };
    for bounds in [[0, 4, 6, 9], [9, 12, 15, 16], [16, 20, 21, 30]] {
        let groups = bounds.windows(2).map(|pair| group(pair[0]..pair[1])).collect();
        write(&folder.0, groups).expect("a spool in memory");
    }
    let read = |folder: &Path| recover(folder).expect("a good spool");
    let written: BTreeSet<Record> = read(&folder.0).records.into_iter().collect();
    assert_eq!(written.len(), 30);
    ship(&folder.0, 1).expect("a ledger");
    let waiting: BTreeSet<Record> = read(&folder.0).records.into_iter().collect();
    let shipped: BTreeSet<Record> = written.difference(&waiting).cloned().collect();
    assert!(!shipped.is_empty() && !waiting.is_empty());

    let file = |name: &str| std::fs::read(folder.0.join(name)).expect("it was written");
    let mut segments: Vec<Vec<u8>> = (1..=3).map(|n| file(&format!("{n:020}.seg"))).collect();
    let frame_end = |segment: &[u8], at: usize| {
        at + 8 + u32::from_le_bytes(segment[at..at + 4].try_into().expect("four bytes")) as usize
    };
    let snapshot_end = frame_end(&segments[1], SEGMENT_HEADER_BYTES);
    let again = segments[1][snapshot_end..frame_end(&segments[1], snapshot_end)].to_vec();
    segments[0].extend(again);
    Good { ledger: file("ledger"), segments, written, shipped, checkpoints }
});

/// Recovers twice: the first may cut something off, the second finds the same and cuts nothing.
fn recover_again(folder: &Folder) -> Option<Summary> {
    let read = || match recover(&folder.0) {
        Ok(found) => Some(found),
        Err(Error::Damaged { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let (first, second) = (read(), read());
    assert_eq!(second, first.clone().map(|first| Summary { torn: 0, ..first }));
    if let Some(first) = &first {
        let numbers: BTreeSet<(Kind, u64)> = first.records.iter().map(|(kind, seq, _)| (*kind, *seq)).collect();
        assert_eq!(numbers.len(), first.records.len(), "a number is given once");
        assert!(first.records.len() as u64 <= first.waiting);
    }
    first
}

/// Four bytes an edit: which file and what, where (two bytes), how.
fn edited(edits: &[u8]) {
    let good = &*GOOD;
    let (mut ledger, mut segments) = (good.ledger.clone(), good.segments.clone());
    for edit in edits.chunks_exact(4).take(16) {
        let (file, at) = (usize::from(edit[0] & 3), usize::from(u16::from_le_bytes([edit[1], edit[2]])));
        let (bytes, at) = match segments.get_mut(file) {
            Some(segment) => {
                let at = at % segment.len().max(1);
                (segment, at)
            }
            None => {
                let slot = at / SLOT_EDIT_BYTES % 2 * SLOT_BYTES;
                let at = (slot + at % SLOT_EDIT_BYTES).min(ledger.len().saturating_sub(1));
                (&mut ledger, at)
            }
        };
        match edit[0] >> 2 & 3 {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(usize::from(edit[3])).for_each(|byte| *byte = 0),
            _ => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= edit[3]),
        }
    }
    let found = recover_again(&Folder::new(&ledger, &segments));
    let Some(found) = found else { return assert_ne!(ledger, good.ledger) };
    for record in &found.records {
        assert!(good.written.contains(record), "{record:?} was never written");
        assert!(!good.shipped.contains(record), "{record:?} is in the store");
    }
    assert!(found.checkpoints.values().all(|state| good.checkpoints.contains(state)));
    let waiting = good.written.len() - good.shipped.len();
    assert!(found.waiting <= waiting as u64, "{} wait, {waiting} were written", found.waiting);
    if segments == good.segments {
        assert_eq!(found.records.len(), waiting);
        assert_eq!((found.damaged, found.waiting), (0, found.records.len() as u64));
    }
}

/// Two segments, cut where the first byte says, and the good ledger or one of these bytes.
fn raw(bytes: &[u8]) {
    let Some((&[cut, ledger], rest)) = bytes.split_first_chunk() else { return };
    let (first, second) = rest.split_at(rest.len() * usize::from(cut) / 256);
    let ledger = match ledger % 2 {
        0 => GOOD.ledger.clone(),
        _ => first.iter().copied().take(SLOT_EDIT_BYTES).chain(std::iter::repeat(0)).take(2 * SLOT_BYTES).collect(),
    };
    recover_again(&Folder::new(&ledger, &[first.to_vec(), second.to_vec()]));
}

/// Payloads, each behind its length; length 0 begins the next segment.
fn framed(mut bytes: &[u8]) {
    let header = |number: u64| {
        let mut header = b"GREYSEG1".to_vec();
        header.extend(number.to_le_bytes());
        header.extend(crc32fast::hash(&header).to_le_bytes());
        header
    };
    let mut segments = vec![header(1)];
    while let Some((&len, rest)) = bytes.split_first() {
        let (payload, rest) = rest.split_at(usize::from(len).min(rest.len()));
        bytes = rest;
        let number = segments.len() as u64;
        match segments.last_mut() {
            Some(segment) if !payload.is_empty() => {
                let len = (payload.len() as u32).to_le_bytes();
                segment.extend(len);
                segment.extend(crc32fast::hash(&[&len, payload].concat()).to_le_bytes());
                segment.extend(payload);
            }
            _ if number < 4 => segments.push(header(number + 1)),
            _ => {}
        }
    }
    recover_again(&Folder::new(&GOOD.ledger, &segments));
}

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&GOOD);
    match input.split_first() {
        Some((0..=127, edits)) => edited(edits),
        Some((128..=159, bytes)) => raw(bytes),
        Some((_, payloads)) => framed(payloads),
        None => {}
    }
});
