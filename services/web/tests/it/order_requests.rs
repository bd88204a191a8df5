//! Orders on their way in: what is taken, under which id, and what is told of what is wrong.

use backing::Proxy;
use pipeline::jobs::PlaceOrder;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    ALICE_ID, BOB, Behind, Web, database, finish_tracked, insert_token, november, problem, vhost, wait,
};

fn line(product: u128, quantity: u32) -> Value {
    json!({"product_id": Uuid::from_u128(product), "quantity": quantity})
}

fn two_teas_and_a_pot() -> Value {
    json!({"items": [line(1, 2), line(2, 1)]})
}

async fn order(web: &Web, body: &Value) -> Response {
    web.post("/v1/orders", body).send().await.unwrap()
}

async fn order_once(web: &Web, key: &str, body: &Value) -> Response {
    web.post("/v1/orders", body).header("idempotency-key", key).send().await.unwrap()
}

/// The id of an order that was taken.
async fn taken(response: Response) -> Uuid {
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    response.json::<Value>().await.unwrap()["id"].as_str().unwrap().parse().unwrap()
}

async fn state(web: &Web, id: Uuid) -> Value {
    let shown = web.get(&format!("/v1/orders/{id}")).await;
    assert_eq!(shown.status(), StatusCode::OK);
    shown.json::<Value>().await.unwrap()["state"].clone()
}

#[tokio::test]
async fn an_order_is_on_its_queue_before_the_answer_and_needs_no_database() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let response = order(&web, &two_teas_and_a_pot()).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["retry-after"], "1");
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    let id = body["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/jobs/{id}"));
    assert_eq!((&body["state"], &body["kind"]), (&json!("queued"), &json!("order.place")));
    assert_eq!(
        body["links"],
        json!({"self": location, "events": format!("{location}/events"), "order": format!("/v1/orders/{id}")})
    );

    let message = vhost.take("order.normal").await;
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("postroom.jobs.order.place", "normal"));
    let properties = &message.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
    assert_eq!(*properties.delivery_mode(), Some(2));
    let owner = properties.headers().as_ref().unwrap().inner()["owner"].as_long_string().unwrap().to_string();
    assert_eq!(owner, ALICE_ID.to_string());
    let payload: Value = serde_json::from_slice(&message.data).unwrap();
    let expected = json!({"customer": ALICE_ID, "items": [line(1, 2), line(2, 1)], "accepted_at": body["created_at"]});
    assert_eq!(payload, expected, "with the moment at which it was taken");
    serde_json::from_value::<PlaceOrder>(payload).unwrap();
    web.stop().await;
    vhost.finish(&[("tracker.lifecycle", 1)]).await;
}

#[tokio::test]
async fn whoever_is_signed_in_may_order_and_a_token_that_only_looks_may_not() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let eve = web.member("eve@shop.example").await;
    let by_session = web.with_sid(Method::POST, "/v1/orders", &eve.sid).json(&two_teas_and_a_pot());
    taken(by_session.send().await.unwrap()).await;
    let token = insert_token(&web.pool, eve.user, "a-token-that-only-looks-about").await;
    let narrow = sqlx::query("UPDATE api_tokens SET scopes = '{jobs:read}' WHERE id = $1").bind(token);
    narrow.execute(&web.pool).await.unwrap();
    let by_token = web.client.post(web.url("/v1/orders")).bearer_auth("a-token-that-only-looks-about");
    problem(by_token.json(&two_teas_and_a_pot()).send().await.unwrap(), 403, "scope-missing").await;
    let message = vhost.take("order.normal").await;
    assert_eq!(serde_json::from_slice::<PlaceOrder>(&message.data).unwrap().customer, eve.user);
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn what_is_no_order_is_told_what_is_wrong_and_nothing_is_enqueued() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let with = |field: &str, value: Value| {
        let mut bad = line(2, 1);
        bad[field] = value;
        json!({"items": [line(1, 1), bad]})
    };
    let lines = |number: u128| json!({"items": (1..=number).map(|product| line(product, 1)).collect::<Vec<_>>()});
    for (body, field) in [
        (json!({}), "items"),
        (json!({"items": null}), "items"),
        (json!({"items": {}}), "items"),
        (lines(0), "items"),
        (lines(51), "items"),
        (json!({"items": [[Uuid::from_u128(1), 1]]}), "items[0]"),
        (with("quantity", json!(0)), "items[1].quantity"),
        (with("quantity", json!(1001)), "items[1].quantity"),
        (with("quantity", json!(-1)), "items[1].quantity"),
        (with("quantity", json!(1.5)), "items[1].quantity"),
        (with("quantity", json!("1")), "items[1].quantity"),
        (with("quantity", json!(4_294_967_297_u64)), "items[1].quantity"),
        (with("product_id", json!("TEA")), "items[1].product_id"),
        (with("product_id", json!(Uuid::from_u128(1))), "items[1].product_id"),
        (with("price_minor", json!(1)), "items[1].price_minor"),
        (json!({"items": [{"quantity": 1}]}), "items[0].product_id"),
        (json!({"items": [{"product_id": Uuid::from_u128(1)}]}), "items[0].quantity"),
        (json!({"items": [line(1, 1)], "customer": ALICE_ID}), "customer"),
    ] {
        let told = problem(order(&web, &body).await, 422, "validation").await;
        assert_eq!(told["errors"][0]["field"], field, "{body}: {told}");
    }
    let mut most = lines(50);
    most["items"][0]["quantity"] = json!(1000);
    taken(order(&web, &most).await).await;
    web.stop().await;
    vhost.finish(&[("order.normal", 1), ("tracker.lifecycle", 1)]).await;
}

