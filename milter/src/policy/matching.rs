//! Whom a rule is for: networks, verified host names, authentication, listeners; and which recipients are exempt.

use std::net::IpAddr;

use greypit_pipeline::Result;
use ipnet::IpNet;

use super::Subject;
use crate::config::{Allow, Rule, problem};

/// A host name or an address, at most (RFC 5321 section 4.5.3.1).
const NAME_BYTES_MAX: usize = 254;

/// Compiled conditions.
#[derive(Debug)]
pub(super) struct Matcher {
    clients: Vec<IpNet>,
    hosts: Vec<Host>,
    authenticated: Option<bool>,
    daemons: Vec<String>,
}

impl Matcher {
    /// `[milter.allow]`, for [`Matcher::any_holds`].
    pub(super) fn allow(allow: &Allow) -> Result<Matcher> {
        let authenticated = allow.authenticated.then_some(true);
        Matcher::new("allow", &allow.clients, &allow.hosts, authenticated, &allow.daemons)
    }

    /// A rule, for [`Matcher::all_hold`].
    pub(super) fn rule(key: &str, rule: &Rule) -> Result<Matcher> {
        let matcher = Matcher::new(key, &rule.clients, &rule.hosts, rule.authenticated, &rule.daemons)?;
        if matcher.conditions(&Subject::default()).iter().all(Option::is_none) {
            let text = "holds for everyone; give clients, hosts, authenticated or daemons, or change [milter] itself";
            return Err(problem(key, text));
        }
        Ok(matcher)
    }

    fn new(
        key: &str,
        clients: &[String],
        hosts: &[String],
        authenticated: Option<bool>,
        daemons: &[String],
    ) -> Result<Matcher> {
        Ok(Matcher {
            clients: clients.iter().map(|text| network(&format!("{key}.clients"), text)).collect::<Result<_>>()?,
            hosts: hosts.iter().map(|text| Host::new(&format!("{key}.hosts"), text)).collect::<Result<_>>()?,
            authenticated,
            daemons: daemons.iter().map(|text| daemon(&format!("{key}.daemons"), text)).collect::<Result<_>>()?,
        })
    }

    /// Whether each condition holds; none where it is not given.
    fn conditions(&self, subject: &Subject<'_>) -> [Option<bool>; 4] {
        let given = |is_empty: bool, holds: bool| (!is_empty).then_some(holds);
        let addr = subject.addr.map(|addr| addr.to_canonical());
        let name = subject.verified_name.unwrap_or_default();
        [
            given(self.clients.is_empty(), addr.is_some_and(|addr| self.clients.iter().any(|net| net.contains(&addr)))),
            given(self.hosts.is_empty(), self.hosts.iter().any(|host| host.holds(name))),
            self.authenticated.map(|wanted| wanted == subject.authenticated),
            given(
                self.daemons.is_empty(),
                self.daemons.iter().any(|name| subject.daemon.eq_ignore_ascii_case(name.as_bytes())),
            ),
        ]
    }

    /// Whether at least one condition is given and holds.
    pub(super) fn any_holds(&self, subject: &Subject<'_>) -> bool {
        self.conditions(subject).contains(&Some(true))
    }

    /// Whether every condition that is given holds.
    pub(super) fn all_hold(&self, subject: &Subject<'_>) -> bool {
        !self.conditions(subject).contains(&Some(false))
    }
}

/// Reads `192.0.2.0/24` or `192.0.2.1`.
fn network(key: &str, text: &str) -> Result<IpNet> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net: IpNet = net.map_err(|_| {
        let text = text.escape_default();
        problem(key, format!("'{text}' is no network; write for example \"192.0.2.0/24\" or \"2001:db8::/32\""))
    })?;
    match net {
        // Addresses are compared in their own family, so this would never hold.
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            Err(problem(key, format!("'{text}' is IPv4; write it as such, for example \"192.0.2.0/24\"")))
        }
        net => Ok(net),
    }
}

fn daemon(key: &str, text: &str) -> Result<String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let text = text.escape_default();
        return Err(problem(key, format!("'{text}' is no name of a listener; write for example \"MSA\"")));
    }
    Ok(text.to_owned())
}

/// A host name or what it ends in, in lower case and without the root's dot.
#[derive(Debug)]
struct Host {
    name: Vec<u8>,
    is_below_only: bool,
}

impl Host {
    fn new(key: &str, text: &str) -> Result<Host> {
        let (name, is_below_only) = match text.strip_prefix('.') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if name.len() > NAME_BYTES_MAX || !name.split('.').all(is_label) {
            let text = text.escape_default();
            let problem_text = format!(
                "'{text}' is no host name; write \"example.com\" for it and all below it, \".example.com\" for all below"
            );
            return Err(problem(key, problem_text));
        }
        Ok(Host { name: name.to_ascii_lowercase().into_bytes(), is_below_only })
    }

