//! `GET /`: where everything is.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// Where everything is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Index {
    /// `postroom`.
    name: &'static str,
    /// The description of this API, OpenAPI 3.1.
    #[schema(example = "/openapi.json")]
    description: &'static str,
    /// Where reports are asked for, by POST.
    #[schema(example = "/v1/reports")]
    reports: &'static str,
    /// Where reports that come again are asked for, by POST, and listed.
    #[schema(example = "/v1/schedules")]
    schedules: &'static str,
    /// What the shop sells.
    #[schema(example = "/v1/products")]
    products: &'static str,
    /// Where one orders, by POST, and one's orders are listed.
    #[schema(example = "/v1/orders")]
    orders: &'static str,
    /// Where an account is made, by POST.
    #[schema(example = "/v1/register")]
    register: &'static str,
    /// Where one signs in, by POST.
    #[schema(example = "/v1/login")]
    login: &'static str,
    /// Where the tokens of one's machines are made, by POST, and listed.
    #[schema(example = "/v1/tokens")]
    tokens: &'static str,
}

/// Where everything is.
#[utoipa::path(get, path = "/", tag = "index", responses((status = 200, description = "The addresses to begin with", body = Index)))]
pub(crate) async fn index() -> Json<Index> {
    Json(Index {
        name: "postroom",
        description: "/openapi.json",
        reports: "/v1/reports",
        schedules: "/v1/schedules",
        products: "/v1/products",
        orders: "/v1/orders",
        register: "/v1/register",
        login: "/v1/login",
        tokens: "/v1/tokens",
    })
}
