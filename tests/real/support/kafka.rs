//! A real Apache Kafka (KRaft) of one or more brokers, each broker and
//! controller in one, a broker for a child process; and what a test asks it.
//!
//! Clients and the other brokers reach a broker over a [`Link`] that can be
//! cut. Controllers are reached directly, so that a broker that is cut off
//! stays the leader of what it leads, and nobody can reach it.

use super::link::Link;
use super::net::free_port;
use super::{Folder, Process, debian_command, parts_dir, run, wait_for, wait_up_to};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long a broker may take to answer one question.
const ANSWER: Duration = Duration::from_secs(60);
/// The same where it may be away, and is asked again.
const TRY: Duration = Duration::from_secs(5);
/// How long the cluster may take to be whole again after a broker came back.
const WHOLE: Duration = Duration::from_secs(300);

/// A running cluster, and its data.
#[derive(Debug)]
pub(crate) struct Kafka {
    brokers: Vec<Broker>,
    folder: Folder,
}

#[derive(Debug)]
struct Broker {
    id: usize,
    process: Option<Process>,
    link: Link,
    config: PathBuf,
    log: PathBuf,
}

/// A message as kcat reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) value: String,
}

impl Message {
    /// A header that must be there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}: {self:?}"))
    }
}

impl Kafka {
    /// One broker.
    pub(crate) fn start() -> Self {
        Self::start_with(1, &[])
    }

    /// Some brokers with these properties besides, ready for clients.
    pub(crate) fn start_with(count: usize, properties: &[(&str, &str)]) -> Self {
        let folder = Folder::new("kafka");
        let log_config = folder.join("log4j2.yaml");
        std::fs::write(&log_config, LOG4J2).expect("a folder of ours");
        let addr = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let addrs: Vec<_> = (0..count).map(|_| (addr(), addr())).collect();
        let voters: Vec<_> =
            addrs.iter().enumerate().map(|(number, (_, control))| format!("{}@{control}", number + 1)).collect();
        let mut brokers = Vec::new();
        for (number, (clients, control)) in addrs.iter().enumerate() {
            let (id, link) = (number + 1, Link::new(*clients));
            let mut text = format!(
                "node.id={id}\ncontroller.quorum.voters={}\n\
                 listeners=PLAINTEXT://{clients},CONTROLLER://{control}\n\
                 advertised.listeners=PLAINTEXT://{}\nlog.dirs={}\n",
                voters.join(","),
                link.addr(),
                folder.join(&format!("data{id}")).display(),
            );
            let copies = count.min(3);
            text += &format!(
                "offsets.topic.replication.factor={copies}\ntransaction.state.log.replication.factor={copies}\n\
                 default.replication.factor={copies}\n\
                 min.insync.replicas={enough}\ntransaction.state.log.min.isr={enough}\n",
                enough = copies.div_ceil(2),
            );
            text += PROPERTIES;
            text += if count == 1 { ALONE } else { AMONG_OTHERS };
            for (name, value) in properties {
                writeln!(text, "{name}={value}").expect("a String takes everything");
            }
            let config = folder.join(&format!("server{id}.properties"));
            std::fs::write(&config, text).expect("a folder of ours");
            brokers.push(Broker { id, process: None, link, config, log: folder.join(&format!("log{id}")) });
        }
        std::thread::scope(|scope| {
            for broker in &brokers {
                scope.spawn(|| format(broker));
            }
        });
        let mut kafka = Self { brokers, folder };
        (0..count).for_each(|number| kafka.spawn(number));
        kafka.wait_whole();
        kafka
    }

    /// `127.0.0.1:…,127.0.0.1:…`
    pub(crate) fn addrs(&self) -> String {
        let addrs: Vec<_> = self.brokers.iter().map(|broker| broker.link.addr().to_string()).collect();
        addrs.join(",")
    }

    pub(crate) fn count(&self) -> usize {
        self.brokers.len()
    }

    /// Starts a broker that does not run, and does not wait until it is ready.
    pub(crate) fn spawn(&mut self, number: usize) {
        let log_config = self.folder.join("log4j2.yaml");
        let broker = &mut self.brokers[number];
        let log = File::options().create(true).append(true).open(&broker.log).expect("the broker's log file");
        let mut command = java();
        command
            .arg(format!("-Dlog4j2.configurationFile={}", log_config.display()))
            .args(["kafka.Kafka".as_ref(), broker.config.as_os_str()])
            .stdout(log.try_clone().expect("the broker's log file"))
            .stderr(log);
        broker.process = Some(Process::spawn(&format!("Kafka broker {}", broker.id), &mut command));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, number: usize) {
        self.brokers[number].process.take().expect("the broker runs").kill();
    }