#[tokio::test]
async fn an_order_under_a_key_is_one_however_often_and_in_whatever_order_it_is_said() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let other = Web::start_connected(Behind::both(&vhost, &database)).await;
    let first = taken(order_once(&web, "k", &two_teas_and_a_pot()).await).await;
    let turned = json!({"items": [line(2, 1), line(1, 2)]});
    for (web, body) in [(&web, &two_teas_and_a_pot()), (&other, &turned)] {
        assert_eq!(taken(order_once(web, "k", body).await).await, first);
    }
    for another in [json!({"items": [line(1, 2)]}), json!({"items": [line(1, 1), line(2, 2)]})] {
        problem(order_once(&other, "k", &another).await, 422, "idempotency-key-reused").await;
    }
    // The key of an order is nobody else's, and no report's.
    let bobs = web.client.post(web.url("/v1/orders")).bearer_auth(BOB).header("idempotency-key", "k");
    assert_ne!(taken(bobs.json(&turned).send().await.unwrap()).await, first);
    assert_ne!(taken(web.post_report_once("k", &november()).await).await, first);
    web.stop().await;
    other.stop().await;
    vhost.finish(&[("order.normal", 2), ("report.normal", 1)]).await;
}

#[tokio::test]
async fn without_the_database_orders_are_taken_and_shown_by_every_process_and_none_is_lost_or_doubled() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { tracks: true, database_url: proxy.url.clone(), ..Behind::both(&vhost, &database) };
    let (web, other) = (Web::start_connected(behind()).await, Web::start_connected(behind()).await);
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening() && !other.listening()).await;
    let mut orders = Vec::new();
    for number in 0..20 {
        let (web, body) = (if number % 2 == 0 { &web } else { &other }, two_teas_and_a_pot());
        let key = number.to_string();
        let id = taken(order_once(web, &key, &body).await).await;
        assert_eq!(taken(order_once(web, &key, &body).await).await, id);
        orders.push(id);
    }
    // One of the processes is another one since.
    other.stop().await;
    let other = Web::start_connected(Behind { listens: false, ..behind() }).await;
    for id in &orders {
        assert_eq!((state(&web, *id).await, state(&other, *id).await), (json!("queued"), json!("queued")));
        let bobs = web.client.get(web.url(&format!("/v1/jobs/{id}"))).bearer_auth(BOB).send().await.unwrap();
        problem(bobs, 404, "not-found").await;
    }
    problem(web.get("/v1/orders").await, 503, "store-unavailable").await;
    problem(web.delete(&format!("/v1/orders/{}", orders[0])).await, 503, "store-unavailable").await;
    proxy.cut(false);
    wait("the database is heard again", async || web.listening()).await;
    for id in &orders {
        assert_eq!(state(&other, *id).await, "queued");
    }
    let written = async || {
        let jobs = "SELECT count(*) FROM jobs WHERE kind = 'order.place'";
        sqlx::query_scalar::<_, i64>(jobs).fetch_one(&web.pool).await.unwrap() == 20
    };
    wait("each is written down", written).await;
    web.stop().await;
    other.stop().await;
    finish_tracked(vhost, ("order.normal", 20)).await;
}

#[tokio::test]
async fn to_order_costs_as_much_as_work_does_and_to_look_little() {
    let web = Web::start(Behind { requests_per_minute: 15, ..Behind::nothing() }).await;
    let answer = order(&web, &two_teas_and_a_pot()).await;
    assert_eq!(answer.headers()["ratelimit"], r#""requests";r=5;t=40"#);
    let answer = web.get("/v1/orders").await;
    let left = answer.headers()["ratelimit"].to_str().unwrap().to_owned();
    assert!(left.starts_with(r#""requests";r=4"#) || left.starts_with(r#""requests";r=5"#), "{left}");
    web.stop().await;
}
