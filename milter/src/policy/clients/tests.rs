use proptest::prelude::*;

use super::*;

fn config(window_s: u64, max_clients: usize) -> Client {
    Client { window: Span::seconds(window_s), max_clients, ..Client::default() }
}

fn offer(clients: &Clients, addr: &str, limit: u32, second: u64) -> u32 {
    clients.offer(addr.parse().unwrap(), limit, true, Duration::from_secs(second))
}

#[test]
fn addresses_with_the_same_prefix_are_one_client() {
    for (a, b, is_one) in [
        ("192.0.2.1", "192.0.2.254", true),
        ("192.0.2.1", "192.0.3.1", false),
        ("192.0.2.1", "::ffff:192.0.2.7", true),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
        ("2001:db8::1", "2001:db8:0:1::1", false),
        ("0.0.0.1", "::1", false),
    ] {
        let clients = Clients::new(&Client { ipv4_prefix: 24, ..config(60, 10) });
        assert_eq!([offer(&clients, a, 1, 0), offer(&clients, b, 1, 0)], [0, u32::from(is_one)], "{a} {b}");
        assert_eq!(clients.len(), if is_one { 1 } else { 2 });
    }
    let whole = Clients::new(&Client { ipv4_prefix: 0, ipv6_prefix: 0, ..config(60, 10) });
    assert_eq!([offer(&whole, "10.0.0.1", 1, 0), offer(&whole, "192.0.2.1", 1, 0)], [0, 1]);
}

#[test]
fn a_refused_client_is_let_in_again_as_the_window_slides() {
    let clients = Clients::new(&config(110, 10));
    let mail = |second| offer(&clients, "192.0.2.1", 2, second);
    assert_eq!([0, 50, 60, 61, 109].map(mail), [0, 0, 1, 2, 3]);
    // Slots are 10 s long: what passed at 0 s is gone at 120 s, what passed at 50 s stays until 170 s.
    assert_eq!([119, 120, 121].map(mail), [4, 0, 5]);
    assert_eq!([170, 171].map(mail), [0, 6]);
    // Those refused are forgotten in their turn.
    assert_eq!([1000, 1001, 1002, 1003].map(mail), [0, 0, 1, 2]);
}

#[test]
fn what_may_not_pass_is_not_counted_as_passed() {
    let clients = Clients::new(&config(60, 10));
    let addr = "192.0.2.1".parse().unwrap();
    assert_eq!(clients.offer(addr, 1, false, Duration::ZERO), 0);
    assert!(clients.is_empty());
    assert_eq!([true, false, true].map(|may| clients.offer(addr, 1, may, Duration::ZERO)), [0, 1, 2]);
}

#[test]
fn at_its_limit_the_table_forgets_who_was_quiet_longest() {
    let clients = Clients::new(&config(3600, 3));
    for (second, addr) in ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.4"].iter().enumerate() {
        offer(&clients, addr, 1, second as u64);
    }
    assert_eq!((clients.len(), clients.forgotten()), (3, 1));
    // 10.0.0.2 is gone and, coming back, drives out 10.0.0.3.
    assert_eq!(["10.0.0.1", "10.0.0.4", "10.0.0.2"].map(|addr| offer(&clients, addr, 1, 9)), [2, 1, 0]);
    assert_eq!((clients.len(), clients.forgotten()), (3, 2));
    assert_eq!(clients.lock().entries.len(), 3);
}

#[test]
fn who_has_been_quiet_for_a_window_makes_room_uncounted() {
    let clients = Clients::new(&config(60, 3));
    for addr in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        offer(&clients, addr, 1, 0);
    }
    offer(&clients, "10.0.0.4", 1, 1000);
    assert_eq!((clients.len(), clients.forgotten()), (2, 0));
}

#[test]
fn a_reload_keeps_what_still_means_the_same() {
    let clients = Clients::new(&config(60, 3));
    for addr in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        offer(&clients, addr, 1, 0);
    }
    assert!(!clients.reconfigure(&Client { limit: 7, ..config(60, 2) }));
    assert_eq!((clients.len(), clients.forgotten()), (2, 1));
    assert_eq!(offer(&clients, "10.0.0.3", 1, 0), 1);
    assert!(clients.reconfigure(&config(61, 2)));
    assert_eq!((clients.len(), clients.forgotten()), (0, 1));
    assert_eq!(offer(&clients, "10.0.0.3", 1, 0), 0);
    assert!(clients.reconfigure(&Client { ipv6_prefix: 56, ..config(61, 2) }));
    assert!(clients.is_empty());
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let clients = Clients::new(&config(60, 3));
    assert_eq!([1000, 0, 999, 1000].map(|second| offer(&clients, "10.0.0.1", 1, second)), [0, 1, 2, 3]);
}

#[test]
fn an_entry_is_as_small_as_the_documentation_says() {
    // And its key and place in the index, at a load of at least 7/16.
    assert!(size_of::<Entry>() <= 112, "{}", size_of::<Entry>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Against the list of all that passed since a client is remembered: never more than the limit in any window,
    /// never a refusal that the window and one slot do not explain, never more clients than allowed.
    #[test]
    fn no_window_has_more_than_the_limit(
        limit in 1_u32..6,
        window_ms in 1000_u64..20_000,
        max_clients in 1_usize..6,
        steps in prop::collection::vec((0_u64..4000, 0_u8..5), 1..300),
    ) {
        let window = Duration::from_millis(window_ms);
        let clients = Clients::new(&Client { window: Span(window), max_clients, ..Client::default() });
        let mut passed: [Vec<Duration>; 5] = Default::default();
        let mut now = Duration::from_secs(7);
        for (wait_ms, client) in steps {
            now += Duration::from_millis(wait_ms);
            let (addr, times) = (IpAddr::from([192, 0, 2, client]), &mut passed[usize::from(client)]);
            let is_remembered = {
                let table = clients.lock();
                table.index.contains_key(&table.shape.client(addr))
            };
            if !is_remembered {
                times.clear();
            }
            let strike = clients.offer(addr, limit, true, now);
            let within = |span: Duration| times.iter().filter(|time| now - **time < span).count() as u32;
            if strike > 0 {
                prop_assert!(within(window * 12 / 11 + Duration::from_micros(1)) >= limit, "refused for nothing");
            } else {
                prop_assert!(within(window) < limit, "more than the limit in a window");
                times.push(now);
            }
            prop_assert!(clients.len() <= max_clients && clients.lock().entries.len() <= max_clients);
        }
    }
}
