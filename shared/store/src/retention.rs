//! Deletes what is older than it is kept, in batches. What the batches need beside the database is the caller's affair.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::database::{DatabaseError, Held};

/// A number that nothing else in this database locks.
const SWEEP_LOCK: i64 = 0x706f_7374_726f_6f6d;

/// The right to sweep; nobody else has it until this is finished or dropped.
#[derive(Debug)]
pub struct Sweep {
    held: Held,
}

/// A job that ended long ago.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct OldJob {
    /// Its id.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
}

/// Begins a sweep; `None` while somebody else sweeps.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn begin(pool: &PgPool) -> Result<Option<Sweep>, DatabaseError> {
    const ACTION: &str = "begin the sweep";
    let mut held = Held::acquire(pool, ACTION).await?;
    let ours: bool = held
        .call(ACTION, async |connection| {
            sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(SWEEP_LOCK).fetch_one(connection).await
        })
        .await?;
    if ours {
        return Ok(Some(Sweep { held }));
    }
    held.give_back();
    Ok(None)
}

impl Sweep {
    /// Up to `limit` jobs that ended before that moment, the oldest first. Whatever else belongs to them goes first, then
    /// [`delete_jobs`](Self::delete_jobs): a crash in between leaves a job that the next sweep finds again. A job whose order or
    /// refusal stands is not among them: its key would make another job, and that be answered with the old order.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn old_jobs(&mut self, before: DateTime<Utc>, limit: u32) -> Result<Vec<OldJob>, DatabaseError> {
        self.held
            .call("look for old jobs", async |connection| {
                sqlx::query_as(
                    "SELECT id, kind FROM jobs WHERE finished_at < $1 AND decided IS NULL ORDER BY finished_at LIMIT $2",
                )
                .bind(before)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
            })
            .await
    }

    /// Deletes jobs with their timelines, unless they were replayed meanwhile; how many.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn delete_jobs(&mut self, ids: &[Uuid], before: DateTime<Utc>) -> Result<u64, DatabaseError> {
        self.held
            .call("delete old jobs", async |connection| {
                sqlx::query("DELETE FROM jobs WHERE id = ANY($1) AND finished_at < $2")
                    .bind(ids)
                    .bind(before)
                    .execute(connection)
                    .await
            })
            .await
            .map(|deleted| deleted.rows_affected())
    }

    /// Those of the ids under which no job is known, nor waits in the outbox. A job that the broker took while nothing could be
    /// written down is known once it begins at the latest.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn unknown_jobs(&mut self, ids: &[Uuid]) -> Result<Vec<Uuid>, DatabaseError> {
        self.held
            .call("look for unknown jobs", async |connection| {
                sqlx::query_scalar(
                    "SELECT asked.id FROM unnest($1::uuid[]) AS asked (id)
                     WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = asked.id)
                       AND NOT EXISTS (SELECT FROM outbox WHERE job_id = asked.id)",
                )
                .bind(ids)
                .fetch_all(connection)
                .await
            })
            .await
    }

    /// Those of the ids whose jobs ended before that moment, and not as dead: a dead one may be replayed.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn settled_jobs(&mut self, ids: &[Uuid], before: DateTime<Utc>) -> Result<Vec<Uuid>, DatabaseError> {
        self.held
            .call("look for settled jobs", async |connection| {
                sqlx::query_scalar("SELECT id FROM jobs WHERE id = ANY($1) AND finished_at < $2 AND state <> 'dead'")
                    .bind(ids)
                    .bind(before)
                    .fetch_all(connection)
                    .await
            })
            .await
    }

    /// Deletes up to `limit` rows of the outbox that were sent or set aside before that moment; how many.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn outbox(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64, DatabaseError> {
        self.delete(
            "delete old rows of the outbox",
            "DELETE FROM outbox WHERE job_id IN (
                 SELECT job_id FROM outbox
                 WHERE (sent_at IS NOT NULL OR set_aside_at IS NOT NULL) AND coalesce(sent_at, set_aside_at) < $1
                 LIMIT $2)",
            before,
            limit,
        )
        .await
    }

    /// Deletes up to `limit` firings that were written down before that moment; how many.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn firings(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64, DatabaseError> {
        self.delete(
            "delete old firings",
            "DELETE FROM schedule_firings WHERE (schedule_id, due_at) IN (
                 SELECT schedule_id, due_at FROM schedule_firings WHERE noted_at < $1 LIMIT $2)",
            before,
            limit,
        )
        .await
    }

    /// Deals with up to `limit` idempotency keys that were claimed before that moment: deletes those whose job is gone, and passes by
    /// those whose order or refusal stands, once and for all; how many.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn idempotency_keys(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64, DatabaseError> {
        let dealt_with: i64 = self
            .held
            .call("delete old idempotency keys", async |connection| {
                sqlx::query_scalar(
                    "WITH old AS (
                         SELECT job_id, jobs.id IS NOT NULL AS stays
                         FROM idempotency_keys AS key LEFT JOIN jobs ON jobs.id = job_id
                         WHERE claimed_at < $1 AND NOT key.stays AND (jobs.id IS NULL OR jobs.decided IS NOT NULL)
                         LIMIT $2),
                     passed AS (
                         UPDATE idempotency_keys SET stays = true WHERE job_id IN (SELECT job_id FROM old WHERE stays)
                         RETURNING job_id),
                     deleted AS (
                         DELETE FROM idempotency_keys WHERE job_id IN (SELECT job_id FROM old WHERE NOT stays)
                         RETURNING job_id)
                     SELECT (SELECT count(*) FROM passed) + (SELECT count(*) FROM deleted)",
                )
                .bind(before)
                .bind(i64::from(limit))
                .fetch_one(connection)
                .await
            })
            .await?;
        Ok(u64::try_from(dealt_with).unwrap_or_default())
    }

    /// Deletes up to `limit` marks of mails that were first claimed before that moment, unless somebody is sending; how many.
    /// The moment must lie before every message that could still be replayed, or a mail is sent twice.
    ///
    /// # Errors
    /// The database cannot be reached, or fails.
    pub async fn sent_mails(&mut self, before: DateTime<Utc>, limit: u32) -> Result<u64, DatabaseError> {
        self.delete(
            "delete old marks of mails",
            "DELETE FROM sent_mails WHERE job_id IN (
                 SELECT job_id FROM sent_mails
                 WHERE created_at < $1 AND (held_until IS NULL OR held_until < now()) LIMIT $2)",
            before,
            limit,
        )
        .await
    }

    /// Ends the sweep.
    ///
    /// # Errors
    /// The database cannot be reached, or fails; the server ends it then.
    pub async fn finish(mut self) -> Result<(), DatabaseError> {
        self.held
            .call("end the sweep", async |connection| {
                sqlx::query("SELECT pg_advisory_unlock($1)").bind(SWEEP_LOCK).execute(connection).await
            })
            .await?;
        self.held.give_back();
        Ok(())
    }

    async fn delete(
        &mut self,
        action: &'static str,
        statement: &'static str,
        before: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, DatabaseError> {
        let deleted = self
            .held
            .call(action, async |connection| {
                sqlx::query(statement).bind(before).bind(i64::from(limit)).execute(connection).await
            })
            .await?;
        Ok(deleted.rows_affected())
    }
}
