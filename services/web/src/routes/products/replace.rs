//! Another name, place or price for a product.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use store::accounts::Role;
use store::products::{BEST_SELLERS, NewProduct};
use utoipa::ToSchema;

use super::{PRODUCT, ProductView};
use crate::App;
use crate::caller::Member;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::strict_json::StrictJson;
use crate::versioned;

/// More than anything costs, and far below what a program may take for a fraction.
const HIGHEST_PRICE: i64 = 1_000_000_000_000;
/// As the table of products has them, in characters.
const LONGEST_TEXT: usize = 200;

/// What of a product can be changed, whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductChange {
    /// Its name: 1 to 200 characters, none of them a control character.
    #[schema(value_type = String, example = "Green tea")]
    name: Text,
    /// Where the catalogue has it: as a name.
    #[schema(value_type = String, example = "Pantry")]
    category: Text,
    /// What it costs, in the currency's smallest unit.
    #[schema(value_type = i64, minimum = 0, maximum = 1_000_000_000_000_i64)]
    price_minor: Price,
    /// ISO 4217.
    #[schema(value_type = String, example = "EUR")]
    currency: Currency,
}

/// A text that can be read, and stored.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Text(String);

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let text = text.trim();
        let good = (1..=LONGEST_TEXT).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        let problem = || format!("not 1 to {LONGEST_TEXT} characters, none of them a control character");
        good.then(|| Self(text.to_owned())).ok_or_else(problem)
    }
}

/// A price, in the currency's smallest unit.
#[derive(Debug, Deserialize)]
#[serde(try_from = "i64")]
struct Price(i64);

impl TryFrom<i64> for Price {
    type Error = String;

    fn try_from(minor: i64) -> Result<Self, String> {
        (0..=HIGHEST_PRICE).contains(&minor).then_some(Self(minor)).ok_or_else(|| format!("not 0 to {HIGHEST_PRICE}"))
    }
}

/// A currency by its ISO 4217 code: three capital letters.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Currency(String);

impl TryFrom<String> for Currency {
    type Error = &'static str;

    fn try_from(code: String) -> Result<Self, &'static str> {
        let good = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        good.then_some(Self(code)).ok_or("a currency is three capital letters, as in ISO 4217")
    }
}

/// Changes a product. Staff and operators do; the SKU stays.
///
/// With `If-Match` only what was seen is replaced. Without, the last one counts. The product shows the change at once, the best sellers
/// a moment later.
#[utoipa::path(
    put,
    path = "/v1/products/{id}",
    tag = "products",
    params(
        ("id" = Uuid, Path, description = "The product's id"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the product that is to be replaced"),
    ),
    request_body = ProductChange,
    responses(
        (status = 200, description = "The product as it is now", body = ProductView,
            headers(("ETag" = String, description = "Changes with everything that stands in it"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Who is signed in does not belong to the staff, another site sent the request, or a token came with \
            it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such product", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "The product is not what `If-Match` says", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "Who calls or what is stored cannot be told at the moment; the change may have been made",
            body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn replace(
    State(app): State<App>,
    member: Member,
    Id(id): Id,
    headers: HeaderMap,
    StrictJson(request): StrictJson<ProductChange>,
) -> Result<Response, Problem> {
    member.must_be(Role::Staff)?;
    let ProductChange { name, category, price_minor, currency } = request;
    let new = NewProduct { name: name.0, category: category.0, price_minor: price_minor.0, currency: currency.0 };
    let (key, versions) = (id.to_string(), versioned::versions(&headers));
    let entries = [PRODUCT.entry(&key), BEST_SELLERS.entry()];
    let replaced = store::products::replace(&app.pool, id, &new, versions.as_deref(), &entries).await;
    let product = versioned::settle(&app, (&PRODUCT, &key), "product", replaced).await?;
    tracing::info!(product.id = %id, "changed a product");
    Ok(versioned::show_replaced(product.version, ProductView::of(product)))
}
