//! The ledger: which batches have been cut, and which of them are in the store; or, where events go to Kafka, up to
//! which number it has acknowledged them.
//!
//! One file of fixed size, `ledger`, whose blocks are written when it is made, so that a full disk can never keep
//! greypit from noting that it may free some. It holds two slots of [`SLOT_BYTES`]; each change writes the whole state
//! into the older slot and fsyncs it. A crash in between leaves the other slot, which is the state before the change.
//!
//! ```text
//! ledger = slot slot
//! slot   = "GREYLEDG" | generation u64 LE | length u32 LE | crc32 u32 LE of generation, length and state | state (JSON)
//! ```
//! The state is small: for each kind the first number not yet cut, and the cuts that are not yet done, at most as many
//! as objects are in flight. It also names the node and the epoch, one life of this spool directory.
//!
//! Where events go to Kafka, "cut" means acknowledged by the brokers, and no cut is open but those from before. That is
//! noted late, at most a second's worth at a time: what was acknowledged and not noted is sent again after a crash.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::segment_numbers;
use crate::batch::Batch;
use crate::codec::Codec;
use crate::event::Kind;
use crate::{Error, Result};

/// Room for one state: hundreds of open cuts.
pub(crate) const SLOT_BYTES: usize = 256 << 10;
const MAGIC: &[u8; 8] = b"GREYLEDG";
const HEADER_BYTES: usize = 24;

/// A batch with everything that decides its object, fixed before the first upload so that every later attempt writes
/// the same bytes under the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    #[serde(flatten)]
    pub(crate) batch: Batch,
    pub(crate) key: String,
    pub(crate) codec: Codec,
    pub(crate) level: u32,
}

/// Where events go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    /// As objects into the store.
    #[default]
    Store,
    /// To Kafka, as single messages: what has not been acknowledged may be there all the same.
    Kafka,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KindState {
    /// Every event below has been cut.
    next: u64,
    /// Cut but not done, by first number.
    open: BTreeMap<u64, Cut>,
    /// The partition that events from `next` on may already be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
}

