use backing::{Proxy, Vhost};
use pipeline::topology;
use uuid::Uuid;

use crate::fixture::Fixture;
use crate::whole::{Worker, mails_to, publish_at, smtp};

const TIME_SCALE: f64 = 0.05;

/// How often the worker has asked a dependency in vain.
async fn vain_probes(worker: &Worker, dependency: &str) -> u64 {
    let name = format!("dependency_probes_total{{dependency=\"{dependency}\",outcome=\"away\"}} ");
    let metrics = worker.metrics().await;
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
}

/// Takes a dependency away with mails waiting, for more than 40 probes, and gives it back.
async fn outage(dependency: &str) {
    let (fixture, vhost) = (Fixture::new().await, Vhost::create(&topology::definitions()).await);
    let (relay, database) = (Proxy::start(&smtp()).await, Proxy::start(&fixture.database_url()).await);
    let proxy = if dependency == "smtp" { &relay } else { &database };
    proxy.cut(true);
    let worker = Worker::start_at(TIME_SCALE, &database.url, &fixture, &vhost, &relay.url);
    let mut jobs = Vec::new();
    for _ in 0..12 {
        jobs.push((Uuid::new_v4(), fixture.job(b"%PDF-1.7\n".to_vec()).await));
    }
    let wanted: Vec<_> = jobs.iter().map(|(id, job)| (*id, job)).collect();
    publish_at(TIME_SCALE, &vhost, &wanted).await;
    let paused = format!("paused: {dependency}");
    vhost
        .wait("paused", || async {
            worker.ready().await.is_some_and(|(status, parts)| status == 503 && parts["consuming"] == paused)
        })
        .await;
    let mut succeeded = vhost.listen(topology::EVENTS, "job.succeeded").await;
    vhost.wait("more than 40 probes", || async { vain_probes(&worker, dependency).await > 40 }).await;
    // What was put back is back.
    vhost.wait_ready("email.normal", 12).await;
    proxy.cut(false);
    for _ in 0..12 {
        let (_, event) = succeeded.next_json().await;
        assert_eq!(event["run"]["attempt"], 1, "{event}");
    }
    for (_, job) in &jobs {
        assert_eq!(mails_to(&job.to.address).await.len(), 1);
    }
    assert_eq!(worker.terminate().await.0, Some(0));
    let told = vhost.ready(topology::TRACKER_LIFECYCLE).await.unwrap();
    vhost.finish(&[(topology::TRACKER_LIFECYCLE, told)]).await;
}

#[tokio::test]
async fn an_outage_of_the_relay_pauses_the_worker_and_costs_no_mail_an_attempt() {
    outage("smtp").await;
}

#[tokio::test]
async fn an_outage_of_the_database_pauses_the_worker_and_costs_no_mail_an_attempt() {
    outage("postgres").await;
}
