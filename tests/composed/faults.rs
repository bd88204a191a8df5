use std::time::{Duration, Instant};

use reqwest::StatusCode;

use crate::harness::{Caller, alice, all_work_done, mail_arrived, mails_about, runs, sales, url};
use backing::containers::copies_of;

/// A web without a broker takes work within its own deadlines, by the outbox.
async fn taken_in_time(caller: &Caller) -> String {
    let begun = Instant::now();
    let id = caller.accepted(&sales("2025-05-05", "2025-05-11")).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    id
}

#[tokio::test]
async fn a_broker_that_is_killed_with_jobs_queued_loses_none_of_them() {
    let caller = alice();
    let (broker, reports) = (copies_of("rabbitmq"), copies_of("pdf-report"));
    reports.stop();
    let mut ids = Vec::new();
    for day in 1..=12 {
        let day = format!("2025-06-{day:02}");
        ids.push(caller.accepted(&sales(&day, &day)).await);
    }
    broker.kill();
    broker.start();
    reports.start();
    for id in &ids {
        assert_eq!(caller.ended(id).await["state"], "succeeded");
        assert!(caller.pdf(id).await.starts_with(b"%PDF-"));
    }
    for id in &ids {
        mail_arrived(id).await;
    }
    all_work_done().await;
    for id in &ids {
        assert_eq!(mails_about(id).await.len(), 1, "{id}");
    }
    broker.healthy().await;
    let after = caller.accepted(&sales("2025-05-05", "2025-05-11")).await;
    assert_eq!(caller.ended(&after).await["state"], "succeeded");
}

#[tokio::test]
async fn a_web_that_lost_the_broker_takes_work_in_time_serves_the_rest_and_each_job_ends_after_its_return() {
    let caller = alice();
    let earlier = caller.accepted(&sales("2025-05-05", "2025-05-11")).await;
    caller.ended(&earlier).await;
    let broker = copies_of("rabbitmq");
    let mut ids = Vec::new();
    broker.kill();
    for _ in 0..6 {
        ids.push(taken_in_time(&caller).await);
    }
    for id in &ids {
        assert_eq!(caller.job(id).await["state"], "queued");
    }
    assert_eq!(caller.job(&earlier).await["state"], "succeeded");
    assert!(caller.pdf(&earlier).await.starts_with(b"%PDF-"));
    assert_eq!(reqwest::get(url("/openapi.json")).await.unwrap().status(), StatusCode::OK);
    broker.start();
    broker.healthy().await;
    for id in &ids {
        assert_eq!(caller.ended(id).await["state"], "succeeded");
        mail_arrived(id).await;
    }
    all_work_done().await;
    for id in &ids {
        assert_eq!(mails_about(id).await.len(), 1, "{id}");
    }
}

#[tokio::test]
async fn a_worker_that_is_stopped_under_load_finishes_what_it_began_and_runs_nothing_twice() {
    let caller = alice();
    let reports = copies_of("pdf-report");
    let mut ids = Vec::new();
    for month in 1..=8 {
        ids.push(caller.accepted(&sales(&format!("2025-{month:02}-01"), &format!("2025-{month:02}-28"))).await);
    }
    caller.each_event(&ids[0], None, |event| event.event != "job.started").await;
    assert_eq!(reports.stop(), ["0", "0"], "a drained worker ends well");
    let ended = futures_util::future::join_all(ids.iter().map(|id| caller.job(id))).await;
    let ended = ended.iter().filter(|job| job["state"] == "succeeded").count();
    assert!(ended < ids.len(), "it was stopped with work left");
    reports.start();
    for id in &ids {
        let job = caller.ended(id).await;
        assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{job:#}");
        assert_eq!(runs(&job).len(), 1, "no started job runs twice: {job:#}");
        mail_arrived(id).await;
    }
    all_work_done().await;
    for id in &ids {
        assert_eq!(mails_about(id).await.len(), 1);
    }
    reports.healthy().await;
}
