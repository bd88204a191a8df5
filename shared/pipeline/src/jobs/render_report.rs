//! `report.render`: make a PDF report and mail it to who asked for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Job, Period, Recipient};

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
