//! Making an account and signing in, and what neither tells.

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use store::PgPool;

use crate::harness::{ALICE, ALICE_ID, Behind, PASSWORD, Web, closed_port, database, problem, sid};

fn ada() -> Value {
    json!({"name": "Ada", "email": "ada@shop.example", "password": PASSWORD, "country": "DE"})
}

async fn register(web: &Web, body: &Value) -> Response {
    web.client.post(web.url("/v1/register")).json(body).send().await.unwrap()
}

/// The mails that are on their way: template, name and address.
async fn mails(pool: &PgPool) -> Vec<(String, String, String)> {
    let mails = "SELECT message->'payload'->>'template', message->'payload'->'to'->>'name',
        message->'payload'->'to'->>'address' FROM outbox WHERE kind = 'email.send' ORDER BY created_at";
    sqlx::query_as(mails).fetch_all(pool).await.unwrap()
}

async fn users(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(pool).await.unwrap()
}

/// What a client can see of an answer.
async fn seen(response: Response) -> (StatusCode, Vec<String>, String) {
    let names = response.headers().iter().filter(|(name, _)| *name != "date");
    let headers = names.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    (response.status(), headers, response.text().await.unwrap())
}

#[tokio::test]
async fn who_registers_gets_a_mail_and_an_account_that_only_its_password_opens() {
    let database = database().await;
    // Neither broker nor mail server is there: the answer waits for none of them.
    let web = Web::start(Behind::database(&database)).await;
    assert_eq!(register(&web, &ada()).await.status(), StatusCode::ACCEPTED);
    let welcome = ("welcome".to_owned(), "Ada".to_owned(), "ada@shop.example".to_owned());
    assert_eq!(mails(&web.pool).await, [welcome]);
    let hash: String = sqlx::query_scalar("SELECT password_hash FROM users WHERE email = 'ada@shop.example'")
        .fetch_one(&web.pool)
        .await
        .unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");

    let response = web.login("Ada@Shop.Example", PASSWORD).await;
    assert_eq!(response.status(), StatusCode::OK);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    let id = sid(&response).unwrap();
    assert_eq!(cookie, format!("__Host-sid={id}; HttpOnly; SameSite=Lax; Secure; Path=/"));
    let user: Value = response.json().await.unwrap();
    assert_eq!((&user["name"], &user["role"]), (&json!("Ada"), &json!("customer")));
    assert_eq!(web.status_of(&id).await, 200);
    problem(web.login("ada@shop.example", "correct horsf").await, 401, "credentials-wrong").await;
    web.stop().await;
}

#[tokio::test]
async fn who_guesses_passwords_is_told_to_wait_before_anything_is_looked_up() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let own = web.member("ada@shop.example").await;
    // As many as may be tried at once, over all ways, whether or not there is such an account.
    for (email, tries) in [("Ada@Shop.Example", 8), ("nobody@shop.example", 10)] {
        for _ in 0..tries {
            problem(web.login(email, "correct horsf").await, 401, "credentials-wrong").await;
        }
        problem(web.login(email, "correct horsf").await, 429, "too-many-requests").await;
    }
    // Also with the right one, by another way, and for what would find the database gone.
    problem(web.login("ada@shop.example", PASSWORD).await, 429, "too-many-requests").await;
    let change = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    let change = web.with_sid(Method::POST, "/v1/password", &own.sid).json(&change);
    problem(change.send().await.unwrap(), 429, "too-many-requests").await;
    web.pool.close().await;
    problem(web.login("ada@shop.example", PASSWORD).await, 429, "too-many-requests").await;
    problem(register(&web, &ada()).await, 429, "too-many-requests").await;
    // Nobody else has to wait.
    assert_eq!(web.login("alice@shop.example", PASSWORD).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    web.stop().await;
}

