//! What every request passes on its way in and out: a span, a log line, metrics, headers, a bound on time, panics caught.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use pipeline::TraceContext;
use pipeline::trace::{BAGGAGE, TRACEPARENT, TRACESTATE};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tracing::Instrument;

use crate::problem::Problem;

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// The label of requests that met no route, whatever they asked for: labels must be few.
const UNMATCHED: &str = "unmatched";

/// Lays the edge around the routes.
pub(crate) fn around(routes: Router) -> Router {
    // The first is the outermost. All in one: each layer of a router clones and boxes what it is around, for every request.
    routes.layer((
        SetSensitiveRequestHeadersLayer::new([AUTHORIZATION, COOKIE]),
        from_fn(observe),
        map_response(harden),
        CatchPanicLayer::custom(panicked),
    ))
}

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Problem::Panicked.into_response()
}

/// An answer that has not begun in time is a 503. What streams afterwards has bounds of its own.
pub(crate) async fn answer_within(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| Problem::Late.into_response())
}

/// Headers that cost nothing and close doors. Nothing here is kept by a cache, and nothing is loaded by what is shown, unless its
/// handler says how.
async fn harden<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(nothing);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Counts and logs a request, which is a step in a trace: the caller's, or one of its own.
async fn observe(mut request: Request, next: Next) -> Response {
    let trace = trace_of(request.headers());
    request.extensions_mut().insert(trace.clone());
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| UNMATCHED.to_owned(), |path| path.as_str().to_owned());
    let method = match request.method() {
        known @ (&Method::GET
        | &Method::HEAD
        | &Method::POST
        | &Method::PUT
        | &Method::DELETE
        | &Method::PATCH
        | &Method::OPTIONS) => known.to_string(),
        _ => "other".to_owned(),
    };
    // The path itself stays out: a signed link's query opens a report.
    let span = tracing::info_span!(
        "request",
        http.method = method,
        http.route = route,
        caller.id = tracing::field::Empty,
        trace.id = %trace.id(),
    );
    let start = Instant::now();
    async move {
        let response = next.run(request).await;
        let (status, duration) = (response.status().as_u16(), start.elapsed());
        metrics::counter!("http_requests_total", "route" => route.clone(), "status" => status.to_string()).increment(1);
        metrics::histogram!("http_request_seconds", "route" => route).record(duration);
        tracing::info!(
            http.status = status,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "request"
        );
        response
    }
    .instrument(span)
    .await
}

/// A second `traceparent` makes both worthless; the other two may come in parts.
fn trace_of(headers: &HeaderMap) -> TraceContext {
    let all = |name: &str| {
        let values = headers.get_all(name).iter().map(|value| value.to_str().ok());
        values.collect::<Option<Vec<_>>>().filter(|values| !values.is_empty())
    };
    let joined = |name: &str| all(name).map(|values| values.join(","));
    let parent = all(TRACEPARENT)
        .and_then(|values| TraceContext::parse(<[&str; 1]>::try_from(values).ok()?[0], joined(TRACESTATE).as_deref()));
    let trace = parent.map_or_else(TraceContext::root, |parent| parent.child());
    trace.with_baggage(joined(BAGGAGE).as_deref())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_handler_that_panics_is_a_problem_that_tells_nothing() {
        async fn panics() {
            panic!("a secret");
        }
        let routes = super::around(Router::new().route("/", get(panics)));
        let response = routes.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["type"], "/problems/internal");
    }
}
