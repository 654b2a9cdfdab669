//! Proves that the real parts do what the other tests take for granted.

mod support;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::kafka::Kafka;
use support::proxy::{FaultProxy, Mode};
use support::rsyslog::{Forward, Over, Rsyslog};
use support::s3::{S3Client, S3Server, between};
use support::sendmail::{MailNet, Sendmail, Setup};
use support::smtp::Client;
use support::{traffic, wait_for};

const IF_ABSENT: &str = "If-None-Match: *";

#[test]
fn s3_stores_an_object_once() {
    let server = S3Server::start();
    let s3 = server.client();
    let key = "mail_logs/2026-11-20/to-2026-11-20-12-55-mx1-1.json.bz2";
    assert_eq!(s3.put(key, &[IF_ABSENT, "x-amz-meta-records: 12"], b"first").status, 200);
    assert_eq!(s3.put(key, &[IF_ABSENT], b"second").status, 412);
    assert_eq!(s3.get(key).body, b"first");
    let head = s3.head(key);
    assert_eq!(head.header("x-amz-meta-records"), Some("12"));
    assert_eq!(head.header("content-length"), Some("5"));
    assert_eq!(head.header("content-encoding"), None);
    assert_eq!(s3.head("mail_logs/none").status, 404);
    assert_eq!(s3.list("mail_logs/"), [key]);
    assert_eq!(s3.delete(key).status, 204);
    assert!(s3.list("").is_empty());
}

#[test]
fn s3_lets_one_of_many_writers_win() {
    let server = S3Server::start();
    let s3 = server.client();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let put = |n: u8| {
            let s3 = &s3;
            scope.spawn(move || s3.put("race", &[IF_ABSENT], &vec![n; 300_000]).status)
        };
        let writers: Vec<_> = (0..12).map(put).collect();
        writers.into_iter().map(|w| w.join().expect("no panic")).collect()
    });
    assert_eq!(statuses.iter().filter(|&&s| s == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|s| matches!(s, 200 | 409 | 412)), "{statuses:?}");
    let body = s3.get("race").body;
    assert!(body.len() == 300_000 && body.iter().all(|b| *b == body[0]), "one writer's bytes");
}

#[test]
fn s3_completes_a_multipart_upload_once() {
    let server = S3Server::start();
    let s3 = server.client();
    let first = begin_multipart(&s3, b"first");
    let second = begin_multipart(&s3, b"second");
    assert_eq!(complete(&s3, &first).status, 200);
    assert_eq!(complete(&s3, &second).status, 412);
    assert_eq!(s3.get("big").body, b"first");
    assert_eq!(s3.head("big").header("x-amz-meta-records"), Some("7"));
    // The same request again is an answer that was lost, not a second object.
    assert_eq!(complete(&s3, &first).status, 200);
}

/// The id of an upload of one part, and the part's tag.
fn begin_multipart(s3: &S3Client, part: &[u8]) -> (String, String) {
    let answer = s3.request("POST", "big?uploads=", &["x-amz-meta-records: 7"], None).text();
    let id = between(&answer, "<UploadId>", "</UploadId>").next().expect("an id").to_owned();
    let answer = s3.request("PUT", &format!("big?partNumber=1&uploadId={id}"), &[], Some(part));
    (id, answer.header("etag").expect("a tag").to_owned())
}

fn complete(s3: &S3Client, (id, tag): &(String, String)) -> support::s3::Answer {
    let body = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    s3.request("POST", &format!("big?uploadId={id}"), &[IF_ABSENT], Some(body.as_bytes()))
}

#[test]
fn s3_comes_back_with_its_objects() {
    let mut server = S3Server::start();
    let s3 = server.client();
    assert_eq!(s3.put("kept", &["x-amz-meta-records: 3"], b"text").status, 200);
    server.kill();
    assert_eq!(s3.get("kept").status, 0);
    server.start_again();
    assert_eq!(s3.put("kept", &[IF_ABSENT], b"other").status, 412);
    assert_eq!(s3.head("kept").header("x-amz-meta-records"), Some("3"));
    server.pause();
    let answer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| s3.get("kept"));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "a paused server answers nothing");
        server.resume();
        waiting.join().expect("no panic")
    });
    assert_eq!(answer.body, b"text");
}

#[test]
fn s3_stores_what_a_lost_answer_was_about() {
    let server = S3Server::start();
    let proxy = FaultProxy::start(server.addr());
    let s3 = server.client_at(&proxy.endpoint());
    proxy.next_uploads(1, Mode::LoseAnswer);
    assert_eq!(s3.put("key", &[IF_ABSENT], b"text").status, 0);
    assert_eq!(proxy.counts().successes_lost, 1);
    assert_eq!(s3.put("key", &[IF_ABSENT], b"text").status, 412);
    proxy.next_uploads(1, Mode::CutUploadAfter(100_000));
    assert_eq!(s3.put("part", &[IF_ABSENT], &vec![b'x'; 1_000_000]).status, 0);
    assert_eq!(s3.list(""), ["key"]);
}

