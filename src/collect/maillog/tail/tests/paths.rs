//! Paths: patterns, symlinks, what is missing, unreadable, named twice.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn a_file_and_its_folder_may_appear_later() {
    for pattern in ["sub/dir/log", "sub/*/log", "**/log"] {
        let mut bench = Bench::new(pattern);
        assert_eq!(bench.read(), [""; 0]);
        fs::create_dir_all(bench.path("sub/dir")).unwrap();
        assert_eq!(bench.read(), [""; 0]);
        bench.append("sub/dir/log", "one\n");
        assert_eq!(bench.read(), ["one"], "{pattern}");
        assert_eq!(bench.metric("errors_total"), 0);
    }
}

#[test]
fn hundreds_of_files_take_turns() {
    let mut bench = Bench::new("*.log");
    let big: Vec<String> = (0..20_000).map(|i| long(&format!("big {i}"))).collect();
    bench.append("00.log", big.join("\n") + "\n");
    for i in 1..300 {
        bench.append(&format!("{i:02}.log"), format!("small {i}\n"));
    }
    // One buffer of the big file may fill two groups before the small files have their turn.
    while bench.groups.iter().flat_map(lines).filter(|line| line.starts_with("small")).count() < 299 {
        assert!(bench.step());
        assert!(bench.groups.len() <= 4, "a long file holds up the others");
    }
    bench.read();
    let mut all = bench.all();
    assert_eq!(all.len(), 20_299);
    assert_eq!(bench.metric("files"), 300);
    bench.restart();
    assert_eq!(bench.read(), [""; 0]);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 20_299);
}

#[test]
fn a_pattern_follows_neither_compressed_nor_rotated_files() {
    let mut bench = Bench::new("mail*");
    for name in ["mail.gz", "mail.bz2", "mail.xz", "mail.zst", "mail.log.1", "mail.log-20261120", "mail-20261120.log"] {
        bench.append(name, "not this\n");
    }
    fs::create_dir(bench.path("mailbox")).unwrap();
    bench.append("mail.log", "this\n");
    bench.append("mail-20261120", "a daily file of its own\n");
    let mut read = bench.read();
    read.sort();
    assert_eq!(read, ["a daily file of its own", "this"]);
    bench.rename("mail.log.1", "mail.log.2");
    bench.rename("mail.log", "mail.log.1");
    bench.append("mail.log", "new\n");
    assert_eq!(bench.read(), ["new"]);
    assert_eq!(bench.read_quiet(), [""; 0]);
    bench.restart();
    assert_eq!(bench.read_quiet(), [""; 0]);
}

#[test]
fn a_file_renamed_to_another_followed_name_goes_on_there() {
    let mut bench = Bench::new("*.log");
    bench.append("a.log", "one\n");
    assert_eq!(bench.read(), ["one"]);
    bench.rename("a.log", "b.log");
    bench.append("b.log", "two\n");
    bench.append("a.log", "new\n");
    let mut read = bench.read_quiet();
    read.sort();
    assert_eq!(read, ["new", "two"]);
    bench.rename("a.log", "c.log");
    bench.append("c.log", "three\n");
    bench.restart();
    assert_eq!(bench.read_quiet(), ["three"]);
}

#[test]
fn an_inode_that_moves_to_another_path_does_not_bring_old_files_back() {
    let mut bench = Bench::new("*.log");
    bench.append("a.log", "a\n");
    assert_eq!(bench.read(), ["a"]);
    bench.append("b.log", "b\n");
    assert_eq!(bench.read(), ["b"]);
    bench.rename("b.log", "b.log.1");
    bench.append("b.log", "b 2\n");
    assert_eq!(bench.read_quiet(), ["b 2"]);
    fs::remove_file(bench.path("a.log")).unwrap();
    assert_eq!(bench.read_quiet(), [""; 0]);
    // Most file systems give the inode of a.log to this one.
    bench.append("c", "c\n");
    bench.rename("c", "b.log");
    assert_eq!(bench.read_quiet(), ["c"]);
    bench.restart();
    assert_eq!(bench.read_quiet(), [""; 0]);
}

#[test]
fn one_file_under_several_names_is_read_once() {
    let mut bench = Bench::with(&["log", "l*", "alias", "hard"], |_| {});
    bench.append("log", "one\n");
    symlink(bench.path("log"), bench.path("alias")).unwrap();
    fs::hard_link(bench.path("log"), bench.path("hard")).unwrap();
    assert_eq!(bench.read(), ["one"]);
    bench.append("log", "two\n");
    assert_eq!(bench.read(), ["two"]);
    bench.restart();
    bench.append("log", "three\n");
    assert_eq!(bench.read_quiet(), ["three"]);
}

