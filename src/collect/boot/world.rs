//! What all protocols share: who somebody is, what may be done for it, and what it gets for a name.
//!
//! TFTP and HTTP both ask [`World::serve`], so that a name means the same in both, and say [`World::fetched`] or
//! [`World::failed`] of what became of it: only a file that has arrived whole takes the machine's session forward.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::Kind;
use jiff::Timestamp;

use super::arp_table::{self, ArpTable};
use super::audit::{Audit, Record};
use super::config::Config;
use super::dns::names::Names;
use super::files::{Content, Denied, Name, Root};
use super::http;
use super::mac::Mac;
use super::machines::catalog::Catalog;
use super::machines::{Boot, Machine, Machines};
use super::net::{Network, Networks};
use super::policy::{self, Verdict, Why};
use super::script;
use super::sessions::{Id, Protocol, Sessions, Stage, Who};

/// One for the collector, shared by its tasks.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) networks: Networks,
    pub(crate) machines: Catalog,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) root: Root,
    /// What leases' clients call themselves: DHCP says it, DNS tells it.
    pub(crate) names: Names,
    /// Who is on our links, as far as the kernel knows.
    pub(crate) arp: ArpTable,
    pub(crate) audit: Arc<Audit>,
}

/// What somebody gets for a name, and what is recorded of it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) who: Who,
    /// The host name of a known machine.
    pub(crate) machine: Option<String>,
    pub(crate) session: Option<Id>,
    /// The name as it was understood; none where it is none.
    pub(crate) name: Option<Name>,
    /// How far the machine is once it has this.
    stage: Option<Stage>,
    pub(crate) content: Result<Content, Nothing>,
}

/// Why somebody gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// Its address is in none of our networks: it gets no answer at all.
    Outside,
    Refused(Why),
    Denied(Denied),
    /// The script cannot be made.
    Script(String),
}

impl Nothing {
    /// For a person, on one line.
    pub(crate) fn why(&self) -> String {
        match self {
            Nothing::Outside => "not in one of our networks".to_owned(),
            Nothing::Refused(why) => why.name().to_owned(),
            Nothing::Denied(denied) => denied.name().to_owned(),
            Nothing::Script(problem) => format!("the script cannot be made: {}", problem.replace('\n', "; ")),
        }
    }
}

impl World {
    /// The files as they are now.
    pub(crate) fn machines(&self) -> Arc<Machines> {
        self.machines.current()
    }

    /// The one policy for whoever has an address in one of our networks; `None` for others. For DNS, where many ask: the
    /// kernel is the last resort, for machines on our links that no DHCP message was seen of.
    pub(crate) fn judge_ip(&self, ip: Ipv4Addr) -> Option<(Who, Verdict)> {
        let network = self.networks.of(ip)?;
        let mac = self.sessions.mac_of(ip).or_else(|| self.neighbour(ip, network, arp_table::SHARED));
        Some(self.judge(ip, mac, network))
    }

    fn judge(&self, ip: Ipv4Addr, mac: Option<Mac>, network: &Network) -> (Who, Verdict) {
        let verdict = policy::judge(&self.machines(), network.server, mac, Some(ip));
        (Who { mac, ip: Some(ip) }, verdict)
    }

    fn neighbour(&self, ip: Ipv4Addr, network: &Network, age_max: Duration) -> Option<Mac> {
        let interface = &self.networks.interfaces.get(network.interface?)?.name;
        self.arp.look_up(ip, interface, age_max)
    }

    /// The card that a file for `ip` goes to. On our links that is the one in the kernel's table, whatever DHCP has seen:
    /// anybody can set an address by hand. Another card of the same machine is no other machine.
    fn card_of(&self, ip: Ipv4Addr, network: &Network) -> Option<Mac> {
        let seen = self.sessions.mac_of(ip);
        let mut found = self.neighbour(ip, network, arp_table::SHARED);
        // Also where nobody knows it: whoever came a moment ago is not in a table that others have shared.
        if found.is_none() || found != seen {
            found = self.neighbour(ip, network, arp_table::FRESH);
        }
        let Some(found) = found.filter(|found| Some(*found) != seen) else { return seen };
        let machines = self.machines();
        let machine_of = |mac| machines.by_mac(network.server, mac);
        if let Some(seen) = seen
            && machine_of(seen).is_some_and(|machine| machine.macs.contains(&found))
        {
            return Some(seen);
        }
        self.sessions.address(found, ip);
        Some(found)
    }

