//! `report.render`: make a PDF report and mail it to who asked for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Job, Period, Recipient};

/// Up to here a chart has a point a day, and up to the next a point a week, unless it is asked for otherwise.
const DAYS_BY_DAY: i64 = 31;
const DAYS_BY_WEEK: i64 = 180;

/// Asks for a report. Done when the PDF is in the object store under the job's id and the mail is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenderReport {
    /// Which report.
    pub report: ReportKind,
    /// The days that it covers; the period of the same length before is compared with it.
    pub period: Period,
    /// How the days are put together in the chart.
    pub group_by: Grouping,
    /// Who gets the mail when it is done.
    pub recipient: Recipient,
}

impl Job for RenderReport {
    const KIND: &'static str = "report.render";
}

/// The reports there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReportKind {
    /// Key figures, revenue chart, top products, orders.
    Sales,
}

/// The steps of a report's chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// One point a day.
    Day,
    /// One point an ISO week, Monday to Sunday, cut off at the period's ends.
    Week,
    /// One point a calendar month, cut off at the period's ends.
    Month,
}

impl Grouping {
    /// The steps that suit the length of a period: days up to 31 days, ISO weeks up to 180, else months.
    #[must_use]
    pub fn suited_to(period: &Period) -> Self {
        match period.days() {
            days if days <= DAYS_BY_DAY => Self::Day,
            days if days <= DAYS_BY_WEEK => Self::Week,
            _ => Self::Month,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Grouping, Period};

    #[test]
    fn the_chart_has_steps_that_suit_the_length() {
        let grouping = |from: &str, to: &str| {
            Grouping::suited_to(&Period::new(from.parse().unwrap(), to.parse().unwrap()).unwrap())
        };
        assert_eq!(grouping("2025-01-01", "2025-01-31"), Grouping::Day);
        assert_eq!(grouping("2025-01-01", "2025-02-01"), Grouping::Week);
        assert_eq!(grouping("2025-01-01", "2025-06-29"), Grouping::Week);
        assert_eq!(grouping("2025-01-01", "2025-06-30"), Grouping::Month);
    }
}