#[test]
fn kafka_keeps_messages_while_any_one_broker_is_away() {
    let mut kafka = Kafka::start_with(3, &[]);
    kafka.create_topic("topic", 2, &[("max.message.bytes", "2000")]);
    let value = |text: &str| text.as_bytes().to_vec();
    let say = |kafka: &Kafka, text: &str| kafka.send("topic", 1, "key", &[("id", text)], &value(text));
    say(&kafka, "first");
    kafka.kill(0);
    say(&kafka, "while one is dead");
    kafka.spawn(0);
    kafka.wait_whole();
    kafka.cut(1);
    assert!(!kafka.answers(1));
    // It may go on as the leader, unreachable: then the message waits.
    std::thread::scope(|scope| {
        scope.spawn(|| say(&kafka, "while one is cut off"));
        kafka.mend(1);
    });
    kafka.wait_whole();
    kafka.signal(2, "STOP");
    say(&kafka, "while one sleeps");
    kafka.signal(2, "CONT");
    kafka.wait_whole();
    let texts: Vec<_> = kafka.messages("topic").into_iter().map(|message| message.value).collect();
    assert_eq!(texts, ["first", "while one is dead", "while one is cut off", "while one sleeps"]);
    assert_eq!(kafka.ends("topic"), [(0, 0), (1, 4)].into());
    assert_eq!(kafka.committed("group", "topic"), [].into());
    kafka.reset("group", "topic", 3);
    assert_eq!(kafka.committed("group", "topic"), [(0, 0), (1, 3)].into());
    kafka.terminate(1);
    assert_eq!(kafka.messages("topic").len(), 4);
    kafka.delete_topic("topic");
    assert!(kafka.topics().is_empty());
}

#[test]
fn mail_to_every_destination_is_logged_and_forwarded() {
    let [tcp, udp] = [Collector::tcp(), Collector::udp()];
    let forward = |to, over| Forward { to, over, rfc5424: false };
    let forwards = [forward(tcp.addr, Over::TcpLines), forward(udp.addr, Over::Udp)];
    let net = MailNet::start();
    let syslog = Rsyslog::start("mx1", &forwards);
    let syslog2 = Rsyslog::start("mx2", &[]);
    let mut mx1 = Sendmail::start(Setup::mx(1), &net, &syslog);
    let mx2 = Sendmail::start(Setup::mx(2), &net, &syslog2);

    let sent = traffic::play(&mx1, 1);
    assert!(sent.accepted >= 40 && sent.refused >= 5, "{sent:?}");
    let mut client = Client::connect(mx1.addr());
    for n in 0..20 {
        let to = format!("user{n}@good.example.net");
        let reply = client.mail("bulk@sender.example.com", &[&to], "Subject: bulk\n\ntext\n");
        assert_eq!(reply.code, 250, "{}", reply.text);
    }
    client.quit();

    let expected = [
        ("to=<one@good.example.net>", "stat=Sent (Ok)"),
        ("to=<user19@good.example.net>", "stat=Sent (Ok)"),
        ("to=<busy@defer.example.net>", "stat=Deferred: 450 4.2.1 Mailbox busy"),
        ("to=<nobody-there@refuse.example.net>", "stat=User unknown"),
        ("to=<x@dead.example.net>", "stat=Deferred: Connection refused by dead.example.net."),
        ("to=<x@no-such-host.example.net>", "stat=Host unknown"),
        ("to=<one@partner.example.net>", "relay=[127.0.1.1] [127.0.1.1], dsn=2.0.0, stat=Sent"),
        ("to=<one@smart.example.net>", "mailer=relay, "),
        ("to=<bob@mx1.example.org>,<alice@mx1.example.org>", "mailer=local, "),
        ("to=alice,bob, ctladdr=carol", "mailer=local, "),
        ("to=reader2@good.example.net,reader1@good.example.net", "stat=Sent (Ok)"),
        ("to=\"|/bin/cat >/dev/null\"", "mailer=prog, "),
        ("to=/mnt/archive.mbox", "mailer=*file*, "),
        ("to=<bob@mx2.example.org>", "stat=Sent ("),
        ("STARTTLS=client, relay=mx2.example.org.", "verify=OK"),
        ("to=one@good.example.net, ctladdr=alice@mx1.example.org", "stat=Sent"),
        ("from=<>, ", "relay=out1.sender.example.com [127.0.5.1]"),
        ("from=<prvs=0123456789=n@sender.example.com>", "proto=ESMTP, daemon=MTA"),
        ("from=<types@sender.example.com>", "bodytype=8BITMIME"),
        ("ruleset=check_relay", "relay=spammer.example.info [127.0.5.5], reject=550"),
    ];
    for (line, part) in expected {
        wait_for(&format!("{line} … {part}"), || {
            syslog.lines().iter().any(|l| l.contains(line) && l.contains(part)).then_some(())
        });
    }
    syslog2.wait_for_lines(1, "STARTTLS=server");
    let queue = || std::fs::read_dir(mx2.folder().join("mqueue")).expect("a folder").count();
    wait_for("nothing to be left in the queue", || (queue() == 0).then_some(()));
    let mailbox = std::fs::read_to_string(mx1.folder().join("mail/alice")).expect("her mail");
    assert!(mailbox.contains("Subject: round 0"), "{mailbox}");

    mx1.stop();
    // Whichever of its processes wrote the last line: rsyslogd takes lines in order.
    let log = UnixDatagram::unbound().expect("a socket");
    log.send_to(b"<22>Nov 20 12:55:00 sm-mta[1]: the log ends", syslog.socket()).expect("rsyslogd reads");
    syslog.wait_for_lines(1, "the log ends");
    let from = syslog.lines().iter().filter(|l| l.contains(": from=<")).count();
    assert!(from >= 60, "{from} from= lines");
    for collector in [&tcp, &udp] {
        let count = syslog.lines().len();
        wait_for("every line, forwarded", || (collector.lines().len() >= count).then_some(()));
        let mut got = collector.lines();
        let mut file = syslog.lines();
        // rsyslogd keeps no order between its actions and itself.
        got.sort();
        file.sort();
        assert_eq!(got, file);
    }
}

