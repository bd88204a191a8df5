use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use store::jobs::JobEventType as Type;
use uuid::Uuid;
use web::Limits;

use crate::harness::{ALICE, BOB, Behind, Told, Web, database, problem, wait};

/// Sooner than anybody looks by itself, so that only a notice can have woken who waits.
const BY_NOTICE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_jobs_page_tells_its_life_by_run() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Started, json!({})).await;
    job.tell(Type::Progressed, json!({"progress": {"phase": "orders", "done": 3, "total": 10}})).await;
    let running: Value = web.get(&job.path()).await.json().await.unwrap();
    assert_eq!((&running["state"], &running["attempt"]), (&json!("running"), &json!(1)));
    assert_eq!(running["progress"], json!({"phase": "orders", "done": 3, "total": 10}));
    assert_eq!(running["links"].get("pdf"), None);

    let failure = json!({"kind": "error", "reason": "connect to 10.0.0.3"});
    job.tell(Type::Retrying, json!({"failure": failure, "delay_seconds": 5.0, "next_attempt": 2})).await;
    let retrying = web.get(&job.path()).await.text().await.unwrap();
    assert!(!retrying.contains("10.0.0."), "neither hosts of workers nor reasons for operators: {retrying}");
    let retrying: Value = serde_json::from_str(&retrying).unwrap();
    assert_eq!(retrying["error"], json!({"kind": "error"}));

    job.tell(Type::Succeeded, json!({"result": {"pages": 4}})).await;
    let done: Value = web.get(&job.path()).await.json().await.unwrap();
    assert_eq!(
        (&done["state"], &done["result"], &done["error"]),
        (&json!("succeeded"), &json!({"pages": 4}), &json!(null))
    );
    assert_eq!(done["links"]["pdf"], format!("/v1/reports/{}/pdf", job.id));
    assert!(done["finished_at"].is_string());
    let runs = done["timeline"].as_array().unwrap();
    assert_eq!(runs.len(), 1, "{runs:?}");
    let types: Vec<_> =
        runs[0]["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["job.started", "job.retrying", "job.succeeded"]);
    assert_eq!(runs[0]["events"][1]["next_attempt"], 2);
    web.stop().await;
}

#[tokio::test]
async fn attempts_redeliveries_and_replays_are_told_apart_and_the_same_by_every_process() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let other = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Started, json!({})).await;
    job.begin_run(0, 1, 2);
    let failure = json!({"kind": "error", "reason": "no"});
    job.tell(Type::Retrying, json!({"failure": failure, "delay_seconds": 5.0, "next_attempt": 2})).await;
    job.begin_run(0, 2, 0);
    job.tell(Type::Dead, json!({"failure": failure})).await;
    job.begin_run(1, 1, 0);
    job.tell(Type::Started, json!({})).await;
    let shown: Value = web.get(&job.path()).await.json().await.unwrap();
    assert_eq!(
        (&shown["attempt"], &shown["attempts"], &shown["redeliveries"], &shown["replays"]),
        (&json!(1), &json!(3), &json!(2), &json!(1))
    );
    let outcomes: Vec<_> =
        shown["timeline"].as_array().unwrap().iter().map(|run| run["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["lost", "retrying", "dead", "running"]);
    let again: Value = other.get(&job.path()).await.json().await.unwrap();
    assert_eq!(again, shown);
    web.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_is_somebody_elses_is_not_there() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Succeeded, json!({"result": null})).await;
    let report = format!("/v1/reports/{}/pdf", job.id);
    web.files.put(&store::files::report_key(job.id), b"%PDF".as_slice().into()).await.unwrap();
    for path in [job.path(), format!("{}/events", job.path()), report] {
        assert_eq!(web.get(&path).await.status(), StatusCode::OK, "{path}");
        let theirs = web.client.get(web.url(&path)).bearer_auth(BOB).send().await.unwrap();
        let theirs = problem(theirs, 404, "not-found").await;
        let nobodys = path.replace(&job.id.to_string(), &Uuid::now_v7().to_string());
        assert_eq!(problem(web.get(&nobodys).await, 404, "not-found").await, theirs, "{path}");
    }
    web.stop().await;
}

