//! Starts of machines, packet by packet.

use super::*;

const A: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const B: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57]);
const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const LASTS: Duration = Duration::from_secs(1800);

/// Milliseconds after noon.
fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond("2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap().as_millisecond() + ms).unwrap()
}

fn card(mac: Mac) -> Who {
    Who { mac: Some(mac), ip: None }
}

fn addr(ip: Ipv4Addr) -> Who {
    Who { mac: None, ip: Some(ip) }
}

/// The number of the session that each step of one card is in, from 0; `None` is in none.
fn numbers(steps: &[(i64, Stage)]) -> Vec<Option<usize>> {
    let sessions = Sessions::new(LASTS);
    let mut ids: Vec<Id> = Vec::new();
    let mut number = |id: Id| match ids.iter().position(|known| *known == id) {
        Some(i) => i,
        None => {
            ids.push(id);
            ids.len() - 1
        }
    };
    steps.iter().map(|(ms, stage)| sessions.step(card(A), *stage, at(*ms)).map(&mut number)).collect()
}

#[test]
fn the_id_is_the_card_and_the_time() {
    let sessions = Sessions::new(LASTS);
    let id = sessions.step(card(A), Stage::Firmware, at(123)).unwrap();
    assert_eq!(&*id, "525400123456-20261121T120000.123Z");
    assert_eq!(sessions.of(card(A), at(200)), Some(id));
    assert_eq!(sessions.of(card(B), at(200)), None);
}

#[test]
fn what_begins_a_session() {
    use Stage::*;
    let s = Some(0);
    let next = Some(1);
    let over = LASTS.as_millis() as i64 + 1;
    for (story, steps, wanted) in [
        (
            "a whole start, and the next",
            &[
                (0, Firmware),
                (100, Firmware),
                (900, Loader),
                (3000, Ipxe),
                (4000, Script),
                (5000, Kernel),
                (6000, Initrd),
                (20_000, System),
                (30_000, Syslog),
                (60_000, Firmware),
                (61_000, Firmware),
            ][..],
            &[s, s, s, s, s, s, s, s, s, next, next][..],
        ),
        ("firmware that cannot get beyond itself", &[(0, Firmware), (4000, Firmware), (12_000, Firmware)], &[s, s, s]),
        ("a repetition behind the loader", &[(0, Firmware), (2000, Loader), (2900, Firmware)], &[s, s, s]),
        ("no repetition", &[(0, Firmware), (2000, Loader), (3100, Firmware)], &[s, s, next]),
        (
            "firmware that is iPXE",
            &[(0, Ipxe), (1500, Script), (3000, Ipxe), (4000, Kernel), (4500, Ipxe), (9000, Ipxe), (9500, Script)],
            &[s, s, s, s, s, next, next],
        ),
        (
            "iPXE that firmware loaded asks again behind the kernel",
            &[(0, Firmware), (2000, Ipxe), (4000, Kernel), (9000, Ipxe)],
            &[s, s, s, s],
        ),
        ("a renewal much later", &[(0, Firmware), (9000, System), (over, System)], &[s, s, None]),
        ("the log of a machine that runs", &[(0, Firmware), (over, Syslog)], &[s, None]),
        ("a start much later", &[(0, Firmware), (over, Firmware), (over + 1, Loader)], &[s, next, next]),
        ("files much later", &[(0, Firmware), (over, Kernel)], &[s, next]),
        ("a machine that only asks for an address", &[(0, System), (900, System), (over, System)], &[s, s, None]),
        ("a clock that goes back", &[(over, Firmware), (0, Firmware)], &[s, next]),
    ] {
        assert_eq!(numbers(steps), wanted, "{story}");
    }
}

#[test]
fn stages_have_the_time_and_the_protocol_of_their_first_packet() {
    let sessions = Sessions::new(LASTS);
    sessions.address(A, IP);
    sessions.step(card(A), Stage::Firmware, at(0));
    sessions.step_by(addr(IP), Stage::Loader, Protocol::Tftp, at(1000));
    sessions.step_by(addr(IP), Stage::Loader, Protocol::Http, at(2000));
    sessions.step_by(addr(IP), Stage::Kernel, Protocol::Http, at(5000));
    sessions.step(card(A), Stage::Ipxe, at(6000));
    let saved = sessions.saved();
    let stages: Vec<_> = saved.sessions[0].stages.iter().map(|s| (s.stage, s.at, s.protocol)).collect();
    let wanted = [
        (Stage::Firmware, at(0), Some(Protocol::Dhcp)),
        (Stage::Loader, at(1000), Some(Protocol::Tftp)),
        (Stage::Kernel, at(5000), Some(Protocol::Http)),
        (Stage::Ipxe, at(6000), Some(Protocol::Dhcp)),
    ];
    assert_eq!(stages, wanted);
    assert_eq!(saved.sessions[0].stage(), Stage::Kernel, "it only goes forward");
}

