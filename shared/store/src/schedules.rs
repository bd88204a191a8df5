//! Work that comes again: when a schedule is due, what became of each due time, and that each fires once.
//! What a template means is its kind's affair.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::database::{DatabaseError, Held, call};
use crate::jobs::NewJob;
use crate::outbox::{DUE_CHANNEL, NewOutboxRow, from_now, put_in};

mod timing;

pub use timing::{InvalidTiming, Plan, Timing};

/// A due time that nobody noticed for longer is missed, not fired: a report of last week is no news a day later.
pub const GRACE: TimeDelta = TimeDelta::hours(24);
/// The most that are listed; nobody reads more.
const LISTED: i64 = 1000;

/// A schedule to be.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// Its id.
    pub id: Uuid,
    /// Whose it is, and whose its jobs will be.
    pub owner: String,
    /// The kind of its jobs.
    pub kind: String,
    /// What its owner calls it.
    pub name: String,
    /// When it is due.
    pub timing: Timing,
    /// What the jobs' payload is made of.
    pub template: Value,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Schedule {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub owner: String,
    /// The kind of its jobs.
    pub kind: String,
    /// What its owner calls it.
    pub name: String,
    /// When it is due, see [`Timing`].
    pub cron: String,
    /// In which time zone, by its IANA name.
    pub time_zone: String,
    /// What the jobs' payload is made of.
    pub template: Value,
    /// When it is due next; `None` when it has stopped: it cannot be read, or its owner may not ask for its jobs any more.
    pub next_due_at: Option<DateTime<Utc>>,
    /// The latest due time that came.
    pub last_due_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What became of a due time.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct Firing {
    /// The due time.
    pub due_at: DateTime<Utc>,
    /// `fired`, `missed` or `failed`.
    pub outcome: String,
    /// The job, if it fired.
    pub job_id: Option<Uuid>,
    /// The first of the due times that went by unused before this one, or with it when it was missed.
    pub missed_since: Option<DateTime<Utc>>,
    /// Why it failed.
    pub reason: Option<String>,
    /// When that was written down.
    pub noted_at: DateTime<Utc>,
}

/// The id of the job that a due time makes: the same whoever fires it, and however often.
#[must_use]
pub fn job_id(schedule_id: Uuid, due_at: DateTime<Utc>) -> Uuid {
    Uuid::new_v5(&schedule_id, due_at.to_rfc3339_opts(SecondsFormat::Secs, true).as_bytes())
}

/// Makes a schedule, due first at its next time from now.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn create(pool: &PgPool, schedule: &NewSchedule) -> Result<Schedule, DatabaseError> {
    call(pool, "make the schedule", async |connection| {
        sqlx::query_as(
            "WITH made AS (
                 INSERT INTO schedules (id, owner, kind, name, cron, time_zone, template, next_due_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7::json, $8)
                 RETURNING *
             )
             SELECT made.*, pg_notify($9, '') IS NULL FROM made",
        )
        .bind(schedule.id)
        .bind(&schedule.owner)
        .bind(&schedule.kind)
        .bind(&schedule.name)
        .bind(schedule.timing.cron())
        .bind(schedule.timing.time_zone())
        .bind(schedule.template.to_string())
        .bind(schedule.timing.first_after(Utc::now()))
        .bind(DUE_CHANNEL)
        .fetch_one(connection)
        .await
    })
    .await
}

/// The schedules of `owner`, the oldest first.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn list(pool: &PgPool, owner: &str) -> Result<Vec<Schedule>, DatabaseError> {
    call(pool, "list the schedules", async |connection| {
        sqlx::query_as("SELECT * FROM schedules WHERE owner = $1 ORDER BY created_at, id LIMIT $2")
            .bind(owner)
            .bind(LISTED)
            .fetch_all(connection)
            .await
    })
    .await
}

/// The schedule, if it is `owner`'s.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find(pool: &PgPool, id: Uuid, owner: &str) -> Result<Option<Schedule>, DatabaseError> {
    call(pool, "find the schedule", async |connection| {
        sqlx::query_as("SELECT * FROM schedules WHERE id = $1 AND owner = $2")
            .bind(id)
            .bind(owner)
            .fetch_optional(connection)
            .await
    })
    .await
}

/// Ends a schedule; false when it is not there, or not `owner`'s. Jobs that it has made stay.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn delete(pool: &PgPool, id: Uuid, owner: &str) -> Result<bool, DatabaseError> {
    let deleted = call(pool, "delete the schedule", async |connection| {
        sqlx::query("DELETE FROM schedules WHERE id = $1 AND owner = $2").bind(id).bind(owner).execute(connection).await
    })
    .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Stops the schedules of `owner` that make jobs of these kinds, in the caller's transaction.
pub(crate) async fn stop_in(connection: &mut PgConnection, owner: &str, kinds: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE schedules SET next_due_at = NULL WHERE owner = $1 AND kind = ANY($2) AND next_due_at IS NOT NULL",
    )
    .bind(owner)
    .bind(kinds)
    .execute(connection)
    .await?;
    Ok(())
}

