//! Sends the lines of a log as syslog messages, to loopback only, as fast as the receiver takes them or at a rate.
//!
//! ```text
//! cargo run --release --example send -- tcp:127.0.0.1:5514 maillog --times 100
//! cargo run --release --example send -- udp:127.0.0.1:5514 maillog --rate 20000 --pri 22
//! ```
//!
//! Prints one line: `messages=… bytes=… seconds=… messages_per_s=…`; bytes are those of the messages without framing.
//! Over TCP the clock stops when the receiver has closed its side, so everything was read by then. A datagram that the
//! kernel does not take at once is sent again; what the receiver's kernel drops is the receiver's to count.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

/// Bytes of one write over TCP, as a busy syslog daemon makes them.
const WRITE_BYTES: usize = 64 << 10;

/// How long to sleep when ahead of the rate.
const TICK: Duration = Duration::from_millis(1);

#[derive(Parser)]
struct Args {
    /// `tcp:127.0.0.1:5514`, `udp:[::1]:5514` or `unix:/run/log`.
    target: String,
    /// One message a line.
    file: PathBuf,
    /// How often the file is sent.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Messages a second over all connections; without it as fast as it goes.
    #[arg(long)]
    rate: Option<f64>,
    /// TCP connections, each of which sends the file `times` times.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// How messages are told apart over TCP, RFC 6587.
    #[arg(long, value_enum, default_value_t = Framing::Lf)]
    framing: Framing,
    /// Put `<PRI>` in front of each line; a mail log has none.
    #[arg(long)]
    pri: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Framing {
    Lf,
    Octet,
}

/// Where to.
enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    fn parse(text: &str) -> io::Result<Target> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| refuse(text, "has no scheme"))?;
        let address = || {
            let address: SocketAddr = rest.parse().map_err(|_| refuse(rest, "is no address and port"))?;
            if address.ip().is_loopback() { Ok(address) } else { Err(refuse(rest, "is not on loopback")) }
        };
        match scheme {
            "tcp" => Ok(Target::Tcp(address()?)),
            "udp" => Ok(Target::Udp(address()?)),
            "unix" => Ok(Target::Unix(rest.into())),
            _ => Err(refuse(scheme, "is none of tcp, udp, unix")),
        }
    }
}

fn refuse(what: &str, why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, format!("'{what}' {why}; write for example tcp:127.0.0.1:5514"))
}

/// The file as it goes over the wire.
struct Load {
    wire: Vec<u8>,
    frames: Vec<Range<usize>>,
    message_bytes: usize,
}

impl Load {
    /// `framing`: none for datagrams.
    fn new(log: &[u8], framing: Option<Framing>, pri: Option<u8>) -> Load {
        let pri = pri.map(|pri| format!("<{pri}>")).unwrap_or_default();
        let mut load = Load { wire: Vec::with_capacity(log.len() * 2), frames: Vec::new(), message_bytes: 0 };
        for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let start = load.wire.len();
            let bytes = pri.len() + line.len();
            if framing == Some(Framing::Octet) {
                load.wire.extend_from_slice(format!("{bytes} ").as_bytes());
            }
            load.wire.extend_from_slice(pri.as_bytes());
            load.wire.extend_from_slice(line);
            if framing == Some(Framing::Lf) {
                load.wire.push(b'\n');
            }
            load.frames.push(start..load.wire.len());
            load.message_bytes += bytes;
        }
        load
    }

    /// The end of the longest run of frames from `first` that is one write of at most `frames_max` frames.
    fn run(&self, first: usize, frames_max: usize) -> usize {
        let limit = self.frames[first].start + WRITE_BYTES;
        let fits = self.frames[first..].iter().take(frames_max).take_while(|frame| frame.end <= limit).count();
        first + fits.max(1)
    }
}

/// Lets messages through at a rate.
struct Pace {
    rate: Option<f64>,
    began: Instant,
    sent: usize,
}

impl Pace {
    fn new(rate: Option<f64>) -> Pace {
        Pace { rate, began: Instant::now(), sent: 0 }
    }

    /// How many messages may go now: at least one, after waiting where that is needed.
    fn allow(&self) -> usize {
        let Some(rate) = self.rate else { return usize::MAX };
        loop {
            let due = (self.began.elapsed().as_secs_f64() * rate) as usize;
            if due > self.sent {
                return due - self.sent;
            }
            std::thread::sleep(TICK);
        }
    }
}

fn over_tcp(address: SocketAddr, load: &Load, times: usize, rate: Option<f64>) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut pace = Pace::new(rate);
    for _ in 0..times {
        let mut first = 0;
        while first < load.frames.len() {
            let end = load.run(first, pace.allow());
            stream.write_all(&load.wire[load.frames[first].start..load.frames[end - 1].end])?;
            pace.sent += end - first;
            first = end;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::Error::other("the receiver answers: this is no syslog port")),
        Err(error) => Err(error),
    }
}

fn over_datagrams(
    send: impl Fn(&[u8]) -> io::Result<usize>,
    load: &Load,
    times: usize,
    rate: Option<f64>,
) -> io::Result<()> {
    let mut pace = Pace::new(rate);
    for _ in 0..times {
        for frame in &load.frames {
            pace.allow();
            while let Err(error) = send(&load.wire[frame.clone()]) {
                // ENOBUFS, and an ICMP error about an earlier datagram.
                if !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR)) {
                    return Err(error);
                }
                std::thread::sleep(TICK);
            }
            pace.sent += 1;
        }
    }
    Ok(())
}

fn run(args: &Args) -> io::Result<String> {
    let log = std::fs::read(&args.file)?;
    let target = Target::parse(&args.target)?;
    let framing = matches!(target, Target::Tcp(_)).then_some(args.framing);
    let load = Load::new(&log, framing, args.pri);
    if load.frames.is_empty() {
        return Err(io::Error::other(format!("{} has no line", args.file.display())));
    }
    let connections = if framing.is_some() { args.connections.max(1) } else { 1 };
    let began = Instant::now();
    match target {
        Target::Tcp(address) => {
            let rate = args.rate.map(|rate| rate / connections as f64);
            std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..connections).map(|_| scope.spawn(|| over_tcp(address, &load, args.times, rate))).collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|_| Err(io::Error::other("a sending thread panicked")))
                })
            })?;
        }
        Target::Udp(address) => {
            let from: SocketAddr = match address {
                SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 0).into(),
            };
            let socket = UdpSocket::bind(from)?;
            socket.connect(address)?;
            over_datagrams(|datagram| socket.send(datagram), &load, args.times, args.rate)?;
        }
        Target::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            over_datagrams(|datagram| socket.send(datagram), &load, args.times, args.rate)?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let repeats = args.times * connections;
    let (messages, bytes) = (load.frames.len() * repeats, load.message_bytes * repeats);
    let rate = messages as f64 / seconds;
    Ok(format!("messages={messages} bytes={bytes} seconds={seconds:.3} messages_per_s={rate:.0}"))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("send: {error}");
            ExitCode::FAILURE
        }
    }
}
