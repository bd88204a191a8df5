//! Names of cache entries that a change has made worthless: written with the change, taken by a dispatcher, deleted once the entry
//! is gone. What a name means is not known here.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, PgPool};

use crate::database::{DatabaseError, Held, call};
use crate::outbox::from_now;

/// The PostgreSQL channel (`LISTEN`) on which is told that there is a row.
pub const CHANNEL: &str = "cache_invalidations";

/// An entry that readers cache and writers end: named once, by what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The family of the entry.
    pub family: &'static str,
    /// Goes up by one when what is cached changes so much that a release cannot read that of the release before.
    pub version: u32,
    /// Which of the family.
    pub key: &'static str,
}

impl Cached {
    /// The name of the entry.
    #[must_use]
    pub fn entry(&self) -> String {
        let Self { family, version, key } = self;
        format!("{family}:{version}:{key}")
    }
}

/// Names an entry in the caller's transaction: once that commits, somebody ends the entry. Wakes the dispatchers.
///
/// # Errors
/// The database cannot be reached, or fails; or it is no name of an entry.
pub async fn put_in(connection: &mut PgConnection, entry: &str) -> Result<(), sqlx::Error> {
    // The notice is sent at the commit.
    sqlx::query("WITH put AS (INSERT INTO cache_invalidations (entry) VALUES ($1)) SELECT pg_notify($2, '')")
        .bind(entry)
        .bind(CHANNEL)
        .execute(connection)
        .await?;
    Ok(())
}

/// The same in a transaction of its own.
///
/// # Errors
/// As [`put_in`].
pub async fn put(pool: &PgPool, entry: &str) -> Result<(), DatabaseError> {
    call(pool, "name a cache entry that is to go", async |connection| put_in(connection, entry).await).await
}

/// An entry that is to go.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Row {
    /// The row's own number.
    pub id: i64,
    /// The name of the entry.
    pub entry: String,
}

/// Rows that were taken: nobody else takes them until this is finished or dropped, which leaves them as they were.
#[derive(Debug)]
pub struct Batch {
    held: Held,
    rows: Vec<Row>,
}

/// Takes up to `limit` rows that nobody else holds, the oldest first; `None` when there are none.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn take(pool: &PgPool, limit: u32) -> Result<Option<Batch>, DatabaseError> {
    const ACTION: &str = "take the cache entries that are to go";
    let mut held = Held::acquire(pool, ACTION).await?;
    let rows: Vec<Row> = held
        .call(ACTION, async |connection| {
            sqlx::query("BEGIN").execute(&mut *connection).await?;
            let rows =
                sqlx::query_as("SELECT id, entry FROM cache_invalidations ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED")
                    .bind(i64::from(limit))
                    .fetch_all(&mut *connection)
                    .await?;
            if rows.is_empty() {
                sqlx::query("COMMIT").execute(connection).await?;
            }
            Ok(rows)
        })
        .await?;
    if rows.is_empty() {
        held.give_back();
        return Ok(None);
    }
    Ok(Some(Batch { held, rows }))
}

impl Batch {
    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Deletes these rows, whose entries are gone, and lets go of the others. Rows that were written since they were taken stay,
    /// whatever entry they name.
    ///
    /// # Errors
    /// The database cannot be reached, or fails; then every row is still there.
    pub async fn finish(mut self, done: &[i64]) -> Result<(), DatabaseError> {
        self.held
            .call("delete the cache entries that are gone", async |connection| {
                sqlx::query("DELETE FROM cache_invalidations WHERE id = ANY($1)")
                    .bind(done)
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("COMMIT").execute(connection).await
            })
            .await?;
        self.held.give_back();
        Ok(())
    }
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlog {
    /// Rows, whoever holds them.
    pub waiting: u64,
    /// For how long the oldest of them has waited; zero where there is none.
    pub oldest: Duration,
}

/// Counts what waits.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn backlog(pool: &PgPool) -> Result<Backlog, DatabaseError> {
    let (waiting, oldest): (i64, Option<f64>) =
        call(pool, "count the cache entries that are to go", async |connection| {
            sqlx::query_as(
                "SELECT count(*), extract(epoch FROM now() - min(created_at))::float8 FROM cache_invalidations",
            )
            .fetch_one(connection)
            .await
        })
        .await?;
    Ok(Backlog { waiting: waiting.unsigned_abs(), oldest: from_now(oldest.unwrap_or(0.0)) })
}
