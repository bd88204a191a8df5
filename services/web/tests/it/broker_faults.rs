use std::time::{Duration, Instant};

use backing::Proxy;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Behind, Web, november, problem, vhost, wait};

/// The deadline of a publish, and what a loaded machine may need beside it.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn without_broker_and_outbox_work_is_refused_at_once_and_the_rest_is_served() {
    let web = Web::start(Behind::nothing()).await;
    let begun = Instant::now();
    problem(web.post_report(&november()).await, 503, "broker-unavailable").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(web.get("/openapi.json").await.status(), StatusCode::OK);
    web.stop().await;
}

#[tokio::test]
async fn a_job_that_no_queue_takes_is_never_answered_with_202() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let unbound = vhost.channel().queue_unbind(
        "report.normal".into(),
        "postroom.jobs.report.render".into(),
        "normal".into(),
        Default::default(),
    );
    unbound.await.unwrap();
    let begun = Instant::now();
    problem(web.post_report(&november()).await, 503, "no-queue").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_full_queue_is_answered_with_503_and_when_to_come_again() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let policy = json!({"pattern": "^report\\.normal$", "definition": {"max-length": 1}, "apply-to": "queues"});
    vhost.manage(Method::PUT, "policies", "/small", Some(policy)).await;
    // A quorum queue may overshoot its limit a little before it refuses.
    let mut taken = 0;
    let refused = loop {
        let response = web.post_report(&november()).await;
        if response.status() != StatusCode::ACCEPTED {
            break response;
        }
        taken += 1;
        assert!(taken < 100, "the queue takes more than its limit");
    };
    problem(refused, 503, "queue-full").await;
    web.stop().await;
    vhost.finish(&[("report.normal", taken), ("tracker.lifecycle", taken)]).await;
}

#[tokio::test]
async fn an_answer_that_the_broker_owes_is_waited_for_no_longer_than_the_deadline_and_without_outbox_unknown() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.url("web")).await;
    let web = Web::start_connected(Behind { broker_url: proxy.url.clone(), ..Behind::nothing() }).await;
    proxy.silence(true);
    let begun = Instant::now();
    let problem = problem(web.post_report(&november()).await, 503, "outcome-unknown").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(problem["job"].as_str().unwrap().starts_with("/v1/jobs/"), "{problem}");
    proxy.silence(false);
    web.stop().await;
    // It was on its way and arrives now, as an unknown outcome may.
    vhost.wait_ready("report.normal", 1).await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn without_an_outbox_a_lost_connection_is_a_503_until_it_is_back_by_itself() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.url("web")).await;
    let web = Web::start_connected(Behind { broker_url: proxy.url.clone(), ..Behind::nothing() }).await;
    assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED);
    proxy.cut(true);
    wait("the loss is noticed", async || web.post_report(&november()).await.status() != StatusCode::ACCEPTED).await;
    let kind = web.post_report(&november()).await.json::<Value>().await.unwrap();
    assert_eq!(kind["type"], "/problems/broker-unavailable");
    proxy.cut(false);
    wait("work is taken again", async || web.post_report(&november()).await.status() == StatusCode::ACCEPTED).await;
    web.stop().await;
    let (jobs, events) = (vhost.ready("report.normal").await.unwrap(), vhost.ready("tracker.lifecycle").await.unwrap());
    assert!(jobs >= 2, "{jobs}");
    vhost.finish(&[("report.normal", jobs), ("tracker.lifecycle", events)]).await;
}
