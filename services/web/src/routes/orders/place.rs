//! Placing an order: what is wanted becomes a job, and whether it can be is for the worker to say.

use std::collections::HashSet;

use axum::Extension;
use axum::extract::State;
use pipeline::TraceContext;
use pipeline::jobs::{InvalidOrder, OrderLine, OrderLines, PlaceOrder, Quantity};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::accept::{Accepted, accept, asked_for};
use crate::caller::Caller;
use crate::idempotency_key::OptionalKey;
use crate::problem::{Problem, ProblemBody};
use crate::routes::jobs::JobView;
use crate::strict_json::{Object, StrictJson};

/// What a key belongs to, beside its caller. It must never change: a repeat would be another order.
const ROUTE: &str = "POST /v1/orders";

/// What is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderRequest {
    /// 1 to 50 products, each of them once.
    #[schema(value_type = Vec<WantedItem>, min_items = 1, max_items = 50)]
    items: Vec<Object<WantedItem>>,
}

/// Some pieces of a product.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WantedItem {
    /// The product's id.
    product_id: Uuid,
    /// How many pieces: 1 to 1000.
    #[schema(value_type = u32, minimum = 1, maximum = 1000)]
    quantity: Quantity,
}

/// What is asked for under a key, in whatever order it was written.
#[derive(Serialize)]
struct Asked {
    items: Vec<OrderLine>,
}

/// Orders. What it costs, and whether there is enough of it, is settled by the worker a moment later, with the prices of that moment;
/// the order then is `placed` or `refused`, and a mail says which.
///
/// With an `Idempotency-Key` the request can be repeated as long as the order is kept: there is one, and each answer names it.
#[utoipa::path(
    post,
    path = "/v1/orders",
    tag = "orders",
    params((
        "Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 characters of visible ASCII, in quotes or bare; another request needs another key"
    )),
    request_body = OrderRequest,
    responses(
        (
            status = 202,
            description = "Accepted: the job is on its queue or in the outbox, on disk. Its id is the order's",
            body = JobView,
            headers(
                ("Location" = String, description = "The job; its state can be asked for there"),
                ("Retry-After" = u64, description = "Seconds until it is worth asking"),
            )
        ),
        (status = 400, description = "The body is no JSON, or the Idempotency-Key is none", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible, and `errors` names it; or the Idempotency-Key stands \
            for another request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Nothing takes work at the moment, or too much is waiting; Retry-After says when to try again. \
            After `/problems/outcome-unknown` repeat it with the same Idempotency-Key", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn place(
    State(app): State<App>,
    caller: Caller,
    Extension(trace): Extension<TraceContext>,
    OptionalKey(key): OptionalKey,
    StrictJson(request): StrictJson<OrderRequest>,
) -> Result<Accepted, Problem> {
    let items = lines(request)?;
    let mut asked = Asked { items: items.as_slice().to_vec() };
    asked.items.sort_unstable_by_key(|line| line.product_id);
    let customer = caller.user();
    let job =
        asked_for(&caller, trace, (ROUTE, key), &asked, |accepted_at| PlaceOrder { customer, items, accepted_at })?;
    accept(&app, job, None).await
}

/// The lines of an order. The problem names the field.
fn lines(request: OrderRequest) -> Result<OrderLines, Problem> {
    let mut seen = HashSet::new();
    let repeated = request.items.iter().position(|Object(item)| !seen.insert(item.product_id));
    let line = |Object(WantedItem { product_id, quantity })| OrderLine { product_id, quantity };
    let lines: Vec<_> = request.items.into_iter().map(line).collect();
    OrderLines::try_from(lines).map_err(|error| {
        let field = match (error, repeated) {
            (InvalidOrder::Repeated(_), Some(place)) => format!("items[{place}].product_id"),
            _ => "items".to_owned(),
        };
        Problem::field(field, error.to_string())
    })
}
