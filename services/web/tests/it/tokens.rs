//! Tokens of machines: what they reach, and how soon one that is revoked reaches nothing.

use backing::{Proxy, redis_url};
use cache::RedisSettings;
use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    ALICE, ALICE_ID, BOB_ID, Behind, Member, Web, closed_port, database, entry, insert_token, keep, november, problem,
    secret_key, vhost, wait,
};

/// Makes a token; its id and itself.
async fn make(web: &Web, member: &Member, scopes: &[&str]) -> (String, String) {
    let body = json!({"name": "nightly", "scopes": scopes});
    let made = web.with_sid(Method::POST, "/v1/tokens", &member.sid).json(&body).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

async fn revoke(web: &Web, member: &Member, id: &str) -> reqwest::Response {
    web.with_sid(Method::DELETE, &format!("/v1/tokens/{id}"), &member.sid).send().await.unwrap()
}

/// Two copies of web with one Redis.
async fn two(database: &backing::Database) -> (Web, Web) {
    let one = Behind::database(database);
    let redis = one.redis.clone();
    (Web::start(one).await, Web::start(Behind { redis, ..Behind::database(database) }).await)
}

#[tokio::test]
async fn a_token_is_shown_once_and_kept_nowhere() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    let (id, token) = make(&web, &ada, &["jobs:write", "jobs:read", "jobs:read"]).await;
    assert!(token.starts_with("prm_"), "{token}");
    assert_eq!(web.status_of_token(&token).await, 200);
    let list = web.with_sid(Method::GET, "/v1/tokens", &ada.sid).send().await.unwrap().text().await.unwrap();
    let shown: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(shown["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&shown["tokens"][0]["id"], &shown["tokens"][0]["scopes"]),
        (&json!(id), &json!(["jobs:read", "jobs:write"]))
    );
    let row: String = sqlx::query_scalar("SELECT row_to_json(api_tokens)::text FROM api_tokens WHERE id = $1")
        .bind(id.parse::<Uuid>().unwrap())
        .fetch_one(&web.pool)
        .await
        .unwrap();
    let kept = web.kept(&secret_key("token", &token)).await.expect("Redis knows it from the start");
    for text in [list, row, kept] {
        assert!(!text.contains(&token[4..]), "{text}");
    }
    web.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_token_is_refused_and_nobody_has_very_many() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    let ask = async |body: Value| web.with_sid(Method::POST, "/v1/tokens", &ada.sid).json(&body).send().await.unwrap();
    let good = json!({"name": "x", "scopes": ["jobs:read"], "expires_in_days": 1});
    for (field, value) in [
        ("name", json!("a\r\nb")),
        ("name", json!("")),
        ("scopes", json!([])),
        ("scopes[0]", json!(["admin"])),
        ("expires_in_days", json!(0)),
        ("expires_in_days", json!(367)),
        ("user_id", json!(ALICE_ID)),
    ] {
        let mut body = good.clone();
        body[field.split('[').next().unwrap()] = value;
        let told = problem(ask(body).await, 422, "validation").await;
        assert_eq!(told["errors"][0]["field"], field, "{told}");
    }
    for number in 0..50 {
        insert_token(&web.pool, ada.user, &format!("a-token-of-a-machine-{number}")).await;
    }
    problem(ask(good).await, 409, "too-many-tokens").await;
    web.stop().await;
}

#[tokio::test]
async fn a_token_reaches_as_far_as_its_scope() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    let (_, reads) = make(&web, &ada, &["jobs:read"]).await;
    let (_, writes) = make(&web, &ada, &["jobs:write"]).await;
    let id = Uuid::now_v7();
    for (method, path) in [
        (Method::POST, "/v1/reports".to_owned()),
        (Method::DELETE, format!("/v1/jobs/{id}")),
        (Method::POST, "/v1/schedules".to_owned()),
        (Method::DELETE, format!("/v1/schedules/{id}")),
    ] {
        let response = web.client.request(method, web.url(&path)).bearer_auth(&reads).send().await.unwrap();
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("insufficient_scope"), "{challenge}");
        problem(response, 403, "scope-missing").await;
    }
    for path in [
        "/v1/schedules".to_owned(),
        format!("/v1/jobs/{id}"),
        format!("/v1/jobs/{id}/events"),
        format!("/v1/reports/{id}/pdf"),
    ] {
        let response = web.client.get(web.url(&path)).bearer_auth(&writes).send().await.unwrap();
        problem(response, 403, "scope-missing").await;
    }
    assert_eq!(web.status_of_token(&reads).await, 200);
    let gone = web.client.delete(web.url(&format!("/v1/jobs/{id}"))).bearer_auth(&writes).send().await.unwrap();
    problem(gone, 404, "not-found").await;
    web.stop().await;
}