    fn holds(&self, name: &[u8]) -> bool {
        let name = name.strip_suffix(b".").unwrap_or(name);
        let Some(above) = name.len().checked_sub(self.name.len()) else { return false };
        let (above, same) = name.split_at(above);
        let is_below = above.len() > 1 && above.ends_with(b".");
        same.eq_ignore_ascii_case(&self.name) && (is_below || above.is_empty() && !self.is_below_only)
    }
}

/// Recipients that messages are not held against.
#[derive(Debug)]
pub(super) struct Exempt(Vec<String>);

impl Exempt {
    pub(super) fn new(recipients: &[String]) -> Result<Exempt> {
        for text in recipients {
            let is_address = !text.is_empty()
                && text.len() <= NAME_BYTES_MAX
                && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'))
                && text.rsplit_once('@').is_none_or(|(local, domain)| !local.is_empty() && !domain.is_empty());
            if !is_address {
                let text = text.escape_default();
                let problem_text = format!(
                    "'{text}' is neither a local part nor an address; write \"abuse\" or \"abuse@example.com\", \
                     without angle brackets"
                );
                return Err(problem("allow.recipients", problem_text));
            }
        }
        Ok(Exempt(recipients.to_vec()))
    }

    /// Whether `rcpt`, without angle brackets, is one of them: in any case of letters, and by its local part alone where
    /// the entry has no domain.
    pub(super) fn holds(&self, rcpt: &[u8]) -> bool {
        let local = memchr::memrchr(b'@', rcpt).map_or(rcpt, |at| &rcpt[..at]);
        self.0.iter().any(|entry| {
            let compared = if entry.contains('@') { rcpt } else { local };
            compared.eq_ignore_ascii_case(entry.as_bytes())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(addr: &str) -> Subject<'static> {
        Subject { addr: Some(addr.parse().unwrap()), daemon: b"MTA", ..Subject::default() }
    }

    fn rule(rule: Rule) -> Matcher {
        Matcher::rule("rule[0]", &rule).unwrap()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn networks() {
        let clients = texts(&["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]);
        let matcher = rule(Rule { clients, ..Rule::default() });
        for (addr, holds) in [
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.1", true),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(matcher.all_hold(&subject(addr)), holds, "{addr}");
        }
        assert!(!matcher.all_hold(&Subject::default()), "without an address it is in no network");
    }

    #[test]
    fn host_names() {
        for (entry, name, holds) in [
            ("example.com", "example.com", true),
            ("example.com", "Mail.EXAMPLE.com.", true),
            ("Example.COM.", "a.b.example.com", true),
            ("example.com", "badexample.com", false),
            ("example.com", "com", false),
            ("example.com", ".example.com", false),
            ("example.com", "", false),
            (".example.com", "example.com", false),
            (".example.com", "mx.example.com", true),
            (".example.com", "mx.example.com.evil.test", false),
        ] {
            let matcher = rule(Rule { hosts: texts(&[entry]), ..Rule::default() });
            let subject = Subject { verified_name: Some(name.as_bytes()), ..Subject::default() };
            assert_eq!(matcher.all_hold(&subject), holds, "{entry} {name}");
            assert!(!matcher.all_hold(&Subject::default()), "only verified names count");
        }
    }

    #[test]
    fn a_rule_wants_all_of_its_conditions_and_allow_any() {
        let clients = texts(&["192.0.2.0/24"]);
        let daemons = texts(&["msa"]);
        let both = rule(Rule { clients: clients.clone(), daemons: daemons.clone(), ..Rule::default() });
        let allow = Allow { clients, daemons, ..Allow::default() };
        let allow = Matcher::allow(&allow).unwrap();
        let inside = subject("192.0.2.1");
        let submission = Subject { daemon: b"MSA", ..inside };
        assert!(!both.all_hold(&inside) && both.all_hold(&submission));
        assert!(allow.any_holds(&inside) && !allow.any_holds(&subject("192.0.3.1")));
        assert!(allow.any_holds(&Subject { authenticated: true, ..subject("192.0.3.1") }));

        let others = rule(Rule { authenticated: Some(false), ..Rule::default() });
        assert!(others.all_hold(&inside) && !others.all_hold(&Subject { authenticated: true, ..inside }));
        let nobody = Matcher::allow(&Allow { authenticated: false, ..Allow::default() }).unwrap();
        assert!(!nobody.any_holds(&Subject { authenticated: true, ..inside }));
    }

    #[test]
    fn exempt_recipients() {
        let exempt = Exempt::new(&texts(&["postmaster", "help@example.com"])).unwrap();
        for (rcpt, holds) in [
            ("postmaster", true),
            ("PostMaster@any.example", true),
            ("Help@Example.COM", true),
            ("help", false),
            ("help@example.org", false),
            ("postmaster2@example.com", false),
            ("a@postmaster", false),
            ("postmaster@b@c", false),
            ("", false),
        ] {
            assert_eq!(exempt.holds(rcpt.as_bytes()), holds, "{rcpt}");
        }
    }
}
