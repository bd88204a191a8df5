//! Sessions: how they begin, what ends them, and who cannot make use of one.

use std::collections::BTreeSet;
use std::time::Duration;

use backing::{Proxy, redis_url};
use cache::RedisSettings;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    ALICE, ALICE_ID, Behind, Member, PASSWORD, Told, Web, database, insert_token, november, problem, secret_key, sid,
    vhost, wait,
};

#[tokio::test]
async fn an_id_that_somebody_else_has_set_is_never_the_sessions() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let first = web.member("ada@shop.example").await;
    // One that nobody has, one that is none, and one that an attacker is signed in with.
    for preset in ["AAAAAAAAAAAAAAAAAAAAAA", "no id at all", &first.sid] {
        let body = json!({"email": "ada@shop.example", "password": PASSWORD});
        let response = web.with_sid(Method::POST, "/v1/login", preset).json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let own = sid(&response).unwrap();
        assert_ne!(own, preset);
        assert_eq!((web.status_of(preset).await, web.status_of(&own).await), (401, 200), "{preset}");
    }
    web.stop().await;
}

#[tokio::test]
async fn a_session_that_was_signed_out_of_opens_nothing() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let (ada, other) = (web.member("ada@shop.example").await, web.signed_in("ada@shop.example", PASSWORD).await);
    let out = web.with_sid(Method::POST, "/v1/logout", &ada.sid).send().await.unwrap();
    assert_eq!(out.status(), StatusCode::NO_CONTENT);
    assert_eq!(out.headers()["set-cookie"], "__Host-sid=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
    let replayed = web.with_sid(Method::GET, "/v1/tokens", &ada.sid).send().await.unwrap();
    assert_eq!(replayed.headers()["set-cookie"], "__Host-sid=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
    problem(replayed, 401, "unauthenticated").await;
    problem(web.with_sid(Method::POST, "/v1/logout", &ada.sid).send().await.unwrap(), 401, "unauthenticated").await;
    assert_eq!(web.status_of(&other.sid).await, 200, "the session of another browser goes on");
    web.stop().await;
}

/// Two copies of web with one Redis.
async fn two(database: &backing::Database) -> (Web, Web) {
    let one = Behind::database(database);
    let redis = one.redis.clone();
    (Web::start(one).await, Web::start(Behind { redis, ..Behind::database(database) }).await)
}

#[tokio::test]
async fn who_signs_out_everywhere_is_signed_out_of_every_process_and_its_tokens_stay() {
    let database = database().await;
    let (one, two) = two(&database).await;
    let first = one.member("ada@shop.example").await;
    let (second, eve) = (two.signed_in("ada@shop.example", PASSWORD).await, two.member("eve@shop.example").await);
    insert_token(&one.pool, first.user, "a-token-of-a-machine-of-adas").await;
    assert_eq!((two.status_of(&first.sid).await, one.status_of(&second.sid).await), (200, 200));
    let out = one.with_sid(Method::POST, "/v1/logout/everywhere", &first.sid).send().await.unwrap();
    assert_eq!(out.status(), StatusCode::NO_CONTENT);
    for web in [&one, &two] {
        for sid in [&first.sid, &second.sid] {
            assert_eq!(web.status_of(sid).await, 401);
        }
        assert_eq!(web.status_of(&eve.sid).await, 200, "somebody else stays");
        assert_eq!(web.status_of_token("a-token-of-a-machine-of-adas").await, 200);
    }
    let again = two.signed_in("ada@shop.example", PASSWORD).await;
    assert_eq!(one.status_of(&again.sid).await, 200);
    one.stop().await;
    two.stop().await;
}

async fn change(web: &Web, sid: &str, current: &str, new: &str) -> reqwest::Response {
    let body = json!({"current_password": current, "new_password": new});
    web.with_sid(Method::POST, "/v1/password", sid).json(&body).send().await.unwrap()
}

#[tokio::test]
async fn another_password_ends_the_other_sessions_and_gives_this_one_a_new_id() {
    let database = database().await;
    let (one, two) = two(&database).await;
    let own = one.member("ada@shop.example").await;
    let other = two.signed_in("ada@shop.example", PASSWORD).await;
    let wrong = problem(change(&one, &own.sid, "another one", "battery staple").await, 422, "validation").await;
    assert_eq!(wrong["errors"][0]["field"], "current_password");
    for bad in ["1234567", &"a".repeat(129)] {
        let refused = problem(change(&one, &own.sid, PASSWORD, bad).await, 422, "validation").await;
        assert_eq!(refused["errors"][0]["field"], "new_password");
    }
    assert_eq!((one.status_of(&own.sid).await, one.status_of(&other.sid).await), (200, 200));

    let changed = change(&one, &own.sid, PASSWORD, "battery staple").await;
    assert_eq!(changed.status(), StatusCode::NO_CONTENT);
    let renewed = sid(&changed).unwrap();
    assert_ne!(renewed, own.sid);
    for web in [&one, &two] {
        let statuses = (web.status_of(&own.sid).await, web.status_of(&other.sid).await, web.status_of(&renewed).await);
        assert_eq!(statuses, (401, 401, 200));
    }
    problem(two.login("ada@shop.example", PASSWORD).await, 401, "credentials-wrong").await;
    two.signed_in("ada@shop.example", "battery staple").await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_sign_in_that_began_before_the_password_was_changed_does_not_outlive_the_change() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let own = web.member("ada@shop.example").await;
    // The change gets as far as the row, and waits there.
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM users WHERE id = $1 FOR UPDATE").bind(own.user).execute(&mut *holding).await.unwrap();
    let meanwhile = async {
        let generation = format!("sessions-generation:{}", own.user);
        wait("the sessions are ended for the first time", async || web.kept(&generation).await.is_some()).await;
        let late = web.signed_in("ada@shop.example", PASSWORD).await;
        assert_eq!((web.status_of(&own.sid).await, web.status_of(&late.sid).await), (401, 200));
        holding.rollback().await.unwrap();
        late
    };
    let (changed, late) = tokio::join!(change(&web, &own.sid, PASSWORD, "battery staple"), meanwhile);
    assert_eq!(changed.status(), StatusCode::NO_CONTENT);
    assert_eq!((web.status_of(&late.sid).await, web.status_of(&sid(&changed).unwrap()).await), (401, 200));
    web.stop().await;
}

/// A web that gives a request up soon.
async fn impatient(database: &backing::Database) -> Web {
    let mut behind = Behind::database(database);
    behind.limits.answer = Duration::from_secs(4);
    Web::start(behind).await
}

/// Has a change get as far as its user's row and wait there, until its request is given up. Then it may go on. What was signed in to
/// meanwhile is over once the change has been made.
async fn end_what_began_during(web: &Web, user: Uuid, email: &str, change: impl Future<Output = reqwest::Response>) {
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM users WHERE id = $1 FOR UPDATE").bind(user).execute(&mut *holding).await.unwrap();
    let row = "SELECT concat(role, password_hash) FROM users WHERE id = $1";
    let row = async || sqlx::query_scalar::<_, String>(row).bind(user).fetch_one(&web.pool).await.unwrap();
    let before = row().await;
    let signing_in = async {
        let generation = format!("sessions-generation:{user}");
        let ended = async || web.kept(&generation).await.is_some_and(|number| number != "0");
        wait("the sessions are ended for the first time", ended).await;
        let late = web.signed_in(email, PASSWORD).await;
        assert_eq!(web.status_of(&late.sid).await, 200);
        late
    };
    let (given_up, late) = tokio::join!(change, signing_in);
    problem(given_up, 503, "late").await;
    holding.rollback().await.unwrap();
    wait("the change is made", async || row().await != before).await;
    wait("the session is over", async || web.status_of(&late.sid).await == 401).await;
}

#[tokio::test]
async fn a_change_of_password_whose_request_is_given_up_leaves_no_session_of_the_old_one() {
    let database = database().await;
    let web = impatient(&database).await;
    let own = web.member("ada@shop.example").await;
    let changing = change(&web, &own.sid, PASSWORD, "battery staple");
    end_what_began_during(&web, own.user, "ada@shop.example", changing).await;
    web.stop().await;
}

#[tokio::test]
async fn a_change_of_role_whose_request_is_given_up_leaves_no_session_of_the_old_one() {
    let database = database().await;
    let web = impatient(&database).await;
    let (operator, eve) =
        (web.member_who_is("ada@shop.example", "operator").await, web.member("eve@shop.example").await);
    let path = format!("/v1/users/{}/role", eve.user);
    let changing = web.with_sid(Method::PUT, &path, &operator.sid).json(&json!({"role": "staff"})).send();
    end_what_began_during(&web, eve.user, "eve@shop.example", async { changing.await.unwrap() }).await;
    web.stop().await;
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_over_and_one_in_use_goes_on() {
    let database = database().await;
    let mut behind = Behind::database(&database);
    behind.limits.session_idle = Duration::from_secs(10);
    let web = Web::start(behind).await;
    let (used, left) = (web.member("ada@shop.example").await, web.member("eve@shop.example").await);
    // Until the one that nobody uses is gone from Redis, the other is used; and it is the older one.
    let key = secret_key("session", &left.sid);
    wait("the session is over", async || {
        assert_eq!(web.status_of(&used.sid).await, 200);
        web.kept(&key).await.is_none()
    })
    .await;
    assert_eq!((web.status_of(&left.sid).await, web.status_of(&used.sid).await), (401, 200));
    web.stop().await;
}

#[tokio::test]
async fn a_session_is_over_in_the_end_however_much_it_is_used_or_renewed() {
    let database = database().await;
    let mut behind = Behind::database(&database);
    behind.limits.session_absolute = Duration::from_secs(10);
    let web = Web::start(behind).await;
    let ada = web.member("ada@shop.example").await;
    // A new id begins no new time.
    let begun = async |sid: &str| -> Value {
        let kept = web.kept(&secret_key("session", sid)).await.unwrap();
        serde_json::from_str::<Value>(&kept).unwrap()["signed_in"]["begun_at"].clone()
    };
    let first = begun(&ada.sid).await;
    let sid = sid(&change(&web, &ada.sid, PASSWORD, "battery staple").await).unwrap();
    assert_eq!(begun(&sid).await, first);
    wait("the session is over", async || web.status_of(&sid).await == 401).await;
    assert_eq!(web.kept(&secret_key("session", &sid)).await, None);
    web.stop().await;
}

#[tokio::test]
async fn redis_holds_no_id_that_could_be_used() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    let record = web.kept(&secret_key("session", &ada.sid)).await.expect("it is under the hash of its id");
    assert!(!record.contains(&ada.sid), "{record}");
    assert_eq!(web.kept(&format!("session:{}", ada.sid)).await, None);
    web.stop().await;
}

/// Every request that changes something, as a session would send it.
fn unsafe_requests(user: &Member) -> Vec<(Method, String, Option<Value>)> {
    let id = Uuid::now_v7();
    vec![
        (Method::POST, "/v1/reports".to_owned(), Some(november())),
        (Method::DELETE, format!("/v1/jobs/{id}"), None),
        (Method::POST, "/v1/schedules".to_owned(), Some(json!({}))),
        (Method::DELETE, format!("/v1/schedules/{id}"), None),
        (Method::POST, "/v1/register".to_owned(), Some(json!({}))),
        (Method::POST, "/v1/login".to_owned(), Some(json!({"email": "ada@shop.example", "password": PASSWORD}))),
        (Method::POST, "/v1/logout".to_owned(), None),
        (Method::POST, "/v1/logout/everywhere".to_owned(), None),
        (Method::POST, "/v1/password".to_owned(), Some(json!({}))),
        (Method::PUT, format!("/v1/users/{}", user.user), Some(json!({"name": "Eve", "country": "FR"}))),
        (Method::PUT, format!("/v1/users/{}/role", user.user), Some(json!({"role": "operator"}))),
        (
            Method::PUT,
            format!("/v1/products/{id}"),
            Some(json!({"name": "Tea", "category": "Pantry", "price_minor": 1, "currency": "EUR"})),
        ),
        (Method::PUT, format!("/v1/products/{id}/stock"), Some(json!({"stock": 1}))),
        (Method::POST, "/v1/orders".to_owned(), Some(json!({"items": [{"product_id": id, "quantity": 1}]}))),
        (Method::DELETE, format!("/v1/orders/{id}"), None),
        (Method::PUT, format!("/v1/orders/{id}/shipment"), None),
        (Method::POST, "/v1/videos".to_owned(), Some(json!({}))),
        (Method::POST, "/v1/tokens".to_owned(), Some(json!({"name": "x", "scopes": ["jobs:read"]}))),
        (Method::DELETE, format!("/v1/tokens/{id}"), None),
    ]
}

/// The route of a path that has an id in it, as it is described.
fn route(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.parse::<Uuid>().is_ok() { "{id}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn what_another_site_has_a_browser_send_is_refused_at_every_route() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    let requests = unsafe_requests(&ada);
    let described: Value = web.get("/openapi.json").await.json().await.unwrap();
    let described: BTreeSet<(String, String)> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .filter(|(method, _)| method != "GET")
        .collect();
    let asked = requests.iter().map(|(method, path, _)| (method.to_string(), route(path))).collect();
    assert_eq!(described, asked, "every route is here");
    for (method, path, body) in &requests {
        let request = || {
            let request = web.with_sid(method.clone(), path, &ada.sid);
            if let Some(body) = body { request.json(body) } else { request }
        };
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let refused = request().header(name, value).send().await.unwrap();
            problem(refused, 403, "cross-site").await;
        }
        // A form needs no permission of ours to be sent.
        let form =
            web.with_sid(method.clone(), path, &ada.sid).header("content-type", "application/x-www-form-urlencoded");
        problem(form.body("a=b").send().await.unwrap(), 415, "unsupported-media-type").await;
    }
    assert_eq!(web.status_of(&ada.sid).await, 200, "nothing of it was done");
    let own = web.with_sid(Method::POST, "/v1/tokens", &ada.sid).json(&json!({"name": "x", "scopes": ["jobs:read"]}));
    let own = own.header("origin", format!("http://{}", web.address)).send().await.unwrap();
    assert_eq!(own.status(), StatusCode::CREATED);
    web.stop().await;
}

#[tokio::test]
async fn a_session_sees_its_own_jobs_only() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let (alices, ada) = (Told::queued(&web).await, web.member("ada@shop.example").await);
    let id = alices.id;
    for (method, path) in [
        (Method::GET, format!("/v1/jobs/{id}")),
        (Method::DELETE, format!("/v1/jobs/{id}")),
        (Method::GET, format!("/v1/jobs/{id}/events")),
        (Method::GET, format!("/v1/reports/{id}/pdf")),
    ] {
        let response = web.with_sid(method, &path, &ada.sid).send().await.unwrap();
        problem(response, 404, "not-found").await;
    }
    web.stop().await;
}

