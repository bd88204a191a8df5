use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backing::Vhost;
use pipeline::{Broker, Control, Done, Failure, Handlers, JobContext, JobMark};
use reqwest::Method;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::harness::{Notes, With, Worker, broker, job, patient_vhost, vhost};

const FINAL: [&str; 5] = ["job.succeeded", "job.refused", "job.cancelled", "job.dead", "job.retrying"];

/// A worker that hears orders.
async fn listening(vhost: &Vhost, handlers: Handlers) -> Worker {
    let worker = Worker::patient(vhost, 3, handlers).await;
    vhost
        .wait("it listens for orders", || async {
            let bindings = vhost.manage(Method::GET, "exchanges", "/postroom.control/bindings/source", None).await;
            bindings.as_array().is_some_and(|bindings| bindings.len() == 1)
        })
        .await;
    worker
}

async fn cancel(web: &Broker, job: Uuid) {
    web.publisher().publish_control(&Control::Cancel { job }).await.unwrap();
}

async fn finish(vhost: Vhost, worker: Worker, web: Broker) {
    worker.stop().await;
    web.close().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.purge("tracker.progress").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_running_job_is_told_to_stop_and_only_that_one() {
    let vhost = patient_vhost().await;
    let mut events = vhost.listen_to("postroom.events", &FINAL).await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        With(move |_, context: JobContext| {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            async move {
                begun.notify_one();
                tokio::select! {
                    () = context.cancelled().cancelled() => Err(Failure::retry("stopped in the middle")),
                    () = go_on.notified() => Ok(Done::empty()),
                }
            }
        })
    };
    let worker = listening(&vhost, Handlers::new().register(handler)).await;
    let web = broker(&vhost, "web").await;
    let (unwanted, wanted) = (job(""), job(""));
    for job in [&unwanted, &wanted] {
        worker.broker.publisher().publish_job(job).await.unwrap();
        begun.notified().await;
    }
    cancel(&web, unwanted.id).await;
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.cancelled", &unwanted.id.to_string().into()), "{event}");
    go_on.notify_one();
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.succeeded", &wanted.id.to_string().into()));
    finish(vhost, worker, web).await;
}

#[tokio::test]
async fn a_handler_that_does_not_heed_is_dropped_and_one_that_is_done_all_the_same_is_done() {
    let vhost = patient_vhost().await;
    let mut events = vhost.listen_to("postroom.events", &FINAL).await;
    let begun = Arc::new(Notify::new());
    let handler = {
        let begun = Arc::clone(&begun);
        With(move |job: pipeline::jobs::Noop, context: JobContext| {
            let begun = Arc::clone(&begun);
            async move {
                begun.notify_one();
                if job.note == "deaf" {
                    std::future::pending::<()>().await;
                }
                context.cancelled().cancelled().await;
                Ok(Done::empty())
            }
        })
    };
    let worker = listening(&vhost, Handlers::new().register(handler)).await;
    let web = broker(&vhost, "web").await;
    for (note, wanted) in [("deaf", "job.cancelled"), ("done", "job.succeeded")] {
        let job = job(note);
        worker.broker.publisher().publish_job(&job).await.unwrap();
        begun.notified().await;
        cancel(&web, job.id).await;
        let (key, event) = events.next_json().await;
        assert_eq!((key.as_str(), &event["job"]["id"]), (wanted, &job.id.to_string().into()));
    }
    finish(vhost, worker, web).await;
}

#[tokio::test]
async fn a_job_that_waits_is_cancelled_when_its_turn_comes_and_one_that_ended_is_not_run_again() {
    let vhost = patient_vhost().await;
    let mut events = vhost.listen_to("postroom.events", &FINAL).await;
    let (unwanted, ended, unknown) = (job(""), job(""), job(""));
    let runs = Notes::default();
    let noted = runs.clone();
    let handlers = Handlers::new().register(With(move |_, context: JobContext| {
        noted.add(context.id().to_string());
        async { Ok(Done::empty()) }
    }));
    let ids = [unwanted.id, ended.id];
    let handlers = handlers.marks(move |id, replays| async move {
        assert_eq!(replays, 0);
        match ids.iter().position(|known| *known == id) {
            Some(0) => Ok(JobMark::CancelRequested),
            Some(_) => Ok(JobMark::Final),
            None => Err("the database is away"),
        }
    });
    let worker = listening(&vhost, handlers).await;
    let web = broker(&vhost, "web").await;
    for job in [&unwanted, &ended, &unknown] {
        worker.broker.publisher().publish_job(job).await.unwrap();
    }
    let mut told = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let (key, event) = events.next_json().await;
        told.insert(event["job"]["id"].as_str().unwrap().to_owned(), key);
    }
    let wanted = [(unwanted.id, "job.cancelled"), (unknown.id, "job.succeeded")];
    assert_eq!(told, wanted.map(|(id, key)| (id.to_string(), key.to_owned())).into());
    vhost.wait_ready("noop.normal", 0).await;
    // Stopped, it has settled all that it held: nothing of the ended one is left, and nothing was told of it.
    finish(vhost, worker, web).await;
    assert_eq!(runs.all(), [unknown.id.to_string()]);
}

#[tokio::test]
async fn a_job_that_waits_for_its_next_attempt_is_cancelled_when_the_wait_is_over() {
    let vhost = vhost().await;
    let mut events = vhost.listen_to("postroom.events", &FINAL).await;
    let (runs, cancelled) = (Notes::default(), Arc::new(AtomicBool::new(false)));
    let noted = runs.clone();
    let handlers = Handlers::new().register(With(move |_, _| {
        noted.add("run");
        async { Err(Failure::retry("no luck")) }
    }));
    let asked = Arc::clone(&cancelled);
    let handlers = handlers.marks(move |_, _| {
        let mark = if asked.load(Ordering::SeqCst) { JobMark::CancelRequested } else { JobMark::Open };
        async move { Ok::<_, &str>(mark) }
    });
    let worker = Worker::with(&vhost, 1, handlers).await;
    let job = job("");
    worker.broker.publisher().publish_job(&job).await.unwrap();
    let (mut key, mut event) = events.next_json().await;
    assert_eq!(key, "job.retrying");
    cancelled.store(true, Ordering::SeqCst);
    while key == "job.retrying" {
        (key, event) = events.next_json().await;
    }
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.cancelled", &job.id.to_string().into()));
    assert!(runs.all().len() < 5, "its attempts were not spent");
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_running_job_is_stopped_by_its_mark_though_no_order_comes() {
    let vhost = vhost().await;
    let mut events = vhost.listen_to("postroom.events", &FINAL).await;
    let cancelled = Arc::new(AtomicBool::new(false));
    let begun = Arc::clone(&cancelled);
    let handlers = Handlers::new().register(With(move |_, context: JobContext| {
        begun.store(true, Ordering::SeqCst);
        async move {
            context.cancelled().cancelled().await;
            Err(Failure::retry("stopped in the middle"))
        }
    }));
    let handlers = handlers.marks(move |_, _| {
        let mark = if cancelled.load(Ordering::SeqCst) { JobMark::CancelRequested } else { JobMark::Open };
        async move { Ok::<_, &str>(mark) }
    });
    let worker = Worker::with(&vhost, 1, handlers).await;
    let job = job("");
    worker.broker.publisher().publish_job(&job).await.unwrap();
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.cancelled", &job.id.to_string().into()), "{event}");
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.purge("tracker.progress").await;
    vhost.finish(&[]).await;
}
