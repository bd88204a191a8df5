use std::sync::Arc;
use std::time::{Duration, Instant};

use backing::{Listener, Proxy, Vhost};
use lapin::types::AMQPValue;
use pipeline::events::JobReference;
use pipeline::jobs::Noop;
use pipeline::{Broker, BrokerState, Done, Event, EventBody, Failure, Handlers, JobContext};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{JOB_EVENTS, Notes, TIME_SCALE, With, Worker, job, settings, vhost};

/// What runs came to. Whether a start was told before depends on how fast the machine is.
async fn outcomes(vhost: &Vhost) -> Listener {
    vhost.listen_to("postroom.events", &["job.succeeded", "job.retrying", "job.refused", "job.dead"]).await
}

/// Every event is in the tracker's queues too, where nobody reads it in these tests.
async fn finish(vhost: Vhost, expected: &[(&str, u32)]) {
    vhost.purge("tracker.lifecycle").await;
    vhost.purge("tracker.progress").await;
    vhost.finish(expected).await;
}

#[tokio::test]
async fn a_job_is_done_once_and_tells_it_by_one_event() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let runs = Notes::default();
    let seen = runs.clone();
    let worker = Worker::start(
        &vhost,
        2,
        With(move |job: pipeline::jobs::Noop, context: pipeline::JobContext| {
            seen.add(job.note);
            async move {
                assert_eq!(context.owner(), Some("alice"));
                Ok(Done::with_result(json!({"answer": 42})))
            }
        }),
    )
    .await;
    let job = job("once");
    worker.broker.publisher().publish_job(&job).await.unwrap();
    let (key, event) = events.next_json().await;
    assert_eq!(key, "job.succeeded");
    assert_eq!(event["type"], "job.succeeded");
    assert_eq!(event["job"], json!({"id": job.id, "kind": "noop.run", "owner": "alice"}));
    assert_eq!(event["result"], json!({"answer": 42}));
    assert_eq!((event["run"]["attempt"].as_u64(), event["run"]["redeliveries"].as_u64()), (Some(1), Some(0)));
    worker.stop().await;
    assert_eq!(runs.all(), ["once"]);
    finish(vhost, &[]).await;
}

#[tokio::test]
async fn of_a_quiet_kind_only_what_is_no_success_is_told() {
    let vhost = vhost().await;
    let mut events = vhost.listen_to("postroom.events", &JOB_EVENTS).await;
    let runs = Notes::default();
    let seen = runs.clone();
    let handler = With(move |job: pipeline::jobs::Noop, context: pipeline::JobContext| {
        let seen = seen.clone();
        async move {
            if job.note == "late" && context.attempt() == 1 {
                return Err(Failure::retry("not yet"));
            }
            if job.note == "bad" {
                return Err(Failure::reject("no"));
            }
            // Long enough for a start to be told.
            context.progress("sleeping", 0, 1);
            tokio::time::sleep(Duration::from_millis(600)).await;
            seen.add(job.note);
            Ok(Done::empty())
        }
    });
    let worker = Worker::with(&vhost, 2, Handlers::new().register_quiet(handler)).await;
    worker.broker.publisher().publish_job(&job("good")).await.unwrap();
    vhost.wait("the good one is done", || async { runs.all() == ["good"] }).await;
    worker.broker.publisher().publish_job(&job("bad")).await.unwrap();
    assert_eq!(events.next_json().await.0, "job.dead");
    // Who has heard that it is tried again hears how it ends.
    worker.broker.publisher().publish_job(&job("late")).await.unwrap();
    assert_eq!(events.next_json().await.0, "job.retrying");
    assert_eq!(events.next_json().await.0, "job.succeeded");
    worker.stop().await;
    vhost.purge("tracker.dead_letters").await;
    finish(vhost, &[("noop.dead", 1)]).await;
}

