//! A real Apache Kafka with TLS, SASL and ACLs: every way in works, and every refusal is one line that says what to do,
//! at `greypit check --connect` and at the start. What is secret shows nowhere.

// ACLs are made by librdkafka itself, for which rdkafka has no function.
#![allow(unsafe_code)]

mod support;

use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::process::Output;
use std::ptr;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, Producer as _};
use support::greypit::Greypit;
use support::kafka::java;
use support::net::free_port;
use support::{Folder, Process, run, wait_for, wait_up_to};

/// How long a broker may take to start.
const START: Duration = Duration::from_secs(300);
/// How long to wait for an answer before it is asked again.
const TRY: Duration = Duration::from_secs(10);

/// Stands in no output, log or metric.
const PASSWORD: &str = "correct-horse-battery";

/// A broker with a listener for each way in.
struct Secured {
    process: Option<Process>,
    /// TLS alone, with a client's certificate.
    tls: u16,
    /// Like it, but the certificate is another host's.
    misnamed: u16,
    /// SASL over TLS.
    sasl: u16,
    /// Without anything, for what the test itself does.
    open: u16,
    folder: Folder,
}

impl Secured {
    fn start() -> Secured {
        let mut kafka = Secured::new();
        kafka.run();
        kafka
    }

    /// One that does not run yet.
    fn new() -> Secured {
        let folder = Folder::new("kafka-secured");
        let authority = Authority::new();
        std::fs::write(folder.join("ca.pem"), authority.0.pem()).expect("a folder of ours");
        std::fs::write(folder.join("other-ca.pem"), Authority::new().0.pem()).expect("a folder of ours");
        authority.sign(folder.path(), "server", "127.0.0.1");
        authority.sign(folder.path(), "misnamed", "kafka.example.com");
        authority.sign(folder.path(), "greypit", "greypit");
        let [tls, misnamed, sasl, open, control] = std::array::from_fn(|_| free_port());
        let text = PROPERTIES
            .replace("@folder@", &folder.path().display().to_string())
            .replace("@password@", PASSWORD)
            .replace("@tls@", &tls.to_string())
            .replace("@misnamed@", &misnamed.to_string())
            .replace("@sasl@", &sasl.to_string())
            .replace("@open@", &open.to_string())
            .replace("@control@", &control.to_string());
        let config = folder.join("server.properties");
        std::fs::write(&config, text).expect("a folder of ours");
        run(java()
            .args(["kafka.tools.StorageTool", "format", "--cluster-id", "greypit-tests-kafka-01", "--config"])
            .arg(&config)
            .arg("--add-scram")
            .arg(format!("SCRAM-SHA-512=[name=scram,password={PASSWORD}]")));
        Secured { process: None, tls, misnamed, sasl, open, folder }
    }

    /// Starts it, and waits until it answers.
    fn run(&mut self) {
        let log = File::create(self.folder.join("log")).expect("the broker's log file");
        let mut command = java();
        command
            .args(["kafka.Kafka".as_ref(), self.folder.join("server.properties").as_os_str()])
            .stdout(log.try_clone().expect("the broker's log file"))
            .stderr(log);
        let process = self.process.insert(Process::spawn("Kafka", &mut command));
        let client: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", local(self.open)).create().expect("a client");
        wait_up_to(START, "Kafka to answer", || {
            process.assert_alive();
            let metadata = client.client().fetch_metadata(None, TRY).ok()?;
            (!metadata.brokers().is_empty()).then_some(())
        });
        self.warm_up();
    }

