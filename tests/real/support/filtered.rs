//! What a mail server with greypit as its filter does, whichever mail server
//! it is. Each function is one story with a greypit of its own; afterwards
//! [`Filtered::nothing_is_lost`] compares what was accepted with what arrived.

use super::flood::{Attempt, Flood, accepted};
use super::greypit::Greypit;
use super::sendmail::MailNet;
use super::smtp::Client;
use super::wait_for;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::scope;
use std::time::{Duration, Instant};

/// A mail server that is attached to a greypit which starts and ends.
#[derive(Debug)]
pub(crate) struct Filtered {
    pub(crate) greypit: Greypit,
    server: SocketAddr,
    /// Whether mail passes while greypit is away; else it is refused for now.
    passes: bool,
    /// Message-IDs of what was accepted.
    accepted: Vec<String>,
    floods: usize,
}

/// The client that nobody means to hold.
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 5, 2);

impl Filtered {
    /// `listen`: one address as in the config.
    pub(crate) fn new(server: SocketAddr, listen: &str, passes: bool) -> Self {
        let mut greypit = Greypit::new("mx1");
        greypit.set("milter.listen", vec![toml::Value::from(listen)]);
        // So that nothing but the records is left of the spool when it ends.
        greypit.set("batch.window", "1s");
        Self { greypit, server, passes, accepted: Vec::new(), floods: 0 }
    }

    /// The same, on a unix socket.
    pub(crate) fn by_socket(server: SocketAddr, socket: &Path, passes: bool) -> Self {
        Self::new(server, &format!("unix:{}", socket.display()), passes)
    }

    /// Starts greypit with these keys of `[milter]` and the defaults.
    pub(crate) fn start(&mut self, keys: &str) {
        self.set(keys);
        self.greypit.start();
    }

    pub(crate) fn set(&mut self, keys: &str) {
        self.greypit.set_toml("[milter]\nmode = \"enforce\"\nlimit = 10\nmax_strikes = 0\n");
        self.greypit.set_toml(&format!("[milter]\n{keys}"));
    }

    /// A new connection that will send more than is good.
    pub(crate) fn flood(&mut self) -> Flood {
        self.flood_from(Ipv4Addr::LOCALHOST)
    }

    fn flood_from(&mut self, source: Ipv4Addr) -> Flood {
        self.floods += 1;
        Flood::connect_from(source, self.server, &format!("flood{}", self.floods))
    }

    pub(crate) fn send(&mut self, flood: &mut Flood, count: usize) -> Vec<Attempt> {
        let attempts = flood.send(count);
        self.note(&attempts);
        attempts
    }

    pub(crate) fn note(&mut self, attempts: &[Attempt]) {
        self.accepted.extend(accepted(attempts));
    }

    /// A connection that has used up its ten, and was told so once.
    pub(crate) fn spent(&mut self) -> Flood {
        let mut flood = self.flood();
        let attempts = self.send(&mut flood, 11);
        assert_pattern(&attempts, 10, 1);
        flood
    }

    fn tarpitted(&self) -> u64 {
        self.greypit.series("greypit_milter_tarpitted")
    }

    /// A message that was accepted another way.
    pub(crate) fn also_accepted(&mut self, id: &str) {
        self.accepted.push(id.to_owned());
    }

    /// Waits until so many answers are held.
    fn wait_tarpitted(&self, count: u64) {
        wait_for("held answers", || (self.tarpitted() == count).then_some(()));
    }

    /// What became of messages that greypit could not look at.
    fn assert_unseen(&self, attempts: &[Attempt]) {
        for attempt in attempts {
            match self.passes {
                true => assert!(attempt.accepted(), "{attempt:?}"),
                // By the mail server itself.
                false => {
                    assert!(attempt.mail.code == 451 && !is_ours(attempt), "{attempt:?}");
                }
            }
        }
    }

    /// Every message that was accepted has arrived once, and no other.
    pub(crate) fn nothing_is_lost(&mut self, net: &MailNet) {
        self.accepted.sort_unstable();
        wait_for("all that was accepted", || (net.kept().len() >= self.accepted.len()).then_some(()));
        assert_eq!(net.kept(), self.accepted);
    }

    /// Waits until so many `mail` records are in the store, ends greypit, and
    /// gives all that is in the store.
    pub(crate) fn records(&mut self, mail: u64) -> Vec<serde_json::Value> {
        let shipped = || self.greypit.series("greypit_ship_events_total{kind=\"mail\"}");
        wait_for("the records", || (shipped() >= mail).then_some(()));
        assert_eq!(shipped(), mail);
        self.greypit.terminate();
        let mut records = Vec::new();
        self.greypit.cat(|line| records.push(serde_json::from_str(line).expect("JSON")));
        records
    }

    // The stories.

