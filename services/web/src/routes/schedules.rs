//! Schedules: reports that come again, by the clock of a time zone.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use pipeline::jobs::{Grouping, Job, RelativePeriod, RenderReport, ReportKind, ReportTemplate};
use serde::{Deserialize, Serialize};
use store::accounts::Role;
use store::schedules::{Firing, InvalidTiming, NewSchedule, Schedule, Timing};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::reports::{GroupingName, ReportName};
use crate::routes::{Id, checked_name};
use crate::strict_json::{Object, StrictJson, optional_word, word};

/// So many schedules may one caller have.
const MOST: usize = 100;
/// How many of the latest due times are shown.
const FIRINGS: u32 = 20;

/// What schedule to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleRequest {
    /// What to call it: 1 to 200 characters.
    #[schema(example = "Last week")]
    name: String,
    /// When: minute, hour, day of the month, month, day of the week.
    #[schema(example = "0 8 * * MON")]
    cron: String,
    /// By which clock: the IANA name of a time zone.
    #[schema(example = "Europe/Berlin")]
    time_zone: String,
    /// What report to make each time.
    #[schema(value_type = RecurringReport)]
    report: Object<RecurringReport>,
}

/// A report whose days are counted from the day on which it is due.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecurringReport {
    /// Which report.
    #[serde(deserialize_with = "word")]
    #[schema(value_type = ReportName)]
    report: ReportKind,
    /// The days that it covers, all of them over on the day that it is due, by the clock of the schedule: `last-week` is the latest
    /// whole week, Monday to Sunday; `last-month`, `last-quarter` and `last-year` are the latest whole ones of the calendar.
    #[serde(deserialize_with = "word")]
    #[schema(value_type = RelativePeriodName)]
    period: RelativePeriod,
    /// The steps of its chart. Left out: what suits the number of days.
    #[serde(default, deserialize_with = "optional_word")]
    #[schema(value_type = Option<GroupingName>)]
    group_by: Option<Grouping>,
}

/// Days in words.
#[derive(ToSchema)]
#[schema(as = RelativePeriod, rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes pipeline's RelativePeriod, which knows no OpenAPI")]
enum RelativePeriodName {
    Yesterday,
    #[schema(rename = "last-7-days")]
    Last7Days,
    #[schema(rename = "last-30-days")]
    Last30Days,
    LastWeek,
    LastMonth,
    LastQuarter,
    LastYear,
}

/// A schedule, as its owner sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Schedule)]
pub(crate) struct ScheduleView {
    /// Its id.
    id: Uuid,
    /// What it is called.
    name: String,
    /// When, as five fields.
    cron: String,
    /// By which clock.
    time_zone: String,
    /// What report is made each time.
    report: RecurringReport,
    /// When it is due next; absent when it has stopped, as it does when its owner does not belong to the staff any more.
    next_due_at: Option<DateTime<Utc>>,
    /// When it was due last.
    last_due_at: Option<DateTime<Utc>>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// Where to go from here.
    links: ScheduleLinks,
}

/// Where to go from a schedule.
#[derive(Serialize, ToSchema)]
struct ScheduleLinks {
    /// The schedule itself.
    #[serde(rename = "self")]
    own: String,
}

/// A schedule with what became of its latest due times.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduleWithFirings)]
pub(crate) struct ScheduleHistory {
    #[serde(flatten)]
    schedule: ScheduleView,
    /// The latest due times, the newest first.
    firings: Vec<FiringView>,
}

/// What became of a due time.
#[derive(Serialize, ToSchema)]
#[schema(as = Firing)]
struct FiringView {
    /// The due time.
    due_at: DateTime<Utc>,
    /// `fired`; `missed`: it was noticed too late; `failed`: the schedule cannot be read any more, or its owner may not ask for reports.
    #[schema(example = "fired")]
    outcome: String,
    /// The job that it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    /// The first of the due times before this one that went by unused.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed_since: Option<DateTime<Utc>>,
}

/// The schedules of a caller.
#[derive(Serialize, ToSchema)]
pub(crate) struct Schedules {
    /// The oldest first.
    schedules: Vec<ScheduleView>,
}

