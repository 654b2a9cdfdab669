//! The threads together, over loopback: no root, so from ports of the kernel's choice and without packet sockets.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use dhcproto::v4::{Architecture, DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable};
use greypit_pipeline::health::State;
use greypit_pipeline::submit::testing::{Queue, queue};
use prometheus::Registry;

use super::*;
use crate::collect::boot::arp_table::ArpTable;
use crate::collect::boot::audit::Audit;
use crate::collect::boot::files::Root;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::catalog::Catalog;
use crate::collect::boot::machines::{Machine, Machines};
use crate::collect::boot::net::Networks;
use crate::collect::boot::sessions::Sessions;

const WAIT: Duration = Duration::from_secs(120);

/// The machine's address; loopback has all of 127/8.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
const CARD: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

/// A running server, and a client with an address.
struct Running {
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    health: Health,
    registry: Registry,
    events: Queue,
    /// Sends to the server's port.
    client: UdpSocket,
    /// Sends to the boot server's.
    firmware: UdpSocket,
}

fn start(data_dir: &Path) -> Running {
    let client = UdpSocket::bind((CLIENT, 0)).unwrap();
    client.set_read_timeout(Some(WAIT)).unwrap();
    let sockets = Sockets::on_loopback(client.local_addr().unwrap().port());
    let server = sockets.server.as_ref().unwrap().local_addr().unwrap().as_socket().unwrap();
    client.connect(server).unwrap();
    let boot = sockets.boot.as_ref().unwrap().local_addr().unwrap().as_socket().unwrap();
    let firmware = UdpSocket::bind((CLIENT, 0)).unwrap();
    firmware.set_read_timeout(Some(WAIT)).unwrap();
    firmware.connect(boot).unwrap();

    let registry = Registry::new();
    let (world, events) = world(data_dir, sockets.interface.clone(), &registry);
    let (bound, stop) = (Bound { sockets: vec![sockets] }, CancellationToken::new());
    let health = Health::new();
    let tasks = spawn(bound, world, data_dir, &health, Metrics::new(&registry).unwrap(), stop.clone()).unwrap();
    Running { tasks, stop, health, registry, events, client, firmware }
}

/// One machine, [`CARD`], on an interface, and the other end of its audit.
pub(super) fn world(data_dir: &Path, interface: Interface, registry: &Registry) -> (Arc<World>, Queue) {
    let (submit, events) = queue(1 << 20);
    let config = super::super::Config::default();
    let mut machines = Machines::default();
    let machine = Machine {
        hostname: "m1".to_owned(),
        ip: Some(CLIENT),
        macs: vec![CARD],
        kernel: Some("vmlinuz".to_owned()),
        ..Machine::default()
    };
    machines.add(Ipv4Addr::LOCALHOST, machine);
    let world = Arc::new(World {
        networks: Networks::new(&config, vec![interface]).unwrap(),
        config,
        machines: Catalog::of(machines),
        sessions: Arc::new(Sessions::new(Duration::from_secs(1800))),
        root: Root::open(data_dir).unwrap(),
        audit: Audit::new(submit, registry).unwrap().into(),
        arp: ArpTable::default(),
        names: super::super::dns::names::Names::default(),
    });
    (world, events)
}

impl Running {
    /// Asks for the lease to go on, and gives the answer.
    fn renew(&self, xid: u32) -> Message {
        ask(&self.client, request(xid))
    }

    fn counted(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metrics = family.get_metric().iter();
        let mut of = metrics.filter(|metric| metric.get_label().iter().all(|pair| pair.value() == label));
        of.next().map_or(0.0, |metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
    }

    async fn stop(self) -> Queue {
        self.stop.cancel();
        for task in self.tasks {
            tokio::time::timeout(WAIT, task).await.unwrap().unwrap();
        }
        self.events
    }
}

fn request(xid: u32) -> Message {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootRequest).set_htype(HType::Eth).set_chaddr(&CARD.0).set_ciaddr(CLIENT).set_xid(xid);
    message.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
    message
}

fn ask(socket: &UdpSocket, message: Message) -> Message {
    socket.send(&message.to_vec().unwrap()).unwrap();
    let mut answer = [0; 1500];
    let length = loop {
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    Message::from_bytes(&answer[..length]).unwrap()
}

#[tokio::test]
async fn firmware_that_asks_the_boot_port_is_answered_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path());
    let mut message = request(0x4011);
    message.opts_mut().insert(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00000:UNDI:002001".to_vec()));
    message.opts_mut().insert(DhcpOption::ClientSystemArchitecture(Architecture::from(0)));
    // The socket takes nothing that comes from elsewhere.
    let answer = ask(&running.firmware, message);
    assert_eq!((answer.xid(), answer.yiaddr()), (0x4011, Ipv4Addr::UNSPECIFIED));
    assert!(answer.fname().is_some_and(|file| file.starts_with(b"undionly.kpxe")), "{answer:?}");
    assert_eq!(running.counted("greypit_dhcp_addresses", "leased"), 0.0);
    running.stop().await;
}

#[tokio::test]
async fn leases_that_cannot_be_read_keep_dhcp_from_answering_and_nothing_else_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("boot")).unwrap();
    std::fs::write(folder.path().join("boot/leases"), b"no leases").unwrap();
    let running = start(folder.path());
    assert!(running.tasks.is_empty());
    let state = running.health.parts()["dhcp"].clone();
    assert!(matches!(&state, State::Held { reason, .. } if reason.contains("leases")), "{state:?}");
}

#[tokio::test]
async fn a_renewal_is_acknowledged_recorded_and_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path());
    let answer = running.renew(0x1234);
    eprintln!("{answer:?}");
    assert_eq!(answer.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!((answer.xid(), answer.yiaddr(), answer.chaddr()), (0x1234, CLIENT, &CARD.0[..]));
    let server = answer.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(server, Some(&DhcpOption::ServerIdentifier(Ipv4Addr::LOCALHOST)));

    let registry = running.registry.clone();
    running.client.send(b"no DHCP at all").unwrap();
    assert_eq!(running.renew(0x1235).xid(), 0x1235);
    assert_eq!(running.counted("greypit_dhcp_messages_total", "request"), 2.0);
    assert_eq!(running.counted("greypit_dhcp_messages_total", "malformed"), 1.0);
    let events = running.stop().await;
    let commits = registry.gather();
    let commits = commits.iter().find(|family| family.name() == "greypit_dhcp_commit_seconds").unwrap();
    assert_eq!(commits.get_metric()[0].get_histogram().get_sample_count(), 2);
    let mut decisions = Vec::new();
    while let Some(group) = events.next(Duration::ZERO) {
        for (kind, body) in group.iter() {
            assert_eq!(kind.as_str(), "dhcp");
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            decisions.push((body["message"].to_string(), body.get("unsent").cloned()));
        }
    }
    assert_eq!(decisions.len(), 3, "{decisions:?}");
    assert!(decisions.iter().all(|(_, unsent)| unsent.is_none()), "{decisions:?}");

    let again = start(folder.path());
    // The gauges are set at once, and the answer comes after that.
    assert_eq!(again.renew(0x1236).yiaddr(), CLIENT);
    assert_eq!(again.counted("greypit_dhcp_addresses", "leased"), 1.0);
    again.stop().await;
}
