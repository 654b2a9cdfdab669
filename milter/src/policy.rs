//! What happens to a message: a pure function of the config, of what was counted before, and of `now`.
//!
//! A [`Policy`] is made once from the config and shared; a reload makes another. What it counts is elsewhere and
//! outlives it: [`Counts`] with each connection, [`Clients`] with the process.
//!
//! # What is decided at each MAIL, in this order
//!
//! 1. **Allow.** Where any entry of `[milter.allow]` holds for the [`Subject`], the message passes and counts nowhere.
//! 2. **Limits.** Those of the first `[[milter.rule]]` of which every given condition holds, else those of `[milter]`.
//!    Who a subject is can change within a connection (AUTH, STARTTLS), so this is asked anew at each MAIL; the counts
//!    stay.
//! 3. **Connection.** `limit` messages pass. The next is refused at once, the answer to the one after waits `step`,
//!    then 2, 3 … times `step` (or `step` each time), never longer than `max_delay`.
//! 4. **Client.** The same over all connections of one client within a window that slides ([`clients`]), off by
//!    default. Only what passes counts towards the limit, so a client that goes on trying is let in again as its window
//!    slides; what was refused makes its delays grow, also over connections that it opens anew. A client has one count,
//!    whichever rule holds.
//! 5. Where both limits are reached **the longer delay decides**, the connection's where they are equal: its rule,
//!    limit and strike are what the answer, the record and the metrics say. Each limit counts its own refusals.
//! 6. After `max_strikes` refusals on a connection, by whichever limit, the next answer is 421, at once.
//!
//! A message whose recipients are all exempt (`postmaster`) is given back to its connection's count when it is
//! [delivered](Policy::delivered), at most `limit` times, so that it is no way out. It is known only then, so over the
//! limit such a message is refused like any other; the client's count keeps it.
//!
//! Nothing here knows `mode`: observing decides and counts exactly as enforcing does, and leaves the answer out.
//!
//! # How long an answer may wait
//!
//! sendmail waits 10 s for an answer (`R=` in its `T=`) and then does what `F=` says; with `F=` it lets the rest of the
//! session pass unseen. Nothing in the protocol tells a filter what `R` is, so `max_delay` is 8 s by default and belongs
//! above that only where the operator has written, say, `T=R:60s`. Postfix waits 30 s, and longer where PROGRESS tells it
//! to: with `postfix.progress` its `max_delay` takes the place of `milter.max_delay` there (a rule's own `max_delay`
//! holds for both). Beyond 4 minutes no client waits, and sendmail's own delays end there too.
//!
//! ```
//! use std::time::Duration;
//! use greypit_milter::policy::{Clients, Counts, Policy, Subject};
//! use greypit_milter::transaction::Ending;
//!
//! let config = greypit_milter::Config { limit: 2, ..Default::default() };
//! let (policy, clients) = (Policy::new(&config, "mx1").unwrap(), Clients::new(&config.client));
//! let subject = Subject { addr: Some([192, 0, 2, 1].into()), ..Subject::default() };
//! let mut connection = Counts::default();
//! let mut mail = || policy.decide(&subject, &mut connection, &clients, Duration::ZERO);
//!
//! assert_eq!([mail(), mail()].map(|decision| decision.verdict), [Ending::Accept; 2]);
//! let refused = [mail(), mail(), mail()];
//! assert_eq!(refused.map(|decision| decision.verdict), [Ending::Refuse; 3]);
//! assert_eq!(refused.map(|decision| decision.delay.as_secs()), [0, 1, 2]);
//!
//! let mut answer = Vec::new();
//! policy.answer(&refused[0], &subject, &mut answer);
//! assert_eq!(answer, b"451 4.7.1 192.0.2.1: more than 2 messages (connection); try again later");
//! ```

pub mod clients;
mod limits;
mod matching;
mod template;

use std::net::IpAddr;
use std::time::Duration;

use greypit_pipeline::{Result, check_node};

use crate::config::{Config, problem};
use crate::transaction::Ending;

pub use clients::Clients;
use limits::Limits;
use matching::{Exempt, Matcher};
use template::{Kind, Template};

/// Connections that may wait at once, at most: far more than a machine has memory for processes of a mail server.
const TARPITTED_MAX: usize = 1_000_000;

/// What a message that no limit holds for says as its rule.
const ALLOW: &str = "allow";

/// Who asks: what rules can be about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The SMTP client's address; none where it is local or unknown: no client's limit holds for it.
    pub addr: Option<IpAddr>,
    /// Its host name, only where the mail server has verified it.
    pub verified_name: Option<&'a [u8]>,
    /// The client has authenticated.
    pub authenticated: bool,
    /// `{daemon_name}`.
    pub daemon: &'a [u8],
    /// The mail server is Postfix.
    pub postfix: bool,
}

/// What one connection has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// MAIL commands that count: all but those that were allowed.
    pub messages: u32,
    /// MAIL commands refused, by whichever limit.
    pub refused: u32,
    /// Messages that were given back because of their recipients.
    pub given_back: u32,
    /// Messages that passed and were not given back: what is held against the connection's limit.
    used: u32,
    /// Refusals by the connection's own limit.
    over: u32,
    /// The limit at the last MAIL, and whether that MAIL passed by it and can be given back.
    limit: u32,
    passed: bool,
}

/// The verdict on one MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// [`Ending::Accept`]: let it pass; [`Ending::Refuse`]; [`Ending::Close`].
    pub verdict: Ending,
    /// Which rule decided: `connection`, `client` or `allow`; where a `[[milter.rule]]` named `lists` holds, `lists` for
    /// its connection limit (and for what passes) and `lists/client` for its client limit. Bounded: usable as a label.
    pub rule: &'p str,
    /// The how-many-th refusal by that limit; 0 within it.
    pub strike: u32,
    /// The limit that was reached, or that would be reached; 0: none.
    pub limit: u32,
    /// How long the answer waits.
    pub delay: Duration,
    /// The client's own limit counted a refusal, whichever decided.
    pub counted_for_client: bool,
}

