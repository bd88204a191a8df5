//! Shipping: the staff's word that an order is on its way.

use axum::Json;
use axum::extract::State;
use store::accounts::Role;
use store::orders::Shipment;

use super::{OrderView, find};
use crate::App;
use crate::caller::Member;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;

/// Notes that an order is on its way: from then on it cannot be cancelled. Staff and operators do. Again, it changes nothing.
#[utoipa::path(
    put,
    path = "/v1/orders/{id}/shipment",
    tag = "orders",
    params(("id" = Uuid, Path, description = "The order's id, which is its job's")),
    responses(
        (status = 200, description = "It is shipped, now or since earlier", body = OrderView),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Who is signed in does not belong to the staff, another site sent the request, or a token came with \
            it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such order", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is not placed, or cancelled", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment; it may be shipped", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn ship(State(app): State<App>, member: Member, Id(id): Id) -> Result<Json<OrderView>, Problem> {
    member.must_be(Role::Staff)?;
    match store::orders::ship(&app.pool, id).await? {
        Shipment::Shipped(order) => {
            tracing::info!(order.id = %id, "shipped an order");
            Ok(Json(order.into()))
        }
        Shipment::NotStanding(order) => Err(Problem::OrderIs(OrderView::from(order).state())),
        Shipment::NotFound => {
            let order = find(&app, id, None).await?.ok_or(Problem::NotFound("order"))?;
            Err(Problem::OrderIs(order.state()))
        }
    }
}
