//! What became of each job: its state, its timeline, and how an event changes them.
//! Who publishes and who consumes the events is not known here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::database::{DatabaseError, call};

mod apply;
mod cancel;
mod chain;
mod state;
mod transition;

pub(crate) use apply::apply_in;
pub use apply::{apply_event, apply_events, apply_events_unannounced};
pub use cancel::{CancelRequest, JobMark, mark_of, request_cancel};
pub(crate) use cancel::{decide_in, mark_in};
pub use chain::{CausedJob, Chain, chain_of};
pub use state::{Effect, JobEventType, JobState, UnknownName};

/// The PostgreSQL channel (`LISTEN`) on which the id of every job whose timeline grew is announced, as text.
pub const CHANGED_CHANNEL: &str = "job_changed";

/// A job that was just accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id, which is also the message id.
    pub id: Uuid,
    /// Its kind, `report.render`.
    pub kind: String,
    /// Who may see it.
    pub owner: String,
    /// The job that caused it, if one did.
    pub caused_by: Option<Uuid>,
    /// When it was accepted.
    pub at: DateTime<Utc>,
}

/// Something that happened to a job.
#[derive(Clone, Debug)]
pub struct JobEvent {
    /// The event's own id: the same on every delivery of it.
    pub event_id: Uuid,
    /// The job's id.
    pub job_id: Uuid,
    /// The job's kind.
    pub job_kind: String,
    /// Who may see the job, where the publisher of the event knew.
    pub owner: Option<String>,
    /// The job that caused the job, where the publisher of the event knew.
    pub caused_by: Option<Uuid>,
    /// What happened.
    pub event_type: JobEventType,
    /// The run in which it happened.
    pub run_id: Option<Uuid>,
    /// How often an operator had replayed the job. Leads the order of events.
    pub replays: u32,
    /// Which attempt it was. Second in the order.
    pub attempt: u32,
    /// How often the broker had delivered this attempt again. Third in the order.
    pub redeliveries: u32,
    /// The place among the events of the run. Last in the order.
    pub sequence: u32,
    /// Which worker said it.
    pub worker: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// What belongs to the type: `{"progress": …}`, `{"result": …}`, `{"failure": …, …}`, `{"refusal": …}` or `{}`.
    pub data: Value,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in the timeline, under a number of its own.
    New {
        /// The number: one more than the newest of the job before.
        number: i64,
        /// What it did to the job.
        effect: Effect,
    },
    /// It is in the timeline since an earlier delivery; nothing changed.
    Repeated,
    /// It was a progress report that something newer had overtaken; it is not kept.
    Outdated,
}

/// A job as its owner sees it.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, Deserialize)]
pub struct JobRow {
    /// Its id.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// Who may see it.
    pub owner: Option<String>,
    /// The job that caused it, whosever that is.
    pub caused_by: Option<Uuid>,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub state: JobState,
    /// The attempt that the state speaks of.
    #[sqlx(try_from = "i64")]
    pub attempt: u32,
    /// How often it was replayed.
    #[sqlx(try_from = "i64")]
    pub replays: u32,
    /// How often the broker had delivered that attempt again.
    #[sqlx(try_from = "i64")]
    pub redeliveries: u32,
    /// What the worker last reported, while it runs.
    pub progress: Option<Value>,
    /// What it produced, once succeeded.
    pub result: Option<Value>,
    /// Why it is retrying, refused or dead.
    pub error: Option<Value>,
    /// When it was accepted, or first heard of.
    pub created_at: DateTime<Utc>,
    /// When what decided the state happened.
    pub updated_at: DateTime<Utc>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// The number of its newest event, 0 before the first; grows whenever an event is kept.
    pub last_number: i64,
    /// When its owner asked for it to be stopped, if that is still to be answered or was heeded.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// When it is to go to the broker, while it waits for that in the outbox.
    pub due_at: Option<DateTime<Utc>>,
}

impl From<&NewJob> for JobRow {
    /// A job of which nothing is known but that it was accepted.
    fn from(new: &NewJob) -> Self {
        Self {
            id: new.id,
            kind: new.kind.clone(),
            owner: Some(new.owner.clone()),
            caused_by: new.caused_by,
            state: JobState::Queued,
            attempt: 0,
            replays: 0,
            redeliveries: 0,
            progress: None,
            result: None,
            error: None,
            created_at: new.at,
            updated_at: new.at,
            finished_at: None,
            last_number: 0,
            cancel_requested_at: None,
            due_at: None,
        }
    }
}

