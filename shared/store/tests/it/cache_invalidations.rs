//! Entries that are to go: written with a change, taken by one, deleted one by one.

use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Connection, PgPool};
use store::cache_invalidations::{Batch, CHANNEL, backlog, put_in, take};
use tokio::time::timeout;

use crate::TestStore;

const ENTRY: &str = "product:1:a:b";

pub(crate) async fn put(pool: &PgPool, entry: &str) {
    let mut connection = pool.acquire().await.unwrap();
    put_in(&mut connection, entry).await.unwrap();
}

/// The entries of all rows, in their order.
pub(crate) async fn entries(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT entry FROM cache_invalidations ORDER BY id").fetch_all(pool).await.unwrap()
}

fn ids(batch: &Batch) -> Vec<i64> {
    batch.rows().iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn an_entry_is_named_if_the_change_is_committed_and_told_of_then() {
    let store = TestStore::create().await;
    let mut listener = PgListener::connect_with(&store.pool).await.unwrap();
    listener.listen(CHANNEL).await.unwrap();
    for (entry, commit) in [("product:1:lost", false), (ENTRY, true)] {
        let mut connection = store.pool.acquire().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        put_in(&mut transaction, entry).await.unwrap();
        assert!(take(&store.pool, 5).await.unwrap().is_none(), "nobody ends it before the change is there");
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
    }
    timeout(Duration::from_secs(30), listener.recv()).await.expect("somebody is woken").unwrap();
    assert_eq!(entries(&store.pool).await, [ENTRY]);
}

#[tokio::test]
async fn who_takes_rows_has_them_alone_and_what_it_does_not_finish_is_there_again() {
    let store = TestStore::create().await;
    for _ in 0..3 {
        put(&store.pool, ENTRY).await;
    }
    let one = take(&store.pool, 2).await.unwrap().unwrap();
    let other = take(&store.pool, 2).await.unwrap().unwrap();
    assert_eq!((ids(&one).len(), ids(&other).len()), (2, 1));
    assert!(take(&store.pool, 2).await.unwrap().is_none());
    assert_eq!(backlog(&store.pool).await.unwrap().waiting, 3, "taken is not gone");

    let expected = ids(&one);
    drop(one);
    // The connection is closed, and the server rolls back.
    let again = loop {
        if let Some(batch) = take(&store.pool, 5).await.unwrap() {
            break batch;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(ids(&again), expected);
    again.finish(&expected[..1]).await.unwrap();
    let left = take(&store.pool, 5).await.unwrap().unwrap();
    assert_eq!(ids(&left), expected[1..], "what is not named stays, for anybody");
}

#[tokio::test]
async fn a_row_that_is_written_after_others_were_taken_stays_though_it_names_the_same() {
    let store = TestStore::create().await;
    put(&store.pool, ENTRY).await;
    // Its number is drawn before the others are taken, and it is there only after.
    let mut connection = store.pool.acquire().await.unwrap();
    let mut late = connection.begin().await.unwrap();
    put_in(&mut late, ENTRY).await.unwrap();
    put(&store.pool, ENTRY).await;
    let batch = take(&store.pool, 5).await.unwrap().unwrap();
    assert_eq!(ids(&batch).len(), 2);
    late.commit().await.unwrap();
    put(&store.pool, ENTRY).await;
    let taken = ids(&batch);
    batch.finish(&taken).await.unwrap();
    assert_eq!(entries(&store.pool).await, [ENTRY, ENTRY]);
}

#[tokio::test]
async fn the_backlog_counts_what_waits_and_since_when() {
    let store = TestStore::create().await;
    let none = backlog(&store.pool).await.unwrap();
    assert_eq!((none.waiting, none.oldest), (0, Duration::ZERO));
    put(&store.pool, ENTRY).await;
    put(&store.pool, "product:1:c").await;
    let age = "UPDATE cache_invalidations SET created_at = now() - interval '1 hour' WHERE entry = 'product:1:c'";
    sqlx::query(age).execute(&store.pool).await.unwrap();
    let two = backlog(&store.pool).await.unwrap();
    assert_eq!((two.waiting, two.oldest.as_secs() / 60), (2, 60));
}
