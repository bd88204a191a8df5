use std::time::{Duration, Instant};

use backing::{Proxy, Vhost};
use futures_util::future::join_all;
use pipeline::topology::Lane;
use pipeline::{BrokerState, Event, EventBody, OutgoingJob, PublishError, events::JobReference};
use reqwest::Method;
use serde_json::json;

use crate::harness::{broker, job, settings, vhost};

#[tokio::test]
async fn a_published_job_is_on_its_queue_as_the_contract_says() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    let job = job("hello");
    broker.publisher().publish_job(&job).await.unwrap();
    let delivery = vhost.take("noop.normal").await;
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("postroom.jobs.noop.run", "normal"));
    assert_eq!(delivery.data, br#"{"note":"hello"}"#);
    let properties = &delivery.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), job.id.to_string());
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "noop.run");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "noop-worker");
    assert_eq!(*properties.delivery_mode(), Some(2));
    broker.close().await;
    vhost.finish(&[]).await;
}

/// From now on no queue takes a job of the lane `normal`.
async fn unbind_normal(vhost: &Vhost) {
    let (queue, exchange, lane) = ("noop.normal".into(), "postroom.jobs.noop.run".into(), "normal".into());
    vhost.channel().queue_unbind(queue, exchange, lane, Default::default()).await.unwrap();
}

#[tokio::test]
async fn a_job_that_no_queue_takes_is_returned_and_not_taken_for_published() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    unbind_normal(&vhost).await;
    let error = broker.publisher().publish_job(&job("")).await.unwrap_err();
    assert!(matches!(error, PublishError::Returned { .. }), "{error}");
    broker.close().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_queue_that_somebody_deleted_is_declared_again_when_a_message_is_returned() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    vhost.channel().queue_delete("noop.normal".into(), Default::default()).await.unwrap();
    let publisher = broker.publisher();
    let first = publisher.publish_job(&job("")).await.unwrap_err();
    assert!(matches!(first, PublishError::Returned { .. }), "{first}");
    vhost.wait("it takes messages again", || async { publisher.publish_job(&job("")).await.is_ok() }).await;
    broker.close().await;
    vhost.finish(&[("noop.normal", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_returned_among_others_is_never_taken_for_published() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    unbind_normal(&vhost).await;
    let publishes = (0..2000).map(|number| {
        let (publisher, lane) = (broker.publisher(), if number % 2 == 0 { Lane::Normal } else { Lane::Bulk });
        let job = OutgoingJob { lane, ..job("") };
        tokio::spawn(async move { (lane, publisher.publish_job(&job).await) })
    });
    let mut confirmed = 0;
    for published in join_all(publishes).await {
        match published.unwrap() {
            (Lane::Normal, Err(PublishError::Returned { .. } | PublishError::Unconfirmed)) => {}
            // A return may come with its confirm.
            (Lane::Bulk, Err(PublishError::Unconfirmed)) => {}
            (Lane::Bulk, Ok(())) => confirmed += 1,
            (lane, published) => panic!("{lane:?}: {published:?}"),
        }
    }
    assert!(confirmed > 100, "{confirmed} of 1000 were told to be published");
    vhost.wait_ready("noop.bulk", 1000).await;
    broker.close().await;
    vhost.finish(&[("noop.bulk", 1000)]).await;
}

/// A confirm names its message by the broker's count of arrivals, which threads that publish at once must not get wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_a_full_queue_and_one_with_room_each_answers_for_its_own() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    let policy = json!({"pattern": "^noop\\.normal$", "definition": {"max-length": 1}, "apply-to": "queues"});
    vhost.manage(Method::PUT, "policies", "/small", Some(policy)).await;
    let publisher = broker.publisher();
    vhost.wait("it is full", || async { publisher.publish_job(&job("")).await.is_err() }).await;
    let full = vhost.ready("noop.normal").await.unwrap();
    let publishes = (0..20_000).map(|number| {
        let (publisher, lane) = (broker.publisher(), if number % 2 == 0 { Lane::Normal } else { Lane::Bulk });
        let job = OutgoingJob { lane, ..job("") };
        tokio::spawn(async move { (lane, publisher.publish_job(&job).await) })
    });
    for published in join_all(publishes).await {
        match published.unwrap() {
            (Lane::Normal, Err(PublishError::Nacked { .. })) | (Lane::Bulk, Ok(())) => {}
            (lane, published) => panic!("{lane:?}: {published:?}"),
        }
    }
    broker.close().await;
    vhost.finish(&[("noop.normal", full), ("noop.bulk", 10_000)]).await;
}

#[tokio::test]
async fn where_thousands_of_confirms_do_not_come_the_connection_is_made_anew() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.url("noop-worker")).await;
    let broker = pipeline::Broker::start(&settings(&proxy.url), "noop-worker").unwrap();
    let state = broker.publishing_state();
    vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
    let publisher = broker.publisher().with_deadline(Duration::from_millis(100));
    proxy.hold_answers(true);
    let mut published = 0;
    while state() == BrokerState::Connected {
        assert!(published < 10_000, "they are kept in memory for ever");
        let jobs: Vec<_> = (0..500).map(|_| job("")).collect();
        let results = join_all(jobs.iter().map(|job| publisher.publish_job(job))).await;
        assert!(results.iter().all(Result::is_err));
        published += jobs.len();
    }
    assert!(published > 4000, "{published} are given up for {published} confirms");
    proxy.hold_answers(false);
    vhost.wait("connected again", || async { state() == BrokerState::Connected }).await;
    vhost.wait("it publishes", || async { publisher.publish_job(&job("")).await.is_ok() }).await;
    broker.close().await;
    vhost.finish_but(&["noop.normal"], &[]).await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_the_publisher_is_told() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    let policy = json!({"pattern": "^noop\\.normal$", "definition": {"max-length": 1}, "apply-to": "queues"});
    vhost.manage(Method::PUT, "policies", "/small", Some(policy)).await;
    let publisher = broker.publisher();
    // A quorum queue may overshoot its limit a little before it refuses.
    let mut taken = 0;
    let refused = loop {
        match publisher.publish_job(&job("")).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000, "the queue takes more than its limit");
    };
    assert!(matches!(refused, PublishError::Nacked { .. }), "{refused}");
    broker.close().await;
    vhost.finish(&[("noop.normal", taken)]).await;
}

