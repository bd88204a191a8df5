//! Rows on their way to the broker.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::Connection;
use sqlx::postgres::PgListener;
use store::PgPool;
use store::jobs::{JobEventType, JobState, NewJob, events_after, find_job};
use store::outbox::{Batch, DUE_CHANNEL, NewOutboxRow, Outcome, Put, backlog, cancel, next_in, put, put_in, take_due};
use uuid::Uuid;

use crate::TestStore;
use crate::jobs::{apply, event, job, new_job};

fn row(due_at: Option<DateTime<Utc>>) -> NewOutboxRow {
    NewOutboxRow { message: json!({"kind": "noop.run", "payload": "\0"}), due_at }
}

async fn put_now(pool: &PgPool) -> Uuid {
    let id = Uuid::new_v4();
    assert_eq!(put(pool, &new_job(id), &row(None)).await.unwrap(), Put::Stored);
    id
}

async fn take(pool: &PgPool) -> Batch {
    take_due(pool, 100).await.unwrap().expect("rows are due")
}

fn ids(batch: &Batch) -> BTreeSet<Uuid> {
    batch.rows().iter().map(|row| row.job_id).collect()
}

fn failed(seconds: u64) -> Outcome {
    Outcome::Failed { reason: "refused\0".to_owned(), retry_in: Duration::from_secs(seconds) }
}

