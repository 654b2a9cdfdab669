//! See the table in [`super`].

use prometheus::{IntCounter, IntGauge, Opts, Registry};

use super::Stage;

/// Made before there is a registry, since sessions are there before anything runs.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) sessions: IntGauge,
    pub(super) begun: IntCounter,
    pub(super) stages: [IntCounter; Stage::ALL.len()],
    pub(super) failures: IntCounter,
    pub(super) sessions_forgotten: IntCounter,
    pub(super) addresses_forgotten: IntCounter,
    pub(super) unsaved: IntCounter,
}

/// With a name and labels of ours, which are right.
fn counter(name: &str, help: &str, label: Option<(&str, &str)>) -> IntCounter {
    let opts = Opts::new(format!("greypit_boot_{name}"), help);
    let opts = label.into_iter().fold(opts, |opts, (label, value)| opts.const_label(label, value));
    IntCounter::with_opts(opts).expect("names of ours are right")
}

impl Default for Metrics {
    fn default() -> Metrics {
        let stage = |stage: Stage| {
            counter("stages_total", "Boot sessions that got to this stage.", Some(("stage", stage.name())))
        };
        let forgotten = |what| {
            counter("forgotten_total", "Boot sessions and addresses forgotten at their limit.", Some(("what", what)))
        };
        Metrics {
            sessions: IntGauge::new("greypit_boot_sessions", "Cards whose last boot session is remembered.")
                .expect("names of ours are right"),
            begun: counter("sessions_total", "Boot sessions that began.", None),
            stages: Stage::ALL.map(stage),
            failures: counter("failures_total", "What went wrong in boot sessions.", None),
            sessions_forgotten: forgotten("sessions"),
            addresses_forgotten: forgotten("addresses"),
            unsaved: counter("sessions_unsaved_total", "Times that boot sessions could not be written.", None),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.sessions.clone()))?;
        let counters =
            [&self.begun, &self.failures, &self.sessions_forgotten, &self.addresses_forgotten, &self.unsaved];
        counters.into_iter().chain(&self.stages).try_for_each(|counter| registry.register(Box::new(counter.clone())))
    }
}
