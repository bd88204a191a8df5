//! The numbers of a sales report, against a few orders that one can add up by hand.

use chrono::NaiveDate;
use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;
use store::PgPool;
use store::sales::{
    Grouping, KeyFigures, OrderLine, RevenuePoint, TopProduct, begin_report_snapshot, key_figures, orders, revenue_by,
    top_products,
};

use crate::TestStore;

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// Number, customer, status, placed at, currency, quantities of tea at 10.00 and of pots at 25.00.
type Placed = (i64, char, &'static str, &'static str, &'static str, [i64; 2]);

const ORDERS: &[Placed] = &[
    (1, 'a', "delivered", "2024-12-31T23:59:59Z", "EUR", [1, 0]),
    (2, 'a', "delivered", "2025-01-01T00:00:00Z", "EUR", [2, 0]),
    (3, 'b', "cancelled", "2025-01-01T12:00:00Z", "EUR", [9, 9]),
    (4, 'b', "paid", "2025-01-05T23:59:59.999999Z", "EUR", [1, 1]),
    (5, 'b', "shipped", "2025-01-06T00:00:00Z", "EUR", [0, 2]),
    (6, 'c', "paid", "2025-01-31T23:59:59.999999Z", "EUR", [3, 0]),
    (7, 'c', "paid", "2025-02-01T00:00:00Z", "EUR", [1, 0]),
    (9, 'c', "cancelled", "2024-11-01T10:00:00Z", "EUR", [1, 0]),
    (8, 'd', "paid", "2025-01-15T10:00:00Z", "USD", [5, 0]),
];

async fn fill(pool: &PgPool) {
    let id = |of: char, number: i64| format!("{of}0000000-0000-0000-0000-{number:012}");
    let mut statements = vec![format!(
        "INSERT INTO products (id, sku, name, category, price_minor, currency) VALUES
             ('{}', 'TEA', 'Tea', 'Pantry', 1000, 'EUR'), ('{}', 'POT', 'Pot', 'Kitchen', 2500, 'EUR')",
        id('e', 1),
        id('e', 2)
    )];
    for user in 'a'..='d' {
        statements.push(format!(
            "INSERT INTO users (id, name, email, country) VALUES ('{}', 'Customer {user}', '{user}@shop.example', 'DE')",
            id(user, 0)
        ));
    }
    for &(number, user, status, placed_at, currency, [teas, pots]) in ORDERS {
        statements.push(format!(
            "INSERT INTO orders (id, number, user_id, status, placed_at, country, currency, total_minor)
             VALUES ('{}', {number}, '{}', '{status}', '{placed_at}', 'DE', '{currency}', {})",
            id('f', number),
            id(user, 0),
            teas * 1000 + pots * 2500
        ));
        for (product, quantity, price) in [(1, teas, 1000), (2, pots, 2500)] {
            if quantity > 0 {
                statements.push(format!(
                    "INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor)
                     VALUES ('{}', {product}, '{}', {quantity}, {price})",
                    id('f', number),
                    id('e', product)
                ));
            }
        }
    }
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
    }
}

#[tokio::test]
async fn key_figures_count_the_whole_first_and_last_day_and_no_cancelled_order() {
    let store = TestStore::create().await;
    fill(&store.pool).await;
    let mut snapshot = begin_report_snapshot(&store.pool).await.unwrap();
    let january = key_figures(&mut snapshot, day("2025-01-01"), day("2025-01-31"), "EUR").await.unwrap();
    // Customer a had bought before; c's only earlier order was cancelled and does not count.
    let expected =
        KeyFigures { orders: 4, revenue_minor: 2000 + 3500 + 5000 + 3000, customers: 3, new_customers: 2, items: 9 };
    assert_eq!(january, expected);
    let one_day = key_figures(&mut snapshot, day("2025-01-01"), day("2025-01-01"), "EUR").await.unwrap();
    assert_eq!(one_day, KeyFigures { orders: 1, revenue_minor: 2000, customers: 1, new_customers: 0, items: 2 });
    let dollars = key_figures(&mut snapshot, day("2025-01-01"), day("2025-01-31"), "USD").await.unwrap();
    assert_eq!(dollars, KeyFigures { orders: 1, revenue_minor: 5000, customers: 1, new_customers: 1, items: 5 });
    let nothing = key_figures(&mut snapshot, day("2030-01-01"), day("2030-01-31"), "EUR").await.unwrap();
    assert_eq!(nothing, KeyFigures::default());
}