    /// Comes in by every way once. The first one to do so waits for seconds: Java loads what it needs
    /// then, and greypit waits for an answer no longer than it says.
    fn warm_up(&self) {
        let tls = [("ssl.certificate.location", "greypit.pem"), ("ssl.key.location", "greypit.key")];
        let tls = tls.map(|(name, file)| (name, self.path(file)));
        let sasl = |mechanism: &str, user: &str| {
            [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", PASSWORD)]
                .map(|(name, value)| (name, value.to_owned()))
        };
        type Properties = [(&'static str, String)];
        let ways: [(u16, &str, &Properties); 3] = [
            (self.tls, "ssl", &tls),
            (self.sasl, "sasl_ssl", &sasl("PLAIN", "plain")),
            (self.sasl, "sasl_ssl", &sasl("SCRAM-SHA-512", "scram")),
        ];
        for (port, protocol, properties) in ways {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", local(port)).set("security.protocol", protocol);
            config.set("ssl.ca.location", self.path("ca.pem"));
            for (name, value) in properties {
                config.set(*name, value);
            }
            let client: BaseProducer = config.create().expect("a client");
            wait_up_to(START, protocol, || client.client().fetch_metadata(None, TRY).ok().map(drop));
        }
    }

    /// A greypit that may come in by TLS alone.
    fn by_tls(&self, port: u16) -> Greypit {
        let mut greypit = self.greypit(port, "tls");
        greypit.set("kafka.properties.security.protocol", "ssl");
        greypit.set("kafka.properties.ssl.certificate.location", self.path("greypit.pem"));
        greypit.set("kafka.properties.ssl.key.location", self.path("greypit.key"));
        greypit
    }

    /// A greypit that has this user's password.
    fn by_sasl(&self, mechanism: &str, user: &str, password: &str) -> Greypit {
        let mut greypit = self.greypit(self.sasl, user);
        greypit.set("kafka.properties.security.protocol", "sasl_ssl");
        greypit.set("kafka.properties.sasl.mechanism", mechanism);
        greypit.set("kafka.properties.sasl.username", user);
        greypit.set("kafka.properties.sasl.password", "${KAFKA_PASSWORD}");
        greypit.env([("KAFKA_PASSWORD", password)]);
        greypit
    }

    fn greypit(&self, port: u16, node: &str) -> Greypit {
        let mut greypit = Greypit::new(node);
        greypit.set("kafka.brokers", local(port));
        greypit.set("kafka.topics.partitions", 2);
        greypit.set("kafka.properties.ssl.ca.location", self.path("ca.pem"));
        greypit
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn create_topics(&self, names: &[&str]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", local(self.open)).create().expect("a client");
        let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, 2, TopicReplication::Fixed(1))).collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(120)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let made = runtime.block_on(admin.create_topics(&topics, &options)).expect("Kafka answers");
        made.into_iter().for_each(|topic| drop(topic.expect("a new topic")));
    }

    /// Lets a user do something with all topics or groups that begin so.
    fn allow(&self, user: &str, operation: rd::rd_kafka_AclOperation_t, on: rd::rd_kafka_ResourceType_t, prefix: &str) {
        let client: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", local(self.open)).create().expect("a client");
        let text = |text: &str| CString::new(text).expect("a text without NUL");
        let (name, user, host) = (text(prefix), text(&format!("User:{user}")), text("*"));
        let client = client.client().native_ptr();
        // The pointers live until the answer is here.
        unsafe {
            let mut acl = rd::rd_kafka_AclBinding_new(
                on,
                name.as_ptr(),
                rd::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
                user.as_ptr(),
                host.as_ptr(),
                operation,
                rd::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                ptr::null_mut(),
                0,
            );
            let queue = rd::rd_kafka_queue_new(client);
            rd::rd_kafka_CreateAcls(client, &mut acl, 1, ptr::null(), queue);
            let event = rd::rd_kafka_queue_poll(queue, 120_000);
            assert!(!event.is_null(), "no answer");
            let mut count = 0;
            let results = rd::rd_kafka_CreateAcls_result_acls(rd::rd_kafka_event_CreateAcls_result(event), &mut count);
            assert_eq!(count, 1);
            assert!(rd::rd_kafka_acl_result_error(*results).is_null(), "the ACL is refused");
            rd::rd_kafka_event_destroy(event);
            rd::rd_kafka_queue_destroy(queue);
            rd::rd_kafka_AclBinding_destroy(acl);
        }
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// An authority of certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    /// Writes `<file>.pem`, `<file>.key`, and both in one as Kafka wants them.
    fn sign(&self, folder: &Path, file: &str, host: &str) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, host);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").pem();
        let key = key.serialize_pem();
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a folder of ours");
        write(&format!("{file}.pem"), &certificate);
        write(&format!("{file}.key"), &key);
        write(&format!("{file}-both.pem"), &format!("{key}{certificate}"));
    }
}

const PROPERTIES: &str = "\
node.id=1
process.roles=broker,controller
controller.quorum.voters=1@127.0.0.1:@control@
controller.listener.names=CONTROLLER
listeners=TLS://127.0.0.1:@tls@,MISNAMED://127.0.0.1:@misnamed@,SASL://127.0.0.1:@sasl@,OPEN://127.0.0.1:@open@,\
CONTROLLER://127.0.0.1:@control@
listener.security.protocol.map=TLS:SSL,MISNAMED:SSL,SASL:SASL_SSL,OPEN:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=OPEN
log.dirs=@folder@/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=4194304
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:CN=greypit;User:plain;User:scram
ssl.truststore.type=PEM
ssl.truststore.location=@folder@/ca.pem
ssl.keystore.type=PEM
ssl.keystore.location=@folder@/server-both.pem
listener.name.tls.ssl.client.auth=required
listener.name.misnamed.ssl.client.auth=required
listener.name.misnamed.ssl.keystore.type=PEM
listener.name.misnamed.ssl.keystore.location=@folder@/misnamed-both.pem
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_plain=\"@password@\" user_poor=\"@password@\";
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
";

/// `greypit check --connect`: its exit code, and what it says.
fn check(greypit: &Greypit) -> (i32, String) {
    told(greypit.command("check").arg("--connect").output().expect("greypit"))
}

/// `greypit run` that is to end by itself.
fn start(greypit: &Greypit) -> (i32, String) {
    told(greypit.command("run").output().expect("greypit"))
}

fn told(output: Output) -> (i32, String) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD), "the password shows:\n{out}{err}");
    (output.status.code().expect("an exit code"), err.into_owned())
}

