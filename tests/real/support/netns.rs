//! A private network for a test: hosts on one wire, each a network namespace
//! of its own, joined by a bridge in another. No packet of it reaches the
//! machine's own networks, and no rule of the machine's is applied to it.
//!
//! ```text
//!  host "server"      host "client"         the bridge's namespace
//!  eth0 ────────┐     eth0 ────────┐        ┌ br0 ┬ tap "vm1" ── QEMU
//!               └ veth "server"    └ veth "client" ┘
//! ```
//!
//! The namespaces are named `gp<process>-<wire>-<host>`. They and every process
//! in them are gone when the [`Wire`] is dropped; what a killed test left is
//! recognised by its process number and removed when the next one starts.
//!
//! Programs are started in a namespace by [`Host::command`]; code of the test
//! itself runs in one by [`Host::enter`], for the sockets that it makes there
//! stay there.

use super::{boot, boot_libraries, run};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where `ip` keeps the names.
const NAMESPACES: &str = "/run/netns";
/// The bridge, in its namespace.
const BRIDGE: &str = "br0";
/// The interface of a host, in its namespace.
pub(crate) const INTERFACE: &str = "eth0";

/// A wire with nothing on it yet; dropping it ends every process on it.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The start of the names of all its namespaces.
    prefix: String,
    bridge: Host,
    router: OnceLock<Router>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        static CLEAN: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        CLEAN.call_once(remove_leftovers);
        let prefix = format!("gp{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bridge = Host { namespace: format!("{prefix}wire") };
        ip(&["netns", "add", &bridge.namespace]);
        let wire = Self { prefix, bridge, router: OnceLock::new() };
        // Ports forward at once: no spanning tree, and no snooping that waits for reports.
        wire.bridge.ip(&format!("link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"));
        wire.bridge.ip(&format!("link set {BRIDGE} up"));
        wire.bridge.enter(|| {
            for table in ["iptables", "ip6tables", "arptables"] {
                // Not there: then the machine filters no bridges.
                let _absent = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{table}"), "0");
            }
        });
        wire
    }

    /// A host of at most 15 letters with an interface on the wire, and an address such
    /// as `10.77.0.1/24`, or none.
    pub(crate) fn host(&self, name: &str, address: Option<&str>) -> Host {
        assert!(name.len() <= 15, "an interface cannot be called {name}");
        let host = Host { namespace: format!("{}{name}", self.prefix) };
        ip(&["netns", "add", &host.namespace]);
        self.bridge.ip(&format!("link add {name} type veth peer name {INTERFACE} netns {}", host.namespace));
        self.bridge.ip(&format!("link set {name} master {BRIDGE} up"));
        host.ip("link set lo up");
        host.ip(&format!("link set {INTERFACE} up"));
        if let Some(address) = address {
            host.ip(&format!("address add {address} brd + dev {INTERFACE}"));
        }
        host
    }

    /// Plugs a host of another wire in here too, with this interface.
    pub(crate) fn join(&self, host: &Host, name: &str, interface: &str, address: &str) {
        self.bridge.ip(&format!("link add {name} type veth peer name {interface} netns {}", host.namespace));
        self.bridge.ip(&format!("link set {name} master {BRIDGE} up"));
        host.ip(&format!("link set {interface} up"));
        host.ip(&format!("address add {address} brd + dev {interface}"));
    }

    /// From now on everybody sees every frame, as on a mirror port: no address is learned.
    pub(crate) fn mirror(&self) {
        self.bridge.ip(&format!("link set {BRIDGE} type bridge ageing_time 0"));
    }

    /// An end of the wire for QEMU, which runs in the bridge's namespace.
    pub(crate) fn tap(&self, name: &str) -> Tap {
        self.router.get_or_init(|| Router::start(&self.bridge));
        self.bridge.ip(&format!("tuntap add {name} mode tap"));
        self.bridge.ip(&format!("link set {name} master {BRIDGE} up"));
        Tap { name: name.to_owned(), bridge: self.bridge.clone() }
    }

    /// Takes a host's plug out.
    pub(crate) fn unplug(&self, host: &str) {
        self.bridge.ip(&format!("link set {host} down"));
    }

    pub(crate) fn plug(&self, host: &str) {
        self.bridge.ip(&format!("link set {host} up"));
    }

    /// The namespace that sees every packet, on the interface that this names.
    pub(crate) fn tapped(&self) -> (&Host, &'static str) {
        (&self.bridge, BRIDGE)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.router.take());
        remove(|name| name.starts_with(&self.prefix));
    }
}

