//! What happens to a message: a pure function of the config, of what was counted before, and of `now`.
//!
//! A [`Policy`] is made once from the config and shared; a reload makes another. What it counts is elsewhere and
//! outlives it: [`Counts`] with each connection, [`Clients`] with the process.

use std::net::IpAddr;
use std::time::Duration;

use greypit_pipeline::Result;

use crate::config::{Config, Growth};
use crate::transaction::Ending;

/// Who asks: what rules can be about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The SMTP client's address; none where it is local or unknown.
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
    /// MAIL commands that count.
    pub messages: u32,
    /// MAIL commands refused.
    pub refused: u32,
    /// Messages that were given back because of their recipients.
    pub given_back: u32,
}

/// What all clients have done lately, in bounded memory.
#[derive(Debug, Default)]
pub struct Clients {}

impl Clients {
    /// An empty table.
    #[must_use]
    pub fn new() -> Clients {
        Clients::default()
    }
}

/// The verdict on one MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    /// [`Ending::Accept`]: let it pass; [`Ending::Refuse`]; [`Ending::Close`].
    pub verdict: Ending,
    /// Which rule decided: `connection`, `client`, `allow`, or a rule's own name with either limit behind it.
    /// Bounded: usable as a label.
    pub rule: &'p str,
    /// How many messages over the limit; 0 within it.
    pub strike: u32,
    /// The limit that was reached.
    pub limit: u32,
    /// How long the answer waits.
    pub delay: Duration,
}

/// The compiled rules.
#[derive(Debug)]
pub struct Policy {
    limit: u32,
    step: Duration,
    growth: Growth,
    max_delay: Duration,
    max_strikes: u32,
    node: String,
}

impl Policy {
    /// Compiles the section.
    ///
    /// # Errors
    /// Names the key that cannot be right.
    pub fn new(config: &Config, node: &str) -> Result<Policy> {
        Ok(Policy {
            limit: config.limit,
            step: config.step.0,
            growth: config.growth,
            max_delay: config.max_delay.0,
            max_strikes: config.max_strikes,
            node: node.to_owned(),
        })
    }

    /// Every name that [`Decision::rule`] may have.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        ["connection", "client", "allow"].into_iter()
    }

    /// Decides on one MAIL and counts it. `now`: time since any fixed moment.
    pub fn decide(
        &self,
        subject: &Subject<'_>,
        counts: &mut Counts,
        _clients: &Clients,
        _now: Duration,
    ) -> Decision<'_> {
        let _ = subject;
        counts.messages = counts.messages.saturating_add(1);
        let strike = counts.messages.saturating_sub(self.limit);
        if strike == 0 {
            return Decision {
                verdict: Ending::Accept,
                rule: "connection",
                strike,
                limit: self.limit,
                delay: Duration::ZERO,
            };
        }
        counts.refused = counts.refused.saturating_add(1);
        let close = self.max_strikes > 0 && counts.refused > self.max_strikes;
        let steps = match self.growth {
            Growth::Linear => strike - 1,
            Growth::Constant => u32::from(strike > 1),
        };
        let delay = if close { Duration::ZERO } else { self.step.saturating_mul(steps).min(self.max_delay) };
        let verdict = if close { Ending::Close } else { Ending::Refuse };
        Decision { verdict, rule: "connection", strike, limit: self.limit, delay }
    }

    /// A message came to its end: gives its count back where it was for exempt recipients alone.
    pub fn delivered(&self, _counts: &mut Counts, _rcpts: &[Vec<u8>], _nrcpts: u32) {}

    /// Appends the answer's text, `451 4.7.1 …` without line end: a lone `%` doubled, as sendmail wants it.
    pub fn answer(&self, decision: &Decision<'_>, subject: &Subject<'_>, out: &mut Vec<u8>) {
        let _ = subject;
        let code = if decision.verdict == Ending::Close { "421" } else { "451" };
        out.extend_from_slice(
            format!("{code} 4.7.1 more than {} messages ({} at {})", decision.limit, decision.rule, self.node)
                .as_bytes(),
        );
    }
}