#[test]
fn a_symlink_is_followed_also_to_another_target() {
    let mut bench = Bench::new("current");
    let point = |bench: &Bench, target: &str| {
        let _ = fs::remove_file(bench.path("current"));
        symlink(bench.path(target), bench.path("current")).unwrap();
    };
    fs::create_dir(bench.path("real")).unwrap();
    bench.append("real/log.2026-11-18", long("one") + "\n");
    point(&bench, "real/log.2026-11-18");
    assert_eq!(bench.read().len(), 1);
    bench.append("real/log.2026-11-18", "two\n");
    bench.append("real/log.2026-11-19", "three\n");
    point(&bench, "real/log.2026-11-19");
    bench.append("real/log.2026-11-18", "late\n");
    assert_eq!(bench.read(), ["two", "late", "three"]);
    // While down it moves on twice.
    bench.append("real/log.2026-11-19", "four\n");
    bench.append("real/log.2026-11-20", "five\n");
    bench.append("real/log.2026-11-21", "six\n");
    bench.append("real/log.2026-11-22", "not pointed to yet\n");
    point(&bench, "real/log.2026-11-21");
    bench.restart();
    assert_eq!(bench.read(), ["four", "five", "six"]);
    assert_eq!(bench.read_quiet(), [""; 0]);
}

#[test]
fn a_symlinked_log_that_is_rotated_beside_its_target() {
    let mut bench = Bench::new("link");
    fs::create_dir(bench.path("real")).unwrap();
    symlink(bench.path("real/log"), bench.path("link")).unwrap();
    assert_eq!(bench.read(), [""; 0]);
    bench.append("real/log", long("one") + "\n");
    assert_eq!(bench.read().len(), 1);
    bench.append("real/log", "two\n");
    bench.rename("real/log", "real/log.2");
    bench.append("real/log", "three\n");
    bench.rename("real/log", "real/log.1");
    bench.append("real/log", "four\n");
    bench.restart();
    assert_eq!(bench.read(), ["two", "three", "four"]);
}

#[test]
fn what_cannot_be_opened_is_counted_and_tried_again() {
    let mut bench = Bench::with(&["log", "other"], |_| {});
    bench.append("other", "fine\n");
    // A loop of symlinks cannot be opened by anyone, root included.
    symlink(bench.path("log"), bench.path("log")).unwrap();
    assert_eq!(bench.read(), ["fine"]);
    assert!(bench.metric("errors_total/open") >= 1);
    let before = bench.metric("errors_total/open");
    bench.read();
    assert!(bench.metric("errors_total/open") > before);
    fs::remove_file(bench.path("log")).unwrap();
    bench.append("log", "one\n");
    assert_eq!(bench.read(), ["one"]);
}

#[test]
fn a_file_without_permission_is_read_once_it_has_it() {
    if rustix::process::geteuid().is_root() {
        return; // Root may read everything; the loop of symlinks above takes the same path.
    }
    let mut bench = Bench::new("log");
    bench.append("log", "one\n");
    fs::set_permissions(bench.path("log"), fs::Permissions::from_mode(0o0)).unwrap();
    assert_eq!(bench.read(), [""; 0]);
    assert_eq!(bench.metric("errors_total/open"), 1);
    fs::set_permissions(bench.path("log"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(bench.read(), ["one"]);
}

#[test]
fn a_folder_or_fifo_in_the_place_of_a_log_does_no_harm() {
    let mut bench = Bench::with(&["log", "fifo"], |_| {});
    fs::create_dir(bench.path("log")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(bench.path("fifo")).status().unwrap().success());
    assert_eq!(bench.read(), [""; 0]);
    assert!(bench.metric("errors_total/open") >= 2);
    fs::remove_dir(bench.path("log")).unwrap();
    bench.append("log", "one\n");
    assert_eq!(bench.read(), ["one"]);
}

#[test]
fn an_event_looks_only_where_it_points() {
    let mut bench = Bench::new("*.log");
    bench.append("a.log", "a\n");
    bench.append("b.log", "b\n");
    assert_eq!(bench.read().len(), 2);
    bench.append("a.log", "a 2\n");
    bench.append("b.log", "b 2\n");
    let written = HashMap::from([(bench.path("a.log"), ())]).into_keys().collect();
    bench.tail.wake(&Changes { written, ..Changes::default() });
    let filled = bench.tail.fill(bench.now, &mut record);
    assert_eq!(lines(&filled.group), ["a 2"]);
    bench.append("c.log", "c\n");
    let renamed = [bench.path("c.log"), bench.path("unrelated")].into();
    bench.tail.wake(&Changes { renamed, ..Changes::default() });
    let filled = bench.tail.fill(bench.now, &mut record);
    assert_eq!(lines(&filled.group), ["c"]);
}
