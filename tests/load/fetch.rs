//! Files by TFTP and HTTP: MB a second, and CPU seconds of a GB.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::rivals::{Server, Which};
use crate::support::Folder;
use crate::support::boot_server::SERVER;
use crate::{Arguments, Table};

const NAME: &str = "large";
const WAIT: Duration = Duration::from_secs(1);

/// How a file is asked for by TFTP.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    clients: usize,
    blksize: usize,
    windowsize: usize,
}

const WAYS: [Way; 5] = [
    Way { name: "blksize 1468", clients: 1, blksize: 1468, windowsize: 1 },
    Way { name: "blksize 8192", clients: 1, blksize: 8192, windowsize: 1 },
    Way { name: "blksize 1468, windowsize 16", clients: 1, blksize: 1468, windowsize: 16 },
    Way { name: "8 clients, blksize 1468", clients: 8, blksize: 1468, windowsize: 1 },
    Way { name: "8 clients, blksize 1468, windowsize 16", clients: 8, blksize: 1468, windowsize: 16 },
];

pub(crate) fn tftp(arguments: &Arguments) {
    let files = files(arguments);
    for way in WAYS {
        println!("tftp, {}:", way.name);
        let title = format!("tftp, {}", way.name);
        compare(arguments, &title, &[Which::Greypit, Which::Tftpd, Which::Dnsmasq], &files, |server| {
            let fetch = || server.client.enter(|| fetch_tftp(way).expect("the file comes"));
            let fetched = in_parallel(way.clients, fetch);
            print!(" [blksize {}, windowsize {}]", fetched[0].blksize, fetched[0].windowsize);
            fetched.iter().map(|fetched| fetched.bytes).sum()
        });
    }
}

pub(crate) fn http(arguments: &Arguments) {
    let files = files(arguments);
    for clients in [1, 8] {
        println!("http, {clients} at once:");
        let title = format!("http, {clients} at once");
        compare(arguments, &title, &[Which::Greypit, Which::Python, Which::Busybox], &files, |server| {
            let fetch = || server.client.enter(|| fetch_http().expect("the file comes"));
            in_parallel(clients, fetch).iter().sum()
        });
    }
}

/// A folder with the file, in memory once it was written.
fn files(arguments: &Arguments) -> Folder {
    let folder = Folder::new("files");
    let bytes = arguments.number("--megabytes", 100.0) as usize * 1_000_000;
    let contents: Vec<u8> = (0..bytes).map(|n| (n * 7 / 3) as u8).collect();
    let mut file = File::create(folder.join(NAME)).expect("a file of ours");
    file.write_all(&contents).and_then(|()| file.sync_all()).expect("a file of ours");
    // tftpd-hpa gives out what all may read.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), all).expect("a folder of ours");
    folder
}

fn in_parallel<T: Send>(count: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
    })
}

/// Has the same fetched from each; `fetch` gives how many bytes came.
fn compare(arguments: &Arguments, title: &str, servers: &[Which], files: &Folder, fetch: impl Fn(&Server) -> u64) {
    let only = arguments.text("--only");
    let servers: Vec<Which> =
        servers.iter().copied().filter(|which| only.is_none_or(|name| name == which.name())).collect();
    let (mut speeds, mut costs) = (Table::default(), Table::default());
    for round in 0..arguments.number("--rounds", 3.0) as usize {
        let mut found = Vec::new();
        for at in 0..servers.len() {
            let at = (at + round) % servers.len();
            let server = Server::start(servers[at], files.path());
            let before = server.cpu();
            print!("  {}:", servers[at].name());
            let began = Instant::now();
            let bytes = fetch(&server) as f64;
            let speed = bytes / 1e6 / began.elapsed().as_secs_f64();
            let cost = (server.cpu() - before) * 1e9 / bytes;
            println!(" {speed:.1} MB/s, {cost:.2} s CPU a GB");
            found.push((at, speed, cost));
        }
        found.sort_by_key(|(at, ..)| *at);
        for (at, speed, cost) in found {
            speeds.add(servers[at].name(), speed);
            costs.add(servers[at].name(), cost);
        }
    }
    speeds.say(title, "MB/s");
    costs.say(&format!("{title}, CPU"), "s a GB");
}

struct Fetched {
    bytes: u64,
    blksize: usize,
    windowsize: usize,
}

/// A client of TFTP (RFC 1350, 2347, 2348, 7440) that throws away what comes.
fn fetch_tftp(way: Way) -> io::Result<Fetched> {
    let server: SocketAddr = (SERVER.parse::<Ipv4Addr>().expect("an address"), 69).into();
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(WAIT))?;
    let mut request = format!("\0\x01{NAME}\0octet\0blksize\0{}\0", way.blksize);
    if way.windowsize > 1 {
        request += &format!("windowsize\0{}\0", way.windowsize);
    }
    let mut buffer = vec![0; 65_536];
    socket.send_to(request.as_bytes(), server)?;
    let (length, from) = socket.recv_from(&mut buffer)?;
    socket.connect(from)?;
    let Some(options) = buffer[..length].strip_prefix(b"\0\x06") else {
        return Err(io::Error::other(String::from_utf8_lossy(&buffer[..length]).into_owned()));
    };
    let words: Vec<String> =
        options.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into()).collect();
    let agreed = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1)?.parse::<usize>().ok()
    };
    let mut fetched =
        Fetched { bytes: 0, blksize: agreed("blksize").unwrap_or(512), windowsize: agreed("windowsize").unwrap_or(1) };
    // The last block that came in its turn, and how many have come since the last one that was acknowledged.
    let (mut block, mut in_window) = (0_u16, 0);
    let acknowledge = |block: u16| {
        let [high, low] = block.to_be_bytes();
        socket.send(&[0, 4, high, low]).map(drop)
    };
    acknowledge(0)?;
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                in_window = 0;
                acknowledge(block)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let [0, 3, high, low] = buffer[..4] else { return Err(io::Error::other("no block")) };
        let came = u16::from_be_bytes([high, low]);
        if came != block.wrapping_add(1) {
            // RFC 7440: what follows a gap is not acknowledged. One acknowledgement a gap is enough.
            if in_window > 0 {
                in_window = 0;
                acknowledge(block)?;
            }
            continue;
        }
        (block, in_window) = (came, in_window + 1);
        fetched.bytes += length as u64 - 4;
        let is_last = length < fetched.blksize + 4;
        if is_last || in_window == fetched.windowsize {
            in_window = 0;
            acknowledge(block)?;
        }
        if is_last {
            return Ok(fetched);
        }
    }
}

fn fetch_http() -> io::Result<u64> {
    let mut stream = TcpStream::connect((SERVER, 80))?;
    write!(stream, "GET /{NAME} HTTP/1.1\r\nHost: {SERVER}\r\nConnection: close\r\n\r\n")?;
    let (mut buffer, mut head) = (vec![0; 1 << 20], Vec::new());
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..length]);
    }
    let end = head.windows(4).position(|end| end == b"\r\n\r\n").expect("just seen") + 4;
    if !head.starts_with(b"HTTP/1.1 200") && !head.starts_with(b"HTTP/1.0 200") {
        return Err(io::Error::other(String::from_utf8_lossy(&head[..end]).into_owned()));
    }
    let mut bytes = (head.len() - end) as u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(bytes),
            length => bytes += length as u64,
        }
    }
}
