//! Carries out what schedules and people ask for, and records it.
//!
//! Once a minute, at its beginning, all schedules are looked at as their files are then. What was due since the last look
//! is done; what is more than [`LATE_MAX`] late, because greypit was not running or the machine slept, is not done any
//! more but recorded as missed: a machine that is switched off two hours late may be in use by then, and one that is
//! switched on late was missed by whom it was for. The time of the last look is kept in `<data_dir>/boot/power`, so a
//! restart within a minute neither misses an action nor repeats it.
//!
//! Limit: [`OFFS_MAX`] machines are being switched off at once; others wait for them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use greypit_pipeline::Health;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics::{Metrics, Outcome};
use super::off::{Facts, Off};
use super::schedule::Action;
use super::target::{self, Target};
use super::wol;
use crate::collect::boot::audit::{self, Record};
use crate::collect::boot::machines::{Boot, Machine};
use crate::collect::boot::policy::Why;
use crate::collect::boot::sessions::Who;
use crate::collect::boot::world::World;

/// What is later than this is not done any more.
const LATE_MAX: SignedDuration = SignedDuration::from_secs(60);

/// How far back missed actions are recorded.
const MISSED_MAX: SignedDuration = SignedDuration::from_hours(24);

/// Commands and calls at once.
const OFFS_MAX: usize = 16;

/// The part on the board of health.
const PART: &str = "power";

/// What carries out actions; shared by schedules and the control socket.
pub(super) struct Power {
    pub(super) world: Arc<World>,
    pub(super) off: Off,
    pub(super) zone: TimeZone,
    pub(super) timeout: Duration,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    pub(super) stop: CancellationToken,
    places: Semaphore,
    /// What went wrong last, of those with whom something did.
    failures: Failures,
    wol_port: u16,
    /// Actions under way.
    pub(super) tasks: TaskTracker,
}

/// What went wrong last, by the machine's address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<BTreeMap<Option<Ipv4Addr>, String>>>);

/// An action that was due.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Due {
    machine: Arc<Machine>,
    action: Action,
    at: Timestamp,
    is_late: bool,
}

impl Power {
    pub(super) fn new(
        world: Arc<World>,
        metrics: Metrics,
        failures: Failures,
        health: Health,
        stop: CancellationToken,
    ) -> greypit_pipeline::Result<Power> {
        let config = &world.config.power;
        Ok(Power {
            off: config.off()?,
            zone: config.time_zone()?,
            timeout: config.timeout.0,
            metrics,
            health,
            stop,
            places: Semaphore::new(OFFS_MAX),
            failures,
            wol_port: wol::PORT,
            tasks: TaskTracker::new(),
            world,
        })
    }

    #[cfg(test)]
    pub(super) fn with_port(self, wol_port: u16) -> Power {
        Power { wol_port, ..self }
    }

    /// Carries out the schedules until the token is cancelled.
    pub(super) async fn run(self: Arc<Power>, mark: PathBuf) {
        let mut last = read_mark(&mark, Timestamp::now());
        loop {
            let now = Timestamp::now();
            for due in self.due(last, now) {
                self.begin(due);
            }
            last = advance(last, now);
            write_mark(&mark, last);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(until_next_minute(Timestamp::now())) => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What was due later than `last` and not later than `now`, and how late each is.
    fn due(&self, last: Timestamp, now: Timestamp) -> Vec<Due> {
        let machines = self.world.machines();
        let from = last.max(now.saturating_sub(MISSED_MAX).unwrap_or(last));
        let mut scheduled: Vec<_> =
            machines.iter().filter_map(|(_, machine)| Some((machine, machine.power.as_ref()?))).collect();
        self.metrics.scheduled.set(scheduled.len() as i64);
        scheduled.sort_by_key(|(machine, _)| machine.ip);
        let mut due = Vec::new();
        for (machine, schedule) in scheduled {
            for (at, action) in schedule.due(from, now, &self.zone) {
                due.push(Due { machine: machine.clone(), action, at, is_late: now.duration_since(at) > LATE_MAX });
            }
        }
        due
    }

    fn begin(self: &Arc<Power>, due: Due) {
        let target = Target::from(&due.machine);
        if due.is_late {
            let why = format!(
                "it was due at {}, when greypit did not run, no interface was there, or the machine slept",
                due.at
            );
            return self.record(&target, due.action, "schedule", &Done::new(Outcome::Missed, why));
        }
        let power = self.clone();
        self.tasks.spawn(async move {
            match due.action {
                Action::On => power.on(&target, "schedule").await.map(drop),
                Action::Off => power.off(&due.machine, "schedule").await.map(drop),
            }
        });
    }

    /// Wakes whom `text` names; one line for a person.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(super) async fn wake(&self, text: &str, by: &str) -> Result<String, String> {
        let target = target::find(&self.world.machines(), |ip| self.world.sessions.mac_of(ip), text)?;
        self.on(&target, by).await
    }

    async fn on(&self, target: &Target, by: &str) -> Result<String, String> {
        let began = Instant::now();
        // One policy: whoever gets nothing from any protocol is not woken to ask for it.
        let is_off = target.machine.as_ref().is_some_and(|machine| machine.boot == Boot::Off);
        let ways = wol::ways(&self.world.networks, target.ip);
        let mut done = match is_off {
            true => Done::new(Outcome::Refused, Why::Off.name().to_owned()),
            false => match wol::send(&target.macs, &ways, self.wol_port).await {
                Ok(()) => Done { outcome: Outcome::Done, why: None, said: None, took: None },
                Err(error) => Done::new(Outcome::Failed, format!("the packet could not be sent: {error}")),
            },
        };
        done.took = Some(began.elapsed());
        self.record(target, Action::On, by, &done);
        let to: Vec<_> = ways.iter().map(|way| way.to.to_string()).collect();
        match done.why {
            None => Ok(format!("{}: woken through {}", target.text(), to.join(", "))),
            Some(why) => Err(format!("{}: {why}", target.text())),
        }
    }

    async fn off(&self, machine: &Arc<Machine>, by: &str) -> Result<(), String> {
        let target = Target::from(machine);
        let Ok(_place) = self.places.acquire().await else { return Ok(()) };
        let began = Instant::now();
        let facts =
            machine.ip.zip(machine.macs.first()).map(|(ip, mac)| Facts { hostname: &machine.hostname, ip, mac: *mac });
        let work = async {
            match facts {
                Some(facts) => self.off.carry_out(facts, self.timeout).await,
                None => Err("it has no address".to_owned()),
            }
        };
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err("greypit stopped, or bound its interfaces anew, meanwhile".to_owned()),
            result = work => result,
        };
        let took = Some(began.elapsed());
        let done = match result {
            Ok(said) => Done { outcome: Outcome::Done, why: None, said, took },
            Err(why) => Done { took, ..Done::new(Outcome::Failed, why) },
        };
        self.record(&target, Action::Off, by, &done);
        done.why.map_or(Ok(()), Err)
    }

