use std::time::{Duration, Instant};

use backing::{Database, Proxy};
use pipeline::SealedJob;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;
use web::Limits;

use crate::harness::{ALICE_ID, Behind, Web, database, november, problem, vhost, wait};

/// What the outbox keeps to be sent.
async fn kept(web: &Web) -> Vec<SealedJob> {
    let batch = store::outbox::take_due(&web.pool, 1000).await.unwrap();
    let rows = batch.iter().flat_map(|batch| batch.rows().to_vec());
    rows.map(|row| serde_json::from_str(&row.message).unwrap()).collect()
}

async fn accepted(response: Response) -> Uuid {
    assert_eq!(response.status(), StatusCode::ACCEPTED, "{:?}", response.text().await);
    response.json::<Value>().await.unwrap()["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn while_the_broker_is_away_work_goes_to_the_outbox_and_is_shown() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let response = web.post_report(&november()).await;
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let id = accepted(response).await;
    assert_eq!(location, format!("/v1/jobs/{id}"));
    let shown: Value = web.get(&location).await.json().await.unwrap();
    assert_eq!((&shown["id"], &shown["state"]), (&json!(id), &json!("queued")));
    let [kept] = kept(&web).await.try_into().unwrap();
    assert_eq!(
        (kept.kind.as_str(), kept.job.id, kept.job.owner.as_deref()),
        ("report.render", id, Some(ALICE_ID.to_string().as_str()))
    );
    assert_eq!(json!(kept.job.accepted_at), shown["created_at"]);
    assert_eq!(kept.job.payload["recipient"]["address"], "alice@shop.example");
    web.stop().await;
}

#[tokio::test]
async fn what_the_broker_does_not_answer_goes_to_the_outbox_as_the_same_job() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&vhost.url("web")).await;
    let behind = Behind { broker_url: proxy.url.clone(), ..Behind::database(&database) };
    let web = Web::start_connected(behind).await;
    proxy.silence(true);
    let id = accepted(web.post_report(&november()).await).await;
    assert_eq!(kept(&web).await.iter().map(|kept| kept.job.id).collect::<Vec<_>>(), [id]);
    proxy.silence(false);
    let message = vhost.take("report.normal").await;
    assert_eq!(message.properties.message_id().as_ref().unwrap().as_str(), id.to_string());
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn after_three_unanswered_publishes_nobody_waits_for_the_broker_until_it_answers() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&vhost.url("web")).await;
    // What is to be confirmed is, on a loaded machine too.
    let limits = Limits { publish: Duration::from_secs(3), ..Behind::database(&database).limits };
    let behind = Behind { limits, broker_url: proxy.url.clone(), ..Behind::database(&database) };
    let web = Web::start_connected(behind).await;
    proxy.silence(true);
    for _ in 0..3 {
        let begun = Instant::now();
        accepted(web.post_report(&november()).await).await;
        assert!(begun.elapsed() >= limits.publish, "it was not asked");
    }
    for _ in 0..10 {
        accepted(web.post_report(&november()).await).await;
    }
    assert_eq!(kept(&web).await.len(), 13);
    proxy.silence(false);
    // The three arrive after all, and only they: the others never asked. No request is needed to notice that the broker is back.
    vhost.wait_ready("report.normal", 3).await;
    wait("the broker is asked again", async || !web.app().is_broker_avoided()).await;
    let kept_before = kept(&web).await.len();
    accepted(web.post_report(&november()).await).await;
    vhost.wait_ready("report.normal", 4).await;
    assert_eq!(kept(&web).await.len(), kept_before);
    web.stop().await;
    vhost.finish(&[("report.normal", 4)]).await;
}

#[tokio::test]
async fn a_broker_that_is_known_to_be_away_is_not_waited_for_by_many() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let begun = Instant::now();
    let body = november();
    let all = futures_util::future::join_all((0..50).map(|_| web.post_report(&body))).await;
    for response in all {
        accepted(response).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(kept(&web).await.len(), 50);
    web.stop().await;
}

#[tokio::test]
async fn an_outbox_that_does_not_answer_leaves_the_outcome_unknown() {
    let database = database().await;
    let web = Web::start(Behind { limits: Limits::default(), ..Behind::database(&database) }).await;
    let mut locking = locked(&database).await;
    let unknown = problem(web.post_report(&november()).await, 503, "outcome-unknown").await;
    assert!(unknown["job"].as_str().unwrap().starts_with("/v1/jobs/"), "{unknown}");
    assert!(unknown["detail"].as_str().unwrap().contains("Idempotency-Key"), "{unknown}");
    sqlx::query("COMMIT").execute(&mut locking).await.unwrap();
    web.stop().await;
}

#[tokio::test]
async fn an_outbox_that_says_no_has_kept_nothing() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    sqlx::query("DROP TABLE outbox").execute(&web.pool).await.unwrap();
    problem(web.post_report(&november()).await, 503, "broker-unavailable").await;
    let mut body = november();
    body["run_at"] = json!(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    problem(web.post_report(&body).await, 503, "store-unavailable").await;
    web.stop().await;
}

/// Holds the outbox, so that whoever writes to it waits.
async fn locked(database: &Database) -> PgConnection {
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::query("BEGIN").execute(&mut connection).await.unwrap();
    sqlx::query("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").execute(&mut connection).await.unwrap();
    connection
}
