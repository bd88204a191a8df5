//! Every route, asked by those whom it is none of the business of.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use store::jobs::JobEventType;
use uuid::Uuid;

use crate::harness::{ALICE_ID, Behind, PASSWORD, Told, Web, cache, database, insert_token, november, problem, sid};

/// What a customer gets who asks for what is another's: the status and, of a problem, its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// What is everybody's.
    Open,
    /// What is the customer's own, and nobody else's.
    Own,
    Nothing(u16, &'static str),
}

use Gets::{Nothing, Open, Own};

const HIDDEN: Gets = Nothing(404, "not-found");
const STAFF_ONLY: Gets = Nothing(403, "role-missing");
const NO_VIDEO: Gets = Nothing(415, "unsupported-media-type");
const NO_TOKENS: Gets = Nothing(403, "session-needed");

/// What is somebody's, of whom nothing may be told.
struct Victim {
    job: Uuid,
    schedule: Uuid,
    token: Uuid,
    user: Uuid,
    product: Uuid,
    /// One that stands, and one that is still to be placed.
    orders: [Uuid; 2],
    video: Uuid,
}

/// A route with a body that would do something, what a session of a customer's gets and what a token of the customer's does.
type Route = (Method, &'static str, String, Option<Value>, Gets, Gets);

fn routes(victim: &Victim) -> Vec<Route> {
    let Victim { job, schedule, token, user, product, orders: [order, queued], video } = victim;
    let weekly = json!({"name": "weekly", "cron": "0 8 * * 1", "time_zone": "UTC",
        "report": {"report": "sales", "period": "last-week"}});
    let account = json!({"name": "Eve", "email": "another@shop.example", "password": PASSWORD, "country": "DE"});
    let sign_in = json!({"email": "eve@shop.example", "password": PASSWORD});
    let password = json!({"current_password": PASSWORD, "new_password": "battery staple"});
    let tea = json!({"name": "Poison", "category": "Pantry", "price_minor": 1, "currency": "EUR"});
    let wanted = json!({"items": [{"product_id": product, "quantity": 1}]});
    let at = |path: &'static str, id: &Uuid| (path, path.replace("{id}", &id.to_string()));
    let named = |path: &'static str, id: &Uuid| (path, at(path, id).1.replace("{name}", "720p.mp4"));
    let rows = [
        (Method::GET, ("/", "/".to_owned()), None, Open, Open),
        (Method::GET, ("/openapi.json", "/openapi.json".to_owned()), None, Open, Open),
        (Method::POST, at("/v1/reports", job), Some(november()), STAFF_ONLY, STAFF_ONLY),
        (Method::GET, at("/v1/reports/{id}/pdf", job), None, HIDDEN, HIDDEN),
        (Method::GET, at("/v1/jobs/{id}", job), None, HIDDEN, HIDDEN),
        (Method::DELETE, at("/v1/jobs/{id}", job), None, HIDDEN, HIDDEN),
        (Method::GET, at("/v1/jobs/{id}/events", job), None, HIDDEN, HIDDEN),
        (Method::GET, at("/v1/products", product), None, Open, Open),
        (Method::GET, at("/v1/products/top", product), None, Open, Open),
        (Method::GET, at("/v1/products/{id}", product), None, Open, Open),
        (Method::PUT, at("/v1/products/{id}", product), Some(tea), STAFF_ONLY, NO_TOKENS),
        (Method::GET, at("/v1/products/{id}/stock", product), None, STAFF_ONLY, STAFF_ONLY),
        (Method::PUT, at("/v1/products/{id}/stock", product), Some(json!({"stock": 0})), STAFF_ONLY, NO_TOKENS),
        (Method::POST, at("/v1/orders", order), Some(wanted), Own, Own),
        (Method::GET, at("/v1/orders", order), None, Own, Own),
        (Method::GET, at("/v1/orders/{id}", order), None, HIDDEN, HIDDEN),
        (Method::GET, at("/v1/orders/{id}", queued), None, HIDDEN, HIDDEN),
        (Method::DELETE, at("/v1/orders/{id}", order), None, HIDDEN, HIDDEN),
        (Method::DELETE, at("/v1/orders/{id}", queued), None, HIDDEN, HIDDEN),
        (Method::PUT, at("/v1/orders/{id}/shipment", order), None, STAFF_ONLY, NO_TOKENS),
        // What is no video is stored for nobody: the body is checked after who sends it.
        (Method::POST, at("/v1/videos", video), Some(json!({})), NO_VIDEO, NO_VIDEO),
        (Method::GET, at("/v1/videos/{id}", video), None, HIDDEN, HIDDEN),
        (Method::GET, named("/v1/videos/{id}/files/{name}", video), None, HIDDEN, HIDDEN),
        (Method::GET, at("/v1/schedules", schedule), None, Own, Own),
        (Method::POST, at("/v1/schedules", schedule), Some(weekly), STAFF_ONLY, STAFF_ONLY),
        (Method::GET, at("/v1/schedules/{id}", schedule), None, HIDDEN, HIDDEN),
        (Method::DELETE, at("/v1/schedules/{id}", schedule), None, HIDDEN, HIDDEN),
        (Method::GET, at("/v1/users/{id}", user), None, HIDDEN, NO_TOKENS),
        (Method::PUT, at("/v1/users/{id}", user), Some(json!({"name": "Eve", "country": "FR"})), HIDDEN, NO_TOKENS),
        (Method::PUT, at("/v1/users/{id}/role", user), Some(json!({"role": "customer"})), STAFF_ONLY, NO_TOKENS),
        (Method::GET, at("/v1/tokens", token), None, Own, NO_TOKENS),
        (Method::POST, at("/v1/tokens", token), Some(json!({"name": "x", "scopes": ["jobs:read"]})), Own, NO_TOKENS),
        (Method::DELETE, at("/v1/tokens/{id}", token), None, HIDDEN, NO_TOKENS),
        (Method::POST, at("/v1/register", user), Some(account), Open, Open),
        (Method::POST, at("/v1/login", user), Some(sign_in), Open, Open),
        // The last ones, which end the session.
        (Method::POST, at("/v1/password", user), Some(password), Own, NO_TOKENS),
        (Method::POST, at("/v1/logout/everywhere", user), None, Own, NO_TOKENS),
        (Method::POST, at("/v1/logout", user), None, Own, NO_TOKENS),
    ];
    rows.into_iter()
        .map(|(method, (path, url), body, session, token)| (method, path, url, body, session, token))
        .collect()
}

/// Everything that the victim has.
async fn holdings(web: &Web) -> Vec<String> {
    let all = "SELECT row_to_json(t)::text FROM jobs t WHERE owner = $1::text
        UNION ALL SELECT row_to_json(t)::text FROM schedules t WHERE owner = $1::text
        UNION ALL SELECT row_to_json(t)::text FROM api_tokens t WHERE user_id = $1
        UNION ALL SELECT row_to_json(t)::text FROM users t WHERE id = $1
        UNION ALL SELECT row_to_json(t)::text FROM orders t WHERE user_id = $1
        UNION ALL SELECT row_to_json(t)::text FROM products t";
    sqlx::query_scalar(all).bind(ALICE_ID).fetch_all(&web.pool).await.unwrap()
}

#[tokio::test]
async fn at_every_route_who_is_nobody_or_another_customer_gets_nothing_of_anybodys() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    let job = Told::queued(&web).await;
    let token = insert_token(&web.pool, ALICE_ID, "another-token-of-alices").await;
    let schedule: Uuid = sqlx::query_scalar(
        "INSERT INTO schedules (id, owner, kind, name, cron, time_zone, template)
         VALUES (gen_random_uuid(), $1, 'report.render', 'Mondays', '0 8 * * 1', 'UTC', '{}') RETURNING id",
    )
    .bind(ALICE_ID.to_string())
    .fetch_one(&web.pool)
    .await
    .unwrap();
    let product = Uuid::from_u128(1);
    let insert = "INSERT INTO products (id, sku, name, category, price_minor, currency)
        VALUES ($1, 'TEA', 'Tea', 'Pantry', 100, 'EUR')";
    sqlx::query(insert).bind(product).execute(&web.pool).await.unwrap();
    let order = Uuid::from_u128(2);
    let insert = "INSERT INTO orders (id, user_id, status, placed_at, country, currency, total_minor)
        VALUES ($1, $2, 'placed', now(), 'DE', 'EUR', 0)";
    sqlx::query(insert).bind(order).bind(ALICE_ID).execute(&web.pool).await.unwrap();
    let queued = Told::queued_as(&web, "order.place").await.id;
    let mut video = Told::queued_as(&web, "video.transcode").await;
    let made = json!({"title": "Hers", "millis": 1, "renditions": [], "files": ["720p.mp4"]});
    video.tell(JobEventType::Succeeded, json!({"result": made})).await;
    web.files.put(&store::files::video_key(video.id, "720p.mp4"), "a video".into()).await.unwrap();
    let orders = [order, queued];
    let victim = Victim { job: job.id, schedule, token, user: ALICE_ID, product, orders, video: video.id };
    let before = holdings(&web).await;
    assert_eq!(before.len(), 9);

    let routes = routes(&victim);
    let described: Value = web.get("/openapi.json").await.json().await.unwrap();
    let described: BTreeSet<(String, String)> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let asked = routes.iter().map(|(method, path, ..)| (method.to_string(), (*path).to_owned())).collect();
    assert_eq!(described, asked, "every route is here");

    let eve = web.member("eve@shop.example").await;
    let mut own_sid = eve.sid;
    let machine = "a-token-of-a-machine-of-eves";
    insert_token(&web.pool, eve.user, machine).await;
    for (method, path, url, body, session, by_token) in &routes {
        let ask = || web.client.request(method.clone(), web.url(url));
        let nobody = if *session == Open { Open } else { Nothing(401, "unauthenticated") };
        // With the session last: some of them end it.
        let with_sid = web.with_sid(method.clone(), url, &own_sid);
        for (who, request, gets) in [
            ("nobody", ask(), nobody),
            ("a token", ask().bearer_auth(machine), *by_token),
            ("a session", with_sid, *session),
        ] {
            let request = if let Some(body) = body { request.json(body) } else { request };
            let answer = request.send().await.unwrap();
            if let Some(renewed) = sid(&answer).filter(|_| who == "a session") {
                own_sid = renewed;
            }
            let text = match gets {
                Nothing(status, kind) => problem(answer, status, kind).await.to_string(),
                // Once it has ended, there is none.
                Own if answer.status() == StatusCode::UNAUTHORIZED => {
                    assert!(path.starts_with("/v1/logout"), "{who}: {method} {path}");
                    continue;
                }
                Open | Own => {
                    assert!(answer.status().is_success(), "{who}: {method} {path}: {}", answer.status());
                    answer.text().await.unwrap()
                }
            };
            for secret in [ALICE_ID, job.id, schedule, token, order, queued, video.id].map(|id| id.to_string()) {
                assert!(!text.contains(&secret), "{who}: {method} {path}: {text}");
            }
            assert!(!text.contains("alice@shop.example"), "{who}: {method} {path}: {text}");
        }
    }
    assert_eq!(holdings(&web).await, before);
    web.stop().await;
}