#[tokio::test]
async fn an_address_that_is_taken_gets_the_same_answer_and_its_owner_one_mail_a_day() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut stranger = ada();
    stranger["email"] = json!("someone@shop.example");
    let free = seen(register(&web, &stranger).await).await;
    // Alice has an account; whoever this is calls her by another name and writes her address otherwise.
    stranger["email"] = json!("Alice@Shop.Example");
    for _ in 0..3 {
        assert_eq!(seen(register(&web, &stranger).await).await, free);
    }
    assert_eq!(users(&web.pool).await, 3);
    let told = ("address-taken".to_owned(), "Alice".to_owned(), "alice@shop.example".to_owned());
    assert_eq!(mails(&web.pool).await[1..], [told]);
    problem(web.login("alice@shop.example", PASSWORD).await, 401, "credentials-wrong").await;
    web.stop().await;
}

#[tokio::test]
async fn a_sign_in_that_fails_is_answered_the_same_whatever_is_wrong() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    assert_eq!(register(&web, &ada()).await.status(), StatusCode::ACCEPTED);
    let wrong = seen(web.login("ada@shop.example", "another password").await).await;
    assert_eq!(wrong.0, StatusCode::UNAUTHORIZED);
    for (email, password) in [
        ("nobody@shop.example", PASSWORD),
        // There is an account, without a password.
        ("alice@shop.example", PASSWORD),
        ("ada@shop.example", ""),
        ("ada@shop.example", "CORRECT HORSE"),
        ("ada@shop.example", "correct horse "),
    ] {
        assert_eq!(seen(web.login(email, password).await).await, wrong, "{email}");
    }
    web.stop().await;
}

/// What becomes of a request, and how many passwords were hashed for it.
async fn hashed(web: &Web, answer: impl Future<Output = Response>) -> (StatusCode, u64) {
    let before = web.app().passwords_hashed();
    let status = answer.await.status();
    (status, web.app().passwords_hashed() - before)
}

#[tokio::test]
async fn whether_there_is_an_account_makes_no_difference_to_how_much_is_hashed() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let (free, mut taken) = (ada(), ada());
    taken["email"] = json!("alice@shop.example");
    for body in [&free, &taken] {
        assert_eq!(hashed(&web, register(&web, body)).await, (StatusCode::ACCEPTED, 1), "{body}");
    }
    // The right password, a wrong one, no password, no account.
    for (email, password, status) in [
        ("ada@shop.example", PASSWORD, StatusCode::OK),
        ("ada@shop.example", "another password", StatusCode::UNAUTHORIZED),
        ("alice@shop.example", PASSWORD, StatusCode::UNAUTHORIZED),
        ("nobody@shop.example", PASSWORD, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(hashed(&web, web.login(email, password)).await, (status, 1), "{email}, {password}");
    }
    web.stop().await;
}

#[tokio::test]
async fn what_cannot_be_an_account_is_refused_and_leaves_nothing() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let rows = [
        ("name", json!("Ada\r\nBcc: eve@evil.example")),
        ("name", json!("Ada\0")),
        ("name", json!("a".repeat(101))),
        ("name", json!(" ")),
        ("email", json!("ada@shop.example\r\nBcc: eve@evil.example")),
        ("email", json!("ada")),
        ("password", json!("1234567")),
        ("password", json!("a".repeat(129))),
        ("country", json!("de")),
        ("country", json!(null)),
        ("role", json!("operator")),
        ("id", json!("01935a7c-1c00-7000-8000-000000000001")),
    ];
    for (field, value) in rows {
        let mut body = ada();
        body[field] = value;
        let told = problem(register(&web, &body).await, 422, "validation").await;
        assert_eq!(told["errors"][0]["field"], field, "{told}");
        assert!(!told.to_string().contains("aaaa"), "what was sent is not repeated: {told}");
    }
    let long = problem(web.login("ada@shop.example", &"a".repeat(129)).await, 422, "validation").await;
    assert_eq!(long["errors"][0]["field"], "password");
    let form = web.client.post(web.url("/v1/login")).header("content-type", "application/x-www-form-urlencoded");
    problem(form.body("email=ada@shop.example&password=x").send().await.unwrap(), 415, "unsupported-media-type").await;
    assert_eq!((users(&web.pool).await, mails(&web.pool).await.len()), (2, 0));
    web.stop().await;
}

#[tokio::test]
async fn without_the_database_nobody_registers_or_signs_in_and_is_told_to_come_back() {
    let web = Web::start(Behind::nothing()).await;
    problem(register(&web, &ada()).await, 503, "store-unavailable").await;
    problem(web.login("ada@shop.example", PASSWORD).await, 503, "store-unavailable").await;
    web.stop().await;
}

