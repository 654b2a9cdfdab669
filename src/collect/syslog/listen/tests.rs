//! Bytes in any portions, without sockets; what `bind` refuses; and, in [`live`], the whole way through a pipeline.

mod live;

use super::intake::{Intake, Split};
use super::*;
use crate::collect::syslog::frame::{FrameError, Splitter};
use greypit_pipeline::units::Size;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};

fn batch(message_bytes_max: usize) -> Batch {
    Batch {
        recorder: Recorder::new(TimeZone::UTC, "mx1"),
        group: Group::new(),
        tally: Tally::default(),
        message_bytes_max,
    }
}

/// The messages of a group. What was no syslog is all in `message`.
fn messages(group: &Group) -> Vec<String> {
    let message = |body: &[u8]| {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        body["message"].as_str().unwrap().to_owned()
    };
    group.iter().map(|(_, body)| message(body)).collect()
}

/// Feeds a connection's bytes in the given portions and ends the stream.
fn feed<'a>(portions: impl IntoIterator<Item = &'a [u8]>, max: usize) -> (Batch, Option<FrameError>) {
    let mut intake = Intake::new(Splitter::new(max));
    let mut batch = batch(max);
    let received: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    for mut portion in portions {
        while !portion.is_empty() {
            let space = intake.space();
            assert!(!space.is_empty(), "no room to read into");
            let n = space.len().min(portion.len());
            space[..n].copy_from_slice(&portion[..n]);
            intake.filled(n);
            portion = &portion[n..];
            while match intake.split(&mut batch, received, Peer::None, false) {
                Ok(split) => split == Split::Full,
                Err((error, _)) => return (batch, Some(error)),
            } {}
        }
    }
    loop {
        match intake.split(&mut batch, received, Peer::None, true) {
            Ok(Split::Full) => {}
            Ok(Split::All) => return (batch, None),
            Err((error, _)) => return (batch, Some(error)),
        }
    }
}

fn whole(stream: &[u8], max: usize) -> (Batch, Option<FrameError>) {
    feed([stream], max)
}

const A: &str = "<13>1 2026-11-20T12:55:01Z mx1 app 1 - - first";
const B: &str = "<13>1 2026-11-20T12:55:02Z mx1 app 1 - - second";

fn counted(text: &str) -> String {
    format!("{} {text}", text.len())
}

#[test]
fn lines_end_with_lf_or_crlf_and_the_last_may_lack_it() {
    let (batch, error) = whole(format!("{A}\n{B}\r\n{A}").as_bytes(), 4096);
    assert_eq!((messages(&batch.group), error), (vec!["first".into(), "second".into(), "first".into()], None));
    assert_eq!(batch.tally.messages, 3);
    assert_eq!(batch.tally.events, [0, 0, 3]);
}

#[test]
fn counted_frames_may_hold_line_feeds() {
    let (batch, error) = whole(format!("{}{}", counted(&format!("{A}\nmore")), counted(B)).as_bytes(), 4096);
    assert_eq!((messages(&batch.group), error), (vec!["first\nmore".into(), "second".into()], None));
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_messages() {
    let text = format!("{A}\n{}{B}\r\n\0{}{A}", counted(B), counted(A));
    let (expected, _) = whole(text.as_bytes(), 4096);
    assert_eq!(expected.tally.messages, 5);
    for at in 0..=text.len() {
        let (head, tail) = text.as_bytes().split_at(at);
        let (batch, error) = feed([head, tail], 4096);
        assert_eq!((&batch.group, &batch.tally, error), (&expected.group, &expected.tally, None), "cut at {at}");
    }
    let (batch, error) = feed(text.as_bytes().chunks(1), 4096);
    assert_eq!((batch.group, error), (expected.group, None));
}

#[test]
fn nul_bytes_inside_a_line_do_not_end_it() {
    let (batch, error) = whole(format!("{A}\0x\n{B}\0\n").as_bytes(), 4096);
    assert_eq!((messages(&batch.group), error), (vec!["first\0x".into(), "second".into()], None));
}

#[test]
fn an_oversized_line_is_cut_and_its_neighbours_are_whole() {
    let long = format!("{A}{}", "x".repeat(600_000));
    let (batch, error) = whole(format!("{B}\n{long}\n{B}\n").as_bytes(), 4096);
    let found = messages(&batch.group);
    assert_eq!((found.len(), error, batch.tally.cut), (3, None, 1));
    assert_eq!((found[0].as_str(), found[2].as_str()), ("second", "second"));
    assert_eq!(found[1].len(), 4096 - (A.len() - "first".len()));
}

#[test]
fn a_line_as_long_as_the_limit_is_whole() {
    let limit = MESSAGE_BYTES_MAX as usize;
    let long = format!("{A}{}", "x".repeat(limit - A.len()));
    let (batch, error) = whole(format!("{long}\n{B}\n").as_bytes(), limit);
    let found = messages(&batch.group);
    assert_eq!((found.len(), error, batch.tally.cut, batch.tally.unfit), (2, None, 0, 0));
    assert_eq!(found[0].len(), limit - A.len() + "first".len());
}

#[test]
fn a_hostile_count_ends_the_stream_and_what_came_before_it_is_kept() {
    for (count, expected) in [
        ("99999999999 x", FrameError::CountTooLong),
        ("9999 x", FrameError::CountTooLarge),
        ("12x", FrameError::CountNotANumber),
    ] {
        let (batch, error) = whole(format!("{A}\n{count}").as_bytes(), 4096);
        assert_eq!((messages(&batch.group), error), (vec!["first".into()], Some(expected)));
    }
}

#[test]
fn a_counted_frame_that_is_cut_off_is_an_error() {
    let (batch, error) = whole(format!("{}{}", counted(A), &counted(B)[..20]).as_bytes(), 4096);
    assert_eq!((messages(&batch.group), error), (vec!["first".into()], Some(FrameError::CutOff)));
}

#[test]
fn half_a_character_at_the_end_stays_valid_json_with_the_exact_bytes() {
    let mut stream = A.as_bytes().to_vec();
    stream.extend_from_slice(&"ä".as_bytes()[..1]);
    let (batch, _) = whole(&stream, 4096);
    let (_, body) = batch.group.iter().next().unwrap();
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["message"], "first\u{fffd}");
    assert!(body["raw_base64"].is_string());
}

