//! What `deploy/` says of the daemon is true of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use greypit::config::{Config, Loaded};
use greypit::run::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file of the repository")
}

/// The metrics that a text names.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("greypit_") || word.starts_with("process_")).collect()
}

/// Those whose series begin with a kind's first event, or a partition to ship.
const LATER: [&str; 2] = ["greypit_kafka_missing_events_total", "greypit_kafka_consumer_lag"];

/// What the boot collector counts: it needs packet sockets, so it does not run in these tests.
fn is_of_boot(name: &str) -> bool {
    ["boot", "dhcp", "tftp", "dns", "power"].iter().any(|part| {
        let rest = name.strip_prefix("greypit_").and_then(|rest| rest.strip_prefix(part));
        rest.is_some_and(|rest| rest.starts_with('_'))
    })
}

/// The sources of the boot collector.
fn boot_sources(folder: &Path) -> Vec<String> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the repository").flatten() {
        match entry.path() {
            path if path.is_dir() => sources.extend(boot_sources(&path)),
            path => sources.push(fs::read_to_string(path).expect("a source")),
        }
    }
    sources
}

#[test]
fn every_metric_of_the_alerts_for_boot_is_registered_by_that_name() {
    let sources = boot_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/collect/boot"));
    let rules = read("deploy/prometheus/greypit.rules.yml");
    let named: Vec<_> = metrics(&rules).into_iter().filter(|name| is_of_boot(name)).collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        let at = name["greypit_".len()..].find('_').map_or(0, |at| "greypit_".len() + at + 1);
        let (prefix, rest) = name.split_at(at);
        let registered = |source: &String| {
            source.contains(&format!("Register::new(registry, \"{prefix}\")"))
                && source.contains(&format!("\"{rest}\""))
        };
        assert!(sources.iter().any(registered), "{name}");
    }
}

/// What a daemon with every part says of itself right after its start.
async fn scraped(folder: &Path, sections: &str) -> String {
    let file = folder.join("greypit.toml");
    let path = folder.display();
    let config = format!(
        "data_dir = \"{path}/data\"\n[syslog]\nudp = [\"127.0.0.1:0\"]\ntcp = [\"127.0.0.1:0\"]\n\
         [milter]\nlisten = [\"unix:{path}/sock\"]\n[[maillog]]\npath = \"{path}/maillog\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\n{sections}"
    );
    fs::write(&file, config).expect("write the config");
    let gateway = Gateway::start(&Loaded::read(Some(&file)).expect("a valid config")).await.expect("it starts");
    let address = gateway.addresses().iter().find_map(|line| line.strip_prefix("http ")?.split(' ').next());
    let mut stream = TcpStream::connect(address.expect("it answers HTTP")).await.expect("it answers");
    let request = b"GET /metrics HTTP/1.1\r\nHost: greypit\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    gateway.stop().await;
    answer
}

/// The metrics of a scrape.
fn there(answer: &str) -> BTreeSet<&str> {
    answer.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_alerts_is_there_from_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let answer = scraped(folder.path(), "").await;
    let rules = read("deploy/prometheus/greypit.rules.yml");
    let mut named = metrics(&rules);
    named.retain(|name| !name.starts_with("greypit_kafka_") && !is_of_boot(name));
    assert!(named.len() > 15, "{named:?}");
    let there = there(&answer);
    let missing: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{answer}");
    assert!(!answer.contains("greypit_kafka_"), "without Kafka there is nothing to say of it:\n{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_alerts_for_kafka_is_there_while_the_brokers_are_away() {
    let folder = tempfile::tempdir().expect("a folder");
    // A port that nobody is given.
    let answer = scraped(folder.path(), "[kafka]\nbrokers = \"127.0.0.1:1\"\n").await;
    let rules = read("deploy/prometheus/greypit.rules.yml");
    let mut named = metrics(&rules);
    named.retain(|name| !LATER.contains(name) && !is_of_boot(name));
    assert!(named.iter().filter(|name| name.starts_with("greypit_kafka_")).count() > 5, "{named:?}");
    let there = there(&answer);
    let missing: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{answer}");
}

#[test]
fn every_alert_has_a_test() {
    let (rules, tests) =
        (read("deploy/prometheus/greypit.rules.yml"), read("deploy/prometheus/greypit.rules.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert}");
    }
}

#[test]
fn the_unit_leaves_room_for_the_defaults() {
    let unit = read("deploy/systemd/greypit.service");
    let number = |key: &str| -> u64 {
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{key} is a number"))
    };
    let config = Config::default();
    assert!(Duration::from_secs(number("TimeoutStopSec")) > config.batch.drain_timeout.0 + Duration::from_secs(10));
    assert!(number("LimitNOFILE") as usize > config.milter.max_connections + config.syslog.max_connections + 1000);
}

#[test]
fn the_drop_in_for_boot_gives_two_capabilities_and_no_more() {
    let drop_in = read("deploy/systemd/greypit-boot.conf");
    let value = |key: &str| drop_in.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(value(key), Some("CAP_NET_RAW CAP_NET_BIND_SERVICE"));
    }
    assert_eq!(value("RestrictAddressFamilies"), Some("AF_PACKET AF_NETLINK"));
    // An address that comes late from elsewhere is a failed start, which is tried again.
    assert_eq!(value("RestartPreventExitStatus"), Some(""));
    let keys: Vec<_> = drop_in.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let others = keys.iter().filter(|key| !key.starts_with('#')).count();
    assert_eq!(others, 7, "{keys:?}: nothing else is loosened, above all not User=");
}
