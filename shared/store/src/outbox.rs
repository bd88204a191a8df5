//! Work and events on their way to the broker: written with the change that decides on them, taken by a dispatcher when due.
//! What a message means, and how it is published, is not known here.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::database::{DatabaseError, Held, call};
use crate::jobs::{JobEvent, JobEventType, NewJob, apply_in, record_queued_in};

/// The PostgreSQL channel (`LISTEN`) on which is told that something is due now or within a minute.
pub const DUE_CHANNEL: &str = "outbox_due";

/// A message that is to go out.
#[derive(Clone, Debug)]
pub struct NewOutboxRow {
    /// The message, readable by the dispatcher.
    pub message: Value,
    /// When it is to go out; `None` is at once, by the database's clock.
    pub due_at: Option<DateTime<Utc>>,
}

/// An event that is to go out at once.
#[derive(Clone, Debug)]
pub struct NewEventRow {
    /// The event's id: put again, it is the same.
    pub id: Uuid,
    /// Its type, `order.placed`.
    pub event_type: String,
    /// The event, readable by the dispatcher.
    pub message: Value,
}

/// What became of a row that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the outbox.
    Stored,
    /// The outbox has, or had, a row of this job; nothing changed.
    AlreadyThere,
}

/// Puts a job into the outbox and makes its row in state `queued`: both or neither. Wakes the dispatchers.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn put(pool: &PgPool, job: &NewJob, row: &NewOutboxRow) -> Result<Put, DatabaseError> {
    call(pool, "put the job into the outbox", async |connection| {
        let mut transaction = connection.begin().await?;
        let put = put_in(&mut transaction, job, row).await?;
        transaction.commit().await?;
        Ok(put)
    })
    .await
}

/// The same in the caller's transaction: the job is accepted if that commits.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn put_in(connection: &mut PgConnection, job: &NewJob, row: &NewOutboxRow) -> Result<Put, sqlx::Error> {
    // The notice is sent at the commit. A dispatcher looks within half a minute in any case.
    let put: Option<bool> = sqlx::query_scalar(
        "WITH put AS (
             INSERT INTO outbox (job_id, kind, message, due_at, next_try_at)
             VALUES ($1, $2, $3::json, coalesce($4, now()), coalesce($4, now()))
             ON CONFLICT (job_id) DO NOTHING
             RETURNING due_at
         )
         SELECT CASE WHEN due_at < now() + interval '1 minute' THEN pg_notify($5, '') END IS NULL FROM put",
    )
    .bind(job.id)
    .bind(&job.kind)
    .bind(row.message.to_string())
    .bind(row.due_at)
    .bind(DUE_CHANNEL)
    .fetch_optional(&mut *connection)
    .await?;
    if put.is_none() {
        return Ok(Put::AlreadyThere);
    }
    record_queued_in(connection, job).await?;
    Ok(Put::Stored)
}

/// Puts an event into the outbox in the caller's transaction: it goes out if that commits. One that the outbox has, or had, is not put
/// again. Wakes the dispatchers.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn put_event_in(connection: &mut PgConnection, event: &NewEventRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH put AS (
             INSERT INTO outbox (job_id, kind, message, due_at, next_try_at, carries)
             VALUES ($1, $2, $3::json, now(), now(), 'event')
             ON CONFLICT (job_id) DO NOTHING
             RETURNING 1
         )
         SELECT pg_notify($4, '') FROM put",
    )
    .bind(event.id)
    .bind(&event.event_type)
    .bind(event.message.to_string())
    .bind(DUE_CHANNEL)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes the unsent row of a job out again and writes `job.cancelled` into its timeline: both or neither. False when there is
/// no such row: it was sent, a dispatcher is sending it right now, the job has begun all the same, or it is not `owner`'s.
///
/// An earlier attempt at sending may have reached the broker unconfirmed; who then gets the message finds the job final.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn cancel(pool: &PgPool, job_id: Uuid, owner: &str) -> Result<bool, DatabaseError> {
    call(pool, "cancel the job in the outbox", async |connection| {
        let mut transaction = connection.begin().await?;
        // Locked, because a worker that has the message all the same may be about to decide. The row of the outbox is not waited
        // for: whoever holds that may want the row of the job.
        let waiting: Option<bool> = sqlx::query_scalar(
            "SELECT true FROM jobs WHERE id = $1 AND owner = $2 AND state = 'queued' AND decided IS NULL FOR NO KEY UPDATE",
        )
        .bind(job_id)
        .bind(owner)
        .fetch_optional(&mut *transaction)
        .await?;
        if waiting.is_none() {
            return Ok(false);
        }
        let kind: Option<String> = sqlx::query_scalar(
            "DELETE FROM outbox WHERE job_id = (
                 SELECT job_id FROM outbox WHERE job_id = $1 AND sent_at IS NULL AND set_aside_at IS NULL
                 FOR UPDATE SKIP LOCKED)
             RETURNING kind",
        )
        .bind(job_id)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(kind) = kind else {
            return Ok(false);
        };
        apply_in(&mut transaction, &[event(job_id, kind, JobEventType::Cancelled, json!({}))]).await?;
        transaction.commit().await?;
        Ok(true)
    })
    .await
}

