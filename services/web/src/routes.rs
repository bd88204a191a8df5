//! The routes: one table, from which the router is built and against which the published description is checked.

pub(crate) mod events;
pub(crate) mod index;
pub(crate) mod jobs;
pub(crate) mod reports;
pub(crate) mod schedules;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};
use uuid::Uuid;

use crate::problem::Problem;
use crate::{App, Limits, edge, openapi};

/// Every path with what it answers.
fn table(limits: &Limits) -> Vec<(&'static str, MethodRouter<App>)> {
    let within = |limit| from_fn_with_state(limit, edge::answer_within);
    let soon = within(limits.answer);
    // `Prefer: wait` may make it the longest of all.
    let show_job = get(jobs::show).layer(within(limits.answer + limits.longest_wait));
    vec![
        ("/", get(index::index).layer(soon.clone())),
        ("/openapi.json", get(openapi::serve).layer(soon.clone())),
        ("/v1/reports", post(reports::request_report).layer(soon.clone())),
        ("/v1/reports/{id}/pdf", get(reports::download).layer(soon.clone())),
        ("/v1/jobs/{id}", show_job.merge(delete(jobs::cancel).layer(soon.clone()))),
        ("/v1/jobs/{id}/events", get(events::stream).layer(soon.clone())),
        ("/v1/schedules", get(schedules::list).post(schedules::create).layer(soon.clone())),
        ("/v1/schedules/{id}", get(schedules::show).delete(schedules::remove).layer(soon)),
    ]
}

/// Every path that there is.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    table(&Limits::default()).into_iter().map(|(path, _)| path).collect()
}

/// The whole API.
pub(crate) fn router(app: App) -> Router {
    let table = table(&app.limits);
    let routes = table.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    let routes =
        routes.fallback(async || Problem::UnknownRoute).method_not_allowed_fallback(async || Problem::MethodNotAllowed);
    edge::around(routes.with_state(app))
}

/// The id of a job or report in a path. What is no id names nothing, and is answered so.
pub(crate) struct Id(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| Problem::NotFound("id"))?;
        text.parse().map(Self).map_err(|_| Problem::NotFound("id"))
    }
}
