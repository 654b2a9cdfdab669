use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TIMEOUT: Duration = Duration::from_secs(1);

fn terms(blksize: u16, windowsize: u16, options: bool) -> Terms {
    Terms { blksize, windowsize, timeout: TIMEOUT, option_ack: options.then(|| b"\0\x06".to_vec()) }
}

/// The numbers of the blocks that are to be sent; 0 for the option acknowledgement.
fn sent<R: Read>(transfer: &Transfer<R>) -> Vec<u16> {
    transfer.runs().flat_map(|run| run.bytes.chunks(run.segment)).map(number).collect()
}

fn number(packet: &[u8]) -> u16 {
    match *packet {
        [0, 3, high, low, ..] => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

fn begin(bytes: usize, terms: Terms) -> (Transfer<io::Cursor<Vec<u8>>>, Instant) {
    let now = Instant::now();
    (Transfer::begin(io::Cursor::new(vec![7; bytes]), terms, now).unwrap(), now)
}

/// What an acknowledgement brings.
fn ack<R: Read>(transfer: &mut Transfer<R>, block: u16, now: Instant) -> Vec<u16> {
    match transfer.packet(&Packet::Ack(block), now) {
        Step::Send => sent(transfer),
        Step::Wait => Vec::new(),
        Step::End(end) => panic!("{end:?}"),
    }
}

fn completes<R: Read>(transfer: &mut Transfer<R>, block: u16, now: Instant) -> bool {
    matches!(transfer.packet(&Packet::Ack(block), now), Step::End(End::Complete))
}

#[test]
fn lock_step_without_options() {
    let (mut transfer, now) = begin(1024, terms(512, 1, false));
    assert_eq!(sent(&transfer), [1]);
    assert!(ack(&mut transfer, 2, now).is_empty());
    assert!(ack(&mut transfer, 0, now).is_empty());
    assert_eq!(ack(&mut transfer, 1, now), [2]);
    // The sorcerer's apprentice: a second acknowledgement of the same block brings nothing.
    assert!(ack(&mut transfer, 1, now).is_empty());
    assert_eq!(ack(&mut transfer, 2, now), [3]);
    assert_eq!(transfer.runs().map(|run| run.bytes.len()).collect::<Vec<_>>(), [4]);
    assert!(completes(&mut transfer, 3, now));
    assert_eq!((transfer.bytes(), transfer.blocks(), transfer.retransmits()), (1024, 3, 0));
}

#[test]
fn with_options_block_0_comes_first() {
    let (mut transfer, now) = begin(10, terms(512, 4, true));
    assert_eq!(sent(&transfer), [0]);
    assert!(ack(&mut transfer, 1, now).is_empty());
    assert!(!transfer.has_begun());
    assert_eq!(ack(&mut transfer, 0, now), [1]);
    assert!(transfer.has_begun());
    assert!(completes(&mut transfer, 1, now));
    assert_eq!(transfer.bytes(), 10);

    let (mut transfer, now) = begin(10, terms(512, 1, true));
    let step = transfer.packet(&Packet::Error(8, b"User aborted"), now);
    assert!(matches!(step, Step::End(End::Aborted { code: 8, before_data: true, .. })), "{step:?}");
}

#[test]
fn timeouts_double_and_end() {
    let (mut transfer, begun) = begin(10, terms(512, 1, true));
    assert_eq!(ack(&mut transfer, 0, begun), [1]);
    let mut now = begun;
    for retransmit in 0..RETRANSMITS_MAX {
        assert_eq!(transfer.deadline() - now, TIMEOUT * 2u32.pow(retransmit));
        assert!(matches!(transfer.late(now), Step::Wait));
        now = transfer.deadline();
        assert!(matches!(transfer.late(now), Step::Send));
        assert_eq!(sent(&transfer), [1]);
    }
    now = transfer.deadline();
    assert!(matches!(transfer.late(now), Step::End(End::TimedOut)));
    assert_eq!(transfer.retransmits(), u64::from(RETRANSMITS_MAX));
    assert_eq!(now - begun, TIMEOUT * 63);
}

#[test]
fn who_never_answers_is_gone_soon_whatever_it_asked_for() {
    for (timeout_s, sent_at_s) in [(1, &[1, 3, 7][..]), (4, &[4, 12]), (10, &[10]), (40, &[])] {
        for options in [true, false] {
            let terms = Terms { timeout: Duration::from_secs(timeout_s), ..terms(512, 1, options) };
            let (mut transfer, begun) = begin(1024, terms);
            for at in sent_at_s {
                assert_eq!(transfer.deadline() - begun, Duration::from_secs(*at));
                assert!(matches!(transfer.late(transfer.deadline()), Step::Send));
            }
            assert_eq!(transfer.deadline() - begun, OPENING_MAX);
            assert!(matches!(transfer.late(transfer.deadline()), Step::End(End::TimedOut)));
        }
    }
    let long = Terms { timeout: Duration::from_secs(40), ..terms(512, 1, true) };
    // Who has answered has the time that it asked for.
    let (mut transfer, begun) = begin(1024, long);
    assert_eq!(ack(&mut transfer, 0, begun), [1]);
    let now = transfer.deadline();
    assert!(matches!(transfer.late(now), Step::Send));
    assert_eq!(transfer.deadline() - begun, Duration::from_secs(120));
    assert!(matches!(transfer.late(transfer.deadline()), Step::Send));
}

#[test]
fn progress_gives_the_timeout_back() {
    let (mut transfer, now) = begin(1024, terms(512, 1, false));
    let now = now + TIMEOUT;
    assert!(matches!(transfer.late(now), Step::Send));
    assert_eq!(transfer.deadline() - now, TIMEOUT * 2);
    assert_eq!(ack(&mut transfer, 1, now), [2]);
    assert_eq!(transfer.deadline() - now, TIMEOUT);
}

#[test]
fn a_window_begins_anew_behind_the_last_acknowledged() {
    let (mut transfer, now) = begin(512 * 20, terms(512, 4, false));
    assert_eq!(sent(&transfer), [1, 2, 3, 4]);
    assert_eq!(ack(&mut transfer, 4, now), [5, 6, 7, 8]);
    // Block 7 was lost: 6 is the last in order.
    assert_eq!(ack(&mut transfer, 6, now), [7, 8, 9, 10]);
    assert_eq!(transfer.retransmits(), 2);
    // What is late or of another time says nothing.
    for old in [4, 5, 3, 65_535, 11] {
        assert!(ack(&mut transfer, old, now).is_empty(), "{old}");
    }
    assert_eq!(ack(&mut transfer, 10, now), [11, 12, 13, 14]);
}

#[test]
fn a_repeated_acknowledgement_is_believed_once_a_window() {
    let (mut transfer, now) = begin(512 * 30, terms(512, 4, false));
    assert_eq!(ack(&mut transfer, 4, now), [5, 6, 7, 8]);
    // Block 5 was lost; each of 6, 7 and 8 brings an acknowledgement of 4.
    assert_eq!(ack(&mut transfer, 4, now), [5, 6, 7, 8]);
    assert!(ack(&mut transfer, 4, now).is_empty());
    assert!(ack(&mut transfer, 4, now).is_empty());
    // Had it been an echo, the second copy of the window would be acknowledged again: that must not go on for ever.
    assert_eq!(ack(&mut transfer, 8, now), [9, 10, 11, 12]);
    assert!(ack(&mut transfer, 8, now).is_empty());
    assert_eq!(ack(&mut transfer, 12, now), [13, 14, 15, 16]);
    assert_eq!(ack(&mut transfer, 12, now), [13, 14, 15, 16]);
}

#[test]
fn numbers_go_on_behind_65535() {
    let blocks = 65_536 + 10;
    for windowsize in [1u16, 16] {
        let (mut transfer, now) = begin(8 * blocks, terms(8, windowsize, false));
        let mut got = 0u64;
        loop {
            let numbers = sent(&transfer);
            assert_eq!(numbers[0], (got + 1) as u16);
            got += numbers.len() as u64;
            match transfer.packet(&Packet::Ack(got as u16), now) {
                Step::Send => {}
                Step::End(End::Complete) => break,
                step => panic!("{step:?} at {got}"),
            }
        }
        assert_eq!((got, transfer.bytes()), (blocks as u64 + 1, 8 * blocks as u64));
    }
}

#[test]
fn a_source_that_fails_ends_it() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
    let now = Instant::now();
    assert!(Transfer::begin(Broken, terms(512, 1, false), now).is_err());
    let mut transfer = Transfer::begin(Broken, terms(512, 1, true), now).unwrap();
    assert!(matches!(transfer.packet(&Packet::Ack(0), now), Step::End(End::Source(_))));
}

/// A client of RFC 7440 that acknowledges what is out of order with the last block in order, as firmware does.
struct Client {
    blksize: usize,
    windowsize: u64,
    opening: bool,
    got: Vec<u8>,
    blocks: u64,
    acked: u64,
    done: bool,
}

impl Client {
    fn hears(&mut self, packet: &[u8]) -> Option<u16> {
        if packet[1] == 6 {
            return (self.blocks == 0).then_some(0);
        }
        self.opening = false;
        let data = &packet[DATA_HEADER..];
        if number(packet) != (self.blocks + 1) as u16 || self.done {
            self.acked = self.blocks;
            return Some(self.blocks as u16);
        }
        self.got.extend_from_slice(data);
        self.blocks += 1;
        self.done = data.len() < self.blksize;
        if self.done || self.blocks - self.acked >= self.windowsize {
            self.acked = self.blocks;
            return Some(self.blocks as u16);
        }
        None
    }
}

/// What the network does with the next packets, again and again.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Arrives,
    Lost,
    Twice,
    Late,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_a_bad_network_the_file_arrives_whole_or_the_transfer_fails(
        bytes in 0usize..3000,
        blksize in 8u16..64,
        windowsize in prop_oneof![Just(1u16), 2u16..20],
        options in any::<bool>(),
        fates in proptest::collection::vec(
            prop_oneof![8 => Just(Fate::Arrives), 1 => Just(Fate::Lost), 1 => Just(Fate::Twice), 1 => Just(Fate::Late)],
            1..60,
        ),
    ) {
        let file: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        let begun = Instant::now();
        let mut transfer = Transfer::begin(&file[..], terms(blksize, windowsize, options), begun).unwrap();
        let mut client = Client {
            blksize: blksize.into(), windowsize: windowsize.into(),
            opening: options, got: Vec::new(), blocks: 0, acked: 0, done: false,
        };
        let mut fates = fates.iter().cycle();
        // By time and order: to the client (true) or from it.
        let mut network: BTreeMap<(Duration, u64), (bool, Vec<u8>)> = BTreeMap::new();
        let (mut order, mut packets, mut time) = (0, 0u64, Duration::ZERO);
        let mut post = |network: &mut BTreeMap<_, _>, time: Duration, to_client: bool, packet: &[u8]| {
            let delays: &[u64] = match fates.next() {
                Some(Fate::Lost) => &[],
                Some(Fate::Twice) => &[1, 2],
                Some(Fate::Late) => &[7],
                _ => &[1],
            };
            for delay in delays {
                order += 1;
                network.insert((time + Duration::from_millis(*delay), order), (to_client, packet.to_vec()));
            }
        };
        let mut step = Step::Send;
        let end = loop {
            match step {
                Step::Send => {
                    for packet in transfer.runs().flat_map(|run| run.bytes.chunks(run.segment)) {
                        packets += 1;
                        post(&mut network, time, true, packet);
                    }
                }
                Step::Wait => {}
                Step::End(end) => break end,
            }
            let deadline = transfer.deadline() - begun;
            match network.pop_first() {
                Some(((at, _), (to_client, packet))) if at < deadline => {
                    time = at;
                    step = Step::Wait;
                    if !to_client {
                        step = transfer.packet(&Packet::parse(&packet).unwrap(), begun + time);
                    } else if let Some(block) = client.hears(&packet) {
                        post(&mut network, time, false, &[&[0, 4][..], &block.to_be_bytes()].concat());
                    }
                }
                other => {
                    network.extend(other);
                    time = deadline;
                    step = transfer.late(begun + time);
                }
            }
        };
        let blocks = (bytes / usize::from(blksize)) as u64 + 1;
        prop_assert!(packets <= (blocks * u64::from(windowsize) + 1) * u64::from(RETRANSMITS_MAX + 2), "{packets}");
        prop_assert!(file.starts_with(&client.got));
        match end {
            End::Complete => {
                prop_assert!(client.done);
                prop_assert_eq!(&client.got, &file);
                prop_assert_eq!(transfer.bytes(), bytes as u64);
                prop_assert_eq!(packets, blocks + u64::from(options) + transfer.retransmits());
            }
            End::TimedOut => {}
            end => prop_assert!(false, "{end:?}"),
        }
    }
}
