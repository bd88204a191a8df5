//! What a sales report is made of. Cancelled orders count nowhere; only the list of orders shows them.
//! Days are days in UTC, periods are inclusive, money is in the currency's smallest unit.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use futures_util::{Stream, TryStreamExt, stream};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Transaction};

use crate::database::{DatabaseError, within};

/// A year of 50,000 orders takes well below a second; a report can wait for a busy server.
const QUERY_DEADLINE: Duration = Duration::from_secs(60);
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two rows, once the first has come.
const ROW_DEADLINE: Duration = Duration::from_secs(10);

/// How revenue is grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// By day.
    Day,
    /// By ISO week, Monday to Sunday.
    Week,
    /// By calendar month.
    Month,
}

impl Grouping {
    fn unit(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

/// A period in five numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct KeyFigures {
    /// Orders placed.
    pub orders: i64,
    /// Their totals.
    pub revenue_minor: i64,
    /// Different customers who placed them.
    pub customers: i64,
    /// Those whose first order ever, in any currency, is among them.
    pub new_customers: i64,
    /// Pieces sold.
    pub items: i64,
}

/// One bar of the chart.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct RevenuePoint {
    /// The first day of the group that lies in the period.
    pub start: NaiveDate,
    /// Orders placed.
    pub orders: i64,
    /// Their totals.
    pub revenue_minor: i64,
}

/// A product by what it brought in.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct TopProduct {
    /// Its stock keeping unit.
    pub sku: String,
    /// Its name.
    pub name: String,
    /// Pieces sold.
    pub quantity: i64,
    /// Pieces times the price at which each was sold.
    pub revenue_minor: i64,
}

/// A row of the table of orders.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct OrderLine {
    /// The number on the invoice.
    pub number: i64,
    /// When it was placed.
    pub placed_at: DateTime<Utc>,
    /// The customer's name.
    pub customer: String,
    /// Where it goes, ISO 3166 alpha-2.
    pub country: String,
    /// Pieces in it.
    pub items: i64,
    /// `placed`, `paid`, `shipped`, `delivered` or `cancelled`.
    pub status: String,
    /// What it cost.
    pub total_minor: i64,
}

/// Begins a transaction in which every query sees the same moment, so that a report adds up however long it takes.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn begin_report_snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, DatabaseError> {
    within("begin a snapshot for a report", SNAPSHOT_DEADLINE, async {
        let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        // Longer than a request may take; also the time in which the rows of `orders` must be read.
        sqlx::query("SET LOCAL statement_timeout = '60s'").execute(&mut *transaction).await?;
        Ok(transaction)
    })
    .await
}

/// The five numbers of the period.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn key_figures(
    connection: &mut PgConnection,
    from: NaiveDate,
    to: NaiveDate,
    currency: &str,
) -> Result<KeyFigures, DatabaseError> {
    let query = sqlx::query_as(
        "WITH counted AS (
             SELECT id, user_id, total_minor FROM orders
             WHERE status <> 'cancelled' AND currency = $3::char(3)
               AND placed_at >= $1::date AT TIME ZONE 'UTC' AND placed_at < ($2::date + 1) AT TIME ZONE 'UTC'
         ), buyers AS (
             SELECT DISTINCT user_id FROM counted
         )
         SELECT (SELECT count(*) FROM counted) AS orders,
                (SELECT coalesce(sum(total_minor), 0)::bigint FROM counted) AS revenue_minor,
                (SELECT count(*) FROM buyers) AS customers,
                (SELECT count(*) FROM buyers WHERE NOT EXISTS (
                     SELECT FROM orders AS earlier
                     WHERE earlier.user_id = buyers.user_id AND earlier.status <> 'cancelled'
                       AND earlier.placed_at < $1::date AT TIME ZONE 'UTC')) AS new_customers,
                (SELECT coalesce(sum(quantity), 0)::bigint
                 FROM order_items JOIN counted ON counted.id = order_items.order_id) AS items",
    );
    within("read the key figures", QUERY_DEADLINE, query.bind(from).bind(to).bind(currency).fetch_one(connection)).await
}

