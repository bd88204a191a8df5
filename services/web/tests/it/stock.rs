//! The shelves: who fills them, and that nobody overwrites what he has not seen.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{ALICE, Behind, Web, cache, database, etag, problem};

const TEA: Uuid = Uuid::from_u128(1);

fn path() -> String {
    format!("/v1/products/{TEA}/stock")
}

async fn sell_tea(web: &Web) {
    let insert = "INSERT INTO products (id, sku, name, category, price_minor, currency, stock)
        VALUES ($1, 'TEA', 'Tea', 'Pantry', 100, 'EUR', 5)";
    sqlx::query(insert).bind(TEA).execute(&web.pool).await.unwrap();
}

async fn counted(response: Response) -> (String, Value) {
    assert_eq!(response.status(), StatusCode::OK);
    (etag(&response), response.json().await.unwrap())
}

#[tokio::test]
async fn the_staff_counts_the_stock_and_overwrites_only_what_it_has_seen() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    sell_tea(&web).await;
    let sam = web.staff_member("sam@shop.example").await;
    let product = format!("/v1/products/{TEA}");
    let of_product = etag(&web.get(&product).await);
    assert_eq!(counted(web.get(&path()).await).await, ("\"5\"".to_owned(), json!({"stock": 5})));
    let same = web.client.get(web.url(&path())).bearer_auth(ALICE).header("if-none-match", "\"5\"");
    assert_eq!(same.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let seven = json!({"stock": 7});
    assert_eq!(
        counted(web.replace(&sam.sid, &path(), &seven, Some("\"5\"")).await).await,
        ("\"7\"".to_owned(), seven.clone())
    );
    problem(web.replace(&sam.sid, &path(), &json!({"stock": 1}), Some("\"5\"")).await, 412, "version-differs").await;
    assert_eq!(counted(web.get(&path()).await).await.1, seven);
    for any in [Some("*"), Some("\"6\", \"7\""), None] {
        assert_eq!(counted(web.replace(&sam.sid, &path(), &seven, any).await).await.1, seven);
    }
    // Who has seen the product has seen it still.
    let shown = web.client.get(web.url(&product)).header("if-none-match", of_product).send().await.unwrap();
    assert_eq!(shown.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(web.left_to_end().await, [""; 0]);
    web.stop().await;
}

#[tokio::test]
async fn what_is_no_number_of_pieces_is_refused_and_nobody_else_may_count() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    sell_tea(&web).await;
    let (eve, sam) = (web.member("eve@shop.example").await, web.staff_member("sam@shop.example").await);
    for (body, field) in [
        (json!({"stock": -1}), "stock"),
        (json!({"stock": 1.5}), "stock"),
        (json!({"stock": "1"}), "stock"),
        (json!({"stock": 1_000_000_000_001_i64}), "stock"),
        (json!({"stock": 1, "price_minor": 1}), "price_minor"),
        (json!({}), "stock"),
    ] {
        let told = problem(web.replace(&sam.sid, &path(), &body, None).await, 422, "validation").await;
        assert_eq!(told["errors"][0]["field"], field, "{told}");
    }
    let none = format!("/v1/products/{}/stock", Uuid::now_v7());
    problem(web.replace(&sam.sid, &none, &json!({"stock": 1}), None).await, 404, "not-found").await;
    problem(web.replace(&sam.sid, &none, &json!({"stock": 1}), Some("\"0\"")).await, 404, "not-found").await;
    problem(web.get(&none).await, 404, "not-found").await;
    problem(web.replace(&eve.sid, &path(), &json!({"stock": 0}), None).await, 403, "role-missing").await;
    problem(web.with_sid(Method::GET, &path(), &eve.sid).send().await.unwrap(), 403, "role-missing").await;
    assert_eq!(counted(web.get(&path()).await).await.1, json!({"stock": 5}));
    let most = json!({"stock": 1_000_000_000_000_i64});
    assert_eq!(counted(web.replace(&sam.sid, &path(), &most, None).await).await.1, most);
    web.stop().await;
}
