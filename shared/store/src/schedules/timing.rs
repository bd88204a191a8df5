//! When a schedule is due: a cron expression, read in a time zone. Pure.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Times by the clock on the wall of a time zone: "Mondays at 8 in Berlin".
///
/// Five fields, `minute hour day-of-month month day-of-week`, names and `L`, `#`, `W` as croner reads them. Where both days are
/// restricted, either suffices, as in every cron. When the clocks change: a time of day that is skipped comes at the first
/// instant after the gap; a time of day that occurs twice comes once, the first time. Expressions with a step or a wildcard in
/// the hours or minutes follow the elapsed time instead: nothing extra after a gap, and through both of two like hours.
#[derive(Clone, Debug)]
pub struct Timing {
    cron: Cron,
    text: String,
    time_zone: Tz,
}

/// Why two texts are no [`Timing`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTiming {
    /// Not a cron expression of five fields.
    #[error("not a cron expression of five fields (minute, hour, day of the month, month, day of the week): {0}")]
    Cron(String),
    /// There is no such time.
    #[error("this time never comes")]
    Never,
    /// Not a time zone.
    #[error("not the name of a time zone, such as Europe/Berlin")]
    TimeZone,
}

/// What is to become of a schedule that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The due time that this is about: the latest that can still be fired, else the first that cannot.
    pub due_at: DateTime<Utc>,
    /// Whether it is still to be fired.
    pub in_time: bool,
    /// The first of the due times that go by unused before it, or with it where it is not in time.
    pub missed_since: Option<DateTime<Utc>>,
    /// When the schedule is due next.
    pub next_due_at: Option<DateTime<Utc>>,
}

impl Timing {
    /// The longest expression: more than any that a person would write.
    pub const LONGEST_CRON: usize = 200;

    /// Reads an expression and the IANA name of a time zone.
    ///
    /// # Errors
    /// See [`InvalidTiming`].
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, InvalidTiming> {
        let time_zone = Tz::from_str(time_zone).map_err(|_| InvalidTiming::TimeZone)?;
        let text = cron.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.len() > Self::LONGEST_CRON || text.split(' ').count() != 5 {
            return Err(InvalidTiming::Cron("it has not five fields".to_owned()));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&text).map_err(|error| InvalidTiming::Cron(error.to_string()))?;
        let timing = Self { cron, text, time_zone };
        // Searched up to the year 5000, which takes milliseconds.
        timing.first_after(DateTime::UNIX_EPOCH).map(|_| timing).ok_or(InvalidTiming::Never)
    }

    /// The expression, with single spaces.
    #[must_use]
    pub fn cron(&self) -> &str {
        &self.text
    }