/// Cancels in the caller's transaction, as [`cancel`] does, the jobs of these kinds that wait for `owner`. One that a dispatcher is
/// sending right now is marked as not wanted.
pub(crate) async fn cancel_all_in(
    connection: &mut PgConnection,
    owner: &str,
    kinds: &[&str],
) -> Result<(), sqlx::Error> {
    let waiting: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM jobs
         WHERE id IN (SELECT job_id FROM outbox WHERE kind = ANY($2) AND sent_at IS NULL AND set_aside_at IS NULL)
           AND owner = $1 AND state = 'queued' AND decided IS NULL
         ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(owner)
    .bind(kinds)
    .fetch_all(&mut *connection)
    .await?;
    let taken: Vec<(Uuid, String)> = sqlx::query_as(
        "DELETE FROM outbox WHERE job_id IN (
             SELECT job_id FROM outbox WHERE job_id = ANY($1) AND sent_at IS NULL AND set_aside_at IS NULL
             FOR UPDATE SKIP LOCKED)
         RETURNING job_id, kind",
    )
    .bind(&waiting)
    .fetch_all(&mut *connection)
    .await?;
    let being_sent: Vec<Uuid> =
        waiting.into_iter().filter(|id| taken.iter().all(|(cancelled, _)| cancelled != id)).collect();
    sqlx::query(
        "UPDATE jobs SET cancel_requested_at = now(), cancel_replays = replays
         WHERE id = ANY($1) AND cancel_requested_at IS NULL",
    )
    .bind(being_sent)
    .execute(&mut *connection)
    .await?;
    let cancelled = taken.into_iter().map(|(id, kind)| event(id, kind, JobEventType::Cancelled, json!({})));
    apply_in(connection, &cancelled.collect::<Vec<_>>()).await?;
    Ok(())
}

/// What a row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A job.
    Job,
    /// An event.
    Event,
}

impl TryFrom<String> for Carries {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "job" => Ok(Self::Job),
            "event" => Ok(Self::Event),
            _ => Err(format!("nothing that a row carries: {name}")),
        }
    }
}

/// A row whose time has come.
#[derive(Clone, Debug, FromRow)]
pub struct DueRow {
    /// The id of the job or the event, which is the message's.
    pub job_id: Uuid,
    /// The kind of the job, or the type of the event.
    pub kind: String,
    /// Which of the two.
    #[sqlx(try_from = "String")]
    pub carries: Carries,
    /// The message, as JSON.
    pub message: String,
    /// When it was to go out.
    pub due_at: DateTime<Utc>,
    /// How often it was tried before.
    #[sqlx(try_from = "i32")]
    pub attempts: u32,
}

/// What became of a row that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Sent,
    /// Not this time.
    Failed {
        /// What stood in the way.
        reason: String,
        /// When to try again, from now.
        retry_in: Duration,
    },
    /// It can never be sent: nobody takes it again, and its job is dead.
    SetAside {
        /// Why.
        reason: String,
    },
}

/// Rows that were taken: nobody else takes them until this is finished or dropped, which leaves them as they were.
#[derive(Debug)]
pub struct Batch {
    held: Held,
    rows: Vec<DueRow>,
}

/// Takes up to `limit` rows that are due and that nobody else holds, the longest due first; `None` when there are none.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn take_due(pool: &PgPool, limit: u32) -> Result<Option<Batch>, DatabaseError> {
    const ACTION: &str = "take the due rows of the outbox";
    let mut held = Held::acquire(pool, ACTION).await?;
    let rows: Vec<DueRow> = held
        .call(ACTION, async |connection| {
            sqlx::query("BEGIN").execute(&mut *connection).await?;
            let rows = sqlx::query_as(
                "SELECT job_id, kind, carries, message::text AS message, due_at, attempts FROM outbox
                 WHERE next_try_at <= now() AND sent_at IS NULL AND set_aside_at IS NULL
                 ORDER BY next_try_at LIMIT $1 FOR UPDATE SKIP LOCKED",
            )
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
    pub fn rows(&self) -> &[DueRow] {
        &self.rows
    }

    /// Writes down what became of each row, and `job.queued` into the timeline of each that was sent; a row that is not named
    /// stays as it was.
    ///
    /// # Errors
    /// The database cannot be reached, or fails; then every row is still due, also those that were sent.
    pub async fn finish(mut self, outcomes: &[(Uuid, Outcome)]) -> Result<(), DatabaseError> {
        self.held
            .call("mark the rows of the outbox", async |connection| {
                mark_sent(connection, outcomes).await?;
                mark_failed(connection, outcomes).await?;
                set_aside(connection, outcomes).await?;
                // In one go, which locks the jobs in the order in which everybody does.
                apply_in(connection, &told(&self.rows, outcomes)).await?;
                sqlx::query("COMMIT").execute(connection).await
            })
            .await?;
        self.held.give_back();
        Ok(())
    }
}

/// What the timelines are to say of the outcomes.
fn told(rows: &[DueRow], outcomes: &[(Uuid, Outcome)]) -> Vec<JobEvent> {
    let jobs = rows.iter().filter(|row| row.carries == Carries::Job);
    let kinds: HashMap<Uuid, &str> = jobs.map(|row| (row.job_id, row.kind.as_str())).collect();
    let told = outcomes.iter().filter_map(|(job_id, outcome)| {
        let (event_type, data) = match outcome {
            Outcome::Sent => (JobEventType::Queued, json!({})),
            Outcome::Failed { .. } => return None,
            Outcome::SetAside { reason } => {
                (JobEventType::Dead, json!({"failure": {"kind": "rejected", "reason": reason}}))
            }
        };
        Some(event(*job_id, (*kinds.get(job_id)?).to_owned(), event_type, data))
    });
    told.collect()
}

async fn mark_sent(connection: &mut PgConnection, outcomes: &[(Uuid, Outcome)]) -> Result<(), sqlx::Error> {
    let sent: Vec<Uuid> =
        outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Sent).map(|(job_id, _)| *job_id).collect();
    sqlx::query(
        "UPDATE outbox SET sent_at = clock_timestamp(), attempts = attempts + 1, last_error = NULL WHERE job_id = ANY($1)",
    )
    .bind(sent)
    .execute(connection)
    .await?;
    Ok(())
}

