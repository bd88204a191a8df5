//! Orders: placed by a job, shown from the database, and from what is known of the job where that does not say.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use pipeline::jobs::{Job, PlaceOrder};
use serde::{Deserialize, Serialize};
use store::DatabaseError;
use store::jobs::JobState;
use store::orders::Order;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::routes::jobs::find_for;
use crate::routes::products::bounded;

mod cancel;
mod place;
mod ship;
mod view;

// With what describes it: the description is made of paths.
pub(crate) use cancel::*;
pub(crate) use place::*;
pub(crate) use ship::*;
pub(crate) use view::OrderState;
use view::OrderView;

/// Orders on a page: when nothing is asked for, and at most.
const PAGE: u32 = 20;
const LONGEST_PAGE: u32 = 100;

/// Which of one's orders.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OrdersQuery {
    /// The order before which the page ends, by its id: as `links.next` of the page before has it.
    before: Option<Uuid>,
    /// Orders on the page, 1 to 100; left out: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// A page of one's orders.
#[derive(Serialize, ToSchema)]
pub(crate) struct Orders {
    /// The latest accepted first.
    orders: Vec<OrderView>,
    /// Where to go from here.
    links: OrdersLinks,
}

/// Where to go from a page of orders.
#[derive(Serialize, ToSchema)]
struct OrdersLinks {
    /// The next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/v1/orders?before=01a2063f-df1a-731f-9423-cf9240c9fad6&limit=20")]
    next: Option<String>,
}

/// The caller's orders, placed and refused ones. One that still waits to be placed is not here yet.
#[utoipa::path(
    get,
    path = "/v1/orders",
    tag = "orders",
    params(OrdersQuery),
    responses(
        (status = 200, description = "A page, the latest accepted first", body = Orders),
        (status = 400, description = "The query has a part that is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    query: Result<Query<OrdersQuery>, QueryRejection>,
) -> Result<Json<Orders>, Problem> {
    let Query(query) = query.map_err(|error| Problem::QueryInvalid(error.body_text()))?;
    let limit = bounded(query.limit, PAGE, LONGEST_PAGE)?;
    // One more tells whether there is another page.
    let mut orders = store::orders::page(&app.pool, caller.user(), query.before, limit + 1).await?;
    let more = orders.len() > limit as usize;
    orders.truncate(limit as usize);
    let last = orders.last().filter(|_| more);
    let next = last.map(|last| format!("/v1/orders?before={}&limit={limit}", last.id));
    Ok(Json(Orders { orders: orders.into_iter().map(OrderView::from).collect(), links: OrdersLinks { next } }))
}

/// An order: the caller's own, or anybody's for staff and operators.
///
/// From the `202` on it is here: as the job that places it stands, until it is placed or refused, and while the database is away.
#[utoipa::path(
    get,
    path = "/v1/orders/{id}",
    tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id, which is its job's")),
    responses(
        (status = 200, description = "The order", body = OrderView),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such order, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn show(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Json<OrderView>, Problem> {
    find(&app, id, caller.sees()).await?.map(Json).ok_or(Problem::NotFound("order"))
}

/// The order, for those who see this user's, or everybody's: as the database has it, else as its job stands.
async fn find(app: &App, id: Uuid, whose: Option<Uuid>) -> Result<Option<OrderView>, Problem> {
    let visible = |order: Order| whose.is_none_or(|user| order.customer == user).then(|| OrderView::from(order));
    let unknown = match in_time(app, store::orders::find(&app.pool, id)).await {
        Ok(Some(order)) => return Ok(visible(order)),
        Ok(None) => Ok(None),
        Err(error) => Err(Problem::from(error)),
    };
    let owner = whose.map(|user| user.to_string());
    let job = match find_for(app, id, owner.as_deref()).await? {
        Some(job) if job.row.kind == PlaceOrder::KIND => job.row,
        // Without the database there may be one all the same.
        _ => return unknown,
    };
    // It may have been decided on between the two looks.
    if unknown.is_ok()
        && matches!(job.state, JobState::Succeeded | JobState::Refused)
        && let Ok(Some(order)) = in_time(app, store::orders::find(&app.pool, id)).await
    {
        return Ok(visible(order));
    }
    Ok(Some(OrderView::from(job)))
}

/// No longer than one waits for the database on the way to a 202: what is known without it is to be told.
async fn in_time<T>(app: &App, call: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, DatabaseError> {
    let deadline = app.patience();
    timeout(deadline, call).await.unwrap_or(Err(DatabaseError::Deadline { action: "look for an order", deadline }))
}
