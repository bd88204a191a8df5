use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use backing::Vhost;
use futures_util::future::join_all;
use pipeline::{Done, JobContext, News, TrackError, TrackEvents};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{Notes, With, Worker, broker, job, vhost};

struct Tracking {
    notes: Notes,
    refusals: Arc<AtomicU32>,
    /// The job whose events cannot be kept.
    unwanted: Option<Uuid>,
}

impl TrackEvents for Tracking {
    async fn keep(&self, news: &[News]) -> Result<(), TrackError> {
        if self.refusals.load(Ordering::SeqCst) > 0 {
            self.refusals.fetch_sub(1, Ordering::SeqCst);
            return Err(TrackError::Later("the store is away".to_owned()));
        }
        let unwanted = |news: &&News| matches!(news, News::Event(event) if Some(event.job.id) == self.unwanted);
        if news.iter().any(|news| unwanted(&news)) {
            return Err(TrackError::Never("cannot be written".to_owned()));
        }
        for news in news {
            self.notes.add(match news {
                News::Event(event) => format!("{} {}", event.body.kind(), event.job.id),
                News::DeadLetter(letter) => {
                    format!("{} {}: {}", letter.failure.kind, letter.job.id, letter.failure.reason)
                }
            });
        }
        Ok(())
    }
}

/// Runs a tracker until its queues are empty; what it kept.
pub(crate) async fn tracked(vhost: &Vhost) -> Vec<String> {
    track(vhost, 0, None).await
}

async fn track(vhost: &Vhost, refusals: u32, unwanted: Option<Uuid>) -> Vec<String> {
    let broker = broker(vhost, "web").await;
    let mut wanted = 0;
    for queue in ["tracker.lifecycle", "tracker.progress", "tracker.dead_letters"] {
        wanted += usize::try_from(vhost.ready(queue).await.unwrap()).unwrap();
    }
    let (notes, drain) = (Notes::default(), CancellationToken::new());
    let tracking = Tracking { notes: notes.clone(), refusals: Arc::new(refusals.into()), unwanted };
    let task = tokio::spawn(broker.track(tracking, drain.clone()));
    if unwanted.is_some() {
        wanted -= 1;
    }
    vhost.wait("the tracker has kept all", || async { notes.all().len() >= wanted }).await;
    drain.cancel();
    task.await.unwrap();
    broker.close().await;
    notes.all()
}

