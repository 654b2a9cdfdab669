//! For the fuzz target and the benchmark: the server without sockets and disk.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::answer::{ANSWER_BYTES_MAX, ANSWER_BYTES_MIN};
use super::clock::Moment;
use super::outcome::Arrival;
use super::server::Server;
use crate::collect::boot::config::{Config, Mode};
use crate::collect::boot::mac::Mac;
use crate::collect::boot::machines::catalog::Catalog;
use crate::collect::boot::machines::{Machine, Machines};
use crate::collect::boot::net::{Interface, Networks};
use crate::collect::boot::sessions::Sessions;

/// A server of 10.77.0.0/16 with `pool` addresses from 10.77.1.0 on and one machine, 52:54:00:00:00:09.
#[derive(Debug)]
pub struct Subject {
    server: Server,
    now_s: i64,
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The smallest and the largest answer in bytes.
pub const ANSWER_BYTES: std::ops::RangeInclusive<usize> = ANSWER_BYTES_MIN..=ANSWER_BYTES_MAX;

/// By all clocks the same.
fn moment(now_s: i64) -> Moment {
    Moment { wall: Timestamp::from_second(now_s).unwrap_or_default(), steady_s: now_s, lease_s: now_s }
}

impl Subject {
    /// `pool`: at most 60,000. `None` where that does not fit.
    pub fn new(mode: Mode, pool: u32) -> Option<Subject> {
        let first = Ipv4Addr::new(10, 77, 1, 0);
        let last = Ipv4Addr::from(u32::from(first) + pool.checked_sub(1)?);
        let mut config = Config { mode, ..Config::default() };
        config.dhcp.pool = vec![format!("{first}-{last}")];
        config.dhcp.router = vec![SERVER];
        config.dhcp.max_rate_per_client = 0;
        let interface = Interface::new("eth1", 2, Mac([0x52, 0x54, 0, 0, 0, 1]), ipnet::Ipv4Net::new(SERVER, 16).ok()?);
        let networks = Networks::new(&config, vec![interface]).ok()?;
        let mut machines = Machines::default();
        let kernel = Some("vmlinuz".to_owned());
        let (ip, macs) = (Some(Ipv4Addr::new(10, 77, 0, 9)), vec![Mac([0x52, 0x54, 0, 0, 0, 9])]);
        machines.add(SERVER, Machine { hostname: "n9".into(), ip, macs, kernel: kernel.clone(), ..Machine::default() });
        machines.add(SERVER, Machine { kernel, ..Machine::default() });
        let sessions = Arc::new(Sessions::new(Duration::from_secs(1800)));
        let now_s = 1_800_000_000;
        let server = Server::new(&config, networks, Catalog::of(machines), sessions, Vec::new(), moment(now_s));
        Some(Subject { server, now_s })
    }

    /// Time passes.
    pub fn wait(&mut self, seconds: u8) {
        self.now_s += i64::from(seconds);
    }

    /// The answer to a packet, and its event.
    pub fn handle(&mut self, packet: &[u8], source: SocketAddrV4, port: u16) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let arrival = Arrival { interface: 0, source, port };
        let outcome = self.server.handle(packet, &arrival, moment(self.now_s));
        let levels = self.server.levels();
        assert!(levels.free <= levels.pools, "{levels:?}");
        (outcome.answer.map(|answer| answer.bytes), outcome.record.map(crate::collect::boot::audit::Record::end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcproto::v4::Message;
    use dhcproto::{Decodable, Decoder};
    use proptest::prelude::*;

    /// An option that the server looks at, with any data.
    fn option() -> impl Strategy<Value = Vec<u8>> {
        let code = prop::sample::select(vec![12_u8, 50, 51, 52, 53, 54, 55, 57, 60, 61, 77, 82, 93, 97, 175, 200]);
        (code, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(code, mut data)| {
            match code {
                50 | 54 => data.splice(.., [10, 77, (data.len() % 2) as u8, 1]).for_each(drop),
                51 => data.resize(4, 1),
                53 => data.splice(.., [1 + (data.len() % 8) as u8]).for_each(drop),
                57 => data.resize(2, 2),
                _ => {}
            }
            [vec![code, data.len() as u8], data].concat()
        })
    }

    proptest! {
        #[test]
        fn any_packets_get_answers_that_fit_or_none(
            packets in prop::collection::vec((prop::collection::vec(option(), 0..8), any::<[u8; 8]>(), 0..3_u8), 1..12),
            mode in prop::sample::select(vec![Mode::Serve, Mode::Proxy, Mode::Listen]),
        ) {
            let mut subject = Subject::new(mode, 3).unwrap();
            for (options, bytes, cut) in packets {
                let mut packet = vec![0; 240];
                packet[..3].copy_from_slice(&[1, 1, 6]);
                packet[4..12].copy_from_slice(&bytes);
                packet[28..34].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 8 + bytes[0] % 4]);
                packet[236..].copy_from_slice(&[99, 130, 83, 99]);
                if bytes[1].is_multiple_of(3) {
                    packet[12..16].copy_from_slice(&[10, 77, 1, bytes[1] % 4]);
                }
                if bytes[2].is_multiple_of(3) {
                    packet[24..28].copy_from_slice(&[10, 77, 0, 200]);
                }
                packet.extend(options.concat());
                packet.truncate(packet.len() - cut as usize);
                subject.wait(bytes[3]);
                let source = if bytes[4] < 128 { "10.77.0.200:67" } else { "0.0.0.0:68" }.parse().unwrap();
                let (answer, event) = subject.handle(&packet, source, if bytes[5] < 200 { 67 } else { 4011 });
                let event: serde_json::Value = serde_json::from_slice(&event.unwrap()).unwrap();
                prop_assert!(event["why"].is_string() && event["message"].is_string());
                let Some(bytes) = answer else { continue };
                prop_assert!(mode != Mode::Listen && ANSWER_BYTES.contains(&bytes.len()));
                let answer = Message::decode(&mut Decoder::new(&bytes)).unwrap();
                prop_assert!(packet[4..8] == answer.xid().to_be_bytes());
            }
        }
    }
}
