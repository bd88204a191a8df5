//! From the outbox to the queue.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use dispatcher::due::Due;
use dispatcher::sender::{Sender, Turn};
use pipeline::events::JobReference;
use pipeline::{Event, EventBody, TraceContext, topology};
use reqwest::Method;
use serde_json::Value;
use store::jobs::{JobState, find_job};
use store::outbox::{NewEventRow, put_event_in, take_due};
use uuid::Uuid;

use crate::fixture::{CAUSE, Fixture, QUEUE};

#[tokio::test]
async fn a_row_that_is_due_is_sent_confirmed_told_of_and_marked() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    let mut events = fixture.vhost.listen(topology::EVENTS, "job.queued").await;
    let id = fixture.put_due(None).await;

    let message = fixture.vhost.take(QUEUE).await;
    let properties = &message.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id.to_string());
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "report.render");
    assert_eq!(*properties.delivery_mode(), Some(2));
    let payload: Value = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(payload["recipient"]["address"], "alice@shop.example");

    let told = events.next().await;
    let event: Value = serde_json::from_slice(&told.data).unwrap();
    assert_eq!((event["job"]["id"].as_str(), event["job"]["owner"].as_str()), (Some(&*id.to_string()), Some("alice")));
    assert_eq!(event["job"]["caused_by"], CAUSE.to_string());
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), CAUSE.to_string());
    let told_twice_is_told_once = Uuid::new_v5(&id, b"job.queued").to_string();
    assert_eq!(told.properties.message_id().as_ref().unwrap().as_str(), told_twice_is_told_once);
    let parent = |delivery: &backing::Delivery| {
        format!("{:?}", delivery.properties.headers().as_ref().unwrap().inner()["traceparent"])
    };
    assert_eq!(parent(&told), parent(&message), "one trace");
    fixture.wait_sent(1).await;
    let job = find_job(&fixture.pool, id, "alice").await.unwrap().unwrap();
    assert_eq!((job.state, job.due_at), (JobState::Queued, None));
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn an_event_that_is_due_is_published_under_its_own_id_and_is_no_job() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    let mut events = fixture.vhost.listen(topology::EVENTS, "job.cancelled").await;
    let job = JobReference { id: Uuid::new_v4(), kind: "report.render".to_owned(), owner: None, caused_by: None };
    let trace = TraceContext::root();
    let event = Event { trace: Some(trace.clone()), ..Event::new(job, None, EventBody::Cancelled {}) };
    let row = NewEventRow {
        id: event.id,
        event_type: event.body.kind().to_owned(),
        message: serde_json::to_value(event.clone().sealed()).unwrap(),
    };
    let broken = NewEventRow { id: Uuid::new_v4(), ..row.clone() };
    let mut connection = fixture.pool.acquire().await.unwrap();
    for row in [&row, &row, &broken] {
        put_event_in(&mut connection, row).await.unwrap();
    }
    drop(connection);
    let told = events.next().await;
    assert_eq!(told.properties.message_id().as_ref().unwrap().as_str(), event.id.to_string());
    assert_eq!(told.properties.correlation_id().as_ref().unwrap().as_str(), event.job.id.to_string());
    let parent = format!("{:?}", told.properties.headers().as_ref().unwrap().inner()["traceparent"]);
    assert!(parent.contains(&format!("{:?}", trace.traceparent().as_bytes())), "{parent}");
    assert_eq!(serde_json::from_slice::<Value>(&told.data).unwrap(), serde_json::to_value(&event).unwrap());
    fixture.wait_sent(1).await;
    let set_aside = "SELECT count(*) FROM outbox WHERE set_aside_at IS NOT NULL AND last_error LIKE '%another event%'";
    fixture.vhost.wait("the other is set aside", || async { fixture.count(set_aside).await == 1 }).await;
    assert_eq!(fixture.count("SELECT count(*) FROM jobs").await, 0);
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_message_that_was_sent_but_not_marked_is_sent_again_under_the_same_id() {
    let fixture = Fixture::new().await;
    let broker = fixture.broker().await;
    let sender = Sender::new(&broker, broker.fullness(), fixture.pool.clone(), &Due::default());
    let id = fixture.put_due(None).await;
    fixture.execute("ALTER TABLE outbox ADD CONSTRAINT nothing_is_sent CHECK (sent_at IS NULL)").await;
    sender.send_due(10).await.unwrap_err();
    assert_eq!(fixture.take(1).await, [id]);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox WHERE sent_at IS NULL AND attempts = 0").await, 1);

    fixture.execute("ALTER TABLE outbox DROP CONSTRAINT nothing_is_sent").await;
    // The server takes a moment to see that the connection of the first attempt is gone.
    fixture.vhost.wait("sent", || async { sender.send_due(10).await.unwrap() == Turn::Took(1) }).await;
    assert_eq!(fixture.take(1).await, [id]);
    assert_eq!(sender.send_due(10).await.unwrap(), Turn::NothingDue);
    broker.close().await;
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_dispatchers_send_every_row_once() {
    let fixture = Fixture::new().await;
    let ids = fixture.put(300).await;
    let dispatchers = [fixture.dispatcher().await, fixture.dispatcher().await];
    let more = fixture.put(200).await;
    fixture.wait_sent(500).await;
    for dispatcher in dispatchers {
        dispatcher.stop().await;
    }
    let sent = fixture.take(500).await;
    let wanted: BTreeSet<_> = ids.into_iter().chain(more).collect();
    assert_eq!(sent.into_iter().collect::<BTreeSet<_>>(), wanted);
    // And none of them twice: nothing is left.
    fixture.finish().await;
}

#[tokio::test]
async fn what_a_dispatcher_holds_is_left_to_it_until_it_dies() {
    let fixture = Fixture::new().await;
    let ids = fixture.put(3).await;
    let held = take_due(&fixture.pool, 2).await.unwrap().unwrap();
    let dispatcher = fixture.dispatcher().await;
    let others: Vec<_> = ids.iter().filter(|id| held.rows().iter().all(|row| row.job_id != **id)).copied().collect();
    assert_eq!(fixture.take(1).await, others);
    fixture.wait_sent(1).await;
    drop(held);
    let mut rest = fixture.take(2).await;
    rest.extend(others);
    assert_eq!(rest.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    fixture.wait_sent(3).await;
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_row_that_is_due_later_waits_for_its_time_and_no_longer() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    let far = fixture.put_due(Some(Utc::now() + TimeDelta::hours(1))).await;
    let soon = fixture.put_due(Some(Utc::now() + TimeDelta::seconds(2))).await;
    let now = fixture.put_due(None).await;
    assert_eq!(fixture.take(2).await, [now, soon]);
    fixture.wait_sent(2).await;
    let (due_at, sent_at): (DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("SELECT due_at, sent_at FROM outbox WHERE job_id = $1")
            .bind(soon)
            .fetch_one(&fixture.pool)
            .await
            .unwrap();
    assert!(sent_at >= due_at, "{sent_at} is before {due_at}");
    assert!(find_job(&fixture.pool, far, "alice").await.unwrap().unwrap().due_at.is_some());
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_dispatcher_that_waits_is_woken_at_once() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    let begun = Instant::now();
    for count in 1..=6 {
        fixture.put(1).await;
        fixture.wait_sent(count).await;
    }
    // Left alone it looks every ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    fixture.take(6).await;
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn what_is_put_while_the_broker_is_away_is_sent_when_it_is_back() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    fixture.vhost.manage(Method::DELETE, "permissions", "/dispatcher", None).await;
    let state = dispatcher.broker.publishing_readiness();
    let away = || async {
        fixture.vhost.close_connections().await;
        state().is_err()
    };
    fixture.vhost.wait("the broker is away", away).await;
    let ids = fixture.put(5).await;
    let sender = Sender::new(&dispatcher.broker, dispatcher.fullness.clone(), fixture.pool.clone(), &Due::default());
    assert_eq!(sender.send_due(10).await.unwrap(), Turn::BrokerAway);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox WHERE attempts > 0 OR sent_at IS NOT NULL").await, 0);

    let permissions = topology::definitions()["permissions"].as_array().unwrap().clone();
    let ours = permissions.into_iter().find(|permission| permission["user"] == "dispatcher").unwrap();
    fixture.vhost.manage(Method::PUT, "permissions", "/dispatcher", Some(ours)).await;
    assert_eq!(fixture.take(5).await.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    fixture.wait_sent(5).await;
    dispatcher.stop().await;
    fixture.finish().await;
}
