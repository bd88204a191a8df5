use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use pipeline::jobs::Noop;
use pipeline::topology::Lane;
use pipeline::{Done, OutgoingJob, Publisher};
use tokio::sync::Semaphore;

use crate::harness::{Notes, With, Worker, broker, job, vhost};

fn in_lane(lane: Lane) -> OutgoingJob<Noop> {
    OutgoingJob { lane, ..job(lane.as_str()) }
}

async fn publish(publisher: &Publisher, lane: Lane, count: usize) {
    let mut left = count;
    while left > 0 {
        let jobs: Vec<_> = (0..left.min(500)).map(|_| in_lane(lane)).collect();
        left -= jobs.len();
        for published in join_all(jobs.iter().map(|job| publisher.publish_job(job))).await {
            published.unwrap();
        }
    }
}

#[tokio::test]
async fn an_urgent_job_does_not_wait_for_ten_thousand_bulk_ones() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    publish(&publishing.publisher(), Lane::Bulk, 10_000).await;
    let done = Notes::default();
    let noted = done.clone();
    let handler = With(move |job: Noop, _| {
        let noted = noted.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(4)).await;
            noted.add(job.note);
            Ok(Done::empty())
        }
    });
    let worker = Worker::start(&vhost, 4, handler).await;
    vhost.wait("bulk moves", || async { done.all().len() > 10 }).await;
    publish(&publishing.publisher(), Lane::Urgent, 1).await;
    vhost.wait("the urgent one is done", || async { done.all().iter().any(|note| note == "urgent") }).await;
    assert!(vhost.ready("noop.bulk").await.unwrap() > 5_000, "most of the others still wait");
    worker.stop().await;
    publishing.close().await;
    vhost.purge("noop.bulk").await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_place_is_kept_for_urgent_jobs_while_others_take_all_the_rest() {
    let vhost = vhost().await;
    let done = Notes::default();
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let (noted, gate) = (done.clone(), Arc::clone(&gate));
        With(move |job: Noop, _| {
            let (noted, gate) = (noted.clone(), Arc::clone(&gate));
            async move {
                if job.note != "urgent" {
                    drop(gate.acquire().await);
                }
                noted.add(job.note);
                Ok(Done::empty())
            }
        })
    };
    let worker = Worker::start(&vhost, 3, handler).await;
    let publisher = worker.broker.publisher();
    publish(&publisher, Lane::Bulk, 5).await;
    publish(&publisher, Lane::Normal, 5).await;
    publish(&publisher, Lane::Urgent, 5).await;
    vhost.wait("every urgent one is done", || async { done.all() == ["urgent"; 5] }).await;
    gate.add_permits(100);
    vhost.wait("all are done", || async { done.all().len() == 15 }).await;
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.purge("tracker.progress").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn bulk_moves_while_urgent_is_busy_also_where_one_job_runs_at_a_time() {
    for concurrency in [1, 2] {
        let vhost = vhost().await;
        let publishing = broker(&vhost, "noop-worker").await;
        publish(&publishing.publisher(), Lane::Bulk, 5).await;
        publish(&publishing.publisher(), Lane::Urgent, 100).await;
        let done = Notes::default();
        let noted = done.clone();
        let handler = With(move |job: Noop, _| {
            let noted = noted.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                noted.add(job.note);
                Ok(Done::empty())
            }
        });
        let worker = Worker::start(&vhost, concurrency, handler).await;
        vhost.wait("all are done", || async { done.all().len() == 105 }).await;
        let done = done.all();
        let last_bulk = done.iter().rposition(|note| note == "bulk").unwrap();
        let urgent_after = done[last_bulk..].iter().filter(|note| *note == "urgent").count();
        assert!(urgent_after > 30, "{concurrency} at a time: {urgent_after} urgent ones came after the last bulk one");
        worker.stop().await;
        publishing.close().await;
        vhost.purge("tracker.lifecycle").await;
        vhost.finish(&[]).await;
    }
}
