//! Fetching a report that was made.

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use chrono::Utc;
use pipeline::jobs::{Job, RenderReport};
use serde::Deserialize;
use serde_json::Value;
use store::files::report_key;
use utoipa::ToSchema;

use crate::App;
use crate::caller::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::routes::jobs::{find, matches_etag};

/// A name that a person can read.
const LONGEST_NAME: usize = 100;

/// What makes an address open to whoever holds it.
#[derive(Debug, Deserialize)]
pub(crate) struct SignedLink {
    /// Until when, in unix seconds.
    expires: i64,
    /// That this server made it.
    signature: String,
}

/// A report as a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the bytes of the answer")]
struct Pdf(Vec<u8>);

/// By which right somebody fetches a report.
pub(crate) enum Reader {
    /// As the caller who owns it.
    Owner(Caller),
    /// By a signed link.
    Link(SignedLink),
}

impl FromRequestParts<App> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if parts.headers.contains_key(AUTHORIZATION) || !query.contains("signature=") {
            return Caller::from_request_parts(parts, app).await.map(Self::Owner);
        }
        let link = Query::<SignedLink>::from_request_parts(parts, app).await.map_err(|_| Problem::LinkInvalid)?;
        Ok(Self::Link(link.0))
    }
}

/// Fetches a report: its owner by session or token, anybody by a signed link such as the one in the mail.
#[utoipa::path(
    get,
    path = "/v1/reports/{id}/pdf",
    tag = "reports",
    params(
        ("id" = Uuid, Path, description = "The report's id, which is its job's"),
        ("expires" = Option<i64>, Query, description = "Of a signed link: until when, in unix seconds"),
        ("signature" = Option<String>, Query, description = "Of a signed link"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, description = "The report", body = Pdf, content_type = "application/pdf"),
        (status = 304, description = "The same as the one with the ETag in If-None-Match"),
        (status = 401, description = "Neither session nor token nor link", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The link was changed or has expired, or the token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "Not ready, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []), ())
)]
pub(crate) async fn download(
    State(app): State<App>,
    Id(id): Id,
    reader: Reader,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = match reader {
        Reader::Owner(caller) => {
            let job = find(&app, id, caller.id()).await?;
            let job = job.filter(|job| job.row.kind == RenderReport::KIND).ok_or(Problem::NotFound("report"))?;
            job.row.result.as_ref().and_then(file_name)
        }
        Reader::Link(link) => {
            app.links.verify(id, link.expires, &link.signature, Utc::now()).map_err(|error| match error {
                store::LinkError::Expired => Problem::LinkExpired,
                _ => Problem::LinkInvalid,
            })?;
            None
        }
    };
    let name = name.unwrap_or_else(|| format!("report-{id}.pdf"));
    let file = app.files.get(&report_key(id)).await?.ok_or(Problem::NotFound("report"))?;

    // Weak: a report that is made again after a crash has the same content, but perhaps not the same bytes.
    let etag = format!("W/\"{}\"", file.bytes);
    let fresh = matches_etag(&headers, &etag);
    let body = if fresh { Body::empty() } else { Body::from_stream(file.content) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let text = |text: String| HeaderValue::try_from(text).map_err(|error| Problem::Internal(error.into()));
    headers.insert(ETAG, text(etag)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/pdf"));
    headers.insert(CONTENT_LENGTH, file.bytes.into());
    headers.insert(CONTENT_DISPOSITION, text(format!("attachment; filename=\"{name}\""))?);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    Ok(response)
}

/// The name that the worker gave the report. What could mean something else to a browser is no name.
fn file_name(result: &Value) -> Option<String> {
    let name = result.get("name")?.as_str()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good =
        name.len() <= LONGEST_NAME && name.ends_with(".pdf") && !name.starts_with('.') && name.bytes().all(plain);
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::file_name;

    #[test]
    fn a_report_has_the_name_that_its_worker_gave_it_if_it_is_one() {
        let named = |name: &str| file_name(&json!({"title": "Sales", "name": name}));
        assert_eq!(named("sales-2025-11-01--2025-11-30.pdf").as_deref(), Some("sales-2025-11-01--2025-11-30.pdf"));
        for bad in ["", ".pdf", "a.exe", "../a.pdf", "a\".pdf", "a\r\nb: c.pdf", "ä.pdf", &"a".repeat(200)] {
            assert_eq!(named(bad), None, "{bad:?}");
        }
        assert_eq!(file_name(&json!(null)), None);
    }
}
