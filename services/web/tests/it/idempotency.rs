use std::time::Duration;

use backing::Proxy;
use cache::RedisSettings;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use web::Limits;

use crate::harness::{BOB, Behind, Web, database, finish_tracked, no_redis, november, problem, vhost, wait};

/// Where the job of a 202 is.
fn location(response: &Response) -> String {
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    response.headers()["location"].to_str().unwrap().to_owned()
}

fn december() -> Value {
    json!({"report": "sales", "period": {"from": "2025-12-01", "to": "2025-12-31"}})
}

#[tokio::test]
async fn a_repeat_under_the_same_key_is_the_same_job_published_once() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let other = Web::start_connected(Behind::both(&vhost, &database)).await;
    let first = location(&web.post_report_once("\"k-1\"", &november()).await);
    // Said otherwise, it is the same: bare, in another order, with what is the default anyway.
    let same = json!({"lane": "normal", "period": {"to": "2025-11-30", "from": "2025-11-01"}, "group_by": "day", "report": "sales"});
    for (web, body) in [(&web, &november()), (&other, &same)] {
        assert_eq!(location(&web.post_report_once("k-1", body).await), first);
    }
    let message = vhost.take("report.normal").await;
    let headers = message.properties.headers().as_ref().unwrap().inner().clone();
    assert_eq!(headers["payload_hash"].as_long_string().unwrap().to_string().len(), 64);
    assert_eq!(vhost.ready("report.normal").await, Some(0));
    web.stop().await;
    other.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let first = location(&web.post_report_once("k", &november()).await);
    let mut urgent = november();
    urgent["lane"] = json!("urgent");
    for other in [december(), urgent] {
        problem(web.post_report_once("k", &other).await, 422, "idempotency-key-reused").await;
    }
    // The key is the caller's own.
    let bobs =
        web.client.post(web.url("/v1/reports")).bearer_auth(BOB).header("idempotency-key", "k").json(&december());
    assert_ne!(location(&bobs.send().await.unwrap()), first);
    assert_ne!(location(&web.post_report_once("l", &december()).await), first);
    web.stop().await;
    vhost.finish(&[("report.normal", 3)]).await;
}

#[tokio::test]
async fn two_requests_at_the_same_instant_on_two_processes_are_one_job() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let other = Web::start_connected(Behind::both(&vhost, &database)).await;
    for round in 0..20 {
        let key = format!("round-{round}");
        let body = november();
        let (one, two) = tokio::join!(web.post_report_once(&key, &body), other.post_report_once(&key, &body));
        assert_eq!(location(&one), location(&two));
        let key = format!("clash-{round}");
        let december = december();
        let (one, two) = tokio::join!(web.post_report_once(&key, &body), other.post_report_once(&key, &december));
        let mut answers = [one.status().as_u16(), two.status().as_u16()];
        answers.sort_unstable();
        assert_eq!(answers, [202, 422], "one of two payloads");
    }
    web.stop().await;
    other.stop().await;
    vhost.finish(&[("report.normal", 40)]).await;
}

#[tokio::test]
async fn a_key_holds_across_the_outbox() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let without_broker = Web::start(Behind::database(&database)).await;
    // Into the outbox first, then by way of a process that reaches the broker.
    let first = location(&without_broker.post_report_once("k", &november()).await);
    assert_eq!(location(&web.post_report_once("k", &november()).await), first);
    problem(web.post_report_once("k", &december()).await, 422, "idempotency-key-reused").await;
    // The other way round.
    let second = location(&web.post_report_once("l", &november()).await);
    assert_eq!(location(&without_broker.post_report_once("l", &november()).await), second);
    problem(without_broker.post_report_once("l", &december()).await, 422, "idempotency-key-reused").await;
    assert_eq!(store::outbox::backlog(&web.pool).await.unwrap().due, 1);
    web.stop().await;
    without_broker.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn what_was_refused_can_be_asked_for_again_under_its_key() {
    let (vhost, database) = tokio::join!(vhost(), database());
    // As long as this, a repeat waits for the first request's job.
    let limits = Limits { publish: Duration::from_secs(3), ..Limits::default() };
    let web = Web::start_connected(Behind { limits, ..Behind::both(&vhost, &database) }).await;
    let (queue, exchange, key) = ("report.normal", "postroom.jobs.report.render", "normal");
    vhost.channel().queue_unbind(queue.into(), exchange.into(), key.into(), Default::default()).await.unwrap();
    problem(web.post_report_once("k", &november()).await, 503, "no-queue").await;
    let (options, arguments) = (Default::default(), Default::default());
    vhost.channel().queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await.unwrap();
    location(&web.post_report_once("k", &november()).await);
    web.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn without_a_database_a_key_still_makes_one_job() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { tracks: true, database_url: proxy.url.clone(), ..Behind::both(&vhost, &database) };
    let web = Web::start_connected(behind()).await;
    let other = Web::start_connected(behind()).await;
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening() && !other.listening()).await;
    let first = location(&web.post_report_once("k", &november()).await);
    for web in [&web, &other] {
        assert_eq!(location(&web.post_report_once("k", &november()).await), first);
        problem(web.post_report_once("k", &december()).await, 422, "idempotency-key-reused").await;
    }
    proxy.cut(false);
    wait("the database is heard again", async || web.listening()).await;
    assert_eq!(location(&web.post_report_once("k", &november()).await), first);
    wait("its claim is written down with it", async || claims(&web).await == 1).await;
    forget(&web, &first).await;
    problem(web.post_report_once("k", &december()).await, 422, "idempotency-key-reused").await;
    web.stop().await;
    other.stop().await;
    finish_tracked(vhost, ("report.normal", 1)).await;
}