/// What stands in the row: attempts, last error, sent.
async fn look(pool: &PgPool, id: Uuid) -> (i32, Option<String>, bool) {
    sqlx::query_as("SELECT attempts, last_error, sent_at IS NOT NULL FROM outbox WHERE job_id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_row_and_its_job_are_made_together_and_once() {
    let store = TestStore::create().await;
    let id = put_now(&store.pool).await;
    let queued = job(&store.pool, id).await;
    assert_eq!((queued.state, queued.last_number), (JobState::Queued, 0));
    assert!(queued.due_at.is_some_and(|due| due <= Utc::now() + TimeDelta::seconds(5)));

    let later = row(Some(Utc::now() + TimeDelta::days(1)));
    let other = NewJob { kind: "other.kind".to_owned(), ..new_job(id) };
    assert_eq!(put(&store.pool, &other, &later).await.unwrap(), Put::AlreadyThere);
    assert_eq!(job(&store.pool, id).await, queued, "the second changes nothing");

    let batch = take(&store.pool).await;
    assert_eq!(batch.rows()[0].message, json!({"kind": "noop.run", "payload": "\0"}).to_string());
    batch.finish(&[(id, Outcome::Sent)]).await.unwrap();
    assert_eq!(put(&store.pool, &new_job(id), &row(None)).await.unwrap(), Put::AlreadyThere, "also once it was sent");
    assert_eq!(job(&store.pool, id).await.due_at, None);
}

#[tokio::test]
async fn a_transaction_that_fails_leaves_neither_row_nor_job() {
    let store = TestStore::create().await;
    let (kept, lost) = (Uuid::new_v4(), Uuid::new_v4());
    for (id, commit) in [(kept, true), (lost, false)] {
        let mut connection = store.pool.acquire().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        assert_eq!(put_in(&mut transaction, &new_job(id), &row(None)).await.unwrap(), Put::Stored);
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
    }
    assert_eq!(ids(&take(&store.pool).await), BTreeSet::from([kept]));
    assert!(find_job(&store.pool, lost, "alice").await.unwrap().is_none());
}

#[tokio::test]
async fn who_takes_rows_has_them_alone() {
    let store = TestStore::create().await;
    let all: BTreeSet<_> = [put_now(&store.pool).await, put_now(&store.pool).await, put_now(&store.pool).await].into();
    let one = take_due(&store.pool, 2).await.unwrap().unwrap();
    let other = take_due(&store.pool, 2).await.unwrap().unwrap();
    assert_eq!((one.rows().len(), other.rows().len()), (2, 1));
    assert_eq!(&ids(&one) | &ids(&other), all);
    assert!(take_due(&store.pool, 2).await.unwrap().is_none());
    assert_eq!(backlog(&store.pool).await.unwrap().due, 3, "taken is not sent");

    drop(one);
    // The connection is closed, the server rolls back, and the rows are due again.
    let again = loop {
        if let Some(batch) = take_due(&store.pool, 5).await.unwrap() {
            break batch;
        }
        tokio::task::yield_now().await;
    };
    assert!(ids(&again).is_disjoint(&ids(&other)));
    let sent: Vec<_> = ids(&other).into_iter().map(|id| (id, Outcome::Sent)).collect();
    other.finish(&sent).await.unwrap();
}

#[tokio::test]
async fn a_row_waits_for_its_time() {
    let store = TestStore::create().await;
    assert_eq!(next_in(&store.pool).await.unwrap(), None);
    let id = Uuid::new_v4();
    put(&store.pool, &new_job(id), &row(Some(Utc::now() + TimeDelta::hours(1)))).await.unwrap();
    assert!(take_due(&store.pool, 5).await.unwrap().is_none());
    let waiting = backlog(&store.pool).await.unwrap();
    assert_eq!((waiting.due, waiting.oldest), (0, Duration::ZERO));
    let minutes = next_in(&store.pool).await.unwrap().unwrap().as_secs() / 60;
    assert!((58..=60).contains(&minutes), "{minutes}");

    sqlx::query(
        "UPDATE outbox SET due_at = due_at - interval '2 hours', next_try_at = next_try_at - interval '2 hours'",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    let due = backlog(&store.pool).await.unwrap();
    assert_eq!((due.due, next_in(&store.pool).await.unwrap()), (1, Some(Duration::ZERO)));
    assert!((58..=62).contains(&(due.oldest.as_secs() / 60)), "{due:?}");
    assert_eq!(ids(&take(&store.pool).await), BTreeSet::from([id]));
}

#[tokio::test]
async fn a_row_that_fails_waits_and_holds_up_no_other() {
    let store = TestStore::create().await;
    let (bad, good) = (put_now(&store.pool).await, put_now(&store.pool).await);
    let unnamed = put_now(&store.pool).await;
    let batch = take(&store.pool).await;
    batch.finish(&[(bad, failed(3600)), (good, Outcome::Sent)]).await.unwrap();
    assert_eq!(look(&store.pool, good).await, (1, None, true));
    assert_eq!(look(&store.pool, bad).await, (1, Some("refused\u{FFFD}".to_owned()), false));
    assert_eq!(ids(&take(&store.pool).await), BTreeSet::from([unnamed]), "what was not named is due as before");

    sqlx::query("UPDATE outbox SET next_try_at = now()").execute(&store.pool).await.unwrap();
    let batch = take(&store.pool).await;
    let again = batch.rows().iter().find(|row| row.job_id == bad).unwrap();
    assert_eq!(again.attempts, 1);
    batch.finish(&[(bad, Outcome::Sent)]).await.unwrap();
    assert_eq!(look(&store.pool, bad).await, (2, None, true));
}

#[tokio::test]
async fn a_row_that_is_set_aside_ends_its_job_and_is_not_taken_again() {
    let store = TestStore::create().await;
    let id = put_now(&store.pool).await;
    let reason = || "not a message".to_owned();
    take(&store.pool).await.finish(&[(id, Outcome::SetAside { reason: reason() })]).await.unwrap();
    assert!(take_due(&store.pool, 5).await.unwrap().is_none());
    assert_eq!(look(&store.pool, id).await, (1, Some(reason()), false));
    let dead = job(&store.pool, id).await;
    assert_eq!((dead.state, dead.due_at), (JobState::Dead, None));
    assert_eq!(dead.error, Some(json!({"kind": "rejected", "reason": "not a message"})));
    let due = backlog(&store.pool).await.unwrap().due;
    assert_eq!((due, next_in(&store.pool).await.unwrap()), (0, None));
    assert!(!cancel(&store.pool, id, "alice").await.unwrap());
}

#[tokio::test]
async fn a_row_is_taken_out_by_its_owner_while_it_is_not_on_its_way() {
    let store = TestStore::create().await;
    let id = put_now(&store.pool).await;
    assert!(!cancel(&store.pool, id, "bob").await.unwrap());
    let batch = take(&store.pool).await;
    assert!(!cancel(&store.pool, id, "alice").await.unwrap(), "somebody is sending it");
    batch.finish(&[(id, failed(0))]).await.unwrap();

    assert!(cancel(&store.pool, id, "alice").await.unwrap());
    assert!(take_due(&store.pool, 5).await.unwrap().is_none());
    assert_eq!(job(&store.pool, id).await.state, JobState::Cancelled);
    let timeline = events_after(&store.pool, id, 0).await.unwrap();
    assert_eq!(timeline.iter().map(|line| line.event_type).collect::<Vec<_>>(), [JobEventType::Cancelled]);
    assert!(!cancel(&store.pool, id, "alice").await.unwrap());

    let sent = put_now(&store.pool).await;
    take(&store.pool).await.finish(&[(sent, Outcome::Sent)]).await.unwrap();
    assert!(!cancel(&store.pool, sent, "alice").await.unwrap());
    assert_eq!(job(&store.pool, sent).await.state, JobState::Queued);
    let timeline = events_after(&store.pool, sent, 0).await.unwrap();
    assert_eq!(timeline.iter().map(|line| line.event_type).collect::<Vec<_>>(), [JobEventType::Queued]);

    // Sent by somebody who could not mark it, and at work already.
    let begun = put_now(&store.pool).await;
    apply(&store.pool, &event(begun, JobEventType::Started, 1)).await;
    assert!(!cancel(&store.pool, begun, "alice").await.unwrap());
}

#[tokio::test]
async fn dispatchers_are_told_of_what_is_due_soon() {
    let store = TestStore::create().await;
    let mut listener = PgListener::connect_with(&store.pool).await.unwrap();
    listener.listen(DUE_CHANNEL).await.unwrap();
    let mut told = async || {
        // Whatever was told before this arrives before it.
        sqlx::query("SELECT pg_notify($1, 'end')").bind(DUE_CHANNEL).execute(&store.pool).await.unwrap();
        let mut count = 0;
        while tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.unwrap().unwrap().payload() != "end"
        {
            count += 1;
        }
        count
    };
    put_now(&store.pool).await;
    assert_eq!(told().await, 1);
    put(&store.pool, &new_job(Uuid::new_v4()), &row(Some(Utc::now() + TimeDelta::seconds(30)))).await.unwrap();
    assert_eq!(told().await, 1);
    put(&store.pool, &new_job(Uuid::new_v4()), &row(Some(Utc::now() + TimeDelta::minutes(5)))).await.unwrap();
    assert_eq!(told().await, 0);
}
