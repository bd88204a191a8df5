//! Products that the staff changes, and who sees that when.

use backing::{Proxy, redis_url};
use cache::RedisSettings;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{ALICE, Behind, Web, cache, database, end_entries, etag, problem};

const TEA: Uuid = Uuid::from_u128(1);

fn path() -> String {
    format!("/v1/products/{TEA}")
}

fn entries() -> [String; 2] {
    [format!("product:2:{TEA}"), "best-sellers:2:all".to_owned()]
}

fn change(name: &str, price_minor: i64) -> Value {
    json!({"name": name, "category": "Pantry", "price_minor": price_minor, "currency": "EUR"})
}

/// Tea, of which somebody has bought a piece.
async fn sell_tea(web: &Web) {
    for statement in [
        "INSERT INTO products (id, sku, name, category, price_minor, currency) VALUES ($1, 'TEA', 'Tea', 'Pantry', 100, 'EUR')",
        "INSERT INTO orders (id, user_id, status, placed_at, country, currency, total_minor)
         SELECT $1, id, 'paid', now(), 'DE', 'EUR', 100 FROM users LIMIT 1",
        "INSERT INTO order_items (order_id, line, product_id, quantity, unit_price_minor) VALUES ($1, 1, $1, 1, 100)",
    ] {
        sqlx::query(statement).bind(TEA).execute(&web.pool).await.unwrap();
    }
}

async fn show(web: &Web) -> Response {
    web.client.get(web.url(&path())).send().await.unwrap()
}

async fn product(web: &Web) -> Value {
    show(web).await.json().await.unwrap()
}

async fn best(web: &Web) -> Value {
    let top: Value = web.client.get(web.url("/v1/products/top")).send().await.unwrap().json().await.unwrap();
    top["products"][0]["name"].clone()
}

#[tokio::test]
async fn the_staff_changes_a_product_which_shows_at_once_at_every_process_and_the_best_sellers_follow() {
    let database = database().await;
    let cache = cache();
    let behind = || Behind { cache: cache.clone(), ..Behind::database(&database) };
    let (one, two) = (Web::start(behind()).await, Web::start(behind()).await);
    sell_tea(&one).await;
    let staff = one.staff_member("sam@shop.example").await;
    let first = show(&two).await;
    let tag = etag(&first);
    let first: Value = first.json().await.unwrap();
    assert_eq!((product(&one).await, best(&two).await), (first.clone(), json!("Tea")));
    let same = two.client.get(two.url(&path())).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!((same.status(), etag(&same)), (StatusCode::NOT_MODIFIED, tag.clone()));

    let body = json!({"name": " Green tea ", "category": "Tea", "price_minor": 120, "currency": "USD"});
    let changed = one.replace(&staff.sid, &path(), &body, Some(&tag)).await;
    assert_eq!(changed.status(), StatusCode::OK);
    let new_tag = etag(&changed);
    let changed: Value = changed.json().await.unwrap();
    let mut expected = first.clone();
    for (field, value) in [
        ("name", json!("Green tea")),
        ("category", json!("Tea")),
        ("price_minor", json!(120)),
        ("currency", json!("USD")),
    ] {
        expected[field] = value;
    }
    assert_eq!(changed, expected);
    for web in [&one, &two] {
        let shown = show(web).await;
        assert_eq!((etag(&shown), shown.json::<Value>().await.unwrap()), (new_tag.clone(), expected.clone()));
    }
    problem(one.replace(&staff.sid, &path(), &body, Some(&tag)).await, 412, "version-differs").await;

    // To count them anew is dear, and is done once a second by whoever sends the rows.
    assert_eq!(best(&two).await, "Tea");
    let left = one.left_to_end().await;
    assert_eq!(left, entries());
    end_entries(&cache, &left).await;
    assert_eq!(best(&two).await, "Green tea");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn who_does_not_belong_to_the_staff_changes_no_product() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    sell_tea(&web).await;
    let before = product(&web).await;
    let body = change("Poison", 0);
    let eve = web.member("eve@shop.example").await;
    for path in [path(), format!("/v1/products/{}", Uuid::now_v7())] {
        problem(web.replace(&eve.sid, &path, &body, None).await, 403, "role-missing").await;
        problem(web.client.put(web.url(&path)).json(&body).send().await.unwrap(), 401, "unauthenticated").await;
        let token = web.client.put(web.url(&path)).bearer_auth(ALICE).json(&body).send().await.unwrap();
        problem(token, 403, "session-needed").await;
    }
    let staff = web.member_who_is("olga@shop.example", "operator").await;
    for none in [Uuid::now_v7().to_string(), "top".to_owned(), "no-id".to_owned()] {
        let answer = web.replace(&staff.sid, &format!("/v1/products/{none}"), &body, None).await;
        assert!([404, 405].contains(&answer.status().as_u16()), "{none}: {}", answer.status());
    }
    let from_elsewhere =
        web.with_sid(Method::PUT, &path(), &staff.sid).json(&body).header("origin", "https://evil.example");
    problem(from_elsewhere.send().await.unwrap(), 403, "cross-site").await;
    assert_eq!(product(&web).await, before);
    assert_eq!(web.left_to_end().await, [""; 0]);
    assert_eq!(web.replace(&staff.sid, &path(), &change("Tea", 1), None).await.status(), StatusCode::OK);
    web.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_product_is_refused_and_changes_nothing() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    sell_tea(&web).await;
    let (before, staff) = (product(&web).await, web.staff_member("sam@shop.example").await);
    for (field, value) in [
        ("name", json!("Tea\r\nX-Injected: 1")),
        ("name", json!("Tea\0")),
        ("name", json!("  ")),
        ("name", json!("a".repeat(201))),
        ("category", json!("")),
        ("category", json!("a\tb")),
        ("category", json!("a".repeat(201))),
        ("price_minor", json!(-1)),
        ("price_minor", json!(1_000_000_000_001_i64)),
        ("price_minor", json!(u64::MAX)),
        ("price_minor", json!(1.5)),
        ("price_minor", json!("100")),
        ("currency", json!("eur")),
        ("currency", json!("EURO")),
        ("currency", json!("€")),
        ("sku", json!("POT")),
        ("id", json!(Uuid::now_v7())),
        ("version", json!(1)),
    ] {
        let mut body = change("Poison", 1);
        body[field] = value;
        let told = problem(web.replace(&staff.sid, &path(), &body, None).await, 422, "validation").await;
        assert_eq!(told["errors"][0]["field"], field, "{told}");
    }
    for missing in ["name", "category", "price_minor", "currency"] {
        let mut body = change("Poison", 1);
        body.as_object_mut().unwrap().remove(missing);
        let told = problem(web.replace(&staff.sid, &path(), &body, None).await, 422, "validation").await;
        assert_eq!(told["errors"][0], json!({"field": missing, "detail": "it is missing"}));
    }
    let large = change(&"a".repeat(20_000), 1);
    problem(web.replace(&staff.sid, &path(), &large, None).await, 413, "body-too-large").await;
    assert_eq!(product(&web).await, before);
    assert_eq!(web.left_to_end().await, [""; 0]);
    let most = change(&"ä".repeat(200), 1_000_000_000_000);
    assert_eq!(web.replace(&staff.sid, &path(), &most, None).await.status(), StatusCode::OK);
    web.stop().await;
}

