//! Lease time: the clock by which leases end, which no step of the wall clock moves.
//!
//! A client counts its lease by a clock of its own. Where ours is set forward and leases ended by it, an address would be
//! free here while its client goes on with it, and two machines would have it. So leases end by a count of seconds that
//! only real time moves. At the first start of all it is what the wall clock says; while greypit runs it follows the
//! kernel's steady clock (CLOCK_MONOTONIC); and each word that the log of leases writes ([`super::leases`]) says what all
//! three clocks said, so that the next start goes on from there:
//!
//! | the steady clock says | what happened | what has passed |
//! |---|---|---|
//! | as much or more, and no more than the wall clock | greypit was started anew | the difference; where the kernel is another all the same, it is more |
//! | less | the machine was started anew | what the wall clock says, less [`DOUBT_S`]; at least nothing |
//! | more than the wall clock | the wall clock was set back, or the data is on another machine | the same |
//!
//! So lease time never runs ahead of real time by what is done to the wall clock while the machine runs, and never goes
//! back. Where it falls behind a lease lasts longer here than at its client, which does no harm: time that the machine
//! sleeps is not counted (CLOCK_BOOTTIME would, by the word of a hardware clock that may be wrong), and neither is what
//! passes while it is off and the wall clock comes back too early.
//!
//! What remains: over a restart of the machine, and where the data goes on on another one, the wall clock is believed.
//! Where it comes back minutes or more ahead of what it was, leases end early. A step is written down within seconds
//! ([`Moment::is_stepped_since`]), so it does not count as time that the machine was off, unless greypit did not run
//! between the step and the machine's restart.
//!
//! Events and all else that people see have the wall clock's time.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Where only the wall clock tells, so much less has passed than the wall clock says: the hardware clock, by which it was
/// set, is set now and then and drifts, and all count in whole seconds.
const DOUBT_S: i64 = 60;

/// By how many seconds the wall clock differs from what it would be by the steady one where it was set. One may be due to
/// rounding.
const STEP_S: i64 = 2;

/// What the kernel's clocks say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) wall: Timestamp,
    /// Since the kernel started, without the time that it slept.
    pub(crate) steady_s: i64,
}

impl Reading {
    pub(crate) fn now() -> Reading {
        Reading { wall: Timestamp::now(), steady_s: clock_gettime(ClockId::Monotonic).tv_sec }
    }
}

/// A moment by all clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// What people see.
    pub(crate) wall: Timestamp,
    pub(crate) steady_s: i64,
    /// When leases end.
    pub(crate) lease_s: i64,
}

impl Moment {
    /// Whether the wall clock was set between `last` and this. A step that takes that back is one too.
    pub(crate) fn is_stepped_since(&self, last: &Moment) -> bool {
        let ahead = |at: &Moment| at.wall.as_second().saturating_sub(at.lease_s);
        ahead(self).abs_diff(ahead(last)) >= STEP_S.unsigned_abs()
    }
}

/// Lease time, as long as this process lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What it is ahead of the steady clock.
    ahead_s: i64,
}

impl Clock {
    /// Goes on from what was written down last. Without that it begins with the wall clock.
    pub(crate) fn resume(last: Option<&Moment>, now: Reading) -> Clock {
        let lease_s = last.map_or(now.wall.as_second(), |last| last.lease_s.saturating_add(passed_s(last, now)));
        Clock { ahead_s: lease_s.saturating_sub(now.steady_s) }
    }

    pub(crate) fn now(self) -> Moment {
        self.at(Reading::now())
    }

    pub(crate) fn at(self, now: Reading) -> Moment {
        let Reading { wall, steady_s } = now;
        Moment { wall, steady_s, lease_s: self.ahead_s.saturating_add(steady_s) }
    }
}

