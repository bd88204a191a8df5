//! What is old goes, what is not stays.

use chrono::{TimeDelta, Utc};
use serde_json::json;
use sqlx::AssertSqlSafe;
use store::jobs::{JobEvent, JobEventType, events_after, find_job};
use store::outbox::{self, NewOutboxRow, Outcome};
use store::retention::{OldJob, Sweep, begin};
use store::{PgPool, idempotency, sent_mails};
use uuid::Uuid;

use crate::TestStore;
use crate::jobs::{apply, event, new_job, record_queued};

async fn sweep(pool: &PgPool) -> Sweep {
    begin(pool).await.unwrap().expect("nobody sweeps")
}

async fn age(pool: &PgPool, table: &str, column: &str, id: Uuid, age: &str) {
    let key = if table == "jobs" { "id" } else { "job_id" };
    let statement = format!("UPDATE {table} SET {column} = now() - interval '{age}' WHERE {key} = $1");
    sqlx::query(AssertSqlSafe(statement)).bind(id).execute(pool).await.unwrap();
}

#[tokio::test]
async fn only_one_sweeps_at_a_time() {
    let store = TestStore::create().await;
    let first = sweep(&store.pool).await;
    assert!(begin(&store.pool).await.unwrap().is_none());
    first.finish().await.unwrap();
    let second = sweep(&store.pool).await;
    // Whoever dies lets go.
    drop(second);
    while begin(&store.pool).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn jobs_go_when_they_ended_long_ago() {
    let store = TestStore::create().await;
    let before = Utc::now() - TimeDelta::days(30);
    let [old, replayed, young, open] = [(); 4].map(|()| Uuid::new_v4());
    for id in [old, replayed, young] {
        apply(&store.pool, &event(id, JobEventType::Succeeded, 3)).await;
    }
    record_queued(&store.pool, &new_job(open)).await;
    age(&store.pool, "jobs", "finished_at", old, "32 days").await;
    age(&store.pool, "jobs", "finished_at", replayed, "31 days").await;
    age(&store.pool, "jobs", "finished_at", young, "29 days").await;
    age(&store.pool, "jobs", "created_at", open, "99 days").await;

    let mut sweep = sweep(&store.pool).await;
    let kind = "noop.run".to_owned();
    let found = sweep.old_jobs(before, 1).await.unwrap();
    assert_eq!(found, [OldJob { id: old, kind: kind.clone() }], "the oldest first");
    let found = sweep.old_jobs(before, 10).await.unwrap();
    assert_eq!(found, [OldJob { id: old, kind: kind.clone() }, OldJob { id: replayed, kind }]);
    apply(&store.pool, &JobEvent { replays: 1, ..event(replayed, JobEventType::Queued, 0) }).await;
    assert_eq!(sweep.delete_jobs(&[old, replayed, young, open], before).await.unwrap(), 1);
    assert!(find_job(&store.pool, old, "alice").await.unwrap().is_none());
    assert!(events_after(&store.pool, old, 0).await.unwrap().is_empty());
    for kept in [replayed, young, open] {
        assert!(find_job(&store.pool, kept, "alice").await.unwrap().is_some());
    }
    sweep.finish().await.unwrap();
}

#[tokio::test]
async fn a_job_is_settled_a_while_after_it_ended_unless_it_may_be_replayed() {
    use JobEventType::{Cancelled, Dead, Queued, Refused, Started, Succeeded};
    let store = TestStore::create().await;
    let [succeeded, refused, cancelled, dead, replayed, running, young] = [(); 7].map(|()| Uuid::new_v4());
    for (id, last) in [
        (succeeded, Succeeded),
        (refused, Refused),
        (cancelled, Cancelled),
        (dead, Dead),
        (replayed, Succeeded),
        (running, Started),
        (young, Succeeded),
    ] {
        apply(&store.pool, &event(id, last, 3)).await;
    }
    for id in [succeeded, refused, cancelled, dead, replayed] {
        age(&store.pool, "jobs", "finished_at", id, "61 minutes").await;
    }
    apply(&store.pool, &JobEvent { replays: 1, ..event(replayed, Queued, 0) }).await;
    age(&store.pool, "jobs", "finished_at", young, "59 minutes").await;

    let asked = [succeeded, refused, cancelled, dead, replayed, running, young, Uuid::new_v4()];
    let mut expected = vec![succeeded, refused, cancelled];
    let mut sweep = sweep(&store.pool).await;
    let mut settled = sweep.settled_jobs(&asked, Utc::now() - TimeDelta::hours(1)).await.unwrap();
    settled.sort();
    expected.sort();
    assert_eq!(settled, expected);
    assert!(sweep.settled_jobs(&[], Utc::now()).await.unwrap().is_empty());
    sweep.finish().await.unwrap();
}

#[tokio::test]
async fn a_job_is_unknown_that_has_neither_a_row_nor_waits_in_the_outbox() {
    let store = TestStore::create().await;
    let [queued, over, waiting, unknown] = [(); 4].map(|()| Uuid::new_v4());
    record_queued(&store.pool, &new_job(queued)).await;
    apply(&store.pool, &event(over, JobEventType::Dead, 3)).await;
    outbox::put(&store.pool, &new_job(waiting), &NewOutboxRow { message: json!({}), due_at: None }).await.unwrap();
    sqlx::query("DELETE FROM jobs WHERE id = $1").bind(waiting).execute(&store.pool).await.unwrap();
    let mut sweep = sweep(&store.pool).await;
    assert_eq!(sweep.unknown_jobs(&[queued, over, waiting, unknown]).await.unwrap(), [unknown]);
    assert!(sweep.unknown_jobs(&[]).await.unwrap().is_empty());
    sweep.finish().await.unwrap();
}

#[tokio::test]
async fn rows_of_the_outbox_go_when_they_are_done_with() {
    let store = TestStore::create().await;
    let [old, young, aside, open] = [(); 4].map(|()| Uuid::new_v4());
    for id in [old, young, aside, open] {
        outbox::put(&store.pool, &new_job(id), &NewOutboxRow { message: json!({}), due_at: None }).await.unwrap();
    }
    let batch = outbox::take_due(&store.pool, 10).await.unwrap().unwrap();
    let set_aside = Outcome::SetAside { reason: "bad".to_owned() };
    batch.finish(&[(old, Outcome::Sent), (young, Outcome::Sent), (aside, set_aside)]).await.unwrap();
    age(&store.pool, "outbox", "sent_at", old, "31 days").await;
    age(&store.pool, "outbox", "sent_at", young, "29 days").await;
    age(&store.pool, "outbox", "set_aside_at", aside, "31 days").await;
    age(&store.pool, "outbox", "created_at", open, "99 days").await;

    let mut sweep = sweep(&store.pool).await;
    let before = Utc::now() - TimeDelta::days(30);
    assert_eq!(sweep.outbox(before, 1).await.unwrap(), 1, "in batches");
    assert_eq!(sweep.outbox(before, 10).await.unwrap(), 1);
    assert_eq!(sweep.outbox(before, 10).await.unwrap(), 0);
    let mut kept: Vec<Uuid> = sqlx::query_scalar("SELECT job_id FROM outbox").fetch_all(&store.pool).await.unwrap();
    let mut wanted = vec![young, open];
    kept.sort();
    wanted.sort();
    assert_eq!(kept, wanted);
    sweep.finish().await.unwrap();
}

#[tokio::test]
async fn keys_go_once_their_job_is_gone_and_marks_of_mails_when_nobody_sends() {
    let store = TestStore::create().await;
    let [old, young, held] = [(); 3].map(|()| Uuid::new_v4());
    for id in [old, young] {
        idempotency::claim(&store.pool, id, "hash").await.unwrap();
        let sent_mails::Claim::Send(lease) =
            sent_mails::claim(&store.pool, id, std::time::Duration::from_secs(60)).await.unwrap()
        else {
            panic!("nobody else sends");
        };
        sent_mails::mark_sent(&store.pool, &lease, "<id@shop.example>").await.unwrap();
    }
    let _lease = sent_mails::claim(&store.pool, held, std::time::Duration::from_secs(60)).await.unwrap();
    let with_job = Uuid::new_v4();
    idempotency::claim(&store.pool, with_job, "hash").await.unwrap();
    record_queued(&store.pool, &new_job(with_job)).await;
    for (id, days) in [(old, "31 days"), (young, "29 days"), (with_job, "31 days")] {
        age(&store.pool, "idempotency_keys", "claimed_at", id, days).await;
    }
    age(&store.pool, "sent_mails", "created_at", old, "91 days").await;
    age(&store.pool, "sent_mails", "created_at", young, "89 days").await;
    age(&store.pool, "sent_mails", "created_at", held, "91 days").await;

    let (mut sweep, now) = (sweep(&store.pool).await, Utc::now());
    assert_eq!(sweep.idempotency_keys(now - TimeDelta::days(30), 10).await.unwrap(), 1);
    for kept in [young, with_job] {
        assert_eq!(idempotency::claim(&store.pool, kept, "hash").await.unwrap(), idempotency::Claim::Same);
    }
    assert_eq!(sweep.sent_mails(now - TimeDelta::days(90), 10).await.unwrap(), 1);
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM sent_mails WHERE job_id = ANY($1)")
        .bind([young, held])
        .fetch_one(&store.pool)
        .await
        .unwrap();
    assert_eq!(kept, 2);
    sweep.finish().await.unwrap();
}