#[tokio::test]
async fn a_longer_job_tells_its_start_and_its_progress_in_order() {
    let vhost = vhost().await;
    let mut events = vhost.listen_to("postroom.events", &JOB_EVENTS).await;
    let release = Arc::new(tokio::sync::Notify::new());
    let released = Arc::clone(&release);
    let worker = Worker::start(
        &vhost,
        2,
        With(move |_, context: pipeline::JobContext| {
            let released = Arc::clone(&released);
            async move {
                for step in 0..1000 {
                    context.progress("counting", step, 1000);
                }
                released.notified().await;
                Ok(Done::empty())
            }
        }),
    )
    .await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let (first, started) = events.next_json().await;
    let (second, progressed) = events.next_json().await;
    release.notify_one();
    let (third, _) = events.next_json().await;
    assert_eq!([first.as_str(), &second, &third], ["job.started", "job.progressed", "job.succeeded"]);
    assert_eq!(started["run"]["sequence"], 1);
    // A thousand calls, one message: the latest.
    assert_eq!(progressed["progress"], json!({"phase": "counting", "done": 999, "total": 1000}));
    worker.stop().await;
    finish(vhost, &[]).await;
}

#[tokio::test]
async fn a_job_that_always_fails_waits_longer_each_time_and_ends_among_the_dead_as_it_was() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let worker = Worker::start(
        &vhost,
        4,
        With(move |_, context: pipeline::JobContext| {
            noted.lock().unwrap().push((context.attempt(), Instant::now()));
            async { Err(Failure::retry("no luck")) }
        }),
    )
    .await;
    let job = job("original");
    worker.broker.publisher().publish_job(&job).await.unwrap();
    let mut delays = Vec::new();
    for attempt in 1..5 {
        let (key, event) = events.next_json().await;
        assert_eq!((key.as_str(), event["run"]["attempt"].as_u64()), ("job.retrying", Some(attempt)));
        assert_eq!(event["next_attempt"], attempt + 1);
        assert_eq!(event["failure"], json!({"kind": "error", "reason": "no luck"}));
        delays.push(event["delay_seconds"].as_f64().unwrap());
    }
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), event["run"]["attempt"].as_u64()), ("job.dead", Some(5)));

    // What was announced is what was waited, and each is a tier's length or its early twin's.
    let times = times.lock().unwrap().clone();
    assert_eq!(times.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for (index, tier) in [5.0, 30.0, 120.0, 600.0].into_iter().enumerate() {
        let full = tier * TIME_SCALE;
        assert!([full, full * 0.75].iter().any(|length| (delays[index] - length).abs() < 1e-6), "{delays:?}");
        let waited = times[index + 1].1 - times[index].1;
        assert!(waited >= Duration::from_secs_f64(delays[index] * 0.95), "waited {waited:?} of {delays:?}");
    }

    let dead = vhost.take("noop.dead").await;
    assert_eq!(dead.data, br#"{"note":"original"}"#);
    let properties = &dead.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), job.id.to_string());
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "noop.run");
    let headers = properties.headers().as_ref().unwrap().inner();
    let text = |name: &str| match &headers[name] {
        AMQPValue::LongString(text) => text.to_string(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((text("failure_kind").as_str(), text("failure").as_str()), ("error", "no luck"));
    assert_eq!((text("origin_queue").as_str(), text("owner").as_str()), ("noop.normal", "alice"));
    assert_eq!(headers["attempt"], AMQPValue::LongLongInt(5));
    assert!(text("first_failed_at").parse::<chrono::DateTime<chrono::Utc>>().is_ok());
    assert!(!headers.keys().any(|name| name.as_str().starts_with("x-")), "{headers:?}");
    worker.stop().await;
    finish(vhost, &[("tracker.dead_letters", 1)]).await;
}

#[tokio::test]
async fn jobs_that_failed_together_do_not_all_come_back_together() {
    let vhost = vhost().await;
    let mut events = vhost.listen("postroom.events", "job.retrying").await;
    let mut succeeded = vhost.listen("postroom.events", "job.succeeded").await;
    let worker = Worker::start(
        &vhost,
        16,
        With(|_, context: pipeline::JobContext| async move {
            if context.attempt() == 1 { Err(Failure::retry("together")) } else { Ok(Done::empty()) }
        }),
    )
    .await;
    for _ in 0..40 {
        worker.broker.publisher().publish_job(&job("")).await.unwrap();
    }
    let mut delays = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let (_, event) = events.next_json().await;
        *delays.entry(event["delay_seconds"].to_string()).or_insert(0) += 1;
    }
    // By chance alone, all 40 take the same of two ways once in 5 * 10^11.
    assert_eq!(delays.len(), 2, "{delays:?}");
    for _ in 0..40 {
        succeeded.next().await;
    }
    worker.stop().await;
    finish(vhost, &[]).await;
}