/// How many seconds have passed since `last`; rather too few than too many.
fn passed_s(last: &Moment, now: Reading) -> i64 {
    let by_steady_s = now.steady_s.saturating_sub(last.steady_s);
    let by_wall_s = now.wall.as_second().saturating_sub(last.wall.as_second());
    if (0..=by_wall_s.saturating_add(STEP_S)).contains(&by_steady_s) {
        by_steady_s
    } else {
        by_wall_s.saturating_sub(DOUBT_S).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 86_400;
    const WALL_S: i64 = 1_800_000_000;

    fn reading(wall_s: i64, steady_s: i64) -> Reading {
        Reading { wall: Timestamp::from_second(wall_s).unwrap(), steady_s }
    }

    /// The lease time of a start after one whose last word was at [`WALL_S`] of both, an hour after the kernel started.
    fn resumed(wall_s: i64, steady_s: i64) -> i64 {
        let now = reading(wall_s, steady_s);
        Clock::resume(Some(&last()), now).at(now).lease_s
    }

    fn last() -> Moment {
        let now = reading(WALL_S, 3600);
        Clock::resume(None, now).at(now)
    }

    #[test]
    fn it_begins_with_the_wall_clock_and_goes_on_by_the_steady_one() {
        let clock = Clock::resume(None, reading(WALL_S, 3600));
        assert_eq!(clock.at(reading(WALL_S, 3600)).lease_s, WALL_S);
        for wall_s in [WALL_S + 10, WALL_S + 365 * DAY_S, WALL_S - 365 * DAY_S, 0] {
            assert_eq!(clock.at(reading(wall_s, 3610)).lease_s, WALL_S + 10, "{wall_s}");
        }
    }

    #[test]
    fn greypit_started_anew_goes_on_however_far_the_wall_clock_is_ahead_and_never_goes_back() {
        for wall_s in [WALL_S + 9, WALL_S + 10, WALL_S + 365 * DAY_S] {
            assert_eq!(resumed(wall_s, 3610), WALL_S + 10, "{wall_s}");
        }
        for wall_s in [WALL_S - 365 * DAY_S, 0] {
            assert_eq!(resumed(wall_s, 3610), WALL_S, "{wall_s}");
        }
    }

    #[test]
    fn on_another_machine_what_the_wall_clock_says_has_passed_and_not_how_long_that_one_runs() {
        assert_eq!(resumed(WALL_S + 600, 300 * DAY_S), WALL_S + 600 - DOUBT_S);
        assert_eq!(resumed(WALL_S + 30, 300 * DAY_S), WALL_S);
        // One that runs for about as long: less has passed than that.
        assert_eq!(resumed(WALL_S + DAY_S, 3700), WALL_S + 100);
    }

    #[test]
    fn a_machine_started_anew_believes_the_wall_clock_but_never_goes_back() {
        assert_eq!(resumed(WALL_S + DAY_S, 20), WALL_S + DAY_S - DOUBT_S);
        for wall_s in [WALL_S + 30, WALL_S - 365 * DAY_S, 0] {
            assert_eq!(resumed(wall_s, 20), WALL_S, "{wall_s}");
        }
    }

    #[test]
    fn a_step_is_noticed_and_rounding_is_none() {
        let is_stepped = |ahead_s: i64| {
            let clock = Clock::resume(Some(&last()), reading(WALL_S, 3600));
            clock.at(reading(WALL_S + 100 + ahead_s, 3700)).is_stepped_since(&last())
        };
        assert_eq!([-3600, -2, -1, 0, 1, 2, 3600].map(is_stepped), [true, true, false, false, false, true, true]);
    }

    #[test]
    fn no_moment_that_a_file_may_hold_is_too_much() {
        let ends = [i64::MIN, -1, 0, 1, i64::MAX];
        for lease_s in ends {
            for steady_s in ends {
                for wall in [Timestamp::MIN, Timestamp::MAX] {
                    let last = Moment { wall, steady_s, lease_s };
                    let now = reading(WALL_S, 20);
                    let _ = Clock::resume(Some(&last), now).at(now).is_stepped_since(&last);
                }
            }
        }
    }

    #[test]
    fn the_kernels_clocks_go_on() {
        let (one, other) = (Reading::now(), Reading::now());
        assert!(one.steady_s > 0 && other.steady_s >= one.steady_s);
        assert!(one.wall.as_second() > 1_700_000_000);
    }
}