    /// Ten pass, the eleventh is refused at once, and each answer after that takes longer, up to a limit.
    pub(crate) fn answers_wait_longer_and_longer(&mut self) {
        self.start("step = \"100ms\"\nmax_delay = \"400ms\"");
        let mut flood = self.flood();
        let attempts = self.send(&mut flood, 18);
        assert_pattern(&attempts, 10, 8);
        let waits = [0, 100, 200, 300, 400, 400, 400, 400].map(Duration::from_millis);
        for (attempt, wait) in attempts[10..].iter().zip(waits) {
            assert!(attempt.took >= wait, "{attempt:?}, not after {wait:?}");
        }
        let held = self.greypit.metric("greypit_milter_delay_seconds_sum").expect("a metric");
        let expected = waits.iter().sum::<Duration>().as_secs_f64();
        let seen = attempts[10..].iter().map(|a| a.took).sum::<Duration>().as_secs_f64();
        assert!(expected <= held && held <= seen, "{expected} s, held {held} s, the sender saw {seen} s");
        let took: Vec<_> = attempts[9..].iter().map(|a| a.took).collect();
        eprintln!("answers 10 to 18 took {took:?}; held {held:.3} s in all");
        self.greypit.terminate();
    }

    /// One sender is held, another is not; a new policy ends the wait.
    pub(crate) fn others_are_not_held(&mut self) {
        self.start("step = \"8s\"\nmax_delay = \"8s\"");
        let mut flood = self.spent();
        scope(|scope| {
            let held = scope.spawn(move || flood.send(1));
            self.wait_tarpitted(1);
            let mut other = self.flood_from(OTHER);
            let since = Instant::now();
            let attempts = self.send(&mut other, 1);
            let took = since.elapsed();
            assert!(attempts[0].accepted(), "{attempts:?}");
            assert!(self.tarpitted() == 1 && !held.is_finished(), "the first sender still waits");
            eprintln!("the other's message took {took:?} while one was held");
            self.set("mode = \"observe\"");
            self.greypit.reload();
            let attempts = held.join().expect("no panic");
            assert!(attempts[0].accepted() && attempts[0].took < Duration::from_secs(8), "{attempts:?}");
            self.note(&attempts);
        });
        self.greypit.terminate();
    }

    /// A reload keeps the connection and what was counted on it.
    pub(crate) fn a_reload_keeps_counts(&mut self) {
        self.start("step = \"10ms\"");
        let mut flood = self.spent();
        self.set("limit = 13");
        self.greypit.reload();
        assert_pattern(&self.send(&mut flood, 5), 3, 2);
        self.set("limit = 3");
        self.greypit.reload();
        let mut other = self.flood();
        assert_pattern(&self.send(&mut other, 5), 3, 2);
        self.greypit.terminate();
    }

    /// SIGTERM while answers are held: they are given, ours, and greypit ends.
    pub(crate) fn ends_while_answers_wait(&mut self) {
        self.start("step = \"8s\"\nmax_delay = \"8s\"");
        let floods: Vec<Flood> = (0..4).map(|_| self.spent()).collect();
        let mut idle = self.flood();
        assert_pattern(&self.send(&mut idle, 3), 3, 0);
        scope(|scope| {
            let send = |mut flood: Flood| {
                move || {
                    let attempts = flood.send(1);
                    (flood, attempts)
                }
            };
            let held: Vec<_> = floods.into_iter().map(|flood| scope.spawn(send(flood))).collect();
            self.wait_tarpitted(4);
            let since = Instant::now();
            let status = self.greypit.end();
            let took = since.elapsed();
            assert!(status.success(), "{status}");
            eprintln!("SIGTERM with 4 held and 5 open: ended after {took:?}");
            for held in held {
                let (mut flood, attempts) = held.join().expect("no panic");
                assert_pattern(&attempts, 0, 1);
                assert!(attempts[0].took < Duration::from_secs(8), "the wait is cut short: {attempts:?}");
                let attempts = self.send(&mut flood, 2);
                self.assert_unseen(&attempts);
            }
        });
        let attempts = self.send(&mut idle, 2);
        self.assert_unseen(&attempts);
    }

    /// `kill -9` while an answer is held and another connection is idle.
    pub(crate) fn is_killed(&mut self) {
        self.start("step = \"8s\"\nmax_delay = \"8s\"");
        let mut flood = self.spent();
        let mut idle = self.flood();
        assert_pattern(&self.send(&mut idle, 3), 3, 0);
        scope(|scope| {
            let held = scope.spawn(|| flood.send(3));
            self.wait_tarpitted(1);
            self.greypit.kill();
            let attempts = held.join().expect("no panic");
            self.assert_unseen(&attempts);
            self.note(&attempts);
        });
        let attempts = self.send(&mut idle, 9);
        self.assert_unseen(&attempts);
        let mut unseen = self.flood();
        let attempts = self.send(&mut unseen, 2);
        self.assert_unseen(&attempts);
        self.start("step = \"10ms\"");
        // What was unseen stays so; what is new is seen.
        let attempts = self.send(&mut idle, 2);
        self.assert_unseen(&attempts);
        let mut again = self.flood();
        assert_pattern(&self.send(&mut again, 13), 10, 3);
        self.greypit.terminate();
    }

