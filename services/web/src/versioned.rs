//! What has a version: shown under an `ETag`, replaced under `If-Match`, and forgotten by the cache when it was.

use axum::Json;
use axum::http::header::{CACHE_CONTROL, ETAG, IF_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use cache::Family;
use serde::Serialize;
use store::DatabaseError;
use store::versions::Replaced;

use crate::App;
use crate::problem::Problem;
use crate::routes::jobs::matches_etag;

/// Shows it, or that it is what the client has already.
pub(crate) fn show(headers: &HeaderMap, version: i64, view: impl Serialize) -> Response {
    let etag = etag(version);
    let mut response = if matches_etag(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(view).into_response()
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Authorization, Cookie"));
    with_etag(response, etag)
}

/// Shows what was just made of it, which no cache is to keep.
pub(crate) fn show_replaced(version: i64, view: impl Serialize) -> Response {
    with_etag(Json(view).into_response(), etag(version))
}

fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

fn with_etag(mut response: Response, etag: String) -> Response {
    // Digits in quotes.
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// The versions that `If-Match` lets be replaced; `None` without one, or with `*`. Compared strongly (RFC 9110, 13.1.1): what is no tag
/// of ours, or a weak one, is no version.
pub(crate) fn versions(headers: &HeaderMap) -> Option<Vec<i64>> {
    let mut values = headers.get_all(IF_MATCH).iter().peekable();
    values.peek()?;
    let tags: Vec<&str> = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    if tags.iter().any(|tag| tag.trim() == "*") {
        return None;
    }
    let version = |tag: &&str| {
        let version = tag.trim().trim_matches('"').parse().ok()?;
        (etag(version) == tag.trim()).then_some(version)
    };
    Some(tags.iter().filter_map(version).collect())
}

/// What a change has made of it. What is cached of it is gone by then, also when it is not known whether the change took effect; while
/// Redis is away the row that was written with the change sees to that.
pub(crate) async fn settle<T>(
    app: &App,
    (family, key): (&Family, &str),
    what: &'static str,
    replaced: Result<Replaced<T>, DatabaseError>,
) -> Result<T, Problem> {
    match replaced {
        Ok(Replaced::Missing) => Err(Problem::NotFound(what)),
        Ok(Replaced::Differs) => Err(Problem::VersionDiffers),
        Ok(Replaced::Done(row)) => {
            forget(app, family, key).await;
            Ok(row)
        }
        Err(error) => {
            forget(app, family, key).await;
            Err(error.into())
        }
    }
}

/// Ends what is cached. What cannot be done now is left to the row.
pub(crate) async fn forget(app: &App, family: &Family, key: &str) {
    if let Err(error) = app.cache.invalidate(family, key).await {
        let error = format!("{:#}", anyhow::Error::new(error));
        tracing::warn!(entry = family.entry(key), error, "end a cache entry: left to the dispatcher");
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::IF_MATCH;
    use axum::http::{HeaderMap, HeaderValue};

    use super::{etag, versions};

    #[test]
    fn versions_are_read_from_among_tags_and_only_from_strong_ones() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_MATCH, HeaderValue::from_static(value));
            }
            versions(&headers)
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["*"]), None);
        assert_eq!(read(&["\"7\""]), Some(vec![7]));
        assert_eq!(read(&["\"7\", \"8\"", "\"9\""]), Some(vec![7, 8, 9]));
        for other in ["", "7", "W/\"7\"", "\"x\"", "\"7", "\"99999999999999999999\"", "\" 7\"", "\"+7\"", "\"\"7\"\""] {
            assert_eq!(read(&[other]), Some(vec![]), "{other}");
        }
        assert_eq!(etag(7), "\"7\"");
    }
}
