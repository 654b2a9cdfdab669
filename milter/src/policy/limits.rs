//! The limits that hold for one subject: those of `[milter]`, or those of a rule on top of them.

use std::collections::HashSet;
use std::time::Duration;

use greypit_pipeline::Result;
use greypit_pipeline::units::Span;

use super::matching::Matcher;
use crate::config::{Config, Growth, Rule, problem};

/// No client waits longer for an answer to MAIL, and sendmail's own delays end here too.
const DELAY_MAX: Duration = Duration::from_secs(240);

/// Rules, at most: each makes two labels in the metrics.
const RULES_MAX: usize = 100;

/// A rule's name, at most: it stands in answers, which are short.
const NAME_BYTES_MAX: usize = 32;

/// What the limits of `[milter]` and what is allowed are called.
const TAKEN: [&str; 3] = ["connection", "client", super::ALLOW];

/// Compiled limits.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// What a refusal by the connection's limit is called.
    pub(super) label: String,
    /// The same for the client's.
    pub(super) client_label: String,
    /// 0: none.
    pub(super) limit: u32,
    /// 0: none.
    pub(super) client_limit: u32,
    /// 0: never.
    pub(super) max_strikes: u32,
    step: Duration,
    growth: Growth,
    max_delay: Duration,
    max_delay_on_postfix: Duration,
}

impl Limits {
    /// Those of `[milter]`.
    pub(super) fn new(config: &Config) -> Result<Limits> {
        let max_delay = max_delay("max_delay", config.max_delay)?;
        let on_postfix = self::max_delay("postfix.max_delay", config.postfix.max_delay)?;
        Ok(Limits {
            label: TAKEN[0].to_owned(),
            client_label: TAKEN[1].to_owned(),
            limit: config.limit,
            client_limit: config.client.limit,
            max_strikes: config.max_strikes,
            step: config.step.0,
            growth: config.growth,
            max_delay,
            max_delay_on_postfix: if config.postfix.progress { on_postfix } else { max_delay },
        })
    }

    /// Those of a rule, which takes from here what it does not name.
    fn with(&self, key: &str, rule: &Rule) -> Result<Limits> {
        let own_delay = rule.max_delay.map(|span| max_delay(&format!("{key}.max_delay"), span)).transpose()?;
        Ok(Limits {
            label: rule.name.clone(),
            client_label: format!("{}/client", rule.name),
            limit: rule.limit.unwrap_or(self.limit),
            client_limit: rule.client_limit.unwrap_or(self.client_limit),
            max_strikes: rule.max_strikes.unwrap_or(self.max_strikes),
            step: rule.step.map_or(self.step, |step| step.0),
            growth: self.growth,
            max_delay: own_delay.unwrap_or(self.max_delay),
            max_delay_on_postfix: own_delay.unwrap_or(self.max_delay_on_postfix),
        })
    }

    pub(super) fn labels(&self) -> [&str; 2] {
        [&self.label, &self.client_label]
    }

    /// How long the answer to the `strike`-th refusal waits: the first not at all.
    pub(super) fn delay(&self, strike: u32, postfix: bool) -> Duration {
        let steps = match self.growth {
            Growth::Linear => strike.saturating_sub(1),
            Growth::Constant => u32::from(strike > 1),
        };
        let max = if postfix { self.max_delay_on_postfix } else { self.max_delay };
        self.step.saturating_mul(steps).min(max)
    }
}

fn max_delay(key: &str, span: Span) -> Result<Duration> {
    if span.0 > DELAY_MAX {
        let at_most = Span(DELAY_MAX);
        return Err(problem(key, format!("is at most \"{at_most}\": no client waits longer for an answer to MAIL")));
    }
    Ok(span.0)
}

/// Compiles `[[milter.rule]]`.
pub(super) fn rules(config: &Config) -> Result<Vec<(Matcher, Limits)>> {
    if config.rule.len() > RULES_MAX {
        let problem_text = format!("there are {}; at most {RULES_MAX} fit into the metrics", config.rule.len());
        return Err(problem(&format!("rule[{RULES_MAX}]"), problem_text));
    }
    let otherwise = Limits::new(config)?;
    let mut names: HashSet<&str> = TAKEN.into();
    let compile = |(index, rule): (usize, &'_ Rule)| {
        let key = format!("rule[{index}]");
        check_name(&format!("{key}.name"), &rule.name)?;
        Ok((Matcher::rule(&key, rule)?, otherwise.with(&key, rule)?))
    };
    for (index, rule) in config.rule.iter().enumerate() {
        if !names.insert(&rule.name) {
            let why = if TAKEN.contains(&rule.name.as_str()) { "has another meaning" } else { "is taken" };
            return Err(problem(&format!("rule[{index}].name"), format!("'{}' {why}; choose another", rule.name)));
        }
    }
    config.rule.iter().enumerate().map(compile).collect()
}

/// A name goes into answers, labels and records as it is.
fn check_name(key: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(plain) {
        return Ok(());
    }
    let name = name.escape_default();
    Err(problem(key, format!("'{name}' must be 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(limits: &Limits, strikes: impl IntoIterator<Item = u32>) -> Vec<u128> {
        strikes.into_iter().map(|strike| limits.delay(strike, false).as_millis()).collect()
    }

    #[test]
    fn delays_grow_by_a_step_up_to_the_greatest() {
        let mut config = Config { step: Span(Duration::from_millis(1500)), ..Config::default() };
        assert_eq!(ms(&Limits::new(&config).unwrap(), 0..=8), [0, 0, 1500, 3000, 4500, 6000, 7500, 8000, 8000]);
        assert_eq!(ms(&Limits::new(&config).unwrap(), [u32::MAX]), [8000]);
        config.growth = Growth::Constant;
        assert_eq!(ms(&Limits::new(&config).unwrap(), 0..=4), [0, 0, 1500, 1500, 1500]);
        config.max_delay = Span::seconds(1);
        assert_eq!(ms(&Limits::new(&config).unwrap(), 1..=3), [0, 1000, 1000]);
        config.step = Span::seconds(u64::MAX / 1000);
        assert_eq!(ms(&Limits::new(&config).unwrap(), [2, u32::MAX]), [1000, 1000]);
    }

    #[test]
    fn only_postfix_with_progress_waits_longer_and_a_rule_overrides_both() {
        let rule = Rule {
            name: "short".to_owned(),
            daemons: vec!["MTA".to_owned()],
            max_delay: Some(Span::seconds(2)),
            ..Rule::default()
        };
        let mut config = Config { rule: vec![rule], ..Config::default() };
        let seconds = |config: &Config| {
            let (limits, rules) = (Limits::new(config).unwrap(), rules(config).unwrap());
            [&limits, &rules[0].1].map(|limits| [false, true].map(|postfix| limits.delay(1000, postfix).as_secs()))
        };
        assert_eq!(seconds(&config), [[8, 8], [2, 2]]);
        config.postfix.progress = true;
        assert_eq!(seconds(&config), [[8, 60], [2, 2]]);
    }
}
