//! Rotation, truncation and deletion while greypit runs.

use super::*;

#[test]
fn a_renamed_file_is_read_on_until_it_is_quiet() {
    let mut bench = Bench::new("log");
    let mut old = bench.append("log", "one\n");
    assert_eq!(bench.read(), ["one"]);
    bench.rename("log", "log.1");
    old.write_all(b"two\n").unwrap();
    assert_eq!(bench.read(), ["two"]);
    bench.append("log", "new 1\n");
    old.write_all(b"three\nunfini").unwrap();
    assert_eq!(bench.read(), ["three", "new 1"]);
    bench.later(QUIET / 2);
    old.write_all(b"shed").unwrap();
    bench.append("log", "new 2\n");
    assert_eq!(bench.read(), ["new 2"]);
    bench.later(QUIET / 2);
    assert_eq!(bench.read(), [""; 0], "written to half the time ago");
    bench.later(QUIET / 2);
    assert_eq!(bench.read(), ["unfinished"]);
    assert_eq!(bench.metric("files"), 1);
    assert_eq!(bench.metric("rotations_total"), 1);
    assert_eq!(bench.metric("errors_total"), 0);
}

#[test]
fn rotations_between_two_looks_are_all_read_in_order() {
    for names in [["log.3", "log.2", "log.1"], ["log-20261118", "log-20261119", "log-20261120"]] {
        let mut bench = Bench::new("log");
        bench.append("log", long("0") + "\n");
        assert_eq!(bench.read().len(), 1);
        bench.append("log", "1\n");
        for (i, name) in names.iter().enumerate() {
            bench.rename("log", name);
            bench.append("log", format!("{}\n", i + 2));
        }
        assert_eq!(bench.read(), ["1", "2", "3", "4"], "{names:?}");
        assert_eq!(bench.read_quiet(), [""; 0]);
        assert_eq!(bench.metric("rotations_total"), 3);
    }
}

#[test]
fn copytruncate_begins_again_and_does_not_repeat_the_copy() {
    let mut bench = Bench::new("log");
    let mut log = bench.append("log", long("one") + "\n");
    assert_eq!(bench.read().len(), 1);
    bench.copytruncate("log", "log.1");
    assert_eq!(bench.read(), [""; 0]);
    log.write_all(b"two\n").unwrap();
    assert_eq!(bench.read_quiet(), ["two"]);
    bench.rename("log.1", "log.2");
    bench.copytruncate("log", "log.1");
    log.write_all(b"three, longer than what was there before\n").unwrap();
    assert_eq!(bench.read_quiet(), ["three, longer than what was there before"]);
    assert_eq!(bench.metric("truncations_total"), 2);
}

#[test]
fn what_copytruncate_copied_unread_is_read_from_the_copy() {
    let mut bench = Bench::new("log");
    let mut log = bench.append("log", long("one") + "\n");
    assert_eq!(bench.read().len(), 1);
    log.write_all(b"two\n").unwrap();
    bench.copytruncate("log", "log.1");
    log.write_all(b"three\n").unwrap();
    assert_eq!(bench.read(), ["two", "three"]);
}

#[test]
fn regrowth_beyond_the_old_offset_is_noticed() {
    let mut bench = Bench::new("log");
    bench.append("log", "short\n");
    assert_eq!(bench.read(), ["short"]);
    fs::write(bench.path("log"), "another line\nthat is longer\n").unwrap();
    assert_eq!(bench.read(), ["another line", "that is longer"]);
    fs::write(bench.path("log"), "another LINE\nthat is longer\n").unwrap();
    assert_eq!(bench.read(), ["another LINE", "that is longer"], "the same size");
    assert_eq!(bench.metric("truncations_total"), 2);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_its_successor_from_its_beginning() {
    let mut bench = Bench::new("log");
    let mut old = bench.append("log", "one\n");
    assert_eq!(bench.read(), ["one"]);
    old.write_all(b"two\nhalf").unwrap();
    fs::remove_file(bench.path("log")).unwrap();
    assert_eq!(bench.read(), ["two"]);
    bench.append("log", "new\n");
    assert_eq!(bench.read(), ["new"]);
    assert_eq!(bench.read_quiet(), ["half"]);
    for i in 0..5 {
        // The inode is free now, and most file systems use it again at once.
        fs::remove_file(bench.path("log")).unwrap();
        assert_eq!(bench.read_quiet(), [""; 0]);
        bench.append("log", format!("new {i}\n"));
        assert_eq!(bench.read(), [format!("new {i}")]);
    }
    assert_eq!(bench.metric("files"), 1);
}

#[test]
fn a_file_that_comes_back_is_not_repeated() {
    let mut bench = Bench::new("log");
    bench.append("log", "one\n");
    assert_eq!(bench.read(), ["one"]);
    bench.rename("log", "aside");
    assert_eq!(bench.read_quiet(), [""; 0]);
    bench.rename("aside", "log");
    bench.append("log", "two\n");
    assert_eq!(bench.read(), ["two"]);
    bench.rename("log", "aside");
    bench.append("log", "other\n");
    assert_eq!(bench.read(), ["other"]);
    bench.rename("log", "other");
    bench.rename("aside", "log");
    bench.append("log", "three\n");
    assert_eq!(bench.read_quiet(), ["three"]);
}

#[test]
fn a_missing_end_is_not_a_new_beginning() {
    let mut bench = Bench::new("log");
    let file = bench.append("log", (0..100).map(|i| long(&format!("{i}")) + "\n").collect::<String>());
    assert_eq!(bench.read().len(), 100);
    file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    bench.restart();
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "next\n");
    assert_eq!(bench.read(), ["next"]);
}

#[test]
fn more_rotations_than_open_files_are_read_in_turn() {
    let mut bench = Bench::new("log");
    bench.append("log", long("first") + "\n");
    assert_eq!(bench.read().len(), 1);
    let count = crate::collect::maillog::tail::source::FILES_MAX + 40;
    for i in 0..count {
        bench.rename("log", &format!("log-{:08}", 20_260_000 + i));
        bench.append("log", format!("{i}\n"));
    }
    let mut read = bench.read();
    assert!(read.len() < count && bench.metric("files") <= 64);
    for _ in 0..3 {
        bench.later(QUIET);
        read.extend(bench.read());
    }
    assert_eq!(read, (0..count).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_leftover_with_a_newer_number_is_not_read_at_each_rotation() {
    let mut bench = Bench::new("log");
    bench.append("log.0", "of another scheme, long ago\n").set_modified(std::time::UNIX_EPOCH).unwrap();
    bench.append("log", "one\n");
    assert_eq!(bench.read(), ["one"]);
    bench.rename("log", "log.1");
    bench.append("log", "two\n");
    assert_eq!(bench.read_quiet(), ["two"]);
}
