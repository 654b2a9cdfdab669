//! A second reading of a mail log, to hold greypit's against: written apart
//! from its parser and in another way. It takes each line to pieces from both
//! ends by the text of sendmail's own fields, and knows no more than the lines
//! that the traffic of these tests makes.

use std::collections::BTreeMap;

/// A record's fields by name, without what greypit adds to every record (`id`,
/// `node`, `ts`) or knows from elsewhere than the line (`peer`, `facility`,
/// `severity`).
pub(crate) type Fields = BTreeMap<String, String>;

/// How often each record is there.
pub(crate) type Multiset = BTreeMap<Fields, i64>;

/// The records that the lines of rsyslogd's file stand for.
pub(crate) fn records_of<'l>(lines: impl IntoIterator<Item = &'l str>) -> Vec<Fields> {
    lines.into_iter().flat_map(records_of_line).collect()
}

/// The records of one line: one, or one a recipient.
pub(crate) fn records_of_line(line: &str) -> Vec<Fields> {
    // `Nov 20 14:08:07 mx1 sm-mta[26760]: text`
    let (stamp, rest) = line.split_at(15);
    let (host, rest) = rest[1..].split_once(' ').expect("a host");
    let (tag, text) = rest.split_once(": ").expect("a program");
    let (app, pid) = tag.strip_suffix(']').and_then(|tag| tag.split_once('[')).expect("a process");
    let mail = |kind: &str| {
        let mut fields = Fields::new();
        let clock = [("month", &stamp[..3]), ("day", stamp[4..6].trim_start()), ("time", &stamp[7..])];
        set(&mut fields, &[("kind", kind), ("mailserver", host), ("pid", pid)]);
        set(&mut fields, &clock);
        fields
    };
    let id_and_rest = text.split_once(": ").filter(|(id, _)| is_queue_id(id));
    match id_and_rest.map(|(id, rest)| (id, rest.split_at_checked(5), rest.split_at_checked(3))) {
        Some((id, Some(("from=", rest)), _)) => vec![sender(mail("from"), id, rest)],
        Some((id, _, Some(("to=", rest)))) => recipients(&mail("to"), id, rest),
        _ => {
            let mut fields = Fields::new();
            set(&mut fields, &[("kind", "syslog"), ("hostname", host), ("app", app), ("procid", pid)]);
            set(&mut fields, &[("message", text), ("clock", &stamp[7..])]);
            vec![fields]
        }
    }
}