    /// Counts, records, and says on the board what fails.
    fn record(&self, target: &Target, action: Action, by: &str, done: &Done) {
        self.metrics.action(action, done.outcome);
        let now = Timestamp::now();
        let mac = target.macs.first().copied();
        let record = Record::new(audit::POWER, now)
            .known("session", self.world.sessions.of(Who { mac, ip: target.ip }, now))
            .known("machine", target.machine.as_ref().map(|machine| &machine.hostname))
            .known("mac", mac)
            .known("addr", target.ip)
            .text("action", action.name())
            .text("by", by)
            .text("outcome", done.outcome.name())
            .known("output", done.said.as_ref());
        let record = match done.took {
            Some(took) => record.number("duration_ms", took.as_millis() as u64),
            None => record,
        };
        self.world.audit.record(record.known("why", done.why.as_ref()));
        self.say(target, action, done);
    }

    fn say(&self, target: &Target, action: Action, done: &Done) {
        let (who, action) = (target.text(), action.name());
        match (&done.why, done.outcome) {
            (Some(why), Outcome::Failed) => tracing::warn!(who, action, why, "power action failed"),
            (Some(why), _) => tracing::info!(who, action, why, outcome = done.outcome.name(), "power action left out"),
            (None, _) => tracing::info!(who, action, "power action done"),
        }
        let mut failed = self.failures.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (done.outcome, &done.why) {
            (Outcome::Failed, Some(why)) => drop(failed.insert(target.ip, format!("{action} of {who}: {why}"))),
            (Outcome::Done, _) => drop(failed.remove(&target.ip)),
            (Outcome::Failed | Outcome::Refused | Outcome::Missed, _) => return,
        }
        // Those who are no longer in the files fail no more.
        let machines = self.world.machines();
        failed.retain(|ip, _| *ip == target.ip || machines.iter().any(|(_, machine)| machine.ip == *ip));
        self.metrics.failed.set(failed.len() as i64);
        match failed.values().next() {
            None => self.health.ok(PART),
            Some(problem) => {
                let more = if failed.len() > 1 { format!(", and {} more", failed.len() - 1) } else { String::new() };
                self.health.limited(PART, format!("{problem}{more}"));
            }
        }
    }
}

/// How an action ended.
#[derive(Debug)]
struct Done {
    outcome: Outcome,
    /// Why it was not done.
    why: Option<String>,
    /// What was said to it.
    said: Option<String>,
    took: Option<Duration>,
}

impl Done {
    fn new(outcome: Outcome, why: String) -> Done {
        Done { outcome, why: Some(why), said: None, took: None }
    }
}

/// The end of what has been looked at. A clock that was put back a little repeats nothing; one that was wrong by more than
/// a minute is believed.
fn advance(last: Timestamp, now: Timestamp) -> Timestamp {
    if now < last && last.duration_since(now) <= LATE_MAX { last } else { now }
}

fn until_next_minute(now: Timestamp) -> Duration {
    let into_minute = now.as_millisecond().rem_euclid(60_000) as u64;
    // A little later than earlier: timers are exact to a millisecond.
    Duration::from_millis(60_000 - into_minute + 1)
}

/// When an earlier run looked last; now, where there was none or its clock was ahead.
fn read_mark(path: &Path, now: Timestamp) -> Timestamp {
    let mark = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<Timestamp>().ok());
    mark.filter(|mark| *mark <= now).unwrap_or(now)
}

/// As the mark only spares repetitions, one that cannot be written is no reason to leave out an action.
fn write_mark(path: &Path, last: Timestamp) {
    if let Err(error) = std::fs::write(path, format!("{last}\n")) {
        tracing::debug!(path = %path.display(), %error, "when schedules were looked at cannot be written");
    }
}

#[cfg(test)]
mod tests;