    /// Who asks, before it is looked at what for.
    pub(crate) fn identify(&self, peer: Ipv4Addr, now: Timestamp) -> (Served, Verdict) {
        let Some(network) = self.networks.of(peer) else {
            let who = Who { mac: None, ip: Some(peer) };
            let nobody =
                Served { who, machine: None, session: None, name: None, stage: None, content: Err(Nothing::Outside) };
            return (nobody, Verdict::Refused(Why::Unknown));
        };
        let (who, verdict) = self.judge(peer, self.card_of(peer, network), network);
        let machine = match &verdict {
            Verdict::Known(machine) => Some(machine.hostname.clone()),
            _ => None,
        };
        let content = match &verdict {
            Verdict::Refused(why) => Nothing::Refused(*why),
            _ => Nothing::Denied(Denied::Name),
        };
        let session = self.sessions.of(who, now);
        (Served { who, machine, session, name: None, stage: None, content: Err(content) }, verdict)
    }

    /// What `peer` gets for a name of a request, with its URL's escapes undone. May wait for the disk.
    pub(crate) fn serve(&self, peer: Ipv4Addr, name: &[u8], now: Timestamp) -> Served {
        let (mut served, verdict) = self.identify(peer, now);
        let Ok(name) = Name::of(name) else { return served };
        served.name = Some(name.clone());
        let (Some(machine), Some(network)) = (verdict.machine(), self.networks.of(peer)) else { return served };
        let server = network.server;
        served.stage = self.stage(machine, server, &name);
        served.content = if name.is_script() {
            // Whoever asks for it is iPXE, also where DHCP did not pass here; its template may use the session's id.
            served.session = served.session.or_else(|| self.sessions.step(served.who, Stage::Ipxe, now));
            let facts = script::Facts {
                server,
                base: &self.base(server),
                ip: served.who.ip,
                mac: served.who.mac,
                session: served.session.as_deref(),
            };
            script::make(machine, &facts).map(|text| Content::Made(text.into_bytes())).map_err(Nothing::Script)
        } else {
            self.root.find(&name).map(|(file, size)| Content::File(file, size)).map_err(Nothing::Denied)
        };
        served
    }

    /// Where machines find files: HTTP, and TFTP where HTTP is off.
    pub(crate) fn base(&self, server: Ipv4Addr) -> String {
        http::base(server, self.config.http.port).unwrap_or_else(|| match self.config.tftp.port {
            69 => format!("tftp://{server}"),
            port => format!("tftp://{server}:{port}"),
        })
    }

    fn stage(&self, machine: &Machine, server: Ipv4Addr, name: &Name) -> Option<Stage> {
        let base = self.base(server);
        let is = |text: &str| name.is(text.strip_prefix(&base).unwrap_or(text));
        if name.is_script() {
            Some(Stage::Script)
        } else if matches!(&machine.boot, Boot::File(file) if is(file)) {
            Some(Stage::Loader)
        } else if machine.kernel.as_deref().is_some_and(is) {
            Some(Stage::Kernel)
        } else if machine.initrd.iter().any(|text| is(text)) {
            Some(Stage::Initrd)
        } else {
            self.config.dhcp.loader.values().any(|text| is(text)).then_some(Stage::Loader)
        }
    }

    /// Says that what was served has arrived; the session that this belongs to.
    pub(crate) fn fetched(&self, served: &Served, protocol: Protocol, now: Timestamp) -> Option<Id> {
        match served.stage {
            Some(stage) => self.sessions.step_by(served.who, stage, protocol, now),
            None => served.session.clone(),
        }
    }