#[tokio::test]
async fn a_refusal_is_a_final_answer_and_not_a_dead_letter() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let worker =
        Worker::start(&vhost, 1, With(|_, _| async { Err(Failure::refused("out-of-stock", "sold out")) })).await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let (key, event) = events.next_json().await;
    assert_eq!(
        (key.as_str(), &event["refusal"]),
        ("job.refused", &json!({"code": "out-of-stock", "reason": "sold out"}))
    );
    worker.stop().await;
    finish(vhost, &[]).await;
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_stopped_and_tried_again() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let dropped = Notes::default();
    let noted = dropped.clone();
    let worker = Worker::start(
        &vhost,
        1,
        With(move |_, context: pipeline::JobContext| {
            let guard = OnDrop(noted.clone());
            async move {
                if context.attempt() == 1 {
                    std::future::pending::<()>().await;
                }
                drop(guard);
                Ok(Done::empty())
            }
        }),
    )
    .await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let mut kinds = Vec::new();
    loop {
        let (key, event) = events.next_json().await;
        if key == "job.retrying" {
            assert_eq!(event["failure"]["kind"], "timed_out");
        }
        kinds.push(key);
        if kinds.last().is_some_and(|kind| kind == "job.succeeded") {
            break;
        }
    }
    assert_eq!(kinds, ["job.retrying", "job.succeeded"]);
    assert_eq!(dropped.all().len(), 2, "the run that timed out was dropped, not left to itself");
    worker.stop().await;
    finish(vhost, &[]).await;
}

struct OnDrop(Notes);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

#[tokio::test]
async fn a_panic_is_one_failed_attempt_and_the_worker_lives() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let worker = Worker::start(
        &vhost,
        1,
        With(|_, context: pipeline::JobContext| async move {
            assert!(context.attempt() > 1, "the first attempt panics");
            Ok(Done::empty())
        }),
    )
    .await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["failure"]["kind"]), ("job.retrying", &json!("panicked")));
    assert!(event["failure"]["reason"].as_str().unwrap().contains("the first attempt panics"), "{event}");
    assert_eq!(events.next_json().await.0, "job.succeeded");
    worker.stop().await;
    finish(vhost, &[]).await;
}

#[tokio::test]
async fn a_confirm_that_comes_late_makes_no_second_copy() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let proxy = Arc::new(Proxy::start(&vhost.url("noop-worker")).await);
    let broker = Broker::start(&settings(&proxy.url), "noop-worker").unwrap();
    let (runs, drain) = (Notes::default(), CancellationToken::new());
    let handler = {
        let (runs, proxy) = (runs.clone(), Arc::clone(&proxy));
        With(move |_, context: JobContext| {
            let is_first = context.attempt() == 1;
            runs.add(context.attempt().to_string());
            if is_first {
                // A broker whose disk stalls.
                proxy.hold_answers(true);
            }
            async move { if is_first { Err(Failure::retry("not yet")) } else { Ok(Done::empty()) } }
        })
    };
    let consuming = broker.consuming_state();
    let worker_settings = serde_json::from_value(json!({"concurrency": 2})).unwrap();
    let handlers = Handlers::new().register(handler);
    let work = tokio::spawn(broker.work(handlers, &worker_settings, drain.clone(), CancellationToken::new()));
    vhost.wait("consuming", || async { consuming() == BrokerState::Consuming }).await;
    let publishing = crate::harness::broker(&vhost, "noop-worker").await;
    publishing.publisher().publish_job(&job("")).await.unwrap();
    vhost.wait("the first run", || async { runs.all() == ["1"] }).await;
    // Longer than other publishers wait, shorter than two heartbeats.
    tokio::time::sleep(Duration::from_secs(7)).await;
    proxy.hold_answers(false);
    while events.next_json().await.0 != "job.succeeded" {}
    drain.cancel();
    work.await.unwrap();
    for broker in [broker, publishing] {
        broker.close().await;
    }
    assert_eq!(runs.all(), ["1", "2"]);
    finish(vhost, &[]).await;
}