#[tokio::test]
async fn a_token_does_nothing_to_the_account_that_it_belongs_to() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let ada = web.member("ada@shop.example").await;
    for (method, path, body) in unsafe_requests(&ada) {
        let account =
            ["/v1/logout", "/v1/password", "/v1/users", "/v1/tokens"].iter().any(|start| path.starts_with(start));
        if account {
            let request = web.client.request(method, web.url(&path)).bearer_auth(ALICE);
            let request = if let Some(body) = body { request.json(&body) } else { request };
            problem(request.send().await.unwrap(), 403, "session-needed").await;
        }
    }
    for path in ["/v1/tokens".to_owned(), format!("/v1/users/{ALICE_ID}")] {
        problem(web.get(&path).await, 403, "session-needed").await;
    }
    web.stop().await;
}

#[tokio::test]
async fn while_redis_is_away_a_session_is_neither_over_nor_believed_and_goes_on_after() {
    let database = database().await;
    let proxy = Proxy::start(&redis_url("durable")).await;
    let mut behind = Behind::database(&database);
    behind.redis = RedisSettings { url: proxy.url.as_str().into(), ..behind.redis };
    let web = Web::start(behind).await;
    let ada = web.member("ada@shop.example").await;
    for silent in [true, false] {
        if silent {
            proxy.silence(true)
        } else {
            proxy.cut(true)
        }
        for (method, path, _) in unsafe_requests(&ada) {
            if path != "/v1/register" && path != "/v1/login" {
                let response = web.with_sid(method, &path, &ada.sid).send().await.unwrap();
                assert!(response.headers().get("set-cookie").is_none(), "{path}: the cookie is not taken back");
                problem(response, 503, "identity-unavailable").await;
            }
        }
        problem(web.login("ada@shop.example", PASSWORD).await, 503, "identity-unavailable").await;
        proxy.silence(false);
        proxy.cut(false);
        wait("the session goes on", async || web.status_of(&ada.sid).await == 200).await;
    }
    web.stop().await;
}

