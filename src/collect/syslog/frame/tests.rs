use super::*;

/// All frames of `stream` given at once, and how it ended.
fn all(stream: &[u8], limit: usize) -> (Vec<(String, bool)>, Step) {
    let mut splitter = Splitter::new(limit);
    let mut frames = Vec::new();
    let mut at = 0;
    loop {
        let buf = &stream[at..];
        match splitter.next(buf, true) {
            Step::Message { consumed, frame, truncated } => {
                frames.push((String::from_utf8_lossy(&buf[frame]).into_owned(), truncated));
                at += consumed;
            }
            Step::Skipped { consumed } => at += consumed,
            end => return (frames, end),
        }
    }
}

fn whole(text: &str) -> (String, bool) {
    (text.to_owned(), false)
}

fn broken(error: FrameError, lost: usize) -> Step {
    Step::Broken { error, lost }
}

#[test]
fn lines_and_counts_in_one_stream() {
    let (frames, end) = all(b"<13>a\n5 <13>b6 <13>c\n<13>d\r\n\0<13>e", 100);
    assert_eq!(frames, [whole("<13>a"), whole("<13>b"), whole("<13>c\n"), whole("<13>d\r"), whole("<13>e")]);
    assert_eq!(end, Step::Need);
}

#[test]
fn a_counted_message_may_contain_line_feeds() {
    assert_eq!(all(b"9 <13>a\nb\nc", 100).0, [whole("<13>a\nb\nc")]);
}

#[test]
fn an_oversized_line_is_cut_and_its_neighbours_are_unharmed() {
    let (frames, end) = all(b"one\nabcdefghijkl\ntwo\n", 5);
    assert_eq!(frames, [whole("one"), ("abcde".to_owned(), true), whole("two")]);
    assert_eq!(end, Step::Need);
}

#[test]
fn a_line_of_exactly_the_limit_is_whole() {
    assert_eq!(all(b"abcde\nf\n", 5).0, [whole("abcde"), whole("f")]);
    assert_eq!(all(b"abcde", 5).0, [whole("abcde")]);
}

#[test]
fn a_bad_count_closes_the_connection() {
    assert_eq!(all(b"101 x", 100), (vec![], broken(FrameError::CountTooLarge, 5)));
    assert_eq!(all(b"12345678 x", 100), (vec![], broken(FrameError::CountTooLong, 10)));
    assert_eq!(all(b"99999999999999999999999999", 100), (vec![], broken(FrameError::CountTooLong, 26)));
    assert_eq!(all(b"5x", 100), (vec![], broken(FrameError::CountNotANumber, 2)));
    assert_eq!(all(b"5", 100), (vec![], broken(FrameError::CutOff, 1)));
    assert_eq!(all(b"5 abc", 100), (vec![], broken(FrameError::CutOff, 5)));
}

#[test]
fn waits_for_the_rest_of_count_message_and_line() {
    let mut s = Splitter::new(100);
    for part in [&b""[..], b"1", b"12", b"12 ", b"12 <13>", b"<13>ab"] {
        let fresh = &mut Splitter::new(100);
        assert_eq!(fresh.next(part, false), Step::Need, "{}", part.escape_ascii());
    }
    assert_eq!(s.next(b"<13>ab", false), Step::Need);
    let step = s.next(b"<13>abc\n<", false);
    assert_eq!(step, Step::Message { consumed: 8, frame: 0..7, truncated: false });
}

#[test]
fn the_largest_message_fits_the_buffer() {
    let s = Splitter::new(9_999_999);
    let mut counted = b"9999999 ".to_vec();
    counted.resize(counted.len() + 9_999_999, b'x');
    assert_eq!(counted.len(), s.buffer_bytes());
    assert!(matches!(s.clone().next(&counted, false), Step::Message { .. }));
    assert_eq!(s.clone().next(&counted[..counted.len() - 1], false), Step::Need);
}

#[test]
fn on_local_streams_nul_ends_a_line_as_syslog_3_has_it() {
    let mut splitter = Splitter::new(8).with_nul_ends();
    let buf = b"<13>a\0<13>b\n<13>longer\0<13>c\0";
    let (mut frames, mut at) = (Vec::new(), 0);
    loop {
        match splitter.next(&buf[at..], true) {
            Step::Message { consumed, frame, truncated } => {
                frames.push((String::from_utf8_lossy(&buf[at..][frame]).into_owned(), truncated));
                assert_eq!(splitter.is_skipping(), truncated);
                at += consumed;
            }
            Step::Skipped { consumed } => at += consumed,
            _ => break,
        }
    }
    assert_eq!(frames, [whole("<13>a"), whole("<13>b"), ("<13>long".to_owned(), true), whole("<13>c")]);
}
