//! Reports: asking for one, and fetching what was made.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION,
    RETRY_AFTER,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{NaiveDate, SubsecRound, Utc};
use pipeline::events::JobReference;
use pipeline::jobs::{Grouping, Job, Period, RenderReport, ReportKind};
use pipeline::{Event, EventBody, OutgoingJob};
use serde::Deserialize;
use serde_json::Value;
use store::files::report_key;
use store::jobs::NewJob;
use tokio::time::timeout;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::callers::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::routes::jobs::{JobView, matches_etag};
use crate::strict_json::{Object, StrictJson, optional_word, word};

/// A name that a person can read.
const LONGEST_NAME: usize = 100;

/// What report to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportRequest {
    /// Which report.
    #[serde(deserialize_with = "word")]
    #[schema(value_type = ReportName)]
    report: ReportKind,
    /// The days that it covers.
    #[schema(value_type = Days)]
    period: Object<Days>,
    /// The steps of its chart. Left out: days up to 31 days, ISO weeks up to 180, else months.
    #[serde(default, deserialize_with = "optional_word")]
    #[schema(value_type = Option<GroupingName>)]
    group_by: Option<Grouping>,
}

/// The first and the last day, in UTC: at most 366 days, of the years 1970 to 9998.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Days {
    /// The first day.
    #[serde(deserialize_with = "day")]
    #[schema(example = "2025-11-01")]
    from: NaiveDate,
    /// The last day, included; not before the first.
    #[serde(deserialize_with = "day")]
    #[schema(example = "2025-11-30")]
    to: NaiveDate,
}

/// The reports there are.
#[derive(ToSchema)]
#[schema(as = ReportKind, rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes pipeline's ReportKind, which knows no OpenAPI")]
enum ReportName {
    Sales,
}

/// The steps of a chart.
#[derive(ToSchema)]
#[schema(as = Grouping, rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes pipeline's Grouping, which knows no OpenAPI")]
enum GroupingName {
    Day,
    Week,
    Month,
}

/// `YYYY-MM-DD` and nothing else; chrono alone takes `2025-1-1` too.
fn day<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<NaiveDate, D::Error> {
    let text = String::deserialize(deserializer)?;
    let shaped = text.len() == 10
        && text.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let day = if shaped { text.parse().ok() } else { None };
    day.ok_or_else(|| serde::de::Error::custom("not a day of the form YYYY-MM-DD"))
}

/// Asks for a report. It is made soon after, and mailed to the caller's own address.
#[utoipa::path(
    post,
    path = "/v1/reports",
    tag = "reports",
    request_body = ReportRequest,
    responses(
        (
            status = 202,
            description = "Accepted: the job is on its queue, on disk",
            body = JobView,
            headers(
                ("Location" = String, description = "The job; its state can be asked for there"),
                ("Retry-After" = u64, description = "Seconds until it is worth asking"),
            )
        ),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "Nothing takes work at the moment; Retry-After says when to try again", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []))
)]
pub(crate) async fn request_report(
    State(app): State<App>,
    caller: Caller,
    StrictJson(request): StrictJson<ReportRequest>,
) -> Result<Response, Problem> {
    let Object(days) = request.period;
    let period = Period::new(days.from, days.to).map_err(|error| Problem::field("period", error.to_string()))?;
    let payload = RenderReport {
        report: request.report,
        period,
        group_by: request.group_by.unwrap_or_else(|| Grouping::suited_to(&period)),
        recipient: caller.recipient().clone(),
    };
    // Version 7: new rows lie side by side in the index. It tells the moment, which whoever may see the job sees anyway.
    let id = Uuid::now_v7();
    // The wire carries microseconds at most; what is shown now and what is read back later are to be the same.
    let accepted_at = Utc::now().trunc_subsecs(6);
    let owner = caller.id().to_owned();
    let job = OutgoingJob { owner: Some(owner.clone()), accepted_at, ..OutgoingJob::new(id, payload) };
    app.publisher.publish_job(&job).await.map_err(|error| Problem::of_publish(error, id))?;
    let job = NewJob { id, kind: RenderReport::KIND.to_owned(), owner, at: accepted_at };
    tracing::info!(job.id = %id, job.kind = job.kind, "accepted");
    tell_queued(&app, &job).await;

    let mut response = (StatusCode::ACCEPTED, Json(JobView::queued(&job))).into_response();
    let headers = response.headers_mut();
    headers.insert(
        LOCATION,
        HeaderValue::try_from(format!("/v1/jobs/{id}")).map_err(|error| Problem::Internal(error.into()))?,
    );
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    Ok(response)
}

/// Writes the job down and tells of it. The job is accepted already: what fails here is caught up by the events.
async fn tell_queued(app: &App, job: &NewJob) {
    let reference = JobReference { id: job.id, kind: job.kind.clone(), owner: Some(job.owner.clone()) };
    let event = Event { at: job.at, ..Event::new(reference, None, EventBody::Queued {}) };
    let patience = if app.changes.is_live() { app.limits.record } else { app.limits.record_unheard };
    let recorded = timeout(patience, store::jobs::record_queued(&app.pool, job));
    let (recorded, told) = tokio::join!(recorded, app.publisher.publish_event(&event));
    match recorded {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(job.id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "record a queued job")
        }
        Err(_) => tracing::warn!(job.id = %job.id, "record a queued job: no answer in time"),
    }
    if let Err(error) = told {
        tracing::warn!(job.id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "tell of a queued job");
    }
}

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

/// Fetches a report: its owner by token, anybody by a signed link such as the one in the mail.
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
        (status = 401, description = "Neither a token nor a link", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The link was changed or has expired", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "Not ready, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ())
)]
pub(crate) async fn download(
    State(app): State<App>,
    Id(id): Id,
    reader: Reader,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = match reader {
        Reader::Owner(caller) => {
            let job = store::jobs::find_job(&app.pool, id, caller.id()).await?;
            let job = job.filter(|job| job.kind == RenderReport::KIND).ok_or(Problem::NotFound("report"))?;
            job.result.as_ref().and_then(file_name)
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

    use super::{ReportRequest, file_name};

    #[test]
    fn a_day_has_one_form() {
        let taken = |day: &str| {
            let body = json!({"report": "sales", "period": {"from": day, "to": "2025-11-30"}});
            serde_json::from_value::<ReportRequest>(body).is_ok()
        };
        assert!(taken("2025-11-01"));
        for bad in ["2025-1-1", "2025-02-29", "2025-11-01T00:00:00Z", " 2025-11-01", "+2025-11-01", "2025-11-0１", ""]
        {
            assert!(!taken(bad), "{bad}");
        }
    }

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
