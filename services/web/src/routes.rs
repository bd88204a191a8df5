//! The routes: one table, from which the router is built and against which the published description is checked.

pub(crate) mod accounts;
pub(crate) mod events;
pub(crate) mod index;
pub(crate) mod jobs;
pub(crate) mod orders;
pub(crate) mod products;
pub(crate) mod reports;
pub(crate) mod schedules;
pub(crate) mod tokens;
pub(crate) mod videos;

use anyhow::Context;
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::{MethodRouter, delete, get, post, put};
use tracing::Instrument;
use uuid::Uuid;

use crate::problem::Problem;
use crate::{App, Limits, cross_site, edge, openapi, rate_limits, sessions};

/// What a request costs its caller (see [`crate::rate_limits`]).
const REQUEST: u32 = 1;
/// What one costs that makes work for others.
const WORK: u32 = 10;
/// What one costs that makes work for minutes, and takes room on a disk.
const HEAVY: u32 = 100;
/// A name that a person can read, in characters.
const LONGEST_NAME: usize = 200;

/// A path with what it answers, and what that costs.
type Row = (&'static str, Vec<(u32, MethodRouter<App>)>);

/// Every path with what it answers.
fn table(limits: &Limits) -> Vec<Row> {
    let within = |limit| from_fn_with_state(limit, edge::answer_within);
    let soon = |methods: MethodRouter<App>| methods.layer(within(limits.answer));
    let upload = post(videos::upload).layer(within(limits.upload));
    // `Prefer: wait` may make it the longest of all.
    let show_job = get(jobs::show).layer(within(limits.answer + limits.longest_wait));
    vec![
        ("/", vec![(REQUEST, soon(get(index::index)))]),
        ("/openapi.json", vec![(REQUEST, soon(get(openapi::serve)))]),
        ("/v1/reports", vec![(WORK, soon(post(reports::request_report)))]),
        ("/v1/reports/{id}/pdf", vec![(REQUEST, soon(get(reports::download)))]),
        ("/v1/jobs/{id}", vec![(REQUEST, show_job), (REQUEST, soon(delete(jobs::cancel)))]),
        ("/v1/jobs/{id}/events", vec![(REQUEST, soon(get(events::stream)))]),
        ("/v1/products", vec![(REQUEST, soon(get(products::list)))]),
        ("/v1/products/top", vec![(REQUEST, soon(get(products::top)))]),
        ("/v1/products/{id}", vec![(REQUEST, soon(get(products::show))), (WORK, soon(put(products::replace)))]),
        (
            "/v1/products/{id}/stock",
            vec![(REQUEST, soon(get(products::show_stock))), (REQUEST, soon(put(products::replace_stock)))],
        ),
        ("/v1/orders", vec![(REQUEST, soon(get(orders::list))), (WORK, soon(post(orders::place)))]),
        ("/v1/orders/{id}", vec![(REQUEST, soon(get(orders::show).delete(orders::cancel)))]),
        ("/v1/orders/{id}/shipment", vec![(REQUEST, soon(put(orders::ship)))]),
        ("/v1/schedules", vec![(REQUEST, soon(get(schedules::list))), (WORK, soon(post(schedules::create)))]),
        ("/v1/schedules/{id}", vec![(REQUEST, soon(get(schedules::show).delete(schedules::remove)))]),
        ("/v1/videos", vec![(HEAVY, upload)]),
        ("/v1/videos/{id}", vec![(REQUEST, soon(get(videos::show)))]),
        ("/v1/videos/{id}/files/{name}", vec![(REQUEST, soon(get(videos::file)))]),
        ("/v1/register", vec![(WORK, soon(post(accounts::register)))]),
        ("/v1/login", vec![(WORK, soon(post(accounts::login)))]),
        ("/v1/logout", vec![(REQUEST, soon(post(accounts::logout)))]),
        ("/v1/logout/everywhere", vec![(REQUEST, soon(post(accounts::logout_everywhere)))]),
        ("/v1/password", vec![(WORK, soon(post(accounts::change_password)))]),
        (
            "/v1/users/{id}",
            vec![(REQUEST, soon(get(accounts::show_profile))), (WORK, soon(put(accounts::replace_profile)))],
        ),
        ("/v1/users/{id}/role", vec![(REQUEST, soon(put(accounts::set_role)))]),
        ("/v1/tokens", vec![(REQUEST, soon(get(tokens::list))), (WORK, soon(post(tokens::create)))]),
        ("/v1/tokens/{id}", vec![(REQUEST, soon(delete(tokens::revoke)))]),
    ]
}

/// Every path that there is.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    table(&Limits::default()).into_iter().map(|(path, _)| path).collect()
}

/// The whole API.
pub(crate) fn router(app: App) -> Router {
    let charged = |(cost, methods): (u32, MethodRouter<App>)| {
        methods.route_layer(from_fn_with_state((app.clone(), cost), rate_limits::charge))
    };
    let routes = table(&app.limits).into_iter().fold(Router::new(), |router, (path, methods)| {
        let methods = methods.into_iter().map(charged).fold(MethodRouter::new(), MethodRouter::merge);
        router.route(path, methods)
    });
    let routes =
        routes.fallback(async || Problem::UnknownRoute).method_not_allowed_fallback(async || Problem::MethodNotAllowed);
    let sessions = sessions::layer(app.redis.clone(), app.limits.session_idle);
    let routes = edge::around(routes.layer(from_fn(cross_site::refuse)).with_state(app));
    // Outside, the first outermost: a session is read within the request's span, and its cookie set on whatever the answer has become.
    routes.layer((map_response(sessions::take_back_well), sessions))
}

/// The id of a job, report, video, order, product, user or token in a path. What is no id names nothing, and is answered so.
pub(crate) struct Id(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| Problem::NotFound("id"))?;
        text.parse().map(Self).map_err(|_| Problem::NotFound("id"))
    }
}

/// A change that is not to end halfway goes on when its request is given up or its client hangs up; each call in it has a deadline.
pub(crate) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let changed = tokio::spawn(change.in_current_span()).await;
    changed.context("finish a change").map_err(Problem::Internal)?
}

/// A name that can be read, and stored.
pub(crate) fn checked_name(name: String) -> Result<String, Problem> {
    let name = name.trim();
    let good = (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    let problem =
        || Problem::field("name", format!("not 1 to {LONGEST_NAME} characters, none of them a control character"));
    if good { Ok(name.to_owned()) } else { Err(problem()) }
}