#[tokio::test]
async fn of_two_who_change_what_both_have_seen_one_is_told_of_the_other() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    sell_tea(&web).await;
    let staff = web.staff_member("sam@shop.example").await;
    for round in 0..5 {
        let tag = etag(&show(&web).await);
        let (black, white) = (change(&format!("Black {round}"), 1), change(&format!("White {round}"), 1));
        let (path, tag) = (path(), Some(tag.as_str()));
        let (black, white) =
            tokio::join!(web.replace(&staff.sid, &path, &black, tag), web.replace(&staff.sid, &path, &white, tag));
        let (won, lost) = if black.status() == StatusCode::OK { (black, white) } else { (white, black) };
        assert_eq!(won.status(), StatusCode::OK);
        problem(lost, 412, "version-differs").await;
        assert_eq!(product(&web).await, won.json::<Value>().await.unwrap());
    }
    web.stop().await;
}

#[tokio::test]
async fn while_the_cache_is_away_a_product_is_changed_and_shown_and_its_end_left_to_the_dispatcher() {
    let database = database().await;
    let (proxy, cache) = (Proxy::start(&redis_url("cache")).await, cache());
    let by_proxy = RedisSettings { url: proxy.url.as_str().into(), ..cache.clone() };
    let away = Web::start(Behind { cache: by_proxy, ..Behind::database(&database) }).await;
    let there = Web::start(Behind { cache: cache.clone(), ..Behind::database(&database) }).await;
    sell_tea(&there).await;
    let staff = away.staff_member("sam@shop.example").await;
    assert_eq!((product(&away).await, product(&there).await["name"].clone()), (product(&there).await, json!("Tea")));
    proxy.cut(true);
    assert_eq!(away.replace(&staff.sid, &path(), &change("Green tea", 1), None).await.status(), StatusCode::OK);
    assert_eq!(
        (product(&away).await["name"].clone(), product(&there).await["name"].clone()),
        (json!("Green tea"), json!("Tea"))
    );
    let left = away.left_to_end().await;
    assert_eq!(left, entries());
    end_entries(&cache, &left).await;
    assert_eq!(product(&there).await["name"], "Green tea");
    away.stop().await;
    there.stop().await;
}
