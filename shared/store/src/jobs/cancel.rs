//! The mark by which the owner of a job asks for its end. Only the worker's event ends it.

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::JobState;
use crate::database::{DatabaseError, call};

/// What became of the wish to have a job stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelRequest {
    /// There is no such job, or it is somebody else's.
    NotFound,
    /// It has ended already, like this; or is about to, because what it was to bring about stands.
    Final(JobState),
    /// It is marked, now or since an earlier wish.
    Marked,
}

/// What a worker should know of a job before it runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobMark {
    /// Nothing speaks against it.
    Open,
    /// Its owner wants it stopped.
    CancelRequested,
    /// It has ended already, in this replay or a later one. A dead one that comes is meant to: somebody moved it back by hand.
    Final,
}

/// Marks that the owner wants the job stopped. The mark counts for the replay that the job is in.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn request_cancel(pool: &PgPool, id: Uuid, owner: &str) -> Result<CancelRequest, DatabaseError> {
    call(pool, "request the end of the job", async |connection| {
        let state: Option<String> = sqlx::query_scalar(
            "UPDATE jobs
             SET cancel_requested_at = CASE WHEN finished_at IS NOT NULL OR decided IS NOT NULL OR cancel_replays >= replays
                                            THEN cancel_requested_at ELSE now() END,
                 cancel_replays = CASE WHEN finished_at IS NOT NULL OR decided IS NOT NULL OR cancel_replays >= replays
                                       THEN cancel_replays ELSE replays END
             WHERE id = $1 AND owner = $2
             RETURNING coalesce(decided, state)",
        )
        .bind(id)
        .bind(owner)
        .fetch_optional(connection)
        .await?;
        let Some(state) = state else {
            return Ok(CancelRequest::NotFound);
        };
        let state = JobState::try_from(state).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(if state.is_final() { CancelRequest::Final(state) } else { CancelRequest::Marked })
    })
    .await
}

/// What is known of a job that comes up for its turn in this replay. A job of which nothing is known is open.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn mark_of(pool: &PgPool, id: Uuid, replays: u32) -> Result<JobMark, DatabaseError> {
    call(pool, "read the mark of the job", async |connection| mark_in(connection, id, replays).await).await
}

/// The same in the caller's transaction. Holds until that ends where the caller has locked the row of the job.
pub(crate) async fn mark_in(connection: &mut PgConnection, id: Uuid, replays: u32) -> Result<JobMark, sqlx::Error> {
    let marks: Option<(bool, bool)> = sqlx::query_as(
        "SELECT finished_at IS NOT NULL AND state <> 'dead' AND replays >= $2 OR replays > $2, coalesce(cancel_replays >= $2, false)
         FROM jobs WHERE id = $1",
    )
    .bind(id)
    .bind(i64::from(replays))
    .fetch_optional(connection)
    .await?;
    Ok(match marks {
        Some((true, _)) => JobMark::Final,
        Some((false, true)) => JobMark::CancelRequested,
        Some((false, false)) | None => JobMark::Open,
    })
}

/// Notes, with what a job was to bring about, how it will end: from then on nobody cancels it.
pub(crate) async fn decide_in(connection: &mut PgConnection, id: Uuid, end: JobState) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE jobs SET decided = $2 WHERE id = $1 AND decided IS NULL")
        .bind(id)
        .bind(end.as_str())
        .execute(connection)
        .await?;
    Ok(())
}
