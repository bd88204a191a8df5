use std::os::unix::process::ExitStatusExt;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use pipeline::{Done, Failure, JobContext};
use uuid::Uuid;

use crate::harness::{Notes, Process, With, Worker, broker, job, vhost};

/// The number of SIGABRT.
const ABORT: i32 = 6;

pub(crate) fn properties(id: &str, kind: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into()).with_type(kind.into()).with_delivery_mode(2)
}

/// Publishes as anybody may, past the publisher.
#[expect(clippy::disallowed_methods, reason = "what a foreign publisher does")]
pub(crate) async fn publish_raw(vhost: &backing::Vhost, properties: BasicProperties, body: &[u8]) {
    let publish = vhost.channel().basic_publish(
        "postroom.jobs.noop.run".into(),
        "normal".into(),
        BasicPublishOptions::default(),
        body,
        properties,
    );
    drop(publish.await.unwrap().await.unwrap());
}

#[tokio::test]
async fn what_is_no_job_goes_to_the_dead_at_once_and_the_queue_moves_on() {
    let vhost = vhost().await;
    let runs = Notes::default();
    let noted = runs.clone();
    let worker = Worker::start(
        &vhost,
        1,
        With(move |job: pipeline::jobs::Noop, _| {
            noted.add(job.note);
            async { Ok(Done::empty()) }
        }),
    )
    .await;
    let id = Uuid::now_v7().to_string();
    let wrong = [
        (properties(&id, "noop.run"), &b"{not json"[..], "undecodable"),
        (properties(&id, "noop.run"), br#"{"note":"x","unknown":1}"#, "undecodable"),
        (properties(&id, "noop.run").with_content_type("text/xml".into()), b"<note/>", "undecodable"),
        (properties("no uuid", "noop.run"), br#"{"note":"x"}"#, "undecodable"),
        (properties(&id, "noop.walk"), br#"{"note":"x"}"#, "unknown_kind"),
        (BasicProperties::default(), b"", "undecodable"),
    ];
    for (properties, body, _) in &wrong {
        publish_raw(&vhost, properties.clone(), body).await;
    }
    worker.broker.publisher().publish_job(&job("good")).await.unwrap();
    for (_, body, kind) in &wrong {
        let dead = vhost.take("noop.dead").await;
        assert_eq!(dead.data, *body);
        let headers = dead.properties.headers().as_ref().unwrap().inner();
        assert_eq!(headers["failure_kind"], AMQPValue::LongString((*kind).into()));
        assert_eq!(headers["attempt"], AMQPValue::LongLongInt(1));
    }
    vhost.wait("the good job is done", || async { runs.all() == ["good"] }).await;
    worker.stop().await;
    // Four of the six name a job, so there is something to tell of them.
    let mut told = Vec::new();
    while vhost.ready("tracker.lifecycle").await != Some(0) {
        told.push(vhost.take("tracker.lifecycle").await.routing_key.to_string());
    }
    assert_eq!(told.iter().filter(|kind| *kind == "job.dead").count(), 4, "{told:?}");
    vhost.purge("tracker.progress").await;
    vhost.finish(&[("tracker.dead_letters", 6)]).await;
}

#[tokio::test]
async fn a_message_with_all_the_headers_that_it_can_have_is_buried_like_any_other() {
    let vhost = vhost().await;
    let reason = "far too long ".repeat(1000);
    let handler = With(move |_, _: JobContext| std::future::ready(Err::<Done, _>(Failure::reject(reason.clone()))));
    let worker = Worker::start(&vhost, 1, handler).await;
    let mut headers = FieldTable::default();
    // Eleven bytes each: 30 KiB of the 32 KiB that a frame holds.
    for number in 0..2800 {
        headers.insert(format!("{number:04}").into(), AMQPValue::LongString("a".into()));
    }
    let id = Uuid::now_v7().to_string();
    publish_raw(&vhost, properties(&id, "noop.run").with_headers(headers), br#"{"note":"x"}"#).await;
    let dead = vhost.take("noop.dead").await;
    assert_eq!(dead.properties.message_id().as_ref().unwrap().as_str(), id);
    let headers = dead.properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["failure_kind"], AMQPValue::LongString("rejected".into()));
    assert_eq!(headers["0000"], AMQPValue::LongString("a".into()));
    worker.stop().await;
    assert_eq!(vhost.take("tracker.lifecycle").await.routing_key.as_str(), "job.dead");
    vhost.finish(&[("tracker.dead_letters", 1)]).await;
}

#[tokio::test]
async fn a_message_that_kills_its_worker_runs_apart_and_dies_by_the_brokers_limit() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    let job = job("kill");
    publishing.publisher().publish_job(&job).await.unwrap();
    let mut lives = 0;
    while vhost.ready("noop.dead").await != Some(1) {
        let mut process = Process::start(&vhost, 1);
        // A worker that meets the message dies of it; one that does not is told to end, and ends well.
        let status = tokio::select! {
            status = process.ended() => status,
            () = vhost.wait_ready("noop.dead", 1) => {
                process.signal("-TERM");
                process.ended().await
            }
        };
        lives += u32::from(status.signal() == Some(ABORT));
        assert!(lives <= 7, "the broker's limit did not end it");
    }
    assert_eq!(lives, 3 + 4, "three among others; apart, three more after the first");
    let dead = vhost.take("noop.dead").await;
    assert_eq!(dead.data, br#"{"note":"kill"}"#);
    assert_eq!(dead.properties.message_id().as_ref().unwrap().as_str(), job.id.to_string());
    publishing.close().await;
    // The broker lets go of it here once it is safe there.
    vhost.wait_ready("noop.suspect", 0).await;

    // The tracker hears of it, though no worker could tell.
    let letters = crate::faults::tracked(&vhost).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].contains("delivery_limit"), "{letters:?}");
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_killed_worker_loses_no_job() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    let mut started = vhost.listen("postroom.events", "job.started").await;
    let long = job("sleep 600");
    publishing.publisher().publish_job(&long).await.unwrap();
    for _ in 0..20 {
        publishing.publisher().publish_job(&job("quick")).await.unwrap();
    }
    let mut first = Process::start(&vhost, 4);
    started.next().await;
    first.0.kill().await.unwrap();
    let second = Worker::start(&vhost, 4, With(|_, _: JobContext| async { Ok(Done::empty()) })).await;
    let mut succeeded = std::collections::BTreeSet::new();
    while succeeded.len() < 21 {
        let event = vhost.take("tracker.lifecycle").await;
        if event.routing_key.as_str() == "job.succeeded" {
            succeeded.insert(event.properties.correlation_id().as_ref().unwrap().to_string());
        }
    }
    assert!(succeeded.contains(&long.id.to_string()));
    second.stop().await;
    publishing.close().await;
    // Repeats at most, of jobs that the first had done and not yet acked.
    vhost.purge("noop.normal").await;
    while vhost.ready("tracker.lifecycle").await != Some(0) {
        vhost.take("tracker.lifecycle").await;
    }
    let progress = vhost.ready("tracker.progress").await.unwrap();
    vhost.finish(&[("tracker.progress", progress)]).await;
}