#[tokio::test]
async fn a_hash_of_an_older_kind_is_renewed_at_the_next_sign_in() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8192, 1, 1, None).unwrap());
    let old: PasswordHash = weak.hash_password(PASSWORD.as_bytes()).unwrap();
    sqlx::query("UPDATE users SET password_hash = $1 WHERE id = $2")
        .bind(old.to_string())
        .bind(ALICE_ID)
        .execute(&web.pool)
        .await
        .unwrap();
    let kept = async || {
        let kept = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1").bind(ALICE_ID);
        kept.fetch_one(&web.pool).await.unwrap()
    };
    problem(web.login("alice@shop.example", "another password").await, 401, "credentials-wrong").await;
    let same: String = kept().await;
    assert_eq!(same, old.to_string());
    web.signed_in("alice@shop.example", PASSWORD).await;
    let renewed: String = kept().await;
    assert!(renewed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{renewed}");
    web.signed_in("alice@shop.example", PASSWORD).await;
    assert_eq!(kept().await, renewed);
    web.stop().await;
}

#[tokio::test]
async fn an_operator_changes_a_role_which_ends_the_users_sessions_and_nobody_else_does() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let (ada, eve) = tokio::join!(web.member("ada@shop.example"), web.member("eve@shop.example"));
    let path = format!("/v1/users/{}/role", eve.user);
    let put = async |sid: &str, path: &str, role: &str| {
        web.with_sid(Method::PUT, path, sid).json(&json!({"role": role})).send().await.unwrap()
    };
    for role in ["customer", "staff"] {
        sqlx::query("UPDATE users SET role = $1 WHERE id = $2")
            .bind(role)
            .bind(ada.user)
            .execute(&web.pool)
            .await
            .unwrap();
        let ada = web.signed_in("ada@shop.example", PASSWORD).await;
        problem(put(&ada.sid, &path, "operator").await, 403, "role-missing").await;
    }
    problem(put(&eve.sid, &path, "operator").await, 403, "role-missing").await;
    let token = web.client.put(web.url(&path)).bearer_auth(ALICE).json(&json!({"role": "operator"}));
    problem(token.send().await.unwrap(), 403, "session-needed").await;

    sqlx::query("UPDATE users SET role = 'operator' WHERE id = $1").bind(ada.user).execute(&web.pool).await.unwrap();
    let operator = web.signed_in("ada@shop.example", PASSWORD).await;
    problem(put(&operator.sid, &path, "king").await, 422, "validation").await;
    let nobody = uuid::Uuid::now_v7();
    problem(put(&operator.sid, &format!("/v1/users/{nobody}/role"), "staff").await, 404, "not-found").await;
    assert_eq!(web.status_of(&eve.sid).await, 200);
    assert_eq!(put(&operator.sid, &path, "staff").await.status(), StatusCode::NO_CONTENT);
    assert_eq!((web.status_of(&eve.sid).await, web.status_of(&operator.sid).await), (401, 200));
    let again: Value = web.login("eve@shop.example", PASSWORD).await.json().await.unwrap();
    assert_eq!(again["role"], "staff");
    // Of the change a number is left, longer than any token lives, and of nobody none.
    let seconds = async |user| {
        let key = web.redis.key(&["account-generation", &format!("{user}")]);
        web.redis.query::<i64>("look", redis::cmd("TTL").arg(key)).await.unwrap()
    };
    assert!(seconds(eve.user).await > 366 * 86_400);
    assert_eq!(seconds(nobody).await, -2);
    web.stop().await;
}

#[tokio::test]
async fn while_redis_is_away_nobody_is_signed_in_and_one_can_register() {
    let database = database().await;
    let mut behind = Behind::database(&database);
    behind.redis.url = format!("redis://{}", closed_port()).into();
    let web = Web::start(behind).await;
    assert_eq!(register(&web, &ada()).await.status(), StatusCode::ACCEPTED);
    problem(web.login("ada@shop.example", PASSWORD).await, 503, "identity-unavailable").await;
    web.stop().await;
}
