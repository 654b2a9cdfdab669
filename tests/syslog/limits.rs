//! What peers may not do, and that their neighbours do not notice.

use std::io::Read;
use std::net::SocketAddr;

use greypit_pipeline::units::Span;

use super::*;

/// From another address of this machine.
fn connect_from(ip: [u8; 4], address: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.into()
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    loop {
        match stream.read(&mut [0]) {
            Ok(n) => return n == 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Whether this process runs that test and nothing beside it, so that its memory is the test's. Otherwise one is started
/// that does, and has passed on return.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "GREYPIT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    let done = std::process::Command::new(exe).args([test, "--exact", "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    eprint!("{said}");
    assert!(done.status.success() && said.contains("bytes of memory"), "{said}");
    false
}

/// Of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn one_address_has_its_connections_and_another_its_own() {
    let config = Config { max_connections_per_peer: 2, ..only(&[], &["127.0.0.1:0"], &[]) };
    let rig = listen(&config, 1 << 20);
    assert_eq!(rig.metric("greypit_syslog_connections_per_peer_max", &[]), 2);
    let first = connect_from([127, 0, 0, 1], &rig.addresses[0]);
    let _second = connect_from([127, 0, 0, 1], &rig.addresses[0]);
    rig.until("both are in", |rig| rig.connections() == 2);
    assert!(is_closed(&mut connect_from([127, 0, 0, 1], &rig.addresses[0])));
    assert_eq!(rig.metric("greypit_syslog_connections_refused_total", &["peer"]), 1);
    let mut other = connect_from([127, 0, 0, 2], &rig.addresses[0]);
    other.write_all((line(0) + "\n").as_bytes()).unwrap();
    assert_eq!(rig.take(1)[0]["peer"], "127.0.0.2");
    drop(first);
    rig.until("the place is free", |rig| rig.connections() == 2);
    connect_from([127, 0, 0, 1], &rig.addresses[0]).write_all((line(1) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [1]);
}

#[test]
fn beyond_its_rate_a_peer_loses_datagrams_and_each_is_counted() {
    const SENT: usize = 2000;
    let config = Config { max_rate_per_peer: 100, ..only(&["127.0.0.1:0"], &[], &[]) };
    let mut rig = listen(&config, 64 << 20);
    let (flood, quiet) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.2:0").unwrap());
    for i in 0..SENT {
        flood.send_to(line(i).as_bytes(), &rig.addresses[0]).unwrap();
    }
    // Only then is there room in the kernel for sure.
    rig.until("the flood is accounted for", |rig| rig.messages() + rig.dropped("kernel") == SENT);
    quiet.send_to(line(SENT).as_bytes(), &rig.addresses[0]).unwrap();
    rig.until("all is accounted for", |rig| rig.messages() + rig.dropped("kernel") == SENT + 1);
    rig.end();
    let bodies = rig.take(rig.metric("greypit_syslog_events_total", &[]));
    assert!(bodies.len() >= 101 && rig.dropped("rate") > 0, "{} came", bodies.len());
    assert_eq!(bodies.len() + rig.dropped("rate") + rig.dropped("kernel"), SENT + 1);
    assert!(numbers(&bodies).contains(&SENT), "the neighbour's came");
}

#[test]
fn beyond_its_rate_a_connection_waits_and_loses_nothing() {
    const SENT: usize = 3000;
    let config = Config { max_rate_per_peer: 1000, ..only(&[], &["127.0.0.1:0"], &[]) };
    let mut rig = listen(&config, 64 << 20);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    let began = Instant::now();
    // At once: it is more than two seconds', so that it is too much even where reading stops for one of them.
    let text: String = (0..SENT).map(|i| line(i) + "\n").collect();
    client.write_all(text.as_bytes()).unwrap();
    rig.until("reading pauses", |rig| rig.metric("greypit_syslog_slowed_total", &[]) > 0);
    assert_eq!(numbers(&rig.take(SENT)), (0..SENT).collect::<Vec<_>>());
    // What was read before is paid for before more is read.
    client.write_all((line(SENT) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [SENT]);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(rig.metric("greypit_syslog_dropped_total", &[]), 0);
    rig.end();
}

#[test]
fn a_connection_beyond_its_rate_does_not_hold_up_the_end() {
    let mut rig = listen(&Config { max_rate_per_peer: 1, ..only(&[], &["127.0.0.1:0"], &[]) }, 64 << 20);
    let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
    // Paid for in hours, and what is read at once in many minutes.
    client.write_all("<13>x\n".repeat(10_000).as_bytes()).unwrap();
    rig.until("reading pauses", |rig| rig.metric("greypit_syslog_slowed_total", &[]) > 0);
    let took = rig.end();
    assert!(took < STOPPED, "{took:?}");
}

#[test]
fn a_message_that_never_ends_ends_its_connection() {
    let config = Config { frame_timeout: Span(Duration::from_millis(200)), ..only(&[], &["127.0.0.1:0"], &[]) };
    let rig = listen(&config, 1 << 20);
    let mut neighbour = TcpStream::connect(&rig.addresses[0]).unwrap();
    let mut slow = TcpStream::connect(&rig.addresses[0]).unwrap();
    slow.set_nodelay(true).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let text = line(0) + &" ".repeat(1000);
    let mut bytes = text.bytes();
    let mut sent = 0;
    // A byte at each turn, until we are told to go.
    loop {
        match slow.read(&mut [0]) {
            Ok(0) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            other => panic!("{other:?}"),
        }
        if slow.write_all(&[bytes.next().unwrap()]).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < text.len(), "{sent} bytes");
    let timed_out = |rig: &Rig, reason| rig.metric("greypit_syslog_connections_timed_out_total", &[reason]);
    assert_eq!(timed_out(&rig, "frame"), 1);
    // What came of it is kept.
    rig.take(1);
    let mut counted = TcpStream::connect(&rig.addresses[0]).unwrap();
    counted.write_all(b"99 <13>a count that lies").unwrap();
    assert!(is_closed(&mut counted));
    assert_eq!((timed_out(&rig, "frame"), timed_out(&rig, "idle")), (2, 0));
    assert_eq!(rig.metric("greypit_syslog_framing_errors_total", &["cut_off"]), 1);
    // Quiet between two messages is no fault.
    neighbour.write_all((line(1) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [1]);
    rig.until("only the neighbour is left", |rig| rig.connections() == 1);
}

#[test]
fn counts_that_lie_and_a_gigabyte_without_newline_cost_nobody_anything() {
    const GIGABYTE: usize = 1 << 30;
    if !is_alone("limits::counts_that_lie_and_a_gigabyte_without_newline_cost_nobody_anything") {
        return;
    }
    let mut rig = listen(&only(&[], &["127.0.0.1:0"], &[]), 1 << 20);
    let mut neighbour = TcpStream::connect(&rig.addresses[0]).unwrap();
    neighbour.write_all((line(0) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [0]);
    for (lie, reason) in
        [("99999999999 x", "count_too_long"), ("9999999 x", "count_too_large"), ("12x", "count_not_a_number")]
    {
        let mut liar = TcpStream::connect(&rig.addresses[0]).unwrap();
        liar.write_all(lie.as_bytes()).unwrap();
        assert!(is_closed(&mut liar), "{lie}");
        assert_eq!(rig.metric("greypit_syslog_framing_errors_total", &[reason]), 1);
    }
    let before = resident_bytes();
    let mut endless = TcpStream::connect(&rig.addresses[0]).unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut highest = before;
    for i in 0..GIGABYTE / chunk.len() {
        endless.write_all(&chunk).unwrap();
        if i % 100 == 0 {
            highest = highest.max(resident_bytes());
            neighbour.write_all((line(i) + "\n").as_bytes()).unwrap();
        }
    }
    endless.write_all(format!("\n{}\n", line(7)).as_bytes()).unwrap();
    // 11 of the neighbour, the head of the endless one, and what came after it.
    let bodies = rig.take(13);
    let heads = bodies.iter().filter(|body| body["message"].as_str().unwrap().starts_with("xxx")).count();
    assert_eq!(heads, 1);
    // A group is counted once it is in the queue.
    rig.until("the one is counted", |rig| {
        rig.metric("greypit_syslog_framing_errors_total", &["message_too_long"]) == 1
    });
    let grown = highest.saturating_sub(before);
    eprintln!("a gigabyte without newline: {grown} bytes of memory more");
    assert!(grown < 8 << 20, "{grown} bytes of memory more");
    rig.end();
}

#[test]
fn thousands_of_idle_connections_cost_next_to_nothing_beside_load() {
    if !is_alone("limits::thousands_of_idle_connections_cost_next_to_nothing_beside_load") {
        return;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    // Both ends are here.
    let idle = limit.maximum.map_or(10_000, |max| (max.saturating_sub(1000) / 2).clamp(100, 10_000) as usize);
    let config = Config { max_connections: idle + 10, max_connections_per_peer: 0, ..only(&[], &["127.0.0.1:0"], &[]) };
    let mut rig = listen(&config, 64 << 20);
    let mut warm = TcpStream::connect(&rig.addresses[0]).unwrap();
    warm.write_all((line(0) + "\n").as_bytes()).unwrap();
    rig.take(1);
    let before = resident_bytes();
    let mut clients = Vec::with_capacity(idle);
    for i in 0..idle {
        let mut client = TcpStream::connect(&rig.addresses[0]).unwrap();
        // Each was heard, so each has had a buffer.
        client.write_all((line(i) + "\n").as_bytes()).unwrap();
        clients.push(client);
    }
    let heard = rig.take(idle).len();
    rig.until("all are in", |rig| rig.connections() == heard + 1);
    let each = resident_bytes().saturating_sub(before) / idle;
    eprintln!("{idle} idle connections: {each} bytes of memory each");
    assert!(each < 6 << 10, "{each} bytes of memory each");
    let text: String = (0..20_000).map(|i| line(i) + "\n").collect();
    warm.write_all(text.as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(20_000)), (0..20_000).collect::<Vec<_>>());
    clients[idle / 2].write_all((line(5) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [5]);
    drop((clients, warm));
    rig.until("all are gone", |rig| rig.connections() == 0);
    rig.end();
}

#[test]
fn an_idle_connection_over_tls_costs_what_tls_needs() {
    if !is_alone("limits::an_idle_connection_over_tls_costs_what_tls_needs") {
        return;
    }
    const IDLE: usize = 300;
    let authority = tls::Authority::new();
    let config = Config { max_connections_per_peer: 0, ..authority.config() };
    let mut rig = listen(&config, 64 << 20);
    let client = authority.client(None, tls::NEW);
    // Ours keep only the socket: what is measured is what is left here.
    let hear = |i: usize| {
        let mut client = tls::connect(&rig.addresses[0], client.clone()).unwrap();
        client.write_all((line(i) + "\n").as_bytes()).unwrap();
        client.into_parts().1
    };
    let _warm: Vec<_> = (0..20).map(hear).collect();
    rig.take(20);
    let before = resident_bytes();
    let clients: Vec<_> = (0..IDLE).map(hear).collect();
    rig.take(IDLE);
    rig.until("all are in", |rig| rig.connections() == IDLE + 20);
    let each = resident_bytes().saturating_sub(before) / IDLE;
    eprintln!("{IDLE} idle connections over TLS: {each} bytes of memory each");
    assert!(each < 40 << 10, "{each} bytes of memory each");
    drop((clients, _warm));
    rig.until("all are gone", |rig| rig.connections() == 0);
    rig.end();
}
