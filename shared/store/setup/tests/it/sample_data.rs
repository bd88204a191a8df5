//! The sample shop in the database is the one that was made, and there is never more than one.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{Datelike, NaiveDate};
use futures_util::TryStreamExt;
use sqlx::PgPool;
use store::sales::{Grouping, KeyFigures, begin_report_snapshot, key_figures, orders, revenue_by, top_products};
use store_setup::sample_data::{CURRENCY, Loaded, Order, Shop, load};

use crate::migrated;

async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let statement = match table {
        "users" => "SELECT count(*) FROM users",
        "products" => "SELECT count(*) FROM products",
        "orders" => "SELECT count(*) FROM orders",
        other => panic!("{other}"),
    };
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_that_load_at_once_one_does() {
    let (_database, pool) = migrated().await;
    let (one, other) = tokio::join!(load(&pool), load(&pool));
    let mut outcomes = [one.unwrap(), other.unwrap()];
    outcomes.sort_by_key(|outcome| *outcome == Loaded::Nothing);
    assert_eq!(outcomes, [Loaded::All, Loaded::Nothing]);
    assert_eq!(load(&pool).await.unwrap(), Loaded::Nothing);
    assert_eq!((count(&pool, "products").await, count(&pool, "users").await), (200, 5_000));
    assert_eq!(count(&pool, "orders").await, 50_000);
    let shop =
        "SELECT (SELECT sum(stock)::bigint FROM products), (SELECT bool_and(accepted_at = placed_at) FROM orders)";
    let (stock, accepted): (i64, bool) = sqlx::query_as(shop).fetch_one(&pool).await.unwrap();
    assert_eq!((stock, accepted), (198_000_003, true));
}

#[tokio::test]
async fn the_shelves_of_a_shop_of_before_there_was_a_stock_are_filled_once() {
    let (_database, pool) = migrated().await;
    let shop = Shop::of_2025().unwrap();
    for product in &shop.products[..2] {
        let insert =
            "INSERT INTO products (id, sku, name, category, price_minor, currency) VALUES ($1, $2, 'x', 'x', 1, 'EUR')";
        sqlx::query(insert).bind(product.id).bind(&product.sku).execute(&pool).await.unwrap();
    }
    assert_eq!(load(&pool).await.unwrap(), Loaded::Stock);
    let stock = "SELECT stock FROM products ORDER BY sku";
    let filled: Vec<i64> = sqlx::query_scalar(stock).fetch_all(&pool).await.unwrap();
    assert!(filled.len() == 2 && filled.iter().all(|stock| *stock > 0), "{filled:?}");
    assert_eq!(load(&pool).await.unwrap(), Loaded::Nothing);
    // Sold out is not the same.
    sqlx::query("UPDATE products SET stock = 0").execute(&pool).await.unwrap();
    sqlx::query(
        "WITH buyer AS (
             INSERT INTO users (id, name, email, country) VALUES (gen_random_uuid(), 'Ada', 'ada@shop.example', 'DE') RETURNING id
         )
         INSERT INTO orders (id, user_id, status, placed_at, accepted_at, country, currency, total_minor)
         SELECT gen_random_uuid(), id, 'placed', now(), now() - interval '1 second', 'DE', 'EUR', 1 FROM buyer",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(load(&pool).await.unwrap(), Loaded::Nothing);
}

#[tokio::test]
async fn a_load_that_fails_leaves_nothing() {
    let (_database, pool) = migrated().await;
    sqlx::query("ALTER TABLE order_items ADD CHECK (quantity < 4)").execute(&pool).await.unwrap();
    load(&pool).await.unwrap_err();
    assert_eq!((count(&pool, "products").await, count(&pool, "users").await, count(&pool, "orders").await), (0, 0, 0));
}