/// Has a report made again and again, for example every Monday at 8. Each is mailed to the caller's own address.
///
/// Where the clocks change, a time of day that is skipped comes right after the gap, and one that occurs twice comes once. Of due
/// times that went by while nothing ran, the latest is made up for, within a day.
#[utoipa::path(
    post,
    path = "/v1/schedules",
    tag = "schedules",
    request_body = ScheduleRequest,
    responses(
        (status = 201, description = "Made", body = ScheduleView, headers(("Location" = String, description = "The schedule"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The user is not staff, the token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The caller has 100 schedules already", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    StrictJson(request): StrictJson<ScheduleRequest>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Staff)?;
    let name = checked_name(request.name)?;
    let timing = Timing::parse(&request.cron, &request.time_zone).map_err(|error| {
        let field = if error == InvalidTiming::TimeZone { "time_zone" } else { "cron" };
        Problem::field(field, error.to_string())
    })?;
    let Object(RecurringReport { report, period, group_by }) = request.report;
    let template = ReportTemplate { report, period, group_by, recipient: caller.recipient().clone() };
    let new = NewSchedule {
        id: Uuid::now_v7(),
        owner: caller.id().to_owned(),
        kind: RenderReport::KIND.to_owned(),
        name,
        timing,
        template: serde_json::to_value(template).map_err(|error| Problem::Internal(error.into()))?,
    };
    // Two at once may make one more; the bound is there against a loop that makes them by the thousand.
    if store::schedules::list(&app.pool, caller.id()).await?.len() >= MOST {
        return Err(Problem::TooManySchedules(MOST));
    }
    let made = ScheduleView::of(store::schedules::create(&app.pool, &new).await?)?;
    tracing::info!(schedule.id = %made.id, "made a schedule");
    let location = HeaderValue::try_from(&made.links.own).map_err(|error| Problem::Internal(error.into()))?;
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(made)).into_response())
}

/// The caller's schedules.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    tag = "schedules",
    responses(
        (status = 200, description = "The schedules, the oldest first", body = Schedules),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn list(State(app): State<App>, caller: Caller) -> Result<Json<Schedules>, Problem> {
    let schedules = store::schedules::list(&app.pool, caller.id()).await?;
    let schedules = schedules.into_iter().map(ScheduleView::of).collect::<Result<_, _>>()?;
    Ok(Json(Schedules { schedules }))
}

/// A schedule, with what became of its latest 20 due times.
#[utoipa::path(
    get,
    path = "/v1/schedules/{id}",
    tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule's id")),
    responses(
        (status = 200, description = "The schedule", body = ScheduleHistory),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule, or not the caller's", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn show(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Json<ScheduleHistory>, Problem> {
    let schedule = store::schedules::find(&app.pool, id, caller.id()).await?.ok_or(Problem::NotFound("schedule"))?;
    let firings = store::schedules::firings(&app.pool, id, FIRINGS).await?;
    let firings = firings.into_iter().map(FiringView::of).collect();
    Ok(Json(ScheduleHistory { schedule: ScheduleView::of(schedule)?, firings }))
}

/// Ends a schedule. The jobs that it has made stay.
#[utoipa::path(
    delete,
    path = "/v1/schedules/{id}",
    tag = "schedules",
    params(("id" = Uuid, Path, description = "The schedule's id")),
    responses(
        (status = 204, description = "It is due no more"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule, or not the caller's", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn remove(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<StatusCode, Problem> {
    let removed = store::schedules::delete(&app.pool, id, caller.id()).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::NotFound("schedule")) }
}

impl ScheduleView {
    fn of(schedule: Schedule) -> Result<Self, Problem> {
        let template: ReportTemplate =
            serde_json::from_value(schedule.template).map_err(|error| Problem::Internal(error.into()))?;
        let ReportTemplate { report, period, group_by, .. } = template;
        Ok(Self {
            id: schedule.id,
            name: schedule.name,
            cron: schedule.cron,
            time_zone: schedule.time_zone,
            report: RecurringReport { report, period, group_by },
            next_due_at: schedule.next_due_at,
            last_due_at: schedule.last_due_at,
            created_at: schedule.created_at,
            links: ScheduleLinks { own: format!("/v1/schedules/{}", schedule.id) },
        })
    }
}

impl FiringView {
    fn of(firing: Firing) -> Self {
        Self {
            due_at: firing.due_at,
            outcome: firing.outcome,
            job: firing.job_id.map(|id| format!("/v1/jobs/{id}")),
            missed_since: firing.missed_since,
        }
    }
}
