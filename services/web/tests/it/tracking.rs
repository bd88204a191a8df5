use cache::{Redis, Role};
use chrono::Utc;
use lapin::options::{BasicGetOptions, BasicRejectOptions};
use pipeline::events::{JobReference, Progress, RunReference};
use pipeline::jobs::{Message, SendEmail};
use pipeline::{Broker, Event, EventBody, News, OutgoingJob, TrackError, TrackEvents};
use serde_json::{Value, json};
use uuid::Uuid;
use web::{JobStatus, Tracker};

use crate::harness::{ALICE_ID, Behind, Web, cache, closed_port, database, finish_tracked, november, vhost, wait};

/// Asks for a report; its id.
async fn ask(web: &Web) -> Uuid {
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    accepted["id"].as_str().unwrap().parse().unwrap()
}

async fn show(web: &Web, id: Uuid) -> Value {
    web.get(&format!("/v1/jobs/{id}")).await.json().await.unwrap()
}

#[tokio::test]
async fn what_a_worker_tells_is_shown() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let behind = Behind { tracks: true, ..Behind::both(&vhost, &database) };
    let web = Web::start_connected(behind).await;
    let id = ask(&web).await;
    let settings = json!({"url": vhost.url("pdf-report"), "time_scale": 0.05, "queue_length": 200_000});
    let worker = Broker::start(&serde_json::from_value(settings).unwrap(), "pdf-report").unwrap();
    let run = Uuid::now_v7();
    let tell = |sequence: u32, body: EventBody| {
        let (publisher, owner) = (worker.publisher(), Some(ALICE_ID.to_string()));
        let job = JobReference { id, kind: "report.render".to_owned(), owner, caused_by: None };
        let worker = "pdf-report@host:1".to_owned();
        let run = RunReference { id: run, worker, replays: 0, attempt: 1, redeliveries: 0, sequence };
        let event = Event::new(job, Some(run), body);
        async move { publisher.publish_event(&event).await }
    };
    wait("the worker is connected", async || tell(1, EventBody::Started {}).await.is_ok()).await;
    let progress = Progress { phase: "orders".to_owned(), done: 7, total: 10 };
    tell(2, EventBody::Progressed { progress }).await.unwrap();
    wait("the progress is shown", async || show(&web, id).await["progress"]["done"] == 7).await;
    tell(3, EventBody::Succeeded { result: json!({"pages": 4}) }).await.unwrap();
    wait("the result is shown", async || show(&web, id).await["result"]["pages"] == 4).await;
    let job = show(&web, id).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("succeeded"), &json!(1)));
    let types = |run: &Value| -> Vec<String> {
        run["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(types(&job["timeline"][0]), ["job.queued"]);
    assert_eq!(types(&job["timeline"][1]), ["job.started", "job.succeeded"]);
    assert_eq!(job["timeline"][1]["run_id"], run.to_string());
    worker.close().await;
    web.stop().await;
    finish_tracked(vhost, ("report.normal", 1)).await;
}

#[tokio::test]
async fn a_job_that_the_broker_gave_up_is_shown_as_dead() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let behind = Behind { tracks: true, ..Behind::both(&vhost, &database) };
    let web = Web::start_connected(behind).await;
    let before = Utc::now();
    let id = ask(&web).await;
    // A consumer of another make that gives up, as the contract lets it.
    let got = vhost.channel().basic_get("report.normal".into(), BasicGetOptions::default()).await.unwrap().unwrap();
    got.delivery.acker.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    wait("the job is dead", async || show(&web, id).await["state"] == "dead").await;
    let job = show(&web, id).await;
    assert_eq!(job["error"], json!({"kind": "rejected"}));
    let finished: chrono::DateTime<Utc> = job["finished_at"].as_str().unwrap().parse().unwrap();
    assert!(finished >= before, "{job}");
    let poll = web
        .client
        .get(web.url(&format!("/v1/jobs/{id}/events")))
        .bearer_auth(crate::harness::ALICE)
        .send()
        .await
        .unwrap();
    assert!(poll.text().await.unwrap().contains("event: job.dead"));
    web.stop().await;
    finish_tracked(vhost, ("report.dead", 1)).await;
}

#[tokio::test]
async fn an_event_outlives_a_database_that_is_away_or_cannot_be_entered() {
    let database = database().await;
    let event = |kind: &str| {
        let job = JobReference { id: Uuid::now_v7(), kind: kind.to_owned(), owner: None, caused_by: None };
        Event::new(job, None, EventBody::Queued {})
    };
    let tracker = |url: String| {
        let pool = store::connect(&serde_json::from_value(json!({"url": url})).unwrap()).unwrap();
        let status = JobStatus::new(Redis::new(&cache(), Role::Cache).unwrap(), pool.clone());
        Tracker::new(pool, status)
    };
    let away = tracker(format!("postgres://a:b@{}/none", closed_port()));
    let missing = tracker(format!("{}_not_yet", database.url()));
    for tracker in [away, missing] {
        let error = tracker.keep(&[News::Event(Box::new(event("report.render")))]).await.unwrap_err();
        assert!(matches!(error, TrackError::Later(_)), "{error}");
    }
    tracker(database.url()).keep(&[News::Event(Box::new(event("report.render")))]).await.unwrap();
}

#[tokio::test]
async fn what_a_job_caused_is_on_its_page_by_what_workers_tell_and_when_the_broker_gave_it_up() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let behind = Behind { tracks: true, ..Behind::both(&vhost, &database) };
    let web = Web::start_connected(behind).await;
    let id = ask(&web).await;
    let settings = json!({"url": vhost.url("pdf-report"), "time_scale": 0.05, "queue_length": 200_000});
    let worker = Broker::start(&serde_json::from_value(settings).unwrap(), "pdf-report").unwrap();
    let publisher = worker.publisher();
    let owner = Some(ALICE_ID.to_string());
    let told =
        JobReference { id: Uuid::now_v7(), kind: "email.send".to_owned(), owner: owner.clone(), caused_by: Some(id) };
    let event = Event::new(told.clone(), None, EventBody::Succeeded { result: json!(null) });
    wait("the worker is connected", async || publisher.publish_event(&event).await.is_ok()).await;
    let to = json!({"name": "Alice", "address": "alice@shop.example"});
    let payload = SendEmail { to: serde_json::from_value(to).unwrap(), message: Message::Welcome };
    let job = OutgoingJob { owner, correlation_id: Some(id), ..OutgoingJob::new(Uuid::now_v7(), payload) };
    publisher.publish_job(&job).await.unwrap();
    let got = vhost.channel().basic_get("email.normal".into(), BasicGetOptions::default()).await.unwrap().unwrap();
    got.delivery.acker.reject(BasicRejectOptions { requeue: false }).await.unwrap();
    let caused = async || {
        let shown = show(&web, id).await;
        let caused = shown["caused"].as_array().into_iter().flatten();
        caused.map(|job| (job["id"].clone(), job["state"].clone())).collect::<Vec<_>>()
    };
    wait("both are there", async || caused().await.len() == 2).await;
    for expected in [(json!(told.id), json!("succeeded")), (json!(job.id), json!("dead"))] {
        assert!(caused().await.contains(&expected), "{expected:?}");
    }
    worker.close().await;
    web.stop().await;
    vhost.purge("email.dead").await;
    finish_tracked(vhost, ("report.normal", 1)).await;
}
