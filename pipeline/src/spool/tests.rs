//! The spool as a whole: what is written comes back, whatever a crash or a bad disk leaves of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::{Cut, Ledger};
use super::recover::{Recovered, recover};
use super::segments::Segments;
use super::shared::Shared;
use super::writer::Writer;
use super::{Config, segment_path};
use crate::batch::{Batch, Planner};
use crate::codec::Codec;
use crate::encode::encode;
use crate::event::{Event, Group, Kind};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::submit::Submit;
use crate::units::Size;

const TO: Kind = Kind::new("to");
const FROM: Kind = Kind::new("from");

fn planner() -> Planner {
    Planner::new(Duration::from_secs(86_400), 1 << 30, 0)
}

fn open(folder: &Path) -> (Ledger, Planner, Recovered) {
    let ledger = Ledger::open(&folder.join("ledger"), "mx1", || "e1".into()).unwrap();
    let mut planner = planner();
    let recovered = recover(folder, &ledger, &mut planner).unwrap();
    (ledger, planner, recovered)
}

/// One life of a spool: recovers, takes what `submit` sends, ends.
fn life(folder: &Path, config: &Config, submit: impl FnOnce(&Submit)) -> Arc<Shared> {
    let (_, planner, mut recovered) = open(folder);
    let segments = Segments::new(folder, std::mem::take(&mut recovered.segments));
    let shared = Arc::new(Shared::new(segments, planner));
    let (door, queue) = Submit::new(1 << 20);
    let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
    let writer = Writer::new(folder, config.clone(), true, queue, recovered, shared.clone(), Health::new(), metrics);
    let thread = std::thread::spawn(move || writer.run());
    submit(&door);
    drop(door);
    thread.join().unwrap();
    shared
}

fn group(numbers: std::ops::Range<u32>) -> Group {
    let mut group = Group::new();
    for n in numbers.clone() {
        let kind = if n % 3 == 0 { FROM } else { TO };
        group.push(kind, format!("{{\"kind\":\"{kind}\",\"n\":{n}}}").as_bytes()).unwrap();
    }
    group.set_checkpoint("file", numbers.end.to_string().into_bytes());
    group
}

/// A life in which groups with the numbers between `bounds` are written.
fn write(folder: &Path, bounds: &[u32]) {
    life(folder, &Config::default(), |door| {
        for pair in bounds.windows(2) {
            door.try_submit(group(pair[0]..pair[1])).unwrap();
        }
    });
}

/// Everything that waits in the spool, as the objects would have it.
fn content(folder: &Path) -> BTreeMap<Kind, Vec<String>> {
    let (_, mut planner, _) = open(folder);
    planner.close_all();
    let mut content = BTreeMap::<Kind, Vec<String>>::new();
    while let Some(batch) = planner.pop_ready() {
        let kind = batch.kind;
        let cut = Cut { batch, key: String::new(), codec: Codec::None, level: 0 };
        let text = String::from_utf8(encode(folder, "mx1", "e1", &cut).unwrap().bytes.to_vec()).unwrap();
        content.entry(kind).or_default().extend(text.lines().map(str::to_owned));
    }
    content
}

fn expected(numbers: std::ops::Range<u32>) -> BTreeMap<Kind, Vec<String>> {
    let mut expected = BTreeMap::<Kind, Vec<String>>::new();
    for n in numbers {
        let kind = if n % 3 == 0 { FROM } else { TO };
        let lines = expected.entry(kind).or_default();
        let seq = lines.len() + 1;
        lines.push(format!("{{\"id\":\"mx1-e1-{kind}-{seq}\",\"node\":\"mx1\",\"kind\":\"{kind}\",\"n\":{n}}}"));
    }
    expected
}

#[test]
fn what_is_written_comes_back_over_several_lives() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 10, 11]);
    write(folder.path(), &[]);
    write(folder.path(), &[11, 500]);
    assert_eq!(content(folder.path()), expected(0..500));
    let (_, _, recovered) = open(folder.path());
    assert_eq!(recovered.checkpoints["file"], b"500");
    assert_eq!((recovered.torn_bytes, recovered.damaged_frames), (0, 0));
}

