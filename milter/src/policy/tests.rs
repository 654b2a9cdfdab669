use greypit_pipeline::units::Span;
use proptest::prelude::*;

use super::*;
use crate::config::{Client, Growth, Postfix, Rule};

fn policy(config: &Config) -> Policy {
    Policy::new(config, "mx1").unwrap()
}

fn client() -> Subject<'static> {
    Subject { addr: Some([192, 0, 2, 1].into()), daemon: b"MTA", ..Subject::default() }
}

/// One connection that goes on trying.
struct Connection<'p> {
    policy: &'p Policy,
    clients: &'p Clients,
    subject: Subject<'p>,
    counts: Counts,
    now: Duration,
}

impl<'p> Connection<'p> {
    fn new(policy: &'p Policy, clients: &'p Clients, subject: Subject<'p>) -> Connection<'p> {
        Connection { policy, clients, subject, counts: Counts::default(), now: Duration::ZERO }
    }

    fn mail(&mut self) -> Decision<'p> {
        self.policy.decide(&self.subject, &mut self.counts, self.clients, self.now)
    }

    /// Rule, strike, seconds of delay; of `n` messages.
    fn mails(&mut self, n: usize) -> Vec<(&'p str, u32, u64)> {
        let short = |decision: Decision<'p>| (decision.rule, decision.strike, decision.delay.as_secs());
        (0..n).map(|_| short(self.mail())).collect()
    }

    fn delivered(&mut self, rcpts: &[&str], nrcpts: u32) {
        let rcpts: Vec<Vec<u8>> = rcpts.iter().map(|rcpt| rcpt.as_bytes().to_vec()).collect();
        self.policy.delivered(&mut self.counts, &rcpts, nrcpts);
    }
}

#[test]
fn a_connection_gets_its_limit_and_then_ever_slower_refusals() {
    let (policy, clients) = (policy(&Config::default()), Clients::default());
    let mut connection = Connection::new(&policy, &clients, client());
    assert_eq!(connection.mails(10), [("connection", 0, 0); 10]);
    let refused: Vec<(u32, u64)> = connection.mails(12).iter().map(|(_, strike, delay)| (*strike, *delay)).collect();
    let delays = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8];
    assert_eq!(refused, (1..=12).zip(delays).collect::<Vec<_>>());
    assert_eq!(connection.mail().verdict, Ending::Refuse);
    assert_eq!((connection.counts.messages, connection.counts.refused), (23, 13));
    assert!(clients.is_empty(), "without a client limit nobody is remembered");
}

#[test]
fn after_enough_strikes_the_connection_is_closed_at_once() {
    let config = Config { limit: 1, max_strikes: 2, ..Config::default() };
    let (policy, clients) = (policy(&config), Clients::default());
    let mut connection = Connection::new(&policy, &clients, client());
    let verdicts = [(); 5].map(|()| {
        let decision = connection.mail();
        (decision.verdict, decision.delay.as_secs())
    });
    use Ending::{Accept, Close, Refuse};
    assert_eq!(verdicts, [(Accept, 0), (Refuse, 0), (Refuse, 1), (Close, 0), (Close, 0)]);
    let mut answer = Vec::new();
    policy.answer(&connection.mail(), &client(), &mut answer);
    assert_eq!(answer, b"421 4.7.1 192.0.2.1: more than 1 messages (connection); closing");
}

#[test]
fn no_limit_is_no_limit() {
    let (policy, clients) = (policy(&Config { limit: 0, ..Config::default() }), Clients::default());
    let mut connection = Connection::new(&policy, &clients, client());
    assert_eq!(connection.mails(1000), [("connection", 0, 0); 1000]);
}

