//! How a job is accepted: the broker is asked first, the outbox second. Which outcome gets which answer stands here alone.

use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use pipeline::events::JobReference;
use pipeline::jobs::Job;
use pipeline::{Event, EventBody, OutgoingJob, PublishError, TraceContext};
use serde::Serialize;
use store::DatabaseError;
use store::idempotency::Claim;
use store::jobs::NewJob;
use store::outbox::NewOutboxRow;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::claims;
use crate::idempotency_key::{IdempotencyKey, payload_hash};
use crate::problem::Problem;
use crate::routes::jobs::{JobView, find_now};
use crate::unwritten;

/// How often one looks for the job that another request with the same key is making right now.
const LOOK: Duration = Duration::from_millis(50);

/// A job that will be done, as its owner sees it now.
pub(crate) struct Accepted {
    job: JobView,
    /// Whether it had been accepted before.
    is_repeat: bool,
    /// When it is worth asking again.
    retry_after: u64,
}

/// What the broker made of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// It has it, on disk.
    Taken,
    /// It was not sent there.
    NotSent,
    /// It was sent, and whether it arrived is not known.
    Unanswered,
}

/// The job that a request asks for: the same as often as its caller repeats it under its key. `asked` is what makes another request of
/// it; the payload is made with the moment at which the job is accepted.
pub(crate) fn asked_for<J: Job>(
    caller: &Caller,
    trace: TraceContext,
    (route, key): (&str, Option<IdempotencyKey>),
    asked: &impl Serialize,
    payload: impl FnOnce(DateTime<Utc>) -> J,
) -> Result<OutgoingJob<J>, Problem> {
    let id = match &key {
        Some(key) => key.job_id(caller.id(), route),
        // Version 7: new rows lie side by side in the index. It tells the moment, which whoever may see the job sees anyway.
        None => Uuid::now_v7(),
    };
    let hash = key.map(|_| payload_hash(asked)).transpose().map_err(|error| Problem::Internal(error.into()))?;
    // The wire carries microseconds at most; what is shown now and what is read back later are to be the same.
    let accepted_at = Utc::now().trunc_subsecs(6);
    Ok(OutgoingJob {
        owner: Some(caller.id().to_owned()),
        accepted_at,
        payload_hash: hash,
        trace: Some(trace),
        ..OutgoingJob::new(id, payload(accepted_at))
    })
}

/// Accepts the job of an owner, to be done at once or when it is due. One with a `payload_hash` was asked for under a key from
/// which its id derives: asked for again, it is the same job.
///
/// | the broker | the answer |
/// | --- | --- |
/// | has it, on disk | accepted |
/// | has no queue for it, or no room | 503 |
/// | cannot be reached, is blocked, does not answer in time; or was not asked, after three of these | the outbox, then accepted |
/// | and the outbox fails | 503, `outcome-unknown` where either may have it |
///
/// What went to both is one job all the same: effects are idempotent by its id.
pub(crate) async fn accept<J: Job>(
    app: &App,
    job: OutgoingJob<J>,
    due_at: Option<DateTime<Utc>>,
) -> Result<Accepted, Problem> {
    let new = new_job(&job)?;
    if due_at.is_none() && app.fullness.is_nearly_full(J::KIND, job.lane) {
        // What is refused claims no key: claims need room too.
        return accepted_before(app, &job).await?.ok_or(Problem::QueueNearlyFull);
    }
    let mut claimed = None;
    if let Some(hash) = &job.payload_hash {
        claimed = claim(app, &new, hash).await;
        if let Some(accepted) = answer_repeat(app, &new, hash, claimed).await? {
            return Ok(accepted);
        }
    }
    if due_at.is_some() {
        keep(app, job, &new, due_at, Offer::NotSent).await?;
        return Ok(Accepted::now(&new, due_at, "outbox"));
    }
    if claimed == Some(Claim::Same)
        && let Some(accepted) = wait_for_twin(app, &new).await
    {
        return Ok(accepted);
    }
    match offer(app, &job).await? {
        Offer::Taken => {
            tell_queued(app, &new, job.trace, job.payload_hash).await;
            Ok(Accepted::now(&new, None, "broker"))
        }
        unknown => {
            keep(app, job, &new, None, unknown).await?;
            Ok(Accepted::now(&new, None, "outbox"))
        }
    }
}