#[tokio::test]
async fn revenue_has_a_point_for_every_group_and_groups_end_with_the_period() {
    let store = TestStore::create().await;
    fill(&store.pool).await;
    let mut snapshot = begin_report_snapshot(&store.pool).await.unwrap();
    let point = |start: &str, orders, revenue_minor| RevenuePoint { start: day(start), orders, revenue_minor };

    let days = revenue_by(&mut snapshot, day("2025-01-01"), day("2025-01-31"), Grouping::Day, "EUR").await.unwrap();
    assert_eq!(days.len(), 31);
    assert_eq!(days[0], point("2025-01-01", 1, 2000));
    assert_eq!(days[1], point("2025-01-02", 0, 0));
    assert_eq!(days[4], point("2025-01-05", 1, 3500));
    assert_eq!(days[5], point("2025-01-06", 1, 5000));
    assert_eq!(days[30], point("2025-01-31", 1, 3000));

    // 2025-01-01 is a Wednesday: the first week is Wednesday to Sunday.
    let weeks = revenue_by(&mut snapshot, day("2025-01-01"), day("2025-01-14"), Grouping::Week, "EUR").await.unwrap();
    let expected = [point("2025-01-01", 2, 5500), point("2025-01-06", 1, 5000), point("2025-01-13", 0, 0)];
    assert_eq!(weeks, expected);

    let months = revenue_by(&mut snapshot, day("2024-12-15"), day("2025-02-28"), Grouping::Month, "EUR").await.unwrap();
    let expected = [point("2024-12-15", 1, 1000), point("2025-01-01", 4, 13500), point("2025-02-01", 1, 1000)];
    assert_eq!(months, expected);

    // A period that begins within a month in which something was sold before it.
    let rest = revenue_by(&mut snapshot, day("2025-01-06"), day("2025-01-20"), Grouping::Month, "EUR").await.unwrap();
    assert_eq!(rest, [point("2025-01-06", 1, 5000)]);
}

#[tokio::test]
async fn top_products_are_those_that_brought_in_most() {
    let store = TestStore::create().await;
    fill(&store.pool).await;
    let mut snapshot = begin_report_snapshot(&store.pool).await.unwrap();
    let product = |sku: &str, name: &str, quantity, revenue_minor| TopProduct {
        sku: sku.to_owned(),
        name: name.to_owned(),
        quantity,
        revenue_minor,
    };
    let top = top_products(&mut snapshot, day("2025-01-01"), day("2025-01-31"), "EUR", 10).await.unwrap();
    assert_eq!(top, [product("POT", "Pot", 3, 7500), product("TEA", "Tea", 6, 6000)]);
    let best = top_products(&mut snapshot, day("2025-01-01"), day("2025-01-31"), "EUR", 1).await.unwrap();
    assert_eq!(best, [product("POT", "Pot", 3, 7500)]);
}

#[tokio::test]
async fn the_list_of_orders_has_the_largest_in_the_order_of_their_time() {
    let store = TestStore::create().await;
    fill(&store.pool).await;
    let mut snapshot = begin_report_snapshot(&store.pool).await.unwrap();
    let numbers = |lines: &[OrderLine]| lines.iter().map(|line| line.number).collect::<Vec<_>>();
    let all: Vec<_> =
        orders(&mut snapshot, day("2025-01-01"), day("2025-01-31"), "EUR", 100).try_collect().await.unwrap();
    assert_eq!(numbers(&all), [2, 3, 4, 5, 6]);
    let expected = OrderLine {
        number: 4,
        placed_at: "2025-01-05T23:59:59.999999Z".parse().unwrap(),
        customer: "Customer b".to_owned(),
        country: "DE".to_owned(),
        items: 2,
        status: "paid".to_owned(),
        total_minor: 3500,
    };
    assert_eq!(all[2], expected);
    let largest: Vec<_> =
        orders(&mut snapshot, day("2025-01-01"), day("2025-01-31"), "EUR", 3).try_collect().await.unwrap();
    assert_eq!(numbers(&largest), [3, 4, 5]);
}

#[tokio::test]
async fn a_report_sees_one_moment_and_can_change_nothing() {
    let store = TestStore::create().await;
    fill(&store.pool).await;
    let mut snapshot = begin_report_snapshot(&store.pool).await.unwrap();
    let (from, to) = (day("2025-01-01"), day("2025-01-31"));
    let before = key_figures(&mut snapshot, from, to, "EUR").await.unwrap();
    sqlx::query("UPDATE orders SET status = 'cancelled'").execute(&store.pool).await.unwrap();
    assert_eq!(key_figures(&mut snapshot, from, to, "EUR").await.unwrap(), before);
    let refused = sqlx::query("DELETE FROM order_items").execute(&mut *snapshot).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "25006", "{refused}");
    drop(snapshot);
    let mut later = begin_report_snapshot(&store.pool).await.unwrap();
    assert_eq!(key_figures(&mut later, from, to, "EUR").await.unwrap(), KeyFigures::default());
}
