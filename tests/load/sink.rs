//! The syslog listeners with nothing behind them: what a message costs from the socket to a full group.
//!
//! ```text
//! cargo run --release --example sink -- --messages 1000000     prints the addresses, then waits
//! cargo run --release --example send -- tcp:127.0.0.1:5514 maillog --times 100
//! ```
//!
//! Groups are taken from the queue and thrown away. Ends after so many messages, or after `--quiet-s` without any once
//! there was one (UDP loses some), and prints one line:
//! `messages=… dropped=… events=… groups=… cpu_user_us=… cpu_sys_us=… (a message) rss_max_kib=…`

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use greypit::collect::syslog::listen::{Config, bind, spawn};
use greypit_pipeline::submit::testing;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    messages: u64,
    #[arg(long, default_value = "127.0.0.1:5514")]
    tcp: Vec<String>,
    #[arg(long, default_value = "127.0.0.1:5514")]
    udp: Vec<String>,
    #[arg(long)]
    unix: Vec<String>,
    #[arg(long, default_value_t = 2)]
    quiet_s: u64,
}

/// The sum of a counter over its labels.
fn sum(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    family.map_or(0.0, |family| family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()) as u64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let config = Config { tcp: args.tcp, udp: args.udp, unix: args.unix, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let (submit, queue) = testing::queue(16 << 20);
    let bound = bind(&config)?;
    for address in bound.addresses() {
        eprintln!("{address}");
    }
    let tasks = {
        let _inside = runtime.enter();
        spawn(bound, &config, "sink", None, None, submit, &registry, stop.clone())?
    };
    let (groups, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let (groups_taken, events_taken) = (&groups, &events);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Some(group) = queue.next(Duration::from_secs(3600)) {
                groups_taken.fetch_add(1, Ordering::Relaxed);
                events_taken.fetch_add(group.len() as u64, Ordering::Relaxed);
            }
        });
        let (mut seen, mut at) = (0, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let messages = sum(&registry, "greypit_syslog_messages_total");
            if messages != seen {
                (seen, at) = (messages, Instant::now());
            }
            if seen >= args.messages || seen > 0 && at.elapsed() >= Duration::from_secs(args.quiet_s) {
                break;
            }
        }
        stop.cancel();
        for task in tasks {
            let _ = runtime.block_on(task);
        }
    });
    let messages = sum(&registry, "greypit_syslog_messages_total");
    let [user, sys] = cpu_s()?.map(|seconds| seconds * 1e6 / messages.max(1) as f64);
    println!(
        "messages={messages} dropped={} events={} groups={} cpu_user_us={user:.3} cpu_sys_us={sys:.3} rss_max_kib={}",
        sum(&registry, "greypit_syslog_dropped_total"),
        events.into_inner(),
        groups.into_inner(),
        rss_max()?,
    );
    Ok(())
}

/// User and system time of this process in seconds, in steps of a hundredth.
fn cpu_s() -> std::io::Result<[f64; 2]> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold anything: state, then numbers; see proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    Ok([11, 12].map(|i| ticks(i) / 100.0))
}

fn rss_max() -> std::io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or("0").to_owned())
}
