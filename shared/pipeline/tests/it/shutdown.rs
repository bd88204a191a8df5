use pipeline::{Done, JobContext};

use crate::harness::{Process, With, Worker, broker, job, vhost};

#[tokio::test]
async fn a_drained_worker_finishes_what_it_began_gives_back_the_rest_and_runs_nothing_twice() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    for _ in 0..60 {
        publishing.publisher().publish_job(&job("sleep 400")).await.unwrap();
    }
    let mut started = vhost.listen("postroom.events", "job.started").await;
    let mut process = Process::start(&vhost, 8);
    for _ in 0..8 {
        started.next().await;
    }
    process.signal("-TERM");
    let status = process.ended().await;
    assert!(status.success(), "{status}");

    let mut runs = std::collections::BTreeMap::<String, u32>::new();
    let mut drain_events = async || {
        while vhost.ready("tracker.lifecycle").await != Some(0) {
            let event = vhost.take("tracker.lifecycle").await;
            if event.routing_key.as_str() == "job.succeeded" {
                *runs.entry(event.properties.correlation_id().as_ref().unwrap().to_string()).or_default() += 1;
            }
        }
        runs.clone()
    };
    let done = u32::try_from(drain_events().await.len()).unwrap();
    assert!((8..60).contains(&done), "{done} done");
    vhost.wait_ready("noop.normal", 60 - done).await;

    let rest = Worker::start(
        &vhost,
        8,
        With(|_, context: JobContext| async move {
            assert_eq!(context.attempt(), 1);
            Ok(Done::empty())
        }),
    )
    .await;
    // Each is in hand or done, and a worker that stops would give the former back.
    vhost.wait("all are done", || async { vhost.ready("tracker.lifecycle").await >= Some(60 - done) }).await;
    rest.stop().await;
    let runs = drain_events().await;
    assert_eq!(runs.len(), 60);
    assert!(runs.values().all(|times| *times == 1), "{runs:?}");
    publishing.close().await;
    let progress = vhost.ready("tracker.progress").await.unwrap();
    vhost.finish(&[("tracker.progress", progress)]).await;
}

#[tokio::test]
async fn a_second_signal_ends_a_worker_that_is_still_busy_and_its_job_goes_back() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    publishing.publisher().publish_job(&job("sleep 1400")).await.unwrap();
    let mut started = vhost.listen("postroom.events", "job.started").await;
    let mut process = Process::start(&vhost, 1);
    started.next().await;
    process.signal("-TERM");
    process.signal("-INT");
    let status = process.ended().await;
    assert!(!status.success(), "an abort is a failure: {status}");
    vhost.wait_ready("noop.normal", 1).await;
    vhost.take("noop.normal").await;
    publishing.close().await;
    let progress = vhost.ready("tracker.progress").await.unwrap();
    vhost.finish(&[("tracker.lifecycle", 1), ("tracker.progress", progress)]).await;
}