#[tokio::test]
async fn a_session_asks_for_work_without_the_database() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let behind = Behind::database(&database);
    let redis = behind.redis.clone();
    let web = Web::start(behind).await;
    let ada = web.staff_member("ada@shop.example").await;
    web.stop().await;
    let web = Web::start_connected(Behind { redis, ..Behind::broker(&vhost) }).await;
    let asked = web.with_sid(Method::POST, "/v1/reports", &ada.sid).json(&november()).send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::ACCEPTED);
    web.stop().await;
    vhost.finish(&[("report.normal", 1), ("tracker.lifecycle", 1)]).await;
}

#[tokio::test]
async fn only_the_staff_asks_for_what_the_whole_shop_sold() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let (ada, eve) = (web.member("ada@shop.example").await, web.staff_member("eve@shop.example").await);
    let schedule = json!({"name": "weekly", "cron": "0 8 * * 1", "time_zone": "UTC",
        "report": {"report": "sales", "period": "last-week"}});
    for (path, body) in [("/v1/reports", november()), ("/v1/schedules", schedule)] {
        let ask = async |sid: &str| web.with_sid(Method::POST, path, sid).json(&body).send().await.unwrap();
        problem(ask(&ada.sid).await, 403, "role-missing").await;
        assert!(ask(&eve.sid).await.status().is_success(), "{path}");
    }
    web.stop().await;
}
