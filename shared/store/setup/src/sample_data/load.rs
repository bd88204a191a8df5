//! Writes the sample shop into a database that has no shop yet: all of it or nothing.

use anyhow::Context;
use sqlx::{PgConnection, Row};
use store::PgPool;
use uuid::Uuid;

use super::{CURRENCY, Customer, Order, Product, Shop};

/// Any number that no other lock of the database has.
const LOCK: i64 = 0x706f_7374_726f_6f6d;
/// Rows that one statement carries.
const CHUNK: usize = 5_000;

/// What loading did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The shop is there now.
    All,
    /// The stock of a sample shop that was loaded when nothing could be ordered yet.
    Stock,
    /// Nothing: the database has customers, products or orders already.
    Nothing,
}

/// Loads the sample shop, unless there is one. Of several that load at once, one does and the others wait for it.
///
/// # Errors
/// The database cannot be reached, fails, or is not migrated; nothing is loaded then.
pub async fn load(pool: &PgPool) -> anyhow::Result<Loaded> {
    let mut transaction = pool.begin().await.context("begin to load the sample data")?;
    // Each statement carries thousands of rows, and the lock is held as long as somebody else loads.
    run(&mut transaction, "SET LOCAL statement_timeout = '120s'").await?;
    let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK);
    lock.execute(&mut *transaction).await.context("wait for the lock of the sample data")?;
    let any = "SELECT EXISTS (SELECT FROM users) OR EXISTS (SELECT FROM products) OR EXISTS (SELECT FROM orders)";
    let any = sqlx::query(any).fetch_one(&mut *transaction).await.context("look for a shop")?;
    let any: bool = any.try_get(0).context("look for a shop")?;
    let shop = tokio::task::spawn_blocking(Shop::of_2025).await.context("make the sample shop")??;
    if any {
        let filled = fill_empty_shelves(&mut transaction, &shop.products).await.context("fill the shelves")?;
        transaction.commit().await.context("commit the stock")?;
        return Ok(if filled { Loaded::Stock } else { Loaded::Nothing });
    }

    insert_products(&mut transaction, &shop.products).await.context("insert the products")?;
    for customers in shop.customers.chunks(CHUNK) {
        insert_customers(&mut transaction, customers).await.context("insert the customers")?;
    }
    for orders in shop.orders.chunks(CHUNK) {
        insert_orders(&mut transaction, orders, &shop).await.context("insert the orders")?;
        insert_items(&mut transaction, orders, &shop).await.context("insert the items of the orders")?;
    }
    // The next order continues the numbers.
    run(
        &mut transaction,
        "SELECT setval(pg_get_serial_sequence('orders', 'number'), (SELECT max(number) FROM orders))",
    )
    .await?;
    transaction.commit().await.context("commit the sample data")?;

    // Not allowed within the transaction. Without it the first reports are planned for empty tables.
    let mut connection = pool.acquire().await.context("connect to analyze the tables")?;
    run(&mut connection, "VACUUM (ANALYZE) users, products, orders, order_items").await?;
    Ok(Loaded::All)
}

async fn run(connection: &mut PgConnection, statement: &'static str) -> anyhow::Result<()> {
    sqlx::raw_sql(statement).execute(connection).await.with_context(|| format!("run \"{statement}\""))?;
    Ok(())
}

/// One value of each row, as PostgreSQL's `unnest` wants them.
fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

/// Fills the shelves of the sample shop, if all of them are empty and nobody has sold anything from them.
async fn fill_empty_shelves(connection: &mut PgConnection, products: &[Product]) -> Result<bool, sqlx::Error> {
    let filled = sqlx::query(
        "UPDATE products SET stock = sample.stock FROM unnest($1::uuid[], $2::bigint[]) AS sample (id, stock)
         WHERE products.id = sample.id AND sample.stock > 0
           AND NOT EXISTS (SELECT FROM products WHERE stock > 0)
           AND NOT EXISTS (SELECT FROM orders WHERE accepted_at <> placed_at)",
    )
    .bind(column(products, |product| product.id))
    .bind(column(products, |product| product.stock))
    .execute(connection)
    .await?;
    Ok(filled.rows_affected() > 0)
}

async fn insert_products(connection: &mut PgConnection, products: &[Product]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO products (id, sku, name, category, price_minor, stock, currency)
         SELECT *, $7::text FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])",
    )
    .bind(column(products, |product| product.id))
    .bind(column(products, |product| product.sku.as_str()))
    .bind(column(products, |product| product.name))
    .bind(column(products, |product| product.category))
    .bind(column(products, |product| product.price_minor))
    .bind(column(products, |product| product.stock))
    .bind(CURRENCY)
    .execute(connection)
    .await
    .map(|_| ())
}

async fn insert_customers(connection: &mut PgConnection, customers: &[Customer]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO users (id, name, email, country, created_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])",
    )
    .bind(column(customers, |customer| customer.id))
    .bind(column(customers, |customer| customer.name.as_str()))
    .bind(column(customers, |customer| customer.email.as_str()))
    .bind(column(customers, |customer| customer.country))
    .bind(column(customers, |customer| customer.created_at))
    .execute(connection)
    .await
    .map(|_| ())
}

async fn insert_orders(connection: &mut PgConnection, orders: &[Order], shop: &Shop) -> Result<(), sqlx::Error> {
    let customer = |order: &Order| &shop.customers[order.customer];
    sqlx::query(
        "INSERT INTO orders (id, number, user_id, status, placed_at, country, total_minor, accepted_at, currency)
         SELECT *, placed_at, $8::text
         FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::timestamptz[], $6::text[], $7::bigint[])
             AS placed (id, number, user_id, status, placed_at, country, total_minor)",
    )
    .bind(column(orders, |order| order.id))
    .bind(column(orders, |order| order.number))
    .bind(column(orders, |order| customer(order).id))
    .bind(column(orders, |order| order.status))
    .bind(column(orders, |order| order.placed_at))
    .bind(column(orders, |order| customer(order).country))
    .bind(column(orders, Order::total_minor))
    .bind(CURRENCY)
    .execute(connection)
    .await
    .map(|_| ())
}

async fn insert_items(connection: &mut PgConnection, orders: &[Order], shop: &Shop) -> Result<(), sqlx::Error> {
    let items = orders.iter().flat_map(|order| (1..).zip(&order.items).map(|(line, item)| (order.id, line, item)));
    let items: Vec<_> = items.collect();
    sqlx::query(
        "INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor)
         SELECT * FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::integer[], $5::bigint[])",
    )
    .bind(column(&items, |(order, _, _)| *order))
    .bind(column(&items, |(_, line, _)| *line))
    .bind(column::<_, Uuid>(&items, |(_, _, item)| shop.products[item.product].id))
    .bind(column(&items, |(_, _, item)| item.quantity))
    .bind(column(&items, |(_, _, item)| item.unit_price_minor))
    .execute(connection)
    .await
    .map(|_| ())
}
