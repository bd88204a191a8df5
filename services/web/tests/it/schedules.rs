use chrono::{DateTime, TimeDelta, Utc};
use pipeline::SealedJob;
use pipeline::topology::Lane;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{ALICE, ALICE_ID, BOB, Behind, Web, database, november, problem, vhost};

fn weekly() -> Value {
    json!({"name": "Last week", "cron": "0 8 * * MON", "time_zone": "Europe/Berlin",
        "report": {"report": "sales", "period": "last-week"}})
}

#[tokio::test]
async fn a_report_for_later_waits_in_the_outbox_and_shows_when_it_is_due() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let mut body = november();
    body["run_at"] = json!("2026-12-24T18:00:00.5+01:00");
    let due: DateTime<Utc> = "2026-12-24T17:00:00.5Z".parse().unwrap();
    let ahead = due - Utc::now();
    assert!((TimeDelta::zero()..TimeDelta::days(366)).contains(&ahead), "the test has grown old");
    body["lane"] = json!("bulk");
    let response = web.post_report(&body).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let retry_after: i64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((ahead.num_seconds() - retry_after).abs() < 60, "{retry_after}");
    let accepted: Value = response.json().await.unwrap();
    let shown = |job: &Value| job["due_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert_eq!(shown(&accepted), due);
    let job: Value = web.get(accepted["links"]["self"].as_str().unwrap()).await.json().await.unwrap();
    assert_eq!(job, accepted);

    let (message, due_at): (Value, DateTime<Utc>) =
        sqlx::query_as("SELECT message, due_at FROM outbox").fetch_one(&web.pool).await.unwrap();
    let message: SealedJob = serde_json::from_value(message).unwrap();
    assert_eq!((message.job.lane, due_at), (Lane::Bulk, due));
    web.stop().await;
    // Nothing went to the broker.
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_lane_is_a_queue_of_its_own() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    for lane in ["urgent", "normal", "bulk"] {
        let mut body = november();
        body["lane"] = json!(lane);
        assert_eq!(web.post_report(&body).await.status(), StatusCode::ACCEPTED);
    }
    web.stop().await;
    vhost.finish(&[("report.urgent", 1), ("report.normal", 1), ("report.bulk", 1), ("tracker.lifecycle", 3)]).await;
}

#[tokio::test]
async fn a_moment_that_is_none_or_over_or_too_far_is_refused() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let now = Utc::now();
    let moment = |ahead: TimeDelta| json!(now + ahead);
    for bad in [
        json!("tomorrow"),
        json!("2026-12-24"),
        json!("2026-12-24T18:00:00"),
        json!(1_798_131_600),
        moment(TimeDelta::zero()),
        moment(TimeDelta::seconds(-1)),
        moment(TimeDelta::days(367)),
    ] {
        let mut body = november();
        body["run_at"] = bad.clone();
        let problem = problem(web.post_report(&body).await, 422, "validation").await;
        assert_eq!(problem["errors"][0]["field"], "run_at", "{bad}");
    }
    let mut body = november();
    body["lane"] = json!("express");
    let problem = problem(web.post_report(&body).await, 422, "validation").await;
    assert_eq!(problem["errors"][0]["field"], "lane");
    web.stop().await;
}

#[tokio::test]
async fn a_schedule_is_made_shown_listed_and_ended() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let response = web.post("/v1/schedules", &weekly()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let made: Value = response.json().await.unwrap();
    assert_eq!(made["links"]["self"], location);
    assert_eq!(made["report"], json!({"report": "sales", "period": "last-week", "group_by": null}));
    let next: DateTime<Utc> = made["next_due_at"].as_str().unwrap().parse().unwrap();
    assert!(next > Utc::now() && next < Utc::now() + TimeDelta::days(8), "{next}");
    assert!(["06:00", "07:00"].contains(&next.format("%R").to_string().as_str()), "8 in Berlin is not {next}");
    assert!(!made.to_string().contains("alice@shop.example"), "{made}");

    let shown: Value = web.get(&location).await.json().await.unwrap();
    let mut expected = made.clone();
    expected["firings"] = json!([]);
    assert_eq!(shown, expected);
    let listed: Value = web.get("/v1/schedules").await.json().await.unwrap();
    assert_eq!(listed, json!({"schedules": [made]}));

    assert_eq!(web.delete(&location).await.status(), StatusCode::NO_CONTENT);
    problem(web.delete(&location).await, 404, "not-found").await;
    problem(web.get(&location).await, 404, "not-found").await;
    let listed: Value = web.get("/v1/schedules").await.json().await.unwrap();
    assert_eq!(listed, json!({"schedules": []}));
    web.stop().await;
}

