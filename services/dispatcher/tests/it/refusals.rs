//! Rows that the broker does not take, or that nobody can read.

use std::collections::BTreeSet;

use pipeline::jobs::{Job, RenderReport};
use pipeline::topology::{self, Lane};
use reqwest::Method;
use serde_json::json;
use store::jobs::{JobState, find_job};
use uuid::Uuid;

use crate::fixture::{Fixture, QUEUE};

#[tokio::test]
async fn what_a_full_queue_refuses_stays_and_is_sent_when_there_is_room() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    let policy = json!({"pattern": "^report\\.normal$", "definition": {"max-length": 2}, "apply-to": "queues"});
    fixture.vhost.manage(Method::PUT, "policies", "/small", Some(policy)).await;
    // A quorum queue may overshoot its limit a little before it refuses.
    let mut ids = fixture.put(2).await;
    fixture.wait_sent(2).await;
    fixture.vhost.wait_ready(QUEUE, 2).await;
    let refused = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND attempts > 0 AND next_try_at > due_at
                   AND last_error LIKE 'refused for \"normal\" on \"postroom.jobs.report.render\"%'";
    while fixture.count(refused).await == 0 {
        ids.extend(fixture.put(1).await);
        assert!(ids.len() < 200, "the queue takes more than its limit");
        fixture
            .vhost
            .wait("it was tried", || async {
                fixture.count("SELECT count(*) FROM outbox WHERE attempts = 0").await == 0
            })
            .await;
    }
    let sent = fixture.take(ids.len()).await;
    assert_eq!(sent.iter().copied().collect::<BTreeSet<_>>(), ids.iter().copied().collect());
    fixture.wait_sent(ids.len() as i64).await;
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn the_last_tenth_of_a_queue_is_left_to_what_must_return() {
    let fixture = Fixture { queue_length: 20, ..Fixture::new().await };
    let dispatcher = fixture.dispatcher().await;
    let mut ids = fixture.put(18).await;
    fixture.wait_sent(18).await;
    let nearly_full = || async { dispatcher.fullness.is_nearly_full("report.render", Lane::Normal) };
    fixture.vhost.wait("nine tenths are known to be taken", nearly_full).await;
    ids.extend(fixture.put(2).await);
    let refused = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND last_error = 'the queue is nearly full'";
    fixture.vhost.wait("both are kept back", || async { fixture.count(refused).await == 2 }).await;
    assert_eq!(fixture.vhost.ready(QUEUE).await, Some(18));
    let sent = fixture.take(20).await;
    assert_eq!(sent.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    fixture.wait_sent(20).await;
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn what_no_queue_takes_stays_and_holds_up_nothing() {
    let fixture = Fixture::new().await;
    let dispatcher = fixture.dispatcher().await;
    let exchange = topology::jobs_exchange(RenderReport::KIND);
    let unbound = fixture.vhost.channel().queue_unbind(
        "report.bulk".into(),
        exchange.as_str().into(),
        "bulk".into(),
        Default::default(),
    );
    unbound.await.unwrap();
    let homeless = Uuid::new_v4();
    let message = json!({"kind": "report.render", "id": homeless, "lane": "bulk", "accepted_at": "2026-01-01T00:00:00Z", "payload": {}});
    fixture.put_message(homeless, message, None).await;
    let ids = fixture.put(3).await;
    assert_eq!(fixture.take(3).await.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    let returned = "SELECT count(*) FROM outbox WHERE attempts > 1 AND last_error LIKE 'no queue for%'";
    fixture.vhost.wait("it was tried more than once", || async { fixture.count(returned).await == 1 }).await;

    let bound = fixture.vhost.channel().queue_bind(
        "report.bulk".into(),
        exchange.as_str().into(),
        "bulk".into(),
        Default::default(),
        Default::default(),
    );
    bound.await.unwrap();
    fixture.vhost.take("report.bulk").await;
    fixture.wait_sent(4).await;
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn what_nobody_can_read_is_set_aside_and_holds_up_nothing() {
    let fixture = Fixture::new().await;
    let [unreadable, another, foreign] = [(); 3].map(|()| Uuid::new_v4());
    fixture.put_message(unreadable, json!({"kind": "report.render"}), None).await;
    let message =
        |id: Uuid, kind: &str| json!({"kind": kind, "id": id, "accepted_at": "2026-01-01T00:00:00Z", "payload": {}});
    fixture.put_message(another, message(unreadable, "report.render"), None).await;
    // The broker would close the channel on it, and with that lose the confirms of all others.
    fixture.put_message(foreign, message(foreign, "noop.run"), None).await;
    let deep = Uuid::new_v4();
    fixture.put_message(deep, json!(null), None).await;
    sqlx::query("UPDATE outbox SET message = (repeat('[', 500) || repeat(']', 500))::json WHERE job_id = $1")
        .bind(deep)
        .execute(&fixture.pool)
        .await
        .unwrap();
    let ids = fixture.put(3).await;
    let dispatcher = fixture.dispatcher().await;
    assert_eq!(fixture.take(3).await.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    fixture.wait_sent(3).await;
    for id in [unreadable, another, foreign, deep] {
        let job = find_job(&fixture.pool, id, "alice").await.unwrap().unwrap();
        assert_eq!((job.state, job.due_at), (JobState::Dead, None));
        assert_eq!(job.error.unwrap()["kind"], "rejected");
    }
    let aside =
        "SELECT count(*) FROM outbox WHERE set_aside_at IS NOT NULL AND attempts = 1 AND last_error IS NOT NULL";
    assert_eq!(fixture.count(aside).await, 4);
    dispatcher.stop().await;
    fixture.finish().await;
}