#[test]
fn opening_another_connection_is_no_way_out_of_a_client_limit() {
    let config = Config { client: Client { limit: 3, ..Client::default() }, limit: 2, ..Config::default() };
    let (policy, clients) = (policy(&config), Clients::new(&config.client));
    let mut first = Connection::new(&policy, &clients, client());
    assert_eq!(first.mails(3), [("connection", 0, 0), ("connection", 0, 0), ("connection", 1, 0)]);
    // One of the client's three is left; its strikes go on growing from one connection to the next.
    let mut second = Connection::new(&policy, &clients, client());
    assert_eq!(second.mails(3), [("connection", 0, 0), ("client", 1, 0), ("client", 2, 1)]);
    let mut third = Connection::new(&policy, &clients, client());
    assert_eq!(third.mails(2), [("client", 3, 2), ("client", 4, 3)]);
    assert_eq!((third.counts.messages, third.counts.refused), (2, 2));
    // The first has one strike of its own: the client's longer delay decides.
    assert_eq!(first.mails(2), [("client", 5, 4), ("client", 6, 5)]);
    let mut neighbour = Connection::new(&policy, &clients, Subject { addr: Some([192, 0, 2, 2].into()), ..client() });
    assert_eq!(neighbour.mails(1), [("connection", 0, 0)]);
    let mut local = Connection::new(&policy, &clients, Subject { addr: None, ..client() });
    assert_eq!(local.mails(3), [("connection", 0, 0), ("connection", 0, 0), ("connection", 1, 0)]);
}

#[test]
fn where_both_limits_are_reached_equal_delays_are_the_connections() {
    let config = Config { client: Client { limit: 1, ..Client::default() }, limit: 1, ..Config::default() };
    let (policy, clients) = (policy(&config), Clients::new(&config.client));
    let mut connection = Connection::new(&policy, &clients, client());
    assert_eq!(connection.mails(3), [("connection", 0, 0), ("connection", 1, 0), ("connection", 2, 1)]);
    // An hour later the client is within its limit again, the connection is not.
    connection.now = Duration::from_secs(4000);
    assert_eq!(connection.mails(1), [("connection", 3, 2)]);
    let mut another = Connection::new(&policy, &clients, client());
    another.now = connection.now;
    assert_eq!(another.mails(2), [("connection", 0, 0), ("connection", 1, 0)]);
    // The refusal at its first message was by the client's limit too.
    let mut third = Connection::new(&policy, &clients, client());
    third.now = connection.now;
    assert_eq!(third.mails(1), [("client", 2, 1)]);
}

#[test]
fn who_is_allowed_counts_nowhere() {
    let config =
        Config { client: Client { limit: 1, ..Client::default() }, limit: 1, max_strikes: 1, ..Config::default() };
    let (policy, clients) = (policy(&config), Clients::new(&config.client));
    let mut connection = Connection::new(&policy, &clients, Subject { authenticated: true, ..client() });
    assert_eq!(connection.mails(100), [("allow", 0, 0); 100]);
    assert_eq!(connection.counts, Counts::default());
    assert!(clients.is_empty());
    connection.subject = client();
    assert_eq!(connection.mails(2), [("connection", 0, 0), ("connection", 1, 0)]);
    // Authenticated after all, even when it would have been closed.
    connection.subject.authenticated = true;
    assert_eq!(connection.mails(1), [("allow", 0, 0)]);
}

fn two_rules() -> Config {
    let lists = Rule {
        name: "lists".to_owned(),
        hosts: vec![".lists.example.com".to_owned()],
        limit: Some(2),
        client_limit: Some(3),
        step: Some(Span::seconds(2)),
        max_delay: Some(Span::seconds(3)),
        ..Rule::default()
    };
    let free =
        Rule { name: "free".to_owned(), clients: vec!["192.0.2.0/24".to_owned()], limit: Some(0), ..Rule::default() };
    Config { limit: 1, rule: vec![lists, free], ..Config::default() }
}

#[test]
fn the_first_rule_that_matches_brings_its_own_limits_and_names() {
    let (policy, clients) = (policy(&two_rules()), Clients::default());
    let names: Vec<&str> = policy.rules().collect();
    assert_eq!(names, ["connection", "client", "allow", "lists", "lists/client", "free", "free/client"]);
    let lists = Subject { verified_name: Some(b"a.lists.example.com"), ..client() };
    let mut connection = Connection::new(&policy, &clients, lists);
    assert_eq!(connection.mails(4), [("lists", 0, 0), ("lists", 0, 0), ("lists", 1, 0), ("lists", 2, 2)]);
    let mut another = Connection::new(&policy, &clients, lists);
    assert_eq!(
        another.mails(4),
        [("lists", 0, 0), ("lists/client", 1, 0), ("lists/client", 2, 2), ("lists/client", 3, 3)]
    );
    let mut answer = Vec::new();
    policy.answer(&another.mail(), &lists, &mut answer);
    assert_eq!(answer, b"451 4.7.1 192.0.2.1: more than 3 messages (lists/client); try again later");
    assert_eq!(Connection::new(&policy, &clients, client()).mails(50), [("free", 0, 0); 50]);
    let mut other = Connection::new(&policy, &clients, Subject { addr: Some([198, 51, 100, 1].into()), ..client() });
    assert_eq!(other.mails(2), [("connection", 0, 0), ("connection", 1, 0)]);
}