#[tokio::test]
async fn a_schedule_shows_the_jobs_that_it_has_made() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let made: Value = web.post("/v1/schedules", &weekly()).send().await.unwrap().json().await.unwrap();
    let job = uuid::Uuid::now_v7();
    sqlx::query(
        "INSERT INTO schedule_firings (schedule_id, due_at, outcome, job_id) VALUES ($1::uuid, $2, 'fired', $3)",
    )
    .bind(made["id"].as_str().unwrap())
    .bind("2026-11-16T07:00:00Z".parse::<DateTime<Utc>>().unwrap())
    .bind(job)
    .execute(&web.pool)
    .await
    .unwrap();
    let shown: Value = web.get(made["links"]["self"].as_str().unwrap()).await.json().await.unwrap();
    let expected = json!([{"due_at": "2026-11-16T07:00:00Z", "outcome": "fired", "job": format!("/v1/jobs/{job}")}]);
    assert_eq!(shown["firings"], expected);
    web.stop().await;
}

#[tokio::test]
async fn a_schedule_that_is_wrong_is_told_which_field() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let with = |field: &str, value: Value| {
        let mut body = weekly();
        body[field] = value;
        body
    };
    let report = |report: Value| with("report", report);
    for (body, field) in [
        (with("cron", json!("every monday")), "cron"),
        (with("cron", json!("* * * * * *")), "cron"),
        (with("cron", json!("0 0 30 2 *")), "cron"),
        (with("time_zone", json!("Berlin")), "time_zone"),
        (with("time_zone", json!("+01:00")), "time_zone"),
        (with("name", json!("")), "name"),
        (with("name", json!("a\u{0}b")), "name"),
        (with("name", json!("n".repeat(201))), "name"),
        (with("owner", json!("bob")), "owner"),
        (report(json!({"report": "sales", "period": "last-decade"})), "report.period"),
        (report(json!({"report": "sales", "period": {"from": "2025-11-01", "to": "2025-11-30"}})), "report.period"),
        (report(json!({"report": "sales", "period": "last-week", "recipient": "eve"})), "report.recipient"),
        (report(json!({"period": "last-week"})), "report.report"),
    ] {
        let problem = problem(web.post("/v1/schedules", &body).send().await.unwrap(), 422, "validation").await;
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    let listed: Value = web.get("/v1/schedules").await.json().await.unwrap();
    assert_eq!(listed, json!({"schedules": []}));
    web.stop().await;
}

#[tokio::test]
async fn a_schedule_belongs_to_who_made_it() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let made: Value = web.post("/v1/schedules", &weekly()).send().await.unwrap().json().await.unwrap();
    let url = web.url(made["links"]["self"].as_str().unwrap());
    problem(web.client.get(&url).bearer_auth(BOB).send().await.unwrap(), 404, "not-found").await;
    problem(web.client.delete(&url).bearer_auth(BOB).send().await.unwrap(), 404, "not-found").await;
    let list = web.client.get(web.url("/v1/schedules")).bearer_auth(BOB).send().await.unwrap();
    assert_eq!(list.json::<Value>().await.unwrap(), json!({"schedules": []}));
    problem(web.client.get(&url).send().await.unwrap(), 401, "unauthenticated").await;
    assert_eq!(web.client.get(&url).bearer_auth(ALICE).send().await.unwrap().status(), StatusCode::OK);
    web.stop().await;
}

#[tokio::test]
async fn a_caller_has_a_hundred_schedules_and_no_more() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    for _ in 0..100 {
        let made = web.post("/v1/schedules", &weekly()).send().await.unwrap();
        assert_eq!(made.status(), StatusCode::CREATED);
    }
    problem(web.post("/v1/schedules", &weekly()).send().await.unwrap(), 409, "too-many-schedules").await;
    let bobs = web.client.post(web.url("/v1/schedules")).bearer_auth(BOB).json(&weekly()).send().await.unwrap();
    assert_eq!(bobs.status(), StatusCode::CREATED);
    web.stop().await;
}

#[tokio::test]
async fn who_belongs_to_the_staff_no_more_gets_no_more_reports() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let operator = web.member_who_is("ada@shop.example", "operator").await;
    let mut dated = november();
    dated["run_at"] = json!(Utc::now() + TimeDelta::hours(1));
    let mut made = Vec::new();
    for token in [ALICE, BOB] {
        let post = async |path: &str, body: &Value| {
            let response = web.client.post(web.url(path)).bearer_auth(token).json(body).send().await.unwrap();
            response.json::<Value>().await.unwrap()["links"]["self"].as_str().unwrap().to_owned()
        };
        made.push((token, post("/v1/schedules", &weekly()).await, post("/v1/reports", &dated).await));
    }
    for (role, alice_stops) in [("operator", false), ("customer", true)] {
        let change = web.with_sid(Method::PUT, &format!("/v1/users/{ALICE_ID}/role"), &operator.sid);
        assert_eq!(change.json(&json!({"role": role})).send().await.unwrap().status(), StatusCode::NO_CONTENT);
        for (token, schedule, job) in &made {
            let shown = async |path: &str| {
                let response = web.client.get(web.url(path)).bearer_auth(token).send().await.unwrap();
                response.json::<Value>().await.unwrap()
            };
            let stops = alice_stops && *token == ALICE;
            assert_eq!(shown(schedule).await["next_due_at"].is_null(), stops);
            assert_eq!(shown(job).await["state"], if stops { "cancelled" } else { "queued" });
        }
    }
    web.stop().await;
}