    /// The name of the time zone.
    #[must_use]
    pub fn time_zone(&self) -> &'static str {
        self.time_zone.name()
    }

    /// The first due time after that moment.
    #[must_use]
    pub fn first_after(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.first(moment, false)
    }

    /// The day on which a moment lies in the time zone.
    #[must_use]
    pub fn local_day(&self, moment: DateTime<Utc>) -> NaiveDate {
        moment.with_timezone(&self.time_zone).date_naive()
    }

    /// What becomes of a schedule whose first unused due time is `first_due`: of what went by within `grace`, the latest fires.
    #[must_use]
    pub fn plan(&self, first_due: DateTime<Utc>, now: DateTime<Utc>, grace: TimeDelta) -> Plan {
        let from = first_due.max(now - grace);
        let mut latest = None;
        // At most one step a minute of the grace.
        let mut next = if from == first_due { Some(first_due) } else { self.first(from, true) };
        while let Some(due) = next.filter(|due| *due <= now) {
            latest = Some(due);
            next = self.first_after(due);
        }
        Plan {
            due_at: latest.unwrap_or(first_due),
            in_time: latest.is_some(),
            missed_since: (latest != Some(first_due)).then_some(first_due),
            next_due_at: next,
        }
    }

    fn first(&self, moment: DateTime<Utc>, inclusive: bool) -> Option<DateTime<Utc>> {
        let found = self.cron.find_next_occurrence(&moment.with_timezone(&self.time_zone), inclusive).ok()?;
        Some(found.with_timezone(&Utc))
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::{InvalidTiming, Plan, Timing};

    fn timing(cron: &str, time_zone: &str) -> Timing {
        Timing::parse(cron, time_zone).unwrap()
    }

    fn at(time: &str) -> DateTime<Utc> {
        time.parse().unwrap()
    }

    /// The due times after a moment.
    fn times(timing: &Timing, after: &str, count: usize) -> Vec<String> {
        let mut moment = at(after);
        let next = std::iter::from_fn(|| {
            moment = timing.first_after(moment)?;
            Some(moment.format("%F %R").to_string())
        });
        next.take(count).collect()
    }

    #[test]
    fn monday_at_eight_is_read_on_the_clock_of_the_time_zone() {
        // Summer time ends between the two in Berlin, and not in Tokyo.
        let berlin = timing("0 8 * * MON", "Europe/Berlin");
        assert_eq!(times(&berlin, "2026-10-18T00:00:00Z", 2), ["2026-10-19 06:00", "2026-10-26 07:00"]);
        let tokyo = timing("0 8 * * 1", "Asia/Tokyo");
        assert_eq!(times(&tokyo, "2026-10-18T00:00:00Z", 2), ["2026-10-18 23:00", "2026-10-25 23:00"]);
    }

    #[test]
    fn a_time_that_the_clocks_skip_comes_right_after_the_gap() {
        let daily = timing("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            times(&daily, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"]
        );
        // From within the last second before the gap, and from right after it.
        assert_eq!(times(&daily, "2026-03-29T00:59:59Z", 1), ["2026-03-29 01:00"]);
        assert_eq!(times(&daily, "2026-03-29T01:00:00Z", 1), ["2026-03-30 00:30"]);
    }

    #[test]
    fn a_time_that_occurs_twice_comes_once_the_first_time() {
        let daily = timing("30 2 * * *", "Europe/Berlin");
        assert_eq!(times(&daily, "2026-10-24T12:00:00Z", 2), ["2026-10-25 00:30", "2026-10-26 01:30"]);
        // Asked between the two.
        assert_eq!(times(&daily, "2026-10-25T01:00:00Z", 1), ["2026-10-26 01:30"]);
    }

    #[test]
    fn what_comes_every_hour_follows_the_elapsed_time() {
        let hourly = timing("30 * * * *", "Europe/Berlin");
        assert_eq!(times(&hourly, "2026-03-29T00:00:00Z", 2), ["2026-03-29 00:30", "2026-03-29 01:30"]);
        assert_eq!(
            times(&hourly, "2026-10-25T00:00:00Z", 3),
            ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"]
        );
    }

    #[test]
    fn a_day_is_that_of_the_time_zone() {
        let moment = at("2026-01-31T23:30:00Z");
        assert_eq!(timing("0 8 * * *", "Europe/Berlin").local_day(moment).to_string(), "2026-02-01");
        assert_eq!(timing("0 8 * * *", "America/New_York").local_day(moment).to_string(), "2026-01-31");
    }

    #[test]
    fn what_no_cron_would_take_is_refused() {
        let refused = |cron: &str, time_zone: &str| Timing::parse(cron, time_zone).unwrap_err();
        for bad in
            ["", "* * * *", "* * * * * *", "0 0 1 1 * 2030", "@daily", "60 * * * *", "0 8 * * MOO", "0 8 * * 1\0"]
        {
            assert!(matches!(refused(bad, "UTC"), InvalidTiming::Cron(_)), "{bad}");
        }
        assert!(matches!(refused(&format!("0 8 * * {}1", "1,".repeat(200)), "UTC"), InvalidTiming::Cron(_)));
        for bad in ["", "Berlin", "europe/berlin", "CEST", "+02:00"] {
            assert_eq!(refused("0 8 * * *", bad), InvalidTiming::TimeZone, "{bad}");
        }
        assert_eq!(refused("0 0 30 2 *", "UTC"), InvalidTiming::Never);
        assert_eq!(timing("  0\t8 * *   1 ", "UTC").cron(), "0 8 * * 1");
        assert_eq!(times(&timing("0 0 29 2 *", "UTC"), "2026-01-01T00:00:00Z", 1), ["2028-02-29 00:00"]);
    }

    #[test]
    fn of_what_was_missed_the_latest_fires() {
        let hourly = timing("0 * * * *", "UTC");
        let plan = |first: &str, now: &str| hourly.plan(at(first), at(now), TimeDelta::hours(24));
        let expected = Plan {
            due_at: at("2026-01-01T08:00:00Z"),
            in_time: true,
            missed_since: None,
            next_due_at: Some(at("2026-01-01T09:00:00Z")),
        };
        assert_eq!(plan("2026-01-01T08:00:00Z", "2026-01-01T08:00:00Z"), expected);
        assert_eq!(plan("2026-01-01T08:00:00Z", "2026-01-01T08:59:59Z"), expected);
        let late = Plan { missed_since: Some(at("2025-11-01T05:00:00Z")), ..expected };
        assert_eq!(plan("2025-11-01T05:00:00Z", "2026-01-01T08:10:00Z"), late);
    }

    #[test]
    fn what_was_missed_for_longer_than_the_grace_does_not_fire() {
        let weekly = timing("0 8 * * 1", "UTC");
        let plan = |now: &str| weekly.plan(at("2026-01-05T08:00:00Z"), at(now), TimeDelta::hours(24));
        assert!(plan("2026-01-06T08:00:00Z").in_time, "at the end of the grace");
        let late = Plan {
            due_at: at("2026-01-05T08:00:00Z"),
            in_time: false,
            missed_since: Some(at("2026-01-05T08:00:00Z")),
            next_due_at: Some(at("2026-01-12T08:00:00Z")),
        };
        assert_eq!(plan("2026-01-06T08:00:01Z"), late);
    }
}
