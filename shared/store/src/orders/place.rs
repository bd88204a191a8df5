//! Places an order, or refuses it: decided once, in one transaction with everything that follows from it.
//!
//! The row of the order's job is the lock. Who decides takes it first, and so does who cancels: one of the two comes first, and the
//! other sees what it did. Then come the products, in the order of their ids, so that no two orders wait for each other.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::decide::{Quote, Refusal, Stocked, decide};
use super::{NewLine, Order, OrderStatus, Outcome, Placed, Refused, find_in};
use crate::accounts::Letter;
use crate::cache_invalidations;
use crate::database::{DatabaseError, call};
use crate::jobs::{JobMark, JobState, NewJob, decide_in, mark_in, record_queued_in};
use crate::outbox::{NewEventRow, put_event_in, put_in};
use crate::products::BEST_SELLERS;

/// An order that is asked for.
#[derive(Clone, Debug)]
pub struct NewOrder {
    /// Its job, whose id is the order's; accepted when the order was.
    pub job: NewJob,
    /// How often an operator had replayed the job.
    pub replays: u32,
    /// The user who buys.
    pub customer: Uuid,
    /// What, and how much of it; each product once.
    pub lines: Vec<NewLine>,
}

/// Whom an order is for, as the database has them now.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Customer {
    /// First and last name.
    pub name: String,
    /// The address.
    pub email: String,
    /// ISO 3166 alpha-2.
    pub country: String,
}

/// What goes out because an order was decided on.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    /// The mail to the customer.
    pub mail: Option<Letter>,
    /// The fact, for whoever listens.
    pub event: Option<NewEventRow>,
}

/// What became of an order that was to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placing {
    /// It was decided on, now or when its message came before.
    Decided(Order),
    /// Its owner wanted it no more before anything was done.
    Unwanted,
}

/// Places an order with the prices of this moment and takes its pieces from the stock; or refuses it, for the first of these that is
/// so: there is no such customer, no such product, the products are sold in several currencies, or there are not enough pieces.
/// Writes the order or the refusal, puts into the outbox what `write` makes of it, and names the cache entry of the best sellers where
/// they change: all or nothing, and once, however often the order comes.
///
/// # Errors
/// The database cannot be reached, or fails; or `write` fails. Where no answer came the order may have been placed.
pub async fn place(
    pool: &PgPool,
    order: &NewOrder,
    write: impl FnOnce(&Order, Option<&Customer>) -> Result<Letters, serde_json::Error>,
) -> Result<Placing, DatabaseError> {
    call(pool, "place the order", async |connection| {
        let mut transaction = connection.begin().await?;
        let placing = place_in(&mut transaction, order, write).await?;
        transaction.commit().await?;
        Ok(placing)
    })
    .await
}

async fn place_in(
    connection: &mut PgConnection,
    new: &NewOrder,
    write: impl FnOnce(&Order, Option<&Customer>) -> Result<Letters, serde_json::Error>,
) -> Result<Placing, sqlx::Error> {
    // Makes the row of the job, or takes its lock: whoever else decides or cancels waits from here on.
    record_queued_in(connection, &new.job).await?;
    if let Some(before) = find_in(connection, new.job.id).await? {
        // The row of the job may be a new one, made long after the decision.
        decide_in(connection, new.job.id, end_of(&before.outcome)).await?;
        return Ok(Placing::Decided(before));
    }
    if mark_in(connection, new.job.id, new.replays).await? != JobMark::Open {
        return Ok(Placing::Unwanted);
    }
    let customer: Option<Customer> =
        sqlx::query_as("SELECT name, email, country FROM users WHERE id = $1 FOR KEY SHARE")
            .bind(new.customer)
            .fetch_optional(&mut *connection)
            .await?;
    let quote = match &customer {
        Some(customer) => {
            let products = lock_products(connection, &new.lines).await?;
            decide(&new.lines, &products).map(|quote| (quote, customer))
        }
        None => Err(Refusal::unknown_customer()),
    };
    let outcome = match quote {
        Ok((quote, customer)) => insert(connection, new, customer, quote).await?,
        Err(refusal) => refuse(connection, new, refusal).await?,
    };
    let order = Order { id: new.job.id, customer: new.customer, accepted_at: new.job.at, outcome };
    let letters = write(&order, customer.as_ref()).map_err(|error| sqlx::Error::Encode(error.into()))?;
    if let Some(mail) = letters.mail {
        put_in(connection, &mail.job, &mail.row).await?;
    }
    if let Some(event) = letters.event {
        put_event_in(connection, &event).await?;
    }
    decide_in(connection, new.job.id, end_of(&order.outcome)).await?;
    Ok(Placing::Decided(order))
}

