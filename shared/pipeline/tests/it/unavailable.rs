use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use backing::Vhost;
use futures_util::future::join_all;
use pipeline::{BrokerState, Done, Failure, Handlers, JobContext};
use tokio::sync::Notify;

use crate::harness::{Notes, With, Worker, broker, job, patient_vhost, vhost};

/// Something that can be taken away.
#[derive(Clone, Default)]
struct Relay {
    away: Arc<AtomicBool>,
    probes: Arc<AtomicU32>,
}

impl Relay {
    fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Goes away once the worker has asked, as it does at its start: then a run is what notices.
    async fn leave(&self, vhost: &Vhost) {
        vhost.wait("the first probe", || async { self.probes.load(Ordering::SeqCst) > 0 }).await;
        self.set_away(true);
    }

    /// A handler that needs it, and the probe that asks it.
    fn handlers(&self, runs: &Notes) -> Handlers {
        let (relay, runs) = (self.clone(), runs.clone());
        let handler = With(move |_, context: JobContext| {
            let answer = match relay.is_away() {
                true => Err(Failure::Unavailable { dependency: "relay", reason: "connection refused".to_owned() }),
                false => Ok(Done::empty()),
            };
            if answer.is_ok() {
                runs.add(format!("{} {}", context.id(), context.attempt()));
            }
            async { answer }
        });
        let relay = self.clone();
        Handlers::new().register(handler).dependency("relay", move || relay.probe())
    }

    fn probe(&self) -> Ready<Result<(), &'static str>> {
        let away = self.is_away();
        self.probes.fetch_add(1, Ordering::SeqCst);
        ready(if away { Err("connection refused") } else { Ok(()) })
    }
}

#[tokio::test]
async fn a_long_outage_buries_nothing_spends_no_attempt_and_work_goes_on_after_it() {
    let vhost = vhost().await;
    let (relay, runs) = (Relay::default(), Notes::default());
    let mut retrying = vhost.listen("postroom.events", "job.retrying").await;
    let worker = Worker::with(&vhost, 4, relay.handlers(&runs)).await;
    relay.leave(&vhost).await;
    let publishing = broker(&vhost, "noop-worker").await;
    // A disk may stall meanwhile.
    let publisher = publishing.publisher().with_deadline(Duration::from_secs(60));
    let jobs: Vec<_> = (0..60).map(|_| job("")).collect();
    // All at once: it takes many in hand, and begins a few.
    for published in join_all(jobs[..40].iter().map(|job| publisher.publish_job(job))).await {
        published.unwrap();
    }
    let state = worker.broker.consuming_state();
    vhost.wait("paused", || async { state() == BrokerState::Paused(vec!["relay"]) }).await;
    let (_, event) = retrying.next_json().await;
    assert_eq!((&event["failure"]["kind"], &event["next_attempt"]), (&"unavailable".into(), &1.into()), "{event}");
    for job in &jobs[40..] {
        publisher.publish_job(job).await.unwrap();
    }
    vhost.wait("more than 40 probes", || async { relay.probes.load(Ordering::SeqCst) > 40 }).await;
    assert!(runs.all().is_empty());
    // What was put back has come back, and waits where it came from.
    vhost.wait_ready("noop.normal", 60).await;
    relay.set_away(false);
    vhost.wait("all are done", || async { runs.all().len() == 60 }).await;
    let runs = runs.all();
    for job in &jobs {
        assert_eq!(runs.iter().filter(|run| **run == format!("{} 1", job.id)).count(), 1, "once, in its first attempt");
    }
    assert_eq!(state(), BrokerState::Consuming);
    worker.stop().await;
    publishing.close().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_job_that_blames_something_that_answers_has_failed_like_any_other() {
    let vhost = vhost().await;
    let handler = With(|_, _| async {
        Err(Failure::Unavailable { dependency: "relay", reason: "connection refused".to_owned() })
    });
    let handlers = Handlers::new().register(handler).dependency("relay", || async { Ok::<_, &str>(()) });
    let mut dead = vhost.listen("postroom.events", "job.dead").await;
    let worker = Worker::with(&vhost, 1, handlers).await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let (_, event) = dead.next_json().await;
    assert_eq!((&event["failure"]["kind"], &event["run"]["attempt"]), (&"unavailable".into(), &5.into()), "{event}");
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[("noop.dead", 1), ("tracker.dead_letters", 1)]).await;
}

