//! Sockets that somebody else opened: the program as systemd starts it.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use super::*;

/// Starts the program with `sockets` from descriptor 3 on, as sd_listen_fds(3) describes.
fn start(sockets: &[&dyn AsFd], names: &str, config: &std::path::Path) -> std::process::Child {
    let mut script = String::new();
    for (i, socket) in sockets.iter().enumerate() {
        rustix::io::fcntl_setfd(socket.as_fd(), rustix::io::FdFlags::empty()).unwrap();
        // By way of high numbers, so that none is overwritten before it is copied.
        script += &format!("exec {}<&{}; ", 200 + i, socket.as_fd().as_raw_fd());
    }
    for i in 0..sockets.len() {
        script += &format!("exec {}<&{}; ", 3 + i, 200 + i);
    }
    script += &format!(
        "LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names} exec {} run --config {}",
        sockets.len(),
        env!("CARGO_BIN_EXE_greypit"),
        config.display()
    );
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(super) fn write_config(dir: &std::path::Path, syslog: &str) -> std::path::PathBuf {
    let path = dir.join("greypit.toml");
    let text = format!(
        "node = \"gw\"\ndata_dir = \"{0}/data\"\n[milter]\nlisten = []\n[http]\nlisten = \"\"\n\
         [batch]\ncodec = \"none\"\ndrain_timeout = \"2m\"\n[store]\nurl = \"{0}/objects\"\n[syslog]\n{syslog}\n",
        dir.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn objects(dir: &std::path::Path, found: &mut String) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => objects(&entry.path(), found),
            false => *found += &std::fs::read_to_string(entry.path()).unwrap(),
        }
    }
}

#[test]
fn passed_sockets_are_served_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (log, stream) = (dir.path().join("log"), dir.path().join("stream"));
    let (datagrams, streams) = (UnixDatagram::bind(&log).unwrap(), UnixListener::bind(&stream).unwrap());
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    // What the config names too is not bound again.
    let config = write_config(
        dir.path(),
        &format!("udp = [\"{udp_at}\"]\ntcp = [\"{tcp_at}\"]\nunix = [\"{}\"]", log.display()),
    );
    // Sent before anybody runs: the sockets are there, which is what they are for.
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(line(0).as_bytes(), udp_at).unwrap();
    TcpStream::connect(tcp_at).unwrap().write_all(line(1).as_bytes()).unwrap();
    UnixDatagram::unbound().unwrap().send_to(line(2).as_bytes(), &log).unwrap();
    let mut client = std::os::unix::net::UnixStream::connect(&stream).unwrap();
    client.write_all(line(3).as_bytes()).unwrap();
    drop(client);
    let mut child = start(&[&udp, &tcp, &datagrams, &streams], "a:b:c:d", &config);
    drop((udp, tcp, datagrams, streams));
    // It takes what had arrived, even where it is told to end at once: wait only until it runs.
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("unix_stream") {
        let n = std::io::BufRead::read_line(&mut stderr, &mut said).unwrap();
        assert!(n > 0, "it ended: {said}");
    }
    for address in [format!("udp {udp_at}"), format!("tcp {tcp_at}"), format!("unix {}", log.display())] {
        assert!(said.contains(&address), "{address} in {said}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let mut found = String::new();
    objects(&dir.path().join("objects"), &mut found);
    for i in 0..4 {
        assert!(found.contains(&format!("\"{i:06}\"")), "{i} in {found}; {said}");
    }
    assert!(log.exists() && stream.exists(), "they are systemd's to remove");
}

#[test]
fn a_socket_of_no_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (here, _there) = UnixDatagram::pair().unwrap();
    let (connected, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let config = write_config(dir.path(), "udp = []\ntcp = []");
    let done = start(&[&here, &connected], "good:odd", &config).wait_with_output().unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(
        !done.status.success() && text.contains("the socket 'odd' that systemd passes is none for syslog"),
        "{text}"
    );
    // Without the name of this process they are not for it.
    let done = Command::new(env!("CARGO_BIN_EXE_greypit"))
        .args(["check", "--config"])
        .arg(&config)
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDS", "2")
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}