#[test]
fn a_crash_at_any_byte_leaves_whole_groups_with_their_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 4, 6, 9]);
    let path = segment_path(folder.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for len in 0..=whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        let (_, _, recovered) = open(folder.path());
        let upto =
            recovered.checkpoints.get("file").map_or(0, |state| std::str::from_utf8(state).unwrap().parse().unwrap());
        assert_eq!(content(folder.path()), expected(0..upto), "cut at {len}");
        assert_eq!(recovered.damaged_frames, 0, "cut at {len}: a torn write is not damage");
        seen.insert(upto);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 4, 6, 9]);
}

#[test]
fn after_a_crash_writing_goes_on_with_the_right_numbers() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 4, 6]);
    let path = segment_path(folder.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    write(folder.path(), &[4, 20]);
    assert_eq!(content(folder.path()), expected(0..20));
}

#[test]
fn damage_is_counted_stepped_over_and_set_aside_and_costs_no_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 3, 6, 9]);
    write(folder.path(), &[9, 12]);
    let path = segment_path(folder.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\"n\":4").unwrap();
    bytes[at + 4] = b'5';
    std::fs::write(&path, &bytes).unwrap();
    let (_, _, recovered) = open(folder.path());
    assert_eq!(recovered.damaged_frames, 1);
    let damaged = content(folder.path());
    let mut kept = expected(0..12);
    kept.values_mut()
        .for_each(|lines| lines.retain(|line| !["3", "4", "5"].iter().any(|n| line.ends_with(&format!(":{n}}}")))));
    assert_eq!(damaged, kept);
    assert!(recovered.segments[&1].damaged);
}

#[test]
fn any_flipped_byte_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 3, 6]);
    write(folder.path(), &[6, 9]);
    let path = segment_path(folder.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let (_, _, recovered) = open(folder.path());
        assert_eq!(recovered.damaged_frames, 1, "byte {at}");
        let lines: Vec<String> = content(folder.path()).into_values().flatten().collect();
        let good: Vec<String> = expected(0..9).into_values().flatten().collect();
        assert!(lines.iter().all(|line| good.contains(line)), "byte {at}: only what was written");
        assert!(lines.len() >= 3, "byte {at}: the other segment is whole");
    }
}

#[test]
fn a_write_that_was_never_acknowledged_is_void_once_a_later_segment_says_so() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 3, 6]);
    // As if the fsync of 3..6 had failed: segment 2 begins with the numbers before it.
    let other = tempfile::tempdir().unwrap();
    write(other.path(), &[0, 3]);
    write(other.path(), &[3, 4]);
    write(other.path(), &[4, 12]);
    for number in [2, 3] {
        std::fs::copy(segment_path(other.path(), number), segment_path(folder.path(), number)).unwrap();
    }
    assert_eq!(content(folder.path()), expected(0..12));
}

#[test]
fn segments_end_at_their_size_and_go_when_they_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes: Size(64 << 10), ..Config::default() };
    let body = |n: u32| format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(1000)).into_bytes();
    let shared = life(folder.path(), &config, |door| {
        for n in 0..500 {
            while door.try_submit(Event { kind: TO, body: body(n) }).is_err() {
                std::thread::yield_now();
            }
        }
    });
    assert!(shared.segments().len() > 1, "{}", shared.segments().len());
    let (mut ledger, mut planner, _) = open(folder.path());
    planner.close_all();
    let batch: Batch = planner.pop_ready().unwrap();
    assert_eq!((batch.first, batch.last), (1, 500));
    let cut = Cut { batch, key: "k".into(), codec: Codec::Bzip2, level: 9 };
    ledger.cut(&cut).unwrap();
    assert_eq!(shared.segments().delete_done(&ledger.lowest_undone()).unwrap(), 0);
    ledger.done(&cut).unwrap();
    assert!(shared.segments().delete_done(&ledger.lowest_undone()).unwrap() > 400_000);
    assert_eq!(shared.segments().len(), 1);
    write(folder.path(), &[0, 3]);
    let (_, _, recovered) = open(folder.path());
    assert_eq!(recovered.next_seqs[&TO], 503, "numbers go on though the old segments are gone");
}

