//! What happened while greypit was down.

use super::*;

/// A bench with `log` holding one line that is a record and one, written while greypit is down, that is not.
fn stopped(pattern: &str) -> Bench {
    let mut bench = Bench::new(pattern);
    bench.append("log", long("read") + "\n");
    assert_eq!(bench.read().len(), 1);
    bench.append("log", "unread\n");
    bench
}

#[test]
fn reading_goes_on_at_the_byte() {
    let mut bench = stopped("log");
    bench.restart();
    assert_eq!(bench.read(), ["unread"]);
    bench.restart();
    assert_eq!(bench.read(), [""; 0]);
}

#[test]
fn what_was_not_durable_is_read_again() {
    let mut bench = stopped("log");
    bench.sync();
    assert_eq!(bench.read(), ["unread"]);
    bench.crash();
    assert_eq!(bench.read(), ["unread"]);
}

#[test]
fn rotated_once_or_often_by_rename() {
    for names in [&["log.1"][..], &["log.2", "log.1"], &["log-20261119", "log-20261120"]] {
        let mut bench = stopped("log");
        bench.append("log.9", "finished long ago\n");
        fs::File::open(bench.path("log.9")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        for (i, name) in names.iter().enumerate() {
            bench.rename("log", name);
            bench.append("log", format!("new {i}\n"));
        }
        bench.restart();
        let mut expected = vec!["unread".to_owned()];
        expected.extend((0..names.len()).map(|i| format!("new {i}")));
        assert_eq!(bench.read_quiet(), expected);
        bench.restart();
        assert_eq!(bench.read_quiet(), [""; 0]);
        assert_eq!(bench.metric("errors_total"), 0);
    }
}

#[test]
fn rotated_with_the_new_file_not_there_yet() {
    let mut bench = stopped("log");
    bench.append("log", "half");
    bench.rename("log", "log.1");
    bench.restart();
    assert_eq!(bench.read(), ["unread"]);
    bench.append("log", "new\n");
    assert_eq!(bench.read(), ["new"]);
    assert_eq!(bench.read_quiet(), ["half"]);
}

#[test]
fn rotated_long_ago_is_finished_at_once() {
    let mut bench = stopped("log");
    bench.append("log", "half");
    bench.rename("log", "log.1");
    bench.append("log", "new\n");
    bench.later_by_the_wall(QUIET * 2);
    bench.restart();
    assert_eq!(bench.read(), ["unread", "half", "new"]);
    assert_eq!(bench.metric("files"), 1);
}

#[test]
fn rotated_by_copytruncate_and_then_by_rename() {
    let mut bench = stopped("log");
    bench.copytruncate("log", "log.1");
    bench.append("log", "new 1\n");
    bench.rename("log.1", "log.2");
    bench.rename("log", "log.1");
    bench.append("log", "new 2\n");
    bench.restart();
    assert_eq!(bench.read(), ["unread", "new 1", "new 2"]);
}

#[test]
fn copytruncated_before_anything_was_read() {
    let mut bench = Bench::new("log");
    bench.append("log", "");
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "one\n");
    bench.copytruncate("log", "log.1");
    bench.append("log", "two\n");
    assert_eq!(bench.read(), ["one", "two"]);
}

#[test]
fn rotated_once_or_often_by_copytruncate() {
    let mut bench = stopped("log");
    bench.copytruncate("log", "log.1");
    bench.append("log", "new 1\n");
    bench.restart();
    assert_eq!(bench.read(), ["unread", "new 1"]);
    assert_eq!(bench.read_quiet(), [""; 0]);
    let mut bench = stopped("log");
    bench.copytruncate("log", "log.2");
    bench.append("log", "new 1\n");
    bench.copytruncate("log", "log.1");
    bench.append("log", "new 2\n");
    bench.restart();
    assert_eq!(bench.read(), ["unread", "new 1", "new 2"]);
    bench.restart();
    assert_eq!(bench.read_quiet(), [""; 0]);
}

#[test]
fn deleted_and_created_again_is_counted_as_gone() {
    let mut bench = stopped("log");
    fs::remove_file(bench.path("log")).unwrap();
    bench.append("log", "new\n");
    bench.restart();
    assert_eq!(bench.read_quiet(), ["new"]);
    assert_eq!(bench.metric("errors_total/gone") + bench.metric("truncations_total"), 1, "the inode may be the same");
    let mut bench = stopped("log");
    fs::remove_file(bench.path("log")).unwrap();
    bench.restart();
    assert_eq!(bench.read_quiet(), [""; 0]);
    assert_eq!(bench.metric("errors_total/gone"), 1);
    bench.append("log", "new\n");
    bench.restart();
    assert_eq!(bench.read_quiet(), ["new"]);
}

#[test]
fn compressed_meanwhile_is_counted_and_the_rest_is_read() {
    let mut bench = stopped("log");
    bench.rename("log", "log.2");
    bench.append("log", "new 1\n");
    bench.rename("log.2", "log.2.gz");
    let compressed = bench.path("log.2.gz");
    fs::remove_file(&compressed).unwrap();
    fs::write(&compressed, "compressed").unwrap();
    bench.rename("log", "log.1");
    bench.append("log", "new 2\n");
    bench.restart();
    let read = bench.read_quiet();
    assert_eq!(read, ["new 1", "new 2"]);
}

#[test]
fn copied_to_another_file_system_goes_on() {
    let mut bench = stopped("log");
    fs::copy(bench.path("log"), bench.path("moved")).unwrap();
    fs::remove_file(bench.path("log")).unwrap();
    // Keeps the inode from being used again.
    bench.append("other", "");
    bench.rename("moved", "log");
    bench.restart();
    assert_eq!(bench.read(), ["unread"]);
}

#[test]
fn a_checkpoint_of_another_version_is_refused() {
    let bench = stopped("log");
    let mut recovered = bench.checkpoints();
    for state in recovered.values_mut() {
        *state = b"{\"v\":9,\"files\":[]}".to_vec();
    }
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let error = Tail::new(&bench.configs, &recovered, &metrics, QUIET).unwrap_err().to_string();
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn finished_files_of_patterns_are_forgotten_after_a_day() {
    let mut bench = Bench::new("*.log");
    bench.append("monday.log", "one\n");
    bench.append("tuesday.log", "two\n");
    assert_eq!(bench.read().len(), 2);
    fs::remove_file(bench.path("monday.log")).unwrap();
    assert_eq!(bench.read_quiet(), [""; 0]);
    assert_eq!(bench.checkpoints().len(), 2);
    bench.restart();
    bench.later_by_the_wall(Duration::from_secs(25 * 3600));
    bench.later(Duration::from_secs(60));
    assert_eq!(bench.read(), [""; 0]);
    assert_eq!(bench.checkpoints().len(), 1);
    bench.append("monday.log", "again\n");
    assert_eq!(bench.read(), ["again"]);
}

#[test]
fn a_source_that_no_entry_names_is_forgotten_once_its_file_is_gone() {
    let mut bench = stopped("log");
    let configs = vec![Config::new(bench.path("another").to_str().unwrap())];
    bench.configs = configs;
    bench.restart();
    bench.read();
    assert_eq!(bench.checkpoints().len(), 1, "the entry may come back");
    fs::remove_file(bench.path("log")).unwrap();
    bench.restart();
    bench.read();
    assert_eq!(bench.checkpoints().len(), 0);
}
