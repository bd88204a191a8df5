//! What a schedule keeps of the reports that it asks for: the days in words, which become dates when it is due.

use chrono::{Datelike, Days, Months, NaiveDate};
use serde::{Deserialize, Serialize};

use super::{Grouping, InvalidPeriod, Period, Recipient, RenderReport, ReportKind};

/// A report whose days are counted from the day on which it is due.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReportTemplate {
    /// Which report.
    pub report: ReportKind,
    /// The days that it covers.
    pub period: RelativePeriod,
    /// How the days are put together in the chart; what suits their number, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<Grouping>,
    /// Who gets the mail.
    pub recipient: Recipient,
}

/// Days in words, all of them over on the day that they are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelativePeriod {
    /// The day before.
    Yesterday,
    /// The seven days before.
    #[serde(rename = "last-7-days")]
    Last7Days,
    /// The thirty days before.
    #[serde(rename = "last-30-days")]
    Last30Days,
    /// The latest whole week, Monday to Sunday.
    LastWeek,
    /// The latest whole calendar month.
    LastMonth,
    /// The latest whole quarter, which begins in January, April, July or October.
    LastQuarter,
    /// The latest whole calendar year.
    LastYear,
}

impl ReportTemplate {
    /// The report that is due on `today`, a day of the schedule's time zone. (A report counts its days in UTC.)
    ///
    /// # Errors
    /// `today` lies outside the years that a period can have.
    pub fn due_on(&self, today: NaiveDate) -> Result<RenderReport, InvalidPeriod> {
        let period = self.period.before(today)?;
        let group_by = self.group_by.unwrap_or_else(|| Grouping::suited_to(&period));
        Ok(RenderReport { report: self.report, period, group_by, recipient: self.recipient.clone() })
    }
}

impl RelativePeriod {
    /// The days that are meant on `today`.
    ///
    /// # Errors
    /// `today` lies outside the years that a period can have.
    pub fn before(self, today: NaiveDate) -> Result<Period, InvalidPeriod> {
        // The first day after the period, and the first day of it.
        let days = |count| (Some(today), today.checked_sub_days(Days::new(count)));
        let months =
            |end: Option<NaiveDate>, count| (end, end.and_then(|end| end.checked_sub_months(Months::new(count))));
        let (end, from) = match self {
            Self::Yesterday => days(1),
            Self::Last7Days => days(7),
            Self::Last30Days => days(30),
            Self::LastWeek => {
                let monday = today.checked_sub_days(Days::new(today.weekday().num_days_from_monday().into()));
                (monday, monday.and_then(|monday| monday.checked_sub_days(Days::new(7))))
            }
            Self::LastMonth => months(today.with_day(1), 1),
            Self::LastQuarter => months(NaiveDate::from_ymd_opt(today.year(), today.month0() / 3 * 3 + 1, 1), 3),
            Self::LastYear => months(NaiveDate::from_ymd_opt(today.year(), 1, 1), 12),
        };
        let to = end.and_then(|end| end.pred_opt());
        match (from, to) {
            (Some(from), Some(to)) => Period::new(from, to),
            _ => Err(InvalidPeriod::OutOfRange),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Grouping, RelativePeriod, ReportTemplate};

    fn days(word: &str, today: &str) -> (String, String) {
        let period: RelativePeriod = serde_json::from_value(json!(word)).unwrap();
        let period = period.before(today.parse().unwrap()).unwrap();
        (period.from().to_string(), period.to().to_string())
    }

    #[test]
    fn words_are_whole_days_before_today() {
        for (word, today, from, to) in [
            ("yesterday", "2026-03-01", "2026-02-28", "2026-02-28"),
            ("last-7-days", "2026-03-02", "2026-02-23", "2026-03-01"),
            ("last-30-days", "2026-03-02", "2026-01-31", "2026-03-01"),
            // On a Monday, and on the Sunday before it.
            ("last-week", "2026-03-02", "2026-02-23", "2026-03-01"),
            ("last-week", "2026-03-01", "2026-02-16", "2026-02-22"),
            ("last-month", "2024-03-31", "2024-02-01", "2024-02-29"),
            ("last-month", "2026-01-01", "2025-12-01", "2025-12-31"),
            ("last-quarter", "2026-01-15", "2025-10-01", "2025-12-31"),
            ("last-quarter", "2026-06-30", "2026-01-01", "2026-03-31"),
            ("last-year", "2025-02-28", "2024-01-01", "2024-12-31"),
        ] {
            assert_eq!(days(word, today), (from.to_owned(), to.to_owned()), "{word} on {today}");
        }
    }

    #[test]
    fn days_that_no_report_covers_are_an_error() {
        for today in ["1970-01-01", "-262143-01-01", "9999-12-31"] {
            assert!(RelativePeriod::Yesterday.before(today.parse().unwrap()).is_err(), "{today}");
        }
    }

    #[test]
    fn a_template_becomes_the_report_of_the_day() {
        let template = json!({
            "report": "sales", "period": "last-quarter",
            "recipient": {"name": "Alice", "address": "alice@shop.example"},
        });
        let template: ReportTemplate = serde_json::from_value(template).unwrap();
        let report = template.due_on("2026-04-06".parse().unwrap()).unwrap();
        assert_eq!(
            (report.period.from(), report.period.to()),
            ("2026-01-01".parse().unwrap(), "2026-03-31".parse().unwrap())
        );
        assert_eq!(report.group_by, Grouping::Week);
        assert_eq!(report.recipient, template.recipient);
        let daily = ReportTemplate { group_by: Some(Grouping::Day), ..template };
        assert_eq!(daily.due_on("2026-04-06".parse().unwrap()).unwrap().group_by, Grouping::Day);
    }
}
