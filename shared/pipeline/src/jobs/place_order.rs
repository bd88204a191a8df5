//! `order.place`: price an order, take its pieces from the stock, write it down.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Job;

/// Asks for an order, whose id is the job's. Done when the order stands, with the prices of that moment; refused with a reason for the
/// customer where it cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// The user who buys.
    pub customer: Uuid,
    /// What, and how much of it.
    pub items: OrderLines,
    /// When the shop took the order.
    pub accepted_at: DateTime<Utc>,
}

impl Job for PlaceOrder {
    const KIND: &'static str = "order.place";
}

/// The lines of an order: 1 to 50, each product once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "Vec<OrderLine>", into = "Vec<OrderLine>")]
#[schemars(extend("minItems" = 1, "maxItems" = Self::MOST))]
pub struct OrderLines(Vec<OrderLine>);

/// A product and how many pieces of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderLine {
    /// The product.
    pub product_id: Uuid,
    /// How many pieces.
    pub quantity: Quantity,
}

/// 1 to 1000 pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schemars(extend("minimum" = 1, "maximum" = Self::MOST))]
pub struct Quantity(u32);

/// Why something is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrder {
    /// No line, or more than [`OrderLines::MOST`].
    #[error("an order has 1 to {} lines", OrderLines::MOST)]
    Length,
    /// Two lines have the same product.
    #[error("product {0} stands in two lines")]
    Repeated(Uuid),
    /// None, or more than [`Quantity::MOST`].
    #[error("a quantity is 1 to {}", Quantity::MOST)]
    Quantity,
}

impl OrderLines {
    /// The most lines of an order.
    pub const MOST: usize = 50;

    /// The lines.
    #[must_use]
    pub fn as_slice(&self) -> &[OrderLine] {
        &self.0
    }
}

impl Quantity {
    /// The most pieces of one product.
    pub const MOST: u32 = 1000;

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<Vec<OrderLine>> for OrderLines {
    type Error = InvalidOrder;

    fn try_from(lines: Vec<OrderLine>) -> Result<Self, InvalidOrder> {
        if !(1..=Self::MOST).contains(&lines.len()) {
            return Err(InvalidOrder::Length);
        }
        let mut seen = HashSet::new();
        match lines.iter().find(|line| !seen.insert(line.product_id)) {
            Some(line) => Err(InvalidOrder::Repeated(line.product_id)),
            None => Ok(Self(lines)),
        }
    }
}

impl From<OrderLines> for Vec<OrderLine> {
    fn from(lines: OrderLines) -> Self {
        lines.0
    }
}

impl TryFrom<u32> for Quantity {
    type Error = InvalidOrder;

    fn try_from(quantity: u32) -> Result<Self, InvalidOrder> {
        if (1..=Self::MOST).contains(&quantity) { Ok(Self(quantity)) } else { Err(InvalidOrder::Quantity) }
    }
}

impl From<Quantity> for u32 {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::PlaceOrder;

    fn read(items: Value) -> Result<PlaceOrder, String> {
        let payload = json!({"customer": Uuid::nil(), "items": items, "accepted_at": "2026-01-01T00:00:00Z"});
        serde_json::from_value(payload).map_err(|error| error.to_string())
    }

    fn line(product: u128, quantity: i64) -> Value {
        json!({"product_id": Uuid::from_u128(product), "quantity": quantity})
    }

    #[test]
    fn an_order_has_1_to_50_lines_of_1_to_1000_pieces() {
        let lines = |number: u128| Value::Array((0..number).map(|product| line(product, 1)).collect());
        assert_eq!(read(lines(50)).unwrap().items.as_slice().len(), 50);
        for wrong in [lines(0), lines(51)] {
            assert!(read(wrong).unwrap_err().contains("1 to 50 lines"));
        }
        assert_eq!(read(json!([line(1, 1000)])).unwrap().items.as_slice()[0].quantity.get(), 1000);
        for wrong in [0, 1001] {
            assert!(read(json!([line(1, wrong)])).unwrap_err().contains("a quantity is 1 to 1000"));
        }
        assert!(read(json!([line(1, -1)])).is_err());
    }

    #[test]
    fn a_product_stands_in_one_line_only() {
        assert!(read(json!([line(1, 1), line(2, 1)])).is_ok());
        let twice = read(json!([line(1, 1), line(2, 1), line(1, 3)])).unwrap_err();
        assert!(twice.contains(&format!("{} stands in two lines", Uuid::from_u128(1))), "{twice}");
    }

    #[test]
    fn what_an_order_does_not_have_is_refused() {
        let mut other = line(1, 1);
        other["price"] = json!(1);
        assert!(read(json!([other])).unwrap_err().contains("unknown field `price`"));
    }
}