/// A line of a job's timeline.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize, Deserialize)]
pub struct JobEventRow {
    /// Grows by one with every event of the job; a progress report takes the place of the one before, so there are gaps.
    pub number: i64,
    /// The event's own id.
    pub event_id: Uuid,
    /// What happened.
    #[sqlx(try_from = "String")]
    pub event_type: JobEventType,
    /// What it did to the job.
    #[sqlx(try_from = "String")]
    pub effect: Effect,
    /// The run in which it happened.
    pub run_id: Option<Uuid>,
    /// See [`JobEvent`].
    #[sqlx(try_from = "i64")]
    pub replays: u32,
    /// See [`JobEvent`].
    #[sqlx(try_from = "i64")]
    pub attempt: u32,
    /// See [`JobEvent`].
    #[sqlx(try_from = "i64")]
    pub redeliveries: u32,
    /// See [`JobEvent`].
    #[sqlx(try_from = "i64")]
    pub sequence: u32,
    /// Which worker said it.
    pub worker: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// See [`JobEvent`].
    pub data: Value,
}

/// What a job has become.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedJob {
    /// The job.
    pub job: JobRow,
    /// Its `last_number` before; 0 also for one that had no row.
    pub before: i64,
    /// The lines that its timeline has gained since. A report of progress takes the place of the one before.
    pub lines: Vec<JobEventRow>,
}

/// Makes the row of a job that was accepted, in state `queued`. Events may have come before; they stay the newer.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn record_queued(pool: &PgPool, job: &NewJob) -> Result<(), DatabaseError> {
    call(pool, "record the accepted job", async |connection| record_queued_in(connection, job).await).await
}

/// Makes the row of a job in the caller's transaction, in state `queued`. Events may have come before; they stay the newer. Either way
/// nobody else changes the row until the transaction ends.
pub(crate) async fn record_queued_in(connection: &mut PgConnection, job: &NewJob) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO jobs (id, kind, owner, state, replays, attempt, redeliveries, sequence, created_at, updated_at, caused_by)
         VALUES ($1, $2, $3, 'queued', 0, 0, 0, -1, $4, $4, $5)
         ON CONFLICT (id) DO UPDATE
            SET owner = coalesce(jobs.owner, excluded.owner), created_at = least(jobs.created_at, excluded.created_at),
                caused_by = coalesce(jobs.caused_by, excluded.caused_by)
            WHERE jobs.owner IS NULL OR excluded.created_at < jobs.created_at
               OR (jobs.caused_by IS NULL AND excluded.caused_by IS NOT NULL)",
    )
    .bind(job.id)
    .bind(&job.kind)
    .bind(&job.owner)
    .bind(job.at)
    .bind(job.caused_by)
    .execute(connection)
    .await?;
    Ok(())
}

/// The job, if it is `owner`'s.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find_job(pool: &PgPool, id: Uuid, owner: &str) -> Result<Option<JobRow>, DatabaseError> {
    find_job_for(pool, id, Some(owner)).await
}

/// The job, if it is `owner`'s, or whosever it is without any.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find_job_for(pool: &PgPool, id: Uuid, owner: Option<&str>) -> Result<Option<JobRow>, DatabaseError> {
    call(pool, "find the job", async |connection| {
        sqlx::query_as(
            "SELECT id, kind, owner, caused_by, state, attempt, replays, redeliveries, progress, result, error,
                    created_at, updated_at, finished_at, last_number,
                    CASE WHEN cancel_replays >= replays THEN cancel_requested_at END AS cancel_requested_at,
                    (SELECT due_at FROM outbox WHERE job_id = id AND sent_at IS NULL AND set_aside_at IS NULL) AS due_at
             FROM jobs WHERE id = $1 AND ($2::text IS NULL OR owner = $2)",
        )
        .bind(id)
        .bind(owner)
        .fetch_optional(connection)
        .await
    })
    .await
}

/// The events of the job with a number above `number`, in the order of their numbers.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn events_after(pool: &PgPool, job_id: Uuid, number: i64) -> Result<Vec<JobEventRow>, DatabaseError> {
    call(pool, "read the events of the job", async |connection| {
        sqlx::query_as(
            "SELECT number, event_id, event_type, effect, run_id, replays, attempt, redeliveries, sequence, worker, at, data
             FROM job_events WHERE job_id = $1 AND number > $2 ORDER BY number",
        )
        .bind(job_id)
        .bind(number)
        .fetch_all(connection)
        .await
    })
    .await
}
