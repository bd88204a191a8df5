//! What caused a job, and what that job caused.

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use super::{JobRow, JobState};
use crate::database::{DatabaseError, call};

/// The first so many of the jobs that a job caused are told of. None of ours causes more than one.
const MOST: i64 = 20;

/// A job's neighbours, as far as they are its owner's: nobody is told of the jobs of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The job that caused it.
    pub caused_by: Option<Uuid>,
    /// The jobs that it caused, the oldest first.
    pub caused: Vec<CausedJob>,
}

/// A job that another caused.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub struct CausedJob {
    /// Its id.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// Where it stands.
    #[sqlx(try_from = "String")]
    pub state: JobState,
    /// Whether it still waits in the outbox.
    pub waits: bool,
}

/// The neighbours of a job, 20 of those that it caused at most.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn chain_of(pool: &PgPool, job: &JobRow) -> Result<Chain, DatabaseError> {
    call(pool, "look for what a job caused", async |connection| {
        let cause = "SELECT id FROM jobs WHERE id = $1 AND owner = $2";
        let caused_by = match job.caused_by {
            Some(id) => sqlx::query_scalar(cause).bind(id).bind(&job.owner).fetch_optional(&mut *connection).await?,
            None => None,
        };
        let caused = sqlx::query_as(
            "SELECT id, kind, state, EXISTS (
                 SELECT FROM outbox WHERE job_id = id AND sent_at IS NULL AND set_aside_at IS NULL) AS waits
             FROM jobs WHERE caused_by = $1 AND owner = $2 ORDER BY created_at, id LIMIT $3",
        )
        .bind(job.id)
        .bind(&job.owner)
        .bind(MOST)
        .fetch_all(connection)
        .await?;
        Ok(Chain { caused_by, caused })
    })
    .await
}