#[tokio::test]
async fn a_timeout_comes_in_time_while_nothing_can_be_told() {
    let vhost = vhost().await;
    let mut events = outcomes(&vhost).await;
    let proxy = Arc::new(Proxy::start(&vhost.url("noop-worker")).await);
    let broker = Broker::start(&settings(&proxy.url), "noop-worker").unwrap();
    let drain = CancellationToken::new();
    let (ended, mut lasted) = mpsc::unbounded_channel();
    let handler = {
        let proxy = Arc::clone(&proxy);
        With(move |_, context: JobContext| {
            let is_first = context.attempt() == 1;
            // The start of the run is not confirmed.
            proxy.hold_answers(is_first);
            let ended = ended.clone();
            async move {
                if is_first {
                    let _ended = Ended { begun: Instant::now(), ended };
                    std::future::pending::<()>().await;
                }
                Ok(Done::empty())
            }
        })
    };
    let consuming = broker.consuming_state();
    let worker_settings = serde_json::from_value(json!({"concurrency": 2})).unwrap();
    let handlers = Handlers::new().register(handler);
    let work = tokio::spawn(broker.work(handlers, &worker_settings, drain.clone(), CancellationToken::new()));
    vhost.wait("consuming", || async { consuming() == BrokerState::Consuming }).await;
    let publishing = crate::harness::broker(&vhost, "noop-worker").await;
    publishing.publisher().publish_job(&job("")).await.unwrap();
    let lasted = lasted.recv().await.unwrap();
    proxy.hold_answers(false);
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["failure"]["kind"]), ("job.retrying", &json!("timed_out")), "{event}");
    // 30 s at this time scale are 1.5; a confirm is waited for 5.
    assert!(lasted < Duration::from_secs(4), "{lasted:?}");
    while events.next_json().await.0 != "job.succeeded" {}
    drain.cancel();
    work.await.unwrap();
    for broker in [broker, publishing] {
        broker.close().await;
    }
    finish(vhost, &[]).await;
}

/// Tells how long a handler was there.
struct Ended {
    begun: Instant,
    ended: mpsc::UnboundedSender<Duration>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.ended.send(self.begun.elapsed()).ok();
    }
}

#[tokio::test]
async fn a_job_that_has_run_keeps_nobody_waiting_while_its_end_cannot_be_told() {
    let vhost = vhost().await;
    let full = json!({"pattern": r"^tracker\.lifecycle$", "definition": {"max-length": 1}, "apply-to": "queues"});
    vhost.manage(Method::PUT, "policies", "/full", Some(full)).await;
    let runs = Notes::default();
    let noted = runs.clone();
    let handler = With(move |job: Noop, _| {
        noted.add(job.note);
        async { Ok(Done::empty()) }
    });
    let worker = Worker::start(&vhost, 1, handler).await;
    let publisher = worker.broker.publisher();
    // It may take a few more than its limit before it refuses.
    let mut taken = 0;
    while publisher.publish_event(&another_end()).await.is_ok() {
        taken += 1;
        assert!(taken < 1000, "the queue takes more than its limit");
    }
    let notes = ["a", "b", "c", "d"];
    for note in notes {
        publisher.publish_job(&job(note)).await.unwrap();
    }
    vhost.wait("each has run", || async { runs.all() == notes }).await;
    assert_eq!(vhost.ready("tracker.lifecycle").await, Some(taken), "there was room");
    vhost.manage(Method::DELETE, "policies", "/full", None).await;
    vhost.wait_ready("tracker.lifecycle", taken + 4).await;
    worker.stop().await;
    assert_eq!(runs.all(), notes);
    finish(vhost, &[]).await;
}

fn another_end() -> Event {
    let job = JobReference { id: Uuid::now_v7(), kind: "noop.run".to_owned(), owner: None, caused_by: None };
    Event::new(job, None, EventBody::Succeeded { result: Value::Null })
}
