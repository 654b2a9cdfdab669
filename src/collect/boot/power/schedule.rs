//! The `power` file of a machine, and when its actions are due. Pure: the time is an argument.
//!
//! ```text
//! on 07:30, off 20:30, Mon-Fri       days are those of all actions before them that have none yet
//! on 09:00 Sat,Sun                   a list; ranges may go over the end of the week: Fri-Mon
//! on 06:00                           every day, as with "daily"
//! never                              alone: no actions
//! ```
//!
//! Commas are blanks. Days are three letters or the English name, in any case; a dash may be `-` or `–`, with blanks
//! around it or none. Times are of 24 hours. Lines that begin with `#` and empty lines say nothing. In one line either all
//! actions have days or none has.
//!
//! Where clocks are put forward, a time that does not exist is as much later as the clock jumps (02:30 is 03:30); where
//! they are put back, a time that is twice is the first of both. Either way each action is due once.
//!
//! Limit: [`ACTIONS_MAX`] actions.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

/// Of one file.
const ACTIONS_MAX: usize = 64;

/// Of what a person is shown of a line.
const SHOWN_CHARS_MAX: usize = 40;

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// What is done to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    On,
    Off,
}

impl Action {
    pub(crate) const ALL: [Action; 2] = [Action::On, Action::Off];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::On => "on",
            Action::Off => "off",
        }
    }
}

/// Days of a week, a bit each; the lowest is Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Days(u8);

impl Days {
    const ALL: Days = Days(0x7f);

    fn has(self, date: Date) -> bool {
        self.0 & 1 << date.weekday().to_monday_zero_offset() != 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    action: Action,
    at: Time,
    days: Days,
}

/// When a machine is switched on and off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    entries: Vec<Entry>,
}

impl Schedule {
    /// Reads a `power` file.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub(crate) fn parse(text: &str) -> Result<Schedule, String> {
        let mut schedule = Schedule::default();
        let mut never = false;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if line.eq_ignore_ascii_case("never") {
                never = true;
                continue;
            }
            schedule.entries.extend(entries(line).map_err(|problem| {
                let line: String = line.chars().take(SHOWN_CHARS_MAX).collect();
                format!("'{line}': {problem}; write for example \"on 07:30, off 20:30, Mon-Fri\"")
            })?);
            if schedule.entries.len() > ACTIONS_MAX {
                return Err(format!("more than {ACTIONS_MAX} actions"));
            }
        }
        if never && !schedule.entries.is_empty() {
            return Err("\"never\" stands alone".to_owned());
        }
        Ok(schedule)
    }

    /// The actions later than `after` and not later than `until`, in their order.
    pub(crate) fn due(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Vec<(Timestamp, Action)> {
        let mut due = Vec::new();
        // From the day before: a time that does not exist may be of the day after.
        let Ok(mut date) = after.to_zoned(zone.clone()).date().yesterday() else { return due };
        let last = until.to_zoned(zone.clone()).date();
        while date <= last {
            for entry in self.entries.iter().filter(|entry| entry.days.has(date)) {
                let Ok(at) = date.to_datetime(entry.at).to_zoned(zone.clone()) else { continue };
                let at = at.timestamp();
                if after < at && at <= until {
                    due.push((at, entry.action));
                }
            }
            let Ok(tomorrow) = date.tomorrow() else { break };
            date = tomorrow;
        }
        due.sort_by_key(|(at, _)| *at);
        due
    }
}

/// The actions of one line.
fn entries(line: &str) -> Result<Vec<Entry>, String> {
    let line = line.to_lowercase().replace(['–', '—'], "-");
    let line = line.split('-').map(str::trim).collect::<Vec<_>>().join("-");
    let mut words = line.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let mut entries: Vec<(Action, Time, Option<u8>)> = Vec::new();
    // The first action that the next days belong to.
    let mut open = 0;
    let mut within_days = false;
    while let Some(word) = words.next() {
        let action = match word {
            "on" => Some(Action::On),
            "off" => Some(Action::Off),
            _ => None,
        };
        if let Some(action) = action {
            if within_days {
                open = entries.len();
                within_days = false;
            }
            let at = words.next().ok_or_else(|| format!("'{word}' needs a time"))?;
            entries.push((action, time(at)?, None));
            continue;
        }
        let days = days(word)?;
        if entries.is_empty() {
            return Err("it begins with \"on\" or \"off\"".to_owned());
        }
        within_days = true;
        for (_, _, of) in &mut entries[open..] {
            *of = Some(of.unwrap_or(0) | days);
        }
    }
    let with_days = entries.iter().filter(|(_, _, days)| days.is_some()).count();
    if with_days != 0 && with_days != entries.len() {
        return Err("some of its actions have days and some have none; give each a line of its own".to_owned());
    }
    let entry =
        |(action, at, days): (Action, Time, Option<u8>)| Entry { action, at, days: days.map_or(Days::ALL, Days) };
    Ok(entries.into_iter().map(entry).collect())
}

/// `7:30`, `07:30`.
fn time(word: &str) -> Result<Time, String> {
    let number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        let is_number = digits.contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
        text.parse::<i8>().ok().filter(|_| is_number)
    };
    let parts = word.split_once(':').and_then(|(hour, minute)| Some((number(hour, 1..=2)?, number(minute, 2..=2)?)));
    let time = parts.and_then(|(hour, minute)| Time::new(hour, minute, 0, 0).ok());
    time.ok_or_else(|| format!("'{word}' is no time of day"))
}