    /// SIGTERM: the broker hands over what it leads, and ends.
    pub(crate) fn terminate(&mut self, number: usize) {
        self.brokers[number].process.take().expect("the broker runs").terminate();
    }

    /// Sends a signal such as `STOP` or `CONT`.
    pub(crate) fn signal(&self, number: usize, name: &str) {
        self.brokers[number].process.as_ref().expect("the broker runs").signal(name);
    }

    /// Cuts a broker off from clients and from the other brokers that read
    /// from it.
    pub(crate) fn cut(&self, number: usize) {
        self.brokers[number].link.cut();
    }

    pub(crate) fn mend(&self, number: usize) {
        self.brokers[number].link.mend();
    }

    /// Waits until all brokers are known and every partition has all its
    /// copies.
    pub(crate) fn wait_whole(&mut self) {
        let client = self.client("wait");
        wait_up_to(WHOLE, "all brokers of Kafka", || {
            self.assert_alive();
            self.is_whole(&client).then_some(())
        });
    }

    fn is_whole(&self, client: &BaseConsumer) -> bool {
        let Ok(metadata) = client.fetch_metadata(None, TRY) else { return false };
        let partitions = || metadata.topics().iter().flat_map(|topic| topic.partitions());
        metadata.brokers().len() == self.brokers.len()
            && partitions()
                .all(|partition| partition.leader() >= 0 && partition.isr().len() == partition.replicas().len())
    }

    /// Whether all is as [`Self::wait_whole`] wants it.
    pub(crate) fn whole(&self) -> bool {
        self.is_whole(&self.client("ask"))
    }

    /// Whether this broker answers a client.
    pub(crate) fn answers(&self, number: usize) -> bool {
        let mut config = self.config();
        config.set("bootstrap.servers", self.brokers[number].link.addr().to_string()).set("group.id", "ask");
        let client: BaseConsumer = config.create().expect("a client");
        client.fetch_metadata(None, TRY).is_ok()
    }

