use std::net::IpAddr;

use greypit_milter::config::{self, Scope};
use greypit_pipeline::units::Span;

use super::*;

const WINDOW: Duration = Duration::from_secs(3600);

fn member(node: &str) -> Member {
    let config = config::Client { scope: Scope::Farm, limit: 5, window: Span(WINDOW), ..Default::default() };
    let clients = Arc::new(Clients::new(&config));
    Member {
        state: Mutex::new(State::new(node.to_owned(), clients.meaning())),
        metrics: Metrics::new(&Registry::new()).unwrap(),
        clients,
        epoch: Instant::now(),
    }
}

/// A value in which so many have just passed, said by a clock that differs by so many seconds.
fn value(member: &Member, passed: u32, clock_s: i64) -> Value {
    let at = wall_ms(SystemTime::now()).saturating_add_signed(1000 * clock_s);
    let mut ring = Passed::default();
    ring[0] = passed;
    Value::new(member.clients.meaning(), at, Duration::ZERO, ring)
}

fn record(member: &Member, key: &str, value: Option<&Value>) {
    member.record(key.as_bytes(), value.map(Value::to_string).as_deref().map(str::as_bytes));
}

/// What others have let 192.0.2.1 pass, as the table knows: what one sender may still send is the rest.
fn known(member: &Member) -> u32 {
    let client = member.clients.meaning().read("192.0.2.1/32").unwrap();
    member.clients.passed_elsewhere(client) as u32
}

const OTHER: &str = "mx2/1-1-0/192.0.2.1/32";

#[test]
fn each_life_of_each_node_counts_once() {
    let mx1 = member("mx1");
    for (key, passed, sum) in [
        (OTHER, 3, 3),
        (OTHER, 4, 4),
        ("mx2/1-1-1/192.0.2.1/32", 2, 6),
        ("mx3/1-1-0/192.0.2.1/32", 1, 7),
        // A former life of its own.
        ("mx1/1-1-0/192.0.2.1/32", 5, 12),
    ] {
        record(&mx1, key, Some(&value(&mx1, passed, 0)));
        assert_eq!(known(&mx1), sum, "{key}");
    }
    let own = Key { client: Some("192.0.2.1/32".into()), ..mx1.state().own.clone() }.to_string();
    record(&mx1, &own, Some(&value(&mx1, 9, 0)));
    assert_eq!((known(&mx1), mx1.metrics.received.get()), (12, 5));
    record(&mx1, OTHER, None);
    assert_eq!(known(&mx1), 8);
    record(&mx1, "mx9/1-1-0/192.0.2.1/32", None);
    assert_eq!((known(&mx1), mx1.state().origins.nodes(WINDOW)), (8, 3));
}

#[test]
fn clocks_may_differ_by_seconds() {
    let mx1 = member("mx1");
    for clock_s in [-9, 0, 9, 4000] {
        record(&mx1, &format!("mx2/{clock_s}/192.0.2.1/32"), Some(&value(&mx1, 1, clock_s)));
    }
    assert_eq!(known(&mx1), 4);
    // From before this node was started, and from before the window.
    record(&mx1, "mx2/a/192.0.2.1/32", Some(&value(&mx1, 1, -3000)));
    assert_eq!(known(&mx1), 5);
    record(&mx1, "mx2/b/192.0.2.1/32", Some(&value(&mx1, 1, -5000)));
    assert_eq!(known(&mx1), 5);
    assert_eq!(mx1.metrics.ignored(Ignored::Shape).get(), 0);
}

#[test]
fn what_cannot_be_counted_is_told_apart() {
    let mx1 = member("mx1");
    let good = value(&mx1, 1, 0);
    let shape = Value { meaning: Meaning { window: WINDOW * 2, ..good.meaning }, ..good.clone() };
    record(&mx1, OTHER, Some(&shape));
    record(&mx1, "mx2/1/192.0.2.0/24", Some(&good));
    record(&mx1, "mx2", Some(&good));
    mx1.record(OTHER.as_bytes(), Some(b"{\"v\":9}"));
    mx1.record(OTHER.as_bytes(), Some(b"hello"));
    mx1.record(b"", None);
    let ignored = |reason| mx1.metrics.ignored(reason).get();
    assert_eq!([Ignored::Shape, Ignored::Malformed, Ignored::Version].map(ignored), [1, 4, 1]);
    for life in 0..1010 {
        record(&mx1, &format!("mx3/{life}/192.0.2.1/32"), Some(&good));
    }
    assert!(ignored(Ignored::TooManyNodes) >= 10);
    assert!(known(&mx1) <= 1000);
}

#[test]
fn a_node_that_does_not_hear_itself_is_out_of_reach() {
    let mx1 = member("mx1");
    let own = mx1.state().own.to_string();
    let is_reached = || mx1.state().is_reached();
    mx1.state().is_read = true;
    record(&mx1, "mx2/1-1-0", Some(&value(&mx1, 0, 0)));
    assert!(!is_reached());
    record(&mx1, &own, Some(&value(&mx1, 0, 0)));
    assert!(is_reached());
    let long_ago = Instant::now().checked_sub(SILENCE);
    mx1.state().heard = long_ago;
    assert!(!is_reached());
}

#[test]
fn what_is_not_delivered_is_published_again() {
    let mx1 = member("mx1");
    let policy = greypit_milter::Policy::new(
        &greypit_milter::Config {
            client: config::Client { limit: 5, scope: Scope::Farm, ..Default::default() },
            ..Default::default()
        },
        "mx1",
    );
    let subject = greypit_milter::policy::Subject { addr: Some(IpAddr::from([192, 0, 2, 1])), ..Default::default() };
    policy.unwrap().decide(&subject, &mut Default::default(), &mx1.clients, mx1.now());
    let taken = || mx1.clients.take_changes(10, mx1.now()).clients.len();
    assert_eq!([taken(), taken()], [1, 0]);
    let key = Key { client: Some("192.0.2.1/32".into()), ..mx1.state().own.clone() }.to_string();
    mx1.delivered(key.as_bytes(), true);
    assert!(mx1.state().delivers);
    assert_eq!(taken(), 0);
    mx1.delivered(key.as_bytes(), false);
    assert!(!mx1.state().delivers);
    assert_eq!([taken(), taken()], [1, 0]);
    // Another life's was about other counts.
    mx1.delivered(OTHER.as_bytes(), false);
    assert_eq!(taken(), 0);
}

#[test]
fn a_reload_to_other_counts_begins_another_life() {
    let mx1 = member("mx1");
    record(&mx1, OTHER, Some(&value(&mx1, 1, 0)));
    let before = mx1.state().own.to_string();
    mx1.state().begin_anew(Meaning { window: WINDOW * 2, ..mx1.clients.meaning() });
    let state = mx1.state();
    assert_ne!(state.own.to_string(), before);
    assert!(!state.is_reached());
    assert_eq!(state.origins.nodes(WINDOW), 0);
}
