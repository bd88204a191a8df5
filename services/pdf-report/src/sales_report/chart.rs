//! The revenue chart: its axis, its points as fractions of that axis, and what it says to who cannot see it.

use chrono::{Datelike, NaiveDate};
use serde_json::{Value, json};
use store::sales::{Grouping, RevenuePoint};

use super::SalesReport;
use super::format::{compact_money, count, day, fraction, money, period};

/// Above this many points bars are thinner than the gaps between them.
const MAX_BARS: usize = 62;

/// Labels that fit under the chart side by side.
const MAX_LABELS: usize = 13;

/// The chart as the template draws it.
pub(super) fn data(report: &SalesReport<'_>) -> Value {
    let points = report.revenue;
    let axis = Axis::up_to(points.iter().map(|point| point.revenue_minor).max().unwrap_or(0));
    let labels = labels(points, report.grouping);
    let with_values = points.len() <= MAX_LABELS;
    let shown: Vec<_> = points
        .iter()
        .zip(labels)
        .map(|(point, label)| {
            let value =
                (with_values && point.revenue_minor > 0).then(|| compact_money(point.revenue_minor, report.currency));
            json!({ "at": fraction(point.revenue_minor, axis.top()), "label": label, "value": value })
        })
        .collect();
    let ticks = axis
        .ticks()
        .map(|minor| json!({ "at": fraction(minor, axis.top()), "label": compact_money(minor, report.currency) }));
    json!({
        "title": format!("Revenue by {}", noun(report.grouping)),
        "summary": summary(report),
        "alt": alt(report),
        "form": if points.len() <= MAX_BARS { "bars" } else { "area" },
        "axis": ticks.collect::<Vec<_>>(),
        "points": shown,
    })
}

fn noun(grouping: Grouping) -> &'static str {
    match grouping {
        Grouping::Day => "day",
        Grouping::Week => "week",
        Grouping::Month => "month",
    }
}

/// An axis from zero up in even steps of 1, 2, 2.5 or 5 times a power of ten.
#[derive(Debug, PartialEq, Eq)]
struct Axis {
    step: i64,
    steps: i64,
}

impl Axis {
    /// Three to five steps that reach at least to `most`.
    fn up_to(most: i64) -> Self {
        if most <= 0 {
            return Self { step: 1, steps: 0 };
        }
        let least_step = most / 5 + i64::from(most % 5 > 0);
        let mut power: i64 = 1;
        let step = loop {
            // Of a single smallest unit there is no half: there, 2.5 rounds to another 2.
            let fits = [power, 2 * power, 5 * power / 2, 5 * power].into_iter().find(|step| *step >= least_step);
            match (fits, power.checked_mul(10).filter(|next| *next < i64::MAX / 10)) {
                (Some(step), _) => break step,
                (None, Some(next)) => power = next,
                (None, None) => break least_step,
            }
        };
        Self { step, steps: most / step + i64::from(most % step > 0) }
    }

    fn top(&self) -> i64 {
        self.step.saturating_mul(self.steps)
    }

    fn ticks(&self) -> impl Iterator<Item = i64> {
        let step = self.step;
        (0..=self.steps).map(move |index| step.saturating_mul(index))
    }
}

/// Text for the points that get one, at even distances.
fn labels(points: &[RevenuePoint], grouping: Grouping) -> Vec<Option<String>> {
    let every = match (grouping, points.len()) {
        (Grouping::Day, count) if count > MAX_BARS => return month_starts(points),
        // Whole weeks, once single days do not fit.
        (Grouping::Day, count) => [1, 2, 7].into_iter().find(|every| count.div_ceil(*every) <= MAX_LABELS).unwrap_or(7),
        (_, count) => count.div_ceil(MAX_LABELS).max(1),
    };
    let label = |date: NaiveDate| match grouping {
        Grouping::Month => date.format("%b %Y").to_string(),
        Grouping::Day | Grouping::Week => date.format("%-d %b").to_string(),
    };
    points.iter().enumerate().map(|(index, point)| (index % every == 0).then(|| label(point.start))).collect()
}

/// A label at the first day of every month.
fn month_starts(points: &[RevenuePoint]) -> Vec<Option<String>> {
    points.iter().map(|point| (point.start.day() == 1).then(|| point.start.format("%b %Y").to_string())).collect()
}

/// What a reader should see first, in words.
fn summary(report: &SalesReport<'_>) -> String {
    let best = report.revenue.iter().filter(|point| point.revenue_minor > 0);
    // The first of equals.
    let Some(best) = best.rev().max_by_key(|point| point.revenue_minor) else {
        return "Nothing was sold in this period.".to_owned();
    };
    let noun = noun(report.grouping);
    let total: i64 = report.revenue.iter().map(|point| point.revenue_minor).sum();
    let average = total / i64::try_from(report.revenue.len()).unwrap_or(i64::MAX);
    let orders = if best.orders == 1 { "1 order".to_owned() } else { format!("{} orders", count(best.orders)) };
    format!(
        "Best {noun}: {} with {} from {orders}. On average {} a {noun}.",
        group_label(best.start, report),
        money(best.revenue_minor, report.currency),
        money(average, report.currency),
    )
}

/// A group of days as one reads it, cut off at the period's ends as its numbers are.
fn group_label(start: NaiveDate, report: &SalesReport<'_>) -> String {
    let following = report.revenue.iter().map(|point| point.start).find(|next| *next > start);
    let last = following.and_then(|next| next.pred_opt()).unwrap_or(report.to);
    match report.grouping {
        Grouping::Day => day(start),
        Grouping::Week | Grouping::Month => period(start, last),
    }
}

fn alt(report: &SalesReport<'_>) -> String {
    let total: i64 = report.revenue.iter().map(|point| point.revenue_minor).sum();
    format!(
        "Chart of the revenue by {}, {}: {} in {} points. {}",
        noun(report.grouping),
        period(report.from, report.to),
        money(total, report.currency),
        report.revenue.len(),
        summary(report),
    )
}

#[cfg(test)]
mod tests {
    use super::Axis;

    fn ticks(most: i64) -> Vec<i64> {
        Axis::up_to(most).ticks().collect()
    }

    #[test]
    fn an_axis_has_round_steps_and_reaches_the_top() {
        assert_eq!(ticks(100_000), [0, 20_000, 40_000, 60_000, 80_000, 100_000]);
        assert_eq!(ticks(123_456), [0, 25_000, 50_000, 75_000, 100_000, 125_000]);
        assert_eq!(ticks(180_001), [0, 50_000, 100_000, 150_000, 200_000]);
        assert_eq!(ticks(3), [0, 1, 2, 3]);
        assert_eq!(ticks(12), [0, 5, 10, 15]);
    }

    #[test]
    fn an_axis_without_revenue_is_its_zero() {
        assert_eq!(ticks(0), [0]);
        assert_eq!(Axis::up_to(0).top(), 0);
    }

    #[test]
    fn any_revenue_has_an_axis_of_few_ticks() {
        for most in (1..5_000).chain([999_999_999, 1_000_000_000_000_000]) {
            let ticks = ticks(most);
            assert!((2..=6).contains(&ticks.len()), "{most}: {ticks:?}");
            assert!(*ticks.last().unwrap() >= most, "{most}: {ticks:?}");
        }
    }
}