    /// Ends the test if a broker has ended by itself.
    pub(crate) fn assert_alive(&mut self) {
        self.brokers.iter_mut().filter_map(|broker| broker.process.as_mut()).for_each(Process::assert_alive);
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.addrs()).set("socket.timeout.ms", "5000");
        config
    }

    fn client(&self, group: &str) -> BaseConsumer {
        let mut config = self.config();
        config.set("group.id", group).set("enable.auto.commit", "false").create().expect("a client")
    }

    fn admin<T>(&self, ask: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> T) -> T {
        let admin = self.config().create().expect("an admin client");
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(ask(&admin, &options))
    }

    /// Makes a topic with this configuration, such as `max.message.bytes`.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let copies = self.brokers.len().min(3) as i32;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(copies));
        let topic = config.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let made = self.admin(async |admin, options| admin.create_topics([&topic], options).await);
        made.expect("Kafka answers")[0].as_ref().expect("a new topic");
    }

    /// Deletes a topic, and waits until it is gone.
    pub(crate) fn delete_topic(&self, name: &str) {
        let deleted = self.admin(async |admin, options| admin.delete_topics(&[name], options).await);
        deleted.expect("Kafka answers")[0].as_ref().expect("a topic");
        wait_for("the topic to be gone", || (!self.topics().contains_key(name)).then_some(()));
    }

    /// Changes the configuration of a topic; what is not named is as at first.
    pub(crate) fn alter_topic(&self, name: &str, config: &[(&str, &str)]) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name));
        let change = config.iter().fold(change, |change, (name, value)| change.set(name, value));
        let altered = self.admin(async |admin, options| admin.alter_configs([&change], options).await);
        altered.expect("Kafka answers")[0].as_ref().expect("a topic");
    }

    /// All topics that are not Kafka's own, with their numbers of partitions.
    pub(crate) fn topics(&self) -> BTreeMap<String, i32> {
        let metadata = self.client("ask").fetch_metadata(None, ANSWER).expect("Kafka answers");
        let topics = metadata.topics().iter().filter(|topic| !topic.name().starts_with("__"));
        topics.map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32)).collect()
    }

    /// The offset behind the last message of each partition, from its leader, once it has one: a broker that is late
    /// with its heartbeat loses what it leads for a moment.
    pub(crate) fn ends(&self, topic: &str) -> BTreeMap<i32, i64> {
        let client = self.client("ask");
        let ask = |partition| client.fetch_watermarks(topic, partition, ANSWER);
        let end = |partition| wait_for("the leader of a partition", || ask(partition).ok()).1;
        (0..self.topics()[topic]).map(|partition| (partition, end(partition))).collect()
    }

    /// The offset that a group has committed of each partition, where it has.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, self.topics()[topic] - 1);
        let committed = self.client(group).committed_offsets(asked, ANSWER).expect("Kafka answers");
        let offsets = committed.elements();
        let offsets = offsets.iter().map(|element| (element.partition(), element.offset()));
        offsets.filter_map(|(partition, offset)| Some((partition, offset.to_raw().filter(|o| *o >= 0)?))).collect()
    }

    /// Sets what a group without members has committed, as far as there are
    /// messages, as an operator may by hand; the metadata of its commits is
    /// gone then.
    pub(crate) fn reset(&self, group: &str, topic: &str, offset: i64) {
        let mut offsets = TopicPartitionList::new();
        for (partition, end) in self.ends(topic) {
            let offset = Offset::Offset(offset.min(end));
            offsets.add_partition_offset(topic, partition, offset).expect("a new partition");
        }
        let client = self.client(group);
        wait_for("the group to be empty", || client.commit(&offsets, CommitMode::Sync).ok());
    }

    /// Sends a message that greypit did not make.
    pub(crate) fn send(&self, topic: &str, partition: i32, key: &str, headers: &[(&str, &str)], value: &[u8]) {
        use rdkafka::message::{Header, OwnedHeaders};
        use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
        // Once, also where the answer to it is late.
        let producer: BaseProducer = self.config().set("enable.idempotence", "true").create().expect("a producer");
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let record = BaseRecord::to(topic).partition(partition).key(key).payload(value).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("room for one message");
        producer.flush(super::WAIT).expect("Kafka answers");
    }

    /// What is in a topic, as kcat reads it.
    pub(crate) fn messages(&self, topic: &str) -> Vec<Message> {
        let text = run(kcat().args(["-C", "-b", &self.addrs(), "-t", topic, "-o", "beginning", "-e", "-q", "-J"]));
        text.lines().map(message).collect()
    }
}

/// Reads kcat's JSON.
fn message(line: &str) -> Message {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |name: &str| value[name].as_i64().unwrap_or_else(|| panic!("no {name}: {line}"));
    let headers = value["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(value["tstype"], "create", "{line}");
    Message {
        partition: number("partition") as i32,
        offset: number("offset"),
        timestamp: number("ts"),
        key: text(&value["key"]),
        headers: headers.chunks(2).map(|header| (text(&header[0]), text(&header[1]))).collect(),
        value: text(&value["payload"]),
    }
}

pub(crate) fn kcat() -> Command {
    debian_command("usr/bin/kcat")
}

/// The start of a command that runs a class of Kafka. Brokers live for
/// minutes: a quick start is worth more than fast code later. It ends with
/// the thread that spawns it, even where that is killed.
pub(crate) fn java() -> Command {
    let jars = parts_dir().join("kafka");
    assert!(jars.exists(), "{} is missing: run tests/run.sh once", jars.display());
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
        .args(["-Xms32m", "-Xmx256m", "-cp"])
        .arg(jars.join("*"));
    command
}

/// Makes the folder of a broker.
fn format(broker: &Broker) {
    let mut command = java();
    command.args(["kafka.tools.StorageTool", "format", "--cluster-id", "greypit-tests-kafka-00", "--config"]);
    run(command.arg(&broker.config));
}

/// Small.
const PROPERTIES: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
num.partitions=3
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=4194304
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
";

/// Quick to see that another broker is gone.
const AMONG_OTHERS: &str = "\
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
replica.lag.time.max.ms=4000
";

/// Nobody could take over what it leads if it were thought to be gone. So long a broker that
/// was killed waits before it may come back.
const ALONE: &str = "broker.session.timeout.ms=10000\n";

const LOG4J2: &str = r#"
Configuration:
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "%d %p %m (%c)%n%throwable"}}}
  Loggers: {Root: {level: INFO, AppenderRef: [{ref: STDOUT}]}}
"#;