#[tokio::test]
async fn without_a_broker_a_publish_fails_at_once() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = pipeline::Broker::start(&settings(&format!("amqp://a:b@{unused}/none")), "noop-worker").unwrap();
    let begun = Instant::now();
    let error = broker.publisher().publish_job(&job("")).await.unwrap_err();
    assert!(matches!(error, PublishError::NotConnected), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    broker.close().await;
}

#[tokio::test]
async fn a_broker_that_says_nothing_is_given_up_at_the_deadline() {
    // It accepts and is silent: what a frozen broker looks like to a new connection.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://a:b@{}/none", listener.local_addr().unwrap());
    let broker = pipeline::Broker::start(&settings(&url), "noop-worker").unwrap();
    let _held = listener.accept().await.unwrap();
    let error = broker.publisher().publish_job(&job("")).await.unwrap_err();
    assert!(matches!(error, PublishError::NotConnected), "{error}");
    broker.close().await;
}

#[tokio::test]
async fn an_event_that_nobody_listens_to_is_no_failure() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    let unbound = vhost.channel().queue_delete("tracker.lifecycle".into(), Default::default());
    unbound.await.unwrap();
    let job = JobReference { id: uuid::Uuid::now_v7(), kind: "noop.run".to_owned(), owner: None, caused_by: None };
    broker.publisher().publish_event(&Event::new(job, None, EventBody::Queued {})).await.unwrap();
    broker.close().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_thousand_publishers_at_once_are_all_confirmed() {
    let vhost = vhost().await;
    let broker = broker(&vhost, "noop-worker").await;
    let publishers = (0..2000).map(|_| {
        let publisher = broker.publisher();
        async move { publisher.publish_job(&job("")).await }
    });
    let results = futures_util::future::join_all(publishers).await;
    assert!(results.iter().all(Result::is_ok));
    vhost.wait_ready("noop.normal", 2000).await;
    broker.close().await;
    vhost.finish(&[("noop.normal", 2000)]).await;
}
