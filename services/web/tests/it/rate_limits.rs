//! How much one may ask for, of however many processes, and what the answers say of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cache::{Redis, RedisSettings, Role};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use web::{LimitSettings, RateLimits, TrustedProxies};

use crate::harness::{ALICE, BOB, Behind, Web, closed_port, database, november, problem, redis};

/// So much a minute, and kept for all that have the same `redis`.
async fn web(redis: &RedisSettings, requests_per_minute: u32, trusted_proxies: &'static str) -> Web {
    let redis = redis.clone();
    Web::start(Behind { redis, requests_per_minute, trusted_proxies, ..Behind::nothing() }).await
}

/// Asks as whoever has a token, with what a proxy would say or the client pretend.
async fn ask(web: &Web, token: Option<&str>, forwarded: Option<&str>) -> Response {
    let request = web.client.get(web.url("/"));
    let request = token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token));
    match forwarded {
        Some(forwarded) => request.header("x-forwarded-for", forwarded),
        None => request,
    }
    .send()
    .await
    .unwrap()
}

fn field<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn every_answer_says_how_its_caller_stands_and_work_costs_more_than_a_look() {
    let web = web(&redis(), 15, "").await;
    // A unit comes back in 4 s. The first answer needs no time; what is refused then is refused for 20 s.
    let accepted = web.post_report(&november()).await;
    assert_eq!(accepted.status(), StatusCode::SERVICE_UNAVAILABLE, "there is no broker");
    assert_eq!(field(&accepted, "ratelimit-policy"), r#""requests";q=15;w=60"#);
    assert_eq!(field(&accepted, "ratelimit"), r#""requests";r=5;t=40"#);

    // Refused before its body is looked at.
    let refused = web.client.post(web.url("/v1/reports")).bearer_auth(ALICE).body("no JSON").send().await.unwrap();
    assert_eq!(field(&refused, "ratelimit-policy"), r#""requests";q=15;w=60"#);
    let standing = field(&refused, "ratelimit").to_owned();
    let retry_after: u64 = field(&refused, "retry-after").parse().unwrap();
    assert!(standing.starts_with(r#""requests";r="#), "{standing}");
    assert!((1..=20).contains(&retry_after), "{retry_after}");
    problem(refused, 429, "too-many-requests").await;

    // There is still room for a look.
    assert_eq!(ask(&web, Some(ALICE), None).await.status(), StatusCode::OK);
    web.stop().await;
}

/// What makes work for others: a job, a mail, a hash on purpose slow, or copies that every process reads anew. Whoever adds a route
/// says here which it is.
const WORK: [&str; 9] = [
    "POST /v1/login",
    "POST /v1/orders",
    "POST /v1/password",
    "POST /v1/register",
    "POST /v1/reports",
    "POST /v1/schedules",
    "POST /v1/tokens",
    "PUT /v1/products/{id}",
    "PUT /v1/users/{id}",
];
const HEAVY: [&str; 1] = ["POST /v1/videos"];
const LOOKS: [&str; 26] = [
    "DELETE /v1/jobs/{id}",
    "DELETE /v1/orders/{id}",
    "DELETE /v1/schedules/{id}",
    "DELETE /v1/tokens/{id}",
    "GET /",
    "GET /openapi.json",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/events",
    "GET /v1/orders",
    "GET /v1/orders/{id}",
    "GET /v1/products",
    "GET /v1/products/top",
    "GET /v1/products/{id}",
    "GET /v1/products/{id}/stock",
    "GET /v1/reports/{id}/pdf",
    "GET /v1/schedules",
    "GET /v1/schedules/{id}",
    "GET /v1/tokens",
    "GET /v1/users/{id}",
    "GET /v1/videos/{id}",
    "GET /v1/videos/{id}/files/{name}",
    "POST /v1/logout",
    "POST /v1/logout/everywhere",
    "PUT /v1/orders/{id}/shipment",
    "PUT /v1/products/{id}/stock",
    "PUT /v1/users/{id}/role",
];

#[tokio::test]
async fn what_makes_work_costs_ten_what_makes_much_of_it_a_hundred_and_everything_else_one() {
    let database = database().await;
    let behind = Behind { requests_per_minute: 1000, trusted_proxies: "127.0.0.0/8", ..Behind::database(&database) };
    let web = Web::start(behind).await;
    let described: Value = web.get("/openapi.json").await.json().await.unwrap();
    let mut costs = BTreeMap::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            // Each from an address of its own, of which nobody has asked for anything yet.
            let client = format!("198.51.100.{}", costs.len());
            let url = web.url(&path.replace("{id}", &uuid::Uuid::nil().to_string()));
            let request = web.client.request(method.parse().unwrap(), url).header("x-forwarded-for", client);
            let answer = request.send().await.unwrap();
            let left = field(&answer, "ratelimit").split(';').nth(1).unwrap().strip_prefix("r=").unwrap();
            costs.insert(format!("{method} {path}"), 1000 - left.parse::<u32>().unwrap());
        }
    }
    let of = |routes: &[&'static str], cost| routes.iter().map(|route| (*route, cost)).collect::<Vec<_>>();
    let expected = [of(&WORK, 10), of(&HEAVY, 100), of(&LOOKS, 1)].concat();
    assert_eq!(costs, expected.into_iter().map(|(route, cost)| (route.to_owned(), cost)).collect());
    web.stop().await;
}

#[tokio::test]
async fn a_limit_is_one_callers_own_and_the_same_at_every_process() {
    let redis = crate::harness::redis();
    // Whose token is nobody's, the database says.
    let database = database().await;
    let behind = || Behind { redis: redis.clone(), requests_per_minute: 1, ..Behind::database(&database) };
    let (one, two) = (Web::start(behind()).await, Web::start(behind()).await);
    assert_eq!(ask(&one, Some(ALICE), None).await.status(), StatusCode::OK);
    for web in [&one, &two] {
        problem(ask(web, Some(ALICE), None).await, 429, "too-many-requests").await;
        // Nothing that a client says of itself makes it another.
        problem(ask(web, Some(ALICE), Some("198.51.100.1")).await, 429, "too-many-requests").await;
    }
    assert_eq!(ask(&two, Some(BOB), None).await.status(), StatusCode::OK);
    // Whoever has no token, or none that is good, is counted by address.
    let stranger = one.client.get(one.url("/v1/schedules")).bearer_auth("a-token-of-nobody-at-all");
    let answer = stranger.try_clone().unwrap().send().await.unwrap();
    assert_eq!(field(&answer, "ratelimit"), r#""requests";r=0;t=60"#);
    problem(answer, 401, "unauthenticated").await;
    problem(stranger.send().await.unwrap(), 429, "too-many-requests").await;
    problem(ask(&two, None, None).await, 429, "too-many-requests").await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_forged_address_changes_nothing_without_a_trusted_proxy() {
    for trusted in ["", "10.0.0.0/8, 127.0.0.2"] {
        let web = web(&redis(), 1, trusted).await;
        assert_eq!(ask(&web, None, Some("198.51.100.1")).await.status(), StatusCode::OK);
        for forged in [Some("198.51.100.2"), Some("10.0.0.1"), Some("127.0.0.2"), Some("rubbish"), None] {
            problem(ask(&web, None, forged).await, 429, "too-many-requests").await;
        }
        let forged = web.client.get(web.url("/")).header("forwarded", "for=198.51.100.3").send().await.unwrap();
        problem(forged, 429, "too-many-requests").await;
        web.stop().await;
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_is_counted_by_itself() {
    let web = web(&redis(), 1, "127.0.0.0/8, 10.0.0.0/8").await;
    let first_of_its_own = ["198.51.100.1", "1.1.1.1, 198.51.100.2", "2001:db8:1:2::1", "2001:db8:1:3::1, 10.0.0.1"];
    for client in first_of_its_own {
        assert_eq!(ask(&web, None, Some(client)).await.status(), StatusCode::OK, "{client}");
    }
    let again = [
        "198.51.100.1",
        // What stands left of the client is the client's own word.
        "7.7.7.7, 198.51.100.1",
        "198.51.100.2, 10.0.0.1",
        "::ffff:198.51.100.2",
        // One line of a customer has a whole network.
        "2001:db8:1:2:ffff::9",
        "[2001:db8:1:3::77]:4711",
    ];
    for client in again {
        let answer = ask(&web, None, Some(client)).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "{client}");
    }
    // Of a client that is not named only the proxy is known.
    assert_eq!(ask(&web, None, Some("1.2.3.4, rubbish")).await.status(), StatusCode::OK);
    problem(ask(&web, None, None).await, 429, "too-many-requests").await;
    web.stop().await;
}

#[tokio::test]
async fn without_redis_requests_are_served_and_still_limited() {
    // Who calls, the database says.
    let database = database().await;
    let web = Web::start(Behind { redis: away(), requests_per_minute: 1, ..Behind::database(&database) }).await;
    let answer = ask(&web, Some(ALICE), None).await;
    assert_eq!((answer.status(), field(&answer, "ratelimit")), (StatusCode::OK, r#""requests";r=0;t=60"#));
    problem(ask(&web, Some(ALICE), None).await, 429, "too-many-requests").await;
    assert_eq!(ask(&web, Some(BOB), None).await.status(), StatusCode::OK);
    web.stop().await;
}

/// A server at whose port nobody listens.
fn away() -> RedisSettings {
    RedisSettings { url: format!("redis://{}", closed_port()).into(), ..redis() }
}

fn limits(redis: &RedisSettings) -> RateLimits {
    let redis = Redis::new(redis, Role::Durable).unwrap().with_deadline(std::time::Duration::from_secs(2));
    RateLimits::new(redis, &LimitSettings { requests_per_minute: 1 }, TrustedProxies::default()).unwrap()
}

fn address(number: u8) -> IpAddr {
    [198, 51, 100, number].into()
}

#[tokio::test]
async fn tries_to_sign_in_are_limited_by_account_wherever_they_come_from() {
    let redis = crate::harness::redis();
    let processes = [limits(&redis), limits(&redis)];
    // One comes back in 20 s.
    for number in 0..30 {
        let account = [" ann@shop.example", "ANN@shop.example"][usize::from(number) % 2];
        processes[usize::from(number) / 15].check_sign_in(account, address(number)).await.unwrap();
    }
    for process in &processes {
        process.check_sign_in("ann@shop.example", address(100)).await.unwrap_err();
        process.check_sign_in("bob@shop.example", address(100)).await.unwrap();
    }
}

#[tokio::test]
async fn one_address_alone_shuts_no_account_to_others() {
    // One comes back in a minute.
    let limits = limits(&redis());
    let mut tried = 0;
    while tried < 1000 && limits.check_sign_in("ann@shop.example", address(1)).await.is_ok() {
        tried += 1;
    }
    assert!((10..30).contains(&tried), "{tried} tries with one account from one address");
    for _ in 0..100 {
        drop(limits.check_sign_in("ann@shop.example", address(1)).await);
    }
    for _ in 0..10 {
        limits.check_sign_in("ann@shop.example", address(2)).await.unwrap();
    }
    // Nor is the address shut to others.
    limits.check_sign_in("bob@shop.example", address(1)).await.unwrap();
}

#[tokio::test]
async fn tries_to_sign_in_are_limited_by_address_and_a_blocked_address_shuts_no_account() {
    // One comes back in 10 s.
    let limits = limits(&redis());
    let guess = async |number: usize| limits.check_sign_in(&format!("{number}@shop.example"), address(1)).await;
    let mut tried = 0;
    while tried < 1000 && guess(tried).await.is_ok() {
        tried += 1;
    }
    assert!((60..1000).contains(&tried), "{tried} tries from one address");
    for _ in 0..100 {
        // Some may get through as time passes, but not ten.
        drop(limits.check_sign_in("ann@shop.example", address(1)).await);
    }
    limits.check_sign_in("ann@shop.example", address(2)).await.unwrap();
}

#[tokio::test]
async fn without_redis_tries_to_sign_in_are_as_limited_in_each_process() {
    let away = away();
    for process in [limits(&away), limits(&away)] {
        for number in 0..30 {
            process.check_sign_in("ann@shop.example", address(number)).await.unwrap();
        }
        process.check_sign_in("ann@shop.example", address(100)).await.unwrap_err();
        for _ in 0..10 {
            process.check_sign_in("eve@shop.example", address(150)).await.unwrap();
        }
        process.check_sign_in("eve@shop.example", address(150)).await.unwrap_err();
        for number in 0..60 {
            process.check_sign_in(&format!("{number}@shop.example"), address(200)).await.unwrap();
        }
        process.check_sign_in("zoe@shop.example", address(200)).await.unwrap_err();
    }
}
