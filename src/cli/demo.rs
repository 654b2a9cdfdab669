//! `greypit run --demo`: plays a sample of mail-server syslog, and a flood, into the gateway's own sockets and shows what
//! comes out.

mod flood;

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use greypit_pipeline::Kind;
use greypit_pipeline::codec::Decoder;
use greypit_pipeline::object::{Line, Lines};
use greypit_pipeline::store::{self, Store};
use greypit_pipeline::units::Span;
use jiff::Zoned;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

use super::top::Top;
use crate::config::{Config, Loaded};

/// Messages played; each makes one `from=` line and one or more `to=` recipients.
const MESSAGES: usize = 2000;

/// How long objects may take to appear before the demo says that something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// A demo shows its objects within seconds, and keeps its invented records out of a configured spool and store.
pub(crate) fn configure(loaded: &mut Loaded) {
    let configured = loaded.is_from_file();
    let config = &mut loaded.config;
    config.batch.window = Span::seconds(2);
    if configured {
        config.data_dir = config.data_dir.join("demo");
        config.maillog.clear();
        config.milter = greypit_milter::Config {
            listen: vec![format!("unix:{}", config.data_dir.join("milter.sock").display())],
            ..greypit_milter::Config::default()
        };
        config.store =
            store::Config { url: config.data_dir.join("objects").display().to_string(), ..Default::default() };
    }
}

/// Sends the sample and prints what the store holds of it.
pub(crate) async fn play(config: Config, addresses: Vec<String>, store: Store) {
    if let Err(problem) = try_play(&config, &addresses, &store).await {
        eprintln!("greypit: the demo failed: {problem}");
    }
}

async fn try_play(config: &Config, addresses: &[String], store: &Store) -> Result<(), String> {
    let address = |transport: &str| addresses.iter().find_map(|line| line.strip_prefix(transport)).map(str::to_owned);
    let tcp = address("tcp ").ok_or("the config has no syslog.tcp to play into")?;
    let before = count(store).await?;
    let lines = sample();
    // Mostly by TCP, which loses nothing; a few by UDP, which shows that it works.
    let (by_udp, by_tcp) = lines.split_at(50);
    let mut stream = TcpStream::connect(&tcp).await.map_err(|error| format!("{tcp}: {error}"))?;
    for line in by_tcp {
        stream.write_all(format!("{line}\n").as_bytes()).await.map_err(|error| format!("{tcp}: {error}"))?;
    }
    stream.shutdown().await.map_err(|error| format!("{tcp}: {error}"))?;
    let mut sent = by_tcp.iter().map(|line| records_in(line)).sum::<u64>();
    if let Some(udp) = address("udp ") {
        let socket = UdpSocket::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        for line in by_udp {
            socket.send_to(line.as_bytes(), &udp).await.map_err(|error| format!("{udp}: {error}"))?;
        }
        sent += by_udp.iter().map(|line| records_in(line)).sum::<u64>();
    }
    eprintln!("\nPlayed {} lines of four mail servers' syslog into {tcp} and its UDP twin.", lines.len());
    if let Some(socket) = address("milter unix:") {
        eprintln!("Playing a mail server whose client sends message after message over one connection …");
        let outcome = flood::play(&socket, config.milter.limit).await?;
        say("\nOne sender, one connection, and what the milter said at MAIL:");
        outcome.lines().for_each(|line| say(&line));
    }
    eprintln!("Waiting for the objects (a window is 2 s in the demo, 5 minutes otherwise) …");

    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let found = count(store).await? - before;
        if found >= sent {
            return report(config, addresses, store).await;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{found} of {sent} records have arrived after {PATIENCE:?}; see the log above"));
        }
    }
}

/// How many records a line makes: one a recipient.
fn records_in(line: &str) -> u64 {
    line.split_once(": to=").map_or(1, |(_, to)| to.split(", ").next().unwrap_or_default().split(',').count() as u64)
}

/// How many `from` and `to` records the store holds.
async fn count(store: &Store) -> Result<u64, String> {
    let mut count = 0;
    for object in store.list("").await.map_err(|error| error.to_string())? {
        let bytes = store.get(&object.key).await.map_err(|error| error.to_string())?;
        let mut lines = Lines::new(Decoder::of_object(&object.key, &bytes, 1 << 30));
        while let Some(line) = lines.next().map_err(|error| format!("{}: {error}", object.key))? {
            let Line::Text(line) = line else { continue };
            let mail = |kind: &str| memchr::memmem::find(line, format!("\"kind\":\"{kind}\"").as_bytes()).is_some();
            count += u64::from(mail("from") || mail("to"));
        }
    }
    Ok(count)
}