    /// Says that it did not.
    pub(crate) fn failed(&self, served: &Served, why: &str, now: Timestamp) {
        let name = served.name.as_ref().map(|name| name.as_bytes().escape_ascii().to_string());
        self.sessions.failed(served.who, &format!("{}: {why}", name.as_deref().unwrap_or("a file")), now);
    }

    /// Begins the record of a transfer.
    pub(crate) fn record(&self, kind: Kind, served: &Served, session: Option<Id>, at: Timestamp) -> Record {
        Record::new(kind, at)
            .known("session", session)
            .known("machine", served.machine.as_ref())
            .known("mac", served.who.mac)
            .known("addr", served.who.ip)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::collect::boot::net::Interface;
    use greypit_pipeline::submit::testing::{Queue, queue};
    use prometheus::Registry;
    use std::path::Path;

    /// A world of `server`/`prefix` with files below `root`, and the other end of its audit.
    pub(crate) fn world(text: &str, server: &str, root: &Path, machines: Machines) -> (World, Queue, Registry) {
        let config: Config = toml::from_str(text).unwrap();
        let interface = Interface::new("lo", 1, super::super::mac::Mac([0; 6]), server.parse().unwrap());
        let (submit, queue) = queue(1 << 24);
        let registry = Registry::new();
        let world = World {
            networks: Networks::new(&config, vec![interface]).unwrap(),
            machines: Catalog::of(machines),
            sessions: Arc::new(Sessions::new(Duration::from_secs(600))),
            root: Root::open(root).unwrap(),
            names: Names::default(),
            arp: ArpTable::of("/nonexistent"),
            audit: Audit::new(submit, &registry).unwrap().into(),
            config,
        };
        (world, queue, registry)
    }

    /// `default/` of `server`, with nothing in it.
    pub(crate) fn everybody(server: &str) -> Machines {
        let mut machines = Machines::default();
        machines.add(server.parse().unwrap(), Machine::default());
        machines
    }

    /// Whether a line of the metrics is there soon: what is counted is counted beside us.
    pub(crate) fn shows(registry: &Registry, line: &str) -> bool {
        let shown = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(120);
        while !shown().contains(line) {
            if std::time::Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// The next event of a queue.
    pub(crate) fn event(queue: &mut Queue) -> serde_json::Value {
        let group = queue.next(Duration::from_secs(120)).expect("an event");
        let (_, body) = group.iter().next().expect("one in the group");
        serde_json::from_slice(body).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(served: &Served) -> Result<Vec<u8>, Nothing> {
        match &served.content {
            Ok(Content::Made(text)) => Ok(text.clone()),
            Ok(Content::File(file, size)) => {
                let mut bytes = vec![0; *size as usize];
                std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
                Ok(bytes)
            }
            Err(nothing) => Err(nothing.clone()),
        }
    }

    #[test]
    fn one_policy_and_one_meaning_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vmlinuz", "initrd", "snponly.efi", "other", "grub"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let server: Ipv4Addr = "10.77.0.1".parse().unwrap();
        let machine = |last: u8, boot| Machine {
            hostname: format!("m{last}"),
            ip: Some(Ipv4Addr::new(10, 77, 0, last)),
            macs: vec![Mac([2, 0, 0, 0, 0, last])],
            boot,
            kernel: Some("/vmlinuz".into()),
            initrd: vec!["http://10.77.0.1/initrd".into()],
            ..Machine::default()
        };
        let mut machines = Machines::default();
        machines.add(server, machine(9, Boot::Script));
        machines.add(server, machine(10, Boot::Off));
        machines.add(server, machine(11, Boot::File("grub".into())));
        let (world, _queue, _) = testing::world("", "10.77.0.1/24", dir.path(), machines);
        let now = Timestamp::UNIX_EPOCH;
        for last in [9, 10, 11] {
            world.sessions.address(Mac([2, 0, 0, 0, 0, last]), Ipv4Addr::new(10, 77, 0, last));
        }
        let serve = |last: u8, name: &str| world.serve(Ipv4Addr::new(10, 77, 0, last), name.as_bytes(), now);

        for (last, name, stage) in [
            (9, "//vmlinuz", Some(Stage::Kernel)),
            (9, "initrd\u{0}", Some(Stage::Initrd)),
            (9, "snponly.efi", Some(Stage::Loader)),
            (9, "other", None),
            (9, "grub", None),
            (11, "grub", Some(Stage::Loader)),
        ] {
            let served = serve(last, name);
            assert_eq!(served.stage, stage, "{name}");
            let wanted = name.trim_matches(['/', '\0']);
            assert_eq!(read(&served).as_deref(), Ok(wanted.as_bytes()), "{name}");
            assert_eq!(served.machine, Some(format!("m{last}")));
        }
        let script = serve(9, "autoexec.ipxe");
        assert!(read(&script).unwrap().starts_with(b"#!ipxe"));
        assert_eq!(script.stage, Some(Stage::Script));
        let began = world.fetched(&script, Protocol::Http, now);
        assert!(began.is_some() && serve(9, "other").session == began);

        assert_eq!(read(&serve(10, "other")), Err(Nothing::Refused(Why::Off)));
        assert_eq!(read(&serve(10, "boot.ipxe")), Err(Nothing::Refused(Why::Off)));
        assert_eq!(read(&serve(12, "other")), Err(Nothing::Refused(Why::Unknown)));
        assert_eq!(read(&serve(9, "../x")), Err(Nothing::Denied(Denied::Name)));
        let outside = world.serve("10.78.0.9".parse().unwrap(), b"other", now);
        assert_eq!(read(&outside), Err(Nothing::Outside));
    }

    /// .9 has two cards and .10 is off; who has .9 is what the table of neighbours says.
    #[test]
    fn an_address_set_by_hand_is_not_the_machine_that_had_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let (server, ip): (Ipv4Addr, _) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 9));
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let machine = |last, macs, boot| {
            let ip = Some(Ipv4Addr::new(10, 77, 0, last));
            Machine { hostname: format!("m{last}"), ip, macs, boot, ..Machine::default() }
        };
        let (other, off) = ((None, Err(Nothing::Refused(Why::Unknown))), (None, Err(Nothing::Refused(Why::Off))));
        let known = (Some("m9".to_owned()), Ok(b"x".to_vec()));
        for (neighbour, wanted, card) in [
            (Some(mac(9)), &known, Some(mac(9))),
            (Some(mac(8)), &known, Some(mac(9))),
            (None, &known, Some(mac(9))),
            (Some(mac(7)), &other, Some(mac(7))),
            (Some(mac(10)), &off, Some(mac(10))),
        ] {
            let mut machines = Machines::default();
            machines.add(server, machine(9, vec![mac(8), mac(9)], Boot::Script));
            machines.add(server, machine(10, vec![mac(10)], Boot::Off));
            let (mut world, _queue, _) = testing::world("", "10.77.0.1/24", dir.path(), machines);
            let line = neighbour.map(|mac| format!("{ip} 0x1 0x2 {mac} * lo\n")).unwrap_or_default();
            std::fs::write(dir.path().join("arp"), format!("titles\n{line}")).unwrap();
            world.arp = ArpTable::of(dir.path().join("arp"));
            world.sessions.address(mac(9), ip);
            let served = world.serve(ip, b"file", Timestamp::UNIX_EPOCH);
            assert_eq!((served.machine.clone(), read(&served)), *wanted, "{neighbour:?}");
            assert_eq!((served.who.mac, world.sessions.mac_of(ip)), (card, card), "{neighbour:?}");
        }
    }

    #[test]
    fn where_files_are_found_follows_the_ports() {
        let dir = tempfile::tempdir().unwrap();
        for (text, base) in [
            ("", "http://10.77.0.1"),
            ("http.port = 8080", "http://10.77.0.1:8080"),
            ("http.port = 0", "tftp://10.77.0.1"),
            ("http.port = 0\ntftp.port = 1069", "tftp://10.77.0.1:1069"),
        ] {
            let (world, ..) = testing::world(text, "10.77.0.1/24", dir.path(), Machines::default());
            assert_eq!(world.base("10.77.0.1".parse().unwrap()), base);
        }
    }
}