/// How the job of an order ends.
fn end_of(outcome: &Outcome) -> JobState {
    match outcome {
        Outcome::Placed(_) => JobState::Succeeded,
        Outcome::Refused(_) => JobState::Refused,
    }
}

/// The products of the lines, which nobody else changes from here on.
async fn lock_products(connection: &mut PgConnection, lines: &[NewLine]) -> Result<Vec<Stocked>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, price_minor, currency, stock FROM products
         WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(lines.iter().map(|line| line.product_id).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Writes the order down and takes its pieces.
async fn insert(
    connection: &mut PgConnection,
    new: &NewOrder,
    customer: &Customer,
    quote: Quote,
) -> Result<Outcome, sqlx::Error> {
    let Quote { currency, total_minor, lines } = quote;
    // Not now(): that is when the transaction began, and prices may have changed while it waited for the products.
    let (number, placed_at): (i64, DateTime<Utc>) = sqlx::query_as(
        "INSERT INTO orders (id, user_id, status, accepted_at, placed_at, country, currency, total_minor)
         VALUES ($1, $2, $3, $4, clock_timestamp(), $5, $6, $7)
         RETURNING number, placed_at",
    )
    .bind(new.job.id)
    .bind(new.customer)
    .bind(OrderStatus::Placed.as_str())
    .bind(new.job.at)
    .bind(&customer.country)
    .bind(&currency)
    .bind(total_minor)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query(
        "WITH lines AS (
             SELECT * FROM unnest($2::uuid[], $3::integer[], $4::bigint[])
                 WITH ORDINALITY AS line (product_id, quantity, unit_price_minor, number)
         ), taken AS (
             UPDATE products SET stock = stock - quantity FROM lines WHERE id = product_id
         )
         INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor)
         SELECT $1, number, product_id, quantity, unit_price_minor FROM lines",
    )
    .bind(new.job.id)
    .bind(lines.iter().map(|line| line.product_id).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.quantity.cast_signed()).collect::<Vec<_>>())
    .bind(lines.iter().map(|line| line.unit_price_minor).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    cache_invalidations::put_in(connection, &BEST_SELLERS.entry()).await?;
    let (status, country) = (OrderStatus::Placed, customer.country.clone());
    Ok(Outcome::Placed(Placed { number, status, placed_at, country, currency, total_minor, lines }))
}

async fn refuse(connection: &mut PgConnection, new: &NewOrder, refusal: Refusal) -> Result<Outcome, sqlx::Error> {
    let Refusal { code, reason } = refusal;
    let refused_at = sqlx::query_scalar(
        "INSERT INTO order_refusals (id, user_id, code, reason, lines, accepted_at, refused_at)
         VALUES ($1, $2, $3, $4, $5::json, $6, clock_timestamp())
         RETURNING refused_at",
    )
    .bind(new.job.id)
    .bind(new.customer)
    .bind(code)
    .bind(&reason)
    .bind(json!(new.lines).to_string())
    .bind(new.job.at)
    .fetch_one(connection)
    .await?;
    Ok(Outcome::Refused(Refused { code: code.to_owned(), reason, refused_at, lines: new.lines.clone() }))
}