/// What became of the latest due times of a schedule, the newest first.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn firings(pool: &PgPool, id: Uuid, limit: u32) -> Result<Vec<Firing>, DatabaseError> {
    call(pool, "read the firings of the schedule", async |connection| {
        sqlx::query_as("SELECT * FROM schedule_firings WHERE schedule_id = $1 ORDER BY due_at DESC LIMIT $2")
            .bind(id)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await
    })
    .await
}

/// How long until the next schedule is due, zero if one is already; `None` where none will be.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn next_in(pool: &PgPool) -> Result<Option<Duration>, DatabaseError> {
    let seconds: Option<f64> = call(pool, "look for the next schedule", async |connection| {
        sqlx::query_scalar("SELECT extract(epoch FROM min(next_due_at) - now())::float8 FROM schedules")
            .fetch_one(connection)
            .await
    })
    .await?;
    Ok(seconds.map(from_now))
}

/// A schedule whose time has come: nobody else takes it until this is recorded or dropped, which leaves it as it was.
#[derive(Debug)]
pub struct DueSchedule {
    held: Held,
    schedule: Schedule,
    first_due: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// What is to be written down of a due time.
#[derive(Clone, Debug)]
pub enum Turn {
    /// It makes a job, which goes out with the outbox. The job's id is [`job_id`].
    Fired(Box<(NewJob, NewOutboxRow)>),
    /// It was noticed too late.
    Missed,
    /// The schedule cannot be read, or its owner may not ask for its jobs.
    Failed {
        /// Why.
        reason: String,
    },
}

#[derive(FromRow)]
struct Taken {
    #[sqlx(flatten)]
    schedule: Schedule,
    first_due: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// Takes a schedule that is due and that nobody else holds; `None` when there is none.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn take_due(pool: &PgPool) -> Result<Option<DueSchedule>, DatabaseError> {
    const ACTION: &str = "take a due schedule";
    let mut held = Held::acquire(pool, ACTION).await?;
    let taken: Option<Taken> = held
        .call(ACTION, async |connection| {
            sqlx::query("BEGIN").execute(&mut *connection).await?;
            let taken = sqlx::query_as(
                "SELECT *, next_due_at AS first_due, now() AS now FROM schedules
                 WHERE next_due_at <= now() ORDER BY next_due_at LIMIT 1 FOR UPDATE SKIP LOCKED",
            )
            .fetch_optional(&mut *connection)
            .await?;
            if taken.is_none() {
                sqlx::query("COMMIT").execute(connection).await?;
            }
            Ok(taken)
        })
        .await?;
    match taken {
        Some(Taken { schedule, first_due, now }) => Ok(Some(DueSchedule { held, schedule, first_due, now })),
        None => {
            held.give_back();
            Ok(None)
        }
    }
}

impl DueSchedule {
    /// The schedule.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Its first due time that has not been dealt with.
    #[must_use]
    pub fn first_due(&self) -> DateTime<Utc> {
        self.first_due
    }

    /// The database's time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Writes down what becomes of the due time, with the job that it makes, and when the schedule is due next: all of it or
    /// nothing. A schedule without a next time stops.
    ///
    /// # Errors
    /// The database cannot be reached, or fails; then the schedule is as it was.
    pub async fn record(mut self, plan: &Plan, turn: &Turn) -> Result<(), DatabaseError> {
        let id = self.schedule.id;
        self.held
            .call("record the firing", async |connection| {
                write(connection, id, plan, turn).await?;
                sqlx::query("COMMIT").execute(connection).await
            })
            .await?;
        self.held.give_back();
        Ok(())
    }
}

async fn write(connection: &mut PgConnection, id: Uuid, plan: &Plan, turn: &Turn) -> Result<(), sqlx::Error> {
    let (outcome, job, reason) = match turn {
        Turn::Fired(job) => ("fired", Some(job), None),
        Turn::Missed => ("missed", None, None),
        Turn::Failed { reason } => ("failed", None, Some(reason)),
    };
    let noted = sqlx::query(
        "INSERT INTO schedule_firings (schedule_id, due_at, outcome, job_id, missed_since, reason)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (schedule_id, due_at) DO NOTHING",
    )
    .bind(id)
    .bind(plan.due_at)
    .bind(outcome)
    .bind(job.map(|job| job.0.id))
    .bind(plan.missed_since)
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    if let Some(job) = job
        && noted.rows_affected() == 1
    {
        put_in(connection, &job.0, &job.1).await?;
    }
    sqlx::query("UPDATE schedules SET last_due_at = $2, next_due_at = $3 WHERE id = $1")
        .bind(id)
        .bind(plan.due_at)
        .bind(plan.next_due_at)
        .execute(connection)
        .await?;
    Ok(())
}
