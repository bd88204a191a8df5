//! Orders from outside: taken at once, placed exactly once, and held while the database is away.

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::harness::{Caller, alice, all_work_done, bob, database, mails_of, sent_mail, url};
use backing::containers::copies_of;

/// Products of which there is plenty, in the order of their ids, with what each costs.
async fn plenty(database: &mut PgConnection) -> Vec<(Uuid, i64)> {
    let query = "SELECT id, price_minor FROM products WHERE stock > 1000 AND currency = 'EUR' ORDER BY id LIMIT 2";
    sqlx::query_as(query).fetch_all(database).await.unwrap()
}

async fn stock(database: &mut PgConnection, product: Uuid) -> i64 {
    sqlx::query_scalar("SELECT stock FROM products WHERE id = $1").bind(product).fetch_one(database).await.unwrap()
}

fn items(items: &[(Uuid, u32)]) -> Value {
    let items = items.iter().map(|(product, quantity)| json!({"product_id": product, "quantity": quantity}));
    json!({"items": items.collect::<Vec<_>>()})
}

async fn shown(caller: &Caller, id: &str) -> Value {
    let response = caller.get(&format!("/v1/orders/{id}")).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

fn moment(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a moment").parse().unwrap()
}

#[tokio::test]
async fn an_order_is_taken_at_once_placed_at_the_prices_of_the_catalogue_confirmed_by_one_mail_and_can_be_cancelled() {
    let (caller, mut database) = (bob(), database().await);
    let products = plenty(&mut database).await;
    let [(one, one_costs), (other, other_costs)] = products[..] else { panic!("two products: {products:?}") };
    let before = (stock(&mut database, one).await, stock(&mut database, other).await);
    let id = caller.ordered(&items(&[(other, 2), (one, 1)])).await;
    let job = caller.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");

    let order = shown(&caller, &id).await;
    assert_eq!((&order["state"], &order["currency"]), (&json!("placed"), &json!("EUR")), "{order:#}");
    assert_eq!(order["total_minor"], one_costs + 2 * other_costs);
    assert_eq!(order["items"][0]["product_id"], other.to_string());
    assert_eq!(order["items"][0]["unit_price_minor"], other_costs);
    assert!(moment(&order["accepted_at"]) <= moment(&order["placed_at"]), "{order:#}");
    assert_eq!((stock(&mut database, one).await, stock(&mut database, other).await), (before.0 - 1, before.1 - 2));
    let listed: Value = caller.get("/v1/orders?limit=1").await.json().await.unwrap();
    assert_eq!(listed["orders"][0]["id"], id.as_str());
    let theirs = Caller::new(backing::composed("POSTROOM_TOKEN_ALICE")).get(&format!("/v1/orders/{id}")).await;
    assert_eq!(theirs.status(), StatusCode::OK, "the staff sees every order");

    let mails = sent_mail(&id).await;
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["to"][0]["address"], "bob@shop.example");
    let number = order["number"].to_string();
    assert!(mails[0]["text"].as_str().unwrap().contains(&number), "{}", mails[0]["text"]);

    let cancelled = caller.delete(&format!("/v1/orders/{id}")).await;
    assert_eq!(cancelled.status(), StatusCode::OK);
    assert_eq!(shown(&caller, &id).await["state"], "cancelled");
    assert_eq!((stock(&mut database, one).await, stock(&mut database, other).await), before);
    all_work_done().await;
    assert_eq!(mails_of(&id).await.len(), 1);
}

#[tokio::test]
async fn an_order_that_cannot_be_is_refused_with_a_reason_and_a_mail_and_is_no_dead_letter() {
    let (caller, mut database) = (bob(), database().await);
    let (one, _) = plenty(&mut database).await[0];
    let (none, name): (Uuid, String) =
        sqlx::query_as("SELECT id, name FROM products WHERE stock = 0 LIMIT 1").fetch_one(&mut database).await.unwrap();
    let before = stock(&mut database, one).await;
    let id = caller.ordered(&items(&[(one, 1), (none, 1)])).await;
    let job = caller.ended(&id).await;
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("refused"), &json!("out-of-stock")), "{job:#}");
    let order = shown(&caller, &id).await;
    assert_eq!(order["state"], "refused");
    let reason = order["refusal"]["reason"].as_str().unwrap();
    assert!(reason.contains(&name), "{reason}");
    let mails = sent_mail(&id).await;
    assert!(mails[0]["text"].as_str().unwrap().contains(&name), "{}", mails[0]["text"]);
    assert_eq!(stock(&mut database, one).await, before, "all of an order or nothing");
    all_work_done().await;
    let dead = copies_of("rabbitmq").run(&[
        "rabbitmqctl",
        "--quiet",
        "list_queues",
        "--vhost",
        "postroom",
        "name",
        "messages",
    ]);
    assert!(dead.lines().any(|line| line == "order.dead\t0"), "{dead}");
}

/// Everything that holds anything is started anew meanwhile, and what Redis had cached is forgotten.
#[tokio::test]
async fn orders_of_a_time_without_the_database_are_all_taken_and_shown_and_placed_once_each_after_it() {
    let (caller, mut connection) = (alice(), database().await);
    let (product, _) = plenty(&mut connection).await[0];
    let before = stock(&mut connection, product).await;
    drop(connection);
    // So that a token is known without the database, as one of a customer who was there today is.
    assert_eq!(caller.get("/v1/orders").await.status(), StatusCode::OK);
    let (postgres, copies, webs, workers) = (
        copies_of("postgres"),
        copies_of("redis-cache"),
        copies_of("web").and(copies_of("web-2")),
        copies_of("order-worker"),
    );
    let begun = Utc::now();
    postgres.stop();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(caller.ordered(&items(&[(product, 1)])).await);
    }
    copies.kill();
    workers.kill();
    webs.kill();
    copies.start();
    workers.start();
    webs.start();
    webs.healthy().await;
    for _ in 0..10 {
        ids.push(caller.ordered(&items(&[(product, 1)])).await);
    }
    for id in &ids {
        assert_eq!(caller.job(id).await["state"], "queued");
        assert_eq!(shown(&caller, id).await["state"], "queued");
    }
    let over = Utc::now();
    postgres.start();
    for id in &ids {
        let job = caller.ended(id).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let order = shown(&caller, id).await;
        let accepted_at = moment(&order["accepted_at"]);
        assert!(begun < accepted_at && accepted_at < over && over < moment(&order["placed_at"]), "{order:#}");
        sent_mail(id).await;
    }
    all_work_done().await;
    for id in &ids {
        assert_eq!(mails_of(id).await.len(), 1, "{id}");
    }
    let mut connection = database().await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE id::text = ANY($1)")
        .bind(&ids)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(rows, 20);
    assert_eq!(stock(&mut connection, product).await, before - 20);
    let page = reqwest::get(url("/v1/products")).await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
}
