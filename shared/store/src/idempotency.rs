//! What was asked for under an `Idempotency-Key`, so that the same key with another payload is noticed.

use sqlx::PgPool;
use uuid::Uuid;

use crate::database::{DatabaseError, call};

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has used it; from now on it stands for this payload.
    New,
    /// It was used for the same payload.
    Same,
    /// It was used for another payload.
    Other,
}

/// Claims the key that `job_id` derives from (caller, route, key), for a payload with this hash. A key counts as long as its job
/// is kept: the job's id is the key's, so it can never stand for another job meanwhile.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn claim(pool: &PgPool, job_id: Uuid, hash: &str) -> Result<Claim, DatabaseError> {
    call(pool, "claim the idempotency key", async |connection| {
        loop {
            let won = sqlx::query("INSERT INTO idempotency_keys (job_id, hash) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(job_id)
                .bind(hash)
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

/// Notes claims that were made elsewhere: id and hash of each. One that is there already stays as it is.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn note_claims(pool: &PgPool, claims: &[(Uuid, &str)]) -> Result<(), DatabaseError> {
    if claims.is_empty() {
        return Ok(());
    }
    call(pool, "note claims of idempotency keys", async |connection| {
        sqlx::query(
            "INSERT INTO idempotency_keys (job_id, hash)
             SELECT * FROM unnest($1::uuid[], $2::text[]) AS claim (job_id, hash) ORDER BY job_id
             ON CONFLICT DO NOTHING",
        )
        .bind(claims.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(claims.iter().map(|(_, hash)| *hash).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    })
    .await
}
