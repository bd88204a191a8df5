use std::time::Duration;

use chrono::{TimeDelta, Utc};
use pipeline::topology::CONTROL;
use reqwest::StatusCode;
use serde_json::{Value, json};
use store::jobs::{JobEventType as Type, JobMark, mark_of};

use crate::harness::{BOB, Behind, Told, Web, database, november, problem, vhost};

#[tokio::test]
async fn a_running_job_is_marked_and_its_worker_told_and_only_the_workers_word_ends_it() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let mut orders = vhost.listen(CONTROL, "").await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Started, json!({})).await;
    let before = web.get(&job.path()).await.headers()["etag"].clone();
    for _ in 0..2 {
        let response = web.delete(&job.path()).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let shown: Value = response.json().await.unwrap();
        assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("running"), &json!(true)));
        let order: Value = serde_json::from_slice(&orders.next().await.data).unwrap();
        assert_eq!(order, json!({"type": "job.cancel", "job": job.id}));
    }
    assert_eq!(mark_of(&web.pool, job.id, 0).await.unwrap(), JobMark::CancelRequested);
    let shown = web.get(&job.path()).await;
    assert_ne!(shown.headers()["etag"], before, "who polls must see it");

    job.tell(Type::Cancelled, json!({})).await;
    let shown: Value = web.get(&job.path()).await.json().await.unwrap();
    assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("cancelled"), &json!(false)));
    let refused = problem(web.delete(&job.path()).await, 409, "job-final").await;
    assert_eq!(refused["detail"], "it is cancelled");
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_job_that_waits_in_the_outbox_is_cancelled_at_once_and_never_sent() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut dated = november();
    dated["run_at"] = json!(Utc::now() + TimeDelta::hours(1));
    for body in [november(), dated] {
        let accepted: Value = web.post_report(&body).await.json().await.unwrap();
        let path = accepted["links"]["self"].as_str().unwrap();
        let response = web.delete(path).await;
        assert_eq!(response.status(), StatusCode::OK);
        let shown: Value = response.json().await.unwrap();
        assert_eq!(
            (&shown["state"], &shown["cancelling"], &shown["due_at"]),
            (&json!("cancelled"), &json!(false), &json!(null))
        );
        problem(web.delete(path).await, 409, "job-final").await;
    }
    assert_eq!(store::outbox::next_in(&web.pool).await.unwrap(), None);
    web.stop().await;
}

#[tokio::test]
async fn the_mark_stands_also_where_the_workers_cannot_be_told() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let job = Told::queued(&web).await;
    assert_eq!(web.delete(&job.path()).await.status(), StatusCode::ACCEPTED);
    assert_eq!(mark_of(&web.pool, job.id, 0).await.unwrap(), JobMark::CancelRequested);
    web.stop().await;
}

#[tokio::test]
async fn the_workers_are_told_also_when_the_request_is_given_up() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let mut behind = Behind::both(&vhost, &database);
    behind.limits.answer = Duration::from_secs(4);
    let web = Web::start_connected(behind).await;
    let mut orders = vhost.listen(CONTROL, "").await;
    for (kind, route) in [("report.render", "jobs"), ("order.place", "orders")] {
        let mut job = Told::queued_as(&web, kind).await;
        job.tell(Type::Started, json!({})).await;
        // It gets as far as the row of the job, and waits there.
        let mut holding = web.pool.begin().await.unwrap();
        sqlx::query("SELECT FROM jobs WHERE id = $1 FOR UPDATE").bind(job.id).execute(&mut *holding).await.unwrap();
        problem(web.delete(&format!("/v1/{route}/{}", job.id)).await, 503, "late").await;
        holding.rollback().await.unwrap();
        let order: Value = serde_json::from_slice(&orders.next().await.data).unwrap();
        assert_eq!(order, json!({"type": "job.cancel", "job": job.id}));
        assert_eq!(mark_of(&web.pool, job.id, 0).await.unwrap(), JobMark::CancelRequested);
    }
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_job_that_has_ended_is_left_as_it_is() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Succeeded, json!({"result": null})).await;
    let refused = problem(web.delete(&job.path()).await, 409, "job-final").await;
    assert_eq!(refused["detail"], "it is succeeded");
    let shown: Value = web.get(&job.path()).await.json().await.unwrap();
    assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("succeeded"), &json!(false)));
    web.stop().await;
}

#[tokio::test]
async fn nobody_stops_the_job_of_another() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let job = Told::queued(&web).await;
    let waiting: Value = web.post_report(&november()).await.json().await.unwrap();
    for path in [job.path(), waiting["links"]["self"].as_str().unwrap().to_owned()] {
        let bobs = web.client.delete(web.url(&path)).bearer_auth(BOB).send().await.unwrap();
        problem(bobs, 404, "not-found").await;
        let shown: Value = web.get(&path).await.json().await.unwrap();
        assert_eq!((&shown["state"], &shown["cancelling"]), (&json!("queued"), &json!(false)));
    }
    problem(web.delete("/v1/jobs/0190a5f2-0000-7000-8000-000000000000").await, 404, "not-found").await;
    web.stop().await;
}

#[tokio::test]
async fn without_a_database_nothing_can_be_stopped() {
    let web = Web::start(Behind::nothing()).await;
    problem(web.delete("/v1/jobs/0190a5f2-0000-7000-8000-000000000000").await, 503, "store-unavailable").await;
    web.stop().await;
}