/// The compiled rules.
#[derive(Debug)]
pub struct Policy {
    allow: Matcher,
    exempt: Exempt,
    rules: Vec<(Matcher, Limits)>,
    otherwise: Limits,
    answer: Template,
    closing_answer: Template,
}

impl Policy {
    /// Compiles the section.
    ///
    /// # Errors
    /// Names the key that cannot be right.
    pub fn new(config: &Config, node: &str) -> Result<Policy> {
        check_node(node)?;
        if config.max_tarpitted > TARPITTED_MAX {
            return Err(problem("max_tarpitted", format!("is at most {TARPITTED_MAX}; 0 means that no answer waits")));
        }
        clients::validate(&config.client)?;
        let otherwise = Limits::new(config)?;
        let rules = limits::rules(config)?;
        let label_bytes_max = rules.iter().flat_map(|(_, limits)| limits.labels()).map(str::len).max();
        let template = |key, text, kind| Template::new(key, text, kind, node, label_bytes_max.unwrap_or(0));
        Ok(Policy {
            allow: Matcher::allow(&config.allow)?,
            exempt: Exempt::new(&config.allow.recipients)?,
            answer: template("answer", &config.answer, Kind::Refuse)?,
            closing_answer: template("closing_answer", &config.closing_answer, Kind::Close)?,
            rules,
            otherwise,
        })
    }

    /// Every name that [`Decision::rule`] may have.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        let rules = self.rules.iter().flat_map(|(_, limits)| limits.labels());
        self.otherwise.labels().into_iter().chain([ALLOW]).chain(rules)
    }

    /// Decides on one MAIL and counts it. `now`: time since any fixed moment.
    pub fn decide(&self, subject: &Subject<'_>, counts: &mut Counts, clients: &Clients, now: Duration) -> Decision<'_> {
        counts.passed = false;
        if self.allow.any_holds(subject) {
            let (verdict, delay) = (Ending::Accept, Duration::ZERO);
            return Decision { verdict, rule: ALLOW, strike: 0, limit: 0, delay, counted_for_client: false };
        }
        let limits = self.limits(subject);
        counts.messages = counts.messages.saturating_add(1);
        counts.limit = limits.limit;
        let is_full = limits.limit > 0 && counts.used >= limits.limit;
        let client_strike = match subject.addr {
            Some(addr) if limits.client_limit > 0 => clients.offer(addr, limits.client_limit, !is_full, now),
            _ => 0,
        };
        let connection = |strike, delay, verdict| {
            let (rule, limit) = (limits.label.as_str(), limits.limit);
            Decision { verdict, rule, strike, limit, delay, counted_for_client: client_strike > 0 }
        };
        if !is_full && client_strike == 0 {
            counts.used = counts.used.saturating_add(1);
            counts.passed = true;
            return connection(0, Duration::ZERO, Ending::Accept);
        }
        counts.over = counts.over.saturating_add(u32::from(is_full));
        counts.refused = counts.refused.saturating_add(1);
        let strike = if is_full { counts.over } else { 0 };
        let [delay, client_delay] = [strike, client_strike].map(|strike| limits.delay(strike, subject.postfix));
        let mut decision = connection(strike, delay, Ending::Refuse);
        if !is_full || client_delay > delay {
            decision.rule = &limits.client_label;
            (decision.strike, decision.limit, decision.delay) = (client_strike, limits.client_limit, client_delay);
        }
        if limits.max_strikes > 0 && counts.refused > limits.max_strikes {
            (decision.verdict, decision.delay) = (Ending::Close, Duration::ZERO);
        }
        decision
    }

    /// Decides anew on a message that was refused, by a policy that came since. `before`: the counts as they were then.
    pub fn decide_again(
        &self,
        subject: &Subject<'_>,
        before: &mut Counts,
        counted_for_client: bool,
        clients: &Clients,
        now: Duration,
    ) -> Decision<'_> {
        if let (Some(addr), true) = (subject.addr, counted_for_client) {
            clients.take_back(addr);
        }
        self.decide(subject, before, clients, now)
    }

    fn limits(&self, subject: &Subject<'_>) -> &Limits {
        let found = self.rules.iter().find(|(matcher, _)| matcher.all_hold(subject));
        found.map_or(&self.otherwise, |(_, limits)| limits)
    }

    /// A message came to its end: gives its count back where it was for exempt recipients alone. `rcpts` may be fewer
    /// than `nrcpts`; what is not listed is not exempt.
    pub fn delivered(&self, counts: &mut Counts, rcpts: &[Vec<u8>], nrcpts: u32) {
        if !std::mem::take(&mut counts.passed) || counts.given_back >= counts.limit {
            return;
        }
        let all_listed = nrcpts > 0 && rcpts.len() == nrcpts as usize;
        if all_listed && rcpts.iter().all(|rcpt| self.exempt.holds(rcpt)) {
            counts.given_back += 1;
            counts.used = counts.used.saturating_sub(1);
        }
    }

    /// Appends the answer's text, `451 4.7.1 …` without line end. A `%` is doubled, as in every reply of a filter: both
    /// mail servers undo it, and sendmail drops a text in which one stands alone.
    pub fn answer(&self, decision: &Decision<'_>, subject: &Subject<'_>, out: &mut Vec<u8>) {
        let template = if decision.verdict == Ending::Close { &self.closing_answer } else { &self.answer };
        template.fill(decision, subject, out);
    }
}

#[cfg(test)]
mod tests;
