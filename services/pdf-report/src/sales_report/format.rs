//! Numbers, money and dates as a reader of English expects them, beyond what the store says of money.

use std::fmt;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use store::money::{MINUS, minor_per_major, with_currency};
pub(super) use store::money::{amount, count, money};

/// Three digits are enough for an axis: `€950`, `€12.5k`, `€1.25M`.
pub(super) fn compact_money(minor: i64, currency: &str) -> String {
    let unit = minor_per_major(currency);
    // What rounds to 1,000 of a unit belongs to the next one.
    let major = minor as f64 / unit as f64;
    let text = match major.abs() {
        thousands @ 999.5..999_500.0 => format!("{}k", three_digits(major.signum() * thousands / 1e3)),
        millions @ 999_500.0..999_500_000.0 => format!("{}M", three_digits(major.signum() * millions / 1e6)),
        999_500_000.0.. => format!("{}bn", three_digits(major / 1e9)),
        _ if minor % unit == 0 => count(minor / unit),
        _ => amount(minor, currency),
    };
    with_currency(&text, currency)
}

fn three_digits(number: f64) -> String {
    let decimals = match number.abs() {
        ..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}").replace('-', &MINUS.to_string());
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `part` of `whole` with one decimal: `12.5%`. Of nothing it is a dash.
pub(super) fn percent(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return "–".to_owned();
    }
    per_mille_as_percent(rounded_ratio(i128::from(part) * 1000, i128::from(whole)))
}

fn per_mille_as_percent(per_mille: i128) -> String {
    let whole = count(i64::try_from(per_mille.abs() / 10).unwrap_or(i64::MAX));
    format!("{whole}.{}%", per_mille.abs() % 10)
}

/// To the nearest whole number, halves away from zero. `of` is positive.
fn rounded_ratio(number: i128, of: i128) -> i128 {
    (number + number.signum() * of / 2) / of
}

/// A bar's length, 0 to 1, cut to what one can see so that the data stays short.
pub(super) fn fraction(part: i64, whole: i64) -> f64 {
    if whole <= 0 || part <= 0 {
        return 0.0;
    }
    (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0
}

/// How a number moved against the period before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// By that many thousandths, not zero.
    Moved(i128),
    /// By less than half a thousandth.
    Same,
    /// From nothing to something.
    New,
    /// Nothing then, nothing now.
    Nothing,
}

impl Change {
    /// Both numbers are counts or sums of money, not negative.
    pub(super) fn between(before: i64, now: i64) -> Self {
        match (before, now) {
            (..=0, ..=0) => Self::Nothing,
            (..=0, _) => Self::New,
            _ => match rounded_ratio((i128::from(now) - i128::from(before)) * 1000, i128::from(before)) {
                0 => Self::Same,
                per_mille => Self::Moved(per_mille),
            },
        }
    }

    /// Whether there is a number to compare with.
    pub(super) fn has_before(self) -> bool {
        matches!(self, Self::Moved(_) | Self::Same)
    }

    /// The template's name for it.
    pub(super) fn direction(self) -> &'static str {
        match self {
            Self::Moved(1..) => "up",
            Self::Moved(_) => "down",
            Self::Same => "same",
            Self::New => "new",
            Self::Nothing => "nothing",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved(per_mille) => {
                let sign = if *per_mille > 0 { '+' } else { MINUS };
                write!(f, "{sign}{}", per_mille_as_percent(*per_mille))
            }
            Self::Same => write!(f, "unchanged"),
            Self::New => write!(f, "new"),
            Self::Nothing => write!(f, "–"),
        }
    }
}

/// At most that many characters, the last one an ellipsis where something is missing.
pub(super) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(characters - 1).collect();
            format!("{}…", kept.trim_end())
        }
    }
}

/// `1 March 2025`.
pub(super) fn day(date: NaiveDate) -> String {
    date.format("%-d %B %Y").to_string()
}

/// The days from the first to the last one, included, as short as they can be said.
pub(super) fn period(from: NaiveDate, to: NaiveDate) -> String {
    let ends_month = to.succ_opt().is_none_or(|next| next.day() == 1);
    let same_year = from.year() == to.year();
    let same_month = same_year && from.month() == to.month();
    if from == to {
        day(from)
    } else if same_year && from.ordinal() == 1 && to.month() == 12 && ends_month {
        from.format("%Y").to_string()
    } else if same_month && from.day() == 1 && ends_month {
        from.format("%B %Y").to_string()
    } else if same_month {
        format!("{}–{}", from.format("%-d"), day(to))
    } else if same_year {
        format!("{} – {}", from.format("%-d %B"), day(to))
    } else {
        format!("{} – {}", day(from), day(to))
    }
}

/// `1 April 2025, 09:30 UTC`.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.format("%-d %B %Y, %H:%M UTC").to_string()
}

/// `1 Apr 2025 09:30`.
pub(super) fn short_moment(at: DateTime<Utc>) -> String {
    at.format("%-d %b %Y %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::{Change, compact_money, percent, period, shortened};

    #[test]
    fn an_axis_shows_three_digits() {
        let shown = |minor| compact_money(minor, "EUR");
        assert_eq!(shown(0), "€0");
        assert_eq!(shown(25), "€0.25");
        assert_eq!(shown(95_000), "€950");
        assert_eq!(shown(99_999), "€1k");
        assert_eq!(shown(1_250_000), "€12.5k");
        assert_eq!(shown(1_234_567), "€12.3k");
        assert_eq!(shown(99_999_999), "€1M");
        assert_eq!(shown(125_000_000), "€1.25M");
        assert_eq!(shown(250_000_000_000), "€2.5bn");
    }

    #[test]
    fn a_share_has_one_decimal_and_none_of_nothing() {
        assert_eq!(percent(1, 8), "12.5%");
        assert_eq!(percent(2, 3), "66.7%");
        assert_eq!(percent(5, 0), "–");
    }

    #[test]
    fn a_change_is_rounded_to_a_tenth_of_a_percent() {
        assert_eq!(Change::between(1_000, 1_124).to_string(), "+12.4%");
        assert_eq!(Change::between(3, 2).to_string(), "−33.3%");
        assert_eq!(Change::between(2_000, 2_001).to_string(), "+0.1%");
        assert_eq!(Change::between(100_000, 100_001), Change::Same);
        assert_eq!(Change::between(1, 51).to_string(), "+5,000.0%");
        assert_eq!(Change::between(i64::MAX, 0).to_string(), "−100.0%");
    }

    #[test]
    fn a_change_from_nothing_is_no_percentage() {
        assert_eq!(Change::between(0, 5), Change::New);
        assert_eq!(Change::between(0, 0), Change::Nothing);
    }

    #[test]
    fn a_long_name_ends_in_an_ellipsis() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("longer", 5), "long…");
        assert_eq!(shortened("Zoë Zażółć", 5), "Zoë…");
    }

    #[test]
    fn a_period_is_said_as_short_as_it_can_be() {
        let said = |from: &str, to: &str| period(from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(said("2025-03-01", "2025-03-01"), "1 March 2025");
        assert_eq!(said("2025-03-01", "2025-03-31"), "March 2025");
        assert_eq!(said("2024-02-01", "2024-02-28"), "1–28 February 2024");
        assert_eq!(said("2025-01-01", "2025-12-31"), "2025");
        assert_eq!(said("2025-03-10", "2025-04-02"), "10 March – 2 April 2025");
        assert_eq!(said("2024-12-20", "2025-01-05"), "20 December 2024 – 5 January 2025");
    }
}
