//! The catalogue over HTTP: anybody may look, and what is asked for wrongly is told so.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Behind, Web, cache, database, no_redis, problem};

/// Without a token.
async fn get(web: &Web, path: &str) -> Response {
    web.client.get(web.url(path)).send().await.unwrap()
}

async fn json(web: &Web, path: &str) -> Value {
    let answer = get(web, path).await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.json().await.unwrap()
}

/// Five products, of which 1, 2, … pieces were sold in one order each.
async fn fill(web: &Web) {
    let user = Uuid::from_u128(1000);
    let insert = "INSERT INTO users (id, name, email, country) VALUES ($1, 'A', 'a@shop.example', 'DE')";
    sqlx::query(insert).bind(user).execute(&web.pool).await.unwrap();
    for number in 1..=5_u8 {
        let id = Uuid::from_u128(number.into());
        let statements = [
            "INSERT INTO products (id, sku, name, category, price_minor, currency)
             SELECT $1, 'SKU-' || $2, 'Product ' || $2, 'Pantry', 100, 'EUR' WHERE $3 IS NOT NULL",
            "INSERT INTO orders (id, user_id, status, placed_at, country, currency, total_minor)
             SELECT $1, $3, 'paid', now(), 'DE', 'EUR', 0 WHERE $2 IS NOT NULL",
            "INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor)
             SELECT $1, 1, $1, $2::int, 100 WHERE $3 IS NOT NULL",
        ];
        for statement in statements {
            let statement = sqlx::query(statement).bind(id).bind(number.to_string()).bind(user);
            statement.execute(&web.pool).await.unwrap();
        }
    }
}

fn field<'a>(products: &'a Value, name: &str) -> Vec<&'a Value> {
    products["products"].as_array().unwrap().iter().map(|product| &product[name]).collect()
}

#[tokio::test]
async fn the_catalogue_is_open_to_all_and_read_page_by_page() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let empty = json(&web, "/v1/products").await;
    assert_eq!(empty, json!({"products": [], "links": {}}));
    fill(&web).await;

    let (mut path, mut pages) = ("/v1/products?limit=2".to_owned(), Vec::new());
    loop {
        let page = json(&web, &path).await;
        pages.push(field(&page, "sku").into_iter().cloned().collect::<Vec<_>>());
        match page["links"].get("next") {
            Some(next) => path = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(json!(pages), json!([["SKU-1", "SKU-2"], ["SKU-3", "SKU-4"], ["SKU-5"]]));
    let all = json(&web, "/v1/products?limit=5").await;
    assert_eq!((field(&all, "sku").len(), &all["links"]), (5, &json!({})), "a full last page has no next");

    let own = all["products"][2]["links"]["self"].as_str().unwrap();
    assert_eq!(json(&web, own).await, all["products"][2]);
    assert_eq!(all["products"][2]["price_minor"], 100);
    for none in [Uuid::from_u128(9).to_string(), "0".to_owned()] {
        problem(get(&web, &format!("/v1/products/{none}")).await, 404, "not-found").await;
    }
    web.stop().await;
}

#[tokio::test]
async fn the_best_sellers_come_first_and_as_many_as_are_asked_for() {
    let database = database().await;
    let web = Web::start(Behind { cache: no_redis(), ..Behind::database(&database) }).await;
    assert_eq!(json(&web, "/v1/products/top").await, json!({"days": 30, "products": []}));
    fill(&web).await;
    let top = json(&web, "/v1/products/top?limit=3").await;
    assert_eq!(json!(field(&top, "sku")), json!(["SKU-5", "SKU-4", "SKU-3"]));
    assert_eq!(json!(field(&top, "sold")), json!([5, 4, 3]));
    assert_eq!(field(&json(&web, "/v1/products/top").await, "sku").len(), 5);
    web.stop().await;
}

#[tokio::test]
async fn what_was_read_once_is_read_again_without_the_database_at_every_process() {
    let database = database().await;
    let cache = cache();
    let behind = || Behind { cache: cache.clone(), ..Behind::database(&database) };
    let (one, two) = (Web::start(behind()).await, Web::start(behind()).await);
    fill(&one).await;
    let (top, third) = ("/v1/products/top?limit=3", "/v1/products/00000000-0000-0000-0000-000000000003");
    let none = "/v1/products/00000000-0000-0000-0000-000000000009";
    let (sold, product) = (json(&one, top).await, json(&one, third).await);
    problem(get(&one, none).await, 404, "not-found").await;
    two.pool.close().await;
    assert_eq!((json(&two, top).await, json(&two, third).await), (sold, product));
    problem(get(&two, none).await, 404, "not-found").await;
    assert_eq!(field(&json(&two, "/v1/products/top").await, "sku").len(), 5, "of any length");
    problem(get(&two, "/v1/products/00000000-0000-0000-0000-000000000008").await, 503, "store-unavailable").await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_query_that_is_wrong_is_told_so_and_without_a_database_it_is_a_503() {
    let web = Web::start(Behind::nothing()).await;
    for path in [
        "/v1/products?limit=0",
        "/v1/products?limit=101",
        "/v1/products?limit=many",
        "/v1/products?limit=1&limit=2",
        "/v1/products?after=",
        "/v1/products?after=%00%00%00",
        "/v1/products?after=lower",
        "/v1/products?page=2",
        "/v1/products/top?limit=51",
        "/v1/products/top?after=SKU-1",
    ] {
        problem(get(&web, path).await, 400, "query-invalid").await;
    }
    for path in ["/v1/products", "/v1/products/top", "/v1/products/00000000-0000-0000-0000-000000000001"] {
        problem(get(&web, path).await, 503, "store-unavailable").await;
    }
    web.stop().await;
}
