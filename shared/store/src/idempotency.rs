//! What was asked for under an `Idempotency-Key`, so that the same key with another payload is noticed.

use chrono::TimeDelta;
use sqlx::PgPool;
use uuid::Uuid;

use crate::database::{DatabaseError, call};

/// How long a key counts.
pub const KEPT: TimeDelta = TimeDelta::hours(24);

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody used it within the last 24 hours; from now on it stands for this payload.
    New,
    /// It was used for the same payload.
    Same,
    /// It was used for another payload.
    Other,
}

/// Claims the key that `job_id` derives from (caller, route, key), for a payload with this hash.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn claim(pool: &PgPool, job_id: Uuid, hash: &str) -> Result<Claim, DatabaseError> {
    call(pool, "claim the idempotency key", async |connection| {
        loop {
            let won = sqlx::query(
                "INSERT INTO idempotency_keys AS known (job_id, hash) VALUES ($1, $2)
                 ON CONFLICT (job_id) DO UPDATE SET hash = excluded.hash, claimed_at = now()
                    WHERE known.claimed_at <= now() - make_interval(secs => $3)",
            )
            .bind(job_id)
            .bind(hash)
            .bind(KEPT.as_seconds_f64())
            .execute(&mut *connection)
            .await?;
            if won.rows_affected() == 1 {
                return Ok(Claim::New);
            }
            let known: Option<String> = sqlx::query_scalar("SELECT hash FROM idempotency_keys WHERE job_id = $1")
                .bind(job_id)
                .fetch_optional(&mut *connection)
                .await?;
            match known {
                Some(known) if known == hash => return Ok(Claim::Same),
                Some(_) => return Ok(Claim::Other),
                // It was swept between the two questions.
                None => {}
            }
        }
    })
    .await
}
