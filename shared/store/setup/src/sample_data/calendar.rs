//! When people buy in the sample shop: seasons, weekdays, feasts and the hours of the day.

use chrono::{Datelike, NaiveDate, Weekday};

/// Demand in the middle of each month, January first.
const MONTHS: [f64; 12] = [0.93, 0.86, 0.92, 0.95, 0.96, 0.88, 0.74, 0.72, 0.95, 1.06, 1.40, 1.62];

/// Demand in each hour of the day in UTC; the evening peak is between 19 and 21 o'clock in most of Europe.
pub(super) const HOURS: [u32; 24] =
    [8, 4, 3, 2, 3, 6, 16, 28, 40, 48, 54, 58, 54, 48, 46, 48, 56, 72, 92, 98, 86, 58, 34, 18];

/// Black Friday of 2025.
fn black_friday() -> NaiveDate {
    NaiveDate::from_ymd_opt(2025, 11, 28).unwrap_or_default()
}

/// How much is bought on a day, compared with others of the year.
pub(super) fn demand(day: NaiveDate) -> f64 {
    season(day) * weekday(day) * feast(day)
}

/// From Black Friday to the Monday after it everything costs a fifth less.
pub(super) fn is_sale(day: NaiveDate) -> bool {
    (0..=3).contains(&(day - black_friday()).num_days())
}

/// A straight line from the middle of one month to the middle of the next.
fn season(day: NaiveDate) -> f64 {
    let month = day.month0() as usize;
    let from_middle = (f64::from(day.day()) - 15.5) / 30.4;
    let (before, after, share) = if from_middle < 0.0 {
        (MONTHS[(month + 11) % 12], MONTHS[month], from_middle + 1.0)
    } else {
        (MONTHS[month], MONTHS[(month + 1) % 12], from_middle)
    };
    before + (after - before) * share
}

fn weekday(day: NaiveDate) -> f64 {
    match day.weekday() {
        Weekday::Mon => 1.12,
        Weekday::Tue => 1.05,
        Weekday::Wed => 1.02,
        Weekday::Thu => 0.99,
        Weekday::Fri => 0.90,
        Weekday::Sat => 0.80,
        Weekday::Sun => 1.15,
    }
}

fn feast(day: NaiveDate) -> f64 {
    match (day.month(), day.day()) {
        (1, 1) => 0.45,
        (12, 2..=17) => 1.15,
        // Too late for a parcel to arrive.
        (12, 20..=23) => 0.70,
        (12, 24) => 0.35,
        (12, 25) => 0.30,
        (12, 26) => 0.50,
        (12, 31) => 0.55,
        _ => match (day - black_friday()).num_days() {
            -4..=-1 => 1.25,
            0 => 3.6,
            1 | 2 => 1.9,
            3 => 2.6,
            _ => 1.0,
        },
    }
}
