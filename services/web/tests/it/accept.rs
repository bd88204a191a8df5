use std::sync::Arc;
use std::time::Duration;

use pipeline::jobs::RenderReport;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::harness::{ALICE, ALICE_ID, BOB, Behind, Web, database, finish_tracked, november, problem, vhost, wait};

#[tokio::test]
async fn a_report_that_is_asked_for_is_on_its_queue_before_the_answer() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let response = web.post_report(&november()).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["retry-after"], "1");
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    let id = body["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/jobs/{id}"));
    assert_eq!(
        (&body["state"], &body["kind"], &body["attempt"]),
        (&json!("queued"), &json!("report.render"), &json!(0))
    );
    assert_eq!(body["links"], json!({"self": location, "events": format!("{location}/events")}));

    let message = vhost.take("report.normal").await;
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("postroom.jobs.report.render", "normal"));
    let properties = &message.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "report.render");
    assert_eq!(*properties.delivery_mode(), Some(2));
    let owner = properties.headers().as_ref().unwrap().inner()["owner"].as_long_string().unwrap().to_string();
    assert_eq!(owner, ALICE_ID.to_string());
    let payload: Value = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(
        payload,
        json!({"report": "sales", "period": {"from": "2025-11-01", "to": "2025-11-30"}, "group_by": "day",
            "recipient": {"name": "Alice", "address": "alice@shop.example"}})
    );
    serde_json::from_value::<RenderReport>(payload).unwrap();

    let event = vhost.take("tracker.lifecycle").await;
    let event: Value = serde_json::from_slice(&event.data).unwrap();
    assert_eq!(event["type"], "job.queued");
    assert_eq!(event["job"], json!({"id": id, "kind": "report.render", "owner": ALICE_ID}));
    assert_eq!(event["at"], body["created_at"]);
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn of_many_that_are_accepted_at_once_each_can_be_looked_at_also_when_others_are_given_up() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Arc::new(Web::start_connected(Behind::both(&vhost, &database)).await);
    let (mut kept, mut given_up) = (JoinSet::new(), JoinSet::new());
    for number in 0..100 {
        let web = Arc::clone(&web);
        let asking = async move {
            let response = web.post_report(&november()).await;
            assert_eq!(response.status(), StatusCode::ACCEPTED);
            let shown = web.get(response.headers()["location"].to_str().unwrap()).await;
            assert_eq!(shown.status(), StatusCode::OK);
        };
        let asked = if number % 5 == 0 { &mut given_up } else { &mut kept };
        asked.spawn(asking);
    }
    // Some of those that are given up are just being written down, for themselves and others.
    kept.join_next().await.unwrap().unwrap();
    given_up.shutdown().await;
    while let Some(asked) = kept.join_next().await {
        asked.unwrap();
    }
    Arc::into_inner(web).unwrap().stop().await;
    vhost.purge("report.normal").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn jobs_are_written_down_again_after_a_time_in_which_none_could_be() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let mut behind = Behind::both(&vhost, &database);
    behind.limits.record = Duration::from_secs(1);
    let web = Arc::new(Web::start_connected(behind).await);
    let mut locking = web.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE jobs").execute(&mut *locking).await.unwrap();
    // Several commits' worth; each is given up, and the tracker asked.
    let mut asked = JoinSet::new();
    for _ in 0..600 {
        let web = Arc::clone(&web);
        asked.spawn(async move { assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED) });
    }
    while let Some(asked) = asked.join_next().await {
        asked.unwrap();
    }
    locking.rollback().await.unwrap();
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let written = async || {
        let shown: Value = web.get(accepted["links"]["self"].as_str().unwrap()).await.json().await.unwrap();
        shown["timeline"][0]["events"][0]["type"] == "job.queued"
    };
    // What was waiting is written first.
    wait("a job is written down", written).await;
    Arc::into_inner(web).unwrap().stop().await;
    vhost.purge("report.normal").await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn the_job_of_a_202_can_be_looked_at_at_once() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = accepted["links"]["self"].as_str().unwrap();
    let shown = web.get(path).await;
    assert_eq!(shown.status(), StatusCode::OK);
    let mut shown: Value = shown.json().await.unwrap();
    shown["timeline"] = json!([]);
    assert_eq!(shown, accepted);
    let written = async || {
        let shown: Value = web.get(path).await.json().await.unwrap();
        shown["timeline"][0]["events"][0]["type"] == "job.queued"
    };
    wait("it is written down", written).await;
    web.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn without_a_database_work_is_taken_and_shows_once_the_database_is_back() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let response = web.post_report(&november()).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let path = response.headers()["location"].to_str().unwrap().to_owned();
    let job: Value = web.get(&path).await.json().await.unwrap();
    assert_eq!((&job["state"], &job["timeline"]), (&json!("queued"), &json!([])));
    problem(web.get(&format!("/v1/jobs/{}", Uuid::new_v4())).await, 503, "store-unavailable").await;
    web.stop().await;

    let behind = Behind { tracks: true, ..Behind::both(&vhost, &database) };
    let web = Web::start_connected(behind).await;
    let kept = async || {
        let job: Value = web.get(&path).await.json().await.unwrap();
        job["state"] == "queued" && job["timeline"][0]["events"][0]["type"] == "job.queued"
    };
    wait("the event of the queued job is kept", kept).await;
    web.stop().await;
    finish_tracked(vhost, ("report.normal", 1)).await;
}

