//! A span of whole days that cannot be back to front or longer than a year.

use chrono::NaiveDate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Days from the first to the last one, both included; at most 366. Days are counted in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Days", into = "Days")]
pub struct Period {
    from: NaiveDate,
    to: NaiveDate,
}

/// The form on the wire, before it is checked.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Days {
    /// First day, `YYYY-MM-DD`.
    from: NaiveDate,
    /// Last day, included.
    to: NaiveDate,
}

/// Why two dates are no period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeriod {
    /// The first day lies after the last.
    #[error("\"from\" must not be after \"to\"")]
    BackToFront,
    /// More than [`Period::MAX_DAYS`] days.
    #[error("a period has at most {} days", Period::MAX_DAYS)]
    TooLong,
    /// Outside the years 1970 to 9998, which every part of the system can reckon with.
    #[error("the years of a period are 1970 to 9998")]
    OutOfRange,
}

impl Period {
    /// The longest period: a leap year.
    pub const MAX_DAYS: i64 = 366;

    /// A period from the first to the last day, both included.
    ///
    /// # Errors
    /// See [`InvalidPeriod`].
    pub fn new(from: NaiveDate, to: NaiveDate) -> Result<Self, InvalidPeriod> {
        use chrono::Datelike;
        if from > to {
            return Err(InvalidPeriod::BackToFront);
        }
        if from.year() < 1970 || to.year() > 9998 {
            return Err(InvalidPeriod::OutOfRange);
        }
        let period = Self { from, to };
        if period.days() > Self::MAX_DAYS { Err(InvalidPeriod::TooLong) } else { Ok(period) }
    }

    /// The first day.
    #[must_use]
    pub fn from(&self) -> NaiveDate {
        self.from
    }

    /// The last day, included.
    #[must_use]
    pub fn to(&self) -> NaiveDate {
        self.to
    }

    /// The number of days, at least 1.
    #[must_use]
    pub fn days(&self) -> i64 {
        (self.to - self.from).num_days() + 1
    }
}

impl TryFrom<Days> for Period {
    type Error = InvalidPeriod;

    fn try_from(days: Days) -> Result<Self, InvalidPeriod> {
        Self::new(days.from, days.to)
    }
}

impl From<Period> for Days {
    fn from(period: Period) -> Self {
        Self { from: period.from, to: period.to }
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidPeriod, Period};

    fn period(from: &str, to: &str) -> Result<Period, InvalidPeriod> {
        Period::new(from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn a_leap_year_is_the_longest_period() {
        assert_eq!(period("2024-01-01", "2024-12-31").unwrap().days(), 366);
        assert_eq!(period("2024-01-01", "2025-01-01"), Err(InvalidPeriod::TooLong));
    }

    #[test]
    fn one_day_is_a_period_and_a_day_before_it_is_not() {
        assert_eq!(period("2025-03-01", "2025-03-01").unwrap().days(), 1);
        assert_eq!(period("2025-03-01", "2025-02-28"), Err(InvalidPeriod::BackToFront));
    }

    #[test]
    fn a_period_on_the_wire_is_checked_when_it_is_read() {
        let error = serde_json::from_str::<Period>(r#"{"from":"2025-03-02","to":"2025-03-01"}"#).unwrap_err();
        assert!(error.to_string().contains("must not be after"), "{error}");
    }
}