#[tokio::test]
async fn a_token_that_is_revoked_opens_nothing_at_any_process() {
    let database = database().await;
    let (one, two) = two(&database).await;
    let ada = one.member("ada@shop.example").await;
    let (id, token) = make(&one, &ada, &["jobs:read"]).await;
    assert_eq!((one.status_of_token(&token).await, two.status_of_token(&token).await), (200, 200));
    assert_eq!(revoke(&one, &ada, &id).await.status(), StatusCode::NO_CONTENT);
    assert_eq!((one.status_of_token(&token).await, two.status_of_token(&token).await), (401, 401));
    assert_eq!(revoke(&two, &ada, &id).await.status(), StatusCode::NO_CONTENT, "again changes nothing");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looked_a_token_up_before_it_was_revoked_does_not_bring_it_back() {
    let database = database().await;
    let (one, two) = two(&database).await;
    let ada = one.member("ada@shop.example").await;
    for round in 0..40 {
        // Unknown to Redis: everybody who comes with it asks PostgreSQL and tells Redis, while it is being revoked.
        let token = format!("a-token-of-a-machine-in-round-{round}");
        let id = insert_token(&one.pool, ada.user, &token).await.to_string();
        let looking = join_all((0..6).map(|place| if place % 2 == 0 { &one } else { &two }.status_of_token(&token)));
        let (revoked, _) = tokio::join!(revoke(&one, &ada, &id), looking);
        assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
        assert_eq!((one.status_of_token(&token).await, two.status_of_token(&token).await), (401, 401), "round {round}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_revocation_that_redis_has_lost_counts_again_once_the_database_is_asked() {
    let database = database().await;
    let behind = Behind::database(&database);
    let redis = behind.redis.clone();
    let web = Web::start(behind).await;
    let token = "a-token-of-a-machine-revoked";
    insert_token(&web.pool, ALICE_ID, token).await;
    sqlx::query("UPDATE api_tokens SET revoked_at = now()").execute(&web.pool).await.unwrap();
    let mut believed = entry(ALICE_ID, "Alice");
    believed["read_at"] = json!(Utc::now() - TimeDelta::minutes(6));
    keep(&redis, &secret_key("token", token), &believed.to_string()).await;
    wait("the token is found to be revoked", async || web.status_of_token(token).await == 401).await;
    assert_eq!(web.kept(&secret_key("token", token)).await.as_deref(), Some("revoked"));
    web.stop().await;
}

#[tokio::test]
async fn without_redis_the_database_decides_and_a_revocation_is_finished_once_it_is_back() {
    let database = database().await;
    let (proxy, direct) = (Proxy::start(&redis_url("durable")).await, Behind::database(&database));
    let mut behind = Behind { redis: direct.redis.clone(), ..Behind::database(&database) };
    behind.redis = RedisSettings { url: proxy.url.as_str().into(), ..behind.redis };
    let (away, there) = (Web::start(behind).await, Web::start(direct).await);
    let ada = there.member("ada@shop.example").await;
    let ((id, revoked), (_, good)) =
        (make(&there, &ada, &["jobs:read"]).await, make(&there, &ada, &["jobs:read"]).await);
    assert_eq!((away.status_of_token(&revoked).await, away.status_of_token(&good).await), (200, 200));
    proxy.cut(true);
    assert_eq!((away.status_of_token(&revoked).await, away.status_of_token(&good).await), (200, 200));
    assert_eq!(away.status_of_token("a-token-that-is-nobodys").await, 401);
    assert_eq!(revoke(&there, &ada, &id).await.status(), StatusCode::NO_CONTENT);
    assert_eq!((away.status_of_token(&revoked).await, away.status_of_token(&good).await), (401, 200));
    proxy.cut(false);
    wait("Redis is found again", async || away.status_of(&ada.sid).await == 200).await;
    assert_eq!((away.status_of_token(&revoked).await, away.status_of_token(&good).await), (401, 200));
    away.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn without_the_database_a_token_that_redis_knows_asks_for_work() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let behind = Behind::database(&database);
    let redis = behind.redis.clone();
    let web = Web::start(behind).await;
    let ada = web.staff_member("ada@shop.example").await;
    let (_, token) = make(&web, &ada, &["jobs:write"]).await;
    web.stop().await;

    let web = Web::start_connected(Behind { redis, ..Behind::broker(&vhost) }).await;
    let ask = async |token: &str| {
        web.client.post(web.url("/v1/reports")).bearer_auth(token).json(&november()).send().await.unwrap()
    };
    assert_eq!(ask(&token).await.status(), StatusCode::ACCEPTED);
    problem(ask("a-token-that-is-nobodys").await, 503, "identity-unavailable").await;
    web.stop().await;
    let message = vhost.take("report.normal").await;
    let payload: Value = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(payload["recipient"], json!({"name": "Ada", "address": "ada@shop.example"}));
    vhost.finish(&[("tracker.lifecycle", 1)]).await;
}

#[tokio::test]
async fn with_neither_redis_nor_database_nobody_is_believed_and_nobody_refused() {
    let mut behind = Behind::nothing();
    behind.redis.url = format!("redis://{}", closed_port()).into();
    let web = Web::start(behind).await;
    problem(web.get("/v1/schedules").await, 503, "identity-unavailable").await;
    problem(web.post_report(&november()).await, 503, "identity-unavailable").await;
    web.stop().await;
}

#[tokio::test]
async fn a_token_that_is_nobodys_is_not_looked_for_in_the_database_again_and_again() {
    let database = database().await;
    let proxy = Proxy::start(&database.url()).await;
    let web = Web::start(Behind { database_url: proxy.url.clone(), ..Behind::database(&database) }).await;
    assert_eq!(web.status_of_token("a-token-that-is-nobodys").await, 401);
    proxy.cut(true);
    assert_eq!(web.status_of_token("a-token-that-is-nobodys").await, 401);
    assert_eq!(web.status_of_token("another-token-that-is-nobodys").await, 503);
    // What cannot be a token is not looked for at all.
    for none in ["short", &"a".repeat(129), "with spaces in it, and long"] {
        assert_eq!(web.status_of_token(none).await, 401, "{none}");
    }
    web.stop().await;
}

#[tokio::test]
async fn a_token_whose_time_is_over_opens_nothing() {
    let database = database().await;
    let behind = Behind::database(&database);
    let redis = behind.redis.clone();
    let web = Web::start(behind).await;
    // As PostgreSQL has it, and as Redis would still keep it.
    insert_token(&web.pool, ALICE_ID, "a-token-whose-time-is-over").await;
    sqlx::query("UPDATE api_tokens SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day'")
        .execute(&web.pool)
        .await
        .unwrap();
    assert_eq!(web.status_of_token("a-token-whose-time-is-over").await, 401);
    let mut over = entry(ALICE_ID, "Alice");
    over["expires_at"] = json!(Utc::now() - TimeDelta::seconds(1));
    keep(&redis, &secret_key("token", ALICE), &over.to_string()).await;
    assert_eq!(web.status_of_token(ALICE).await, 401);
    web.stop().await;
}

#[tokio::test]
async fn an_account_that_is_changed_is_read_anew_by_its_tokens() {
    let database = database().await;
    let (one, two) = two(&database).await;
    let ada = one.member("ada@shop.example").await;
    sqlx::query("UPDATE users SET role = 'operator' WHERE id = $1").bind(ada.user).execute(&one.pool).await.unwrap();
    let operator = one.signed_in("ada@shop.example", crate::harness::PASSWORD).await;
    let known = async || {
        let kept = two.kept(&secret_key("token", ALICE)).await.unwrap();
        serde_json::from_str::<Value>(&kept).unwrap()["person"]["role"].clone()
    };
    assert_eq!((two.status_of_token(ALICE).await, known().await), (200, json!("staff")));
    let path = format!("/v1/users/{ALICE_ID}/role");
    let put = one.with_sid(Method::PUT, &path, &operator.sid).json(&json!({"role": "operator"})).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::NO_CONTENT);
    assert_eq!((two.status_of_token(ALICE).await, known().await), (200, json!("operator")));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn nobody_sees_or_revokes_the_tokens_of_others() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let (ada, eve) = tokio::join!(web.member("ada@shop.example"), web.member("eve@shop.example"));
    let (id, token) = make(&web, &ada, &["jobs:read"]).await;
    let bobs = insert_token(&web.pool, BOB_ID, "another-token-of-bobs").await.to_string();
    for id in [&id, &bobs, "no-id"] {
        problem(revoke(&web, &eve, id).await, 404, "not-found").await;
    }
    let list: Value = web.with_sid(Method::GET, "/v1/tokens", &eve.sid).send().await.unwrap().json().await.unwrap();
    assert_eq!(list, json!({"tokens": []}));
    assert_eq!(web.status_of_token(&token).await, 200);
    web.stop().await;
}

/// Guesses until it is told to wait; how often it was not.
async fn guess(web: &Web) -> usize {
    let mut guesses = 0;
    // One a second comes back.
    while guesses < 1000 && web.status_of_token(&format!("a-token-that-is-nobodys-{guesses}")).await == 401 {
        guesses += 1;
    }
    guesses
}

#[tokio::test]
async fn who_guesses_tokens_is_told_to_wait_before_the_database_is_asked() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let guesses = guess(&web).await;
    assert!((60..1000).contains(&guesses), "{guesses} guesses from one address");
    // What is known to be nobody's is no guess, and who has a token goes on.
    assert_eq!(web.status_of_token("a-token-that-is-nobodys-0").await, 401);
    assert_eq!(web.status_of_token(ALICE).await, 200);
    web.stop().await;
}

#[tokio::test]
async fn who_guesses_tokens_while_redis_is_away_is_told_to_wait_too() {
    let database = database().await;
    let mut behind = Behind::database(&database);
    behind.redis.url = format!("redis://{}", closed_port()).into();
    let web = Web::start(behind).await;
    assert_eq!(web.status_of_token(ALICE).await, 200);
    let guesses = guess(&web).await;
    assert!((60..1000).contains(&guesses), "{guesses} guesses from one address");
    web.stop().await;
}

#[tokio::test]
async fn a_good_token_that_many_use_at_once_for_the_first_time_is_no_guess() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    insert_token(&web.pool, BOB_ID, "another-token-of-bobs").await;
    let asked = (0..100).map(|_| web.status_of_token("another-token-of-bobs"));
    assert_eq!(futures_util::future::join_all(asked).await, [200; 100]);
    web.stop().await;
}