#[test]
fn only_postfix_is_held_longer_and_only_with_progress() {
    let mut config = Config { limit: 1, step: Span::seconds(100), ..Config::default() };
    let held = |config: &Config, postfix| {
        let (policy, clients) = (policy(config), Clients::default());
        Connection::new(&policy, &clients, Subject { postfix, ..client() }).mails(3)[2].2
    };
    assert_eq!([held(&config, false), held(&config, true)], [8, 8]);
    config.postfix = Postfix { progress: true, ..Postfix::default() };
    assert_eq!([held(&config, false), held(&config, true)], [8, 60]);
}

#[test]
fn a_message_for_exempt_recipients_alone_is_given_back() {
    let (policy, clients) = (policy(&Config { limit: 2, ..Config::default() }), Clients::default());
    let mut connection = Connection::new(&policy, &clients, client());
    for (rcpts, nrcpts, used) in [
        (&["postmaster@example.com", "Abuse"][..], 2, 0),
        (&["postmaster@example.com"], 2, 1),
        (&["postmaster", "user@example.com"], 2, 2),
    ] {
        assert_eq!(connection.mail().verdict, Ending::Accept);
        connection.delivered(rcpts, nrcpts);
        assert_eq!(connection.counts.used, used, "{rcpts:?}");
        // The same message does not come to its end twice.
        connection.delivered(&["postmaster"], 1);
        assert_eq!(connection.counts.used, used);
    }
    assert_eq!(connection.mail().verdict, Ending::Refuse);
    connection.delivered(&["postmaster"], 1);
    assert_eq!(connection.mail().verdict, Ending::Refuse);
    assert_eq!(connection.counts.given_back, 1);

    let mut endless = Connection::new(&policy, &clients, client());
    let passed = (0..100).filter(|_| {
        let passes = endless.mail().verdict == Ending::Accept;
        endless.delivered(&["postmaster"], 1);
        passes
    });
    assert_eq!(passed.count(), 4, "twice the limit at most");
}

