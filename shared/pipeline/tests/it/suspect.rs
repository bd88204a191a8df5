use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backing::Proxy;
use lapin::types::{AMQPValue, FieldTable};
use pipeline::jobs::Noop;
use pipeline::{Broker, BrokerState, Done, Handlers, JobContext, WorkerSettings};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::death::{properties, publish_raw};
use crate::harness::{Notes, Process, With, broker, job, settings, vhost};

#[tokio::test]
async fn a_message_that_kills_its_worker_takes_none_of_fifty_good_ones_with_it() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    let publisher = publishing.publisher();
    let kill = job("kill");
    let mut good = BTreeSet::new();
    for place in 0..51 {
        let job = if place == 20 { kill.clone() } else { job("sleep 5") };
        publisher.publish_job(&job).await.unwrap();
        if place != 20 {
            good.insert(job.id.to_string());
        }
    }
    let mut succeeded = vhost.listen("postroom.events", "job.succeeded").await;
    let mut done = BTreeSet::new();
    let mut lives = 0;
    // One at a time, and 16 at hand.
    while done.len() < 50 || !at_rest(&vhost).await {
        let mut process = Process::start(&vhost, 1);
        let mut stopping = false;
        lives += 1;
        assert!(lives <= 20, "{} done, and the message is not dead, or something is left", done.len());
        loop {
            tokio::select! {
                (_, event) = succeeded.next_json() => {
                    done.insert(event["job"]["id"].as_str().unwrap().to_owned());
                }
                () = vhost.wait("all at rest", || at_rest(&vhost)), if !stopping && done.len() == 50 => {
                    // What it has told of it may not have acked yet.
                    process.signal("-TERM");
                    stopping = true;
                }
                _ = process.ended() => break,
            }
        }
    }
    assert_eq!(done, good);
    let dead = vhost.take("noop.dead").await;
    assert_eq!(dead.properties.message_id().as_ref().unwrap().as_str(), kill.id.to_string());
    publishing.close().await;
    let kept = crate::faults::tracked(&vhost).await;
    let reason = kept.iter().find(|note| note.contains("delivery_limit")).expect("the reason is told");
    assert!(reason.contains(&kill.id.to_string()) && reason.contains("noop.suspect"), "{reason}");
    assert!(!kept.iter().any(|note| note.starts_with("job.dead")));
    vhost.finish(&[]).await;
}

/// Whether the one message is dead, and nobody has given back another.
async fn at_rest(vhost: &backing::Vhost) -> bool {
    let (dead, normal, suspect) =
        tokio::join!(vhost.ready("noop.dead"), vhost.ready("noop.normal"), vhost.ready("noop.suspect"));
    (dead, normal, suspect) == (Some(1), Some(0), Some(0))
}

#[tokio::test]
async fn a_message_runs_apart_only_when_the_broker_has_let_go_of_the_original() {
    let vhost = vhost().await;
    let proxy = Arc::new(Proxy::start(&vhost.url("noop-worker")).await);
    let broker = Broker::start(&settings(&proxy.url), "noop-worker").unwrap();
    let consuming = broker.consuming_state();
    let (runs, drain) = (Notes::default(), CancellationToken::new());
    let handler = {
        let (runs, proxy) = (runs.clone(), Arc::clone(&proxy));
        With(move |job: Noop, context: JobContext| {
            // What is still on its way to the broker is lost, as it is when the process dies.
            proxy.cut(true);
            runs.add(job.note);
            async move {
                context.cancelled().cancelled().await;
                Ok(Done::empty())
            }
        })
    };
    let settings: WorkerSettings = serde_json::from_value(json!({"concurrency": 4})).unwrap();
    let work = tokio::spawn(broker.work(
        Handlers::new().register(handler),
        &settings,
        drain.clone(),
        CancellationToken::new(),
    ));
    vhost.wait("consuming", || async { consuming() == BrokerState::Consuming }).await;
    proxy.slow_down(Duration::from_millis(300));
    let mut headers = FieldTable::default();
    headers.insert("x-delivery-count".into(), AMQPValue::LongInt(3));
    let properties = properties(&job("once apart").id.to_string(), "noop.run").with_headers(headers);
    publish_raw(&vhost, properties, br#"{"note":"once apart"}"#).await;
    vhost.wait("the run has begun", || async { runs.all() == ["once apart"] }).await;
    vhost.wait_ready("noop.suspect", 1).await;
    drain.cancel();
    work.await.unwrap();
    broker.close().await;
    vhost.finish(&[("noop.suspect", 1)]).await;
}