/// `mon`, `mon-fri`, `daily`, as bits.
fn days(word: &str) -> Result<u8, String> {
    if word == "daily" {
        return Ok(Days::ALL.0);
    }
    let day = |text: &str| {
        let found = DAYS.iter().position(|day| text == *day || text == &day[..3]);
        found.ok_or_else(|| format!("'{word}' is no day"))
    };
    let (first, last) = match word.split_once('-') {
        Some((first, last)) => (day(first)?, day(last)?),
        None => (day(word)?, day(word)?),
    };
    let length = (last + 7 - first) % 7 + 1;
    Ok((first..first + length).fold(0, |bits, day| bits | 1 << (day % 7)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    /// The times of the actions within `days` days from `from` on, as in Berlin.
    fn times(file: &str, from: &str, days: i64) -> Vec<String> {
        let schedule = Schedule::parse(file).unwrap();
        let from: Timestamp = from.parse().unwrap();
        let until = from + jiff::SignedDuration::from_hours(24 * days);
        let due = schedule.due(from, until, &zone());
        due.iter()
            .map(|(at, action)| format!("{} {}", at.to_zoned(zone()).strftime("%a %d %H:%M"), action.name()))
            .collect()
    }

    #[test]
    fn days_are_of_the_actions_before_them() {
        // A Monday.
        let monday = "2026-11-16T00:00:00+01:00";
        let one = "on 07:30, off 20:30, Mon–Fri";
        let lines = "# office\n\non 07:30 mon-FRI\noff 20:30 Monday - Friday\n";
        assert_eq!(times(one, monday, 7).len(), 10);
        assert_eq!(times(one, monday, 7), times(lines, monday, 7));
        assert_eq!(times(one, monday, 1), ["Mon 16 07:30 on", "Mon 16 20:30 off"]);
        assert_eq!(times("on 7:05 Sat,Sun", monday, 7), ["Sat 21 07:05 on", "Sun 22 07:05 on"]);
        assert_eq!(
            times("on 1:00 Mon, Wed Fri, off 2:00 Tue", monday, 7),
            ["Mon 16 01:00 on", "Tue 17 02:00 off", "Wed 18 01:00 on", "Fri 20 01:00 on"]
        );
        assert_eq!(times("on 01:00 Sat-Mon", monday, 7), ["Mon 16 01:00 on", "Sat 21 01:00 on", "Sun 22 01:00 on"]);
        for daily in ["on 09:00", "on 09:00 daily", "ON 09:00 Mon-Sun"] {
            assert_eq!(times(daily, monday, 7).len(), 7, "{daily}");
        }
        assert_eq!(times("never", monday, 30), [""; 0]);
        assert_eq!(times("", monday, 30), [""; 0]);
    }

    #[test]
    fn what_is_no_schedule_is_said() {
        for (text, problem) in [
            ("at 07:30", "'at' is no day"),
            ("on", "'on' needs a time"),
            ("on Mon", "'mon' is no time"),
            ("on 24:00", "'24:00' is no time"),
            ("on 7:3", "'7:3' is no time"),
            ("on +7:30", "no time"),
            ("on 07:30 Mo-Fr", "'mo-fr' is no day"),
            ("Mon-Fri on 07:30", "begins with"),
            ("on 07:30 Mon-Fri, off 20:30", "some of its actions have days"),
            ("on 07:30\nnever", "stands alone"),
            ("on 07:30 Mon-Fri-Sun", "no day"),
        ] {
            let error = Schedule::parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let many = "on 07:30\n".repeat(ACTIONS_MAX + 1);
        assert!(Schedule::parse(&many).is_err() && Schedule::parse(&many[9..]).is_ok());
    }

    #[test]
    fn a_time_that_does_not_exist_is_later_and_one_that_is_twice_is_the_first() {
        let file = "on 02:30";
        // Clocks go from 02:00 to 03:00 on the 29th of March 2026, from 03:00 to 02:00 on the 25th of October.
        assert_eq!(times(file, "2026-03-28T12:00:00+01:00", 2), ["Sun 29 03:30 on", "Mon 30 02:30 on"]);
        let schedule = Schedule::parse(file).unwrap();
        let due =
            schedule.due("2026-10-24T12:00:00Z".parse().unwrap(), "2026-10-26T12:00:00Z".parse().unwrap(), &zone());
        let texts: Vec<_> = due.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(texts, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn each_action_is_in_exactly_one_of_the_spans_that_follow_each_other() {
        let schedule = Schedule::parse("on 07:30, off 20:30, Mon-Fri\non 02:30 Sun\noff 00:00 daily").unwrap();
        let begin: Timestamp = "2026-03-23T00:00:00Z".parse().unwrap();
        let at = |minutes: i64| begin + jiff::SignedDuration::from_mins(minutes);
        let whole = schedule.due(begin, at(8 * 1440), &zone());
        let pieces: Vec<_> = (0..8 * 1440 / 7).flat_map(|i| schedule.due(at(7 * i), at(7 * i + 7), &zone())).collect();
        let whole: Vec<_> = whole.into_iter().filter(|(when, _)| *when <= at(8 * 1440 / 7 * 7)).collect();
        assert_eq!(pieces, whole);
        assert!(whole.len() > 15);
    }
}