#[tokio::test]
async fn without_redis_a_key_still_makes_one_job() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let redis = Proxy::start(&backing::redis_url("durable")).await;
    let behind = Behind::both(&vhost, &database);
    let settings = RedisSettings { url: redis.url.clone().into(), ..behind.redis.clone() };
    let web = Web::start_connected(Behind { redis: settings, cache: no_redis(), ..behind }).await;
    let first = location(&web.post_report_once("k", &november()).await);
    let report = vhost.take("report.normal").await;
    assert!(first.ends_with(report.properties.message_id().as_ref().unwrap().as_str()));
    wait("its claim is written down behind the answer", async || claims(&web).await == 1).await;
    redis.cut(true);
    assert_eq!(location(&web.post_report_once("k", &november()).await), first);
    problem(web.post_report_once("k", &december()).await, 422, "idempotency-key-reused").await;
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn where_redis_has_no_room_for_claims_the_database_keeps_keys_apart() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let fill = redis::Script::new(
        "for number = ARGV[1], ARGV[1] + 9999 do redis.call('HSET', KEYS[1], string.format('%016d', number), ARGV[2]) end
         return redis.call('HLEN', KEYS[1])",
    );
    let hour = Utc::now().timestamp() / 3600;
    // The next one too, should it begin meanwhile.
    for hash in [hour, hour + 1].map(|hour| web.redis.key(&["idempotency-keys", &hour.to_string()])) {
        for part in 0..20 {
            let mut fill = fill.key(&hash);
            fill.arg(part * 10_000).arg("of 16 characters");
            let claims: i64 = web.redis.invoke("claim keys", &fill).await.unwrap();
            assert_eq!(claims, (part + 1) * 10_000);
        }
        let expire = redis::cmd("EXPIRE").arg(&hash).arg(600).to_owned();
        web.redis.query::<i64>("clean up after a test", &expire).await.unwrap();
    }
    let first = location(&web.post_report_once("k", &november()).await);
    assert_eq!(claims(&web).await, 1);
    let length = redis::cmd("HLEN").arg(web.redis.key(&["idempotency-keys", &hour.to_string()])).to_owned();
    assert_eq!(web.redis.query::<i64>("look", &length).await.unwrap(), 200_000, "none more");
    assert_eq!(location(&web.post_report_once("k", &november()).await), first);
    problem(web.post_report_once("k", &december()).await, 422, "idempotency-key-reused").await;
    web.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

/// Has Redis forget the key of a job.
async fn forget(web: &Web, path: &str) {
    let job: Uuid = path.rsplit('/').next().unwrap().parse().unwrap();
    let (now, mut forgotten) = (Utc::now().timestamp() / 3600, 0);
    // The hour may have turned since.
    for hour in [now - 1, now] {
        let hash = web.redis.key(&["idempotency-keys", &hour.to_string()]);
        let forget = redis::cmd("HDEL").arg(hash).arg(job.as_bytes()).to_owned();
        forgotten += web.redis.query::<i64>("forget a key", &forget).await.unwrap();
    }
    assert_eq!(forgotten, 1);
}

async fn claims(web: &Web) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM idempotency_keys").fetch_one(&web.pool).await.unwrap()
}

#[tokio::test]
async fn a_key_is_known_for_as_long_as_its_job_also_when_redis_has_forgotten_it() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let first = location(&web.post_report_once("k", &november()).await);
    wait("its claim is written down", async || claims(&web).await == 1).await;
    forget(&web, &first).await;
    for _ in 0..2 {
        problem(web.post_report_once("k", &december()).await, 422, "idempotency-key-reused").await;
    }
    assert_eq!(location(&web.post_report_once("k", &november()).await), first);
    web.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn a_dated_request_can_be_repeated_after_its_date() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let due: DateTime<Utc> = Utc::now() + TimeDelta::seconds(2);
    let mut body = november();
    body["run_at"] = json!(due);
    let first = location(&web.post_report_once("k", &body).await);
    wait("the date is over", async || Utc::now() > due).await;
    assert_eq!(location(&web.post_report_once("k", &body).await), first);
    let late = problem(web.post_report_once("l", &body).await, 422, "validation").await;
    assert_eq!(late["errors"][0]["field"], "run_at");
    body["run_at"] = json!(due - TimeDelta::seconds(1));
    problem(web.post_report_once("k", &body).await, 422, "idempotency-key-reused").await;
    web.stop().await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_nothing_is_enqueued() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    for bad in ["", "\"\"", "a b", "\"a", &"k".repeat(256)] {
        problem(web.post_report_once(bad, &november()).await, 400, "idempotency-key-invalid").await;
    }
    let twice = web.post("/v1/reports", &november()).header("idempotency-key", "a").header("idempotency-key", "b");
    problem(twice.send().await.unwrap(), 400, "idempotency-key-invalid").await;
    web.stop().await;
    vhost.finish(&[]).await;
}
