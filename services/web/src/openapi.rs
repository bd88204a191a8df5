//! The published description of the API, OpenAPI 3.1, made from the handlers.

use axum::Json;
use utoipa::openapi::OpenApi as Description;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::routes::{events, index, jobs, reports, schedules};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postroom",
        description = "Takes slow work, answers at once, shows how far it is. Every error is an RFC 9457 problem.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")
    ),
    paths(
        index::index,
        serve,
        reports::request_report,
        reports::download,
        jobs::show,
        jobs::cancel,
        events::stream,
        schedules::create,
        schedules::list,
        schedules::show,
        schedules::remove,
    ),
    modifiers(&Token)
)]
struct Api;

/// How a caller shows who it is.
struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut Description) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The description of this API.
#[utoipa::path(get, path = "/openapi.json", tag = "index", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(crate) async fn serve() -> Json<Description> {
    Json(Api::openapi())
}
