//! Unix sockets, and `logger` in all its ways of sending.

use std::os::unix::net::UnixStream;
use std::process::Command;

use super::*;

fn peer() -> String {
    format!("pid={} uid={}", std::process::id(), rustix::process::getuid().as_raw())
}

#[test]
fn a_record_of_a_local_process_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = (dir.path().join("log"), dir.path().join("stream"));
    let config = Config {
        unix_stream: vec![stream.to_str().unwrap().to_owned()],
        unix_mode: "0620".to_owned(),
        ..only(&[], &[], &[log.to_str().unwrap()])
    };
    let mut rig = listen(&config, 1 << 20);
    assert_eq!(std::fs::metadata(&stream).unwrap().permissions().mode() & 0o777, 0o620);
    UnixDatagram::unbound().unwrap().send_to(line(0).as_bytes(), &log).unwrap();
    let bodies = rig.take(1);
    assert_eq!((numbers(&bodies), bodies[0]["peer"].as_str().unwrap()), (vec![0], peer().as_str()));

    let mut client = UnixStream::connect(&stream).unwrap();
    // As syslog(3) ends its messages, as lines, and counted.
    let counted = line(3);
    let text = format!("{}\0{}\n{} {counted}{}\0", line(1), line(2), counted.len(), line(4));
    client.write_all(text.as_bytes()).unwrap();
    let bodies = rig.take(4);
    assert_eq!(numbers(&bodies), [1, 2, 3, 4]);
    assert!(bodies.iter().all(|body| body["peer"] == peer().as_str()), "{bodies:?}");
    rig.until("both are counted", |rig| rig.messages() == 5);
    assert_eq!(rig.metric("greypit_syslog_messages_total", &["unix_stream"]), 4);
    drop(client);
    rig.until("the connection ends", |rig| rig.connections() == 0);
    rig.end();
    assert!(!log.exists() && !stream.exists());
}

#[test]
fn logger_in_all_its_ways() {
    if Command::new("logger").arg("--version").output().is_err() {
        eprintln!("no logger here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, stream) = (dir.path().join("log"), dir.path().join("stream"));
    let config = Config {
        unix_stream: vec![stream.to_str().unwrap().to_owned()],
        ..only(&["127.0.0.1:0"], &["127.0.0.1:0"], &[log.to_str().unwrap()])
    };
    let rig = listen(&config, 1 << 20);
    let port = |i: usize| rig.addresses[i].rsplit(':').next().unwrap().to_owned();
    let (udp, tcp) = (port(0), port(1));
    let (log, stream) = (log.to_str().unwrap(), stream.to_str().unwrap());
    let ways: &[&[&str]] = &[
        &["--udp", "--server", "127.0.0.1", "--port", &udp, "--rfc3164"],
        &["--udp", "--server", "127.0.0.1", "--port", &udp, "--rfc5424"],
        &["--udp", "--server", "127.0.0.1", "--port", &udp, "--rfc5424=notime"],
        &["--tcp", "--server", "127.0.0.1", "--port", &tcp, "--rfc3164"],
        &["--tcp", "--server", "127.0.0.1", "--port", &tcp, "--rfc5424"],
        &["--tcp", "--server", "127.0.0.1", "--port", &tcp, "--rfc5424", "--octet-count"],
        &["--socket", log],
        &["--socket", log, "--rfc5424"],
        &["--socket", stream],
        &["--socket", stream, "--octet-count"],
    ];
    for (i, way) in ways.iter().enumerate() {
        let text = format!("message {i}");
        let done =
            Command::new("logger").args(*way).args(["-t", "app", "-p", "mail.info"]).arg(&text).output().unwrap();
        assert!(done.status.success(), "{way:?}: {done:?}");
        let body = &rig.take(1)[0];
        assert_eq!(body["message"], text.as_str(), "{way:?}: {body}");
        assert_eq!((body["app"].as_str(), body["facility"].as_str()), (Some("app"), Some("mail")), "{way:?}: {body}");
    }
}
