//! Cancelling: an order that stands, or one that is still to be placed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pipeline::jobs::{Job, PlaceOrder};
use store::jobs::JobState;
use store::orders::Cancellation;
use uuid::Uuid;

use super::{OrderState, OrderView};
use crate::App;
use crate::caller::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::jobs::{self, Stopped};
use crate::routes::{Id, to_its_end};

/// Cancels one's order, as long as it is not shipped.
///
/// What is to be placed yet is told to stop, as a job is: it is never placed, and shows `cancelling` until that is settled. Asking
/// again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/orders/{id}",
    tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id, which is its job's")),
    responses(
        (status = 200, description = "Cancelled, now or before; its pieces are for sale again", body = OrderView),
        (status = 202, description = "It will not be placed", body = OrderView),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such order, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is shipped, or will not come about in any case", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment; it may be cancelled", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn cancel(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Problem> {
    to_its_end(cancel_or_stop(app, caller, id)).await
}

async fn cancel_or_stop(app: App, caller: Caller, id: Uuid) -> Result<Response, Problem> {
    if let Some(order) = cancel_standing(&app, id, caller.user()).await? {
        return Ok(Json(order).into_response());
    }
    let job = jobs::find(&app, id, caller.id()).await?;
    if job.is_none_or(|job| job.row.kind != PlaceOrder::KIND) {
        return Err(Problem::NotFound("order"));
    }
    let stopped = jobs::stop(&app, id, caller.id()).await?;
    // It may have been placed before that. From then on it is not: who places it finds the job stopped.
    if let Some(order) = cancel_standing(&app, id, caller.user()).await? {
        return Ok(Json(order).into_response());
    }
    let status = match stopped {
        Stopped::AtOnce | Stopped::Final(JobState::Cancelled) => StatusCode::OK,
        Stopped::Told => StatusCode::ACCEPTED,
        Stopped::Final(state) => return Err(Problem::OrderIs(OrderState::of_job(state))),
        Stopped::NotFound => return Err(Problem::NotFound("order")),
    };
    let job = jobs::load(&app, id, caller.id()).await?.ok_or(Problem::NotFound("order"))?;
    Ok((status, Json(OrderView::from(job.row))).into_response())
}

/// The order, cancelled; `None` where none of the user's was decided on.
async fn cancel_standing(app: &App, id: Uuid, user: Uuid) -> Result<Option<OrderView>, Problem> {
    match store::orders::cancel(&app.pool, id, user).await? {
        Cancellation::Cancelled(order) => {
            tracing::info!(order.id = %id, "cancelled an order");
            Ok(Some(order.into()))
        }
        Cancellation::TooLate(status) => Err(Problem::OrderIs(status.into())),
        Cancellation::Refused => Err(Problem::OrderIs(OrderState::Refused)),
        Cancellation::NotFound => Ok(None),
    }
}
