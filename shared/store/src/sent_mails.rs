//! Who may send a mail: one claim at a time, and none once it was sent.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::database::{DatabaseError, call};

/// The answer to "may I send the mail of this job?".
#[derive(Debug)]
pub enum Claim {
    /// Yes: nobody has tried, or who tried gave it back unsent.
    Send(SendLease),
    /// Yes, but an earlier sender ended without saying how; the mail may reach its reader twice.
    SendAgain(SendLease),
    /// No: it was sent.
    AlreadySent {
        /// When.
        at: DateTime<Utc>,
        /// Under which `Message-ID`.
        message_id: String,
    },
    /// No: somebody is sending it, and has until then.
    HeldUntil(DateTime<Utc>),
}

/// The right to send one mail, until the lease that was asked for is over.
#[derive(Debug)]
#[must_use = "a lease that is neither marked sent nor released blocks its mail until it expires"]
pub struct SendLease {
    job_id: Uuid,
    /// Tells this claim from an earlier or a later one.
    claim: i32,
}

/// What a sender knows of a mail that it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// The mail certainly did not go out.
    NotSent,
    /// The server may have taken it: the connection broke before its answer.
    MaybeSent,
}

/// Asks for the right to send the mail of `job_id`, for as long as `lease`. Times are the database's clock.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn claim(pool: &PgPool, job_id: Uuid, lease: Duration) -> Result<Claim, DatabaseError> {
    call(pool, "claim the mail", async |connection| {
        loop {
            if let Some((claim, maybe_sent)) = try_to_win(connection, job_id, lease).await? {
                let lease = SendLease { job_id, claim };
                return Ok(if maybe_sent { Claim::SendAgain(lease) } else { Claim::Send(lease) });
            }
            if let Some(refusal) = reason_of_refusal(connection, job_id).await? {
                return Ok(refusal);
            }
            // It was given back between the two questions.
        }
    })
    .await
}

/// Notes that the mail was sent. Also right when the lease is over by now: the mail is out.
///
/// # Errors
/// The database cannot be reached, or fails. Unless a later call succeeds, the next claim is [`Claim::SendAgain`].
pub async fn mark_sent(pool: &PgPool, lease: &SendLease, message_id: &str) -> Result<(), DatabaseError> {
    call(pool, "mark the mail as sent", async |connection| {
        sqlx::query(
            "UPDATE sent_mails SET sent_at = now(), message_id = $2, held_until = NULL
             WHERE job_id = $1 AND sent_at IS NULL",
        )
        .bind(lease.job_id)
        .bind(message_id)
        .execute(connection)
        .await
    })
    .await?;
    Ok(())
}

/// Gives the right back, so that the next claim need not wait for the lease to end. Does nothing when the lease is over
/// and somebody else has claimed the mail.
///
/// # Errors
/// The database cannot be reached, or fails. Unless a later call succeeds, the mail waits until the lease ends.
pub async fn release(pool: &PgPool, lease: &SendLease, given_back: GivenBack) -> Result<(), DatabaseError> {
    call(pool, "release the mail", async |connection| {
        sqlx::query(
            "UPDATE sent_mails SET held_until = NULL, maybe_sent = maybe_sent OR $3
             WHERE job_id = $1 AND claims = $2 AND sent_at IS NULL",
        )
        .bind(lease.job_id)
        .bind(lease.claim)
        .bind(given_back == GivenBack::MaybeSent)
        .execute(connection)
        .await
    })
    .await?;
    Ok(())
}

/// Takes the row if nobody holds it. A lease that ended by itself, rather than by `release`, leaves a doubt.
async fn try_to_win(
    connection: &mut PgConnection,
    job_id: Uuid,
    lease: Duration,
) -> Result<Option<(i32, bool)>, sqlx::Error> {
    sqlx::query_as(
        "INSERT INTO sent_mails AS mail (job_id, held_until) VALUES ($1, now() + make_interval(secs => $2))
         ON CONFLICT (job_id) DO UPDATE
            SET claims = mail.claims + 1,
                maybe_sent = mail.maybe_sent OR mail.held_until IS NOT NULL,
                held_until = excluded.held_until
            WHERE mail.sent_at IS NULL AND (mail.held_until IS NULL OR mail.held_until <= now())
         RETURNING claims, maybe_sent",
    )
    .bind(job_id)
    .bind(lease.as_secs_f64())
    .fetch_optional(connection)
    .await
}

async fn reason_of_refusal(connection: &mut PgConnection, job_id: Uuid) -> Result<Option<Claim>, sqlx::Error> {
    let mark: Option<Mark> = sqlx::query_as("SELECT sent_at, message_id, held_until FROM sent_mails WHERE job_id = $1")
        .bind(job_id)
        .fetch_optional(connection)
        .await?;
    Ok(match mark {
        Some(Mark { sent_at: Some(at), message_id: Some(message_id), .. }) => {
            Some(Claim::AlreadySent { at, message_id })
        }
        Some(Mark { sent_at: None, held_until: Some(until), .. }) => Some(Claim::HeldUntil(until)),
        _ => None,
    })
}

#[derive(FromRow)]
struct Mark {
    sent_at: Option<DateTime<Utc>>,
    message_id: Option<String>,
    held_until: Option<DateTime<Utc>>,
}