impl Default for KindState {
    fn default() -> KindState {
        KindState { next: 1, open: BTreeMap::new(), partition: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    node: String,
    epoch: String,
    kinds: BTreeMap<Kind, KindState>,
    #[serde(default)]
    target: Target,
}

impl State {
    fn new(node: &str, epoch: String) -> State {
        State { node: node.into(), epoch, kinds: BTreeMap::new(), target: Target::default() }
    }
}

/// The open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
    path: PathBuf,
    generation: u64,
    state: State,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes one for a new epoch.
    ///
    /// # Errors
    /// [`Error::Damaged`] where neither slot can be read, or it is gone or cut short while there are segments: starting
    /// afresh could repeat events, so a person decides.
    pub(crate) fn open(path: &Path, node: &str, new_epoch: impl FnOnce() -> String) -> Result<Ledger> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("read", path))?.len();
        let short = len < 2 * SLOT_BYTES as u64;
        if short && segment_numbers(path.parent().unwrap_or(Path::new(".")))?.is_empty() {
            // Never finished being made: it is before the first segment, so nothing was ever cut.
            return Ledger::create(file, path, State::new(node, new_epoch()));
        }
        let (generation, state) = newest(&file, path)?;
        Ok(Ledger { file, path: path.into(), generation, state })
    }

    /// Node and epoch of a spool, also while its daemon runs: of the two slots one is always whole.
    pub(crate) fn identity(path: &Path) -> Result<(String, String)> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let (_, State { node, epoch, .. }) = newest(&file, path)?;
        Ok((node, epoch))
    }

    fn create(file: File, path: &Path, state: State) -> Result<Ledger> {
        let ledger = Ledger { file, path: path.into(), generation: 0, state };
        // Both slots in full, so that no later write needs a new block; the length says that both are there.
        let mut slot = ledger.encode()?;
        slot.resize(SLOT_BYTES, 0);
        ledger.write(&slot, 0)?;
        ledger.write(&vec![0; SLOT_BYTES], SLOT_BYTES as u64)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))?;
        Ok(ledger)
    }

    /// The node that this spool's events carry.
    pub(crate) fn node(&self) -> &str {
        &self.state.node
    }

    /// One life of the spool directory.
    pub(crate) fn epoch(&self) -> &str {
        &self.state.epoch
    }

    /// Gives the spool a new identity; only for one with nothing left to ship.
    pub(crate) fn begin_epoch(&mut self, node: &str, epoch: String) -> Result<()> {
        self.change(|state| *state = State::new(node, epoch))
    }

    /// The first number of `kind` that has not been cut.
    pub(crate) fn next(&self, kind: Kind) -> u64 {
        self.state.kinds.get(&kind).map_or(1, |state| state.next)
    }

    /// For every kind ever cut, the first number that is not in the store.
    pub(crate) fn lowest_undone(&self) -> BTreeMap<Kind, u64> {
        let lowest = |state: &KindState| state.open.keys().next().copied().unwrap_or(state.next);
        self.state.kinds.iter().map(|(kind, state)| (*kind, lowest(state))).collect()
    }

    /// The cuts that are not done, oldest first.
    pub(crate) fn open_cuts(&self) -> Vec<Cut> {
        let mut cuts: Vec<Cut> = self.state.kinds.values().flat_map(|state| state.open.values().cloned()).collect();
        cuts.sort_by_key(|cut| cut.batch.from);
        cuts
    }

    /// Where what is in the spool was meant to go, and some of it may be.
    pub(crate) fn target(&self) -> Target {
        self.state.target
    }

    /// Notes where events go from here on, durably.
    pub(crate) fn set_target(&mut self, target: Target) -> Result<()> {
        if self.state.target == target {
            return Ok(());
        }
        self.change(|state| state.target = target)
    }

    /// The partition that a kind's unacknowledged events may be in.
    pub(crate) fn partition(&self, kind: Kind) -> Option<i32> {
        self.state.kinds.get(&kind)?.partition
    }

    /// Fixes the partition that a kind's events go to from here on, durably.
    pub(crate) fn set_partition(&mut self, kind: Kind, partition: i32) -> Result<()> {
        if self.partition(kind) == Some(partition) {
            return Ok(());
        }
        self.change(|state| state.kinds.entry(kind).or_default().partition = Some(partition))
    }

    /// Notes that all events of each kind below a number are acknowledged, durably.
    pub(crate) fn acknowledge(&mut self, below: &[(Kind, u64)]) -> Result<()> {
        self.change(|state| {
            for (kind, below) in below {
                let kind = state.kinds.entry(*kind).or_default();
                kind.next = kind.next.max(*below);
            }
        })
    }

    /// Fixes a batch, durably.
    pub(crate) fn cut(&mut self, cut: &Cut) -> Result<()> {
        debug_assert!(cut.batch.first >= self.next(cut.batch.kind), "batches of a kind are cut in order, each once");
        self.change(|state| {
            let kind = state.kinds.entry(cut.batch.kind).or_default();
            kind.next = cut.batch.last + 1;
            kind.open.insert(cut.batch.first, cut.clone());
        })
    }

    /// Gives an open cut another key, durably: the old one belongs to somebody else's object.
    pub(crate) fn rekey(&mut self, cut: &Cut) -> Result<()> {
        self.change(|state| {
            state.kinds.entry(cut.batch.kind).or_default().open.insert(cut.batch.first, cut.clone());
        })
    }

    /// Notes that a cut's object is in the store, durably.
    pub(crate) fn done(&mut self, cut: &Cut) -> Result<()> {
        self.change(|state| {
            state.kinds.entry(cut.batch.kind).or_default().open.remove(&cut.batch.first);
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        let before = self.state.clone();
        change(&mut self.state);
        self.generation += 1;
        let slot = (self.generation % 2) * SLOT_BYTES as u64;
        let written = self.encode().and_then(|bytes| self.write(&bytes, slot));
        if written.is_err() {
            // Either slot may hold the newest state now; the next change takes the same slot again.
            self.state = before;
            self.generation -= 1;
        }
        written
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(Error::io("write", &self.path))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let state = serde_json::to_vec(&self.state).map_err(|error| Error::Damaged {
            path: self.path.clone(),
            what: format!("the ledger cannot be encoded: {error}"),
        })?;
        if state.len() > SLOT_BYTES - HEADER_BYTES {
            return Err(Error::Damaged {
                path: self.path.clone(),
                what: "the ledger is full: too many open cuts".into(),
            });
        }
        let mut slot = Vec::with_capacity(HEADER_BYTES + state.len());
        slot.extend_from_slice(MAGIC);
        slot.extend_from_slice(&self.generation.to_le_bytes());
        slot.extend_from_slice(&(state.len() as u32).to_le_bytes());
        let crc = checksum(&slot[8..20], &state);
        slot.extend_from_slice(&crc.to_le_bytes());
        slot.extend_from_slice(&state);
        Ok(slot)
    }
}

/// The newest state that can be read.
fn newest(file: &File, path: &Path) -> Result<(u64, State)> {
    let mut bytes = vec![0; 2 * SLOT_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(unreadable(path)),
        read => read.map_err(Error::io("read", path))?,
    }
    let (even, odd) = bytes.split_at(SLOT_BYTES);
    let newest = [even, odd].into_iter().filter_map(decode).max_by_key(|(generation, _)| *generation);
    newest.ok_or_else(|| unreadable(path))
}

fn unreadable(path: &Path) -> Error {
    Error::Damaged {
        path: path.into(),
        what: "no copy of the ledger can be read, so it is not known what has been shipped. To start a new \
               epoch, move the whole spool folder aside"
            .into(),
    }
}

fn checksum(head: &[u8], state: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(state);
    hasher.finalize()
}

fn decode(slot: &[u8]) -> Option<(u64, State)> {
    let (head, rest) = slot.split_at_checked(HEADER_BYTES)?;
    if &head[..8] != MAGIC {
        return None;
    }
    let generation = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let len = u32::from_le_bytes(head[16..20].try_into().ok()?);
    let crc = u32::from_le_bytes(head[20..24].try_into().ok()?);
    let state = rest.get(..len as usize)?;
    if checksum(&head[8..20], state) != crc {
        return None;
    }
    Some((generation, serde_json::from_slice(state).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Position;

    const TO: Kind = Kind::new("to");

    fn cut(first: u64, last: u64) -> Cut {
        let at = Position { segment: 1, offset: first };
        let batch = Batch { kind: TO, window: 0, first, last, bytes: 10, from: at, to: at, oldest_us: 0 };
        Cut { batch, key: format!("mail_logs/to-{first}.json.bz2"), codec: Codec::Bzip2, level: 9 }
    }

    fn open(path: &Path) -> Result<Ledger> {
        Ledger::open(path, "mx1", || "e1".into())
    }

    #[test]
    fn what_was_cut_and_done_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = open(&path).unwrap();
        ledger.cut(&cut(1, 10)).unwrap();
        ledger.cut(&cut(11, 20)).unwrap();
        ledger.done(&cut(11, 20)).unwrap();
        let ledger = Ledger::open(&path, "mx1", || unreachable!("an epoch is made once")).unwrap();
        assert_eq!(ledger.epoch(), "e1");
        assert_eq!(ledger.next(TO), 21);
        assert_eq!(ledger.open_cuts(), [cut(1, 10)]);
        assert_eq!(ledger.lowest_undone()[&TO], 1);
        assert_eq!(ledger.next(Kind::new("from")), 1);
    }

    #[test]
    fn a_crash_while_writing_leaves_the_state_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = open(&path).unwrap();
        ledger.cut(&cut(1, 10)).unwrap();
        let before = std::fs::read(&path).unwrap();
        ledger.done(&cut(1, 10)).unwrap();
        let after = std::fs::read(&path).unwrap();
        let changed: Vec<usize> = (0..before.len()).filter(|i| before[*i] != after[*i]).collect();
        // Each prefix of the bytes that the second write changed, as a crash may leave them.
        for n in 0..changed.len() {
            let mut torn = before.clone();
            changed[..n].iter().for_each(|i| torn[*i] = after[*i]);
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(open(&path).unwrap().open_cuts(), [cut(1, 10)], "torn after {n} bytes");
        }
        std::fs::write(&path, &after).unwrap();
        assert_eq!(open(&path).unwrap().open_cuts(), []);
    }

    #[test]
    fn two_damaged_slots_are_an_error_and_never_a_new_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        drop(open(&path).unwrap());
        std::fs::write(&path, vec![7; 2 * SLOT_BYTES]).unwrap();
        assert!(matches!(open(&path), Err(Error::Damaged { .. })));
    }

    #[test]
    fn what_kafka_has_acknowledged_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = open(&path).unwrap();
        ledger.cut(&cut(1, 10)).unwrap();
        ledger.set_target(Target::Kafka).unwrap();
        ledger.set_partition(TO, 7).unwrap();
        ledger.acknowledge(&[(TO, 15), (Kind::new("from"), 3)]).unwrap();
        ledger.acknowledge(&[(TO, 12)]).unwrap();
        let ledger = open(&path).unwrap();
        assert_eq!((ledger.target(), ledger.partition(TO)), (Target::Kafka, Some(7)));
        assert_eq!((ledger.next(TO), ledger.next(Kind::new("from"))), (15, 3));
        assert_eq!(ledger.lowest_undone()[&TO], 1, "the open cut is not in the store");
        assert_eq!(ledger.partition(Kind::new("from")), None);
    }

    #[test]
    fn a_ledger_from_before_kafka_is_read() {
        let state = r#"{"node":"mx1","epoch":"e1","kinds":{"to":{"next":11,"open":{}}}}"#;
        let state: State = serde_json::from_str(state).unwrap();
        assert_eq!((state.target, state.kinds[&TO].partition), (Target::Store, None));
    }

    #[test]
    fn it_never_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let mut ledger = open(&path).unwrap();
        for n in 0..50 {
            ledger.cut(&cut(n * 10 + 1, n * 10 + 10)).unwrap();
            ledger.done(&cut(n * 10 + 1, n * 10 + 10)).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SLOT_BYTES as u64);
    }
}
