//! What the shop sells: a product and its change, the catalogue page by page, and what sells best.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, PgPool};
use uuid::Uuid;

use crate::cache_invalidations::{self, Cached};
use crate::database::{DatabaseError, call};
use crate::versions::Replaced;

/// What sells best is counted over so long, up to the newest order: a shop that rests keeps its list.
pub const BEST_SELLER_WINDOW: TimeDelta = TimeDelta::days(30);

/// The list of [`best_sellers`], as it is cached.
pub const BEST_SELLERS: Cached = Cached { family: "best-sellers", version: 2, key: "all" };

/// A product.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub struct Product {
    /// Its id.
    pub id: Uuid,
    /// Its stock keeping unit: 3 to 32 characters of `A-Z 0-9 -`, no other product's.
    pub sku: String,
    /// Its name.
    pub name: String,
    /// Where the catalogue has it.
    pub category: String,
    /// What it costs, in the currency's smallest unit.
    pub price_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// Since when it is sold.
    pub created_at: DateTime<Utc>,
    /// Grows with each change.
    pub version: i64,
}

/// What of a product can be changed.
#[derive(Clone, Debug)]
pub struct NewProduct {
    /// Its name.
    pub name: String,
    /// Where the catalogue has it.
    pub category: String,
    /// What it costs, in the currency's smallest unit.
    pub price_minor: i64,
    /// ISO 4217.
    pub currency: String,
}

/// A product by how many pieces of it were sold.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub struct BestSeller {
    /// The product.
    #[sqlx(flatten)]
    pub product: Product,
    /// Pieces in the window. Pieces, because orders are in several currencies.
    pub sold: i64,
}

/// The product, if there is one.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Product>, DatabaseError> {
    call(pool, "find the product", async |connection| {
        sqlx::query_as(
            "SELECT id, sku, name, category, price_minor, currency, created_at, version FROM products WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(connection)
        .await
    })
    .await
}

/// Changes a product, if it is one of `versions`, or whatever it is without any; and names the `entries` that it is cached under, by
/// itself or among others. All or nothing.
///
/// # Errors
/// The database cannot be reached, or fails. The change may have taken effect all the same, or may yet.
pub async fn replace(
    pool: &PgPool,
    id: Uuid,
    new: &NewProduct,
    versions: Option<&[i64]>,
    entries: &[String],
) -> Result<Replaced<Product>, DatabaseError> {
    call(pool, "change the product", async |connection| {
        let mut transaction = connection.begin().await?;
        let changed: Option<Product> = sqlx::query_as(
            "UPDATE products SET name = $2, category = $3, price_minor = $4, currency = $5
             WHERE id = $1 AND ($6::bigint[] IS NULL OR version = ANY($6))
             RETURNING id, sku, name, category, price_minor, currency, created_at, version",
        )
        .bind(id)
        .bind(&new.name)
        .bind(&new.category)
        .bind(new.price_minor)
        .bind(&new.currency)
        .bind(versions)
        .fetch_optional(&mut *transaction)
        .await?;
        if changed.is_some() {
            for entry in entries {
                cache_invalidations::put_in(&mut transaction, entry).await?;
            }
        }
        let exists = sqlx::query_scalar("SELECT EXISTS (SELECT FROM products WHERE id = $1)")
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Replaced::of(changed, exists))
    })
    .await
}

/// How many pieces of a product there are, if there is such a product.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn stock(pool: &PgPool, id: Uuid) -> Result<Option<i64>, DatabaseError> {
    call(pool, "read the stock", async |connection| {
        sqlx::query_scalar("SELECT stock FROM products WHERE id = $1").bind(id).fetch_optional(connection).await
    })
    .await
}

/// Says how many pieces of a product there are, if there are as many as one of `known`, or however many there are without any.
///
/// # Errors
/// The database cannot be reached, or fails. The change may have taken effect all the same, or may yet.
pub async fn set_stock(
    pool: &PgPool,
    id: Uuid,
    stock: i64,
    known: Option<&[i64]>,
) -> Result<Replaced<i64>, DatabaseError> {
    call(pool, "change the stock", async |connection| {
        let mut transaction = connection.begin().await?;
        let changed = sqlx::query_scalar(
            "UPDATE products SET stock = $2 WHERE id = $1 AND ($3::bigint[] IS NULL OR stock = ANY($3)) RETURNING stock",
        )
        .bind(id)
        .bind(stock)
        .bind(known)
        .fetch_optional(&mut *transaction)
        .await?;
        let exists = sqlx::query_scalar("SELECT EXISTS (SELECT FROM products WHERE id = $1)")
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Replaced::of(changed, exists))
    })
    .await
}

/// At most `limit` products in the order of their SKUs, those after `after`, which need not be there any more.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn page(pool: &PgPool, after: Option<&str>, limit: u32) -> Result<Vec<Product>, DatabaseError> {
    call(pool, "list the products", async |connection| {
        // Every SKU is greater than the empty text.
        sqlx::query_as(
            "SELECT id, sku, name, category, price_minor, currency, created_at, version FROM products
             WHERE sku > $1 ORDER BY sku LIMIT $2",
        )
        .bind(after.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
    })
    .await
}

/// The products of which most pieces were sold within [`BEST_SELLER_WINDOW`], the best first, at most `limit`. Cancelled orders
/// count nowhere.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn best_sellers(pool: &PgPool, limit: u32) -> Result<Vec<BestSeller>, DatabaseError> {
    call(pool, "list the best sellers", async |connection| {
        sqlx::query_as(
            "SELECT products.*, sold
             FROM (
                 SELECT product_id, sum(quantity)::bigint AS sold
                 FROM orders JOIN order_items ON order_id = id
                 WHERE status <> 'cancelled'
                   AND placed_at > (SELECT max(placed_at) FROM orders WHERE status <> 'cancelled') - make_interval(hours => $1)
                 GROUP BY product_id
             ) AS sales
             JOIN products ON products.id = product_id
             ORDER BY sold DESC, sku
             LIMIT $2",
        )
        .bind(i32::try_from(BEST_SELLER_WINDOW.num_hours()).unwrap_or(i32::MAX))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
    })
    .await
}