#[tokio::test]
async fn a_database_that_says_nothing_does_not_hold_the_answer_up() {
    let vhost = vhost().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let database_url = format!("postgres://a:b@{}/none", silent.local_addr().unwrap());
    let web = Web::start_connected(Behind { database_url, ..Behind::broker(&vhost) }).await;
    let begun = std::time::Instant::now();
    assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED);
    // The store alone would wait 2 s for a connection.
    assert!(begun.elapsed().as_millis() < 1500, "{:?}", begun.elapsed());
    web.stop().await;
    vhost.finish(&[("report.normal", 1), ("tracker.lifecycle", 1)]).await;
}

/// Content type, body, and what comes back: status, kind of problem, field.
type Row = (Option<&'static str>, String, u16, &'static str, Option<&'static str>);

fn bad_inputs() -> Vec<Row> {
    const JSON: Option<&str> = Some("application/json");
    let good = november().to_string();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = november();
        change(&mut body);
        body.to_string()
    };
    let period = |from: &str, to: &str| with(&|body| body["period"] = json!({"from": from, "to": to}));
    let mut rows: Vec<Row> = vec![
        (None, good.clone(), 415, "unsupported-media-type", None),
        (Some("text/plain"), good.clone(), 415, "unsupported-media-type", None),
        (Some("application/x-www-form-urlencoded"), good.clone(), 415, "unsupported-media-type", None),
        (Some("application/json; charset=latin1"), good.clone(), 415, "unsupported-media-type", None),
        (JSON, String::new(), 400, "malformed-json", None),
        (JSON, "{".to_owned(), 400, "malformed-json", None),
        (JSON, format!("{good} {good}"), 400, "malformed-json", None),
        (JSON, good.replace('"', "'"), 400, "malformed-json", None),
        (JSON, format!("{good}{}", " ".repeat(16 * 1024)), 413, "body-too-large", None),
    ];
    let mut invalid = |body: String, field| rows.push((JSON, body, 422, "validation", Some(field)));
    invalid("[]".to_owned(), "");
    invalid("\"sales\"".to_owned(), "");
    invalid("[".repeat(10_000), "");
    invalid("{}".to_owned(), "report");
    invalid(with(&|body| body["recipient"] = json!({"name": "Eve", "address": "eve@evil.example"})), "recipient");
    invalid(with(&|body| body["period"]["days"] = json!(1)), "period.days");
    invalid(with(&|body| body["report"] = json!("invoice")), "report");
    invalid(with(&|body| body["report"] = json!({"sales": null})), "report");
    invalid(with(&|body| body["group_by"] = json!("year")), "group_by");
    invalid(with(&|body| body["period"] = json!(["2025-11-01", "2025-11-30"])), "period");
    invalid(with(&|body| body["period"] = json!(null)), "period");
    invalid(with(&|body| body["period"]["to"] = json!(20251130)), "period.to");
    invalid(period("2025-11-01", "2025-11-31"), "period.to");
    invalid(period("2025-11-1", "2025-11-30"), "period.from");
    invalid(period("2025-12-01", "2025-11-30"), "period");
    invalid(period("2024-01-01", "2025-01-01"), "period");
    invalid(period("1969-12-31", "1970-01-01"), "period");
    invalid(
        r#"{"report":"sales","report":"sales","period":{"from":"2025-11-01","to":"2025-11-30"}}"#.to_owned(),
        "report",
    );
    rows
}