/// A network namespace. It lives as long as its [`Wire`].
#[derive(Debug, Clone)]
pub(crate) struct Host {
    namespace: String,
}

impl Host {
    /// A command in it. It becomes the program itself: its process number is the program's.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(boot("bin/ip"));
        command.args(["netns", "exec", &self.namespace]).arg(program).env("LD_LIBRARY_PATH", boot_libraries());
        command
    }

    /// Runs code in it, on a thread of its own. Sockets belong to where they were made.
    pub(crate) fn enter<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(self.path()).expect("the wire is there");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
                code()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` on its interfaces; the words of the arguments have no spaces.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<_> = ["-n", &self.namespace].into_iter().chain(arguments.split(' ')).collect();
        ip(&arguments)
    }

    /// The IPv4 addresses that it has now, as `10.77.0.1/24`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let shown = self.ip(&format!("-4 -o address show dev {INTERFACE}"));
        shown.lines().filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned())).collect()
    }

    /// The Ethernet address of its interface, as `02:00:…`.
    pub(crate) fn mac(&self) -> String {
        let shown = self.ip(&format!("-o link show dev {INTERFACE}"));
        let (_, rest) = shown.split_once("link/ether ").expect("an Ethernet interface");
        rest.split(' ').next().expect("split gives one").to_owned()
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }
}

/// An end of a [`Wire`] for a virtual machine.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) name: String,
    pub(crate) bridge: Host,
}

/// Answers every router solicitation: there is a router, and it offers nothing.
/// iPXE waits 11 seconds for one where none answers.
#[derive(Debug)]
struct Router {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    fn start(bridge: &Host) -> Self {
        let socket = bridge.enter(router_socket).expect("root may, and the bridge is there");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                answer_solicitation(&socket);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The socket would keep the namespace.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

fn router_socket() -> io::Result<Socket> {
    const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    let index = rustix::net::netdevice::name_to_index(&socket, BRIDGE)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// RFC 4861, 4.1 and 4.2. Nothing comes for a moment, or something else: no matter.
fn answer_solicitation(mut socket: &Socket) {
    const SOLICITATION: u8 = 133;
    const ADVERTISEMENT: u8 = 134;
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut packet = [0; 256];
    if socket.read(&mut packet).is_ok_and(|read| read > 0) && packet[0] == SOLICITATION {
        // No flag is set, and a lifetime of 0 is no default router. The kernel adds the checksum.
        let answer = [ADVERTISEMENT, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let _nobody = socket.send_to(&answer, &SocketAddrV6::new(ALL_NODES, 0, 0, 0).into());
    }
}

fn ip(arguments: &[&str]) -> String {
    run(Command::new(boot("bin/ip")).args(arguments).env("LD_LIBRARY_PATH", boot_libraries()))
}

/// Removes what tests left whose process is no more. Nothing is ours yet: what has our
/// number is of one that had it before.
fn remove_leftovers() {
    remove(|name| {
        let process = name.strip_prefix("gp").and_then(|rest| rest.split_once('-')).map(|(process, _)| process);
        let process = process.and_then(|process| process.parse::<u32>().ok());
        let is_gone = |process: u32| process == std::process::id() || !Path::new(&format!("/proc/{process}")).exists();
        process.is_some_and(is_gone)
    });
}

/// Ends what runs in these namespaces, and takes their names away.
fn remove(which: impl Fn(&str) -> bool) {
    let Ok(names) = std::fs::read_dir(NAMESPACES) else { return };
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| which(name)) {
        // Another test may be removing the same.
        let command = |arguments: [&str; 3]| {
            Command::new(boot("bin/ip")).args(arguments).env("LD_LIBRARY_PATH", boot_libraries()).output()
        };
        let inside = command(["netns", "pids", &name]).map(|output| output.stdout).unwrap_or_default();
        for process in String::from_utf8_lossy(&inside).lines() {
            let _ended_already = Command::new("kill").args(["-KILL", process]).output();
        }
        let _removed_already = command(["netns", "del", &name]);
    }
}