#[test]
fn every_mistake_names_its_key() {
    let rule = || Rule { name: "a".to_owned(), daemons: vec!["MSA".to_owned()], ..Rule::default() };
    type Change = Box<dyn Fn(&mut Config)>;
    let rule_with = |change: fn(&mut Rule)| -> Change {
        Box::new(move |config| {
            let mut second = Rule { name: "b".to_owned(), ..rule() };
            change(&mut second);
            config.rule = vec![rule(), second];
        })
    };
    let with = |change: fn(&mut Config)| -> Change { Box::new(change) };
    let cases: Vec<(Change, &str)> = vec![
        (with(|c| c.max_delay = Span::seconds(241)), "milter.max_delay: is at most \"4m\""),
        (with(|c| c.postfix.max_delay = Span::seconds(300)), "milter.postfix.max_delay: is at most \"4m\""),
        (with(|c| c.max_tarpitted = 1_000_001), "milter.max_tarpitted: is at most 1000000"),
        (with(|c| c.client.window = Span(Duration::from_millis(999))), "milter.client.window: '999ms' must be from"),
        (
            with(|c| c.client.window = Span::seconds(604_801)),
            "milter.client.window: '7d1s' must be from \"1s\" to \"7d\"",
        ),
        (with(|c| c.client.ipv4_prefix = 33), "milter.client.ipv4_prefix: 33 must be from 1 to 32"),
        (with(|c| c.client.ipv4_prefix = 0), "milter.client.ipv4_prefix: 0 must be"),
        (with(|c| c.client.ipv6_prefix = 129), "milter.client.ipv6_prefix: 129 must be from 1 to 128"),
        (with(|c| c.client.max_clients = 0), "milter.client.max_clients: 0 must be from 1 to 10000000"),
        (with(|c| c.client.max_clients = 10_000_001), "milter.client.max_clients: 10000001 must be"),
        (with(|c| c.allow.clients = vec!["mx".to_owned()]), "milter.allow.clients: 'mx' is no network; write"),
        (with(|c| c.allow.clients = vec!["1.2.3.4/33".to_owned()]), "milter.allow.clients: '1.2.3.4/33' is no network"),
        (
            with(|c| c.allow.clients = vec!["::ffff:1.2.3.0/120".to_owned()]),
            "milter.allow.clients: '::ffff:1.2.3.0/120' is IPv4",
        ),
        (
            with(|c| c.allow.hosts = vec!["*.example.com".to_owned()]),
            "milter.allow.hosts: '*.example.com' is no host name",
        ),
        (with(|c| c.allow.hosts = vec![".".to_owned()]), "milter.allow.hosts: '.' is no host name"),
        (with(|c| c.allow.daemons = vec![String::new()]), "milter.allow.daemons: '' is no name of a listener"),
        (with(|c| c.allow.recipients = vec!["<a@b>".to_owned()]), "milter.allow.recipients: '<a@b>' is neither"),
        (with(|c| c.allow.recipients = vec!["@b".to_owned()]), "milter.allow.recipients: '@b' is neither"),
        (with(|c| c.answer = "550 5.7.1 no".to_owned()), "milter.answer: '550 5.7.1 no' must begin"),
        (with(|c| c.closing_answer = "451 4.7.1 no".to_owned()), "milter.closing_answer: '451 4.7.1 no' must begin"),
        (rule_with(|r| r.name = String::new()), "milter.rule[1].name: '' must be 1 to 32"),
        (rule_with(|r| r.name = "a b%".to_owned()), "milter.rule[1].name: 'a b%' must be"),
        (rule_with(|r| r.name = "a".to_owned()), "milter.rule[1].name: 'a' is taken"),
        (rule_with(|r| r.name = "client".to_owned()), "milter.rule[1].name: 'client' has another meaning"),
        (rule_with(|r| r.daemons.clear()), "milter.rule[1]: holds for everyone"),
        (rule_with(|r| r.clients = vec!["x".to_owned()]), "milter.rule[1].clients: 'x' is no network"),
        (rule_with(|r| r.hosts = vec!["a..b".to_owned()]), "milter.rule[1].hosts: 'a..b' is no host name"),
        (rule_with(|r| r.daemons = vec!["a b".to_owned()]), "milter.rule[1].daemons: 'a b' is no name"),
        (rule_with(|r| r.max_delay = Some(Span::seconds(3600))), "milter.rule[1].max_delay: is at most"),
        (
            Box::new(move |c| c.rule = (0..101).map(|i| Rule { name: format!("r{i}"), ..rule() }).collect()),
            "milter.rule[100]: there are 101; at most 100",
        ),
    ];
    for (change, expected) in cases {
        let mut config = Config::default();
        change(&mut config);
        let error = Policy::new(&config, "mx1").unwrap_err().to_string();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{expected}: {error}");
    }
    assert!(Policy::new(&Config::default(), "a b%").unwrap_err().to_string().starts_with("node: "));
    Policy::new(&two_rules(), "mx1").unwrap();
}