#[tokio::test]
async fn events_of_a_run_after_an_outage_come_after_those_before_it() {
    let vhost = vhost().await;
    let (relay, runs) = (Relay::default(), Notes::default());
    let mut events = vhost.listen_to("postroom.events", &["job.retrying", "job.succeeded"]).await;
    let worker = Worker::with(&vhost, 1, relay.handlers(&runs)).await;
    relay.leave(&vhost).await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let (_, before) = events.next_json().await;
    relay.set_away(false);
    let (key, after) = events.next_json().await;
    assert_eq!(key, "job.succeeded");
    let place =
        |event: &serde_json::Value| ["attempt", "redeliveries"].map(|counter| event["run"][counter].as_u64().unwrap());
    assert!(place(&after) > place(&before), "{:?} after {:?}", place(&after), place(&before));
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_run_that_lasts_through_an_outage_holds_up_nobody_after_it() {
    let vhost = patient_vhost().await;
    let (relay, done, release) = (Relay::default(), Notes::default(), Arc::new(Notify::new()));
    let (begun, mut retrying) = (Arc::new(Notify::new()), vhost.listen("postroom.events", "job.retrying").await);
    let handler = {
        let (relay, done, release, begun) = (relay.clone(), done.clone(), Arc::clone(&release), Arc::clone(&begun));
        With(move |job: pipeline::jobs::Noop, _| {
            let (away, done, release, begun) =
                (relay.is_away(), done.clone(), Arc::clone(&release), Arc::clone(&begun));
            async move {
                if job.note == "long" {
                    begun.notify_one();
                    release.notified().await;
                } else if away {
                    return Err(Failure::Unavailable { dependency: "relay", reason: "connection refused".to_owned() });
                }
                done.add(job.note);
                Ok(Done::empty())
            }
        })
    };
    let asked = relay.clone();
    let handlers = Handlers::new().register(handler).dependency("relay", move || asked.probe());
    let worker = Worker::patient(&vhost, 3, handlers).await;
    let publisher = worker.broker.publisher();
    publisher.publish_job(&job("long")).await.unwrap();
    begun.notified().await;
    relay.leave(&vhost).await;
    publisher.publish_job(&job("short")).await.unwrap();
    retrying.next().await;
    relay.set_away(false);
    publisher.publish_job(&job("later")).await.unwrap();
    tokio::select! {
        () = vhost.wait("the others are done", || async { done.all().len() == 2 }) => {}
        _ = retrying.next() => panic!("they were waited for until the long one was out of time"),
    }
    assert!(!done.all().contains(&"long".to_owned()), "while it still runs");
    release.notify_one();
    vhost.wait("all are done", || async { done.all().len() == 3 }).await;
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_paused_worker_can_be_stopped() {
    let vhost = vhost().await;
    let (relay, runs) = (Relay::default(), Notes::default());
    relay.set_away(true);
    let worker = Worker::with(&vhost, 1, relay.handlers(&runs)).await;
    worker.broker.publisher().publish_job(&job("")).await.unwrap();
    let state = worker.broker.consuming_state();
    vhost.wait("paused", || async { matches!(state(), BrokerState::Paused(_)) }).await;
    worker.stop().await;
    broker(&vhost, "noop-worker").await.close().await;
    vhost.wait_ready("noop.normal", 1).await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[("noop.normal", 1)]).await;
}

#[tokio::test]
async fn a_probe_that_panics_is_asked_again() {
    let vhost = vhost().await;
    let mut succeeded = vhost.listen("postroom.events", "job.succeeded").await;
    let probes = AtomicU32::new(0);
    let probe = move || match probes.fetch_add(1, Ordering::SeqCst) {
        0 => ready(Err("connection refused")),
        1 => panic!("the second probe panics"),
        _ => ready(Ok(())),
    };
    let handler = With(|_, _| async { Ok(Done::empty()) });
    let worker = Worker::with(&vhost, 1, Handlers::new().register(handler).dependency("relay", probe)).await;
    let job = job("");
    worker.broker.publisher().publish_job(&job).await.unwrap();
    assert_eq!(succeeded.next_json().await.1["job"]["id"], job.id.to_string());
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}
