//! Reports: asking for one, and fetching what was made.

use axum::Extension;
use axum::extract::State;
use chrono::{DateTime, NaiveDate, SubsecRound, TimeDelta, Utc};
use pipeline::jobs::{Grouping, Period, RenderReport, ReportKind};
use pipeline::topology::Lane;
use pipeline::{OutgoingJob, TraceContext};
use serde::{Deserialize, Serialize};
use store::accounts::Role;
use utoipa::ToSchema;

use crate::App;
use crate::accept::{Accepted, accept, accepted_before, asked_for};
use crate::caller::Caller;
use crate::idempotency_key::OptionalKey;
use crate::problem::{Problem, ProblemBody};
use crate::routes::jobs::JobView;
use crate::strict_json::{Object, StrictJson, optional_word, word};

mod download;

// With what describes it: the description is made of paths.
pub(crate) use download::*;

/// What a key belongs to, beside its caller. It must never change: a repeat would be another job.
const ROUTE: &str = "POST /v1/reports";
/// How far ahead a report may be asked for.
const LONGEST_AHEAD: TimeDelta = TimeDelta::days(366);

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
    /// How soon it is to be made, beside other reports. Left out: `normal`.
    #[serde(default, deserialize_with = "optional_word")]
    #[schema(value_type = Option<LaneName>)]
    lane: Option<Lane>,
    /// When to make it, at most a year ahead; left out: at once.
    #[serde(default, deserialize_with = "optional_moment")]
    #[schema(example = "2026-12-24T18:00:00+01:00")]
    run_at: Option<DateTime<Utc>>,
}

/// What is asked for under a key, however it was written.
#[derive(Serialize)]
struct Asked {
    report: ReportKind,
    period: Period,
    group_by: Grouping,
    lane: Lane,
    run_at: Option<DateTime<Utc>>,
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
pub(super) enum ReportName {
    Sales,
}

/// The steps of a chart.
#[derive(ToSchema)]
#[schema(as = Grouping, rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes pipeline's Grouping, which knows no OpenAPI")]
pub(super) enum GroupingName {
    Day,
    Week,
    Month,
}

/// How soon a job is due, beside others of its kind.
#[derive(ToSchema)]
#[schema(as = Lane, rename_all = "lowercase")]
#[expect(dead_code, reason = "describes pipeline's Lane, which knows no OpenAPI")]
enum LaneName {
    Urgent,
    Normal,
    Bulk,
}

/// A moment as RFC 3339 has it, with its offset, or none at all.
fn optional_moment<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let moment = DateTime::parse_from_rfc3339(&text);
    // The store keeps microseconds.
    let moment = moment.map(|moment| moment.to_utc().trunc_subsecs(6));
    moment.map(Some).map_err(|_| serde::de::Error::custom("not a moment of the form YYYY-MM-DDThh:mm:ssZ"))
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

/// Asks for a report. It is made soon after, or when `run_at` has come, and mailed to the caller's own address.
///
/// With an `Idempotency-Key` the request can be repeated for a day: the report is made once, and each answer names the same job.
#[utoipa::path(
    post,
    path = "/v1/reports",
    tag = "reports",
    params((
        "Idempotency-Key" = Option<String>, Header,
        description = "1 to 255 characters of visible ASCII, in quotes or bare; another request needs another key"
    )),
    request_body = ReportRequest,
    responses(
        (
            status = 202,
            description = "Accepted: the job is on its queue or in the outbox, on disk",
            body = JobView,
            headers(
                ("Location" = String, description = "The job; its state can be asked for there"),
                ("Retry-After" = u64, description = "Seconds until it is worth asking"),
            )
        ),
        (status = 400, description = "The body is no JSON, or the Idempotency-Key is none", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The user is not staff, the token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible, and `errors` names it; or the Idempotency-Key stands \
            for another request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Nothing takes work at the moment, or too much is waiting; Retry-After says when to try again. \
            After `/problems/outcome-unknown` repeat it with the same Idempotency-Key", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn request_report(
    State(app): State<App>,
    caller: Caller,
    Extension(trace): Extension<TraceContext>,
    OptionalKey(key): OptionalKey,
    StrictJson(request): StrictJson<ReportRequest>,
) -> Result<Accepted, Problem> {
    caller.must_be(Role::Staff)?;
    let Object(days) = request.period;
    let period = Period::new(days.from, days.to).map_err(|error| Problem::field("period", error.to_string()))?;
    let asked = Asked {
        report: request.report,
        period,
        group_by: request.group_by.unwrap_or_else(|| Grouping::suited_to(&period)),
        lane: request.lane.unwrap_or_default(),
        run_at: request.run_at,
    };
    let job = asked_for(&caller, trace, (ROUTE, key), &asked, |_| payload(&asked, &caller))?;
    let job = OutgoingJob { lane: asked.lane, ..job };
    match check_due(asked.run_at, job.accepted_at) {
        Ok(()) => accept(&app, job, asked.run_at).await,
        // What was accepted in time is repeated at any time.
        Err(problem) => accepted_before(&app, &job).await?.ok_or(problem),
    }
}

fn payload(asked: &Asked, caller: &Caller) -> RenderReport {
    let Asked { report, period, group_by, .. } = *asked;
    RenderReport { report, period, group_by, recipient: caller.recipient().clone() }
}

/// Whether a moment lies ahead, and not too far.
fn check_due(run_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), Problem> {
    match run_at.map(|run_at| run_at - now) {
        Some(ahead) if ahead <= TimeDelta::zero() => Err(Problem::field("run_at", "it is over already")),
        Some(ahead) if ahead > LONGEST_AHEAD => Err(Problem::field("run_at", "it is more than a year ahead")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::ReportRequest;

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
}
