use std::collections::BTreeSet;

use backing::logs;
use lapin::message::Delivery;
use pipeline::jobs::Noop;
use pipeline::{Done, Failure, JobContext, OutgoingJob, TraceContext};

use crate::harness::{With, Worker, broker, job, listen_to_jobs, vhost};

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    headers.inner().get(name)?.as_long_string().map(ToString::to_string)
}

/// The trace's id and the span's, as a message carries them.
fn carried(delivery: &Delivery) -> (String, String) {
    let parent = header(delivery, "traceparent").expect("a traceparent");
    (parent[3..35].to_owned(), parent[36..52].to_owned())
}

#[tokio::test]
async fn one_trace_goes_through_every_attempt_to_the_dead_letter_and_to_what_the_job_causes() {
    logs::keep();
    let vhost = vhost().await;
    let mut jobs = listen_to_jobs(&vhost).await;
    let mut delayed = vhost.listen("postroom.delay", "#").await;
    let mut events =
        vhost.listen_to("postroom.events", &["job.succeeded", "job.retrying", "job.refused", "job.dead"]).await;
    let causing = broker(&vhost, "noop-worker").await;
    let publisher = causing.publisher();
    let worker = Worker::start(
        &vhost,
        2,
        With(move |job: Noop, context: JobContext| {
            let publisher = publisher.clone();
            async move {
                tracing::info!("in the handler");
                match (job.note.as_str(), context.attempt()) {
                    ("cause", 1) => {
                        let trace = Some(context.trace().clone());
                        let payload = Noop { note: "effect".to_owned() };
                        let effect = OutgoingJob { trace, ..OutgoingJob::new(context.child_id("effect"), payload) };
                        publisher.publish_job(&effect).await.unwrap();
                        Err(Failure::retry("once more"))
                    }
                    ("cause", _) => Err(Failure::reject("no more")),
                    _ => Ok(Done::empty()),
                }
            }
        }),
    )
    .await;
    let trace = TraceContext::root().with_baggage(Some("shop=1"));
    let id = trace.id().to_string();
    let trace = TraceContext::parse(&trace.traceparent(), Some("vendor=2")).unwrap().with_baggage(trace.baggage());
    let cause = OutgoingJob { trace: Some(trace.clone()), ..job("cause") };
    worker.broker.publisher().publish_job(&cause).await.unwrap();

    // Three events: of the first run, of the effect's, of the second run; each run is a span of its own.
    let (mut causes, mut effects) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let event = events.next().await;
        let about = event.properties.correlation_id().as_ref().unwrap().to_string();
        if about == cause.id.to_string() { &mut causes } else { &mut effects }.push(event);
    }
    assert_eq!(causes.iter().map(|event| event.routing_key.as_str()).collect::<Vec<_>>(), ["job.retrying", "job.dead"]);
    let spans: BTreeSet<_> = causes.iter().chain(&effects).map(carried).collect();
    assert_eq!(spans.len(), 3, "{spans:?}");

    // The message as published, its copies, and the one that the first run caused.
    let first = jobs.next().await;
    let effect = jobs.next().await;
    let copy = delayed.next().await;
    let dead = vhost.take("noop.dead").await;
    assert_eq!(
        [&first, &copy, &dead].map(|message| header(message, "traceparent")),
        [(); 3].map(|()| Some(trace.traceparent()))
    );
    assert_eq!(carried(&effect), carried(&causes[0]), "what a run causes follows from that run");
    for message in [&first, &copy, &dead, &effect].into_iter().chain(&causes).chain(&effects) {
        assert_eq!(carried(message).0, id);
        assert_eq!(header(message, "tracestate").as_deref(), Some("vendor=2"));
        assert_eq!(header(message, "baggage").as_deref(), Some("shop=1"));
    }

    // Each line of the three runs says of which job, which attempt and which trace.
    worker.stop().await;
    let lines = logs::with(&id);
    for message in ["in the handler", "failed, will be tried again", "given up", "done"] {
        assert!(lines.iter().any(|line| line["message"] == message), "{message}: {lines:#?}");
    }
    let mut told = BTreeSet::new();
    for line in &lines {
        let span = &line["span"];
        assert_eq!((&span["trace.id"], &span["job.kind"]), (&id.as_str().into(), &"noop.run".into()), "{line:#}");
        told.insert((span["job.id"].as_str().unwrap().to_owned(), span["job.attempt"].as_u64().unwrap()));
    }
    let effect = effect.properties.message_id().as_ref().unwrap().to_string();
    let cause = cause.id.to_string();
    assert_eq!(told, BTreeSet::from([(cause.clone(), 1), (cause, 2), (effect, 1)]));
    causing.close().await;
    for queue in ["tracker.lifecycle", "tracker.dead_letters"] {
        vhost.purge(queue).await;
    }
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_job_that_comes_without_a_trace_has_one_of_its_own_in_every_attempt() {
    let vhost = vhost().await;
    let mut events = vhost.listen_to("postroom.events", &["job.retrying", "job.succeeded"]).await;
    let handler = With(|_, context: JobContext| async move {
        if context.attempt() == 1 { Err(Failure::retry("once more")) } else { Ok(Done::empty()) }
    });
    let worker = Worker::start(&vhost, 1, handler).await;
    let job = job("");
    worker.broker.publisher().publish_job(&job).await.unwrap();
    let (first, second) = (carried(&events.next().await), carried(&events.next().await));
    assert_eq!([&first.0, &second.0], [&job.id.simple().to_string(); 2]);
    assert_ne!(first.1, second.1);
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}