#[tokio::test]
async fn bad_input_is_told_what_is_wrong_and_nothing_is_enqueued() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    for (content_type, body, status, kind, field) in bad_inputs() {
        let mut request = web.client.post(web.url("/v1/reports")).bearer_auth(ALICE).body(body.clone());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let shown: String = body.chars().take(100).collect();
        let problem = problem(request.send().await.unwrap(), status, kind).await;
        let fields: Vec<_> =
            problem["errors"].as_array().into_iter().flatten().map(|error| error["field"].clone()).collect();
        assert_eq!(fields, field.into_iter().map(Value::from).collect::<Vec<_>>(), "{shown}: {problem}");
    }
    let compressed =
        web.client.post(web.url("/v1/reports")).bearer_auth(ALICE).json(&november()).header("content-encoding", "gzip");
    problem(compressed.send().await.unwrap(), 415, "unsupported-media-type").await;
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_body_that_hides_its_length_is_stopped_at_the_limit() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let pieces = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024])));
    let request = web.client.post(web.url("/v1/reports")).bearer_auth(ALICE).header("content-type", "application/json");
    let response = request.body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    problem(response, 413, "body-too-large").await;
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn who_is_not_known_is_told_so_before_anything_else() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let id = Uuid::now_v7();
    for path in [
        "/v1/reports".to_owned(),
        format!("/v1/jobs/{id}"),
        format!("/v1/jobs/{id}/events"),
        format!("/v1/reports/{id}/pdf"),
    ] {
        let request = || match path.as_str() {
            "/v1/reports" => web.client.post(web.url(&path)).body("no json"),
            _ => web.client.get(web.url(&path)),
        };
        let none = request().send().await.unwrap();
        assert_eq!(none.headers()["www-authenticate"], "Bearer realm=\"postroom\"");
        problem(none, 401, "unauthenticated").await;
        for wrong in [&ALICE[1..], "", &format!("{ALICE}x"), &BOB.to_uppercase(), &ALICE.repeat(6)] {
            let refused = request().bearer_auth(wrong).send().await.unwrap();
            assert_eq!(refused.headers()["www-authenticate"], "Bearer realm=\"postroom\", error=\"invalid_token\"");
            problem(refused, 401, "unauthenticated").await;
        }
    }
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn an_address_or_a_method_that_there_is_not_is_a_problem_too() {
    let web = Web::start(Behind::nothing()).await;
    problem(web.get("/v1/nothing").await, 404, "not-found").await;
    problem(web.get("/v1/jobs/not-an-id").await, 404, "not-found").await;
    let response = web.client.delete(web.url("/v1/reports")).send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    problem(response, 405, "method-not-allowed").await;
    let response = web.client.post(web.url("/")).send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    problem(response, 405, "method-not-allowed").await;
    web.stop().await;
}
