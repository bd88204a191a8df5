//! Workers that die in the middle, and messages that are replayed.

use std::collections::BTreeSet;

use backing::replay;
use chrono::Utc;
use pipeline::jobs::{Job, PlaceOrder};
use pipeline::topology;
use serde_json::json;
use store::jobs::{JobEvent, JobEventType, apply_event};
use uuid::Uuid;

use crate::fixture::{Fixture, LAMP, MUG, Worker, order};

const ORDERS: usize = 300;
const LAMPS: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_is_decided_on_once_though_workers_are_killed() {
    let fixture = Fixture::new().await;
    sqlx::query("UPDATE products SET stock = $1").bind(LAMPS).execute(&fixture.pool).await.unwrap();
    let url = fixture.database.url();
    let mut workers = vec![Worker::start(&fixture, &url).await, Worker::start(&fixture, &url).await];
    let web = fixture.web().await;
    let mut wanted = BTreeSet::new();
    for place in 0..ORDERS {
        let job = order(if place % 2 == 0 { &[(LAMP, 1), (MUG, 1)] } else { &[(MUG, 1), (LAMP, 1)] });
        web.publisher().publish_job(&job).await.unwrap();
        wanted.insert(job.id);
    }
    let decided = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_refusals)";
    for killed_after in [20, 60, 100, 140, 180, 220] {
        fixture.vhost.wait("some are decided on", || async { fixture.count(decided).await >= killed_after }).await;
        workers.remove(0).kill().await;
        workers.push(Worker::spawn(&fixture, &url));
    }
    fixture.vhost.wait("all are decided on", || async { fixture.count(decided).await >= ORDERS as i64 }).await;
    let settled = || async {
        let mut left = 0;
        for queue in ["order.normal", "order.suspect"] {
            left += fixture.vhost.ready(queue).await.unwrap();
        }
        left == 0
    };
    fixture.vhost.wait("no order waits", settled).await;
    for worker in workers {
        worker.terminate().await;
    }

    let found: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM orders UNION ALL SELECT id FROM order_refusals")
        .fetch_all(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(found.len(), ORDERS);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(fixture.count("SELECT count(*) FROM orders").await, LAMPS);
    assert_eq!(fixture.count("SELECT sum(stock)::bigint FROM products").await, 0);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox WHERE kind = 'email.send'").await, ORDERS as i64);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox WHERE kind = 'order.placed'").await, LAMPS);
    assert_eq!(fixture.vhost.ready("order.dead").await, Some(0));
    web.close().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_replay_of_an_order_places_nothing_and_takes_nothing_and_writes_to_nobody_again() {
    let fixture = Fixture::new().await;
    let worker = Worker::start(&fixture, &fixture.database.url()).await;
    let mut messages = fixture.vhost.listen(&topology::jobs_exchange(PlaceOrder::KIND), "normal").await;
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &["job.succeeded", "job.refused"]).await;
    let web = fixture.web().await;
    let (placed, refused) = (order(&[(LAMP, 2)]), order(&[(MUG, 2)]));
    let mut answers = Vec::new();
    for job in [&placed, &refused] {
        web.publisher().publish_job(job).await.unwrap();
        let (_, event) = events.next_json().await;
        note_end(&fixture, &event).await;
        answers.push((messages.next().await, event));
    }
    let lamps = "SELECT stock FROM products WHERE sku = 'LAMP'";
    let left = fixture.count(lamps).await;
    // It may be long after: what has been sent is swept.
    sqlx::query("DELETE FROM outbox").execute(&fixture.pool).await.unwrap();
    for (message, first) in answers {
        replay(fixture.vhost.channel(), &message, "order.normal").await;
        let (_, again) = events.next_json().await;
        assert_eq!((&again["run"]["replays"], &again["job"]), (&json!(1), &first["job"]));
        for answer in ["type", "result", "refusal"] {
            assert_eq!(again.get(answer), first.get(answer));
        }
    }
    assert_eq!(fixture.count("SELECT count(*) FROM orders").await, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM order_refusals").await, 1);
    assert_eq!(fixture.count(lamps).await, left);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 0);
    let caused: Vec<(Uuid, Uuid)> =
        sqlx::query_as("SELECT id, caused_by FROM jobs WHERE kind = 'email.send' ORDER BY created_at")
            .fetch_all(&fixture.pool)
            .await
            .unwrap();
    assert_eq!(caused, [placed.id, refused.id].map(|id| (Uuid::new_v5(&id, b"email.send"), id)));
    web.close().await;
    worker.terminate().await;
    fixture.finish().await;
}

/// As the tracker does.
async fn note_end(fixture: &Fixture, event: &serde_json::Value) {
    let number = |name: &str| u32::try_from(event["run"][name].as_u64().unwrap()).unwrap();
    let event = JobEvent {
        event_id: Uuid::new_v4(),
        job_id: event["job"]["id"].as_str().unwrap().parse().unwrap(),
        job_kind: "order.place".to_owned(),
        owner: None,
        caused_by: None,
        event_type: JobEventType::from_wire(event["type"].as_str().unwrap()).unwrap(),
        run_id: None,
        replays: number("replays"),
        attempt: number("attempt"),
        redeliveries: number("redeliveries"),
        sequence: number("sequence"),
        worker: None,
        at: Utc::now(),
        data: json!({}),
    };
    apply_event(&fixture.pool, &event).await.unwrap();
}