/// `6AKE88Xs026763` or `NOQUEUE`
fn is_queue_id(word: &str) -> bool {
    word == "NOQUEUE" || word.len() == 14 && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn set(fields: &mut Fields, values: &[(&str, &str)]) {
    fields.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
}

/// `<a@b>, size=1, class=0, nrcpts=1, msgid=<…>, proto=ESMTP, daemon=MTA, relay=…`
fn sender(mut fields: Fields, id: &str, rest: &str) -> Fields {
    // The last relay is sendmail's own, whatever the message-id says.
    let (rest, relay) = rest.rsplit_once(", relay=").expect("a relay");
    set_relay(&mut fields, relay);
    let (at, counts) = rest
        .match_indices(", size=")
        .find_map(|(at, _)| {
            let mut words = rest[at + 2..].splitn(4, ", ");
            let counts = ["size=", "class=", "nrcpts="].map(|name| words.next()?.strip_prefix(name));
            let [Some(size), Some(class), Some(nrcpts)] = counts else { return None };
            Some((at, [size, class, nrcpts]))
        })
        .expect("the counts");
    let [size, class, nrcpts] = counts;
    set(&mut fields, &[("sendmailid", id), ("src", bare(&rest[..at]))]);
    set(&mut fields, &[("size", size), ("classnumber", class), ("nrcpts", nrcpts)]);
    let mut behind = rest[at + 2..].splitn(4, ", ").nth(3).unwrap_or_default();
    while let Some((before, (name, value))) = last_word(behind) {
        let ours = ["bodytype", "proto", "daemon", "tls_verify", "auth"].contains(&name);
        // In a message-id, not behind it: each field is there once.
        if !ours || fields.contains_key(name) {
            break;
        }
        set(&mut fields, &[(name, value)]);
        behind = before;
    }
    set(&mut fields, &[("msgid", bare(behind.strip_prefix("msgid=").unwrap_or_default()))]);
    fields
}

/// The last `name=value` of several, and what is before it.
fn last_word(text: &str) -> Option<(&str, (&str, &str))> {
    let (before, word) = text.rsplit_once(", ").unwrap_or(("", text));
    Some((before, word.split_once('=')?))
}

/// `<a@b>,<c@d>, ctladdr=…, delay=…, xdelay=…, mailer=…, pri=…, relay=…, dsn=…,
/// reply=…, stat=…`
fn recipients(common: &Fields, id: &str, rest: &str) -> Vec<Fields> {
    let mut fields = common.clone();
    set(&mut fields, &[("sendmailid", id), ("relay", ""), ("xdelay", "")]);
    // No server of these tests answers with a delay.
    let (addresses, words) = rest.rsplit_once(", delay=").expect("a delay");
    let (words, stat) = words.rsplit_once(", stat=").expect("a stat");
    let (words, reply) = words.split_once(", reply=").map_or((words, None), |(words, reply)| (words, Some(reply)));
    set(&mut fields, &[("stat", stat)]);
    if let Some(reply) = reply {
        set(&mut fields, &[("reply", reply)]);
    }
    for word in format!("delay={words}").split(", ") {
        match word.split_once('=').expect("name=value") {
            ("relay", relay) => set_relay(&mut fields, relay),
            (name, value) => set(&mut fields, &[(name, value)]),
        }
    }
    let (list, ctladdr) = addresses.rsplit_once(", ctladdr=").map_or((addresses, None), |(l, c)| (l, Some(c)));
    if let Some(ctladdr) = ctladdr {
        set(&mut fields, &[("ctladdr", ctladdr)]);
    }
    let with_dest = |dest: &&str| {
        let mut fields = fields.clone();
        set(&mut fields, &[("dest", bare(dest))]);
        fields
    };
    split_list(list).iter().map(with_dest).collect()
}

/// At the commas that are not between quotes.
fn split_list(list: &str) -> Vec<&str> {
    let mut quoted = false;
    let outside = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(outside).collect()
}

/// Without the angle brackets around it.
fn bare(address: &str) -> &str {
    let inner = address.strip_prefix('<').unwrap_or(address);
    if inner.len() == address.len() { address } else { inner.strip_suffix('>').unwrap_or(inner) }
}

/// `host [address]`, `[address]`, `local`, `root@localhost`
fn set_relay(fields: &mut Fields, relay: &str) {
    let relay = relay.strip_suffix(" (may be forged)").unwrap_or(relay);
    let (host, ip) = relay.rsplit_once(' ').unwrap_or((relay, relay));
    set(fields, &[("relay", host)]);
    if let Some(ip) = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        set(fields, &[("relay_ip", ip)]);
    }
}

/// The same view of a record that greypit made, after a look at what every
/// record has.
pub(crate) fn fields_of_record(line: &str) -> Fields {
    let record: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).expect("a JSON object");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let mut fields = Fields::new();
    for (name, value) in &record {
        let value = text(value).unwrap_or_else(|| panic!("{name} is no string: {line}"));
        fields.insert(name.clone(), value);
    }
    let mut take = |name: &str| fields.remove(name).unwrap_or_else(|| panic!("no {name}: {line}"));
    let [id, node, ts] = ["id", "node", "ts"].map(&mut take);
    assert!(id.starts_with(&format!("{node}-")), "{line}");
    // `2026-11-20T14:08:07.000+00:00`: the log has the same clock.
    let clock = ts.get(11..19).unwrap_or_else(|| panic!("the ts of {line}")).to_owned();
    match fields["kind"].as_str() {
        "syslog" => {
            for of_the_connection in ["peer", "facility", "severity", "timestamp"] {
                fields.remove(of_the_connection);
            }
            fields.insert("clock".to_owned(), clock);
        }
        _ => assert_eq!(fields["time"], clock, "{line}"),
    }
    fields
}

pub(crate) fn multiset(records: impl IntoIterator<Item = Fields>) -> Multiset {
    let mut set = Multiset::new();
    for record in records {
        *set.entry(record).or_default() += 1;
    }
    set
}

/// What is in the one and not in the other.
pub(crate) fn without(all: &Multiset, known: &Multiset) -> Vec<Fields> {
    let more = |(fields, count): (&Fields, &i64)| {
        let more = count - known.get(fields).copied().unwrap_or_default();
        std::iter::repeat_n(fields.clone(), usize::try_from(more).unwrap_or_default())
    };
    all.iter().flat_map(more).collect()
}
