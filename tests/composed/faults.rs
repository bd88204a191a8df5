use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use crate::harness::{Container, alice, all_work_done, mail_arrived, mails_about, sales, url};

/// How often a job ran, as its timeline tells.
fn runs(job: &Value) -> usize {
    let timeline = job["timeline"].as_array().expect("a timeline");
    timeline.iter().filter_map(|run| run["run_id"].as_str()).collect::<BTreeSet<_>>().len()
}

const BROKER: Container = Container("rabbitmq");
const REPORT: Container = Container("pdf-report");

#[tokio::test]
async fn a_report_whose_worker_is_killed_in_the_middle_ends_in_one_pdf_and_one_mail() {
    let caller = alice();
    let id = caller.accepted(&sales("2025-01-01", "2025-12-31")).await;
    caller.each_event(&id, None, |event| event.event != "job.started").await;
    REPORT.kill();
    let killed = caller.job(&id).await;
    assert_eq!(killed["state"], "running", "killed in the middle: {killed:#}");
    REPORT.start();
    let job = caller.ended(&id).await;
    assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{job:#}");
    assert_eq!(runs(&job), 2, "the killed run and the one that ended well: {job:#}");
    assert!(caller.pdf(&id).await.starts_with(b"%PDF-"));
    mail_arrived(&id).await;
    all_work_done().await;
    assert_eq!(mails_about(&id).await.len(), 1);
    REPORT.healthy().await;
}

#[tokio::test]
async fn a_broker_that_is_killed_with_jobs_queued_loses_none_of_them() {
    let caller = alice();
    REPORT.stop();
    let mut ids = Vec::new();
    for day in 1..=12 {
        let day = format!("2025-06-{day:02}");
        ids.push(caller.accepted(&sales(&day, &day)).await);
    }
    BROKER.kill();
    BROKER.start();
    REPORT.start();
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
    BROKER.healthy().await;
    REPORT.healthy().await;
    let after = caller.accepted(&sales("2025-05-05", "2025-05-11")).await;
    assert_eq!(caller.ended(&after).await["state"], "succeeded");
}

#[tokio::test]
async fn a_web_that_lost_the_broker_takes_work_in_time_serves_the_rest_and_each_job_ends_after_its_return() {
    let caller = alice();
    let earlier = caller.accepted(&sales("2025-05-05", "2025-05-11")).await;
    caller.ended(&earlier).await;
    BROKER.kill();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        ids.push(caller.accepted(&sales("2025-05-05", "2025-05-11")).await);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    for id in &ids {
        assert_eq!(caller.job(id).await["state"], "queued");
    }
    assert_eq!(caller.job(&earlier).await["state"], "succeeded");
    assert!(caller.pdf(&earlier).await.starts_with(b"%PDF-"));
    assert_eq!(reqwest::get(url("/openapi.json")).await.unwrap().status(), StatusCode::OK);
    BROKER.start();
    BROKER.healthy().await;
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
    let mut ids = Vec::new();
    for month in 1..=8 {
        ids.push(caller.accepted(&sales(&format!("2025-{month:02}-01"), &format!("2025-{month:02}-28"))).await);
    }
    caller.each_event(&ids[0], None, |event| event.event != "job.started").await;
    assert_eq!(REPORT.stop(), 0, "a drained worker ends well");
    let ended = futures_util::future::join_all(ids.iter().map(|id| caller.job(id))).await;
    let ended = ended.iter().filter(|job| job["state"] == "succeeded").count();
    assert!(ended < ids.len(), "it was stopped with work left");
    REPORT.start();
    for id in &ids {
        let job = caller.ended(id).await;
        assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{job:#}");
        assert_eq!(runs(&job), 1, "no started job runs twice: {job:#}");
        mail_arrived(id).await;
    }
    all_work_done().await;
    for id in &ids {
        assert_eq!(mails_about(id).await.len(), 1);
    }
    REPORT.healthy().await;
}
