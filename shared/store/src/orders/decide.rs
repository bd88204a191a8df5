//! Whether an order can be, and what it costs: pure.

use std::collections::HashMap;

use sqlx::FromRow;
use uuid::Uuid;

use super::{NewLine, PricedLine};

/// A product as it is on the shelf.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Stocked {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) price_minor: i64,
    pub(super) currency: String,
    pub(super) stock: i64,
}

/// What an order costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    pub(super) currency: String,
    pub(super) total_minor: i64,
    pub(super) lines: Vec<PricedLine>,
}

/// Why an order cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn unknown_customer() -> Self {
        let reason = "The account that the order was placed with does not exist any more.".to_owned();
        Self { code: "unknown-customer", reason }
    }
}

/// Prices an order: all of its lines, or the first reason against it.
pub(super) fn decide(lines: &[NewLine], products: &[Stocked]) -> Result<Quote, Refusal> {
    let products: HashMap<Uuid, &Stocked> = products.iter().map(|product| (product.id, product)).collect();
    let known = lines.iter().map(|line| match products.get(&line.product_id) {
        Some(product) => Ok((line, *product)),
        None => refuse("unknown-product", format!("There is no product {}.", line.product_id)),
    });
    let known: Vec<(&NewLine, &Stocked)> = known.collect::<Result<_, _>>()?;
    let first = known.first().map(|(_, product)| *product);
    for (line, product) in &known {
        if let Some(first) = first.filter(|first| first.currency != product.currency) {
            let (one, other) = (&first.currency, &product.currency);
            return refuse(
                "several-currencies",
                format!(
                    "\"{}\" is sold in {one}, \"{}\" in {other}: an order has one currency.",
                    first.name, product.name
                ),
            );
        }
        if i64::from(line.quantity) > product.stock {
            return refuse("out-of-stock", out_of_stock(line.quantity, product));
        }
    }
    let total: i128 =
        known.iter().map(|(line, product)| i128::from(line.quantity) * i128::from(product.price_minor)).sum();
    let Ok(total_minor) = i64::try_from(total) else {
        return refuse("total-too-large", "The order costs more than can be written down.".to_owned());
    };
    let lines = known.iter().map(|(line, product)| PricedLine {
        product_id: product.id,
        name: product.name.clone(),
        quantity: line.quantity,
        unit_price_minor: product.price_minor,
    });
    let currency = first.map(|product| product.currency.clone()).unwrap_or_default();
    Ok(Quote { currency, total_minor, lines: lines.collect() })
}

fn out_of_stock(quantity: u32, product: &Stocked) -> String {
    match product.stock {
        0 => format!("\"{}\" is out of stock.", product.name),
        1 => format!("Of \"{}\" there is only 1 left, and {quantity} were ordered.", product.name),
        left => format!("Of \"{}\" there are only {left} left, and {quantity} were ordered.", product.name),
    }
}

fn refuse<T>(code: &'static str, reason: String) -> Result<T, Refusal> {
    Err(Refusal { code, reason })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Refusal, Stocked, decide};
    use crate::orders::NewLine;

    fn product(id: u128, price_minor: i64, currency: &str, stock: i64) -> Stocked {
        let name = format!("Lamp {id}");
        Stocked { id: Uuid::from_u128(id), name, price_minor, currency: currency.to_owned(), stock }
    }

    fn line(id: u128, quantity: u32) -> NewLine {
        NewLine { product_id: Uuid::from_u128(id), quantity }
    }

    fn refused(lines: &[NewLine], products: &[Stocked]) -> (&'static str, String) {
        let Refusal { code, reason } = decide(lines, products).unwrap_err();
        (code, reason)
    }

    #[test]
    fn an_order_costs_the_sum_of_its_lines() {
        let products = [product(1, 250, "EUR", 3), product(2, 1000, "EUR", 1)];
        let quote = decide(&[line(2, 1), line(1, 3)], &products).unwrap();
        assert_eq!((quote.total_minor, quote.currency.as_str()), (1750, "EUR"));
        let lines: Vec<_> = quote.lines.iter().map(|line| (line.name.as_str(), line.unit_price_minor)).collect();
        assert_eq!(lines, [("Lamp 2", 1000), ("Lamp 1", 250)]);
    }

    #[test]
    fn every_reason_names_its_product() {
        let products = [product(1, 250, "EUR", 3), product(2, 1000, "USD", 1), product(3, 1, "EUR", 0)];
        let said = |code, reason: &str| (code, reason.to_owned());
        assert_eq!(
            refused(&[line(1, 1), line(9, 1)], &products),
            said("unknown-product", "There is no product 00000000-0000-0000-0000-000000000009.")
        );
        assert_eq!(
            refused(&[line(1, 4)], &products),
            said("out-of-stock", "Of \"Lamp 1\" there are only 3 left, and 4 were ordered.")
        );
        assert_eq!(refused(&[line(2, 2)], &products).1, "Of \"Lamp 2\" there is only 1 left, and 2 were ordered.");
        assert_eq!(refused(&[line(3, 1)], &products), said("out-of-stock", "\"Lamp 3\" is out of stock."));
        assert_eq!(
            refused(&[line(1, 1), line(2, 1)], &products),
            said("several-currencies", "\"Lamp 1\" is sold in EUR, \"Lamp 2\" in USD: an order has one currency.")
        );
    }

    #[test]
    fn a_sum_that_no_number_holds_is_refused() {
        let products = [product(1, i64::MAX, "EUR", 3), product(2, i64::MAX, "EUR", 3)];
        assert_eq!(decide(&[line(1, 1)], &products).unwrap().total_minor, i64::MAX);
        assert_eq!(refused(&[line(1, 1), line(2, 1)], &products).0, "total-too-large");
    }
}
