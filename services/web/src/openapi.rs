//! The published description of the API, OpenAPI 3.1, made from the handlers.

use axum::Json;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Description, PathItem, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use crate::routes::{accounts, events, index, jobs, orders, products, reports, schedules, tokens, videos};
use crate::sessions;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postroom",
        description = "Takes slow work, answers at once, shows how far it is. Every error is an RFC 9457 problem. Every answer of a \
            route says in RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11) how its caller stands.",
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
        products::list,
        products::top,
        products::show,
        products::replace,
        products::show_stock,
        products::replace_stock,
        orders::place,
        orders::list,
        orders::show,
        orders::cancel,
        orders::ship,
        videos::upload,
        videos::show,
        videos::file,
        schedules::create,
        schedules::list,
        schedules::show,
        schedules::remove,
        accounts::register,
        accounts::login,
        accounts::logout,
        accounts::logout_everywhere,
        accounts::change_password,
        accounts::show_profile,
        accounts::replace_profile,
        accounts::set_role,
        tokens::list,
        tokens::create,
        tokens::revoke,
    ),
    modifiers(&Credentials, &Limited)
)]
struct Api;

/// How a caller shows who it is.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, description: &mut Description) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", scheme);
        let cookie = SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(sessions::COOKIE)));
        components.add_security_scheme("session", cookie);
    }
}

/// What every route answers to whoever asks too often.
struct Limited;

impl Limited {
    fn answer() -> Response {
        let of = |kind, description: &str| {
            let schema = ObjectBuilder::new().schema_type(SchemaType::new(kind));
            HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
        };
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        ResponseBuilder::new()
            .description("Too much was asked for by this caller or from this address; nothing was done")
            .content("application/problem+json", problem)
            .header("Retry-After", of(Type::Integer, "Seconds until it is possible"))
            .header("RateLimit-Policy", of(Type::String, "The limits that hold"))
            .header("RateLimit", of(Type::String, "What is left of them, and when all is back"))
            .build()
    }
}

impl Modify for Limited {
    fn modify(&self, description: &mut Description) {
        let operations = |path: &mut PathItem| {
            let methods = [&mut path.get, &mut path.post, &mut path.put, &mut path.delete, &mut path.patch];
            for operation in methods.into_iter().flatten() {
                operation.responses.responses.insert("429".to_owned(), RefOr::T(Self::answer()));
            }
        };
        description.paths.paths.values_mut().for_each(operations);
    }
}

/// The description of this API.
#[utoipa::path(get, path = "/openapi.json", tag = "index", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(crate) async fn serve() -> Json<Description> {
    Json(Api::openapi())
}
