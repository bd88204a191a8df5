//! Amounts of money as a reader of English expects them. They are kept in the currency's smallest unit, and shown in its own.

/// A minus as wide as a plus, U+2212.
pub const MINUS: char = '−';

/// With separated thousands: `1,234`.
#[must_use]
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push(MINUS);
    }
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Digits after the decimal point, from ISO 4217.
fn minor_digits(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "VND" | "VUV"
        | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        _ => 2,
    }
}

/// How many of the smallest unit make one of the currency's own.
#[must_use]
pub fn minor_per_major(currency: &str) -> i64 {
    10_i64.pow(minor_digits(currency))
}

/// Without the currency: `1,234.50`.
#[must_use]
pub fn amount(minor: i64, currency: &str) -> String {
    let unit = minor_per_major(currency);
    let digits = minor_digits(currency) as usize;
    let sign = if minor < 0 && minor > -unit { MINUS.to_string() } else { String::new() };
    let whole = count(minor / unit);
    if digits == 0 {
        return whole;
    }
    format!("{sign}{whole}.{:0digits$}", (minor % unit).abs())
}

/// With the currency: `€1,234.50`, `CHF 1,234.50`.
#[must_use]
pub fn money(minor: i64, currency: &str) -> String {
    with_currency(&amount(minor, currency), currency)
}

/// A number with the currency before it; a minus comes first.
#[must_use]
pub fn with_currency(text: &str, currency: &str) -> String {
    let symbol = match currency {
        "EUR" => "€",
        "GBP" => "£",
        "JPY" => "¥",
        "USD" => "$",
        code => &format!("{code}\u{A0}"),
    };
    match text.strip_prefix(MINUS) {
        Some(number) => format!("{MINUS}{symbol}{number}"),
        None => format!("{symbol}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{amount, count, money};

    #[test]
    fn thousands_are_separated() {
        let numbers = [0, 7, 999, 1_000, 12_345, 1_234_567, -1_000].map(count);
        assert_eq!(numbers, ["0", "7", "999", "1,000", "12,345", "1,234,567", "−1,000"]);
    }

    #[test]
    fn money_has_the_decimals_of_its_currency() {
        assert_eq!(amount(123_450, "EUR"), "1,234.50");
        assert_eq!(amount(5, "EUR"), "0.05");
        assert_eq!(amount(-5, "EUR"), "−0.05");
        assert_eq!(amount(-123_405, "EUR"), "−1,234.05");
        assert_eq!(amount(1_234, "JPY"), "1,234");
        assert_eq!(amount(1_234_567, "KWD"), "1,234.567");
    }

    #[test]
    fn a_currency_without_a_symbol_shows_its_code() {
        assert_eq!(money(123_450, "EUR"), "€1,234.50");
        assert_eq!(money(-50, "USD"), "−$0.50");
        assert_eq!(money(123_450, "CHF"), "CHF\u{A0}1,234.50");
    }
}