#[test]
fn rsyslog_goes_on_after_rotation_and_a_receiver_that_was_away() {
    let away = SocketAddr::from((Ipv4Addr::LOCALHOST, support::net::free_port()));
    let forward = Forward { to: away, over: Over::TcpOctetCounted, rfc5424: true };
    let mut syslog = Rsyslog::start("mx1", &[forward]);
    let log = UnixDatagram::unbound().expect("a socket");
    log.connect(syslog.socket()).expect("rsyslogd reads");
    let say = |n: u32| log.send(format!("<22>Nov 20 12:55:00 sm-mta[1]: line {n}").as_bytes());
    say(1).expect("rsyslogd reads");
    syslog.wait_for_lines(1, "line 1");
    let aside = syslog.file().with_extension("1");
    syslog.rotate(&aside);
    let mut n = 1;
    wait_for("a new file", || {
        n += 1;
        say(n).expect("rsyslogd reads");
        syslog.file().exists().then_some(())
    });
    let receiver = Collector::tcp_at(away);
    wait_for("the lines", || {
        let text = receiver.text();
        (1..=n).all(|n| text.contains(&format!(" line {n}"))).then_some(())
    });
    assert!(receiver.text().contains(" <22>1 ") || receiver.text().contains("<22>1 "));
}

/// Makes tests/golden/sendmail/real-8.17.log anew:
/// `cargo test --features real --test parts -- --ignored collect`
#[test]
#[ignore = "writes a file of the repository"]
fn collect_a_log_for_the_parser() {
    let net = MailNet::start();
    let syslogs = [Rsyslog::start("mx1", &[]), Rsyslog::start("mx2", &[])];
    let mut mx1 = Sendmail::start(Setup::mx(1).impatient("4s", "10s"), &net, &syslogs[0]);
    let mut mx2 = Sendmail::start(Setup::mx(2).log_label("sendmail"), &net, &syslogs[1]);
    traffic::play(&mx1, 2);
    mx1.wait_queue_empty();
    mx2.wait_queue_empty();
    mx1.stop();
    mx2.stop();
    syslogs.iter().for_each(|syslog| drop(syslog.wait_for_lines(1, "stopping daemon")));
    let mut lines: Vec<String> = syslogs.iter().flat_map(Rsyslog::lines).collect();
    lines.sort_by(|a, b| a.get(..15).cmp(&b.get(..15)));
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sendmail/real-8.17.log");
    std::fs::write(file, lines.join("\n") + "\n").expect("the golden folder");
}

/// Keeps what a syslog sender sends.
struct Collector {
    addr: SocketAddr,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    fn tcp() -> Self {
        Self::tcp_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    fn tcp_at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept) = (stream.expect("a sender"), Arc::clone(&kept));
                std::thread::spawn(move || {
                    let mut piece = vec![0; 65536];
                    while let Ok(read @ 1..) = stream.read(&mut piece) {
                        kept.lock().expect("no panic").extend_from_slice(&piece[..read]);
                    }
                });
            }
        });
        Self { addr, bytes }
    }

    fn udp() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        // Room for all that is sent, even if nobody reads meanwhile.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20).expect("root may");
        let addr = socket.local_addr().expect("it is bound");
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let mut packet = vec![0; 65536];
            while let Ok(read) = socket.recv(&mut packet) {
                let mut kept = kept.lock().expect("no panic");
                kept.extend_from_slice(packet[..read].trim_ascii_end());
                kept.push(b'\n');
            }
        });
        Self { addr, bytes }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no panic")).into_owned()
    }

    /// The lines without their `<PRI>`, as they stand in a file.
    fn lines(&self) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().map(|l| l.split_once('>').map_or(l, |(_, rest)| rest).to_owned());
        lines.collect()
    }
}