#[tokio::test]
async fn a_job_that_has_not_changed_is_answered_with_304() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let known = etag(&web.get(&job.path()).await);
    let same = request(&web, &job.path(), &[("if-none-match", &known)]).await;
    assert_eq!((same.status(), etag(&same)), (StatusCode::NOT_MODIFIED, known.clone()));
    assert_eq!(same.text().await.unwrap(), "");
    job.tell(Type::Started, json!({})).await;
    let changed = request(&web, &job.path(), &[("if-none-match", &known)]).await;
    assert_eq!(changed.status(), StatusCode::OK);
    assert_ne!(etag(&changed), known);
    web.stop().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_job_becomes_final() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let begun = Instant::now();
    let poll = tokio::spawn(request(&web, &job.path(), &[("prefer", "wait=30")]));
    waiting(&web).await;
    job.tell(Type::Started, json!({})).await;
    job.tell(Type::Succeeded, json!({"result": null})).await;
    let answer = poll.await.unwrap();
    assert_eq!(answer.headers()["preference-applied"], "wait=30");
    assert_eq!(answer.json::<Value>().await.unwrap()["state"], "succeeded");
    assert!(begun.elapsed() < BY_NOTICE, "{:?}", begun.elapsed());
    web.stop().await;
}

#[tokio::test]
async fn a_long_poll_with_an_etag_is_answered_by_the_next_change() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let known = etag(&web.get(&job.path()).await);
    let begun = Instant::now();
    let poll = tokio::spawn(request(&web, &job.path(), &[("prefer", "wait=30"), ("if-none-match", &known)]));
    waiting(&web).await;
    job.tell(Type::Started, json!({})).await;
    let answer = poll.await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["state"], "running");
    assert!(begun.elapsed() < BY_NOTICE, "{:?}", begun.elapsed());
    web.stop().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_also_while_no_notices_are_heard() {
    let database = database().await;
    let web = Web::start(Behind { listens: false, ..Behind::database(&database) }).await;
    let mut job = Told::queued(&web).await;
    let begun = Instant::now();
    let poll = tokio::spawn(request(&web, &job.path(), &[("prefer", "wait=30")]));
    waiting(&web).await;
    job.tell(Type::Refused, json!({"refusal": {"code": "no-orders", "reason": "none in this period"}})).await;
    let answer: Value = poll.await.unwrap().json().await.unwrap();
    assert_eq!((&answer["state"], &answer["error"]["code"]), (&json!("refused"), &json!("no-orders")));
    assert!(begun.elapsed() < BY_NOTICE, "{:?}", begun.elapsed());
    web.stop().await;
}

#[tokio::test]
async fn a_long_poll_ends_when_its_time_is_over_and_is_cut_to_the_longest() {
    let database = database().await;
    let limits = Limits { longest_wait: Duration::from_secs(1), ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::database(&database) }).await;
    let job = Told::queued(&web).await;
    let begun = Instant::now();
    let answer = request(&web, &job.path(), &[("prefer", "wait=3600")]).await;
    assert_eq!(answer.headers()["preference-applied"], "wait=1");
    assert_eq!(answer.json::<Value>().await.unwrap()["state"], "queued");
    let known = etag(&web.get(&job.path()).await);
    let answer = request(&web, &job.path(), &[("prefer", "wait=1"), ("if-none-match", &known)]).await;
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    assert!((2..BY_NOTICE.as_secs()).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    web.stop().await;
}

#[tokio::test]
async fn a_long_poll_that_finds_no_place_is_answered_at_once() {
    let database = database().await;
    let limits = Limits { waiting: 0, ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::database(&database) }).await;
    let job = Told::queued(&web).await;
    let answer = request(&web, &job.path(), &[("prefer", "wait=30")]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("preference-applied"));
    web.stop().await;
}

#[tokio::test]
async fn a_drain_answers_long_polls_at_once() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let job = Told::queued(&web).await;
    let begun = Instant::now();
    let poll = tokio::spawn(request(&web, &job.path(), &[("prefer", "wait=30")]));
    waiting(&web).await;
    web.drain.cancel();
    assert_eq!(poll.await.unwrap().json::<Value>().await.unwrap()["state"], "queued");
    assert!(begun.elapsed() < BY_NOTICE, "{:?}", begun.elapsed());
    web.stop().await;
}

/// Waits until the request that was just sent waits.
async fn waiting(web: &Web) {
    wait("a request waits", async || web.waiting() > 0).await;
}

fn request(web: &Web, path: &str, headers: &[(&str, &str)]) -> impl Future<Output = Response> + use<> {
    let request = web.client.get(web.url(path)).bearer_auth(ALICE);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    async { request.send().await.unwrap() }
}

fn etag(response: &Response) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}