/// The answer to a request that has been accepted under its key before, if it has: for one that could not be accepted now.
pub(crate) async fn accepted_before<J: Job>(app: &App, job: &OutgoingJob<J>) -> Result<Option<Accepted>, Problem> {
    let new = new_job(job)?;
    match &job.payload_hash {
        Some(hash) if known(app, &new).await.is_some() => {
            let claim = claim(app, &new, hash).await;
            answer_repeat(app, &new, hash, claim).await
        }
        _ => Ok(None),
    }
}

fn new_job<J: Job>(job: &OutgoingJob<J>) -> Result<NewJob, Problem> {
    let owner = job.owner.clone().context("accept a job: it has no owner").map_err(Problem::Internal)?;
    Ok(NewJob { id: job.id, kind: J::KIND.to_owned(), owner, caused_by: job.correlation_id, at: job.accepted_at })
}

/// Claims the key that the job's id stands for: in the database where Redis does not answer or has no room. `None` where that does
/// not answer either: work is taken without them, unchecked.
async fn claim(app: &App, new: &NewJob, hash: &str) -> Option<Claim> {
    match claims::claim(&app.redis, new.id, hash).await {
        Ok(Some(claim)) => Some(claim),
        Ok(None) | Err(_) => claim_in_database(app, new, hash).await,
    }
}

async fn claim_in_database(app: &App, new: &NewJob, hash: &str) -> Option<Claim> {
    let claim = in_time(app.patience(), store::idempotency::claim(&app.pool, new.id, hash)).await;
    claim.map_err(|error| tracing::warn!(job.id = %new.id, error = format!("{error:#}"), "claim a key")).ok()
}

/// The answer to a repeat, where what was asked for is known.
async fn answer_repeat(app: &App, new: &NewJob, hash: &str, claim: Option<Claim>) -> Result<Option<Accepted>, Problem> {
    match claim {
        None => Ok(None),
        Some(Claim::Other) => Err(Problem::KeyReused),
        Some(Claim::Same) => Ok(known(app, new).await),
        // Redis keeps a claim for a while, the database as long as the job; or the first request went unchecked.
        // Of a key that is new one only asks who answers.
        Some(Claim::New) if !app.changes.is_live() => Ok(None),
        Some(Claim::New) => match known(app, new).await {
            Some(_) if claim_in_database(app, new, hash).await == Some(Claim::Other) => {
                if let Err(error) = claims::take_back(&app.redis, new.id, hash).await {
                    tracing::warn!(job.id = %new.id, error = format!("{:#}", anyhow::Error::new(error)), "take a claim back");
                }
                Err(Problem::KeyReused)
            }
            accepted => Ok(accepted),
        },
    }
}

/// The job, if anything is known of it.
async fn known(app: &App, new: &NewJob) -> Option<Accepted> {
    match find_now(app, new.id, &new.owner).await {
        Ok(found) => found.map(|job| Accepted::before(job.into())),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(job.id = %new.id, error, "look for a job that may have been accepted");
            None
        }
    }
}

/// Another request with this key may be at the broker right now. Waits for its job as long as that may take; where none comes,
/// that request has failed.
async fn wait_for_twin(app: &App, new: &NewJob) -> Option<Accepted> {
    let end = Instant::now() + app.limits.publish + app.limits.record_unheard;
    loop {
        let accepted = known(app, new).await;
        if accepted.is_some() || Instant::now() >= end || app.drain.is_cancelled() {
            return accepted;
        }
        sleep(LOOK).await;
    }
}

/// Offers the job to the broker, unless that has not answered for a while.
async fn offer<J: Job>(app: &App, job: &OutgoingJob<J>) -> Result<Offer, Problem> {
    if app.breaker.is_open() {
        return Ok(Offer::NotSent);
    }
    let Err(error) = app.publisher.publish_job(job).await else {
        app.breaker.answered();
        return Ok(Offer::Taken);
    };
    match error {
        PublishError::NotConnected | PublishError::Blocked | PublishError::WindowFull => {
            app.breaker.failed();
            Ok(Offer::NotSent)
        }
        PublishError::Unconfirmed => {
            app.breaker.failed();
            Ok(Offer::Unanswered)
        }
        PublishError::Returned { .. } => {
            app.breaker.answered();
            Err(Problem::NoQueue(error))
        }
        PublishError::Nacked { .. } => {
            app.breaker.answered();
            Err(Problem::QueueFull(error))
        }
        PublishError::Encode(_) => Err(Problem::Internal(error.into())),
    }
}