async fn report(config: &Config, addresses: &[String], store: &Store) -> Result<(), String> {
    let objects = store.list("").await.map_err(|error| error.to_string())?;
    say(&format!("\nObjects in {}:", place(store)));
    for object in objects.iter().rev().take(6).rev() {
        say(&format!("  {} ({} bytes)", object.key, object.size));
    }
    for (title, field, kind, n) in [("10 recipients", "dest", "to", 10), ("3 mail servers", "mailserver", "from", 3)] {
        say(&format!("\nTop {title} (greypit top {field} --kind {kind} -n {n}):"));
        Top::new(field, Kind::new(kind), n).run(Some(config.store.clone())).await;
    }
    say("\nListening on:");
    for address in addresses {
        say(&format!("  {address}"));
    }
    let greypit = std::env::current_exe().map_or_else(|_| "greypit".into(), |path| path.display().to_string());
    say(&format!("\nTry:  {greypit} verify {}", place(store)));
    let http = addresses.iter().find_map(|line| line.strip_prefix("http ")?.split(' ').next());
    if let Some(http) = http {
        say(&format!("      curl http://{http}/readyz"));
    }
    say("Ctrl-C ends.");
    Ok(())
}

/// The demo goes on when nobody reads what it says.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn place(store: &Store) -> String {
    let url = store.url();
    match Path::new(url.trim_start_matches("file://")).canonicalize() {
        Ok(path) => path.display().to_string(),
        Err(_) => url,
    }
}

/// Lines as four sendmail servers send them by syslog. The same every time but for the date.
fn sample() -> Vec<String> {
    const SERVERS: [&str; 4] = ["mx1.example.org", "mx2.example.org", "mx3.example.org", "relay.example.net"];
    const DOMAINS: [&str; 5] = ["example.com", "example.net", "mail.example.edu", "lists.example.org", "shop.example"];
    let date = Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: u64| {
        // xorshift: a sample needs variety, not secrets.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut lines = Vec::with_capacity(2 * MESSAGES);
    for n in 0..MESSAGES {
        // Squaring makes some servers and recipients busier than others.
        let server = SERVERS[(next(4) * next(4) / 3) as usize % 4];
        let (from, pid, size) = (next(300), 1000 + next(30_000), 400 + next(60_000));
        let queue_id = format!("5AKCt{:03}{:06}", n % 1000, pid);
        let head = format!("<22>{date} {server} sendmail[{pid}]: {queue_id}");
        let domain = DOMAINS[next(5) as usize];
        lines.push(format!(
            "{head}: from=<user{from}@{domain}>, size={size}, class=0, nrcpts=1, msgid=<{n}.{pid}@{domain}>, proto=ESMTP, \
             daemon=MTA, relay=client{from}.{domain} [192.0.2.{}]",
            from % 250 + 1
        ));
        let to = next(40) * next(40) / 40;
        let domain = DOMAINS[(to % 5) as usize];
        let second = if n % 20 == 0 { format!(",<team{}@{domain}>", n % 3) } else { String::new() };
        let (dsn, stat) = match next(20) {
            0 => ("4.2.0", "Deferred: 451 4.7.1 Please try again later"),
            1 => ("5.1.1", "User unknown"),
            _ => ("2.0.0", "Sent (250 2.0.0 OK)"),
        };
        lines.push(format!(
            "{head}: to=<user{to}@{domain}>{second}, delay=00:00:0{}, xdelay=00:00:01, mailer=esmtp, pri=12{}, \
             relay=mail.{domain}. [198.51.100.{}], dsn={dsn}, stat={stat}",
            n % 10,
            n % 1000,
            to + 1
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_what_a_mail_server_sends() {
        let lines = sample();
        assert_eq!(lines.len(), 2 * MESSAGES);
        let records: u64 = lines.iter().map(|line| records_in(line)).sum();
        assert_eq!(records, 2 * MESSAGES as u64 + MESSAGES as u64 / 20, "one message in twenty has two recipients");
    }
}
