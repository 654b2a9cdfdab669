//! Metrics of power.
//!
//! | metric | what |
//! |---|---|
//! | `greypit_power_actions_total{action,outcome}` | machines switched `on` and `off`: `done`, `failed`, `refused` (by the policy), `missed` (too late to be carried out) |
//! | `greypit_power_machines_failed` | machines whose last action failed |
//! | `greypit_power_scheduled_machines` | machines with a `power` file, outside of `mode = "listen"` |

use greypit_pipeline::Register;
use prometheus::{IntCounterVec, IntGauge, Registry, Result};

use super::schedule::Action;

/// What became of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Done,
    Failed,
    Refused,
    Missed,
}

impl Outcome {
    const ALL: [Outcome; 4] = [Outcome::Done, Outcome::Failed, Outcome::Refused, Outcome::Missed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
            Outcome::Missed => "missed",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    actions: IntCounterVec,
    pub(super) failed: IntGauge,
    pub(super) scheduled: IntGauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Metrics> {
        let register = Register::new(registry, "greypit_power_");
        let metrics = Metrics {
            actions: register.counters(
                "actions_total",
                "Machines switched on and off, by schedule or command.",
                &["action", "outcome"],
            )?,
            failed: register.gauge("machines_failed", "Machines whose last power action failed.")?,
            scheduled: register.gauge("scheduled_machines", "Machines that are switched by a schedule.")?,
        };
        for action in Action::ALL {
            for outcome in Outcome::ALL {
                metrics.actions.with_label_values(&[action.name(), outcome.name()]);
            }
        }
        Ok(metrics)
    }

    pub(super) fn action(&self, action: Action, outcome: Outcome) {
        self.actions.with_label_values(&[action.name(), outcome.name()]).inc();
    }
}