#[test]
fn a_full_group_stops_the_splitter_until_it_is_taken() {
    let mut intake = Intake::new(Splitter::new(4096));
    let mut batch = batch(4096);
    let line = format!("{A}{}\n", "x".repeat(1000)).into_bytes();
    let received = Timestamp::now();
    let mut pushed = 0;
    let full = loop {
        let space = intake.space();
        let n = space.len().min(line.len());
        space[..n].copy_from_slice(&line[..n]);
        intake.filled(n);
        assert_eq!(n, line.len());
        pushed += 1;
        if intake.split(&mut batch, received, Peer::None, false).unwrap() == Split::Full {
            break batch.group.len();
        }
    };
    assert_eq!(full, pushed);
    batch.group = Group::new();
    assert_eq!(intake.split(&mut batch, received, Peer::None, false).unwrap(), Split::All);
    assert!(batch.group.is_empty());
}

#[test]
fn a_datagram_beyond_the_limit_is_cut_and_counted() {
    let mut batch = batch(500);
    batch.add(format!("{A}{}", "x".repeat(1000)).as_bytes(), Timestamp::now(), Peer::None);
    assert_eq!((batch.tally.cut, batch.tally.messages, batch.tally.bytes), (1, 1, 500));
}

#[test]
fn a_line_that_is_no_syslog_is_an_event_and_counted_by_reason() {
    let (batch, _) = whole(b"<999>what\n<999>is this\n", 4096);
    assert_eq!(batch.group.len(), 2);
    assert_eq!(batch.tally.parse_errors.len(), 1, "{:?}", batch.tally);
    assert_eq!(batch.tally.parse_errors[0].1, 2);
}

fn only(set: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config { udp: Vec::new(), tcp: Vec::new(), zone: "UTC".to_owned(), ..Config::default() };
    set(&mut config);
    config
}

fn refusal(config: &Config) -> String {
    let text = bind(config).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let text = refusal(&only(|c| c.tcp = vec![address.clone()]));
    assert!(text.starts_with(&format!("syslog.tcp: cannot listen on {address}: ")), "{text}");
    assert!(text.contains("stop that one or choose another port"), "{text}");

    let busy = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let text = refusal(&only(|c| c.udp = vec![address.clone()]));
    assert!(text.starts_with(&format!("syslog.udp: cannot listen on {address}: ")), "{text}");
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let text = refusal(&only(|c| c.tcp = vec!["192.0.2.1:5514".to_owned()]));
    assert!(text.contains("this machine has no such address"), "{text}");
}

#[test]
fn addresses_tell_the_port_that_the_kernel_chose() {
    let bound = bind(&only(|c| {
        c.udp = vec!["127.0.0.1:0".to_owned(), "[::1]:0".to_owned()];
        c.tcp = vec!["127.0.0.1:0".to_owned()];
    }))
    .unwrap();
    let addresses = bound.addresses();
    assert_eq!(addresses.len(), 3);
    assert!(addresses[0].starts_with("udp 127.0.0.1:") && !addresses[0].ends_with(":0"), "{addresses:?}");
    assert!(addresses[1].starts_with("udp [::1]:"), "{addresses:?}");
    assert!(addresses[2].starts_with("tcp 127.0.0.1:") && !addresses[2].ends_with(":0"), "{addresses:?}");
}

#[test]
fn a_stale_socket_is_replaced_and_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    // Not a socket that is closed: a program that another test starts at this moment would hold it for a while.
    let (kind, mode) = (rustix::fs::FileType::Socket, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
    let config = only(|c| {
        c.unix = vec![path.to_str().unwrap().to_owned()];
        c.unix_mode = "0620".to_owned();
    });
    let bound = bind(&config).unwrap();
    assert_eq!(bound.addresses(), [format!("unix {}", path.display())]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o620);
    drop(bound);
    assert!(!path.exists());
}

#[test]
fn a_busy_socket_and_what_is_no_socket_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    let _stream = UnixListener::bind(at("stream")).unwrap();
    std::fs::write(at("file"), "kept").unwrap();
    std::os::unix::fs::symlink(at("datagram"), at("link")).unwrap();
    for (name, reason) in [
        ("datagram", "a living process uses this socket"),
        ("stream", "a living process uses this socket"),
        ("file", "a file that is no socket"),
        ("link", "a symbolic link"),
        ("none/log", "make its directory first"),
    ] {
        let text = refusal(&only(|c| c.unix = vec![at(name)]));
        assert!(text.contains(reason), "{text}");
        assert_eq!(dir.path().join(name).symlink_metadata().is_ok(), name != "none/log");
    }
    assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "kept");
}

#[test]
fn a_later_failure_releases_what_was_bound_before() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("log").to_str().unwrap().to_owned();
    refusal(&only(|c| c.unix = vec![good.clone(), dir.path().to_str().unwrap().to_owned()]));
    assert!(!std::path::Path::new(&good).exists());
}

#[test]
fn a_smaller_buffer_than_asked_for_is_no_error() {
    bind(&only(|c| {
        c.udp = vec!["127.0.0.1:0".to_owned()];
        c.recv_buffer = Size(1 << 30);
    }))
    .unwrap();
}
