//! What the shop sells. Anybody may look, and the staff keeps it.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use cache::{Family, FetchError, Times};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use store::products::{self, BEST_SELLER_WINDOW, BestSeller, Product};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::App;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::versioned;

mod replace;
mod stock;

// With what describes it: the description is made of paths.
pub(crate) use replace::*;
pub(crate) use stock::*;

/// By the product's id. Whatever changes a product ends its copy.
const PRODUCT: Family = Family::new(
    "product",
    2,
    Times {
        fresh: Duration::from_secs(60),
        grace: Duration::from_secs(600),
        absent: Duration::from_secs(10),
        lease: Duration::from_secs(2),
        load: Duration::from_secs(5),
    },
);
/// Counted over all orders of a month. A minute late while people ask; who asks first after a pause or a change gets what there was. A
/// change of a product or an order ages it by the dispatcher alone, which does so once a second however much is changed: to count anew
/// is dear.
const BEST_SELLERS: Family = Family::new(
    products::BEST_SELLERS.family,
    products::BEST_SELLERS.version,
    Times {
        fresh: Duration::from_secs(60),
        grace: Duration::from_secs(600),
        absent: Duration::from_secs(10),
        lease: Duration::from_secs(5),
        load: Duration::from_secs(8),
    },
);
/// Products on a page: when nothing is asked for, and at most.
const PAGE: u32 = 50;
const LONGEST_PAGE: u32 = 100;
/// Best sellers, when nothing is asked for.
const TOP: u32 = 10;
/// As many are always loaded, so that every list is a part of one.
const LONGEST_TOP: u32 = 50;

/// Which part of the catalogue.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// The SKU after which the page begins: as `links.next` of the page before has it.
    after: Option<String>,
    /// Products on the page, 1 to 100; left out: 50.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// How many best sellers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TopQuery {
    /// 1 to 50; left out: 10.
    #[param(minimum = 1, maximum = 50)]
    limit: Option<u32>,
}

/// A product.
#[derive(Serialize, ToSchema)]
#[schema(as = Product)]
pub(crate) struct ProductView {
    /// Its id.
    id: Uuid,
    /// Its stock keeping unit.
    #[schema(example = "TEA-GREEN-100")]
    sku: String,
    /// Its name.
    name: String,
    /// Where the catalogue has it.
    category: String,
    /// What it costs, in the currency's smallest unit.
    price_minor: i64,
    /// ISO 4217.
    #[schema(example = "EUR")]
    currency: String,
    /// Since when it is sold.
    created_at: DateTime<Utc>,
    /// Where to go from here.
    links: ProductLinks,
}

/// Where to go from a product.
#[derive(Serialize, ToSchema)]
struct ProductLinks {
    /// The product itself.
    #[serde(rename = "self")]
    own: String,
}

/// A page of the catalogue.
#[derive(Serialize, ToSchema)]
pub(crate) struct Products {
    /// In the order of their SKUs.
    products: Vec<ProductView>,
    /// Where to go from here.
    links: PageLinks,
}

/// Where to go from a page.
#[derive(Serialize, ToSchema)]
struct PageLinks {
    /// The next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/v1/products?after=TEA-GREEN-100&limit=50")]
    next: Option<String>,
}

/// What sells best.
#[derive(Serialize, ToSchema)]
pub(crate) struct TopProducts {
    /// Over how many days, up to the newest order.
    #[schema(example = 30)]
    days: i64,
    /// The best first.
    products: Vec<BestSellerView>,
}

/// A product with how many pieces of it were sold.
#[derive(Serialize, ToSchema)]
#[schema(as = BestSeller)]
struct BestSellerView {
    #[serde(flatten)]
    product: ProductView,
    /// Pieces, cancelled orders left out.
    sold: i64,
}

