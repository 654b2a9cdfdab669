use greypit_pipeline::health::State;
use greypit_pipeline::submit::testing::Queue;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::*;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::Machines;
use crate::collect::boot::power::control;
use crate::collect::boot::power::schedule::Schedule;
use crate::collect::boot::world::testing::world;

/// Longer than anything here takes on any machine.
const SOON: Duration = Duration::from_secs(120);

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

struct Bench {
    power: Arc<Power>,
    queue: Queue,
    /// Hears what wakes.
    hears: tokio::net::UdpSocket,
    folder: tempfile::TempDir,
}

impl Bench {
    /// web1 with this schedule and "off1", which may not boot, on 127.0.0.1.
    async fn new(section: &str, schedule: &str) -> Bench {
        let mut machines = Machines::default();
        let power = Some(Schedule::parse(schedule).unwrap());
        for (hostname, last, boot, power) in [("web1", 10, Boot::Script, power), ("off1", 11, Boot::Off, None)] {
            machines.add(
                LOOPBACK,
                Machine {
                    hostname: hostname.into(),
                    ip: Some(Ipv4Addr::new(127, 0, 0, last)),
                    macs: vec![Mac([0x52, 0x54, 0, 0, 0, last])],
                    boot,
                    power,
                    ..Machine::default()
                },
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let (world, queue, registry) =
            world(&format!("interface = \"lo\"\n{section}"), "127.0.0.1/8", folder.path(), machines);
        let world = Arc::new(world);
        let hears = tokio::net::UdpSocket::bind((Ipv4Addr::new(127, 255, 255, 255), 0)).await.unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        let power = Power::new(world, metrics, Failures::default(), Health::new(), CancellationToken::new()).unwrap();
        let power = Arc::new(power.with_port(hears.local_addr().unwrap().port()));
        Bench { power, queue, hears, folder }
    }

    fn event(&self) -> serde_json::Value {
        let group = tokio::task::block_in_place(|| self.queue.next(SOON)).expect("an event");
        serde_json::from_slice(group.iter().next().expect("one").1).unwrap()
    }

    /// The last byte of the card that is woken.
    async fn woken(&self) -> u8 {
        let mut buffer = [0; 200];
        let (length, _) = tokio::time::timeout(SOON, self.hears.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(length, wol::PACKET_BYTES);
        buffer[length - 1]
    }

    fn begin(&self, last: &str, now: &str) {
        let due = self.power.due(last.parse().unwrap(), now.parse().unwrap());
        due.into_iter().for_each(|due| self.power.begin(due));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_done_and_what_is_late_is_recorded_as_missed() {
    let bench = Bench::new(
        "power.zone = \"UTC\"\npower.off_command = [\"echo\", \"{{ hostname }} is off\"]",
        "on 07:30\noff 20:30",
    )
    .await;
    bench.begin("2026-11-16T07:29:00Z", "2026-11-16T07:30:00.002Z");
    assert_eq!(bench.woken().await, 10);
    let event = bench.event();
    let text = |event: &serde_json::Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let fields = ["kind", "machine", "mac", "addr", "action", "by", "outcome"].map(|field| text(&event, field));
    assert_eq!(fields, ["power", "web1", "52:54:00:00:00:0a", "127.0.0.10", "on", "schedule", "done"]);

    bench.begin("2026-11-16T20:29:00Z", "2026-11-16T20:30:59Z");
    let event = bench.event();
    assert_eq!(["action", "outcome", "output"].map(|field| text(&event, field)), ["off", "done", "web1 is off"]);

    // A night without power: both are too late, and said.
    bench.begin("2026-11-16T20:00:00Z", "2026-11-17T09:00:00Z");
    for action in ["off", "on"] {
        let event = bench.event();
        assert_eq!(["action", "outcome"].map(|field| text(&event, field)), [action, "missed"]);
        assert!(text(&event, "why").contains("it was due at 2026-11-1"), "{event}");
    }
    // A month: no more than a day of it.
    assert_eq!(
        bench.power.due("2026-10-16T20:00:00Z".parse().unwrap(), "2026-11-17T09:00:00Z".parse().unwrap()).len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_off_that_fails_is_on_the_board_until_one_works() {
    let script = "power.off_command = [\"sh\", \"-c\", \"test -e $0/works\", \"FOLDER\"]";
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(&script.replace("FOLDER", &folder.path().display().to_string()), "off 20:30").await;
    let machines = bench.power.world.machines();
    let (_, machine) = machines.iter().find(|(_, machine)| machine.hostname == "web1").unwrap();
    bench.power.off(machine, "schedule").await.unwrap_err();
    let event = bench.event();
    assert_eq!((&event["outcome"], &event["why"]), (&"failed".into(), &"sh: exit status: 1".into()));
    let state = |bench: &Bench| format!("{:?}", bench.power.health.parts().get("power"));
    assert!(state(&bench).contains("off of web1 127.0.0.10"), "{}", state(&bench));
    assert_eq!(bench.power.metrics.failed.get(), 1);
    std::fs::write(folder.path().join("works"), "").unwrap();
    bench.power.off(machine, "schedule").await.unwrap();
    assert!(matches!(bench.power.health.parts().get("power"), Some(State::Ok)));
    assert_eq!(bench.power.metrics.failed.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_wakes_and_says_why_not() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new("", "never").await;
    let data_dir = bench.folder.path().join("data");
    std::fs::create_dir_all(data_dir.join("boot")).unwrap();
    // One that an earlier run left.
    drop(control::bind(&data_dir).unwrap());
    let path = control::path(&data_dir);
    let serving = tokio::spawn(control::serve(control::bind(&data_dir).unwrap(), bench.power.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let mut stream = BufReader::new(tokio::net::UnixStream::connect(&path).await.unwrap());
    let mut answer = String::new();
    for (line, wanted) in [
        ("wake web1\n", "ok web1 127.0.0.10 52:54:00:00:00:0a: woken through 127.255.255.255\n"),
        ("wake wbe1\n", "no no machine 'wbe1'; there is web1\n"),
        ("wake off1\n", "no off1 127.0.0.11 52:54:00:00:00:0b: boot is off\n"),
        ("sleep\n", "no it understands: wake NAME\n"),
    ] {
        stream.write_all(line.as_bytes()).await.unwrap();
        answer.clear();
        tokio::time::timeout(SOON, stream.read_line(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, wanted);
    }
    assert_eq!(bench.woken().await, 10);
    let uid = rustix::process::getuid().as_raw();
    let events = [bench.event(), bench.event()];
    assert_eq!(events[0]["by"], format!("wake command, uid {uid}"));
    assert_eq!((&events[1]["machine"], &events[1]["outcome"]), (&"off1".into(), &"refused".into()));

    // Too long for a line, and it still ends when told to, with a connection open.
    stream.write_all(&[b'x'; 600]).await.unwrap();
    bench.power.stop.cancel();
    tokio::time::timeout(SOON, serving).await.unwrap().unwrap();
    let long = data_dir.join("x".repeat(100));
    assert!(control::bind(&long).unwrap_err().to_string().contains("too long"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_a_command_and_says_so() {
    let bench = Bench::new("power.off_command = [\"sleep\", \"1000\"]", "off 20:30").await;
    let machines = bench.power.world.machines();
    let (_, machine) = machines.iter().find(|(_, machine)| machine.hostname == "web1").unwrap();
    let (power, machine) = (bench.power.clone(), machine.clone());
    let running = tokio::spawn(async move { power.off(&machine, "schedule").await });
    bench.power.stop.cancel();
    tokio::time::timeout(SOON, running).await.unwrap().unwrap().unwrap_err();
    assert_eq!(bench.event()["why"], "greypit stopped, or bound its interfaces anew, meanwhile");
}

#[test]
fn the_mark_is_kept_and_clocks_that_jump_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("power");
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let (past, now) = (at("2026-11-16T07:29:00Z"), at("2026-11-16T07:30:10Z"));
    assert_eq!(read_mark(&path, now), now);
    write_mark(&path, past);
    assert_eq!(read_mark(&path, now), past);
    assert_eq!(read_mark(&path, at("2026-11-15T00:00:00Z")), at("2026-11-15T00:00:00Z"));

    assert_eq!(advance(past, now), now);
    assert_eq!(advance(now, at("2026-11-16T07:29:50Z")), now, "20 s back: nothing is repeated");
    assert_eq!(advance(now, at("2026-11-16T05:30:10Z")), at("2026-11-16T05:30:10Z"));
    assert_eq!(until_next_minute(past), Duration::from_millis(60_001));
    assert_eq!(until_next_minute(now), Duration::from_millis(50_001));
}
