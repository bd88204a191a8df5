//! Jobs that last longer than a broker lets a delivery be held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backing::{OwnRabbit, connect};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use pipeline::jobs::{TranscodeVideo, VideoSource};
use pipeline::{
    Broker, BrokerState, Done, Failure, Handler, Handlers, JobContext, OutgoingJob, WorkerSettings, topology,
};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{JOB_EVENTS, With, settings};

/// Long enough for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Lasts until it is told to end.
struct Long {
    runs: Arc<AtomicU32>,
    end: Arc<Notify>,
}

impl Handler for Long {
    type Job = TranscodeVideo;

    async fn run(&self, _: TranscodeVideo, _: &JobContext) -> Result<Done, Failure> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.end.notified().await;
        Ok(Done::empty())
    }
}

#[tokio::test]
async fn a_job_that_lasts_longer_than_a_broker_bears_runs_once() {
    let rabbit = OwnRabbit::start();
    rabbit.let_hold_for(Duration::from_secs(2));
    let broker = Broker::start(&settings(&rabbit.url("video-worker")), "video-worker").unwrap();
    let (connection, channel) = connect(&rabbit.url("operator")).await;
    let (runs, end, drain) = (Arc::<AtomicU32>::default(), Arc::<Notify>::default(), CancellationToken::new());
    let handlers = Handlers::new().register(Long { runs: Arc::clone(&runs), end: Arc::clone(&end) });
    let worker: WorkerSettings = serde_json::from_value(json!({"concurrency": 1})).unwrap();
    let work = tokio::spawn(broker.work(handlers, &worker, drain.clone(), CancellationToken::new()));
    let state = broker.consuming_state();
    until(|| state() == BrokerState::Consuming).await;
    let mut ends = listen(&channel).await;

    publish(&channel, &video()).await;
    until(|| runs.load(Ordering::Relaxed) == 1).await;
    // Twice in a row somebody who holds a message for longer than this broker bears loses it: the video is held for longer yet.
    for _ in 0..2 {
        let holding = connection.create_channel().await.unwrap();
        hold_until_it_is_taken_away(&holding).await;
    }
    end.notify_one();

    let told = loop {
        let event = timeout(DEADLINE, ends.next()).await.expect("an event in time").unwrap().unwrap();
        let event: Value = serde_json::from_slice(&event.data).unwrap();
        if event["type"] != "job.started" {
            break event;
        }
    };
    assert_eq!((&told["type"], &told["run"]["redeliveries"]), (&json!("job.succeeded"), &json!(0)), "{told}");
    drain.cancel();
    work.await.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    broker.close().await;
    let left = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let left = channel.queue_declare("video.normal".into(), left, FieldTable::default()).await.unwrap();
    assert_eq!(left.message_count(), 0);
}

#[test]
fn only_queues_of_long_jobs_say_how_long_a_delivery_may_be_held() {
    for row in topology::WORKERS {
        assert!(row.is_long() || row.consumer_timeout(1.0) == topology::CONSUMER_TIMEOUT, "{}", row.name);
    }
    assert!(topology::worker("video").unwrap().is_long());
}

#[tokio::test]
#[should_panic(expected = "a delivery of \"noop\" may be held for 1881 s, and the broker bears 1800 s")]
async fn a_time_scale_by_which_deliveries_would_be_held_too_long_is_refused_at_the_start() {
    let settings = json!({"url": "amqp://127.0.0.1:1", "time_scale": 1.1, "queue_length": 10});
    let broker = Broker::start(&serde_json::from_value(settings).unwrap(), "noop-worker").unwrap();
    let handlers = Handlers::new().register(With(|_, _| async { Ok(Done::empty()) }));
    let worker: WorkerSettings = serde_json::from_value(json!({"concurrency": 1})).unwrap();
    drop(broker.work(handlers, &worker, CancellationToken::new(), CancellationToken::new()));
}

fn video() -> OutgoingJob<TranscodeVideo> {
    let source = VideoSource { key: "videos/none/source".to_owned(), bytes: 0, sha256: String::new() };
    let recipient = serde_json::from_value(json!({"name": "Alice", "address": "alice@shop.example"})).unwrap();
    let payload = TranscodeVideo { title: "Long".to_owned().try_into().unwrap(), source, recipient };
    OutgoingJob::new(Uuid::now_v7(), payload)
}

#[expect(clippy::disallowed_methods, reason = "a publisher of another make")]
async fn publish(channel: &Channel, job: &OutgoingJob<TranscodeVideo>) {
    let properties = BasicProperties::default()
        .with_message_id(job.id.to_string().into())
        .with_type("video.transcode".into())
        .with_content_type("application/json".into());
    let (exchange, key) = ("postroom.jobs.video.transcode".into(), "normal".into());
    let body = serde_json::to_vec(&job.payload).unwrap();
    channel.basic_publish(exchange, key, BasicPublishOptions::default(), &body, properties).await.unwrap();
}

async fn listen(channel: &Channel) -> lapin::Consumer {
    let queue = own_queue(channel).await;
    for key in JOB_EVENTS {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.as_str().into(), topology::EVENTS.into(), key.into(), options, none).await.unwrap();
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap()
}

async fn own_queue(channel: &Channel) -> String {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    channel.queue_declare("".into(), options, arguments).await.unwrap().name().to_string()
}

/// Takes a message, does nothing with it, and sees the broker close the channel over that.
#[expect(clippy::disallowed_methods, reason = "a publisher of another make")]
async fn hold_until_it_is_taken_away(channel: &Channel) {
    let queue = own_queue(channel).await;
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.as_str().into(), options, b"x", BasicProperties::default()).await.unwrap();
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = channel.basic_consume(queue.as_str().into(), "".into(), options, none).await.unwrap();
    let held = timeout(DEADLINE, consumer.next()).await.expect("a delivery in time").unwrap().unwrap();
    until(|| !channel.status().connected()).await;
    drop(held);
}

async fn until(mut question: impl FnMut() -> bool) {
    let asked = async {
        while !question() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, asked).await.expect("within a minute");
}
