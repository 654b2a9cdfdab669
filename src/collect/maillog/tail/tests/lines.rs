//! Lines: ends, limits, odd bytes, where reading starts.

use super::*;
use crate::collect::maillog::tail::config::Start;

#[test]
fn a_line_is_handed_on_once_it_has_its_newline() {
    let mut bench = Bench::new("log");
    bench.append("log", "one\ntw");
    assert_eq!(bench.read(), ["one"]);
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "o");
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "\n\nfour\n");
    assert_eq!(bench.read(), ["two", "", "four"]);
    assert_eq!(bench.metric("lines_total"), 4);
    assert_eq!(bench.metric("read_bytes_total"), 14);
    assert_eq!(bench.metric("lag_bytes"), 0);
}

#[test]
fn half_a_line_waits_as_long_as_its_file_stays() {
    let mut bench = Bench::new("log");
    bench.append("log", "half");
    for _ in 0..3 {
        assert_eq!(bench.read_quiet(), [""; 0]);
    }
    assert_eq!(bench.metric("lag_bytes"), 4);
    bench.restart();
    assert_eq!(bench.read_quiet(), [""; 0]);
    bench.append("log", " whole\n");
    assert_eq!(bench.read(), ["half whole"]);
}

#[test]
fn every_byte_but_the_newline_passes() {
    let mut bench = Bench::new("log");
    bench.append("log", b"\0nul\0\n\xff\xfe \xc3\nwith cr\r\n\n");
    assert_eq!(bench.read(), ["\\x00nul\\x00", "\\xff\\xfe \\xc3", "with cr\\r", ""]);
}

#[test]
fn a_line_over_the_limit_is_cut_and_its_neighbours_are_not() {
    let mut bench = Bench::new("log");
    let exact = "e".repeat(1024);
    let over = "o".repeat(1025);
    bench.append("log", format!("a\n{exact}\nb\n{over}\nc\n{}\nd\n", "h".repeat(1 << 20)));
    let cut = |c: &str| format!("{}…", c.repeat(1024));
    assert_eq!(bench.read(), ["a", &exact, "b", &cut("o"), "c", &cut("h"), "d"]);
    assert_eq!(bench.metric("truncated_lines_total"), 2);
    assert_eq!(bench.metric("lines_total"), 7);
}

#[test]
fn the_rest_of_a_cut_line_is_skipped_across_a_restart() {
    let mut bench = Bench::new("log");
    bench.append("log", "x".repeat(3000));
    assert_eq!(bench.read(), [format!("{}…", "x".repeat(1024))]);
    bench.restart();
    bench.append("log", "y".repeat(3000));
    assert_eq!(bench.read(), [""; 0]);
    bench.restart();
    bench.append("log", "z\nnext\n");
    assert_eq!(bench.read(), ["next"]);
}

#[test]
fn the_largest_limit_fits_the_buffer() {
    let mut bench = Bench::with(&["log"], |config| config.max_line = Size(1 << 20));
    let (exact, over) = ("e".repeat(1 << 20), "o".repeat((1 << 20) + 1));
    bench.append("log", format!("{exact}\n{over}\nend\n"));
    assert_eq!(bench.read(), [exact, format!("{}…", "o".repeat(1 << 20)), "end".into()]);
}

#[test]
fn a_group_ends_when_it_is_full_and_the_next_goes_on() {
    let mut bench = Bench::new("log");
    let written: Vec<String> = (0..20_000).map(|i| long(&format!("line {i}"))).collect();
    bench.append("log", written.join("\n") + "\n");
    assert_eq!(bench.read(), written);
    assert!(bench.groups.len() > 10);
    let limit = greypit_pipeline::event::GROUP_BYTES_TARGET + 4096;
    assert!(bench.groups.iter().all(|group| group.bytes() < limit && group.checkpoints().len() == 1));
}

#[test]
fn start_at_the_end_skips_only_what_is_there_at_the_first_start() {
    let mut bench = Bench::with(&["log*"], |config| config.start = Start::End);
    bench.append("log-a", "old\nold\nhal");
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log-a", "f\nnew\n");
    bench.append("log-b", "later file\n");
    let mut read = bench.read();
    read.sort();
    assert_eq!(read, ["half", "later file", "new"]);
    bench.append("log-a", "more\n");
    bench.restart();
    assert_eq!(bench.read(), ["more"]);
}

#[test]
fn start_at_the_end_within_an_endless_line_and_in_an_empty_file() {
    let mut bench = Bench::with(&["log"], |config| config.start = Start::End);
    bench.append("log", "x".repeat(1 << 20));
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "rest\nline\n");
    assert_eq!(bench.read(), ["line"]);
    let mut bench = Bench::with(&["log"], |config| config.start = Start::End);
    bench.append("log", "");
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "line\n");
    assert_eq!(bench.read(), ["line"]);
}

#[test]
fn start_at_the_end_does_not_skip_a_file_that_appears_later() {
    let mut bench = Bench::with(&["log"], |config| config.start = Start::End);
    assert_eq!(bench.read(), [""; 0]);
    bench.append("log", "first\n");
    assert_eq!(bench.read(), ["first"]);
}
