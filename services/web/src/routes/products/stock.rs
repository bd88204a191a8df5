//! How many pieces of a product there are to sell: how the shop fills its shelves.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use store::accounts::Role;
use store::versions::Replaced;
use utoipa::ToSchema;

use crate::App;
use crate::caller::{Caller, Member};
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::strict_json::StrictJson;
use crate::versioned;

/// More than any shelf holds, and far below what a program may take for a fraction.
const MOST: i64 = 1_000_000_000_000;

/// The pieces that there are to sell.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stock)]
pub(crate) struct StockView {
    /// How many.
    stock: i64,
}

/// The pieces that were counted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StockCount)]
pub(crate) struct StockRequest {
    /// How many there are to sell, those of orders that stand left out.
    #[schema(value_type = i64, minimum = 0, maximum = 1_000_000_000_000_i64)]
    stock: Pieces,
}

/// A number of pieces.
#[derive(Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Pieces(i64);

impl TryFrom<i64> for Pieces {
    type Error = String;

    fn try_from(pieces: i64) -> Result<Self, String> {
        (0..=MOST).contains(&pieces).then_some(Self(pieces)).ok_or_else(|| format!("not 0 to {MOST}"))
    }
}

/// How many pieces of a product there are to sell. Staff and operators may know.
#[utoipa::path(
    get,
    path = "/v1/products/{id}/stock",
    tag = "products",
    params(
        ("id" = Uuid, Path, description = "The product's id"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, description = "The stock", body = StockView, headers(("ETag" = String, description = "The number"))),
        (status = 304, description = "There are as many"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The user is not staff, or the token has not the scope `jobs:read`", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 404, description = "No such product", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn show_stock(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.must_be(Role::Staff)?;
    let stock = store::products::stock(&app.pool, id).await?.ok_or(Problem::NotFound("product"))?;
    Ok(versioned::show(&headers, stock, StockView { stock }))
}

/// Says how many pieces of a product there are to sell. Staff and operators do.
///
/// With `If-Match` only if there are as many as were seen: an order may have taken some since. Without, the last one counts.
#[utoipa::path(
    put,
    path = "/v1/products/{id}/stock",
    tag = "products",
    params(
        ("id" = Uuid, Path, description = "The product's id"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the number that was seen"),
    ),
    request_body = StockRequest,
    responses(
        (status = 200, description = "The stock as it is now", body = StockView, headers(("ETag" = String, description = "The number"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Who is signed in does not belong to the staff, another site sent the request, or a token came with \
            it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such product", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "There are not as many as `If-Match` says", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment; the change may have been made", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn replace_stock(
    State(app): State<App>,
    member: Member,
    Id(id): Id,
    headers: HeaderMap,
    StrictJson(StockRequest { stock: Pieces(stock) }): StrictJson<StockRequest>,
) -> Result<Response, Problem> {
    member.must_be(Role::Staff)?;
    match store::products::set_stock(&app.pool, id, stock, versioned::versions(&headers).as_deref()).await? {
        Replaced::Missing => Err(Problem::NotFound("product")),
        Replaced::Differs => Err(Problem::VersionDiffers),
        Replaced::Done(stock) => {
            tracing::info!(product.id = %id, stock, "counted the stock anew");
            Ok(versioned::show_replaced(stock, StockView { stock }))
        }
    }
}