#[tokio::test]
async fn a_worker_whose_connections_are_cut_goes_on_by_itself() {
    let vhost = vhost().await;
    let mut events = vhost.listen("postroom.events", "job.succeeded").await;
    let (begun, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let runs = Notes::default();
    let handler = {
        let (begun, release, runs) = (Arc::clone(&begun), Arc::clone(&release), runs.clone());
        With(move |_, context: JobContext| {
            let (begun, release, runs) = (Arc::clone(&begun), Arc::clone(&release), runs.clone());
            async move {
                runs.add(format!("begun {}", context.id()));
                begun.notify_one();
                tokio::select! {
                    () = release.notified() => {}
                    () = context.cancelled().cancelled() => runs.add("cancelled"),
                }
                Ok(Done::empty())
            }
        })
    };
    let worker = Worker::start(&vhost, 2, handler).await;
    let publisher = worker.broker.publisher();
    vhost
        .wait("the management API knows both connections", || async { vhost.client_connections().await.len() == 2 })
        .await;
    let job = job("");
    publisher.publish_job(&job).await.unwrap();
    begun.notified().await;
    vhost.wait("both connections are cut", || async { vhost.close_connections().await == 2 }).await;
    // The first run hears that nobody waits for it any more; the job comes again and is done.
    begun.notified().await;
    release.notify_one();
    let (_, event) = events.next_json().await;
    assert_eq!(event["job"]["id"], job.id.to_string());
    assert_eq!(event["run"]["redeliveries"], 1);
    assert_eq!(runs.all().iter().filter(|run| **run == format!("begun {}", job.id)).count(), 2);

    // A publish that was caught in the cut may count as failed and have reached its queue: the same id again is the same job.
    let next = crate::harness::job("");
    vhost.wait("publishing works again", || async { publisher.publish_job(&next).await.is_ok() }).await;
    release.notify_one();
    assert_eq!(events.next_json().await.1["job"]["id"], next.id.to_string());
    worker.stop().await;
    let told = vhost.ready("tracker.lifecycle").await.unwrap();
    vhost.finish(&[("tracker.lifecycle", told)]).await;
}

#[tokio::test]
async fn a_handler_that_hogs_its_thread_delays_no_other_settlement() {
    let vhost = vhost().await;
    let mut events = vhost.listen("postroom.events", "job.succeeded").await;
    let (hogging, enough) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let handler = {
        let (hogging, enough) = (Arc::clone(&hogging), Arc::clone(&enough));
        With(move |job: pipeline::jobs::Noop, _| {
            let (hogging, enough) = (Arc::clone(&hogging), Arc::clone(&enough));
            async move {
                if job.note == "hog" {
                    hogging.notify_one();
                    // Not a yield in sight: what a careless handler does. The bound is for a test that fails.
                    let begun = Instant::now();
                    while !enough.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                        std::hint::spin_loop();
                    }
                }
                Ok(Done::empty())
            }
        })
    };
    let worker = Worker::start(&vhost, 8, handler).await;
    let publisher = worker.broker.publisher();
    let hog = job("hog");
    publisher.publish_job(&hog).await.unwrap();
    hogging.notified().await;
    // One hog leaves handlers a thread; settling, publishing and consuming are never on its.
    let mut done = Vec::new();
    for _ in 0..5 {
        publisher.publish_job(&job("")).await.unwrap();
        done.push(events.next_json().await.1["job"]["id"].clone());
    }
    assert!(!done.contains(&serde_json::json!(hog.id)), "the others were done while it ran");
    enough.store(true, Ordering::SeqCst);
    assert_eq!(events.next_json().await.1["job"]["id"], hog.id.to_string());
    worker.stop().await;
    let kept = tracked(&vhost).await;
    assert_eq!(kept.iter().filter(|note| note.starts_with("job.succeeded")).count(), 6);
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_tracker_whose_store_is_away_keeps_every_event_for_later() {
    let vhost = vhost().await;
    let mut succeeded = vhost.listen("postroom.events", "job.succeeded").await;
    let worker = Worker::start(&vhost, 4, With(|_, _| async { Ok(Done::empty()) })).await;
    for _ in 0..10 {
        worker.broker.publisher().publish_job(&job("")).await.unwrap();
    }
    for _ in 0..10 {
        succeeded.next().await;
    }
    worker.stop().await;
    let kept = track(&vhost, 5, None).await;
    let kept: Vec<_> = kept.iter().filter(|note| note.starts_with("job.succeeded")).collect();
    assert_eq!(kept.len(), 10);
    assert_eq!(kept.iter().collect::<std::collections::BTreeSet<_>>().len(), 10);
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_tracker_that_loses_its_connection_while_its_store_is_away_keeps_every_event_in_the_end() {
    let vhost = vhost().await;
    let worker = Worker::start(&vhost, 16, With(|_, _| async { Ok(Done::empty()) })).await;
    let publisher = worker.broker.publisher();
    // More than it holds at once.
    let jobs: Vec<_> = (0..300).map(|_| job("")).collect();
    for published in join_all(jobs.iter().map(|job| publisher.publish_job(job))).await {
        published.unwrap();
    }
    vhost.wait("all are done", || async { vhost.ready("tracker.lifecycle").await >= Some(300) }).await;
    worker.stop().await;

    let broker = broker(&vhost, "web").await;
    let (notes, drain, refusals) = (Notes::default(), CancellationToken::new(), Arc::new(AtomicU32::new(u32::MAX)));
    let tracking = Tracking { notes: notes.clone(), refusals: Arc::clone(&refusals), unwanted: None };
    let task = tokio::spawn(broker.track(tracking, drain.clone()));
    for _ in 0..2 {
        vhost.wait("it holds what it may", || async { vhost.ready("tracker.lifecycle").await < Some(100) }).await;
        vhost.wait("its connections are cut", || async { vhost.close_connections().await > 0 }).await;
        vhost.wait("they are gone", || async { vhost.ready("tracker.lifecycle").await >= Some(300) }).await;
    }
    refusals.store(0, Ordering::SeqCst);
    // Kept only after all that was delivered before it; among that is what an earlier session had delivered too.
    let (worker, last) = (Worker::start(&vhost, 1, With(|_, _| async { Ok(Done::empty()) })).await, job(""));
    worker.broker.publisher().publish_job(&last).await.unwrap();
    let kept = |job: &Uuid| notes.all().contains(&format!("job.succeeded {job}"));
    vhost.wait("the last is kept", || async { kept(&last.id) }).await;
    worker.stop().await;
    assert!(jobs.iter().all(|job| kept(&job.id)));
    drain.cancel();
    task.await.unwrap();
    broker.close().await;
    let progress = vhost.ready("tracker.progress").await.unwrap();
    vhost.finish(&[("tracker.progress", progress)]).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_kept_is_buried_alone() {
    let vhost = vhost().await;
    let mut succeeded = vhost.listen("postroom.events", "job.succeeded").await;
    let worker = Worker::start(&vhost, 4, With(|_, _| async { Ok(Done::empty()) })).await;
    let jobs: Vec<_> = (0..10).map(|_| job("")).collect();
    for job in &jobs {
        worker.broker.publisher().publish_job(job).await.unwrap();
    }
    for _ in 0..10 {
        succeeded.next().await;
    }
    worker.stop().await;
    let kept = track(&vhost, 0, Some(jobs[4].id)).await;
    for (index, job) in jobs.iter().enumerate() {
        assert_eq!(kept.iter().any(|note| *note == format!("job.succeeded {}", job.id)), index != 4, "{kept:?}");
    }
    let buried = vhost.take("tracker.dead").await;
    assert_eq!(buried.properties.correlation_id().as_ref().unwrap().as_str(), jobs[4].id.to_string());
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_queue_that_somebody_deleted_is_declared_again() {
    let vhost = vhost().await;
    let mut events = vhost.listen("postroom.events", "job.succeeded").await;
    let worker = Worker::start(&vhost, 1, With(|_, _| async { Ok(Done::empty()) })).await;
    vhost.channel().queue_delete("noop.normal".into(), Default::default()).await.unwrap();
    let (publisher, job) = (worker.broker.publisher(), job(""));
    vhost.wait("the queue is back", || async { publisher.publish_job(&job).await.is_ok() }).await;
    assert_eq!(events.next_json().await.1["job"]["id"], job.id.to_string());
    worker.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}