/// What a connection may do between two messages.
#[derive(Clone, Copy, Debug)]
enum Step {
    Mail { client: u8, connection: usize, allowed: bool },
    Deliver { connection: usize, exempt: bool },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u8..3, 0_usize..4, prop::bool::weighted(0.1))
            .prop_map(|(client, connection, allowed)| Step::Mail { client, connection, allowed }),
        2 => (0_usize..4, any::<bool>()).prop_map(|(connection, exempt)| Step::Deliver { connection, exempt }),
        1 => (0_u64..90_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    /// Whatever comes: no connection and no client gets more than its limits, what is allowed is never refused, delays
    /// grow with the strikes up to the greatest, and a refusal has a limit that explains it.
    #[test]
    fn promises(
        limit in 0_u32..4,
        client_limit in 0_u32..6,
        max_strikes in 0_u32..5,
        is_linear in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let growth = if is_linear { Growth::Linear } else { Growth::Constant };
        let client = Client { limit: client_limit, window: Span::seconds(60), ..Client::default() };
        let config = Config { limit, max_strikes, growth, client, max_delay: Span::seconds(3), ..Config::default() };
        let (policy, clients) = (policy(&config), Clients::new(&config.client));
        let mut connections = [[Counts::default(); 4]; 3];
        let mut passed = [[0_u32; 4]; 3];
        let mut last_delay = [[Duration::ZERO; 4]; 3];
        let mut times: [Vec<Duration>; 3] = Default::default();
        let mut now = Duration::from_secs(1000);
        for step in steps {
            let (client, connection, allowed) = match step {
                Step::Mail { client, connection, allowed } => (client, connection, allowed),
                Step::Wait { ms } => {
                    now += Duration::from_millis(ms);
                    continue;
                }
                Step::Deliver { connection, exempt } => {
                    let rcpt: &[u8] = if exempt { b"abuse@example.com" } else { b"user@example.com" };
                    policy.delivered(&mut connections[0][connection], &[rcpt.to_vec()], 1);
                    continue;
                }
            };
            let subject = Subject { addr: Some([10, 0, 0, client].into()), authenticated: allowed, ..Subject::default() };
            let (client, before) = (usize::from(client), clients.len());
            let counts = &mut connections[client][connection];
            let earlier = *counts;
            let decision = policy.decide(&subject, counts, &clients, now);
            if allowed {
                prop_assert_eq!((decision.verdict, decision.rule), (Ending::Accept, "allow"));
                prop_assert_eq!((counts.messages, counts.used, clients.len()), (earlier.messages, earlier.used, before));
                continue;
            }
            prop_assert!(policy.rules().any(|rule| rule == decision.rule));
            if decision.verdict == Ending::Accept {
                passed[client][connection] += 1;
                times[client].push(now);
                prop_assert_eq!((decision.strike, decision.delay), (0, Duration::ZERO));
                prop_assert!(limit == 0 || passed[client][connection] - counts.given_back <= limit);
                prop_assert!(counts.given_back <= limit);
                let within = times[client].iter().filter(|time| now - **time < Duration::from_secs(60)).count();
                prop_assert!(client_limit == 0 || within <= client_limit as usize);
                continue;
            }
            prop_assert!(decision.strike > 0 && decision.limit > 0 && decision.delay <= Duration::from_secs(3));
            prop_assert_eq!(decision.verdict == Ending::Close, max_strikes > 0 && counts.refused > max_strikes);
            prop_assert!(decision.verdict == Ending::Refuse || decision.delay.is_zero());
            if client_limit == 0 && decision.verdict == Ending::Refuse {
                prop_assert!(decision.delay >= last_delay[client][connection]);
                last_delay[client][connection] = decision.delay;
            }
        }
    }

    /// Whatever an answer is made of, the mail server can send it.
    #[test]
    fn an_answer_is_one_short_line(octets in any::<[u8; 16]>(), limit in any::<u32>(), is_close in any::<bool>()) {
        let policy = policy(&two_rules());
        let verdict = if is_close { Ending::Close } else { Ending::Refuse };
        let decision = Decision { verdict, rule: "lists/client", strike: 1, limit, delay: Duration::ZERO, counted_for_client: false };
        let mut out = Vec::new();
        policy.answer(&decision, &Subject { addr: Some(octets.into()), ..Subject::default() }, &mut out);
        prop_assert!(out.len() <= 510 && out.iter().all(|byte| (b' '..=b'~').contains(byte)));
        prop_assert_eq!(out.starts_with(b"421 4."), is_close);
    }
}

#[test]
fn deciding_again_counts_a_message_once() {
    let client = Client { limit: 1, ..Client::default() };
    let config = Config { limit: 0, client, ..Config::default() };
    let (policy, clients) = (Policy::new(&config, "mx1").unwrap(), Clients::new(&config.client));
    let subject = Subject { addr: Some([192, 0, 2, 1].into()), ..Subject::default() };
    let mut counts = Counts::default();
    let mail = |counts: &mut Counts| policy.decide(&subject, counts, &clients, Duration::ZERO);
    mail(&mut counts);
    let before = counts;
    let first = mail(&mut counts);
    assert_eq!((first.strike, first.counted_for_client), (1, true));
    for _ in 0..5 {
        let again = policy.decide_again(&subject, &mut { before }, true, &clients, Duration::ZERO);
        assert_eq!(again, first);
    }
    assert_eq!(mail(&mut counts).strike, 2);
}
