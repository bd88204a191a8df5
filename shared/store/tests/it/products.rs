//! The catalogue, against a few products and orders that one can count by hand.

use sqlx::AssertSqlSafe;
use store::products::{NewProduct, best_sellers, find, page, replace};
use store::versions::Replaced;
use uuid::Uuid;

use crate::TestStore;
use crate::cache_invalidations::entries;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// Products with these SKUs, whose ids are their places.
async fn with_products(skus: &[&str]) -> TestStore {
    let store = TestStore::create().await;
    for (place, sku) in skus.iter().enumerate() {
        let insert = "INSERT INTO products (id, sku, name, category, price_minor, currency) VALUES ($1, $2, $3, 'Pantry', 1000, 'EUR')";
        let insert = sqlx::query(insert).bind(id(place as u128)).bind(sku).bind(format!("The {sku}"));
        insert.execute(&store.pool).await.unwrap();
    }
    store
}

fn skus<T>(items: &[T], sku: impl Fn(&T) -> &str) -> Vec<&str> {
    items.iter().map(sku).collect()
}

#[tokio::test]
async fn a_product_is_found_by_its_id() {
    let store = with_products(&["TEA", "POT"]).await;
    let found = find(&store.pool, id(1)).await.unwrap().unwrap();
    assert_eq!((found.id, found.sku.as_str(), found.name.as_str()), (id(1), "POT", "The POT"));
    assert_eq!((found.category.as_str(), found.price_minor, found.currency.as_str()), ("Pantry", 1000, "EUR"));
    assert_eq!(find(&store.pool, id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn a_product_is_changed_as_it_was_seen_and_its_entries_named_with_the_change() {
    let store = with_products(&["TEA", "POT"]).await;
    let seen = find(&store.pool, id(0)).await.unwrap().unwrap();
    let new = NewProduct {
        name: "Green tea".to_owned(),
        category: "Tea".to_owned(),
        price_minor: 1200,
        currency: "USD".to_owned(),
    };
    let both = ["product:2:tea".to_owned(), "best-sellers:2:all".to_owned()];
    let change = async |number, version: Option<i64>| {
        replace(&store.pool, id(number), &new, version.as_ref().map(std::slice::from_ref), &both).await.unwrap()
    };
    let Replaced::Done(changed) = change(0, Some(seen.version)).await else {
        panic!("it was changed");
    };
    assert_eq!((changed.name.as_str(), changed.category.as_str(), changed.sku.as_str()), ("Green tea", "Tea", "TEA"));
    assert_eq!((changed.price_minor, changed.currency.as_str(), changed.created_at), (1200, "USD", seen.created_at));
    assert_eq!(find(&store.pool, id(0)).await.unwrap(), Some(changed));
    assert_eq!(change(0, Some(seen.version)).await, Replaced::Differs);
    assert_eq!(change(2, None).await, Replaced::Missing);
    assert_eq!(entries(&store.pool).await, both);
    replace(&store.pool, id(1), &new, None, &["no name of an entry".to_owned()]).await.unwrap_err();
    assert_eq!(find(&store.pool, id(1)).await.unwrap().unwrap().price_minor, 1000);
    assert!(matches!(change(1, None).await, Replaced::Done(_)));
}

#[tokio::test]
async fn pages_have_every_product_once_in_order_though_others_come_and_go() {
    let store = with_products(&["DDD", "AAA", "CCC-1", "BBB", "EEE", "CCC"]).await;
    let all = page(&store.pool, None, 100).await.unwrap();
    let order = skus(&all, |product| &product.sku);
    assert_eq!(order, ["AAA", "BBB", "CCC", "CCC-1", "DDD", "EEE"]);
    let first = page(&store.pool, None, 2).await.unwrap();
    assert_eq!(skus(&first, |product| &product.sku), order[..2]);
    // The last of the page is gone, and one more stands before it: the next page begins where it would have.
    for statement in ["DELETE FROM products WHERE sku = 'BBB'", "UPDATE products SET sku = 'AAA-9' WHERE sku = 'AAA'"] {
        sqlx::query(statement).execute(&store.pool).await.unwrap();
    }
    let second = page(&store.pool, Some("BBB"), 2).await.unwrap();
    assert_eq!(skus(&second, |product| &product.sku), order[2..4]);
    let third = page(&store.pool, Some("CCC-1"), 100).await.unwrap();
    assert_eq!(skus(&third, |product| &product.sku), order[4..]);
    assert_eq!(page(&store.pool, Some("EEE"), 100).await.unwrap(), []);
}

#[tokio::test]
async fn best_sellers_are_those_of_which_most_pieces_were_sold_up_to_the_newest_order() {
    let store = with_products(&["TEA", "POT", "CUP", "MUG", "OLD"]).await;
    assert_eq!(best_sellers(&store.pool, 10).await.unwrap(), []);
    let mut statements =
        vec![format!("INSERT INTO users (id, name, email, country) VALUES ('{}', 'A', 'a@shop.example', 'DE')", id(0))];
    let orders = [
        // Status, placed at, currency, product, pieces.
        ("cancelled", "2025-03-01T00:00:00Z", "EUR", 4, 99),
        ("paid", "2025-01-31T12:00:00Z", "EUR", 0, 5),
        ("paid", "2025-01-01T12:00:00.000001Z", "USD", 0, 2),
        ("shipped", "2025-01-10T00:00:00Z", "EUR", 1, 6),
        ("delivered", "2025-01-20T00:00:00Z", "EUR", 2, 6),
        ("cancelled", "2025-01-20T00:00:00Z", "EUR", 3, 50),
        // Thirty days before the newest that counts, and no less.
        ("paid", "2025-01-01T12:00:00Z", "EUR", 4, 50),
    ];
    for (place, (status, placed_at, currency, product, pieces)) in orders.into_iter().enumerate() {
        let order = id(place as u128);
        statements.push(format!(
            "INSERT INTO orders (id, user_id, status, placed_at, country, currency, total_minor)
             VALUES ('{order}', '{}', '{status}', '{placed_at}', 'DE', '{currency}', 0)",
            id(0)
        ));
        statements.push(format!(
            "INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor)
             VALUES ('{order}', 1, '{}', {pieces}, 0)",
            id(product)
        ));
    }
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).execute(&store.pool).await.unwrap();
    }
    let top = best_sellers(&store.pool, 10).await.unwrap();
    let pairs = top.iter().map(|seller| (seller.product.sku.as_str(), seller.sold)).collect::<Vec<_>>();
    // Of equals the first by SKU.
    assert_eq!(pairs, [("TEA", 7), ("CUP", 6), ("POT", 6)]);
    assert_eq!(best_sellers(&store.pool, 2).await.unwrap(), top[..2]);
}
