//! What customers order: an order is placed or refused once, whatever becomes of its message, and may be cancelled until it is shipped.
//! Its id is its job's.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::database::{DatabaseError, call};

mod cancel;
mod decide;
mod place;

pub use cancel::{Cancellation, Shipment, cancel, ship};
pub use place::{Customer, Letters, NewOrder, Placing, place};

/// An order that was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its id, which is its job's.
    pub id: Uuid,
    /// The user who buys.
    pub customer: Uuid,
    /// When the shop took it.
    pub accepted_at: DateTime<Utc>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands, or stood until it was cancelled.
    Placed(Placed),
    /// It cannot be.
    Refused(Refused),
}

/// An order that stands, or stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its number, for people.
    pub number: i64,
    /// How far it is.
    pub status: OrderStatus,
    /// When it was placed, by the database's clock: its prices are those of that moment.
    pub placed_at: DateTime<Utc>,
    /// Where it goes, ISO 3166 alpha-2: the customer's country at that moment.
    pub country: String,
    /// ISO 4217, of every amount here.
    pub currency: String,
    /// What it costs in all, in the currency's smallest unit.
    pub total_minor: i64,
    /// What was ordered, in the order in which it was asked for.
    pub lines: Vec<PricedLine>,
}

/// A line of an order that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricedLine {
    /// The product.
    pub product_id: Uuid,
    /// Its name today.
    pub name: String,
    /// How many pieces.
    pub quantity: u32,
    /// What one of them cost when the order was placed, in the currency's smallest unit.
    pub unit_price_minor: i64,
}

/// An order that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For a program: `unknown-product`, `out-of-stock`, `several-currencies`, `unknown-customer`, `total-too-large`.
    pub code: String,
    /// For the customer, a sentence.
    pub reason: String,
    /// When it was refused, by the database's clock.
    pub refused_at: DateTime<Utc>,
    /// What was asked for.
    pub lines: Vec<NewLine>,
}

/// A product and how many pieces of it are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLine {
    /// The product.
    pub product_id: Uuid,
    /// How many pieces.
    pub quantity: u32,
}

/// How far an order is that was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    /// It stands.
    Placed,
    /// And is paid for.
    Paid,
    /// It is on its way.
    Shipped,
    /// It has arrived.
    Delivered,
    /// Its customer wanted it no more; the pieces are back on the shelf.
    Cancelled,
}

impl OrderStatus {
    /// Every status there is.
    pub const ALL: [Self; 5] = [Self::Placed, Self::Paid, Self::Shipped, Self::Delivered, Self::Cancelled];

    /// The name in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }
}

impl TryFrom<String> for OrderStatus {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| format!("no status: {text}"))
    }
}

/// The order, if it was decided on. Whose it is stands in it: who may see it is the caller's affair.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Order>, DatabaseError> {
    call(pool, "find the order", async |connection| find_in(connection, id).await).await
}

/// At most `limit` orders of a customer, placed and refused ones, the latest accepted first: those before the order `before`, if one is
/// given. There is nothing before what is not an order of the customer's.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn page(
    pool: &PgPool,
    customer: Uuid,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Order>, DatabaseError> {
    call(pool, "list the orders", async |connection| {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "WITH edge AS (
                 SELECT accepted_at, id FROM orders WHERE id = $2 AND user_id = $1
                 UNION ALL
                 SELECT accepted_at, id FROM order_refusals WHERE id = $2 AND user_id = $1
             ), placed AS (
                 SELECT accepted_at, id FROM orders
                 WHERE user_id = $1 AND ($2 IS NULL OR (accepted_at, id) < (SELECT accepted_at, id FROM edge))
                 ORDER BY accepted_at DESC, id DESC LIMIT $3
             ), refused AS (
                 SELECT accepted_at, id FROM order_refusals
                 WHERE user_id = $1 AND ($2 IS NULL OR (accepted_at, id) < (SELECT accepted_at, id FROM edge))
                 ORDER BY accepted_at DESC, id DESC LIMIT $3
             )
             SELECT id FROM (SELECT * FROM placed UNION ALL SELECT * FROM refused) AS decided
             ORDER BY accepted_at DESC, id DESC LIMIT $3",
        )
        .bind(customer)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
        let mut orders = read(connection, &ids).await?;
        orders.sort_unstable_by_key(|order| ids.iter().position(|id| *id == order.id));
        Ok(orders)
    })
    .await
}

async fn find_in(connection: &mut PgConnection, id: Uuid) -> Result<Option<Order>, sqlx::Error> {
    Ok(read(connection, &[id]).await?.pop())
}

#[derive(FromRow)]
struct PlacedRow {
    id: Uuid,
    user_id: Uuid,
    accepted_at: DateTime<Utc>,
    number: i64,
    #[sqlx(try_from = "String")]
    status: OrderStatus,
    placed_at: DateTime<Utc>,
    country: String,
    currency: String,
    total_minor: i64,
}

#[derive(FromRow)]
struct LineRow {
    order_id: Uuid,
    product_id: Uuid,
    name: String,
    quantity: i32,
    unit_price_minor: i64,
}

#[derive(FromRow)]
struct RefusedRow {
    id: Uuid,
    user_id: Uuid,
    accepted_at: DateTime<Utc>,
    code: String,
    reason: String,
    refused_at: DateTime<Utc>,
    lines: Json<Vec<NewLine>>,
}

/// Those of these orders that were decided on, in any order.
async fn read(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Order>, sqlx::Error> {
    let placed: Vec<PlacedRow> = sqlx::query_as(
        "SELECT id, user_id, accepted_at, number, status, placed_at, country, currency, total_minor
         FROM orders WHERE id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut lines: Vec<LineRow> = Vec::new();
    if !placed.is_empty() {
        lines = sqlx::query_as(
            "SELECT order_id, product_id, name, quantity, unit_price_minor
             FROM order_items JOIN products ON products.id = product_id WHERE order_id = ANY($1) ORDER BY line",
        )
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
    }
    let mut refused: Vec<RefusedRow> = Vec::new();
    if placed.len() < ids.len() {
        refused = sqlx::query_as(
            "SELECT id, user_id, accepted_at, code, reason, refused_at, lines FROM order_refusals WHERE id = ANY($1)",
        )
        .bind(ids)
        .fetch_all(connection)
        .await?;
    }
    let placed = placed.into_iter().map(|row| placed_order(row, &lines));
    Ok(placed.chain(refused.into_iter().map(refused_order)).collect())
}

fn placed_order(row: PlacedRow, lines: &[LineRow]) -> Order {
    let PlacedRow { id, user_id, accepted_at, number, status, placed_at, country, currency, total_minor } = row;
    let own = lines.iter().filter(|line| line.order_id == id).map(|line| PricedLine {
        product_id: line.product_id,
        name: line.name.clone(),
        quantity: line.quantity.unsigned_abs(),
        unit_price_minor: line.unit_price_minor,
    });
    let lines = own.collect();
    let placed = Placed { number, status, placed_at, country, currency, total_minor, lines };
    Order { id, customer: user_id, accepted_at, outcome: Outcome::Placed(placed) }
}

fn refused_order(row: RefusedRow) -> Order {
    let RefusedRow { id, user_id, accepted_at, code, reason, refused_at, lines: Json(lines) } = row;
    let outcome = Outcome::Refused(Refused { code, reason, refused_at, lines });
    Order { id, customer: user_id, accepted_at, outcome }
}