/// Asserts that both say so: the check with 1, the start with 2 and one line.
#[track_caller]
fn assert_refused(greypit: &Greypit, key: &str, says: &[&str]) {
    let (code, checked) = check(greypit);
    assert_eq!(code, 1, "{checked}");
    let line = checked.lines().find(|line| line.starts_with("wrong")).unwrap_or_else(|| panic!("{checked}"));
    let (code, started) = start(greypit);
    assert_eq!((code, started.lines().count()), (2, 1), "{started}");
    assert!(started.contains(&format!("{key}: ")), "{key} is not named: {started}");
    for text in says {
        assert!(line.contains(text) && started.contains(text), "{text} is not in\n{line}\n{started}");
    }
}

#[test]
fn every_way_in_is_fine() {
    let kafka = Secured::start();
    for greypit in [
        kafka.by_tls(kafka.tls),
        kafka.by_sasl("PLAIN", "plain", PASSWORD),
        kafka.by_sasl("SCRAM-SHA-512", "scram", PASSWORD),
    ] {
        let (code, text) = check(&greypit);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("topic greypit.to: is missing and will be created: 2 partitions, 1 copy"), "{text}");
        assert!(text.contains("rights on group greypit: Read, Describe"), "{text}");
    }
    let mut greypit = kafka.by_sasl("SCRAM-SHA-512", "scram", PASSWORD);
    greypit.start();
    let (code, text) = check(&greypit);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("topic greypit.to: 2 partitions, 1 copy, kept 7d, messages up to 16MiB"), "{text}");
    assert!(text.contains("rights on topic greypit.to: Write, Read, Describe"), "{text}");
    let (_, metrics) = greypit.get("/metrics").expect("it answers");
    assert!(!metrics.contains(PASSWORD) && !greypit.log().contains(PASSWORD), "the password shows");
}

#[test]
fn events_end_in_the_store_by_every_way_in() {
    let kafka = Secured::start();
    ships(kafka.by_tls(kafka.tls), "tls");
    ships(kafka.by_sasl("PLAIN", "plain", PASSWORD), "plain");
    ships(kafka.by_sasl("SCRAM-SHA-512", "scram", PASSWORD), "scram");
}

/// Follows a log of some lines until each is a record in the store.
fn ships(mut greypit: Greypit, name: &str) {
    const LINES: usize = 50;
    greypit.set("kafka.topic_prefix", format!("{name}."));
    greypit.set("kafka.group", name);
    greypit.set("batch.window", "1s");
    let log = greypit.folder().join("maillog");
    let lines = (0..LINES).map(|line| format!("Nov 20 12:55:01 mx1 test[1]: {name} {line}\n"));
    std::fs::write(&log, lines.collect::<String>()).expect("a folder of ours");
    greypit.follow(&log);
    greypit.start();
    let text = format!("{name} ");
    wait_for("the events to be in the store", || {
        let mut records = 0;
        greypit.cat(|line| records += usize::from(line.contains(&text)));
        (records == LINES).then_some(())
    });
    let (_, metrics) = greypit.get("/metrics").expect("it answers");
    assert!(metrics.contains("greypit_kafka_") && !metrics.contains(PASSWORD), "{metrics}");
    greypit.terminate();
    let (verdict, complaints) = greypit.verify();
    assert_eq!((verdict.records, verdict.lost, verdict.repeated), (LINES as u64, 0, 0), "{complaints}");
    assert!(!greypit.log().contains(PASSWORD), "the password shows");
}

