//! Stopping a job that is not wanted any more.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pipeline::Control;
use store::DatabaseError;
use store::jobs::{CancelRequest, JobState, NewJob};
use uuid::Uuid;

use super::{JobView, find, load};
use crate::App;
use crate::caller::Caller;
use crate::job_status::Job;
use crate::problem::{Problem, ProblemBody};
use crate::routes::{Id, to_its_end};

/// Stops a job.
///
/// One that has not gone to the broker yet is cancelled at once. Any other is told to stop: it runs no more, or its run ends at
/// the next step, and then it is `cancelled`; until then it shows `cancelling`. A run that is at its end already may still
/// succeed. Asking again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")),
    responses(
        (status = 200, description = "Cancelled: it had not begun", body = JobView),
        (status = 202, description = "It is told to stop", body = JobView),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such job, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The job is final", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn cancel(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Problem> {
    let (stopping, owner) = (app.clone(), caller.clone());
    let status = match to_its_end(async move { Ok(stop(&stopping, id, owner.id()).await?) }).await? {
        Stopped::AtOnce => StatusCode::OK,
        Stopped::Told => StatusCode::ACCEPTED,
        Stopped::Final(state) => return Err(Problem::JobFinal(state)),
        Stopped::NotFound => return Err(Problem::NotFound("job")),
    };
    let job = load(&app, id, caller.id()).await?.ok_or(Problem::NotFound("job"))?;
    Ok((status, Json(JobView::from(job))).into_response())
}

/// What became of the wish to have a job stopped.
pub(crate) enum Stopped {
    /// It had not gone to the broker, and is cancelled.
    AtOnce,
    /// It is marked, and whoever runs it was told.
    Told,
    /// It has ended already, like this; or is about to, because what it was to bring about stands.
    Final(JobState),
    /// There is no such job, or it is somebody else's.
    NotFound,
}

/// Stops the job of an owner. It is not to end between the mark and the word to the workers.
pub(crate) async fn stop(app: &App, id: Uuid, owner: &str) -> Result<Stopped, DatabaseError> {
    if store::outbox::cancel(&app.pool, id, owner).await? {
        tracing::info!(job.id = %id, "cancelled in the outbox");
        return Ok(Stopped::AtOnce);
    }
    Ok(match request_cancel(app, id, owner).await? {
        CancelRequest::NotFound => Stopped::NotFound,
        CancelRequest::Final(state) => Stopped::Final(state),
        CancelRequest::Marked => {
            tracing::info!(job.id = %id, "told to stop");
            tell_workers(app, id).await;
            Stopped::Told
        }
    })
}

/// Marks the job, also one whose row is still on its way.
async fn request_cancel(app: &App, id: Uuid, owner: &str) -> Result<CancelRequest, DatabaseError> {
    let mut requested = store::jobs::request_cancel(&app.pool, id, owner).await;
    if let Ok(CancelRequest::NotFound) = requested
        && let Some(Job { row, .. }) = find(app, id, owner).await?
    {
        // Else its row has come meanwhile; or was there once, and is not made again.
        if row.last_number == 0 {
            let new =
                NewJob { id, kind: row.kind, owner: owner.to_owned(), caused_by: row.caused_by, at: row.created_at };
            store::jobs::record_queued(&app.pool, &new).await?;
        }
        requested = store::jobs::request_cancel(&app.pool, id, owner).await;
    }
    // Also when it is not known whether the mark was made; but nobody ends the copy of what is not his.
    if !matches!(requested, Ok(CancelRequest::NotFound)) {
        app.status.tell(&[], &[id]).await?;
    }
    requested
}

/// Tells whoever runs the job. The mark is what counts: it stops the job before its next run, if not this one.
async fn tell_workers(app: &App, id: Uuid) {
    if let Err(error) = app.publisher.publish_control(&Control::Cancel { job: id }).await {
        let error = format!("{:#}", anyhow::Error::new(error));
        tracing::warn!(job.id = %id, error, "tell the workers to stop a job");
    }
}