/// A life of a spool that is at its limit from the first byte, until it is drained.
fn full_life(folder: &Path) -> Arc<Shared> {
    // Below what validate() allows, so that nothing ever fits.
    let config = Config { max_bytes: Size(1), ..Config::default() };
    let (_, planner, mut recovered) = open(folder);
    let segments = Segments::new(folder, std::mem::take(&mut recovered.segments));
    let shared = Arc::new(Shared::new(segments, planner));
    let (door, queue) = Submit::new(1 << 20);
    let (health, metrics) = (Health::new(), Metrics::new(&prometheus::Registry::new()).unwrap());
    let writer = Writer::new(folder, config, true, queue, recovered, shared.clone(), health.clone(), metrics);
    let thread = std::thread::spawn(move || writer.run());
    door.try_submit(group(0..9)).unwrap();
    // It is ready until the thread has looked.
    let is_held = || matches!(health.parts().remove("spool"), Some(crate::health::State::Held { .. }));
    while !is_held() {
        assert!(!thread.is_finished(), "it is never held back");
        std::thread::yield_now();
    }
    for _ in 0..40 {
        assert!(is_held(), "it never looks ready in between");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!health.is_ready());
    assert_eq!(shared.unshipped_events(), 0, "nothing is taken");
    shared.draining.store(true, std::sync::atomic::Ordering::Release);
    drop(door);
    thread.join().unwrap();
    shared
}

#[test]
fn a_spool_at_its_limit_says_so_and_ends_with_what_is_queued_written() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(full_life(folder.path()).unshipped_events(), 9);
    assert_eq!(content(folder.path()), expected(0..9));
}

#[test]
fn a_segment_that_was_never_begun_hides_no_cut_in_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 4, 6]);
    write(folder.path(), &[6, 9]);
    for (number, len) in [(1, -1), (2, 30)] {
        let path = segment_path(folder.path(), number);
        let whole = std::fs::read(&path).unwrap();
        let len = if len < 0 { whole.len() - 1 } else { len as usize };
        std::fs::write(&path, &whole[..len]).unwrap();
    }
    for torn in [true, false] {
        let (_, _, recovered) = open(folder.path());
        assert_eq!((recovered.damaged_frames, recovered.torn_bytes > 0), (0, torn));
        assert_eq!(content(folder.path()), expected(0..4));
    }
}

#[test]
fn a_group_written_again_is_taken_once_though_the_snapshot_between_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 3, 6, 9]);
    // As if the fsync of 3..9 had failed, and cutting it off too.
    let other = tempfile::tempdir().unwrap();
    write(other.path(), &[0, 3]);
    write(other.path(), &[3, 6, 9]);
    let mut second = std::fs::read(segment_path(other.path(), 2)).unwrap();
    second[40] ^= 1;
    std::fs::write(segment_path(folder.path(), 2), second).unwrap();
    let (_, _, recovered) = open(folder.path());
    assert_eq!((recovered.damaged_frames, recovered.waiting_events), (1, 9));
    assert_eq!(content(folder.path()), expected(0..9));
}

#[test]
fn a_ledger_that_is_gone_is_no_new_beginning_where_segments_are() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 3]);
    let path = folder.path().join("ledger");
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let opened = Ledger::open(&path, "mx1", || "e2".into());
        assert!(matches!(opened, Err(crate::Error::Damaged { .. })), "cut at {len}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(content(folder.path()), expected(0..3));
}

#[test]
fn a_file_that_is_no_segment_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[0, 3]);
    for name in ["5.seg", "x.seg", "00000000000000000009.seg.bak"] {
        std::fs::write(folder.path().join(name), b"not ours").unwrap();
    }
    assert_eq!(content(folder.path()), expected(0..3));
}