async fn mark_failed(connection: &mut PgConnection, outcomes: &[(Uuid, Outcome)]) -> Result<(), sqlx::Error> {
    let failed: Vec<(Uuid, &str, f64)> = outcomes
        .iter()
        .filter_map(|(job_id, outcome)| match outcome {
            Outcome::Failed { reason, retry_in } => Some((*job_id, reason.as_str(), retry_in.as_secs_f64())),
            _ => None,
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE outbox
         SET attempts = attempts + 1, last_error = failed.reason,
             next_try_at = clock_timestamp() + make_interval(secs => failed.retry_in)
         FROM unnest($1::uuid[], $2::text[], $3::float8[]) AS failed (job_id, reason, retry_in)
         WHERE outbox.job_id = failed.job_id",
    )
    .bind(failed.iter().map(|(job_id, ..)| *job_id).collect::<Vec<_>>())
    .bind(failed.iter().map(|(_, reason, _)| storable(reason)).collect::<Vec<_>>())
    .bind(failed.iter().map(|(.., retry_in)| *retry_in).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn set_aside(connection: &mut PgConnection, outcomes: &[(Uuid, Outcome)]) -> Result<(), sqlx::Error> {
    for (job_id, outcome) in outcomes {
        let Outcome::SetAside { reason } = outcome else { continue };
        sqlx::query(
            "UPDATE outbox SET set_aside_at = clock_timestamp(), attempts = attempts + 1, last_error = $2 WHERE job_id = $1",
        )
        .bind(job_id)
        .bind(storable(reason))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// What happened to a job on its way through the outbox. The event's id derives from the job's.
fn event(job_id: Uuid, kind: String, event_type: JobEventType, data: Value) -> JobEvent {
    JobEvent {
        event_id: Uuid::new_v5(&job_id, event_type.as_str().as_bytes()),
        job_id,
        job_kind: kind,
        owner: None,
        caused_by: None,
        event_type,
        run_id: None,
        replays: 0,
        attempt: 0,
        redeliveries: 0,
        sequence: 1,
        worker: None,
        at: Utc::now(),
        data,
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlog {
    /// Rows that are due and not sent, whoever holds them.
    pub due: u64,
    /// For how long the oldest of them has been due; zero where there is none.
    pub oldest: Duration,
}

/// Counts what is due.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn backlog(pool: &PgPool) -> Result<Backlog, DatabaseError> {
    let (due, oldest): (i64, Option<f64>) = call(pool, "count what is due in the outbox", async |connection| {
        sqlx::query_as(
            "SELECT count(*), extract(epoch FROM now() - min(due_at))::float8
             FROM outbox WHERE sent_at IS NULL AND set_aside_at IS NULL AND due_at <= now()",
        )
        .fetch_one(connection)
        .await
    })
    .await?;
    Ok(Backlog { due: due.unsigned_abs(), oldest: from_now(oldest.unwrap_or(0.0)) })
}

/// How long until the next row is to be tried, zero if one is already; `None` where none waits.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn next_in(pool: &PgPool) -> Result<Option<Duration>, DatabaseError> {
    let seconds: Option<f64> = call(pool, "look for the next row of the outbox", async |connection| {
        sqlx::query_scalar(
            "SELECT extract(epoch FROM min(next_try_at) - now())::float8
             FROM outbox WHERE sent_at IS NULL AND set_aside_at IS NULL",
        )
        .fetch_one(connection)
        .await
    })
    .await?;
    Ok(seconds.map(from_now))
}

/// What lies in the past is now.
pub(crate) fn from_now(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// PostgreSQL takes every character in a text but NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
