//! What a job causes says so, in everything that is told of it.

use backing::{Vhost, replay};
use lapin::message::Delivery;
use lapin::types::ShortString;
use pipeline::jobs::Noop;
use pipeline::{Done, Event, Failure, Handler, JobContext, OutgoingJob, Publisher};
use uuid::Uuid;

use crate::harness::{With, Worker, broker, job, listen_to_jobs, vhost};

/// What an event says, and the job that its message names.
fn told(delivery: &Delivery) -> (Event, Uuid) {
    let about = delivery.properties.correlation_id().as_ref().unwrap().as_str().parse().unwrap();
    (serde_json::from_slice(&delivery.data).unwrap(), about)
}

async fn finish(vhost: Vhost) {
    for queue in ["tracker.lifecycle", "tracker.dead_letters", "noop.dead"] {
        vhost.purge(queue).await;
    }
    vhost.finish(&[]).await;
}

/// A handler that has a job named "cause" cause another; that one is tried twice, and dies.
fn causing(publisher: Publisher) -> impl Handler<Job = Noop> {
    With(move |job: Noop, context: JobContext| {
        let publisher = publisher.clone();
        async move {
            match (job.note.as_str(), context.attempt()) {
                ("cause", _) => {
                    let payload = Noop { note: "effect".to_owned() };
                    let effect = OutgoingJob::new(context.child_id("effect"), payload);
                    let effect = OutgoingJob { correlation_id: Some(context.id()), ..effect };
                    publisher.publish_job(&effect).await.unwrap();
                    Ok(Done::empty())
                }
                (_, 1) => Err(Failure::retry("once more")),
                _ => Err(Failure::reject("no more")),
            }
        }
    })
}

#[tokio::test]
async fn every_event_of_a_job_that_a_job_caused_names_that_one_through_retries_until_it_is_dead() {
    let vhost = vhost().await;
    let types = ["job.retrying", "job.dead", "job.succeeded"];
    let mut events = vhost.listen_to("postroom.events", &types).await;
    let publishing = broker(&vhost, "noop-worker").await;
    let worker = Worker::start(&vhost, 1, causing(publishing.publisher())).await;
    let cause = job("cause");
    worker.broker.publisher().publish_job(&cause).await.unwrap();
    let effect = Uuid::new_v5(&cause.id, b"effect");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (event, about) = told(&events.next().await);
        assert_eq!(about, event.job.id, "an event's message names its own job");
        seen.push((event.body.kind(), event.job.id, event.job.caused_by));
    }
    let by_cause = Some(cause.id);
    let expected =
        [("job.succeeded", cause.id, None), ("job.retrying", effect, by_cause), ("job.dead", effect, by_cause)];
    assert_eq!(seen, expected);
    worker.stop().await;
    publishing.close().await;
    finish(vhost).await;
}

#[tokio::test]
async fn a_replay_causes_the_same_job_again_and_no_other() {
    let vhost = vhost().await;
    let mut jobs = listen_to_jobs(&vhost).await;
    let mut events = vhost.listen_to("postroom.events", &["job.succeeded", "job.dead"]).await;
    let publishing = broker(&vhost, "noop-worker").await;
    let worker = Worker::start(&vhost, 1, causing(publishing.publisher())).await;
    let cause = job("cause");
    worker.broker.publisher().publish_job(&cause).await.unwrap();
    let message = jobs.next().await;
    let ids = |delivery: &Delivery| {
        let text = |id: &Option<ShortString>| id.as_ref().unwrap().to_string();
        (text(delivery.properties.message_id()), text(delivery.properties.correlation_id()))
    };
    let first = ids(&jobs.next().await);
    assert_eq!(first, (Uuid::new_v5(&cause.id, b"effect").to_string(), cause.id.to_string()));
    assert_eq!(told(&events.next().await).0.run.unwrap().replays, 0);
    assert_eq!(told(&events.next().await).0.body.kind(), "job.dead");
    replay(vhost.channel(), &message, "noop.normal").await;
    assert_eq!(ids(&jobs.next().await), first);
    let (again, _) = told(&events.next().await);
    assert_eq!((again.job.id, again.run.unwrap().replays), (cause.id, 1));
    assert_eq!(told(&events.next().await).0.body.kind(), "job.dead");
    worker.stop().await;
    publishing.close().await;
    finish(vhost).await;
}