/// The catalogue, page by page, in the order of the SKUs.
#[utoipa::path(
    get,
    path = "/v1/products",
    tag = "products",
    params(PageQuery),
    responses(
        (status = 200, description = "A page", body = Products),
        (status = 400, description = "The query has a part that is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Products>, Problem> {
    let Query(query) = query.map_err(|error| Problem::QueryInvalid(error.body_text()))?;
    let limit = bounded(query.limit, PAGE, LONGEST_PAGE)?;
    if query.after.as_deref().is_some_and(|after| !is_sku(after)) {
        return Err(Problem::QueryInvalid("after: not an SKU".to_owned()));
    }
    // One more tells whether there is another page.
    let mut products = store::products::page(&app.pool, query.after.as_deref(), limit + 1).await?;
    let more = products.len() > limit as usize;
    products.truncate(limit as usize);
    let last = products.last().filter(|_| more);
    let next = last.map(|last| format!("/v1/products?after={}&limit={limit}", last.sku));
    Ok(Json(Products { products: products.into_iter().map(ProductView::of).collect(), links: PageLinks { next } }))
}

/// A product.
#[utoipa::path(
    get,
    path = "/v1/products/{id}",
    tag = "products",
    params(
        ("id" = Uuid, Path, description = "The product's id"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, description = "The product", body = ProductView,
            headers(("ETag" = String, description = "Changes with everything that stands in it"))),
        (status = 304, description = "The product has not changed"),
        (status = 404, description = "No such product", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(State(app): State<App>, Id(id): Id, headers: HeaderMap) -> Result<Response, Problem> {
    let product = product(&app, id).await?.ok_or(Problem::NotFound("product"))?;
    Ok(versioned::show(&headers, product.version, ProductView::of(product)))
}

/// What sold best in the 30 days up to the newest order, by pieces.
#[utoipa::path(
    get,
    path = "/v1/products/top",
    tag = "products",
    params(TopQuery),
    responses(
        (status = 200, description = "The best sellers", body = TopProducts),
        (status = 400, description = "The query has a part that is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn top(
    State(app): State<App>,
    query: Result<Query<TopQuery>, QueryRejection>,
) -> Result<Json<TopProducts>, Problem> {
    let Query(query) = query.map_err(|error| Problem::QueryInvalid(error.body_text()))?;
    let limit = bounded(query.limit, TOP, LONGEST_TOP)?;
    let best = best_sellers(&app).await?.into_iter().take(limit as usize);
    let products = best.map(|BestSeller { product, sold }| BestSellerView { product: ProductView::of(product), sold });
    Ok(Json(TopProducts { days: BEST_SELLER_WINDOW.num_days(), products: products.collect() }))
}

async fn product(app: &App, id: Uuid) -> Result<Option<Product>, FetchError> {
    let pool = app.pool.clone();
    let load = async move || store::products::find(&pool, id).await;
    Ok(app.cache.fetch(&PRODUCT, &id.to_string(), load).await?.value)
}

async fn best_sellers(app: &App) -> Result<Vec<BestSeller>, FetchError> {
    let pool = app.pool.clone();
    let load = async move || store::products::best_sellers(&pool, LONGEST_TOP).await.map(Some);
    Ok(app.cache.fetch(&BEST_SELLERS, products::BEST_SELLERS.key, load).await?.value.unwrap_or_default())
}

pub(crate) fn bounded(limit: Option<u32>, usual: u32, most: u32) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(usual);
    let problem = || Problem::QueryInvalid(format!("limit: not 1 to {most}"));
    if (1..=most).contains(&limit) { Ok(limit) } else { Err(problem()) }
}

/// As the table of products has them.
fn is_sku(text: &str) -> bool {
    (3..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-')
}

impl ProductView {
    fn of(product: Product) -> Self {
        let links = ProductLinks { own: format!("/v1/products/{}", product.id) };
        let Product { id, sku, name, category, price_minor, currency, created_at, version: _ } = product;
        Self { id, sku, name, category, price_minor, currency, created_at, links }
    }
}

#[cfg(test)]
mod tests {
    use super::{BEST_SELLERS, products};

    #[test]
    fn who_changes_an_order_ends_the_list_that_is_cached_here() {
        assert_eq!(BEST_SELLERS.entry(products::BEST_SELLERS.key), products::BEST_SELLERS.entry());
    }
}