#[test]
fn an_address_is_of_the_card_that_has_it_now() {
    let sessions = Sessions::new(LASTS);
    let [of_a, of_b] = [A, B].map(|mac| sessions.step(card(mac), Stage::Firmware, at(0)).unwrap());
    assert_eq!((sessions.mac_of(IP), sessions.of(addr(IP), at(1))), (None, None));
    sessions.address(A, IP);
    sessions.address(A, IP);
    assert_eq!((sessions.mac_of(IP), sessions.of(addr(IP), at(1))), (Some(A), Some(of_a.clone())));
    assert_eq!(sessions.of_syslog(IP.into(), at(2)), Some(of_a));
    sessions.address(B, IP);
    assert_eq!((sessions.mac_of(IP), sessions.of(addr(IP), at(3))), (Some(B), Some(of_b.clone())));
    assert_eq!(sessions.of_syslog(IP.into(), at(4)), Some(of_b));
    let addrs: Vec<_> = sessions.saved().sessions.iter().map(|session| (session.mac, session.addr)).collect();
    assert_eq!(addrs, [(B, Some(IP)), (A, None)]);
    // A card that is given another address has the old one no more.
    let other = Ipv4Addr::new(10, 0, 0, 8);
    sessions.address(B, other);
    assert_eq!(sessions.of_syslog(IP.into(), at(5)), None);
    assert!(sessions.of_syslog(other.into(), at(5)).is_some());
    // One without a session takes it out of the session that it was in.
    sessions.address(Mac([2, 0, 0, 0, 0, 9]), other);
    assert_eq!(sessions.of_syslog(other.into(), at(6)), None);
    // And it has it until it is said that it has not.
    sessions.address(A, IP);
    sessions.forget(other);
    assert_eq!((sessions.mac_of(other), sessions.mac_of(IP)), (None, Some(A)));
    assert!(sessions.of_syslog(IP.into(), at(7)).is_some());
    sessions.forget(IP);
    assert_eq!((sessions.mac_of(IP), sessions.of_syslog(IP.into(), at(8))), (None, None));
    assert!(sessions.saved().sessions.iter().all(|session| session.addr.is_none()));
}

#[test]
fn an_address_that_was_known_before_the_session_is_its() {
    let sessions = Sessions::new(LASTS);
    sessions.address(A, IP);
    let id = sessions.step(card(A), Stage::Firmware, at(0));
    assert_eq!(sessions.of_syslog(IP.into(), at(1)), None, "it may be given another");
    // Whoever says that he has an address that is another's has not.
    sessions.step(Who { mac: Some(B), ip: Some(IP) }, Stage::Firmware, at(2));
    assert_eq!(sessions.of_syslog(IP.into(), at(3)), None);
    sessions.step(addr(IP), Stage::Loader, at(4));
    assert_eq!(sessions.of_syslog(IP.into(), at(5)), id);
}

#[test]
fn the_first_syslog_message_is_a_stage_and_later_ones_are_none() {
    let sessions = Sessions::new(LASTS);
    assert_eq!(sessions.of_syslog(IP.into(), at(0)), None);
    let id = sessions.step(card(A), Stage::Firmware, at(0)).unwrap();
    sessions.address(A, IP);
    for ms in [5000, 6000] {
        assert_eq!(sessions.of_syslog(IP.into(), at(ms)), Some(id.clone()));
    }
    let logged = |sessions: &Sessions| sessions.saved().sessions[0].stages.last().map(|s| (s.stage, s.at));
    assert_eq!(logged(&sessions), Some((Stage::Syslog, at(5000))));
    assert_eq!(sessions.of_syslog(Ipv4Addr::new(10, 0, 0, 9).into(), at(1)), None);
    assert_eq!(sessions.of_syslog(std::net::Ipv6Addr::LOCALHOST.into(), at(1)), None);
    assert_eq!(sessions.of_syslog(IP.into(), at(1_800_001)), None, "the session is over");
    // The next start has the address from its beginning.
    let next = sessions.step(card(A), Stage::Firmware, at(1_900_000));
    assert_ne!(next, Some(id));
    assert_eq!(sessions.of_syslog(IP.into(), at(1_900_001)), next);
    assert_eq!(logged(&sessions), Some((Stage::Syslog, at(1_900_001))));
}