#[tokio::test]
async fn a_shop_that_has_anything_is_left_alone() {
    let (_database, pool) = migrated().await;
    sqlx::query(
        "INSERT INTO products (id, sku, name, category, price_minor, currency)
         VALUES (gen_random_uuid(), 'TEA-1', 'Tea', 'Pantry', 990, 'EUR')",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(load(&pool).await.unwrap(), Loaded::Nothing);
    assert_eq!((count(&pool, "products").await, count(&pool, "users").await, count(&pool, "orders").await), (1, 0, 0));
}

/// What a report says of the sample year, against the same added up here.
#[tokio::test]
async fn reports_on_the_loaded_year_agree_with_what_was_made() {
    let (_database, pool) = migrated().await;
    assert_eq!(load(&pool).await.unwrap(), Loaded::All);
    let shop = Shop::of_2025().unwrap();
    let mut snapshot = begin_report_snapshot(&pool).await.unwrap();

    for (from, to) in [("2025-01-01", "2025-12-31"), ("2025-11-01", "2025-11-30"), ("2025-08-13", "2025-08-13")] {
        let (from, to): (NaiveDate, NaiveDate) = (from.parse().unwrap(), to.parse().unwrap());
        let within = |order: &&Order| (from..=to).contains(&order.placed_at.date_naive());
        let counted: Vec<_> = shop.orders.iter().filter(within).filter(|order| order.status != "cancelled").collect();

        let customers: HashSet<_> = counted.iter().map(|order| order.customer).collect();
        let before =
            shop.orders.iter().filter(|order| order.placed_at.date_naive() < from && order.status != "cancelled");
        let before: HashSet<_> = before.map(|order| order.customer).collect();
        let expected = KeyFigures {
            orders: counted.len() as i64,
            revenue_minor: counted.iter().map(|order| order.total_minor()).sum(),
            customers: customers.len() as i64,
            new_customers: customers.difference(&before).count() as i64,
            items: counted.iter().flat_map(|order| &order.items).map(|item| i64::from(item.quantity)).sum(),
        };
        assert_eq!(key_figures(&mut snapshot, from, to, CURRENCY).await.unwrap(), expected, "{from} to {to}");

        for grouping in [Grouping::Day, Grouping::Week, Grouping::Month] {
            let mut expected: BTreeMap<NaiveDate, (i64, i64)> = BTreeMap::new();
            let start = |day: NaiveDate| match grouping {
                Grouping::Day => day,
                Grouping::Week => day.week(chrono::Weekday::Mon).first_day().max(from),
                Grouping::Month => day.with_day(1).unwrap().max(from),
            };
            from.iter_days().take_while(|day| *day <= to).for_each(|day| {
                expected.entry(start(day)).or_default();
            });
            for order in &counted {
                let point = expected.entry(start(order.placed_at.date_naive())).or_default();
                *point = (point.0 + 1, point.1 + order.total_minor());
            }
            let points = revenue_by(&mut snapshot, from, to, grouping, CURRENCY).await.unwrap();
            let points: Vec<_> =
                points.into_iter().map(|point| (point.start, (point.orders, point.revenue_minor))).collect();
            assert_eq!(points, expected.into_iter().collect::<Vec<_>>(), "{from} to {to} by {grouping:?}");
        }

        let mut sold: HashMap<&str, (i64, i64)> = HashMap::new();
        for item in counted.iter().flat_map(|order| &order.items) {
            let product = sold.entry(&shop.products[item.product].sku).or_default();
            let quantity = i64::from(item.quantity);
            *product = (product.0 + quantity, product.1 + quantity * item.unit_price_minor);
        }
        let mut expected: Vec<_> =
            sold.into_iter().map(|(sku, (quantity, revenue))| (-revenue, sku, quantity)).collect();
        expected.sort_unstable();
        let top = top_products(&mut snapshot, from, to, CURRENCY, 10).await.unwrap();
        let top: Vec<_> = top.iter().map(|top| (-top.revenue_minor, top.sku.as_str(), top.quantity)).collect();
        assert_eq!(top, expected[..10], "{from} to {to}");

        let listed: Vec<_> =
            shop.orders.iter().filter(within).map(|order| (order.number, order.total_minor())).collect();
        let lines: Vec<_> = orders(&mut snapshot, from, to, CURRENCY, 50_000)
            .map_ok(|line| (line.number, line.total_minor))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(lines, listed, "{from} to {to}");
    }

    let next: i64 = sqlx::query_scalar("SELECT nextval(pg_get_serial_sequence('orders', 'number'))")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(next, 150_001, "the next order continues the numbers");
}