/// Puts the job into the outbox, with its row. `offer` is what the broker made of it before.
async fn keep<J: Job>(
    app: &App,
    job: OutgoingJob<J>,
    new: &NewJob,
    due_at: Option<DateTime<Utc>>,
    offer: Offer,
) -> Result<(), Problem> {
    let hash = job.payload_hash.clone();
    let message = job.sealed().and_then(serde_json::to_value).map_err(|error| Problem::Internal(error.into()))?;
    let row = NewOutboxRow { message, due_at };
    let failed = |cause: anyhow::Error, perhaps: bool| match offer {
        _ if perhaps => Problem::OutcomeUnknown { job: new.id, cause },
        Offer::Unanswered => Problem::OutcomeUnknown { job: new.id, cause },
        _ if due_at.is_some() => Problem::OutboxUnavailable(cause),
        _ => Problem::BrokerUnavailable(cause),
    };
    // First a sign of life: what was never sent to the database is told from what it did not answer.
    in_time(app.patience(), store::database::ping(&app.pool)).await.map_err(|cause| failed(cause, false))?;
    match timeout(app.limits.record, store::outbox::put(&app.pool, new, &row)).await {
        Ok(Ok(_)) => {
            if let Some(hash) = hash {
                claim_in_database(app, new, &hash).await;
            }
            Ok(())
        }
        Ok(Err(error)) => {
            let perhaps = !is_refused(&error);
            Err(failed(error.into(), perhaps))
        }
        Err(late) => Err(failed(late.into(), true)),
    }
}

/// Whether the database said no, so that it has kept nothing.
fn is_refused(error: &DatabaseError) -> bool {
    matches!(error, DatabaseError::Failed { source: sqlx::Error::Database(_) | sqlx::Error::PoolTimedOut, .. })
}

async fn in_time<T, E: Into<anyhow::Error>>(
    patience: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    timeout(patience, call).await.context("no answer from the database in time")?.map_err(Into::into)
}

/// Has the job be known, and tells of it. The broker has it already. Where a Redis knows it, its row comes behind the answer.
async fn tell_queued(app: &App, job: &NewJob, trace: Option<TraceContext>, payload_hash: Option<String>) {
    let NewJob { id, kind, owner, caused_by, .. } = job.clone();
    let reference = JobReference { id, kind, owner: Some(owner), caused_by };
    let event = Event { at: job.at, trace, ..Event::new(reference, None, EventBody::Queued {}) };
    let noted = async { !app.changes.is_live() && unwritten::note(&app.redis, job).await.unwrap_or(false) };
    let (known, hinted, noted) = tokio::join!(app.status.accept(job), app.publisher.hint_event(&event), noted);
    if let Err(error) = hinted {
        tracing::warn!(job.id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "tell of a queued job");
    }
    let recorded = app.recorder.take(Event { payload_hash, ..event }).await;
    if known.is_err() && !noted && timeout(app.patience(), recorded).await.is_err() {
        tracing::warn!(job.id = %job.id, "an accepted job is not known yet");
    }
}

impl Accepted {
    fn now(job: &NewJob, due_at: Option<DateTime<Utc>>, way: &'static str) -> Self {
        tracing::info!(job.id = %job.id, job.kind = job.kind, way, "accepted");
        metrics::counter!("jobs_accepted_total", "kind" => job.kind.clone(), "way" => way).increment(1);
        let until = due_at.map_or(TimeDelta::zero(), |due_at| due_at - Utc::now());
        let retry_after = u64::try_from(until.num_seconds()).unwrap_or(0).max(1);
        Self { job: JobView::queued(job, due_at), is_repeat: false, retry_after }
    }

    fn before(job: JobView) -> Self {
        Self { job, is_repeat: true, retry_after: 1 }
    }

    /// Whether this request was only another one for a job that had been accepted before.
    pub(crate) fn is_repeat(&self) -> bool {
        self.is_repeat
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = HeaderValue::try_from(self.job.path());
        let mut response = (StatusCode::ACCEPTED, Json(self.job)).into_response();
        match location {
            Ok(location) => _ = response.headers_mut().insert(LOCATION, location),
            Err(error) => return Problem::Internal(error.into()).into_response(),
        }
        response.headers_mut().insert(RETRY_AFTER, self.retry_after.into());
        response
    }
}