#[test]
fn the_last_failure_of_a_session_is_kept_and_cut() {
    let sessions = Sessions::new(LASTS);
    sessions.failed(card(A), "nobody's", at(0));
    sessions.address(A, IP);
    sessions.step(card(A), Stage::Firmware, at(0));
    sessions.failed(card(A), "first", at(1));
    sessions.failed(addr(IP), &"ä".repeat(150), at(2));
    let error = sessions.saved().sessions[0].error.clone().unwrap();
    assert_eq!((error.at, error.problem), (at(2), "ä".repeat(100)));
    sessions.failed(card(A), "too late", at(1_800_001));
    assert_eq!(sessions.metrics.failures.get(), 2);
    sessions.step(card(A), Stage::Firmware, at(1_800_002));
    assert_eq!(sessions.saved().sessions[0].error, None, "another start");
}

#[test]
fn whoever_invents_cards_makes_his_own_forgotten() {
    let sessions = Sessions::new(LASTS);
    sessions.address(A, IP);
    sessions.step(card(A), Stage::Firmware, at(0));
    sessions.step(addr(IP), Stage::Loader, at(1));
    let other = Ipv4Addr::new(10, 0, 0, 8);
    for i in 0..3 * SESSIONS_MAX as u32 {
        let [_, b, c, d] = i.to_be_bytes();
        sessions.step(card(Mac([2, 0, 0, b, c, d])), Stage::Firmware, at(10 + i64::from(i) / 10));
        if i == 0 {
            sessions.address(Mac([2, 0, 0, b, c, d]), other);
        }
    }
    let known = sessions.table().by_mac.len();
    assert!(known <= SESSIONS_MAX, "{known}");
    assert_eq!(known as u64 + sessions.metrics.sessions_forgotten.get(), sessions.metrics.begun.get());
    assert_eq!(sessions.metrics.begun.get(), 3 * SESSIONS_MAX as u64 + 1);
    assert!(sessions.of(card(A), at(10)).is_some(), "a machine that boots is not forgotten");
    assert!(sessions.of(card(Mac([2, 0, 0, 0, 0, 0])), at(10)).is_none(), "the oldest invention is");
    assert_eq!(sessions.of_syslog(other.into(), at(10)), None, "and with it what it logs");
    assert!(sessions.of_syslog(IP.into(), at(10)).is_some());
}

#[tokio::test]
async fn sessions_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let begin = || {
        let sessions = Arc::new(Sessions::new(LASTS));
        let stop = tokio_util::sync::CancellationToken::new();
        let task = sessions.keep(dir.path(), &prometheus::Registry::new(), stop.clone()).unwrap();
        (sessions, stop, task)
    };
    let (first, stop, task) = begin();
    first.address(A, IP);
    let id = first.step(card(A), Stage::Firmware, now).unwrap();
    first.address(A, IP);
    first.step_by(card(A), Stage::Loader, Protocol::Tftp, now);
    first.failed(card(A), "a \"thing\"", now);
    first.step(card(B), Stage::System, now);
    stop.cancel();
    task.await.unwrap();
    let (second, stop, task) = begin();
    assert_eq!(second.saved(), first.saved());
    assert_eq!(second.mac_of(IP), Some(A));
    assert_eq!(second.of_syslog(IP.into(), now), Some(id.clone()));
    assert_eq!(second.step(card(A), Stage::Ipxe, now), Some(id));
    stop.cancel();
    task.await.unwrap();
    let read = saved::read(&saved::path(dir.path())).unwrap().unwrap();
    assert_eq!(read, second.saved());
    // What is not right is begun anew.
    for text in ["", "{", "{\"version\":9,\"sessions\":[]}", "[]"] {
        std::fs::write(saved::path(dir.path()), text).unwrap();
        assert!(saved::read(&saved::path(dir.path())).is_err(), "{text}");
        let (third, stop, task) = begin();
        assert_eq!(third.saved().sessions, []);
        stop.cancel();
        task.await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_counted_and_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved::path(dir.path());
    let (sessions, stop) = (Arc::new(Sessions::new(LASTS)), tokio_util::sync::CancellationToken::new());
    let task =
        sessions.keep_every(Duration::from_millis(5), dir.path(), &prometheus::Registry::new(), stop.clone()).unwrap();
    // A folder is in the way.
    std::fs::create_dir(path.with_extension("json.new")).unwrap();
    sessions.step(card(A), Stage::Firmware, Timestamp::now());
    let until = async |reached: &dyn Fn() -> bool| {
        let reached = async {
            while !reached() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), reached).await.expect("within 120 s");
    };
    until(&|| sessions.metrics.unsaved.get() > 0).await;
    std::fs::remove_dir(path.with_extension("json.new")).unwrap();
    until(&|| path.exists()).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(saved::read(&path).unwrap().unwrap(), sessions.saved());
}