    /// The mail server was there first.
    pub(crate) fn comes_later(&mut self) {
        let mut early = self.flood();
        let attempts = self.send(&mut early, 12);
        self.assert_unseen(&attempts);
        self.start("step = \"10ms\"");
        let attempts = self.send(&mut early, 2);
        self.assert_unseen(&attempts);
        let mut late = self.flood();
        assert_pattern(&self.send(&mut late, 12), 10, 2);
        self.greypit.terminate();
    }

    /// Enough is enough.
    pub(crate) fn closes_after_strikes(&mut self) {
        self.start("step = \"10ms\"\nmax_strikes = 3");
        let mut flood = self.flood();
        let mut attempts = self.send(&mut flood, 20);
        let last = attempts.pop().expect("an answer");
        assert_pattern(&attempts, 10, 3);
        assert!(last.mail.code == 421 && is_ours(&last), "{last:?}");
        self.greypit.terminate();
    }

    /// Nothing is refused, and what would have been is counted.
    pub(crate) fn observes(&mut self) {
        self.start("mode = \"observe\"\nstep = \"8s\"");
        let mut flood = self.flood();
        assert_pattern(&self.send(&mut flood, 15), 15, 0);
        let would = "greypit_milter_verdicts_total{rule=\"connection\",verdict=\"refuse\"}";
        assert_eq!(self.greypit.series(would), 5);
        assert_eq!(self.greypit.series("greypit_milter_messages_total{ending=\"accept\"}"), 15);
        self.greypit.terminate();
    }

    /// Some may.
    pub(crate) fn allows(&mut self) {
        self.start(&format!("step = \"10ms\"\nallow.clients = [\"{OTHER}\"]"));
        let mut other = self.flood_from(OTHER);
        assert_pattern(&self.send(&mut other, 14), 14, 0);
        let mut flood = self.flood();
        assert_pattern(&self.send(&mut flood, 12), 10, 2);
        self.set("allow.clients = []");
        self.greypit.terminate();
    }

    /// Ten thousand on one connection, whatever is answered.
    pub(crate) fn ten_thousand(&mut self) {
        const ALL: usize = 10_000;
        self.start("step = \"1ms\"\nmax_delay = \"1ms\"");
        let mut flood = self.flood();
        let since = Instant::now();
        let attempts = self.send(&mut flood, ALL);
        let took = since.elapsed();
        assert_pattern(&attempts, 10, ALL - 10);
        let held = self.greypit.metric("greypit_milter_delay_seconds_sum").expect("a metric");
        assert!(held >= 0.001 * (ALL - 11) as f64 && held <= took.as_secs_f64(), "held {held} s of {took:?}");
        eprintln!("{ALL} messages in {took:?}: 10 accepted, {} refused, held {held:.1} s", ALL - 10);
        self.greypit.terminate();
    }

    /// Everything at once, without reading an answer before the end: what is
    /// the text of a message then becomes commands. So many get in; gives all
    /// answers.
    pub(crate) fn sends_without_reading(&mut self, gets_in: usize) -> Vec<String> {
        self.start("step = \"10ms\"");
        // Who does not even wait for the greeting does not get this far.
        let mut client = Client::connect(self.server);
        let mut all = String::new();
        let ids: Vec<String> = (0..100).map(|n| format!("deaf-{n}@flood.example.com")).collect();
        for id in &ids {
            all += &format!(
                "MAIL FROM:<alice@flood.example.com>\r\nRCPT TO:<bob@good.example.net>\r\nDATA\r\n\
                 Message-ID: <{id}>\r\n\r\ntext\r\n.\r\n"
            );
        }
        client.send(all.as_bytes());
        let mut answers = Vec::new();
        loop {
            let reply = client.read();
            if reply.code == 0 {
                break;
            }
            answers.push(reply.text);
        }
        let queued = answers.iter().filter(|text| text.starts_with("250 2.0.0 ")).count();
        assert_eq!(queued, gets_in, "{answers:#?}");
        self.accepted.extend_from_slice(&ids[..gets_in]);
        self.greypit.terminate();
        answers
    }
}

/// Refused by greypit, as its answers say.
pub(crate) fn is_ours(attempt: &Attempt) -> bool {
    attempt.mail.text.contains(" 4.7.1 ") && attempt.mail.text.contains("(connection)")
}

/// So many are accepted, then so many refused by greypit.
pub(crate) fn assert_pattern(attempts: &[Attempt], accepted: usize, refused: usize) {
    assert_eq!(attempts.len(), accepted + refused, "{:?}", attempts.last());
    for (number, attempt) in attempts.iter().enumerate() {
        match number < accepted {
            true => assert!(attempt.accepted(), "{number}: {attempt:?}"),
            false => assert!(attempt.mail.code == 451 && is_ours(attempt), "{number}: {attempt:?}"),
        }
    }
}