/// Revenue over time, a point for every group of the period, also where nothing was sold.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn revenue_by(
    connection: &mut PgConnection,
    from: NaiveDate,
    to: NaiveDate,
    grouping: Grouping,
    currency: &str,
) -> Result<Vec<RevenuePoint>, DatabaseError> {
    let query = sqlx::query_as(
        "WITH sold AS (
             SELECT date_trunc($4, placed_at AT TIME ZONE 'UTC') AS start, count(*) AS orders, sum(total_minor)::bigint AS revenue_minor
             FROM orders
             WHERE status <> 'cancelled' AND currency = $3::char(3)
               AND placed_at >= $1::date AT TIME ZONE 'UTC' AND placed_at < ($2::date + 1) AT TIME ZONE 'UTC'
             GROUP BY 1
         )
         SELECT greatest(start::date, $1::date) AS start, coalesce(orders, 0) AS orders, coalesce(revenue_minor, 0) AS revenue_minor
         FROM generate_series(date_trunc($4, $1::date::timestamp), $2::date::timestamp, ('1 ' || $4)::interval) AS start
         LEFT JOIN sold USING (start)
         ORDER BY start",
    );
    let query = query.bind(from).bind(to).bind(currency).bind(grouping.unit());
    within("read the revenue", QUERY_DEADLINE, query.fetch_all(connection)).await
}

/// The products that brought in most, the best first.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn top_products(
    connection: &mut PgConnection,
    from: NaiveDate,
    to: NaiveDate,
    currency: &str,
    limit: i64,
) -> Result<Vec<TopProduct>, DatabaseError> {
    let query = sqlx::query_as(
        "SELECT sku, name, quantity, revenue_minor
         FROM (
             SELECT product_id, sum(quantity)::bigint AS quantity, sum(quantity * unit_price_minor)::bigint AS revenue_minor
             FROM orders JOIN order_items ON order_id = id
             WHERE status <> 'cancelled' AND currency = $3::char(3)
               AND placed_at >= $1::date AT TIME ZONE 'UTC' AND placed_at < ($2::date + 1) AT TIME ZONE 'UTC'
             GROUP BY product_id
         ) AS sold
         JOIN products ON products.id = product_id
         ORDER BY revenue_minor DESC, sku
         LIMIT $4",
    );
    let query = query.bind(from).bind(to).bind(currency).bind(limit);
    within("read the top products", QUERY_DEADLINE, query.fetch_all(connection)).await
}

/// How many orders were placed in the period, cancelled ones included: what [`orders`] would list without a limit.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn orders_placed(
    connection: &mut PgConnection,
    from: NaiveDate,
    to: NaiveDate,
    currency: &str,
) -> Result<i64, DatabaseError> {
    let query = sqlx::query_scalar(
        "SELECT count(*) FROM orders
         WHERE currency = $3::char(3)
           AND placed_at >= $1::date AT TIME ZONE 'UTC' AND placed_at < ($2::date + 1) AT TIME ZONE 'UTC'",
    );
    within("count the orders", QUERY_DEADLINE, query.bind(from).bind(to).bind(currency).fetch_one(connection)).await
}

/// The orders of the period as they were placed, cancelled ones included; where there are more than `limit`, those with
/// the largest totals. Rows arrive as they are read from the connection, so that 50,000 of them need no memory.
///
/// # Errors
/// An item can be the error that ends the stream: the database cannot be reached, fails, or stalls.
pub fn orders<'c>(
    connection: &'c mut PgConnection,
    from: NaiveDate,
    to: NaiveDate,
    currency: &str,
    limit: i64,
) -> impl Stream<Item = Result<OrderLine, DatabaseError>> + Send + use<'c> {
    let query = sqlx::query_as(
        "WITH chosen AS MATERIALIZED (
             SELECT id, number, placed_at, user_id, country, status, total_minor
             FROM orders
             WHERE currency = $3::char(3)
               AND placed_at >= $1::date AT TIME ZONE 'UTC' AND placed_at < ($2::date + 1) AT TIME ZONE 'UTC'
             ORDER BY total_minor DESC, number
             LIMIT $4
         ), pieces AS (
             SELECT order_id, sum(quantity)::bigint AS items
             FROM chosen JOIN order_items ON order_id = chosen.id
             GROUP BY order_id
         )
         SELECT number, placed_at, users.name AS customer, chosen.country, status, total_minor,
                coalesce(items, 0) AS items
         FROM chosen JOIN users ON users.id = user_id LEFT JOIN pieces ON order_id = chosen.id
         ORDER BY placed_at, number",
    );
    let rows = query.bind(from).bind(to).bind(currency.to_owned()).bind(limit).fetch(connection);
    stream::try_unfold((rows, QUERY_DEADLINE), async |(mut rows, deadline)| {
        let row = within("read the orders", deadline, rows.try_next()).await?;
        Ok(row.map(|row| (row, (rows, ROW_DEADLINE))))
    })
}