#[test]
fn brokers_that_are_away_at_the_start_are_found_later() {
    let mut kafka = Secured::new();
    let mut greypit = kafka.by_sasl("SCRAM-SHA-512", "scram", PASSWORD);
    greypit.start();
    wait_for("it to say so", || {
        let readiness = greypit.readiness()?.to_string();
        (readiness.contains("Connection refused") && readiness.contains("see that the brokers run")).then_some(())
    });
    kafka.run();
    wait_for("the topics", || {
        let (_, text) = check(&greypit);
        text.contains("topic greypit.to: 2 partitions, 1 copy").then_some(())
    });
    assert!(!greypit.log().contains(PASSWORD), "the password shows");
}

#[test]
fn a_refusal_is_one_line_that_says_what_to_do() {
    let kafka = Secured::start();
    let user = "kafka.properties.sasl.username";
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let wrong = kafka.by_sasl(mechanism, "scram", "wrong-password");
        assert_refused(&wrong, user, &["uthentication failed", "sasl.username and sasl.password"]);
    }
    let unknown = kafka.by_sasl("SCRAM-SHA-256", "scram", PASSWORD);
    assert_refused(&unknown, user, &["SCRAM-SHA-256", "see that sasl.mechanism"]);

    let authority = "kafka.properties.ssl.ca.location";
    let mut untrusted = kafka.by_tls(kafka.tls);
    untrusted.set(authority, kafka.path("other-ca.pem"));
    assert_refused(&untrusted, authority, &["certificate verify failed", "ssl.ca.location"]);
    let misnamed = kafka.by_tls(kafka.misnamed);
    assert_refused(&misnamed, authority, &["certificate verify failed", "name the hosts in kafka.brokers"]);

    let mut absent = kafka.by_tls(kafka.tls);
    absent.set(authority, kafka.path("nowhere.pem"));
    for (code, text) in [check(&absent), start(&absent)] {
        assert_eq!((code, text.lines().count()), (2, 1), "{text}");
        assert!(text.contains("ssl.ca.location: ") && text.contains("nowhere.pem cannot be read: No such"), "{text}");
    }

    // To the wrong port: a broker behind it may just be starting, so this is not the end of it.
    let mut plain = kafka.greypit(kafka.tls, "plain");
    plain.set("kafka.properties", toml::Table::new());
    let (code, text) = check(&plain);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("security.protocol"), "{text}");
}

#[test]
fn a_right_that_is_missing_is_named() {
    use rd::rd_kafka_AclOperation_t as Acl;
    use rd::rd_kafka_ResourceType_t as On;
    let kafka = Secured::start();
    let poor = kafka.by_sasl("PLAIN", "poor", PASSWORD);
    let (code, text) = start(&poor);
    assert_eq!((code, text.lines().count()), (2, 1), "{text}");
    assert!(text.contains("cannot create topic greypit.") && text.contains("kafka-acls.sh --add"), "{text}");

    kafka.create_topics(&["greypit.from", "greypit.to", "greypit.syslog"]);
    kafka.allow("poor", Acl::RD_KAFKA_ACL_OPERATION_DESCRIBE, On::RD_KAFKA_RESOURCE_TOPIC, "greypit.");
    let wrong = |says: &[&str]| {
        wait_up_to(support::WAIT, "the ACL to be known", || {
            let (code, text) = check(&poor);
            let wrong: Vec<_> = text.lines().filter(|line| line.starts_with("wrong")).collect();
            let all = says.iter().all(|says| wrong.iter().any(|line| line.contains(says)));
            let count = says.len() == wrong.len() && code == i32::from(!says.is_empty());
            (all && count).then_some(()).or_else(|| {
                eprintln!("not yet: {text}");
                None
            })
        });
    };
    let topic = |kind: &str, missing: &str| format!("rights on topic greypit.{kind}: {missing} missing: kafka-acls.sh");
    let group = "--operation Read --operation Describe --group greypit";
    let all: Vec<_> = ["from", "to", "syslog"].map(|kind| topic(kind, "Write, Read")).into();
    wrong(&[&*all[0], &all[1], &all[2], group]);
    kafka.allow("poor", Acl::RD_KAFKA_ACL_OPERATION_READ, On::RD_KAFKA_RESOURCE_TOPIC, "greypit.");
    let writes: Vec<_> = ["from", "to", "syslog"].map(|kind| topic(kind, "Write")).into();
    wrong(&[&*writes[0], &writes[1], &writes[2], group]);
    kafka.allow("poor", Acl::RD_KAFKA_ACL_OPERATION_WRITE, On::RD_KAFKA_RESOURCE_TOPIC, "greypit.");
    wrong(&[group]);
    kafka.allow("poor", Acl::RD_KAFKA_ACL_OPERATION_READ, On::RD_KAFKA_RESOURCE_GROUP, "greypit");
    wrong(&[]);
}
